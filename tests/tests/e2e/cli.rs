//! `skysail`, every command of it, against a real frontend with the process runtime.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use skysail_tests::binaries;
use skysail_tests::cases;
use skysail_tests::cluster::{AMPLE_SLO, TestCluster};
use skysail_tests::deployment::{ByHand, Deployment};
use skysail_tests::skysail::Skysail;
use skysail_tests::wait::{self, PATIENCE};

cases! {
    the_demonstration_is_a_few_lines_at_a_prompt;
    json_is_the_admin_apis_body_byte_for_byte;
    what_a_command_changed_is_its_json;
    tables_have_a_line_for_each_thing;
    tensors_are_declared_asked_from_numpy_files_and_shown;
    an_application_is_registered_changed_linked_and_deleted;
    versions_are_switched_scaled_stopped_and_deleted;
    a_version_that_never_becomes_ready_leaves_the_old_one_answering;
    a_version_that_is_stopped_becomes_current_once_it_is_scaled;
    a_registered_model_answers_once_a_container_started_by_hand_attaches;
    a_deployment_carries_all_its_options;
    a_deployment_warms_its_containers_up_before_they_take_queries;
    an_executable_that_does_not_exist_fails_a_deployment_with_advice;
    a_container_that_exits_at_once_fails_a_deployment_with_its_last_lines;
    a_deployment_that_need_not_be_waited_for_is_accepted_at_once;
    logs_are_followed_to_the_last_line;
    a_log_that_is_followed_goes_on_with_replicas_that_come;
    a_version_without_a_log_is_told_apart_from_a_mistake;
    an_input_is_an_argument_a_file_or_standard_input;
    bytes_come_from_a_file_as_they_are;
    a_default_output_is_an_answer_with_a_note;
    mistakes_are_told_once_with_what_to_do;
    mistakes_in_the_line_are_told_before_anything_is_sent;
    without_a_frontend_it_says_what_to_start;
    without_docker_a_cluster_is_not_started;
    completions_complete_in_a_shell;
}

/// A path that a command line may hold.
fn program(name: &str) -> String {
    let path = binaries::path(name).display().to_string();
    assert!(
        !path.contains(' '),
        "these tests separate words by spaces: {path}"
    );
    path
}

/// Whether every one of these is in a text, wherever.
#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
}

/// A frontend that serves two replicas of the iris model, at rest.
async fn with_iris() -> (TestCluster, Skysail) {
    let cluster = TestCluster::start().await;
    cluster.serve("iris", &Deployment::iris().replicas(2)).await;
    // A replica may attach before the container is seen to run.
    wait::until("the containers to be seen", PATIENCE, async || {
        let version = cluster.version("iris-model", "1").await;
        version["containers"]
            .as_array()
            .is_some_and(|seen| seen.len() == 2)
    })
    .await;
    let skysail = Skysail::at(cluster.addresses().admin);
    (cluster, skysail)
}

async fn empty() -> (TestCluster, Skysail) {
    let cluster = TestCluster::start().await;
    let skysail = Skysail::at(cluster.addresses().admin);
    (cluster, skysail)
}

async fn the_demonstration_is_a_few_lines_at_a_prompt() {
    let (cluster, skysail) = empty().await;
    let registered = skysail
        .done("app register iris --input-type doubles --default-output=-1.0 --slo 30s")
        .await;
    assert_says(&registered, &["iris", "doubles", "30s", "-1.0"]);
    let deployed = skysail
        .done(&format!(
            "model deploy iris-model:1 --image {} --input-type doubles --replicas 3",
            program("iris-svm")
        ))
        .await;
    assert_says(&deployed, &["iris-model:1", "3 of 3 replicas"]);
    skysail.done("app link iris iris-model").await;
    for (iris, species) in [
        ("[7.9,4.4,6.9,2.5]", "virginica"),
        ("[5.84,3.05,3.76,1.2]", "versicolor"),
        ("[4.3,2.0,1.0,0.1]", "setosa"),
    ] {
        assert_eq!(
            skysail.done(&format!("predict iris {iris}")).await.trim(),
            species
        );
    }
    assert_eq!(
        cluster.answer("iris", json!([4.3, 2.0, 1.0, 0.1])).await["output"],
        "setosa"
    );
    assert_says(
        &skysail.done("status").await,
        &["3 replicas attached", "All is well"],
    );
}

async fn json_is_the_admin_apis_body_byte_for_byte() {
    let (cluster, skysail) = with_iris().await;
    let admin = cluster.admin();
    for (line, endpoint) in [
        ("app list", "/applications"),
        ("app show iris", "/applications/iris"),
        ("model list", "/models"),
        ("model show iris-model", "/models/iris-model"),
        ("model show iris-model:1", "/models/iris-model/versions/1"),
        ("replica list", "/replicas"),
        ("status", "/status"),
    ] {
        let body = admin.get(&format!("/api/v1{endpoint}")).await.text;
        assert!(!body.is_empty(), "{endpoint}");
        assert_eq!(
            skysail.done(&format!("{line} --output json")).await,
            body,
            "{line}"
        );
    }
}

async fn what_a_command_changed_is_its_json() {
    let (cluster, skysail) = with_iris().await;
    skysail
        .done(&format!(
            "model deploy iris-model:2 --image {} --input-type doubles",
            program("iris-svm")
        ))
        .await;
    for (line, endpoint) in [
        (
            "app register words --input-type strings --default-output none --slo 1s",
            "/applications/words",
        ),
        ("app update words --slo 2s", "/applications/words"),
        ("app unlink iris iris-model", "/applications/iris"),
        ("app link iris iris-model", "/applications/iris"),
        ("model set-version iris-model:1", "/models/iris-model"),
        (
            "model scale iris-model:2 0 --wait",
            "/models/iris-model/versions/2",
        ),
        (
            "model register by-hand:1 --input-type floats",
            "/models/by-hand/versions/1",
        ),
    ] {
        let said = skysail.done(&format!("{line} --output json")).await;
        let body = cluster.admin().get(&format!("/api/v1{endpoint}")).await.text;
        assert_eq!(said, body, "{line}");
    }
    // These endpoints answer without a body.
    for line in [
        "model delete iris-model:2",
        "model delete by-hand:1",
        "app delete words",
    ] {
        assert_eq!(skysail.done(&format!("{line} --output json")).await, "", "{line}");
    }
}

async fn tables_have_a_line_for_each_thing() {
    let (_cluster, skysail) = with_iris().await;
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let apps = skysail.done("app list").await;
    let lines: Vec<&str> = apps.lines().collect();
    assert_eq!(lines.len(), 2, "{apps}");
    assert_says(
        lines[0],
        &["NAME", "SIGNATURE", "SLO", "DEFAULT OUTPUT", "MODELS"],
    );
    assert_eq!(
        words(lines[1])[..5],
        ["iris", "doubles", "30s", "-1.0", "iris-model"]
    );

    let models = skysail.done("model list").await;
    let lines: Vec<&str> = models.lines().collect();
    assert_eq!(lines.len(), 2, "{models}");
    assert_eq!(words(lines[1])[..5], ["iris-model", "1", "*", "ready", "2/2"]);

    let replicas = skysail.done("replica list").await;
    let lines: Vec<&str> = replicas.lines().collect();
    assert_eq!(lines.len(), 3, "{replicas}");
    assert!(lines[1].starts_with("iris-model_1_0"), "{replicas}");
    assert!(lines[2].starts_with("iris-model_1_1"), "{replicas}");

    let page = skysail.done("model show iris-model").await;
    assert_says(
        &page,
        &[
            "iris-model:1 (current)",
            "2 of 2",
            "ready",
            "Answers:",
            "Linked applications:",
        ],
    );
    assert_says(
        &skysail.done("app show iris").await,
        &["POST /iris/predict", "iris-model", "30s"],
    );
}

async fn an_application_is_registered_changed_linked_and_deleted() {
    let (cluster, skysail) = with_iris().await;
    skysail
        .done("app register second --input-type doubles --default-output=-1.0 --slo 100ms")
        .await;
    assert_eq!(
        cluster.answer("second", json!([1.0])).await["default_reason"],
        "no_model_linked"
    );
    let updated = [
        "app",
        "update",
        "second",
        "--default-output",
        "no idea",
        "--slo",
        "30s",
    ];
    let said = skysail.hear(&updated, b"").await;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(cluster.answer("second", json!([1.0])).await["output"], "no idea");
    skysail.done("app link second iris-model").await;
    // What is so already is no mistake.
    skysail.done("app link second iris-model").await;
    assert_eq!(
        cluster.predict("second", json!([4.3, 2.0, 1.0, 0.1])).await,
        "setosa"
    );
    skysail.done("app unlink second iris-model").await;
    assert_eq!(
        cluster.answer("second", json!([1.0])).await["default_reason"],
        "no_model_linked"
    );
    skysail.done("app delete second").await;
    cluster
        .query("second", json!({ "input": [1.0] }))
        .await
        .cause(404);
    assert!(!skysail.done("app list").await.contains("second"));
}

async fn versions_are_switched_scaled_stopped_and_deleted() {
    let (cluster, skysail) = with_iris().await;
    let deploy = format!(
        "model deploy iris-model:2 --image {} --input-type doubles",
        program("iris-svm")
    );
    skysail.done(&deploy).await;
    let current = async || {
        let model = cluster.admin().get("/api/v1/models/iris-model").await.expect(200);
        model["current_version"].clone()
    };
    let switched = skysail.done("model set-version iris-model:1").await;
    assert_says(&switched, &["iris-model", "version 1"]);
    assert_eq!(current().await, "1");
    skysail.done("model set-version iris-model:2").await;
    assert_eq!(current().await, "2");

    // Without a version the current one is meant.
    let scaled = skysail.done("model scale iris-model 3 --wait").await;
    assert_says(&scaled, &["iris-model:2", "3 of 3"]);
    let scaled = skysail.done("model scale iris-model:1 1 --wait").await;
    assert_says(&scaled, &["iris-model:1", "1 of 1"]);
    cluster.attached("iris-model", 4).await;

    let stopped = skysail.done("model stop iris-model").await;
    assert_says(&stopped, &["stopped iris-model:1", "stopped iris-model:2"]);
    cluster.attached("iris-model", 0).await;
    assert_eq!(
        cluster.answer("iris", json!([1.0])).await["default_reason"],
        "no_replica"
    );
    skysail.done("model delete iris-model:1").await;
    let error = skysail.refused("model show iris-model:1").await;
    assert_says(&error, &["no version `1`", "versions: 2"]);
}

async fn a_version_that_never_becomes_ready_leaves_the_old_one_answering() {
    let (cluster, skysail) = with_iris().await;
    let deploy = format!(
        "model deploy iris-model:2 --image {} --input-type doubles --env SYNTHETIC_MODE=nonsense --replace",
        program("synthetic")
    );
    let said = skysail.refused(&deploy).await;
    assert_says(
        &said,
        &["iris-model:2 fails", "SYNTHETIC_MODE", "model show iris-model:2"],
    );
    let page = skysail.done("model show iris-model").await;
    assert_says(
        &page,
        &[
            "Answers:               version 1",
            "version 1 to 2, at 0 of 1 frontends; then the other versions are stopped",
            "`iris-model:2` has 0 of 1 replicas",
            "`iris-model:1` answers until it is ready",
            "SYNTHETIC_MODE",
        ],
    );
    assert_eq!(
        cluster.predict("iris", json!([7.9, 4.4, 6.9, 2.5])).await,
        "virginica"
    );
    let error = skysail.refused("model delete iris-model:1").await;
    assert_says(&error, &["`iris-model:1` answers until `iris-model:2` is ready"]);

    let back = skysail.done("model set-version iris-model:1").await;
    assert_says(&back, &["answers with version 1"]);
    skysail.done("model delete iris-model:2").await;
    assert_eq!(
        cluster.predict("iris", json!([7.9, 4.4, 6.9, 2.5])).await,
        "virginica"
    );
}

async fn a_version_that_is_stopped_becomes_current_once_it_is_scaled() {
    let (cluster, skysail) = with_iris().await;
    let deploy = format!(
        "model deploy iris-model:2 --image {} --input-type doubles",
        program("iris-svm")
    );
    skysail.done(&deploy).await;
    skysail.done("model stop iris-model:1").await;
    let said = skysail.say("model set-version iris-model:1").await;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_says(&said.out, &["turns to version 1"]);
    assert_says(
        &said.err,
        &["note:", "`skysail model scale iris-model:1 N` starts it"],
    );
    let status = skysail.done("status").await;
    assert_says(&status, &["`skysail model scale iris-model:1 N` starts it"]);
    assert_eq!(
        cluster.predict("iris", json!([7.9, 4.4, 6.9, 2.5])).await,
        "virginica"
    );

    skysail.done("model scale iris-model:1 2 --wait").await;
    let switched = skysail.done("model set-version iris-model:1").await;
    assert_says(&switched, &["answers with version 1"]);
}

async fn a_registered_model_answers_once_a_container_started_by_hand_attaches() {
    let (cluster, skysail) = empty().await;
    cluster.register("iris", "doubles", "-1.0", AMPLE_SLO).await;
    skysail
        .done("model register by-hand:1 --input-type doubles")
        .await;
    skysail.done("app link iris by-hand").await;
    assert_says(
        &skysail.done("model show by-hand").await,
        &["waiting", "0 attached"],
    );
    let refusal = skysail.refused("model scale by-hand 2").await;
    assert_says(&refusal, &["by-hand:1", "yourself"]);
    let _container = cluster.by_hand(&ByHand::of("iris-svm", "by-hand", "mine"));
    cluster.attached("by-hand", 1).await;
    assert_says(&skysail.done("replica list").await, &["mine", "by-hand"]);
    let output = skysail.done("predict iris [4.3,2.0,1.0,0.1]").await;
    assert_eq!(output.trim(), "setosa");
}

async fn a_deployment_carries_all_its_options() {
    let (cluster, skysail) = empty().await;
    let line = format!(
        "model deploy synthetic:1.0-RC1 --image {} --input-type strings --replicas 2 --batch-size 100 \
         --no-cache --cpus 0.5 --memory 512m --env SYNTHETIC_FIXED_MICROS=10 --env A=b=c",
        program("synthetic")
    );
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    skysail.done(&line).await;
    let version = cluster.version("synthetic", "1.0-RC1").await;
    assert_eq!(version["input_type"], "strings");
    assert_eq!(version["batch_size"].to_string().trim_matches('"'), "100");
    assert_eq!(version["max_batch"], Value::Null);
    assert_eq!(version["cache"], false);
    assert_eq!(version["replicas_attached"], 2);
    let deployment = &version["deployment"];
    assert_eq!(deployment["image"], program("synthetic"));
    assert_eq!(deployment["cpus"], 0.5);
    assert_eq!(deployment["memory_bytes"], 512 << 20);
    assert_eq!(
        deployment["env"],
        json!({ "SYNTHETIC_FIXED_MICROS": "10", "A": "b=c" })
    );
}

async fn a_deployment_warms_its_containers_up_before_they_take_queries() {
    let (cluster, skysail) = empty().await;
    let deploy = format!("model deploy synthetic:1 --image {}", program("synthetic"));
    let options = "--input-type doubles --max-batch 4 --env SYNTHETIC_REPORT_SEEN=1 --warm-up";
    let refusal = skysail.refused(&format!("{deploy} {options} \"text\"")).await;
    assert_says(&refusal, &["warm_up", "an array of numbers (input type doubles)"]);
    skysail.done(&format!("{deploy} {options} [1.5,2]")).await;
    assert_says(
        &skysail.done("model show synthetic").await,
        &["Warm-up", "[1.5,2]"],
    );
    cluster.register("app", "doubles", "-1.0", AMPLE_SLO).await;
    cluster.link("app", "synthetic").await;
    // The first query's input is not the first that the model sees. Of the sweep's 22, the rounds after the
    // very first batch end sooner on a machine that is busy.
    let first = cluster.predict("app", json!([1.0])).await;
    let seen = first["inputs_seen"].as_u64().unwrap();
    assert!((3..=1 + 22).contains(&seen), "{first}");
    let replica = &cluster.attached("synthetic", 1).await[0];
    assert_eq!(replica["inputs"], 1, "nobody asked for the warm-up's");
}

async fn an_executable_that_does_not_exist_fails_a_deployment_with_advice() {
    let (cluster, skysail) = empty().await;
    let line = "model deploy missing:1 --image /no/such/program --input-type doubles --replicas 3";
    let error = skysail.refused(line).await;
    assert_says(
        &error,
        &[
            "missing:1",
            "/no/such/program",
            "hint:",
            "skysail model delete missing:1",
        ],
    );
    let version = cluster.version("missing", "1").await;
    assert_eq!(version["state"], "failing");
    assert_eq!(version["last_failure"]["permanent"], true);
    assert_says(
        &skysail.done("model show missing").await,
        &["failing", "/no/such/program"],
    );
    assert_says(&skysail.done("status").await, &["Not well", "missing:1"]);
    skysail.done("model delete missing:1").await;
    assert_says(&skysail.done("status").await, &["All is well"]);
}

async fn a_container_that_exits_at_once_fails_a_deployment_with_its_last_lines() {
    let (_cluster, skysail) = empty().await;
    let line = format!(
        "model deploy ends:1 --image {} --input-type doubles --env SYNTHETIC_FIXED_MICROS=soon",
        program("synthetic")
    );
    let error = skysail.refused(&line).await;
    assert_says(
        &error,
        &[
            "ends:1",
            "exit code 2",
            "| ",
            "SYNTHETIC_FIXED_MICROS is `soon`",
            "hint:",
        ],
    );
    let page = skysail.done("model show ends").await;
    assert_says(
        &page,
        &["failing", "exit code 2", "SYNTHETIC_FIXED_MICROS is `soon`"],
    );
}

async fn a_deployment_that_need_not_be_waited_for_is_accepted_at_once() {
    let (_cluster, skysail) = empty().await;
    let line = "model deploy missing:1 --image /no/such/program --input-type doubles --no-wait";
    assert_says(&skysail.done(line).await, &["missing:1", "0 of 1"]);
}

async fn logs_are_followed_to_the_last_line() {
    let (cluster, skysail) = empty().await;
    cluster
        .serve(
            "numbers",
            &Deployment::synthetic().env("SYNTHETIC_REPORT_SEEN", "1"),
        )
        .await;
    let mut follower = skysail.start("model logs synthetic --follow");
    follower.log().line("attached to frontend").await;
    cluster.predict("numbers", json!([1.0])).await;
    skysail.done("model stop synthetic").await;
    let last = follower.log().line("inputs seen: 1").await;
    assert!(last.starts_with("synthetic_1_0 | "), "{last}");
    let ended = follower.end().await;
    assert!(ended.success(), "{ended}");
}

async fn a_log_that_is_followed_goes_on_with_replicas_that_come() {
    let (cluster, skysail) = with_iris().await;
    let mut follower = skysail.start("model logs iris-model --follow");
    follower.log().line("iris-model_1_1 | ").await;
    skysail.done("model scale iris-model 3 --wait").await;
    follower.log().line("iris-model_1_2 | ").await;
    skysail.done("model scale iris-model 1 --wait").await;
    follower.log().line("iris-model_1_2 -- the container ").await;
    skysail.done("model stop iris-model").await;
    follower.log().line("iris-model_1_0 -- the container ").await;
    let ended = follower.end().await;
    assert!(ended.success(), "{ended}");
    cluster.attached("iris-model", 0).await;
}

async fn a_version_without_a_log_is_told_apart_from_a_mistake() {
    let (cluster, skysail) = with_iris().await;
    let shown = skysail.done("model logs iris-model:1 --tail 1").await;
    assert_eq!(shown.lines().count(), 2, "a line of each replica: {shown}");
    for line in skysail.done("model logs iris-model --output json").await.lines() {
        let line: Value = serde_json::from_str(line).expect("a JSON object a line");
        assert!(line["replica"].is_string() && line["line"].is_string(), "{line}");
    }
    skysail.done("model stop iris-model").await;
    cluster.attached("iris-model", 0).await;
    skysail.done("model scale iris-model 0 --wait").await;
    let said = skysail.say("model logs iris-model").await;
    assert_eq!((said.code, &*said.out), (Some(0), ""), "{said:?}");
    assert_says(&said.err, &["note:", "skysail model show iris-model:1"]);
    let error = skysail.refused("model logs irs-model").await;
    assert_says(
        &error,
        &["`irs-model` does not exist", "did you mean `iris-model`?"],
    );
}

async fn an_input_is_an_argument_a_file_or_standard_input() {
    let (cluster, skysail) = with_iris().await;
    let output = skysail
        .hear(&["predict", "iris", "[7.9, 4.4, 6.9, 2.5]"], b"")
        .await;
    assert_eq!(output.out.trim(), "virginica", "{output:?}");
    let output = skysail
        .hear(&["predict", "iris", "-"], b"[5.84, 3.05, 3.76, 1.2]\n")
        .await;
    assert_eq!(output.out.trim(), "versicolor", "{output:?}");
    let file = cluster.folder().join("iris.json");
    fs::write(&file, "[4.3, 2.0, 1.0, 0.1]\n").expect("a file");
    let words = [
        "predict".as_ref(),
        "iris".as_ref(),
        "--file".as_ref(),
        file.as_os_str(),
    ];
    let output = skysail.hear(&words, b"").await;
    assert_eq!(output.out.trim(), "setosa", "{output:?}");

    let answer = skysail.done("predict iris [4.3,2.0,1.0,0.1] --output json").await;
    let answer: Value = serde_json::from_str(&answer).expect("the endpoint's body");
    assert_eq!(
        (&answer["output"], &answer["default"]),
        (&json!("setosa"), &json!(false))
    );
    let url = format!("http://{}", cluster.addresses().query);
    let line = format!("predict iris [4.3,2.0,1.0,0.1] --query-url {url}");
    assert_eq!(skysail.done(&line).await.trim(), "setosa");
}

async fn bytes_come_from_a_file_as_they_are() {
    let (cluster, skysail) = empty().await;
    cluster
        .serve("pictures", &Deployment::synthetic().taking("bytes"))
        .await;
    let picture = cluster.folder().join("picture");
    fs::write(&picture, [0, 159, 146, 150, b'\n']).expect("a file");
    let words = [
        "predict".as_ref(),
        "pictures".as_ref(),
        "--file".as_ref(),
        picture.as_os_str(),
    ];
    let from_file = skysail.hear(&words, b"").await;
    let in_base64 = skysail.done("predict pictures \"AJ+SlgoK\"").await;
    let same = skysail.done("predict pictures \"AJ+Slgo=\"").await;
    assert_eq!(from_file.out, same, "{from_file:?}");
    assert_ne!(from_file.out, in_base64, "another input has another digest");
}

async fn a_default_output_is_an_answer_with_a_note() {
    let (cluster, skysail) = empty().await;
    cluster.register("numbers", "doubles", "-1.0", AMPLE_SLO).await;
    cluster.register("words", "strings", "no idea", AMPLE_SLO).await;
    let said = skysail.say("predict numbers [1.0]").await;
    assert_eq!((said.code, said.out.trim()), (Some(0), "-1.0"), "{said:?}");
    assert_says(
        &said.err,
        &["note:", "no_model_linked", "No connected models found for query"],
    );
    // Plain text will do where strings are taken.
    let said = skysail.say("predict words hello").await;
    assert_eq!((said.code, said.out.trim()), (Some(0), "no idea"), "{said:?}");
}

async fn tensors_are_declared_asked_from_numpy_files_and_shown() {
    let (_cluster, skysail) = empty().await;
    let declared = "--in image:FP32[2,3] --out image:FP32[2,3] --out more:FP32[1000]";
    let deploy = format!("model deploy echo:1 --image {} {declared}", program("noop"));
    skysail.done(&deploy).await;
    let page = skysail.done("model show echo:1").await;
    assert_says(
        &page,
        &["Inputs:", "image:FP32[2,3]", "Outputs:", "more:FP32[1000]"],
    );
    let registered = "app register photos --like echo --default-output null --slo 30s";
    assert_says(
        &skysail.done(registered).await,
        &["image:FP32[2,3] -> image:FP32[2,3]"],
    );
    skysail.done("app link photos echo").await;

    let shown = "image: [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]";
    let sample = |name: &str| {
        format!(
            "{}/../admin-cli/src/numpy/samples/{name}",
            env!("CARGO_MANIFEST_DIR")
        )
    };
    for input in [
        "[[0,1,2],[3,4,5]]".to_owned(),
        r#"{"image":[[0,1,2],[3,4,5]]}"#.to_owned(),
        format!("@{}", sample("float32.npy")),
        format!("@{}", sample("fortran.npy")),
        format!("--file {}", sample("float16.npy")),
    ] {
        let answer = skysail.done(&format!("predict photos {input}")).await;
        let lines: Vec<_> = answer.lines().collect();
        assert_eq!(lines[0], shown, "{input}");
        assert!(
            lines[1].starts_with("more: [") && lines[1].ends_with("… 996 more …]"),
            "{answer}"
        );
    }
    let whole = skysail
        .done("predict photos [[0,1,2],[3,4,5]] --output json")
        .await;
    let whole: Value = serde_json::from_str(&whole).unwrap();
    assert_eq!(whole["output"]["more"].as_array().map(Vec::len), Some(1000));
    for (line, parts) in [
        (
            format!("predict photos @{}", sample("float64.npy")),
            &["float64", "a.astype(\"float32\")"][..],
        ),
        (
            format!("predict photos @{}", sample("scalar.npy")),
            &["shape []", "image:FP32[2,3]"],
        ),
        (
            format!("predict photos @{}", sample("objects.npy")),
            &["Python objects"],
        ),
        (
            "predict photos [[0,1,2]".to_owned(),
            &["not valid JSON", "@inputs.npz"],
        ),
        ("predict photos [[0,1,2],[3,4]]".to_owned(), &["image"]),
    ] {
        assert_says(&skysail.refused(&line).await, parts);
    }

    let batch = "app register rows --in image:FP32[3] --default-output null --slo 30s";
    skysail.done(batch).await;
    let said = skysail
        .say(&format!("predict rows @{}", sample("float32.npy")))
        .await;
    assert_eq!((said.code, &*said.out), (Some(0), "null\nnull\n"), "{said:?}");
    assert_says(&said.err, &["input 1: this is the default output", "input 2: "]);

    let report = skysail
        .done("bench photos --rate 50 --duration 1s --output json")
        .await;
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["inputs"], "generated tensors, no two alike");
    assert_eq!(report["in_time"], report["offered"], "{report}");
}

async fn mistakes_are_told_once_with_what_to_do() {
    let (_cluster, skysail) = with_iris().await;
    skysail
        .done("app register words --input-type strings --default-output none --slo 1s")
        .await;
    let iris_svm = program("iris-svm");
    let deploy_again = format!("model deploy iris-model:1 --image {iris_svm} --input-type doubles");
    let of_another_type = format!("model deploy iris-model:2 --image {iris_svm} --input-type floats");
    for (line, parts) in [
        (
            "app register iris --input-type doubles --default-output=-1.0 --slo 1s",
            &["already registered", "app update"][..],
        ),
        (
            "app show irsi",
            &["`irsi` does not exist", "did you mean `iris`?"],
        ),
        (
            "app update nothing --slo 1s",
            &["`nothing` does not exist", "iris, words"],
        ),
        ("app delete nothing", &["`nothing` does not exist", "iris, words"]),
        (
            "app link iris nothing",
            &["model `nothing` does not exist", "iris-model"],
        ),
        (
            "app link nothing iris-model",
            &["application `nothing` does not exist"],
        ),
        (
            "app link words iris-model",
            &["doubles", "strings", "same input type"],
        ),
        ("app unlink words iris-model", &["words", "iris-model"]),
        (
            &deploy_again,
            &["already has a version `1`", "model scale iris-model:1"],
        ),
        (&of_another_type, &["iris-model"]),
        ("model show iris-model:7", &["no version `7`", "versions: 1"]),
        (
            "model set-version iris-model:7",
            &["no version `7`", "versions: 1"],
        ),
        ("model scale nothing 2", &["model `nothing` does not exist"]),
        ("model stop nothing", &["model `nothing` does not exist"]),
        ("model delete iris-model:1", &["app unlink iris iris-model"]),
        ("predict nothing [1.0]", &["application `nothing` does not exist"]),
        ("predict iris [1.0,", &["not valid JSON", "[7.9, 4.4, 6.9, 2.5]"]),
        ("predict iris [\"a\"]", &["expected a number"]),
        ("predict iris --file /no/such/file", &["/no/such/file"]),
    ] {
        let error = skysail.refused(line).await;
        assert_says(&error, &[parts, &["error: "]].concat());
        assert_eq!(error.matches("error: ").count(), 1, "`{line}`:\n{error}");
    }
}

async fn mistakes_in_the_line_are_told_before_anything_is_sent() {
    // Nobody listens at port 1: whatever were sent would fail otherwise.
    let skysail = Skysail::default().env("SKYSAIL_ADMIN_URL", "http://127.0.0.1:1");
    let register = "app register iris --default-output x";
    for (line, part) in [
        (
            format!("{register} --input-type double --slo 1s"),
            "bytes, integers, floats, doubles, strings",
        ),
        (
            format!("{register} --input-type doubles --slo -1s"),
            "at least one microsecond",
        ),
        (
            format!("{register} --input-type doubles --slo 0s"),
            "at least one microsecond",
        ),
        (format!("{register} --input-type doubles --slo 100"), "`100ms`"),
        (format!("{register} --slo 1s"), "--like"),
        (
            format!("{register} --slo 1s --input-type tensors"),
            "--in and --out",
        ),
        (
            "model deploy m:1 --image x --input-type doubles --in x:FP32".into(),
            "leave --in out",
        ),
        ("model register m:1 --in x:FLOAT".into(), "FP32"),
        ("model register m:1 --signature /no/such".into(), "cannot be read"),
        ("app show Not-A-Name".into(), "lower-case letters"),
        ("app update iris".into(), "--slo"),
        (
            "model deploy iris-model --image x --input-type doubles".into(),
            "iris-model",
        ),
        (
            "model deploy m:1 --image x --input-type doubles --memory lots".into(),
            "512m",
        ),
        ("model scale iris-model many".into(), "many"),
        ("predict iris".into(), "INPUT"),
        ("completions tcsh".into(), "zsh"),
        ("no-such-noun".into(), "no-such-noun"),
    ] {
        let said = skysail.say(&line).await;
        assert_eq!(said.code, Some(2), "`{line}`: {said:?}");
        assert_eq!(said.out, "", "{line}");
        assert_says(&said.err, &[part]);
    }
}

async fn without_a_frontend_it_says_what_to_start() {
    let skysail = Skysail::default().env("SKYSAIL_ADMIN_URL", "http://127.0.0.1:1");
    for line in [
        "status",
        "app list",
        "model list",
        "replica list",
        "predict iris [1.0]",
    ] {
        let error = skysail.refused(line).await;
        assert_says(
            &error,
            &["http://127.0.0.1:1", "skysail start", "SKYSAIL_ADMIN_URL"],
        );
    }
    let elsewhere = skysail.refused("status --admin-url http://127.0.0.1:2").await;
    assert_says(&elsewhere, &["http://127.0.0.1:2"]);
}

async fn without_docker_a_cluster_is_not_started() {
    let skysail = Skysail::default().env("DOCKER_HOST", "unix:///no/such/docker.sock");
    for line in ["start", "stop"] {
        let error = skysail.refused(line).await;
        assert_says(
            &error,
            &["Docker", "/no/such/docker.sock", "hint:", "skysail-frontend"],
        );
    }
    let remote = Skysail::default().env("DOCKER_HOST", "tcp://127.0.0.1:1");
    assert_says(&remote.refused("start").await, &["DOCKER_HOST", "unix"]);
}

async fn completions_complete_in_a_shell() {
    let skysail = Skysail::default();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = skysail.done(&format!("completions {shell}")).await;
        assert_says(&script, &["skysail", "set-version", "default-output"]);
    }
    // What a person does with it, in the one shell that is everywhere.
    let script = skysail.done("completions bash").await;
    let asked = "COMP_WORDS=(skysail model s); COMP_CWORD=2; _skysail skysail s model; echo ${COMPREPLY[@]}";
    let completed = Command::new("bash")
        .args(["-c", &format!("{script}\n{asked}")])
        .output()
        .expect("bash is everywhere");
    let completed = String::from_utf8_lossy(&completed.stdout).into_owned();
    assert_eq!(completed.trim(), "show set-version scale stop");
}
