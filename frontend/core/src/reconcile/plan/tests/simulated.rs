//! Plans and applies again and again in a simulated world. Starts and stops take time and fail; containers
//! attach late or never, crash and hang. The run must keep its limits on the way, and end in the wanted state.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::reconcile::SURGE;

/// Steps of one second that the world gets to come to rest after the last mishap. Every patience and pause
/// below can pass several times in it.
const ENOUGH: u64 = 200;

const HASTY: Patience = Patience {
    startup: Duration::from_secs(8),
    reattach: Duration::from_secs(4),
    first_pause: Duration::from_secs(1),
    longest_pause: Duration::from_secs(8),
};

/// A container and its future.
#[derive(Clone, Debug)]
struct Simulated {
    status: ContainerStatus,
    /// When it attaches; `None` if never.
    attaches: Option<u64>,
    /// Whether it runs but answers nothing.
    hangs: bool,
}

/// An action at work, and its end.
#[derive(Debug)]
struct Job {
    action: Action,
    ends: u64,
    fails: bool,
}

/// A mishap of one step.
#[derive(Clone, Debug)]
enum Mishap {
    Nothing,
    /// The n-th container crashes.
    Crash(usize),
    /// The n-th container hangs.
    Hang(usize),
    /// The n-th container loses its streams for good.
    Cut(usize),
    /// Actions that begin now take this many seconds.
    Slow(u64),
    /// Actions that begin now fail.
    Failing,
    /// An operator asks for this number of replicas of `a`.
    Scale(u32),
    /// The reconciler restarts, and has forgotten its history.
    Forget,
}

struct World {
    catalog: Catalog,
    wanted: BTreeMap<&'static str, u32>,
    containers: Vec<Simulated>,
    jobs: Vec<Job>,
    history: History,
    starts: u64,
    now: u64,
}

impl World {
    fn new(found: Vec<Simulated>, wanted: BTreeMap<&'static str, u32>) -> Self {
        let mut unique = BTreeMap::new();
        for container in found {
            unique.insert(container.status.container.clone(), container);
        }
        Self {
            catalog: catalog_of(&wanted),
            wanted,
            containers: unique.into_values().collect(),
            jobs: Vec::new(),
            history: History::new(HASTY),
            starts: 0,
            now: 0,
        }
    }

    fn observed(&self) -> Observed {
        let attached = self.containers.iter().filter(|found| found.is_attached(self.now));
        let hung = self.containers.iter().filter(|found| found.hangs);
        let at_work = self.jobs.iter().map(Job::at_work);
        Observed {
            containers: self.containers.iter().map(|found| found.status.clone()).collect(),
            attached: attached.map(|found| attachment(&found.status)).collect(),
            hung: hung.map(|found| found.status.start.clone()).collect(),
            at_work: at_work.collect(),
            foreign: BTreeSet::new(),
        }
    }

    /// Observes, plans, checks the plan, and starts its actions.
    fn pass(&mut self, mishap: &Mishap) -> Plan {
        let (observed, now) = (self.observed(), at(self.now));
        self.history.keep_only(&self.catalog);
        self.history.observe(&observed, &placement(), now);
        let plan = plan(&self.catalog, &observed, &self.history, &placement(), now);
        for model in ["a", "b"] {
            self.check(model, &observed, &plan);
        }
        let (takes, fails) = match mishap {
            Mishap::Slow(steps) => (*steps, false),
            Mishap::Failing => (0, true),
            _ => (0, false),
        };
        for action in plan.actions.clone() {
            let ends = self.now + takes;
            self.jobs.push(Job { action, ends, fails });
        }
        plan
    }

    /// At most `wanted + SURGE` containers run after a start; `min(wanted, serving)` go on serving.
    fn check(&self, name: &str, observed: &Observed, plan: &Plan) {
        let wanted = self.wanted[name] as usize;
        let model: ModelId = format!("{name}:1").parse().unwrap();
        let work = |found: &ContainerStatus| observed.at_work.get(&found.container).map(|at| at.work);
        let runs = |found: &&ContainerStatus| found.model == model && found.state == ContainerState::Running;
        let running = observed.containers.iter().filter(runs);
        let unlisted = observed.at_work.iter().filter(|(name, at_work)| {
            at_work.model == model
                && at_work.work == Work::Starting
                && running.clone().all(|found| found.container != **name)
        });
        let before = running.clone().count() + unlisted.count();
        let starts = plan
            .actions
            .iter()
            .filter(|action| matches!(action, Action::Start(spec) if spec.model == model));
        let starts = starts.count();
        if starts > 0 {
            assert!(
                before + starts <= wanted + SURGE as usize,
                "{before} and {starts} more run of {wanted}"
            );
        }

        let serves = |found: &ContainerStatus| {
            observed.is_attached(found) && !observed.is_hung(found) && work(found) != Some(Work::Ending)
        };
        let serving = running.filter(|found| serves(found)).count();
        let stopped = plan.actions.iter().filter(
            |action| matches!(action, Action::Stop { found, .. } if found.model == model && serves(found)),
        );
        let left = serving - stopped.count();
        assert!(
            left >= serving.min(wanted),
            "{left} of {serving} are left to serve, {wanted} are wanted"
        );
    }

    /// Due actions end, the mishap happens, and a second passes.
    fn step(&mut self, mishap: &Mishap) {
        let (done, jobs) = std::mem::take(&mut self.jobs)
            .into_iter()
            .partition(|job| job.ends <= self.now);
        self.jobs = jobs;
        for job in done {
            self.finish(job);
        }
        self.befall(mishap);
        self.now += 1;
    }

    fn finish(&mut self, job: Job) {
        let Job { action, fails, .. } = job;
        match action {
            Action::Resolve { .. } => unreachable!("all are resolved"),
            Action::Start(spec) if fails => self.history.failed(&spec.model, at(self.now)),
            Action::Start(spec) => {
                let is_there = |found: &Simulated| found.status.container == spec.container;
                assert!(
                    !self.containers.iter().any(is_there),
                    "{} is there",
                    spec.container
                );
                self.starts += 1;
                let status = started(&spec.started_with(format!("s{}", self.starts), &KEY));
                let attaches = Some(self.now + self.starts % 4);
                let hangs = false;
                self.containers.push(Simulated {
                    status,
                    attaches,
                    hangs,
                });
            }
            // The container stays, and the next pass tries again.
            Action::Stop { .. } | Action::Bury(_) if fails => {}
            Action::Stop { found, reason } => {
                if matches!(reason, StopReason::NotAttached { .. } | StopReason::Hung) {
                    self.history.failed(&found.model, at(self.now));
                }
                self.remove(&found);
            }
            Action::Bury(found) => {
                self.history.failed(&found.model, at(self.now));
                self.remove(&found);
            }
        }
    }

    fn remove(&mut self, gone: &ContainerStatus) {
        self.containers
            .retain(|found| found.status.container != gone.container);
    }

    fn afflict(&mut self, n: usize, befalls: impl Fn(&mut Simulated)) {
        let count = self.containers.len();
        if let Some(found) = self.containers.get_mut(n % count.max(1)) {
            befalls(found);
        }
    }

    fn befall(&mut self, mishap: &Mishap) {
        match mishap {
            Mishap::Crash(n) => self.afflict(*n, |found| {
                found.status.state = ContainerState::Exited {
                    code: 1,
                    detail: None,
                };
            }),
            Mishap::Hang(n) => self.afflict(*n, |found| found.hangs = true),
            Mishap::Cut(n) => self.afflict(*n, |found| found.attaches = None),
            Mishap::Scale(replicas) => {
                self.wanted.insert("a", *replicas);
                self.catalog = catalog_of(&self.wanted);
            }
            Mishap::Forget => self.history = History::new(HASTY),
            Mishap::Nothing | Mishap::Slow(_) | Mishap::Failing => {}
        }
    }
}

impl Job {
    fn at_work(&self) -> (String, AtWork) {
        let (name, model, replica, work) = match &self.action {
            Action::Resolve { .. } => unreachable!("all are resolved"),
            Action::Start(spec) => (&spec.container, &spec.model, &spec.replica, Work::Starting),
            Action::Stop { found, .. } => (&found.container, &found.model, &found.replica, Work::Ending),
            Action::Bury(found) => (&found.container, &found.model, &found.replica, Work::Burying),
        };
        let at_work = AtWork {
            model: model.clone(),
            replica: Some(replica.clone()),
            work,
        };
        (name.clone(), at_work)
    }
}

impl Simulated {
    fn is_attached(&self, now: u64) -> bool {
        let attached = self.attaches.is_some_and(|then| then <= now);
        attached && self.status.state == ContainerState::Running
    }
}

fn catalog_of(wanted: &BTreeMap<&'static str, u32>) -> Catalog {
    let models: Vec<_> = wanted
        .iter()
        .map(|(name, replicas)| (*name, "new", *replicas))
        .collect();
    catalog(&models)
}

fn any_container() -> impl Strategy<Value = Simulated> {
    let model = proptest::sample::select(vec!["a", "b", "gone"]);
    let image = proptest::sample::select(vec!["old", "new"]);
    let exit = proptest::option::weighted(0.2, 0i64..3);
    let attaches = proptest::option::weighted(0.7, 0u64..6);
    (
        model,
        image,
        0u32..7,
        exit,
        attaches,
        proptest::bool::weighted(0.15),
    )
        .prop_map(|(model, image, ordinal, exit, attaches, hangs)| {
            let mut status = running(model, image, ordinal);
            if let Some(code) = exit {
                status.state = ContainerState::Exited { code, detail: None };
            }
            Simulated {
                status,
                attaches,
                hangs,
            }
        })
}

fn any_mishap() -> impl Strategy<Value = Mishap> {
    prop_oneof![
        4 => Just(Mishap::Nothing),
        2 => (0usize..12).prop_map(Mishap::Crash),
        1 => (0usize..12).prop_map(Mishap::Hang),
        1 => (0usize..12).prop_map(Mishap::Cut),
        1 => (1u64..6).prop_map(Mishap::Slow),
        1 => Just(Mishap::Failing),
        1 => (0u32..6).prop_map(Mishap::Scale),
        1 => Just(Mishap::Forget),
    ]
}

proptest! {
    #[test]
    fn from_anywhere_it_comes_to_what_is_wanted_within_the_limits(
        found in proptest::collection::vec(any_container(), 0..14),
        (a, b) in (0u32..6, 0u32..4),
        mishaps in proptest::collection::vec(any_mishap(), 0..40),
    ) {
        let mut world = World::new(found, [("a", a), ("b", b)].into());
        for mishap in &mishaps {
            world.pass(mishap);
            world.step(mishap);
        }
        for _ in 0..ENOUGH {
            world.pass(&Mishap::Nothing);
            world.step(&Mishap::Nothing);
        }
        let plan = world.pass(&Mishap::Nothing);
        prop_assert_eq!(plan, Plan::default());
        prop_assert!(world.jobs.is_empty());
        for (model, wanted) in &world.wanted {
            let fits = |found: &&Simulated| {
                found.status.model.name.as_str() == *model && found.is_attached(world.now) && !found.hangs
            };
            prop_assert_eq!(world.containers.iter().filter(fits).count(), *wanted as usize);
        }
        let wanted: u32 = world.wanted.values().sum();
        prop_assert_eq!(world.containers.len(), wanted as usize, "and nothing else");
    }

    #[test]
    fn a_version_that_always_crashes_keeps_no_other_waiting(steps in 1usize..60) {
        let mut world = World::new(vec![], [("a", 3), ("b", 2)].into());
        for step in 0..steps {
            world.pass(&Mishap::Nothing);
            world.step(&Mishap::Nothing);
            for found in &mut world.containers {
                if found.status.model.name.as_str() == "a" {
                    found.status.state = ContainerState::Exited { code: 1, detail: None };
                }
            }
            let others = world.containers.iter().filter(|found| found.status.model.name.as_str() == "b");
            prop_assert_eq!(others.count(), 2, "after step {}", step);
        }
    }
}
