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

/// Turns choices into ports that were free just now.
///
/// Free ones are chosen here and not by Docker, which would choose anew whenever the container restarts.
/// All are held until all are found, so that no two are the same. Another process may still take one
/// before Docker does; then Docker's refusal is the answer.
pub(super) fn claim<const N: usize>(choices: [PortChoice; N]) -> Result<[u16; N], ClusterError> {
    check_distinct(&choices)?;
    let mut held = Vec::with_capacity(N);
    let mut ports = [0; N];
    for (port, choice) in ports.iter_mut().zip(choices) {
        match hold(choice.port) {
            Ok((found, listener)) => {
                *port = found;
                held.push(listener);
            }
            Err(error) if choice.port == 0 => return Err(ClusterError::NoFreePort(error)),
            Err(error) if error.kind() == ErrorKind::AddrInUse => return Err(taken(choice)),
            // What this user may not bind (a low port), Docker perhaps may.
            Err(_) => *port = choice.port,
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
        let ports = claim([choice(0), choice(0), choice(0)]).unwrap();
        assert!(ports.iter().all(|&port| port != 0));
        assert!(ports[0] != ports[1] && ports[1] != ports[2] && ports[0] != ports[2]);
    }

    #[test]
    fn a_taken_port_is_named() {
        let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = holder.local_addr().unwrap().port();
        let error = claim([choice(port)]).unwrap_err();
        assert!(matches!(error, ClusterError::PortTaken { port: named, .. } if named == port));
    }

    #[test]
    fn one_port_for_two_purposes_is_refused() {
        let error = claim([choice(4242), choice(4242)]).unwrap_err();
        assert!(matches!(error, ClusterError::SamePort { port: 4242, .. }));
    }
}
