//! Waiting for a version to be as it was asked for, and knowing when that is in vain.

use std::time::Duration;

use clap::Args;
use skysail_proto::admin::{Failure, Model, Version, VersionState};
use skysail_proto::ids::ModelId;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::show::{replicas_words, state_word};
use crate::arguments::parse_duration;
use crate::client::{Answer, ClientError};
use crate::commands::Session;
use crate::error::Error;
use crate::progress::Progress;

/// How often the server is asked.
const POLL: Duration = Duration::from_millis(200);

/// How many requests in a row may fail: a frontend that restarts is back within 10 s.
const PATIENCE: u32 = 50;

/// How long the control role may take to note that a change of versions is over. What was asked for is so
/// by then, with or without its note.
const ENDS_WITHIN: Duration = Duration::from_secs(3);

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

/// Whether, and how long, a command waits until what it asked for is so.
#[derive(Args, Debug)]
pub(crate) struct Waiting {
    /// Wait until all replicas are attached and the version answers (the default)
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,
    /// Return as soon as it is accepted
    #[arg(long, overrides_with = "wait")]
    no_wait: bool,
    /// How long to wait at most
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_duration)]
    pub(super) wait_timeout: Duration,
}

impl Waiting {
    /// Of `--wait` and `--no-wait` the last one counts.
    pub(super) fn waits(&self) -> bool {
        self.wait || !self.no_wait
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
    if version.replicas_attached >= desired && everywhere(version) >= desired && !surplus {
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

/// Replicas that every frontend can ask.
fn everywhere(version: &Version) -> u32 {
    version.replicas_everywhere.unwrap_or(version.replicas_attached)
}

/// What one look at a model tells about its turn to a version.
#[derive(Debug, Eq, PartialEq)]
enum Turn {
    /// The version answers, or somebody has chosen another meanwhile.
    Done,
    /// It answers at every frontend; the control role takes note of it.
    Ending,
    /// It is not ready, or not all frontends answer with it.
    Underway,
    /// It goes on only once a person has done what the sentence says.
    Waits(String),
}

fn turn(model: &Model, version: &Version) -> Turn {
    let Some(rollout) = model
        .rollout
        .as_ref()
        .filter(|rollout| rollout.to == version.version)
    else {
        return Turn::Done;
    };
    if rollout.frontends > 0 && rollout.switched == rollout.frontends {
        return Turn::Ending;
    }
    let started =
        version.replicas_attached > 0 || version.replicas_desired.is_some_and(|desired| desired > 0);
    if started {
        Turn::Underway
    } else {
        Turn::Waits(rollout.waits_for.clone())
    }
}

/// Waits, and tells meanwhile how it goes.
pub(super) struct Wait {
    at_most: Duration,
    deadline: Instant,
    progress: Progress,
    ticks: Interval,
    failed_in_a_row: u32,
}

impl Wait {
    pub(super) fn at_most(at_most: Duration) -> Self {
        let mut ticks = interval(POLL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            at_most,
            deadline: Instant::now() + at_most,
            progress: Progress::start(),
            ticks,
            failed_in_a_row: 0,
        }
    }

    /// Until the version has the replicas it is to have.
    pub(super) async fn until_ready(
        &mut self,
        session: &Session,
        id: &ModelId,
        before: &Before,
    ) -> Result<Answer<Version>, Error> {
        loop {
            let Some(answer) = self.look(async || session.admin.version(id).await).await? else {
                continue;
            };
            let version = answer.read()?;
            match judge(&version, before) {
                Verdict::Settled => return Ok(answer),
                Verdict::Failing => return Err(failing(id, version)),
                Verdict::Underway if self.is_over() => {
                    return Err(late(id, &version, detail(&version), self.at_most));
                }
                Verdict::Underway => self
                    .progress
                    .say(&step(id, &version), detail(&version).as_deref()),
            }
        }
    }

    /// Until queries are answered by the version, if it still is the one that is to answer. What waits for a
    /// person is told, and not waited for.
    pub(super) async fn until_answers(
        &mut self,
        session: &Session,
        id: &ModelId,
        before: &Before,
    ) -> Result<Answer<Model>, Error> {
        let mut answers_since = None;
        loop {
            let Some(answer) = self.look(async || session.admin.model(&id.name).await).await? else {
                continue;
            };
            let model = answer.read()?;
            let Some(version) = model.versions.iter().find(|found| found.version == id.version) else {
                return Ok(answer);
            };
            match turn(&model, version) {
                Turn::Done => return Ok(answer),
                Turn::Ending if answers_since.get_or_insert_with(Instant::now).elapsed() >= ENDS_WITHIN => {
                    return Ok(answer);
                }
                Turn::Ending => {}
                Turn::Waits(sentence) => {
                    self.progress.warn(&sentence);
                    return Ok(answer);
                }
                Turn::Underway if judge(version, before) == Verdict::Failing => {
                    return Err(failing(id, version.clone()));
                }
                Turn::Underway if self.is_over() => {
                    let waits_for = model.rollout.as_ref().map(|rollout| rollout.waits_for.clone());
                    return Err(late(id, version, waits_for, self.at_most));
                }
                Turn::Underway => self
                    .progress
                    .say(&turn_step(id, &model, version), detail(version).as_deref()),
            }
        }
    }

    /// Asks again after a pause; none if the server may just be restarting.
    async fn look<T>(
        &mut self,
        ask: impl AsyncFn() -> Result<Answer<T>, ClientError>,
    ) -> Result<Option<Answer<T>>, Error> {
        self.ticks.tick().await;
        match ask().await {
            Ok(answer) => {
                self.failed_in_a_row = 0;
                Ok(Some(answer))
            }
            Err(error) if error.is_passing() && self.failed_in_a_row < PATIENCE => {
                self.failed_in_a_row += 1;
                self.progress
                    .say("waiting for the frontend", Some(&error.to_string()));
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.deadline
    }
}

/// How far the turn to a version is.
fn turn_step(id: &ModelId, model: &Model, version: &Version) -> String {
    match &model.rollout {
        Some(rollout) if version.replicas_attached >= version.replicas_desired.unwrap_or(1) => format!(
            "{id}: moving traffic: {} of {} frontends",
            rollout.switched, rollout.frontends
        ),
        _ => step(id, version),
    }
}

fn step(id: &ModelId, version: &Version) -> String {
    let attached = format!("{id}: {}", replicas_words(version));
    match everywhere(version) {
        count if count < version.replicas_attached => format!("{attached}, {count} to every frontend"),
        _ => attached,
    }
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

fn late(id: &ModelId, version: &Version, detail: Option<String>, waited: Duration) -> Error {
    let state = format!("{}, {}", state_word(version.state), replicas_words(version));
    Error::NotReady {
        id: id.clone(),
        waited,
        state: match detail {
            Some(detail) => format!("{state} ({detail})"),
            None => state,
        },
    }
}

#[cfg(test)]
mod tests {
    use skysail_proto::admin::{Container, Rollout};
    use skysail_proto::ids::ReplicaId;

    use super::super::show::tests::{model, version};
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
    fn it_settles_once_every_frontend_has_them() {
        let mut version = version();
        version.replicas_everywhere = Some(2);
        assert_eq!(judge(&version, &Before::default()), Verdict::Underway);
        let said = step(&"iris-model:1".parse().unwrap(), &version);
        assert_eq!(
            said,
            "iris-model:1: 3 of 3 replicas attached, 2 to every frontend"
        );
        version.replicas_everywhere = Some(3);
        assert_eq!(judge(&version, &Before::default()), Verdict::Settled);
    }

    fn turning(switched: u32, version: &Version) -> Model {
        Model {
            rollout: Some(Rollout {
                from: "0".parse().unwrap(),
                to: "1".parse().unwrap(),
                replace: false,
                frontends: 2,
                switched,
                waits_for: "a person".into(),
            }),
            ..model(vec![version.clone()])
        }
    }

    #[test]
    fn the_traffic_has_moved_once_every_frontend_answers_with_the_version() {
        let version = version();
        let model = turning(1, &version);
        assert_eq!(turn(&model, &version), Turn::Underway);
        let said = turn_step(&"iris-model:1".parse().unwrap(), &model, &version);
        assert_eq!(said, "iris-model:1: moving traffic: 1 of 2 frontends");
        assert_eq!(turn(&turning(2, &version), &version), Turn::Ending);
        assert_eq!(turn(&model_without_rollout(), &version), Turn::Done);
        // Somebody has chosen another version meanwhile.
        let mut other = version.clone();
        other.version = "9".parse().unwrap();
        assert_eq!(turn(&model, &other), Turn::Done);
    }

    fn model_without_rollout() -> Model {
        model(vec![version()])
    }

    #[test]
    fn a_version_that_only_a_person_can_start_is_not_waited_for() {
        let mut version = version();
        version.replicas_attached = 0;
        assert_eq!(turn(&turning(0, &version), &version), Turn::Underway);
        for desired in [None, Some(0)] {
            version.replicas_desired = desired;
            assert_eq!(
                turn(&turning(0, &version), &version),
                Turn::Waits("a person".into())
            );
        }
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
            detail(&version),
            Duration::from_secs(300),
        );
        assert_eq!(
            error.to_string(),
            "iris-model:1 is not ready after 5m: starting, 1 of 3 replicas attached (pulling 40 %)"
        );
    }
}
