//! Bad days at the HTTP edge: more queries than can be answered, clients that hang up, stall or never end,
//! and inputs of any size. Whoever behaves is served all the while.

use std::cell::Cell;
use std::process::Stdio;
use std::time::Duration;

use futures::future::join_all;
use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use skysail_proto::value::InputRef;
use skysail_tests::binaries;
use skysail_tests::cases;
use skysail_tests::cluster::{Settings, TestCluster};
use skysail_tests::deployment::Deployment;
use skysail_tests::http2::Http2;
use skysail_tests::wait::{PATIENCE, until, within};
use skysail_tests::wire::Wire;
use synthetic::digest::digest;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinSet;

cases! {
    probes_and_the_admin_api_answer_under_overload;
    a_queue_that_is_full_by_bytes_says_so_at_once;
    clients_that_hang_up_leave_an_empty_queue;
    an_objective_of_a_microsecond_beside_one_of_ten_seconds;
    inputs_of_no_one_and_ten_million_numbers;
    a_head_that_never_ends_costs_its_own_connection;
    a_connection_is_kept_while_it_is_used;
    a_body_sent_a_byte_at_a_time_is_answered;
    a_body_that_stalls_is_answered_408_and_costs_its_own_connection;
    an_answer_that_is_not_taken_costs_its_own_connection;
    many_queries_at_once_share_one_http2_connection;
    an_http2_peer_that_is_gone_is_let_go;
    many_applications_are_each_found;
    a_log_that_nobody_reads_any_more_harms_nobody;
}

const QUERY: &str = r#"{"input": [1]}"#;

/// A model that is never done while a test waits.
fn endless() -> Deployment {
    Deployment::synthetic().env("SYNTHETIC_FIXED_MICROS", "600000000")
}

/// A cluster that gives up on clients soon, with a model behind `app` that answers at once.
async fn impatient() -> TestCluster {
    let settings = Settings::default().flag("--client-timeout", "1s");
    let cluster = settings.start().await;
    cluster.serve("app", &Deployment::of("noop")).await;
    cluster
}

async fn probes_and_the_admin_api_answer_under_overload() {
    const CLIENTS: usize = 200;
    const LOOKS: usize = 30;
    let cluster = TestCluster::start().await;
    let model = Deployment::synthetic()
        .env("SYNTHETIC_FIXED_MICROS", "5000")
        .env("SYNTHETIC_PER_INPUT_MICROS", "1000")
        .with("cache", false);
    cluster
        .serve_within("app", &model, Duration::from_millis(50))
        .await;
    let (over, asked) = (Cell::new(false), Cell::new(0_u32));
    let (queries, admin) = (cluster.queries(), cluster.admin());
    let client = || async {
        while !over.get() {
            let answer = queries.post_text("/app/predict", QUERY).await.expect(200);
            assert!(answer["query_id"].is_u64(), "{answer}");
            asked.set(asked.get() + 1);
        }
    };
    let looking = async {
        let expired = r#"skysail_defaults_total{application="app",reason="expired_in_queue"}"#;
        let late = r#"skysail_defaults_total{application="app",reason="predicted_late"}"#;
        until("the overload to begin", PATIENCE, async || {
            cluster.metric(expired).await + cluster.metric(late).await > 100.0
        })
        .await;
        for number in 0..LOOKS {
            queries.get("/healthz").await.expect(200);
            queries.get("/readyz").await.expect(200);
            admin.get("/healthz").await.expect(200);
            admin.get("/readyz").await.expect(200);
            admin.get("/api/v1/status").await.expect(200);
            let name = format!("other-{number}");
            cluster
                .register(&name, "doubles", "-1.0", Duration::from_secs(1))
                .await;
            admin
                .get(&format!("/api/v1/applications/{name}"))
                .await
                .expect(200);
            let answer = cluster.answer(&name, json!([1])).await;
            assert_eq!(answer["default_reason"], "no_model_linked");
        }
        over.set(true);
    };
    tokio::join!(join_all((0..CLIENTS).map(|_| client())), looking);
    // Every query was answered once, and there were more than the model could.
    let counted = cluster
        .metric(r#"skysail_queries_total{application="app"}"#)
        .await;
    assert!(
        (counted - f64::from(asked.get())).abs() < 0.5,
        "{counted} {asked:?}"
    );
    let answered = cluster
        .metric(r#"skysail_batch_size_sum{model="synthetic",version="1"}"#)
        .await;
    assert!(answered < counted, "{answered} of {counted} reached the model");
}

async fn a_queue_that_is_full_by_bytes_says_so_at_once() {
    let cluster = Settings::default().flag("--queue-bytes", "1000").start().await;
    let model = endless().with("max_batch", 1).with("cache", false);
    cluster
        .serve_within("app", &model, Duration::from_secs(600))
        .await;
    // 800 bytes each: one in the model's hands, one that waits, and no room for a third.
    let input = vec![1.0; 100];
    let mut asking = JoinSet::new();
    for _ in 0..2 {
        let (queries, body) = (cluster.queries(), json!({ "input": input }).to_string());
        asking.spawn(async move {
            // There will be no answer.
            let _ = queries.send(Method::POST, "/app/predict", body).await;
        });
        until("the query to be accepted", PATIENCE, async || {
            cluster.accepted("synthetic").await == asking.len()
        })
        .await;
    }
    let refused = cluster.answer("app", input).await;
    assert_eq!(refused["default_reason"], "queue_full", "{refused}");
    assert_eq!(refused["output"], -1.0, "{refused}");
    // A smaller one still fits.
    let small = json!({ "input": [1], "slo_micros": 1 });
    let answer = cluster.query("app", small).await.expect(200);
    assert_ne!(answer["default_reason"], "queue_full", "{answer}");
}

async fn clients_that_hang_up_leave_an_empty_queue() {
    const CLIENTS: usize = 300;
    let cluster = TestCluster::start().await;
    let model = endless().with("max_batch", 1).with("cache", false);
    cluster
        .serve_within("app", &model, Duration::from_secs(600))
        .await;
    let addr = cluster.addresses().query;
    let waiting = async |count: usize| {
        until(&format!("{count} queries to wait"), PATIENCE, async || {
            cluster.waiting("synthetic").await == count
        })
        .await;
    };
    let first = begun(Wire::to(addr).await).await;
    until("the model to be busy", PATIENCE, async || {
        cluster.accepted("synthetic").await == 1 && cluster.waiting("synthetic").await == 0
    })
    .await;
    let wires = join_all((0..CLIENTS).map(|_| async { begun(Wire::to(addr).await).await })).await;
    waiting(CLIENTS).await;
    drop(wires);
    waiting(0).await;
    // The same for requests of one HTTP/2 connection, which lives on.
    let http2 = Http2::to(addr).await;
    let mut asking = JoinSet::new();
    for _ in 0..CLIENTS {
        let http2 = http2.clone();
        asking.spawn(async move { http2.post("/app/predict", QUERY).await });
    }
    waiting(CLIENTS).await;
    asking.shutdown().await;
    waiting(0).await;
    http2.get("/healthz").await.expect(200);
    drop(first);
}

/// A connection on which a query was sent.
async fn begun(mut wire: Wire) -> Wire {
    let length = QUERY.len();
    let head = format!("POST /app/predict HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n");
    wire.write(head + QUERY).await.expect("written");
    wire
}

async fn an_objective_of_a_microsecond_beside_one_of_ten_seconds() {
    const ROUNDS: u32 = 40;
    let cluster = TestCluster::start().await;
    let model = Deployment::synthetic()
        .env("SYNTHETIC_PER_INPUT_MICROS", "100")
        .with("cache", false);
    cluster
        .serve_within("patient", &model, Duration::from_secs(10))
        .await;
    cluster
        .register("hasty", "doubles", "-1.0", Duration::from_micros(1))
        .await;
    cluster.link("hasty", "synthetic").await;
    for round in 0..ROUNDS {
        let input = f64::from(round);
        let (hasty, patient) = tokio::join!(
            cluster.answer("hasty", json!([input])),
            cluster.predict("patient", json!([input]))
        );
        assert_eq!(patient, digest_of(&[input]));
        assert_eq!(hasty["output"], -1.0, "{hasty}");
        let reason = hasty["default_reason"].as_str().unwrap_or_default();
        assert!(
            ["predicted_late", "expired_in_queue", "late_reply"].contains(&reason),
            "{hasty}"
        );
    }
}

async fn inputs_of_no_one_and_ten_million_numbers() {
    const MANY: usize = 10_000_000;
    let cluster = TestCluster::start().await;
    cluster
        .serve_within("app", &Deployment::synthetic(), Duration::from_secs(200))
        .await;
    let cause = cluster.query("app", json!({ "input": [] })).await.cause(400);
    assert!(cause.contains("the input is empty"), "{cause}");
    assert_eq!(cluster.predict("app", json!([7])).await, digest_of(&[7.0]));

    let numbers = vec!["7"; MANY].join(",");
    let queries = cluster.queries();
    let large = queries.post_text("/app/predict", format!(r#"{{"input": [{numbers}]}}"#));
    let (done, beside) = (Cell::new(false), Cell::new(0));
    let large = async {
        let answer = within("the large query's answer", PATIENCE * 8, large)
            .await
            .expect(200);
        done.set(true);
        answer
    };
    let small = async {
        while !done.get() {
            assert_eq!(cluster.predict("app", json!([8])).await, digest_of(&[8.0]));
            beside.set(beside.get() + 1);
        }
    };
    let (answer, ()) = tokio::join!(large, small);
    assert_eq!(answer["output"], digest_of(&vec![7.0; MANY]), "{answer}");
    assert!(
        beside.get() > 1,
        "{beside:?} small queries were answered meanwhile"
    );
}

async fn a_head_that_never_ends_costs_its_own_connection() {
    let cluster = impatient().await;
    let addr = cluster.addresses().query;
    let mut used = Wire::to(addr).await;
    used.request("POST", "/app/predict", QUERY).await.expect(200);
    let begun = [
        (Wire::to(addr).await, ""),
        (Wire::to(addr).await, "POST /app/predict HTTP/1.1\r\nHost: te"),
        (Wire::to(addr).await, "PRI * HTTP/2.0\r\n\r\nS"),
        (used, "POST /app/predict HTTP/1.1\r\nHost: te"),
    ];
    for (mut wire, bytes) in begun {
        wire.write(bytes).await.expect("written");
        let closed = async {
            let said = wire.closed().await;
            assert!(said.is_empty(), "{bytes:?}: {said:?}");
        };
        // A client that comes with a header every now and then, and never to an end.
        let trickling = async {
            let mut wire = Wire::to(addr).await;
            wire.write("GET /healthz HTTP/1.1\r\n").await.expect("written");
            until("the connection to be closed", PATIENCE, async || {
                wire.write("X: y\r\n").await.is_err()
            })
            .await;
        };
        tokio::join!(closed, trickling);
        assert_eq!(cluster.predict("app", json!([1])).await, 0);
    }
}

async fn a_connection_is_kept_while_it_is_used() {
    let settings = Settings::default()
        .flag("--client-timeout", "1s")
        .flag("--idle-timeout", "2s");
    let cluster = settings.start().await;
    let addr = cluster.addresses().query;
    let (mut used, mut idle) = (Wire::to(addr).await, Wire::to(addr).await);
    idle.request("GET", "/healthz", "").await.expect(200);
    let closed = Cell::new(false);
    let using = async {
        while !closed.get() {
            used.request("GET", "/healthz", "").await.expect(200);
            tokio::task::yield_now().await;
        }
    };
    let idling = async {
        assert_eq!(idle.closed().await, b"");
        closed.set(true);
    };
    tokio::join!(using, idling);
    used.request("GET", "/healthz", "").await.expect(200);
}

async fn a_body_sent_a_byte_at_a_time_is_answered() {
    let cluster = TestCluster::start().await;
    cluster.serve("app", &Deployment::of("noop")).await;
    let mut wire = Wire::to(cluster.addresses().query).await;
    let bytes = QUERY.bytes().map(|byte| vec![byte]);
    let answer = wire.chunked("/app/predict", bytes).await.expect(200);
    assert_eq!(answer["output"], 0, "{answer}");
    let length = QUERY.len();
    wire.write(format!(
        "POST /app/predict HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n"
    ))
    .await
    .expect("written");
    for byte in QUERY.bytes() {
        wire.write([byte]).await.expect("written");
        // Each byte travels by itself: the server has seen the last before the next is sent.
        cluster.queries().get("/healthz").await.expect(200);
    }
    assert_eq!(wire.read().await.expect(200)["output"], 0);
}

async fn a_body_that_stalls_is_answered_408_and_costs_its_own_connection() {
    let cluster = impatient().await;
    for (addr, path) in [
        (cluster.addresses().query, "/app/predict"),
        (cluster.addresses().admin, "/api/v1/applications"),
    ] {
        let mut wire = Wire::to(addr).await;
        let json = "Content-Type: application/json";
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{json}\r\nContent-Length: 100\r\n\r\n");
        wire.write(head + r#"{"input": ["#).await.expect("written");
        let reply = wire.read().await;
        assert_eq!(reply.status, 408, "{reply:?}");
        assert!(reply.text.contains("11 bytes"), "{reply:?}");
        if path == "/app/predict" {
            reply.cause(408);
        } else {
            reply.problem(408);
        }
        assert_eq!(wire.closed().await, b"");
    }
    // A client that goes on sending, a byte at a time, for ever.
    let mut wire = Wire::to(cluster.addresses().query).await;
    wire.write("POST /app/predict HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n")
        .await
        .expect("written");
    let beside = async {
        while !wire.has_something() {
            // It may be closed by now: the answer is there all the same.
            let _ = wire.write(" ").await;
            assert_eq!(cluster.predict("app", json!([1])).await, 0);
        }
    };
    within("the answer to a body that never ends", PATIENCE, beside).await;
    wire.read().await.cause(408);
    // Over HTTP/2 it costs its own request.
    let http2 = Http2::to(cluster.addresses().query).await;
    http2.post_begun("/app/predict", "{").await.cause(408);
    http2.post("/app/predict", QUERY).await.expect(200);
}

async fn an_answer_that_is_not_taken_costs_its_own_connection() {
    const COPIES: usize = 40;
    let settings = Settings::default()
        .flag("--client-timeout", "1s")
        .flag("--log-level", "info,skysail_frontend::http=debug");
    let cluster = settings.start().await;
    // A large default output, many times: more than the system takes for a client that does not read.
    let output = "x".repeat(900 * 1024);
    cluster
        .register("app", "doubles", &output, Duration::from_secs(1))
        .await;
    let body = json!({ "input_batch": vec![[1]; COPIES] }).to_string();
    let mut wire = Wire::to(cluster.addresses().query).await;
    let length = body.len();
    wire.write(format!(
        "POST /app/predict HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n{body}"
    ))
    .await
    .expect("written");
    until("the server to give up", PATIENCE, async || {
        cluster.log().says("state=Taking")
    })
    .await;
    assert!(wire.closed().await.len() < COPIES * output.len());
    // A client that reads gets all of it.
    let mut wire = Wire::to(cluster.addresses().query).await;
    let reply = wire.request("POST", "/app/predict", body).await.expect(200);
    assert_eq!(reply["batch_predictions"].as_array().map(Vec::len), Some(COPIES));
}

async fn many_queries_at_once_share_one_http2_connection() {
    const QUERIES: usize = 300;
    let settings = Settings::default().flag("--max-connections", "1");
    let cluster = settings.launch().await;
    until("the frontend to be ready", PATIENCE, async || {
        cluster.admin().get("/readyz").await.status == 200
    })
    .await;
    cluster.serve("app", &Deployment::synthetic()).await;
    // There is no second connection to be had.
    let http2 = Http2::to(cluster.addresses().query).await;
    http2.get("/healthz").await.expect(200);
    let asked = (0_u32..).take(QUERIES).map(|number| {
        let http2 = &http2;
        async move {
            let input = f64::from(number);
            let reply = http2
                .post("/app/predict", json!({ "input": [input] }).to_string())
                .await;
            assert_eq!(reply.expect(200)["output"], digest_of(&[input]));
        }
    });
    join_all(asked).await;
}

async fn an_http2_peer_that_is_gone_is_let_go() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const MAX_CONCURRENT_STREAMS: u16 = 3;
    /// `GET /healthz`, from the table of header fields that every HTTP/2 peer knows, on stream 1.
    const HEADERS: &[u8] = b"\0\0\x0c\x01\x05\0\0\0\x01\x82\x86\x04\x08/healthz";
    let cluster = impatient().await;
    let mut wire = Wire::to(cluster.addresses().query).await;
    for bytes in [PREFACE, SETTINGS] {
        wire.write(bytes).await.expect("written");
    }
    // The first frame says how many requests at once are taken.
    let head = wire.read_bytes(9).await;
    assert_eq!(head[3], 4, "a SETTINGS frame, and not {head:?}");
    let length = usize::from(head[1]) << 8 | usize::from(head[2]);
    let settings = wire.read_bytes(length).await;
    let streams = settings
        .chunks(6)
        .find(|setting| setting[..2] == MAX_CONCURRENT_STREAMS.to_be_bytes());
    let streams = streams.expect("a limit on concurrent streams");
    assert_eq!(&streams[2..], 1000_u32.to_be_bytes());
    // Asked something, it is a connection like others; and then there is only silence.
    wire.write(HEADERS).await.expect("written");
    let said = wire.closed().await;
    assert!(
        said.windows(4).any(|bytes| bytes == b"\"ok\""),
        "no answer: {said:?}"
    );
    assert_eq!(cluster.predict("app", json!([1])).await, 0);
}

async fn many_applications_are_each_found() {
    const APPLICATIONS: usize = 1000;
    let cluster = TestCluster::start().await;
    cluster.serve("app", &Deployment::of("noop")).await;
    let name = |number: usize| format!("app-{number}");
    let registering = (0..8).map(|first| {
        let cluster = &cluster;
        async move {
            for number in (first..APPLICATIONS).step_by(8) {
                let output = number.to_string();
                let slo = Duration::from_secs(30);
                cluster.register(&name(number), "doubles", &output, slo).await;
            }
        }
    });
    join_all(registering).await;
    let listed = cluster.admin().get("/api/v1/applications").await.expect(200);
    assert_eq!(listed.as_array().map(Vec::len), Some(APPLICATIONS + 1));
    for number in (0..APPLICATIONS).step_by(97) {
        let answer = cluster.answer(&name(number), json!([1])).await;
        assert_eq!(answer["output"], number, "{answer}");
    }
    // What was resolved before is as it was, and what changes changes.
    cluster.link(&name(97), "noop").await;
    cluster
        .admin()
        .delete("/api/v1/applications/app-194")
        .await
        .expect(204);
    assert_eq!(cluster.predict(&name(97), json!([1])).await, 0);
    assert_eq!(cluster.predict("app", json!([1])).await, 0);
    assert_eq!(cluster.answer(&name(0), json!([1])).await["output"], 0);
    cluster
        .query(&name(194), json!({ "input": [1] }))
        .await
        .cause(404);
}

async fn a_log_that_nobody_reads_any_more_harms_nobody() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = tokio::process::Command::new(binaries::path("skysail-frontend"));
    for flag in ["--query-addr", "--admin-addr", "--rpc-addr", "--ops-addr"] {
        command.arg(format!("{flag}=127.0.0.1:0"));
    }
    command
        .env("HOME", folder.path())
        .env_remove("XDG_DATA_HOME")
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut frontend = command.spawn().expect("the frontend");
    let mut log = BufReader::new(frontend.stderr.take().expect("it is piped")).lines();
    let listening = async {
        while let Some(line) = log.next_line().await.expect("a line") {
            if line.contains("container RPC listening") {
                return;
            }
        }
        panic!("the frontend ended at once");
    };
    within("the frontend to listen", PATIENCE, listening).await;
    drop(log);
    // It has things to say when it ends, and ends all the same.
    let pid = frontend.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
    kill_process(pid.expect("it runs"), Signal::TERM).expect("signalled");
    let ended = within("the frontend to end", PATIENCE, frontend.wait()).await;
    assert!(ended.expect("it ended").success(), "it ended well");
}

fn digest_of(numbers: &[f64]) -> Value {
    let text = format!("fnv1a:{:016x}", digest(InputRef::Doubles(numbers)));
    serde_json::from_str(&text).unwrap_or_else(|_| text.into())
}
