//! Short callers: each call is over in a few seconds, and no dead connection is in its way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sortie::store::redis::Role;
use sortie::store::{Kind, Log};

use crate::bench::{DURABLE, SHORTLY, answering, assert_says, dialed, info, new_job, open};
use crate::support::proxy::{Flow, Proxy};
use crate::support::redis::TestRedis;
use crate::support::{SOON, eventually};

#[tokio::test]
async fn a_dead_pooled_connection_is_not_noticed() {
    let redis = TestRedis::with(DURABLE);
    let caller = open(&redis.url(), Role::Client).await;
    for round in 0..5 {
        redis.ask::<u64>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
        caller.submit(&[new_job(&format!("a{round}"))]).await.unwrap();
    }
    redis.restart();
    caller.submit(&[new_job("b")]).await.unwrap();
    redis.ask::<()>(&["SCRIPT", "FLUSH"]);
    assert_eq!(caller.stats().await.unwrap().pending, 6);
    assert_eq!(caller.fsck().await.unwrap(), Vec::<String>::new());
}

/// The pool's question whether the connection lives is answered; then the connection dies with the call.
#[tokio::test]
async fn a_call_whose_connection_dies_is_made_once_more() {
    let calls = Arc::new(AtomicUsize::new(0));
    let address = answering({
        let calls = Arc::clone(&calls);
        move |request| {
            if let Some((_, ping)) = request.split_once("PING\r\n") {
                return Some(format!("+OK\r\n{ping}"));
            }
            if request.contains("\nINFO\r") {
                return Some("$22\r\nredis_version:7.0.15\r\n\r\n".into());
            }
            request.contains("EVALSHA").then(|| {
                let odd = calls.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
                if odd { String::new() } else { "*1\r\n*2\r\n$1\r\na\r\n:1\r\n".into() }
            })
        }
    })
    .await;
    let caller = open(&format!("redis://{address}"), Role::Client).await;
    for round in 1..=5 {
        let answer = caller.submit(&[new_job("a")]).await.unwrap();
        assert_eq!(answer[0].id.as_str(), "a");
        assert_eq!(calls.load(Ordering::SeqCst), 2 * round);
    }
}

#[tokio::test]
async fn lost_replies_are_not_noticed() {
    let redis = TestRedis::start();
    let proxy = Proxy::start(&redis).await;
    let caller = open(&proxy.url(), Role::Client).await;
    for round in 0..5 {
        proxy.lose_replies(1);
        let id = format!("a{round}");
        let answer = caller.submit(&[new_job(&id)]).await.unwrap();
        assert_eq!(answer[0].id.as_str(), id);
        assert_eq!(proxy.replies_to_lose(), 0);
    }
    assert_eq!(caller.stats().await.unwrap().pending, 5);
}

#[tokio::test]
async fn a_stopped_server_is_told_in_time_and_forgotten() {
    let redis = TestRedis::start();
    let caller = open(&redis.url(), Role::Client).await;
    caller.stats().await.unwrap();
    redis.sigstop();
    let start = Instant::now();
    let job = [new_job("a")];
    let (submit, stats) = tokio::join!(caller.submit(&job), caller.stats());
    assert!(start.elapsed() < SHORTLY, "{:?}", start.elapsed());
    for error in [submit.unwrap_err(), stats.unwrap_err()] {
        assert_says(&error, Kind::Unavailable, &["no answer in time"]);
    }
    redis.sigcont();
    let answer = caller.submit(&[new_job("a")]).await.unwrap();
    assert_eq!(answer[0].id.as_str(), "a");
    assert_eq!(caller.stats().await.unwrap().pending, 1);
}

#[tokio::test]
async fn a_half_open_pool_is_left_behind() {
    let redis = TestRedis::start();
    let proxy = Proxy::start(&redis).await;
    let caller = open(&proxy.url(), Role::Client).await;
    // Several pooled connections, all of which go dead without a word.
    let calls = (0..8).map(|_| caller.stats());
    futures_util::future::try_join_all(calls).await.unwrap();
    proxy.to_client(Flow::Vanish);
    let start = Instant::now();
    caller.stats().await.unwrap_err();
    assert!(start.elapsed() < SHORTLY, "{:?}", start.elapsed());
    proxy.to_client(Flow::Pass);
    let start = Instant::now();
    caller.stats().await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[tokio::test]
async fn many_callers_share_few_connections() {
    let redis = TestRedis::start();
    let caller = open(&redis.url(), Role::Client).await;
    let before = dialed(&redis);
    let calls = (0..200).map(|_| caller.stats());
    futures_util::future::try_join_all(calls).await.unwrap();
    assert!(dialed(&redis) - before <= 9, "{}", dialed(&redis) - before);
}

#[tokio::test]
async fn readers_of_logs_wait_side_by_side_and_leave_nothing_behind() {
    let redis = TestRedis::start();
    let caller = open(&redis.url(), Role::Client).await;
    let (long, fleet) = (Some(Duration::from_mins(1)), Log::Fleet);
    let readers = || (0..20).map(|_| caller.read(&fleet, "0", 10, long));
    let mut reading = Box::pin(futures_util::future::try_join_all(readers()));
    eventually(SOON, "all readers wait on the server", async || {
        // Drives the reads a little; they cannot end.
        let early = tokio::time::timeout(Duration::from_millis(5), &mut reading).await;
        assert!(early.is_err(), "nothing was written");
        (info(&redis, "blocked_clients") == 20).then_some(())
    })
    .await;
    // Nobody else waits behind them.
    let start = Instant::now();
    caller.stats().await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(2));
    // All of them see the first entry.
    caller.submit(&[new_job("a")]).await.unwrap();
    for entries in reading.await.unwrap() {
        assert_eq!(entries[0].job.as_str(), "a");
    }
    // Dropped reads: nothing stays armed.
    let log = Log::Job("a".parse().unwrap());
    let dropped = caller.read(&log, "$", 10, long);
    assert!(tokio::time::timeout(Duration::from_millis(50), dropped).await.is_err());
    eventually(SOON, "the server waits for nobody", async || {
        (info(&redis, "blocked_clients") == 0).then_some(())
    })
    .await;
    // Idle connections that died meanwhile are in nobody's way.
    redis.ask::<u64>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    for _ in 0..10 {
        assert_eq!(caller.read(&Log::Fleet, "0", 1, long).await.unwrap().len(), 1);
    }
}
