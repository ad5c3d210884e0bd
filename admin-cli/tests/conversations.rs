//! The command as a person meets it, against a scripted server: what it sends, what it prints where, and
//! how it ends. Whole paths against the real server are tested in the `tests` crate.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

const STATUS: &str = r#"{"cluster": "c", "version": "0", "store": {"kind": "embedded", "location": "x",
    "up": true, "generation": 1}, "runtime": {"kind": "process", "up": true}, "applications": 0, "models": 0,
    "replicas": 0, "problems": [], "frontends": []}"#;

/// One application, spaced as no serializer would: the body must come through as it is.
const APPLICATIONS: &str = "[ {\"name\":\"iris\",   \"input_type\":\"strings\",\"default_output\":\"-1.0\",\
    \"slo_micros\":100000,\"linked_models\":[],\"registered_at\":\"2026-01-01T00:00:00Z\",\"new\":1} ]\n";

/// What is answered to a request, by its first line ("GET /path"); several answers take turns.
type Answers = HashMap<String, Vec<(u16, String)>>;

/// Answers requests, and notes the bodies that came.
struct Script {
    address: SocketAddr,
    bodies: Arc<Mutex<Vec<String>>>,
}

impl Script {
    /// Starts a server; what it has no answer for is "not found" as the admin API says it.
    fn start(answers: &[(&str, u16, &str)]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let mut script = Answers::new();
        for &(request, status, body) in answers {
            let turns = script.entry(request.to_owned()).or_default();
            turns.push((status, body.to_owned()));
        }
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&bodies);
        // The thread ends with the test's process; it holds nothing that outlives it.
        thread::spawn(move || {
            for stream in listener.incoming() {
                answer(&stream.unwrap(), &mut script, &noted);
            }
        });
        Self { address, bodies }
    }

    fn skysail(&self, arguments: &[&str]) -> Output {
        skysail(&format!("http://{}", self.address), arguments)
    }

    fn bodies(&self) -> Vec<String> {
        self.bodies.lock().unwrap().clone()
    }
}

fn answer(stream: &TcpStream, answers: &mut Answers, bodies: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).unwrap();
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        if header.trim().is_empty() {
            break;
        }
        if let Some(value) = header.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    if !body.is_empty() {
        bodies.lock().unwrap().push(String::from_utf8(body).unwrap());
    }
    // Whoever connects may have nothing to ask after all.
    let Some((request, _)) = first.rsplit_once(" HTTP") else {
        return;
    };
    let mut missing = vec![(404, problem(404, "no such thing"))];
    let turns = answers.get_mut(request).unwrap_or(&mut missing);
    let (status, body) = turns[0].clone();
    turns.rotate_left(1);
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let mut writer = stream;
    // A client that has seen enough may be gone.
    let _ = writer
        .write_all(head.as_bytes())
        .and_then(|()| writer.write_all(body.as_bytes()));
}

fn problem(status: u16, detail: &str) -> String {
    format!(r#"{{"type": "urn:skysail:x", "title": "X", "status": {status}, "detail": "{detail}"}}"#)
}

fn skysail(admin_url: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_skysail"))
        .args(arguments)
        .env("SKYSAIL_ADMIN_URL", admin_url)
        .env_remove("SKYSAIL_QUERY_URL")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A version's document in a state, with what else is to be said of it.
fn version(state: &str, attached: u32, more: &str) -> String {
    format!(
        r#"{{"model": "m", "version": "1", "current": true, "input_type": "doubles", "batch_size": "adaptive",
        "max_batch": 64, "cache": true, "deployment": {{"image": "i", "replicas": 2}},
        "registered_at": "2026-01-01T00:00:00Z", "state": "{state}", "replicas_desired": 2,
        "replicas_attached": {attached}, "containers": [], "restarts": 0{more}}}"#
    )
}

const MODEL: &str = "GET /api/v1/models/m";

/// A model's document with one version, and what else is to be said of it.
fn model(more: &str, version: &str) -> String {
    format!(
        r#"{{"name": "m", "current_version": "1", "linked_applications": [], "versions": [{version}]{more}}}"#
    )
}

/// A change from version 0 to version 1 that so many of two frontends have made.
fn rollout(switched: u32, waits_for: &str) -> String {
    format!(
        r#", "rollout": {{"from": "0", "to": "1", "replace": true, "frontends": 2, "switched": {switched},
        "waits_for": "{waits_for}"}}"#
    )
}

#[test]
fn nobody_listening_is_told_once_on_stderr_with_advice() {
    // Bound and dropped: nobody listens there now.
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap();
    let output = skysail(&format!("http://{address}"), &["status"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "");
    let stderr = text(&output.stderr);
    let error = format!("error: cannot reach the admin API at http://{address}: connection refused\n");
    assert!(stderr.starts_with(&error), "{stderr}");
    assert_eq!(stderr.matches("refused").count(), 1, "{stderr}");
    assert!(
        stderr.contains("hint: is a frontend running? `skysail start`"),
        "{stderr}"
    );
}

#[test]
fn json_output_is_the_endpoints_body_byte_for_byte() {
    let script = Script::start(&[("GET /api/v1/applications", 200, APPLICATIONS)]);
    let output = script.skysail(&["app", "list", "--output", "json"]);
    assert!(output.status.success());
    assert_eq!(text(&output.stdout), APPLICATIONS);
}

#[test]
fn a_refusal_is_told_in_the_servers_words() {
    let taken = problem(409, "application `iris` exists already");
    let script = Script::start(&[("POST /api/v1/applications", 409, &taken)]);
    let line = "app register iris --input-type doubles --default-output -1.0 --slo 100ms";
    let output = script.skysail(&line.split(' ').collect::<Vec<_>>());
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "error: application `iris` exists already\n");
    let sent: serde_json::Value = serde_json::from_str(&script.bodies()[0]).unwrap();
    let expected = serde_json::json!({
        "name": "iris", "input_type": "doubles", "default_output": "-1.0", "slo_micros": 100_000
    });
    assert_eq!(sent, expected);
}

#[test]
fn an_application_that_does_not_exist_is_answered_with_the_one_that_was_meant() {
    let script = Script::start(&[("GET /api/v1/applications", 200, APPLICATIONS)]);
    let output = script.skysail(&["app", "show", "irsi"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text(&output.stderr),
        "error: application `irsi` does not exist\nhint: did you mean `iris`?\n"
    );
}

#[test]
fn an_admin_url_that_names_something_else_is_told_so() {
    let script = Script::start(&[("GET /api/v1/status", 200, "<html>")]);
    let output = script.skysail(&["status"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("cannot be read"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn text_that_is_no_json_is_a_string_where_the_application_takes_strings() {
    let application = APPLICATIONS.trim().trim_matches(['[', ']']);
    let script = Script::start(&[
        ("GET /api/v1/applications/iris", 200, application),
        (
            "POST /iris/predict",
            200,
            r#"{"query_id": 1, "output": "b", "default": true, "default_reason": "no_replica"}"#,
        ),
    ]);
    let url = format!("http://{}", script.address);
    let output = script.skysail(&["predict", "iris", "say \"hi\"", "--query-url", &url]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "b\n");
    assert_eq!(
        text(&output.stderr),
        "note: this is the default output (no_replica)\n"
    );
    assert_eq!(script.bodies(), [r#"{"input": "say \"hi\""}"#]);
}

/// An application that sends and expects tensors.
const PHOTOS: &str = r#"{"name": "photos", "input_type": "tensors", "signature": {
    "inputs": [{"name": "image", "datatype": "FP32", "shape": [2, 3]}],
    "outputs": [{"name": "p", "datatype": "FP32", "shape": [1000]}]}, "default_output": "null",
    "slo_micros": 100000, "linked_models": [], "registered_at": "2026-01-01T00:00:00Z"}"#;

/// The path of a file that NumPy wrote.
fn sample(name: &str) -> String {
    format!("@{}/src/numpy/samples/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn tensors_and_the_model_that_has_them_are_sent_as_the_admin_api_takes_them() {
    let script = Script::start(&[("POST /api/v1/applications", 201, PHOTOS)]);
    let rest = "--default-output null --slo 100ms";
    for (line, expected) in [
        ("--like m", serde_json::json!({"like": "m"})),
        (
            "--in image:FP32[2,3] --out p:FP32[-1] --no-batch-dimension",
            serde_json::json!({"input_type": "tensors", "signature": {
                "inputs": [{"name": "image", "datatype": "FP32", "shape": [2, 3]}],
                "outputs": [{"name": "p", "datatype": "FP32", "shape": [-1]}], "batched": false}}),
        ),
    ] {
        let line = format!("app register photos {line} {rest}");
        let output = script.skysail(&line.split(' ').collect::<Vec<_>>());
        assert!(output.status.success(), "{}", text(&output.stderr));
        let told = "registered application photos (image:FP32[2,3] -> p:FP32[1000], answers within 100ms";
        assert!(text(&output.stdout).starts_with(told), "{}", text(&output.stdout));
        let sent = script.bodies().pop().unwrap();
        let mut sent: serde_json::Value = serde_json::from_str(&sent).unwrap();
        let sent = sent.as_object_mut().unwrap();
        for member in ["name", "default_output", "slo_micros"] {
            assert!(sent.remove(member).is_some(), "{member}");
        }
        assert_eq!(serde_json::json!(sent), expected);
    }
    let output = script.skysail(&[
        "app",
        "register",
        "photos",
        "--input-type",
        "tensors",
        "--slo",
        "1s",
        "--default-output",
        "null",
    ]);
    assert_eq!(output.status.code(), Some(2));
    let told = "error: an application says which tensors it takes: declare them with --in and --out, or name the model \
                that takes them with --like\n";
    assert_eq!(text(&output.stderr), told);
}

#[test]
fn a_numpy_file_is_asked_as_tensors_and_long_answers_are_shortened() {
    let numbers: Vec<u32> = (0..1000).collect();
    let answer = serde_json::json!({"query_id": 1, "output": {"p": numbers}, "default": false});
    let script = Script::start(&[
        ("GET /api/v1/applications/photos", 200, PHOTOS),
        ("POST /photos/predict", 200, &answer.to_string()),
    ]);
    let url = format!("http://{}", script.address);
    let file = sample("fortran.npy");
    let output = script.skysail(&["predict", "photos", &file, "--query-url", &url]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "p: [0, 1, 2, 3, … 996 more …]\n");
    assert_eq!(
        script.bodies(),
        [r#"{"input": {"image":[[0.0,1.0,2.0],[3.0,4.0,5.0]]}}"#]
    );
    let output = script.skysail(&["predict", "photos", &file, "--query-url", &url, "-o", "json"]);
    assert_eq!(text(&output.stdout), answer.to_string());
    let output = script.skysail(&["predict", "photos", &sample("float64.npy"), "--query-url", &url]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text(&output.stderr),
        "error: the NumPy file cannot be asked: the array is float64 and tensor image:FP32[2,3] is FP32; convert it \
         first, as in a.astype(\"float32\")\n"
    );
    let output = script.skysail(&["predict", "photos", "[[1,2", "--query-url", &url]);
    let hint = "hint: tensors are written as in '{\"image\": [[…]]}', or come from a NumPy file, as in @inputs.npz\n";
    assert!(text(&output.stderr).ends_with(hint), "{}", text(&output.stderr));
}

#[test]
fn an_array_with_a_dimension_more_is_asked_as_several_inputs() {
    let application = PHOTOS.replace("[2, 3]", "[3]");
    let answer = r#"{"batch_predictions": [
        {"query_id": 1, "output": {"p": [0.5]}, "default": false},
        {"query_id": 2, "output": null, "default": true, "default_reason": "no_replica"}]}"#;
    let script = Script::start(&[
        ("GET /api/v1/applications/photos", 200, &application),
        ("POST /photos/predict", 200, answer),
    ]);
    let url = format!("http://{}", script.address);
    let output = script.skysail(&["predict", "photos", &sample("float32.npy"), "--query-url", &url]);
    assert_eq!(text(&output.stdout), "p: [0.5]\nnull\n");
    assert_eq!(
        text(&output.stderr),
        "note: input 2: this is the default output (no_replica)\n"
    );
    assert_eq!(
        script.bodies(),
        [r#"{"input_batch": [{"image":[0.0,1.0,2.0]},{"image":[3.0,4.0,5.0]}]}"#]
    );
}

#[test]
fn a_deployment_is_waited_for_until_its_replicas_are_attached() {
    let script = Script::start(&[
        ("POST /api/v1/models/m/versions", 201, &version("starting", 0, "")),
        ("GET /api/v1/models/m/versions/1", 200, &version("ready", 2, "")),
        (MODEL, 200, &model("", &version("ready", 2, ""))),
    ]);
    let line = "model deploy m:1 --image i --input-type doubles --replicas 2 --env A=b --memory 1m";
    let output = script.skysail(&line.split(' ').collect::<Vec<_>>());
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "deployed m:1: 2 of 2 replicas attached\n");
    let sent: serde_json::Value = serde_json::from_str(&script.bodies()[0]).unwrap();
    let expected = serde_json::json!({
        "version": "1", "input_type": "doubles", "batch_size": "adaptive", "cache": true,
        "replace": false,
        "deployment": {"image": "i", "replicas": 2, "memory_bytes": 1_048_576, "env": {"A": "b"}}
    });
    assert_eq!(sent, expected);
}

#[test]
fn a_deployment_that_cannot_work_ends_the_waiting_with_the_reason_and_the_last_lines() {
    let failure = r#", "last_failure": {"at": "2026-01-01T00:00:00Z", "replica": "m_1_0", "reason": "no such image",
        "permanent": true, "log": ["the last line"]}"#;
    let script = Script::start(&[
        ("POST /api/v1/models/m/versions", 201, &version("starting", 0, "")),
        (
            "GET /api/v1/models/m/versions/1",
            200,
            &version("failing", 0, failure),
        ),
    ]);
    let output = script.skysail(&[
        "model",
        "deploy",
        "m:1",
        "--image",
        "i",
        "--input-type",
        "doubles",
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "");
    let stderr = text(&output.stderr);
    assert!(
        stderr.starts_with("error: m:1 fails: no such image\n  | the last line\nhint: "),
        "{stderr}"
    );
}

#[test]
fn a_deployment_is_waited_for_until_every_frontend_answers_with_it() {
    let ready = version("ready", 2, "");
    let script = Script::start(&[
        ("POST /api/v1/models/m/versions", 201, &version("starting", 0, "")),
        (
            "GET /api/v1/models/m/versions/1",
            200,
            &version("starting", 2, r#", "replicas_everywhere": 1"#),
        ),
        ("GET /api/v1/models/m/versions/1", 200, &ready),
        (MODEL, 200, &model(&rollout(1, "the traffic is moving"), &ready)),
        (MODEL, 200, &model("", &ready)),
    ]);
    let line = "model deploy m:1 --image i --input-type doubles --replicas auto:2..8 --gpus 1 --replace";
    let output = script.skysail(&line.split(' ').collect::<Vec<_>>());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let told = "m:1: 2 of 2 replicas attached, 1 to every frontend\nm:1: moving traffic: 1 of 2 frontends\n";
    assert_eq!(text(&output.stderr), told);
    let sent: serde_json::Value = serde_json::from_str(&script.bodies()[0]).unwrap();
    let expected =
        serde_json::json!({"image": "i", "replicas": 2, "autoscale": {"min": 2, "max": 8}, "gpus": 1});
    assert_eq!((&sent["deployment"], &sent["replace"]), (&expected, &true.into()));
}

#[test]
fn a_switch_is_waited_for_and_ends_at_once_when_the_version_fails() {
    let put = "PUT /api/v1/models/m/current-version";
    let get = "GET /api/v1/models/m/versions/1";
    let starting = version("starting", 0, "");
    let failure = r#", "last_failure": {"at": "2026-01-01T00:00:00Z", "replica": "m_1_0", "reason": "no such image",
        "permanent": true, "log": ["the last line"]}"#;
    let failing = version("failing", 0, failure);
    let underway = rollout(0, "replicas are missing");
    let script = Script::start(&[
        (get, 200, &starting),
        (put, 200, &model(&underway, &starting)),
        (MODEL, 200, &model(&underway, &starting)),
        (MODEL, 200, &model(&underway, &failing)),
    ]);
    let output = script.skysail(&["model", "set-version", "m:1"]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    for part in [
        "m:1: 0 of 2 replicas attached\n",
        "error: m:1 fails: no such image\n  | the last line\n",
    ] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }

    let output = script.skysail(&["model", "set-version", "m:1", "--no-wait"]);
    assert_eq!(
        text(&output.stdout),
        "model m turns to version 1: replicas are missing\n"
    );
}

#[test]
fn a_switch_to_a_version_that_is_stopped_says_what_it_waits_for() {
    let stopped = version("stopped", 0, "").replace(r#""replicas_desired": 2"#, r#""replicas_desired": 0"#);
    let turning = model(&rollout(0, "`skysail model scale m:1 N` starts it"), &stopped);
    let script = Script::start(&[
        ("GET /api/v1/models/m/versions/1", 200, &stopped),
        ("PUT /api/v1/models/m/current-version", 200, &turning),
        (MODEL, 200, &turning),
    ]);
    let output = script.skysail(&["model", "set-version", "m:1"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(
        text(&output.stderr),
        "note: `skysail model scale m:1 N` starts it\n"
    );
}

#[test]
fn a_version_is_scaled_to_a_number_or_to_bounds() {
    let script = Script::start(&[(
        "PUT /api/v1/models/m/versions/1/replicas",
        200,
        &version("ready", 2, ""),
    )]);
    for (replicas, body) in [
        ("2", serde_json::json!({"count": 2})),
        (
            "auto:1..8",
            serde_json::json!({"autoscale": {"min": 1, "max": 8}}),
        ),
    ] {
        let output = script.skysail(&["model", "scale", "m:1", replicas]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let sent: serde_json::Value = serde_json::from_str(script.bodies().last().unwrap()).unwrap();
        assert_eq!(sent, body);
    }
    let output = script.skysail(&["model", "scale", "m:1", "auto:3..1"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr).contains("auto:MIN..MAX"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn of_several_frontends_the_first_that_is_ready_is_asked() {
    let not_ready = r#"{"ready": false, "degraded": [], "reasons": ["draining"]}"#;
    let draining = Script::start(&[("GET /readyz", 503, not_ready)]);
    let ready = Script::start(&[
        ("GET /readyz", 200, "{}"),
        (
            "POST /iris/predict",
            200,
            r#"{"query_id": 1, "output": "b", "default": false}"#,
        ),
    ]);
    // Bound and dropped: nobody listens there now.
    let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addresses = [gone.local_addr().unwrap(), draining.address, ready.address];
    drop(gone);
    let frontends = addresses.map(|address| {
        format!(
            r#"{{"id": "f", "query_addr": "{address}", "admin_addr": "", "rpc_addr": "",
                "started_at": "2026-01-01T00:00:00Z"}}"#
        )
    });
    let status = STATUS.replace("[]}", &format!("[{}]}}", frontends.join(",")));
    let admin = Script::start(&[("GET /api/v1/status", 200, &status)]);
    let output = admin.skysail(&["predict", "iris", "1"]);
    assert_eq!(text(&output.stdout), "b\n", "{}", text(&output.stderr));
}

#[test]
fn a_status_that_is_watched_goes_on_without_the_frontend_and_ends_on_ctrl_c() {
    let script = Script::start(&[
        ("GET /api/v1/status", 200, STATUS),
        ("GET /api/v1/status", 503, &problem(503, "it is away")),
        ("GET /api/v1/replicas", 200, "[]"),
        ("GET /api/v1/models", 200, "[]"),
    ]);
    let mut watching = Command::new(env!("CARGO_BIN_EXE_skysail"))
        .args(["status", "--watch"])
        .env("SKYSAIL_ADMIN_URL", format!("http://{}", script.address))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut seen = |part: &str| {
        let found = lines.find(|line| line.as_ref().unwrap().contains(part));
        assert!(found.is_some(), "{part}");
    };
    for part in [
        "All is well",
        "no replica is attached",
        "it is away",
        "All is well",
    ] {
        seen(part);
    }
    let pid = rustix::process::Pid::from_child(&watching);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert!(watching.wait().unwrap().success());
}

#[test]
fn a_path_is_made_absolute_for_the_process_runtime() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model"), "").unwrap();
    let script = Script::start(&[
        ("GET /api/v1/status", 200, STATUS),
        ("POST /api/v1/models/m/versions", 201, &version("starting", 0, "")),
    ]);
    let output = Command::new(env!("CARGO_BIN_EXE_skysail"))
        .args("model deploy m:1 --image model --input-type doubles --no-wait".split(' '))
        .env("SKYSAIL_ADMIN_URL", format!("http://{}", script.address))
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let sent: serde_json::Value = serde_json::from_str(&script.bodies()[0]).unwrap();
    // The system may know the folder by a longer name.
    let full = folder.path().canonicalize().unwrap().join("model");
    assert_eq!(sent["deployment"]["image"], full.to_str().unwrap());
}

/// The application in [`APPLICATIONS`].
fn application() -> &'static str {
    APPLICATIONS.trim().trim_matches(['[', ']'])
}

#[test]
fn a_bench_counts_every_query_as_what_became_of_it() {
    let query = "POST /iris/predict";
    let default = r#"{"query_id": 2, "output": -1.0, "default": true, "default_reason": "no_replica"}"#;
    let script = Script::start(&[
        ("GET /api/v1/applications/iris", 200, application()),
        (query, 200, r#"{"query_id": 1, "output": "b", "default": false}"#),
        (query, 200, default),
        (query, 503, r#"{"error": "not_ready", "cause": "not yet"}"#),
        (query, 200, "<html>"),
    ]);
    let url = format!("http://{}", script.address);
    let line = "bench iris --rate 400 --duration 500ms --output json --query-url";
    let mut words: Vec<_> = line.split(' ').collect();
    words.extend([&url[..], "--slo", "1h", "--input", r#""a""#, "--input", r#""b""#]);
    let output = script.skysail(&words);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let bodies = script.bodies();
    // The answers take turns, in the order in which queries come.
    let turns = |turn: usize| (bodies.len() + 3 - turn) / 4;
    for (member, expected) in [
        ("offered", bodies.len()),
        ("sent", bodies.len()),
        ("in_time", turns(0)),
        ("late", 0),
        ("defaulted", turns(1)),
        ("failed", turns(2) + turns(3)),
    ] {
        assert_eq!(report[member], expected, "{member} in {report}");
    }
    assert_eq!(report["defaults"], serde_json::json!({ "no_replica": turns(1) }));
    let errors = serde_json::json!({ "status_503": turns(2), "unreadable": turns(3) });
    assert_eq!(report["errors"], errors);
    assert_eq!(report["slo_micros"], 3_600_000_000_u64);
    let asked = |input: &str| format!(r#"{{"input":"{input}","slo_micros":3600000000}}"#);
    let known = [asked("a"), asked("b")];
    assert!(bodies.iter().all(|body| known.contains(body)), "{bodies:?}");
}

#[test]
fn a_bench_without_inputs_asks_something_else_every_time() {
    let script = Script::start(&[
        ("GET /api/v1/applications/iris", 200, application()),
        (
            "POST /iris/predict",
            200,
            r#"{"query_id": 1, "output": "b", "default": false}"#,
        ),
    ]);
    let url = format!("http://{}", script.address);
    let line = "bench iris --rate 200 --duration 500ms --query-url";
    let output = script.skysail(&line.split(' ').chain([&url[..]]).collect::<Vec<_>>());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let bodies = script.bodies();
    let different: HashSet<_> = bodies.iter().collect();
    assert_eq!(different.len(), bodies.len(), "{bodies:?}");
    // The application's own objective need not be sent.
    assert!(!bodies[0].contains("slo_micros"), "{}", bodies[0]);
    let told = text(&output.stdout);
    for part in [
        "iris: poisson arrivals, 200 queries/s for 500ms, SLO 100ms, generated strings, no two alike",
        &format!("offered                {}", bodies.len()),
        "the sender's lateness",
    ] {
        assert!(told.contains(part), "`{part}` is not in:\n{told}");
    }
}

#[test]
fn a_bench_that_nobody_answers_is_a_failure_with_its_counts() {
    let script = Script::start(&[("GET /api/v1/applications/iris", 200, application())]);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let line = format!("bench iris --rate 100 --duration 200ms --output json --query-url {url}");
    let words: Vec<_> = line.split(' ').collect();
    // Takes every connection and closes it, for as long as the test's process lives.
    thread::spawn(move || {
        for stream in listener.incoming() {
            drop(stream.unwrap());
        }
    });
    let output = script.skysail(&words);
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["errors"]["connection"], report["offered"]);
    assert_eq!(report["latency_micros"]["answers"], serde_json::Value::Null);
    let stderr = text(&output.stderr);
    let error = format!(
        "error: none of {0} queries was answered: connection {0}\n",
        report["offered"]
    );
    assert!(stderr.contains(&error), "{stderr}");

    // Bound and dropped: nobody listens there now.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let output = script.skysail(&["bench", "iris", "--rate", "100", "--query-url", &url]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "");
    let error = format!("error: cannot reach the query API at {url}: connection refused\n");
    assert!(
        text(&output.stderr).starts_with(&error),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn mistakes_of_a_bench_are_told_before_anything_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace.csv");
    std::fs::write(&trace, "TIMESTAMP\n2024-01-01 00:00:00\nsoon\n").unwrap();
    let arrivals = format!("trace:{}", trace.display());
    let plot = format!("{}/nowhere/x.svg", folder.path().display());
    let script = Script::start(&[
        ("GET /api/v1/applications", 200, APPLICATIONS),
        ("GET /api/v1/applications/iris", 200, application()),
    ]);
    let url = format!("http://{}", script.address);
    for (application, words, code, expected) in [
        ("iris", &["--plot", "x.png"][..], 2, "ends in .svg"),
        ("iris", &["--rate", "0"], 2, "greater than 0"),
        (
            "iris",
            &["--arrivals", "steady"],
            2,
            "poisson, bursty or trace:FILE",
        ),
        ("iris", &["--duration", "30"], 2, "`30s`"),
        ("iris", &["--duration", "0s"], 2, "greater than 0"),
        ("iris", &["--duration", "9999999999years"], 2, "a year at most"),
        ("iris", &["--input", "[1"], 2, "--input"),
        (
            "iris",
            &["--input", "1", "--inputs", "f"],
            2,
            "cannot be used with",
        ),
        (
            "iris",
            &["--input", "[1]"],
            1,
            "input 1 is not what the application takes",
        ),
        (
            "iris",
            &["--inputs", "/nowhere/inputs"],
            1,
            "/nowhere/inputs: cannot be read",
        ),
        ("iris", &["--arrivals", &arrivals], 1, "line 3: `soon` is no time"),
        ("iris", &["--plot", &plot], 1, "nowhere/x.svg"),
        ("irsi", &[], 1, "did you mean `iris`?"),
    ] {
        let base = ["bench", application, "--query-url", &url];
        let rate = if words.contains(&"--rate") {
            &[][..]
        } else {
            &["--rate", "100"]
        };
        let output = script.skysail(&[&base, rate, words].concat());
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {stderr}");
        assert!(stderr.contains(expected), "{words:?}: {stderr}");
        assert_eq!(text(&output.stdout), "", "{words:?}");
    }
    assert!(script.bodies().is_empty());
}

#[test]
fn log_lines_are_shown_with_their_replica_and_as_they_are_in_json() {
    let log = "{\"replica\":\"m_1_0\",\"line\":\"ready\"}\n{\"replica\":\"m_1_1\",\"line\":\"also\"}\n";
    let script = Script::start(&[(
        "GET /api/v1/models/m/versions/1/logs?tail=100&follow=false",
        200,
        log,
    )]);
    let output = script.skysail(&["model", "logs", "m:1"]);
    assert_eq!(text(&output.stdout), "m_1_0 | ready\nm_1_1 | also\n");
    let output = script.skysail(&["model", "logs", "m:1", "-o", "json"]);
    assert_eq!(text(&output.stdout), log);
}

#[test]
fn a_lossy_store_is_settled_by_a_word_and_a_refusal_is_told() {
    let settlement = r#"{"generation": 8, "applications": 2, "models": 1, "given_up_applications": 3,
        "given_up_models": 0}"#;
    let refusal = problem(
        409,
        "the metadata store has lost nothing: there is nothing to settle",
    );
    let server = Script::start(&[
        ("POST /api/v1/cluster/restore", 200, settlement),
        ("POST /api/v1/cluster/restore", 409, &refusal),
        ("POST /api/v1/cluster/accept-empty", 200, settlement),
    ]);
    let restored = server.skysail(&["cluster", "restore"]);
    assert_eq!(
        text(&restored.stdout),
        "wrote 2 applications and 1 model back: generation 8\n"
    );
    let refused = server.skysail(&["cluster", "restore"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("nothing to settle"));
    let accepted = server.skysail(&["cluster", "accept-empty"]);
    assert!(text(&accepted.stdout).contains("gave up 3 applications and 0 models"));
    let json = server.skysail(&["cluster", "accept-empty", "--output", "json"]);
    assert_eq!(text(&json.stdout), settlement);
}

#[test]
fn containers_of_another_store_are_adopted_by_a_word() {
    let adoption = r#"{"generation": 8, "containers": ["c_m_1_0", "c_m_1_1"]}"#;
    let refusal = problem(409, "there is nothing to adopt");
    let server = Script::start(&[
        ("POST /api/v1/cluster/adopt", 200, adoption),
        ("POST /api/v1/cluster/adopt", 409, &refusal),
    ]);
    let adopted = server.skysail(&["cluster", "adopt"]);
    assert_eq!(
        text(&adopted.stdout),
        "took over 2 containers: c_m_1_0, c_m_1_1; those that the catalog does not ask for are stopped\n"
    );
    let refused = server.skysail(&["cluster", "adopt"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("nothing to adopt"));
}

#[test]
fn without_docker_start_and_stop_say_so() {
    for command in ["start", "stop"] {
        let output = Command::new(env!("CARGO_BIN_EXE_skysail"))
            .arg(command)
            .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let stderr = text(&output.stderr);
        assert!(
            stderr.starts_with("error: cannot reach Docker at /nowhere/docker.sock"),
            "{stderr}"
        );
        assert!(stderr.contains("hint: is Docker running"), "{stderr}");
    }
}

/// The SHA-256 of `abcdef`.
const SHA256: &str = "bef57ec7f53a6d40beb640a780a639c83bc29ac8a9816f1fc6c5c6dcd93c4721";

/// Deploys an ONNX file of this content, without waiting.
fn deploy_onnx(script: &Script, content: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.onnx");
    std::fs::write(&file, content).unwrap();
    let mut words = vec!["model", "deploy", "m:1", "--no-wait", "--onnx"];
    words.push(file.to_str().unwrap());
    script.skysail(&words)
}

#[test]
fn an_onnx_file_is_uploaded_unless_the_frontend_has_it() {
    let artifact = format!("/api/v1/artifacts/{SHA256}");
    let (get, put) = (format!("GET {artifact}"), format!("PUT {artifact}"));
    let stored = format!(r#"{{"sha256": "{SHA256}", "bytes": 6}}"#);
    let deployed = version("starting", 0, "");
    let common = [
        ("GET /api/v1/status", 200, STATUS),
        ("POST /api/v1/models/m/versions", 201, &deployed),
    ];
    for has_it in [false, true] {
        let known = if has_it {
            (&*get, 200, &*stored)
        } else {
            (&*put, 201, &*stored)
        };
        let script = Script::start(&[&common[..], &[known]].concat());
        let output = deploy_onnx(&script, "abcdef");
        assert!(output.status.success(), "{}", text(&output.stderr));
        let mut bodies = script.bodies();
        let sent: serde_json::Value = serde_json::from_str(&bodies.pop().unwrap()).unwrap();
        let expected = serde_json::json!({
            "image": "skysail-onnx", "replicas": 1, "onnx": {"sha256": SHA256}
        });
        assert_eq!(sent["deployment"], expected);
        let uploads: &[&str] = if has_it { &[] } else { &["abcdef"] };
        assert_eq!(bodies, uploads);
        assert_eq!(text(&output.stderr).contains("uploading"), !has_it);
    }
}

#[test]
fn an_onnx_file_that_is_refused_is_not_deployed() {
    let put = format!("PUT /api/v1/artifacts/{SHA256}");
    let refusal = problem(413, "the body is larger than 5 bytes");
    let script = Script::start(&[("GET /api/v1/status", 200, STATUS), (&put, 413, &refusal)]);
    let output = deploy_onnx(&script, "abcdef");
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    assert!(
        stderr.contains("error: the body is larger than 5 bytes"),
        "{stderr}"
    );
    assert_eq!(script.bodies(), ["abcdef"]);
}

#[test]
fn a_frontend_that_starts_no_containers_takes_no_onnx_file() {
    let status = STATUS.replace(r#""kind": "process""#, r#""kind": "none""#);
    let script = Script::start(&[("GET /api/v1/status", 200, &status)]);
    let output = deploy_onnx(&script, "abcdef");
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    assert!(
        stderr.contains("--runtime none") && stderr.contains("--admin-url"),
        "{stderr}"
    );
}

#[test]
fn an_onnx_file_or_an_image_is_deployed_and_not_both() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.onnx");
    std::fs::write(&file, "").unwrap();
    let (file, missing) = (file.to_str().unwrap(), folder.path().join("missing"));
    let missing = missing.to_str().unwrap();
    for (words, expected) in [
        (&["--onnx", file][..], "exported"),
        (&["--onnx", missing], "there is no such file"),
        (&["--onnx", folder.path().to_str().unwrap()], "it is not a file"),
        (
            &["--onnx", "/proc/self/exe", "--image", "i"],
            "cannot be used with",
        ),
        (&["--input-type", "doubles"], "--image <IMAGE>"),
    ] {
        let words = [&["model", "deploy", "m:1"], words].concat();
        let output = skysail("http://127.0.0.1:1", &words);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        let stderr = text(&output.stderr);
        assert!(stderr.contains(expected), "{words:?}: {stderr}");
    }
}
