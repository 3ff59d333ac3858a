//! `sortie fsck`: does every record of the store fit the places it is in?

use super::args::Output;
use super::{Context, Exit, Outcome};

pub(super) async fn run(context: &Context) -> Outcome {
    let printer = &context.printer;
    let problems = context.connect().await?.store().fsck().await?;
    let exit = if problems.is_empty() { Exit::Success } else { Exit::Failed };
    if matches!(printer.format(), Output::Text | Output::Id) {
        problems.iter().try_for_each(|problem| printer.line(problem))?;
        if problems.is_empty() {
            printer.note("all records are in their places")?;
        }
    } else {
        printer.items(problems)?;
    }
    Ok(exit)
}
