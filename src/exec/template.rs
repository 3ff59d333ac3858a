//! Where supervisors come from: `sortie __shim`, one process that has started up already and forks
//! one for each job.
//!
//! To start a program is to load and link it again, three times the work of forking a process of a
//! few pages. The worker cannot fork itself: it is large and has many threads. The template has
//! one, does nothing else, and ends with the worker. If it ends sooner, however that may be, its
//! supervisors do not mind, and the next job has a new one.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid};

use super::shim;

/// What a supervisor gets: standard input, output and error.
const FILES: usize = 3;

static CURRENT: Mutex<Option<Template>> = Mutex::new(None);

/// The template of this process. Dropping it ends it.
struct Template {
    child: Child,
    socket: OwnedFd,
}

impl Template {
    fn start(program: &Path) -> io::Result<Self> {
        // Every message is one supervisor, whole or not at all.
        let (socket, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let child = Command::new(program)
            .arg0("sortie")
            .arg("__shim")
            .env_clear()
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { child, socket })
    }

    fn fork(&self, files: [BorrowedFd<'_>; FILES]) -> nix::Result<()> {
        let files = files.map(|file| file.as_raw_fd());
        let message = [ControlMessage::ScmRights(&files)];
        // Without waiting: the socket has room for hundreds of them.
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        sendmsg::<()>(self.socket.as_raw_fd(), &[IoSlice::new(&[0])], &message, flags, None)?;
        Ok(())
    }
}

impl Drop for Template {
    fn drop(&mut self) {
        // It may have ended already, and is waited for in any case.
        drop(self.child.kill().and_then(|()| self.child.wait()));
    }
}

/// Asks for a supervisor with these as standard input, output and error. Returns the template's
/// process id. Whether there is a supervisor, the other ends of the files tell.
pub(super) fn ask(program: &Path, files: [BorrowedFd<'_>; FILES]) -> io::Result<u32> {
    let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
    let template = match &*current {
        Some(template) => template,
        None => current.insert(Template::start(program)?),
    };
    if let Err(error) = template.fork(files) {
        *current = None;
        return Err(error.into());
    }
    Ok(template.child.id())
}

/// Ends the template `pid`, which did not do as it was asked; [`ask`] starts another.
pub(super) fn discard(pid: u32) {
    let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
    drop(current.take_if(|template| template.child.id() == pid));
}

/// The life of the template. Returns in each supervisor, with its signals, which are blocked;
/// `None` in the template itself, when the worker is gone.
pub(super) fn serve() -> nix::Result<Option<SignalFd>> {
    setsid()?;
    let signals = shim::open_signals()?;
    loop {
        let stdin = io::stdin();
        let mut ready =
            [stdin.as_fd(), signals.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
        let is_asked = ready[0].any().unwrap_or(true);
        // The worker ends its supervisors itself, so nothing but a child's exit has a meaning here.
        shim::any_but_sigchld(&signals);
        while !matches!(
            waitpid(None, Some(WaitPidFlag::WNOHANG)),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD)
        ) {}
        if !is_asked {
            continue;
        }
        let Some(files) = receive()? else { return Ok(None) };
        #[expect(unsafe_code, reason = "the files were received for us, and there is one thread")]
        let (files, forked) = unsafe { (files.map(|fd| OwnedFd::from_raw_fd(fd)), fork()) };
        if let Ok(ForkResult::Child) = forked {
            let [input, output, error] = files;
            dup2_stdin(input)?;
            dup2_stdout(output)?;
            dup2_stderr(error)?;
            return Ok(Some(signals));
        }
        // If there is no supervisor, the worker learns of it by the end of these files.
    }
}

/// The next message's files. `None`: there will be no more.
fn receive() -> nix::Result<Option<[RawFd; FILES]>> {
    let mut byte = [0];
    let mut bytes = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([RawFd; FILES]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(io::stdin().as_raw_fd(), &mut bytes, Some(&mut space), flags)?;
    let files = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::ScmRights(files) => files.try_into().ok(),
        _ => None,
    });
    Ok(files)
}
