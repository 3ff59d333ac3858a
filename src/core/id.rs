//! Names of things: jobs, workers, fences.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest job id in bytes. It names directories, branches and keys, and stays in the compact
/// encoding of Redis hashes (64-byte values).
pub const JOB_ID_MAX: usize = 64;

/// Identity of one job: 1 to 64 characters of `A-Z a-z 0-9 . _ -`, starting with a letter or a
/// digit, without `..` and not ending in `.` or `.lock` (so it is a safe file and git ref name).
///
/// Ids made by Sortie are random (UUID v4), so a short prefix identifies a job for a person.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct JobId(String);

/// The id is empty, too long, or has a character that is not allowed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "job id {0:?} is not usable: 1 to 64 characters of A-Z a-z 0-9 . _ -, starting with a letter \
     or digit, without \"..\", not ending in \".\" or \".lock\""
)]
pub struct InvalidJobId(String);

impl JobId {
    /// A new random id.
    #[must_use]
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4().to_string())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first characters, enough for a person to tell jobs apart.
    #[must_use]
    pub fn short(&self) -> &str {
        self.0.get(..8).unwrap_or(&self.0)
    }
}

impl FromStr for JobId {
    type Err = InvalidJobId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let valid = text.len() <= JOB_ID_MAX
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(allowed)
            && !text.contains("..")
            && !text.ends_with('.')
            && text.strip_suffix(".lock").is_none();
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidJobId(text.chars().take(80).collect()))
        }
    }
}

impl<'de> Deserialize<'de> for JobId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Identity of one worker process: `<pod>/<boot uuid>`. A restarted pod is another worker, so an
/// old incarnation can never be mistaken for a live one (ARCHITECTURE.md P14).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WorkerId(String);

impl WorkerId {
    /// A new incarnation of the pod (or host) called `pod`.
    #[must_use]
    pub fn boot(pod: &str) -> Self {
        Self(format!("{pod}/{}", uuid::Uuid::new_v4()))
    }

    /// A worker id as read back from a store.
    #[must_use]
    pub fn from_store(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The pod (or host) name without the incarnation.
    #[must_use]
    pub fn pod(&self) -> &str {
        self.0.split('/').next().unwrap_or(&self.0)
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Fencing number of one attempt: grows with every claim, `max(last + 1, server time in µs)`, and
/// is carried by every later write of that attempt (ARCHITECTURE.md P4).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Fence(pub u64);

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_name_files_and_refs_safely() {
        for good in ["a", "7", "job-1", "A.b_c-d", &"x".repeat(64), "cron-nightly-1763683200"] {
            assert_eq!(good.parse::<JobId>().unwrap().as_str(), good);
        }
        let long = "x".repeat(65);
        for bad in ["", ".a", "-a", "_a", "a..b", "a.", "a.lock", "a/b", "a b", "ä", &long] {
            assert!(bad.parse::<JobId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_restarted_pod_is_another_worker() {
        let (first, second) = (WorkerId::boot("sortie-0"), WorkerId::boot("sortie-0"));
        assert_ne!(first, second);
        assert_eq!(first.pod(), "sortie-0");
    }
}
