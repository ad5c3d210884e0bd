//! The resolved meaning of a version's names, written beside them. A tag can be moved and a file replaced, but
//! the replicas of one version must be the same.

use jiff::Timestamp;
use skysail_proto::deployment::Artifact;
use skysail_proto::ids::ModelId;

use crate::catalog::{Catalog, Change, Model};

/// The meaning of a deployment's names, as the runtime found it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Resolution {
    /// The id of the image.
    pub image_id: Option<String>,
    /// All files of the version.
    pub artifacts: Vec<Artifact>,
}

/// The change that writes the resolution of the version that was registered at that time. `None` if that
/// version is gone, or has been resolved meanwhile: the first resolution stands.
pub fn resolved(
    catalog: &Catalog,
    id: &ModelId,
    registered_at: Timestamp,
    resolution: &Resolution,
) -> Option<Change> {
    let mut model = Model::clone(catalog.models.get(&id.name)?);
    let version = model.versions.get_mut(&id.version)?;
    let deployment = version.spec.deployment.as_mut()?;
    if version.registered_at != registered_at || deployment.is_resolved() {
        return None;
    }
    deployment.image_id.clone_from(&resolution.image_id);
    deployment.artifacts.clone_from(&resolution.artifacts);
    Some(Change::put(model))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Generation;

    fn catalog() -> Catalog {
        let model = r#"{"name": "m", "current_version": "1", "versions": {"1": {"input_type": "doubles",
            "registered_at": "1970-01-01T00:00:00Z", "deployment": {"image": "i", "replicas": 2}}}}"#;
        let put = Change::put(serde_json::from_str::<Model>(model).unwrap());
        Catalog::default().with(&[put], Generation::default())
    }

    fn image(id: &str) -> Resolution {
        Resolution {
            image_id: Some(id.into()),
            ..Resolution::default()
        }
    }

    #[test]
    fn the_first_word_on_what_a_name_means_stands() {
        let id: ModelId = "m:1".parse().unwrap();
        let at = Timestamp::UNIX_EPOCH;
        let first = resolved(&catalog(), &id, at, &image("sha256:1")).unwrap();
        let catalog = catalog().with(&[first], Generation::default());
        let deployment = catalog.version(&id).unwrap().spec.deployment.as_ref().unwrap();
        assert_eq!(deployment.image_id.as_deref(), Some("sha256:1"));
        assert_eq!((deployment.image.as_str(), deployment.replicas), ("i", 2));
        assert_eq!(resolved(&catalog, &id, at, &image("sha256:2")), None);
    }

    #[test]
    fn what_was_found_for_a_version_that_was_deleted_is_not_written_to_one_of_its_name() {
        let id: ModelId = "m:1".parse().unwrap();
        let before = "1969-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(resolved(&catalog(), &id, before, &image("sha256:1")), None);
        let other = "m:2".parse().unwrap();
        assert_eq!(
            resolved(&catalog(), &other, Timestamp::UNIX_EPOCH, &image("sha256:1")),
            None
        );
    }
}
