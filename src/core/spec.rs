//! What somebody asks for: the record that the CLI submits and that anyone may push as JSON.
//!
//! `docs/job.schema.json` is generated from [`JobSpec`] (a test keeps it current). The Redis store
//! checks the same names and kinds when it adopts a foreign push (`store/redis/lua/adopt.lua`; a
//! test compares the two lists), so a typing mistake is reported with the field's name.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::id::{JOB_ID_MAX, JobId};

/// Largest accepted job in bytes of JSON.
pub const SPEC_MAX_BYTES: usize = 4 << 20;
/// Priorities run from `-PRIORITY_MAX` to `PRIORITY_MAX`; higher runs first.
pub const PRIORITY_MAX: i64 = 10;
/// Longest delay: 366 days.
pub const DELAY_MAX_MS: u64 = 366 * 86_400_000;
/// Longest time limit: 31 days.
pub const TIMEOUT_MAX_S: u64 = 31 * 86_400;
/// Most attempts a job may ask for.
pub const ATTEMPTS_MAX: u32 = 100;
/// Longest concurrency or idempotency key in bytes.
pub const KEY_MAX: usize = 200;
/// Most entries in `env` and in `labels`.
pub const MAP_MAX: usize = 256;

/// One job as asked for. Every field may be left out, but a job needs a `command`, or a `prompt`
/// for its profile's agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct JobSpec {
    /// Name of the job; a repeated push with the same id is one job. Made when missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        with = "Option<String>",
        length(min = 1, max = 64),
        regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    )]
    pub id: Option<JobId>,
    /// What the agent is told; it arrives on the agent's standard input.
    #[serde(default, alias = "task", skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Program and arguments to run instead of an agent (profile `command`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Repository to check out: an https, http or ssh URL, or a local path.
    #[serde(default, alias = "repo_url", skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    /// Branch, tag or commit to start from. Default: the remote's HEAD.
    #[serde(default, rename = "ref", alias = "base_ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Named set of settings of the worker. Default: `command` when a command is given, else the
    /// worker's default profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Agent to use where the profile leaves a choice; `SORTIE_AGENT` for the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Model to use where the profile leaves a choice; `SORTIE_MODEL` for the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Environment variables of the process, beside the few that the worker sets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// -10 to 10, higher runs first.
    #[serde(default, skip_serializing_if = "is_zero")]
    #[schemars(range(min = -10, max = 10))]
    pub priority: i64,
    /// Milliseconds to wait before the job may run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 31_622_400_000_u64))]
    pub delay_ms: Option<u64>,
    /// Wall clock limit of one attempt in seconds.
    #[serde(default, alias = "timeout", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_678_400))]
    pub timeout_s: Option<u64>,
    /// How many failures the job may be blamed for before it is given up. Default: 1 for a
    /// `command` (its exit code is its answer), else the profile's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub max_attempts: Option<u32>,
    /// Jobs of one key run at most `concurrency_limit` at a time, in the whole fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200))]
    pub concurrency_key: Option<String>,
    /// How many jobs of the key may run at a time. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub concurrency_limit: Option<u32>,
    /// A second job with this key, while the first one's record is kept, is the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200))]
    pub idempotency_key: Option<String>,
    /// Free text for filters and reports.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// What happens to the commits of a successful attempt. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish: Option<Publish>,
}

/// What happens to the commits of a successful attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Publish {
    /// Nothing leaves the worker.
    None,
    /// The commits are pushed to the branch `sortie/<job id>` of the repository.
    Branch,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Why a job cannot be accepted. The message names the field.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SpecError {
    #[error("{0}")]
    Json(String),
    #[error("a job of {0} bytes is larger than the {SPEC_MAX_BYTES} bytes allowed")]
    TooLarge(usize),
    #[error("`{field}` {problem}")]
    Field { field: &'static str, problem: String },
    #[error("a job needs a `command`, or a `prompt` for its profile's agent")]
    Empty,
}

impl JobSpec {
    /// Parses and checks one job.
    pub fn from_json(bytes: &[u8]) -> Result<Self, SpecError> {
        if bytes.len() > SPEC_MAX_BYTES {
            return Err(SpecError::TooLarge(bytes.len()));
        }
        // serde would also read a struct from an array, by position.
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return Err(SpecError::Json("a job is a JSON object".into()));
        }
        let spec: Self =
            serde_json::from_slice(bytes).map_err(|error| SpecError::Json(error.to_string()))?;
        spec.check()?;
        Ok(spec)
    }

    /// The bytes that are stored and handed to the worker.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a job spec has only string keys")
    }

    /// Checks ranges and what cannot be said in types.
    pub fn check(&self) -> Result<(), SpecError> {
        let field = |field, problem: String| Err(SpecError::Field { field, problem });
        if self.command.is_empty() && self.prompt.as_deref().is_none_or(|p| p.trim().is_empty()) {
            return Err(SpecError::Empty);
        }
        if self.command.first().is_some_and(String::is_empty) {
            return field("command", "starts with an empty program name".into());
        }
        if !(-PRIORITY_MAX..=PRIORITY_MAX).contains(&self.priority) {
            return field("priority", format!("must be -10 to 10, not {}", self.priority));
        }
        if self.delay_ms.is_some_and(|ms| ms > DELAY_MAX_MS) {
            return field("delay_ms", "is more than 366 days".into());
        }
        if self.timeout_s.is_some_and(|s| s == 0 || s > TIMEOUT_MAX_S) {
            return field("timeout_s", "must be 1 second to 31 days".into());
        }
        if self.max_attempts.is_some_and(|n| n == 0 || n > ATTEMPTS_MAX) {
            return field("max_attempts", format!("must be 1 to {ATTEMPTS_MAX}"));
        }
        if self.concurrency_limit.is_some_and(|n| n == 0 || n > 10_000) {
            return field("concurrency_limit", "must be 1 to 10000".into());
        }
        if self.concurrency_limit.is_some() && self.concurrency_key.is_none() {
            return field("concurrency_limit", "needs a `concurrency_key`".into());
        }
        for (name, key) in
            [("concurrency_key", &self.concurrency_key), ("idempotency_key", &self.idempotency_key)]
        {
            if key.as_ref().is_some_and(|k| k.is_empty() || k.len() > KEY_MAX) {
                return field(name, format!("must be 1 to {KEY_MAX} bytes"));
            }
        }
        for (name, map) in [("env", &self.env), ("labels", &self.labels)] {
            if map.len() > MAP_MAX {
                return field(name, format!("has more than {MAP_MAX} entries"));
            }
        }
        if let Some(name) = self.env.keys().find(|name| !is_env_name(name)) {
            return field("env", format!("has a name that no process can have: {name:?}"));
        }
        if self.env.values().chain(&self.command).any(|text| text.contains('\0')) {
            return field("command", "and `env` must not contain NUL bytes".into());
        }
        Ok(())
    }

    /// The profile this job is counted and capped under.
    #[must_use]
    pub fn profile_name(&self) -> Option<&str> {
        match &self.profile {
            Some(name) => Some(name),
            None if !self.command.is_empty() => Some(super::profile::COMMAND),
            None => None,
        }
    }
}

fn is_env_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The JSON Schema of a job, as published in `docs/job.schema.json`.
#[must_use]
pub fn json_schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(JobSpec).to_value();
    // Older names, accepted so that pushers of other systems need not change.
    if let Some(properties) = schema["properties"].as_object_mut() {
        for (alias, name) in ALIASES {
            let of = properties[*name].clone();
            properties.insert((*alias).to_owned(), of);
        }
    }
    schema
}

/// `(alias, field)`: other names under which a field is accepted.
pub const ALIASES: &[(&str, &str)] =
    &[("task", "prompt"), ("repo_url", "repo"), ("base_ref", "ref"), ("timeout", "timeout_s")];

const _: () = assert!(JOB_ID_MAX == 64, "the schema above says 64");

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(json: &str) -> String {
        JobSpec::from_json(json.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn accepts_its_own_names_and_the_aliases() {
        let ours = JobSpec::from_json(
            br#"{"prompt":"p","repo":"r","ref":"main","timeout_s":5,"publish":"branch"}"#,
        );
        let theirs = JobSpec::from_json(
            br#"{"task":"p","repo_url":"r","base_ref":"main","timeout":5,"publish":"branch"}"#,
        );
        assert_eq!(ours.unwrap(), theirs.unwrap());
    }

    #[test]
    fn says_which_field_is_wrong() {
        assert!(problem(r#"{"promt":"x"}"#).contains("`promt`"));
        assert!(problem(r#"{"command":["true"],"priority":11}"#).contains("`priority`"));
        assert!(problem(r#"{"command":["true"],"timeout_s":0}"#).contains("`timeout_s`"));
        assert!(
            problem(r#"{"command":["true"],"concurrency_limit":2}"#).contains("`concurrency_key`")
        );
        assert!(problem(r#"{"command":["true"],"env":{"A-B":"x"}}"#).contains("A-B"));
        assert!(problem(r#"{"command":["true"],"id":"../etc"}"#).contains("../etc"));
        assert!(problem(r#"{"repo":"x"}"#).contains("`command`"));
        assert!(problem("[1]").contains("JSON object"));
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let spec = JobSpec { command: vec!["true".into()], priority: -3, ..JobSpec::default() };
        assert_eq!(spec.to_json(), br#"{"command":["true"],"priority":-3}"#);
        assert_eq!(JobSpec::from_json(&spec.to_json()).unwrap(), spec);
    }

    #[test]
    fn the_published_schema_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/job.schema.json");
        let text = serde_json::to_string_pretty(&json_schema()).unwrap() + "\n";
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        let published = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(published, text, "run the tests with UPDATE_DOCS=1 and commit the file");
    }
}
