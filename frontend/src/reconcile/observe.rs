//! What the cluster's frontends see together, as far as containers are concerned.

use std::collections::BTreeSet;

use skysail_core::catalog::Generation;
use skysail_core::cluster::FrontendView;
use skysail_proto::ids::{ModelId, ReplicaId};

/// The union of what all live frontends see. Two that are equal give no reason for another look.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ClusterView {
    /// The replicas that take work from some query frontend, with the starts of their containers.
    pub attached: BTreeSet<(ReplicaId, String)>,
    /// What those serve.
    pub serving: BTreeSet<(ModelId, ReplicaId)>,
    /// The starts of containers that a frontend gave up as hung.
    pub hung: BTreeSet<String>,
    /// Where containers reach the live query frontends, as host:port. One that drains is none to begin with.
    pub rpc_addresses: Vec<String>,
    /// The catalogs that frontends follow, by their ids.
    pub followed: Vec<(String, Generation)>,
}

impl ClusterView {
    /// What `views` come to together.
    pub fn of(views: &[FrontendView]) -> Self {
        let replicas = || {
            let all = views.iter().flat_map(|view| &view.replicas);
            all.filter(|replica| !replica.draining)
        };
        let alive = views.iter().filter(|view| !view.draining);
        let addresses: BTreeSet<String> = alive.filter_map(|view| view.rpc_addr.clone()).collect();
        Self {
            attached: replicas()
                .map(|found| (found.replica.clone(), found.start.clone()))
                .collect(),
            serving: replicas()
                .map(|found| (found.model.clone(), found.replica.clone()))
                .collect(),
            hung: views.iter().flat_map(|view| view.hung.iter().cloned()).collect(),
            rpc_addresses: addresses.into_iter().collect(),
            followed: views
                .iter()
                .map(|view| (view.id.clone(), view.generation.clone()))
                .collect(),
        }
    }

    /// How many replicas of a version answer.
    pub fn replicas_of(&self, model: &ModelId) -> usize {
        self.serving.iter().filter(|(serves, _)| serves == model).count()
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use skysail_core::cluster::ReplicaView;

    use super::*;

    fn replica(ordinal: u32, start: &str, draining: bool) -> ReplicaView {
        let model: ModelId = "m:1".parse().unwrap();
        ReplicaView {
            replica: ReplicaId::of(&model, ordinal),
            model,
            start: start.into(),
            hostname: String::new(),
            pid: 1,
            peer: String::new(),
            attached_at: Timestamp::UNIX_EPOCH,
            draining,
            overdue: false,
            in_flight: 0,
            batches: 0,
            inputs: 0,
            inputs_per_second: 0.0,
            fixed_micros: 0.0,
            per_input_micros: 0.0,
            p99_micros: 0,
            fit: None,
        }
    }

    fn view(rpc_addr: &str, replicas: Vec<ReplicaView>) -> FrontendView {
        FrontendView {
            id: rpc_addr.into(),
            rpc_addr: Some(rpc_addr.into()),
            replicas,
            ..FrontendView::default()
        }
    }

    #[test]
    fn what_any_frontend_sees_is_attached_once_unless_it_drains() {
        let model: ModelId = "m:1".parse().unwrap();
        let views = [
            view("b:7000", vec![replica(0, "x", false), replica(1, "y", true)]),
            view("a:7000", vec![replica(0, "x", false), replica(2, "", false)]),
            FrontendView::default(),
        ];
        let together = ClusterView::of(&views);
        let attached: Vec<_> = together
            .attached
            .iter()
            .map(|(replica, start)| (replica.as_str(), start.as_str()))
            .collect();
        assert_eq!(attached, [("m_1_0", "x"), ("m_1_2", "")]);
        assert_eq!(together.replicas_of(&model), 2);
        assert_eq!(together.rpc_addresses, ["a:7000", "b:7000"]);
    }

    #[test]
    fn a_frontend_that_drains_is_dialled_by_no_new_container_and_what_it_sees_counts() {
        let draining = FrontendView {
            draining: true,
            hung: vec!["z".into()],
            ..view("a:7000", vec![replica(0, "x", false)])
        };
        let together = ClusterView::of(&[draining]);
        assert!(together.rpc_addresses.is_empty());
        assert_eq!((together.attached.len(), together.hung.len()), (1, 1));
    }
}
