//! As many connections as there may be: who has to make room for a new one, and who never has to.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use skysail_tests::cases;
use skysail_tests::cluster::{Settings, TestCluster};
use skysail_tests::deployment::Deployment;
use skysail_tests::http2::Http2;
use skysail_tests::wait::{PATIENCE, until};
use skysail_tests::wire::Wire;

cases! {
    at_the_limit_the_one_that_has_idled_longest_makes_room;
    one_that_never_sent_a_byte_has_idled_since_it_was_opened;
    an_idle_http2_connection_makes_room_too;
    a_request_in_flight_is_never_cut_off_for_a_new_connection;
    a_part_of_a_head_holds_no_place;
    ten_thousand_idle_connections_lock_nobody_out;
}

const QUERY: &str = r#"{"input": [1]}"#;

/// The first bytes of an HTTP/2 client: the preface, and settings that change nothing.
const HTTP2_GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A frontend that takes this many connections. None of the test's own: those of a client's pool would idle, too.
async fn limited(connections: usize) -> TestCluster {
    let settings = Settings::default()
        .flag("--max-connections", &connections.to_string())
        .flag("--client-timeout", "10m")
        .flag("--idle-timeout", "10m");
    let cluster = settings.launch().await;
    until("the frontend to be ready", PATIENCE, async || {
        cluster.admin().get("/readyz").await.status == 200
    })
    .await;
    cluster
}

/// A connection that was asked something and answered.
async fn used(addr: SocketAddr) -> Wire {
    let mut wire = Wire::to(addr).await;
    use_again(&mut wire).await;
    wire
}

async fn use_again(wire: &mut Wire) {
    wire.request("GET", "/healthz", "").await.expect(200);
}

/// A connection that asks `app`, whose model is never done.
async fn asking(addr: SocketAddr) -> Wire {
    let mut wire = Wire::to(addr).await;
    let length = QUERY.len();
    wire.write(format!(
        "POST /app/predict HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n{QUERY}"
    ))
    .await
    .expect("written");
    wire
}

async fn at_the_limit_the_one_that_has_idled_longest_makes_room() {
    let cluster = limited(3).await;
    let addr = cluster.addresses().query;
    let [mut first, mut second, mut third] = [used(addr).await, used(addr).await, used(addr).await];
    // The first was opened first, but is not the one that has idled longest.
    use_again(&mut first).await;
    let mut fourth = used(addr).await;
    assert_eq!(second.closed().await, b"");
    for wire in [&mut third, &mut first, &mut fourth] {
        use_again(wire).await;
    }
    let mut others = Vec::new();
    for mut expected in [third, first, fourth] {
        others.push(used(addr).await);
        assert_eq!(expected.closed().await, b"");
    }
    for wire in &mut others {
        use_again(wire).await;
    }
    // However often it happens, it is said once in a while.
    let lines = cluster.log().lines();
    let said = lines
        .iter()
        .filter(|line| line.contains("connection limit reached"));
    assert_eq!(said.count(), 1);
}

async fn one_that_never_sent_a_byte_has_idled_since_it_was_opened() {
    let cluster = limited(3).await;
    let addr = cluster.addresses().query;
    let mut used_before = used(addr).await;
    let mut silent = Wire::to(addr).await;
    // It is there when one that was opened after it is answered.
    let mut used_after = used(addr).await;
    use_again(&mut used_before).await;
    let mut newcomer = used(addr).await;
    assert_eq!(silent.closed().await, b"");
    for wire in [&mut used_before, &mut used_after, &mut newcomer] {
        use_again(wire).await;
    }
    let _another = used(addr).await;
    assert_eq!(used_before.closed().await, b"");
}

async fn an_idle_http2_connection_makes_room_too() {
    let cluster = limited(3).await;
    let model = Deployment::synthetic().env("SYNTHETIC_FIXED_MICROS", "600000000");
    cluster
        .serve_within("app", &model, Duration::from_secs(600))
        .await;
    let addr = cluster.addresses().query;
    // One that has greeted and nothing more, one with a request in flight and one that was used.
    let mut greeted = Wire::to(addr).await;
    greeted.write(HTTP2_GREETING).await.expect("written");
    greeted.read_bytes(9).await;
    let busy = Http2::to(addr).await;
    let in_flight = tokio::spawn({
        let busy = busy.clone();
        async move { busy.post("/app/predict", QUERY).await }
    });
    until("the query to be accepted", PATIENCE, async || {
        cluster.accepted("synthetic").await == 1
    })
    .await;
    busy.get("/healthz").await.expect(200);
    let idle = Http2::to(addr).await;
    idle.get("/healthz").await.expect(200);

    let mut first = used(addr).await;
    // A farewell may come before the end.
    greeted.closed().await;
    let mut second = used(addr).await;
    until("the idle one to be closed", PATIENCE, async || idle.is_closed()).await;
    // Of those that are left one has a request in flight; the others make room for each other.
    let _third = used(addr).await;
    first.closed().await;
    use_again(&mut second).await;
    assert!(!in_flight.is_finished());
    busy.get("/healthz").await.expect(200);
    in_flight.abort();
}

async fn a_request_in_flight_is_never_cut_off_for_a_new_connection() {
    const LIMIT: usize = 3;
    let cluster = limited(LIMIT).await;
    let model = Deployment::synthetic()
        .env("SYNTHETIC_FIXED_MICROS", "600000000")
        .with("cache", false);
    cluster
        .serve_within("app", &model, Duration::from_secs(600))
        .await;
    let addr = cluster.addresses().query;
    let mut inside = Vec::new();
    for _ in 0..LIMIT {
        inside.push(asking(addr).await);
        until("the query to be accepted", PATIENCE, async || {
            cluster.accepted("synthetic").await == inside.len()
        })
        .await;
    }
    // The system takes its connection and its request; nobody answers.
    let mut outside = Wire::to(addr).await;
    outside
        .write("GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n")
        .await
        .expect("written");
    until("it to be said", PATIENCE, async || {
        cluster.log().says("connection limit reached")
    })
    .await;
    for _ in 0..10 {
        cluster.admin().get("/healthz").await.expect(200);
    }
    assert!(!outside.has_something(), "answered beyond the limit");
    drop(inside.pop());
    outside.read().await.expect(200);
    // Now there is one that idles.
    used(addr).await;
    for wire in &mut inside {
        assert!(!wire.has_something(), "cut off with a request in flight");
    }
}

async fn a_part_of_a_head_holds_no_place() {
    const PARTS: [&str; 4] = ["\r\n", "P", "GET /healthz HTTP/1.1\r\nHost: te", "PRI * HT"];
    let cluster = limited(PARTS.len()).await;
    let addr = cluster.addresses().query;
    let mut begun = Vec::new();
    for part in PARTS {
        let mut wire = Wire::to(addr).await;
        wire.write(part).await.expect("written");
        begun.push(wire);
    }
    // They go in the order in which they came, for as many as come after them.
    let mut newcomers = Vec::new();
    for wire in &mut begun {
        newcomers.push(used(addr).await);
        wire.closed().await;
    }
    // One that is used again and has begun to ask keeps its place while another has waited for longer.
    let mut last = newcomers.pop().expect("as many as there are parts");
    use_again(&mut last).await;
    last.write("GET /healthz HTTP/1.1\r\nHost: te")
        .await
        .expect("written");
    used(addr).await;
    assert_eq!(newcomers[0].closed().await, b"");
    last.write("st\r\n\r\n").await.expect("written");
    last.read().await.expect(200);
}

/// Lets this process, and the frontend that it starts, have as many open files as it may; returns how many.
fn raise_open_files() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).expect("a soft limit may be raised to the hard one");
    usize::try_from(limit.maximum.unwrap_or(u64::MAX)).unwrap_or(usize::MAX)
}

async fn ten_thousand_idle_connections_lock_nobody_out() {
    // Half of what is left where this machine allows fewer: other tests run meanwhile.
    let idle = (raise_open_files() / 2).min(10_000);
    let cluster = limited(idle).await;
    cluster
        .register("app", "doubles", "-1.0", Duration::from_secs(1))
        .await;
    let admin_limit = 1000;
    for (addr, limit) in [
        (cluster.addresses().query, idle),
        (cluster.addresses().admin, admin_limit),
    ] {
        let connect = move || -> Vec<TcpStream> {
            (0..limit + 10)
                .map(|_| TcpStream::connect(addr).expect("connected"))
                .collect()
        };
        let idle = tokio::task::spawn_blocking(connect).await.expect("connected");
        for _ in 0..20 {
            used(addr).await;
        }
        drop(idle);
    }
    let mut wire = Wire::to(cluster.addresses().query).await;
    let answer = wire.request("POST", "/app/predict", QUERY).await.expect(200);
    assert_eq!(answer["output"], json!(-1.0));
}
