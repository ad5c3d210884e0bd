//! `make faults` in short: a few faults of a fixed seed, whose answers and recoveries are judged, but no times:
//! a machine that runs tests measures nothing.

use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use skysail_tests::program::Program;
use skysail_tests::{binaries, cases, wait};
use tempfile::TempDir;

cases! {
    a_short_campaign_loses_no_query_and_everything_heals: Docker, Redis;
    a_campaign_that_is_interrupted_leaves_nothing: Docker, Redis;
}

/// A run takes some forty seconds on an idle machine.
const RUN: Duration = Duration::from_secs(240);

/// Eight faults of the eighteen kinds, among them a part of the store lost and writes refused.
const CAMPAIGN: &str = "--seed 11 --faults 8 --every 2s --load 0.3 --untimed";

fn campaign(folder: &TempDir) -> Program {
    let mut command = Command::new(binaries::path("faults"));
    command.args(CAMPAIGN.split(' '));
    command.arg("--json").arg(folder.path().join("faults.json"));
    Program::start("the fault campaign", command)
}

async fn a_short_campaign_loses_no_query_and_everything_heals() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = campaign(&folder);
    let ended = wait::find("the campaign to end", RUN, async || run.ended()).await;
    let said = run.whole_log().await.join("\n");
    assert!(ended.success(), "{said}");
    assert!(said.contains("It held."), "{said}");

    let figures = std::fs::read_to_string(folder.path().join("faults.json")).unwrap();
    let figures: Value = serde_json::from_str(&figures).unwrap();
    assert_eq!(figures["seed"], 11, "{figures}");
    assert_eq!(figures["held_untimed"], true, "{figures}");
    assert_eq!(figures["faults"].as_array().map(Vec::len), Some(8), "{figures}");
    assert!(figures["account"]["predicted"].as_u64() > Some(100), "{figures}");
}

async fn a_campaign_that_is_interrupted_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = campaign(&folder);
    run.log().line("bringing the cluster up").await;
    run.signal(Signal::INT);
    let ended = wait::find("the campaign to end", RUN, async || run.ended()).await;
    assert_eq!(ended.code(), Some(130));
    assert!(!folder.path().join("faults.json").exists());
}
