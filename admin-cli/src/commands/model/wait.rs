//! Waiting for a version to be as it was asked for, and knowing when that is in vain.

use std::time::Duration;

use skysail_proto::admin::{Failure, Version, VersionState};
use skysail_proto::ids::ModelId;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::show::{replicas_words, state_word};
use crate::client::Answer;
use crate::commands::Session;
use crate::error::Error;
use crate::progress::Progress;

/// How often the server is asked.
const POLL: Duration = Duration::from_millis(200);

/// How many requests in a row may fail: a frontend that restarts is back within 10 s.
const PATIENCE: u32 = 50;

/// Containers replaced before it is plain that they will not stay.
const RESTARTS: u64 = 3;

/// How a version was when the waiting began: what went wrong before does not count.
#[derive(Debug, Default)]
pub(super) struct Before {
    restarts: u64,
    failure: Option<Failure>,
}

impl Before {
    pub(super) fn of(version: &Version) -> Self {
        Self {
            restarts: version.restarts,
            failure: version.last_failure.clone(),
        }
    }
}

/// What one look at a version tells.
#[derive(Debug, Eq, PartialEq)]
enum Verdict {
    /// It is as it was asked for.
    Settled,
    /// It may still become so.
    Underway,
    /// It fails.
    Failing,
}

fn judge(version: &Version, before: &Before) -> Verdict {
    let desired = version.replicas_desired.unwrap_or(0);
    let surplus = version.containers.len() > desired as usize;
    if version.replicas_attached >= desired && !surplus {
        return Verdict::Settled;
    }
    let fresh = version.last_failure.as_ref() != before.failure.as_ref();
    let permanent = fresh
        && version
            .last_failure
            .as_ref()
            .is_some_and(|failure| failure.permanent);
    // A frontend that restarted counts from 0 again.
    let restarts = version.restarts.saturating_sub(before.restarts);
    let unstable = version.state == VersionState::Failing && restarts >= RESTARTS;
    if permanent || unstable {
        Verdict::Failing
    } else {
        Verdict::Underway
    }
}

/// Polls until the version has the replicas it is to have; tells meanwhile how it goes.
pub(super) async fn until_settled(
    session: &Session,
    id: &ModelId,
    before: &Before,
    at_most: Duration,
) -> Result<Answer<Version>, Error> {
    let deadline = Instant::now() + at_most;
    let mut progress = Progress::start();
    let mut ticks = interval(POLL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failed_in_a_row = 0;
    loop {
        ticks.tick().await;
        let answer = match session.admin.version(id).await {
            Ok(answer) => answer,
            Err(error) if error.is_passing() && failed_in_a_row < PATIENCE => {
                failed_in_a_row += 1;
                progress.say("waiting for the frontend", Some(&error.to_string()));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        failed_in_a_row = 0;
        let version = answer.read()?;
        match judge(&version, before) {
            Verdict::Settled => return Ok(answer),
            Verdict::Failing => return Err(failing(id, version)),
            Verdict::Underway if Instant::now() >= deadline => return Err(late(id, &version, at_most)),
            Verdict::Underway => progress.say(&step(id, &version), detail(&version).as_deref()),
        }
    }
}

fn step(id: &ModelId, version: &Version) -> String {
    format!("{id}: {}", replicas_words(version))
}

/// What it waits for, or else what went wrong last.
fn detail(version: &Version) -> Option<String> {
    let failure = version.last_failure.as_ref();
    version
        .progress
        .clone()
        .or_else(|| failure.map(|failure| failure.reason.clone()))
}

fn failing(id: &ModelId, version: Version) -> Error {
    let id = id.clone();
    match version.last_failure {
        Some(failure) => Error::DeploymentFails {
            id,
            failure: Box::new(failure),
        },
        None => Error::DeploymentUnstable {
            id,
            restarts: version.restarts,
        },
    }
}

fn late(id: &ModelId, version: &Version, waited: Duration) -> Error {
    let state = format!("{}, {}", state_word(version.state), replicas_words(version));
    Error::NotReady {
        id: id.clone(),
        waited,
        state: match detail(version) {
            Some(detail) => format!("{state} ({detail})"),
            None => state,
        },
    }
}

#[cfg(test)]
mod tests {
    use skysail_proto::admin::Container;
    use skysail_proto::ids::ReplicaId;

    use super::super::show::tests::version;
    use super::*;

    fn failure(permanent: bool) -> Failure {
        Failure {
            at: "2026-01-01T00:00:00Z".parse().unwrap(),
            replica: "iris-model_1_0".parse().unwrap(),
            reason: "it exited".into(),
            exit_code: Some(1),
            permanent,
            log: vec![],
        }
    }

    #[test]
    fn it_settles_once_as_many_replicas_are_attached_as_are_wanted() {
        let mut version = version();
        version.replicas_attached = 2;
        assert_eq!(judge(&version, &Before::default()), Verdict::Underway);
        version.replicas_attached = 3;
        assert_eq!(judge(&version, &Before::default()), Verdict::Settled);
    }

    #[test]
    fn scaled_down_it_settles_once_what_is_too_many_is_gone() {
        let mut version = version();
        version.replicas_desired = Some(0);
        version.replicas_attached = 1;
        assert_eq!(judge(&version, &Before::default()), Verdict::Underway);
        version.replicas_attached = 0;
        version.containers.clear();
        assert_eq!(judge(&version, &Before::default()), Verdict::Settled);
    }

    #[test]
    fn a_replica_started_by_hand_on_top_is_no_reason_to_wait() {
        let mut version = version();
        version.replicas_attached = 4;
        assert_eq!(judge(&version, &Before::default()), Verdict::Settled);
    }

    #[test]
    fn a_failure_that_trying_again_cannot_mend_ends_the_waiting_at_once() {
        let mut version = version();
        version.replicas_attached = 0;
        version.last_failure = Some(failure(true));
        assert_eq!(judge(&version, &Before::default()), Verdict::Failing);
    }

    #[test]
    fn what_failed_before_does_not_count() {
        let mut version = version();
        version.replicas_attached = 0;
        version.state = VersionState::Failing;
        version.restarts = 9;
        version.last_failure = Some(failure(true));
        assert_eq!(judge(&version, &Before::of(&version)), Verdict::Underway);
    }

    #[test]
    fn containers_that_do_not_stay_end_the_waiting_after_a_few() {
        let mut version = version();
        version.replicas_attached = 0;
        version.state = VersionState::Failing;
        version.last_failure = Some(failure(false));
        version.restarts = RESTARTS - 1;
        assert_eq!(judge(&version, &Before::default()), Verdict::Underway);
        version.restarts = RESTARTS;
        assert_eq!(judge(&version, &Before::default()), Verdict::Failing);
    }

    #[test]
    fn one_container_too_many_is_waited_for() {
        let mut version = version();
        let container = |ordinal| Container {
            container: format!("c_{ordinal}"),
            replica: ReplicaId::of(&"iris-model:1".parse().unwrap(), ordinal),
            state: "running".into(),
            pid: None,
        };
        version.containers = (0..4).map(container).collect();
        assert_eq!(judge(&version, &Before::default()), Verdict::Underway);
    }

    #[test]
    fn whoever_waited_in_vain_is_told_how_far_it_got() {
        let mut version = version();
        version.replicas_attached = 1;
        version.state = VersionState::Starting;
        version.progress = Some("pulling 40 %".into());
        let error = late(
            &"iris-model:1".parse().unwrap(),
            &version,
            Duration::from_secs(300),
        );
        assert_eq!(
            error.to_string(),
            "iris-model:1 is not ready after 5m: starting, 1 of 3 replicas attached (pulling 40 %)"
        );
    }
}
