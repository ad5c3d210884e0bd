//! A change of versions under way, in words: how far it is, and what it waits for.

use skysail_core::catalog;
use skysail_core::cluster::ClusterView;
use skysail_core::rollout::{Progress, WaitsFor};
use skysail_proto::admin::{self, Rollout};
use skysail_proto::ids::ModelId;

/// The change of versions of a model that is under way. `current` is the current version as it is shown.
pub(super) fn shown(
    model: &catalog::Model,
    current: &admin::Version,
    cluster: &ClusterView,
) -> Option<Rollout> {
    let rollout = model.rollout.as_ref()?;
    let progress = Progress {
        desired: current.replicas_desired,
        attached: current.replicas_attached,
        frontends: cluster.taking_queries().count(),
        switched: cluster.answering_with(&model.name, &model.current_version),
    };
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Some(Rollout {
        from: rollout.from.clone(),
        to: model.current_version.clone(),
        replace: rollout.replace,
        frontends: count(progress.frontends),
        switched: count(progress.switched),
        waits_for: told(model, rollout, current, progress),
    })
}

/// What it waits for, in words.
fn told(
    model: &catalog::Model,
    rollout: &catalog::Rollout,
    current: &admin::Version,
    progress: Progress,
) -> String {
    let (to, from) = (
        model.current_id(),
        ModelId::new(model.name.clone(), rollout.from.clone()),
    );
    match progress.waits_for() {
        WaitsFor::AStart => {
            format!("`{to}` is stopped: `skysail model scale {to} N` starts it; `{from}` answers until then")
        }
        WaitsFor::AFrontend => "no frontend takes queries".into(),
        WaitsFor::ItsEnd => format!("every frontend answers with `{to}`: it is about to end"),
        WaitsFor::AContainer => {
            format!("`{to}` has no replica: start a container of it; `{from}` answers until then")
        }
        WaitsFor::Replicas { attached, desired } => {
            let failure = current.last_failure.as_ref();
            let why = failure
                .map(|failure| format!(" ({})", failure.reason))
                .unwrap_or_default();
            format!("`{to}` has {attached} of {desired} replicas{why}; `{from}` answers until it is ready")
        }
        WaitsFor::Traffic => {
            let Progress {
                switched, frontends, ..
            } = progress;
            format!("the traffic is moving: {switched} of {frontends} frontends answer with `{to}`")
        }
    }
}

#[cfg(test)]
mod tests {
    use skysail_proto::admin::{Failure, NewVersion, VersionState};
    use skysail_proto::value::InputType;

    use super::super::view::tests::frontend;
    use super::*;

    fn model() -> catalog::Model {
        let version = |name: &str| {
            let new = NewVersion::new(name.parse().unwrap(), InputType::Floats);
            let version = catalog::Version {
                spec: new.spec(),
                registered_at: jiff::Timestamp::UNIX_EPOCH,
            };
            (name.parse().unwrap(), version)
        };
        catalog::Model {
            name: "m".parse().unwrap(),
            current_version: "2".parse().unwrap(),
            rollout: Some(catalog::Rollout {
                from: "1".parse().unwrap(),
                replace: true,
            }),
            versions: [version("1"), version("2")].into(),
        }
    }

    fn current(desired: Option<u32>, attached: u32) -> admin::Version {
        let model = model();
        admin::Version {
            model: model.name.clone(),
            version: model.current_version.clone(),
            current: true,
            spec: model.versions[&model.current_version].spec.clone(),
            registered_at: jiff::Timestamp::UNIX_EPOCH,
            state: VersionState::Starting,
            progress: None,
            replicas_desired: desired,
            replicas_attached: attached,
            replicas_everywhere: Some(attached),
            load: admin::Load::default(),
            batch_limit: None,
            autoscaling: None,
            containers: vec![],
            moved_on: None,
            restarts: 0,
            last_failure: None,
            token: None,
        }
    }

    fn waits(current: &admin::Version, serving: &[&str]) -> String {
        let views = serving.iter().enumerate();
        let views = views.map(|(index, version)| frontend(&index.to_string(), version, vec![]));
        shown(&model(), current, &ClusterView::of(views))
            .unwrap()
            .waits_for
    }

    #[test]
    fn it_is_said_how_many_replicas_are_missing_and_why() {
        let mut current = current(Some(3), 1);
        let said = waits(&current, &["1", "1"]);
        assert_eq!(said, "`m:2` has 1 of 3 replicas; `m:1` answers until it is ready");
        current.last_failure = Some(Failure {
            at: jiff::Timestamp::UNIX_EPOCH,
            replica: "m_2_0".parse().unwrap(),
            reason: "it exited".into(),
            exit_code: Some(1),
            permanent: false,
            log: vec![],
        });
        let said = waits(&current, &["1", "1"]);
        assert!(said.contains("1 of 3 replicas (it exited)"), "{said}");
    }

    #[test]
    fn a_version_that_is_stopped_or_waits_for_a_person_says_what_to_do() {
        let said = waits(&current(Some(0), 0), &["1"]);
        assert!(said.contains("`skysail model scale m:2 N`"), "{said}");
        let said = waits(&current(None, 0), &["1"]);
        assert!(said.contains("start a container of it"), "{said}");
    }

    #[test]
    fn the_frontends_that_have_moved_are_counted() {
        let ready = current(Some(3), 3);
        assert_eq!(
            waits(&ready, &["1", "2"]),
            "the traffic is moving: 1 of 2 frontends answer with `m:2`"
        );
        assert!(waits(&ready, &["2", "2"]).contains("about to end"));
        assert!(waits(&ready, &[]).contains("no frontend takes queries"));
        let views = vec![frontend("a", "1", vec![]), frontend("b", "2", vec![])];
        let rollout = shown(&model(), &ready, &ClusterView::of(views)).unwrap();
        assert_eq!(
            (rollout.switched, rollout.frontends, rollout.replace),
            (1, 2, true)
        );
    }

    #[test]
    fn without_one_there_is_nothing_to_say() {
        let mut model = model();
        model.rollout = None;
        assert_eq!(shown(&model, &current(Some(1), 1), &ClusterView::default()), None);
    }
}
