//! What a request may change, given the catalog: each rule gives the changes that lead to the next one, or a
//! [`Refusal`]. What a request may ask for whatever the catalog holds is in [`crate::limits`].

use std::num::NonZeroU32;
use std::sync::Arc;

use jiff::Timestamp;
use skysail_proto::admin::{NewApplication, NewVersion, default_weight};
use skysail_proto::deployment::Replicas;
use skysail_proto::ids::{ApplicationName, ModelId, ModelName, ModelVersion};
use skysail_proto::value::InputType;

use crate::catalog::{Application, Catalog, Change, Model, Rollout, Version};
use crate::cluster::ClusterView;

/// The changes that a request comes to, none if all is as it wishes; or why it is refused.
pub type Checked = Result<Vec<Change>, Refusal>;

/// Why a request is refused.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// No application of this name is registered.
    NoApplication(ApplicationName, Known),
    /// No model of this name is registered.
    NoModel(ModelName, Known),
    /// The model has no such version.
    NoVersion(ModelId, Known),
    /// What an application is to be linked to is not there.
    ToLink(Box<Refusal>),
    /// An application of this name is registered.
    ApplicationExists(ApplicationName),
    /// The application is linked to another model.
    LinkedAlready {
        /// It.
        application: ApplicationName,
        /// The model that it is linked to.
        model: ModelName,
    },
    /// The application is not linked to the model.
    NotLinked {
        /// The application.
        application: ApplicationName,
        /// The model.
        model: ModelName,
    },
    /// The model that is to be linked takes another type of input than the application.
    ModelTakesOther(Types),
    /// The version that is to be registered takes another type of input than a linked application.
    NewVersionTakesOther(Types),
    /// The version that is to become current takes another type of input than a linked application.
    VersionTakesOther(ModelVersion, Types),
    /// The version is registered.
    VersionExists(ModelId),
    /// The version is the last one of a model that is linked.
    LastLinked {
        /// It.
        version: ModelId,
        /// An application that is linked to its model.
        application: ApplicationName,
    },
    /// The version is the current one of its model.
    IsCurrent(ModelId),
    /// The version answers until the current one is ready.
    StillAnswers {
        /// It.
        version: ModelId,
        /// The current version.
        current: ModelId,
    },
    /// The version was registered without an image, so nobody starts containers of it but a person.
    WithoutImage(ModelId),
}

/// Two types of input that differ.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Types {
    /// The model.
    pub model: ModelName,
    /// What it takes.
    pub taken: InputType,
    /// The application.
    pub application: ApplicationName,
    /// What it takes, and sends to the model.
    pub sent: InputType,
}

/// Some of the names there are, for a person who mistyped one.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Known {
    /// The first names.
    pub first: Vec<String>,
    /// How many there are in all.
    pub count: usize,
}

impl Known {
    /// How many names are shown.
    const SHOWN: usize = 10;

    fn of<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> Self {
        Self {
            count: names.len(),
            first: names.take(Self::SHOWN).map(str::to_owned).collect(),
        }
    }
}

/// Numbers of an application that were checked, see [`crate::limits`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Objectives {
    /// Its latency objective, in microseconds.
    pub slo_micros: Option<u64>,
    /// Its share of its model's capacity.
    pub weight: Option<NonZeroU32>,
}

/// A new application, registered `now`, that is linked to nothing yet.
pub fn register_application(
    catalog: &Catalog,
    new: &NewApplication,
    slo_micros: u64,
    weight: Option<NonZeroU32>,
    now: Timestamp,
) -> Checked {
    if catalog.applications.contains_key(&new.name) {
        return Err(Refusal::ApplicationExists(new.name.clone()));
    }
    Ok(vec![Change::put(Application {
        name: new.name.clone(),
        input_type: new.input_type,
        default_output: new.default_output.clone(),
        slo_micros,
        weight: weight.unwrap_or(default_weight()),
        linked_models: Vec::new(),
        registered_at: now,
    })])
}

/// Other objectives or another default output for an application. What is not given stays.
pub fn update_application(
    catalog: &Catalog,
    name: &ApplicationName,
    objectives: Objectives,
    default_output: Option<&str>,
) -> Checked {
    let mut application = Application::clone(application(catalog, name)?);
    application.slo_micros = objectives.slo_micros.unwrap_or(application.slo_micros);
    application.weight = objectives.weight.unwrap_or(application.weight);
    if let Some(default_output) = default_output {
        default_output.clone_into(&mut application.default_output);
    }
    Ok(vec![Change::put(application)])
}

/// No application of this name any more.
pub fn delete_application(catalog: &Catalog, name: &ApplicationName) -> Checked {
    application(catalog, name)?;
    Ok(vec![Change::delete(name)])
}

/// Links a model to an application. If it is linked, nothing changes.
pub fn link(catalog: &Catalog, name: &ApplicationName, model_name: &ModelName) -> Checked {
    let mut application = Application::clone(application(catalog, name)?);
    let model = model(catalog, model_name).map_err(|missing| Refusal::ToLink(Box::new(missing)))?;
    if application.linked_models.contains(model_name) {
        return Ok(Vec::new());
    }
    if let Some(linked) = application.linked_models.first() {
        return Err(Refusal::LinkedAlready {
            application: name.clone(),
            model: linked.clone(),
        });
    }
    if let Some(current) = model
        .current()
        .filter(|found| found.spec.input_type != application.input_type)
    {
        return Err(Refusal::ModelTakesOther(Types {
            model: model_name.clone(),
            taken: current.spec.input_type,
            application: name.clone(),
            sent: application.input_type,
        }));
    }
    application.linked_models.push(model_name.clone());
    Ok(vec![Change::put(application)])
}

/// Unlinks a model from an application.
pub fn unlink(catalog: &Catalog, name: &ApplicationName, model_name: &ModelName) -> Checked {
    let mut application = Application::clone(application(catalog, name)?);
    if !application.linked_models.contains(model_name) {
        return Err(Refusal::NotLinked {
            application: name.clone(),
            model: model_name.clone(),
        });
    }
    application.linked_models.retain(|linked| linked != model_name);
    Ok(vec![Change::put(application)])
}

/// A new version, registered `now`, which is to answer as soon as it is ready.
pub fn register_version(
    catalog: &Catalog,
    name: &ModelName,
    new: &NewVersion,
    cluster: &ClusterView,
    now: Timestamp,
) -> Checked {
    let id = ModelId::new(name.clone(), new.version.clone());
    if catalog.version(&id).is_some() {
        return Err(Refusal::VersionExists(id));
    }
    check_linked_types(catalog, name, new)?;
    let mut version = Version {
        spec: new.spec(),
        registered_at: now,
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
    Ok(vec![Change::put(model)])
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
pub fn set_current_version(
    catalog: &Catalog,
    name: &ModelName,
    version: &ModelVersion,
    cluster: &ClusterView,
) -> Checked {
    let mut model = Model::clone(model(catalog, name)?);
    let chosen = version_of(&model, version)?;
    for application in catalog.applications_of(name) {
        if application.input_type != chosen.spec.input_type {
            let types = Types {
                model: name.clone(),
                taken: chosen.spec.input_type,
                application: application.name.clone(),
                sent: application.input_type,
            };
            return Err(Refusal::VersionTakesOther(version.clone(), types));
        }
    }
    if model.current_version == *version {
        return Ok(Vec::new());
    }
    turn_to(&mut model, version, false, cluster);
    Ok(vec![Change::put(model)])
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

/// No such version any more and, with the last one, no such model.
pub fn delete_version(catalog: &Catalog, id: &ModelId, cluster: &ClusterView) -> Checked {
    let mut model = Model::clone(model(catalog, &id.name)?);
    let version = version_of(&model, &id.version)?;
    if model.versions.len() == 1 {
        if let Some(application) = catalog.applications_of(&id.name).next() {
            return Err(Refusal::LastLinked {
                version: id.clone(),
                application: application.name.clone(),
            });
        }
        return Ok(vec![Change::delete(&id.name)]);
    }
    if model.current_version == id.version {
        return Err(Refusal::IsCurrent(id.clone()));
    }
    if still_answers(&model, version, id, cluster) {
        return Err(Refusal::StillAnswers {
            version: id.clone(),
            current: model.current_id(),
        });
    }
    model.rollout.take_if(|rollout| rollout.from == id.version);
    model.versions.remove(&id.version);
    Ok(vec![Change::put(model)])
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

/// Another number of replicas of a version, or other bounds.
pub fn scale(catalog: &Catalog, id: &ModelId, wanted: Replicas) -> Checked {
    let mut model = Model::clone(model(catalog, &id.name)?);
    version_of(&model, &id.version)?;
    let version = model
        .versions
        .get_mut(&id.version)
        .expect("looked up a line above; this is a bug");
    let Some(deployment) = &mut version.spec.deployment else {
        return Err(Refusal::WithoutImage(id.clone()));
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
    Ok(vec![Change::put(model)])
}

/// A version that becomes current must take what the linked applications send.
fn check_linked_types(catalog: &Catalog, name: &ModelName, new: &NewVersion) -> Result<(), Refusal> {
    let differs = |found: &&Arc<Application>| found.input_type != new.input_type;
    match catalog.applications_of(name).find(differs) {
        None => Ok(()),
        Some(application) => Err(Refusal::NewVersionTakesOther(Types {
            model: name.clone(),
            taken: new.input_type,
            application: application.name.clone(),
            sent: application.input_type,
        })),
    }
}

/// An application that is registered.
pub fn application<'a>(
    catalog: &'a Catalog,
    name: &ApplicationName,
) -> Result<&'a Arc<Application>, Refusal> {
    catalog.applications.get(name).ok_or_else(|| {
        let known = catalog.applications.keys().map(ApplicationName::as_str);
        Refusal::NoApplication(name.clone(), Known::of(known))
    })
}

/// A model that is registered.
pub fn model<'a>(catalog: &'a Catalog, name: &ModelName) -> Result<&'a Arc<Model>, Refusal> {
    catalog.models.get(name).ok_or_else(|| {
        let known = catalog.models.keys().map(ModelName::as_str);
        Refusal::NoModel(name.clone(), Known::of(known))
    })
}

/// A version that a model has.
pub fn version_of<'a>(model: &'a Model, version: &ModelVersion) -> Result<&'a Version, Refusal> {
    model.versions.get(version).ok_or_else(|| {
        let known = model.versions.keys().map(ModelVersion::as_str);
        let id = ModelId::new(model.name.clone(), version.clone());
        Refusal::NoVersion(id, Known::of(known))
    })
}

#[cfg(test)]
mod tests {
    use skysail_proto::deployment::{Autoscale, Deployment};
    use skysail_proto::value::InputType;

    use super::*;
    use crate::catalog::Generation;
    use crate::cluster::FrontendView;
    use crate::cluster::testing::{frontend, replica};

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
            self.take(register_version(
                &self.catalog,
                &name(),
                &new,
                &self.observed(),
                Timestamp::UNIX_EPOCH,
            ));
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
            Timestamp::UNIX_EPOCH,
        ));
        assert_eq!(world.turn(), ("2".to_owned(), None));
    }

    #[test]
    fn what_still_answers_is_not_deleted_unless_it_was_stopped() {
        let mut world = World::with_version_1();
        world.deploy("2", false);
        let still_answers = Refusal::StillAnswers {
            version: "m:1".parse().unwrap(),
            current: "m:2".parse().unwrap(),
        };
        assert_eq!(world.delete("m:1"), Err(still_answers));
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
        world.take(register_version(
            &world.catalog,
            &name(),
            &new,
            &world.observed(),
            Timestamp::UNIX_EPOCH,
        ));
        let version = world.catalog.version(&"m:2".parse().unwrap()).unwrap();
        assert_eq!(version.spec.deployment.as_ref().unwrap().replicas, 4);
    }
}
