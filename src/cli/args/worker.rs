//! Flags of `worker`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::config::duration;
use crate::telemetry::Format;

#[derive(Debug, Default, Args)]
pub struct Worker {
    /// Jobs at a time [env: `SORTIE_SLOTS`] [default: 3]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub slots: Option<u32>,
    /// Name, of which only one process may live; a new one takes the old one's jobs back [env:
    /// `POD_NAME`] [default: the host's name, shared by any number]
    #[arg(long)]
    pub name: Option<String>,
    /// File with rules: what is refused here [env: `SORTIE_POLICY`]
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Directory with one NAME.toml for each profile [env: `SORTIE_PROFILES`]
    #[arg(long, value_name = "DIR")]
    pub profiles: Option<PathBuf>,
    /// Profile of jobs that name none [env: `SORTIE_DEFAULT_PROFILE`]
    #[arg(long, value_name = "NAME")]
    pub default_profile: Option<String>,
    /// Directory for the jobs' checkouts; the same path on every worker [env: `SORTIE_WORKTREES`]
    #[arg(long, value_name = "DIR")]
    pub worktrees: Option<PathBuf>,
    /// Directory for the clones that workers share [env: `SORTIE_SHARED`]
    #[arg(long, value_name = "DIR")]
    pub shared: Option<PathBuf>,
    /// Run one job, then leave
    #[arg(long)]
    pub once: bool,
    /// Look of log lines: auto, text or json [env: `SORTIE_LOG_FORMAT`] [default: auto]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<Format>,

    /// How long a drain may take in all [env: `SORTIE_DRAIN_TIMEOUT`] [default: 270s]
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Times")]
    pub drain_timeout: Option<Duration>,
    /// Time between a polite signal and SIGKILL [env: `SORTIE_GRACE`] [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Times")]
    pub grace: Option<Duration>,
    /// Life of a lease that is not renewed [env: `SORTIE_LEASE`] [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Times")]
    pub lease: Option<Duration>,
    /// Time between two heartbeats [env: `SORTIE_BEAT`] [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Times")]
    pub beat: Option<Duration>,
    /// So long before its lease ends a job is frozen [env: `SORTIE_FREEZE_MARGIN`] [default: 3s]
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Times")]
    pub freeze_margin: Option<Duration>,
    /// First delay before a failed job runs again [env: `SORTIE_RETRY_BASE`] [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Times")]
    pub retry_base: Option<Duration>,
    /// Longest delay before a failed job runs again [env: `SORTIE_RETRY_CAP`] [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Times")]
    pub retry_cap: Option<Duration>,
}
