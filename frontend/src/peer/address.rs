//! Where other frontends of the cluster reach this one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::{UdpSocket, lookup_host};
use tokio::time::timeout;

/// How long the name of the store's host may take to be found.
const LOOKUP: Duration = Duration::from_secs(1);

/// How the address is found.
#[derive(Clone, Debug)]
pub(crate) struct PeerAddress {
    /// Where the operations listener is bound.
    pub bound: SocketAddr,
    /// The host and port of a store that other frontends share.
    pub store: Option<(String, u16)>,
}

impl PeerAddress {
    /// The address to dial; nothing while the store's host cannot be found.
    ///
    /// A listener that is bound to one address is dialled there. One that is bound to all is dialled at the address
    /// from which this machine reaches the store: every frontend shares that network.
    pub(crate) async fn find(&self) -> Option<SocketAddr> {
        if !self.bound.ip().is_unspecified() {
            return Some(self.bound);
        }
        let ip = match &self.store {
            None => self.loopback(),
            Some(store) => timeout(LOOKUP, self.towards(store)).await.ok()??,
        };
        Some(SocketAddr::new(ip, self.bound.port()))
    }

    fn loopback(&self) -> IpAddr {
        match self.bound.is_ipv4() {
            true => Ipv4Addr::LOCALHOST.into(),
            false => Ipv6Addr::LOCALHOST.into(),
        }
    }

    /// The local address of the way to the store. The socket is only routed: nothing is sent.
    async fn towards(&self, (host, port): &(String, u16)) -> Option<IpAddr> {
        // A listener on all addresses of IPv6 takes IPv4 as well; the other way round it does not.
        let takes = |store: &SocketAddr| store.is_ipv4() || self.bound.is_ipv6();
        let store = lookup_host((host.as_str(), *port)).await.ok()?.find(takes)?;
        let any: IpAddr = match store.is_ipv4() {
            true => Ipv4Addr::UNSPECIFIED.into(),
            false => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await.ok()?;
        socket.connect(store).await.ok()?;
        socket.local_addr().ok().map(|local| local.ip())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn found(bound: &str, store: Option<(&str, u16)>) -> Option<String> {
        let address = PeerAddress {
            bound: bound.parse().unwrap(),
            store: store.map(|(host, port)| (host.to_owned(), port)),
        };
        address.find().await.map(|addr| addr.to_string())
    }

    #[tokio::test]
    async fn a_listener_at_one_address_is_dialled_there_and_one_at_all_by_the_way_to_the_store() {
        let at_one = found("10.0.0.1:1341", Some(("127.0.0.1", 6379))).await;
        assert_eq!(at_one.as_deref(), Some("10.0.0.1:1341"));
        let at_all = found("0.0.0.0:1341", Some(("127.0.0.1", 6379))).await;
        assert_eq!(at_all.as_deref(), Some("127.0.0.1:1341"));
        let alone = found("0.0.0.0:1341", None).await;
        assert_eq!(alone.as_deref(), Some("127.0.0.1:1341"));
    }

    #[tokio::test]
    async fn while_the_stores_host_cannot_be_found_there_is_no_address() {
        assert_eq!(found("0.0.0.0:1341", Some(("nowhere.invalid", 6379))).await, None);
    }
}
