//! End-to-end tests, as one binary: `cargo test -p skysail-tests --test e2e -- a_part_of_a_name`.
//!
//! A module for each area. Real programs, a real `redis-server`, a real Docker engine; see
//! [`skysail_tests::suite`] for what becomes of tests whose needs cannot be had.

use std::process::ExitCode;

use skysail_tests::suite::Suite;

mod admin;
mod bad_input;
mod cli;
mod cluster;
mod docker;
mod failing_models;
mod isolation;
mod queries;
mod quickstart;
mod runtime_docker;
mod runtime_process;
mod store_embedded;
mod store_redis;

fn main() -> ExitCode {
    let mut suite = Suite::default()
        .area("quickstart", quickstart::CASES)
        .area("cli", cli::CASES)
        .area("docker", docker::CASES)
        .area("cluster", cluster::CASES)
        .area("queries", queries::CASES)
        .area("bad_input", bad_input::CASES)
        .area("isolation", isolation::CASES)
        .area("admin", admin::CASES)
        .area("failing_models", failing_models::CASES)
        .area("store_redis", store_redis::CASES)
        .area("runtime_process", runtime_process::CASES);
    // What has several implementations has one list of promises, and each a test of each.
    suite = store_embedded::keeps_promises(suite);
    suite = store_redis::keeps_promises(suite);
    suite = runtime_process::keeps_promises(suite);
    suite = runtime_docker::keeps_promises(suite);
    let code = suite.run();
    runtime_docker::clean_up();
    code
}
