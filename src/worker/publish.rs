//! After the process: what an attempt leaves, pushed where the job asks for it, and saved for the
//! next attempt where this one did not succeed.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tracing::warn;

use super::Context;
use super::lease::{Order, Orders};
use super::slot::{End, Stop, ended_by};
use crate::core::{AttemptResult, Fault, JobSpec, Publish};
use crate::git::{self, Checkout};
use crate::store::{self, Claimed};

/// What the lease is made to cover when something is about to be pushed.
const PUSH_COVER: Duration = Duration::from_mins(2);

/// Reports what changed and, where the job asks for it, pushes it.
pub(super) async fn publish(
    cx: &Context,
    claimed: &Claimed,
    spec: &JobSpec,
    checkout: &Checkout,
    orders: &mut watch::Receiver<Orders>,
    result: &mut AttemptResult,
) -> End {
    let is_wanted = spec.publish == Some(Publish::Branch);
    let id = &claimed.token.id;
    let changes = if is_wanted {
        let message = format!("Sortie job {id}\n\nAttempt {}", claimed.counters.attempt);
        cx.git.commit_all(checkout, &message).await
    } else {
        cx.git.changes(checkout).await
    };
    let changes = match changes {
        Ok(changes) => changes,
        Err(git::Error::Invalid(message)) => {
            return End::Fault { fault: Fault::AgentExit, message };
        }
        Err(git::Error::Failed(message)) => {
            return End::Fault { fault: Fault::Publish, message };
        }
    };
    result.head_sha = Some(changes.head.clone());
    result.commits = Some(changes.commits);
    result.changes = Some(changes.diffstat);
    if !is_wanted || changes.commits == 0 {
        return End::Succeeded;
    }
    match store::gate(cx.store.as_ref(), cx.me(), &claimed.token, PUSH_COVER).await {
        Ok(true) => {}
        Ok(false) => {
            // Canceled, or not ours any more: the next heartbeat says which.
            return ended_by(Stop::Ordered(awaited(cx, orders).await), Duration::ZERO);
        }
        Err(error) => {
            let message = format!("cannot tell whether publishing is still ours to do: {error}");
            return End::Fault { fault: Fault::Publish, message };
        }
    }
    let branch = format!("sortie/{id}");
    match cx.git.push(checkout, &changes.head, &branch).await {
        Ok(()) => {
            result.branch = Some(branch);
            End::Succeeded
        }
        Err(error) => {
            End::Fault { fault: Fault::Publish, message: format!("cannot push {branch}: {error}") }
        }
    }
}

/// The order that is on its way when a gate is closed.
async fn awaited(cx: &Context, orders: &mut watch::Receiver<Orders>) -> Order {
    cx.beat_now.notify_one();
    let order = orders.wait_for(|orders| orders.stop.is_some());
    match timeout(cx.settings.lease, order).await {
        Ok(Ok(orders)) => orders.stop.clone().unwrap_or(Order::Lost),
        // Whoever has no leave to write, writes nothing.
        _ => Order::Lost,
    }
}

/// Saves what an unsuccessful attempt has done, for the next one to continue from; forgets what
/// earlier ones saved once it is of no use.
pub(super) async fn keep(
    cx: &Context,
    claimed: &Claimed,
    checkout: &Checkout,
    end: &End,
    result: &mut AttemptResult,
) {
    let (id, attempt) = (claimed.token.id.as_str(), claimed.counters.attempt);
    match end {
        End::Forgotten => {}
        End::Succeeded | End::Rejected { .. } => {
            if claimed.previous.is_some()
                && let Err(problem) = cx.git.forget(&checkout.url, id).await
            {
                warn!(%problem, "the job's checkpoints stay behind");
            }
        }
        End::Fault { .. } | End::Hopeless { .. } => {
            if let Ok(changes) = cx.git.changes(checkout).await {
                result.head_sha = Some(changes.head);
                result.commits = Some(changes.commits);
                result.changes = Some(changes.diffstat);
            }
            match cx.git.checkpoint(checkout, id, attempt).await {
                Ok(reference) => result.checkpoint = Some(reference),
                Err(problem) => warn!(%problem, "the next attempt has to start over"),
            }
        }
    }
}
