//! The command line, as people and scripts meet it: the real binary, a real redis-server, and where
//! jobs run a real worker.

mod support;

#[path = "cli/alone.rs"]
mod alone;
#[path = "cli/fleet.rs"]
mod fleet;
#[path = "cli/mistakes.rs"]
mod mistakes;
#[path = "cli/race.rs"]
mod race;
#[path = "cli/stores.rs"]
mod stores;

use std::path::Path;
use std::process::{Output, Stdio};

use support::process::sortie;
use tempfile::TempDir;

/// What a command did.
#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().expect("it exits by itself"),
            out: String::from_utf8(output.stdout).expect("text"),
            err: String::from_utf8(output.stderr).expect("text"),
        }
    }

    /// Standard output as JSON.
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }
}

/// A home directory without settings.
fn home() -> TempDir {
    TempDir::new().expect("a directory of our own")
}

/// Runs a command without a store.
fn run(home: &Path, words: &[&str]) -> Ran {
    Ran::of(sortie(home).args(words).output().expect("the program starts"))
}

/// [`run`] with something on standard input.
fn run_with_input(home: &Path, words: &[&str], redis: &str, input: &str) -> Ran {
    use std::io::Write;
    let mut child = sortie(home)
        .args(words)
        .env("SORTIE_REDIS_URL", redis)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input.as_bytes()).expect("the program reads it");
    drop(stdin);
    Ran::of(child.wait_with_output().expect("it ends"))
}
