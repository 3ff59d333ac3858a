//! Waiting: never a spin, never a lost element, no connection for a wait that was dropped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sortie::store::redis::Role;
use sortie::store::{Change, Control, Kind, Store, Wake};

use crate::bench::{QUEUE, Worker, dialed, info, new_job, open, sent};
use crate::support::proxy::{Flow, Proxy};
use crate::support::redis::TestRedis;
use crate::support::{SOON, eventually};

const LONG: Duration = Duration::from_secs(30);

/// Waits in a task; answers when it was woken.
fn asleep(store: &Arc<dyn Store>, wake: Wake, limit: Duration) -> tokio::task::JoinHandle<Instant> {
    let store = Arc::clone(store);
    tokio::spawn(async move {
        store.wake(&wake, limit).await.expect("a wait does not fail");
        Instant::now()
    })
}

async fn woken(wait: tokio::task::JoinHandle<Instant>) {
    tokio::time::timeout(SOON, wait).await.expect("it is woken").unwrap();
}

async fn until_blocked(redis: &TestRedis, count: u64) {
    eventually(SOON, "the wait is on the server", async || {
        (info(redis, "blocked_clients") == count).then_some(())
    })
    .await;
}

#[tokio::test]
async fn each_wait_is_woken_by_what_it_waits_for() {
    let redis = TestRedis::start();
    let store = open(&redis.url(), Role::Engine).await;
    let worker = Worker::over(Arc::clone(&store)).await;
    let me = worker.record.id.clone();

    let wait = asleep(&store, Wake::Work, LONG);
    until_blocked(&redis, 1).await;
    redis.ask::<u64>(&["RPUSH", QUEUE, r#"{"id":"pushed","prompt":"x"}"#]);
    woken(wait).await;
    assert_eq!(redis.ask::<u64>(&["LLEN", QUEUE]), 1, "a wait takes nothing");
    let claimed = worker.exchange(1, Vec::new()).await.claimed;

    let wait = asleep(&store, Wake::Poke(me.clone()), LONG);
    until_blocked(&redis, 1).await;
    let cancel = Change::Cancel { by: "alice".into() };
    store.change(&claimed[0].token.id, &cancel).await.unwrap();
    woken(wait).await;

    store.control(&Control::Pause { by: "alice".into() }).await.unwrap();
    worker.exchange(1, Vec::new()).await;
    let wait = asleep(&store, Wake::Transition, LONG);
    until_blocked(&redis, 1).await;
    store.control(&Control::Resume).await.unwrap();
    woken(wait).await;
}

#[tokio::test]
async fn a_wait_ends_after_its_time() {
    let redis = TestRedis::start();
    let store = open(&redis.url(), Role::Engine).await;
    let start = Instant::now();
    store.wake(&Wake::Work, Duration::from_millis(300)).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(250), "{:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[tokio::test]
async fn dropped_waits_share_one_connection_and_one_command() {
    let redis = TestRedis::start();
    let store = open(&redis.url(), Role::Engine).await;
    let (connections, commands) = (dialed(&redis), sent(&redis, "blmove"));
    for _ in 0..200 {
        let wait = store.wake(&Wake::Work, LONG);
        assert!(tokio::time::timeout(Duration::from_millis(3), wait).await.is_err());
    }
    // One for the wait, one for each question.
    assert!(dialed(&redis) - connections <= 3, "{}", dialed(&redis) - connections);
    assert!(sent(&redis, "blmove") - commands <= 1);
    until_blocked(&redis, 1).await;
    // What comes while nobody listens is there for the next who does.
    store.submit(&[new_job("a")]).await.unwrap();
    until_blocked(&redis, 0).await;
    let start = Instant::now();
    store.wake(&Wake::Work, LONG).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(redis.ask::<u64>(&["LLEN", QUEUE]), 1, "the job is still there");
}

#[tokio::test]
async fn a_poke_that_came_while_nobody_listened_is_heard() {
    let redis = TestRedis::start();
    let store = open(&redis.url(), Role::Engine).await;
    let worker = Worker::over(Arc::clone(&store)).await;
    let poke = Wake::Poke(worker.record.id.clone());
    let dropped = store.wake(&poke, LONG);
    assert!(tokio::time::timeout(Duration::from_millis(50), dropped).await.is_err());
    until_blocked(&redis, 1).await;
    let id = worker.record.id.clone();
    store.control(&Control::Drain { worker: id, within: LONG }).await.unwrap();
    until_blocked(&redis, 0).await;
    let start = Instant::now();
    store.wake(&poke, LONG).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(5), "the hint was lost");
    // It is told once.
    let again = store.wake(&poke, LONG);
    assert!(tokio::time::timeout(Duration::from_millis(200), again).await.is_err());
}

/// A loop of waits and claims, as a worker runs it, through every fault; counts its rounds.
#[tokio::test]
async fn waits_survive_every_fault_without_a_spin() {
    let redis = TestRedis::with(&["--enable-debug-command", "yes"]);
    let proxy = Proxy::start(&redis).await;
    let store = open(&proxy.url(), Role::Engine).await;
    let worker = Worker::over(Arc::clone(&store)).await;
    let start = Instant::now();
    let loop_of_waits = tokio::spawn(async move {
        let (mut rounds, mut ids) = (0_u64, Vec::new());
        while ids.len() < 10 {
            worker.store.wake(&Wake::Work, Duration::from_secs(5)).await.unwrap();
            rounds += 1;
            let claimed = worker.exchange(4, Vec::new()).await.claimed;
            for claimed in claimed {
                ids.push(claimed.token.id.to_string());
                worker.exchange(0, vec![crate::bench::success(&claimed)]).await;
            }
        }
        (rounds, ids)
    });
    let push = |n: u64| {
        redis.ask::<u64>(&["RPUSH", QUEUE, &format!(r#"{{"id":"p{n}","prompt":"x"}}"#)]);
    };
    for n in 0..10 {
        match n {
            0 => until_blocked(&redis, 1).await,
            1 => drop(redis.ask::<u64>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])),
            2 => unblock_all(&redis),
            3 => proxy.reset(),
            4 => proxy.lose_replies(2),
            5 => redis.ask::<()>(&["SCRIPT", "FLUSH"]),
            6 => redis.ask::<()>(&["DEBUG", "SLEEP", "1"]),
            7 => {
                proxy.to_client(Flow::Vanish);
                tokio::time::sleep(Duration::from_secs(1)).await;
                proxy.to_client(Flow::Pass);
            }
            8 => {
                redis.sigstop();
                tokio::time::sleep(Duration::from_secs(3)).await;
                redis.sigcont();
            }
            _ => {}
        }
        push(n);
    }
    let (rounds, mut ids) =
        tokio::time::timeout(Duration::from_mins(1), loop_of_waits).await.unwrap().unwrap();
    ids.sort_unstable();
    assert_eq!(ids, (0..10).map(|n| format!("p{n}")).collect::<Vec<_>>());
    let most = 30 + start.elapsed().as_millis() / 200;
    assert!(u128::from(rounds) < most, "{rounds} rounds in {:?}", start.elapsed());
    assert!(u128::from(sent(&redis, "blmove")) < most, "{} waits", sent(&redis, "blmove"));
    assert_eq!(store.fsck().await.unwrap(), Vec::<String>::new());
}

fn unblock_all(redis: &TestRedis) {
    let clients: String = redis.ask(&["CLIENT", "LIST"]);
    for line in clients.lines().filter(|line| line.contains("cmd=blmove")) {
        let id = line.split([' ', '=']).nth(1).unwrap();
        redis.ask::<u64>(&["CLIENT", "UNBLOCK", id, "ERROR"]);
    }
}

/// A server that is away is asked about four times a second, whoever waits in a loop.
#[tokio::test]
async fn waits_for_a_server_that_is_away_do_not_spin() {
    let redis = TestRedis::start();
    let store = open(&redis.url(), Role::Engine).await;
    store.wake(&Wake::Work, Duration::from_millis(10)).await.unwrap();
    redis.sigkill();
    let (start, mut rounds) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(3) {
        store.wake(&Wake::Work, LONG).await.unwrap();
        rounds += 1;
    }
    assert!((2..20).contains(&rounds), "{rounds} rounds");
    redis.restart();
    let wait = asleep(&store, Wake::Work, LONG);
    until_blocked(&redis, 1).await;
    redis.ask::<u64>(&["RPUSH", QUEUE, "{}"]);
    woken(wait).await;
}

/// One answer missed is enough: the command may still be armed there.
#[tokio::test]
async fn the_silent_connection_of_a_wait_is_replaced() {
    let redis = TestRedis::start();
    let proxy = Proxy::start(&redis).await;
    let store = open(&proxy.url(), Role::Engine).await;
    let brief = Duration::from_millis(100);
    store.wake(&Wake::Work, brief).await.unwrap();
    let before = dialed(&redis);
    proxy.to_client(Flow::Vanish);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(6) {
        store.wake(&Wake::Work, brief).await.unwrap();
    }
    proxy.to_client(Flow::Pass);
    redis.ask::<u64>(&["RPUSH", QUEUE, "{}"]);
    store.wake(&Wake::Work, LONG).await.unwrap();
    // Two are the test's own.
    assert!(dialed(&redis) > before + 2);
    assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_wait_that_the_server_forbids_is_told_with_a_pause() {
    let redis = TestRedis::start();
    let rules = ["ACL", "SETUSER", "alice", "on", ">secret", "allkeys", "+@all", "-blmove"];
    redis.ask::<()>(&rules);
    let url = format!("unix://{}?user=alice&pass=secret", redis.socket().display());
    let store = open(&url, Role::Engine).await;
    let before = dialed(&redis);
    let start = Instant::now();
    for _ in 0..4 {
        let error = store.wake(&Wake::Work, LONG).await.unwrap_err();
        crate::bench::assert_says(&error, Kind::Misconfigured, &["blmove", "ACL"]);
    }
    assert!(start.elapsed() > Duration::from_millis(700), "{:?}", start.elapsed());
    assert!(dialed(&redis) - before <= 2, "each wait dialed");
}
