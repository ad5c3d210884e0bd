//! The container as a process: what it does with its environment and with signals.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};

/// Nobody listens on this port: it takes root to, and nothing is registered there.
const NOBODY: &str = "127.0.0.1:1";

fn container() -> Command {
    // In the background of a script SIGINT is ignored, and the container would go on ignoring it.
    let mut command = Command::new("/usr/bin/env");
    command
        .args(["--default-signal=INT", env!("CARGO_BIN_EXE_synthetic")])
        .env_clear()
        .envs([
            ("SKYSAIL_FRONTENDS", NOBODY),
            ("SKYSAIL_MODEL_NAME", "synthetic"),
            ("SKYSAIL_MODEL_VERSION", "1"),
            ("SKYSAIL_INPUT_TYPE", "doubles"),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Waits for a line of its log.
fn says(container: &mut Child, words: &str) {
    let stderr = container.stderr.take().unwrap();
    let mut lines = BufReader::new(stderr).lines().map(Result::unwrap);
    let line = lines.find(|line| line.contains(words));
    assert!(line.is_some(), "the container ended before it said {words:?}");
    // Kept open, or the container's next line of log would be its last.
    std::thread::spawn(move || lines.count());
}

fn signal(container: &Child, name: &str) {
    let status = Command::new("kill")
        .args(["-s", name, &container.id().to_string()])
        .status();
    assert!(status.unwrap().success());
}

fn ends_well_on(name: &str) {
    let mut container = container().spawn().unwrap();
    says(&mut container, "serving");
    signal(&container, name);
    assert_eq!(ended_well(container), "inputs seen: 0\n");
}

/// Waits for its end; returns what it printed.
fn ended_well(mut container: Child) -> String {
    let status = container.wait().unwrap();
    let mut printed = String::new();
    container
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut printed)
        .unwrap();
    assert!(status.success(), "{status}");
    printed
}

#[test]
fn sigterm_ends_it_well_and_it_says_what_it_has_seen() {
    ends_well_on("TERM");
}

#[test]
fn sigint_ends_it_well_and_it_says_what_it_has_seen() {
    ends_well_on("INT");
}

#[test]
fn sigterm_ends_it_well_while_the_model_is_busy_with_a_warm_up_that_takes_minutes() {
    let mut container = container()
        .env("SKYSAIL_WARM_UP", "[1.5]")
        .env("SYNTHETIC_FIXED_MICROS", "600000000")
        .spawn()
        .unwrap();
    says(&mut container, "warming up");
    signal(&container, "TERM");
    let printed = ended_well(container);
    assert!(printed.starts_with("inputs seen: "), "{printed}");
}

#[test]
fn a_warm_up_that_fails_is_told_in_the_models_words_and_keeps_nobody_from_serving() {
    let mut container = container()
        .env("SKYSAIL_WARM_UP", "[1.5]")
        .env("SYNTHETIC_FAIL", "error")
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(container.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let warning = lines.find(|line| line.contains("WARN")).unwrap();
    assert!(
        warning.contains("SYNTHETIC_FAIL is error") && warning.contains("serving anyway"),
        "{warning}"
    );
    assert!(lines.any(|line| line.contains("serving model=")));
    std::thread::spawn(move || lines.count());
    signal(&container, "TERM");
    assert_eq!(ended_well(container), "inputs seen: 1\n");
}

fn refused(name: &str, value: &str) -> String {
    let Output { status, stderr, .. } = container().env(name, value).output().unwrap();
    assert_eq!(status.code(), Some(2));
    String::from_utf8(stderr).unwrap()
}

#[test]
fn a_bad_setting_of_the_model_is_reported_and_ends_it() {
    let error = refused("SYNTHETIC_MODE", "dream");
    assert!(
        error.contains("SYNTHETIC_MODE is `dream`: use sleep or spin"),
        "{error}"
    );
}

#[test]
fn a_bad_setting_of_the_container_is_reported_and_ends_it() {
    let error = refused("SKYSAIL_INPUT_TYPE", "tensor");
    assert!(
        error.contains("SKYSAIL_INPUT_TYPE") && error.contains("doubles"),
        "{error}"
    );
}

#[test]
fn tensors_that_are_not_declared_end_it_with_the_remedy() {
    let error = refused("SKYSAIL_INPUT_TYPE", "tensors");
    assert!(error.contains("set SKYSAIL_SIGNATURE"), "{error}");
}
