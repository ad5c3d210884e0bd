//! The network of model containers, from which nobody has a reason to speak to the admin API.
//!
//! Who connects is told by the peer's address. A frontend's own address on that network says nothing: ports that
//! Docker publishes arrive at that very address, because Docker sends them through the container's network with a
//! way out, and so do those of model containers. What differs is where they come from: published ones from the
//! gateway (Docker's proxy, and what the machine itself dials), or, where they are published beyond this machine,
//! from addresses outside of the network; model containers from their own. On a frontend that is no container,
//! and whose admin API is bound to all addresses, model containers are told in the same way.
//!
//! It is the second line: a container that may send raw packets can pretend to be the gateway. The first is the
//! admin token.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A subnet of model containers, with its gateway. Written as the gateway's address in its subnet: `172.18.0.1/16`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ModelNetwork {
    gateway: IpAddr,
    prefix: u32,
}

/// What is no subnet.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("expected the gateway's address and the length of its subnet's prefix, as in 172.18.0.1/16")]
pub struct InvalidNetwork;

impl ModelNetwork {
    /// Whether this is the address of a model container.
    pub fn is_model(&self, peer: IpAddr) -> bool {
        // A listener for both families sees IPv4 as part of IPv6.
        let peer = peer.to_canonical();
        peer != self.gateway && self.contains(peer)
    }

    fn contains(&self, peer: IpAddr) -> bool {
        match (self.gateway, peer) {
            (IpAddr::V4(ours), IpAddr::V4(peer)) => {
                let differs = u32::from(ours) ^ u32::from(peer);
                differs.checked_shr(u32::BITS - self.prefix).unwrap_or(0) == 0
            }
            (IpAddr::V6(ours), IpAddr::V6(peer)) => {
                let differs = u128::from(ours) ^ u128::from(peer);
                differs.checked_shr(u128::BITS - self.prefix).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for ModelNetwork {
    type Err = InvalidNetwork;
    fn from_str(text: &str) -> Result<Self, InvalidNetwork> {
        let (gateway, prefix) = text.split_once('/').ok_or(InvalidNetwork)?;
        let gateway: IpAddr = gateway.parse().map_err(|_| InvalidNetwork)?;
        let most = if gateway.is_ipv4() { u32::BITS } else { u128::BITS };
        let prefix: u32 = prefix.parse().map_err(|_| InvalidNetwork)?;
        if prefix > most {
            return Err(InvalidNetwork);
        }
        Ok(Self { gateway, prefix })
    }
}

impl fmt::Display for ModelNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.gateway, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_model(network: &str, peer: &str) -> bool {
        let network: ModelNetwork = network.parse().unwrap();
        assert_eq!(network.to_string().parse(), Ok(network));
        network.is_model(peer.parse().unwrap())
    }

    #[test]
    fn who_is_in_the_subnet_is_a_model_unless_it_is_the_gateway() {
        for (network, peer, expected) in [
            ("172.18.0.1/16", "172.18.0.2", true),
            ("172.18.0.1/16", "172.18.255.254", true),
            ("172.18.0.1/16", "::ffff:172.18.0.2", true),
            ("172.18.0.1/16", "172.18.0.1", false),
            ("172.18.0.1/16", "::ffff:172.18.0.1", false),
            ("172.18.0.1/16", "172.19.0.2", false),
            ("172.18.0.1/16", "127.0.0.1", false),
            ("172.18.0.1/16", "fd00::2", false),
            ("172.18.7.1/28", "172.18.7.15", true),
            ("172.18.7.1/28", "172.18.7.16", false),
            ("10.0.0.1/0", "8.8.8.8", true),
            ("10.0.0.1/32", "10.0.0.2", false),
            ("fd00:1::1/64", "fd00:1::2", true),
            ("fd00:1::1/64", "fd00:2::2", false),
            ("fd00:1::1/64", "172.18.0.2", false),
            ("fd00:1::1/0", "::1", true),
        ] {
            assert_eq!(is_model(network, peer), expected, "{network} {peer}");
        }
    }

    #[test]
    fn what_is_no_subnet_is_refused() {
        for bad in [
            "",
            "172.18.0.1",
            "172.18.0.1/33",
            "fd00::1/129",
            "172.18.0/16",
            "blue/16",
            "172.18.0.1/-1",
        ] {
            assert_eq!(bad.parse::<ModelNetwork>(), Err(InvalidNetwork), "{bad}");
        }
    }
}
