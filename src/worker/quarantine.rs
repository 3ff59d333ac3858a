//! A worker whose surroundings are broken (disk full, no processes, no network to the repositories)
//! would fail every job of the queue, fast. After a few such faults in a row it claims nothing for
//! a while, then tries one job.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

/// Faults in a row that put the worker into quarantine.
const FAULTS: u32 = 3;
/// First quarantine; each further one in a row is twice as long.
const FIRST: Duration = Duration::from_mins(1);
/// Longest quarantine.
const LONGEST: Duration = Duration::from_mins(10);

#[derive(Debug, Default)]
pub(super) struct Quarantine(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    faults: u32,
    /// Quarantines in a row.
    rounds: u32,
    until: Option<Instant>,
    reason: String,
}

impl Quarantine {
    /// A fault of the worker's surroundings.
    pub(super) fn fault(&self, now: Instant, message: &str) {
        let mut state = self.state();
        state.faults += 1;
        let is_over = state.until.is_none_or(|until| until <= now);
        // A job that was claimed before the quarantine began does not make it longer.
        if state.faults >= FAULTS && is_over {
            let pause = FIRST.saturating_mul(1 << state.rounds.min(10)).min(LONGEST);
            state.rounds += 1;
            state.until = Some(now + pause);
            state.reason = format!("{FAULTS} faults of its surroundings in a row, last: {message}");
            warn!(pause_s = pause.as_secs(), reason = state.reason, "claiming nothing for a while");
        }
    }

    /// An attempt got as far as running its process.
    pub(super) fn success(&self) {
        let mut state = self.state();
        if state.until.is_some() {
            info!("the trial went well: claiming again");
        }
        *state = State::default();
    }

    /// How many of `free` slots may be filled while `busy` are in use, and when to ask again.
    pub(super) fn allows(&self, now: Instant, free: u32, busy: u32) -> (u32, Option<Instant>) {
        match self.state().until {
            None => (free, None),
            Some(until) if now < until => (0, Some(until)),
            // One job as a trial, when nothing else runs.
            Some(_) => (free.min(1).saturating_sub(busy), None),
        }
    }

    /// Why nothing is claimed, for people.
    pub(super) fn reason(&self) -> Option<String> {
        let state = self.state();
        state.until.map(|_| state.reason.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is complete before the lock is released, whoever panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_faults_in_a_row_a_pause_and_one_trial() {
        let (quarantine, start) = (Quarantine::default(), Instant::now());
        quarantine.fault(start, "disk full");
        quarantine.fault(start, "disk full");
        quarantine.success();
        quarantine.fault(start, "disk full");
        quarantine.fault(start, "disk full");
        assert_eq!(quarantine.allows(start, 3, 0), (3, None));
        quarantine.fault(start, "disk full");
        let over = start + FIRST;
        assert_eq!(quarantine.allows(start, 3, 0), (0, Some(over)));
        assert!(quarantine.reason().unwrap().contains("disk full"));
        assert_eq!(quarantine.allows(over, 3, 0), (1, None));
        assert_eq!(quarantine.allows(over, 2, 1), (0, None));
        quarantine.fault(over, "disk full");
        assert_eq!(quarantine.allows(over, 3, 0), (0, Some(over + FIRST * 2)));
        quarantine.success();
        assert_eq!(quarantine.allows(over, 3, 0), (3, None));
        assert_eq!(quarantine.reason(), None);
    }
}
