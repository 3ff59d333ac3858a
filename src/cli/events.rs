//! `sortie events`: the transitions of all jobs, as they happened and as they happen.

use std::time::Duration;

use super::args::Output;
use super::printer::{Printer, Tone};
use super::{Context, Exit, Failure, Outcome, words};
use crate::api::wire::{self, LogEntry};
use crate::core::{Event, WorkerId};
use crate::store::Entry;

/// How long one wait for the next transition may take.
const WAIT: Duration = Duration::from_secs(20);

pub(super) async fn run(context: &Context, follow: bool, tail: Option<usize>) -> Outcome {
    let printer = &context.printer;
    let jobs = context.connect().await?;
    let mut after = String::from("0");
    let mut kept = Vec::new();
    loop {
        let entries = jobs.events(&after, None).await?;
        let Some(last) = entries.last() else { break };
        after.clone_from(&last.id);
        kept.extend(entries);
        if let Some(tail) = tail {
            kept.drain(..kept.len().saturating_sub(tail));
        }
    }
    if matches!(printer.format(), Output::Json | Output::Yaml) && !follow {
        printer.items(kept.iter().map(LogEntry::from).collect())?;
        return Ok(Exit::Success);
    }
    kept.iter().try_for_each(|entry| print(printer, entry))?;
    if !follow {
        return Ok(Exit::Success);
    }
    // Ends with the process: an interrupt is the way to leave.
    loop {
        printer.flush()?;
        let entries = jobs.events(&after, Some(WAIT)).await?;
        if let Some(last) = entries.last() {
            after.clone_from(&last.id);
        }
        entries.iter().try_for_each(|entry| print(printer, entry))?;
    }
}

fn print(printer: &Printer, entry: &Entry) -> Result<(), Failure> {
    match printer.format() {
        Output::Text => {}
        Output::Id => return printer.line(entry.job.as_str()),
        Output::Json | Output::Jsonl | Output::Yaml => {
            return printer.document(&LogEntry::from(entry));
        }
    }
    let Event::State { state, fault, worker, attempt, message } = &entry.event else {
        return Ok(());
    };
    let worker = WorkerId::from_store(worker.as_str());
    let pod = if worker.pod().is_empty() { "-" } else { worker.pod() };
    let mut cells = vec![
        wire::time(entry.at_ms),
        entry.job.to_string(),
        printer.tone(Tone::of(*state), state.as_str()),
        pod.to_owned(),
        attempt.to_string(),
    ];
    cells.extend(fault.map(|fault| fault.to_string()));
    cells.push(words::one_line(message));
    printer.line(cells.join("  ").trim_end())
}
