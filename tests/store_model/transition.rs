//! What may happen to a queue, and how often it does in a random history.

use proptest::prelude::*;
use proptest_state_machine::ReferenceStateMachine;

use crate::model::Model;
use crate::record::{Answer, Attempt, Call, End, JobNumber, Spec, Ticket};

#[derive(Clone, Debug)]
pub enum Transition {
    Submit(Spec),
    /// By any Redis client; `true`: at the head.
    Push(Spec, bool),
    PushBad(bool),
    /// Ends attempts, counted from the newest, and claims.
    Exchange {
        worker: usize,
        want: usize,
        ends: Vec<(u8, End)>,
    },
    /// Sends an earlier call, counted from the newest, once more.
    Repeat {
        back: u8,
    },
    Beat {
        worker: usize,
        held: Vec<u8>,
    },
    Register {
        worker: usize,
    },
    Drain {
        worker: usize,
    },
    Leave {
        worker: usize,
    },
    Cancel(JobNumber),
    Retry(JobNumber, bool),
    Delete(JobNumber),
    Pause(bool),
    LimitFleet(Option<usize>),
    LimitProfile(Option<usize>),
}

fn spec() -> impl Strategy<Value = Spec> {
    let job = 0..10_u8;
    let priority = prop_oneof![4 => Just(0_i8), 1 => -1..2_i8];
    let key = prop_oneof![2 => Just(None), 1 => (0..2_u8, 1..3_usize).prop_map(Some)];
    let delayed = prop::bool::weighted(0.1);
    let idempotency = prop_oneof![5 => Just(None), 1 => (0..3_u8).prop_map(Some)];
    (job, priority, key, prop::bool::weighted(0.3), delayed, idempotency).prop_map(
        |(job, priority, key, profiled, delayed, idempotency)| Spec {
            job,
            priority,
            key,
            profiled,
            delayed,
            idempotency,
        },
    )
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        4 => Just(End::Succeeded),
        2 => Just(End::Failed),
        4 => Just(End::HandedBack),
        3 => Just(End::TriedAgain),
        1 => Just(End::BackedOff),
        1 => Just(End::Deferred),
        1 => Just(End::Waits),
    ]
}

#[derive(Debug)]
pub struct Machine;

impl ReferenceStateMachine for Machine {
    type State = Model;
    type Transition = Transition;

    fn init_state() -> BoxedStrategy<Model> {
        let mut model = Model::default();
        for worker in 0..model.workers.len() {
            model.register(worker);
        }
        Just(model).boxed()
    }

    fn transitions(_: &Model) -> BoxedStrategy<Transition> {
        use Transition as T;
        let worker = || 0..3_usize;
        let limit = |most: usize| prop_oneof![Just(None), (0..most).prop_map(Some)];
        let ends = prop::collection::vec((0..6_u8, end()), 0..3);
        prop_oneof![
            12 => spec().prop_map(T::Submit),
            6 => (spec(), any::<bool>()).prop_map(|(spec, head)| T::Push(spec, head)),
            1 => any::<bool>().prop_map(T::PushBad),
            24 => (worker(), 0..4_usize, ends)
                .prop_map(|(worker, want, ends)| T::Exchange { worker, want, ends }),
            4 => (0..5_u8).prop_map(|back| T::Repeat { back }),
            3 => (worker(), prop::collection::vec(0..6_u8, 0..4))
                .prop_map(|(worker, held)| T::Beat { worker, held }),
            2 => worker().prop_map(|worker| T::Register { worker }),
            1 => worker().prop_map(|worker| T::Drain { worker }),
            1 => worker().prop_map(|worker| T::Leave { worker }),
            4 => (0..10_u8).prop_map(T::Cancel),
            4 => (0..10_u8, any::<bool>()).prop_map(|(job, fresh)| T::Retry(job, fresh)),
            2 => (0..10_u8).prop_map(T::Delete),
            1 => prop::bool::weighted(0.4).prop_map(T::Pause),
            1 => limit(4).prop_map(T::LimitFleet),
            2 => limit(3).prop_map(T::LimitProfile),
        ]
        .boxed()
    }

    /// One claim looks at 32 tickets at least; the model does not count them.
    fn preconditions(model: &Model, transition: &Transition) -> bool {
        match transition {
            Transition::Push(..) | Transition::PushBad(_) => model.queue.len() < 20,
            Transition::Repeat { .. } => !model.calls.is_empty(),
            _ => true,
        }
    }

    fn apply(mut model: Model, transition: &Transition) -> Model {
        model.answer = Answer::Nothing;
        let mut push = |ticket, head| {
            if head { model.queue.push_front(ticket) } else { model.queue.push_back(ticket) }
        };
        match transition.clone() {
            Transition::Submit(spec) => {
                let (job, is_new) = model.submit(&spec);
                model.answer = Answer::Submitted(job, is_new);
            }
            Transition::Push(spec, head) => push(Ticket::Raw(spec), head),
            Transition::PushBad(head) => push(Ticket::Bad, head),
            Transition::Exchange { worker, want, ends } => {
                let own = |&(attempt, _): &(Attempt, End)| !runs_elsewhere(&model, attempt, worker);
                let ends =
                    ends.iter().filter_map(|&(back, end)| Some((recent(&model, back)?, end)));
                let finished = ends.filter(own).collect();
                model.workers[worker].calls += 1;
                let (number, incarnation) =
                    (model.workers[worker].calls, model.workers[worker].incarnation);
                let call = Call { worker, incarnation, number, want, finished };
                model.calls.push(call.clone());
                model.answer = model.exchange(call);
            }
            Transition::Repeat { back } => {
                let last = model.calls.len() - 1;
                let call = model.calls[last.saturating_sub(usize::from(back))].clone();
                model.answer = model.exchange(call);
            }
            Transition::Beat { worker, held } => {
                let held = held.iter().filter_map(|&back| recent(&model, back)).collect();
                model.answer = model.beat(worker, held);
            }
            Transition::Register { worker } => {
                model.answer = Answer::TakenBack(model.register(worker));
            }
            Transition::Drain { worker } => {
                let is_known = model.workers[worker].is_registered;
                model.workers[worker].is_draining = is_known;
            }
            Transition::Leave { worker } => model.leave(worker),
            Transition::Cancel(job) => model.answer = Answer::Changed(model.cancel(job)),
            Transition::Retry(job, _) => model.answer = Answer::Changed(model.retry(job)),
            Transition::Delete(job) => model.answer = Answer::Changed(model.delete(job)),
            Transition::Pause(is_paused) => model.is_paused = is_paused,
            Transition::LimitFleet(limit) => model.fleet_limit = limit,
            Transition::LimitProfile(limit) => model.limit_profile(limit),
        }
        model.keep_up();
        model
    }
}

/// The attempt that was claimed `back` claims ago.
fn recent(model: &Model, back: u8) -> Option<Attempt> {
    model.attempts.len().checked_sub(1 + usize::from(back))
}

/// A worker ends its own attempts only (or such that are not current any more).
fn runs_elsewhere(model: &Model, attempt: Attempt, worker: usize) -> bool {
    let job = model.jobs.get(&model.attempts[attempt]);
    job.is_some_and(|job| job.current == Some(attempt) && job.worker != Some(worker))
}
