//! `sortie gc`: forgets what retention allows to forget.

use serde::Serialize;

use super::args::Output;
use super::{Context, Exit, Outcome, words};
use crate::api::wire::API_VERSION;

#[derive(Serialize)]
struct Swept {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    dry_run: bool,
    records: u64,
    workers: u64,
}

pub(super) async fn run(context: &Context, dry_run: bool) -> Outcome {
    let printer = &context.printer;
    let swept = context.connect().await?.store().sweep(dry_run).await?;
    let (records, workers) = (swept.records, swept.workers);
    if printer.format() == Output::Text {
        let verb = if dry_run { "would remove" } else { "removed" };
        let (records, workers) =
            (words::count(records, "ended job"), words::count(workers, "lost worker"));
        printer.line(&format!("{verb} {records} and {workers}"))?;
    } else {
        printer.document(&Swept { api_version: API_VERSION, dry_run, records, workers })?;
    }
    Ok(Exit::Success)
}
