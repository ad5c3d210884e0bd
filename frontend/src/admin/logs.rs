//! The logs of a version's containers, as one stream of lines.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, SelectAll};
use futures::{Stream, StreamExt, stream};
use skysail_core::catalog::Catalog;
use skysail_core::reconcile::Foreign;
use skysail_proto::admin::LogLine;
use skysail_proto::error_code::ErrorCode;
use skysail_proto::ids::{ModelId, ReplicaId};
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::debug;

use super::{AdminError, AdminService};
use crate::runtime::{ContainerRuntime, ContainerState, ContainerStatus, RuntimeError};

/// How often is looked for containers that came while others are followed.
const LOOK: Duration = Duration::from_millis(500);

/// The lines told of a container that came while others are followed: in that time it has not written more.
const FROM_ITS_BEGINNING: usize = 10_000;

impl AdminService {
    /// The last `tail` lines of each container, each line with its replica, and if `follow`, those that
    /// come: also of containers that come, until the version is to have none.
    pub(crate) async fn logs(
        &self,
        id: &ModelId,
        tail: usize,
        follow: bool,
    ) -> Result<impl Stream<Item = LogLine> + Send + 'static, AdminError> {
        self.version(&*self.catalog()?, id)?;
        let Some(runtime) = &self.runtime else {
            let detail = "this frontend runs no containers: ask the one that does";
            return Err(AdminError::new(ErrorCode::Unavailable, detail));
        };
        let mut log = Log {
            runtime: runtime.clone(),
            catalog: self.store.watch(),
            id: id.clone(),
            lines: SelectAll::new(),
            open: BTreeMap::new(),
            before: BTreeMap::new(),
            ends: VecDeque::new(),
            looks: interval(LOOK),
        };
        log.looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let unavailable = |error: RuntimeError| AdminError::new(ErrorCode::Unavailable, error.to_string());
        let containers = containers_of(runtime, &log.catalog, id)
            .await
            .map_err(unavailable)?;
        let mut failed = None;
        for container in &containers {
            // One that was just replaced is no reason to withhold the others.
            failed = log.open(container, tail, follow).await.err().or(failed);
        }
        match failed {
            Some(error) if log.open.is_empty() && !containers.is_empty() => Err(unavailable(error)),
            _ if follow => {
                let lines = stream::unfold(log, Log::next).boxed();
                Ok(lines.take_until(self.closing.clone().cancelled_owned()))
            }
            _ => {
                let lines = log.lines.filter_map(|heard| async { heard.line() }).boxed();
                Ok(lines.take_until(self.closing.clone().cancelled_owned()))
            }
        }
    }
}

/// The log of a version, while it is read.
struct Log {
    runtime: Arc<dyn ContainerRuntime>,
    catalog: watch::Receiver<Option<Arc<Catalog>>>,
    id: ModelId,
    lines: SelectAll<BoxStream<'static, Heard>>,
    /// The containers that are read, with the starts they had when that began.
    open: BTreeMap<String, String>,
    /// Those that were, and are no longer.
    before: BTreeMap<String, Past>,
    /// Ends that are yet to be told.
    ends: VecDeque<LogLine>,
    looks: Interval,
}

/// What comes from the containers.
enum Heard {
    Line(LogLine),
    /// There is no more to be read of one.
    Over {
        container: String,
        replica: ReplicaId,
    },
}

/// What became of a container that is no longer read.
enum Past {
    /// It ended: whatever runs under its name later is another.
    Ended,
    /// It may still run, and then only what it writes from now on is news; or its end is yet to be seen.
    Lost {
        replica: ReplicaId,
        /// The start it had.
        start: Option<String>,
    },
}

impl Heard {
    fn line(self) -> Option<LogLine> {
        match self {
            Self::Line(line) => Some(line),
            Self::Over { .. } => None,
        }
    }
}

impl Log {
    async fn next(mut self) -> Option<(LogLine, Self)> {
        loop {
            if let Some(line) = self.ends.pop_front() {
                return Some((line, self));
            }
            tokio::select! {
                Some(heard) = self.lines.next() => match heard {
                    Heard::Line(line) => return Some((line, self)),
                    Heard::Over { container, replica } => {
                        if let Some(line) = self.over(container, replica).await {
                            return Some((line, self));
                        }
                    }
                },
                _ = self.looks.tick() => {
                    self.look().await;
                    if self.ends.is_empty() && self.open.is_empty() && !self.is_wanted() {
                        return None;
                    }
                }
            }
        }
    }

    async fn open(
        &mut self,
        container: &ContainerStatus,
        tail: usize,
        follow: bool,
    ) -> Result<(), RuntimeError> {
        let ContainerStatus {
            container: name,
            replica,
            start,
            ..
        } = container;
        let opened = self.runtime.logs(name, tail, follow).await;
        let lines = opened.inspect_err(|error| debug!(container = name, %error, "log not read"))?;
        let over = Heard::Over {
            container: name.clone(),
            replica: replica.clone(),
        };
        let replica = replica.clone();
        let heard = lines.map(move |line| {
            Heard::Line(LogLine {
                replica: replica.clone(),
                line,
                ended: false,
            })
        });
        self.lines.push(heard.chain(stream::iter([over])).boxed());
        self.open.insert(name.clone(), start.clone());
        Ok(())
    }

    /// Reads what came since the last look.
    async fn look(&mut self) {
        let Ok(containers) = containers_of(&self.runtime, &self.catalog, &self.id).await else {
            return;
        };
        let there: BTreeSet<&String> = containers.iter().map(|found| &found.container).collect();
        self.before
            .retain(|container, past| there.contains(container) || matches!(past, Past::Lost { .. }));
        self.tell_ends(&containers);
        for container in &containers {
            let runs = container.state == ContainerState::Running;
            let tail = match self.before.get(&container.container) {
                _ if self.open.contains_key(&container.container) => continue,
                Some(Past::Ended) if !runs => continue,
                Some(Past::Ended) | None => FROM_ITS_BEGINNING,
                Some(Past::Lost { .. }) => 0,
            };
            // What cannot be read now may be next time.
            let _ = self.open(container, tail, true).await;
        }
    }

    /// A log may end a moment before its container is seen to have: its end is told when it is.
    fn tell_ends(&mut self, containers: &[ContainerStatus]) {
        for (container, past) in &mut self.before {
            let Past::Lost { replica, start } = past else {
                continue;
            };
            let found = containers.iter().find(|found| found.container == *container);
            if let Some(line) = how_it_ended(found, start.as_deref()) {
                self.ends.push_back(LogLine {
                    replica: replica.clone(),
                    line,
                    ended: true,
                });
                *past = Past::Ended;
            }
        }
    }

    /// Takes note that a container is no longer read, and says how it ended, if it did.
    async fn over(&mut self, container: String, replica: ReplicaId) -> Option<LogLine> {
        let start = self.open.remove(&container);
        let ended = match containers_of(&self.runtime, &self.catalog, &self.id).await {
            // The runtime is away: whether the container is, nobody knows.
            Err(_) => None,
            Ok(containers) => {
                let found = containers.into_iter().find(|found| found.container == container);
                how_it_ended(found.as_ref(), start.as_deref())
            }
        };
        let past = match ended {
            Some(_) => Past::Ended,
            None => Past::Lost {
                replica: replica.clone(),
                start,
            },
        };
        self.before.insert(container, past);
        Some(LogLine {
            replica,
            line: ended?,
            ended: true,
        })
    }

    fn is_wanted(&self) -> bool {
        let catalog = self.catalog.borrow();
        let version = catalog.as_ref().and_then(|catalog| catalog.version(&self.id));
        let deployment = version.and_then(|version| version.spec.deployment.as_ref());
        deployment.is_some_and(|deployment| deployment.replicas > 0)
    }
}

/// A version's containers, running or ended; none that were started for another store.
async fn containers_of(
    runtime: &Arc<dyn ContainerRuntime>,
    catalog: &watch::Receiver<Option<Arc<Catalog>>>,
    id: &ModelId,
) -> Result<Vec<ContainerStatus>, RuntimeError> {
    let listed = runtime.list().await?;
    let catalog = catalog.borrow().clone().unwrap_or_default();
    let (mut containers, _) = Foreign::part(listed, &catalog);
    containers.retain(|found| found.model == *id);
    Ok(containers)
}

/// How the container ended that had this start, by what is found under its name now.
fn how_it_ended(found: Option<&ContainerStatus>, start: Option<&str>) -> Option<String> {
    let Some(found) = found else {
        return Some("the container is gone".into());
    };
    match &found.state {
        _ if Some(&*found.start) != start => Some("the container was replaced".into()),
        ContainerState::Running => None,
        ContainerState::Exited { code, detail: None } => {
            Some(format!("the container exited with code {code}"))
        }
        ContainerState::Exited {
            code,
            detail: Some(detail),
        } => Some(format!("the container exited with code {code}: {detail}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_container_ended_is_told_apart_from_a_log_that_broke() {
        let id: ModelId = "m:1".parse().unwrap();
        let found = |start: &str, state| ContainerStatus {
            container: "c_m_1_0".into(),
            replica: ReplicaId::of(&id, 0),
            model: id.clone(),
            spec_digest: String::new(),
            incarnation: None,
            start: start.into(),
            state,
            pid: None,
        };
        let told = |found: Option<ContainerStatus>| how_it_ended(found.as_ref(), Some("a"));
        assert_eq!(told(Some(found("a", ContainerState::Running))), None);
        assert!(
            told(Some(found("b", ContainerState::Running)))
                .unwrap()
                .contains("replaced")
        );
        assert!(told(None).unwrap().contains("gone"));
        let exited = ContainerState::Exited {
            code: 137,
            detail: Some("killed: out of memory".into()),
        };
        assert_eq!(
            told(Some(found("a", exited))).unwrap(),
            "the container exited with code 137: killed: out of memory"
        );
    }
}
