//! The tests' own tools work: a tool that lies makes every other test worthless.

mod support;

use std::time::Duration;

use support::proxy::{Flow, Proxy};
use support::redis::{AOF, TestRedis};
use support::repo::TestRepo;
use support::{SOON, eventually};

#[test]
fn a_killed_server_keeps_what_it_acknowledged() {
    let redis = TestRedis::with(AOF);
    redis.ask::<u64>(&["RPUSH", "list", "a", "b"]);
    redis.restart();
    assert_eq!(redis.ask::<Vec<String>>(&["LRANGE", "list", "0", "-1"]), ["a", "b"]);
}

#[test]
fn a_stopped_server_does_not_answer_until_it_is_continued() {
    let redis = TestRedis::start();
    redis.sigstop();
    let client = redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_connection_with_timeout(Duration::from_millis(100));
    let answer = connection.as_mut().map_err(|_| ()).and_then(|connection| {
        connection.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        redis::cmd("PING").query::<String>(connection).map_err(|_| ())
    });
    assert_eq!(answer, Err(()));
    redis.sigcont();
    assert_eq!(redis.ask::<String>(&["PING"]), "PONG");
}

#[test]
fn a_server_on_a_port_is_reached_there() {
    let redis = TestRedis::on_tcp(&[]);
    assert!(redis.url().starts_with("redis://127.0.0.1:"));
    let mut connection = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    assert_eq!(redis::cmd("PING").query::<String>(&mut connection).unwrap(), "PONG");
}

#[tokio::test]
async fn the_network_loses_a_reply_but_not_the_request() {
    let redis = TestRedis::start();
    let proxy = Proxy::start(&redis).await;
    let client = redis::Client::open(proxy.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    proxy.lose_replies(1);
    let push = redis::cmd("RPUSH").arg("list").arg("x").query_async::<u64>(&mut connection).await;
    assert!(push.is_err(), "{push:?}");
    assert_eq!(proxy.replies_to_lose(), 0);
    assert_eq!(redis.ask::<u64>(&["LLEN", "list"]), 1);
}

#[tokio::test]
async fn the_network_stalls_and_goes_on() {
    let redis = TestRedis::start();
    let proxy = Proxy::start(&redis).await;
    let client = redis::Client::open(proxy.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    proxy.to_server(Flow::Stall);
    let command = redis::cmd("RPUSH").arg("list").arg("x").clone();
    let push = command.query_async::<u64>(&mut connection).await;
    assert!(push.is_err(), "{push:?}");
    assert_eq!(redis.ask::<u64>(&["LLEN", "list"]), 0);
    proxy.to_server(Flow::Pass);
    eventually(SOON, "the stalled request arrives", async || {
        (redis.ask::<u64>(&["LLEN", "list"]) == 1).then_some(())
    })
    .await;
}

#[test]
fn a_repository_has_what_was_committed() {
    let repo = TestRepo::new();
    let commit = repo.commit("a.txt", "one\n");
    assert_eq!(repo.git(&["rev-parse", "main"]), commit);
    assert_eq!(repo.git(&["show", "main:a.txt"]), "one");
}
