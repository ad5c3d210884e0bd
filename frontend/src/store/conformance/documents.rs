//! The documents that the checks write.

use jiff::Timestamp;
use skysail_core::catalog::{Application, Catalog, Change, Generation, Model, Version};
use skysail_proto::deployment::{
    Artifact, BatchSize, Deployment, MOST_LEARNED_INPUTS, OnnxFile, VersionSpec,
};
use skysail_proto::ids::{ApplicationName, ModelName, ModelVersion};
use skysail_proto::sha256::Sha256;
use skysail_proto::signature::{Signature, TensorSpec};
use skysail_proto::value::InputType;

/// The generation of a store that was never written.
pub(super) fn nothing() -> Generation {
    Generation::default()
}

pub(super) fn names(catalog: &Catalog) -> Vec<&str> {
    catalog.applications.keys().map(ApplicationName::as_str).collect()
}

pub(super) fn put(name: &str) -> Change {
    Change::put(application(name))
}

pub(super) fn application(name: &str) -> Application {
    Application {
        name: application_name(name),
        signature: InputType::Doubles.into(),
        default_output: "-1.0".into(),
        slo_micros: 100_000,
        weight: skysail_proto::admin::default_weight(),
        linked_models: vec![model_name("m")],
        registered_at: Timestamp::UNIX_EPOCH,
    }
}

pub(super) fn put_model(name: &str) -> Change {
    Change::put(model(name))
}

pub(super) fn application_name(name: &str) -> ApplicationName {
    ApplicationName::new(name).expect("a good name")
}

pub(super) fn model_name(name: &str) -> ModelName {
    ModelName::new(name).expect("a good name")
}

/// A model with every field in use: one deployed version, and one whose containers attach by themselves.
pub(super) fn model(name: &str) -> Model {
    let spec = |text: &str| text.parse::<TensorSpec>().expect("a good tensor");
    let inputs = [spec("image:FP32[224,-1]"), spec("text:BYTES[]:utf8")];
    let signature = Signature::tensors(inputs, [spec("p:FP32[3]")]).expect("a good signature");
    let version = |deployment| Version {
        spec: VersionSpec {
            signature: signature.clone(),
            batch_size: BatchSize::Fixed(MOST_LEARNED_INPUTS),
            max_batch: Some(MOST_LEARNED_INPUTS),
            cache: false,
            deployment,
            open: false,
            annotations: [("classes".to_owned(), "setosa, virginica".to_owned())].into(),
        },
        registered_at: Timestamp::UNIX_EPOCH,
    };
    let deployment = Deployment {
        image: "example/iris:1".into(),
        image_id: Some("sha256:0a".into()),
        artifacts: vec![Artifact {
            path: "/models/iris".into(),
            sha256: "0b".into(),
        }],
        onnx: Some(OnnxFile {
            sha256: Sha256::new([0x0c; 32]),
        }),
        replicas: 3,
        autoscale: None,
        gpus: None,
        cpus: Some(0.1),
        memory_bytes: Some(1 << 30),
        env: [("GREETING".to_owned(), "grüezi = \"hi\"".to_owned())].into(),
        warm_up: Some(serde_json::json!([5.84, 3, 3.76, 1.2])),
    };
    let name_of = |version: &str| ModelVersion::new(version).expect("a good version");
    Model {
        name: model_name(name),
        current_version: name_of("2.1-RC1"),
        rollout: None,
        versions: [
            (name_of("1"), version(Some(deployment))),
            (name_of("2.1-RC1"), version(None)),
        ]
        .into(),
    }
}
