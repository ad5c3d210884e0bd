//! `skysail completions`: what a shell needs to complete commands and flags.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::arguments::Arguments;
use crate::error::Error;
use crate::output::Output;

const EXAMPLES: &str = "\
Examples:
  skysail completions bash > ~/.local/share/bash-completion/completions/skysail
  skysail completions zsh > \"${fpath[1]}/_skysail\"
  skysail completions fish > ~/.config/fish/completions/skysail.fish";

#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CompletionsArguments {
    /// The shell to complete for
    shell: Shell,
}

pub(super) fn run(output: Output, arguments: &CompletionsArguments) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "skysail", &mut script);
    output.bytes(&script)
}
