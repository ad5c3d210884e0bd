//! `skysail model deploy` and `register`: a new version, run by Skysail or by somebody else.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, absolute};

use clap::Args;
use skysail_proto::admin::NewVersion;
use skysail_proto::deployment::{BatchSize, Deployment, Replicas, VersionSpec};
use skysail_proto::ids::ModelId;

use super::show::replicas_line;
use super::wait::{Before, Wait, Waiting};
use crate::arguments::{parse_cpus, parse_input, parse_size, parse_variable};
use crate::commands::Session;
use crate::error::Error;
use crate::onnx::{self, BASE_IMAGE, Deployed, LocalFile, parse_onnx};
use crate::signature::{SignatureArguments, TAKES};

const DEPLOY_EXAMPLES: &str = "\
Examples:
  skysail model deploy iris-model:1 --image skysail/iris-svm \\
      --input-type doubles --replicas 3
  skysail model deploy resnet:2 --image resnet:2 --input-type bytes \\
      --cpus 2 --memory 4g --env OMP_NUM_THREADS=2 --max-batch 32
  skysail model deploy iris-model:2 --image iris-svm:2 --input-type doubles \\
      --warm-up '[5.8, 3.0, 3.7, 1.2]'
  skysail model deploy iris-model:3 --image iris-svm:3 --input-type doubles \\
      --replicas auto:1..8 --replace
  skysail model deploy iris-model:1 --image ./target/release/iris-svm \\
      --input-type doubles
  skysail model deploy digits:1 --onnx digits.onnx --replicas 2
  skysail model deploy resnet:3 --image resnet:3 \\
      --in 'image:FP32[224,224,3]' --out 'probabilities:FP32[1000]'

Tensors are declared as they are for one input, without the batch dimension; -1 is any length. With \
--input-type tensors alone the first replica tells what the model takes, and with --onnx the file. \
With the process runtime the image is the path of an executable. A version is never changed: deploy \
another. The one that answers goes on until as many replicas of the new one are attached as are \
wanted, or as the old one has; one that never becomes ready leaves the old one where it is. With \
--replace the model's other versions are stopped then, and otherwise go on running, so that \
`skysail model set-version` goes back at once.";

const REGISTER_EXAMPLES: &str = "\
Examples:
  skysail model register my-model:1 --input-type floats
  skysail model register resnet:1 --input-type tensors
  SKYSAIL_FRONTENDS=127.0.0.1:7000 SKYSAIL_MODEL_NAME=my-model \\
      SKYSAIL_MODEL_VERSION=1 SKYSAIL_INPUT_TYPE=floats \\
      SKYSAIL_TOKEN=$(skysail model show my-model:1 --token) ./my-container

Where container RPC (--rpc-addr) can be reached from other machines or from containers, a \
container is to show a token, which is printed here and by \
`skysail model show NAME:VERSION --token`.";

/// What any version has.
#[derive(Args, Debug)]
struct VersionArguments {
    #[command(flatten)]
    signature: SignatureArguments,
    /// How batches are sized: a number, adaptive or aimd
    #[arg(long, value_name = "N|adaptive|aimd", default_value_t)]
    batch_size: BatchSize,
    /// The largest batch ever sent [default: learned, at most 4096 inputs and 16 MiB]
    #[arg(long, value_name = "N")]
    max_batch: Option<NonZeroU32>,
    /// Let every query reach the model, also one that was asked before: for models whose answers change
    #[arg(long)]
    no_cache: bool,
}

#[derive(Args, Debug)]
#[command(after_help = DEPLOY_EXAMPLES)]
pub(crate) struct DeployArguments {
    /// The version to deploy
    #[arg(value_name = "NAME:VERSION")]
    id: ModelId,
    /// A Docker image, or with the process runtime the path of an executable
    #[arg(long, required_unless_present = "onnx")]
    image: Option<String>,
    /// An ONNX file, instead of an image: it is uploaded to the frontend, or made into a Docker image, and served as it is
    #[arg(long, value_name = "FILE", value_parser = parse_onnx, conflicts_with = "image", group = TAKES)]
    onnx: Option<LocalFile>,
    /// The Docker image that serves the ONNX file
    #[arg(long, value_name = "IMAGE", requires = "onnx", default_value = BASE_IMAGE)]
    onnx_image: String,
    #[command(flatten)]
    version: VersionArguments,
    /// Replicas wanted: a number, or bounds within which it follows the load
    #[arg(long, value_name = "N|auto:MIN..MAX", default_value_t = Replicas::Fixed(1))]
    replicas: Replicas,
    /// CPUs each replica may use, as in 0.5 or 2
    #[arg(long, value_name = "F", value_parser = parse_cpus)]
    cpus: Option<f64>,
    /// Memory each replica may use, as in 512m or 2g
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory: Option<u64>,
    /// GPUs each replica is given; Docker only
    #[arg(long, value_name = "N")]
    gpus: Option<NonZeroU32>,
    /// Further environment of each container; may be given again
    #[arg(long, value_name = "K=V", value_parser = parse_variable)]
    pub(crate) env: Vec<(String, String)>,
    /// An input, as JSON, that each replica tries in batches of several sizes, for about a second, before it
    /// takes queries: its batch times are known from the first query on [default: what the model offers]
    #[arg(long, value_name = "JSON", value_parser = parse_input)]
    pub(crate) warm_up: Option<serde_json::Value>,
    /// Stop the model's other versions once this one answers [default: they go on, to be set back at once]
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    waiting: Waiting,
}

#[derive(Args, Debug)]
#[command(after_help = REGISTER_EXAMPLES)]
pub(crate) struct RegisterArguments {
    /// The version to register
    #[arg(value_name = "NAME:VERSION")]
    id: ModelId,
    #[command(flatten)]
    version: VersionArguments,
    /// Let any container attach, without a token, also where container RPC can be reached from elsewhere: whoever
    /// reaches it answers this model's queries
    #[arg(long)]
    open: bool,
}

impl DeployArguments {
    /// Whether to wait until it answers.
    #[cfg(test)]
    pub(crate) fn waits(&self) -> bool {
        self.waiting.waits()
    }
}

impl VersionArguments {
    fn into_spec(self, deployment: Option<Deployment>) -> VersionSpec {
        VersionSpec {
            signature: self.signature.0,
            batch_size: self.batch_size,
            max_batch: self.max_batch,
            cache: !self.no_cache,
            deployment,
            open: false,
            annotations: BTreeMap::new(),
        }
    }
}

pub(super) async fn deploy(session: &Session, arguments: DeployArguments) -> Result<(), Error> {
    let DeployArguments { id, waiting, .. } = arguments;
    let (replicas, autoscale) = match arguments.replicas {
        Replicas::Fixed(count) => (count, None),
        Replicas::Auto(bounds) => (bounds.min, Some(bounds)),
    };
    let source = match arguments.onnx {
        Some(file) => onnx::bring(&session.admin, &id, &file, &arguments.onnx_image).await?,
        None => Deployed {
            image: located(session, arguments.image.unwrap_or_default()).await?,
            image_id: None,
            onnx: None,
        },
    };
    let deployment = Deployment {
        image: source.image,
        image_id: source.image_id,
        artifacts: Vec::new(),
        onnx: source.onnx,
        replicas,
        autoscale,
        gpus: arguments.gpus.map(NonZeroU32::get),
        cpus: arguments.cpus,
        memory_bytes: arguments.memory,
        env: arguments.env.into_iter().collect(),
        warm_up: arguments.warm_up,
    };
    let new = NewVersion {
        replace: arguments.replace,
        ..NewVersion::of(id.version.clone(), arguments.version.into_spec(Some(deployment)))
    };
    let mut version = session.admin.create_version(&id.name, &new).await?;
    if waiting.waits() {
        let before = Before::of(&version.read()?);
        let mut wait = Wait::at_most(waiting.wait_timeout);
        wait.until_ready(session, &id, &before).await?;
        wait.until_answers(session, &id, &before).await?;
        version = session.admin.version(&id).await?;
    }
    session
        .output
        .answer(&version, |version| format!("deployed {}", replicas_line(version)))
}

pub(super) async fn register(session: &Session, arguments: RegisterArguments) -> Result<(), Error> {
    let id = arguments.id;
    let new = NewVersion {
        open: arguments.open,
        ..NewVersion::of(id.version.clone(), arguments.version.into_spec(None))
    };
    let version = session.admin.create_version(&id.name, &new).await?;
    session.output.answer(&version, |version| {
        let registered = format!("registered {id}; it answers as soon as a container attaches");
        match &version.token {
            Some(token) => format!("{registered}\ncontainers show this token: SKYSAIL_TOKEN={token}"),
            None => registered,
        }
    })
}

/// The image as the frontend finds it: a path is told in full, because the frontend works elsewhere.
///
/// Whether `./x` or `x` is a path or the name of a Docker image, only the runtime can tell.
async fn located(session: &Session, image: String) -> Result<String, Error> {
    let path = Path::new(&image);
    if path.is_absolute() || !path.is_file() {
        return Ok(image);
    }
    let runtime = session.admin.status().await?.read()?.runtime;
    if runtime.kind != "process" {
        return Ok(image);
    }
    let full = absolute(path).map_err(|reason| Error::File {
        path: path.to_owned(),
        reason,
    })?;
    Ok(full.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use skysail_proto::value::InputType;

    use super::*;

    fn spec(batch_size: &str, max_batch: Option<u32>) -> VersionSpec {
        let arguments = VersionArguments {
            signature: SignatureArguments(InputType::Floats.into()),
            batch_size: batch_size.parse().unwrap(),
            max_batch: max_batch.map(|max| max.try_into().unwrap()),
            no_cache: true,
        };
        arguments.into_spec(None)
    }

    #[test]
    fn the_largest_batch_is_learned_unless_one_is_asked_for() {
        for (batch_size, max_batch, expected) in [
            ("adaptive", None, 4096),
            ("100", None, 100),
            ("100", Some(50), 50),
            ("aimd", Some(7), 7),
        ] {
            let spec = spec(batch_size, max_batch);
            assert_eq!(spec.max_batch.map(NonZeroU32::get), max_batch);
            assert_eq!(spec.most_inputs().get(), expected);
        }
    }

    #[test]
    fn the_cache_is_on_unless_it_is_refused() {
        assert!(!spec("adaptive", None).cache);
    }
}
