//! `sortie cancel`, and changing several jobs one after the other in general.

use serde::Serialize;

use super::args::Output;
use super::{Context, Exit, Failure, Outcome, words};
use crate::api::wire::API_VERSION;
use crate::core::{Job, State};
use crate::store::Change;

pub(super) async fn run(context: &Context, ids: &[String]) -> Outcome {
    let change = Change::Cancel { by: Context::asker() };
    each(context, ids, &change, |job, state| match (&job.worker, state) {
        _ if job.state.is_terminal() => format!("had ended already: {state}"),
        (Some(worker), State::Running) => {
            format!("{} is asked to stop; its commits are kept with its result", worker.pod())
        }
        (None, State::Running) => "its worker is asked to stop it".into(),
        _ => "canceled; it will not run".into(),
    })
    .await
}

/// What [`each`] did to one job, for scripts.
#[derive(Serialize)]
struct Changed<'a> {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    id: &'a str,
    change: &'static str,
    /// State of the job now; of a deleted one, its last.
    state: State,
}

/// Changes jobs one after the other. What cannot be done to one of them does not keep the others
/// from it; the first failure decides the exit code.
pub(super) async fn each(
    context: &Context,
    ids: &[String],
    change: &Change,
    describe: impl Fn(&Job, State) -> String,
) -> Outcome {
    let printer = &context.printer;
    let jobs = context.connect().await?;
    let mut exit = Exit::Success;
    for id in ids {
        let (job, state) = match jobs.change(id, change).await {
            Ok(changed) => changed,
            Err(error) => {
                let failure = Failure::from(error);
                if failure.exit == Exit::Unavailable {
                    return Err(failure);
                }
                printer.failure(&failure)?;
                if exit == Exit::Success {
                    exit = failure.exit;
                }
                continue;
            }
        };
        match printer.format() {
            Output::Text => {
                printer.line(&format!("{}  {}", words::id(&job.id), describe(&job, state)))?;
            }
            Output::Id => printer.line(job.id.as_str())?,
            Output::Json | Output::Jsonl | Output::Yaml => {
                let change = match change {
                    Change::Cancel { .. } => "cancel",
                    Change::Retry { .. } => "retry",
                    Change::Delete => "delete",
                };
                let id = job.id.as_str();
                printer.document(&Changed { api_version: API_VERSION, id, change, state })?;
            }
        }
    }
    Ok(exit)
}
