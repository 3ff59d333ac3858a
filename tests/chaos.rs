//! Real workers on a bad day: killed, stopped and cut off, with a Redis that is killed, stopped and
//! whose replies get lost, while jobs keep coming. Afterwards every job that was acknowledged must
//! have ended exactly once, and no two of its attempts may ever have been alive together.
//!
//! Every choice comes from a seed (`CHAOS_SEED`, `CHAOS_SECONDS`; `scripts/chaos` sets them). The
//! moments of the faults do not, so a seed repeats a kind of day and not the day itself.

#![expect(unreachable_pub, reason = "the parts of one test program, not an interface")]

mod support;

#[path = "chaos/agent.rs"]
mod agent;
#[path = "chaos/checker.rs"]
mod checker;
#[path = "chaos/fleet.rs"]
mod fleet;
#[path = "chaos/nemesis.rs"]
mod nemesis;
#[path = "chaos/producers.rs"]
mod producers;

use std::time::Duration;

use fleet::Fleet;

/// A number from the environment.
fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_and_nothing_runs_twice() {
    let time = Duration::from_secs(setting("CHAOS_SECONDS").unwrap_or(20));
    let seeds = setting("CHAOS_SEED").map_or_else(|| vec![1, 2, 3], |seed| vec![seed]);
    for seed in seeds {
        let mut fleet = Fleet::start(seed).await;
        let producing = producers::start(&fleet, seed).await;
        nemesis::rage(&mut fleet, seed, time).await;
        let asked_for = producing.stop().await;
        let problems = checker::check(&mut fleet, &asked_for).await;
        println!("seed {seed}: {}", fleet.log.last().expect("the checker's summary"));
        fleet.assert_none(seed, &problems);
        assert!(asked_for.len() as u64 > time.as_secs(), "only {} jobs", asked_for.len());
    }
}

/// Not a test: this program under another name, run by the jobs of the test above.
#[test]
#[ignore = "what the jobs of the other test run"]
fn agent() {
    agent::run();
}
