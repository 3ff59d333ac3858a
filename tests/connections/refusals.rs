//! Each way in which a server cannot be used is told in one line, in time, with what to do about it.

use std::net::TcpListener;
use std::time::Duration;

use sortie::store::redis::{Role, connect};
use sortie::store::{Kind, Level, Log};

use crate::bench::{
    QUEUE, Worker, answering, assert_is_line, assert_says, new_job, open, refused, sent, settings,
};
use crate::support::redis::TestRedis;
use crate::support::{SOON, eventually};

#[tokio::test]
async fn no_server() {
    let free = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let error = refused(&format!("redis://alice:secret@{address}/2")).await;
    let at = format!("{address}/2: nothing listens there");
    assert_says(&error, Kind::Unavailable, &[&at, "is Redis running"]);
    let error = refused("unix:///tmp/there-is-no-such-socket?pass=secret").await;
    assert_says(&error, Kind::Unavailable, &["nothing listens there"]);
    let error = refused("redis://:secret@no-such-host.invalid").await;
    assert_says(&error, Kind::Unavailable, &["no such host", "no-such-host.invalid"]);
    let error = refused("redis+sentinel://:secret@no-such-host.invalid/main").await;
    assert_says(&error, Kind::Unavailable, &["no such host"]);
}

#[tokio::test]
async fn a_server_that_never_answers() {
    // The kernel accepts for it.
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let error = refused(&format!("redis://:secret@{}", silent.local_addr().unwrap())).await;
    assert_says(&error, Kind::Unavailable, &["no answer in time", "network"]);
}

#[tokio::test]
async fn something_else_than_redis() {
    let address = answering(|_| Some("HTTP/1.1 400 Bad Request\r\n\r\n".into())).await;
    let error = refused(&format!("redis://:secret@{address}")).await;
    assert_says(&error, Kind::Unavailable, &["does not speak the Redis protocol", "port"]);
}

#[tokio::test]
async fn an_old_server() {
    let address = answering(|request| {
        let info = "# Server\r\nredis_version:6.0.16\r\nrole:master\r\n";
        let answer = format!("${}\r\n{info}\r\n", info.len());
        request.contains("\nINFO\r").then_some(answer)
    })
    .await;
    let error = refused(&format!("redis://{address}")).await;
    assert_says(&error, Kind::Misconfigured, &["6.0.16 is too old", "6.2", "upgrade"]);
}

#[tokio::test]
async fn a_wrong_user_or_password() {
    let redis = TestRedis::on_tcp(&[]);
    redis.ask::<()>(&["ACL", "SETUSER", "default", ">right"]);
    let host = redis.url().replace("redis://", "");
    for user in ["", ":secret@", "alice:secret@"] {
        let error = refused(&format!("redis://{user}{host}")).await;
        assert_says(&error, Kind::Misconfigured, &["user name or password", "URL"]);
    }
    let plain = TestRedis::on_tcp(&[]);
    let error = refused(&plain.url().replace("redis://", "redis://:secret@")).await;
    assert_says(&error, Kind::Misconfigured, &["user name or password"]);
}

#[tokio::test]
async fn a_server_that_may_evict_jobs() {
    let redis = TestRedis::with(&["--maxmemory-policy", "allkeys-lru"]);
    let error = refused(&redis.url()).await;
    let words = ["allkeys-lru", "CONFIG SET maxmemory-policy noeviction", "SORTIE_ALLOW_EVICTION"];
    assert_says(&error, Kind::Misconfigured, &words);
    for role in [Role::Engine, Role::Client] {
        let mut allowed = settings(&redis.url());
        allowed.allow_eviction = true;
        let store = connect(allowed, role).await.unwrap();
        let checks = store.health().await.unwrap();
        let eviction = checks.iter().find(|check| check.name == "redis eviction").unwrap();
        assert_eq!(eviction.level, Level::Error);
    }
}

#[tokio::test]
async fn a_replica() {
    let primary = TestRedis::on_tcp(&[]);
    let replica = TestRedis::start();
    let port = primary.url().trim_end_matches('/').rsplit(':').next().unwrap().to_owned();
    let (as_worker, as_caller) =
        (open(&replica.url(), Role::Engine).await, open(&replica.url(), Role::Client).await);
    let worker = Worker::over(as_worker).await;
    replica.ask::<()>(&["REPLICAOF", "127.0.0.1", &port]);
    let error = refused(&replica.url()).await;
    assert_says(&error, Kind::Misconfigured, &["replica", "primary", "redis+sentinel://"]);

    // One that became a replica later: a short caller is told, a worker waits.
    let error = as_caller.submit(&[new_job("a")]).await.unwrap_err();
    assert_says(&error, Kind::Unavailable, &["read-only replica", "primary"]);
    let refusals = sent(&replica, "evalsha");
    let run = tokio::spawn(async move { worker.run("a").await });
    eventually(SOON, "the worker has tried again", async || {
        (sent(&replica, "evalsha") > refusals + 2).then_some(())
    })
    .await;
    assert!(!run.is_finished());
    replica.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
    // The worker is not known there any more; that it is answered is what counts.
    let answered = tokio::time::timeout(SOON, run).await.expect("the worker is answered");
    assert!(answered.is_err() || as_caller.stats().await.unwrap().done == 1);
}

#[tokio::test]
async fn a_server_that_still_loads() {
    let redis = TestRedis::with(&["--appendonly", "yes", "--enable-debug-command", "yes"]);
    let caller = open(&redis.url(), Role::Client).await;
    let worker = Worker::over(open(&redis.url(), Role::Engine).await).await;
    redis.ask::<()>(&["DEBUG", "POPULATE", "20000"]);
    redis.ask::<String>(&["CONFIG", "SET", "key-load-delay", "150"]);
    redis.ask::<String>(&["CONFIG", "SET", "loading-process-events-interval-bytes", "1024"]);
    let socket = redis.socket();
    let reload = std::thread::spawn(move || {
        let client = redis::Client::open(format!("unix://{}", socket.display())).unwrap();
        let mut connection = client.get_connection().unwrap();
        redis::cmd("DEBUG").arg("RELOAD").query::<()>(&mut connection).unwrap();
    });
    eventually(SOON, "the server loads", async || redis.try_ask::<u64>(&["LLEN", QUEUE]).err())
        .await;
    let error = caller.submit(&[new_job("b")]).await.unwrap_err();
    assert_says(&error, Kind::Unavailable, &["still loading", "try again"]);
    assert_is_line(&error);
    worker.run("a").await;
    reload.join().unwrap();
    assert_eq!(caller.fsck().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn too_many_clients() {
    for user in ["", ":secret@"] {
        let redis = TestRedis::on_tcp(&["--maxclients", "5"]);
        if !user.is_empty() {
            redis.ask::<()>(&["ACL", "SETUSER", "default", ">secret"]);
        }
        let url = redis.url().replace("redis://", &format!("redis://{user}"));
        let worker = Worker::over(open(&url, Role::Engine).await).await;
        let mut others = Vec::new();
        while let Ok(mut other) = redis::Client::open(url.clone()).unwrap().get_connection() {
            if redis::cmd("PING").query::<String>(&mut other).is_err() {
                break;
            }
            others.push(other);
        }
        assert!(!others.is_empty(), "the server is full of others");
        let mut kill = redis::cmd("CLIENT");
        kill.arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"]);
        kill.exec(others.last_mut().unwrap()).unwrap();
        // The worker's place is taken again before it comes back.
        while let Ok(mut other) = redis::Client::open(url.clone()).unwrap().get_connection() {
            if redis::cmd("PING").query::<String>(&mut other).is_err() {
                break;
            }
            others.push(other);
        }
        let error = refused(&url).await;
        assert!(error.to_string().contains("Redis at"), "{error}");
        let run = tokio::spawn(async move { worker.run("a").await });
        let early = tokio::time::sleep(Duration::from_millis(500));
        early.await;
        assert!(!run.is_finished(), "there is no place for the worker");
        drop(others);
        tokio::time::timeout(SOON, run).await.expect("the worker goes on").unwrap();
    }
}

#[tokio::test]
async fn a_queue_name_that_is_something_else() {
    let redis = TestRedis::start();
    redis.ask::<()>(&["SET", QUEUE, "mine"]);
    let caller = open(&redis.url(), Role::Client).await;
    let error = caller.submit(&[new_job("a")]).await.unwrap_err();
    assert_says(&error, Kind::Misconfigured, &["something else", "another queue name"]);
    let wait = Some(Duration::from_millis(1));
    assert_eq!(caller.read(&Log::Fleet, "0", 1, wait).await.unwrap().len(), 0);
}
