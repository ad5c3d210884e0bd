//! `skysail cluster`: what to do about a metadata store that lost something.

use clap::Subcommand;
use skysail_proto::admin::Settlement;

use super::Session;
use crate::error::Error;
use crate::output::counted;

const EXAMPLES: &str = "\
When the metadata store comes back empty or old, or lost a part, frontends go on with what they hold, and
nothing is started, stopped or written until one of these is said, once for the whole cluster. `skysail status`
says whether it is so, what is missing, and what is held. Documents that were edited by hand are such a loss
too, until accept-empty is said.";

#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum ClusterCommand {
    /// Write what the frontends hold back to a metadata store that lost it
    Restore,
    /// Follow a metadata store that lost something, or was edited by hand, as it is: what it does not have is
    /// given up, and its containers are stopped
    AcceptEmpty,
}

pub(super) async fn run(session: &Session, command: ClusterCommand) -> Result<(), Error> {
    match command {
        ClusterCommand::Restore => {
            let settlement = session.admin.restore().await?;
            session.output.answer(&settlement, restored)
        }
        ClusterCommand::AcceptEmpty => {
            let settlement = session.admin.accept_empty().await?;
            session.output.answer(&settlement, accepted)
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
    format!(
        "follows the store as it is, with {} and {}: generation {}; gave up {} and {}",
        counted(settlement.applications, "application"),
        counted(settlement.models, "model"),
        settlement.generation,
        counted(settlement.given_up_applications, "application"),
        counted(settlement.given_up_models, "model"),
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
        };
        assert_eq!(
            restored(&settlement),
            "wrote 1 application and 0 models back: generation 8"
        );
        assert_eq!(
            accepted(&settlement),
            "follows the store as it is, with 1 application and 0 models: generation 8; gave up 2 applications and \
             1 model"
        );
    }
}
