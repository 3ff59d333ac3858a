//! The exchange: one task that brings the store what has ended and takes what is next, in one call.
//!
//! While a call is on its way more attempts may end; they all go with the next one. The busier the
//! worker, the fewer calls a job costs.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use super::lease::{Order, Orders};
use super::stage::{Progress, Stage};
use super::{Context, publish, slot};
use crate::core::Fault;
use crate::git::RepoUrl;
use crate::store::{Claimed, Exchange, Exchanged, Finish, Finished, Supply, Token, Wake};

/// Longest wait for work before the store is asked without being told to. Jobs whose lease ran out
/// and delayed jobs come into sight then.
const WORK_WAIT: Duration = Duration::from_secs(5);
/// Longest wait for the fleet to be opened again.
const CLOSED_WAIT: Duration = Duration::from_secs(5);
/// Step back for peers with lower ordinals; up to as much again is added at random.
const YIELD: Duration = Duration::from_millis(25);
/// Wakes in a row for which others were faster, before this worker gets slower.
const LOSSES: u32 = 3;
/// How much slower at first; twice as much with each further one, 512 ms at most.
const LOSS_PAUSE: Duration = Duration::from_millis(2);
/// Pauses after a failed call.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(5);

/// What a slot, or the lease keeper, has to report.
#[derive(Debug)]
pub(super) enum Done {
    /// An attempt has ended; its slot is free. With the repository whose checkpoints of the job are
    /// of no use when the end is accepted.
    Finish(Box<Finish>, Option<RepoUrl>),
    /// An attempt that another worker has now; its slot is free.
    Forgotten(Token),
    /// To be handed back, though no slot had it.
    Orphan(Box<Finish>),
}

/// What to wait for before the store is asked for jobs again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    Nothing,
    /// Until the queue is not empty, or this long.
    Work(Duration),
    Until(Instant),
    Transition,
}

struct Desk {
    cx: Arc<Context>,
    busy: u32,
    call: u64,
    finished: Vec<Finish>,
    /// Where jobs that have succeeded left checkpoints.
    saved: HashMap<Token, RepoUrl>,
    pause: Pause,
    /// When stepping back for peers will have been long enough.
    yields_until: Option<Instant>,
    /// Whether the call to come follows a wake-up, and how many such calls in a row got nothing.
    is_woken: bool,
    losses: u32,
}

/// Claims and finishes until the worker leaves and nothing is held any more.
pub(super) async fn run(cx: Arc<Context>, mut done: mpsc::UnboundedReceiver<Done>) {
    let mut progress = cx.stages.subscribe();
    let mut desk = Desk {
        cx,
        busy: 0,
        call: 0,
        finished: Vec::new(),
        saved: HashMap::new(),
        pause: Pause::Nothing,
        yields_until: None,
        is_woken: false,
        losses: 0,
    };
    loop {
        while let Ok(message) = done.try_recv() {
            desk.take(message);
        }
        let now = *progress.borrow_and_update();
        let (want, look_again) = desk.want(now);
        if desk.finished.is_empty() && now.leaves && desk.busy == 0 {
            return;
        }
        if !desk.finished.is_empty() || (want > 0 && desk.pause == Pause::Nothing) {
            desk.exchange(want).await;
            continue;
        }
        desk.wait(want, look_again, &mut done, &mut progress).await;
    }
}

impl Desk {
    fn take(&mut self, message: Done) {
        match message {
            Done::Finish(finish, saved_in) => {
                self.busy -= 1;
                self.saved.extend(saved_in.map(|url| (finish.token.clone(), url)));
                self.finished.push(*finish);
            }
            Done::Forgotten(token) => {
                self.busy -= 1;
                self.cx.held.remove(&token);
            }
            Done::Orphan(finish) => self.finished.push(*finish),
        }
    }

    /// How many jobs to ask for, and when that may change by itself.
    fn want(&self, now: Progress) -> (u32, Option<Instant>) {
        if now.stage > Stage::Running {
            return (0, None);
        }
        let free = self.cx.settings.slots.saturating_sub(self.busy);
        self.cx.quarantine.allows(Instant::now(), free, self.busy)
    }

    /// Waits for anything that makes another look worth while. All of it may be dropped.
    async fn wait(
        &mut self,
        want: u32,
        look_again: Option<Instant>,
        done: &mut mpsc::UnboundedReceiver<Done>,
        progress: &mut watch::Receiver<Progress>,
    ) {
        let cx = Arc::clone(&self.cx);
        tokio::select! {
            Some(message) = done.recv() => self.take(message),
            _ = progress.changed() => {}
            () = sleep_until(look_again.unwrap_or_else(Instant::now)), if look_again.is_some() => {}
            is_woken = pause(&cx, self.pause), if want > 0 => {
                self.is_woken |= is_woken;
                self.pause = Pause::Nothing;
                if is_woken && self.losses >= LOSSES {
                    let slower = LOSS_PAUSE * (1 << (self.losses - LOSSES).min(8));
                    self.pause = Pause::Until(Instant::now() + slower);
                }
            }
        }
    }

    /// One call; started slots and confirmed ends are its effect.
    async fn exchange(&mut self, want: u32) {
        self.call += 1;
        let exchange = Exchange {
            worker: self.cx.me().clone(),
            ordinal: self.cx.record.ordinal,
            call: self.call,
            want,
            has_yielded: self.yields_until.is_some_and(|until| until <= Instant::now()),
            finished: std::mem::take(&mut self.finished),
        };
        self.cx.exchanges.fetch_add(1, Ordering::SeqCst);
        let sent = std::time::Instant::now();
        let answer = deliver(&self.cx, &exchange).await;
        for (finish, finished) in exchange.finished.iter().zip(&answer.finished) {
            self.confirm(finish, *finished);
        }
        let lease_until = self.cx.lease_until(sent);
        let has_claimed = !answer.claimed.is_empty();
        for claimed in answer.claimed {
            self.start(claimed, lease_until);
        }
        self.cx.exchanges.fetch_add(1, Ordering::SeqCst);
        if has_claimed && sent.elapsed() > self.cx.settings.beat {
            // The leases were old when the answer came.
            self.cx.beat_now.notify_one();
        }
        if has_claimed && self.cx.settings.once {
            self.cx.stages.leave();
        }
        if want > 0 {
            self.follow(&answer.supply, has_claimed).await;
        }
    }

    fn confirm(&mut self, finish: &Finish, finished: Finished) {
        self.cx.held.remove(&finish.token);
        let saved_in = self.saved.remove(&finish.token);
        match finished {
            Finished::Accepted if finish.fault == Some(Fault::Interrupted) => {
                self.cx.handed_back.fetch_add(1, Ordering::Relaxed);
            }
            Finished::Accepted => {
                if let Some(url) = saved_in {
                    let job = finish.token.id.clone();
                    tokio::spawn(publish::forget(Arc::clone(&self.cx), job, url));
                }
            }
            Finished::Stale | Finished::Unknown => {
                let id = &finish.token.id;
                info!(job.id = %id, "the end of an attempt was refused: it is not the current one");
            }
        }
    }

    fn start(&mut self, claimed: Claimed, lease_until: std::time::Instant) {
        let orders = Orders { lease_until, stop: None };
        let orders = self.cx.held.insert(claimed.token.clone(), orders);
        self.busy += 1;
        self.cx.running.fetch_add(1, Ordering::SeqCst);
        if self.cx.stages.now().stage >= Stage::Stopping {
            // The order to stop went out before this one was held.
            self.cx.held.order_all(&Order::HandBack);
        }
        tokio::spawn(slot::run(Arc::clone(&self.cx), claimed, orders));
    }

    /// Draws the conclusion from why there was no more.
    async fn follow(&mut self, supply: &Supply, has_claimed: bool) {
        if *supply != Supply::Yield {
            self.yields_until = None;
        }
        let is_loss = self.is_woken && !has_claimed && matches!(supply, Supply::Empty { .. });
        self.losses = if is_loss { self.losses + 1 } else { 0 };
        self.is_woken = false;
        self.pause = match supply {
            // An answer of this kind is for a call that came too late; the next one has a new number.
            Supply::Enough if !has_claimed => Pause::Until(Instant::now() + RETRY_FIRST),
            Supply::Enough => Pause::Nothing,
            Supply::Empty { next_due_ms } => {
                let spread = WORK_WAIT.mul_f64(0.8 + 0.4 * fastrand::f64());
                let due = next_due_ms.map_or(Duration::MAX, Duration::from_millis);
                Pause::Work(spread.min(due.max(Duration::from_millis(1))))
            }
            Supply::Yield => {
                let until = Instant::now() + YIELD.mul_f64(1.0 + fastrand::f64());
                Pause::Until(*self.yields_until.get_or_insert(until))
            }
            Supply::Closed { .. } => Pause::Transition,
            Supply::Draining => {
                self.cx.stages.drain(None);
                // Its answer says by when.
                self.cx.beat_now.notify_one();
                Pause::Nothing
            }
            Supply::Unregistered => {
                self.cx.register().await;
                Pause::Until(Instant::now() + RETRY_FIRST)
            }
        };
    }
}

/// Waits as `pause` says. Answers whether the queue was said not to be empty.
async fn pause(cx: &Context, pause: Pause) -> bool {
    match pause {
        Pause::Nothing => false,
        Pause::Until(until) => {
            sleep_until(until).await;
            false
        }
        Pause::Transition => {
            wake(cx, &Wake::Transition, CLOSED_WAIT).await;
            false
        }
        Pause::Work(limit) => {
            let start = Instant::now();
            wake(cx, &Wake::Work, limit).await;
            start.elapsed() < limit
        }
    }
}

async fn wake(cx: &Context, wake: &Wake, limit: Duration) {
    if let Err(error) = cx.store.wake(wake, limit).await {
        // The exchange that follows waits until the store is back.
        tracing::debug!(%error, "cannot wait for work");
        sleep(RETRY_FIRST).await;
    }
}

/// Makes one call until it is answered. The store makes the same call have its effect once; a
/// worker that leaves in the meantime does not wait for this for ever (`run`).
async fn deliver(cx: &Context, exchange: &Exchange) -> Exchanged {
    let mut pause = RETRY_FIRST;
    loop {
        match cx.store.exchange(exchange).await {
            Ok(answer) => return answer,
            Err(error) => warn!(%error, "cannot exchange jobs with the store; trying again"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(RETRY_LONGEST);
    }
}
