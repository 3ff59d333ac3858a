//! A process tree as /proc shows it, and signals to all of it.
//!
//! Process groups and sessions do not hold a tree together: any process may leave them. Parentage
//! does, under a subreaper. It is read by one pass over `/proc/*/stat`, which every kernel has and
//! which a fork or an exit can make wrong for an instant, so callers repeat a pass until nothing
//! new turns up.

use std::collections::BTreeMap;
use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// One line of `/proc/<pid>/stat`, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: Pid,
    parent: Pid,
    session: Pid,
    state: char,
}

impl Process {
    fn parse(stat: &str) -> Option<Self> {
        // `pid (name) state parent group session …`; the name may contain anything.
        let (pid, rest) = stat.split_once(' ')?;
        let mut fields = rest.rsplit_once(')')?.1.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let mut number = || fields.next()?.parse().ok().map(Pid::from_raw);
        let (parent, _group, session) = (number()?, number()?, number()?);
        Some(Self { pid: Pid::from_raw(pid.parse().ok()?), parent, session, state })
    }

    fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    fn is_stopped(&self) -> bool {
        matches!(self.state, 'T' | 't')
    }
}

/// All processes, by process id.
fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| {
            entry.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit)
        })
        .filter_map(|entry| Process::parse(&fs::read_to_string(entry.path().join("stat")).ok()?))
        .collect()
}

/// The living descendants of `root`, parents before their children.
pub(super) fn descendants(root: Pid) -> Vec<Process> {
    let mut children: BTreeMap<Pid, Vec<Process>> = BTreeMap::new();
    for process in all() {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found = children.remove(&root).unwrap_or_default();
    let mut next = 0;
    while let Some(process) = found.get(next) {
        // Every entry is removed as it is used, so this ends even if /proc shows a circle.
        found.extend(children.remove(&process.pid).unwrap_or_default());
        next += 1;
    }
    found.retain(|process| !process.is_dead());
    found
}

/// Sends `signal` to all of `processes`. One that is gone meanwhile needs none.
pub(super) fn signal(processes: &[Process], signal: Signal) {
    for process in processes {
        let _gone = kill(process.pid, signal);
    }
}

/// SIGKILL to what a supervisor that was itself killed left in its session `session`. A session
/// id is not given to another process while the session has a member.
pub(super) fn kill_session(session: Pid) {
    let mut left = all();
    left.retain(|process| process.session == session && !process.is_dead());
    signal(&left, Signal::SIGKILL);
}

/// A tree that is being held still.
#[derive(Debug, Default)]
pub(super) struct Frozen {
    /// Whom we stopped, parents first. Not who had stopped for reasons of its own.
    stopped: Vec<Pid>,
}

impl Frozen {
    /// Stops whoever runs under `root`. False when somebody turned up that was not stopped before.
    pub(super) fn stop(&mut self, root: Pid) -> bool {
        let mut nobody_new = true;
        for process in descendants(root) {
            if process.is_stopped() {
                continue;
            }
            let _gone = kill(process.pid, Signal::SIGSTOP);
            if !self.stopped.contains(&process.pid) {
                self.stopped.push(process.pid);
                nobody_new = false;
            }
        }
        nobody_new
    }

    /// Lets everybody run again, children first: a parent that runs sooner would see a stopped
    /// child and take it for suspended.
    pub(super) fn thaw(self) {
        for pid in self.stopped.into_iter().rev() {
            let _gone = kill(pid, Signal::SIGCONT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_brackets_and_spaces_are_read() {
        let process = Process::parse("42 (a) b (c) S 7 42 9 0 -1 4194304").unwrap();
        let pid = Pid::from_raw;
        let expected = Process { pid: pid(42), parent: pid(7), session: pid(9), state: 'S' };
        assert_eq!(process, expected);
        assert_eq!(Process::parse("42 (cut"), None);
    }
}
