//! A small world of frontends around the credits: whatever order things happen in, slots are kept to and
//! nobody with work waits for ever.

use proptest::prelude::*;

use super::*;

const A: StreamId = StreamId(1);
const B: StreamId = StreamId(2);

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn arrival(credit: u64, predicted: Duration) -> Arrival {
    Arrival {
        credit,
        credit_held: Duration::ZERO,
        inputs: 1,
        predicted: Some(predicted),
    }
}

/// A batch of one input that took so long.
fn took(took: Duration) -> Option<BatchTimeSample> {
    Some(BatchTimeSample { inputs: 1, took })
}

fn grant(stream: StreamId, sequence: u64, park: bool) -> Step {
    Step::Grant {
        stream,
        sequence,
        park,
    }
}

/// Two frontends, neither with demand: no credit is out.
fn two_frontends() -> Credits {
    let mut credits = Credits::new();
    credits.attach(A);
    credits.attach(B);
    credits
}

#[test]
fn a_lone_frontend_parks_one_credit() {
    let mut credits = Credits::new();
    assert_eq!(credits.step(millis(0)), Step::Wait);
    credits.attach(A);
    assert_eq!(credits.step(millis(0)), grant(A, 1, true));
    assert_eq!(credits.step(millis(0)), Step::Wait);
}

#[test]
fn the_second_credit_opens_a_round_trip_before_the_predicted_end() {
    let mut credits = Credits::new();
    credits.attach(A);
    credits.step(millis(0));
    // Granted at 0, held for nothing, received at 5: the round trip is 5 ms.
    credits.batch(A, arrival(1, millis(100)), millis(5)).unwrap();
    let opens = millis(105) - millis(5) - TIMER_SLACK;
    assert_eq!(credits.step(millis(5)), Step::WaitUntil(opens));
    let just_before = opens - Duration::from_nanos(1);
    assert_eq!(credits.step(just_before), Step::WaitUntil(opens));
    assert_eq!(credits.step(opens), grant(A, 2, true));
}

#[test]
fn for_a_model_faster_than_the_round_trip_the_second_credit_opens_at_once() {
    let mut credits = Credits::new();
    credits.attach(A);
    credits.step(millis(0));
    credits.batch(A, arrival(1, millis(3)), millis(5)).unwrap();
    assert_eq!(credits.step(millis(5)), grant(A, 2, true));
}

#[test]
fn a_credit_that_was_parked_does_not_count_as_a_long_round_trip() {
    let mut credits = Credits::new();
    credits.attach(A);
    credits.step(millis(0));
    let parked = Arrival {
        credit_held: millis(60_000),
        ..arrival(1, millis(100))
    };
    credits.batch(A, parked, millis(60_002)).unwrap();
    let opens = millis(60_102) - millis(2) - TIMER_SLACK;
    assert_eq!(credits.step(millis(60_002)), Step::WaitUntil(opens));
}

#[test]
fn while_one_batch_computes_and_one_waits_no_credit_is_out() {
    let mut credits = Credits::new();
    credits.attach(A);
    credits.step(millis(0));
    credits.batch(A, arrival(1, millis(1)), millis(5)).unwrap();
    credits.step(millis(5));
    credits.batch(A, arrival(2, millis(1)), millis(6)).unwrap();
    assert_eq!(credits.step(millis(1000)), Step::Wait);
    credits.finish(took(millis(1)), millis(1000));
    assert_eq!(credits.step(millis(1000)), grant(A, 3, true));
}

#[test]
fn before_anything_is_known_of_the_model_the_second_credit_waits_for_the_first_batch() {
    let mut credits = Credits::new();
    credits.attach(A);
    credits.step(millis(0));
    let unknown = Arrival {
        predicted: None,
        ..arrival(1, millis(0))
    };
    credits.batch(A, unknown, millis(1)).unwrap();
    assert_eq!(credits.step(millis(1)), Step::Wait);
    credits.finish(took(millis(50)), millis(51));
    assert_eq!(credits.step(millis(51)), grant(A, 2, true));
    let next = Arrival { credit: 2, ..unknown };
    credits.batch(A, next, millis(52)).unwrap();
    assert_eq!(
        credits.step(millis(52)),
        Step::WaitUntil(millis(102) - millis(1) - TIMER_SLACK)
    );
}

#[test]
fn a_container_that_has_warmed_up_predicts_its_first_batch() {
    let mut credits = Credits::knowing(&[took(millis(100)).unwrap()]);
    credits.attach(A);
    credits.step(millis(0));
    let unknown = Arrival {
        predicted: None,
        ..arrival(1, millis(0))
    };
    credits.batch(A, unknown, millis(5)).unwrap();
    let opens = millis(105) - millis(5) - TIMER_SLACK;
    assert_eq!(credits.step(millis(5)), Step::WaitUntil(opens));
}

#[test]
fn a_frontend_that_expects_far_too_much_or_too_little_is_believed_in_part() {
    for (said, believed) in [(10_000, 80), (30, 30), (0, 5)] {
        let mut credits = Credits::knowing(&[took(millis(20)).unwrap()]);
        credits.attach(A);
        credits.step(millis(0));
        credits.batch(A, arrival(1, millis(said)), millis(0)).unwrap();
        let opens = millis(believed) - TIMER_SLACK;
        assert_eq!(credits.step(millis(0)), Step::WaitUntil(opens), "{said}");
    }
}

#[test]
fn however_long_a_batch_was_expected_to_take_the_next_credit_opens_once_it_is_done() {
    let mut credits = Credits::new();
    credits.attach(A);
    credits.step(millis(0));
    credits.batch(A, arrival(1, millis(10_000)), millis(0)).unwrap();
    assert!(matches!(credits.step(millis(1)), Step::WaitUntil(at) if at > millis(9000)));
    credits.finish(took(millis(1)), millis(1));
    assert_eq!(credits.step(millis(1)), grant(A, 2, true));
}

#[test]
fn a_batch_the_model_never_worked_on_teaches_nothing() {
    let mut credits = Credits::new();
    credits.attach(A);
    credits.step(millis(0));
    credits.batch(A, arrival(1, millis(50)), millis(0)).unwrap();
    credits.finish(None, millis(1));
    credits.step(millis(1));
    let unknown = Arrival {
        predicted: None,
        ..arrival(2, millis(0))
    };
    credits.batch(A, unknown, millis(2)).unwrap();
    assert_eq!(credits.step(millis(2)), Step::Wait);
}

#[test]
fn a_frontend_that_still_takes_itself_for_the_only_one_gets_one_more_credit_unasked() {
    let mut credits = Credits::new();
    credits.attach(A);
    assert_eq!(credits.step(millis(0)), grant(A, 1, true));
    credits.attach(B);
    credits.batch(A, arrival(1, millis(1)), millis(1)).unwrap();
    // More may wait at A, which announces nothing.
    assert_eq!(credits.step(millis(2)), grant(A, 2, false));
    credits.returned(A, 2);
    assert_eq!(credits.step(millis(3)), Step::Wait);
}

#[test]
fn of_several_frontends_the_one_with_the_earliest_deadline_gets_the_credit() {
    let mut credits = two_frontends();
    assert_eq!(credits.step(millis(0)), Step::Wait);
    credits.demand(A, millis(20), millis(0));
    credits.demand(B, millis(10), millis(5));
    assert_eq!(credits.step(millis(5)), grant(B, 1, false));
    credits.returned(B, 1);
    assert_eq!(credits.step(millis(6)), grant(A, 1, false));
}

#[test]
fn a_parked_credit_is_recalled_once_another_frontend_has_demand() {
    let mut credits = Credits::new();
    credits.attach(A);
    credits.step(millis(0));
    credits.attach(B);
    assert_eq!(credits.step(millis(1)), Step::Wait);
    credits.demand(B, millis(10), millis(2));
    let recall = Step::Recall {
        stream: A,
        sequence: 1,
    };
    assert_eq!(credits.step(millis(2)), recall);
    assert_eq!(
        credits.step(millis(2)),
        Step::WaitUntil(millis(2) + LEAST_PATIENCE)
    );
    credits.returned(A, 1);
    assert_eq!(credits.step(millis(3)), grant(B, 1, false));
}

#[test]
fn a_frontend_that_sleeps_on_a_credit_costs_the_others_a_moment() {
    let mut credits = two_frontends();
    credits.demand(A, millis(20), millis(0));
    assert_eq!(credits.step(millis(0)), grant(A, 1, false));
    assert_eq!(credits.step(millis(900)), Step::Wait, "nobody else wants it");
    credits.demand(B, millis(20), millis(10));
    assert_eq!(credits.step(millis(10)), Step::WaitUntil(LEAST_PATIENCE));
    assert_eq!(credits.step(LEAST_PATIENCE), grant(B, 1, false));
    credits.returned(B, 1);
    credits.demand(A, millis(20), millis(60));
    assert_eq!(
        credits.step(millis(60)),
        Step::Wait,
        "it owes an answer to its first"
    );
    assert_eq!(credits.batch(A, arrival(1, millis(1)), millis(70)), Ok(()));
    credits.finish(took(millis(1)), millis(71));
    assert_eq!(credits.step(millis(71)), grant(A, 2, false));
}

#[test]
fn a_lost_stream_frees_its_credit_and_the_last_one_left_parks_again() {
    let mut credits = two_frontends();
    credits.demand(A, millis(20), millis(0));
    assert_eq!(credits.step(millis(0)), grant(A, 1, false));
    credits.lose(A);
    assert_eq!(credits.step(millis(1)), grant(B, 1, true));
}

#[test]
fn a_draining_frontend_gets_no_credit_and_a_batch_that_crossed_its_word_is_taken() {
    let mut credits = two_frontends();
    credits.demand(A, millis(20), millis(0));
    credits.step(millis(0));
    credits.frontend_drains(A);
    assert_eq!(credits.step(millis(1)), grant(B, 1, true));
    assert_eq!(credits.batch(A, arrival(1, millis(1)), millis(2)), Ok(()));
}

#[test]
fn draining_grants_nothing_and_asks_for_what_is_out() {
    let mut credits = Credits::new();
    credits.attach(A);
    credits.step(millis(0));
    credits.drain();
    let recall = Step::Recall {
        stream: A,
        sequence: 1,
    };
    assert_eq!(credits.step(millis(1)), recall);
    assert!(!credits.is_clear_of(A));
    credits.returned(A, 1);
    assert!(credits.is_clear_of(A));
    assert_eq!(credits.step(millis(2)), Step::Wait);
    credits.attach(B);
    assert_eq!(credits.step(millis(3)), Step::Wait);
}

#[test]
fn a_batch_needs_a_credit_that_was_granted_and_is_good_for_one() {
    let mut credits = Credits::new();
    credits.attach(A);
    credits.step(millis(0));
    assert_eq!(
        credits.batch(A, arrival(2, millis(1)), millis(1)),
        Err(Uncredited(2))
    );
    assert_eq!(credits.batch(A, arrival(1, millis(1)), millis(1)), Ok(()));
    assert_eq!(
        credits.batch(A, arrival(1, millis(1)), millis(1)),
        Err(Uncredited(1))
    );
    assert_eq!(
        credits.batch(B, arrival(1, millis(1)), millis(1)),
        Err(Uncredited(1))
    );
}

#[derive(Clone, Copy, Debug)]
enum ToFrontend {
    Credit { sequence: u64, park: bool },
    Recall { sequence: u64 },
}

#[derive(Clone, Copy, Debug)]
enum ToContainer {
    Demand,
    Batch { credit: u64 },
    Returned { sequence: u64 },
    Draining,
}

/// A frontend as the protocol describes it, with messages on their way in both directions.
#[derive(Debug)]
struct Frontend {
    id: StreamId,
    draining: bool,
    queued: u32,
    held: Option<u64>,
    /// The last it heard is that it is alone.
    alone: bool,
    /// Demand that was not announced for that.
    withheld: bool,
    incoming: VecDeque<ToFrontend>,
    outgoing: VecDeque<ToContainer>,
}

impl Frontend {
    fn arrive(&mut self) {
        self.queued += 1;
        match self.held.take() {
            Some(credit) => self.send_batch(credit),
            None => self.announce(),
        }
    }

    fn announce(&mut self) {
        if self.alone {
            self.withheld = true;
        } else {
            self.outgoing.push_back(ToContainer::Demand);
        }
    }

    fn send_batch(&mut self, credit: u64) {
        self.queued -= self.queued.min(3);
        self.outgoing.push_back(ToContainer::Batch { credit });
        if self.queued > 0 {
            self.announce();
        }
    }

    fn drain(&mut self) {
        self.draining = true;
        self.queued = 0;
        self.held = None;
        self.outgoing.push_back(ToContainer::Draining);
    }

    fn receive(&mut self) {
        match self.incoming.pop_front() {
            _ if self.draining => {}
            None => {}
            Some(ToFrontend::Credit { sequence, park }) => {
                self.alone = park;
                self.withheld = false;
                self.receive_credit(sequence, park);
            }
            Some(ToFrontend::Recall { sequence }) => {
                let unused = self.held.take_if(|held| *held == sequence);
                let returned = unused.map(|sequence| ToContainer::Returned { sequence });
                self.outgoing.extend(returned);
                self.alone = false;
                if std::mem::take(&mut self.withheld) {
                    self.announce();
                }
            }
        }
    }

    fn receive_credit(&mut self, sequence: u64, park: bool) {
        if self.queued > 0 {
            self.send_batch(sequence);
        } else if park {
            self.held = Some(sequence);
        } else {
            self.outgoing.push_back(ToContainer::Returned { sequence });
        }
    }

    /// Credits of this frontend that are out: on their way, parked, or on their way back.
    fn credits_out(&self) -> usize {
        if self.draining {
            return 0;
        }
        let arriving = self
            .incoming
            .iter()
            .filter(|message| matches!(message, ToFrontend::Credit { .. }));
        let leaving = self.outgoing.iter();
        let leaving = leaving
            .filter(|message| matches!(message, ToContainer::Batch { .. } | ToContainer::Returned { .. }));
        arriving.count() + usize::from(self.held.is_some()) + leaving.count()
    }
}

#[derive(Clone, Copy, Debug)]
enum Happening {
    Attach,
    Lose(usize),
    Drain(usize),
    Arrive(usize),
    FrontendReceives(usize),
    ContainerReceives(usize),
    Finish,
    Pass(u64),
}

#[derive(Debug, Default)]
struct World {
    credits: Credits,
    frontends: Vec<Frontend>,
    attached: u64,
    computing: usize,
    /// Batches that crossed a frontend's word of draining, or came against a credit that was given up, may come
    /// on top of the two slots.
    crossed: usize,
    now: Duration,
}

impl World {
    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Attach => self.attach(),
            Happening::Lose(index) => {
                if let Some(index) = self.pick(index) {
                    let lost = self.frontends.remove(index);
                    self.credits.lose(lost.id);
                }
            }
            Happening::Drain(index) => self.at(index, |frontend| {
                if !frontend.draining {
                    frontend.drain();
                }
            }),
            Happening::Arrive(index) => self.at(index, |frontend| {
                if !frontend.draining {
                    frontend.arrive();
                }
            }),
            Happening::FrontendReceives(index) => self.at(index, Frontend::receive),
            Happening::ContainerReceives(index) => self.receive(index),
            Happening::Finish => self.finish(),
            Happening::Pass(micros) => self.now += Duration::from_micros(micros),
        }
        self.settle();
        let out: usize = self.frontends.iter().map(Frontend::credits_out).sum();
        assert!(
            self.frontends.iter().all(|frontend| frontend.credits_out() <= 1),
            "{self:?}"
        );
        let given_up = self
            .frontends
            .iter()
            .filter(|frontend| self.is_given_up(frontend.id))
            .count();
        assert!(out <= 1 + given_up, "{out} credits are out");
        assert!(self.computing + out <= 2 + self.crossed + given_up, "{self:?}");
    }

    /// Whether this frontend sleeps on a credit that counts for no more.
    fn is_given_up(&self, id: StreamId) -> bool {
        let owes = self
            .credits
            .streams
            .get(&id)
            .is_some_and(|stream| stream.unused.is_some());
        let counts = self
            .credits
            .granted
            .as_ref()
            .is_some_and(|granted| granted.stream == id);
        owes && !counts
    }

    fn attach(&mut self) {
        self.attached += 1;
        let id = StreamId(self.attached);
        self.credits.attach(id);
        self.frontends.push(Frontend {
            id,
            draining: false,
            queued: 0,
            held: None,
            alone: false,
            withheld: false,
            incoming: VecDeque::new(),
            outgoing: VecDeque::new(),
        });
    }

    fn pick(&self, index: usize) -> Option<usize> {
        (!self.frontends.is_empty()).then(|| index % self.frontends.len())
    }

    fn at(&mut self, index: usize, act: impl FnOnce(&mut Frontend)) {
        if let Some(index) = self.pick(index) {
            act(&mut self.frontends[index]);
        }
    }

    fn receive(&mut self, index: usize) {
        let Some(index) = self.pick(index) else { return };
        let frontend = &self.frontends[index];
        let (id, draining) = (frontend.id, frontend.draining);
        let on_top = draining || self.is_given_up(id);
        let frontend = &mut self.frontends[index];
        match frontend.outgoing.pop_front() {
            None => {}
            Some(ToContainer::Demand) => self.credits.demand(id, millis(10), self.now),
            Some(ToContainer::Batch { credit }) => {
                let arrival = Arrival {
                    predicted: None,
                    ..arrival(credit, millis(0))
                };
                self.credits.batch(id, arrival, self.now).unwrap();
                self.computing += 1;
                self.crossed += usize::from(on_top);
            }
            Some(ToContainer::Returned { sequence }) => self.credits.returned(id, sequence),
            Some(ToContainer::Draining) => self.credits.frontend_drains(id),
        }
    }

    fn finish(&mut self) {
        if self.computing > 0 {
            self.computing -= 1;
            self.credits.finish(took(millis(5)), self.now);
        }
    }

    /// Does what the credits say; returns when they want to be asked again.
    fn settle(&mut self) -> Option<Duration> {
        loop {
            let (stream, message) = match self.credits.step(self.now) {
                Step::Grant {
                    stream,
                    sequence,
                    park,
                } => (stream, ToFrontend::Credit { sequence, park }),
                Step::Recall { stream, sequence } => (stream, ToFrontend::Recall { sequence }),
                Step::WaitUntil(at) => return Some(at),
                Step::Wait => return None,
            };
            let frontend = self.frontends.iter_mut().find(|frontend| frontend.id == stream);
            let frontend = frontend.expect("orders name attached streams");
            assert!(
                !frontend.draining
                    || matches!(message, ToFrontend::Recall { .. })
                    || !frontend.outgoing.is_empty()
            );
            frontend.incoming.push_back(message);
        }
    }

    /// Lets everything on its way arrive and the model work, and nothing new come.
    fn calm_down(&mut self) {
        for index in 0..self.frontends.len() {
            while !self.frontends[index].incoming.is_empty() {
                self.happen(Happening::FrontendReceives(index));
            }
            while !self.frontends[index].outgoing.is_empty() {
                self.happen(Happening::ContainerReceives(index));
            }
        }
        self.happen(Happening::Finish);
        if let Some(at) = self.settle() {
            self.now = self.now.max(at);
        }
        self.settle();
    }
}

fn happening() -> impl Strategy<Value = Happening> {
    let one = 0..4usize;
    prop_oneof![
        1 => Just(Happening::Attach),
        1 => one.clone().prop_map(Happening::Lose),
        1 => one.clone().prop_map(Happening::Drain),
        8 => one.clone().prop_map(Happening::Arrive),
        12 => one.clone().prop_map(Happening::FrontendReceives),
        12 => one.prop_map(Happening::ContainerReceives),
        6 => Just(Happening::Finish),
        4 => (0..20_000u64).prop_map(Happening::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn slots_are_kept_to_and_nobody_with_work_waits_for_ever(
        happenings in prop::collection::vec(happening(), 1..300),
    ) {
        let mut world = World::default();
        world.attach();
        for happening in happenings {
            world.happen(happening);
        }
        let queued = |world: &World| world.frontends.iter().map(|frontend| frontend.queued).sum::<u32>();
        // Each round serves at least one batch of up to three, or clears up a stale demand.
        let mut rounds = 4 * (queued(&world) + 10);
        while queued(&world) > 0 {
            prop_assert!(rounds > 0, "stuck: {:?}", world);
            rounds -= 1;
            world.calm_down();
        }
    }

    #[test]
    fn a_draining_container_becomes_clear_of_every_stream(
        happenings in prop::collection::vec(happening(), 1..200),
    ) {
        let mut world = World::default();
        world.attach();
        for happening in happenings {
            world.happen(happening);
        }
        world.credits.drain();
        for _ in 0..10 {
            world.calm_down();
        }
        for frontend in &world.frontends {
            prop_assert!(world.credits.is_clear_of(frontend.id), "{:?}", world);
        }
    }
}
