//! The end of a rollout: when every query frontend answers with the new version.

use crate::catalog::{Catalog, Change, Model};
use crate::cluster::ClusterView;

/// Ends the rollouts that every live query frontend has followed to their end. Stops the other versions if the
/// rollout asked for it.
///
/// A draining frontend counts too: its waiting queries may still be for the old version. A frontend that
/// follows an older catalog does not know the rollout yet, whichever version it answers with. Without a query
/// frontend, none has switched.
pub fn finished(catalog: &Catalog, cluster: &ClusterView) -> Vec<Change> {
    let frontends: Vec<_> = cluster.query_frontends().collect();
    let mut follows = frontends.iter();
    if frontends.is_empty() || !follows.all(|view| view.generation.has_reached(&catalog.generation)) {
        return Vec::new();
    }
    let switched = |model: &Model| {
        let current = Some(&model.current_version);
        frontends
            .iter()
            .all(|view| view.serving.get(&model.name) == current)
    };
    let rolling = catalog.models.values().filter(|model| model.rollout.is_some());
    rolling
        .filter(|model| switched(model))
        .map(|model| Change::put(ended(model)))
        .collect()
}

/// The model after the end of its rollout.
fn ended(model: &Model) -> Model {
    let mut model = model.clone();
    let replace = model.rollout.take().is_some_and(|rollout| rollout.replace);
    if replace {
        let others = model
            .versions
            .iter_mut()
            .filter(|(version, _)| **version != model.current_version);
        for deployment in others.filter_map(|(_, version)| version.spec.deployment.as_mut()) {
            deployment.replicas = 0;
            deployment.autoscale = None;
        }
    }
    model
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Document, Generation, Rollout};
    use crate::cluster::FrontendView;

    /// Gives each frontend its own address.
    fn cluster(views: &[FrontendView]) -> ClusterView {
        let views = views.iter().enumerate().map(|(index, view)| FrontendView {
            id: index.to_string(),
            rpc_addr: view.rpc_addr.as_ref().map(|_| format!("127.0.0.1:{index}")),
            ..view.clone()
        });
        ClusterView::of(views)
    }

    fn generation(number: u64) -> Generation {
        Generation {
            incarnation: "i".into(),
            number,
        }
    }

    fn model(rollout: Option<Rollout>) -> Model {
        let version = |replicas: u32| {
            format!(
                r#"{{"input_type": "doubles", "registered_at": "1970-01-01T00:00:00Z",
                     "deployment": {{"image": "i", "replicas": {replicas}, "autoscale": {{"min": 1, "max": 4}}}}}}"#
            )
        };
        let model = format!(
            r#"{{"name": "m", "current_version": "2", "versions": {{"1": {}, "2": {}}}}}"#,
            version(3),
            version(2)
        );
        let model: Model = serde_json::from_str(&model).unwrap();
        Model { rollout, ..model }
    }

    fn catalog(replace: bool) -> Catalog {
        let rollout = Rollout {
            from: "1".parse().unwrap(),
            replace,
        };
        Catalog::default().with(&[Change::put(model(Some(rollout)))], generation(7))
    }

    fn view(serving: &str, number: u64) -> FrontendView {
        FrontendView {
            rpc_addr: Some("127.0.0.1:7000".into()),
            generation: generation(number),
            serving: [("m".parse().unwrap(), serving.parse().unwrap())].into(),
            ..FrontendView::default()
        }
    }

    #[test]
    fn a_rollout_ends_once_every_query_frontend_has_switched() {
        let ended = vec![Change::put(model(None))];
        let control_only = FrontendView::default();
        let catalog = catalog(false);
        assert_eq!(
            finished(
                &catalog,
                &cluster(&[view("2", 7), view("2", 9), control_only.clone()])
            ),
            ended
        );
        let not_yet = [
            vec![view("2", 7), view("1", 7)],
            vec![view("2", 7), view("2", 6)],
            vec![FrontendView {
                generation: Generation {
                    incarnation: "another".into(),
                    number: 9,
                },
                ..view("2", 7)
            }],
            vec![FrontendView {
                draining: true,
                ..view("1", 7)
            }],
            vec![control_only],
            vec![],
        ];
        for views in not_yet {
            assert_eq!(finished(&catalog, &cluster(&views)), [], "{views:?}");
        }
    }

    #[test]
    fn a_replacing_rollout_stops_the_other_versions_and_only_those() {
        let changes = finished(&catalog(true), &cluster(&[view("2", 7)]));
        let [Change::Put(Document::Model(model))] = &changes[..] else {
            panic!("{changes:?}")
        };
        let replicas = |version: &str| {
            let deployment = model.versions[version].spec.deployment.as_ref();
            let deployment = deployment.unwrap();
            (deployment.replicas, deployment.autoscale.is_some())
        };
        assert_eq!((replicas("1"), replicas("2")), ((0, false), (2, true)));
        assert_eq!(model.rollout, None);
    }

    #[test]
    fn a_model_without_a_rollout_is_left_alone() {
        let catalog = Catalog::default().with(&[Change::put(model(None))], generation(7));
        assert_eq!(finished(&catalog, &cluster(&[view("2", 7)])), []);
    }
}
