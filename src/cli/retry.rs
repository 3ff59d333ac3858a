//! `sortie retry`: an ended job runs again.

use super::cancel::each;
use super::{Context, Outcome};
use crate::store::Change;

pub(super) async fn run(context: &Context, ids: &[String], fresh: bool) -> Outcome {
    each(context, ids, &Change::Retry { fresh }, |job, _| match (&job.result.checkpoint, fresh) {
        (Some(checkpoint), false) => format!("queued again, from {checkpoint}"),
        (Some(checkpoint), true) => {
            format!("queued again, from the start; the work in {checkpoint} is not used")
        }
        (None, _) => "queued again, from the start".into(),
    })
    .await
}
