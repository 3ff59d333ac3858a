//! `sortie wait`, and waiting for a job in general.

use std::time::Duration;

use tokio::time::Instant;

use super::args::{Output, Wait};
use super::interrupt::Interrupt;
use super::printer::Tone;
use super::submit::come_back;
use super::transcript::{Selection, Transcript};
use super::{Context, Exit, Failure, Outcome, parse, words};
use crate::api::wire;
use crate::core::{Job, JobId};
use crate::service::{Jobs, Step, Waited};
use crate::store::Change;

pub(super) async fn run(context: &Context, args: &Wait) -> Outcome {
    let jobs = context.connect().await?;
    let mut ids = Vec::with_capacity(args.ids.len());
    for id in &args.ids {
        ids.push(jobs.find(id).await?.id);
    }
    let mut interrupt = Interrupt::new()?;
    context.printer.live(&format!("waiting for {}", words::count(ids.len() as u64, "job")));
    let waited = tokio::select! {
        // Only reads: it may be dropped at any point.
        waited = jobs.wait(&ids, args.any, args.timeout) => {
            waited.map_err(|error| while_waiting(error.into(), &ids[0]))?
        }
        () = interrupt.wait() => return interrupted(context, &ids[0]),
    };
    context.printer.finish_live();
    let Waited::Ended(ended) = waited else { return timed_out(context, &ids[0]) };
    for job in &ended {
        match conclude(context, job) {
            // A reader who has left does not change how the jobs ended.
            Err(failure) if failure.is_broken_pipe() => break,
            concluded => concluded?,
        }
    }
    let exits = ended.iter().map(|job| Exit::of(job, args.agent_exit_code));
    Ok(exits.into_iter().find(|exit| *exit != Exit::Success).unwrap_or(Exit::Success))
}

/// How long and how stubbornly a job is waited for.
#[derive(Debug)]
pub(super) struct Patience {
    until: Option<Instant>,
    cancels: bool,
}

impl Patience {
    pub(super) fn new(limit: Option<Duration>, cancels: bool) -> Self {
        // A limit too large for the clock is none.
        Self { until: limit.and_then(|limit| Instant::now().checked_add(limit)), cancels }
    }

    async fn over(&self) {
        match self.until {
            Some(until) => tokio::time::sleep_until(until).await,
            None => std::future::pending().await,
        }
    }
}

/// How waiting for one job ended.
#[derive(Debug)]
pub(super) enum Ended {
    Job(Box<Job>),
    TimedOut,
    Interrupted,
}

/// Waits for a job's end, and shows what the selection wants of its log meanwhile.
pub(super) async fn until_end(
    context: &Context,
    jobs: &Jobs,
    id: &JobId,
    selection: Option<Selection>,
    patience: &Patience,
    interrupt: &mut Interrupt,
) -> Result<Ended, Failure> {
    let mut transcript = selection.map(|selection| Transcript::new(&context.printer, selection));
    let mut follow = jobs.follow(id, "");
    let mut cancels = patience.cancels;
    loop {
        tokio::select! {
            biased;
            // All three only wait; the first keeps its position when it is dropped.
            step = follow.next() => match step? {
                Step::Ended(job) => {
                    context.printer.finish_live();
                    return Ok(Ended::Job(job));
                }
                Step::Entries(entries) => {
                    if let Some(transcript) = &mut transcript {
                        entries.iter().try_for_each(|entry| transcript.show(entry))?;
                    }
                }
            },
            () = interrupt.wait() => {
                if !cancels {
                    return Ok(Ended::Interrupted);
                }
                cancels = false;
                let change = Change::Cancel { by: Context::asker() };
                // A job that has ended meanwhile is not to be canceled any more.
                match jobs.change(id.as_str(), &change).await {
                    Ok(_) => context.printer.note("· canceling; interrupt again to stop waiting")?,
                    Err(crate::service::Error::Store(crate::store::Error::Conflict { .. })) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            () = patience.over() => return Ok(Ended::TimedOut),
        }
    }
}

/// Says how a job ended.
pub(super) fn conclude(context: &Context, job: &Job) -> Result<(), Failure> {
    context.printer.document(&wire::Job::from(job))?;
    if context.printer.format() == Output::Id {
        return Ok(());
    }
    let now = parse::now_ms();
    let mut words = vec![format!("job {}", words::id(&job.id))];
    words.push(context.printer.tone(Tone::of(job.state), job.state.as_str()));
    words.extend(words::run(now, job).map(|run| format!("after {run}")));
    if let Some(worker) = &job.worker {
        words.push(format!("on {} (attempt {})", worker.pod(), words::attempts(job)));
    }
    let result = words::now_or_result(now, job);
    let colon = if result.is_empty() { "" } else { ": " };
    context.printer.note(&format!("{}{colon}{result}", words.join(" ")))
}

/// The store went away while a job was waited for: the job does not end with it.
pub(super) fn while_waiting(failure: Failure, id: &JobId) -> Failure {
    if failure.exit == Exit::Unavailable {
        return failure.next(format!("job {id} goes on; `sortie wait {id}` waits for it again"));
    }
    failure
}

/// The time is over.
pub(super) fn timed_out(context: &Context, id: &JobId) -> Outcome {
    context.printer.finish_live();
    context.printer.say(&format!("waited long enough; job {id} goes on. {}", come_back(id)))?;
    Ok(Exit::StillRunning)
}

/// Somebody pressed Ctrl-C.
pub(super) fn interrupted(context: &Context, id: &JobId) -> Outcome {
    context.printer.finish_live();
    context.printer.say(&format!("stopped waiting; job {id} goes on. {}", come_back(id)))?;
    Ok(Exit::Interrupted)
}
