//! What a request may change, given the catalog: each rule gives the changes that lead to the next one, or a
//! [`Refusal`]. What a request may ask for whatever the catalog holds is in [`crate::limits`].

use std::num::NonZeroU32;
use std::sync::Arc;

use jiff::Timestamp;
use skysail_proto::admin::{NewApplication, NewSignature, NewVersion, default_weight};
use skysail_proto::deployment::Replicas;
use skysail_proto::ids::{ApplicationName, ModelId, ModelName, ModelVersion};
use skysail_proto::signature::{Mismatch, Signature};

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
    /// An application is to be registered with tensors, and which ones is not said.
    Undeclared(ApplicationName),
    /// What an application's signature is to be copied from is not there.
    ToCopy(Box<Refusal>),
    /// An application is to have the signature of this version, which is not declared.
    NothingToCopy(ModelId),
    /// The model that is to be linked does not answer the application.
    ModelTakesOther(Box<Misfit>),
    /// The model that is to be linked would answer the application, but the version that still answers would not.
    StillTakesOther(ModelVersion, Box<Misfit>),
    /// An application is to be linked to this version, which is not declared.
    NotLearned(ModelId),
    /// The version that is to be registered does not answer a linked application.
    NewVersionTakesOther(Box<Misfit>),
    /// The version that is to become current does not answer a linked application.
    VersionTakesOther(ModelVersion, Box<Misfit>),
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

/// A model and an application that do not fit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Misfit {
    /// The model.
    pub model: ModelName,
    /// What it takes and gives.
    pub taken: Signature,
    /// The application.
    pub application: ApplicationName,
    /// What it sends and expects.
    pub sent: Signature,
    /// The first difference.
    pub why: Mismatch,
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
        signature: signature_of(catalog, new)?,
        default_output: new.default_output.clone(),
        slo_micros,
        weight: weight.unwrap_or(default_weight()),
        linked_models: Vec::new(),
        registered_at: now,
    })])
}

/// The signature that a new application is given, or that of its model.
fn signature_of(catalog: &Catalog, new: &NewApplication) -> Result<Signature, Refusal> {
    let name = match &new.signature {
        NewSignature::Given(given) if given.is_declared() => return Ok(given.clone()),
        NewSignature::Given(_) => return Err(Refusal::Undeclared(new.name.clone())),
        NewSignature::Like(name) => name,
    };
    let model = model(catalog, name).map_err(|missing| Refusal::ToCopy(Box::new(missing)))?;
    let current = model
        .current()
        .filter(|current| current.spec.signature.is_declared());
    let current = current.ok_or_else(|| Refusal::NothingToCopy(model.current_id()))?;
    Ok(current.spec.signature.clone())
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
    check_to_link(&application, model)?;
    application.linked_models.push(model_name.clone());
    Ok(vec![Change::put(application)])
}

/// The current version must answer the application, and so must the one that answers until the current one is ready.
fn check_to_link(application: &Application, model: &Model) -> Result<(), Refusal> {
    let Some(current) = model.current() else {
        return Ok(());
    };
    let taken = &current.spec.signature;
    let is_of_tensors = application.signature.row_type().is_none();
    if is_of_tensors && !taken.is_declared() {
        return Err(Refusal::NotLearned(model.current_id()));
    }
    check_fit(&model.name, taken, application).map_err(Refusal::ModelTakesOther)?;
    let from = model.rollout.as_ref().map(|rollout| &rollout.from);
    let Some((from, answers)) = from.and_then(|from| model.versions.get_key_value(from)) else {
        return Ok(());
    };
    check_fit(&model.name, &answers.spec.signature, application)
        .map_err(|misfit| Refusal::StillTakesOther(from.clone(), misfit))
}

/// Whether a model of this signature answers the application.
fn check_fit(model: &ModelName, taken: &Signature, application: &Application) -> Result<(), Box<Misfit>> {
    taken.answers(&application.signature).map_err(|why| {
        Box::new(Misfit {
            model: model.clone(),
            taken: taken.clone(),
            application: application.name.clone(),
            sent: application.signature.clone(),
            why,
        })
    })
}

/// Whether a version of this signature answers all applications of its model.
pub(crate) fn answers_linked(
    catalog: &Catalog,
    name: &ModelName,
    taken: &Signature,
) -> Result<(), Box<Misfit>> {
    let mut linked = catalog.applications_of(name);
    linked.try_for_each(|application| check_fit(name, taken, application))
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
    check_linked(catalog, name, &new.signature)?;
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
    let turn = Turn {
        replace: new.replace,
        is_linked: is_linked(catalog, name),
    };
    turn_to(&mut model, &new.version, turn, cluster);
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
    if model.current_version == *version {
        return Ok(Vec::new());
    }
    answers_linked(catalog, name, &chosen.spec.signature)
        .map_err(|misfit| Refusal::VersionTakesOther(version.clone(), misfit))?;
    let turn = Turn {
        replace: false,
        is_linked: is_linked(catalog, name),
    };
    turn_to(&mut model, version, turn, cluster);
    Ok(vec![Change::put(model)])
}

/// How a version becomes the current one.
#[derive(Clone, Copy)]
struct Turn {
    /// Whether the other versions are stopped at the end.
    replace: bool,
    /// Whether an application is linked to the model.
    is_linked: bool,
}

fn is_linked(catalog: &Catalog, name: &ModelName) -> bool {
    catalog.applications_of(name).next().is_some()
}

/// Makes a version the current one, and begins the change of versions that leads there.
///
/// Whatever was under way ends here, with its wish to replace: a version that was to replace others and
/// never answered replaces nothing.
fn turn_to(model: &mut Model, version: &ModelVersion, turn: Turn, cluster: &ClusterView) {
    let before = std::mem::replace(&mut model.current_version, version.clone());
    if before == *version {
        // It is the first of its model.
        return;
    }
    let answering = answering(model, before.clone(), cluster);
    // Back to what answers still: who already went on to the version in between stays there meanwhile.
    let from = if answering == *version { before } else { answering };
    let signature = |version| Some(&model.versions.get(version)?.spec.signature);
    // Both versions answer the linked applications, so the one before stands in. If no application is linked, a
    // version that takes something else does not: one that is linked meanwhile would be asked of it.
    let stands_in = turn.is_linked || signature(&from) == signature(version);
    let replace = turn.replace;
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

/// A version that becomes current must answer the linked applications. If it takes tensors and does not say which, its
/// replicas are held to that when they register.
fn check_linked(catalog: &Catalog, name: &ModelName, taken: &Signature) -> Result<(), Refusal> {
    let mut linked = catalog.applications_of(name);
    let checked = linked.try_for_each(|application| {
        let is_open = !taken.is_declared() && application.signature.row_type().is_none();
        if is_open {
            Ok(())
        } else {
            check_fit(name, taken, application)
        }
    });
    checked.map_err(Refusal::NewVersionTakesOther)
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
    use skysail_proto::signature::TensorSpec;
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
            onnx: None,
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
        other.signature = InputType::Strings.into();
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

    fn tensors(input: &str, output: &str) -> Signature {
        let parse = |text: &str| text.parse::<TensorSpec>().unwrap();
        Signature::tensors([parse(input)], [parse(output)]).unwrap()
    }

    fn new_application(name: &str, signature: impl Into<NewSignature>) -> NewApplication {
        NewApplication {
            name: name.parse().unwrap(),
            signature: signature.into(),
            default_output: String::new(),
            slo_micros: 1,
            weight: None,
        }
    }

    impl World {
        fn register(&mut self, name: &str, signature: impl Into<NewSignature>) -> Result<(), Refusal> {
            let new = new_application(name, signature);
            let changes = register_application(&self.catalog, &new, 1, None, Timestamp::UNIX_EPOCH)?;
            self.take(Ok(changes));
            Ok(())
        }

        fn try_deploy(&mut self, version: &str, signature: Signature) -> Result<(), Refusal> {
            let mut new = new_version(version, false);
            new.signature = signature;
            let (cluster, at) = (self.observed(), Timestamp::UNIX_EPOCH);
            let changes = register_version(&self.catalog, &name(), &new, &cluster, at)?;
            self.take(Ok(changes));
            Ok(())
        }

        fn link(&mut self, application: &str) -> Result<(), Refusal> {
            let changes = link(&self.catalog, &application.parse().unwrap(), &name())?;
            self.take(Ok(changes));
            Ok(())
        }

        fn learn(&mut self, version: &str, signature: Signature) {
            let mut model = Model::clone(&self.catalog.models[&name()]);
            model.versions.get_mut(version).unwrap().spec.signature = signature;
            self.take(Ok(vec![Change::put(model)]));
        }
    }

    #[test]
    fn a_model_that_answers_something_else_is_not_linked() {
        let mut world = World::default();
        world.try_deploy("1", tensors("x:FP32[-1]", "p:FP32[3]")).unwrap();
        for (application, signature, words) in [
            (
                "two",
                tensors("x:FP32[4]", "p:FP32[2]"),
                "the model gives p:FP32[3], the application expects p:FP32[2]",
            ),
            (
                "row",
                InputType::Doubles.into(),
                "the model takes tensors, the application sends doubles",
            ),
        ] {
            world.register(application, signature).unwrap();
            match world.link(application) {
                Err(Refusal::ModelTakesOther(misfit)) => assert_eq!(misfit.why.to_string(), words),
                other => panic!("{other:?}"),
            }
        }
        world
            .register("three", tensors("x:FP32[4]", "p:FP32[-1]"))
            .unwrap();
        world.link("three").unwrap();
    }

    #[test]
    fn an_application_is_like_a_model_that_has_a_signature() {
        let mut world = World::default();
        let missing = world.register("app", NewSignature::Like(name())).unwrap_err();
        assert!(matches!(missing, Refusal::ToCopy(_)));
        world.try_deploy("1", Signature::undeclared()).unwrap();
        let nothing = world.register("app", NewSignature::Like(name())).unwrap_err();
        assert_eq!(nothing, Refusal::NothingToCopy("m:1".parse().unwrap()));
        let undeclared = world.register("app", Signature::undeclared()).unwrap_err();
        assert_eq!(undeclared, Refusal::Undeclared("app".parse().unwrap()));

        let signature = tensors("x:FP32[4]", "p:FP32[3]");
        world.learn("1", signature.clone());
        world.register("app", NewSignature::Like(name())).unwrap();
        assert_eq!(world.catalog.applications["app"].signature, signature);
    }

    #[test]
    fn a_version_without_a_signature_is_linked_once_it_has_one() {
        let mut world = World::default();
        let signature = tensors("x:FP32[4]", "p:FP32[3]");
        world.register("app", signature.clone()).unwrap();
        world.try_deploy("1", Signature::undeclared()).unwrap();
        let refused = world.link("app").unwrap_err();
        assert_eq!(refused, Refusal::NotLearned("m:1".parse().unwrap()));
        world.learn("1", signature);
        world.link("app").unwrap();
    }

    #[test]
    fn a_further_version_of_a_linked_model_answers_the_linked_applications() {
        let mut world = World::default();
        let signature = tensors("x:FP32[4]", "p:FP32[3]");
        world.register("app", signature.clone()).unwrap();
        world.try_deploy("1", signature).unwrap();
        world.link("app").unwrap();
        let refused = world
            .try_deploy("2", tensors("x:FP32[5]", "p:FP32[3]"))
            .unwrap_err();
        assert!(matches!(refused, Refusal::NewVersionTakesOther(_)));
        let refused = world.try_deploy("2", InputType::Doubles.into()).unwrap_err();
        assert!(matches!(refused, Refusal::NewVersionTakesOther(_)));

        // More general is no other signature to the application: the version before stands in.
        world.try_deploy("2", tensors("x:FP32[-1]", "p:FP32[3]")).unwrap();
        assert_eq!(world.turn(), turn("2", "1", false));
        // What is not declared is held to the applications once a replica tells it.
        world.try_deploy("3", Signature::undeclared()).unwrap();
        assert_eq!(world.turn(), turn("3", "1", false));
        world.set_version("1");
        let refused = set_current_version(&world.catalog, &name(), &"3".parse().unwrap(), &world.observed());
        assert!(matches!(refused, Err(Refusal::VersionTakesOther(..))));
    }

    #[test]
    fn an_application_is_not_linked_while_a_version_answers_that_it_does_not_fit() {
        let mut world = World::default();
        world
            .register("wide", tensors("x:FP32[-1]", "p:FP32[3]"))
            .unwrap();
        world.register("app", tensors("x:FP32[4]", "p:FP32[3]")).unwrap();
        world.try_deploy("1", tensors("x:FP32[4]", "p:FP32[3]")).unwrap();
        world.link("app").unwrap();
        world.try_deploy("2", tensors("x:FP32[-1]", "p:FP32[3]")).unwrap();
        let refused = world.link("wide").unwrap_err();
        assert!(matches!(refused, Refusal::StillTakesOther(version, _) if version.as_str() == "1"));
    }
}
