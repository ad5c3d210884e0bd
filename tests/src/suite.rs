//! A list of end-to-end tests: async functions named as sentences, each with what it needs of the machine.
//!
//! A module of tests lists its functions with [`cases!`](crate::cases); one that is not listed is dead
//! code, which the lints refuse. What a test needs and cannot have makes it ignored, by name and with the
//! reason; with `CI=true` or `SKYSAIL_REQUIRE_ALL=1` it makes it fail.

use std::env;
use std::future::Future;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

use bollard::Docker;
use futures::future::LocalBoxFuture;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use skysail_process::signals;

use crate::promtool;
use crate::redis;
use crate::wait;

/// No test takes this long: one that does hangs.
const BOUND: Duration = Duration::from_secs(300);

/// Tests wait more than they compute: this many run at once unless `--test-threads` says otherwise.
const AT_ONCE: usize = 3;

/// What a test needs besides this workspace's programs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Need {
    /// An installed `redis-server`.
    Redis,
    /// A Docker engine that answers.
    Docker,
    /// An installed `promtool`, Prometheus' own linter of metrics.
    Promtool,
}

/// One test.
#[derive(Clone, Copy)]
pub struct Case {
    /// Its name, a sentence.
    pub name: &'static str,
    /// What it needs.
    pub needs: &'static [Need],
    /// The test; it fails by panicking.
    pub test: fn() -> LocalBoxFuture<'static, ()>,
}

/// Lists the tests of a module as `CASES`: a name, and after a colon what it needs.
///
/// ```text
/// cases! {
///     two_and_two_is_four;
///     redis_answers: Redis;
/// }
/// ```
#[macro_export]
macro_rules! cases {
    ($($name:ident $(: $($need:ident),+)?;)*) => {
        /// The tests of this module.
        pub(crate) const CASES: &[$crate::suite::Case] = &[$($crate::suite::Case {
            name: stringify!($name),
            needs: &[$($($crate::suite::Need::$need),+)?],
            test: || ::std::boxed::Box::pin($name()),
        }),*];
    };
}

/// Tests as they are run, named `area::test`.
#[derive(Default)]
pub struct Suite {
    trials: Vec<Trial>,
}

impl Suite {
    /// With the tests of an area.
    pub fn area(mut self, area: &str, cases: &'static [Case]) -> Self {
        for case in cases {
            self = self.test(format!("{area}::{}", case.name), case.needs, case.test);
        }
        self
    }

    /// With one more test.
    pub fn test<F>(
        mut self,
        name: String,
        needs: &'static [Need],
        test: impl FnOnce() -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()>,
    {
        self.trials.push(Trial::ignorable_test(name, move || {
            match needs.iter().find_map(|need| need.missing()) {
                None => {
                    block_on(wait::within("the test to end", BOUND, async { test().await }));
                    Ok(Completion::Completed)
                }
                Some(why) if all_is_required() => Err(Failed::from(why)),
                Some(why) => Ok(Completion::ignored_with(why)),
            }
        }));
        self
    }

    /// Runs those that the command line asks for.
    pub fn run(self) -> ExitCode {
        let mut arguments = Arguments::from_args();
        arguments.test_threads.get_or_insert(AT_ONCE);
        // In the background of a script SIGINT and SIGQUIT are ignored, and the programs under test would do so, too.
        block_on(async { signals::ignore_here_only() }).expect("signals can be listened to");
        libtest_mimic::run(&arguments, self.trials).exit_code()
    }
}

/// Runs a future on a runtime of its own, which is gone afterwards with all that it still runs.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    runtime.expect("a tokio runtime").block_on(future)
}

impl Need {
    /// Why it cannot be had, if it cannot; found out once.
    fn missing(self) -> Option<String> {
        static REDIS: OnceLock<Option<String>> = OnceLock::new();
        static DOCKER: OnceLock<Option<String>> = OnceLock::new();
        static PROMTOOL: OnceLock<Option<String>> = OnceLock::new();
        match self {
            Self::Redis => REDIS.get_or_init(redis::missing),
            Self::Docker => DOCKER.get_or_init(|| block_on(docker_missing())),
            Self::Promtool => PROMTOOL.get_or_init(promtool::missing),
        }
        .clone()
    }
}

async fn docker_missing() -> Option<String> {
    let ping = async {
        let docker = Docker::connect_with_defaults()?;
        docker.ping().await
    };
    let answered = tokio::time::timeout(Duration::from_secs(20), ping).await;
    match answered {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(format!("no docker engine answers: {error}")),
        Err(_) => Some("no docker engine answers in time".to_owned()),
    }
}

/// Whether a test that cannot run is a failure.
fn all_is_required() -> bool {
    let is = |name, value| env::var(name).is_ok_and(|set| set == value);
    is("CI", "true") || is("SKYSAIL_REQUIRE_ALL", "1")
}
