//! A look at the store while a worker changes it.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use crate::support::process::sortie;
use crate::support::redis::TestRedis;
use crate::{home, run};

/// Passes everything between clients of `listener` and the server on; calls `before` whenever a
/// client is about to look at the pushes in the list.
fn forward(
    listener: &UnixListener,
    server: &PathBuf,
    before: &Arc<impl Fn() + Send + Sync + 'static>,
) {
    for client in listener.incoming() {
        let client = client.expect("a connection");
        let server = UnixStream::connect(server).expect("the server listens");
        let (mut from_server, mut to_client) =
            (server.try_clone().expect("a socket"), client.try_clone().expect("a socket"));
        thread::spawn(move || {
            std::io::copy(&mut from_server, &mut to_client).ok();
            to_client.shutdown(Shutdown::Both).ok();
        });
        let (mut from_client, mut to_server, before) = (client, server, Arc::clone(before));
        thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(length @ 1..) = from_client.read(&mut buffer) {
                if buffer[..length].windows(6).any(|word| word == b"LRANGE") {
                    before();
                }
                if to_server.write_all(&buffer[..length]).is_err() {
                    break;
                }
            }
            to_server.shutdown(Shutdown::Both).ok();
        });
    }
}

#[test]
fn a_push_is_found_while_a_worker_opens_it() {
    let (redis, home) = (TestRedis::start(), home());
    redis.ask::<u64>(&["RPUSH", "sortie:queue", r#"{"id":"raw","command":["true"]}"#]);
    let socket = home.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut worker = sortie(home.path());
    worker.args(["worker", "--once", "--redis", &redis.url()]);
    worker.arg("--worktrees").arg(home.path().join("worktrees"));
    worker.arg("--shared").arg(home.path().join("shared"));
    let worker = std::sync::Mutex::new(Some(worker));
    // The places were looked at, the list was not: now the push leaves the list.
    let before = Arc::new(move || {
        if let Some(mut worker) = worker.lock().expect("no test failed before").take() {
            assert!(worker.output().expect("the worker starts").status.success());
        }
    });
    let server = redis.socket();
    thread::spawn(move || forward(&listener, &server, &before));
    let url = format!("unix://{}", socket.display());
    let job = run(home.path(), &["job", "raw", "--json", "--redis", &url]).expect(0).json();
    assert_eq!(job["state"], "succeeded");
    run(home.path(), &["job", "nobody", "--redis", &url]).expect(3);
}
