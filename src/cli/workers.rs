//! `sortie workers`: who works, and who does not.

use super::args::Output;
use super::printer::Tone;
use super::{Context, Exit, Outcome, parse, words};
use crate::api::wire;

pub(super) async fn run(context: &Context) -> Outcome {
    let printer = &context.printer;
    let mut records = context.connect().await?.workers().await?;
    records.sort_by(|a, b| (a.is_lost, a.ordinal, &a.id).cmp(&(b.is_lost, b.ordinal, &b.id)));
    match printer.format() {
        Output::Text => {}
        Output::Id => {
            records.iter().try_for_each(|record| printer.line(record.id.as_str()))?;
            return Ok(Exit::Success);
        }
        Output::Json | Output::Jsonl | Output::Yaml => {
            printer.items(records.iter().map(wire::Worker::from).collect())?;
            return Ok(Exit::Success);
        }
    }
    let now = parse::now_ms();
    let rows: Vec<_> = records
        .iter()
        .map(|record| {
            let worker = wire::Worker::from(record);
            let tone = match worker.state {
                "ready" => Tone::Good,
                "lost" => Tone::Bad,
                _ => Tone::Busy,
            };
            let plain = |text: String| (Tone::Plain, text);
            vec![
                plain(worker.pod_name),
                (tone, worker.state.to_owned()),
                plain(format!("{}/{}", worker.running, worker.slots)),
                plain(words::age(now, record.started_at_ms)),
                plain(words::age(worker.silent_ms, 0)),
                plain(worker.version),
                plain(worker.quarantine.map(|why| words::one_line(&why)).unwrap_or_default()),
            ]
        })
        .collect();
    printer.table(&["WORKER", "STATE", "BUSY", "AGE", "SILENT", "VERSION", "REASON"], &rows)?;
    Ok(Exit::Success)
}
