//! Prometheus' own linter of metrics.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::binaries::installed;

/// What `promtool check metrics` says of a page; nothing if it is clean.
///
/// # Panics
/// If it cannot be run.
pub fn complaints(page: &str) -> String {
    let mut linter = Command::new(installed("promtool").expect("promtool is installed"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool runs");
    let mut input = linter.stdin.take().expect("it is piped");
    input.write_all(page.as_bytes()).expect("the page is written");
    drop(input);
    let ended = linter.wait_with_output().expect("promtool ends");
    let mut said =
        String::from_utf8_lossy(&ended.stdout).into_owned() + &String::from_utf8_lossy(&ended.stderr);
    if !ended.status.success() {
        said += &format!("promtool ended with {}", ended.status);
    }
    said
}

/// Why it cannot be run here, if it cannot.
pub fn missing() -> Option<String> {
    let advice = "promtool is not installed: `.ci/install` gets it (it is in Debian's package `prometheus`)";
    installed("promtool").is_none().then(|| advice.to_owned())
}
