//! Behind Sentinels the primary may move: everybody follows it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sortie::store::Kind;
use sortie::store::redis::Role;

use crate::bench::{Worker, assert_says, new_job, open, refused};
use crate::support::eventually;
use crate::support::process::Process;
use crate::support::redis::TestRedis;

/// A busy machine may take its time for a failover.
const FAILOVER: Duration = Duration::from_secs(40);

fn port(redis: &TestRedis) -> String {
    redis.url().trim_end_matches('/').rsplit(':').next().unwrap().to_owned()
}

/// A Sentinel that watches `primary` under the name `main`. Ends with its value.
struct Sentinel {
    address: String,
    _process: Process,
    directory: tempfile::TempDir,
}

impl Sentinel {
    async fn of(primary: &TestRedis, more: &[&str]) -> Self {
        let directory = tempfile::Builder::new().prefix("sentinel-").tempdir_in("/tmp").unwrap();
        for _ in 0..20 {
            let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
            let own = free.local_addr().unwrap().port();
            drop(free);
            let mut lines = vec![
                "bind 127.0.0.1".to_owned(),
                format!("port {own}"),
                "unixsocket s".to_owned(),
                format!("sentinel monitor main 127.0.0.1 {} 1", port(primary)),
                "sentinel down-after-milliseconds main 1000".to_owned(),
                "sentinel failover-timeout main 5000".to_owned(),
            ];
            lines.extend(more.iter().map(|&line| line.to_owned()));
            let file = directory.path().join("sentinel.conf");
            std::fs::write(&file, lines.join("\n")).unwrap();
            let mut process = start(&file, directory.path());
            let address = format!("127.0.0.1:{own}");
            let is_up = eventually(FAILOVER, "the Sentinel answers", async || {
                if process.exited().is_some() {
                    return Some(false);
                }
                std::net::TcpStream::connect(&address).is_ok().then_some(true)
            })
            .await;
            if is_up {
                return Self { address, _process: process, directory };
            }
        }
        panic!("the Sentinel found no free port in 20 attempts");
    }

    fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let url = format!("unix://{}/s", self.directory.path().display());
        let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
        redis::cmd("SENTINEL").arg(words).query(&mut connection).unwrap()
    }
}

fn start(file: &Path, directory: &Path) -> Process {
    let mut command = Command::new("redis-server");
    command.arg(file).arg("--sentinel").current_dir(directory).stdout(Stdio::null());
    Process::spawn(&mut command)
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_follows_a_failover() {
    let primary = TestRedis::on_tcp(&[]);
    let replica = TestRedis::on_tcp(&["--replicaof", &format!("127.0.0.1 {}", port(&primary))]);
    let sentinel = Sentinel::of(&primary, &[]).await;
    // One Sentinel of the URL is away.
    let url = format!("redis+sentinel://127.0.0.1:1,{}/main", sentinel.address);
    let worker = Arc::new(Worker::over(open(&url, Role::Engine).await).await);
    let caller = open(&url, Role::Client).await;
    worker.run("before").await;
    caller.submit(&[new_job("kept")]).await.unwrap();

    eventually(FAILOVER, "the replica has everything, and the Sentinel knows it", async || {
        let has_all = replica.ask::<u64>(&["LLEN", "sortie:queue"]) == 1;
        let known: Vec<redis::Value> = sentinel.ask(&["REPLICAS", "main"]);
        (has_all && known.len() == 1).then_some(())
    })
    .await;
    primary.sigkill();

    // The worker's call is under way during the whole failover.
    let done = Arc::new(AtomicBool::new(false));
    let late = tokio::spawn({
        let (worker, done) = (Arc::clone(&worker), Arc::clone(&done));
        async move {
            let claimed = worker.exchange(1, Vec::new()).await.claimed;
            done.store(true, Ordering::Relaxed);
            claimed
        }
    });
    let claimed = tokio::time::timeout(FAILOVER, late).await.expect("answered").unwrap();
    assert_eq!(claimed[0].token.id.as_str(), "kept");
    assert_eq!(
        replica.ask::<Vec<redis::Value>>(&["ROLE"])[0],
        redis::Value::BulkString(b"master".to_vec())
    );
    // The short caller's pool led to the old primary; its first call finds the new one.
    caller.submit(&[new_job("after")]).await.unwrap();
    worker.exchange(0, vec![crate::bench::success(&claimed[0])]).await;
    assert_eq!(caller.stats().await.unwrap().done, 2);
    assert_eq!(caller.fsck().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn sentinels_and_servers_with_a_password() {
    let primary = TestRedis::on_tcp(&[]);
    primary.ask::<()>(&["ACL", "SETUSER", "default", ">secret"]);
    let locked = ["requirepass secret", "sentinel auth-pass main secret"];
    let sentinel = Sentinel::of(&primary, &locked).await;
    let url = format!("redis+sentinel://:secret@{}/main", sentinel.address);
    let worker = Worker::over(eventually_open(&url).await).await;
    worker.run("a").await;
    open(&url, Role::Client).await.stats().await.unwrap();

    let error = refused(&url.replace(":secret@", "")).await;
    assert_says(&error, Kind::Misconfigured, &["user name or password"]);
    let error = refused(&url.replace("main", "other")).await;
    assert_says(&error, Kind::Unavailable, &["Sentinels know no primary", "name"]);
    let server = TestRedis::on_tcp(&[]);
    let url = server.url().replace("redis://", "redis+sentinel://");
    let error = refused(&format!("{url}main")).await;
    assert_says(&error, Kind::Misconfigured, &["sentinel", "URL"]);
}

/// A Sentinel needs a moment until it has reached the primary for the first time.
async fn eventually_open(url: &str) -> Arc<dyn sortie::store::Store> {
    eventually(FAILOVER, "the Sentinel knows the primary", async || {
        sortie::store::redis::connect(crate::bench::settings(url), Role::Engine).await.ok()
    })
    .await
}
