//! What is refused, in words, and what to do: `core` decides, here it is told.

use skysail_core::limits::{LEAST_CPUS, MAX_ARTIFACTS, MAX_REPLICAS, MAX_WEIGHT, OutOfLimits};
use skysail_core::rules::{Known, Refusal, Types};
use skysail_proto::deployment::MAX_WARM_UP_BYTES;
use skysail_proto::error_code::ErrorCode;

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
        Refusal::ModelTakesOther(types) => {
            let Types {
                model,
                taken,
                application,
                sent,
            } = types;
            format!(
                "model `{model}` takes {taken}, application `{application}` takes {sent}: link a model of the same \
                 input type"
            )
        }
        Refusal::NewVersionTakesOther(types) => {
            let Types {
                model,
                taken,
                application,
                sent,
            } = types;
            format!(
                "model `{model}` is linked to application `{application}`, which takes {sent}; the new version takes \
                 {taken}"
            )
        }
        Refusal::VersionTakesOther(version, types) => {
            let Types {
                model,
                taken,
                application,
                sent,
            } = types;
            format!(
                "version `{version}` takes {taken}, but application `{application}`, which is linked to model \
                 `{model}`, takes {sent}"
            )
        }
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
        OutOfLimits::WarmUp(why) => format!("warm_up is no input of this version: {why}"),
        OutOfLimits::WarmUpTooLarge(bytes) => format!(
            "warm_up has {bytes} bytes as JSON, more than the {MAX_WARM_UP_BYTES} that a container's environment has \
             room for: choose a smaller input, or let the model offer its own"
        ),
    }
}

#[cfg(test)]
mod tests {
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
}
