//! What the tests of the whole share: a redis-server of their own, a git repository of their own,
//! the real binary, a bad network, and waiting on conditions instead of sleeping.
#![expect(dead_code, unreachable_pub, reason = "every test binary uses another part of this")]

use std::time::{Duration, Instant};

pub mod process;
pub mod proxy;
pub mod redis;
pub mod repo;

/// Patience of a test that does not care how long something takes, on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Asks `condition` until it answers `Some`, which is returned. Panics after `deadline`.
pub async fn eventually<T>(
    deadline: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> Option<T>,
) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(answer) = condition().await {
            return answer;
        }
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// [`eventually`] for tests without a runtime.
pub fn eventually_blocking<T>(
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(answer) = condition() {
            return answer;
        }
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        // Nothing ever unparks this thread on purpose; a spurious wake-up only looks once more.
        std::thread::park_timeout(LOOK);
    }
}
