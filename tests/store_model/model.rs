//! What a queue is, in plain Rust: the reference that the real store is compared with.
//!
//! Time stands still here: a lease lasts for ever, and a delayed job is never due. (Time has its
//! tests in the contract suite.) Attempts are numbered by their place in [`Model::attempts`].

use std::collections::{BTreeMap, VecDeque};

use sortie::core::State;
use sortie::store::Finished;

use crate::record::{
    Answer, Attempt, Call, Cap, End, JobNumber, Place, Record, Region, Spec, Supply, Ticket,
    Verdict, Worker,
};

#[derive(Clone, Debug, Default)]
pub struct Model {
    pub jobs: BTreeMap<JobNumber, Record>,
    pub queue: VecDeque<Ticket>,
    pub bad: u64,
    pub idempotency: BTreeMap<u8, JobNumber>,
    pub attempts: Vec<JobNumber>,
    pub workers: [Worker; 3],
    pub calls: Vec<Call>,
    pub is_paused: bool,
    pub fleet_limit: Option<usize>,
    pub profile_limit: Option<usize>,
    pub answer: Answer,
    /// Caps that hold jobs back, and which job was let go last.
    pub parks: BTreeMap<Cap, Option<JobNumber>>,
    pub sequence: u64,
}

impl Model {
    pub fn count(&self, place: impl Fn(Place) -> bool) -> usize {
        self.jobs.values().filter(|job| place(job.place)).count()
    }

    pub fn running_of(&self, worker: usize) -> impl Iterator<Item = (JobNumber, &Record)> {
        let of = move |job: &Record| job.place == Place::Running && job.worker == Some(worker);
        self.jobs.iter().filter(move |(_, job)| of(job)).map(|(number, job)| (*number, job))
    }

    fn under(&self, cap: Cap) -> usize {
        let running = |job: &&Record| job.place == Place::Running && job.caps().any(|of| of == cap);
        self.jobs.values().filter(running).count()
    }

    pub fn job(&mut self, number: JobNumber) -> &mut Record {
        self.jobs.get_mut(&number).expect("the model looked it up before")
    }

    // ── how jobs come and go ──

    /// Makes a record; answers the job that stands for the request and whether it is new. The
    /// caller puts a job that is neither delayed nor known into the queue.
    pub fn create(&mut self, spec: &Spec, region: Region) -> (JobNumber, bool) {
        if self.jobs.contains_key(&spec.job) {
            return (spec.job, false);
        }
        if let Some(known) = spec.idempotency.and_then(|key| self.idempotency.get(&key)) {
            return (*known, false);
        }
        self.sequence += 1;
        if let Some(key) = spec.idempotency {
            self.idempotency.insert(key, spec.job);
        }
        let record = Record {
            spec: spec.clone(),
            state: State::Queued,
            place: if spec.delayed { Place::Later } else { Place::Pending },
            region,
            sequence: self.sequence,
            attempt: 0,
            charged: 0,
            lost: 0,
            current: None,
            ended: None,
            worker: None,
            is_cancel_wanted: false,
        };
        self.jobs.insert(spec.job, record);
        (spec.job, true)
    }

    pub fn submit(&mut self, spec: &Spec) -> (JobNumber, bool) {
        let (job, is_new) = self.create(spec, Region::Normal);
        if is_new && !spec.delayed {
            self.queue.push_back(Ticket::Dot);
        }
        (job, is_new)
    }

    pub fn enqueue(&mut self, job: JobNumber, region: Region) {
        let record = self.job(job);
        (record.place, record.state, record.region) = (Place::Pending, State::Queued, region);
        match region {
            Region::Head => self.queue.push_front(Ticket::Dot),
            Region::Raw | Region::Normal => self.queue.push_back(Ticket::Dot),
        }
    }

    pub fn parked(&self, cap: Cap) -> Option<JobNumber> {
        let parked = self.jobs.iter().filter(|(_, job)| job.place == Place::Parked(cap));
        parked.min_by_key(|(_, job)| job.turn()).map(|(number, _)| *number)
    }

    /// Lets the first job that a cap holds back go, if there is a place beside those that run and
    /// so many `promised` ones.
    pub fn unpark(&mut self, cap: Cap, promised: usize) -> bool {
        let Some(best) = self.parked(cap) else {
            self.parks.remove(&cap);
            return false;
        };
        let limit = match cap {
            Cap::Key(_) => self.jobs[&best].spec.key.map(|(_, limit)| limit),
            Cap::Profile => self.profile_limit,
        };
        if limit.is_some_and(|limit| self.under(cap) + promised >= limit) {
            return false;
        }
        self.job(best).place = Place::Pending;
        self.queue.push_front(Ticket::Dot);
        if self.parked(cap).is_some() {
            self.parks.insert(cap, Some(best));
        } else {
            self.parks.remove(&cap);
        }
        true
    }

    /// Fills the places of a cap, unless the job that got the last one did not take it yet.
    pub fn offer(&mut self, cap: Cap) {
        let Some(last) = self.parks.get(&cap) else { return };
        let last = last.and_then(|last| self.jobs.get(&last));
        if last.is_none_or(|last| last.place != Place::Pending) {
            let mut promised = 0;
            while self.unpark(cap, promised) {
                promised += 1;
            }
        }
    }

    fn leave_caps(&mut self, job: JobNumber) {
        let caps: Vec<Cap> = self.job(job).caps().collect();
        for cap in caps {
            if cap != Cap::Profile || self.profile_limit.is_some() {
                self.unpark(cap, 0);
            }
        }
    }

    /// What heartbeats do, until they find nothing more to do.
    pub fn keep_up(&mut self) {
        let caps: Vec<Cap> = self.parks.keys().copied().collect();
        for cap in caps {
            self.offer(cap);
        }
    }

    pub fn end(&mut self, job: JobNumber, state: State) {
        let record = self.job(job);
        (record.place, record.state) = (Place::Ended, state);
    }

    fn take_back(&mut self, worker: usize, is_lost: bool) -> usize {
        let held: Vec<JobNumber> = self.running_of(worker).map(|(job, _)| job).collect();
        for &job in &held {
            let record = self.job(job);
            record.lost += u32::from(is_lost);
            if record.is_cancel_wanted {
                self.end(job, State::Canceled);
            } else if record.lost > 3 && is_lost {
                self.end(job, State::Dead);
            } else {
                self.enqueue(job, Region::Head);
            }
            self.leave_caps(job);
        }
        held.len()
    }

    // ── workers ──

    pub fn register(&mut self, worker: usize) -> usize {
        let taken = self.take_back(worker, true);
        let incarnation = self.workers[worker].incarnation + 1;
        self.workers[worker] = Worker { incarnation, is_registered: true, ..Worker::default() };
        taken
    }

    pub fn leave(&mut self, worker: usize) {
        if self.workers[worker].is_registered {
            self.take_back(worker, false);
            self.workers[worker].is_registered = false;
        }
    }

    pub fn beat(&mut self, worker: usize, held: Vec<Attempt>) -> Answer {
        let verdict = |attempt: &Attempt| match self.jobs.get(&self.attempts[*attempt]) {
            Some(job) if job.place == Place::Running && job.current == Some(*attempt) => {
                if job.is_cancel_wanted { Verdict::Cancel } else { Verdict::Keep }
            }
            _ => Verdict::Lost,
        };
        let verdicts = held.iter().map(verdict).collect();
        let others = self.running_of(worker).filter_map(|(_, job)| job.current);
        let others = others.filter(|attempt| !held.contains(attempt)).collect();
        Answer::Verdicts { worker, held, verdicts, others }
    }

    pub fn exchange(&mut self, call: Call) -> Answer {
        let finished = call.finished.iter().map(|&(attempt, end)| self.finish(attempt, end));
        let finished = finished.collect();
        let worker = &self.workers[call.worker];
        let (claimed, supply) = if worker.incarnation != call.incarnation || !worker.is_registered {
            (Vec::new(), Supply::Unregistered)
        } else if call.want == 0 || call.number < worker.last_claim.0 {
            (Vec::new(), Supply::Enough)
        } else if call.number == worker.last_claim.0 {
            let is_held = |attempt: &Attempt| {
                self.jobs.get(&self.attempts[*attempt]).is_some_and(|job| {
                    job.place == Place::Running
                        && job.worker == Some(call.worker)
                        && job.current == Some(*attempt)
                })
            };
            (worker.last_claim.1.iter().copied().filter(is_held).collect(), Supply::Enough)
        } else {
            let (claimed, supply) = self.claim(call.worker, call.want);
            self.workers[call.worker].last_claim = (call.number, claimed.clone());
            (claimed, supply)
        };
        Answer::Exchanged { call, finished, claimed, supply }
    }

    fn finish(&mut self, attempt: Attempt, end: End) -> Finished {
        let number = self.attempts[attempt];
        let Some(job) = self.jobs.get_mut(&number) else { return Finished::Unknown };
        if job.ended == Some(attempt) {
            return Finished::Accepted;
        }
        if job.place != Place::Running || job.current != Some(attempt) {
            return Finished::Stale;
        }
        job.ended = Some(attempt);
        job.charged += u32::from(matches!(end, End::Failed | End::TriedAgain | End::BackedOff));
        let is_cancel_wanted = job.is_cancel_wanted;
        let mut rest = |place, state| (job.place, job.state) = (place, state);
        match end {
            End::Succeeded => rest(Place::Ended, State::Succeeded),
            End::Failed => rest(Place::Ended, State::Failed),
            _ if is_cancel_wanted => rest(Place::Ended, State::Canceled),
            End::BackedOff => rest(Place::Later, State::Queued),
            End::Deferred => rest(Place::Later, State::Deferred),
            End::Waits => rest(Place::Waiting, State::Waiting),
            End::HandedBack => self.enqueue(number, Region::Head),
            End::TriedAgain => self.enqueue(number, Region::Normal),
        }
        self.leave_caps(number);
        Finished::Accepted
    }

    fn claim(&mut self, worker: usize, want: usize) -> (Vec<Attempt>, Supply) {
        if self.workers[worker].is_draining {
            return (Vec::new(), Supply::Draining);
        }
        if self.is_paused {
            return (Vec::new(), Supply::Closed);
        }
        let running = self.count(|place| place == Place::Running);
        let room = self.fleet_limit.map_or(want, |limit| limit.saturating_sub(running));
        let most = want.min(room);
        let mut claimed = Vec::new();
        while claimed.len() < most {
            match self.queue.pop_front() {
                None => break,
                Some(Ticket::Bad) => self.bad += 1,
                Some(Ticket::Raw(spec)) => {
                    if self.create(&spec, Region::Raw).1 && !spec.delayed {
                        self.queue.push_front(Ticket::Dot);
                    }
                }
                Some(Ticket::Dot) => {
                    let pending = self.jobs.iter().filter(|(_, job)| job.place == Place::Pending);
                    let best = pending.min_by_key(|(_, job)| job.turn());
                    let (&number, _) = best.expect("each of these tickets has a pending job");
                    claimed.extend(self.take_or_park(number, worker));
                }
            }
        }
        let supply = match claimed.len() {
            got if got == want => Supply::Enough,
            got if got == most => Supply::Closed,
            _ => Supply::Empty,
        };
        (claimed, supply)
    }

    fn take_or_park(&mut self, number: JobNumber, worker: usize) -> Option<Attempt> {
        let spec = self.jobs[&number].spec.clone();
        if let Some((key, limit)) = spec.key
            && self.under(Cap::Key(key)) >= limit
        {
            self.park(number, Cap::Key(key));
            return None;
        }
        if spec.profiled && self.profile_limit.is_some_and(|most| self.under(Cap::Profile) >= most)
        {
            self.park(number, Cap::Profile);
            if let Some((key, _)) = spec.key {
                self.unpark(Cap::Key(key), 0);
            }
            return None;
        }
        let attempt = self.attempts.len();
        self.attempts.push(number);
        let job = self.job(number);
        (job.place, job.state) = (Place::Running, State::Running);
        (job.current, job.worker) = (Some(attempt), Some(worker));
        job.attempt += 1;
        Some(attempt)
    }

    fn park(&mut self, number: JobNumber, cap: Cap) {
        self.job(number).place = Place::Parked(cap);
        self.parks.entry(cap).or_insert(None);
    }
}
