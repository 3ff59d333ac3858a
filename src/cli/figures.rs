//! `sortie bench`: prints what [`super::bench`] measured.

use super::args::Output;
use super::printer::Tone;
use super::{Context, Exit, Failure, Outcome, bench};

pub(super) async fn run(context: &Context, parts: &[String]) -> Outcome {
    let printer = &context.printer;
    let report = bench::run(parts, |part| {
        // Progress that cannot be printed changes no figure.
        printer.note(part).ok();
    })
    .await
    .map_err(|error| {
        Failure::new(Exit::Failed, format!("cannot measure: {error:#}"))
            .next("the bench starts a redis-server and this program: both must be startable here")
    })?;
    if printer.format() != Output::Text {
        printer.document(&report)?;
        return Ok(Exit::Success);
    }
    let number =
        |number: Option<f64>| number.map_or(String::new(), |number| format!("{number:.2}"));
    let rows: Vec<_> = report
        .figures
        .iter()
        .map(|figure| {
            let (tone, verdict) = match figure.is_reached {
                Some(true) => (Tone::Good, "reached"),
                Some(false) => (Tone::Bad, "missed"),
                None => (Tone::Plain, ""),
            };
            vec![
                (Tone::Plain, figure.name.clone()),
                (Tone::Plain, format!("{:.2} {}", figure.value, figure.unit)),
                (Tone::Plain, number(figure.p99)),
                (Tone::Plain, number(figure.pings)),
                (Tone::Plain, figure.target.clone().unwrap_or_default()),
                (tone, verdict.to_owned()),
            ]
        })
        .collect();
    printer
        .note(&format!("{} on {} cores, Redis {}", report.version, report.cores, report.redis))?;
    printer.table(&["FIGURE", "VALUE", "P99", "PINGS", "TARGET", "VERDICT"], &rows)?;
    Ok(Exit::Success)
}
