//! Bodies as they come from outside: compressed, with a byte order mark, from a form, with members given twice,
//! by a client that closes its sending side.

use std::fs;
use std::io::Write;
use std::time::Duration;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use futures::future::join_all;
use serde_json::{Value, json};
use skysail_tests::cases;
use skysail_tests::cluster::{Settings, TestCluster};
use skysail_tests::deployment::Deployment;
use skysail_tests::http2::Http2;
use skysail_tests::rest::Reply;
use skysail_tests::wait::{PATIENCE, until};
use skysail_tests::wire::Wire;

cases! {
    the_curl_of_the_readme_is_answered;
    a_uid_is_a_string_or_an_integer;
    a_byte_order_mark_is_skipped;
    a_compressed_body_is_a_body;
    an_encoding_that_is_not_taken_is_answered_415_with_those_that_are;
    a_compressed_body_that_is_broken_is_refused_and_the_connection_goes_on;
    a_body_that_inflates_beyond_the_limit_is_answered_413_and_costs_no_more;
    a_body_that_is_a_form_or_utf_16_is_refused_with_what_it_is;
    input_beside_input_batch_or_a_member_given_twice_is_refused;
    in_an_admin_body_no_member_is_given_twice_at_any_depth;
    a_client_that_closes_its_sending_side_has_hung_up;
}

const IRIS: &str = r#"{"input": [7.9, 4.4, 6.9, 2.5]}"#;
const MIB: usize = 1024 * 1024;

async fn iris() -> TestCluster {
    let cluster = TestCluster::start().await;
    cluster.serve("iris", &Deployment::iris()).await;
    cluster
}

async fn ask(wire: &mut Wire, headers: &str, body: impl AsRef<[u8]>) -> Reply {
    wire.request_with(headers, "POST", "/iris/predict", body).await
}

#[track_caller]
fn assert_virginica(reply: &Reply) {
    assert_eq!(reply.expect(200)["output"], "virginica", "{}", reply.text);
}

fn gzip(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes.as_ref()).expect("written to memory");
    encoder.finish().expect("written to memory")
}

fn zlib(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes.as_ref()).expect("written to memory");
    encoder.finish().expect("written to memory")
}

fn raw_deflate(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes.as_ref()).expect("written to memory");
    encoder.finish().expect("written to memory")
}

async fn the_curl_of_the_readme_is_answered() {
    let readme = include_str!("../../../README.md");
    let mut curls = readme.lines().filter_map(|line| {
        let command = line.trim().strip_prefix("curl -s localhost:1337/iris/predict ")?;
        let body = command.split_once("-d '")?.1.strip_suffix('\'')?;
        let has_header = command.contains("-H 'Content-Type: application/json'");
        Some((has_header, body))
    });
    let (has_header, body) = curls.next().expect("a curl in the README");
    assert!(!has_header, "the first is the short one");
    let cluster = iris().await;
    let mut wire = Wire::to(cluster.addresses().query).await;
    // What curl says of a body that is given with -d.
    let says = "Content-Type: application/x-www-form-urlencoded\r\nAccept: */*\r\nUser-Agent: curl/8\r\n";
    assert_virginica(&ask(&mut wire, says, body).await);
    for (has_header, body) in curls {
        assert!(has_header);
        assert_virginica(&ask(&mut wire, "Content-Type: application/json\r\n", body).await);
    }
}

async fn a_uid_is_a_string_or_an_integer() {
    let cluster = iris().await;
    let mut wire = Wire::to(cluster.addresses().query).await;
    for uid in ["0", "-1", "18446744073709551615", r#""0""#, r#""""#, "null"] {
        let body = format!(r#"{{"uid": {uid}, "input": [7.9, 4.4, 6.9, 2.5]}}"#);
        assert_virginica(&ask(&mut wire, "", body).await);
    }
    for uid in ["1.5", "true", "[]", "{}"] {
        let body = format!(r#"{{"uid": {uid}, "input": [7.9, 4.4, 6.9, 2.5]}}"#);
        let cause = ask(&mut wire, "", body).await.cause(400);
        assert!(
            cause.contains("in `uid`") && cause.contains("a string or an integer"),
            "{cause}"
        );
    }
}

async fn a_byte_order_mark_is_skipped() {
    let cluster = iris().await;
    let mut wire = Wire::to(cluster.addresses().query).await;
    let marked = format!("\u{feff}{IRIS}");
    assert_virginica(&ask(&mut wire, "", &marked).await);
    assert_virginica(&ask(&mut wire, "Content-Encoding: gzip\r\n", gzip(&marked)).await);
    // One, and at the beginning.
    let twice = ask(&mut wire, "", format!("\u{feff}{marked}")).await;
    assert!(twice.cause(400).contains("line 1 column 1"), "{}", twice.text);

    let new = json!({ "name": "app", "input_type": "doubles", "default_output": "-1.0", "slo_micros": 1 });
    let mut wire = Wire::to(cluster.addresses().admin).await;
    let reply = wire
        .request_with(
            "Content-Type: application/json\r\n",
            "POST",
            "/api/v1/applications",
            format!("\u{feff}{new}"),
        )
        .await;
    reply.expect(201);
}

async fn a_compressed_body_is_a_body() {
    let cluster = iris().await;
    let mut wire = Wire::to(cluster.addresses().query).await;
    let large = format!("{IRIS}{}", " ".repeat(20 * MIB));
    for (encoding, body) in [
        ("Content-Encoding: gzip\r\n", gzip(IRIS)),
        ("content-encoding: X-GZIP\r\n", gzip(IRIS)),
        ("Content-Encoding: deflate\r\n", zlib(IRIS)),
        ("Content-Encoding: deflate\r\n", raw_deflate(IRIS)),
        ("Content-Encoding: identity\r\n", IRIS.into()),
        ("Content-Encoding: \r\n", IRIS.into()),
        (
            "Content-Encoding: identity\r\nContent-Encoding: gzip\r\n",
            gzip(IRIS),
        ),
        // In two parts, as `cat one.gz two.gz` makes it.
        (
            "Content-Encoding: gzip\r\n",
            [gzip(&IRIS[..9]), gzip(&IRIS[9..])].concat(),
        ),
        ("Content-Encoding: gzip\r\n", gzip(&large)),
        ("Content-Encoding: deflate\r\n", zlib(&large)),
    ] {
        let reply = ask(&mut wire, encoding, body).await;
        assert_eq!(reply.status, 200, "{encoding}: {}", reply.text);
        assert_virginica(&reply);
    }
    let mut wire = Wire::to(cluster.addresses().admin).await;
    for (number, (encoding, body)) in [("gzip", gzip as fn(String) -> Vec<u8>), ("deflate", zlib)]
        .into_iter()
        .enumerate()
    {
        let name = format!("app-{number}");
        let new = json!({ "name": name, "input_type": "doubles", "default_output": "-1.0", "slo_micros": 1 });
        let headers = format!("Content-Type: application/json\r\nContent-Encoding: {encoding}\r\n");
        let reply = wire
            .request_with(&headers, "POST", "/api/v1/applications", body(new.to_string()))
            .await;
        assert_eq!(reply.expect(201)["name"], name);
    }
}

async fn an_encoding_that_is_not_taken_is_answered_415_with_those_that_are() {
    let cluster = iris().await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("http://{}/iris/predict", cluster.addresses().query);
    for encoding in [
        "br",
        "zstd",
        "compress",
        "gzip, br",
        "gzip, gzip",
        "gzip;q=1",
        "*",
    ] {
        let request = client.post(&url).header("Content-Encoding", encoding).body(IRIS);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 415, "{encoding}");
        assert_eq!(response.headers()["Accept-Encoding"], "gzip, deflate, identity");
        let error: Value = response.json().await.unwrap();
        let cause = error["cause"].as_str().unwrap();
        assert!(cause.contains("gzip, deflate, identity"), "{cause}");
    }
    // Also to a client that sends all of a large body first.
    let mut wire = Wire::to(cluster.addresses().query).await;
    let reply = ask(&mut wire, "Content-Encoding: br\r\n", vec![b' '; 8 * MIB]).await;
    reply.cause(415);
    let mut wire = Wire::to(cluster.addresses().admin).await;
    let headers = "Content-Type: application/json\r\nContent-Encoding: br\r\n";
    let reply = wire
        .request_with(headers, "POST", "/api/v1/applications", "{}")
        .await;
    assert!(
        reply.problem(415).contains("gzip, deflate, identity"),
        "{}",
        reply.text
    );
}

async fn a_compressed_body_that_is_broken_is_refused_and_the_connection_goes_on() {
    let cluster = iris().await;
    let mut wire = Wire::to(cluster.addresses().query).await;
    let broken = |whole: Vec<u8>| {
        let followed = [&whole[..], b"garbage"].concat();
        [
            whole[..whole.len() - 3].to_vec(),
            followed,
            IRIS.into(),
            Vec::new(),
        ]
    };
    let gzipped = broken(gzip(IRIS)).map(|body| ("gzip", body));
    let deflated = broken(zlib(IRIS)).map(|body| ("deflate", body));
    let another = [("deflate", gzip(IRIS))];
    for (encoding, body) in gzipped.into_iter().chain(deflated).chain(another) {
        let headers = format!("Content-Encoding: {encoding}\r\n");
        let cause = ask(&mut wire, &headers, body).await.cause(400);
        assert!(cause.contains(encoding), "{encoding}: {cause}");
        assert_virginica(&ask(&mut wire, "", IRIS).await);
    }
    // Megabytes of nothing are not read to their end.
    for (encoding, piece) in [("gzip", gzip("")), ("deflate", vec![0, 0, 0, 0xff, 0xff])] {
        let body = piece.repeat(8 * MIB / piece.len());
        let reply = ask(&mut wire, &format!("Content-Encoding: {encoding}\r\n"), body).await;
        assert_eq!(reply.json()["error"], "Body error");
        reply.cause(400);
    }
    // Compressed, and nothing said of it.
    let cause = ask(&mut wire, "", gzip(IRIS)).await.cause(400);
    assert!(cause.contains("Content-Encoding: gzip"), "{cause}");
}

/// The most memory that a process ever had, in bytes.
fn peak_memory(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = peak.and_then(|peak| peak.trim().strip_suffix(" kB"));
    kibibytes
        .expect("a peak")
        .trim()
        .parse::<usize>()
        .expect("a number")
        * 1024
}

async fn a_body_that_inflates_beyond_the_limit_is_answered_413_and_costs_no_more() {
    const LIMIT: usize = 8 * MIB;
    const AT_ONCE: usize = 40;
    let settings = Settings::default().flag("--body-limit", &LIMIT.to_string());
    let cluster = settings.start().await;
    cluster.serve("iris", &Deployment::iris()).await;
    let addr = cluster.addresses().query;
    let once = gzip(vec![b' '; 200 * MIB]);
    let bombs = [
        ("Content-Encoding: gzip\r\n", once.clone()),
        ("Content-Encoding: deflate\r\n", zlib(vec![b' '; LIMIT + 1])),
    ];
    let mut wire = Wire::to(addr).await;
    for (headers, body) in &bombs {
        let cause = ask(&mut wire, headers, body).await.cause(413);
        assert!(
            cause.contains(&LIMIT.to_string()) && cause.contains("inflated"),
            "{cause}"
        );
        assert_virginica(&ask(&mut wire, "", IRIS).await);
    }
    let fits = gzip(format!("{IRIS}{}", " ".repeat(LIMIT - IRIS.len())));
    assert_virginica(&ask(&mut wire, "Content-Encoding: gzip\r\n", fits).await);

    // Many at once cost the memory of a few, and others are served beside them.
    let before = peak_memory(cluster.pid());
    let (headers, body) = &bombs[0];
    let bombing = join_all((0..AT_ONCE).map(|_| async {
        let mut wire = Wire::to(addr).await;
        ask(&mut wire, headers, body).await.cause(413);
    }));
    let beside = async {
        for _ in 0..20 {
            assert_virginica(&ask(&mut wire, "", IRIS).await);
        }
    };
    tokio::join!(bombing, beside);
    let grown = peak_memory(cluster.pid()) - before;
    assert!(
        grown < AT_ONCE / 2 * LIMIT,
        "{grown} bytes more for {AT_ONCE} bombs"
    );

    // An admin body has a limit of its own.
    let mut wire = Wire::to(cluster.addresses().admin).await;
    let headers = "Content-Type: application/json\r\nContent-Encoding: gzip\r\n";
    let reply = wire
        .request_with(headers, "POST", "/api/v1/applications", &once)
        .await;
    assert!(reply.problem(413).contains("1048576"), "{}", reply.text);
}

async fn a_body_that_is_a_form_or_utf_16_is_refused_with_what_it_is() {
    let cluster = iris().await;
    let utf16: Vec<u8> = IRIS.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let marked = [&[0xff, 0xfe][..], &utf16].concat();
    let mut query = Wire::to(cluster.addresses().query).await;
    let mut admin = Wire::to(cluster.addresses().admin).await;
    for (body, expected) in [
        (&b"input=[7.9,4.4,6.9,2.5]"[..], "form"),
        (b"%7B%22input%22%3A%5B1%5D%7D", "form"),
        (
            b"------7\r\nContent-Disposition: form-data; name=\"input\"\r\n\r\n[1]\r\n------7--\r\n",
            "form",
        ),
        (&utf16, "UTF-8"),
        (&marked, "UTF-8"),
    ] {
        let cause = ask(&mut query, "", body).await.cause(400);
        assert!(cause.contains(expected), "{cause}");
        assert_virginica(&ask(&mut query, "", IRIS).await);
        let headers = "Content-Type: application/json\r\n";
        let reply = admin
            .request_with(headers, "POST", "/api/v1/applications", body)
            .await;
        assert!(reply.problem(400).contains(expected), "{}", reply.text);
    }
}

async fn input_beside_input_batch_or_a_member_given_twice_is_refused() {
    let cluster = iris().await;
    let mut wire = Wire::to(cluster.addresses().query).await;
    for (body, expected) in [
        (
            r#"{"input": [1], "input_batch": [[1]]}"#,
            "both `input` and `input_batch`",
        ),
        (
            r#"{"input_batch": [[1]], "input": [1]}"#,
            "both `input` and `input_batch`",
        ),
        (r#"{"input": [1], "input": [1]}"#, "`input` is given twice"),
        (r#"{"input": [1], "\u0069nput": [1]}"#, "`input` is given twice"),
        (
            r#"{"input_batch": [], "input_batch": []}"#,
            "`input_batch` is given twice",
        ),
        (
            r#"{"input": [1], "version": "1", "version": null}"#,
            "`version` is given twice",
        ),
        (
            r#"{"input": [1], "slo_micros": 1, "slo_micros": 1}"#,
            "`slo_micros` is given twice",
        ),
        (r#"{"input": [1], "uid": 1, "uid": 2}"#, "`uid` is given twice"),
    ] {
        let cause = ask(&mut wire, "", body).await.cause(400);
        assert!(
            cause.contains(expected) && cause.contains("line 1 column"),
            "{body}: {cause}"
        );
        assert_virginica(&ask(&mut wire, "", IRIS).await);
    }
    // What is ignored may be there as often as it likes.
    let body = IRIS.replacen('{', r#"{"more": 1, "more": {"a": 1, "a": 2}, "#, 1);
    assert_virginica(&ask(&mut wire, "", body).await);
}

async fn in_an_admin_body_no_member_is_given_twice_at_any_depth() {
    let cluster = TestCluster::start().await;
    let admin = cluster.admin();
    let env = r#"{"version": "1", "input_type": "doubles", "deployment":
        {"image": "/bin/true", "replicas": 0, "env": {"A": "1", "A": "2"}}}"#;
    let warm_up = r#"{"version": "1", "input_type": "doubles", "deployment":
        {"image": "/bin/true", "replicas": 0, "warm_up": [{"a": 1, "a": 2}]}}"#;
    let application = r#"{"name": "app", "name": "app", "input_type": "doubles", "default_output": ""}"#;
    for (path, body, expected) in [
        ("/api/v1/models/m/versions", env, "`A` is given twice"),
        ("/api/v1/models/m/versions", warm_up, "`a` is given twice"),
        ("/api/v1/applications", application, "`name` is given twice"),
    ] {
        let reply = admin.post_text(path, body).await;
        let detail = reply.problem(400);
        assert!(detail.contains(expected) && detail.contains("line"), "{detail}");
    }
    assert_eq!(admin.get("/api/v1/models").await.expect(200), json!([]));
}

async fn a_client_that_closes_its_sending_side_has_hung_up() {
    let cluster = TestCluster::start().await;
    let endless = Deployment::synthetic()
        .env("SYNTHETIC_FIXED_MICROS", "600000000")
        .with("max_batch", 1)
        .with("cache", false);
    cluster
        .serve_within("app", &endless, Duration::from_secs(600))
        .await;
    let addr = cluster.addresses().query;
    // One keeps the model busy, the other waits.
    let mut wires = Vec::new();
    for _ in 0..2 {
        let mut wire = Wire::to(addr).await;
        let body = r#"{"input": [1]}"#;
        let length = body.len();
        wire.write(format!(
            "POST /app/predict HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
        .await
        .expect("written");
        wires.push(wire);
        until("the query to be accepted", PATIENCE, async || {
            cluster.accepted("synthetic").await == wires.len()
        })
        .await;
    }
    assert_eq!(cluster.waiting("synthetic").await, 1);
    let waiting = wires.last_mut().expect("two");
    waiting.end_sending().await;
    assert_eq!(waiting.closed().await, b"");
    until("its place to be free", PATIENCE, async || {
        cluster.waiting("synthetic").await == 0
    })
    .await;
    // The end of a request's stream in HTTP/2 is the end of the request alone.
    Http2::to(addr).await.get("/healthz").await.expect(200);
}
