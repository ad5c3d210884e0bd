//! Frontends and replicas for tests.

use std::collections::BTreeMap;

use skysail_proto::ids::{ModelId, ReplicaId};

use super::{FrontendView, ReplicaView};

/// A replica of a version of `m`, which its id names.
pub(crate) fn replica(id: &str) -> ReplicaView {
    let replica: ReplicaId = id.parse().unwrap();
    let model = ModelId::new(
        "m".parse().unwrap(),
        id.split('_').nth(1).unwrap().parse().unwrap(),
    );
    ReplicaView {
        replica,
        model,
        start: String::new(),
        hostname: "box".into(),
        pid: 7,
        peer: String::new(),
        attached_at: "2026-01-01T00:00:00Z".parse().unwrap(),
        draining: false,
        overdue: false,
        in_flight: 1,
        batches: 10,
        inputs: 100,
        inputs_per_second: 5.0,
        fixed_micros: 0.0,
        per_input_micros: 0.0,
        p99_micros: 0,
        fit: None,
    }
}

/// A frontend that answers with this version of `m` and sees these replicas.
pub(crate) fn frontend(id: &str, version: &str, replicas: Vec<ReplicaView>) -> FrontendView {
    FrontendView {
        id: id.into(),
        query_addr: Some(format!("{id}:1337")),
        rpc_addr: Some(format!("{id}:7000")),
        serving: BTreeMap::from([("m".parse().unwrap(), version.parse().unwrap())]),
        replicas,
        ..FrontendView::default()
    }
}
