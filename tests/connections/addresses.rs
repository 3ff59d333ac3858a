//! Each kind of address leads to the server.

use std::path::Path;
use std::process::Command;

use sortie::store::Kind;
use sortie::store::redis::Role;

use crate::bench::{QUEUE, Worker, assert_says, open, refused};
use crate::support::redis::TestRedis;
use crate::support::{SOON, eventually};

/// A worker and a short caller both get through.
async fn works(url: &str) {
    let worker = Worker::over(open(url, Role::Engine).await).await;
    worker.run("a").await;
    let caller = open(url, Role::Client).await;
    assert_eq!(caller.stats().await.unwrap().done, 1);
    assert_eq!(caller.fsck().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_socket_and_a_port() {
    works(&TestRedis::start().url()).await;
    works(&TestRedis::on_tcp(&[]).url()).await;
}

/// All keys of a queue are in one slot, so the node that has the slot is enough.
#[tokio::test]
async fn a_node_of_a_cluster() {
    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let bus = free.local_addr().unwrap().port().to_string();
    drop(free);
    let redis = TestRedis::on_tcp(&["--cluster-enabled", "yes", "--cluster-port", &bus]);
    redis.ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    eventually(SOON, "the cluster is up", async || {
        redis.ask::<String>(&["CLUSTER", "INFO"]).contains("cluster_state:ok").then_some(())
    })
    .await;
    works(&redis.url()).await;
}

#[tokio::test]
async fn a_database() {
    let redis = TestRedis::on_tcp(&[]);
    works(&format!("{}3", redis.url())).await;
    works(&format!("unix://{}?db=4", redis.socket().display())).await;
    let keyspace: String = redis.ask(&["INFO", "keyspace"]);
    assert!(keyspace.contains("db3:") && keyspace.contains("db4:"), "{keyspace}");
    assert!(!keyspace.contains("db0:"), "{keyspace}");
    let error = refused(&format!("{}99", redis.url())).await;
    assert_says(&error, Kind::Misconfigured, &["database", "out of range"]);
}

#[tokio::test]
async fn a_password_and_a_user_with_signs_in_it() {
    let redis = TestRedis::on_tcp(&[]);
    let rules = ["ACL", "SETUSER", "al:ice", "on", ">secret@/1", "allkeys", "allcommands"];
    redis.ask::<()>(&rules);
    let host = redis.url().replace("redis://", "");
    works(&format!("redis://al%3Aice:secret%40%2F1@{host}")).await;
    redis.ask::<()>(&["FLUSHALL"]);
    works(&format!("unix://{}?user=al%3Aice&pass=secret%40%2F1", redis.socket().display())).await;
}

/// The variables must be there before the process starts, so the test runs itself once more.
#[tokio::test]
async fn tls_with_an_authority_of_its_own() {
    if let Ok(url) = std::env::var("TEST_TLS_URL") {
        works(&url).await;
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path());
    let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (port, redis) = on_tls(&file("redis.crt"), &file("redis.key"), &file("ca.crt"));
    let url = format!("rediss://127.0.0.1:{port}");
    let test = "addresses::tls_with_an_authority_of_its_own";
    let run = |name: &str, value: &str| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([test, "--exact"]).env("TEST_TLS_URL", name).env("SSL_CERT_FILE", value);
        let output = command.output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (is_fine, said) = run(&url, &file("ca.crt"));
    assert!(is_fine, "{said}");
    assert_eq!(redis.ask::<u64>(&["EXISTS", &format!("{{{QUEUE}}}:job:a")]), 1);

    // Known to nobody: told, with the remedy; and so is each mix-up of TLS and plain.
    let error = refused(&url).await;
    assert_says(&error, Kind::Unavailable, &["UnknownIssuer", "SSL_CERT_FILE"]);
    let error = refused(&format!("redis://127.0.0.1:{port}")).await;
    assert_says(&error, Kind::Unavailable, &["rediss://"]);
    let plain = TestRedis::on_tcp(&[]);
    let error = refused(&plain.url().replace("redis://", "rediss://")).await;
    assert_says(&error, Kind::Unavailable, &["speak TLS", "redis://"]);
}

/// A server on a TLS port, reached by its socket too.
fn on_tls(certificate: &str, key: &str, authority: &str) -> (u16, TestRedis) {
    for _ in 0..20 {
        let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let number = port.to_string();
        let options = ["--tls-port", &number, "--tls-auth-clients", "no", "--tls-cert-file"];
        let files = [certificate, "--tls-key-file", key, "--tls-ca-cert-file", authority];
        let all: Vec<&str> = options.into_iter().chain(files).collect();
        let redis = TestRedis::with(&all);
        // Redis goes on without a port that somebody else took in between.
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return (port, redis);
        }
    }
    panic!("no free port in 20 attempts");
}

fn certificates(directory: &Path) {
    let openssl = |arguments: &str| {
        let words: Vec<&str> = arguments.split(' ').collect();
        let output = Command::new("openssl").args(words).current_dir(directory).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    std::fs::write(directory.join("ext"), "subjectAltName=IP:127.0.0.1,DNS:localhost\n").unwrap();
    openssl("req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -subj /CN=ca -days 2");
    openssl("req -newkey rsa:2048 -nodes -keyout redis.key -out redis.csr -subj /CN=redis");
    openssl(
        "x509 -req -in redis.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out redis.crt -days 2 -extfile ext",
    );
}
