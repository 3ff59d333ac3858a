//! What can be typed. Only parsing: nothing here reads a file, a variable or the network, so that
//! completions, help and tests can use it freely. Settings with an environment variable are
//! `Option`s; [`crate::config`] fills in what was not typed.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::duration;
use crate::core::State;

mod submit;
mod worker;

pub use submit::{Label, Limited, Publish, Submit};
pub use worker::Worker;

/// Runs coding agents on git repositories, on a fleet of identical workers.
#[derive(Debug, Parser)]
#[command(
    name = "sortie",
    version,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Topics: sortie help exit-codes | environment | states | profiles"
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every subcommand.
#[derive(Clone, Debug, Default, Args)]
pub struct Global {
    #[arg(
        long,
        global = true,
        value_name = "URL",
        help_heading = "Global options",
        help = "Redis to talk to [env: `SORTIE_REDIS_URL`, `REDIS_URL`] [default: \
                redis://127.0.0.1:6379]"
    )]
    pub redis: Option<String>,
    /// List in which jobs wait [env: `SORTIE_QUEUE`] [default: sortie:queue]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Global options")]
    pub queue: Option<String>,
    /// Form of what is printed on standard output
    #[arg(short, long, global = true, value_enum, help_heading = "Global options")]
    pub output: Option<Output>,
    /// The same as `-o json`
    #[arg(long, global = true, conflicts_with = "output", help_heading = "Global options")]
    pub json: bool,
    /// Print only what was asked for: ids of submitted jobs, no progress
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub quiet: bool,
    /// Colours in text [env: `SORTIE_COLOR`] [default: auto]
    #[arg(long, global = true, value_enum, value_name = "WHEN", help_heading = "Global options")]
    pub color: Option<Color>,
}

/// Form of what is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    #[default]
    Text,
    /// One document
    Json,
    /// One object on each line
    Jsonl,
    /// One document
    Yaml,
    /// Ids only
    Id,
}

/// When text has colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    Auto,
    Always,
    Never,
}

impl Color {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Queue a job; prints its id
    Submit(Box<Submit>),
    /// Queue a job, show its output, end as it ends (`submit --wait --follow`)
    Run(Box<Submit>),
    /// Show one job
    #[command(visible_aliases = ["get", "show"])]
    Job { id: String },
    /// List jobs
    #[command(visible_alias = "ls")]
    Jobs(Jobs),
    /// Show what a job's processes wrote
    Logs(Logs),
    /// Wait until jobs have ended
    Wait(Wait),
    /// End jobs: at once if they wait, politely if they run
    Cancel {
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
    /// Queue ended jobs again, with fresh counters
    Retry {
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
        /// Go on from where the last attempt stopped (the default)
        #[arg(long)]
        resume: bool,
        /// Start from the beginning
        #[arg(long, conflicts_with = "resume")]
        fresh: bool,
    },
    /// Forget ended jobs: records, results and logs
    Delete {
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
    /// Claim jobs and run them
    Worker(Box<Worker>),
    /// Stop a worker from claiming, and wait until it holds nothing (exit 0), or has handed jobs
    /// back (exit 3)
    Drain {
        /// How long it may take in all; the worker stops its jobs 20 s before
        #[arg(long, default_value = "270s", value_parser = duration)]
        timeout: Duration,
        /// Worker (or pod) to drain; default: the one on this host
        #[arg(long, value_name = "NAME")]
        worker: Option<String>,
    },
    /// List workers
    Workers,
    /// Show the queue in numbers, or change how it works
    Queue {
        #[command(subcommand)]
        action: Option<Queue>,
    },
    /// Show the transitions of all jobs
    Events {
        /// Go on with new ones until interrupted
        #[arg(short, long)]
        follow: bool,
        /// Only the newest so many
        #[arg(long, value_name = "COUNT")]
        tail: Option<usize>,
    },
    /// Forget what is no longer needed, now instead of little by little
    Gc {
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
    },
    /// Check that this host and the store are fit for work
    Doctor {
        /// Directory for checkouts to look at [env: `SORTIE_WORKTREES`]
        #[arg(long, value_name = "DIR")]
        worktrees: Option<PathBuf>,
        /// Directory for shared clones to look at [env: `SORTIE_SHARED`]
        #[arg(long, value_name = "DIR")]
        shared: Option<PathBuf>,
    },
    /// Compare every record of the store with the places it is in
    Fsck,
    /// Measure this build on this machine, with a private redis-server
    Bench {
        /// Only these parts
        #[arg(value_name = "PART", value_parser = super::bench::PARTS)]
        parts: Vec<String>,
    },
    /// Show every setting and where its value comes from
    Config,
    /// Print a completion script for a shell
    Completions { shell: clap_complete::Shell },
    /// Print the version
    Version,
    /// Explain a topic or a command
    Help {
        #[arg(value_name = "TOPIC|COMMAND")]
        about: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub struct Jobs {
    /// Only these states (repeat, or separate with commas)
    #[arg(long, value_delimiter = ',', value_name = "STATE")]
    pub state: Vec<State>,
    /// Only repositories whose address contains this
    #[arg(long, value_name = "TEXT")]
    pub repo: Option<String>,
    #[arg(long, value_name = "NAME", help = "Only this profile")]
    pub profile: Option<String>,
    /// Only jobs with this label (repeat: all of them)
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<Label>,
    /// Only jobs whose newest attempt is on this worker or pod
    #[arg(long, value_name = "NAME")]
    pub worker: Option<String>,
    /// Only jobs created since: `2h` ago, or an RFC 3339 time
    #[arg(long, value_name = "WHEN")]
    pub since: Option<super::parse::Since>,
    /// At most so many
    #[arg(long, default_value_t = 50, value_name = "COUNT", value_parser = at_least_one)]
    pub limit: usize,
    /// Go on and show what changes, until interrupted
    #[arg(short, long)]
    pub watch: bool,
}

#[derive(Debug, Args)]
pub struct Logs {
    pub id: String,
    /// Go on until the job has ended
    #[arg(short, long)]
    pub follow: bool,
    /// Only what was written since: `10m` ago, or an RFC 3339 time
    #[arg(long, value_name = "WHEN")]
    pub since: Option<super::parse::Since>,
    /// Only the last so many lines
    #[arg(long, value_name = "LINES")]
    pub tail: Option<usize>,
    /// Only this attempt
    #[arg(long, value_name = "NUMBER")]
    pub attempt: Option<u32>,
    /// Only these kinds (separate with commas)
    #[arg(long, value_delimiter = ',', value_enum, value_name = "KIND")]
    pub only: Vec<LogKind>,
    /// Only the bytes that were written, without Sortie's own lines
    #[arg(long)]
    pub raw: bool,
}

/// Kinds of log entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogKind {
    Stdout,
    Stderr,
    /// Steps of the job's life
    Events,
}

#[derive(Debug, Args)]
pub struct Wait {
    #[arg(required = true, value_name = "ID")]
    pub ids: Vec<String>,
    /// Until any one of them has ended
    #[arg(long)]
    pub any: bool,
    /// At most so long; then exit 75
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub timeout: Option<Duration>,
    /// Exit with the agent's own code, where it has one
    #[arg(long)]
    pub agent_exit_code: bool,
}

#[derive(Debug, Subcommand)]
pub enum Queue {
    /// Let workers claim nothing more; what runs goes on
    Pause,
    /// Let workers claim again
    Resume,
    /// Limit how many jobs run at a time
    Limit {
        /// A number, or `none`
        running: super::parse::Cap,
        /// Only jobs of this profile
        #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
        profile: Option<String>,
    },
    /// Pushes that were not valid jobs
    Bad {
        #[command(subcommand)]
        action: Bad,
    },
}

#[derive(Debug, Subcommand)]
pub enum Bad {
    /// Show them
    List,
    /// Put them on the queue again
    Requeue(Tickets),
    /// Remove them
    Drop(Tickets),
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Tickets {
    /// Ids, as `sortie queue bad list` shows them
    #[arg(value_name = "ID")]
    pub ids: Vec<String>,
    /// All of them
    #[arg(long)]
    pub all: bool,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be 1 or more".into()),
        Ok(number) => Ok(number),
        Err(_) => Err("is not a number".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_line_is_sound() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn global_flags_may_stand_anywhere() {
        let cli = parse("sortie jobs --redis redis://h -o jsonl --state queued,running").unwrap();
        assert_eq!(cli.global.redis.as_deref(), Some("redis://h"));
        assert_eq!(cli.global.output, Some(Output::Jsonl));
        let Command::Jobs(jobs) = cli.command else { panic!() };
        assert_eq!(jobs.state, [State::Queued, State::Running]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for line in [
            "sortie jobs --json -o yaml",
            "sortie jobs --state cancelled",
            "sortie jobs --limit 0",
            "sortie retry a --fresh --resume",
            "sortie cancel",
            "sortie queue limit many",
            "sortie queue limit 1 --profile=",
            "sortie queue bad drop",
            "sortie queue bad drop --all 7-0",
            "sortie drain --timeout soon",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        assert!(parse("sortie queue bad drop 7-0").is_ok());
    }

    #[test]
    fn typing_mistakes_are_recognised() {
        let error = parse("sortie sumbit x").unwrap_err().to_string();
        assert!(error.contains("'submit'"), "{error}");
        let error = parse("sortie submit --prioriti 3").unwrap_err().to_string();
        assert!(error.contains("'--priority'"), "{error}");
    }
}
