//! How far the worker's end has come, and what moves it there: signals, a drain, its deadline.
//!
//! The stage is a value that everybody can look at and wait for; it only ever moves forward.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::Context;
use super::lease::Order;
use crate::store::{Control, Kind};

/// Time that is kept from a drain's own: for stopping, checkpoints and handing back.
const RESERVE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Claims jobs.
    Running,
    /// Claims nothing, and lets its jobs end.
    Draining,
    /// Stops its jobs and hands them back.
    Stopping,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    pub stage: Stage,
    /// When draining turns into stopping.
    pub stop_at: Option<Instant>,
    /// Whether the process ends when nothing is held any more. A drain alone does not end it:
    /// Kubernetes would start the container again.
    pub leaves: bool,
}

/// The one place where the stage is kept.
#[derive(Debug)]
pub(super) struct Stages(watch::Sender<Progress>);

impl Stages {
    pub(super) fn new() -> Self {
        let start = Progress { stage: Stage::Running, stop_at: None, leaves: false };
        Self(watch::Sender::new(start))
    }

    pub(super) fn now(&self) -> Progress {
        *self.0.borrow()
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Progress> {
        self.0.subscribe()
    }

    /// Claims nothing any more; what runs at `stop_at` is stopped. The earliest time counts.
    pub(super) fn drain(&self, stop_at: Option<Instant>) {
        self.0.send_if_modified(|progress| {
            let earliest = [progress.stop_at, stop_at].into_iter().flatten().min();
            let is_new = progress.stage < Stage::Draining || progress.stop_at != earliest;
            progress.stage = progress.stage.max(Stage::Draining);
            progress.stop_at = earliest;
            is_new
        });
    }

    /// The process ends as soon as nothing is held any more.
    pub(super) fn leave(&self) {
        self.0.send_modify(|progress| {
            progress.stage = progress.stage.max(Stage::Draining);
            progress.leaves = true;
        });
    }

    fn stop(&self) {
        self.0.send_modify(|progress| progress.stage = Stage::Stopping);
    }
}

/// When a drain that may take `timeout` in all begins to stop what still runs.
#[must_use]
pub fn drain_within(timeout: Duration) -> Duration {
    timeout.saturating_sub(RESERVE).max(timeout / 2)
}

/// Stops what runs, to hand it back.
pub(super) fn stop(cx: &Context) {
    cx.stages.stop();
    cx.held.order_all(&Order::HandBack);
}

/// Moves the stage on signals and when the drain's time is up. Returns only when signals cannot
/// be listened to.
pub(super) async fn conduct(cx: Arc<Context>) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // From the second signal on, the next one ends the process inside the signal handler: that
    // works even when nothing else does. The supervisors then kill what runs.
    let is_last = Arc::new(AtomicBool::new(false));
    for number in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(number, 128 + number, is_last.clone())?;
    }
    let mut progress = cx.stages.subscribe();
    let mut is_first = true;
    loop {
        let Progress { stage, stop_at, .. } = *progress.borrow_and_update();
        let stop_at = stop_at.filter(|_| stage < Stage::Stopping);
        tokio::select! {
            // Losing one of several signals that came together is the nature of signals.
            _ = terminate.recv() => on_signal(&cx, std::mem::take(&mut is_first), &is_last),
            _ = interrupt.recv() => on_signal(&cx, std::mem::take(&mut is_first), &is_last),
            _ = progress.changed() => {}
            () = sleep_until(stop_at.unwrap_or_else(Instant::now)), if stop_at.is_some() => {
                warn!("the drain's time is up: stopping and handing back what still runs");
                stop(&cx);
            }
        }
    }
}

fn on_signal(cx: &Arc<Context>, is_first: bool, is_last: &AtomicBool) {
    if !is_first {
        warn!("second signal: stopping and handing back what still runs; a third exits at once");
        is_last.store(true, Ordering::SeqCst);
        stop(cx);
        return;
    }
    let within = drain_within(cx.settings.drain_timeout);
    info!(within_s = within.as_secs(), "draining: no new jobs, waiting for those that run");
    cx.stages.drain(Some(Instant::now() + within));
    cx.stages.leave();
    // A task of its own: without the store this takes long, and the next signal must be heard.
    let cx = Arc::clone(cx);
    tokio::spawn(async move {
        let drain = Control::Drain { worker: cx.me().clone(), within };
        match cx.store.control(&drain).await {
            // An idle worker may have left before this was said.
            Err(error) if error.kind() != Kind::NotFound => {
                warn!(%error, "readers do not see that this worker drains");
            }
            _ => {}
        }
    });
}
