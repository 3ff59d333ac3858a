//! `sortie delete`: an ended job is forgotten.

use super::cancel::each;
use super::{Context, Outcome, words};
use crate::store::Change;

pub(super) async fn run(context: &Context, ids: &[String]) -> Outcome {
    each(context, ids, &Change::Delete, |job, _| {
        let result = &job.result;
        let kept = result.output_bytes.saturating_sub(result.output_dropped);
        let log = words::bytes(kept);
        match &result.branch {
            Some(branch) => format!(
                "forgotten, with its result and {log} of its log; branch {branch} stays in the \
                 repository"
            ),
            None => format!("forgotten, with its result and {log} of its log"),
        }
    })
    .await
}
