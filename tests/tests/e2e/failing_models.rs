//! Models that fail: said in the answer and to the operator, repaired where that can be, and no harm to
//! others.

use std::cell::Cell;
use std::collections::BTreeSet;

use futures::future::join_all;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use skysail_tests::cases;
use skysail_tests::cluster::TestCluster;
use skysail_tests::deployment::Deployment;
use skysail_tests::program::gone;
use skysail_tests::wait::{PATIENCE, find, until};

cases! {
    a_model_that_fails_is_quoted_and_harms_nobody_else;
    a_query_that_kills_its_replica_twice_is_answered_and_the_model_lives_on;
    a_container_that_exits_at_once_is_tried_again_and_its_end_is_shown;
    a_model_that_fails_to_start_can_be_stopped_and_repaired;
    an_image_that_cannot_be_run_is_said_at_once;
    a_replica_killed_under_load_is_replaced_and_no_query_is_lost;
    a_replica_that_hangs_is_noticed_and_its_queries_go_to_the_others;
    as_many_inputs_reach_the_container_as_were_asked;
}

const TEST_CONTAINER: &str = env!("CARGO_BIN_EXE_test-container");

async fn a_model_that_fails_is_quoted_and_harms_nobody_else() {
    let cluster = TestCluster::start().await;
    cluster.serve("good", &Deployment::of("noop")).await;
    for (fault, words) in [
        ("error", "SYNTHETIC_FAIL is error"),
        ("panic", "SYNTHETIC_FAIL is panic"),
        ("wrong-count", "2 outputs for 1 inputs"),
    ] {
        let deployment = Deployment::synthetic()
            .named(&format!("{fault}-model"), "1")
            .env("SYNTHETIC_FAIL", fault);
        cluster.serve(fault, &deployment).await;
        let before = cluster.attached(&deployment.model, 1).await;
        for _ in 0..3 {
            let answer = cluster.answer(fault, json!([1.0])).await;
            assert_eq!(
                (&answer["default"], &answer["output"]),
                (&json!(true), &json!(-1.0)),
                "{answer}"
            );
            assert_eq!(answer["default_reason"], "model_error", "{answer}");
            let explanation = answer["default_explanation"].as_str().unwrap();
            assert!(explanation.contains(words), "{explanation}");
            assert_eq!(cluster.predict("good", json!([1.0])).await, 0);
        }
        let after = cluster.attached(&deployment.model, 1).await;
        assert_eq!(
            after[0]["attached_at"], before[0]["attached_at"],
            "the replica stayed"
        );
        assert_eq!(cluster.version(&deployment.model, "1").await["restarts"], 0);
    }
}

async fn a_query_that_kills_its_replica_twice_is_answered_and_the_model_lives_on() {
    let cluster = TestCluster::start().await;
    cluster.serve("good", &Deployment::of("noop")).await;
    cluster
        .serve(
            "poison",
            &Deployment::synthetic().env("SYNTHETIC_FAIL", "exit").replicas(3),
        )
        .await;
    let answer = cluster.answer("poison", json!([1.0])).await;
    assert_eq!(
        (&answer["default"], &answer["default_reason"]),
        (&json!(true), &json!("replica_lost")),
        "{answer}"
    );
    assert_eq!(cluster.predict("good", json!([1.0])).await, 0);

    let failed = find("both ends to be known", PATIENCE, async || {
        let version = cluster.version("synthetic", "1").await;
        (version["restarts"] == 2).then_some(version)
    })
    .await;
    assert_eq!(failed["last_failure"]["exit_code"], 17, "{failed}");
    assert_eq!(failed["last_failure"]["permanent"], false);
    assert!(
        failed["last_failure"]["reason"].as_str().unwrap().contains("17"),
        "{failed}"
    );
    assert!(says(&failed["last_failure"]["log"], "serving"), "{failed}");
    // The third replica never saw the query, and the other two are replaced.
    cluster.attached("synthetic", 3).await;
}

async fn a_container_that_exits_at_once_is_tried_again_and_its_end_is_shown() {
    let cluster = TestCluster::start().await;
    cluster.serve("good", &Deployment::of("noop")).await;
    let script = "print loading the weights\ncomplain the weights are not there\nexit 3";
    cluster
        .deploy(&Deployment::of_image("model", TEST_CONTAINER).env("TEST_SCRIPT", script))
        .await;
    let failed = find("the container to be tried three times", PATIENCE, async || {
        let version = cluster.version("model", "1").await;
        (version["restarts"].as_u64() >= Some(3)).then_some(version)
    })
    .await;
    let failure = &failed["last_failure"];
    assert_eq!(
        (&failed["state"], &failure["exit_code"]),
        (&json!("failing"), &json!(3)),
        "{failed}"
    );
    assert!(
        failure["reason"].as_str().unwrap().contains("exit code 3"),
        "{failure}"
    );
    assert!(says(&failure["log"], "the weights are not there"), "{failure}");
    assert_eq!(cluster.predict("good", json!([1.0])).await, 0);
}

async fn a_model_that_fails_to_start_can_be_stopped_and_repaired() {
    let cluster = TestCluster::start().await;
    let failing = Deployment::of_image("model", TEST_CONTAINER).env("TEST_SCRIPT", "exit 3");
    cluster.deploy(&failing).await;
    until("the failure", PATIENCE, async || {
        cluster.version("model", "1").await["state"] == "failing"
    })
    .await;
    let replicas = "/api/v1/models/model/versions/1/replicas";
    cluster
        .admin()
        .put(replicas, json!({ "count": 0 }))
        .await
        .expect(200);
    until("the containers to be gone", PATIENCE, async || {
        let version = cluster.version("model", "1").await;
        version["state"] == "stopped" && version["containers"] == json!([])
    })
    .await;
    cluster
        .serve("app", &Deployment::of("noop").named("model", "2"))
        .await;
    assert_eq!(cluster.predict("app", json!([1.0])).await, 0);
    cluster
        .admin()
        .delete("/api/v1/models/model/versions/1")
        .await
        .expect(204);
}

async fn an_image_that_cannot_be_run_is_said_at_once() {
    let cluster = TestCluster::start().await;
    let text = cluster.folder().join("notes.txt");
    std::fs::write(&text, "not a program").expect("written");
    let folder = cluster.folder().display().to_string();
    let images = [
        ("/no/such/program", "/no/such/program"),
        (text.to_str().unwrap(), "not executable"),
        (&folder, "not a file"),
    ];
    for (number, (image, words)) in images.into_iter().enumerate() {
        let model = format!("model-{number}");
        cluster.deploy(&Deployment::of_image(&model, image)).await;
        let failure = find("the failure", PATIENCE, async || {
            let failure = cluster.version(&model, "1").await["last_failure"].clone();
            (!failure.is_null()).then_some(failure)
        })
        .await;
        assert_eq!(failure["permanent"], true, "{failure}");
        let reason = failure["reason"].as_str().unwrap();
        assert!(reason.contains(image) && reason.contains(words), "{reason}");
    }
    // Nothing waits for what cannot come.
    cluster
        .register("app", "doubles", "-1.0", skysail_tests::cluster::AMPLE_SLO)
        .await;
    cluster.link("app", "model-0").await;
    assert_eq!(
        cluster.answer("app", json!([1.0])).await["default_reason"],
        "no_replica"
    );
}

async fn a_replica_killed_under_load_is_replaced_and_no_query_is_lost() {
    let cluster = TestCluster::start().await;
    let deployment = Deployment::synthetic()
        .replicas(2)
        .env("SYNTHETIC_FIXED_MICROS", "2000");
    cluster.serve("app", &deployment).await;
    let before = pids(&cluster.attached("synthetic", 2).await);
    let replaced = Cell::new(false);
    let load = join_all((0..4).map(|client: u32| {
        let (cluster, replaced) = (&cluster, &replaced);
        async move {
            let mut asked = 0;
            while !replaced.get() {
                cluster.predict("app", json!([client, asked])).await;
                asked += 1;
            }
            asked
        }
    }));
    let killing = async {
        for &victim in &before {
            until("both replicas to have worked", PATIENCE, async || {
                cluster
                    .replicas("synthetic")
                    .await
                    .iter()
                    .all(|replica| replica["inputs"].as_u64() > Some(10))
            })
            .await;
            kill_process(Pid::from_raw(victim).unwrap(), Signal::KILL).expect("killed");
            gone(victim.cast_unsigned()).await;
            until("a replacement", PATIENCE, async || {
                let now = pids(&cluster.replicas("synthetic").await);
                now.len() == 2 && !now.contains(&victim)
            })
            .await;
        }
        replaced.set(true);
    };
    let (asked, ()) = tokio::join!(load, killing);
    assert!(asked.iter().all(|&asked| asked > 0), "{asked:?}");
    let version = cluster.version("synthetic", "1").await;
    assert_eq!(version["restarts"], 2);
    assert_eq!(version["last_failure"]["exit_code"], 137, "{version}");
    let defaults = cluster.admin().get("/metrics").await.text;
    assert!(
        !defaults
            .lines()
            .any(|line| line.starts_with("skysail_defaults_total{") && !line.ends_with(" 0")),
        "{defaults}"
    );
}

async fn a_replica_that_hangs_is_noticed_and_its_queries_go_to_the_others() {
    let cluster = TestCluster::start().await;
    cluster.serve("app", &Deployment::of("noop").replicas(2)).await;
    let victim = pids(&cluster.attached("noop", 2).await).pop_first().unwrap();
    kill_process(Pid::from_raw(victim).unwrap(), Signal::STOP).expect("stopped");
    let answers = join_all((0..50).map(|number| cluster.predict("app", json!([number])))).await;
    assert!(answers.iter().all(|output| *output == 0), "{answers:?}");
    cluster.attached("noop", 1).await;
    kill_process(Pid::from_raw(victim).unwrap(), Signal::CONT).expect("it goes on");
    cluster.attached("noop", 2).await;
}

async fn as_many_inputs_reach_the_container_as_were_asked() {
    const SINGLES: u64 = 200;
    let cluster = TestCluster::start().await;
    let counting = Deployment::synthetic().env("SYNTHETIC_REPORT_SEEN", "1");
    cluster.serve("app", &counting.with("cache", false)).await;
    let singles = join_all((0..SINGLES).map(|number| cluster.predict("app", json!([number])))).await;
    let batch = json!({ "input_batch": vec![[1.0]; 100] });
    let reply = cluster.query("app", batch).await.expect(200);
    let batched = reply["batch_predictions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|answer| &answer["output"]);
    let seen: BTreeSet<u64> = singles
        .iter()
        .chain(batched)
        .map(|output| output["inputs_seen"].as_u64().unwrap())
        .collect();
    assert_eq!(seen, (1..=SINGLES + 100).collect());
    let replica = &cluster.attached("synthetic", 1).await[0];
    assert_eq!(replica["inputs"], SINGLES + 100);
}

fn pids(replicas: &[Value]) -> BTreeSet<i32> {
    let pid = |replica: &Value| i32::try_from(replica["pid"].as_i64()?).ok();
    replicas.iter().filter_map(pid).collect()
}

fn says(lines: &Value, words: &str) -> bool {
    let mut lines = lines.as_array().expect("lines").iter();
    lines.any(|line| line.as_str().is_some_and(|line| line.contains(words)))
}
