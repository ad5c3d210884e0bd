//! What came from elsewhere commands no terminal.

use serde_json::json;
use skysail_tests::cases;
use skysail_tests::cluster::TestCluster;
use skysail_tests::deployment::Deployment;
use skysail_tests::skysail::Skysail;
use skysail_tests::wait::{PATIENCE, until};

cases! {
    what_a_container_prints_is_shown_and_not_obeyed;
    what_a_model_answers_is_shown_and_not_obeyed;
}

const TEST_CONTAINER: &str = env!("CARGO_BIN_EXE_test-container");

/// A title for the window, a colour by the one-character CSI, a carriage return, and text that runs backwards.
const EVIL: &str = "\x1b]0;owned\x07\u{9b}31mred\rover\u{202e}txt";

/// What is shown of it.
const SHOWN: &str = r"\x1b]0;owned\x07\u{9b}31mred\rover\u{202e}txt";

/// A terminal is sent colours and line ends by the command itself, and nothing else that it would obey.
fn check_harmless(shown: &str) {
    let mut rest = shown.replace("\r\n", "").replace("\r\x1b[2K", "");
    for code in ["1;31", "1;36", "31", "32", "33", "34", "35", "36", "2", "0"] {
        rest = rest.replace(&format!("\x1b[{code}m"), "");
    }
    let obeyed = |c: char| (c.is_control() && !matches!(c, '\n' | '\t')) || c == '\u{202e}';
    assert!(!rest.contains(obeyed), "{shown:?}");
}

async fn what_a_container_prints_is_shown_and_not_obeyed() {
    let cluster = TestCluster::start().await;
    let skysail = Skysail::at(cluster.addresses().admin);
    let script = format!("print {EVIL}\nexit 3");
    let deployment = Deployment::of_image("evil", TEST_CONTAINER).env("TEST_SCRIPT", &script);
    cluster.deploy(&deployment).await;
    until("the container to fail", PATIENCE, async || {
        !cluster.version("evil", "1").await["last_failure"].is_null()
    })
    .await;

    let page = skysail.show("model show evil").await;
    assert!(page.contains(SHOWN), "{page:?}");
    check_harmless(&page);
    // A page is for people, who may look at it later.
    let piped = skysail.done("model show evil").await;
    assert!(piped.contains(SHOWN), "{piped:?}");

    let waits =
        Deployment::of_image("waiting", TEST_CONTAINER).env("TEST_SCRIPT", &format!("print {EVIL}\nwait"));
    cluster.deploy(&waits).await;
    let mut log = String::new();
    until("the line to be logged", PATIENCE, async || {
        log = skysail.show("model logs waiting").await;
        log.contains("waiting_1_0")
    })
    .await;
    assert!(log.contains(SHOWN), "{log:?}");
    check_harmless(&log);
    let json = skysail.show("model logs waiting --output json").await;
    check_harmless(&json);
    let line: serde_json::Value = serde_json::from_str(json.trim()).expect("a JSON line");
    assert_eq!(line["line"], EVIL);
    // A program gets what the container printed.
    let piped = skysail.done("model logs waiting").await;
    assert!(piped.contains(EVIL), "{piped:?}");

    let image = format!("/no/such/{EVIL}").replace(' ', "");
    let line = format!("model deploy missing:1 --input-type doubles --image {image}");
    let told = skysail.show(&line).await;
    assert!(told.contains(r"/no/such/\x1b]0;owned\x07"), "{told:?}");
    check_harmless(&told);
    for line in ["model list", "status", "replica list", "model show missing"] {
        check_harmless(&skysail.show(line).await);
    }
    // Nor does the frontend's own log.
    let logged = cluster.log().line("container not started").await;
    assert!(logged.contains(r"/no/such/\x1b]0;owned\x07"), "{logged:?}");
}

async fn what_a_model_answers_is_shown_and_not_obeyed() {
    let cluster = TestCluster::start().await;
    let skysail = Skysail::at(cluster.addresses().admin);
    // A default output is text of a person's choice, and goes the way of a model's.
    let application = json!({
        "name": "app", "input_type": "doubles", "default_output": EVIL, "slo_micros": 1_000_000,
    });
    cluster
        .admin()
        .post("/api/v1/applications", application)
        .await
        .expect(201);
    let shown = skysail.show("predict app [1.0]").await;
    assert!(shown.contains(SHOWN), "{shown:?}");
    check_harmless(&shown);
    let json = skysail.show("predict app [1.0] --output json").await;
    check_harmless(&json);
    assert_eq!(skysail.done("predict app [1.0]").await, format!("{EVIL}\n"));
    let page = skysail.show("app show app").await;
    assert!(page.contains(SHOWN), "{page:?}");
    for line in ["app show app", "app list"] {
        let shown = skysail.show(line).await;
        check_harmless(&shown);
    }
}
