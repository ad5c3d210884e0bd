//! What may be changed: each rule looks at a catalog, and gives the changes that lead to the next one.

use std::sync::Arc;

use jiff::Timestamp;
use skysail_core::catalog::{Application, Catalog, Change, Model, Rollout, Version};
use skysail_core::cluster::ClusterView;
use skysail_proto::admin::NewVersion;
use skysail_proto::deployment::Replicas;
use skysail_proto::error_code::ErrorCode;
use skysail_proto::ids::{ApplicationName, ModelId, ModelName, ModelVersion};

use super::{AdminError, conflict};

/// The changes that a request comes to, none if all is as it wishes; or why it is refused.
pub(super) type Checked = Result<Vec<Change>, AdminError>;

pub(super) fn link(catalog: &Catalog, name: &ApplicationName, model_name: &ModelName) -> Checked {
    let mut application = Application::clone(application(catalog, name)?);
    let model = model(catalog, model_name)
        .map_err(|missing| conflict(format!("{}: deploy or register it first", missing.detail)))?;
    if application.linked_models.contains(model_name) {
        return Ok(Vec::new());
    }
    if let Some(linked) = application.linked_models.first() {
        let advice = format!("unlink it first (`skysail app unlink {name} {linked}`)");
        return Err(conflict(format!(
            "application `{name}` is already linked to model `{linked}`: {advice}"
        )));
    }
    if let Some(current) = model
        .current()
        .filter(|found| found.spec.input_type != application.input_type)
    {
        return Err(conflict(format!(
            "model `{model_name}` takes {}, application `{name}` takes {}: link a model of the same input type",
            current.spec.input_type, application.input_type
        )));
    }
    application.linked_models.push(model_name.clone());
    Ok(vec![Change::PutApplication(application)])
}

pub(super) fn unlink(catalog: &Catalog, name: &ApplicationName, model_name: &ModelName) -> Checked {
    let mut application = Application::clone(application(catalog, name)?);
    if !application.linked_models.contains(model_name) {
        let detail = format!("model `{model_name}` is not linked to application `{name}`");
        return Err(AdminError::new(ErrorCode::NotFound, detail));
    }
    application.linked_models.retain(|linked| linked != model_name);
    Ok(vec![Change::PutApplication(application)])
}

/// A new version, which is to answer as soon as it is ready.
pub(super) fn register_version(
    catalog: &Catalog,
    name: &ModelName,
    new: &NewVersion,
    cluster: &ClusterView,
) -> Checked {
    let id = ModelId::new(name.clone(), new.version.clone());
    if catalog.version(&id).is_some() {
        let advice = format!(
            "deploy another version, scale this one (`skysail model scale {id} N`), or delete it first \
             (`skysail model delete {id}`)"
        );
        return Err(conflict(format!(
            "model `{name}` already has a version `{}`: {advice}",
            new.version
        )));
    }
    check_linked_types(catalog, name, new)?;
    let mut version = Version {
        spec: new.spec(),
        registered_at: Timestamp::now(),
    };
    if let Some(before) = catalog.models.get(name).and_then(|model| model.current()) {
        start_as_large(&mut version, before);
    }
    let mut model = match catalog.models.get(name) {
        Some(model) => Model::clone(model),
        None => Model {
            name: name.clone(),
            current_version: new.version.clone(),
            rollout: None,
            versions: [(new.version.clone(), version.clone())].into(),
        },
    };
    model.versions.insert(new.version.clone(), version);
    turn_to(&mut model, &new.version, new.replace, cluster);
    Ok(vec![Change::PutModel(model)])
}

/// A version whose replicas follow the load takes over the load of the one before: it starts with as many, within
/// its bounds, and not with the fewest.
fn start_as_large(version: &mut Version, before: &Version) {
    let Some(deployment) = &mut version.spec.deployment else {
        return;
    };
    if let (Some(bounds), Some(before)) = (deployment.autoscale, &before.spec.deployment) {
        deployment.replicas = before
            .replicas
            .max(deployment.replicas)
            .clamp(bounds.min, bounds.max);
    }
}

/// Another version, which is to answer as soon as it is ready.
pub(super) fn set_current_version(
    catalog: &Catalog,
    name: &ModelName,
    version: &ModelVersion,
    cluster: &ClusterView,
) -> Checked {
    let mut model = Model::clone(model(catalog, name)?);
    let chosen = version_of(&model, version)?;
    for application in catalog.applications_of(name) {
        if application.input_type != chosen.spec.input_type {
            return Err(conflict(format!(
                "version `{version}` takes {}, but application `{}`, which is linked to model `{name}`, takes {}",
                chosen.spec.input_type, application.name, application.input_type
            )));
        }
    }
    if model.current_version == *version {
        return Ok(Vec::new());
    }
    turn_to(&mut model, version, false, cluster);
    Ok(vec![Change::PutModel(model)])
}

/// Makes a version the current one, and begins the change of versions that leads there.
///
/// Whatever was under way ends here, with its wish to replace: a version that was to replace others and
/// never answered replaces nothing.
fn turn_to(model: &mut Model, version: &ModelVersion, replace: bool, cluster: &ClusterView) {
    let before = std::mem::replace(&mut model.current_version, version.clone());
    if before == *version {
        // It is the first of its model.
        return;
    }
    let answering = answering(model, before.clone(), cluster);
    // Back to what answers still: who already went on to the version in between stays there meanwhile.
    let from = if answering == *version { before } else { answering };
    let input_type = |version| Some(model.versions.get(version)?.spec.input_type);
    // A version that takes something else cannot stand in. No application is linked that would notice.
    let stands_in = input_type(&from) == input_type(version);
    model.rollout = stands_in.then_some(Rollout { from, replace });
}

/// The version that answers now: while a change to `current` is under way, the one it comes from, unless
/// no frontend answers with that any more.
fn answering(model: &Model, current: ModelVersion, cluster: &ClusterView) -> ModelVersion {
    let Some(rollout) = &model.rollout else {
        return current;
    };
    if cluster.all_answer_with(&model.name, &current) || !model.versions.contains_key(&rollout.from) {
        current
    } else {
        rollout.from.clone()
    }
}

pub(super) fn delete_version(catalog: &Catalog, id: &ModelId, cluster: &ClusterView) -> Checked {
    let mut model = Model::clone(model(catalog, &id.name)?);
    let version = version_of(&model, &id.version)?;
    if model.versions.len() == 1 {
        if let Some(application) = catalog.applications_of(&id.name).next() {
            let advice = format!(
                "unlink it first (`skysail app unlink {} {}`)",
                application.name, id.name
            );
            let linked = format!(
                "`{id}` is the last version of a model that application `{}` is linked to",
                application.name
            );
            return Err(conflict(format!("{linked}: {advice}")));
        }
        return Ok(vec![Change::DeleteModel(id.name.clone())]);
    }
    if model.current_version == id.version {
        let advice = format!(
            "choose another first (`skysail model set-version {}:VERSION`)",
            id.name
        );
        return Err(conflict(format!("`{id}` is the current version: {advice}")));
    }
    if still_answers(&model, version, id, cluster) {
        let current = model.current_id();
        return Err(conflict(format!(
            "`{id}` answers until `{current}` is ready (`skysail model show {}` tells what that waits for): wait, \
             or stop it first (`skysail model stop {id}`)",
            id.name
        )));
    }
    model.rollout.take_if(|rollout| rollout.from == id.version);
    model.versions.remove(&id.version);
    Ok(vec![Change::PutModel(model)])
}

/// Whether a version that is no longer current still answers, because the current one is not ready. One that
/// was stopped answers nothing for long.
fn still_answers(model: &Model, version: &Version, id: &ModelId, cluster: &ClusterView) -> bool {
    let stopped = version
        .spec
        .deployment
        .as_ref()
        .is_some_and(|deployment| deployment.replicas == 0);
    model.rollout.is_some()
        && !stopped
        && cluster.answering_with(&id.name, &id.version) > 0
        && cluster.attached(id) > 0
}

pub(super) fn scale(catalog: &Catalog, id: &ModelId, wanted: Replicas) -> Checked {
    let mut model = Model::clone(model(catalog, &id.name)?);
    version_of(&model, &id.version)?;
    let version = model
        .versions
        .get_mut(&id.version)
        .expect("looked up a line above; this is a bug");
    let Some(deployment) = &mut version.spec.deployment else {
        let detail = format!("`{id}` was registered without an image: start or stop its containers yourself");
        return Err(conflict(detail));
    };
    match wanted {
        Replicas::Fixed(count) => {
            deployment.replicas = count;
            deployment.autoscale = None;
        }
        Replicas::Auto(bounds) => {
            deployment.replicas = deployment.replicas.clamp(bounds.min, bounds.max);
            deployment.autoscale = Some(bounds);
        }
    }
    Ok(vec![Change::PutModel(model)])
}

/// A version that becomes current must take what the linked applications send.
fn check_linked_types(catalog: &Catalog, name: &ModelName, new: &NewVersion) -> Result<(), AdminError> {
    let differs = |found: &&Arc<Application>| found.input_type != new.input_type;
    match catalog.applications_of(name).find(differs) {
        None => Ok(()),
        Some(application) => Err(conflict(format!(
            "model `{name}` is linked to application `{}`, which takes {}; the new version takes {}",
            application.name, application.input_type, new.input_type
        ))),
    }
}

pub(super) fn application<'a>(
    catalog: &'a Catalog,
    name: &ApplicationName,
) -> Result<&'a Arc<Application>, AdminError> {
    catalog.applications.get(name).ok_or_else(|| {
        let known = listed(
            "applications",
            catalog.applications.keys().map(ApplicationName::as_str),
        );
        AdminError::new(
            ErrorCode::NotFound,
            format!("no application `{name}` is registered ({known})"),
        )
    })
}

pub(super) fn model<'a>(catalog: &'a Catalog, name: &ModelName) -> Result<&'a Arc<Model>, AdminError> {
    catalog.models.get(name).ok_or_else(|| {
        let known = listed("models", catalog.models.keys().map(ModelName::as_str));
        AdminError::new(
            ErrorCode::NotFound,
            format!("no model `{name}` is registered ({known})"),
        )
    })
}

pub(super) fn version_of<'a>(model: &'a Model, version: &ModelVersion) -> Result<&'a Version, AdminError> {
    model.versions.get(version).ok_or_else(|| {
        let known = listed("versions", model.versions.keys().map(ModelVersion::as_str));
        AdminError::new(
            ErrorCode::NotFound,
            format!("model `{}` has no version `{version}` ({known})", model.name),
        )
    })
}

/// Some of the names there are, for a person who mistyped one.
fn listed<'a>(what: &str, names: impl ExactSizeIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 10;
    let count = names.len();
    if count == 0 {
        return format!("there are no {what}");
    }
    let shown = names.take(SHOWN).collect::<Vec<_>>().join(", ");
    if count > SHOWN {
        format!("{what}: {shown}, and {} more", count - SHOWN)
    } else {
        format!("{what}: {shown}")
    }
}

#[cfg(test)]
mod tests {
    use skysail_core::catalog::Generation;
    use skysail_core::cluster::FrontendView;
    use skysail_proto::deployment::{Autoscale, Deployment};
    use skysail_proto::value::InputType;

    use super::super::view::tests::{frontend, replica};
    use super::*;

    fn new_version(version: &str, replace: bool) -> NewVersion {
        let mut new = NewVersion::new(version.parse().unwrap(), InputType::Floats);
        new.replace = replace;
        new.deployment = Some(Deployment {
            image: "i".into(),
            image_id: None,
            artifacts: Vec::new(),
            replicas: 1,
            autoscale: None,
            cpus: None,
            gpus: None,
            memory_bytes: None,
            env: [].into(),
            warm_up: None,
        });
        new
    }

    fn name() -> ModelName {
        "m".parse().unwrap()
    }

    /// A catalog, and what each of its frontends answers with.
    #[derive(Default)]
    struct World {
        catalog: Catalog,
        views: Vec<FrontendView>,
    }

    impl World {
        /// Version 1 alone, and two frontends that answer with it.
        fn with_version_1() -> Self {
            let mut world = Self::default();
            world.deploy("1", false);
            world.answering(&["1", "1"]);
            world
        }

        fn answering(&mut self, versions: &[&str]) {
            let views = versions.iter().enumerate();
            let views = views.map(|(index, version)| {
                let seen = vec![replica(&format!("m_{version}_0"))];
                frontend(&index.to_string(), version, seen)
            });
            self.views = views.collect();
        }

        fn observed(&self) -> ClusterView {
            ClusterView::of(self.views.clone())
        }

        fn take(&mut self, checked: Checked) {
            self.catalog = self.catalog.with(&checked.unwrap(), Generation::default());
        }

        fn deploy(&mut self, version: &str, replace: bool) {
            let new = new_version(version, replace);
            self.take(register_version(&self.catalog, &name(), &new, &self.observed()));
        }

        fn set_version(&mut self, version: &str) {
            let version = version.parse().unwrap();
            self.take(set_current_version(
                &self.catalog,
                &name(),
                &version,
                &self.observed(),
            ));
        }

        fn delete(&self, id: &str) -> Checked {
            delete_version(&self.catalog, &id.parse().unwrap(), &self.observed())
        }

        /// The current version, and where it comes from.
        fn turn(&self) -> (String, Option<(String, bool)>) {
            let model = &self.catalog.models[&name()];
            let from = model.rollout.as_ref();
            let from = from.map(|rollout| (rollout.from.to_string(), rollout.replace));
            (model.current_version.to_string(), from)
        }
    }

    fn turn(current: &str, from: &str, replace: bool) -> (String, Option<(String, bool)>) {
        (current.to_owned(), Some((from.to_owned(), replace)))
    }

    #[test]
    fn the_first_version_comes_from_nowhere_and_the_second_from_the_first() {
        let mut world = World::default();
        world.deploy("1", true);
        assert_eq!(world.turn(), ("1".to_owned(), None));
        world.answering(&["1"]);
        world.deploy("2", true);
        assert_eq!(world.turn(), turn("2", "1", true));
    }

    #[test]
    fn a_version_that_was_never_ready_is_not_what_the_next_comes_from() {
        let mut world = World::with_version_1();
        world.deploy("2", true);
        world.deploy("3", false);
        assert_eq!(world.turn(), turn("3", "1", false));
        // One frontend has gone on: another, which starts now, begins with what the others had.
        world.deploy("4", false);
        world.answering(&["1", "4"]);
        world.deploy("5", false);
        assert_eq!(world.turn(), turn("5", "1", false));
        world.answering(&["5", "5"]);
        world.deploy("6", false);
        assert_eq!(world.turn(), turn("6", "5", false));
    }

    #[test]
    fn back_to_what_answers_is_a_change_as_well_for_those_who_had_gone_on() {
        let mut world = World::with_version_1();
        world.deploy("2", false);
        world.answering(&["1", "2"]);
        world.set_version("1");
        assert_eq!(world.turn(), turn("1", "2", false));
    }

    #[test]
    fn the_current_version_chosen_again_changes_nothing() {
        let mut world = World::with_version_1();
        world.deploy("2", true);
        world.set_version("2");
        assert_eq!(world.turn(), turn("2", "1", true));
    }

    #[test]
    fn without_a_frontend_to_ask_the_change_under_way_is_taken_for_unfinished() {
        let mut world = World::with_version_1();
        world.deploy("2", false);
        world.views.clear();
        world.deploy("3", false);
        assert_eq!(world.turn(), turn("3", "1", false));
    }

    #[test]
    fn a_version_that_takes_something_else_does_not_stand_in() {
        let mut world = World::with_version_1();
        let mut other = new_version("2", false);
        other.input_type = InputType::Strings;
        world.take(register_version(
            &world.catalog,
            &name(),
            &other,
            &world.observed(),
        ));
        assert_eq!(world.turn(), ("2".to_owned(), None));
    }

    #[test]
    fn what_still_answers_is_not_deleted_unless_it_was_stopped() {
        let mut world = World::with_version_1();
        world.deploy("2", false);
        let refused = world.delete("m:1").unwrap_err();
        assert_eq!(refused.code, ErrorCode::Conflict);
        for part in ["`m:1` answers until `m:2` is ready", "skysail model stop m:1"] {
            assert!(refused.detail.contains(part), "{}", refused.detail);
        }
        let id = "m:1".parse().unwrap();
        world.take(scale(&world.catalog, &id, Replicas::Fixed(0)));
        world.take(world.delete("m:1"));
        assert_eq!(world.turn(), ("2".to_owned(), None));

        let mut world = World::with_version_1();
        world.deploy("2", false);
        world.answering(&["2", "2"]);
        world.take(world.delete("m:1"));
        assert_eq!(world.turn(), ("2".to_owned(), None));
    }

    #[test]
    fn bounds_move_the_number_of_replicas_into_them_and_a_number_ends_them() {
        let mut world = World::with_version_1();
        let id = "m:1".parse().unwrap();
        let bounds = Autoscale { min: 2, max: 4 };
        for (wanted, expected) in [
            (Replicas::Auto(bounds), (2, Some(bounds))),
            (Replicas::Fixed(5), (5, None)),
            (Replicas::Auto(bounds), (4, Some(bounds))),
            (Replicas::Fixed(0), (0, None)),
        ] {
            world.take(scale(&world.catalog, &id, wanted));
            let version = world.catalog.version(&id).unwrap();
            let deployment = version.spec.deployment.as_ref().unwrap();
            assert_eq!((deployment.replicas, deployment.autoscale), expected);
        }
    }

    #[test]
    fn a_version_that_follows_the_load_starts_with_as_many_replicas_as_the_one_before() {
        let mut world = World::with_version_1();
        world.take(scale(&world.catalog, &"m:1".parse().unwrap(), Replicas::Fixed(6)));
        let mut new = new_version("2", false);
        if let Some(deployment) = &mut new.deployment {
            deployment.autoscale = Some(Autoscale { min: 1, max: 4 });
        }
        world.take(register_version(&world.catalog, &name(), &new, &world.observed()));
        let version = world.catalog.version(&"m:2".parse().unwrap()).unwrap();
        assert_eq!(version.spec.deployment.as_ref().unwrap().replicas, 4);
    }
}
