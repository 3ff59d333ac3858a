//! The real store, driven through the same history and compared after each step.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};
use std::time::Duration;

use proptest_state_machine::StateMachineTest;
use serde_json::{Value, json};
use sortie::core::retry::Count;
use sortie::core::{AttemptResult, Job, JobId, JobSpec, Next, State, WorkerId};
use sortie::store::redis::{Role, Settings, connect};
use sortie::store::{
    Beat, Change, Control, Error, Exchange, Finish, Found, Kind, NewJob, Store,
    Supply as RealSupply, Terms, Token, Verdict as RealVerdict, WorkerRecord,
};
use tokio::runtime::Runtime;

use crate::model::Model;
use crate::record::{
    Answer, Attempt, Call, End, JobNumber, Place, Refusal, Spec, Supply, Ticket, Verdict,
};
use crate::transition::{Machine, Transition};

/// Where the server is that all histories use, each on a queue of its own.
pub static URL: OnceLock<String> = OnceLock::new();
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("starting a runtime"));
static HISTORIES: AtomicU32 = AtomicU32::new(0);

const FOREVER: Duration = Duration::from_hours(24);

pub struct System {
    store: Arc<dyn Store>,
    queue: String,
    redis: Mutex<redis::Connection>,
    /// What the model's attempts are called by the store.
    tokens: Vec<Token>,
    /// Incarnations of the workers, the first one is number 1.
    workers: BTreeMap<(usize, u32), WorkerId>,
}

impl StateMachineTest for System {
    type SystemUnderTest = Self;
    type Reference = Machine;

    fn init_test(model: &Model) -> Self {
        let url = URL.get().expect("set before the first history").clone();
        let queue = format!("q{}", HISTORIES.fetch_add(1, Ordering::Relaxed));
        let terms = Terms { lease: FOREVER, ..Terms::default() };
        let settings =
            Settings { url: url.clone(), queue: queue.clone(), terms, allow_eviction: false };
        let store = RUNTIME.block_on(connect(settings, Role::Engine)).expect("connecting");
        let redis = redis::Client::open(url).and_then(|client| client.get_connection());
        let redis = Mutex::new(redis.expect("connecting"));
        let mut system = Self { store, queue, redis, tokens: Vec::new(), workers: BTreeMap::new() };
        for worker in 0..model.workers.len() {
            RUNTIME.block_on(system.register(worker, 1));
        }
        system
    }

    fn apply(mut system: Self, model: &Model, transition: Transition) -> Self {
        RUNTIME.block_on(async {
            system.step(model, transition).await;
            system.keep_up().await;
        });
        system
    }

    fn check_invariants(system: &Self, model: &Model) {
        RUNTIME.block_on(system.compare(model));
    }
}

impl System {
    async fn step(&mut self, model: &Model, transition: Transition) {
        match (transition, &model.answer) {
            (Transition::Submit(spec), Answer::Submitted(job, is_new)) => {
                let spec = JobSpec::from_json(json(&spec).to_string().as_bytes()).expect("valid");
                let answer = self.store.submit(&[NewJob::new(spec)]).await.expect("submit");
                assert_eq!((&answer[0].id, answer[0].is_new), (&id(*job), *is_new));
            }
            (Transition::Push(spec, head), _) => self.push(&json(&spec).to_string(), head),
            (Transition::PushBad(head), _) => self.push("{bad", head),
            (_, Answer::Exchanged { call, finished, claimed, supply }) => {
                let answer = self.store.exchange(&self.real_call(call)).await.expect("exchange");
                assert_eq!(&answer.finished, finished, "ends");
                assert_eq!(summary(&answer.supply), *supply, "{:?}", answer.supply);
                let got: Vec<_> = answer.claimed.iter().map(|one| one.token.id.clone()).collect();
                let due: Vec<_> = claimed.iter().map(|&one| id(model.attempts[one])).collect();
                assert_eq!(got, due, "claims");
                for (one, &attempt) in answer.claimed.into_iter().zip(claimed) {
                    self.note(attempt, one.token);
                }
            }
            (_, Answer::Verdicts { worker, held, verdicts, others }) => {
                let incarnation = model.workers[*worker].incarnation;
                let beat = Beat {
                    worker: self.workers[&(*worker, incarnation)].clone(),
                    held: held.iter().map(|&attempt| self.tokens[attempt].clone()).collect(),
                    lease: FOREVER,
                    is_whole: true,
                    quarantine: None,
                };
                let pulse = self.store.beat(&beat).await.expect("beat");
                let got: Vec<Verdict> = pulse.verdicts.iter().map(judgement).collect();
                assert_eq!(&got, verdicts);
                assert_eq!(pulse.is_registered, model.workers[*worker].is_registered);
                let mut got = pulse.others;
                let mut due: Vec<_> = others.iter().map(|&one| self.tokens[one].clone()).collect();
                got.sort_by_key(|token| token.fence);
                due.sort_by_key(|token| token.fence);
                assert_eq!(got, due, "others");
            }
            (Transition::Register { worker }, Answer::TakenBack(taken)) => {
                let incarnation = model.workers[worker].incarnation;
                assert_eq!(self.register(worker, incarnation).await, *taken);
            }
            (Transition::Cancel(job), Answer::Changed(due)) => {
                self.change(job, Change::Cancel { by: "somebody".into() }, *due).await;
            }
            (Transition::Retry(job, fresh), Answer::Changed(due)) => {
                self.change(job, Change::Retry { fresh }, *due).await;
            }
            (Transition::Delete(job), Answer::Changed(due)) => {
                self.change(job, Change::Delete, *due).await;
            }
            (transition, _) => self.control(model, transition).await,
        }
    }

    /// The heartbeat of a worker that holds nothing, for the upkeep that it does.
    async fn keep_up(&self) {
        let beat = Beat {
            worker: WorkerId::boot("bystander"),
            held: Vec::new(),
            lease: FOREVER,
            is_whole: true,
            quarantine: None,
        };
        self.store.beat(&beat).await.expect("beat");
    }

    async fn control(&self, model: &Model, transition: Transition) {
        let worker =
            |worker: usize| self.workers[&(worker, model.workers[worker].incarnation)].clone();
        let limit = |limit: Option<usize>| limit.map(|most| u32::try_from(most).expect("small"));
        let control = match transition {
            Transition::Pause(true) => Control::Pause { by: "somebody".into() },
            Transition::Pause(false) => Control::Resume,
            Transition::LimitFleet(most) => Control::Limit { profile: None, running: limit(most) },
            Transition::LimitProfile(most) => {
                Control::Limit { profile: Some("limited".into()), running: limit(most) }
            }
            Transition::Drain { worker: of } => {
                Control::Drain { worker: worker(of), within: FOREVER }
            }
            Transition::Leave { worker: of } => Control::Leave { worker: worker(of) },
            other => panic!("{other:?} has an answer of another kind"),
        };
        let is_unknown = matches!(transition, Transition::Drain { worker } if !model.workers[worker].is_registered);
        let answer = self.store.control(&control).await;
        assert_eq!(answer.as_ref().err().map(Error::kind), is_unknown.then_some(Kind::NotFound));
    }

    async fn change(&self, job: JobNumber, change: Change, due: Result<State, Refusal>) {
        let answer = self.store.change(&id(job), &change).await;
        let answer = answer.map_err(|error| match error.kind() {
            Kind::NotFound => Refusal::NotFound,
            Kind::Conflict => Refusal::Conflict,
            _ => panic!("{error}"),
        });
        assert_eq!(answer, due, "{change:?}");
    }

    async fn register(&mut self, worker: usize, incarnation: u32) -> usize {
        let record = WorkerRecord {
            id: WorkerId::boot(&format!("pod{worker}")),
            ordinal: Some(u32::try_from(worker).expect("small")),
            exclusive: true,
            slots: 100,
            running: 0,
            draining: false,
            quarantine: None,
            version: String::new(),
            host: String::new(),
            pid: 1,
            pid_started: 1,
            started_at_ms: 0,
            silent_ms: 0,
            is_lost: false,
        };
        let taken = self.store.register(&record, &[]).await.expect("register");
        self.workers.insert((worker, incarnation), record.id);
        taken
    }

    fn push(&self, ticket: &str, head: bool) {
        let command = if head { "LPUSH" } else { "RPUSH" };
        let mut redis = self.redis.lock().expect("not poisoned");
        redis::cmd(command).arg(&self.queue).arg(ticket).exec(&mut redis).expect("push");
    }

    fn real_call(&self, call: &Call) -> Exchange {
        let finish = |&(attempt, end): &(Attempt, End)| Finish {
            token: self.tokens[attempt].clone(),
            next: next(end),
            fault: None,
            result: AttemptResult::default(),
        };
        Exchange {
            worker: self.workers[&(call.worker, call.incarnation)].clone(),
            ordinal: Some(u32::try_from(call.worker).expect("small")),
            call: call.number,
            want: u32::try_from(call.want).expect("small"),
            has_yielded: true,
            finished: call.finished.iter().map(finish).collect(),
        }
    }

    /// A new attempt has a larger fence than all before it; a known one has the fence it had.
    fn note(&mut self, attempt: Attempt, token: Token) {
        if let Some(known) = self.tokens.get(attempt) {
            assert_eq!(*known, token);
        } else {
            assert_eq!(self.tokens.len(), attempt, "the model numbers attempts in order");
            assert!(self.tokens.iter().all(|older| older.fence < token.fence), "{token:?}");
            self.tokens.push(token);
        }
    }

    async fn compare(&self, model: &Model) {
        for number in 0..10 {
            let found = match self.store.get(id(number).as_str()).await.expect("get") {
                Found::One(job) => Some(job),
                Found::None => None,
                Found::Ambiguous(ids) => panic!("{ids:?}"),
            };
            let is_unopened =
                |ticket: &Ticket| matches!(ticket, Ticket::Raw(spec) if spec.job == number);
            match (model.jobs.get(&number), found) {
                (Some(_), Some(job)) => self.compare_job(model, number, &job),
                (None, None) => {}
                (None, Some(job)) => {
                    assert!(model.queue.iter().any(is_unopened), "unexpected {job:?}");
                }
                (Some(_), None) => panic!("job {number} is missing"),
            }
        }
        let stats = self.store.stats().await.expect("stats");
        let count = |place: Place| model.count(|of| of == place) as u64;
        assert_eq!(stats.pending, model.queue.len() as u64, "pending");
        let unopened = model.queue.iter().filter(|ticket| !matches!(ticket, Ticket::Dot));
        assert_eq!(stats.unopened, unopened.count() as u64, "unopened");
        assert_eq!(stats.running, count(Place::Running), "running");
        assert_eq!(stats.later, count(Place::Later), "later");
        assert_eq!(stats.waiting, count(Place::Waiting), "waiting");
        let parked = model.count(|place| matches!(place, Place::Parked(_)));
        assert_eq!(stats.parked, parked as u64, "parked");
        assert_eq!(stats.done + stats.dead, count(Place::Ended), "ended");
        assert_eq!(stats.bad, model.bad, "bad");
        let floor = (0..model.workers.len())
            .filter(|&of| !model.workers[of].is_draining && model.running_of(of).next().is_some());
        assert_eq!(stats.busy_floor, floor.max().map_or(0, |of| of as u64 + 1), "busy floor");
        let length = redis::cmd("LLEN")
            .arg(&self.queue)
            .query::<u64>(&mut *self.redis.lock().expect("not poisoned"));
        assert_eq!(length.expect("LLEN"), stats.pending, "length of the list");
        assert_eq!(self.store.fsck().await.expect("fsck"), Vec::<String>::new());
    }

    fn compare_job(&self, model: &Model, number: JobNumber, real: &Job) {
        let job = &model.jobs[&number];
        let counters = (real.counters.attempt, real.counters.charged, real.counters.lost);
        assert_eq!(
            (real.state, counters, real.cancel.is_some()),
            (job.state, (job.attempt, job.charged, job.lost), job.is_cancel_wanted),
            "job {number}: {real:?}"
        );
        let is_held = matches!(job.place, Place::Parked(_))
            || job.place == Place::Later && job.state == State::Queued;
        assert_eq!(real.held_by.is_some(), is_held, "job {number} is held by {:?}", real.held_by);
        let fence = job.current.map(|attempt| self.tokens[attempt].fence).unwrap_or_default();
        assert_eq!(real.fence, fence, "job {number}");
    }
}

fn id(number: JobNumber) -> JobId {
    format!("j{number}").parse().expect("a job id")
}

fn json(spec: &Spec) -> Value {
    let mut json = json!({ "id": id(spec.job), "prompt": "p", "priority": spec.priority });
    if let Some((key, limit)) = spec.key {
        json["concurrency_key"] = format!("k{key}").into();
        json["concurrency_limit"] = limit.into();
    }
    if spec.profiled {
        json["profile"] = "limited".into();
    }
    if spec.delayed {
        json["delay_ms"] = 90_000_000.into();
    }
    if let Some(key) = spec.idempotency {
        json["idempotency_key"] = format!("i{key}").into();
    }
    json
}

fn next(end: End) -> Next {
    let again = |state, delay, head, count| Next::Again { state, delay, head, count };
    match end {
        End::Succeeded => Next::End { state: State::Succeeded, count: Count::Nothing },
        End::Failed => Next::End { state: State::Failed, count: Count::Charged },
        End::HandedBack => again(State::Queued, Duration::ZERO, true, Count::Nothing),
        End::TriedAgain => again(State::Queued, Duration::ZERO, false, Count::Charged),
        End::BackedOff => again(State::Queued, FOREVER, false, Count::Charged),
        End::Deferred => again(State::Deferred, FOREVER, false, Count::Nothing),
        End::Waits => again(State::Waiting, Duration::ZERO, false, Count::Nothing),
    }
}

fn summary(supply: &RealSupply) -> Supply {
    match supply {
        RealSupply::Enough => Supply::Enough,
        RealSupply::Empty { .. } => Supply::Empty,
        RealSupply::Closed { .. } => Supply::Closed,
        RealSupply::Draining => Supply::Draining,
        RealSupply::Unregistered => Supply::Unregistered,
        RealSupply::Yield => panic!("a worker that has stepped back is asked to do it again"),
    }
}

fn judgement(verdict: &RealVerdict) -> Verdict {
    match verdict {
        RealVerdict::Keep => Verdict::Keep,
        RealVerdict::Cancel { .. } => Verdict::Cancel,
        RealVerdict::Lost => Verdict::Lost,
    }
}
