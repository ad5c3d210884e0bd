//! How models and versions are shown.

use jiff::Timestamp;
use skysail_proto::admin::{
    BatchLimit, Container, Failure, Load, Model, Replica, Rollout, Serving, Version, VersionState,
};
use skysail_proto::deployment::{BatchSize, Deployment, Replicas};

use crate::advice::listed;
use crate::commands::replica::replica_table;
use crate::output::{age, counted, failure_words, fields, per_second, shortened, table};
use crate::signature::{annotation_fields, signature_fields};

/// All versions of all models, a line each.
pub(super) fn model_table(models: &[Model], now: Timestamp) -> String {
    if models.is_empty() {
        return "no model is registered; `skysail model deploy` brings one".into();
    }
    let rows = models.iter().flat_map(|model| {
        model.versions.iter().map(move |version| {
            [
                model.name.to_string(),
                version.version.to_string(),
                current_mark(version).into(),
                state_word(version.state).into(),
                replicas_share(version),
                shortened(&version.spec.signature.to_string()),
                image(version).to_owned(),
                listed(&model.linked_applications),
                age(version.registered_at, now),
            ]
        })
    });
    let header = [
        "MODEL",
        "VERSION",
        "CURRENT",
        "STATE",
        "REPLICAS",
        "SIGNATURE",
        "IMAGE",
        "APPLICATIONS",
        "AGE",
    ];
    table(header, rows)
}

/// All that is known of a model.
pub(super) fn model_page(model: &Model, replicas: &[Replica], now: Timestamp) -> String {
    let linked = if model.linked_applications.is_empty() {
        format!("none; `skysail app link APP {}` links one", model.name)
    } else {
        listed(&model.linked_applications)
    };
    let mut pairs = vec![
        ("Name", model.name.to_string()),
        ("Current version", model.current_version.to_string()),
        ("Answers", answers_words(model)),
    ];
    if let Some(rollout) = &model.rollout {
        pairs.push(("Rollout", rollout_words(rollout)));
        pairs.push(("Waits for", rollout.waits_for.clone()));
    }
    pairs.push(("Linked applications", linked));
    let head = fields(pairs);
    let versions = model
        .versions
        .iter()
        .map(|version| version_page(version, replicas, now));
    let mut parts = vec![head];
    parts.extend(versions);
    parts.join("\n\n")
}

/// Which version answers queries, and at how many frontends.
fn answers_words(model: &Model) -> String {
    let mut serving = model.serving.iter();
    match (serving.next(), serving.len()) {
        (None, _) => "no frontend that takes queries is seen".into(),
        (Some(only), 0) => format!("version {}", only.version),
        (Some(first), _) => {
            let all = std::iter::once(first).chain(serving);
            let words = |serving: &Serving| {
                format!(
                    "version {} at {}",
                    serving.version,
                    counted(serving.frontends.len() as u64, "frontend")
                )
            };
            all.map(words).collect::<Vec<_>>().join(", ")
        }
    }
}

fn rollout_words(rollout: &Rollout) -> String {
    let Rollout { from, to, .. } = rollout;
    let others = if rollout.replace {
        "then the other versions are stopped"
    } else {
        "the other versions go on"
    };
    format!(
        "version {from} to {to}, at {} of {} frontends; {others}",
        rollout.switched, rollout.frontends
    )
}

/// What was chosen for a model, and whether it is so yet.
pub(super) fn turned_line(model: &Model) -> String {
    let Model {
        name,
        current_version,
        ..
    } = model;
    match &model.rollout {
        Some(rollout) if rollout.switched < rollout.frontends || rollout.frontends == 0 => {
            format!(
                "model {name} turns to version {current_version}: {}",
                rollout.waits_for
            )
        }
        _ => format!("model {name} answers with version {current_version}"),
    }
}

/// All that is known of a version.
pub(super) fn version_page(version: &Version, replicas: &[Replica], now: Timestamp) -> String {
    let mut pairs = vec![
        ("Version", version_words(version)),
        ("State", state_words(version)),
        ("Replicas", replicas_and_bounds(version)),
        ("Restarts", version.restarts.to_string()),
        ("Load", load_words(version.load)),
    ];
    pairs.extend(signature_fields(&version.spec.signature));
    pairs.extend(annotation_fields(&version.spec.annotations));
    pairs.extend([
        ("Batches", batch_words(version)),
        ("Cache", if version.spec.cache { "on" } else { "off" }.into()),
    ]);
    if let Some(decision) = &version.autoscaling {
        pairs.push(("Autoscaling", decision.clone()));
    }
    if let Some(deployment) = &version.spec.deployment {
        pairs.extend(deployment_fields(deployment));
    }
    if let Some(why) = &version.moved_on {
        pairs.push(("Moved on", why.clone()));
    }
    pairs.push((
        "Registered",
        format!(
            "{} ({} ago)",
            version.registered_at,
            age(version.registered_at, now)
        ),
    ));
    let mut parts = vec![fields(pairs)];
    let own = |replica: &&Replica| replica.model == version.model && replica.version == version.version;
    let replicas: Vec<Replica> = replicas.iter().filter(own).cloned().collect();
    let containers: Vec<&Container> = version.containers.iter().collect();
    parts.extend(replica_table(&replicas, &containers, now));
    if let Some(failure) = &version.last_failure {
        parts.push(failure_page(failure, now));
    }
    parts.join("\n\n")
}

/// A version and its replicas, in one line.
pub(super) fn replicas_line(version: &Version) -> String {
    format!(
        "{}:{}: {}",
        version.model,
        version.version,
        replicas_words(version)
    )
}

pub(super) fn replicas_words(version: &Version) -> String {
    match version.replicas_desired {
        Some(desired) => format!("{} of {desired} replicas attached", version.replicas_attached),
        None => format!("{} attached by themselves", version.replicas_attached),
    }
}

/// The number of replicas, and the bounds within which it follows the load.
fn replicas_and_bounds(version: &Version) -> String {
    let words = replicas_words(version);
    let deployment = version.spec.deployment.as_ref();
    match deployment.and_then(|deployment| deployment.autoscale) {
        Some(bounds) => format!("{words} ({})", Replicas::Auto(bounds)),
        None => words,
    }
}

fn load_words(load: Load) -> String {
    format!(
        "{} queries for the model, {} waiting",
        per_second(load.arrivals_per_second),
        load.queued
    )
}

pub(in crate::commands) fn state_word(state: VersionState) -> &'static str {
    match state {
        VersionState::Ready => "ready",
        VersionState::Starting => "starting",
        VersionState::Failing => "failing",
        VersionState::Stopped => "stopped",
        VersionState::Waiting => "waiting",
    }
}

fn version_words(version: &Version) -> String {
    let current = if version.current { " (current)" } else { "" };
    format!("{}:{}{current}", version.model, version.version)
}

fn state_words(version: &Version) -> String {
    match &version.progress {
        Some(progress) => format!("{} ({progress})", state_word(version.state)),
        None => state_word(version.state).to_owned(),
    }
}

fn current_mark(version: &Version) -> &'static str {
    if version.current { "*" } else { "" }
}

pub(in crate::commands) fn replicas_share(version: &Version) -> String {
    match version.replicas_desired {
        Some(desired) => format!("{}/{desired}", version.replicas_attached),
        None => version.replicas_attached.to_string(),
    }
}

fn image(version: &Version) -> &str {
    version
        .spec
        .deployment
        .as_ref()
        .map_or("", |deployment| &deployment.image)
}

/// How batches are sized, and how large they are at most.
fn batch_words(version: &Version) -> String {
    let spec = &version.spec;
    if !spec.signature.is_batched() {
        return "one input each: its tensors have no batch dimension".into();
    }
    let words = match (spec.batch_size, spec.max_batch) {
        (size @ BatchSize::Fixed(_), None) => format!("{size} at most"),
        (size, Some(most)) => format!("{size}, at most {most}"),
        (size, None) => format!("{size}, as large as replicas can take"),
    };
    match version.batch_limit {
        None => words,
        Some(BatchLimit {
            inputs,
            failed_inputs,
            since,
        }) => format!(
            "{words}; batches of at most {inputs} since {since}, because one of {failed_inputs} failed"
        ),
    }
}

fn deployment_fields(deployment: &Deployment) -> Vec<(&'static str, String)> {
    let mut pairs = vec![("Image", deployment.image.clone())];
    if let Some(id) = &deployment.image_id {
        pairs.push(("Image id", id.clone()));
    }
    for artifact in &deployment.artifacts {
        pairs.push((
            "Artifact",
            format!("{} (SHA-256 {})", artifact.path, artifact.sha256),
        ));
    }
    if let Some(file) = &deployment.onnx {
        pairs.push(("ONNX file", format!("SHA-256 {}", file.sha256)));
    }
    if let Some(cpus) = deployment.cpus {
        pairs.push(("CPUs", cpus.to_string()));
    }
    if let Some(gpus) = deployment.gpus {
        pairs.push(("GPUs", gpus.to_string()));
    }
    if let Some(bytes) = deployment.memory_bytes {
        pairs.push(("Memory", indicatif::BinaryBytes(bytes).to_string()));
    }
    if !deployment.env.is_empty() {
        // The values may be secrets; `--output json` has them.
        let names: Vec<_> = deployment.env.keys().collect();
        pairs.push(("Environment", listed(&names)));
    }
    if let Some(input) = &deployment.warm_up {
        pairs.push(("Warm-up", shortened(&input.to_string())));
    }
    pairs
}

fn failure_page(failure: &Failure, now: Timestamp) -> String {
    let again = if failure.permanent {
        "; trying again as it is cannot help"
    } else {
        ""
    };
    let mut lines = vec![format!(
        "Last failure, {} ago, {}: {}{again}",
        age(failure.at, now),
        failure.replica,
        failure_words(failure)
    )];
    lines.extend(failure.log.iter().map(|line| format!("  | {line}")));
    lines.join("\n")
}

#[cfg(test)]
pub(super) mod tests {
    use skysail_proto::deployment::Autoscale;

    use super::*;

    /// Version 1 of a model as a server would tell it: three replicas wanted, three attached.
    pub(in super::super) fn version() -> Version {
        let json = r#"{
            "model": "iris-model", "version": "1", "current": true, "input_type": "doubles",
            "batch_size": "adaptive", "max_batch": 64, "cache": true,
            "deployment": {"image": "skysail/iris-svm:0.1.0", "replicas": 3, "memory_bytes": 536870912,
                           "env": {"TOKEN": "secret"}, "warm_up": [1.5, 2]},
            "registered_at": "2026-01-01T00:00:00Z", "state": "ready",
            "replicas_desired": 3, "replicas_attached": 3, "restarts": 2,
            "containers": [
                {"container": "c_iris-model_1_0", "replica": "iris-model_1_0", "state": "running", "pid": 7}
            ]
        }"#;
        serde_json::from_str(json).unwrap()
    }

    fn now() -> Timestamp {
        "2026-01-01T03:00:00Z".parse().unwrap()
    }

    pub(in super::super) fn model(versions: Vec<Version>) -> Model {
        Model {
            serving: vec![],
            rollout: None,
            name: "iris-model".parse().unwrap(),
            current_version: "1".parse().unwrap(),
            linked_applications: vec!["iris".parse().unwrap()],
            versions,
        }
    }

    #[test]
    fn versions_are_listed_one_a_line() {
        let mut waiting = version();
        waiting.version = "2".parse().unwrap();
        waiting.current = false;
        waiting.state = VersionState::Waiting;
        waiting.spec.deployment = None;
        waiting.replicas_desired = None;
        waiting.replicas_attached = 0;
        let shown = model_table(&[model(vec![version(), waiting])], now());
        let expected = "\
MODEL        VERSION   CURRENT   STATE     REPLICAS   SIGNATURE   IMAGE                    APPLICATIONS   AGE
iris-model   1         *         ready     3/3        doubles     skysail/iris-svm:0.1.0   iris           3h
iris-model   2         -         waiting   0          doubles     -                        iris           3h";
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_page_names_the_environment_without_its_values() {
        let page = version_page(&version(), &[], now());
        assert!(page.contains("TOKEN"), "{page}");
        assert!(!page.contains("secret"), "{page}");
        assert!(page.contains("512.00 MiB"), "{page}");
        assert!(page.contains("[1.5,2]"), "{page}");
    }

    #[test]
    fn a_page_tells_what_failed_with_the_last_lines() {
        let mut version = version();
        version.state = VersionState::Failing;
        version.last_failure = Some(Failure {
            at: "2026-01-01T02:59:00Z".parse().unwrap(),
            replica: "iris-model_1_2".parse().unwrap(),
            reason: "exited with code 3".into(),
            exit_code: Some(3),
            permanent: false,
            log: vec!["first".into(), "second".into()],
        });
        let page = model_page(&model(vec![version]), &[], now());
        let tail = "Last failure, 60s ago, iris-model_1_2: exited with code 3\n  | first\n  | second";
        assert!(page.ends_with(tail), "{page}");
        assert!(page.contains("iris-model:1 (current)"), "{page}");
        assert!(page.contains("Restarts:"), "{page}");
    }

    #[test]
    fn a_change_of_versions_is_shown_with_what_it_waits_for() {
        let mut model = model(vec![version()]);
        assert!(answers_words(&model).contains("no frontend"));
        let serving = |version: &str, frontends: &[&str]| Serving {
            version: version.parse().unwrap(),
            frontends: frontends.iter().map(|&id| id.to_owned()).collect(),
        };
        model.serving = vec![serving("0", &["a"])];
        assert_eq!(answers_words(&model), "version 0");
        model.serving.push(serving("1", &["b"]));
        model.rollout = Some(Rollout {
            from: "0".parse().unwrap(),
            to: "1".parse().unwrap(),
            replace: true,
            frontends: 2,
            switched: 1,
            waits_for: "the traffic is moving".into(),
        });
        let page = model_page(&model, &[], now());
        for part in [
            "version 0 at 1 frontend, version 1 at 1 frontend",
            "version 0 to 1, at 1 of 2 frontends; then the other versions are stopped",
            "the traffic is moving",
        ] {
            assert!(page.contains(part), "{part}:\n{page}");
        }
        assert_eq!(
            turned_line(&model),
            "model iris-model turns to version 1: the traffic is moving"
        );
        model.rollout = None;
        assert_eq!(turned_line(&model), "model iris-model answers with version 1");
    }

    #[test]
    fn a_number_that_follows_the_load_is_shown_with_its_bounds_and_the_reason() {
        let mut version = version();
        let deployment = version.spec.deployment.as_mut().unwrap();
        deployment.autoscale = Some(Autoscale { min: 1, max: 8 });
        version.autoscaling = Some("3 replicas: 200/s".into());
        version.load = Load {
            arrivals_per_second: 200.0,
            queued: 7,
        };
        let page = version_page(&version, &[], now());
        for part in [
            "3 of 3 replicas attached (auto:1..8)",
            "3 replicas: 200/s",
            "200/s queries for the model, 7 waiting",
        ] {
            assert!(page.contains(part), "{part}:\n{page}");
        }
    }

    #[test]
    fn how_large_batches_are_is_said_and_why_if_one_was_too_large() {
        let words = |change: fn(&mut Version)| {
            let mut version = version();
            change(&mut version);
            batch_words(&version)
        };
        assert_eq!(words(|_| ()), "adaptive, at most 64");
        assert_eq!(
            words(|version| version.spec.max_batch = None),
            "adaptive, as large as replicas can take"
        );
        let fixed = |version: &mut Version| {
            version.spec.batch_size = "8".parse().unwrap();
            version.spec.max_batch = None;
        };
        assert_eq!(words(fixed), "8 at most");
        let limited = |version: &mut Version| {
            version.spec.max_batch = None;
            version.batch_limit = Some(BatchLimit {
                inputs: 32,
                failed_inputs: 64,
                since: "2026-01-01T02:59:00Z".parse().unwrap(),
            });
        };
        assert_eq!(
            words(limited),
            "adaptive, as large as replicas can take; batches of at most 32 since 2026-01-01T02:59:00Z, \
             because one of 64 failed"
        );
    }

    #[test]
    fn no_model_is_said_in_words() {
        assert!(model_table(&[], now()).contains("skysail model deploy"));
    }
}
