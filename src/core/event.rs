//! What a job's log is made of: output of its processes and the steps of its life.

use serde::{Deserialize, Serialize};

use super::{Fault, State};

/// One entry of a job's log. Kept in the order in which the attempt's one writer appended it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// The job changed state. The last entry of a log whose `state` is terminal ends it.
    State {
        state: State,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fault: Option<Fault>,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        worker: String,
        #[serde(default)]
        attempt: u32,
        #[serde(default, skip_serializing_if = "String::is_empty")]
        message: String,
    },
    /// Bytes that the process wrote, as text (invalid UTF-8 replaced). `offset` counts all bytes
    /// of the attempt, so a reader sees what was dropped and skips what was sent twice.
    Output { attempt: u32, stream: OutputStream, offset: u64, text: String },
    /// What the worker is doing for the job (`cloning …`, `checkout at …`, `frozen: …`).
    Progress { attempt: u32, message: String },
}

/// Where output was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    Stdout,
    Stderr,
}
