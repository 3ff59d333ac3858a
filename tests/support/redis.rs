//! A redis-server that belongs to one test.

use std::fs::File;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use redis::FromRedisValue;
use tempfile::TempDir;

use super::eventually_blocking;

/// Keeps every acknowledged write across a SIGKILL of the server. `everysec` does not: while an
/// fsync is under way Redis answers before it has written (for up to two seconds).
pub const AOF: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

/// A server on a unix socket in a directory of its own, and on a loopback port if asked for.
/// Killed when dropped.
#[derive(Debug)]
pub struct TestRedis {
    directory: TempDir,
    options: Vec<String>,
    port: Option<u16>,
    server: Mutex<Child>,
}

impl TestRedis {
    /// A server that is reached through a unix socket.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Like [`Self::start`], with further options (`--name value`).
    pub fn with(options: &[&str]) -> Self {
        Self::launch(options, None).unwrap_or_else(|log| panic!("redis-server exited:\n{log}"))
    }

    /// A server that is also reached through a free loopback port.
    pub fn on_tcp(options: &[&str]) -> Self {
        // Somebody else may take the port between our look and the server's bind.
        let mut log = String::new();
        for _ in 0..20 {
            let free = TcpListener::bind(("127.0.0.1", 0)).expect("binding a loopback port");
            let port = free.local_addr().expect("address of a bound socket").port();
            drop(free);
            match Self::launch(options, Some(port)) {
                Ok(redis) => return redis,
                Err(said) => log = said,
            }
        }
        panic!("redis-server found no free port in 20 attempts:\n{log}");
    }

    /// The running server, or the log of one that exited.
    fn launch(options: &[&str], port: Option<u16>) -> Result<Self, String> {
        // Not TMPDIR: the path of a unix socket has at most 107 bytes.
        let directory = tempfile::Builder::new()
            .prefix("redis-")
            .tempdir_in("/tmp")
            .expect("making /tmp/redis-*");
        let options: Vec<String> = options.iter().map(|&word| word.to_owned()).collect();
        let server = Mutex::new(spawn(&directory, &options, port));
        let redis = Self { directory, options, port, server };
        if redis.is_ready_or_gone() {
            return Ok(redis);
        }
        Err(std::fs::read_to_string(redis.directory.path().join("log")).unwrap_or_default())
    }

    /// Where clients connect: the port if there is one, else the socket.
    pub fn url(&self) -> String {
        match self.port {
            Some(port) => format!("redis://127.0.0.1:{port}/"),
            None => format!("unix://{}", self.socket().display()),
        }
    }

    /// Path of the unix socket, which every server has.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    /// Process id of the server that runs now.
    pub fn pid(&self) -> Pid {
        let id = self.server.lock().expect("no panic while locked").id();
        Pid::from_raw(i32::try_from(id).expect("a pid fits in an i32"))
    }

    /// Runs one command, e.g. `ask::<u64>(&["LLEN", "queue"])`.
    pub fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_ask(words).unwrap_or_else(|error| panic!("redis {words:?}: {error}"))
    }

    /// [`Self::ask`] where the server may be away or refuse.
    pub fn try_ask<T: FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let client = redis::Client::open(format!("unix://{}", self.socket().display()))?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(5))?;
        connection.set_read_timeout(Some(Duration::from_secs(5)))?;
        let (name, arguments) = words.split_first().expect("a command has a name");
        redis::cmd(name).arg(arguments).query(&mut connection)
    }

    /// Kills the server without any warning, and waits until it is gone.
    pub fn sigkill(&self) {
        let mut server = self.server.lock().expect("no panic while locked");
        server.kill().expect("killing a child of ours");
        server.wait().expect("waiting for a child of ours");
    }

    /// Starts the server again on the same data, after [`Self::sigkill`] if it still runs.
    pub fn restart(&self) {
        self.sigkill();
        // A stale socket would make the readiness check race with the new bind.
        std::fs::remove_file(self.socket()).ok();
        *self.server.lock().expect("no panic while locked") =
            spawn(&self.directory, &self.options, self.port);
        assert!(self.is_ready_or_gone(), "redis-server did not come up again");
    }

    pub fn sigstop(&self) {
        kill(self.pid(), Signal::SIGSTOP).expect("stopping a child of ours");
    }

    pub fn sigcont(&self) {
        kill(self.pid(), Signal::SIGCONT).expect("continuing a child of ours");
    }

    /// Waits until the server answers (true) or has exited (false).
    fn is_ready_or_gone(&self) -> bool {
        eventually_blocking(Duration::from_secs(30), "redis-server answers", || {
            let mut server = self.server.lock().expect("no panic while locked");
            if server.try_wait().expect("looking at a child of ours").is_some() {
                return Some(false);
            }
            drop(server);
            self.try_ask::<String>(&["PING"]).is_ok().then_some(true)
        })
    }
}

impl Drop for TestRedis {
    fn drop(&mut self) {
        let server = self.server.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        server.kill().ok();
        server.wait().ok();
    }
}

fn spawn(directory: &TempDir, options: &[String], port: Option<u16>) -> Child {
    let log = File::options()
        .create(true)
        .append(true)
        .open(directory.path().join("log"))
        .expect("opening the server's log");
    Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--port", &port.unwrap_or(0).to_string()])
        .args(["--unixsocket", "s", "--save", "", "--daemonize", "no"])
        .args(options)
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("another handle of the log"))
        .stderr(log)
        .spawn()
        .expect("redis-server must be installed to run these tests")
}
