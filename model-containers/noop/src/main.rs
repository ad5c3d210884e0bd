//! The no-op model's container.

use std::process::ExitCode;

fn main() -> ExitCode {
    skysail_container_rpc::serve(noop::Noop)
}
