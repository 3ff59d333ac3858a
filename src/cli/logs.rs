//! `sortie logs`: what a job's processes wrote, up to now or until the job has ended.

use super::args::{Logs, Output};
use super::interrupt::Interrupt;
use super::transcript::{Selection, Transcript, tail};
use super::{Context, Exit, Outcome, wait};
use crate::api::wire::LogEntry;
use crate::service::Step;

pub(super) async fn run(context: &Context, args: &Logs) -> Outcome {
    let printer = &context.printer;
    let jobs = context.connect().await?;
    let job = jobs.find(&args.id).await?;
    let selection = Selection {
        only: args.only.clone(),
        attempt: args.attempt,
        since_ms: args.since.map(|since| since.0),
        raw: args.raw,
    };
    let mut entries = jobs.log(&job.id).await?;
    let position = entries.last().map_or(String::new(), |last| last.id.clone());
    entries.retain(|entry| selection.wants(entry));
    if let Some(lines) = args.tail {
        entries = tail(entries, lines, &selection);
    }
    if matches!(printer.format(), Output::Json | Output::Yaml) && !args.follow {
        printer.items(entries.iter().map(LogEntry::from).collect())?;
        return Ok(Exit::Success);
    }
    let mut transcript = Transcript::new(printer, selection);
    entries.iter().try_for_each(|entry| transcript.show(entry))?;
    if !args.follow {
        transcript.finish()?;
        if position.is_empty() {
            printer.note(&format!("· {}; nothing is written yet", job.state))?;
        }
        return Ok(Exit::Success);
    }
    let mut interrupt = Interrupt::new()?;
    let mut follow = jobs.follow(&job.id, &position);
    loop {
        tokio::select! {
            biased;
            // Both only wait; the first keeps its position when it is dropped.
            step = follow.next() => match step? {
                Step::Entries(entries) => {
                    entries.iter().try_for_each(|entry| transcript.show(entry))?;
                }
                Step::Ended(_) => {
                    transcript.finish()?;
                    return Ok(Exit::Success);
                }
            },
            () = interrupt.wait() => return wait::interrupted(context, &job.id),
        }
    }
}
