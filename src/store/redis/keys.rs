//! Every key of a queue `Q`, with its type and life. `T` stands for `{Q}:`; the tag is the queue's
//! whole name, so the brace-less list and all other keys share one hash slot (ARCHITECTURE.md P12).
//! The scripts make the same names (`lua/prelude.lua`); `tests/architecture.rs` checks that each
//! one they use is in this table.
//!
//! | Key | Type | Holds | Life |
//! |---|---|---|---|
//! | `Q` | list | tickets, left = next: raw JSON from anyone, or `.` for one entry of `pending`. **KEDA: pending** | |
//! | `T meta` | hash | `fence`, `seq`, `tick` (last contact of any worker), `grace`, `paused`, `limit`, `capped` (how many profiles have a limit), counters `n:*` | |
//! | `T pending` | zset | runnable job by score: priority, then region (handed back, raw from the head, normal), then sequence | |
//! | `T job:<id>` | hash | the record | expires after the end |
//! | `T spec:<id>` | string | the exact bytes that were submitted or pushed | with the record |
//! | `T result:<id>` | string | JSON of the last attempt's result | with the record |
//! | `T log:<id>` | stream | output, progress and transitions of the job, from the first claim on | with the record |
//! | `T idem:<key>` | string | idempotency key → job id | with the record |
//! | `T run` | zset | job → end of its lease in ms. *The* definition of running. **KEDA: running** | |
//! | `T later` | zset | job → due in ms: delays, backoff, deferred. **KEDA: later** | |
//! | `T waiting` | zset | job → since when it waits for an answer | |
//! | `T park:<cap>`, `T parks` | zset, hash | jobs held back by a cap, by their score; the caps that have some, each with the job that was let go last | |
//! | `T ckey:<cap>` | set | jobs running under a cap: `k:<concurrency key>` or `p:<profile>` | |
//! | `T limits` | hash | `profile:<name>` → most running jobs | |
//! | `T done`, `T dead` | zset | ended jobs by time of their end in ms | trimmed with the records |
//! | `T workers` | zset | worker → last heartbeat in ms | pruned after 10 min |
//! | `T worker:<wid>` | hash | the worker's record, its last claim's number and jobs | with its entry |
//! | `T held:<wid>` | set | jobs it holds | |
//! | `T pods` | hash | pod → newest incarnation of a pod of which only one can live | |
//! | `T gone:<wid>` | string | an incarnation that was displaced by its successor | 1 h |
//! | `T poke:<wid>` | list | a hint that something concerns the worker; at most one | |
//! | `T busy`, `T free` | zset | workers by ordinal: with jobs; with room | |
//! | `T floor` | list | unary: highest busy, not draining ordinal + 1. **KEDA: busyfloor** | |
//! | `T events` | stream | all transitions, about the last 10,000 | |
//! | `T lock:<name>` | string | `<owner> <fence>` of the shared-clone lock | its own |
//! | `T bad` | list | pushes that were no jobs: number, ms, reason, newline, bytes; the last 1,000 | |

use crate::core::{JobId, WorkerId};

/// The key names of one queue.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    pub(super) queue: String,
    prefix: String,
}

impl Keys {
    pub(super) fn new(queue: &str) -> Self {
        Self { queue: queue.to_owned(), prefix: format!("{{{queue}}}:") }
    }

    /// `T <suffix>`.
    pub(super) fn of(&self, suffix: &str) -> String {
        format!("{}{suffix}", self.prefix)
    }

    pub(super) fn job(&self, id: &JobId) -> String {
        format!("{}job:{id}", self.prefix)
    }

    pub(super) fn spec(&self, id: &JobId) -> String {
        format!("{}spec:{id}", self.prefix)
    }

    pub(super) fn result(&self, id: &JobId) -> String {
        format!("{}result:{id}", self.prefix)
    }

    pub(super) fn log(&self, id: &JobId) -> String {
        format!("{}log:{id}", self.prefix)
    }

    pub(super) fn worker(&self, id: &WorkerId) -> String {
        format!("{}worker:{id}", self.prefix)
    }

    pub(super) fn held(&self, id: &WorkerId) -> String {
        format!("{}held:{id}", self.prefix)
    }

    pub(super) fn poke(&self, id: &WorkerId) -> String {
        format!("{}poke:{id}", self.prefix)
    }
}
