//! `sortie submit` and `sortie run`: from flags or a file to queued jobs, and to their end.

use std::path::Path;

use super::args::{Output, Publish, Submit};
use super::interrupt::Interrupt;
use super::transcript::Selection;
use super::wait::{Ended, Patience, until_end};
use super::{Context, Exit, Failure, Outcome, jobs_file, parse, read_stdin, wait, words};
use crate::api::wire;
use crate::config::{self, Sources};
use crate::core::{JobId, JobSpec, SpecError};
use crate::env;
use crate::service::{Error, Jobs};
use crate::store::Submitted;

/// Jobs that are queued in one call.
const BATCH: usize = 500;

pub(super) async fn run(context: &Context, args: &Submit, follows: bool) -> Outcome {
    let (specs, places) = match &args.file {
        Some(_) if follows => {
            return Err(Failure::usage("the output of many jobs at once cannot be followed")
                .next("`sortie submit -f FILE --wait` waits for all of them"));
        }
        Some(path) => jobs_file::read(path)?.into_iter().unzip(),
        None => (vec![spec(args, &context.sources)?], Vec::new()),
    };
    if args.dry_run {
        for spec in &specs {
            context.printer.line(&String::from_utf8_lossy(&spec.to_json()))?;
        }
        return Ok(Exit::Success);
    }
    let waits = args.wait || follows || args.wait_timeout.is_some() || args.cancel_on_interrupt;
    // Before the job exists: an interrupt that is to cancel it must find us listening.
    let mut interrupt = if waits { Some(Interrupt::new()?) } else { None };
    let jobs = context.connect().await?;
    let submitted = queue(context, &jobs, specs, &places).await?;
    report(context, &jobs, &submitted, waits, follows).await?;
    let Some(interrupt) = &mut interrupt else { return Ok(Exit::Success) };
    match until_ends(context, &jobs, args, submitted, follows, interrupt).await {
        // Whoever read our output has left. The jobs go on: nobody may take them for ended.
        Err(failure) if failure.is_broken_pipe() => Ok(Exit::Interrupted),
        ended => ended,
    }
}

/// Waits for jobs one after the other, and ends as the first of them that did not succeed.
async fn until_ends(
    context: &Context,
    jobs: &Jobs,
    args: &Submit,
    submitted: Vec<Submitted>,
    follows: bool,
    interrupt: &mut Interrupt,
) -> Outcome {
    let patience = Patience::new(args.wait_timeout, args.cancel_on_interrupt);
    let ids: Vec<_> = submitted.into_iter().map(|one| one.id).collect();
    let mut exit = Exit::Success;
    let shown = match ids.as_slice() {
        [_] if follows => Some(Selection::default()),
        [_] if context.printer.format() != Output::Jsonl => Some(Selection::steps()),
        // The steps of many jobs, one job after the other, tell nobody anything; and lines of JSON
        // are the jobs themselves.
        _ => None,
    };
    for id in &ids {
        let selection = shown.clone();
        let ended = until_end(context, jobs, id, selection, &patience, interrupt).await;
        match ended.map_err(|failure| wait::while_waiting(failure, id))? {
            Ended::Job(job) => {
                wait::conclude(context, &job)?;
                if exit == Exit::Success {
                    exit = Exit::of(&job, args.agent_exit_code);
                }
            }
            Ended::TimedOut => return wait::timed_out(context, id),
            Ended::Interrupted => return wait::interrupted(context, id),
        }
    }
    Ok(exit)
}

/// Queues jobs in batches. What was wrong with one of them is said before any is queued.
async fn queue(
    context: &Context,
    jobs: &Jobs,
    specs: Vec<JobSpec>,
    places: &[String],
) -> Result<Vec<Submitted>, Failure> {
    let all = specs.len();
    let mut submitted: Vec<Submitted> = Vec::with_capacity(all);
    let mut specs = specs.into_iter().peekable();
    while specs.peek().is_some() {
        let batch: Vec<_> = specs.by_ref().take(BATCH).collect();
        if all > BATCH {
            context.printer.progress(submitted.len(), all);
        }
        match jobs.submit(batch).await {
            Ok(more) => submitted.extend(more),
            Err(error) => {
                let place = match &error {
                    Error::Spec { index, .. } => places.get(submitted.len() + index),
                    _ => None,
                };
                let mut failure = Failure::from(error);
                if let Some(place) = place {
                    failure.message = format!("{place}: {}", failure.message);
                }
                if !submitted.is_empty() {
                    let known = submitted.len();
                    failure.message = format!("{} ({known} of {all} are queued)", failure.message);
                }
                return Err(failure);
            }
        }
    }
    context.printer.finish_live();
    Ok(submitted)
}

/// Says which jobs there are now: ids on standard output, and the rest beside it.
async fn report(
    context: &Context,
    jobs: &Jobs,
    submitted: &[Submitted],
    waits: bool,
    follows: bool,
) -> Result<(), Failure> {
    let printer = &context.printer;
    match printer.format() {
        // Standard output belongs to what the job writes.
        Output::Text if follows => {}
        Output::Text | Output::Id => {
            for one in submitted {
                printer.line(one.id.as_str())?;
            }
        }
        Output::Json | Output::Jsonl | Output::Yaml if waits => {}
        Output::Json | Output::Jsonl | Output::Yaml => {
            let mut records = Vec::with_capacity(submitted.len());
            for one in submitted {
                records.push(wire::Job::from(&jobs.find(one.id.as_str()).await?));
            }
            match <[wire::Job; 1]>::try_from(records) {
                Ok([job]) => printer.document(&job)?,
                Err(records) => printer.items(records)?,
            }
        }
    }
    // A reader may wait for the id while we wait for the job.
    printer.flush()?;
    if printer.is_quiet() {
        return Ok(());
    }
    let line = match submitted {
        [one] => {
            let name = if follows { format!("job {} ", one.id) } else { String::new() };
            match jobs.stats().await {
                _ if !one.is_new => format!("{name}is known already; nothing was queued"),
                Ok(stats) if stats.pending > 0 => {
                    format!("{name}queued; {} pending", words::count(stats.pending, "job"))
                }
                // The job is queued, whether or not the store still answers.
                _ => format!("{name}queued"),
            }
        }
        many => {
            let new = many.iter().filter(|one| one.is_new).count();
            let known = many.len() - new;
            let also = if known > 0 { format!(", {known} known already") } else { String::new() };
            format!("{} queued{also}", words::count(new as u64, "job"))
        }
    };
    printer.note(&format!("· {line}"))?;
    if let Ok(workers) = jobs.workers().await
        && workers.iter().all(|worker| worker.is_lost)
    {
        printer.note("· there is no worker yet; `sortie worker` starts one")?;
    }
    if waits {
        printer.live("waiting for a worker");
    }
    Ok(())
}

/// The job that the flags describe.
fn spec(args: &Submit, sources: &Sources) -> Result<JobSpec, Failure> {
    let prompt = match (&args.prompt, &args.prompt_file) {
        (Some(dash), _) if dash == "-" => Some(read_stdin()?),
        (Some(prompt), _) => Some(prompt.clone()),
        (None, Some(path)) if path == Path::new("-") => Some(read_stdin()?),
        (None, Some(path)) => Some(std::fs::read_to_string(path).map_err(|error| {
            Failure::usage(format!("cannot read the prompt from {}: {error}", path.display()))
        })?),
        (None, None) => None,
    };
    let text =
        |variable, flag: &Option<String>| sources.optional(variable, flag.clone(), config::text);
    // A command is run as it is: an agent that is set for other jobs has no say in it.
    let of_agent = |variable, flag: &Option<String>| {
        if args.command.is_empty() { text(variable, flag) } else { Ok(flag.clone()) }
    };
    let publish = |text: &str| {
        clap::ValueEnum::from_str(text, false).map_err(|_| "one of: none, branch".to_owned())
    };
    // Rounded up: a limit may be longer than what was asked for, not shorter, and never none.
    let timeout = sources.optional(&env::TIMEOUT, args.timeout, config::duration)?;
    let timeout_s = timeout.map(|limit| parse::ms(limit).div_ceil(1000));
    let delay_ms = match (args.delay, args.at) {
        (Some(delay), _) => Some(parse::ms(delay)),
        (None, Some(at)) => Some(at.0.saturating_sub(parse::now_ms())),
        (None, None) => None,
    };
    let (concurrency_key, concurrency_limit) = match &args.concurrency_key {
        Some(limited) => (Some(limited.key.clone()), limited.limit),
        None => (None, None),
    };
    let spec = JobSpec {
        id: args.id.clone(),
        prompt,
        command: args.command.clone(),
        repo: text(&env::REPO, &args.repo)?,
        reference: text(&env::REFERENCE, &args.reference)?,
        profile: of_agent(&env::PROFILE, &args.profile)?,
        agent: of_agent(&env::AGENT, &args.agent)?,
        model: of_agent(&env::MODEL, &args.model)?,
        env: args.env.iter().map(|one| (one.0.clone(), one.1.clone())).collect(),
        priority: sources.get(&env::PRIORITY, args.priority, config::parsed)?,
        delay_ms: delay_ms.filter(|ms| *ms > 0),
        timeout_s,
        max_attempts: sources.optional(&env::MAX_ATTEMPTS, args.max_attempts, config::parsed)?,
        concurrency_key,
        concurrency_limit,
        idempotency_key: args.idempotency_key.clone(),
        labels: args.labels.iter().map(|one| (one.0.clone(), one.1.clone())).collect(),
        publish: sources.optional(&env::PUBLISH, args.publish, publish)?.map(Into::into),
    };
    if spec.repo.is_none() {
        for (flag, is_typed) in [
            ("--publish branch", args.publish == Some(Publish::Branch)),
            ("--ref", args.reference.is_some()),
        ] {
            if is_typed {
                return Err(Failure::usage(format!("{flag} means nothing without a repository"))
                    .next("name one with --repo"));
            }
        }
    }
    spec.check().map_err(|problem| match problem {
        SpecError::Empty if args.prompt.is_some() || args.prompt_file.is_some() => {
            Failure::usage("the prompt is empty")
        }
        SpecError::Empty => Failure::usage(problem.to_string())
            .next("`sortie submit \"fix the tests\"`, or `sortie submit -- make test`"),
        _ => Failure::usage(problem.to_string()),
    })?;
    Ok(spec)
}

/// The id of a job that is waited for, as a hint for coming back to it.
pub(super) fn come_back(id: &JobId) -> String {
    format!("`sortie logs -f {id}` shows how it goes on")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};

    fn json(words: &[&str]) -> String {
        let words = [&["sortie", "submit"], words].concat();
        let Command::Submit(args) = <Cli as clap::Parser>::parse_from(words).command else {
            panic!()
        };
        match spec(&args, &Sources::default()) {
            Ok(spec) => String::from_utf8(spec.to_json()).unwrap(),
            Err(failure) => failure.message,
        }
    }

    #[test]
    fn flags_become_fields() {
        assert_eq!(json(&["do it"]), r#"{"prompt":"do it"}"#);
        assert_eq!(
            json(&[
                "--repo=r",
                "--ref=main",
                "--timeout=1500ms",
                "--priority=2",
                "--delay=1m",
                "--concurrency-key=k:2",
                "--label=a=b",
                "--env=C=d",
                "--publish=branch",
                "--id=x",
                "--max-attempts=1",
                "--",
                "make",
                "test",
            ]),
            r#"{"id":"x","command":["make","test"],"repo":"r","ref":"main","env":{"C":"d"},"priority":2,"delay_ms":60000,"timeout_s":2,"max_attempts":1,"concurrency_key":"k","concurrency_limit":2,"labels":{"a":"b"},"publish":"branch"}"#
        );
        assert!(json(&["--at=2001-01-01T00:00:00Z", "x"]).ends_with(r#"{"prompt":"x"}"#));
    }

    #[test]
    fn what_no_worker_could_run_is_refused_here() {
        assert!(json(&[]).contains("`command`"));
        assert_eq!(json(&[" "]), "the prompt is empty");
        assert!(json(&["x", "--publish=branch"]).contains("--publish branch"));
        assert!(json(&["x", "--ref=main"]).contains("--ref"));
        assert!(json(&["x", "--priority=11"]).contains("`priority`"));
        assert!(json(&["x", "--timeout=0s"]).contains("`timeout_s`"));
        assert!(json(&["--prompt-file=/does/not/exist"]).contains("/does/not/exist"));
    }
}
