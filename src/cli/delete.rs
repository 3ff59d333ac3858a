//! `sortie delete`: an ended job is forgotten.

use super::cancel::each;
use super::{Context, Outcome, words};
use crate::store::Change;

pub async fn run(context: &Context, ids: &[String]) -> Outcome {
    each(context, ids, &Change::Delete, |job, _| {
        let result = &job.result;
        let kept = result.output_bytes.saturating_sub(result.output_dropped);
        let mut line = format!("forgotten, with its result and {} of its log", words::bytes(kept));
        if let Some(branch) = &result.branch {
            line += &format!("; branch {branch} stays in the repository");
        }
        line
    })
    .await
}
