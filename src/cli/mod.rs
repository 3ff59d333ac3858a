//! Layer 4: the command line. [`args`] says what can be typed, [`crate::config`] where the other
//! settings come from, one file per subcommand what is done, and [`printer`] alone prints.
//!
//! A command is a function from its arguments to an [`Outcome`]: an exit code, or a [`Failure`]
//! that says what, why and what next. Commands that need no store never start a runtime, so that
//! `sortie version` and completions are immediate.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::config::{self, Sources};
use crate::env;
use crate::service::Jobs;
use crate::store::{self, Terms};

pub mod args;
pub mod bench;
mod cancel;
mod completions;
mod config_show;
mod delete;
mod doctor;
mod drain;
mod events;
mod exit;
mod figures;
mod fsck;
mod gc;
mod help;
mod interrupt;
mod job;
mod jobs;
mod jobs_file;
mod logs;
mod parse;
mod printer;
mod queue;
mod retry;
mod submit;
mod transcript;
mod version;
mod wait;
mod words;
mod worker;
mod workers;

pub use exit::{Exit, Failure, Outcome};

use args::{Cli, Color, Command, Global, Output};
use printer::Printer;

/// What every command works with.
#[derive(Debug)]
struct Context {
    sources: Sources,
    printer: Printer,
    global: Global,
}

/// Parses the command line, does what it says, and answers the exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let error = explained(error);
            // Help that was asked for goes to standard output; a reader may have gone away.
            let _printed = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage.code()));
        }
    };
    let Cli { global, command } = cli;
    let format = match global.output {
        Some(format) => format,
        None if global.json => Output::Json,
        None => Output::Text,
    };
    let (sources, problem) = match Sources::load() {
        Ok(sources) => (sources, None),
        Err(problem) => (Sources::default(), Some(problem)),
    };
    let color = sources.get(&env::COLOR, global.color, color);
    let has_no_color = std::env::var_os(env::NO_COLOR).is_some_and(|value| !value.is_empty());
    let printer =
        Printer::new(format, global.quiet, *color.as_ref().unwrap_or(&Color::Auto), has_no_color);
    let context = Context { sources, printer, global };
    let outcome = match problem.or(color.err()) {
        Some(problem) if !works_without_settings(&command) => Err(problem.into()),
        _ => context.dispatch(command),
    };
    context.printer.finish_live();
    let outcome = outcome.and_then(|exit| match context.printer.flush() {
        // A reader who has left does not change how the job ended.
        Err(failure) if !failure.is_broken_pipe() => Err(failure),
        _ => Ok(exit),
    });
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => {
            if !failure.is_broken_pipe() {
                // Nothing is left to tell if standard error is gone too.
                let _printed = context.printer.failure(&failure);
            }
            failure.exit.into()
        }
    }
}

/// Two words where there should be one are a command without its `--`, or a prompt without quotes.
fn explained(mut error: clap::Error) -> clap::Error {
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidArg) else { return error };
    let asks = std::env::args_os().nth(1).is_some_and(|name| name == "submit" || name == "run");
    if asks && error.kind() == ErrorKind::UnknownArgument && !word.starts_with('-') {
        let tip = "a command stands after `--`: sortie run -- make test; a prompt in quotes";
        let tips = ContextValue::StyledStrs(vec![tip.into()]);
        error.insert(ContextKind::Suggested, tips);
    }
    error
}

/// What explains the settings, and what every new shell runs, must work when they are wrong.
fn works_without_settings(command: &Command) -> bool {
    matches!(command, Command::Help { .. } | Command::Version | Command::Completions { .. })
}

fn color(text: &str) -> Result<Color, String> {
    clap::ValueEnum::from_str(text, false).map_err(|_| "one of: auto, always, never".into())
}

impl Context {
    fn dispatch(&self, command: Command) -> Outcome {
        match command {
            Command::Submit(args) => block_on(submit::run(self, &args, args.follow)),
            Command::Run(args) => block_on(submit::run(self, &args, true)),
            Command::Job { id } => block_on(job::run(self, &id)),
            Command::Jobs(args) => block_on(jobs::run(self, &args)),
            Command::Logs(args) => block_on(logs::run(self, &args)),
            Command::Wait(args) => block_on(wait::run(self, &args)),
            Command::Cancel { ids } => block_on(cancel::run(self, &ids)),
            Command::Retry { ids, resume: _, fresh } => block_on(retry::run(self, &ids, fresh)),
            Command::Delete { ids } => block_on(delete::run(self, &ids)),
            Command::Worker(args) => worker::run(self, args),
            Command::Drain { timeout, worker } => {
                block_on(drain::run(self, timeout, worker.as_deref()))
            }
            Command::Workers => block_on(workers::run(self)),
            Command::Queue { action } => block_on(queue::run(self, action)),
            Command::Events { follow, tail } => block_on(events::run(self, follow, tail)),
            Command::Gc { dry_run } => block_on(gc::run(self, dry_run)),
            Command::Doctor { worktrees, shared } => block_on(doctor::run(self, worktrees, shared)),
            Command::Fsck => block_on(fsck::run(self)),
            Command::Bench { parts } => block_on(figures::run(self, &parts)),
            Command::Config => config_show::run(self),
            Command::Completions { shell } => completions::run(self, shell),
            Command::Version => version::run(self),
            Command::Help { about } => help::run(self, &about),
        }
    }

    /// How to reach the store.
    fn store_settings(&self) -> Result<store::redis::Settings, Failure> {
        let (sources, global) = (&self.sources, &self.global);
        Ok(store::redis::Settings {
            url: sources.get(&env::REDIS, global.redis.clone(), config::text)?,
            queue: sources.get(&env::QUEUE, global.queue.clone(), config::text)?,
            terms: Terms {
                lease: sources.get(&env::LEASE, None, config::duration)?,
                job_ttl: sources.get(&env::JOB_TTL, None, config::duration)?,
                dead_ttl: sources.get(&env::DEAD_TTL, None, config::duration)?,
                history: sources.get(&env::HISTORY, None, config::parsed)?,
            },
            allow_eviction: sources.get(&env::ALLOW_EVICTION, None, config::parsed)?,
        })
    }

    async fn connect(&self) -> Result<Jobs, Failure> {
        let settings = self.store_settings()?;
        Ok(Jobs::new(store::redis::connect(settings, store::redis::Role::Client).await?))
    }

    /// Who asks, for records of who canceled or paused something.
    fn asker() -> String {
        let name = ["USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
        let host = nix::unistd::gethostname().ok().and_then(|host| host.into_string().ok());
        match (name, host) {
            (Some(name), Some(host)) => format!("{name}@{host}"),
            (Some(name), None) => name,
            (None, Some(host)) => host,
            (None, None) => "command line".into(),
        }
    }
}

/// Runs a command that talks to the store. One thread: it waits for one thing at a time.
fn block_on(command: impl Future<Output = Outcome>) -> Outcome {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot start: {error}")))?
        .block_on(command)
}

/// Everything that standard input has.
fn read_stdin() -> Result<String, Failure> {
    if std::io::stdin().is_terminal() {
        return Err(Failure::usage("standard input is a terminal, so nothing can be read from it")
            .next("pipe something into it, or give the text as an argument"));
    }
    std::io::read_to_string(std::io::stdin())
        .map_err(|error| Failure::usage(format!("cannot read standard input: {error}")))
}
