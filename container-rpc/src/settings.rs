//! A container's environment, read once; all mistakes are reported together.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use skysail_proto::deployment::MOST_LEARNED_INPUTS;
use skysail_proto::ids::{ModelId, ModelName, ModelVersion, ReplicaId};
use skysail_proto::labels::{
    ENV_FRONTENDS, ENV_INPUT_TYPE, ENV_MAX_BATCH, ENV_MODEL_NAME, ENV_MODEL_VERSION, ENV_REPLICA_ID,
    ENV_SIGNATURE, ENV_TOKEN, ENV_WARM_UP,
};
use skysail_proto::signature::Signature;
use skysail_proto::value::Input;

/// Where a container started by hand finds the frontend.
pub const DEFAULT_FRONTEND: &str = "127.0.0.1:7000";

/// What a container serves, and to whom.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Frontends to dial, as host:port; at least one. They name the others.
    pub frontends: Vec<String>,
    /// What it serves.
    pub model: ModelId,
    /// What it takes and gives, as far as its environment declares it: tensors may be left to the model to name.
    pub signature: Signature,
    /// The largest batch it will be sent: no larger one is tried when it warms up.
    pub max_batch: NonZeroU32,
    /// What to warm up with, instead of what the model offers, as JSON.
    pub warm_up: Option<String>,
    /// Names this replica in its cluster.
    pub replica: ReplicaId,
    /// Shown to the frontend at registration; may be empty.
    pub token: String,
}

/// All that is wrong with the environment, a line each.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the environment does not say what to serve:\n  {}", .0.join("\n  "))]
pub struct SettingsError(pub(crate) Vec<String>);

impl Settings {
    /// Reads the process' environment.
    pub fn from_env() -> Result<Self, SettingsError> {
        Self::read(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }

    /// Reads variables from wherever `lookup` finds them. An empty or blank variable counts as absent.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let mut variables = Variables {
            lookup: &|name| lookup(name).filter(|value| !value.trim().is_empty()),
            mistakes: Vec::new(),
        };
        let frontends = variables.frontends();
        let name = variables.required::<ModelName>(ENV_MODEL_NAME, "the model's name, as in `iris-model`");
        let version = variables.required::<ModelVersion>(ENV_MODEL_VERSION, "the model's version, as in `1`");
        let signature = variables.signature();
        let max_batch = variables.max_batch();
        let warm_up = signature
            .as_ref()
            .and_then(|signature| variables.warm_up(signature));
        let replica = variables.replica();
        let token = (variables.lookup)(ENV_TOKEN).unwrap_or_default();
        match (name, version, signature, replica) {
            (Some(name), Some(version), Some(signature), Some(replica)) if variables.mistakes.is_empty() => {
                Ok(Self {
                    frontends,
                    model: ModelId::new(name, version),
                    signature,
                    max_batch,
                    warm_up,
                    replica,
                    token,
                })
            }
            _ => Err(SettingsError(variables.mistakes)),
        }
    }
}

/// Reads one variable after the other and keeps what was wrong.
struct Variables<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    mistakes: Vec<String>,
}

impl Variables<'_> {
    fn required<T: FromStr<Err: fmt::Display>>(&mut self, name: &str, meaning: &str) -> Option<T> {
        let Some(value) = (self.lookup)(name) else {
            self.mistakes
                .push(format!("{name} is not set: set it to {meaning}"));
            return None;
        };
        self.parsed(name, &value)
    }

    fn parsed<T: FromStr<Err: fmt::Display>>(&mut self, name: &str, value: &str) -> Option<T> {
        let parsed = value.parse();
        parsed
            .map_err(|error| self.mistakes.push(format!("{name}: {error}")))
            .ok()
    }

    fn frontends(&mut self) -> Vec<String> {
        let list = (self.lookup)(ENV_FRONTENDS).unwrap_or_else(|| DEFAULT_FRONTEND.to_owned());
        let addresses = list
            .split(',')
            .map(str::trim)
            .filter(|address| !address.is_empty());
        let mut frontends: Vec<String> = Vec::new();
        for address in addresses {
            if !is_host_and_port(address) {
                let mistake =
                    format!("{ENV_FRONTENDS}: `{address}` is not host:port, as in `{DEFAULT_FRONTEND}`");
                self.mistakes.push(mistake);
            } else if frontends.iter().all(|known| known != address) {
                frontends.push(address.to_owned());
            }
        }
        if frontends.is_empty() && self.mistakes.is_empty() {
            self.mistakes.push(format!(
                "{ENV_FRONTENDS} names no frontend: set it to host:port, comma-separated"
            ));
        }
        frontends
    }

    fn max_batch(&mut self) -> NonZeroU32 {
        let Some(given) = (self.lookup)(ENV_MAX_BATCH) else {
            return MOST_LEARNED_INPUTS;
        };
        given.parse().unwrap_or_else(|_| {
            self.mistakes
                .push(format!("{ENV_MAX_BATCH} is `{given}`: use a number from 1"));
            MOST_LEARNED_INPUTS
        })
    }

    /// What the two variables declare together.
    fn signature(&mut self) -> Option<Signature> {
        let input_type = self.required::<String>(
            ENV_INPUT_TYPE,
            "the model's input type, as in `doubles` or `tensors`",
        )?;
        let declared = (self.lookup)(ENV_SIGNATURE);
        let read = Signature::from_text(&input_type, None)
            .map_err(|error| format!("{ENV_INPUT_TYPE}: {error}"))
            .and_then(|alone| match &declared {
                None => Ok(alone),
                Some(declared) => Signature::from_text(&input_type, Some(declared))
                    .map_err(|error| format!("{ENV_SIGNATURE}: {error}")),
            });
        read.map_err(|mistake| self.mistakes.push(mistake)).ok()
    }

    /// The input to warm up with. Where it is left to the model what the tensors are, it is checked later.
    fn warm_up(&mut self, signature: &Signature) -> Option<String> {
        let json = (self.lookup)(ENV_WARM_UP)?;
        if signature.is_declared()
            && let Err(mistake) = warm_up_input(signature, &json)
        {
            self.mistakes.push(mistake);
        }
        Some(json)
    }

    fn replica(&mut self) -> Option<ReplicaId> {
        let given = (self.lookup)(ENV_REPLICA_ID);
        let id = given.unwrap_or_else(|| format!("{}-{}", hostname(), std::process::id()));
        self.parsed(ENV_REPLICA_ID, &id)
    }
}

/// The input to warm up with, from its JSON.
pub(crate) fn warm_up_input(signature: &Signature, json: &str) -> Result<Input, String> {
    Input::from_json(signature, json).map_err(|error| format!("{ENV_WARM_UP}: {error}"))
}

/// Whether an address can be dialled at all; whether anybody answers there shows later.
pub(crate) fn is_host_and_port(address: &str) -> bool {
    let Some((host, port)) = address.rsplit_once(':') else {
        return false;
    };
    let authority = address.parse::<tonic::transport::Uri>();
    let whole = authority.is_ok_and(|uri| uri.authority().is_some_and(|part| part.as_str() == address));
    whole && !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// This machine's name, for people to read; in a container that is usually the container's id.
pub(crate) fn hostname() -> String {
    let from_kernel = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = from_kernel
        .or_else(|| std::env::var("HOSTNAME").ok())
        .unwrap_or_default();
    let visible: String = name.chars().filter(char::is_ascii_graphic).take(180).collect();
    if visible.is_empty() {
        "localhost".to_owned()
    } else {
        visible
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        Settings::read(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    const IRIS: [(&str, &str); 3] = [
        (ENV_MODEL_NAME, "iris-model"),
        (ENV_MODEL_VERSION, "1"),
        (ENV_INPUT_TYPE, "doubles"),
    ];

    #[test]
    fn a_container_can_be_started_by_hand_with_three_variables() {
        let settings = read(&IRIS).unwrap();
        assert_eq!(settings.frontends, [DEFAULT_FRONTEND]);
        assert_eq!(settings.model.to_string(), "iris-model:1");
        let own_id = format!("-{}", std::process::id());
        assert!(
            settings.replica.as_str().ends_with(&own_id),
            "{}",
            settings.replica
        );
        assert_eq!(settings.token, "");
        assert_eq!(
            (settings.max_batch, settings.warm_up),
            (MOST_LEARNED_INPUTS, None)
        );
    }

    #[test]
    fn all_variables_are_taken_as_given() {
        let more = [
            (ENV_FRONTENDS, "a:1, [::1]:2,a:1"),
            (ENV_REPLICA_ID, "iris-model_1_0"),
            (ENV_TOKEN, "secret"),
            (ENV_MAX_BATCH, "8"),
            (ENV_WARM_UP, "[1, 2.5]"),
        ];
        let settings = read(&[&IRIS[..], &more].concat()).unwrap();
        assert_eq!(settings.frontends, ["a:1", "[::1]:2"]);
        assert_eq!(settings.replica.as_str(), "iris-model_1_0");
        assert_eq!(settings.token, "secret");
        assert_eq!(settings.max_batch.get(), 8);
        assert_eq!(settings.warm_up.as_deref(), Some("[1, 2.5]"));
    }

    #[test]
    fn a_signature_is_read_beside_the_input_type() {
        let tensors = [IRIS[0], IRIS[1], (ENV_INPUT_TYPE, "tensors")];
        assert_eq!(read(&tensors).unwrap().signature, Signature::undeclared());
        let json = r#"{"inputs":[{"name":"image","datatype":"FP32","shape":[2,-1]}],"batched":false}"#;
        let settings = read(&[&tensors[..], &[(ENV_SIGNATURE, json)]].concat()).unwrap();
        assert_eq!(
            settings.signature.to_string(),
            "image:FP32[2,-1] (no batch dimension)"
        );
        for (variables, words) in [
            ([(ENV_SIGNATURE, "{"), tensors[2]], "SKYSAIL_SIGNATURE: EOF"),
            (
                [(ENV_SIGNATURE, json), IRIS[2]],
                "SKYSAIL_SIGNATURE: input tensors are declared only",
            ),
            (
                [(ENV_SIGNATURE, json), (ENV_INPUT_TYPE, "float")],
                "SKYSAIL_INPUT_TYPE: input type `float`",
            ),
        ] {
            let error = read(&[&IRIS[..2], &variables].concat()).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_warm_up_input_of_tensors_nobody_has_named_yet_is_left_for_later() {
        let variables = [
            IRIS[0],
            IRIS[1],
            (ENV_INPUT_TYPE, "tensors"),
            (ENV_WARM_UP, "[1]"),
        ];
        assert_eq!(read(&variables).unwrap().warm_up.as_deref(), Some("[1]"));
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let error = read(&[
            (ENV_FRONTENDS, "localhost,x:y,http://a:1"),
            (ENV_MODEL_VERSION, "_"),
            (ENV_INPUT_TYPE, "tensor"),
            (ENV_REPLICA_ID, "two words"),
            (ENV_MAX_BATCH, "0"),
        ])
        .unwrap_err()
        .to_string();
        for part in [
            "`localhost`",
            "`x:y`",
            "`http://a:1`",
            ENV_MODEL_NAME,
            ENV_MODEL_VERSION,
            "bytes, integers, floats, doubles, strings, tensors",
            ENV_REPLICA_ID,
            ENV_MAX_BATCH,
        ] {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
    }

    #[test]
    fn a_warm_up_input_of_another_type_is_a_mistake_that_says_what_is_expected() {
        let error = read(&[&IRIS[..], &[(ENV_WARM_UP, "\"text\"")]].concat())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(ENV_WARM_UP) && error.contains("an array of numbers (input type doubles)"),
            "{error}"
        );
    }
}
