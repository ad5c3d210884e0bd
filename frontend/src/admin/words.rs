//! What is refused, in words, and what to do: `core` decides, here it is told.

use skysail_core::limits::{LEAST_CPUS, MAX_ARTIFACTS, MAX_REPLICAS, MAX_WEIGHT, OutOfLimits};
use skysail_core::rules::{Known, Misfit, Refusal};
use skysail_proto::deployment::MAX_WARM_UP_BYTES;
use skysail_proto::error_code::ErrorCode;
use skysail_proto::ids::ModelId;

use super::AdminError;

impl From<Refusal> for AdminError {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal {
            Refusal::NoApplication(..)
            | Refusal::NoModel(..)
            | Refusal::NoVersion(..)
            | Refusal::NotLinked { .. } => ErrorCode::NotFound,
            _ => ErrorCode::Conflict,
        };
        Self::new(code, told(&refusal))
    }
}

fn told(refusal: &Refusal) -> String {
    match refusal {
        Refusal::NoApplication(name, known) => {
            format!(
                "no application `{name}` is registered ({})",
                listed("applications", known)
            )
        }
        Refusal::NoModel(name, known) => {
            format!("no model `{name}` is registered ({})", listed("models", known))
        }
        Refusal::NoVersion(id, known) => format!(
            "model `{}` has no version `{}` ({})",
            id.name,
            id.version,
            listed("versions", known)
        ),
        Refusal::ToLink(missing) => format!("{}: deploy or register it first", told(missing)),
        Refusal::ApplicationExists(name) => format!(
            "application `{name}` is already registered: change it with PATCH (`skysail app update`) or delete it first"
        ),
        Refusal::LinkedAlready { application, model } => format!(
            "application `{application}` is already linked to model `{model}`: unlink it first (`skysail app unlink \
             {application} {model}`)"
        ),
        Refusal::NotLinked { application, model } => {
            format!("model `{model}` is not linked to application `{application}`")
        }
        Refusal::Undeclared(name) => format!(
            "application `{name}` takes tensors, and which ones is not said: declare them (`--in`, `--out`), or copy a \
             model's signature (`--like MODEL`)"
        ),
        Refusal::ToCopy(missing) => format!("{}: no signature can be copied", told(missing)),
        Refusal::NothingToCopy(id) => {
            format!("`{id}` has no signature to copy yet: {}", how_to_learn(id))
        }
        Refusal::NotLearned(id) => format!(
            "`{id}` takes tensors, and which ones is not known yet: {}",
            how_to_learn(id)
        ),
        Refusal::ModelTakesOther(misfit) => format!(
            "model `{}` cannot answer application `{}`: {}; {}",
            misfit.model,
            misfit.application,
            misfit.why,
            how_to_fit(misfit)
        ),
        Refusal::StillTakesOther(version, misfit) => format!(
            "version `{version}` of model `{}` still answers, and cannot answer application `{}`: {}; wait until the \
             current version is ready (`skysail model show {}` tells what that waits for)",
            misfit.model, misfit.application, misfit.why, misfit.model
        ),
        Refusal::NewVersionTakesOther(misfit) => format!(
            "model `{}` is linked to application `{}`, which the new version cannot answer: {}; {}",
            misfit.model,
            misfit.application,
            misfit.why,
            how_to_replace(misfit)
        ),
        Refusal::VersionTakesOther(version, misfit) => format!(
            "version `{version}` cannot answer application `{}`, which model `{}` is linked to: {}; {}",
            misfit.application,
            misfit.model,
            misfit.why,
            how_to_replace(misfit)
        ),
        Refusal::VersionExists(id) => format!(
            "model `{}` already has a version `{}`: deploy another version, scale this one (`skysail model scale {id} \
             N`), or delete it first (`skysail model delete {id}`)",
            id.name, id.version
        ),
        Refusal::LastLinked { version, application } => format!(
            "`{version}` is the last version of a model that application `{application}` is linked to: unlink it first \
             (`skysail app unlink {application} {}`)",
            version.name
        ),
        Refusal::IsCurrent(id) => format!(
            "`{id}` is the current version: choose another first (`skysail model set-version {}:VERSION`)",
            id.name
        ),
        Refusal::StillAnswers { version, current } => format!(
            "`{version}` answers until `{current}` is ready (`skysail model show {}` tells what that waits for): wait, \
             or stop it first (`skysail model stop {version}`)",
            version.name
        ),
        Refusal::WithoutImage(id) => {
            format!("`{id}` was registered without an image: start or stop its containers yourself")
        }
    }
}

/// What to do about a version whose signature is not known yet.
fn how_to_learn(id: &ModelId) -> String {
    format!(
        "it is learned from the version's first replica (`skysail model show {id}`), or declared when the version is \
         deployed (`--in`, `--out`)"
    )
}

/// What to do about an application that a model does not fit.
fn how_to_fit(misfit: &Misfit) -> String {
    match misfit.taken.row_type() {
        Some(_) if misfit.taken.output_tensors().is_empty() => {
            "link a model of the same input type".to_owned()
        }
        _ => format!("register the application with --like {}", misfit.model),
    }
}

/// What to do about a version that a linked application does not fit.
fn how_to_replace(misfit: &Misfit) -> String {
    if !misfit.taken.is_declared() && misfit.sent.row_type().is_none() {
        return "wait for the version's first replica".to_owned();
    }
    format!(
        "deploy it as a model of another name, or unlink the application first (`skysail app unlink {} {}`)",
        misfit.application, misfit.model
    )
}

fn listed(what: &str, known: &Known) -> String {
    let shown = known.first.join(", ");
    match known.count - known.first.len() {
        _ if known.count == 0 => format!("there are no {what}"),
        0 => format!("{what}: {shown}"),
        more => format!("{what}: {shown}, and {more} more"),
    }
}

impl From<OutOfLimits> for AdminError {
    fn from(limit: OutOfLimits) -> Self {
        Self::new(ErrorCode::InvalidArgument, out_of_limits(limit))
    }
}

fn out_of_limits(limit: OutOfLimits) -> String {
    match limit {
        OutOfLimits::Slo(micros) => {
            format!("slo_micros is {micros}: a latency objective is at least 1 microsecond")
        }
        OutOfLimits::Weight(weight) => {
            format!("weight is {weight}: an application's weight is a whole number from 1 to {MAX_WEIGHT}")
        }
        OutOfLimits::Replicas(count) => {
            format!("{count} replicas are more than the {MAX_REPLICAS} that are allowed")
        }
        OutOfLimits::Bounds(bounds) => format!(
            "autoscale from {} to {} replicas: the fewest are at least 1 and at most as many as the most",
            bounds.min, bounds.max
        ),
        OutOfLimits::CountOrBounds => {
            r#"give either a count, as in {"count": 3}, or bounds, as in {"autoscale": {"min": 1, "max": 8}}"#
                .into()
        }
        OutOfLimits::OpenAndDeployed => {
            "open is for a version whose containers attach by themselves: leave it out, or the deployment"
                .into()
        }
        OutOfLimits::OutsideOfBounds(replicas, bounds) => format!(
            "replicas is {replicas}, outside of autoscale's {} to {}: start with a number within",
            bounds.min, bounds.max
        ),
        OutOfLimits::NoImage => "the image is empty: name a Docker image, or an executable's path".into(),
        OutOfLimits::Cpus(cpus) => format!("cpus is {cpus}: it must be at least {LEAST_CPUS}"),
        OutOfLimits::NoMemory => "memory_bytes is 0: it must be above 0".into(),
        OutOfLimits::VariableName(name) => format!("`{name}` is not a name for an environment variable"),
        OutOfLimits::VariableHoldsNul(name) => {
            format!("the environment variable `{name}` holds a NUL character")
        }
        OutOfLimits::ImageId(id) => format!(
            "image_id is `{id}`: it is `sha256:` and 64 lower-case hexadecimal digits, as `docker images --no-trunc` \
             shows; without one, it is found out when the version is first started"
        ),
        OutOfLimits::Artifacts(count) => {
            format!("{count} artifacts are more than the {MAX_ARTIFACTS} that are allowed")
        }
        OutOfLimits::ArtifactPath(path) => format!("an artifact's path is `{path}`: name a file"),
        OutOfLimits::ArtifactDigest(artifact) => format!(
            "the sha256 of artifact `{}` is `{}`: it is 64 lower-case hexadecimal digits, as `sha256sum` prints",
            artifact.path, artifact.sha256
        ),
        OutOfLimits::BatchWithoutDimension(inputs) => format!(
            "batches of {inputs} inputs are asked for, and the model's tensors have no batch dimension, so a batch is \
             one input: leave `--max-batch` out, or `--no-batch-dimension`"
        ),
        OutOfLimits::WarmUp(why) => format!("warm_up is no input of this version: {why}"),
        OutOfLimits::WarmUpTooLarge(bytes) => format!(
            "warm_up has {bytes} bytes as JSON, more than the {MAX_WARM_UP_BYTES} that a container's environment has \
             room for: choose a smaller input, or let the model offer its own"
        ),
    }
}

#[cfg(test)]
mod tests {
    use skysail_proto::signature::{Signature, TensorSpec};
    use skysail_proto::value::InputType;

    use super::*;

    #[test]
    fn what_still_answers_is_refused_with_what_to_do() {
        let refused = AdminError::from(Refusal::StillAnswers {
            version: "m:1".parse().unwrap(),
            current: "m:2".parse().unwrap(),
        });
        assert_eq!(refused.code, ErrorCode::Conflict);
        for part in ["`m:1` answers until `m:2` is ready", "skysail model stop m:1"] {
            assert!(refused.detail.contains(part), "{}", refused.detail);
        }
    }

    #[test]
    fn names_that_are_not_there_are_answered_with_some_that_are() {
        let missing = |names: &[&str], count| {
            let first = names.iter().map(ToString::to_string).collect();
            let refusal = Refusal::NoModel("x".parse().unwrap(), Known { first, count });
            let direct = AdminError::from(refusal.clone());
            assert_eq!(direct.code, ErrorCode::NotFound);
            let to_link = AdminError::from(Refusal::ToLink(Box::new(refusal)));
            assert_eq!(to_link.code, ErrorCode::Conflict);
            assert_eq!(
                to_link.detail,
                format!("{}: deploy or register it first", direct.detail)
            );
            direct.detail
        };
        assert_eq!(
            missing(&[], 0),
            "no model `x` is registered (there are no models)"
        );
        assert_eq!(
            missing(&["a", "b"], 2),
            "no model `x` is registered (models: a, b)"
        );
        assert_eq!(
            missing(&["a"], 3),
            "no model `x` is registered (models: a, and 2 more)"
        );
    }

    #[test]
    fn what_does_not_fit_is_told_with_its_first_difference_and_what_to_do() {
        let signature = |output: &str| {
            let parse = |text: &str| text.parse::<TensorSpec>().unwrap();
            Signature::tensors([parse("x:FP32[2]")], [parse(output)]).unwrap()
        };
        let misfit = |taken: Signature, sent: Signature| {
            Box::new(Misfit {
                model: "digits".parse().unwrap(),
                application: "app".parse().unwrap(),
                why: taken.answers(&sent).unwrap_err(),
                taken,
                sent,
            })
        };
        let (three, two) = (signature("p:FP32[3]"), signature("p:FP32[2]"));
        for (refusal, words) in [
            (
                Refusal::ModelTakesOther(misfit(three.clone(), two.clone())),
                "model `digits` cannot answer application `app`: the model gives p:FP32[3], the application expects \
                 p:FP32[2]; register the application with --like digits",
            ),
            (
                Refusal::ModelTakesOther(misfit(InputType::Floats.into(), InputType::Doubles.into())),
                "the model takes floats, the application sends doubles; link a model of the same input type",
            ),
            (
                Refusal::NewVersionTakesOther(misfit(three.clone(), two.clone())),
                "skysail app unlink app digits",
            ),
            (
                Refusal::VersionTakesOther("2".parse().unwrap(), misfit(Signature::undeclared(), two)),
                "wait for the version's first replica",
            ),
            (
                Refusal::NotLearned("digits:1".parse().unwrap()),
                "skysail model show digits:1",
            ),
            (Refusal::Undeclared("app".parse().unwrap()), "--like MODEL"),
        ] {
            let refused = AdminError::from(refusal);
            assert_eq!(refused.code, ErrorCode::Conflict);
            assert!(refused.detail.contains(words), "{}", refused.detail);
        }
    }
}
