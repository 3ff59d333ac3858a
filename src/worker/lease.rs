//! Keeping what is held: one heartbeat a tick for all attempts, and what its answer means for each.
//!
//! A lease counts from the instant just before the call that renewed it was made, on this
//! process's monotonic clock, less a margin. So it ends here before it ends in the store, whatever
//! the network did. What holds the process tree to that is its supervisor (`exec`), not this task.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};
use tracing::{info, warn};

use super::Context;
use super::claim::Done;
use super::slot::hand_back;
use crate::store::{Beat, Pulse, Token, Verdict, Wake};

/// Longest wait for a poke; after it the wait starts over, and a beat checks that all is well.
const POKE_WAIT: Duration = Duration::from_secs(30);
/// Least time between two waits for a poke, so that a store that answers at once is not flooded.
const POKE_PAUSE: Duration = Duration::from_millis(20);
/// Pause after a wait that failed.
const POKE_RETRY: Duration = Duration::from_secs(1);

/// What an attempt must know from outside.
#[derive(Clone, Debug)]
pub(super) struct Orders {
    pub lease_until: Instant,
    pub stop: Option<Order>,
}

/// Why an attempt must end. A later one outweighs an earlier one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Order {
    HandBack,
    Cancel {
        by: String,
    },
    /// Another attempt is the current one: write nothing more.
    Lost,
}

/// The attempts that this worker holds, until the store has confirmed their end.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<HashMap<Token, watch::Sender<Orders>>>);

impl Held {
    pub(super) fn insert(&self, token: Token, orders: Orders) -> watch::Receiver<Orders> {
        let sender = watch::Sender::new(orders);
        let receiver = sender.subscribe();
        self.attempts().insert(token, sender);
        receiver
    }

    pub(super) fn remove(&self, token: &Token) {
        self.attempts().remove(token);
    }

    pub(super) fn tokens(&self) -> Vec<Token> {
        self.attempts().keys().cloned().collect()
    }

    fn contains(&self, token: &Token) -> bool {
        self.attempts().contains_key(token)
    }

    fn extend(&self, token: &Token, until: Instant) {
        if let Some(orders) = self.attempts().get(token) {
            orders.send_if_modified(|orders| {
                let is_later = until > orders.lease_until;
                orders.lease_until = orders.lease_until.max(until);
                is_later
            });
        }
    }

    fn order(&self, token: &Token, order: &Order) {
        if let Some(orders) = self.attempts().get(token) {
            give(orders, order);
        }
    }

    pub(super) fn order_all(&self, order: &Order) {
        for orders in self.attempts().values() {
            give(orders, order);
        }
    }

    fn attempts(&self) -> MutexGuard<'_, HashMap<Token, watch::Sender<Orders>>> {
        // Nothing in here panics halfway through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn give(orders: &watch::Sender<Orders>, order: &Order) {
    orders.send_if_modified(|orders| {
        let is_heavier = orders.stop.as_ref() < Some(order);
        if is_heavier {
            orders.stop = Some(order.clone());
        }
        is_heavier
    });
}

/// Beats until the process ends.
pub(super) async fn run(cx: Arc<Context>) {
    let mut suspects = HashSet::new();
    let mut next = Instant::now() + cx.settings.beat;
    loop {
        tokio::select! {
            () = sleep_until(next.into()) => {}
            () = cx.beat_now.notified() => {}
        }
        let sent = Instant::now();
        // A call that took longer than a tick (the store was away) has renewed little or nothing:
        // the next one follows at once.
        next = sent + cx.settings.beat;
        let exchanges = cx.exchanges.load(Ordering::SeqCst);
        let beat = Beat {
            worker: cx.me().clone(),
            held: cx.held.tokens(),
            lease: cx.settings.lease,
            is_whole: true,
            quarantine: cx.quarantine.reason(),
        };
        let pulse = match cx.store.beat(&beat).await {
            Ok(pulse) => pulse,
            Err(error) => {
                warn!(%error, "a heartbeat failed; jobs freeze when their leases run out");
                next = next.max(Instant::now() + POKE_RETRY);
                continue;
            }
        };
        obey(&cx, &beat, &pulse, sent);
        let is_quiet =
            exchanges.is_multiple_of(2) && cx.exchanges.load(Ordering::SeqCst) == exchanges;
        if is_quiet {
            suspects = hand_back_orphans(&cx, &suspects, pulse.others);
        }
        if !pulse.is_registered {
            cx.register().await;
        }
    }
}

fn obey(cx: &Context, beat: &Beat, pulse: &Pulse, sent: Instant) {
    let until = cx.lease_until(sent);
    for (token, verdict) in beat.held.iter().zip(&pulse.verdicts) {
        match verdict {
            Verdict::Keep => cx.held.extend(token, until),
            // Still ours until it has stopped.
            Verdict::Cancel { by } => {
                cx.held.extend(token, until);
                cx.held.order(token, &Order::Cancel { by: by.clone() });
            }
            Verdict::Lost => cx.held.order(token, &Order::Lost),
        }
    }
    if let Some(within) = pulse.drain_in {
        cx.stages.drain(Some(tokio::time::Instant::now() + within));
    }
}

/// Hands back what the store counts as ours and nobody here runs. Seen twice, with no exchange on
/// its way either time, it is not merely on its way to a slot. Answers whom to look at next time.
fn hand_back_orphans(
    cx: &Context,
    suspects: &HashSet<Token>,
    others: Vec<Token>,
) -> HashSet<Token> {
    let unknown: HashSet<Token> =
        others.into_iter().filter(|token| !cx.held.contains(token)).collect();
    for token in unknown.intersection(suspects) {
        warn!(job.id = %token.id, "handing back an attempt that no slot runs");
        cx.send(Done::Orphan(hand_back(token.clone())));
    }
    unknown
}

/// Turns pokes into beats until the process ends.
pub(super) async fn listen(cx: Arc<Context>) {
    let wake = Wake::Poke(cx.me().clone());
    let mut is_away = false;
    loop {
        match cx.store.wake(&wake, POKE_WAIT).await {
            Ok(()) => {
                is_away = false;
                cx.beat_now.notify_one();
                sleep(POKE_PAUSE).await;
            }
            Err(error) => {
                if !is_away {
                    info!(%error, "cannot wait for pokes; cancels take until the next heartbeat");
                }
                is_away = true;
                sleep(POKE_RETRY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Fence;

    #[test]
    fn the_heavier_order_stays_and_a_lease_is_never_shortened() {
        let held = Held::default();
        let token = Token { id: "a".parse().unwrap(), fence: Fence(1) };
        let start = Instant::now();
        let orders = held.insert(token.clone(), Orders { lease_until: start, stop: None });
        held.extend(&token, start + POKE_WAIT);
        held.extend(&token, start + POKE_PAUSE);
        held.order(&token, &Order::Cancel { by: "ann".into() });
        held.order_all(&Order::HandBack);
        assert_eq!(orders.borrow().lease_until, start + POKE_WAIT);
        assert_eq!(orders.borrow().stop, Some(Order::Cancel { by: "ann".into() }));
        held.order(&token, &Order::Lost);
        assert_eq!(orders.borrow().stop, Some(Order::Lost));
        held.remove(&token);
        assert!(held.tokens().is_empty());
    }
}
