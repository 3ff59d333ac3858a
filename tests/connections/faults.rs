//! Faults that pass while a worker goes on: its calls are answered later, each with the effect of one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sortie::store::Log;
use sortie::store::redis::Role;

use crate::bench::{DURABLE, Worker, dialed, info, new_job, open, sent};
use crate::support::proxy::{Flow, Proxy};
use crate::support::redis::TestRedis;
use crate::support::{SOON, eventually};

/// A worker that runs jobs without a pause while `trouble` is made, and must have gone on after it.
async fn works_through(url: &str, redis: &TestRedis, trouble: impl AsyncFnOnce()) {
    let worker = Arc::new(Worker::over(open(url, Role::Engine).await).await);
    let stop = Arc::new(AtomicBool::new(false));
    let work = tokio::spawn({
        let (worker, stop) = (Arc::clone(&worker), Arc::clone(&stop));
        async move { worker.work_until(&stop).await }
    });
    trouble().await;
    let done = || redis.ask::<u64>(&["ZCARD", "{sortie:queue}:done"]);
    let before = done();
    eventually(SOON, "the worker goes on", async || (done() > before + 3).then_some(())).await;
    stop.store(true, Ordering::Relaxed);
    let ran =
        tokio::time::timeout(SOON, work).await.expect("the loop ends").expect("no call fails");
    let stats = worker.store.stats().await.unwrap();
    assert_eq!((stats.done, stats.totals["claimed"], stats.pending), (ran, ran, 0));
    assert_eq!(worker.store.fsck().await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn all_connections_are_killed_again_and_again() {
    let redis = TestRedis::start();
    works_through(&redis.url(), &redis, async || {
        for _ in 0..20 {
            redis.ask::<u64>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_are_forgotten() {
    let redis = TestRedis::start();
    works_through(&redis.url(), &redis, async || {
        for _ in 0..20 {
            redis.ask::<()>(&["SCRIPT", "FLUSH"]);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_killed_and_comes_back() {
    let redis = TestRedis::with(DURABLE);
    works_through(&redis.url(), &redis, async || {
        for _ in 0..3 {
            redis.restart();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_stopped_for_eight_seconds() {
    let redis = TestRedis::start();
    works_through(&redis.url(), &redis, async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let before = dialed(&redis);
        redis.sigstop();
        tokio::time::sleep(Duration::from_secs(8)).await;
        redis.sigcont();
        // One is the question's own.
        assert!(dialed(&redis) > before + 1, "the silent connection was replaced");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_sleeps_in_a_command() {
    let redis = TestRedis::with(&["--enable-debug-command", "yes"]);
    works_through(&redis.url(), &redis, async || {
        redis.ask::<()>(&["DEBUG", "SLEEP", "3"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_connection_is_replaced() {
    let redis = TestRedis::start();
    let proxy = Proxy::start(&redis).await;
    works_through(&proxy.url(), &redis, async || {
        // Replies vanish: everything is executed, and nobody hears of it. New connections hear.
        proxy.to_client(Flow::Vanish);
        tokio::time::sleep(Duration::from_secs(3)).await;
        proxy.to_client(Flow::Pass);
        // Nothing moves at all, and nothing is closed.
        proxy.to_server(Flow::Stall);
        tokio::time::sleep(Duration::from_secs(7)).await;
        proxy.reset();
        proxy.to_server(Flow::Pass);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_and_connections_are_lost_all_the_time() {
    let redis = TestRedis::start();
    let proxy = Proxy::start(&redis).await;
    works_through(&proxy.url(), &redis, async || {
        for round in 0..40 {
            if round % 4 == 0 {
                proxy.reset();
            }
            proxy.lose_replies(1);
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
        proxy.lose_replies(0);
    })
    .await;
}

/// Reads of a worker are answered later too, whether they wait or not.
#[tokio::test(flavor = "multi_thread")]
async fn reads_outlast_the_server() {
    let redis = TestRedis::start();
    let store = open(&redis.url(), Role::Engine).await;
    let long = Some(Duration::from_secs(30));
    let read = |wait| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.read(&Log::Fleet, "0", 10, wait).await.unwrap() })
    };
    let early = read(long);
    eventually(SOON, "the read waits", async || {
        (info(&redis, "blocked_clients") == 1).then_some(())
    })
    .await;
    redis.sigkill();
    let (late, short) = (read(long), read(None));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!early.is_finished() && !late.is_finished() && !short.is_finished());
    redis.restart();
    store.submit(&[new_job("a")]).await.unwrap();
    for read in [early, late] {
        let entries = tokio::time::timeout(SOON, read).await.expect("answered").unwrap();
        assert_eq!(entries[0].job.as_str(), "a");
    }
    tokio::time::timeout(SOON, short).await.expect("answered").unwrap();
}

/// While the server is away the worker asks about once a second, not in a tight loop.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_waited_out_without_a_storm() {
    let redis = TestRedis::start();
    let worker = Worker::over(open(&redis.url(), Role::Engine).await).await;
    redis.ask::<()>(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    let before = sent(&redis, "evalsha");
    let start = Instant::now();
    let run = tokio::spawn(async move { worker.run("a").await });
    tokio::time::sleep(Duration::from_secs(4)).await;
    let asked = sent(&redis, "evalsha") - before;
    assert!((3..=14).contains(&asked), "{asked} in {:?}", start.elapsed());
    redis.ask::<()>(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    tokio::time::timeout(SOON, run).await.expect("the worker goes on").unwrap();
}
