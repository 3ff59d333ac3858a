//! What the worker and the supervisor say to each other.
//!
//! The worker speaks on the supervisor's standard input, the *lifeline*, in lines: first one
//! [`Start`] as JSON, then [`Order`]s. The program, its arguments and its environment travel there
//! and not as the supervisor's own, because arguments are world-readable and bounded by the
//! kernel, and because a job's environment (`LD_PRELOAD`) must not reach the supervisor. A socket
//! takes the usual line in one system call; a file would cost five. The supervisor answers
//! with its process id, and at its end with the [`Exit`] as one line of JSON. The agent cannot answer in its place: its
//! standard input is another file, so it never has the lifeline.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::Exit;

/// File of a job directory that the supervisor keeps locked while it lives.
pub(super) const LOCK: &str = "lock";
/// Largest [`Start`] in bytes: a job of 4 MiB whose every byte is escaped in JSON.
const START_MAX: usize = 32 << 20;
/// Longest [`Order`] in bytes.
const ORDER_MAX: usize = 64;
/// Most bytes of a report that are read. What is in it was written by us, a few paths apart.
const REPORT_MAX: u64 = 64 << 10;

/// What to run. See [`super::Request`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Start {
    pub(super) dir: PathBuf,
    pub(super) argv: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) cwd: PathBuf,
    pub(super) stdin: Option<PathBuf>,
    pub(super) grace_ms: u64,
    /// End of the lease on the clock of [`now_ns`].
    pub(super) lease_ns: u64,
}

/// What the worker wants after the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// The lease ends at this instant of [`now_ns`].
    Lease(u64),
    /// End politely, within the grace.
    Stop,
    /// SIGKILL to everything. The end of the lifeline means the same.
    Kill,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lease(until_ns) => writeln!(f, "lease {until_ns}"),
            Self::Stop => f.write_str("stop\n"),
            Self::Kill => f.write_str("kill\n"),
        }
    }
}

impl FromStr for Order {
    type Err = ();

    fn from_str(line: &str) -> Result<Self, ()> {
        match line.split_once(' ') {
            Some(("lease", until_ns)) => until_ns.parse().map(Self::Lease).map_err(|_| ()),
            None if line == "stop" => Ok(Self::Stop),
            None if line == "kill" => Ok(Self::Kill),
            _ => Err(()),
        }
    }
}

/// Says that there is a supervisor, and its process id: its first word, before it has read any.
pub(super) fn write_greeting() -> io::Result<()> {
    nix::unistd::write(io::stdin().as_fd(), &std::process::id().to_ne_bytes())?;
    Ok(())
}

/// Waits for the process id of the supervisor.
pub(super) async fn read_greeting(lifeline: &mut (impl AsyncRead + Unpin)) -> io::Result<u32> {
    let mut pid = [0; 4];
    lifeline.read_exact(&mut pid).await?;
    Ok(u32::from_ne_bytes(pid))
}

/// Says how it ended, the last thing that a supervisor does.
pub(super) fn write_report(exit: &Exit) {
    let mut line = serde_json::to_vec(exit).expect("an exit has only string keys");
    line.push(b'\n');
    // The worker may be gone, and takes part of a line for none.
    let _nobody_to_tell = nix::unistd::write(io::stdin().as_fd(), &line);
}

/// Waits until the supervisor has closed its end. `None`: it was killed before it had said how it
/// ended.
pub(super) async fn read_report(lifeline: impl AsyncRead + Unpin) -> Option<Exit> {
    let mut line = Vec::with_capacity(512);
    // Orders that it did not read any more make this an error, after everything it said.
    let _end = lifeline.take(REPORT_MAX).read_to_end(&mut line).await;
    serde_json::from_slice(line.strip_suffix(b"\n")?).ok()
}

/// Nanoseconds of a clock that every process of this host reads alike. It counts the time that
/// the machine is suspended, so that a laptop that wakes up finds its leases over.
pub(super) fn now_ns() -> u64 {
    let now =
        clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has had this clock since 2.6.39");
    let part = |number: i64| u64::try_from(number).unwrap_or_default();
    part(now.tv_sec()) * 1_000_000_000 + part(now.tv_nsec())
}

/// Creates a file of a job directory that only its user reads, in place of whatever a process of
/// the job may have put there: a link, or a pipe that would block whoever opens it.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    File::options().write(true).create_new(true).mode(0o600).open(path)?.write_all(bytes)
}

/// Flags to open a file of a job directory that may be anything, without blocking.
pub(super) fn wary() -> i32 {
    (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits()
}

/// The supervisor's end of the lifeline.
#[derive(Debug, Default)]
pub(super) struct Lifeline {
    unread: Vec<u8>,
}

impl Lifeline {
    /// Reads the first line, waiting for all of it.
    pub(super) fn read_start(&mut self) -> io::Result<Start> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.unread[searched..].iter().position(|byte| *byte == b'\n') {
                let rest = self.unread.split_off(searched + at + 1);
                let line = std::mem::replace(&mut self.unread, rest);
                return serde_json::from_slice(&line).map_err(io::Error::other);
            }
            searched = self.unread.len();
            if searched > START_MAX {
                return Err(io::Error::other(format!("a request of over {START_MAX} bytes")));
            }
            if !self.fill()? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Takes the orders that have arrived; `is_ready` if there is something to read, or the end.
    /// The end of the lifeline, and anything that is no order, is [`Order::Kill`]: nobody that can
    /// be trusted is at the other end.
    pub(super) fn take_orders(&mut self, is_ready: bool) -> Vec<Order> {
        let is_open = !is_ready || self.fill().unwrap_or(false);
        let mut orders = Vec::new();
        while let Some(at) = self.unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.unread.drain(..=at).collect();
            let order = std::str::from_utf8(&line[..at]).ok().and_then(|line| line.parse().ok());
            orders.push(order.unwrap_or(Order::Kill));
        }
        if !is_open || self.unread.len() > ORDER_MAX {
            orders.push(Order::Kill);
        }
        orders
    }

    /// Whether orders have arrived together with what was read before.
    pub(super) fn has_unread(&self) -> bool {
        self.unread.contains(&b'\n')
    }

    /// Reads once; false at the end.
    fn fill(&mut self) -> io::Result<bool> {
        let mut bytes = [0; 16 << 10];
        loop {
            match nix::unistd::read(io::stdin().as_fd(), &mut bytes) {
                Ok(0) => return Ok(false),
                Ok(count) => {
                    self.unread.extend_from_slice(&bytes[..count]);
                    return Ok(true);
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_as_they_are_written() {
        for order in [Order::Lease(0), Order::Lease(u64::MAX), Order::Stop, Order::Kill] {
            assert_eq!(order.to_string().trim_end().parse(), Ok(order));
        }
        for noise in ["", "stop ", "lease", "lease -1", "lease 1 2", "killall"] {
            assert_eq!(noise.parse::<Order>(), Err(()), "{noise:?}");
        }
    }

    #[tokio::test]
    async fn a_report_is_whole_or_none() {
        let exit = Exit { code: Some(3), leaked: 1, ..Exit::default() };
        let mut line = serde_json::to_vec(&exit).unwrap();
        line.push(b'\n');
        assert_eq!(read_report(line.as_slice()).await, Some(exit));
        for cut in 0..line.len() {
            assert_eq!(read_report(&line[..cut]).await, None);
        }
    }

    #[test]
    fn the_longest_order_fits() {
        assert!(Order::Lease(u64::MAX).to_string().len() <= ORDER_MAX);
    }
}
