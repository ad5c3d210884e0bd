//! Rules of the plan, one by one, and that planning and applying leads to what is wanted from anywhere.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;
use skysail_proto::deployment::{BatchSize, Deployment, VersionSpec};
use skysail_proto::ids::ReplicaId;
use skysail_proto::value::InputType;

use super::*;
use crate::catalog::{Change, Generation, Model};
use crate::reconcile::Patience;

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
        frontends: vec!["127.0.0.1:7000".into()],
    }
}

fn version(image: &str, replicas: u32) -> Version {
    let deployment = Deployment {
        image: image.into(),
        replicas,
        autoscale: None,
        gpus: None,
        cpus: None,
        memory_bytes: None,
        env: BTreeMap::new(),
        warm_up: None,
    };
    let spec = VersionSpec {
        input_type: InputType::Doubles,
        batch_size: BatchSize::Adaptive,
        max_batch: NonZeroU32::MIN,
        cache: true,
        deployment: Some(deployment),
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
        Change::PutModel(Model {
            name: name.parse().unwrap(),
            current_version,
            rollout: None,
            versions,
        })
    });
    Catalog::default().with(&put.collect::<Vec<_>>(), Generation::default())
}

/// A container as it would be once the plan's start was applied.
fn started(spec: &ReplicaSpec) -> ContainerStatus {
    ContainerStatus {
        container: spec.container.clone(),
        replica: spec.replica.clone(),
        model: spec.model.clone(),
        spec_digest: spec.digest.clone(),
        state: ContainerState::Running,
        pid: None,
    }
}

fn running(model: &str, image: &str, ordinal: u32) -> ContainerStatus {
    let id: ModelId = format!("{model}:1").parse().unwrap();
    started(&replica_spec(&placement(), &id, &version(image, 1), ordinal).unwrap())
}

fn observed(containers: Vec<ContainerStatus>) -> Observed {
    let attached = containers
        .iter()
        .map(|container| container.replica.clone())
        .collect();
    Observed {
        containers,
        attached,
        ..Observed::default()
    }
}

fn plan_at(catalog: &Catalog, observed: &Observed, history: &History, seconds: u64) -> Plan {
    plan(catalog, observed, history, &placement(), at(seconds))
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

#[test]
fn a_container_of_another_image_is_stopped_before_its_place_is_filled_again() {
    let plan = plan_at(
        &catalog(&[("m", "new", 1)]),
        &observed(vec![running("m", "old", 0)]),
        &history(),
        0,
    );
    assert!(matches!(
        plan.actions[..],
        [Action::Stop {
            reason: StopReason::Outdated,
            ..
        }]
    ));
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
fn a_container_at_work_is_left_alone() {
    let mut found = Observed::default();
    found.busy.insert("test_m_1_0".into());
    assert_eq!(
        plan_at(&catalog(&[("m", "i", 1)]), &found, &history(), 0),
        Plan::default()
    );
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
    lost.observe(&present, at(0));
    lost.observe(&absent, at(1));
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
        [Action::Stop { reason: given, .. }] if *given == reason
    ));

    let mut starting = history();
    starting.observe(&Observed::default(), at(0));
    starting.observe(&absent, at(1));
    assert_eq!(
        plan_at(&catalog, &absent, &starting, 12).look_again,
        Some(at(301))
    );
    let reason = StopReason::NotAttached { was_attached: false };
    assert!(matches!(
        &plan_at(&catalog, &absent, &starting, 301).actions[..],
        [Action::Stop { reason: given, .. }] if *given == reason
    ));
}

#[test]
fn a_container_from_before_this_frontend_has_ten_seconds_to_come_back() {
    let absent = Observed {
        attached: BTreeSet::new(),
        ..observed(vec![running("m", "i", 0)])
    };
    let mut history = history();
    history.observe(&absent, at(0));
    assert_eq!(
        plan_at(&catalog(&[("m", "i", 1)]), &absent, &history, 0).look_again,
        Some(at(10))
    );
}

/// Applies a plan as a perfect runtime would.
fn apply(plan: &Plan, observed: &mut Observed) {
    for action in &plan.actions {
        match action {
            Action::Start(spec) => {
                assert!(
                    observed
                        .containers
                        .iter()
                        .all(|found| found.container != spec.container)
                );
                observed.containers.push(started(spec));
                observed.attached.insert(spec.replica.clone());
            }
            Action::Stop { found, .. } => remove(observed, &found.container),
            Action::Bury(status) => remove(observed, &status.container),
        }
    }
}

fn remove(observed: &mut Observed, container: &str) {
    observed.containers.retain(|found| found.container != container);
    let left: BTreeSet<ReplicaId> = observed
        .containers
        .iter()
        .map(|found| found.replica.clone())
        .collect();
    observed.attached.retain(|replica| left.contains(replica));
}

fn any_container() -> impl Strategy<Value = ContainerStatus> {
    let model = proptest::sample::select(vec!["a", "b", "gone"]);
    let image = proptest::sample::select(vec!["old", "new"]);
    (model, image, 0u32..5, proptest::option::of(0i64..3)).prop_map(|(model, image, ordinal, exit)| {
        let mut status = running(model, image, ordinal);
        if let Some(code) = exit {
            status.state = ContainerState::Exited { code, detail: None };
        }
        status
    })
}

proptest! {
    #[test]
    fn from_anywhere_planning_and_applying_leads_to_what_is_wanted(
        found in proptest::collection::vec(any_container(), 0..12),
        (a, b) in (0u32..5, 0u32..5),
    ) {
        let mut unique = BTreeMap::new();
        for container in found {
            unique.insert(container.container.clone(), container);
        }
        let catalog = catalog(&[("a", "new", a), ("b", "new", b)]);
        let mut observed = observed(unique.into_values().collect());
        for _ in 0..2 {
            let plan = plan_at(&catalog, &observed, &history(), 0);
            apply(&plan, &mut observed);
        }
        prop_assert_eq!(plan_at(&catalog, &observed, &history(), 0), Plan::default());
        prop_assert_eq!(observed.containers.len() as u32, a + b);
    }
}
