//! Becoming the agent: the one step between the supervisor and the program of a job.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::unistd::{Pid, getpid, getppid};

use super::NotStarted;
use super::wire::Start;

/// Out of memory, the kernel takes the agent before the worker (0 is neutral, 1000 always first).
const OOM_SCORE: &str = "500";

/// Starts the program in a process group of its own, whose id is the returned process id.
///
/// The agent gets the default signal dispositions, an empty signal mask, exactly the environment
/// asked for, and SIGKILL if the supervisor dies before it.
pub(super) fn spawn(start: &Start) -> Result<Pid, NotStarted> {
    let Some((program, arguments)) = start.argv.split_first() else {
        return Err(unusable("no program was named".to_owned()));
    };
    std::env::set_current_dir(&start.cwd).map_err(|error| {
        broken(format!("cannot enter the working directory {}: {error}", start.cwd.display()))
    })?;
    let stdin = start.stdin.as_deref().unwrap_or(Path::new("/dev/null"));
    let input = File::open(stdin).map_err(|error| {
        broken(format!("cannot open {} as standard input: {error}", stdin.display()))
    })?;

    let supervisor = getpid();
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(&start.env);
    command.stdin(Stdio::from(input)).process_group(0);
    #[expect(
        unsafe_code,
        reason = "the supervisor has one thread, so its fork may do anything; the new handlers are the defaults"
    )]
    unsafe {
        command.pre_exec(move || {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            if getppid() != supervisor {
                return Err(Errno::ESRCH.into());
            }
            for each in Signal::iterator().filter(|each| may_be_caught(*each)) {
                signal(each, SigHandler::SigDfl)?;
            }
            SigSet::empty().thread_set_mask()?;
            let _best_effort = fs::write("/proc/self/oom_score_adj", OOM_SCORE);
            Ok(())
        });
    }
    let child = command.spawn().map_err(|error| explain(program, &error))?;
    Ok(Pid::from_raw(child.id().cast_signed()))
}

fn may_be_caught(signal: Signal) -> bool {
    !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP)
}

fn unusable(reason: String) -> NotStarted {
    NotStarted { reason, is_infrastructure: false }
}

/// Not the job's doing.
pub(super) fn broken(reason: String) -> NotStarted {
    NotStarted { reason, is_infrastructure: true }
}

fn explain(program: &str, error: &io::Error) -> NotStarted {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT) => unusable(format!(
            "program {program:?}, or the interpreter it names, was not found: it must be on the \
             job's PATH or be given with its directory"
        )),
        Some(Errno::EACCES) => unusable(format!(
            "program {program:?} may not be executed: make it executable, or run it by its \
             interpreter"
        )),
        Some(Errno::E2BIG) => unusable(
            "the arguments and the environment are larger than the kernel takes: pass them as the \
             prompt (standard input) or in a file"
                .to_owned(),
        ),
        Some(
            Errno::EAGAIN
            | Errno::ENOMEM
            | Errno::EMFILE
            | Errno::ENFILE
            | Errno::ETXTBSY
            | Errno::EIO
            | Errno::ESRCH,
        ) => broken(format!("cannot run {program:?} on this host now: {error}")),
        _ => unusable(format!("cannot run {program:?}: {error}")),
    }
}
