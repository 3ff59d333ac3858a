//! `sortie queue`: the queue in numbers, how it works, and pushes that were not valid jobs.

use super::args::{self, Bad, Output, Tickets};
use super::printer::Tone;
use super::{Context, Exit, Failure, Outcome, words};
use crate::api::wire;
use crate::service::Jobs;
use crate::store::{BadAction, Control, Stats};

pub(super) async fn run(context: &Context, action: Option<args::Queue>) -> Outcome {
    let printer = &context.printer;
    let jobs = context.connect().await?;
    let (control, said) = match action {
        None => {
            show(context, jobs.stats().await?)?;
            return Ok(Exit::Success);
        }
        Some(args::Queue::Bad { action }) => return bad(context, &jobs, action).await,
        Some(args::Queue::Pause) => (
            Control::Pause { by: Context::asker() },
            "paused: nothing more is claimed, what runs goes on; `sortie queue resume` ends it"
                .to_owned(),
        ),
        Some(args::Queue::Resume) => (Control::Resume, "resumed".to_owned()),
        Some(args::Queue::Limit { running, profile }) => {
            let of = profile.as_ref().map(|name| format!(" of profile {name}")).unwrap_or_default();
            let said = match running.0 {
                Some(most) => {
                    format!("at most {} at a time{of}", words::count(most.into(), "job"))
                }
                None => format!("no limit{of}"),
            };
            (Control::Limit { profile, running: running.0 }, said)
        }
    };
    jobs.control(&control).await?;
    printer.note(&said)?;
    Ok(Exit::Success)
}

fn show(context: &Context, stats: Stats) -> Result<(), Failure> {
    let printer = &context.printer;
    if !matches!(printer.format(), Output::Text | Output::Id) {
        return printer.document(&wire::Queue::from(stats));
    }
    if let Some(by) = &stats.paused_by {
        printer.line(&printer.tone(Tone::Bad, &format!("paused by {by}")))?;
    }
    let oldest = stats.oldest_ms.map(|ms| format!("the oldest for {}", words::length(ms)));
    let unopened = (stats.unopened > 0).then(|| format!("{} pushed by others", stats.unopened));
    let pending = [oldest, unopened].into_iter().flatten().collect::<Vec<_>>().join(", ");
    let bad = if stats.bad > 0 { "`sortie queue bad list` shows them" } else { "" };
    for (name, number, note) in [
        ("pending", stats.pending, pending.as_str()),
        ("running", stats.running, ""),
        ("later", stats.later, "delayed, backing off or deferred"),
        ("parked", stats.parked, "held back by a limit on their key or profile"),
        ("waiting", stats.waiting, "for an answer"),
        ("done", stats.done, "ended and still kept"),
        ("dead", stats.dead, ""),
        ("bad", stats.bad, bad),
    ] {
        let note = if number > 0 && !note.is_empty() {
            printer.tone(Tone::Faint, &format!("  {note}"))
        } else {
            String::new()
        };
        printer.line(&format!("{name:<9}{number}{note}"))?;
    }
    for (name, limit) in &stats.limits {
        printer.line(&format!("limit    {name}: {limit}"))?;
    }
    Ok(())
}

async fn bad(context: &Context, jobs: &Jobs, action: Bad) -> Outcome {
    let printer = &context.printer;
    let (action, done, asked) = match action {
        Bad::List => (BadAction::List, None, Vec::new()),
        Bad::Requeue(Tickets { ids, .. }) => {
            (BadAction::Requeue(ids.clone()), Some("queued again"), ids)
        }
        Bad::Drop(Tickets { ids, .. }) => (BadAction::Drop(ids.clone()), Some("removed"), ids),
    };
    let tickets = jobs.store().bad(&action).await?;
    let is_done = |id: &String| tickets.iter().any(|ticket| ticket.id == *id);
    let unknown: Vec<_> = asked.iter().filter(|id| !is_done(id)).map(String::as_str).collect();
    let exit = if unknown.is_empty() { Exit::Success } else { Exit::NotFound };
    if exit == Exit::NotFound {
        let message = format!("there is no bad push {}", unknown.join(", "));
        printer.failure(
            &Failure::new(exit, message).next("`sortie queue bad list` shows those there are"),
        )?;
    }
    match printer.format() {
        Output::Text => {}
        Output::Id => {
            tickets.iter().try_for_each(|ticket| printer.line(&ticket.id))?;
            return Ok(exit);
        }
        Output::Json | Output::Jsonl | Output::Yaml => {
            printer.items(tickets.iter().map(wire::BadTicket::from).collect())?;
            return Ok(exit);
        }
    }
    if let Some(done) = done {
        printer.line(&format!("{} {done}", pushes(tickets.len())))?;
        return Ok(exit);
    }
    let rows: Vec<_> = tickets
        .iter()
        .map(|ticket| {
            let text = words::one_line(&String::from_utf8_lossy(&ticket.bytes));
            vec![
                (Tone::Plain, ticket.id.clone()),
                (Tone::Plain, wire::time(ticket.at_ms)),
                (Tone::Plain, words::one_line(&ticket.reason)),
                (Tone::Faint, text.chars().take(60).collect()),
            ]
        })
        .collect();
    printer.table(&["ID", "AT", "REASON", "PUSHED"], &rows)?;
    Ok(Exit::Success)
}

fn pushes(number: usize) -> String {
    if number == 1 { "1 push".into() } else { format!("{number} pushes") }
}
