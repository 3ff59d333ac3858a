//! Flags of `submit` and `run`.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::cli::parse::At;
use crate::config::duration;
use crate::core::JobId;

#[derive(Debug, Default, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Submit {
    /// What the agent is told; `-` reads standard input
    #[arg(conflicts_with_all = ["prompt_file", "file"])]
    pub prompt: Option<String>,
    /// Run this instead of an agent
    #[arg(last = true, value_name = "CMD", conflicts_with = "file")]
    pub command: Vec<String>,

    /// Repository to check out: URL or path [env: `SORTIE_REPO`]
    #[arg(long, value_name = "URL", conflicts_with = "file")]
    pub repo: Option<String>,
    /// Branch, tag or commit to start from [env: `SORTIE_REF`] [default: the remote's HEAD]
    #[arg(long = "ref", value_name = "REF", conflicts_with = "file")]
    pub reference: Option<String>,
    /// Read the prompt from a file
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    pub prompt_file: Option<PathBuf>,
    /// Named set of settings of the worker [env: `SORTIE_PROFILE`]
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    pub profile: Option<String>,
    /// Agent, where the profile leaves a choice [env: `SORTIE_AGENT`]
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    pub agent: Option<String>,
    /// Model, where the profile leaves a choice [env: `SORTIE_MODEL`]
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    pub model: Option<String>,
    /// Environment variable of the process (repeat)
    #[arg(long = "env", value_name = "KEY=VALUE", conflicts_with = "file")]
    pub env: Vec<Label>,
    /// What happens to the commits [env: `SORTIE_PUBLISH`] [default: none]
    #[arg(long, value_enum, conflicts_with = "file")]
    pub publish: Option<Publish>,

    /// Name of the job; submitting it again is the same job [default: random]
    #[arg(long, conflicts_with = "file", help_heading = "Queueing")]
    pub id: Option<JobId>,
    /// Wall clock limit of one attempt, e.g. `45m` [env: `SORTIE_TIMEOUT`] [default: the profile's]
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with = "file", help_heading = "Queueing")]
    pub timeout: Option<Duration>,
    /// Failures the job may be blamed for before it is dead [env: `SORTIE_MAX_ATTEMPTS`]
    #[arg(long, value_name = "COUNT", conflicts_with = "file", help_heading = "Queueing")]
    pub max_attempts: Option<u32>,
    /// -10 to 10, higher runs first [env: `SORTIE_PRIORITY`] [default: 0]
    #[arg(
        long,
        value_name = "NUMBER",
        allow_negative_numbers = true,
        conflicts_with = "file",
        help_heading = "Queueing"
    )]
    pub priority: Option<i64>,
    /// Wait so long before it may run
    #[arg(long, value_name = "TIME", value_parser = duration, conflicts_with_all = ["at", "file"], help_heading = "Queueing")]
    pub delay: Option<Duration>,
    /// Run it at this RFC 3339 time at the earliest
    #[arg(long, value_name = "WHEN", conflicts_with = "file", help_heading = "Queueing")]
    pub at: Option<At>,
    /// A second job with this key is the first one
    #[arg(long, value_name = "KEY", conflicts_with = "file", help_heading = "Queueing")]
    pub idempotency_key: Option<String>,
    /// Jobs of one key run at most N (default 1) at a time
    #[arg(long, value_name = "KEY[:N]", conflicts_with = "file", help_heading = "Queueing")]
    pub concurrency_key: Option<Limited>,
    /// Free text for filters and reports (repeat)
    #[arg(
        long = "label",
        value_name = "KEY=VALUE",
        conflicts_with = "file",
        help_heading = "Queueing"
    )]
    pub labels: Vec<Label>,
    /// Submit many jobs from a .jsonl, .json or .yaml file; `-` reads standard input
    #[arg(short, long, value_name = "FILE", help_heading = "Queueing")]
    pub file: Option<PathBuf>,
    /// Print the JSON that would be queued, and queue nothing
    #[arg(long, help_heading = "Queueing")]
    pub dry_run: bool,

    /// Wait for the job's end, and exit as it ends
    #[arg(long, help_heading = "Waiting")]
    pub wait: bool,
    /// Wait, and show what the job writes
    #[arg(long, conflicts_with = "file", help_heading = "Waiting")]
    pub follow: bool,
    /// Wait at most so long; then exit 75, and the job goes on
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Waiting")]
    pub wait_timeout: Option<Duration>,
    /// Exit with the agent's own code, where it has one
    #[arg(long, help_heading = "Waiting")]
    pub agent_exit_code: bool,
    /// Cancel the job when waiting for it is interrupted
    #[arg(long, help_heading = "Waiting")]
    pub cancel_on_interrupt: bool,
}

/// What happens to the commits of a successful attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Publish {
    /// Nothing leaves the worker
    None,
    /// They are pushed to the branch `sortie/<job id>`
    Branch,
}

impl From<Publish> for crate::core::Publish {
    fn from(publish: Publish) -> Self {
        match publish {
            Publish::None => Self::None,
            Publish::Branch => Self::Branch,
        }
    }
}

/// `KEY=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label(pub String, pub String);

impl FromStr for Label {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self(key.into(), value.into())),
            _ => Err("is not of the form KEY=VALUE".into()),
        }
    }
}

/// `KEY` or `KEY:N`. A key may itself contain colons; only a number after the last one counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limited {
    pub key: String,
    pub limit: Option<u32>,
}

impl FromStr for Limited {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some((key, limit)) = text.rsplit_once(':')
            && let Ok(limit) = limit.parse()
        {
            return Ok(Self { key: key.into(), limit: Some(limit) });
        }
        Ok(Self { key: text.into(), limit: None })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Cli, Command};

    fn submit(words: &[&str]) -> Result<Submit, clap::Error> {
        let cli = Cli::try_parse_from([&["sortie", "submit"], words].concat())?;
        let Command::Submit(submit) = cli.command else { panic!() };
        Ok(*submit)
    }

    #[test]
    fn a_command_is_everything_after_two_dashes() {
        let args = submit(&["fix it", "--priority", "-3", "--", "sh", "-c", "--wait"]).unwrap();
        assert_eq!(args.prompt.as_deref(), Some("fix it"));
        assert_eq!(args.command, ["sh", "-c", "--wait"]);
        assert_eq!((args.priority, args.wait), (Some(-3), false));
    }

    #[test]
    fn a_file_of_jobs_says_everything_itself() {
        assert!(submit(&["-f", "jobs.yaml", "--wait"]).is_ok());
        for words in [["-f", "x", "prompt"], ["-f", "x", "--follow"], ["-f", "x", "--repo=y"]] {
            assert!(submit(&words).is_err(), "{words:?}");
        }
        assert!(submit(&["--delay", "1m", "--at", "2026-01-01T00:00:00Z"]).is_err());
    }

    #[test]
    fn keys_with_and_without_a_limit() {
        let limited = |text: &str| text.parse::<Limited>().unwrap();
        assert_eq!(limited("a"), Limited { key: "a".into(), limit: None });
        assert_eq!(limited("repo:x:2"), Limited { key: "repo:x".into(), limit: Some(2) });
        assert_eq!(limited("repo:x").limit, None);
        assert_eq!("k=a=b".parse(), Ok(Label("k".into(), "a=b".into())));
        assert!("=b".parse::<Label>().is_err() && "k".parse::<Label>().is_err());
    }
}
