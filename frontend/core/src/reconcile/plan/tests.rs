//! The rules of the plan, one by one; `simulated` checks the properties of whole runs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use skysail_proto::deployment::{BatchSize, Deployment, VersionSpec};
use skysail_proto::ids::ReplicaId;

use super::*;
use crate::catalog::{Change, Generation, Model, Secret, Version};
use crate::reconcile::{AtWork, Patience, Work, replica_spec};

mod simulated;

const KEY: Secret = Secret::new([7; Secret::BYTES]);

const PATIENCE: Patience = Patience {
    startup: Duration::from_secs(300),
    reattach: Duration::from_secs(10),
    first_pause: Duration::from_secs(1),
    longest_pause: Duration::from_secs(60),
};

fn at(seconds: u64) -> Instant {
    Instant::from_nanos(seconds * 1_000_000_000)
}

fn placement() -> Placement {
    Placement {
        cluster: "test".parse().unwrap(),
        incarnation: "i".into(),
        frontends: vec!["127.0.0.1:7000".into()],
        key: Some(KEY),
    }
}

fn version(image: &str, replicas: u32) -> Version {
    let deployment = Deployment {
        image: image.into(),
        image_id: Some(format!("id of {image}")),
        artifacts: Vec::new(),
        onnx: None,
        replicas,
        autoscale: None,
        gpus: None,
        cpus: None,
        memory_bytes: None,
        env: BTreeMap::new(),
        warm_up: None,
    };
    let spec = VersionSpec {
        signature: skysail_proto::value::InputType::Doubles.into(),
        annotations: [].into(),
        batch_size: BatchSize::Adaptive,
        max_batch: None,
        cache: true,
        deployment: Some(deployment),
        open: false,
    };
    Version {
        spec,
        registered_at: Timestamp::UNIX_EPOCH,
    }
}

fn catalog(models: &[(&str, &str, u32)]) -> Catalog {
    let put = models.iter().map(|&(name, image, replicas)| {
        let current_version: skysail_proto::ids::ModelVersion = "1".parse().unwrap();
        let versions = BTreeMap::from([(current_version.clone(), version(image, replicas))]);
        Change::put(Model {
            name: name.parse().unwrap(),
            current_version,
            rollout: None,
            versions,
        })
    });
    Catalog::default().with(&put.collect::<Vec<_>>(), Generation::default())
}

/// A container that ended by itself.
fn exited() -> ContainerState {
    ContainerState::Exited {
        code: 137,
        detail: None,
    }
}

/// The container as it would be after the plan's start was applied.
fn started(spec: &ReplicaSpec) -> ContainerStatus {
    ContainerStatus {
        container: spec.container.clone(),
        replica: spec.replica.clone(),
        model: spec.model.clone(),
        spec_digest: spec.digest.clone(),
        incarnation: Some(spec.incarnation.clone()),
        start: spec.start.clone(),
        state: ContainerState::Running,
        pid: None,
    }
}

fn running(model: &str, image: &str, ordinal: u32) -> ContainerStatus {
    let id: ModelId = format!("{model}:1").parse().unwrap();
    let spec = replica_spec(&placement(), &id, &version(image, 1), ordinal).unwrap();
    let start = format!("start of {}", spec.container);
    started(&spec.started_with(start, &KEY))
}

fn attachment(container: &ContainerStatus) -> (ReplicaId, String) {
    (container.replica.clone(), container.start.clone())
}

fn observed(containers: Vec<ContainerStatus>) -> Observed {
    let attached = containers.iter().map(attachment).collect();
    Observed {
        containers,
        attached,
        ..Observed::default()
    }
}

fn plan_at(catalog: &Catalog, observed: &Observed, history: &History, seconds: u64) -> Plan {
    plan(catalog, observed, history, &placement(), at(seconds))
}

/// Work on the container in place `ordinal` of the only version; `None` means the version as a whole.
fn at_work(work: Work, ordinal: impl Into<Option<u32>>) -> AtWork {
    let model = "m:1".parse().unwrap();
    AtWork {
        replica: ordinal.into().map(|ordinal| ReplicaId::of(&model, ordinal)),
        model,
        work,
    }
}

fn history() -> History {
    History::new(PATIENCE)
}

#[test]
fn missing_replicas_are_started_each_in_its_own_place() {
    let plan = plan_at(
        &catalog(&[("m", "i", 3)]),
        &observed(vec![running("m", "i", 1)]),
        &history(),
        0,
    );
    let places: Vec<_> = plan
        .actions
        .iter()
        .map(|action| match action {
            Action::Start(spec) => spec.container.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(places, ["test_m_1_0", "test_m_1_2"]);
}

#[test]
fn after_a_container_that_ended_before_it_attached_the_next_warms_up_with_less() {
    let catalog = catalog(&[("m", "i", 1)]);
    let nobody = || Observed {
        attached: BTreeSet::new(),
        ..observed(Vec::new())
    };
    let mut history = history();
    history.observe(&nobody(), &placement(), at(0));
    let mut warm_ups = Vec::new();
    for nth in 0..4_u64 {
        let now = nth * 1000;
        let plan = plan_at(&catalog, &nobody(), &history, now);
        let [Action::Start(spec)] = &plan.actions[..] else {
            panic!("{plan:?}");
        };
        warm_ups.push(spec.env["SKYSAIL_MAX_BATCH"].clone());
        let mut container = started(&spec.clone().started_with(format!("start {nth}"), &KEY));
        for state in [ContainerState::Running, exited()] {
            container.state = state;
            let found = Observed {
                containers: vec![container.clone()],
                ..nobody()
            };
            history.observe(&found, &placement(), at(now + 1));
        }
        history.failed(&spec.model, at(now + 1));
    }
    assert_eq!(warm_ups, ["4096", "64", "1", "1"]);
}

#[test]
fn a_container_that_ends_after_it_served_changes_nothing_about_the_next() {
    let catalog = catalog(&[("m", "i", 1)]);
    let mut history = history();
    history.observe(&observed(Vec::new()), &placement(), at(0));
    let mut container = running("m", "i", 0);
    let attached = observed(vec![container.clone()]);
    history.observe(&attached, &placement(), at(1));
    container.state = exited();
    let ended = Observed {
        containers: vec![container.clone()],
        ..Observed::default()
    };
    history.observe(&ended, &placement(), at(2));
    history.failed(&container.model, at(2));
    let plan = plan_at(&catalog, &observed(Vec::new()), &history, 100);
    let [Action::Start(spec)] = &plan.actions[..] else {
        panic!("{plan:?}");
    };
    assert_eq!(spec.env["SKYSAIL_MAX_BATCH"], "4096");
}

#[test]
fn nothing_is_done_when_all_is_as_wanted() {
    let plan = plan_at(
        &catalog(&[("m", "i", 1)]),
        &observed(vec![running("m", "i", 0)]),
        &history(),
        0,
    );
    assert_eq!(plan, Plan::default());
}

#[test]
fn what_nobody_asks_for_is_stopped() {
    let found = observed(vec![
        running("m", "i", 0),
        running("m", "i", 1),
        running("gone", "i", 0),
    ]);
    let plan = plan_at(&catalog(&[("m", "i", 1)]), &found, &history(), 0);
    let reasons: Vec<_> = plan
        .actions
        .iter()
        .map(|action| match action {
            Action::Stop { found, reason } => (found.container.as_str(), *reason),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        reasons,
        [
            ("test_m_1_1", StopReason::NotWanted),
            ("test_gone_1_0", StopReason::NotWanted)
        ]
    );
}

/// The plan in short: `+2` starts place 2, `-0` stops it, `!0` buries it.
fn steps(plan: &Plan) -> Vec<String> {
    let place = |container: &str| container.rsplit('_').next().unwrap().to_owned();
    let step = |action: &Action| match action {
        Action::Start(spec) => format!("+{}", place(&spec.container)),
        Action::Stop { found, .. } => format!("-{}", place(&found.container)),
        Action::Bury(found) => format!("!{}", place(&found.container)),
        Action::Resolve { spec, .. } => format!("?{}", place(&spec.container)),
    };
    plan.actions.iter().map(step).collect()
}

fn steps_of(catalog: &Catalog, observed: &Observed) -> Vec<String> {
    steps(&plan_at(catalog, observed, &history(), 0))
}

#[test]
fn an_outdated_container_serves_until_its_replacement_does() {
    let catalog = catalog(&[("m", "new", 1)]);
    let mut found = observed(vec![running("m", "old", 0)]);
    assert_eq!(steps_of(&catalog, &found), ["+1"]);
    let replacement = running("m", "new", 1);
    found.containers.push(replacement.clone());
    assert_eq!(steps_of(&catalog, &found), [""; 0]);
    found.attached.insert(attachment(&replacement));
    assert_eq!(steps_of(&catalog, &found), ["-0"]);
}

#[test]
fn many_outdated_containers_are_replaced_one_after_the_other() {
    let catalog = catalog(&[("m", "new", 3)]);
    let mut found = observed((0..3).map(|ordinal| running("m", "old", ordinal)).collect());
    assert_eq!(steps_of(&catalog, &found), ["+3"]);
    let replacement = running("m", "new", 3);
    found.attached.insert(attachment(&replacement));
    found.containers.push(replacement);
    assert_eq!(steps_of(&catalog, &found), ["-2"]);
    // Until it has ended, it takes the room of the next container.
    found
        .at_work
        .insert("test_m_1_2".into(), at_work(Work::Ending, 2));
    assert_eq!(steps_of(&catalog, &found), [""; 0]);
    found.at_work.clear();
    let gone = found.containers.remove(2);
    found.attached.remove(&attachment(&gone));
    assert_eq!(steps_of(&catalog, &found), ["+2"]);
}

#[test]
fn an_outdated_container_that_does_not_serve_goes_at_once() {
    let found = Observed {
        attached: BTreeSet::new(),
        ..observed(vec![running("m", "old", 0)])
    };
    assert_eq!(steps_of(&catalog(&[("m", "new", 1)]), &found), ["-0", "+1"]);
}

#[test]
fn a_container_that_hangs_is_stopped_and_replaced_beside_it() {
    let mut found = observed(vec![running("m", "i", 0), running("m", "i", 1)]);
    found.hung.insert(found.containers[0].start.clone());
    let plan = plan_at(&catalog(&[("m", "i", 2)]), &found, &history(), 0);
    assert_eq!(steps(&plan), ["-0", "+2"]);
    let reason = StopReason::Hung;
    assert!(matches!(&plan.actions[0], Action::Stop { reason: given, .. } if *given == reason));
}

#[test]
fn a_container_whose_start_is_unknown_never_hangs() {
    let mut found = observed(vec![running("m", "i", 0)]);
    found.containers[0].start = String::new();
    found.hung.insert(String::new());
    found.attached = found.containers.iter().map(attachment).collect();
    assert_eq!(steps_of(&catalog(&[("m", "i", 1)]), &found), [""; 0]);
}

#[test]
fn a_stream_of_another_start_is_not_this_ones_nor_is_one_started_by_hand() {
    let mut found = observed(vec![running("m", "i", 0)]);
    let id = found.containers[0].replica.clone();
    assert!(found.is_attached(&found.containers[0]));
    for start in ["another", ""] {
        found.attached = [(id.clone(), start.to_owned())].into();
        assert!(!found.is_attached(&found.containers[0]));
    }
}

#[test]
fn scaling_down_takes_what_does_not_serve_and_then_the_highest_places() {
    let catalog = catalog(&[("m", "i", 2)]);
    let mut found = observed((0..5).map(|ordinal| running("m", "i", ordinal)).collect());
    assert_eq!(steps_of(&catalog, &found), ["-4", "-3", "-2"]);
    for idle in [0, 2] {
        found.attached.remove(&attachment(&found.containers[idle]));
    }
    assert_eq!(steps_of(&catalog, &found), ["-2", "-0", "-4"]);
}

#[test]
fn scaling_up_starts_all_that_is_missing_at_once() {
    let found = observed(vec![running("m", "i", 0)]);
    let steps = steps_of(&catalog(&[("m", "i", 5)]), &found);
    assert_eq!(steps, ["+1", "+2", "+3", "+4"]);
}

#[test]
fn a_version_is_resolved_once_before_its_first_start() {
    let mut unresolved = version("i", 2);
    let deployment = unresolved.spec.deployment.as_mut().unwrap();
    deployment.image_id = None;
    let versions = BTreeMap::from([("1".parse().unwrap(), unresolved)]);
    let put = Change::put(Model {
        name: "m".parse().unwrap(),
        current_version: "1".parse().unwrap(),
        rollout: None,
        versions,
    });
    let catalog = Catalog::default().with(&[put], Generation::default());
    let plan = plan_at(&catalog, &Observed::default(), &history(), 0);
    let [Action::Resolve { spec, .. }] = &plan.actions[..] else {
        panic!("{plan:?}")
    };
    assert_eq!(
        (spec.model.to_string().as_str(), spec.image.as_str()),
        ("m:1", "i")
    );
    let mut resolving = Observed::default();
    resolving
        .at_work
        .insert("m:1".into(), at_work(Work::Resolving, None));
    assert_eq!(plan_at(&catalog, &resolving, &history(), 0), Plan::default());
}

#[test]
fn places_that_containers_of_another_store_have_are_passed_over() {
    let taken = Observed {
        foreign: [0, 1, 3]
            .map(|ordinal| ReplicaId::of(&"m:1".parse().unwrap(), ordinal))
            .into(),
        ..Observed::default()
    };
    assert_eq!(steps_of(&catalog(&[("m", "i", 3)]), &taken), ["+2", "+4", "+5"]);
}

#[test]
fn a_place_is_taken_whatever_its_container_is_called() {
    let mut found = observed(vec![running("m", "i", 0), running("m", "i", 1)]);
    found.containers[0].container = "test-m-1-0".into();
    found.containers[1].container = "test_m_1_0".into();
    found
        .at_work
        .insert("test-m-1-2".into(), at_work(Work::Starting, 2));
    assert_eq!(steps_of(&catalog(&[("m", "i", 4)]), &found), ["+3"]);
}

#[test]
fn starts_at_work_are_counted_before_they_are_listed() {
    let mut found = Observed::default();
    found
        .at_work
        .insert("test_m_1_0".into(), at_work(Work::Starting, 0));
    assert_eq!(steps_of(&catalog(&[("m", "i", 2)]), &found), ["+1"]);
}

#[test]
fn without_a_query_frontend_nothing_is_started_or_judged_and_a_stopped_version_still_stops() {
    let nobody = Placement {
        frontends: vec![],
        ..placement()
    };
    let absent = Observed {
        attached: BTreeSet::new(),
        ..observed(vec![
            running("m", "old", 0),
            running("off", "i", 0),
            running("gone", "i", 1),
        ])
    };
    let catalog = catalog(&[("m", "new", 2), ("off", "i", 0)]);
    let mut history = history();
    history.observe(&absent, &nobody, at(0));
    history.observe(&absent, &nobody, at(100));
    assert_eq!(
        steps(&plan(&catalog, &absent, &history, &nobody, at(100))),
        ["-0", "-1"]
    );
    // The patience begins once a frontend lives.
    let fitting = Observed {
        containers: vec![running("m", "new", 0), running("m", "new", 1)],
        ..absent
    };
    history.observe(&fitting, &nobody, at(100));
    history.observe(&fitting, &placement(), at(101));
    let plan = plan_at(&catalog, &fitting, &history, 105);
    assert_eq!((steps(&plan), plan.look_again), (vec![], Some(at(110))));
}

#[test]
fn a_container_that_ended_is_buried_and_replaced_after_the_pause() {
    let catalog = catalog(&[("m", "i", 1)]);
    let mut found = observed(vec![running("m", "i", 0)]);
    found.containers[0].state = ContainerState::Exited {
        code: 1,
        detail: None,
    };
    let mut history = history();
    assert!(matches!(
        plan_at(&catalog, &found, &history, 0).actions[..],
        [Action::Bury(_)]
    ));

    history.failed(&"m:1".parse().unwrap(), at(0));
    let paused = plan_at(&catalog, &Observed::default(), &history, 0);
    assert_eq!(
        paused,
        Plan {
            actions: vec![],
            look_again: Some(at(1))
        }
    );
    assert!(matches!(
        plan_at(&catalog, &Observed::default(), &history, 1).actions[..],
        [Action::Start(_)]
    ));
}

#[test]
fn replicas_that_fall_over_together_are_one_failure_and_pauses_grow() {
    let (catalog, model) = (catalog(&[("m", "i", 1)]), "m:1".parse().unwrap());
    let mut history = history();
    for _ in 0..3 {
        history.failed(&model, at(0));
    }
    assert_eq!(
        plan_at(&catalog, &Observed::default(), &history, 0).look_again,
        Some(at(1))
    );
    history.failed(&model, at(2));
    assert_eq!(
        plan_at(&catalog, &Observed::default(), &history, 2).look_again,
        Some(at(4))
    );
    history.failed(&model, at(100));
    assert_eq!(
        plan_at(&catalog, &Observed::default(), &history, 100).look_again,
        Some(at(101))
    );
}

#[test]
fn one_models_failures_are_not_in_the_way_of_another() {
    let mut history = history();
    history.failed(&"bad:1".parse().unwrap(), at(0));
    let plan = plan_at(
        &catalog(&[("bad", "i", 1), ("good", "i", 1)]),
        &Observed::default(),
        &history,
        0,
    );
    assert!(matches!(&plan.actions[..], [Action::Start(spec)] if spec.model.name.as_str() == "good"));
}

#[test]
fn a_container_at_work_is_left_alone_and_one_that_ends_may_be_replaced_beside_it() {
    let catalog = catalog(&[("m", "i", 1)]);
    let mut found = observed(vec![running("m", "i", 0)]);
    found
        .at_work
        .insert("test_m_1_0".into(), at_work(Work::Ending, 0));
    assert_eq!(steps_of(&catalog, &found), ["+1"]);
}

#[test]
fn a_container_that_failed_is_replaced_only_once_its_burial_is_noted() {
    let catalog = catalog(&[("m", "i", 2)]);
    let mut found = observed(vec![running("m", "i", 0), running("m", "i", 1)]);
    found
        .at_work
        .insert("test_m_1_0".into(), at_work(Work::Burying, 0));
    found.containers[0].state = exited();
    assert_eq!(steps_of(&catalog, &found), [""; 0]);
    // The runtime has removed the container and reports that before the action ends.
    found.containers.remove(0);
    assert_eq!(steps_of(&catalog, &found), [""; 0]);
    found.at_work.clear();
    assert_eq!(steps_of(&catalog, &found), ["+0"]);
}

#[test]
fn a_lost_stream_is_given_ten_seconds_and_a_starting_container_five_minutes() {
    let catalog = catalog(&[("m", "i", 1)]);
    let present = observed(vec![running("m", "i", 0)]);
    let absent = Observed {
        attached: BTreeSet::new(),
        ..present.clone()
    };

    let mut lost = history();
    lost.observe(&present, &placement(), at(0));
    lost.observe(&absent, &placement(), at(1));
    assert_eq!(
        plan_at(&catalog, &absent, &lost, 1),
        Plan {
            actions: vec![],
            look_again: Some(at(11))
        }
    );
    let reason = StopReason::NotAttached { was_attached: true };
    assert!(matches!(
        &plan_at(&catalog, &absent, &lost, 11).actions[..],
        [Action::Stop { reason: given, .. }, Action::Start(_)] if *given == reason
    ));

    let mut starting = history();
    starting.observe(&Observed::default(), &placement(), at(0));
    starting.observe(&absent, &placement(), at(1));
    assert_eq!(
        plan_at(&catalog, &absent, &starting, 12).look_again,
        Some(at(301))
    );
    let reason = StopReason::NotAttached { was_attached: false };
    assert!(matches!(
        &plan_at(&catalog, &absent, &starting, 301).actions[..],
        [Action::Stop { reason: given, .. }, Action::Start(_)] if *given == reason
    ));
}

#[test]
fn a_container_from_before_this_frontend_has_ten_seconds_to_come_back() {
    let absent = Observed {
        attached: BTreeSet::new(),
        ..observed(vec![running("m", "i", 0)])
    };
    let mut history = history();
    history.observe(&absent, &placement(), at(0));
    assert_eq!(
        plan_at(&catalog(&[("m", "i", 1)]), &absent, &history, 0).look_again,
        Some(at(10))
    );
}

#[test]
fn another_container_of_the_same_name_is_given_its_own_time() {
    let catalog = catalog(&[("m", "i", 1)]);
    let first = observed(vec![running("m", "i", 0)]);
    let mut history = history();
    history.observe(&first, &placement(), at(0));
    let mut second = Observed {
        attached: BTreeSet::new(),
        ..first
    };
    second.containers[0].start = "another".into();
    history.observe(&second, &placement(), at(1));
    // The container was never attached: it may be loading.
    assert_eq!(plan_at(&catalog, &second, &history, 12).look_again, Some(at(301)));
}
