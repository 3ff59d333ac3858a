//! The supervisor, one process per attempt, forked by `sortie __shim` (`template.rs`).
//!
//! It is there because nothing else removes a whole process tree: killing a process group misses
//! who left it, a worker that adopts orphans steals exits from its runtime, and a death signal is
//! tied to one thread. The supervisor is a session leader and a subreaper with one thread, so every
//! descendant stays below it, and it keeps three promises:
//!
//! 1. **The agent does not outlive the worker.** The worker holds the other end of standard input
//!    and its end means SIGKILL to all.
//! 2. **The agent does not run past the lease** (ARCHITECTURE.md P5), even if the worker hangs or is
//!    itself stopped: at the deadline the tree is frozen until a newer deadline arrives. Nothing
//!    is thawed, and nothing polite is awaited, without a lease.
//! 3. **Nothing survives the agent.** What is left when it exits is killed and reaped, then the
//!    report is written, then the supervisor exits, in this order.
//!
//! It has no runtime and no logger, because it stays for as long as the job does.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::prctl;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};
use nix::sys::time::TimeSpec;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, setsid};

use super::tree::{self, Frozen};
use super::wire::{self, LOCK, Lifeline, Order, now_ns, wary};
use super::{Exit, NotStarted, agent, template};

const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1000 * MILLISECOND;
/// How long killed processes may take to disappear. A process that hangs in the kernel outlives
/// SIGKILL; the job must not hang with it.
const SWEEP_NS: u64 = 10 * SECOND;
/// How often a frozen tree is looked at again, at least; somebody else may have continued it.
const FROZEN_CHECK_NS: u64 = 2 * SECOND;

/// The whole life of the template, and of each supervisor; `main` calls it before anything else.
pub fn main() -> ExitCode {
    close_inherited();
    let _only_for_ps = prctl::set_name(c"sortie-shim");
    umask(Mode::from_bits_truncate(0o022));
    let signals = match template::serve() {
        Ok(Some(signals)) => signals,
        Ok(None) => return ExitCode::SUCCESS,
        // The worker sees it end.
        Err(_) => return ExitCode::FAILURE,
    };
    if wire::write_greeting().is_err() {
        return ExitCode::FAILURE;
    }
    let exit =
        run(signals).unwrap_or_else(|reason| Exit { not_started: Some(reason), ..Exit::default() });
    wire::write_report(&exit);
    ExitCode::SUCCESS
}

fn run(signals: SignalFd) -> Result<Exit, NotStarted> {
    let failed = |what: &'static str| {
        move |error: Errno| agent::broken(format!("the supervisor cannot {what}: {error}"))
    };
    prctl::set_child_subreaper(true).map_err(failed("adopt orphans"))?;
    prctl::set_no_new_privs().map_err(failed("give up new privileges"))?;
    setsid().map_err(failed("leave the session of others"))?;

    let mut lifeline = Lifeline::default();
    let start = lifeline
        .read_start()
        .map_err(|error| agent::broken(format!("the worker ended, or sent no request: {error}")))?;
    let _held_while_alive = lock(&start.dir)?;
    let mut inbox = Inbox { lifeline, signals };

    let mut lease_ns = start.lease_ns;
    let mut until_ns = 0;
    loop {
        for order in inbox.receive(until_ns)? {
            match order {
                Order::Lease(newer_ns) => lease_ns = lease_ns.max(newer_ns),
                Order::Stop | Order::Kill => {
                    return Err(agent::broken("stopped before it was started".to_owned()));
                }
            }
        }
        if now_ns() < lease_ns {
            break;
        }
        until_ns = u64::MAX;
    }

    let leader = agent::spawn(&start)?;
    let grace_ns = start.grace_ms.saturating_mul(MILLISECOND);
    drop(start);
    let mut family = Family { me: getpid(), leader, ended: None };
    let mut watch = Watch { lease_ns, grace_ns, stopping: None, frozen: None };
    while family.reap() && family.ended.is_none() {
        // A supervisor that cannot wait any more can only kill, as if the worker were gone.
        let orders = inbox.receive(watch.next_ns()).unwrap_or_else(|_| vec![Order::Kill]);
        if watch.act(&family, &orders) == Verdict::Kill {
            break;
        }
    }
    let leaked = family.sweep(&inbox.signals);
    Ok(family.exit(leaked))
}

/// Closes what whoever started the worker left open for it: none of it is the agent's business.
/// The worker's own files are closed by the kernel.
fn close_inherited() {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<RawFd> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        // One of them was the directory itself, closed by now.
        let _may_be_gone = nix::unistd::close(fd);
    }
}

/// Takes the lock that shows others that this directory has a living process tree.
fn lock(dir: &Path) -> Result<File, NotStarted> {
    let path = dir.join(LOCK);
    let file = File::options().create(true).append(true).custom_flags(wary()).open(&path);
    let locked = file.and_then(|file| file.try_lock().map(|()| file).map_err(io::Error::from));
    locked.map_err(|error| {
        agent::broken(format!(
            "cannot lock {}: {error}; an earlier process tree may still be ending there",
            path.display()
        ))
    })
}

/// Blocked signals are queued even if somebody made this process ignore them.
pub(super) fn open_signals() -> nix::Result<SignalFd> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Everything that may be said to the supervisor.
struct Inbox {
    lifeline: Lifeline,
    signals: SignalFd,
}

impl Inbox {
    /// Waits for orders or the exit of a child, until `until_ns` at most.
    fn receive(&mut self, until_ns: u64) -> Result<Vec<Order>, NotStarted> {
        let until_ns = if self.lifeline.has_unread() { 0 } else { until_ns };
        let stdin = io::stdin();
        let mut ready = [
            PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        wait(&mut ready, until_ns)
            .map_err(|error| agent::broken(format!("the supervisor cannot wait: {error}")))?;
        let [is_spoken_to, is_signalled] = ready.map(|one| one.any().unwrap_or(true));
        let mut orders = Vec::new();
        if is_signalled && any_but_sigchld(&self.signals) {
            orders.push(Order::Stop);
        }
        orders.extend(self.lifeline.take_orders(is_spoken_to));
        Ok(orders)
    }
}

/// Takes all pending signals.
pub(super) fn any_but_sigchld(signals: &SignalFd) -> bool {
    let sigchld = Signal::SIGCHLD as u32;
    let mut others = false;
    while let Ok(Some(signal)) = signals.read_signal() {
        others |= signal.ssi_signo != sigchld;
    }
    others
}

/// Waits until one is ready, and not later than `until_ns`. At most a second, because a timeout
/// does not count the time that the machine is suspended and our clock does.
fn wait(ready: &mut [PollFd<'_>], until_ns: u64) -> nix::Result<()> {
    let left_ns = until_ns.saturating_sub(now_ns()).min(SECOND);
    let left = TimeSpec::from_duration(std::time::Duration::from_nanos(left_ns));
    match ppoll(ready, Some(left), None) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error),
    }
}

/// What was ordered, and what the clock makes of it.
struct Watch {
    lease_ns: u64,
    grace_ns: u64,
    stopping: Option<Stopping>,
    frozen: Option<Freeze>,
}

/// A polite end that is under way.
struct Stopping {
    /// When SIGTERM follows; empty once it was sent.
    term_ns: Option<u64>,
    kill_ns: u64,
}

struct Freeze {
    tree: Frozen,
    check_ns: u64,
    pause_ns: u64,
}

#[derive(PartialEq, Eq)]
enum Verdict {
    GoOn,
    Kill,
}

impl Watch {
    /// When [`Watch::act`] is due without any order.
    fn next_ns(&self) -> u64 {
        let lease_ns = self.frozen.as_ref().map_or(self.lease_ns, |freeze| freeze.check_ns);
        match &self.stopping {
            None => lease_ns,
            Some(stopping) => lease_ns.min(stopping.term_ns.unwrap_or(stopping.kill_ns)),
        }
    }

    fn act(&mut self, family: &Family, orders: &[Order]) -> Verdict {
        let now = now_ns();
        let mut is_asked_to_stop = false;
        for order in orders {
            match order {
                Order::Lease(newer_ns) => self.lease_ns = self.lease_ns.max(*newer_ns),
                Order::Stop => is_asked_to_stop = true,
                Order::Kill => return Verdict::Kill,
            }
        }

        if now >= self.lease_ns {
            // To end politely is to go on running, which needs a lease.
            if is_asked_to_stop || self.stopping.is_some() {
                return Verdict::Kill;
            }
            self.freeze(family.me, now);
            return Verdict::GoOn;
        }
        if let Some(freeze) = self.frozen.take() {
            freeze.tree.thaw();
        }

        if is_asked_to_stop && self.stopping.is_none() {
            let _gone = killpg(family.leader, Signal::SIGINT);
            self.stopping = Some(Stopping {
                term_ns: Some(now.saturating_add(self.grace_ns / 3)),
                kill_ns: now.saturating_add(self.grace_ns),
            });
        }
        if let Some(stopping) = &mut self.stopping {
            if now >= stopping.kill_ns {
                return Verdict::Kill;
            }
            if stopping.term_ns.is_some_and(|at| now >= at) {
                stopping.term_ns = None;
                tree::signal(&tree::descendants(family.me), Signal::SIGTERM);
            }
        }
        Verdict::GoOn
    }

    /// Looks for who runs, at once, soon again while there is anybody new, and less and less often.
    fn freeze(&mut self, me: Pid, now: u64) {
        let freeze = self.frozen.get_or_insert_with(|| Freeze {
            tree: Frozen::default(),
            check_ns: now,
            pause_ns: MILLISECOND,
        });
        if now < freeze.check_ns {
            return;
        }
        let nobody_new = freeze.tree.stop(me);
        freeze.pause_ns =
            if nobody_new { (freeze.pause_ns * 2).min(FROZEN_CHECK_NS) } else { MILLISECOND };
        freeze.check_ns = now_ns() + freeze.pause_ns;
    }
}

/// The supervisor's children: the agent, and whoever was orphaned below it.
struct Family {
    me: Pid,
    leader: Pid,
    ended: Option<Ended>,
}

#[derive(Clone, Copy)]
enum Ended {
    Code(i32),
    Signal(i32),
}

impl Family {
    /// Takes note of all who have exited. False when no child is left.
    fn reap(&mut self) -> bool {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => return true,
                Ok(WaitStatus::Exited(pid, code)) if pid == self.leader => {
                    self.ended = Some(Ended::Code(code));
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == self.leader => {
                    self.ended = Some(Ended::Signal(signal as i32));
                }
                Ok(_) => {}
                // Somebody was ended by a real-time signal, which has no name here. If it was the
                // leader, it is not there any more.
                Err(Errno::EINVAL) => {
                    if kill(self.leader, None) == Err(Errno::ESRCH) {
                        self.ended = Some(Ended::Signal(Signal::SIGKILL as i32));
                    }
                }
                Err(Errno::ECHILD) => return false,
                Err(_) => return true,
            }
        }
    }

    /// Kills and reaps until nobody is left, or time is up. Returns how many had outlived the
    /// leader.
    fn sweep(&mut self, signals: &SignalFd) -> u32 {
        let leader_had_ended = self.ended.is_some();
        let give_up_ns = now_ns() + SWEEP_NS;
        let mut pause_ns = MILLISECOND;
        let mut killed = BTreeSet::new();
        while self.reap() && now_ns() < give_up_ns {
            let left = tree::descendants(self.me);
            tree::signal(&left, Signal::SIGKILL);
            killed.extend(left.iter().map(|process| process.pid));
            let mut ready = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            // Whether it was an exit or the time that ended the wait, the next round finds out.
            let _either = wait(&mut ready, now_ns() + pause_ns);
            any_but_sigchld(signals);
            pause_ns = (pause_ns * 2).min(50 * MILLISECOND);
        }
        if leader_had_ended { u32::try_from(killed.len()).unwrap_or(u32::MAX) } else { 0 }
    }

    fn exit(&self, leaked: u32) -> Exit {
        let mut exit = Exit { leaked, ..Exit::default() };
        match self.ended {
            Some(Ended::Code(code)) => exit.code = Some(code),
            Some(Ended::Signal(signal)) => exit.signal = Some(signal),
            // SIGKILL was sent, but it hangs in the kernel.
            None => exit.signal = Some(Signal::SIGKILL as i32),
        }
        if let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) {
            let (user, system) = (usage.user_time(), usage.system_time());
            let us =
                (user.tv_sec() + system.tv_sec()) * 1_000_000 + (user.tv_usec() + system.tv_usec());
            exit.cpu_us = u64::try_from(us).unwrap_or_default();
            exit.max_rss_kib = u64::try_from(usage.max_rss()).unwrap_or_default();
        }
        exit
    }
}
