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
        let pid = to_pid(&child)?;
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

fn to_pid(child: &Child) -> io::Result<Pid> {
    Ok(Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?))
}

/// Takes note of every child's end until `main` has ended; its exit code.
fn reap_until(main: &Child) -> io::Result<i32> {
    let main = to_pid(main)?;
    loop {
        match wait() {
            Ok(WaitStatus::Exited(pid, code)) if pid == main => return Ok(code),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == main => {
                return Ok(128 + signal as i32);
            }
            // Somebody was ended by a real-time signal, which has no name here.
            Err(nix::Error::EINVAL) if kill(main, None).is_err() => return Ok(128),
            Ok(_) | Err(nix::Error::EINTR | nix::Error::EINVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
