//! What a worker is told, and which of it cannot work.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::Error;
use crate::core::{Policy, Profile, RetryPolicy};

/// Longest name of a worker in bytes: it is part of keys and of every log line.
const NAME_MAX: usize = 100;
/// How one worker works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the pod or host, under which people know the worker.
    pub name: String,
    /// Whether at most one process of this name can be alive (a StatefulSet's pod, or `--name`).
    /// A new incarnation of an exclusive worker takes the jobs of the old one back at once.
    pub exclusive: bool,
    /// Jobs at a time.
    pub slots: u32,
    /// What the worker refuses to run.
    pub policy: Policy,
    /// Profiles by name. Jobs that bring a `command` of their own need none.
    pub profiles: BTreeMap<String, Profile>,
    /// Profile of jobs that name none and bring no command.
    pub default_profile: Option<String>,
    /// Directory in which every job gets one of its own. Should be the same path on every worker,
    /// so that an agent's session can go on elsewhere.
    pub worktrees: PathBuf,
    /// Directory of the shared object pools, one for each repository.
    pub pools: PathBuf,
    /// Life of a lease that is not renewed.
    pub lease: Duration,
    /// Time between two heartbeats.
    pub beat: Duration,
    /// So long before the end of its lease a job is frozen.
    pub margin: Duration,
    /// Time a process has between a polite signal and SIGKILL.
    pub grace: Duration,
    /// How long a drain that a signal asks for may take in all.
    pub drain_timeout: Duration,
    /// How often and how soon failed jobs are tried again, unless the job or its profile says so.
    pub retry: RetryPolicy,
    /// Run one job, then leave.
    pub once: bool,
}

impl Default for Settings {
    fn default() -> Self {
        // Not the directory for temporary files, where anybody could have made it first.
        let home = std::env::home_dir().filter(|home| home.is_absolute());
        let data = home.unwrap_or_else(std::env::temp_dir).join(".local/share/sortie");
        Self {
            name: "worker".into(),
            exclusive: false,
            slots: 3,
            policy: Policy::default(),
            profiles: BTreeMap::new(),
            default_profile: None,
            worktrees: data.join("worktrees"),
            pools: data.join("repos"),
            lease: Duration::from_secs(30),
            beat: Duration::from_secs(5),
            margin: Duration::from_secs(3),
            grace: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(270),
            retry: RetryPolicy::default(),
            once: false,
        }
    }
}

impl Settings {
    /// Refuses what cannot work, saying what to change.
    pub(super) fn check(&self) -> Result<(), Error> {
        let name = &self.name;
        let problem = if name.is_empty() || name.len() > NAME_MAX {
            "a worker's name has 1 to 100 bytes; name it with --name (POD_NAME)"
        } else if name.contains(|c: char| c == '/' || c.is_control()) {
            "a worker's name must not contain `/` or control characters; name it with --name (POD_NAME)"
        } else if self.slots == 0 {
            "a worker needs at least one slot"
        } else if self.beat.is_zero() {
            "the time between two heartbeats must not be zero"
        } else if self.margin + self.beat * 3 > self.lease {
            // After half a lease without anybody's heartbeat the store takes itself to have been away,
            // and spares every lease: with fewer heartbeats a lone worker's silence would look so.
            let (lease, beat, margin) = (self.lease, self.beat, self.margin);
            return Err(Error::Settings(format!(
                "a lease of {lease:?} is too short: it must last for three heartbeats ({beat:?} each) \
             and the freeze margin ({margin:?}); make it longer, or the others shorter"
            )));
        } else if !self.worktrees.is_absolute() || !self.pools.is_absolute() {
            "the directories for worktrees and for shared clones must be absolute paths"
        } else {
            return match &self.default_profile {
                Some(name) if !self.profiles.contains_key(name) => Err(Error::Settings(format!(
                    "the default profile {name:?} is not one of the profiles"
                ))),
                _ => Ok(()),
            };
        };
        Err(Error::Settings(problem.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(change: impl FnOnce(&mut Settings)) -> Option<String> {
        let mut settings = Settings::default();
        change(&mut settings);
        settings.check().err().map(|error| error.to_string())
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let second = Duration::from_secs(1);
        assert_eq!(problem(|_| ()), None);
        assert_eq!(problem(|s| (s.lease, s.beat, s.margin) = (second * 4, second, second)), None);
        let short = problem(|s| (s.lease, s.beat, s.margin) = (second * 4, second, second * 2));
        let said = "a lease of 4s is too short: it must last for three heartbeats (1s each) and the \
                    freeze margin (2s)";
        assert!(short.unwrap().starts_with(said));
        assert!(problem(|s| s.beat = Duration::ZERO).unwrap().contains("zero"));
        assert!(problem(|s| s.slots = 0).unwrap().contains("slot"));
        assert!(problem(|s| s.default_profile = Some("x".into())).unwrap().contains("\"x\""));
        assert!(problem(|s| s.pools = "relative".into()).unwrap().contains("absolute"));
    }

    #[test]
    fn names_that_would_not_be_one_word_of_a_key_are_refused() {
        for (name, said) in [
            ("", "1 to 100 bytes"),
            (&*"x".repeat(101), "1 to 100 bytes"),
            ("a/b", "`/`"),
            ("a\nb", "control"),
        ] {
            let problem = problem(|settings| settings.name = name.into()).unwrap();
            assert!(problem.contains(said) && problem.contains("--name"), "{name:?}: {problem}");
        }
        assert_eq!(problem(|settings| settings.name = "x".repeat(100)), None);
    }
}
