//! The addresses that a frontend binds, and those that it tells others.

use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;
use tokio::net::{TcpListener, TcpSocket};
use tracing::warn;

use super::BuildError;
use crate::cluster::Identity;
use crate::config::{Config, DEFAULT_OPS_ADDR, RuntimeKind};
use crate::control_thread::ControlThread;
use crate::runtime::{ContainerRuntime, RuntimeError};

/// The addresses that a frontend listens on.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// Query REST, with the query role.
    pub query: Option<SocketAddr>,
    /// Admin REST, with the control role.
    pub admin: Option<SocketAddr>,
    /// Probes and metrics.
    pub ops: SocketAddr,
    /// Container RPC.
    pub rpc: Vec<SocketAddr>,
    /// The address that containers are told to dial.
    pub advertised: String,
}

impl Addresses {
    /// Whether container RPC can be reached only from this machine.
    pub(super) fn rpc_is_local(&self) -> bool {
        self.rpc.iter().all(|addr| addr.ip().to_canonical().is_loopback())
    }

    /// The identity of a frontend that starts now at these addresses.
    pub(super) fn identity(&self, config: &Config) -> Identity {
        let shown = |addr: &SocketAddr| addr.to_string();
        Identity {
            id: format!("{:016x}", fastrand::u64(..)),
            started_at: Timestamp::now(),
            query_addr: self.query.as_ref().map(shown),
            admin_addr: self.admin.as_ref().map(shown),
            ops_addr: shown(&self.ops),
            rpc_addr: config.roles.query.then(|| self.advertised.clone()),
            rpc_is_local: self.rpc_is_local(),
            starts_containers: config.roles.control && config.runtime != RuntimeKind::None,
        }
    }
}

/// The bound sockets. Each server takes its own.
pub(super) struct Listeners {
    pub(super) query: Option<TcpListener>,
    pub(super) admin: Option<TcpListener>,
    pub(super) ops: TcpListener,
    pub(super) rpc: Vec<TcpListener>,
    /// The address at which containers reach container RPC, if it is not the configured one.
    gateway: Option<SocketAddr>,
}

impl Listeners {
    pub(super) async fn bind(
        config: &Config,
        runtime: Option<&dyn ContainerRuntime>,
        control: &ControlThread,
    ) -> Result<Self, BuildError> {
        let adopt = |listener| control.adopt(listener).map_err(BuildError::ControlThread);
        let query = match config.roles.query {
            true => Some(listen("query REST", config.query_addr, "--query-addr")?),
            false => None,
        };
        let admin = match config.roles.control {
            true => Some(adopt(listen("admin REST", config.admin_addr, "--admin-addr")?)?),
            false => None,
        };
        let ops = adopt(listen_for_operations(config)?)?;
        let (mut rpc, mut gateway) = (Vec::new(), None);
        if config.roles.query {
            let first = listen("container RPC", config.rpc_addr, "--rpc-addr")?;
            let port = first
                .local_addr()
                .map_or(config.rpc_addr.port(), |addr| addr.port());
            rpc.push(first);
            gateway = gateway_of(config, runtime)
                .await?
                .map(|ip| SocketAddr::new(ip, port));
            if let Some(addr) = gateway.filter(|_| config.rpc_addr.ip().is_loopback()) {
                rpc.push(listen("container RPC", addr, "--rpc-addr")?);
            }
        }
        Ok(Self {
            query,
            admin,
            ops,
            rpc,
            gateway,
        })
    }

    pub(super) fn addresses(&self, config: &Config) -> Addresses {
        let bound = |listener: &TcpListener| listener.local_addr().ok();
        let rpc: Vec<SocketAddr> = self.rpc.iter().filter_map(bound).collect();
        // Containers reach only the gateway, if there is one.
        let dialled = self.gateway.or(rpc.first().copied()).unwrap_or(config.rpc_addr);
        Addresses {
            query: self.query.as_ref().and_then(bound),
            admin: self.admin.as_ref().and_then(bound),
            ops: bound(&self.ops).unwrap_or(DEFAULT_OPS_ADDR),
            rpc,
            advertised: config
                .rpc_advertise
                .clone()
                .unwrap_or_else(|| reachable(dialled).to_string()),
        }
    }
}

/// The address at which containers reach this host, if they cannot reach the configured one.
async fn gateway_of(
    config: &Config,
    runtime: Option<&dyn ContainerRuntime>,
) -> Result<Option<IpAddr>, RuntimeError> {
    let bound = config.rpc_addr.ip();
    let reaches_containers = !bound.is_loopback() && !bound.is_unspecified();
    match runtime {
        Some(runtime) if config.rpc_advertise.is_none() && !reaches_containers => runtime.gateway().await,
        _ => Ok(None),
    }
}

/// Binds the operations port. A second frontend on this machine gets a free port, unless an address was given.
/// So two frontends can be started without configuring it.
fn listen_for_operations(config: &Config) -> Result<TcpListener, BuildError> {
    let listen_on = |addr| listen("the operations listener", addr, "--ops-addr");
    let Some(addr) = config.ops_addr else {
        return listen_on(DEFAULT_OPS_ADDR).or_else(|_| {
            warn!(taken = %DEFAULT_OPS_ADDR, "the operations listener takes a free port; choose one with --ops-addr");
            listen_on(SocketAddr::new(DEFAULT_OPS_ADDR.ip(), 0))
        });
    };
    listen_on(addr)
}

fn listen(what: &'static str, addr: SocketAddr, flag: &'static str) -> Result<TcpListener, BuildError> {
    bound(addr).map_err(|cause| BuildError::Listen {
        what,
        addr,
        flag,
        cause,
    })
}

/// The number of connections that may wait to be accepted; the system may allow fewer (`net.core.somaxconn`).
///
/// When clients come by the hundred at once, a refused client tries again after a second, long after its query
/// was due.
const BACKLOG: u32 = 8192;

fn bound(addr: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match addr {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Allows binding a port of a previous run at once.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// An address to dial for a bound one: an unspecified address becomes loopback.
fn reachable(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::from(([127, 0, 0, 1], addr.port())),
        IpAddr::V6(ip) if ip.is_unspecified() => {
            SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, addr.port()))
        }
        _ => addr,
    }
}

/// The advice for an address that cannot be bound.
pub(super) fn listen_advice(cause: &std::io::Error, flag: &str) -> String {
    match cause.kind() {
        std::io::ErrorKind::AddrInUse => {
            format!(
                "the port is taken; stop what uses it, or choose another with {flag} (port 0 picks a free one)"
            )
        }
        _ => format!("{cause}; choose another address with {flag}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_frontend_without_an_operations_address_takes_a_free_port() {
        // The port is taken, by this test or by another process.
        let holder = std::net::TcpListener::bind(DEFAULT_OPS_ADDR);
        let listener = listen_for_operations(&Config::default()).unwrap_or_else(|error| panic!("{error}"));
        let addr = listener.local_addr().unwrap();
        assert_eq!(addr.ip(), DEFAULT_OPS_ADDR.ip());
        assert_ne!(addr.port(), DEFAULT_OPS_ADDR.port());
        drop(holder);
    }

    #[tokio::test]
    async fn an_operations_address_that_was_asked_for_is_had_or_the_frontend_does_not_start() {
        let holder = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let config = Config {
            ops_addr: Some(holder.local_addr().unwrap()),
            ..Config::default()
        };
        let refused = listen_for_operations(&config).unwrap_err().to_string();
        assert!(refused.contains("--ops-addr"), "{refused}");
    }

    #[test]
    fn an_address_bound_to_all_interfaces_is_dialled_on_loopback() {
        assert_eq!(
            reachable("0.0.0.0:7000".parse().unwrap()).to_string(),
            "127.0.0.1:7000"
        );
        assert_eq!(reachable("[::]:7000".parse().unwrap()).to_string(), "[::1]:7000");
        assert_eq!(
            reachable("10.0.0.1:7000".parse().unwrap()).to_string(),
            "10.0.0.1:7000"
        );
    }
}
