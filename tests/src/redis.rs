//! A real `redis-server` for one test.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use redis::{Client, Connection, FromRedisValue, RedisResult};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::binaries::installed;

/// The longest wait for a server to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often ports are drawn for a server whose port somebody else took first.
const PORTS_TRIED: usize = 5;

/// A Redis server on a port and in a folder of its own, killed when this is dropped.
///
/// It writes an append-only file and syncs it at each write, so that nothing is lost by [`Self::kill`]
/// unless [`Self::empty`] is called.
pub struct RedisServer {
    process: Option<Child>,
    port: u16,
    folder: TempDir,
    options: Vec<String>,
}

impl RedisServer {
    /// Starts a server, and waits until it answers.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a server with more options (`--name value …`).
    pub async fn start_with(options: &[&str]) -> Self {
        for _ in 0..PORTS_TRIED {
            let mut server = Self::reserve(options);
            if server.launch().await {
                return server;
            }
        }
        panic!("redis-server ended at once on {PORTS_TRIED} ports; its last lines say why");
    }

    /// Chooses a port for a server that is not started yet; [`Self::start_again`] does.
    pub fn reserve(options: &[&str]) -> Self {
        Self {
            process: None,
            port: free_port(),
            folder: tempfile::tempdir().expect("a temporary folder"),
            options: options.iter().map(ToString::to_string).collect(),
        }
    }

    /// Where the server listens.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// The folder it saves to.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The server's URL, without user and password.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The server's URL with `user:password`.
    pub fn url_as(&self, user_and_password: &str) -> String {
        format!("redis://{user_and_password}@127.0.0.1:{}", self.port)
    }

    /// A connection for the test itself.
    pub fn connection(&self) -> Connection {
        self.connect().expect("a connection to redis-server")
    }

    /// Runs one command, its words separated by spaces.
    pub fn run<T: FromRedisValue>(&self, command: &str) -> T {
        let mut words = command.split(' ');
        let mut request = redis::cmd(words.next().expect("a command"));
        for word in words {
            request.arg(word);
        }
        request
            .query(&mut self.connection())
            .unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Kills the server, as a crash does.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("a child can be killed");
            process.wait().expect("a child can be waited for");
        }
    }

    /// Starts a server that was killed or only reserved, on the same port and with the data it left.
    pub async fn start_again(&mut self) {
        assert!(self.process.is_none(), "it is running");
        assert!(
            self.launch().await,
            "redis-server ended at once; its last lines say why"
        );
    }

    /// Removes the data of a server that was killed.
    pub fn empty(&mut self) {
        assert!(self.process.is_none(), "it is running");
        self.folder = tempfile::tempdir().expect("a temporary folder");
    }

    /// Stops the server's process without closing its connections: it hangs.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a frozen server go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("it is not running");
        kill_process(Pid::from_child(process), signal).expect("a child can be signalled");
    }

    /// Starts the process and waits until it answers; false if it ended instead.
    async fn launch(&mut self) -> bool {
        let folder = self.folder.path();
        let child = Command::new(program())
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--appendonly", "yes", "--appendfsync", "always", "--save", ""])
            .arg("--dir")
            .arg(folder)
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(fs::File::create(folder.join("redis.log")).expect("a log file"))
            .spawn()
            .expect("redis-server can be started");
        self.process = Some(child);
        let answering = async {
            while !self.answers() {
                if self.has_ended() {
                    return false;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            true
        };
        tokio::time::timeout(PATIENCE, answering)
            .await
            .expect("redis-server did not answer")
    }

    fn connect(&self) -> RedisResult<Connection> {
        Client::open(self.url())?.get_connection_with_timeout(PATIENCE)
    }

    /// Also a server that wants a password answers, once it has loaded its data.
    fn answers(&self) -> bool {
        let Ok(mut connection) = self.connect() else {
            return false;
        };
        match redis::cmd("PING").query::<String>(&mut connection) {
            Ok(_) => true,
            Err(error) => error.code() == Some("NOAUTH"),
        }
    }

    fn has_ended(&mut self) -> bool {
        let process = self.process.as_mut().expect("it was just started");
        let ended = process.try_wait().expect("a child can be asked").is_some();
        if ended {
            self.process = None;
            let log = fs::read_to_string(self.folder.path().join("redis.log")).unwrap_or_default();
            eprintln!("{log}");
        }
        ended
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A server that also speaks TLS on a port of its own, with a certificate that a self-made authority signed.
pub struct RedisTls {
    /// The server; its own URL is the one without TLS.
    pub server: RedisServer,
    /// The authority's certificate, in PEM.
    pub authority: String,
    port: u16,
    _folder: TempDir,
}

impl RedisTls {
    /// Starts a server with more options (`--name value …`), and waits until it answers.
    pub async fn start(options: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let authority = certify(folder.path());
        let port = free_port();
        let file = |name: &str| folder.path().join(name).display().to_string();
        let (number, certificate, key) = (port.to_string(), file("server.crt"), file("server.key"));
        let mut all = vec!["--tls-port", &number, "--tls-auth-clients", "no"];
        all.extend(["--tls-cert-file", &certificate, "--tls-key-file", &key]);
        all.extend(options);
        Self {
            server: RedisServer::start_with(&all).await,
            authority,
            port,
            _folder: folder,
        }
    }

    /// The URL for TLS, with `user:password`.
    pub fn url_as(&self, user_and_password: &str) -> String {
        format!("rediss://{user_and_password}@127.0.0.1:{}", self.port)
    }
}

/// Makes an authority, and in this folder a key and a certificate for this machine that it signed; returns the
/// authority's certificate.
fn certify(folder: &Path) -> String {
    let made = "certificates can be made";
    let mut about = CertificateParams::new(Vec::new()).expect(made);
    about.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().expect(made);
    let authority = about.self_signed(&authority_key).expect(made);
    let issuer = Issuer::new(about, authority_key);
    let key = KeyPair::generate().expect(made);
    let server = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect(made);
    let server = server.signed_by(&key, &issuer).expect(made);
    fs::write(folder.join("server.crt"), server.pem()).expect("a file");
    fs::write(folder.join("server.key"), key.serialize_pem()).expect("a file");
    authority.pem()
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("a bound address").port()
}

/// Why no server can be started here, if none can.
pub fn missing() -> Option<String> {
    let advice = "redis-server is not installed: install it (on Debian, `apt-get install redis-server`)";
    installed("redis-server").is_none().then(|| advice.to_owned())
}

fn program() -> PathBuf {
    installed("redis-server").unwrap_or_else(|| panic!("{}", missing().unwrap_or_default()))
}
