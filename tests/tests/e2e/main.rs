//! End-to-end tests, as one binary: `cargo test -p skysail-tests --test e2e -- a_part_of_a_name`.
//!
//! A module for each area. Real programs, a real `redis-server`, a real Docker engine; see
//! [`skysail_tests::suite`] for what becomes of tests whose needs cannot be had.

use std::process::ExitCode;

use skysail_tests::suite::Suite;

mod access;
mod admin;
mod artifacts;
mod bad_input;
mod batch_sizes;
mod batching;
mod bench;

mod benchmarks;
mod bodies;
mod by_hand;
mod cache;
mod cli;
mod cluster;
mod connections;
mod docker;
mod documented;
mod failing_models;
mod faults;
mod frontends;
mod heals;
mod identity;
mod idle;
mod isolation;
mod join;
mod large_outputs;
mod logs;
mod lost_parts;
mod merged_batches;
mod metrics;
mod ops;
mod orphans;
mod overload;
mod peers;
mod queries;
mod quickstart;
mod restart;
mod runtime_docker;
mod runtime_process;
mod shares;
mod signals;
mod start_up;
mod store_embedded;
mod store_redis;
mod tensors;
mod terminal;
mod unread_bodies;
mod unwell_redis;
mod variables;
mod with_redis;

fn main() -> ExitCode {
    let mut suite = Suite::default()
        .area("quickstart", quickstart::CASES)
        .area("bad_input", bad_input::CASES)
        .area("bodies", bodies::CASES)
        .area("unread_bodies", unread_bodies::CASES)
        .area("cli", cli::CASES)
        .area("bench", bench::CASES)
        .area("benchmarks", benchmarks::CASES)
        .area("cluster", cluster::CASES)
        .area("docker", docker::CASES)
        .area("documented", documented::CASES)
        .area("identity", identity::CASES)
        .area("isolation", isolation::CASES)
        .area("overload", overload::CASES)
        .area("shares", shares::CASES)
        .area("connections", connections::CASES)
        .area("queries", queries::CASES)
        .area("cache", cache::CASES)
        .area("tensors", tensors::CASES)
        .area("large_outputs", large_outputs::CASES)
        .area("batching", batching::CASES)
        .area("batch_sizes", batch_sizes::CASES)
        .area("access", access::CASES)
        .area("admin", admin::CASES)
        .area("artifacts", artifacts::CASES)
        .area("metrics", metrics::CASES)
        .area("peers", peers::CASES)
        .area("ops", ops::CASES)
        .area("failing_models", failing_models::CASES)
        .area("heals", heals::CASES)
        .area("faults", faults::CASES)
        .area("restart", restart::CASES)
        .area("with_redis", with_redis::CASES)
        .area("start_up", start_up::CASES)
        .area("by_hand", by_hand::CASES)
        .area("join", join::CASES)
        .area("frontends", frontends::CASES)
        .area("merged_batches", merged_batches::CASES)
        .area("idle", idle::CASES)
        .area("logs", logs::CASES)
        .area("signals", signals::CASES)
        .area("orphans", orphans::CASES)
        .area("terminal", terminal::CASES)
        .area("variables", variables::CASES)
        .area("store_redis", store_redis::CASES)
        .area("lost_parts", lost_parts::CASES)
        .area("unwell_redis", unwell_redis::CASES)
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
