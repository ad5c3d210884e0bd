//! Bad input: each gets its clear answer at once, and the next query on the same connection is answered
//! rightly.

use serde_json::json;
use skysail_tests::cases;
use skysail_tests::cluster::{Settings, TestCluster};
use skysail_tests::deployment::Deployment;
use skysail_tests::wire::Wire;

cases! {
    a_body_that_is_no_query_is_refused_with_what_is_wrong_and_where;
    what_the_input_type_does_not_hold_is_refused;
    a_body_of_40_mib_is_refused_also_to_a_client_that_sends_all_of_it_first;
    more_rows_than_a_request_may_have_are_refused_with_the_flag_that_says_how_many;
    the_largest_body_can_be_configured;
    what_is_not_there_is_said_in_json;
    a_large_body_for_nobody_is_answered_too;
    a_client_that_hangs_up_in_the_middle_harms_nobody;
}

const MIB: usize = 1024 * 1024;
const IRIS: &str = r#"{"input": [7.9, 4.4, 6.9, 2.5]}"#;

async fn iris() -> TestCluster {
    let cluster = TestCluster::start().await;
    cluster.serve("iris", &Deployment::iris()).await;
    cluster
}

/// The same connection goes on, and the model answers.
async fn goes_on(wire: &mut Wire) {
    let answer = wire.request("POST", "/iris/predict", IRIS).await.expect(200);
    assert_eq!(answer["output"], "virginica", "{answer}");
}

async fn a_body_that_is_no_query_is_refused_with_what_is_wrong_and_where() {
    let cluster = iris().await;
    let mut wire = Wire::to(cluster.addresses().query).await;
    let deep = format!(r#"{{"input": {}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let cases: [(&[u8], &str); 16] = [
        (b"", "EOF"),
        (b"{", "EOF"),
        (b"hello", "expected value"),
        (b"[]", "an object with `input`"),
        (b"{}", "neither `input` nor `input_batch`"),
        (br#"{"input": [1}"#, "line 1 column 13"),
        (br#"{"input": [7.9, 4.4, 6.9, 2.5]} {}"#, "trailing"),
        (br#"{"input_batch": {"a": 1}}"#, "an array of inputs"),
        (br#"{"input_batch": [[1], []]}"#, "the input is empty"),
        (br#"{"input": [1], "version": 1}"#, "in `version`"),
        (br#"{"input": [1], "slo_micros": -5}"#, "in `slo_micros`"),
        (br#"{"input": [1], "slo_micros": 0}"#, "at least 1, and not `0`"),
        (br#"{"input": [1], "slo_micros": 1.5}"#, "in `slo_micros`"),
        (br#"{"input": [1], "uid": 1.5}"#, "a string or an integer"),
        (b"{\"input\": \"\xff\xfe\"}", "unicode"),
        (deep.as_bytes(), "a number"),
    ];
    for (body, expected) in cases {
        let reply = wire.request("POST", "/iris/predict", body).await;
        let cause = reply.cause(400);
        assert!(cause.contains(expected), "{expected:?} is not in {cause:?}");
        assert_eq!(reply.json()["error"], "Json error");
        goes_on(&mut wire).await;
    }
}

async fn what_the_input_type_does_not_hold_is_refused() {
    let cluster = iris().await;
    for input_type in ["bytes", "integers", "floats", "doubles", "strings"] {
        let deployment = Deployment::of("noop")
            .named(&format!("{input_type}-model"), "1")
            .taking(input_type);
        cluster.serve(input_type, &deployment).await;
    }
    let cases = [
        ("doubles", "[NaN]", "expected value"),
        ("doubles", "[Infinity]", "expected value"),
        ("doubles", "[1e400]", "number out of range"),
        ("doubles", r#"["NaN"]"#, "a number"),
        ("doubles", "[null]", "a number"),
        ("doubles", "[[1]]", "a number"),
        ("doubles", "[true]", "a number"),
        ("doubles", "[]", "the input is empty"),
        ("doubles", "1", "an array of numbers"),
        ("doubles", "null", "an array of numbers"),
        ("doubles", r#""text""#, "an array of numbers"),
        ("doubles", r#"{"a": 1}"#, "an array of numbers"),
        ("floats", "[1e39]", "32-bit floats"),
        ("floats", "[]", "the input is empty"),
        ("integers", "[1.5]", "a 32-bit integer"),
        ("integers", "[2147483648]", "a 32-bit integer"),
        ("integers", "[99999999999999999999]", "a 32-bit integer"),
        ("integers", "[]", "the input is empty"),
        ("strings", "[1]", "a string"),
        ("strings", "7", "a string"),
        ("strings", r#""\ud800""#, "hex escape"),
        ("bytes", r#""not base64!""#, "invalid base64"),
        ("bytes", "[1, 2]", "a base64 string"),
    ];
    let mut wire = Wire::to(cluster.addresses().query).await;
    for (application, input, expected) in cases {
        for (body, member) in [
            (format!(r#"{{"input": {input}}}"#), "input"),
            (format!(r#"{{"input_batch": [{input}]}}"#), "input_batch"),
        ] {
            let reply = wire
                .request("POST", &format!("/{application}/predict"), body)
                .await;
            let cause = reply.cause(400);
            assert!(
                cause.contains(expected),
                "{application} {input}: {expected:?} is not in {cause:?}"
            );
            // Where the text is no JSON at all, the line and column say where.
            assert!(cause.contains(member) || cause.contains("line 1"), "{cause}");
            goes_on(&mut wire).await;
        }
    }
}

async fn a_body_of_40_mib_is_refused_also_to_a_client_that_sends_all_of_it_first() {
    let cluster = iris().await;
    let addr = cluster.addresses().query;
    let body = vec![b' '; 40 * MIB];
    let whole = Wire::to(addr).await.request("POST", "/iris/predict", &body).await;
    let chunks = (0..40).map(|_| vec![b' '; MIB]);
    let chunked = Wire::to(addr).await.chunked("/iris/predict", chunks).await;
    for reply in [whole, chunked] {
        let cause = reply.cause(413);
        assert!(cause.contains("33554432"), "{cause}");
    }
    goes_on(&mut Wire::to(addr).await).await;
}

async fn more_rows_than_a_request_may_have_are_refused_with_the_flag_that_says_how_many() {
    let cluster = Settings::default().flag("--max-rows", "3").start().await;
    cluster.serve("iris", &Deployment::iris()).await;
    let mut wire = Wire::to(cluster.addresses().query).await;
    let row = "[7.9, 4.4, 6.9, 2.5]";
    let rows = |count: usize| format!(r#"{{"input_batch": [{}]}}"#, vec![row; count].join(","));
    let answer = wire.request("POST", "/iris/predict", rows(3)).await.expect(200);
    assert_eq!(answer["batch_predictions"].as_array().map(Vec::len), Some(3));
    let cause = wire.request("POST", "/iris/predict", rows(4)).await.cause(413);
    assert!(
        cause.contains("the 3 rows") && cause.contains("--max-rows"),
        "{cause}"
    );
    goes_on(&mut wire).await;
}

async fn the_largest_body_can_be_configured() {
    let cluster = Settings::default().flag("--body-limit", "100").start().await;
    cluster.serve("iris", &Deployment::iris()).await;
    let mut wire = Wire::to(cluster.addresses().query).await;
    let padded = |length: usize| format!("{IRIS}{}", " ".repeat(length - IRIS.len()));
    let answer = wire
        .request("POST", "/iris/predict", padded(100))
        .await
        .expect(200);
    assert_eq!(answer["output"], "virginica");
    let reply = Wire::to(cluster.addresses().query)
        .await
        .request("POST", "/iris/predict", padded(101))
        .await;
    assert!(reply.cause(413).contains("100"), "{}", reply.text);
    goes_on(&mut wire).await;
}

async fn what_is_not_there_is_said_in_json() {
    let cluster = iris().await;
    let mut wire = Wire::to(cluster.addresses().query).await;
    for (method, path, status, expected) in [
        (
            "POST",
            "/nobody/predict",
            404,
            "no application `nobody` is registered",
        ),
        ("POST", "/No%20Good/predict", 404, "No Good"),
        ("POST", "/iris", 404, "/iris"),
        ("POST", "/", 404, "POST /{application}/predict"),
        ("GET", "/iris/predict/more", 404, "/iris/predict/more"),
        ("GET", "/iris/predict", 405, "GET"),
        ("DELETE", "/iris/predict", 405, "DELETE"),
        ("POST", "/healthz", 405, "POST"),
    ] {
        let cause = wire.request(method, path, IRIS).await.cause(status);
        assert!(cause.contains(expected), "{method} {path}: {cause}");
        goes_on(&mut wire).await;
    }
}

async fn a_large_body_for_nobody_is_answered_too() {
    let cluster = iris().await;
    let addr = cluster.addresses().query;
    let body = vec![b' '; 20 * MIB];
    for (method, path, status) in [
        ("POST", "/nobody/predict", 404),
        ("POST", "/", 404),
        ("PUT", "/iris/predict", 405),
    ] {
        let reply = Wire::to(addr).await.request(method, path, &body).await;
        reply.cause(status);
        goes_on(&mut Wire::to(addr).await).await;
    }
}

async fn a_client_that_hangs_up_in_the_middle_harms_nobody() {
    let cluster = iris().await;
    let addr = cluster.addresses().query;
    for begun in [
        "POST /iris/predict HTTP/1.1\r\nHost: te",
        "POST /iris/predict HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\n{\"input\": [7",
        "POST /iris/predict HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{\"inp",
        "POST /iris/predict HTTP/1.1\r\nHost: test\r\nContent-Length: nonsense\r\n\r\n",
        "\u{16}\u{3}\u{1}",
    ] {
        let mut wire = Wire::to(addr).await;
        wire.write(begun).await.expect("written");
        drop(wire);
        goes_on(&mut Wire::to(addr).await).await;
    }
    let answer = cluster
        .query("iris", json!({ "input": [4.3, 2.0, 1.0, 0.1] }))
        .await
        .expect(200);
    assert_eq!(answer["output"], "setosa");
}
