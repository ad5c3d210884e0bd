//! Variables of the environment: one that is set but empty counts as not set.
//!
//! That is how compose files, unit files and scripts leave an option out: `SKYSAIL_CONFIG=${CONFIG}`.

use std::env;

/// The value of a variable, unless it is blank or not text.
pub fn read(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !is_blank(value))
}

fn is_blank(value: &str) -> bool {
    value.trim().is_empty()
}

/// A command line whose options do not read variables that are set but empty.
///
/// Left to itself, clap parses the empty text, and what it is not, the person is told.
#[cfg(feature = "command-line")]
pub fn without_blank(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|argument| {
        let blank = argument
            .get_env()
            .is_some_and(|name| env::var_os(name).is_some_and(|value| value.to_str().is_some_and(is_blank)));
        match blank {
            true => argument.env(clap::builder::Resettable::Reset),
            false => argument,
        }
    });
    command.mut_subcommands(without_blank)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_is_not_there_has_no_value() {
        assert_eq!(read("SKYSAIL_NO_SUCH_VARIABLE"), None);
        assert!(read("PATH").is_some());
        assert!(is_blank("") && is_blank(" ") && !is_blank("x"));
    }
}
