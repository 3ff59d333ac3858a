//! After the process: what an attempt leaves, pushed where the job asks for it, and saved for the
//! next attempt where this one did not succeed.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};
use tracing::warn;

use super::Context;
use super::lease::{Order, Orders};
use super::slot::{End, Stop, ended_by};
use crate::core::{AttemptResult, Fault, JobId, JobSpec, Publish};
use crate::git::{self, Checkout, RepoUrl};
use crate::store::{self, Claimed};

/// What the lease is made to cover when something is about to be pushed.
const PUSH_COVER: Duration = Duration::from_mins(2);
/// How often publishing is tried: the agent's work is done, and must not be lost to a bad moment.
const TRIES: u32 = 4;
/// Pause after the first try that failed; each further one is twice as long.
const PAUSE: Duration = Duration::from_secs(1);

/// Reports what changed and, where the job asks for it, pushes it.
pub(super) async fn publish(
    cx: &Context,
    claimed: &Claimed,
    spec: &JobSpec,
    checkout: &Checkout,
    orders: &mut watch::Receiver<Orders>,
    result: &mut AttemptResult,
) -> End {
    let mut pause = PAUSE;
    let mut tries = 1;
    loop {
        let message = match try_to(cx, claimed, spec, checkout, orders, result).await {
            Ok(end) => return end,
            Err(message) if tries == TRIES => {
                return End::Fault { fault: Fault::Publish, message };
            }
            Err(message) => message,
        };
        warn!(message, tries, "cannot publish; trying again");
        let order = orders.wait_for(|orders| orders.stop.is_some());
        if let Ok(Ok(orders)) = timeout(pause, order).await
            && let Some(order) = orders.stop.clone()
        {
            return ended_by(Stop::Ordered(order), Duration::ZERO);
        }
        pause *= 2;
        tries += 1;
    }
}

/// Publishes once. The error is one that may pass.
async fn try_to(
    cx: &Context,
    claimed: &Claimed,
    spec: &JobSpec,
    checkout: &Checkout,
    orders: &mut watch::Receiver<Orders>,
    result: &mut AttemptResult,
) -> Result<End, String> {
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
            return Ok(End::Fault { fault: Fault::AgentExit, message });
        }
        Err(git::Error::Failed(message)) => return Err(message),
    };
    result.head_sha = Some(changes.head.clone());
    result.commits = Some(changes.commits);
    result.changes = Some(changes.diffstat);
    if !is_wanted || changes.commits == 0 {
        return Ok(End::Succeeded);
    }
    let asked = Instant::now();
    match store::gate(cx.store.as_ref(), cx.me(), &claimed.token, PUSH_COVER).await {
        Ok(true) => {}
        Ok(false) => {
            // Canceled, or not ours any more: the next heartbeat says which.
            return Ok(ended_by(Stop::Ordered(awaited(cx, orders).await), Duration::ZERO));
        }
        Err(error) => {
            return Err(format!("cannot tell whether publishing is still ours to do: {error}"));
        }
    }
    let branch = format!("sortie/{id}");
    let covered = asked + PUSH_COVER.saturating_sub(cx.settings.margin);
    let push = cx.git.push(checkout, &changes.head, &branch);
    match while_ours(covered, orders, push).await {
        Some(Ok(())) => {
            result.branch = Some(branch);
            Ok(End::Succeeded)
        }
        Some(Err(git::Error::Invalid(problem))) => {
            let message = format!("cannot push {branch}: {problem}");
            Ok(End::Fault { fault: Fault::Publish, message })
        }
        Some(Err(git::Error::Failed(problem))) => Err(format!("cannot push {branch}: {problem}")),
        None => match orders.borrow().stop.clone() {
            Some(order) => Ok(ended_by(Stop::Ordered(order), Duration::ZERO)),
            None => Err(format!("cannot push {branch}: the store was away for too long")),
        },
    }
}

/// Does `work` for as long as the attempt is known to be ours, `covered` at least. `None`: the lease
/// ran out, or somebody wants no result any more. Then `work` is dropped, which ends its processes.
async fn while_ours<T>(
    covered: Instant,
    orders: &mut watch::Receiver<Orders>,
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut work = pin!(work);
    loop {
        let now = orders.borrow_and_update().clone();
        let until = now.lease_until.max(covered);
        if until <= Instant::now() || now.stop > Some(Order::HandBack) {
            return None;
        }
        // Both others only lead to another look.
        tokio::select! {
            done = &mut work => return Some(done),
            Ok(()) = orders.changed() => {}
            () = sleep_until(until.into()) => {}
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

/// Saves what an unsuccessful attempt has done, for the next one to continue from.
pub(super) async fn keep(
    cx: &Context,
    claimed: &Claimed,
    checkout: &Checkout,
    end: &End,
    result: &mut AttemptResult,
) {
    let (id, attempt) = (claimed.token.id.as_str(), claimed.counters.attempt);
    match end {
        // What earlier attempts saved is kept until the store has accepted the end (`forget`).
        End::Forgotten | End::Succeeded | End::Rejected { .. } => {}
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

/// Forgets what attempts of a job saved that has succeeded, once the store knows that it has: until
/// then another attempt may have to continue from it.
pub(super) async fn forget(cx: Arc<Context>, job: JobId, url: RepoUrl) {
    if let Err(problem) = cx.git.forget(&url, job.as_str()).await {
        warn!(job.id = %job, %problem, "the job's checkpoints stay behind");
    }
}
