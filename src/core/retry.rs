//! From a fault to what happens next: docs/concepts.md's table of faults, as one function.

use std::time::Duration;

use super::{Counters, Fault, State};

/// What a charged failure may be tried again after, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Charged failures after which the job is dead.
    pub max_attempts: u32,
    /// First backoff.
    pub base: Duration,
    /// Longest backoff.
    pub cap: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max_attempts: 3, base: Duration::from_secs(10), cap: Duration::from_mins(10) }
    }
}

/// Vanished workers after which a job counts as poison.
pub const LOST_MAX: u32 = 3;
/// Provider overloads after which a job is dead.
pub const OVERLOADED_MAX: u32 = 5;
/// Failures of workers' surroundings after which a job is dead.
pub const INFRASTRUCTURE_MAX: u32 = 10;

/// Which counter an attempt's end goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    Charged,
    Overloaded,
    Infrastructure,
    /// Free of charge.
    Nothing,
}

/// What happens after an attempt that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The job has ended.
    End { state: State, count: Count },
    /// The job runs again after `delay`; `head`: before all others of its priority.
    Again { state: State, delay: Duration, head: bool, count: Count },
}

impl RetryPolicy {
    /// Decides for an attempt that ended with `fault`. `so_far` are the counters before it is
    /// counted; `random` is uniform in `0.0..1.0` and spreads the backoff (full jitter: between
    /// nothing and the whole exponential delay; AWS Architecture Blog, "Exponential Backoff And
    /// Jitter", 2015).
    #[must_use]
    pub fn decide(&self, fault: Fault, so_far: &Counters, random: f64) -> Next {
        let charged_again = |allowed: u32, delay: Duration| {
            let failures = so_far.charged + 1;
            if failures >= allowed {
                // Where no retry was wanted, none was exhausted: the job said no.
                let is_final = self.max_attempts == 1 || allowed < self.max_attempts;
                let state = if is_final { State::Failed } else { State::Dead };
                return Next::End { state, count: Count::Charged };
            }
            Next::Again { state: State::Queued, delay, head: false, count: Count::Charged }
        };
        let failed = |count| Next::End { state: State::Failed, count };
        let charged_backoff = || backoff(self.base, self.cap, so_far.charged, random);
        match fault {
            Fault::AgentExit | Fault::Timeout | Fault::Idle => {
                charged_again(self.max_attempts, charged_backoff())
            }
            Fault::Oom | Fault::Context => {
                charged_again(self.max_attempts.min(2), charged_backoff())
            }
            Fault::Overloaded if so_far.overloaded + 1 > OVERLOADED_MAX => {
                Next::End { state: State::Dead, count: Count::Overloaded }
            }
            Fault::Overloaded => Next::Again {
                state: State::Queued,
                delay: Duration::from_secs(30)
                    + backoff(
                        Duration::from_secs(30),
                        Duration::from_secs(870),
                        so_far.overloaded,
                        random,
                    ),
                head: false,
                count: Count::Overloaded,
            },
            Fault::RateLimited => Next::Again {
                state: State::Deferred,
                delay: Duration::from_mins(1),
                head: false,
                count: Count::Nothing,
            },
            Fault::Workspace | Fault::Spawn if so_far.infrastructure + 1 > INFRASTRUCTURE_MAX => {
                Next::End { state: State::Dead, count: Count::Infrastructure }
            }
            // At once on another worker. The growing pause keeps a fleet without a good worker
            // from spinning.
            Fault::Workspace | Fault::Spawn => Next::Again {
                state: State::Queued,
                delay: backoff(
                    Duration::from_millis(100),
                    Duration::from_secs(30),
                    so_far.infrastructure,
                    random,
                ),
                head: true,
                count: Count::Infrastructure,
            },
            Fault::Lost | Fault::Interrupted => Next::Again {
                state: State::Queued,
                delay: Duration::ZERO,
                head: true,
                count: Count::Nothing,
            },
            Fault::Canceled => Next::End { state: State::Canceled, count: Count::Nothing },
            Fault::Quota | Fault::Auth | Fault::Model | Fault::Publish => failed(Count::Nothing),
            Fault::Budget | Fault::Verify | Fault::NoChanges | Fault::Policy => {
                failed(Count::Charged)
            }
        }
    }
}

fn backoff(base: Duration, cap: Duration, failures: u32, random: f64) -> Duration {
    let whole = base.saturating_mul(2_u32.saturating_pow(failures.min(30))).min(cap);
    whole.mul_f64(random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(fault: Fault, so_far: Counters) -> Next {
        RetryPolicy::default().decide(fault, &so_far, 1.0)
    }

    #[test]
    fn charged_failures_back_off_and_then_are_dead() {
        let delays: Vec<_> = (0..4)
            .map(|charged| after(Fault::AgentExit, Counters { charged, ..Counters::default() }))
            .collect();
        let again = |secs| Next::Again {
            state: State::Queued,
            delay: Duration::from_secs(secs),
            head: false,
            count: Count::Charged,
        };
        let dead = Next::End { state: State::Dead, count: Count::Charged };
        assert_eq!(delays, [again(10), again(20), dead, dead]);
    }

    #[test]
    fn the_backoff_is_capped_and_fully_jittered() {
        let policy = RetryPolicy { max_attempts: 99, ..RetryPolicy::default() };
        let delay = |charged, random| match policy.decide(
            Fault::Idle,
            &Counters { charged, ..Counters::default() },
            random,
        ) {
            Next::Again { delay, .. } => delay,
            end @ Next::End { .. } => panic!("{end:?}"),
        };
        assert_eq!(delay(40, 1.0), policy.cap);
        assert_eq!(delay(40, 0.0), Duration::ZERO);
        assert_eq!(delay(1, 0.5), policy.base);
    }

    #[test]
    fn what_is_not_the_jobs_doing_is_free() {
        let worn = Counters { charged: 2, ..Counters::default() };
        for fault in [Fault::Lost, Fault::Interrupted, Fault::Workspace, Fault::Spawn] {
            let Next::Again { head, count, .. } = after(fault, worn) else { panic!("{fault}") };
            assert!(head && count != Count::Charged, "{fault}");
        }
    }

    #[test]
    fn a_job_that_is_not_to_be_retried_fails() {
        let once = RetryPolicy { max_attempts: 1, ..RetryPolicy::default() };
        assert_eq!(
            once.decide(Fault::AgentExit, &Counters::default(), 1.0),
            Next::End { state: State::Failed, count: Count::Charged }
        );
    }

    #[test]
    fn out_of_memory_is_tried_once_more_only() {
        assert!(matches!(after(Fault::Oom, Counters::default()), Next::Again { .. }));
        let second = Counters { charged: 1, ..Counters::default() };
        assert_eq!(
            after(Fault::Oom, second),
            Next::End { state: State::Failed, count: Count::Charged }
        );
    }

    #[test]
    fn infrastructure_has_a_cap_of_its_own() {
        let at = |infrastructure| {
            after(Fault::Workspace, Counters { infrastructure, ..Counters::default() })
        };
        assert!(matches!(at(INFRASTRUCTURE_MAX - 1), Next::Again { .. }));
        assert!(matches!(at(INFRASTRUCTURE_MAX), Next::End { state: State::Dead, .. }));
    }
}
