//! The name of the lease's holder, made from the address at which a control role acts.

use std::fs;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::net::SocketAddr;

/// The holder that a control role takes the lease as: its bound admin address, and a number for the machine and
/// network that the address belongs to.
///
/// No other process can be bound there. So a lease of the same holder belongs to an earlier run, which has
/// ended. A restarted server therefore acts at once, and need not wait until that lease runs out. On a machine
/// without such a number, the holder is made from `id`, and is always new.
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
