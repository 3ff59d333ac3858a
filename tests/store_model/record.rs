//! The things a queue is made of, as its model sees them.

use std::cmp::Reverse;

use sortie::core::State;
use sortie::store::Finished;

pub type JobNumber = u8;
pub type Attempt = usize;

/// One job as submitted or pushed.
#[derive(Clone, Debug)]
pub struct Spec {
    pub job: JobNumber,
    pub priority: i8,
    /// Concurrency key and its limit.
    pub key: Option<(u8, usize)>,
    /// Whether it is of the profile that gets limits.
    pub profiled: bool,
    pub delayed: bool,
    pub idempotency: Option<u8>,
}

#[derive(Clone, Debug)]
pub enum Ticket {
    Raw(Spec),
    Bad,
    /// Stands for one pending job.
    Dot,
}

/// Where a job that has not ended is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Pending,
    Later,
    Waiting,
    /// Held back by a cap.
    Parked(Cap),
    Running,
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cap {
    Key(u8),
    Profile,
}

/// Among equals in priority: handed back, then pushed at the head, then in order of sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Region {
    Head,
    Raw,
    Normal,
}

#[derive(Clone, Debug)]
pub struct Record {
    pub spec: Spec,
    pub state: State,
    pub place: Place,
    pub region: Region,
    pub sequence: u64,
    pub attempt: u32,
    pub charged: u32,
    pub lost: u32,
    /// The newest attempt, and the one whose end was the last that was written.
    pub current: Option<Attempt>,
    pub ended: Option<Attempt>,
    pub worker: Option<usize>,
    pub is_cancel_wanted: bool,
}

impl Record {
    /// What is smaller runs first.
    pub fn turn(&self) -> (Reverse<i8>, Region, u64) {
        (Reverse(self.spec.priority), self.region, self.sequence)
    }

    pub fn caps(&self) -> impl Iterator<Item = Cap> {
        let key = self.spec.key.map(|(key, _)| Cap::Key(key));
        key.into_iter().chain(self.spec.profiled.then_some(Cap::Profile))
    }
}

/// How an attempt ends.
#[derive(Clone, Copy, Debug)]
pub enum End {
    Succeeded,
    Failed,
    HandedBack,
    /// At the end of the queue, charged.
    TriedAgain,
    BackedOff,
    Deferred,
    Waits,
}

/// One call of a worker, as it may be sent again.
#[derive(Clone, Debug)]
pub struct Call {
    pub worker: usize,
    pub incarnation: u32,
    pub number: u64,
    pub want: usize,
    pub finished: Vec<(Attempt, End)>,
}

#[derive(Clone, Debug, Default)]
pub struct Worker {
    pub incarnation: u32,
    pub is_registered: bool,
    pub is_draining: bool,
    pub calls: u64,
    /// The last call that may claim, and what it got.
    pub last_claim: (u64, Vec<Attempt>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Supply {
    Enough,
    Empty,
    Closed,
    Draining,
    Unregistered,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    NotFound,
    Conflict,
}

/// What the store must answer to the last transition.
#[derive(Clone, Debug, Default)]
pub enum Answer {
    #[default]
    Nothing,
    /// The job that now stands for the request, and whether it is new.
    Submitted(JobNumber, bool),
    Exchanged {
        call: Call,
        finished: Vec<Finished>,
        claimed: Vec<Attempt>,
        supply: Supply,
    },
    Verdicts {
        worker: usize,
        held: Vec<Attempt>,
        verdicts: Vec<Verdict>,
        others: Vec<Attempt>,
    },
    Changed(Result<State, Refusal>),
    TakenBack(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Keep,
    Cancel,
    Lost,
}
