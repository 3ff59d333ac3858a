//! `sortie job`: one job, with everything that is known of it.

use super::args::Output;
use super::printer::Tone;
use super::{Context, Exit, Outcome, parse, words};
use crate::api::wire;

pub(super) async fn run(context: &Context, id: &str) -> Outcome {
    let printer = &context.printer;
    let job = context.connect().await?.find(id).await?;
    let json = wire::Job::from(&job);
    match printer.format() {
        Output::Text => {}
        Output::Id => {
            printer.line(job.id.as_str())?;
            return Ok(Exit::Success);
        }
        Output::Json | Output::Jsonl | Output::Yaml => {
            printer.document(&json)?;
            return Ok(Exit::Success);
        }
    }
    let now = parse::now_ms();
    let command = (!job.spec.command.is_empty()).then(|| job.spec.command.join(" "));
    let labels: Vec<_> =
        job.spec.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let phases: Vec<_> = json
        .phases_ms
        .iter()
        .map(|(phase, ms)| format!("{phase} {}", words::length(*ms)))
        .collect();
    let head = json.head_sha.as_ref().map(|head| {
        format!(
            "{head} ({} since {})",
            words::count(json.commits.unwrap_or(0).into(), "commit"),
            json.base_sha.as_deref().unwrap_or("the start")
        )
    });
    let output = (json.output_bytes > 0).then(|| match json.output_dropped {
        0 => words::bytes(json.output_bytes),
        dropped => {
            format!("{}, {} not kept", words::bytes(json.output_bytes), words::bytes(dropped))
        }
    });
    let rows = [
        ("job", Some(json.id)),
        ("state", Some(printer.tone(Tone::of(job.state), job.state.as_str()))),
        ("result", Some(words::now_or_result(now, &job)).filter(|text| !text.is_empty())),
        ("exit code", json.exit_code.map(|code| code.to_string())),
        ("signal", json.signal.map(|signal| signal.to_string())),
        ("attempts", Some(words::attempts(&job))),
        ("worker", json.worker),
        ("profile", json.profile),
        ("agent", json.agent),
        ("model", json.model),
        ("prompt", json.prompt.map(|prompt| words::one_line(&prompt))),
        ("command", command.map(|command| words::one_line(&command))),
        ("repo", json.repo),
        ("ref", json.r#ref),
        ("branch", json.branch),
        ("head", head),
        ("changes", json.changes),
        ("checkpoint", json.checkpoint),
        ("priority", (json.priority != 0).then(|| json.priority.to_string())),
        ("concurrency", json.concurrency_key),
        ("labels", (!labels.is_empty()).then(|| labels.join(" "))),
        ("created", json.created_at),
        ("started", json.started_at),
        ("finished", json.finished_at),
        ("due", json.due_at.filter(|_| !job.state.is_terminal())),
        ("took", words::run(now, &job)),
        ("phases", (!phases.is_empty()).then(|| phases.join(", "))),
        ("output", output),
    ];
    for (name, value) in rows {
        if let Some(value) = value {
            printer.line(&format!("{name:<12}{value}"))?;
        }
    }
    Ok(Exit::Success)
}
