//! Workers, the queue, and what was pushed on it by mistake.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{API_VERSION, time};
use crate::store;

/// One worker.
#[derive(Clone, Debug, Serialize)]
pub struct Worker {
    #[serde(rename = "apiVersion")]
    pub api_version: &'static str,
    pub id: String,
    pub pod_name: String,
    /// `ready`, `draining`, `quarantined` or `lost`.
    pub state: &'static str,
    pub quarantine: Option<String>,
    pub ordinal: Option<u32>,
    pub slots: u32,
    pub running: u32,
    pub version: String,
    pub host: String,
    pub pid: u32,
    pub started_at: String,
    /// Milliseconds since its last heartbeat.
    pub silent_ms: u64,
}

impl From<&store::WorkerRecord> for Worker {
    fn from(worker: &store::WorkerRecord) -> Self {
        let state = if worker.is_lost {
            "lost"
        } else if worker.draining {
            "draining"
        } else if worker.quarantine.is_some() {
            "quarantined"
        } else {
            "ready"
        };
        Self {
            api_version: API_VERSION,
            id: worker.id.to_string(),
            pod_name: worker.id.pod().to_owned(),
            state,
            quarantine: worker.quarantine.clone(),
            ordinal: worker.ordinal,
            slots: worker.slots,
            running: worker.running,
            version: worker.version.clone(),
            host: worker.host.clone(),
            pid: worker.pid,
            started_at: time(worker.started_at_ms),
            silent_ms: worker.silent_ms,
        }
    }
}

/// The queue in numbers; see [`store::Stats`].
#[derive(Clone, Debug, Serialize)]
pub struct Queue {
    #[serde(rename = "apiVersion")]
    pub api_version: &'static str,
    pub pending: u64,
    pub unopened: u64,
    pub running: u64,
    pub later: u64,
    pub parked: u64,
    pub waiting: u64,
    pub done: u64,
    pub dead: u64,
    pub bad: u64,
    pub busy_floor: u64,
    pub paused_by: Option<String>,
    pub limits: BTreeMap<String, u64>,
    pub totals: BTreeMap<String, u64>,
    pub oldest_ms: Option<u64>,
}

impl From<store::Stats> for Queue {
    fn from(stats: store::Stats) -> Self {
        Self {
            api_version: API_VERSION,
            pending: stats.pending,
            unopened: stats.unopened,
            running: stats.running,
            later: stats.later,
            parked: stats.parked,
            waiting: stats.waiting,
            done: stats.done,
            dead: stats.dead,
            bad: stats.bad,
            busy_floor: stats.busy_floor,
            paused_by: stats.paused_by,
            limits: stats.limits,
            totals: stats.totals,
            oldest_ms: stats.oldest_ms,
        }
    }
}

/// A push that was not a valid job. `text` is what was pushed, with invalid UTF-8 replaced.
#[derive(Clone, Debug, Serialize)]
pub struct BadTicket {
    #[serde(rename = "apiVersion")]
    pub api_version: &'static str,
    pub id: String,
    pub at: String,
    pub reason: String,
    pub text: String,
}

impl From<&store::BadTicket> for BadTicket {
    fn from(ticket: &store::BadTicket) -> Self {
        Self {
            api_version: API_VERSION,
            id: ticket.id.clone(),
            at: time(ticket.at_ms),
            reason: ticket.reason.clone(),
            text: String::from_utf8_lossy(&ticket.bytes).into_owned(),
        }
    }
}
