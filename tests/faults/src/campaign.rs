//! Faults, one after the other, under load.

use std::io::{IsTerminal, Write, stderr};
use std::time::Duration;

use serde::Serialize;
use skysail_tests::contained::desired::can_write;
use skysail_tests::journal::Account;
use tokio::time::{Instant, sleep, sleep_until};

use crate::arguments::Arguments;
use crate::fault::{Fault, Harm, Part};
use crate::schedule::Schedule;
use crate::stage::Stage;

/// A cluster that is not healed after so long is not healing: a version that failed often pauses for a minute.
const HEALS_WITHIN: Duration = Duration::from_secs(150);

/// How often is looked whether it has.
const LOOK: Duration = Duration::from_millis(50);

/// What was found out.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    pub(crate) seed: u64,
    pub(crate) seconds: f64,
    pub(crate) account: Account,
    pub(crate) faults: Vec<Done>,
    /// What was not as it should be in the end, or after a fault for so long that the run was ended.
    pub(crate) ailment: Option<String>,
}

/// A fault that was carried out.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Done {
    pub(crate) what: String,
    #[serde(skip)]
    pub(crate) part: Part,
    #[serde(skip)]
    pub(crate) harm: Harm,
    /// From the begin of the run.
    pub(crate) after_seconds: f64,
    /// From its begin until the part was left alone again.
    pub(crate) lasted_seconds: f64,
    /// From then until all was as it should be.
    pub(crate) healed_seconds: f64,
}

impl Outcome {
    /// Whether nothing was lost or wrong, all came in time if that is asked, and everything healed.
    pub(crate) fn held(&self, untimed: bool) -> bool {
        // Defaults are right answers, but a run in which there is nothing else shows nothing.
        let served = self.account.predicted * 2 > self.account.asked;
        self.account.is_right() && served && self.ailment.is_none() && (untimed || self.account.is_in_time())
    }
}

pub(crate) async fn run(arguments: &Arguments) -> Outcome {
    let seed = arguments.seed();
    eprintln!("seed {seed}: bringing the cluster up");
    let mut stage = Stage::set(seed, arguments.load).await;
    let begin = Instant::now();
    let mut faults = Vec::new();
    let mut ailment = None;
    let mut last = begin;
    for (after, fault) in Schedule::new(seed, arguments.every) {
        let due = last + after;
        if due > begin + arguments.duration || arguments.faults.is_some_and(|most| faults.len() >= most) {
            break;
        }
        sleep_until(due).await;
        last = Instant::now();
        match carry_out(&mut stage, fault, begin, faults.len()).await {
            Ok(done) => faults.push(done),
            Err(found) => {
                ailment = Some(format!("after fault {} ({fault}): {found}", faults.len() + 1));
                break;
            }
        }
    }
    if ailment.is_none() {
        ailment = heal(&mut stage).await.err();
    }
    if ailment.is_none() && !takes_writes(&stage).await {
        ailment = Some("an admin write is not taken".to_owned());
    }
    end_line();
    let seconds = begin.elapsed().as_secs_f64();
    let Stage { running, cluster } = stage;
    let account = running.finish().await;
    if ailment.is_some() {
        cluster.docker().show_logs().await;
    }
    drop(cluster);
    Outcome {
        seed,
        seconds,
        account,
        faults,
        ailment,
    }
}

/// Does it and waits until all is as it should be; fails with what never became so.
async fn carry_out(stage: &mut Stage, fault: Fault, begin: Instant, number: usize) -> Result<Done, String> {
    let begun = Instant::now();
    tell(stage, begin, &format!("fault {}: {fault}", number + 1));
    fault.carry_out(stage).await;
    let left_alone = Instant::now();
    tell(stage, begin, &format!("fault {}: {fault}, healing", number + 1));
    let healed = heal(stage).await?;
    tell(stage, begin, &format!("fault {}: {fault}, healed", number + 1));
    Ok(Done {
        what: fault.to_string(),
        part: fault.part,
        harm: fault.harm,
        after_seconds: (begun - begin).as_secs_f64(),
        lasted_seconds: (left_alone - begun).as_secs_f64(),
        healed_seconds: (healed - left_alone).as_secs_f64(),
    })
}

/// Waits until all is as it should be, and says when that was; fails with what never became so.
async fn heal(stage: &mut Stage) -> Result<Instant, String> {
    let bound = Instant::now() + HEALS_WITHIN;
    loop {
        let looked = Instant::now();
        match stage.ailment().await {
            None => return Ok(looked),
            Some(found) if looked > bound => return Err(found),
            Some(_) => sleep(LOOK).await,
        }
    }
}

/// Whether every candidate for the control role takes a write.
async fn takes_writes(stage: &Stage) -> bool {
    for place in 0..stage.cluster.control().len() {
        if !can_write(&stage.cluster.admin(place).await).await {
            return false;
        }
    }
    true
}

/// A line on the terminal that is written over and over; a line each in a file.
fn tell(stage: &Stage, begin: Instant, what: &str) {
    let account = stage.running.so_far();
    let line = format!(
        "{:5.0} s  {} queries, {} defaults, {} retried, {} late, {} bad  {what}",
        begin.elapsed().as_secs_f64(),
        account.asked,
        account.defaulted(),
        account.retried,
        account.late,
        account.wrong + account.doubled + account.failed,
    );
    if stderr().is_terminal() {
        eprint!("\r\x1b[2K{line}");
        let _ = stderr().flush();
    } else {
        eprintln!("{line}");
    }
}

fn end_line() {
    if stderr().is_terminal() {
        eprintln!();
    }
}
