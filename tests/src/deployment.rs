//! Models as tests deploy them: one of the workspace's containers, under a name and with an environment.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::binaries;

/// A version of a model that is to be deployed.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// The model's name.
    pub model: String,
    /// The version's name.
    pub version: String,
    /// What its inputs are.
    pub input_type: String,
    image: String,
    replicas: u32,
    env: Value,
    warm_up: Value,
    spec: Value,
}

impl Deployment {
    /// One replica of a program of this workspace, as version 1 of a model named like it, for doubles.
    pub fn of(program: &str) -> Self {
        Self::of_image(program, binaries::path(program).display().to_string())
    }

    /// One replica of any image, as version 1 of this model, for doubles.
    pub fn of_image(model: &str, image: impl Into<String>) -> Self {
        Self {
            model: model.to_owned(),
            version: "1".to_owned(),
            input_type: "doubles".to_owned(),
            image: image.into(),
            replicas: 1,
            env: json!({}),
            warm_up: Value::Null,
            spec: json!({}),
        }
    }

    /// The linear SVM over the iris data, as `iris-model:1`.
    pub fn iris() -> Self {
        Self::of("iris-svm").named("iris-model", "1")
    }

    /// The model whose cost and faults are known.
    pub fn synthetic() -> Self {
        Self::of("synthetic")
    }

    /// Under another name.
    pub fn named(mut self, model: &str, version: &str) -> Self {
        model.clone_into(&mut self.model);
        version.clone_into(&mut self.version);
        self
    }

    /// For inputs of another type.
    pub fn taking(mut self, input_type: &str) -> Self {
        input_type.clone_into(&mut self.input_type);
        self
    }

    /// So many replicas.
    pub fn replicas(mut self, count: u32) -> Self {
        self.replicas = count;
        self
    }

    /// With this variable in the environment of its containers.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env[name] = value.into();
        self
    }

    /// With this member in what is posted, such as `batch_size`.
    pub fn with(mut self, member: &str, value: impl Into<Value>) -> Self {
        self.spec[member] = value.into();
        self
    }

    /// With this input to warm its replicas up.
    pub fn warmed_up_by(mut self, input: Value) -> Self {
        self.warm_up = input;
        self
    }

    /// How many replicas are wanted.
    pub fn wanted(&self) -> usize {
        self.replicas as usize
    }

    /// What is posted to deploy it.
    pub fn body(&self) -> Value {
        let mut body = self.spec.clone();
        body["version"] = self.version.clone().into();
        body["input_type"] = self.input_type.clone().into();
        body["deployment"] = json!({
            "image": self.image,
            "replicas": self.replicas,
            "env": self.env,
            "warm_up": self.warm_up,
        });
        body
    }
}

/// A container started by hand, as its environment says.
#[derive(Clone, Debug)]
pub struct ByHand {
    /// The program.
    pub program: PathBuf,
    /// The model's name.
    pub model: String,
    /// The version's name.
    pub version: String,
    /// What it says its inputs are.
    pub input_type: String,
    /// The id it registers with.
    pub replica: String,
    /// Further variables.
    pub env: Vec<(String, String)>,
}

impl ByHand {
    /// A container of a program of this workspace for version 1 of `model`, for doubles.
    pub fn of(program: &str, model: &str, replica: &str) -> Self {
        Self {
            program: binaries::path(program),
            model: model.to_owned(),
            version: "1".to_owned(),
            input_type: "doubles".to_owned(),
            replica: replica.to_owned(),
            env: Vec::new(),
        }
    }

    /// With this further variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_string()));
        self
    }
}
