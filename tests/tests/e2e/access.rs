//! Who may ask what: web pages in a browser of the machine, names that strangers give an address, and the admin
//! token.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;
use skysail_tests::cases;
use skysail_tests::cluster::{Roles, Runtime, Settings, TestCluster};
use skysail_tests::deployment::Deployment;
use skysail_tests::http2::Http2;
use skysail_tests::redis::RedisServer;
use skysail_tests::rest::{Reply, Rest};
use skysail_tests::skysail::Skysail;
use skysail_tests::wait::{PATIENCE, until};
use skysail_tests::wire::Wire;

cases! {
    a_web_page_cannot_start_a_program;
    the_admin_api_takes_a_body_as_json_only_and_needs_no_type_without_one;
    only_pages_of_its_own_and_of_allowed_origins_may_use_the_admin_api;
    of_another_sites_page_only_a_link_to_the_admin_api_is_followed;
    the_admin_api_is_asked_by_an_address_or_by_a_name_it_was_given;
    probes_metrics_and_what_this_is_are_open_to_all;
    the_query_port_answers_everybody_and_tells_pages_nothing;
    pages_of_an_allowed_origin_may_read_what_the_query_port_answers;
    a_token_guards_all_of_the_admin_api;
    a_token_is_asked_for_instead_of_a_known_host;
    a_file_that_holds_no_token_keeps_the_frontend_from_starting;
    beyond_loopback_a_token_is_made_once_and_kept;
    another_token_takes_the_place_of_the_one_before_with_a_restart;
    all_frontends_of_a_cluster_ask_for_the_same_token: Redis;
    a_cluster_that_had_no_token_takes_that_of_the_first_frontend_that_has_one: Redis;
    a_store_that_is_empty_or_away_never_opens_the_admin_api: Redis;
    a_frontend_on_loopback_without_the_flag_asks_for_no_token: Redis;
    the_command_finds_the_token_and_says_what_to_do_without_one;
}

const TOKEN: &str = "correct-horse-battery";
const OTHER: &str = "another-horse-battery";
const JSON: &str = "Content-Type: application/json";
const EVIL: &str = "Origin: http://evil.example";
const STATUS: &str = "/api/v1/status";
const APPLICATIONS: &str = "/api/v1/applications";

/// A request with these lines in its head, and a Host, on a connection of its own.
async fn ask(addr: SocketAddr, method: &str, path: &str, lines: &[&str], body: &str) -> Reply {
    let mut wire = Wire::to(addr).await;
    let length = format!("Content-Length: {}", body.len());
    wire.head(method, path, &[lines, &[&length]].concat()).await;
    wire.write(body).await.expect("the body is written");
    wire.read().await
}

/// A request whose head is written as it is.
async fn ask_raw(addr: SocketAddr, head: &str) -> Reply {
    let mut wire = Wire::to(addr).await;
    wire.write(format!("{head}\r\n\r\n"))
        .await
        .expect("the head is written");
    wire.read().await
}

fn application(name: &str) -> String {
    json!({ "name": name, "input_type": "doubles", "default_output": "0", "slo_micros": 100_000 }).to_string()
}

/// A cluster that asks for [`TOKEN`], and the file that has it.
async fn guarded() -> (TestCluster, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = token_file(folder.path(), TOKEN);
    let settings = Settings::default().flag("--admin-token-file", path.to_str().expect("text"));
    (settings.start().await, folder)
}

fn token_file(folder: &Path, token: &str) -> PathBuf {
    let path = folder.join("token");
    fs::write(&path, format!("{token}\n")).expect("the file is written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("the file is ours");
    path
}

/// The token that a frontend made, by what it logs.
async fn made_token(cluster: &TestCluster) -> (PathBuf, String) {
    let line = cluster
        .log()
        .line("admin REST asks for the token in this file")
        .await;
    let path = line.split_once("file=").expect("the file is named").1.trim();
    let token = fs::read_to_string(path).expect("a token was made");
    (path.into(), token.trim().to_owned())
}

/// Whether the admin API answers who shows this token.
async fn takes(cluster: &TestCluster, token: &str) -> bool {
    let reply = cluster.admin().with_token(token).get(STATUS).await;
    assert!([200, 401].contains(&reply.status), "{reply:?}");
    reply.status == 200
}

async fn a_web_page_cannot_start_a_program() {
    let cluster = TestCluster::start().await;
    let addr = cluster.addresses().admin;
    let written = cluster.folder().join("written");
    let script = cluster.folder().join("script");
    fs::write(&script, format!("touch {}\n", written.display())).expect("written");
    let version = json!({
        "version": "1",
        "input_type": "doubles",
        "deployment": {
            "image": "/bin/bash",
            "replicas": 1,
            "env": { "BASH_ENV": script.to_str().expect("text") },
        },
    });
    let version = version.to_string();
    let path = "/api/v1/models/evil/versions";
    // What a page can send without asking first: a form's types, and none.
    for lines in [
        &["Content-Type: text/plain"][..],
        &["Content-Type: text/plain", EVIL],
        &[],
        &[EVIL],
    ] {
        let reply = ask(addr, "POST", path, lines, &version).await;
        let expected = if lines.contains(&EVIL) { 403 } else { 415 };
        reply.problem(expected);
    }
    // What it may send only if it was allowed to.
    ask(addr, "POST", path, &[JSON, EVIL], &version)
        .await
        .problem(403);
    // What has no body: from a page it is refused by its origin, or by what the browser says of it.
    for line in [EVIL, "Origin: null", "Sec-Fetch-Site: cross-site"] {
        ask(addr, "POST", "/api/v1/cluster/accept-empty", &[line], "")
            .await
            .problem(403);
    }
    cluster.admin().get("/api/v1/models/evil").await.problem(404);
    assert!(!written.exists(), "a program was started");
}

async fn the_admin_api_takes_a_body_as_json_only_and_needs_no_type_without_one() {
    let cluster = TestCluster::start().await;
    let addr = cluster.addresses().admin;
    for (name, content_type) in [
        ("a", "application/json"),
        ("b", "Application/JSON; charset=utf-8"),
    ] {
        let line = format!("Content-Type: {content_type}");
        ask(addr, "POST", APPLICATIONS, &[&line], &application(name))
            .await
            .expect(201);
    }
    for content_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/plain; application/json",
        "application/jsonp",
    ] {
        let line = format!("Content-Type: {content_type}");
        for (method, path) in [
            ("POST", APPLICATIONS),
            ("PATCH", "/api/v1/applications/a"),
            ("POST", "/api/v1/nope"),
        ] {
            let reply = ask(addr, method, path, &[&line], &application("c")).await;
            let why = reply.problem(415);
            assert!(why.contains("Content-Type: application/json"), "{why}");
        }
    }
    // In chunks there is a body, too.
    let mut wire = Wire::to(addr).await;
    wire.head("POST", APPLICATIONS, &["Transfer-Encoding: chunked"])
        .await;
    wire.write("0\r\n\r\n").await.expect("written");
    wire.read().await.problem(415);
    cluster.register_model("m", "doubles").await;
    ask(addr, "PUT", "/api/v1/applications/a/models/m", &[], "")
        .await
        .expect(200);
    ask(addr, "DELETE", "/api/v1/applications/b", &[], "")
        .await
        .expect(204);
}

async fn only_pages_of_its_own_and_of_allowed_origins_may_use_the_admin_api() {
    let settings =
        Settings::default().flag("--admin-allow-origin", "https://ui.example,http://localhost:3000");
    let cluster = settings.start().await;
    let addr = cluster.addresses().admin;
    let own = format!("http://{addr}");
    for origin in [
        &*own,
        "https://ui.example",
        "https://UI.example:443",
        "http://localhost:3000",
    ] {
        let origin = format!("Origin: {origin}");
        let reply = ask(addr, "GET", STATUS, &[&origin, "Sec-Fetch-Site: same-site"], "").await;
        reply.expect(200);
    }
    let other_port = format!("http://127.0.0.1:{}", addr.port().wrapping_add(1));
    for origin in [
        &*other_port,
        "http://evil.example",
        "http://ui.example",
        "https://ui.example.evil.example",
        "null",
        "",
    ] {
        let line = format!("Origin: {origin}");
        for (method, path) in [
            ("GET", STATUS),
            ("POST", APPLICATIONS),
            ("OPTIONS", STATUS),
            ("GET", "/api/v1/nope"),
        ] {
            let asks = "Access-Control-Request-Method: POST";
            let reply = ask(addr, method, path, &[&line, asks], "").await;
            let why = reply.problem(403);
            assert!(why.contains("--admin-allow-origin"), "{why}");
            assert_eq!(reply.header("access-control-allow-origin"), "", "{origin}");
        }
    }
    // A browser of an allowed page asks first, and lets the page read what is answered.
    let asks = [
        "Origin: https://ui.example",
        "Access-Control-Request-Method: PUT",
        "Access-Control-Request-Headers: authorization,content-type",
    ];
    let reply = ask(addr, "OPTIONS", "/api/v1/applications/a/models/m", &asks, "").await;
    assert_eq!(reply.status, 204, "{reply:?}");
    assert_eq!(reply.header("access-control-allow-origin"), "https://ui.example");
    assert!(
        reply.header("access-control-allow-methods").contains("PUT"),
        "{reply:?}"
    );
    assert_eq!(
        reply.header("access-control-allow-headers"),
        "authorization,content-type"
    );
    let lines = [JSON, "Origin: https://ui.example", "Sec-Fetch-Site: cross-site"];
    for status in [201, 409] {
        let reply = ask(addr, "POST", APPLICATIONS, &lines, &application("a")).await;
        reply.expect(status);
        assert_eq!(reply.header("access-control-allow-origin"), "https://ui.example");
        assert!(reply.header("vary").contains("Origin"), "{reply:?}");
    }
}

async fn of_another_sites_page_only_a_link_to_the_admin_api_is_followed() {
    let cluster = TestCluster::start().await;
    let addr = cluster.addresses().admin;
    let cross = "Sec-Fetch-Site: cross-site";
    let link = ["Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"];
    let with = |more: &[&'static str]| [&[cross], more].concat();
    ask(addr, "GET", STATUS, &with(&link), "").await.expect(200);
    ask(addr, "POST", "/api/v1/cluster/restore", &with(&link), "")
        .await
        .problem(403);
    let frame = ["Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe"];
    ask(addr, "GET", STATUS, &with(&frame), "").await.problem(403);
    ask(addr, "GET", STATUS, &with(&["Sec-Fetch-Mode: no-cors"]), "")
        .await
        .problem(403);
    ask(addr, "GET", STATUS, &["Sec-Fetch-Site: none"], "")
        .await
        .expect(200);
    ask(addr, "GET", STATUS, &["Sec-Fetch-Site: same-origin"], "")
        .await
        .expect(200);
}

async fn the_admin_api_is_asked_by_an_address_or_by_a_name_it_was_given() {
    let settings = Settings::default().flag("--admin-host", "skysail.internal,other.example");
    let cluster = settings.start().await;
    let addr = cluster.addresses().admin;
    let status = format!("GET {STATUS} HTTP/1.1");
    for host in [
        "127.0.0.1",
        "10.1.2.3:9999",
        "[::1]:1338",
        "localhost",
        "LOCALHOST:1338",
        "localhost.:1338",
        "Skysail.Internal:1338",
        "other.example.",
    ] {
        ask_raw(addr, &format!("{status}\r\nHost: {host}"))
            .await
            .expect(200);
    }
    for host in [
        "evil.example:1338",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "sub.skysail.internal",
        "127.0.0.1@evil.example",
        "",
    ] {
        let why = ask_raw(addr, &format!("{status}\r\nHost: {host}"))
            .await
            .problem(403);
        assert!(why.contains("--admin-host NAME"), "{host}: {why}");
    }
    ask_raw(addr, &format!("GET {STATUS} HTTP/1.0")).await.expect(200);
    // As a proxy is asked, with the name in the target; and two names.
    ask_raw(
        addr,
        &format!("GET http://evil.example{STATUS} HTTP/1.1\r\nHost: localhost"),
    )
    .await
    .problem(403);
    ask_raw(
        addr,
        &format!("GET http://localhost{STATUS} HTTP/1.1\r\nHost: evil.example"),
    )
    .await
    .problem(403);
    ask_raw(
        addr,
        &format!("GET http://localhost{STATUS} HTTP/1.1\r\nHost: localhost"),
    )
    .await
    .expect(200);
    ask_raw(
        addr,
        &format!("{status}\r\nHost: localhost\r\nHost: evil.example"),
    )
    .await
    .problem(403);
    // What a rebinding page sends: a name of its own, which is its own origin.
    let own = "Host: evil.example:1338\r\nOrigin: http://evil.example:1338\r\nSec-Fetch-Site: same-origin";
    ask_raw(addr, &format!("{status}\r\n{own}")).await.problem(403);
    let http2 = Http2::to(addr).await;
    http2.get(STATUS).await.expect(200);
    http2.get_at("evil.example", STATUS).await.problem(403);
    http2.get_at("skysail.internal:1338", STATUS).await.expect(200);
}

async fn probes_metrics_and_what_this_is_are_open_to_all() {
    let (cluster, _folder) = guarded().await;
    let addr = cluster.addresses().admin;
    for path in ["/healthz", "/readyz", "/metrics", "/"] {
        let foreign =
            format!("GET {path} HTTP/1.1\r\nHost: evil.example\r\n{EVIL}\r\nSec-Fetch-Site: cross-site");
        let reply = ask_raw(addr, &foreign).await;
        assert_eq!(reply.status, 200, "{path}: {reply:?}");
        assert_eq!(reply.header("access-control-allow-origin"), "", "{path}");
    }
    let shown = cluster.admin().get("/").await.expect(200);
    assert_eq!(
        (&shown["name"], &shown["api"]),
        (&json!("skysail"), &json!("/api/v1"))
    );
}

async fn the_query_port_answers_everybody_and_tells_pages_nothing() {
    let cluster = TestCluster::start().await;
    cluster.serve("iris", &Deployment::iris()).await;
    let addr = cluster.addresses().query;
    let query = r#"{"input": [7.9, 4.4, 6.9, 2.5]}"#;
    for lines in [
        &["Content-Type: text/plain", EVIL, "Sec-Fetch-Site: cross-site"][..],
        &["Origin: null"],
        &[],
    ] {
        let reply = ask(addr, "POST", "/iris/predict", lines, query).await;
        assert_eq!(reply.expect(200)["output"], "virginica");
        tells_pages_nothing(&reply);
    }
    let asks = [EVIL, "Access-Control-Request-Method: POST"];
    let reply = ask(addr, "OPTIONS", "/iris/predict", &asks, "").await;
    assert_eq!(reply.status, 405, "{reply:?}");
    tells_pages_nothing(&reply);
    let by_name = "GET /healthz HTTP/1.1\r\nHost: evil.example";
    ask_raw(addr, by_name).await.expect(200);
}

fn tells_pages_nothing(reply: &Reply) {
    let told = reply
        .headers
        .keys()
        .find(|name| name.as_str().starts_with("access-control"));
    assert_eq!(told, None, "{reply:?}");
}

async fn pages_of_an_allowed_origin_may_read_what_the_query_port_answers() {
    let cluster = Settings::default()
        .flag("--cors-origin", "https://shop.example")
        .start()
        .await;
    cluster.serve("iris", &Deployment::iris()).await;
    let addr = cluster.addresses().query;
    let query = r#"{"input": [7.9, 4.4, 6.9, 2.5]}"#;
    let shop = "Origin: https://shop.example";
    let asks = [
        "Access-Control-Request-Method: POST",
        "Access-Control-Request-Headers: content-type,traceparent",
    ];
    let reply = ask(
        addr,
        "OPTIONS",
        "/iris/predict",
        &[&[shop], &asks[..]].concat(),
        "",
    )
    .await;
    assert_eq!(reply.status, 204, "{reply:?}");
    assert_eq!(
        reply.header("access-control-allow-origin"),
        "https://shop.example"
    );
    assert!(
        reply.header("access-control-allow-methods").contains("POST"),
        "{reply:?}"
    );
    assert_eq!(
        reply.header("access-control-allow-headers"),
        "content-type,traceparent"
    );
    for (path, status) in [
        ("/iris/predict", 200),
        ("/nope/predict", 404),
        ("/No%20Good/predict", 404),
    ] {
        let reply = ask(addr, "POST", path, &[shop], query).await;
        reply.expect(status);
        assert_eq!(
            reply.header("access-control-allow-origin"),
            "https://shop.example",
            "{path}"
        );
        assert_eq!(reply.header("vary"), "Origin", "{path}");
    }
    // Others are answered, and told nothing.
    let reply = ask(addr, "POST", "/iris/predict", &[EVIL], query).await;
    reply.expect(200);
    tells_pages_nothing(&reply);
    let reply = ask(
        addr,
        "OPTIONS",
        "/iris/predict",
        &[&[EVIL], &asks[..]].concat(),
        "",
    )
    .await;
    assert_eq!(reply.status, 405, "{reply:?}");

    let cluster = Settings::default().flag("--cors-origin", "*").start().await;
    let reply = ask(cluster.addresses().query, "POST", "/nope/predict", &[EVIL], query).await;
    reply.expect(404);
    assert_eq!(reply.header("access-control-allow-origin"), "*");
}

async fn a_token_guards_all_of_the_admin_api() {
    let (cluster, _folder) = guarded().await;
    let addr = cluster.addresses().admin;
    for (method, path) in [
        ("GET", STATUS),
        ("GET", "/api/v1/replicas"),
        ("POST", APPLICATIONS),
        ("PUT", "/api/v1/applications/a/models/m"),
        ("DELETE", "/api/v1/applications/a"),
        ("POST", "/api/v1/cluster/restore"),
        ("GET", "/api/v1/nope"),
        ("PATCH", STATUS),
        ("OPTIONS", STATUS),
        ("GET", "/api/v1"),
        ("GET", "/%61pi/v1/status"),
        ("GET", "/api%2Fv1/status"),
        ("GET", "//api/v1/status"),
        ("GET", "/./api/v1/status"),
        ("GET", "/metrics/../api/v1/status"),
        ("GET", "/API/V1/status"),
    ] {
        let reply = ask(addr, method, path, &[JSON], "").await;
        let why = reply.problem(401);
        assert!(why.contains("--admin-token-file"), "{method} {path}: {why}");
        assert!(
            reply.header("www-authenticate").starts_with("Bearer"),
            "{reply:?}"
        );
    }
    for good in ["Bearer correct-horse-battery", "bearer correct-horse-battery"] {
        let line = format!("Authorization: {good}");
        ask(addr, "GET", STATUS, &[&line], "").await.expect(200);
        ask(addr, "GET", "/api/v1/nope", &[&line], "").await.problem(404);
        ask(
            addr,
            "POST",
            APPLICATIONS,
            &[&line, "Content-Type: text/plain"],
            "{}",
        )
        .await
        .problem(415);
        // The token is no way in for a page that has it from somewhere.
        ask(addr, "GET", STATUS, &[&line, EVIL], "").await.problem(403);
    }
    let right = "Authorization: Bearer correct-horse-battery";
    let wrong = "Authorization: Bearer another-horse-battery";
    for lines in [
        &[wrong][..],
        &[right, wrong],
        &[right, right],
        &["Authorization: Basic correct-horse-battery"],
        &["Authorization: Bearer correct-horse-batter"],
        &["Authorization: Bearer"],
        &["Cookie: token=correct-horse-battery"],
    ] {
        ask(addr, "GET", STATUS, lines, "").await.problem(401);
    }
    ask(addr, "GET", "/api/v1/status?token=correct-horse-battery", &[], "")
        .await
        .problem(401);
    // The query port asks for none.
    let reply = ask(cluster.addresses().query, "POST", "/nope/predict", &[], "{}").await;
    reply.expect(404);
    let log = cluster.log().lines().join("\n");
    assert!(!log.contains(TOKEN), "{log}");
}

async fn a_token_is_asked_for_instead_of_a_known_host() {
    let (cluster, _folder) = guarded().await;
    let addr = cluster.addresses().admin;
    let head = format!("GET {STATUS} HTTP/1.1\r\nHost: skysail.example");
    ask_raw(addr, &head).await.problem(401);
    ask_raw(addr, &format!("{head}\r\nAuthorization: Bearer {TOKEN}"))
        .await
        .expect(200);
}

async fn a_file_that_holds_no_token_keeps_the_frontend_from_starting() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let missing = folder.path().join("missing");
    for (content, expected) in [
        (None, "No such file"),
        (Some(""), "empty"),
        (Some("\n"), "empty"),
        (Some("hunter2"), "7 characters"),
        (Some("two words that are long"), "one word"),
    ] {
        let path = match content {
            None => missing.clone(),
            Some(token) => token_file(folder.path(), token),
        };
        let path = path.to_str().expect("text");
        let (ended, said) = Settings::default().flag("--admin-token-file", path).fail().await;
        assert!(!ended.success());
        let names_all = said.contains("--admin-token-file") && said.contains(path) && said.contains(expected);
        assert!(names_all && !said.contains("hunter2"), "{said}");
    }
    let path = token_file(folder.path(), TOKEN);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("the file is ours");
    let settings = Settings::default().flag("--admin-token-file", path.to_str().expect("text"));
    let cluster = settings.start().await;
    cluster.log().line("chmod 600").await;
}

/// Settings by which admin REST listens beyond loopback.
fn exposed() -> Settings {
    Settings::default().flag("--admin-addr", "0.0.0.0:0")
}

async fn beyond_loopback_a_token_is_made_once_and_kept() {
    let mut cluster = exposed().start().await;
    cluster.admin().get(STATUS).await.problem(401);
    let (path, token) = made_token(&cluster).await;
    assert!(
        path.starts_with(cluster.folder()) && path.ends_with("skysail/test.admin-token"),
        "{path:?}"
    );
    let mode = fs::metadata(&path).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(token.len() >= 32, "{} characters", token.len());
    let admin = cluster.admin().with_token(&token);
    admin.get(STATUS).await.expect(200);
    // Nothing was written to the store before somebody asked for something.
    assert_eq!(admin.get(STATUS).await.expect(200)["store"]["generation"], 0);
    let application = serde_json::from_str(&application("a")).expect("JSON");
    admin.post(APPLICATIONS, application).await.expect(201);
    cluster.terminate().await;
    cluster.restart().await;
    assert_eq!(made_token(&cluster).await, (path.clone(), token.clone()));
    let admin = cluster.admin().with_token(&token);
    admin.get("/api/v1/applications/a").await.expect(200);
    cluster.admin().get(STATUS).await.problem(401);
    // Without the file nobody has the token; a new one is not taken for the cluster's.
    cluster.terminate().await;
    fs::remove_file(&path).expect("it is there");
    cluster.restart().await;
    cluster.log().line("--admin-token-file").await;
    let (_, another) = made_token(&cluster).await;
    assert_ne!(another, token);
    assert!(takes(&cluster, &token).await && !takes(&cluster, &another).await);
    let log = cluster.log().lines().join("\n");
    assert!(!log.contains(&token) && !log.contains(&another), "{log}");
}

async fn another_token_takes_the_place_of_the_one_before_with_a_restart() {
    let (mut cluster, folder) = guarded().await;
    let admin = cluster.admin().with_token(TOKEN);
    let application = serde_json::from_str(&application("a")).expect("JSON");
    admin.post(APPLICATIONS, application).await.expect(201);
    cluster.terminate().await;
    token_file(folder.path(), OTHER);
    cluster.restart().await;
    assert!(takes(&cluster, OTHER).await && !takes(&cluster, TOKEN).await);
    cluster.log().line("the admin token is the cluster's").await;
}

async fn all_frontends_of_a_cluster_ask_for_the_same_token() {
    let redis = RedisServer::start().await;
    let frontend = || exposed().redis(redis.url()).runtime(Runtime::None).start();
    let (first, second) = (frontend().await, frontend().await);
    let [(_, of_first), (_, of_second)] = [made_token(&first).await, made_token(&second).await];
    assert!(takes(&first, &of_first).await && takes(&second, &of_second).await);
    assert!(!takes(&first, &of_second).await && !takes(&second, &of_first).await);
    // The first thing that is asked for decides.
    let application = serde_json::from_str(&application("a")).expect("JSON");
    let admin = first.admin().with_token(&of_first);
    admin.post(APPLICATIONS, application).await.expect(201);
    until(
        "the second to ask for the first one's token",
        PATIENCE,
        async || takes(&second, &of_first).await && !takes(&second, &of_second).await,
    )
    .await;
    // One that is given a token makes it the cluster's.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = token_file(folder.path(), TOKEN);
    let given = Settings::default().redis(redis.url()).runtime(Runtime::None);
    let given = given
        .flag("--admin-token-file", path.to_str().expect("text"))
        .start()
        .await;
    assert!(takes(&given, TOKEN).await && !takes(&given, &of_first).await);
    for frontend in [&first, &second] {
        until("the given token to be asked for", PATIENCE, async || {
            takes(frontend, TOKEN).await && !takes(frontend, &of_first).await
        })
        .await;
    }
}

async fn a_cluster_that_had_no_token_takes_that_of_the_first_frontend_that_has_one() {
    let redis = RedisServer::start().await;
    let settings = || Settings::default().redis(redis.url()).runtime(Runtime::None);
    let local = settings().start().await;
    local.register("a", "doubles", "0", PATIENCE).await;
    let generation = async || local.admin().get(STATUS).await.expect(200)["store"]["generation"].clone();
    let before = generation().await;
    let first = settings().flag("--admin-addr", "0.0.0.0:0").start().await;
    let (_, token) = made_token(&first).await;
    until("the token's hash to be in the store", PATIENCE, async || {
        generation().await != before
    })
    .await;
    let second = settings().flag("--admin-addr", "0.0.0.0:0").start().await;
    let (_, not_asked_for) = made_token(&second).await;
    second.log().line("was not made here").await;
    assert!(takes(&second, &token).await && !takes(&second, &not_asked_for).await);
    assert!(takes(&first, &token).await);
}

async fn a_store_that_is_empty_or_away_never_opens_the_admin_api() {
    let mut redis = RedisServer::start().await;
    let settings = exposed().redis(redis.url()).runtime(Runtime::None);
    let mut cluster = settings.start().await;
    let (_, token) = made_token(&cluster).await;
    let application = serde_json::from_str(&application("a")).expect("JSON");
    let admin = cluster.admin().with_token(&token);
    admin.post(APPLICATIONS, application).await.expect(201);
    redis.kill();
    cluster.admin().get(STATUS).await.problem(401);
    assert!(takes(&cluster, &token).await);
    // Away from the start.
    cluster.terminate().await;
    cluster.relaunch().await;
    cluster.admin().get(STATUS).await.problem(401);
    assert!(takes(&cluster, &token).await);
    // Emptied, under a frontend that begins.
    cluster.terminate().await;
    redis.empty();
    redis.start_again().await;
    cluster.relaunch().await;
    cluster.admin().get(STATUS).await.problem(401);
    assert!(takes(&cluster, &token).await);
}

async fn a_frontend_on_loopback_without_the_flag_asks_for_no_token() {
    let redis = RedisServer::start().await;
    let first = exposed().redis(redis.url()).runtime(Runtime::None).start().await;
    let (_, token) = made_token(&first).await;
    let application = serde_json::from_str(&application("a")).expect("JSON");
    let admin = first.admin().with_token(&token);
    admin.post(APPLICATIONS, application).await.expect(201);
    let local = Settings::default()
        .redis(redis.url())
        .runtime(Runtime::None)
        .start()
        .await;
    local.admin().get("/api/v1/applications/a").await.expect(200);
    // A query frontend has no admin API, and makes no token.
    let query = exposed()
        .redis(redis.url())
        .runtime(Runtime::None)
        .roles(Roles::Query)
        .start()
        .await;
    assert!(!query.log().says("admin REST asks"));
}

async fn the_command_finds_the_token_and_says_what_to_do_without_one() {
    let (cluster, folder) = guarded().await;
    let addr = cluster.addresses().admin;
    let home = folder.path().to_str().expect("text");
    let at = |url: &str| {
        let skysail = Skysail::default().env("SKYSAIL_ADMIN_URL", url);
        skysail.env("HOME", home).env("XDG_CONFIG_HOME", "")
    };
    let by_ip = format!("http://{addr}");
    let refused = at(&by_ip).refused("app list").await;
    assert!(
        refused.contains("--admin-token-file") && refused.contains("SKYSAIL_ADMIN_TOKEN"),
        "{refused}"
    );
    // Named, in the environment, and kept.
    let file = folder.path().join("token");
    let file = file.to_str().expect("text");
    at(&by_ip)
        .done(&format!("app list --admin-token-file {file}"))
        .await;
    at(&by_ip).env("SKYSAIL_ADMIN_TOKEN", TOKEN).done("status").await;
    at(&by_ip)
        .env("SKYSAIL_ADMIN_TOKEN_FILE", file)
        .done("status")
        .await;
    let kept = folder.path().join(".config/skysail/tokens");
    fs::create_dir_all(&kept).expect("a folder");
    let kept = kept.join(format!("localhost_{}", addr.port()));
    fs::write(&kept, format!("{TOKEN}\n")).expect("written");
    for url in [
        by_ip.clone(),
        format!("http://localhost:{}", addr.port()),
        addr.to_string(),
    ] {
        at(&url).done("status").await;
    }
    at(&by_ip)
        .done("app register a --input-type doubles --default-output 0 --slo 1s")
        .await;
    at(&by_ip).done("app list").await;
    // One that is given wins over one that is kept; if it is not the right one, it is said where it came from.
    let wrong = at(&by_ip)
        .env("SKYSAIL_ADMIN_TOKEN", OTHER)
        .refused("status")
        .await;
    assert!(wrong.contains("from SKYSAIL_ADMIN_TOKEN"), "{wrong}");
    fs::write(&kept, OTHER).expect("written");
    let stale = at(&by_ip).refused("status").await;
    assert!(stale.contains(kept.to_str().expect("text")), "{stale}");
    let missing = at(&by_ip)
        .refused("status --admin-token-file /no/such/file")
        .await;
    assert!(missing.contains("/no/such/file"), "{missing}");
    assert!(
        !stale.contains(OTHER) && !wrong.contains(OTHER),
        "{wrong} {stale}"
    );
    let rest = Rest::at(addr).with_token(TOKEN);
    rest.get("/api/v1/applications/a").await.expect(200);
}
