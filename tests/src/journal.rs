//! What became of each query, judged by the client's own records: exactly one answer, the right one or a
//! default that says why, in time.
//!
//! The synthetic model answers a digest of its input, so that an answer that belongs to another query is
//! seen. A frontend that is made to fail is named before ([`Journal::disturb`]): only what was asked of it
//! then may fail, and is to be asked again elsewhere.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use skysail_container_rpc::InputRef;
use tokio::time::Instant;

/// How much later than its deadline an answer may be there: the way back, and a busy machine.
pub const SLACK: Duration = Duration::from_millis(20);

/// The share of answers that may be later than that.
pub const LATE_SHARE: f64 = 0.002;

/// Findings that are kept in words; all are counted.
const FINDINGS: usize = 40;

/// One query, whose answer is known before.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// Which; no two of a run are alike.
    pub number: u64,
    /// What is asked.
    pub input: [f64; 3],
}

impl Question {
    /// The question of this number in a run with this seed.
    pub fn new(seed: u64, number: u64) -> Self {
        // Both are exact as doubles, so that no two questions of a run are alike.
        let of = |number: u64| (number % (1 << 52)) as f64;
        Self {
            number,
            input: [of(number), of(seed), 0.5],
        }
    }

    /// What the synthetic model answers.
    pub fn answer(&self) -> String {
        format!(
            "fnv1a:{:016x}",
            synthetic::digest::digest(InputRef::Doubles(&self.input))
        )
    }
}

/// One try to get an answer, from one frontend.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Which frontend was asked, by its place among all.
    pub frontend: usize,
    /// When the first byte was about to be sent.
    pub sent: Instant,
    /// When it ended.
    pub ended: Instant,
    /// How it ended.
    pub end: End,
}

/// How a try ended.
#[derive(Clone, Debug)]
pub enum End {
    /// With a reply.
    Replied {
        /// The HTTP status.
        status: u16,
        /// The body.
        body: String,
    },
    /// The connection could not be had, or broke.
    Broken(String),
    /// Nothing came while it was waited for.
    Silence,
}

/// What is to be done with a question after a try.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It is done with.
    Settled,
    /// The frontend was made to fail: another may know.
    AskAgain,
}

/// Counts of what became of queries.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Account {
    /// Queries asked.
    pub asked: u64,
    /// Queries the model answered rightly.
    pub predicted: u64,
    /// Default outputs by their reason.
    pub defaults: BTreeMap<String, u64>,
    /// Tries that failed in a frontend that was made to fail; each was asked again.
    pub retried: u64,
    /// Answers that came later than [`SLACK`] after their deadline.
    pub late: u64,
    /// The same, from frontends that were made to fail.
    pub late_of_disturbed: u64,
    /// How long the latest of [`Self::late`] took, in milliseconds.
    pub latest_millis: u64,
    /// Queries that were never answered.
    pub lost: u64,
    /// Answers that are not the query's, or defaults without a reason.
    pub wrong: u64,
    /// Answers too many.
    pub doubled: u64,
    /// Queries that were answered with another status than 200, or whose connection broke for no reason.
    pub failed: u64,
    /// The first findings in words.
    pub findings: Vec<String>,
}

impl Account {
    /// Whether each query got exactly one right answer, or a default that says why.
    pub fn is_right(&self) -> bool {
        self.lost + self.wrong + self.doubled + self.failed == 0
    }

    /// Whether all but a small share came in time.
    pub fn is_in_time(&self) -> bool {
        self.late as f64 <= LATE_SHARE * self.asked as f64
    }

    /// All default outputs.
    pub fn defaulted(&self) -> u64 {
        self.defaults.values().sum()
    }

    /// # Panics
    /// If a query was lost, answered wrongly, twice, or with an error.
    #[track_caller]
    pub fn assert_right(&self) {
        assert!(self.asked > 0 && self.is_right(), "{self:#?}");
    }
}

/// The records of one run.
#[derive(Debug)]
pub struct Journal {
    slo: Duration,
    default_output: Value,
    open: HashSet<u64>,
    /// The ids of all answers: an id that comes twice is one query answered twice.
    ids: HashSet<u64>,
    disturbances: Vec<Disturbance>,
    account: Account,
}

/// From when until when a frontend was made to fail.
#[derive(Clone, Copy, Debug)]
struct Disturbance {
    frontend: usize,
    from: Instant,
    until: Option<Instant>,
}

#[derive(Deserialize)]
struct Answer {
    query_id: u64,
    output: Value,
    default: bool,
    #[serde(default)]
    default_reason: Option<String>,
}

impl Journal {
    /// Nothing asked yet; for an application with this objective and default output.
    pub fn new(slo: Duration, default_output: impl Into<Value>) -> Self {
        Self {
            slo,
            default_output: default_output.into(),
            open: HashSet::new(),
            ids: HashSet::new(),
            disturbances: Vec::new(),
            account: Account::default(),
        }
    }

    /// A frontend is about to be made to fail.
    pub fn disturb(&mut self, frontend: usize) {
        self.disturbances.push(Disturbance {
            frontend,
            from: Instant::now(),
            until: None,
        });
    }

    /// A frontend that was made to fail serves again.
    pub fn calm(&mut self, frontend: usize) {
        let theirs = self.disturbances.iter_mut();
        for disturbance in theirs.filter(|one| one.frontend == frontend && one.until.is_none()) {
            disturbance.until = Some(Instant::now());
        }
    }

    /// A question is about to be asked.
    pub fn ask(&mut self, question: &Question) {
        self.account.asked += 1;
        assert!(self.open.insert(question.number), "no two questions are alike");
    }

    /// A try has ended.
    pub fn note(&mut self, question: &Question, attempt: &Attempt) -> Verdict {
        match &attempt.end {
            End::Replied { status: 200, body } => {
                self.note_time(question, attempt);
                self.note_answer(question, body);
                self.settle(question)
            }
            // One that has just begun says so: to be asked again, as a balancer does.
            End::Replied { status: 503, .. } if self.was_disturbed(attempt) => {
                self.account.retried += 1;
                Verdict::AskAgain
            }
            End::Replied { status, body } => {
                self.account.failed += 1;
                self.find(format!("query {} got {status}: {body}", question.number));
                self.settle(question)
            }
            End::Broken(_) | End::Silence if self.was_disturbed(attempt) => {
                self.account.retried += 1;
                Verdict::AskAgain
            }
            End::Broken(why) => {
                self.account.failed += 1;
                let Attempt { frontend, .. } = attempt;
                self.find(format!(
                    "query {} broke in frontend {frontend}: {why}",
                    question.number
                ));
                self.settle(question)
            }
            // It stays open, and is lost.
            End::Silence => Verdict::Settled,
        }
    }

    /// Bytes came on a connection to this frontend that nobody had asked for.
    pub fn note_stray(&mut self, frontend: usize) {
        self.account.doubled += 1;
        self.find(format!("frontend {frontend} sent something nobody had asked for"));
    }

    /// The counts so far; queries that are under way are not lost yet.
    pub fn so_far(&self) -> &Account {
        &self.account
    }

    /// The counts at the end: what was not answered by now is lost.
    pub fn close(mut self) -> Account {
        self.account.lost = self.open.len() as u64;
        let mut lost: Vec<u64> = self.open.iter().copied().collect();
        lost.sort_unstable();
        for number in lost {
            self.find(format!("query {number} was never answered"));
        }
        self.account
    }

    fn note_time(&mut self, question: &Question, attempt: &Attempt) {
        let took = attempt.ended.duration_since(attempt.sent);
        if took <= self.slo + SLACK {
            return;
        }
        if self.was_disturbed(attempt) {
            self.account.late_of_disturbed += 1;
            return;
        }
        self.account.late += 1;
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.account.latest_millis = self.account.latest_millis.max(millis);
        let Attempt { frontend, .. } = attempt;
        self.find(format!(
            "query {} was answered by frontend {frontend} after {millis} ms",
            question.number
        ));
    }

    fn note_answer(&mut self, question: &Question, body: &str) {
        let number = question.number;
        let answer: Answer = match serde_json::from_str(body) {
            Ok(answer) => answer,
            Err(error) => {
                self.account.wrong += 1;
                return self.find(format!(
                    "query {number} got what cannot be read ({error}): {body}"
                ));
            }
        };
        if !self.ids.insert(answer.query_id) {
            self.account.doubled += 1;
            self.find(format!(
                "query {number} got the answer of another: {}",
                answer.query_id
            ));
        }
        match (answer.default, answer.default_reason) {
            (false, _) if answer.output == question.answer() => self.account.predicted += 1,
            (true, Some(reason)) if !reason.is_empty() && answer.output == self.default_output => {
                *self.account.defaults.entry(reason).or_default() += 1;
            }
            _ => {
                self.account.wrong += 1;
                self.find(format!("query {number} got {body} and not {}", question.answer()));
            }
        }
    }

    fn settle(&mut self, question: &Question) -> Verdict {
        if !self.open.remove(&question.number) {
            self.account.doubled += 1;
            self.find(format!("query {} was answered twice", question.number));
        }
        Verdict::Settled
    }

    fn was_disturbed(&self, attempt: &Attempt) -> bool {
        self.disturbances.iter().any(|disturbance| {
            disturbance.frontend == attempt.frontend
                && disturbance.from <= attempt.ended
                && disturbance.until.is_none_or(|until| attempt.sent <= until)
        })
    }

    fn find(&mut self, finding: String) {
        if self.account.findings.len() < FINDINGS {
            self.account.findings.push(finding);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SLO: Duration = Duration::from_millis(100);

    fn journal() -> Journal {
        Journal::new(SLO, "-1.0")
    }

    fn question(number: u64) -> Question {
        Question::new(7, number)
    }

    fn attempt(took: Duration, end: End) -> Attempt {
        let sent = Instant::now();
        Attempt {
            frontend: 0,
            sent,
            ended: sent + took,
            end,
        }
    }

    fn reply(body: &Value) -> Attempt {
        let end = End::Replied {
            status: 200,
            body: body.to_string(),
        };
        attempt(Duration::from_millis(1), end)
    }

    fn right(question: &Question) -> Value {
        json!({ "query_id": question.number, "output": question.answer(), "default": false })
    }

    /// Asks one question, gets this, and returns the counts.
    fn after(attempt: &Attempt) -> Account {
        let mut journal = journal();
        journal.ask(&question(1));
        journal.note(&question(1), attempt);
        journal.close()
    }

    #[test]
    fn a_right_answer_and_a_default_with_a_reason_are_as_they_should_be() {
        let account = after(&reply(&right(&question(1))));
        assert!(account.is_right() && account.is_in_time(), "{account:?}");
        assert_eq!(account.predicted, 1);
        let default =
            json!({ "query_id": 1, "output": "-1.0", "default": true, "default_reason": "no_replica" });
        let account = after(&reply(&default));
        assert!(account.is_right(), "{account:?}");
        assert_eq!(account.defaults, BTreeMap::from([("no_replica".to_owned(), 1)]));
    }

    #[test]
    fn a_lost_query_is_found() {
        let account = after(&attempt(SLO * 10, End::Silence));
        assert_eq!((account.lost, account.is_right()), (1, false));
        // One that the sender forgets is lost just so.
        let mut journal = journal();
        journal.ask(&question(1));
        assert_eq!(journal.close().lost, 1);
    }

    #[test]
    fn the_answer_to_another_question_is_found() {
        let account = after(&reply(&right(&question(2))));
        assert_eq!((account.wrong, account.predicted), (1, 0), "{account:?}");
        assert!(!account.is_right());
    }

    #[test]
    fn a_default_without_a_reason_or_with_another_output_is_found() {
        for bad in [
            json!({ "query_id": 1, "output": "-1.0", "default": true }),
            json!({ "query_id": 1, "output": "-1.0", "default": true, "default_reason": "" }),
            json!({ "query_id": 1, "output": "0", "default": true, "default_reason": "late_reply" }),
            json!({ "output": "0" }),
        ] {
            assert_eq!(after(&reply(&bad)).wrong, 1, "{bad}");
        }
    }

    #[test]
    fn a_second_answer_is_found() {
        let mut twice = journal();
        twice.ask(&question(1));
        twice.note(&question(1), &reply(&right(&question(1))));
        twice.note(&question(1), &reply(&right(&question(1))));
        let account = twice.close();
        assert!(account.doubled > 0 && !account.is_right(), "{account:?}");

        let mut stray = journal();
        stray.note_stray(0);
        assert_eq!(stray.close().doubled, 1);

        // One query of the server's answers two of the client's.
        let mut shared = journal();
        for number in [1, 2] {
            shared.ask(&question(number));
            let mut body = right(&question(number));
            body["query_id"] = 1.into();
            shared.note(&question(number), &reply(&body));
        }
        assert_eq!(shared.close().doubled, 1);
    }

    #[test]
    fn a_late_answer_is_found() {
        let late = |took| {
            let end = reply(&right(&question(1))).end;
            after(&attempt(took, end))
        };
        let account = late(SLO + SLACK);
        assert_eq!((account.late, account.is_in_time()), (0, true));
        let account = late(SLO + SLACK + Duration::from_millis(1));
        assert_eq!((account.late, account.is_in_time()), (1, false));
        assert!(account.is_right() && account.latest_millis == 121, "{account:?}");
    }

    #[test]
    fn another_status_is_found() {
        let end = End::Replied {
            status: 503,
            body: String::new(),
        };
        let account = after(&attempt(SLO, end));
        assert_eq!((account.failed, account.lost, account.is_right()), (1, 0, false));
    }

    #[test]
    fn only_a_frontend_that_was_made_to_fail_may_fail_and_the_query_must_be_answered_elsewhere() {
        let broken = |frontend| Attempt {
            frontend,
            ..attempt(Duration::ZERO, End::Broken("reset".into()))
        };
        let mut journal = journal();
        journal.disturb(0);
        let not_ready = Attempt {
            frontend: 0,
            ..attempt(
                Duration::ZERO,
                End::Replied {
                    status: 503,
                    body: String::new(),
                },
            )
        };
        for (number, end) in [(1, broken(0)), (2, not_ready)] {
            journal.ask(&question(number));
            assert_eq!(journal.note(&question(number), &end), Verdict::AskAgain);
        }
        assert_eq!(
            journal.note(&question(1), &reply(&right(&question(1)))),
            Verdict::Settled
        );
        journal.ask(&question(3));
        assert_eq!(journal.note(&question(3), &broken(1)), Verdict::Settled);
        let account = journal.close();
        assert_eq!(
            (account.retried, account.predicted, account.lost, account.failed),
            (2, 1, 1, 1)
        );
    }

    #[test]
    fn a_frontend_that_serves_again_is_excused_no_more() {
        let mut journal = journal();
        journal.disturb(0);
        journal.calm(0);
        journal.ask(&question(1));
        let sent = Instant::now() + Duration::from_millis(1);
        let broken = Attempt {
            frontend: 0,
            sent,
            ended: sent,
            end: End::Broken("reset".into()),
        };
        assert_eq!(journal.note(&question(1), &broken), Verdict::Settled);
        assert_eq!(journal.close().failed, 1);
    }
}
