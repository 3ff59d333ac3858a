//! `sortie help`: topics, and the help of commands.

use clap::CommandFactory;

use super::args::Cli;
use super::exit;
use super::{Context, Exit, Failure, Outcome};
use crate::core::{Fault, State};
use crate::env;

const TOPICS: &str = "exit-codes, environment, states, profiles";

const PROFILES: &str = r#"# Profiles

A profile is a named set of settings under which a worker runs a job's agent: a file `NAME.toml` in
the directory that `sortie worker --profiles DIR` names. The job's prompt arrives on the command's
standard input, and its path is in `SORTIE_PROMPT_FILE`.

    command = ["claude", "-p", "--output-format", "stream-json"]
    timeout_s = 3600         # wall clock limit of jobs that name none
    max_attempts = 3         # failures before such a job is dead
    [env]
    DISABLE_TELEMETRY = "1"  # the job's own environment wins

`sortie submit --profile NAME` asks for one; without it a job runs under the worker's
`--default-profile`. A job with a command of its own (`sortie submit -- make test`) needs none; it is
counted under the profile `command`.
"#;

pub(super) fn run(context: &Context, about: &[String]) -> Outcome {
    let printer = &context.printer;
    match about {
        [] => printer.text(&Cli::command().render_long_help().to_string())?,
        [topic] if topic == "exit-codes" => printer.text(&exit::reference())?,
        [topic] if topic == "environment" => printer.text(&env::reference())?,
        [topic] if topic == "states" => printer.text(&states())?,
        [topic] if topic == "profiles" => printer.text(PROFILES)?,
        words => printer.text(&of_command(words)?)?,
    }
    Ok(Exit::Success)
}

fn of_command(words: &[String]) -> Result<String, Failure> {
    let mut command = Cli::command();
    // Gives subcommands their full names and the global flags.
    command.build();
    let mut current = &mut command;
    for word in words {
        let Some(next) = current.find_subcommand_mut(word) else {
            return Err(Failure::usage(format!(
                "there is no command or topic {:?}",
                words.join(" ")
            ))
            .next(format!("`sortie help` lists the commands; topics are: {TOPICS}")));
        };
        current = next;
    }
    Ok(current.render_long_help().to_string())
}

fn states() -> String {
    let states = State::ALL.map(|state| format!("    {state:<14}{}", meaning(state)));
    let faults = Fault::ALL.map(|fault| format!("    {fault:<14}{}", what_follows(fault)));
    format!(
        "# States of a job\n\n{}\n\n\
         An attempt that does not succeed has a fault, which decides what happens next:\n\n{}\n",
        states.join("\n"),
        faults.join("\n")
    )
}

const fn meaning(state: State) -> &'static str {
    match state {
        State::Queued => "runnable, or held back by a delay, a backoff or a concurrency limit",
        State::Running => "leased by one worker",
        State::Waiting => "stopped for an answer from outside; holds no slot",
        State::Deferred => "held back until a provider's limit resets",
        State::Succeeded => "ended: the agent did it",
        State::Failed => "ended: the agent said no, or a fault that another attempt would not mend",
        State::Canceled => "ended: somebody asked for it",
        State::Dead => "ended: its attempts, or the workers it may lose, are used up",
        State::Rejected => "ended: never ran, refused by a rule or invalid",
    }
}

const fn what_follows(fault: Fault) -> &'static str {
    match fault {
        Fault::AgentExit => "the agent failed or crashed: again after a backoff, charged",
        Fault::Timeout => "over the wall clock limit: again after a backoff, charged",
        Fault::Idle => "no sign of life for too long: again after a backoff, charged",
        Fault::Oom => "over its memory budget: once more, charged",
        Fault::Overloaded => "the provider failed: again after 30 s to 15 min, free, 5 times",
        Fault::RateLimited => "the provider's limit is reached: deferred for a minute, free",
        Fault::Quota => "out of credit: failed",
        Fault::Auth => "not logged in: failed",
        Fault::Model => "unknown model: failed",
        Fault::Context => "the conversation no longer fits: once more, charged",
        Fault::Budget => "a limit in dollars, tokens or turns was reached: failed",
        Fault::Verify => "a check after the agent failed: failed, charged",
        Fault::NoChanges => "changes were expected and there are none: failed, charged",
        Fault::Publish => "push or pull request failed: failed",
        Fault::Policy => "refused by a rule: rejected",
        Fault::Workspace => "clone, checkout or disk: at once on another worker, free, 10 times",
        Fault::Spawn => "the process could not be started: at once elsewhere, free, 10 times",
        Fault::Lost => "the worker vanished: at once elsewhere, free, 3 times",
        Fault::Interrupted => "a drain handed it back: at once elsewhere, free",
        Fault::Canceled => "asked for: canceled",
    }
}
