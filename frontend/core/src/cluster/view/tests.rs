use skysail_proto::admin::Load;

use super::*;
use crate::cluster::testing::{frontend, replica};

#[test]
fn a_replica_that_several_frontends_see_is_one_with_the_sum_of_its_work() {
    let mut learned = replica("m_1_0");
    learned.batches = 30;
    learned.fixed_micros = 5000.0;
    learned.p99_micros = 9000;
    learned.attached_at = "2026-01-01T00:00:09Z".parse().unwrap();
    let cluster = ClusterView::of(vec![
        frontend("b", "1", vec![learned]),
        frontend("a", "1", vec![replica("m_1_0"), replica("m_1_1")]),
    ]);
    let replicas: Vec<_> = cluster.replicas().collect();
    assert_eq!(replicas.len(), 2);
    let both = &replicas[0];
    assert_eq!(both.frontends, ["a", "b"]);
    assert_eq!((both.in_flight, both.batches, both.inputs), (2, 40, 200));
    assert_eq!(both.attached_at.to_string(), "2026-01-01T00:00:00Z");
    assert_eq!((both.fixed_micros, both.p99_micros), (Some(5000.0), Some(9000)));
    assert_eq!(replicas[1].fixed_micros, None);
    let id = "m:1".parse().unwrap();
    assert_eq!((cluster.attached(&id), cluster.attached_everywhere(&id)), (2, 1));
}

#[test]
fn a_replica_drains_once_all_say_so_and_is_overdue_if_one_does() {
    let mut draining = replica("m_1_0");
    draining.draining = true;
    let state = |one: &ReplicaView, other: &ReplicaView| {
        let cluster = ClusterView::of(vec![
            frontend("a", "1", vec![one.clone()]),
            frontend("b", "1", vec![other.clone()]),
        ]);
        (
            cluster.replicas().next().unwrap().state,
            cluster.attached(&one.model),
        )
    };
    let ready = replica("m_1_0");
    let mut overdue = replica("m_1_0");
    overdue.overdue = true;
    assert_eq!(state(&draining, &draining), (ReplicaState::Draining, 0));
    assert_eq!(state(&draining, &ready), (ReplicaState::Ready, 1));
    assert_eq!(state(&ready, &overdue), (ReplicaState::Overdue, 1));
}

#[test]
fn who_answers_with_what_is_told_by_version_and_load_is_summed() {
    let mut views = vec![
        frontend("a", "1", vec![]),
        frontend("b", "2", vec![]),
        frontend("c", "1", vec![]),
    ];
    for view in &mut views {
        view.load.push(LoadView {
            model: "m:1".parse().unwrap(),
            arrivals_per_second: 2.0,
            queued: 3,
            slo_micros: None,
            batch_limit: None,
        });
    }
    views[2].draining = true;
    let cluster = ClusterView::of(views);
    let told: Vec<_> = cluster
        .serving(&"m".parse().unwrap())
        .into_iter()
        .map(|serving| (serving.version.to_string(), serving.frontends.join(" ")))
        .collect();
    assert_eq!(
        told,
        [("1".to_owned(), "a".to_owned()), ("2".to_owned(), "b".to_owned())]
    );
    let load = cluster.load(&"m:1".parse().unwrap());
    assert_eq!((load.arrivals_per_second, load.queued), (6.0, 9));
}

#[test]
fn of_limits_to_batches_at_several_frontends_the_lowest_is_shown() {
    let id: ModelId = "m:1".parse().unwrap();
    let limited = |name: &str, inputs: Option<u64>| {
        let mut view = frontend(name, "1", vec![]);
        let batch_limit = inputs.map(|inputs| BatchLimit {
            inputs,
            failed_inputs: 2 * inputs,
            since: "2026-01-01T00:00:00Z".parse().unwrap(),
        });
        view.load.push(LoadView {
            model: id.clone(),
            arrivals_per_second: 0.0,
            queued: 0,
            slo_micros: None,
            batch_limit,
        });
        view
    };
    let cluster = ClusterView::of(vec![
        limited("a", Some(64)),
        limited("b", Some(32)),
        limited("c", None),
    ]);
    let limit = cluster.batch_limit(&id).unwrap();
    assert_eq!((limit.inputs, limit.failed_inputs), (32, 64));
    assert_eq!(cluster.batch_limit(&"m:2".parse().unwrap()), None);
}

fn at(number: u64) -> Generation {
    Generation {
        incarnation: "i".into(),
        number,
    }
}

fn addressed(id: &str, started_at: i64, rpc_addr: Option<&str>) -> FrontendView {
    FrontendView {
        id: id.to_owned(),
        started_at: Timestamp::from_second(started_at).unwrap(),
        rpc_addr: rpc_addr.map(str::to_owned),
        ..FrontendView::default()
    }
}

fn ids(cluster: &ClusterView) -> Vec<&str> {
    cluster.frontends().iter().map(|view| view.id.as_str()).collect()
}

#[test]
fn a_frontend_that_was_started_again_is_counted_once() {
    let views = [
        addressed("b", 1, Some("a:1")),
        addressed("a", 2, Some("a:1")),
        addressed("d", 1, Some("a:2")),
        addressed("c", 1, None),
        addressed("e", 2, None),
    ];
    let mut found = ids(&ClusterView::of(views))
        .iter()
        .map(|id| id.to_string())
        .collect::<Vec<_>>();
    found.sort();
    assert_eq!(found, ["a", "c", "d", "e"]);
}

#[test]
fn the_frontend_that_looks_is_there_whatever_the_store_remembers_of_its_address() {
    let own = Arc::new(addressed("own", 1, Some("a:1")));
    let stale = FrontendView {
        draining: true,
        ..FrontendView::clone(&own)
    };
    let others = [
        addressed("other", 2, Some("a:1")),
        stale,
        addressed("b", 1, Some("a:2")),
    ];
    let cluster = ClusterView::seen_by(own.clone(), others.map(Arc::new));
    assert_eq!(ids(&cluster), ["b", "own"]);
    assert_eq!(cluster.own(), Some(&own));
    let others: Vec<_> = cluster.others().map(|view| view.id.as_str()).collect();
    assert_eq!(others, ["b"]);
}

#[test]
fn containers_are_told_of_frontends_that_take_queries() {
    let draining = FrontendView {
        draining: true,
        ..addressed("c", 1, Some("a:3"))
    };
    let cluster = ClusterView::of([
        addressed("a", 1, Some("a:2")),
        addressed("b", 1, None),
        draining,
        addressed("d", 1, Some("a:1")),
    ]);
    assert_eq!(cluster.containers().addresses, ["a:1", "a:2"]);
    assert_eq!(
        (
            cluster.query_frontends().count(),
            cluster.taking_queries().count()
        ),
        (3, 2)
    );
}

#[test]
fn what_any_frontend_sees_is_attached_once_unless_it_drains() {
    let started = |id: &str, start: &str, draining: bool| ReplicaView {
        start: start.into(),
        draining,
        ..replica(id)
    };
    let seen = [started("m_1_0", "x", false), started("m_1_1", "y", true)];
    let also = [started("m_1_0", "x", false), started("m_1_2", "", false)];
    let cluster = ClusterView::of([
        frontend("b", "1", seen.into()),
        frontend("a", "1", also.into()),
        FrontendView::default(),
    ]);
    let containers = cluster.containers();
    let attached: Vec<_> = (containers.attached.iter())
        .map(|(replica, start)| (replica.as_str(), start.as_str()))
        .collect();
    assert_eq!(attached, [("m_1_0", "x"), ("m_1_2", "")]);
    assert_eq!(containers.counts, BTreeMap::from([("m:1".parse().unwrap(), 2)]));
    assert_eq!(containers.addresses, ["a:7000", "b:7000"]);
}

#[test]
fn a_frontend_that_drains_is_dialled_by_no_new_container_and_what_it_sees_counts() {
    let draining = FrontendView {
        draining: true,
        hung: vec!["z".into()],
        ..frontend("a", "1", vec![replica("m_1_0")])
    };
    let cluster = ClusterView::of([draining]);
    let containers = cluster.containers();
    assert!(containers.addresses.is_empty());
    assert_eq!((containers.attached.len(), containers.hung.len()), (1, 1));
    assert!(!cluster.all_answer_with(&"m".parse().unwrap(), &"1".parse().unwrap()));
}

#[test]
fn figures_that_change_are_no_news_of_containers() {
    let one = ClusterView::of([frontend("a", "1", vec![replica("m_1_0")])]);
    let busier = ReplicaView {
        batches: 99,
        in_flight: 2,
        ..replica("m_1_0")
    };
    let other = ClusterView::of([frontend("a", "1", vec![busier.clone()])]);
    assert_eq!(one.containers(), other.containers());
    let gone = ClusterView::of([frontend("a", "1", vec![])]);
    assert_ne!(one.containers(), gone.containers());
}

#[test]
fn a_write_is_followed_once_every_other_frontend_that_takes_queries_says_so() {
    let view = |id: &str, number| FrontendView {
        generation: at(number),
        ..frontend(id, "1", vec![])
    };
    let follow = |others: Vec<FrontendView>| {
        let own = Arc::new(view("own", 1));
        ClusterView::seen_by(own, others.into_iter().map(Arc::new)).others_follow(&at(2))
    };
    assert!(follow(vec![]));
    assert!(!follow(vec![view("a", 2), view("b", 1)]));
    assert!(follow(vec![view("a", 2), view("b", 3)]));
    let draining = FrontendView {
        draining: true,
        ..view("b", 1)
    };
    assert!(follow(vec![view("a", 2), draining]));
}

#[test]
fn a_generation_is_reached_in_its_own_incarnation_only() {
    assert!(at(2).has_reached(&at(2)) && at(3).has_reached(&at(2)));
    assert!(!at(1).has_reached(&at(2)));
    let another = Generation {
        incarnation: "j".into(),
        number: 9,
    };
    assert!(!another.has_reached(&at(2)));
}

#[test]
fn troubles_are_told_once_a_replica_had_time_to_dial() {
    let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
    let troubles = |start: &str, attached_at: &str| {
        let seen = ReplicaView {
            attached_at: attached_at.parse().unwrap(),
            ..replica("m_1_0")
        };
        let missing = FrontendView {
            started_at: start.parse().unwrap(),
            ..frontend("b", "1", vec![])
        };
        ClusterView::of([frontend("a", "1", vec![seen]), missing]).troubles(now)
    };
    let old = "2026-01-01T00:00:00Z";
    let young = "2026-01-01T00:00:58Z";
    let missing = Trouble::NotEverywhere {
        replica: "m_1_0".parse().unwrap(),
        reached: 1,
        frontends: 2,
    };
    assert_eq!(troubles(old, old), [missing]);
    assert_eq!(troubles(young, old), []);
    assert_eq!(troubles(old, young), []);
    let overdue = ReplicaView {
        overdue: true,
        ..replica("m_1_0")
    };
    let ending = FrontendView {
        draining: true,
        ..frontend("b", "1", vec![])
    };
    let cluster = ClusterView::of([frontend("a", "1", vec![overdue]), ending]);
    let replica = "m_1_0".parse().unwrap();
    let expected = [
        Trouble::Ending { frontend: "b".into() },
        Trouble::Overdue { replica },
    ];
    assert_eq!(cluster.troubles(now), expected);
}

#[test]
fn every_version_of_a_large_cluster_is_answered_for_by_itself() {
    let id = |number: usize| -> ModelId { format!("m{number}:1").parse().unwrap() };
    let view = |name: &str| {
        let mut view = frontend(name, "1", vec![]);
        for number in 0..1000 {
            let id = id(number);
            let replica = ReplicaView {
                replica: ReplicaId::of(&id, 0),
                model: id.clone(),
                ..replica("m_1_0")
            };
            view.replicas.push(replica);
            view.load.push(LoadView {
                model: id.clone(),
                arrivals_per_second: number as f64,
                queued: number as u64,
                slo_micros: Some(1000 + number as u64),
                batch_limit: None,
            });
            view.serving.insert(id.name, id.version);
        }
        view
    };
    let mut other = view("b");
    other.replicas.truncate(500);
    let cluster = ClusterView::of([view("a"), other]);
    assert_eq!(
        (cluster.replica_count(), cluster.replicas().count()),
        (1000, 1000)
    );
    for number in 0..1000 {
        let id = id(number);
        let everywhere = u32::from(number < 500);
        assert_eq!(
            (cluster.attached(&id), cluster.attached_everywhere(&id)),
            (1, everywhere)
        );
        let load = Load {
            arrivals_per_second: 2.0 * number as f64,
            queued: 2 * number as u64,
        };
        assert_eq!(cluster.load(&id), load);
        assert_eq!(cluster.slo_micros(&id), Some(1000 + number as u64));
        assert_eq!(cluster.sights_of(&id).count(), if number < 500 { 2 } else { 1 });
        assert!(cluster.all_answer_with(&id.name, &id.version));
    }
    assert_eq!(cluster.attached(&"m0:2".parse().unwrap()), 0);
}

#[test]
fn a_querys_id_names_its_frontend() {
    let with = |id: &str, query_blocks: Vec<u64>| FrontendView {
        query_blocks,
        ..frontend(id, "1", vec![])
    };
    let cluster = ClusterView::of([with("a", vec![3, 5]), with("b", vec![4])]);
    let named = |id: u64| cluster.frontend_of_query(id).map(|view| view.id.as_str());
    assert_eq!(named(3 * QUERIES_PER_BLOCK), Some("a"));
    assert_eq!(named(4 * QUERIES_PER_BLOCK + 1), Some("b"));
    assert_eq!(named(6 * QUERIES_PER_BLOCK - 1), Some("a"));
    assert_eq!(named(6 * QUERIES_PER_BLOCK), None);
}
