//! The real binary, and processes that do not outlive their test.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{eventually, eventually_blocking};

/// The program under test. It sees nothing of the developer's own settings: only `PATH`, and
/// `home` as home directory.
pub fn sortie(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sortie"));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").expect("PATH is set"))
        .env("HOME", home)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .stdin(Stdio::null());
    command
}

/// A child that is killed when dropped, unless it has ended.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    pub fn spawn(command: &mut Command) -> Self {
        Self(command.spawn().unwrap_or_else(|error| panic!("starting {command:?}: {error}")))
    }

    /// The child, to take its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).expect("a pid fits in an i32"))
    }

    /// Sends a signal. The child was not waited for yet, so its pid cannot be another process's.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal)
            .unwrap_or_else(|error| panic!("{signal} to {}: {error}", self.pid()));
    }

    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("looking at a child of ours")
    }

    /// Waits for the end; panics after `deadline`.
    pub async fn wait(&mut self, deadline: Duration) -> ExitStatus {
        eventually(deadline, "the process ends", async || self.exited()).await
    }

    /// [`Self::wait`] for tests without a runtime.
    pub fn wait_blocking(&mut self, deadline: Duration) -> ExitStatus {
        eventually_blocking(deadline, "the process ends", || self.exited())
    }

    /// Kills it without any warning, and waits until it is gone.
    pub fn sigkill(&mut self) {
        self.0.kill().expect("killing a child of ours");
        self.0.wait().expect("waiting for a child of ours");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
