//! The versioned JSON that people's scripts read: jobs, lists and logs here, the fleet beside it. Kept apart from the stored records, so that
//! either may change without the other. Fields are only ever added.
//!
//! Times are RFC 3339 in UTC with milliseconds. What is not known is `null`, never left out.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::config::redacted;
use crate::core::event::OutputStream;
use crate::core::{Event, Fault, Publish, State};
use crate::store;

mod fleet;

pub use fleet::{BadTicket, Queue, Worker};

/// Version of everything here.
pub const API_VERSION: &str = "sortie/v1";

/// What no part of the program knows yet; always `null`.
type Unknown = ();

/// Many of something.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct List<T> {
    pub api_version: &'static str,
    pub items: Vec<T>,
    /// Where the next page starts; lists are not paged yet.
    pub next: Unknown,
}

impl<T> List<T> {
    #[must_use]
    pub fn new(items: Vec<T>) -> Self {
        Self { api_version: API_VERSION, items, next: () }
    }
}

/// One job. Values of its environment are not shown: they may be secret.
#[derive(Clone, Debug, Serialize)]
pub struct Job {
    #[serde(rename = "apiVersion")]
    pub api_version: &'static str,
    pub id: String,
    pub state: State,
    pub fault: Option<Fault>,
    /// One line for a person: why the last attempt ended as it did.
    pub message: Option<String>,
    /// Attempts begun so far.
    pub attempt: u32,
    /// Failures the job was blamed for.
    pub charged: u32,
    pub max_attempts: Option<u32>,
    /// Pod (or host) of the newest attempt.
    pub pod_name: Option<String>,
    /// Worker process of the newest attempt.
    pub worker: Option<String>,
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    pub profile: Option<String>,
    pub agent: Option<String>,
    pub model: Option<String>,
    pub prompt: Option<String>,
    pub command: Vec<String>,
    pub repo: Option<String>,
    pub r#ref: Option<String>,
    pub branch: Option<String>,
    pub base_sha: Option<String>,
    pub head_sha: Option<String>,
    pub commits: Option<u32>,
    pub changes: Option<String>,
    pub checkpoint: Option<String>,
    pub publish: Option<Publish>,
    pub pull_request: Unknown,
    pub usage: Unknown,
    pub cost_usd: Unknown,
    pub cost_source: Unknown,
    pub priority: i64,
    pub timeout_s: Option<u64>,
    pub concurrency_key: Option<String>,
    pub idempotency_key: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// Why a queued job is not runnable now.
    pub held_by: Option<String>,
    /// Who asked for its end.
    pub canceled_by: Option<String>,
    pub output_bytes: u64,
    pub output_dropped: u64,
    pub created_at: Option<String>,
    pub started_at: Option<String>,
    pub finished_at: Option<String>,
    pub due_at: Option<String>,
    pub phases_ms: BTreeMap<String, u64>,
}

impl From<&crate::core::Job> for Job {
    fn from(job: &crate::core::Job) -> Self {
        let (spec, result) = (job.spec.clone(), job.result.clone());
        Self {
            api_version: API_VERSION,
            id: job.id.to_string(),
            state: job.state,
            fault: job.fault,
            message: result.message,
            attempt: job.counters.attempt,
            charged: job.counters.charged,
            max_attempts: spec.max_attempts,
            pod_name: job.worker.as_ref().map(|worker| worker.pod().to_owned()),
            worker: job.worker.as_ref().map(ToString::to_string),
            exit_code: result.exit_code,
            signal: result.signal,
            profile: spec.profile_name().map(ToOwned::to_owned),
            agent: spec.agent,
            model: spec.model,
            prompt: spec.prompt,
            command: spec.command,
            repo: spec.repo.as_deref().map(redacted),
            r#ref: spec.reference,
            branch: result.branch,
            base_sha: result.base_sha,
            head_sha: result.head_sha,
            commits: result.commits,
            changes: result.changes,
            checkpoint: result.checkpoint,
            publish: spec.publish,
            pull_request: (),
            usage: (),
            cost_usd: (),
            cost_source: (),
            priority: spec.priority,
            timeout_s: spec.timeout_s,
            concurrency_key: spec.concurrency_key,
            idempotency_key: spec.idempotency_key,
            labels: spec.labels,
            held_by: job.held_by.clone(),
            canceled_by: job.cancel.clone(),
            output_bytes: result.output_bytes,
            output_dropped: result.output_dropped,
            // A push that no worker has opened yet has no time of its own.
            created_at: (job.created_at_ms > 0).then(|| time(job.created_at_ms)),
            started_at: job.started_at_ms.map(time),
            finished_at: job.finished_at_ms.map(time),
            due_at: job.due_at_ms.map(time),
            phases_ms: result.phases_ms,
        }
    }
}

/// One entry of a log. `type` says which fields are there: `state` has `state`, `fault`, `worker`
/// and `message`; `output` has `stream`, `offset` and `text`; `progress` has `message`.
#[derive(Clone, Debug, Serialize)]
pub struct LogEntry {
    #[serde(rename = "apiVersion")]
    pub api_version: &'static str,
    /// Position in the log.
    pub id: String,
    pub at: String,
    pub job: String,
    pub attempt: u32,
    pub r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<OutputStream>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

impl From<&store::Entry> for LogEntry {
    fn from(entry: &store::Entry) -> Self {
        let blank = |r#type, attempt| Self {
            api_version: API_VERSION,
            id: entry.id.clone(),
            at: time(entry.at_ms),
            job: entry.job.to_string(),
            attempt,
            r#type,
            state: None,
            fault: None,
            worker: None,
            message: None,
            stream: None,
            offset: None,
            text: None,
        };
        let filled = |text: &String| (!text.is_empty()).then(|| text.clone());
        match &entry.event {
            Event::State { state, fault, worker, attempt, message } => Self {
                state: Some(*state),
                fault: *fault,
                worker: filled(worker),
                message: filled(message),
                ..blank("state", *attempt)
            },
            Event::Output { attempt, stream, offset, text } => Self {
                stream: Some(*stream),
                offset: Some(*offset),
                text: Some(text.clone()),
                ..blank("output", *attempt)
            },
            Event::Progress { attempt, message } => {
                Self { message: Some(message.clone()), ..blank("progress", *attempt) }
            }
        }
    }
}

/// Milliseconds since the epoch as RFC 3339 in UTC. A time beyond the year 9999 is the last one that
/// can be written.
#[must_use]
pub fn time(ms: u64) -> String {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    format!("{:.3}", Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{AttemptResult, Counters, Fence, JobSpec, WorkerId};

    #[test]
    fn a_job_has_the_documented_fields() {
        let spec = JobSpec::from_json(
            br#"{"prompt":"p","repo":"https://u:secret@h/r","ref":"main","profile":"claude",
                 "labels":{"team":"a"},"env":{"TOKEN":"secret"}}"#,
        )
        .unwrap();
        let job = crate::core::Job {
            id: "job-1".parse().unwrap(),
            spec,
            state: State::Failed,
            counters: Counters { attempt: 2, charged: 1, ..Counters::default() },
            fence: Fence(7),
            worker: Some(WorkerId::from_store("sortie-0/boot")),
            fault: Some(Fault::AgentExit),
            cancel: None,
            held_by: None,
            created_at_ms: 1_763_683_200_000,
            started_at_ms: Some(1_763_683_200_250),
            finished_at_ms: None,
            due_at_ms: None,
            result: AttemptResult { exit_code: Some(3), ..AttemptResult::default() },
        };
        let json = serde_json::to_value(Job::from(&job)).unwrap();
        assert_eq!(json["created_at"], "2025-11-21T00:00:00.000Z");
        assert_eq!(json["started_at"], "2025-11-21T00:00:00.250Z");
        assert!(!json.to_string().contains("secret"), "{json}");
        insta::assert_json_snapshot!(json);
    }

    #[test]
    fn entries_say_only_what_their_type_has() {
        let entry = |event| store::Entry {
            id: "5-1".into(),
            at_ms: 5,
            job: "job-1".parse().unwrap(),
            event,
        };
        let state = entry(Event::State {
            state: State::Queued,
            fault: Some(Fault::Interrupted),
            worker: "sortie-0/boot".into(),
            attempt: 1,
            message: String::new(),
        });
        let output = entry(Event::Output {
            attempt: 1,
            stream: OutputStream::Stderr,
            offset: 9,
            text: "x".into(),
        });
        let lines =
            [&state, &output].map(|one| serde_json::to_string(&LogEntry::from(one)).unwrap());
        assert_eq!(
            lines,
            [
                r#"{"apiVersion":"sortie/v1","id":"5-1","at":"1970-01-01T00:00:00.005Z","job":"job-1","attempt":1,"type":"state","state":"queued","fault":"interrupted","worker":"sortie-0/boot"}"#,
                r#"{"apiVersion":"sortie/v1","id":"5-1","at":"1970-01-01T00:00:00.005Z","job":"job-1","attempt":1,"type":"output","stream":"stderr","offset":9,"text":"x"}"#,
            ]
        );
    }

    #[test]
    fn a_list_says_its_version() {
        let json = serde_json::to_string(&List::new(vec![1])).unwrap();
        assert_eq!(json, r#"{"apiVersion":"sortie/v1","items":[1],"next":null}"#);
    }
}
