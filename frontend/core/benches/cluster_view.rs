//! What the view of a large cluster costs: to build it, and to ask it about every version.
//!
//! `cargo bench -p skysail-core --bench cluster_view` prints the times.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use jiff::Timestamp;
use skysail_core::cluster::{ClusterView, FrontendView, LoadView, ReplicaView};
use skysail_proto::ids::{ModelId, ReplicaId};

/// Versions, each of a model of its own with one replica.
const VERSIONS: u32 = 1000;

fn id(number: u32) -> ModelId {
    let id = format!("m{number}:1").parse();
    id.expect("a name and a version")
}

fn replica(id: ModelId) -> ReplicaView {
    ReplicaView {
        replica: ReplicaId::of(&id, 0),
        model: id,
        start: "start".into(),
        hostname: "box".into(),
        pid: 7,
        peer: String::new(),
        attached_at: Timestamp::UNIX_EPOCH,
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

/// A frontend that every replica is attached to.
fn frontend(name: &str) -> Arc<FrontendView> {
    let ids = || (0..VERSIONS).map(id);
    let load = ids().map(|model| LoadView {
        model,
        arrivals_per_second: 1.0,
        queued: 1,
        slo_micros: Some(1000),
        batch_limit: None,
    });
    Arc::new(FrontendView {
        id: name.into(),
        query_addr: Some(format!("{name}:1337")),
        rpc_addr: Some(format!("{name}:7000")),
        serving: ids().map(|id| (id.name, id.version)).collect(),
        replicas: ids().map(replica).collect(),
        load: load.collect(),
        ..FrontendView::default()
    })
}

fn cluster_view(criterion: &mut Criterion) {
    let views = ["a", "b", "c"].map(frontend);
    let build = || ClusterView::seen_by(views[0].clone(), views[1..].iter().cloned());
    criterion.bench_function("build", |bencher| bencher.iter(|| black_box(build())));
    let (cluster, ids) = (build(), (0..VERSIONS).map(id).collect::<Vec<_>>());
    let ask = |id: &ModelId| {
        let replicas = (cluster.attached(id), cluster.attached_everywhere(id));
        black_box((replicas, cluster.load(id), cluster.batch_limit(id)));
        black_box(cluster.serving(&id.name));
    };
    criterion.bench_function("ask about every version", |bencher| {
        bencher.iter(|| ids.iter().for_each(ask));
    });
    criterion.bench_function("all replicas", |bencher| {
        bencher.iter(|| black_box(cluster.replicas().count()));
    });
}

criterion_group!(benches, cluster_view);
criterion_main!(benches);
