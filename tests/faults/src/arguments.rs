//! What is typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

/// Kill, stop, restart and cut off parts of a cluster under load, and see what its clients see
///
/// Needs a Docker engine of this machine, and the images (`make images redis-image`).
#[derive(Clone, Debug, Parser)]
#[command(name = "faults", version, after_long_help = JSON)]
pub(crate) struct Arguments {
    /// Decides the faults and the queries [default: another each time; it is printed]
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// How long to go on, unless --faults is reached before
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = humantime::parse_duration)]
    pub(crate) duration: Duration,
    /// How many faults, unless --duration is reached before
    #[arg(long, value_name = "N")]
    pub(crate) faults: Option<usize>,
    /// From one fault to the next on average; each is healed before the next, however long that takes
    #[arg(long, value_name = "DURATION", default_value = "6s", value_parser = humantime::parse_duration)]
    pub(crate) every: Duration,
    /// What is asked, relative to what the three replicas can answer
    #[arg(long, value_name = "SHARE", default_value_t = 0.6)]
    pub(crate) load: f64,
    /// Judge answers and convergence alone, and not whether answers were in time: for a busy machine
    #[arg(long)]
    pub(crate) untimed: bool,
    /// Measure instead how long single recoveries take, this often each (--rounds)
    #[arg(long, conflicts_with_all = ["faults", "untimed"])]
    pub(crate) report: bool,
    /// How often --report measures each
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) rounds: usize,
    /// Write what was found out as JSON
    #[arg(long, value_name = "FILE", default_value = "target/faults.json")]
    pub(crate) json: PathBuf,
}

/// What `--help` says of the JSON and the exit code.
const JSON: &str = "\
Each query must get exactly one answer: the right one (the model answers a digest of its input), or a default output
with a reason. Queries inside a frontend that is made to fail are asked again of the other, and counted apart. Late is
what comes more than 20 ms after its deadline; 0.2 % may. After each fault, and at the end, the cluster must be as it
should be: all replicas attached at all frontends, one candidate for the control role acting, Redis up.

The exit code is 0 if all that held.

The JSON of a run is one object: seed, seconds, held, account (asked, predicted, defaults by reason, retried, late,
late_of_disturbed, latest_millis, lost, wrong, doubled, failed, findings), faults (what, after_seconds, lasted_seconds,
healed_seconds: from the part's being left alone until all was as it should be) and ailment, what was not healed. That
of --report is an array of {what, seconds}.";

impl Arguments {
    /// The seed that was asked for, or one drawn.
    pub(crate) fn seed(&self) -> u64 {
        self.seed.unwrap_or_else(|| fastrand::u64(..1_000_000))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }
}
