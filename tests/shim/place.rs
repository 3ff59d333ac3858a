//! What the tests share.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use sortie::core::event::OutputStream;
use sortie::exec::{Exit, Request, Running, local};
use tempfile::TempDir;

pub(crate) const LONG: Duration = Duration::from_secs(20);
pub(crate) const MARK: &str = "SORTIE_TEST_MARK";

/// A directory whose path marks the processes of one test.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        local::supervise_with(env!("CARGO_BIN_EXE_sortie").into());
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn dir(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    pub(crate) fn request(&self, argv: &[&str]) -> Request {
        let env = [(MARK, self.dir().to_str().unwrap()), ("PATH", "/usr/bin:/bin")];
        Request {
            argv: argv.iter().map(ToString::to_string).collect(),
            env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            cwd: self.dir().to_owned(),
            stdin: None,
            dir: self.dir().to_owned(),
            grace: LONG,
            lease_until: Instant::now() + Duration::from_hours(1),
        }
    }

    pub(crate) async fn sh(&self, script: &str) -> Running {
        local::start(self.request(&["sh", "-c", script])).await.unwrap()
    }

    /// The processes with the mark and their states. The supervisor has no environment.
    pub(crate) fn processes(&self) -> Vec<(Pid, char)> {
        let mark = format!("{MARK}={}", self.dir().display());
        let carries = |environ: &[u8]| environ.split(|b| *b == 0).any(|v| v == mark.as_bytes());
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| fs::read(format!("/proc/{pid}/environ")).is_ok_and(|e| carries(&e)))
            .filter_map(|pid| Some((Pid::from_raw(pid), state(pid.cast_unsigned())?)))
            .collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.processes().is_empty()
    }

    /// All of them stand still, and still do when looked at again and again. `D`: in `vfork`,
    /// until its child, which is stopped, goes on.
    pub(crate) fn is_frozen(&self) -> bool {
        (0..20).all(|_| {
            let processes = self.processes();
            let stands = |state| matches!(state, 'T' | 'D');
            !processes.is_empty() && processes.iter().all(|(_, state)| stands(*state))
        })
    }
}

pub(crate) fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// The parent of a process, dead or alive; `None` once it is reaped.
pub(crate) fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

pub(crate) fn children(of: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| parent(*pid) == Some(of)).collect()
}

pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {LONG:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for the exit and takes all output: (exit, stdout, stderr). Nothing may be left.
pub(crate) async fn finish(place: &Place, mut running: Running) -> (Exit, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(chunk) = tokio::time::timeout(LONG, running.output.recv()).await.unwrap() {
        let to = if chunk.stream == OutputStream::Stdout { &mut out } else { &mut err };
        to.extend(chunk.bytes);
    }
    let exit = tokio::time::timeout(LONG, running.exit()).await.unwrap();
    assert_eq!(place.processes(), []);
    assert_eq!(running.exit().await, exit, "it may be asked for again");
    (exit, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

pub(crate) async fn finish_exit(place: &Place, running: Running) -> Exit {
    finish(place, running).await.0
}

/// Waits for `text` on standard output.
pub(crate) async fn said(running: &mut Running, text: &str) {
    let mut so_far = String::new();
    while !so_far.contains(text) {
        let chunk = tokio::time::timeout(LONG, running.output.recv()).await.unwrap();
        so_far += &String::from_utf8_lossy(&chunk.expect("it ended too soon").bytes);
    }
}

pub(crate) fn in_ms(milliseconds: u64) -> Instant {
    Instant::now() + Duration::from_millis(milliseconds)
}

pub(crate) fn a_second_ago() -> Instant {
    Instant::now().checked_sub(Duration::from_secs(1)).unwrap()
}
