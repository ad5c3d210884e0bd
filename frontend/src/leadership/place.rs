//! Where a control role acts, as the holder of the lease.

use std::fs;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::net::SocketAddr;

/// The holder that a control role takes the lease as: the address it has bound, and which network of which
/// machine that is an address of.
///
/// Nobody else can be bound there, so a lease of the same holder is that of an earlier life, which has ended:
/// a server that was killed acts again as soon as it is started again, and need not wait until the lease runs
/// out. Where the machine does not tell, `id` makes a holder that nobody was before.
pub(crate) fn holder(admin_addr: Option<SocketAddr>, id: &str) -> String {
    match admin_addr.and_then(|addr| Some((addr, network()?))) {
        Some((addr, network)) => format!("{addr}@{network:08x}"),
        None => id.to_owned(),
    }
}

/// A number for this boot of this machine and this network namespace.
fn network() -> Option<u32> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = fs::read_link("/proc/self/ns/net").ok()?;
    let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one((boot, namespace));
    Some((hash >> 32) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_after_the_other_is_the_same_holder_and_another_port_is_another() {
        let addr = |port: u16| Some(SocketAddr::from(([127, 0, 0, 1], port)));
        assert_eq!(holder(addr(1338), "one"), holder(addr(1338), "two"));
        assert_ne!(holder(addr(1338), "one"), holder(addr(1339), "one"));
        assert!(holder(addr(1338), "one").starts_with("127.0.0.1:1338"));
    }

    #[test]
    fn without_an_address_every_life_is_another_holder() {
        assert_eq!(holder(None, "one"), "one");
    }
}
