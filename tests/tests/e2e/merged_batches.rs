//! Frontends whose queries meet at one replica: it answers them as one batch, and each frontend has its own answers.

use std::cell::Cell;

use futures::future::join_all;
use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use skysail_tests::cases;
use skysail_tests::cluster::{AMPLE_SLO, Runtime, Settings, TestCluster};
use skysail_tests::deployment::ByHand;
use skysail_tests::program::Program;
use skysail_tests::redis::RedisServer;
use skysail_tests::wait::{PATIENCE, until};

cases! {
    queries_of_two_frontends_are_answered_in_one_batch_each_where_it_was_asked: Redis;
    frontends_that_stop_or_die_hold_the_others_queries_up_for_a_moment_only: Redis;
    a_model_that_fails_on_a_merged_batch_is_quoted_by_each_frontend: Redis;
    a_model_for_one_input_at_a_time_is_given_no_merged_batch: Redis;
}

/// Two frontends that share one replica of `synthetic:1`, behind the application `app`.
struct Pair {
    first: TestCluster,
    second: TestCluster,
    _container: Program,
    _redis: RedisServer,
}

impl Pair {
    /// A batch takes the replica long enough for queries to meet. Its environment has these variables, too, and the
    /// version these members.
    async fn start(variables: &[(&str, &str)], members: Value) -> Self {
        let redis = RedisServer::start().await;
        let frontend = || {
            Settings::default()
                .redis(redis.url())
                .runtime(Runtime::None)
                .start()
        };
        let (first, second) = tokio::join!(frontend(), frontend());
        first.register("app", "doubles", "-1.0", AMPLE_SLO).await;
        let mut version = json!({ "version": "1", "input_type": "doubles" });
        for (name, value) in members.as_object().expect("members") {
            version[name] = value.clone();
        }
        first
            .admin()
            .post("/api/v1/models/synthetic/versions", version)
            .await
            .expect(201);
        first.link("app", "synthetic").await;
        let mut container =
            ByHand::of("synthetic", "synthetic", "shared").env("SYNTHETIC_FIXED_MICROS", "20000");
        for (name, value) in variables {
            container = container.env(name, value);
        }
        let rpc = [&first, &second].map(|frontend| frontend.addresses().rpc.to_string());
        let container = first.by_hand(&container.env("SKYSAIL_FRONTENDS", &rpc.join(",")));
        for frontend in [&first, &second] {
            until(
                "the replica to be attached and the application known",
                PATIENCE,
                async || {
                    let attached = r#"skysail_replicas_attached{model="synthetic",version="1"}"#;
                    frontend.metric(attached).await > 0.0
                        && frontend.query("app", json!({ "input": [0.5] })).await.status == 200
                },
            )
            .await;
        }
        Self {
            first,
            second,
            _container: container,
            _redis: redis,
        }
    }

    /// Asks both for the same inputs at the same time until batches were merged, and has all answers checked.
    async fn until_merged(&self, check: impl Fn(&[Value], &[Value])) {
        until("batches to be merged", PATIENCE, async || {
            let inputs = fresh(5);
            let (of_first, of_second) = tokio::join!(ask(&self.first, &inputs), ask(&self.second, &inputs));
            check(&of_first, &of_second);
            has_merged(&self.first).await && has_merged(&self.second).await
        })
        .await;
    }
}

/// Asks for a few inputs at once, none like another, and returns what came.
async fn ask(frontend: &TestCluster, inputs: &[u64]) -> Vec<Value> {
    let queries = inputs.iter().map(|input| frontend.answer("app", json!([input])));
    join_all(queries).await
}

/// So many inputs that nobody asked for before.
fn fresh(count: u64) -> Vec<u64> {
    static ASKED: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let first = ASKED.fetch_add(count, std::sync::atomic::Ordering::Relaxed);
    (first..first + count).collect()
}

/// Whether the frontend had batches answered together with others'.
async fn has_merged(frontend: &TestCluster) -> bool {
    frontend
        .metric(r#"skysail_merged_batches_total{model="synthetic",version="1"}"#)
        .await
        > 0.0
}

async fn queries_of_two_frontends_are_answered_in_one_batch_each_where_it_was_asked() {
    let pair = Pair::start(&[], json!({})).await;
    pair.until_merged(|of_first, of_second| {
        let outputs = |answers: &[Value]| -> Vec<Value> {
            let output = |answer: &Value| {
                assert_eq!(answer["default"], false, "{answer}");
                answer["output"].clone()
            };
            answers.iter().map(output).collect()
        };
        let (of_first, of_second) = (outputs(of_first), outputs(of_second));
        assert_eq!(of_first, of_second);
        for (index, output) in of_first.iter().enumerate() {
            assert!(!of_first[..index].contains(output), "{of_first:?}");
        }
    })
    .await;
}

async fn frontends_that_stop_or_die_hold_the_others_queries_up_for_a_moment_only() {
    let pair = Pair::start(&[], json!({})).await;
    pair.until_merged(|_, _| {}).await;
    let (first, second) = (&pair.first, &pair.second);
    let pid = Pid::from_raw(i32::try_from(second.pid()).unwrap()).unwrap();
    let is_over = Cell::new(false);
    let asking = async {
        while !is_over.get() {
            for answer in ask(first, &fresh(5)).await {
                assert_eq!(answer["default"], false, "{answer}");
            }
        }
    };
    // What the second is asked meanwhile lets it hold credits when it is stopped, and in the end killed.
    let queries = second.queries();
    let busy = tokio::spawn(async move {
        loop {
            let batch = json!({ "input_batch": [[1], [2], [3]] });
            let asked = queries.send(Method::POST, "/app/predict", batch.to_string());
            if asked.await.is_err() {
                return;
            }
        }
    });
    let ending = async {
        for _ in 0..5 {
            kill_process(pid, Signal::STOP).expect("it runs");
            for answer in ask(first, &fresh(5)).await {
                assert_eq!(answer["default"], false, "{answer}");
            }
            kill_process(pid, Signal::CONT).expect("it runs");
        }
        kill_process(pid, Signal::KILL).expect("it runs");
        for answer in ask(first, &fresh(5)).await {
            assert_eq!(answer["default"], false, "{answer}");
        }
        is_over.set(true);
    };
    tokio::join!(asking, ending);
    busy.abort();
}

async fn a_model_that_fails_on_a_merged_batch_is_quoted_by_each_frontend() {
    let pair = Pair::start(&[("SYNTHETIC_FAIL", "error")], json!({})).await;
    pair.until_merged(|of_first, of_second| {
        for answer in of_first.iter().chain(of_second) {
            assert_eq!(answer["default_reason"], "model_error", "{answer}");
            let explanation = answer["default_explanation"].as_str().unwrap();
            assert!(explanation.contains("SYNTHETIC_FAIL is error"), "{answer}");
        }
    })
    .await;
}

async fn a_model_for_one_input_at_a_time_is_given_no_merged_batch() {
    let fails_on_two = [("SYNTHETIC_FAIL", "error"), ("SYNTHETIC_FAIL_ABOVE", "1")];
    let pair = Pair::start(&fails_on_two, json!({ "max_batch": 1 })).await;
    let (first, second) = (&pair.first, &pair.second);
    for _ in 0..5 {
        let (some, others) = (fresh(5), fresh(5));
        let (of_first, of_second) = tokio::join!(ask(first, &some), ask(second, &others));
        for answer in of_first.iter().chain(&of_second) {
            assert_eq!(answer["default"], false, "{answer}");
        }
    }
    assert!(!has_merged(first).await && !has_merged(second).await);
}
