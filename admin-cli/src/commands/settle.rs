//! `skysail cluster`: what to do about a metadata store that lost something, and about containers that were started
//! for another one.

use clap::Subcommand;
use skysail_proto::admin::{Adoption, Settlement};

use super::Session;
use crate::advice::listed;
use crate::error::Error;
use crate::output::counted;

const EXAMPLES: &str = "\
When the metadata store comes back empty or old, or lost a part, frontends go on with what they hold until \
`restore` or `accept-empty` is said, once for the whole cluster. Nothing is written until then. The frontend that \
acts as the control role replaces what ends, by the catalog it holds; if it ends, no other acts in its place. \
`skysail status` says whether it is so, what is missing, and what is held. Documents that were edited by hand are \
such a loss too, until `accept-empty` is said.

Containers carry the store that they were started for. Those of another one are named by `skysail status` and left \
as they are: another server may look after them, which then should have a name of its own (`--cluster`). Those that \
were left behind by a store that is gone are taken over with `adopt`.";

#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum ClusterCommand {
    /// Write what the frontends hold back to a metadata store that lost it
    Restore,
    /// Follow a metadata store that lost something, or was edited by hand, as it is: what it does not have is
    /// given up, and its containers are stopped
    AcceptEmpty,
    /// Take over the containers of the cluster's name that were started for another metadata store, once nobody
    /// else looks after them: those that this store's catalog asks for go on or are replaced, the others are stopped
    Adopt,
}

pub(super) async fn run(session: &Session, command: ClusterCommand) -> Result<(), Error> {
    match command {
        ClusterCommand::Restore => {
            let settlement = session.admin.restore().await?;
            session.output.answer(&settlement, |settlement| {
                restored(settlement) + &aside(settlement)
            })
        }
        ClusterCommand::AcceptEmpty => {
            let settlement = session.admin.accept_empty().await?;
            session.output.answer(&settlement, |settlement| {
                accepted(settlement) + &aside(settlement)
            })
        }
        ClusterCommand::Adopt => {
            let adoption = session.admin.adopt().await?;
            session.output.answer(&adoption, adopted)
        }
    }
}

fn restored(settlement: &Settlement) -> String {
    format!(
        "wrote {} and {} back: generation {}",
        counted(settlement.applications, "application"),
        counted(settlement.models, "model"),
        settlement.generation
    )
}

fn accepted(settlement: &Settlement) -> String {
    let follows = format!(
        "follows the store as it is, with {} and {}: generation {}",
        counted(settlement.applications, "application"),
        counted(settlement.models, "model"),
        settlement.generation,
    );
    // A frontend that held nothing cannot tell what others gave up.
    if settlement.given_up_applications == 0 && settlement.given_up_models == 0 {
        return follows;
    }
    format!(
        "{follows}; gave up {} and {}",
        counted(settlement.given_up_applications, "application"),
        counted(settlement.given_up_models, "model"),
    )
}

fn aside(settlement: &Settlement) -> String {
    let path = settlement.set_aside.as_ref();
    path.map_or_else(String::new, |path| {
        format!("; the file that was there is now {path}")
    })
}

fn adopted(adoption: &Adoption) -> String {
    format!(
        "took over {}: {}; those that the catalog does not ask for are stopped",
        counted(adoption.containers.len() as u64, "container"),
        listed(&adoption.containers)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_and_what_was_given_up_is_counted() {
        let settlement = Settlement {
            generation: 8,
            applications: 1,
            models: 0,
            given_up_applications: 2,
            given_up_models: 1,
            set_aside: None,
        };
        assert_eq!(aside(&settlement), "");
        let moved = Settlement {
            set_aside: Some("s.redb.damaged-1".into()),
            ..settlement.clone()
        };
        assert_eq!(aside(&moved), "; the file that was there is now s.redb.damaged-1");
        assert_eq!(
            restored(&settlement),
            "wrote 1 application and 0 models back: generation 8"
        );
        assert_eq!(
            accepted(&settlement),
            "follows the store as it is, with 1 application and 0 models: generation 8; gave up 2 applications and \
             1 model"
        );
        let unknown = Settlement {
            given_up_applications: 0,
            given_up_models: 0,
            ..settlement
        };
        assert_eq!(
            accepted(&unknown),
            "follows the store as it is, with 1 application and 0 models: generation 8"
        );
    }
}
