//! `skysail start` and `skysail stop`: a whole cluster in Docker, with the images as they ship.

use std::collections::HashMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::future::join_all;
use redis::Commands;
use rustix::process::Signal;
use serde_json::{Value, json};
use skysail_tests::cases;
use skysail_tests::docker::{DockerCluster, Holdings, image, redis_image};
use skysail_tests::rest::Rest;
use skysail_tests::skysail::{Said, Skysail};
use skysail_tests::test_image::TestImage;
use skysail_tests::wait::{self, PATIENCE};

cases! {
    the_demonstration_works_from_start_to_stop: Docker, Redis;
    a_model_container_reaches_container_rpc_and_neither_redis_nor_the_admin_api: Docker, Redis;
    the_admin_api_asks_for_a_token_that_the_users_commands_know_until_the_stop: Docker, Redis;
    a_frontend_that_crashes_comes_back_with_all_it_knew: Docker, Redis;
    kept_data_is_there_again_after_the_next_start: Docker, Redis;
    several_frontends_serve_what_one_control_role_looks_after: Docker, Redis;
    a_cluster_is_not_started_twice: Docker, Redis;
    of_starts_at_once_exactly_one_succeeds: Docker, Redis;
    a_start_that_is_interrupted_leaves_nothing: Docker, Redis;
    a_taken_port_is_named_and_nothing_is_left: Docker, Redis;
    an_image_that_is_missing_is_named_and_nothing_is_left: Docker, Redis;
    a_part_that_does_not_stay_up_is_shown_and_nothing_is_left: Docker, Redis;
}

/// A cluster that `skysail start` brought up.
struct Started {
    skysail: Skysail,
    queries: Rest,
    admin: Rest,
    admin_port: u16,
    token: String,
}

/// The command of a user of this cluster alone: the tokens it keeps are nobody else's.
fn user(docker: &DockerCluster) -> Skysail {
    let folder = config_folder(docker);
    Skysail::default().env("XDG_CONFIG_HOME", folder.to_str().expect("text"))
}

fn config_folder(docker: &DockerCluster) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(docker.name())
}

/// The tokens that the user's commands keep.
fn kept_tokens(docker: &DockerCluster) -> Vec<String> {
    let files = fs::read_dir(config_folder(docker).join("skysail/tokens"));
    let files = files.into_iter().flatten();
    files
        .map(|file| fs::read_to_string(file.expect("a file").path()).expect("a token"))
        .map(|token| token.trim().to_owned())
        .collect()
}

/// The admin token that the control role was given.
async fn admin_token(docker: &DockerCluster) -> String {
    let containers = docker.containers().await;
    let control = containers
        .iter()
        .find(|found| found.labels.contains_key("ai.skysail.admin-port"))
        .expect("a container has the control role");
    docker
        .file(&control.name, "/skysail/admin-token")
        .await
        .trim()
        .to_owned()
}

/// The options that every start has here.
async fn line(docker: &DockerCluster, options: &str) -> String {
    format!(
        "start --cluster {} --frontend-image {} --redis-image {} {options}",
        docker.name(),
        image("frontend").await,
        redis_image().await
    )
}

const FREE_PORTS: &str = "--query-port 0 --admin-port 0 --rpc-port 0 --ops-port 0";

async fn try_start(docker: &DockerCluster, options: &str) -> Said {
    user(docker).say(&line(docker, options).await).await
}

async fn start(docker: &DockerCluster, options: &str) -> Started {
    let said = try_start(docker, &format!("{FREE_PORTS}{options}")).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    let at = |api: &str| -> SocketAddr {
        let line = said.out.lines().find(|line| line.contains(api));
        // The first of several.
        let addr = line.and_then(|line| line.split("http://").nth(1));
        addr.and_then(|addr| addr.trim_end_matches([',', ' ']).parse().ok())
            .unwrap_or_else(|| panic!("{api} is not named: {said:?}"))
    };
    let admin = at("admin API");
    let token = admin_token(docker).await;
    assert!(
        !said.out.contains(&token) && !said.err.contains(&token),
        "{said:?}"
    );
    Started {
        skysail: user(docker).env("SKYSAIL_ADMIN_URL", &format!("http://{admin}")),
        queries: Rest::at(at("query API")),
        admin: Rest::at(admin).with_token(&token),
        admin_port: admin.port(),
        token,
    }
}

async fn stop(docker: &DockerCluster) -> String {
    user(docker)
        .done(&format!("stop --cluster {}", docker.name()))
        .await
}

impl Started {
    async fn serve_iris(&self) {
        self.skysail
            .done("app register iris --input-type doubles --default-output=-1.0 --slo 30s")
            .await;
        let deploy = format!(
            "model deploy iris-model:1 --image {} --input-type doubles --replicas 3",
            image("iris-svm").await
        );
        let deployed = self.skysail.done(&deploy).await;
        assert!(deployed.contains("3 of 3 replicas attached"), "{deployed}");
        self.skysail.done("app link iris iris-model").await;
    }

    async fn tells_irises_apart(&self) {
        for (iris, species) in [
            ([7.9, 4.4, 6.9, 2.5], "virginica"),
            ([5.84, 3.05, 3.76, 1.2], "versicolor"),
            ([4.3, 2.0, 1.0, 0.1], "setosa"),
        ] {
            let body = json!({ "input": iris });
            let answer = self.queries.post("/iris/predict", body).await.expect(200);
            assert_eq!(
                (&answer["output"], &answer["default"]),
                (&json!(species), &json!(false))
            );
            // The command finds the query API by what the frontend in its container says of itself.
            let line = format!("predict iris {}", json!(iris));
            assert_eq!(self.skysail.done(&line).await.trim(), species);
        }
    }

    /// Waits until a frontend answers there with three replicas; nobody may be there yet.
    async fn three_attached(&self) {
        let get = async || {
            let replicas = self
                .admin
                .send(reqwest::Method::GET, "/api/v1/replicas", "")
                .await
                .ok()?;
            let replicas: Value = serde_json::from_str(&replicas.text).ok()?;
            replicas.as_array().map(Vec::len)
        };
        wait::until("three replicas", PATIENCE, async || get().await == Some(3)).await;
    }
}

async fn the_demonstration_works_from_start_to_stop() {
    let docker = DockerCluster::new();
    let strangers = docker.make_strangers(&image("noop").await).await;
    let started = start(&docker, "").await;
    started.serve_iris().await;
    started.tells_irises_apart().await;

    let name = docker.name();
    assert_eq!(
        docker.holdings().await,
        Holdings {
            containers: [
                "-frontend",
                "-redis",
                "_iris-model_1_0",
                "_iris-model_1_1",
                "_iris-model_1_2"
            ]
            .map(|part| format!("{name}{part}"))
            .to_vec(),
            networks: vec![format!("{name}-network"), format!("{name}-private")],
            volumes: vec![format!("{name}-redis-data")],
        }
    );
    for (role, count) in [("frontend", 1), ("redis", 1), ("replica", 3)] {
        let containers = docker.with_role(role).await;
        assert_eq!(containers.len(), count, "{role}");
        assert!(
            containers.iter().all(|container| container.running),
            "{containers:?}"
        );
    }
    let status = started.skysail.done("status").await;
    for part in [
        name,
        "redis at",
        "docker, up",
        "3 replicas attached",
        "All is well",
    ] {
        assert!(status.contains(part), "{part}: {status}");
    }
    assert_metadata_is_readable(&docker).await;

    let stopped = stop(&docker).await;
    assert!(stopped.contains(&format!("{name}-frontend")), "{stopped}");
    assert_eq!(docker.holdings().await, Holdings::default());
    assert_eq!(docker.strangers().await, strangers, "they are not the cluster's");
    assert!(stop(&docker).await.contains("nothing runs"));
}

/// The addresses of a container in each of its networks.
async fn addresses(docker: &DockerCluster, container: &str) -> Vec<String> {
    let settings = docker.inspect(container).await.network_settings;
    let networks = settings
        .and_then(|settings| settings.networks)
        .unwrap_or_default();
    networks
        .into_values()
        .filter_map(|network| network.ip_address)
        .collect()
}

async fn a_model_container_reaches_container_rpc_and_neither_redis_nor_the_admin_api() {
    let docker = DockerCluster::new();
    let image = TestImage::make().await;
    for (options, admin, rpc) in [
        ("", "frontend", "frontend"),
        (" --frontends 2", "control", "frontend-2"),
    ] {
        let started = start(&docker, options).await;
        let name = docker.name();
        let (redis, admin, rpc) = (
            format!("{name}-redis"),
            format!("{name}-{admin}"),
            format!("{name}-{rpc}"),
        );
        let admin_port = started.admin_port;
        let mut closed = vec![format!("{redis}:6379")];
        closed.extend(
            addresses(&docker, &redis)
                .await
                .iter()
                .map(|ip| format!("{ip}:6379")),
        );
        closed.push(format!("{admin}:{admin_port}"));
        let admins = addresses(&docker, &admin).await;
        assert_eq!(admins.len(), 2, "{admins:?}");
        closed.extend(admins.iter().map(|ip| format!("{ip}:{admin_port}")));
        let network = format!("{name}-network");
        let ask = async |places: &[String]| -> HashMap<String, String> {
            let asks: Vec<_> = places.iter().map(|at| format!("ask {at}")).collect();
            let said = docker.run_script(image.name(), &network, &asks.join("\n")).await;
            let becomes = |at: &String| {
                let line = said
                    .lines()
                    .find_map(|line| line.strip_prefix(&format!("{at}: ")));
                let outcome = line.unwrap_or_else(|| panic!("{at} was not asked: {said}"));
                (at.clone(), outcome.to_owned())
            };
            places.iter().map(becomes).collect()
        };
        // Engine 20.10 takes out the rule that closes its bridges to each other, and puts it back, whenever a
        // network is made, and other tests make some just now. That lasts some milliseconds; what is open then is
        // closed when it is asked again.
        let open_once: Vec<_> = ask(&closed)
            .await
            .into_iter()
            .filter(|(_, outcome)| outcome.starts_with("answered"))
            .map(|(at, _)| at)
            .collect();
        if !open_once.is_empty() {
            let again = ask(&open_once).await;
            assert!(
                again.values().all(|outcome| !outcome.starts_with("answered")),
                "{again:?}"
            );
        }
        // An HTTP/1.1 request is none to gRPC, which says so.
        let outcomes = ask(&[format!("{rpc}:7000")]).await;
        assert!(
            outcomes.values().all(|outcome| outcome.starts_with("answered")),
            "{outcomes:?}"
        );
        // From this machine, through the published port, the admin API answers.
        started.skysail.done("status").await;

        // Who is on Redis' own network needs the password as well.
        let private = format!("{name}-private");
        let said = docker
            .run_script(image.name(), &private, &format!("ask {redis}:6379"))
            .await;
        assert!(
            said.contains("NOAUTH") || said.contains("-ERR") || said.contains("closed"),
            "{said}"
        );
        assert_secrets_are_files(&docker).await;
        stop(&docker).await;
        assert_eq!(docker.holdings().await, Holdings::default());
    }
}

async fn the_admin_api_asks_for_a_token_that_the_users_commands_know_until_the_stop() {
    let docker = DockerCluster::new();
    let started = start(&docker, " --keep-data").await;
    assert_eq!(kept_tokens(&docker), [started.token.as_str()]);
    let stranger = Rest::at(SocketAddr::from(([127, 0, 0, 1], started.admin_port)));
    let refused = stranger.get("/api/v1/status").await;
    assert!(refused.problem(401).contains("token"), "{refused:?}");
    stranger.get("/healthz").await.expect(200);
    let by_name = format!("http://localhost:{}", started.admin_port);
    user(&docker)
        .env("SKYSAIL_ADMIN_URL", &by_name)
        .done("status")
        .await;
    let of_nobody = Skysail::at(SocketAddr::from(([127, 0, 0, 1], started.admin_port)))
        .env("XDG_CONFIG_HOME", "/nonexistent")
        .refused("status")
        .await;
    assert!(of_nobody.contains("token"), "{of_nobody}");
    started.serve_iris().await;
    stop(&docker).await;
    assert!(kept_tokens(&docker).is_empty());

    // Kept data holds the hash of the old one, and the new one is the cluster's from now on.
    let again = start(&docker, "").await;
    assert_ne!(again.token, started.token);
    assert_eq!(kept_tokens(&docker), [again.token.as_str()]);
    again.three_attached().await;
    again.skysail.done("app update iris --slo 20s").await;
    let old = Rest::at(SocketAddr::from(([127, 0, 0, 1], again.admin_port))).with_token(&started.token);
    old.get("/api/v1/status").await.problem(401);
    stop(&docker).await;
    assert!(kept_tokens(&docker).is_empty());
}

/// Neither arguments nor the environment nor `status` nor a log of any container hold the store's password.
async fn assert_secrets_are_files(docker: &DockerCluster) {
    let url = docker.redis_url().await;
    let password = url.split([':', '@']).nth(2).expect("a password").to_owned();
    assert_eq!(password.len(), 64, "{url}");
    let token = admin_token(docker).await;
    for container in docker.containers().await {
        let inspected = serde_json::to_string(&docker.inspect(&container.name).await).expect("JSON");
        let log = docker.log(&container.name).await;
        for secret in [&password, &token] {
            assert!(!inspected.contains(secret), "{}", container.name);
            assert!(!log.contains(secret), "{log}");
        }
    }
    let answers: Result<String, _> = tokio::task::spawn_blocking(move || {
        let client = redis::Client::open(url.replace(&password, "wrong"))?;
        let mut redis = client.get_connection_with_timeout(PATIENCE)?;
        redis::cmd("PING").query(&mut redis)
    })
    .await
    .expect("it does not panic");
    assert!(answers.is_err(), "{answers:?}");
}

/// What was registered stands in Redis, as JSON that a person can read.
async fn assert_metadata_is_readable(docker: &DockerCluster) {
    let name = docker.name();
    let url = docker.redis_url().await;
    let read = tokio::task::spawn_blocking(move || -> redis::RedisResult<(Vec<String>, Vec<String>)> {
        let client = redis::Client::open(url)?;
        let mut redis = client.get_connection_with_timeout(PATIENCE)?;
        let mut documents = Vec::new();
        let keys: Vec<String> = redis.scan()?.collect::<redis::RedisResult<_>>()?;
        for key in &keys {
            let kind: String = redis::cmd("TYPE").arg(key).query(&mut redis)?;
            if kind == "hash" {
                documents.extend(redis.hgetall::<_, Vec<String>>(key)?);
            }
        }
        Ok((keys, documents))
    });
    let (keys, documents) = read.await.expect("it does not panic").expect("Redis answers");
    assert!(!keys.is_empty());
    assert!(keys.iter().all(|key| key.contains(name)), "{keys:?}");
    let is_application = |document: &Value| document["slo_micros"] == 30_000_000;
    let parsed = documents
        .iter()
        .filter_map(|text| serde_json::from_str::<Value>(text).ok());
    assert!(
        parsed.into_iter().any(|document| is_application(&document)),
        "{documents:?}"
    );
    for named in ["application/iris", "model/iris-model"] {
        assert!(
            documents.iter().any(|text| text == named),
            "{named}: {documents:?}"
        );
    }
}

async fn a_frontend_that_crashes_comes_back_with_all_it_knew() {
    let docker = DockerCluster::new();
    let started = start(&docker, "").await;
    started.serve_iris().await;
    let before = docker.with_role("replica").await;
    let status: Value = started.admin.get("/api/v1/status").await.expect(200);
    let frontend = format!("{}-frontend", docker.name());
    docker.crash(&frontend).await;
    // Another process has another id.
    wait::until("another frontend to answer", PATIENCE, async || {
        let answer = started
            .admin
            .send(reqwest::Method::GET, "/api/v1/status", "")
            .await;
        answer.is_ok_and(|reply| {
            let now: Value = serde_json::from_str(&reply.text).unwrap_or_default();
            now["frontends"][0]["id"].is_string() && now["frontends"][0]["id"] != status["frontends"][0]["id"]
        })
    })
    .await;
    started.three_attached().await;
    started.tells_irises_apart().await;
    assert_eq!(docker.with_role("replica").await, before, "the same containers");
    let apps = started.skysail.done("app list").await;
    assert!(apps.contains("iris-model"), "{apps}");

    // Redis comes back from its file as well.
    docker.crash(&format!("{}-redis", docker.name())).await;
    started.tells_irises_apart().await;
    wait::until("the store to be back", Duration::from_secs(60), async || {
        let status = started.admin.get("/api/v1/status").await.expect(200);
        status["store"]["up"] == true
    })
    .await;
    started.skysail.done("model scale iris-model 2 --wait").await;
    stop(&docker).await;
    assert_eq!(docker.holdings().await, Holdings::default());
}

async fn kept_data_is_there_again_after_the_next_start() {
    let docker = DockerCluster::new();
    let started = start(&docker, " --keep-data").await;
    started.serve_iris().await;
    let stopped = stop(&docker).await;
    assert!(stopped.contains("kept volume"), "{stopped}");
    let left = docker.holdings().await;
    assert_eq!(
        (left.containers.len(), left.networks.len(), left.volumes.len()),
        (0, 0, 1)
    );

    let again = start(&docker, "").await;
    again.three_attached().await;
    again.tells_irises_apart().await;
    stop(&docker).await;
    assert_eq!(docker.holdings().await, Holdings::default());
}

async fn several_frontends_serve_what_one_control_role_looks_after() {
    let docker = DockerCluster::new();
    let started = start(&docker, " --frontends 2").await;
    started.serve_iris().await;
    let name = docker.name();
    let frontends = ["-control", "-frontend-1", "-frontend-2", "-redis"];
    let holdings = docker.holdings().await.containers;
    for part in frontends {
        assert!(
            holdings.contains(&format!("{name}{part}")),
            "{part}: {holdings:?}"
        );
    }
    let status = started.skysail.done("status").await;
    for part in ["control (acting)", "3 replicas attached", "All is well"] {
        assert!(status.contains(part), "{part}: {status}");
    }
    let named: Value = started.admin.get("/api/v1/status").await.expect(200);
    let addresses = named["frontends"].as_array().expect("an array").iter();
    let ports: Vec<_> = addresses
        .filter_map(|frontend| frontend["query_addr"].as_str()?.rsplit_once(':')?.1.parse().ok())
        .collect();
    assert_eq!(ports.len(), 2, "{named}");
    let ask = async |port: u16| {
        let body = json!({ "input": [7.9, 4.4, 6.9, 2.5] });
        let queries = Rest::at(SocketAddr::from(([127, 0, 0, 1], port)));
        queries.post("/iris/predict", body).await.expect(200)["output"].clone()
    };
    for &port in &ports {
        assert_eq!(ask(port).await, "virginica", "at {port}");
        assert!(status.contains(&format!("http://127.0.0.1:{port}")), "{status}");
    }

    // The one that is left answers, and the command finds it by itself.
    docker.crash(&format!("{name}-frontend-1")).await;
    let predicted = started.skysail.done("predict iris [4.3,2.0,1.0,0.1]").await;
    assert_eq!(predicted.trim(), "setosa");
    docker.crash(&format!("{name}-control")).await;
    wait::until("all to be well again", PATIENCE, async || {
        let said = started.skysail.say("status").await;
        said.out.contains("All is well") && said.out.matches("query").count() > 1
    })
    .await;
    // One that has just started answers with the default until the replicas have dialled it.
    for &port in &ports {
        wait::until("both to answer", PATIENCE, async || {
            ask(port).await == "virginica"
        })
        .await;
    }
    started.skysail.done("model scale iris-model 2 --wait").await;
    stop(&docker).await;
    assert_eq!(docker.holdings().await, Holdings::default());
}

async fn a_cluster_is_not_started_twice() {
    let docker = DockerCluster::new();
    let started = start(&docker, "").await;
    let holdings = docker.holdings().await;
    let said = try_start(&docker, FREE_PORTS).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    for part in [
        "already running",
        docker.name(),
        "skysail stop",
        "--cluster OTHER",
    ] {
        assert!(said.err.contains(part), "{part}: {said:?}");
    }
    assert_eq!(docker.holdings().await, holdings, "the first is as it was");
    started.skysail.done("status").await;
}

async fn of_starts_at_once_exactly_one_succeeds() {
    let docker = DockerCluster::new();
    let starts = join_all((0..3).map(|_| try_start(&docker, FREE_PORTS))).await;
    let (succeeded, refused): (Vec<_>, Vec<_>) = starts.into_iter().partition(|said| said.code == Some(0));
    assert_eq!((succeeded.len(), refused.len()), (1, 2), "{refused:?}");
    for said in refused {
        // What it says depends on how far the first one is.
        let refusal = said.err.lines().find(|line| line.starts_with("error: "));
        assert!(
            refusal.is_some_and(|line| line.contains(docker.name())),
            "{said:?}"
        );
    }
    let holdings = docker.holdings().await;
    assert_eq!(holdings.containers.len(), 2, "{holdings:?}");
    assert_eq!(
        (holdings.networks.len(), holdings.volumes.len()),
        (2, 1),
        "{holdings:?}"
    );
    stop(&docker).await;
    assert_eq!(docker.holdings().await, Holdings::default());
}

async fn a_start_that_is_interrupted_leaves_nothing() {
    let docker = DockerCluster::new();
    // What is no Redis is never ready, however slow this test is.
    let line = format!(
        "start --cluster {} --frontend-image {} --redis-image {} {FREE_PORTS}",
        docker.name(),
        image("frontend").await,
        image("noop").await
    );
    let mut start = user(&docker).start(&line);
    // In the middle of making things, where nobody waits for the signal.
    start.log().line(": Redis").await;
    start.signal(Signal::INT);
    let ended = start.end().await;
    assert_eq!(ended.code(), Some(1), "{ended}");
    assert!(
        start.log().line("error:").await.contains("interrupted"),
        "{:?}",
        start.log().lines()
    );
    assert_eq!(docker.holdings().await, Holdings::default());
}

async fn a_taken_port_is_named_and_nothing_is_left() {
    let docker = DockerCluster::new();
    let holder = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = holder.local_addr().expect("a bound address").port();
    for (option, others) in [
        ("--query-port", "--admin-port 0 --rpc-port 0 --ops-port 0"),
        ("--admin-port", "--query-port 0 --rpc-port 0 --ops-port 0"),
        ("--rpc-port", "--query-port 0 --admin-port 0 --ops-port 0"),
        ("--ops-port", "--query-port 0 --admin-port 0 --rpc-port 0"),
    ] {
        let said = try_start(&docker, &format!("{option} {port} {others}")).await;
        assert_eq!(said.code, Some(1), "{said:?}");
        for part in [port.to_string(), format!("{option} 0")] {
            assert!(said.err.contains(&part), "{part}: {said:?}");
        }
    }
    assert!(kept_tokens(&docker).is_empty());
    assert_eq!(docker.holdings().await, Holdings::default());
}

async fn an_image_that_is_missing_is_named_and_nothing_is_left() {
    let docker = DockerCluster::new();
    // Nobody listens at port 1, so that the registry refuses as one that lacks the image does: at once.
    let missing = "localhost:1/skysail/missing:1";
    let (frontend, redis) = (image("frontend").await, redis_image().await);
    for (option, frontend, redis) in [
        ("--redis-image", &*frontend, missing),
        ("--frontend-image", missing, &*redis),
    ] {
        let line = format!(
            "start --cluster {} --frontend-image {frontend} --redis-image {redis} {FREE_PORTS}",
            docker.name()
        );
        let error = user(&docker).refused(&line).await;
        for part in [missing, "cannot be pulled", option] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
    assert_eq!(docker.holdings().await, Holdings::default());
}

async fn a_part_that_does_not_stay_up_is_shown_and_nothing_is_left() {
    let docker = DockerCluster::new();
    let (frontend, redis, other) = (image("frontend").await, redis_image().await, image("noop").await);
    for (what, frontend, redis) in [
        ("Redis exits again and again", &frontend, &other),
        ("the frontend exits again and again", &other, &redis),
    ] {
        let line = format!(
            "start --cluster {} --frontend-image {frontend} --redis-image {redis} {FREE_PORTS}",
            docker.name()
        );
        let error = user(&docker).refused(&line).await;
        // Its last lines are there: a model container says that it was not told what to serve.
        for part in [what, "exit code 2", "| ", "SKYSAIL_MODEL_NAME"] {
            assert!(error.contains(part), "{part}: {error}");
        }
        assert!(kept_tokens(&docker).is_empty());
        assert_eq!(docker.holdings().await, Holdings::default());
    }
}
