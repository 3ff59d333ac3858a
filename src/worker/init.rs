//! Process number one of a container: whatever loses its parent becomes its child, and nobody else
//! takes note of its end. The worker's runtime waits for its own children only, and a second
//! waiter would steal their ends. So process one is a parent that does nothing else.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

/// When this process is number one: starts the same command as a child, passes signals on, reaps
/// what is orphaned, and answers the exit code when the child has ended. `None` in any other
/// process, which simply goes on. Call it before there is any thread or child.
#[must_use = "process one must exit with the code"]
pub fn as_first_process() -> Option<io::Result<i32>> {
    (std::process::id() == 1).then(|| {
        let mut arguments = std::env::args_os();
        let name = arguments.next().unwrap_or_default();
        let mut command = Command::new("/proc/self/exe");
        // A group of its own: a terminal's Ctrl-C reaches it once, through us.
        command.arg0(name).args(arguments).process_group(0);
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGQUIT, SIGHUP])?;
        let child = command.spawn()?;
        let pid = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
        std::thread::spawn(move || {
            for number in signals.forever() {
                if let Ok(signal) = Signal::try_from(number) {
                    // It may have ended just now; then so do we.
                    kill(pid, signal).ok();
                }
            }
        });
        reap_until(&child)
    })
}

/// Takes note of every child's end until `main` has ended; its exit code.
fn reap_until(main: &Child) -> io::Result<i32> {
    let ours = |pid: Pid| u32::try_from(pid.as_raw()).is_ok_and(|pid| pid == main.id());
    loop {
        match wait() {
            Ok(WaitStatus::Exited(pid, code)) if ours(pid) => return Ok(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if ours(pid) => return Ok(128 + signal as i32),
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
