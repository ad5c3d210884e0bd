//! The ports a cluster publishes on this machine.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, TcpListener};

use super::ClusterError;

/// A port that is to be published, and the option that chooses it. 0 stands for any free one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PortChoice {
    pub(crate) port: u16,
    pub(crate) option: &'static str,
}

/// `port` if it is free, otherwise 0: any free port will do where nobody chose one.
pub(crate) fn free_or_any(port: u16) -> u16 {
    if hold(port).is_ok() { port } else { 0 }
}

/// The choices of `count` ports upwards from the first, which pass over those that are `others`'. A first one
/// that is any free port makes them all so.
///
/// By default the second frontend's port would else be that of the admin API.
pub(super) fn upwards(first: PortChoice, count: usize, others: &[PortChoice]) -> Vec<PortChoice> {
    if first.port == 0 {
        return vec![first; count];
    }
    let is_free = |port: &u16| *port == first.port || others.iter().all(|other| other.port != *port);
    let ports = (first.port..=u16::MAX).filter(is_free).take(count);
    ports.map(|port| PortChoice { port, ..first }).collect()
}

/// Turns choices into ports that were free just now.
///
/// Free ones are chosen here and not by Docker, which would choose anew whenever the container restarts.
/// All are held until all are found, so that no two are the same. Another process may still take one
/// before Docker does; then Docker's refusal is the answer.
pub(super) fn claim(choices: &[PortChoice]) -> Result<Vec<u16>, ClusterError> {
    check_distinct(choices)?;
    let mut held = Vec::with_capacity(choices.len());
    let mut ports = Vec::with_capacity(choices.len());
    for choice in choices {
        match hold(choice.port) {
            Ok((found, listener)) => {
                ports.push(found);
                held.push(listener);
            }
            Err(error) if choice.port == 0 => return Err(ClusterError::NoFreePort(error)),
            Err(error) if error.kind() == ErrorKind::AddrInUse => return Err(taken(*choice)),
            // What this user may not bind (a low port), Docker perhaps may.
            Err(_) => ports.push(choice.port),
        }
    }
    Ok(ports)
}

fn hold(port: u16) -> io::Result<(u16, TcpListener)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    Ok((listener.local_addr()?.port(), listener))
}

pub(super) fn taken(choice: PortChoice) -> ClusterError {
    ClusterError::PortTaken {
        port: choice.port,
        option: choice.option,
    }
}

fn check_distinct(choices: &[PortChoice]) -> Result<(), ClusterError> {
    for (index, second) in choices.iter().enumerate() {
        let same = |first: &&PortChoice| first.port == second.port && first.port != 0;
        if let Some(first) = choices[..index].iter().find(same) {
            return Err(ClusterError::SamePort {
                port: first.port,
                first: first.option,
                second: second.option,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(port: u16) -> PortChoice {
        PortChoice {
            port,
            option: "--query-port",
        }
    }

    #[test]
    fn free_ports_are_found_and_differ() {
        let ports = claim(&[choice(0), choice(0), choice(0)]).unwrap();
        assert!(ports.iter().all(|&port| port != 0));
        assert!(ports[0] != ports[1] && ports[1] != ports[2] && ports[0] != ports[2]);
    }

    #[test]
    fn ports_upwards_pass_over_those_that_others_have() {
        let ports = |first, count, others: &[u16]| {
            let others: Vec<_> = others.iter().map(|&port| choice(port)).collect();
            let choices = upwards(choice(first), count, &others);
            choices.iter().map(|choice| choice.port).collect::<Vec<_>>()
        };
        assert_eq!(ports(1337, 3, &[1338, 7000]), [1337, 1339, 1340]);
        assert_eq!(ports(0, 2, &[1338]), [0, 0]);
        // One that was chosen by hand is the person's to change.
        assert_eq!(ports(1338, 2, &[1338]), [1338, 1339]);
        assert_eq!(ports(65535, 2, &[]), [65535]);
    }

    #[test]
    fn a_taken_port_is_named() {
        let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = holder.local_addr().unwrap().port();
        let error = claim(&[choice(port)]).unwrap_err();
        assert!(matches!(error, ClusterError::PortTaken { port: named, .. } if named == port));
    }

    #[test]
    fn one_port_for_two_purposes_is_refused() {
        let error = claim(&[choice(4242), choice(4242)]).unwrap_err();
        assert!(matches!(error, ClusterError::SamePort { port: 4242, .. }));
    }
}
