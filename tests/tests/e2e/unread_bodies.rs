//! Bodies that an answer leaves unread, on both ports: the next request on the connection is answered, or the
//! answer says that there is none, and the connection is closed.

use std::net::SocketAddr;

use skysail_tests::cases;
use skysail_tests::cluster::{Settings, TestCluster};
use skysail_tests::deployment::Deployment;
use skysail_tests::http2::Http2;
use skysail_tests::wait::{PATIENCE, within};
use skysail_tests::wire::Wire;

cases! {
    a_client_that_waits_to_be_asked_for_its_body_is_hung_up_on_when_it_is_refused;
    a_client_that_waits_to_be_asked_is_asked_and_its_connection_goes_on;
    a_client_that_does_not_wait_to_be_asked_sees_why_it_is_refused;
    a_body_that_nobody_wants_does_not_stand_before_the_next_request;
    a_body_too_large_to_be_thrown_away_ends_its_connection;
    on_http2_a_refused_body_is_in_nobodys_way;
}

const MIB: usize = 1024 * 1024;
const IRIS: &str = r#"{"input": [7.9, 4.4, 6.9, 2.5]}"#;
const EXPECT: &str = "Expect: 100-continue";
const JSON: &str = "Content-Type: application/json";

async fn iris() -> TestCluster {
    let cluster = TestCluster::start().await;
    cluster.serve("iris", &Deployment::iris()).await;
    cluster
}

/// A request whose body is not read, and what it is answered with.
struct Refused {
    addr: SocketAddr,
    method: &'static str,
    path: &'static str,
    lines: &'static [&'static str],
    status: u16,
}

fn refused(cluster: &TestCluster) -> Vec<Refused> {
    let [query, admin] = [cluster.addresses().query, cluster.addresses().admin];
    let of = |addr, method, path, lines, status| Refused {
        addr,
        method,
        path,
        lines,
        status,
    };
    let mut all = vec![
        of(query, "POST", "/nope/predict", &[JSON] as &[_], 404),
        of(query, "POST", "/No%20Good/predict", &[JSON], 404),
        of(query, "POST", "/", &[JSON], 404),
        of(query, "PUT", "/iris/predict", &[JSON], 405),
        of(query, "POST", "/healthz", &[JSON], 405),
        of(query, "POST", "/iris/predict", &["Skysail-Slo-Micros: soon"], 400),
        of(query, "GET", "/healthz", &[JSON], 200),
    ];
    all.extend([
        of(admin, "POST", "/nope", &[JSON], 404),
        of(admin, "POST", "/api/v1/nope", &[JSON], 404),
        of(admin, "POST", "/api/v1/status", &[JSON], 405),
        of(
            admin,
            "POST",
            "/api/v1/applications",
            &["Content-Type: text/plain"],
            415,
        ),
        of(
            admin,
            "POST",
            "/api/v1/applications",
            &[JSON, "Origin: http://example.org"],
            403,
        ),
        of(admin, "GET", "/api/v1/status", &[JSON], 200),
        of(admin, "DELETE", "/api/v1/applications/nope", &[JSON], 404),
        of(admin, "GET", "/metrics", &[JSON], 200),
    ]);
    all
}

async fn a_client_that_waits_to_be_asked_for_its_body_is_hung_up_on_when_it_is_refused() {
    let cluster = iris().await;
    for Refused {
        addr,
        method,
        path,
        lines,
        status,
    } in refused(&cluster)
    {
        for length in ["Content-Length: 31", "Transfer-Encoding: chunked"] {
            let mut wire = Wire::to(addr).await;
            wire.head(method, path, &[lines, &[EXPECT, length]].concat())
                .await;
            // The first that comes is the answer, and no word to send the body.
            let reply = wire.read().await;
            let what = format!("{method} {path}, {length}: {reply:?}");
            assert_eq!(
                (reply.status, reply.header("connection")),
                (status, "close"),
                "{what}"
            );
            // A client that did not see it gets no answer to its next request, rather than a late one.
            let _ = wire
                .write("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                .await;
            let came = within("the end of the connection", PATIENCE / 3, wire.closed()).await;
            assert_eq!(String::from_utf8_lossy(&came), "", "{what}");
        }
    }
    // The same for one that is larger than is taken.
    for (addr, path) in [
        (cluster.addresses().query, "/iris/predict"),
        (cluster.addresses().admin, "/api/v1/applications"),
    ] {
        let mut wire = Wire::to(addr).await;
        wire.head("POST", path, &[JSON, EXPECT, "Content-Length: 40000000"])
            .await;
        let reply = wire.read().await;
        assert_eq!(
            (reply.status, reply.header("connection")),
            (413, "close"),
            "{reply:?}"
        );
        assert!(wire.closed().await.is_empty(), "{path}");
    }
}

async fn a_client_that_waits_to_be_asked_is_asked_and_its_connection_goes_on() {
    let cluster = iris().await;
    let mut wire = Wire::to(cluster.addresses().query).await;
    let length = format!("Content-Length: {}", IRIS.len());
    for _ in 0..3 {
        wire.head("POST", "/iris/predict", &[EXPECT, &length]).await;
        let asked = "HTTP/1.1 100 Continue\r\n\r\n";
        let came = wire.read_bytes(asked.len()).await;
        assert_eq!(String::from_utf8_lossy(&came), asked);
        wire.write(IRIS).await.expect("the body is written");
        let reply = wire.read().await;
        assert_eq!(reply.header("connection"), "", "{reply:?}");
        assert_eq!(reply.expect(200)["output"], "virginica");
    }
    // One that was read and is no query: nothing is left of it.
    wire.head("POST", "/iris/predict", &[EXPECT, "Content-Length: 2"])
        .await;
    wire.read_bytes("HTTP/1.1 100 Continue\r\n\r\n".len()).await;
    wire.write("{}").await.expect("the body is written");
    let reply = wire.read().await;
    assert_eq!((reply.status, reply.header("connection")), (400, ""), "{reply:?}");
    wire.request("POST", "/iris/predict", IRIS).await.expect(200);
}

async fn a_client_that_does_not_wait_to_be_asked_sees_why_it_is_refused() {
    let cluster = iris().await;
    for size in [31, 20 * MIB] {
        for Refused {
            addr,
            method,
            path,
            lines,
            status,
        } in refused(&cluster)
        {
            let mut wire = Wire::to(addr).await;
            let length = format!("Content-Length: {size}");
            wire.head(method, path, &[lines, &[EXPECT, &length]].concat())
                .await;
            // All of it before a byte of the answer is read.
            wire.write(vec![b' '; size]).await.expect("the body is taken");
            let reply = wire.read().await;
            assert_eq!(reply.status, status, "{method} {path}: {reply:?}");
        }
    }
}

async fn a_body_that_nobody_wants_does_not_stand_before_the_next_request() {
    let cluster = iris().await;
    for Refused {
        addr,
        method,
        path,
        lines,
        status,
    } in refused(&cluster)
    {
        for size in [31, MIB] {
            let mut wire = Wire::to(addr).await;
            let length = format!("Content-Length: {size}");
            wire.head(method, path, &[lines, &[&length]].concat()).await;
            // The body comes only after the answer.
            let reply = wire.read().await;
            let what = format!("{method} {path}: {reply:?}");
            assert_eq!((reply.status, reply.header("connection")), (status, ""), "{what}");
            wire.write(vec![b' '; size]).await.expect("the body is taken");
            wire.request("GET", "/healthz", "").await.expect(200);
        }
    }
}

async fn a_body_too_large_to_be_thrown_away_ends_its_connection() {
    let settings = Settings::default().flag("--body-limit", "1000");
    let cluster = settings.start().await;
    cluster.serve("iris", &Deployment::iris()).await;
    for (addr, path, status) in [
        (cluster.addresses().query, "/iris/predict", 413),
        (cluster.addresses().query, "/nope/predict", 404),
        (cluster.addresses().admin, "/api/v1/applications", 413),
    ] {
        let mut wire = Wire::to(addr).await;
        let length = format!("Content-Length: {}", 100 * MIB);
        wire.head("POST", path, &[JSON, &length]).await;
        let reply = wire.read().await;
        assert_eq!(
            (reply.status, reply.header("connection")),
            (status, "close"),
            "{path}: {reply:?}"
        );
    }
}

async fn on_http2_a_refused_body_is_in_nobodys_way() {
    let cluster = iris().await;
    let http2 = Http2::to(cluster.addresses().query).await;
    for _ in 0..3 {
        let reply = http2.post_expecting("/nope/predict", vec![b' '; MIB]).await;
        assert_eq!((reply.status, reply.header("connection")), (404, ""), "{reply:?}");
        let answer = http2.post("/iris/predict", IRIS).await.expect(200);
        assert_eq!(answer["output"], "virginica");
    }
    assert!(!http2.is_closed());
}
