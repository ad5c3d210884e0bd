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

/// The sample of a batch of one input that took `took`.
fn took(took: Duration) -> Option<BatchTimeSample> {
    Some(BatchTimeSample { inputs: 1, took })
}

fn grant(stream: StreamId, sequence: u64, park: bool) -> Step {
    Step::Grant(Grant {
        stream,
        sequence,
        park,
        share: Share::WHOLE,
        starts_in: Duration::ZERO,
    })
}

/// One query waits at a frontend that shares no batch.
fn due_in(budget: Duration) -> Demand {
    Demand {
        queued: 1,
        budget,
        most_inputs: 0,
    }
}

/// `queued` queries wait at a frontend whose batches may be merged up to `most_inputs` inputs.
fn sharing(queued: usize, most_inputs: usize) -> Demand {
    Demand {
        queued,
        budget: millis(50),
        most_inputs,
    }
}

/// All credits that are granted now, and the step after them.
fn granted(credits: &mut Credits, now: Duration) -> (Vec<Grant>, Step) {
    let mut grants = Vec::new();
    loop {
        match credits.step(now) {
            Step::Grant(grant) => grants.push(grant),
            step => return (grants, step),
        }
    }
}

/// Two frontends that share batches, each with a credit since the beginning.
fn both_granted() -> Credits {
    let mut credits = two_frontends();
    credits.demand(A, sharing(10, 64), millis(0));
    credits.demand(B, sharing(10, 64), millis(0));
    let (grants, _) = granted(&mut credits, millis(0));
    assert_eq!(grants.len(), 2);
    credits
}

/// The frontend's batch comes and is started alone.
fn starts(credits: &mut Credits, stream: StreamId, arrival: Arrival, now: Duration) {
    assert_eq!(credits.batch(stream, arrival, now), Ok(Taken::Part));
    assert_eq!(credits.step(now), Step::Start);
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
    starts(&mut credits, A, arrival(1, millis(100)), millis(5));
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
    starts(&mut credits, A, arrival(1, millis(3)), millis(5));
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
    starts(&mut credits, A, parked, millis(60_002));
    let opens = millis(60_102) - millis(2) - TIMER_SLACK;
    assert_eq!(credits.step(millis(60_002)), Step::WaitUntil(opens));
}

#[test]
fn while_one_batch_computes_and_one_waits_no_credit_is_out() {
    let mut credits = Credits::new();
    credits.attach(A);
    credits.step(millis(0));
    starts(&mut credits, A, arrival(1, millis(1)), millis(5));
    credits.step(millis(5));
    starts(&mut credits, A, arrival(2, millis(1)), millis(6));
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
    starts(&mut credits, A, unknown, millis(1));
    assert_eq!(credits.step(millis(1)), Step::Wait);
    credits.finish(took(millis(50)), millis(51));
    assert_eq!(credits.step(millis(51)), grant(A, 2, true));
    let next = Arrival { credit: 2, ..unknown };
    starts(&mut credits, A, next, millis(52));
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
    starts(&mut credits, A, unknown, millis(5));
    let opens = millis(105) - millis(5) - TIMER_SLACK;
    assert_eq!(credits.step(millis(5)), Step::WaitUntil(opens));
}

#[test]
fn a_frontend_that_expects_far_too_much_or_too_little_is_believed_in_part() {
    for (said, believed) in [(10_000, 80), (30, 30), (0, 5)] {
        let mut credits = Credits::knowing(&[took(millis(20)).unwrap()]);
        credits.attach(A);
        credits.step(millis(0));
        starts(&mut credits, A, arrival(1, millis(said)), millis(0));
        let opens = millis(believed) - TIMER_SLACK;
        assert_eq!(credits.step(millis(0)), Step::WaitUntil(opens), "{said}");
    }
}

#[test]
fn however_long_a_batch_was_expected_to_take_the_next_credit_opens_once_it_is_done() {
    let mut credits = Credits::new();
    credits.attach(A);
    credits.step(millis(0));
    starts(&mut credits, A, arrival(1, millis(10_000)), millis(0));
    assert!(matches!(credits.step(millis(1)), Step::WaitUntil(at) if at > millis(9000)));
    credits.finish(took(millis(1)), millis(1));
    assert_eq!(credits.step(millis(1)), grant(A, 2, true));
}

#[test]
fn a_batch_the_model_never_worked_on_teaches_nothing() {
    let mut credits = Credits::new();
    credits.attach(A);
    credits.step(millis(0));
    starts(&mut credits, A, arrival(1, millis(50)), millis(0));
    credits.finish(None, millis(1));
    credits.step(millis(1));
    let unknown = Arrival {
        predicted: None,
        ..arrival(2, millis(0))
    };
    starts(&mut credits, A, unknown, millis(2));
    assert_eq!(credits.step(millis(2)), Step::Wait);
}

#[test]
fn a_frontend_that_still_takes_itself_for_the_only_one_gets_one_more_credit_unasked() {
    let mut credits = Credits::new();
    credits.attach(A);
    assert_eq!(credits.step(millis(0)), grant(A, 1, true));
    credits.attach(B);
    starts(&mut credits, A, arrival(1, millis(1)), millis(1));
    // More may wait at A, which announces nothing.
    assert_eq!(credits.step(millis(2)), grant(A, 2, false));
    credits.returned(A, 2);
    assert_eq!(credits.step(millis(3)), Step::Wait);
}

#[test]
fn of_several_frontends_the_one_with_the_earliest_deadline_gets_the_credit() {
    let mut credits = two_frontends();
    assert_eq!(credits.step(millis(0)), Step::Wait);
    credits.demand(A, due_in(millis(20)), millis(0));
    credits.demand(B, due_in(millis(10)), millis(5));
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
    credits.demand(B, due_in(millis(10)), millis(2));
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
    credits.demand(A, due_in(millis(20)), millis(0));
    assert_eq!(credits.step(millis(0)), grant(A, 1, false));
    assert_eq!(credits.step(millis(900)), Step::Wait, "nobody else wants it");
    credits.demand(B, due_in(millis(20)), millis(10));
    assert_eq!(credits.step(millis(10)), Step::WaitUntil(LEAST_PATIENCE));
    assert_eq!(credits.step(LEAST_PATIENCE), grant(B, 1, false));
    credits.returned(B, 1);
    credits.demand(A, due_in(millis(20)), millis(60));
    assert_eq!(
        credits.step(millis(60)),
        Step::Wait,
        "it owes an answer to its first"
    );
    assert_eq!(
        credits.batch(A, arrival(1, millis(1)), millis(70)),
        Ok(Taken::Late)
    );
    credits.finish(took(millis(1)), millis(71));
    assert_eq!(credits.step(millis(71)), grant(A, 2, false));
}

#[test]
fn a_lost_stream_frees_its_credit_and_the_last_one_left_parks_again() {
    let mut credits = two_frontends();
    credits.demand(A, due_in(millis(20)), millis(0));
    assert_eq!(credits.step(millis(0)), grant(A, 1, false));
    credits.lose(A);
    assert_eq!(credits.step(millis(1)), grant(B, 1, true));
}

#[test]
fn a_draining_frontend_gets_no_credit_and_a_batch_that_crossed_its_word_is_taken() {
    let mut credits = two_frontends();
    credits.demand(A, due_in(millis(20)), millis(0));
    credits.step(millis(0));
    credits.frontend_drains(A);
    assert_eq!(credits.step(millis(1)), grant(B, 1, true));
    assert_eq!(
        credits.batch(A, arrival(1, millis(1)), millis(2)),
        Ok(Taken::Late)
    );
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
    assert_eq!(
        credits.batch(A, arrival(1, millis(1)), millis(1)),
        Ok(Taken::Part)
    );
    assert_eq!(
        credits.batch(A, arrival(1, millis(1)), millis(1)),
        Err(Uncredited(1))
    );
    assert_eq!(
        credits.batch(B, arrival(1, millis(1)), millis(1)),
        Err(Uncredited(1))
    );
}

#[test]
fn frontends_with_demand_are_granted_parts_of_one_batch() {
    let mut credits = two_frontends();
    credits.demand(A, sharing(30, 64), millis(0));
    credits.demand(B, sharing(10, 40), millis(0));
    let (grants, then) = granted(&mut credits, millis(0));
    assert_eq!(
        grants.iter().map(|grant| grant.stream).collect::<Vec<_>>(),
        [A, B]
    );
    let most: usize = grants.iter().filter_map(|grant| grant.share.most_inputs).sum();
    assert_eq!(most, 40, "{grants:?}");
    let all: u32 = grants.iter().map(|grant| grant.share.millionths).sum();
    assert!((999_990..=1_000_000).contains(&all), "{grants:?}");
    assert!(
        grants[0].share.millionths > grants[1].share.millionths,
        "{grants:?}"
    );
    assert_eq!(then, Step::Wait);
    assert_eq!(
        credits.batch(A, arrival(1, millis(9)), millis(1)),
        Ok(Taken::Part)
    );
    assert!(matches!(credits.step(millis(1)), Step::WaitUntil(_)));
    assert_eq!(
        credits.batch(B, arrival(1, millis(9)), millis(1)),
        Ok(Taken::Part)
    );
    assert_eq!(credits.step(millis(1)), Step::Start);
    assert!(!credits.is_clear_of(A) && !credits.is_clear_of(B));
    credits.finish(took(millis(9)), millis(10));
    assert!(credits.is_clear_of(A) && credits.is_clear_of(B));
}

#[test]
fn a_credit_that_comes_back_holds_the_others_parts_up_no_longer() {
    let mut credits = both_granted();
    credits.batch(A, arrival(1, millis(9)), millis(1)).unwrap();
    credits.returned(B, 1);
    assert_eq!(credits.step(millis(1)), Step::Start);
}

#[test]
fn a_lost_frontend_holds_the_others_parts_up_no_longer() {
    let mut credits = both_granted();
    credits.batch(A, arrival(1, millis(9)), millis(1)).unwrap();
    credits.lose(B);
    assert_eq!(credits.step(millis(1)), Step::Start);
}

#[test]
fn a_stopped_frontend_holds_the_others_parts_up_for_a_short_moment_only() {
    let mut credits = both_granted();
    credits.batch(A, arrival(1, millis(9)), Duration::ZERO).unwrap();
    let patience = SHORT_MOMENT.max(ROUND_TRIPS * RoundTrip::default().get());
    let just_before = patience - Duration::from_nanos(1);
    assert_eq!(credits.step(just_before), Step::WaitUntil(patience));
    assert_eq!(credits.step(patience), Step::Start);
    // It owes an answer: the next credit is for the other alone.
    credits.demand(A, sharing(1, 64), patience);
    credits.demand(B, sharing(1, 64), patience);
    credits.finish(took(millis(9)), millis(20));
    let (grants, _) = granted(&mut credits, millis(20));
    assert_eq!(grants.iter().map(|grant| grant.stream).collect::<Vec<_>>(), [A]);
    // What it sends after all is a batch of its own.
    assert_eq!(
        credits.batch(B, arrival(1, millis(9)), millis(21)),
        Ok(Taken::Late)
    );
}

#[test]
fn while_the_model_computes_parts_wait_for_each_other() {
    let mut credits = both_granted();
    for stream in [A, B] {
        credits
            .batch(stream, arrival(1, millis(100)), Duration::ZERO)
            .unwrap();
        credits.demand(stream, sharing(1, 64), Duration::ZERO);
    }
    assert_eq!(credits.step(Duration::ZERO), Step::Start);
    let opens = millis(99);
    assert_eq!(credits.step(millis(1)), Step::WaitUntil(opens));
    let (grants, _) = granted(&mut credits, opens);
    assert_eq!(grants.len(), 2);
    assert!(grants.iter().all(|grant| grant.starts_in == millis(1)));
    credits.batch(A, arrival(2, millis(100)), opens).unwrap();
    assert_eq!(credits.step(millis(900)), Step::Wait);
    credits.finish(took(millis(1000)), millis(1000));
    assert_eq!(credits.step(millis(1000)), Step::Start);
}

#[test]
fn batches_that_hold_one_input_are_not_shared() {
    for most_inputs in [0, 1] {
        let mut credits = two_frontends();
        credits.demand(A, sharing(5, 64), millis(0));
        credits.demand(B, sharing(5, most_inputs), millis(0));
        assert_eq!(granted(&mut credits, millis(0)).0.len(), 1, "{most_inputs}");
    }
}

#[test]
fn no_more_frontends_share_a_batch_than_it_has_inputs() {
    let mut credits = two_frontends();
    let third = StreamId(3);
    credits.attach(third);
    for stream in [A, B, third] {
        credits.demand(stream, sharing(5, 2), millis(0));
    }
    let (grants, _) = granted(&mut credits, millis(0));
    let most: Vec<_> = grants.iter().map(|grant| grant.share.most_inputs).collect();
    assert_eq!(most, [Some(1), Some(1)]);
}

#[derive(Clone, Copy, Debug)]
enum ToFrontend {
    Credit { sequence: u64, park: bool, most: usize },
    Recall { sequence: u64 },
}

#[derive(Clone, Copy, Debug)]
enum ToContainer {
    Demand { queued: usize },
    Batch { credit: u64, inputs: usize },
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
    /// It was last told that it is alone.
    alone: bool,
    /// It withheld demand because it believes itself alone.
    withheld: bool,
    incoming: VecDeque<ToFrontend>,
    outgoing: VecDeque<ToContainer>,
}

impl Frontend {
    fn arrive(&mut self) {
        self.queued += 1;
        match self.held.take() {
            Some(credit) => self.send_batch(credit, usize::MAX),
            None => self.announce(),
        }
    }

    fn announce(&mut self) {
        if self.alone {
            self.withheld = true;
        } else {
            let queued = self.queued as usize;
            self.outgoing.push_back(ToContainer::Demand { queued });
        }
    }

    /// The most inputs of a batch that contains inputs of this frontend.
    fn most_inputs(&self) -> usize {
        [0, 2, 5, 64][self.id.0 as usize % 4]
    }

    fn send_batch(&mut self, credit: u64, most: usize) {
        let inputs = self.queued.min(3).min(u32::try_from(most).unwrap_or(u32::MAX));
        self.queued -= inputs;
        let inputs = inputs as usize;
        self.outgoing.push_back(ToContainer::Batch { credit, inputs });
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
            Some(ToFrontend::Credit { sequence, park, most }) => {
                self.alone = park;
                self.withheld = false;
                self.receive_credit(sequence, park, most);
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

    fn receive_credit(&mut self, sequence: u64, park: bool, most: usize) {
        if self.queued > 0 {
            self.send_batch(sequence, most);
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
    /// Parts of the next batch: the number of inputs of each, and the most that its frontend allows for the whole
    /// batch.
    parts: Vec<(usize, usize)>,
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
        assert!(
            self.frontends.iter().all(|frontend| frontend.credits_out() <= 1),
            "{self:?}"
        );
        // All credits that are out, and the parts that came against others, are for one batch.
        let next = usize::from(!self.credits.granted.is_empty() || !self.parts.is_empty());
        assert!(self.computing + next <= 2 + self.crossed, "{self:?}");
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
        let (id, most_inputs) = (frontend.id, frontend.most_inputs());
        let frontend = &mut self.frontends[index];
        match frontend.outgoing.pop_front() {
            None => {}
            Some(ToContainer::Demand { queued }) => {
                let demand = Demand {
                    queued,
                    budget: millis(10),
                    most_inputs,
                };
                self.credits.demand(id, demand, self.now);
            }
            Some(ToContainer::Batch { credit, inputs }) => {
                let arrival = Arrival {
                    predicted: None,
                    inputs,
                    ..arrival(credit, millis(0))
                };
                match self.credits.batch(id, arrival, self.now).unwrap() {
                    Taken::Part => self.parts.push((inputs, most_inputs)),
                    Taken::Late => {
                        self.computing += 1;
                        self.crossed += 1;
                    }
                }
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

    /// The model takes all parts; together they have no more inputs than each of their frontends allows.
    fn start(&mut self) {
        let parts = std::mem::take(&mut self.parts);
        let inputs: usize = parts.iter().map(|(inputs, _)| inputs).sum();
        let most = parts.iter().map(|(_, most)| *most).min();
        assert!(most.is_some(), "there is nothing to start");
        assert!(parts.len() == 1 || most >= Some(inputs), "{parts:?}");
        self.computing += 1;
    }

    /// Does what the credits say; returns when they want to be asked again.
    fn settle(&mut self) -> Option<Duration> {
        loop {
            let (stream, message) = match self.credits.step(self.now) {
                Step::Grant(grant) => {
                    let credit = ToFrontend::Credit {
                        sequence: grant.sequence,
                        park: grant.park,
                        most: grant.share.most_inputs.unwrap_or(usize::MAX),
                    };
                    (grant.stream, credit)
                }
                Step::Start => {
                    self.start();
                    continue;
                }
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
