//! The signature of a version that was registered without one, as its first replica told it.

use std::collections::BTreeMap;

use skysail_proto::ids::ModelName;

use crate::catalog::{Catalog, Change, Model};
use crate::cluster::{ClusterView, LearnedView};
use crate::rules::answers_linked;

/// The changes that write down what frontends learned of undeclared versions. If two frontends learned different
/// signatures of one version, the first one stands: the other frontend then dismisses its replicas.
///
/// The annotations that the version was registered with stand beside the replica's. A signature that an application
/// of the model cannot be answered by is left out: no frontend learns one, unless an application was linked meanwhile.
pub fn learned(catalog: &Catalog, cluster: &ClusterView) -> Vec<Change> {
    let mut models = BTreeMap::<&ModelName, Model>::new();
    for view in cluster.frontends().iter().flat_map(|view| &view.learned) {
        let name = &view.model.name;
        let Some(model) = catalog.models.get(name) else {
            continue;
        };
        let is_current = model.current_version == view.model.version;
        if is_current && answers_linked(catalog, name, &view.signature).is_err() {
            continue;
        }
        let mut changed = models.remove(name).unwrap_or_else(|| Model::clone(model));
        if write_down(&mut changed, view) || changed != **model {
            models.insert(name, changed);
        }
    }
    models.into_values().map(Change::put).collect()
}

/// Returns whether the version was undeclared until now.
fn write_down(model: &mut Model, view: &LearnedView) -> bool {
    let Some(version) = model.versions.get_mut(&view.model.version) else {
        return false;
    };
    let spec = &mut version.spec;
    let is_news = version.registered_at == view.registered_at
        && !spec.signature.is_declared()
        && view.signature.is_declared();
    if is_news {
        spec.signature = view.signature.clone();
        for (name, value) in &view.annotations {
            spec.annotations
                .entry(name.clone())
                .or_insert_with(|| value.clone());
        }
    }
    is_news
}

#[cfg(test)]
mod tests {
    use skysail_proto::signature::{Signature, TensorSpec};
    use skysail_proto::value::InputType;

    use super::*;
    use crate::catalog::{Application, Document, Generation};
    use crate::cluster::testing::frontend;

    fn signature(input: &str) -> Signature {
        Signature::tensors([input.parse::<TensorSpec>().unwrap()], []).unwrap()
    }

    fn catalog(versions: &str) -> Catalog {
        let model = format!(r#"{{"name": "m", "current_version": "1", "versions": {{{versions}}}}}"#);
        let put = Change::put(serde_json::from_str::<Model>(&model).unwrap());
        Catalog::default().with(&[put], Generation::default())
    }

    fn undeclared() -> Catalog {
        catalog(
            r#""1": {"input_type": "tensors", "registered_at": "1970-01-01T00:00:00Z", "annotations": {"a": "own"}},
               "2": {"input_type": "doubles", "registered_at": "1970-01-01T00:00:00Z"}"#,
        )
    }

    fn view(id: &str, signature: Signature) -> LearnedView {
        LearnedView {
            model: id.parse().unwrap(),
            registered_at: jiff::Timestamp::UNIX_EPOCH,
            signature,
            annotations: [("a".into(), "told".into()), ("b".into(), "told".into())].into(),
        }
    }

    fn seen(views: Vec<Vec<LearnedView>>) -> ClusterView {
        let frontends = views.into_iter().enumerate().map(|(index, learned)| {
            let mut view = frontend(&index.to_string(), "1", Vec::new());
            view.learned = learned;
            view
        });
        ClusterView::of(frontends)
    }

    fn only(changes: Vec<Change>) -> Model {
        match <[Change; 1]>::try_from(changes).unwrap() {
            [Change::Put(Document::Model(model))] => model,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_frontends_word_stands_and_is_written_once() {
        let (first, second) = (signature("x:FP32[4]"), signature("x:FP32[5]"));
        let cluster = seen(vec![
            vec![],
            vec![view("m:1", first.clone())],
            vec![view("m:1", second)],
        ]);
        let model = only(learned(&undeclared(), &cluster));
        let spec = &model.versions["1"].spec;
        assert_eq!(spec.signature, first);
        let annotations: Vec<_> = spec.annotations.values().collect();
        assert_eq!(annotations, ["own", "told"]);
        let after = undeclared().with(&[Change::put(model)], Generation::default());
        assert_eq!(learned(&after, &cluster), []);
    }

    #[test]
    fn what_is_said_of_another_version_is_not_written() {
        let x = || signature("x:FP32[4]");
        let mut before = view("m:1", x());
        before.registered_at = "1969-01-01T00:00:00Z".parse().unwrap();
        let others = vec![
            before,
            view("m:2", x()),
            view("m:3", x()),
            view("other:1", x()),
            view("m:1", Signature::undeclared()),
        ];
        assert_eq!(learned(&undeclared(), &seen(vec![others])), []);
    }

    #[test]
    fn what_does_not_answer_a_linked_application_is_not_written() {
        let application = |signature: Signature| {
            let mut application: Application = serde_json::from_str(
                r#"{"name": "a", "input_type": "doubles", "default_output": "", "slo_micros": 1,
                    "linked_models": ["m"], "registered_at": "1970-01-01T00:00:00Z"}"#,
            )
            .unwrap();
            application.signature = signature;
            Change::put(application)
        };
        let cluster = seen(vec![vec![view("m:1", signature("x:FP32[4]"))]]);
        let linked = |sent| undeclared().with(&[application(sent)], Generation::default());
        assert_eq!(learned(&linked(signature("x:FP32[5]")), &cluster), []);
        assert_eq!(learned(&linked(InputType::Doubles.into()), &cluster), []);
        assert_eq!(learned(&linked(signature("x:FP32[4]")), &cluster).len(), 1);
    }
}
