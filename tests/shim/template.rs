//! The process that forks the supervisors.

use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair,
};
use nix::unistd::Pid;

use crate::place::{LONG, MARK, Place, eventually, finish_exit, parent, said};

fn pid(of: u32) -> Pid {
    Pid::from_raw(of.cast_signed())
}

#[tokio::test]
async fn a_killed_template_is_replaced_and_its_supervisors_go_on() {
    let place = Place::new();
    let mut first = place.sh("trap 'exit 7' INT; echo up; while :; do sleep 0.01; done").await;
    said(&mut first, "up").await;
    let template = parent(first.pid()).unwrap();
    // It is killed with a request that it has not come to see.
    kill(pid(template), Signal::SIGSTOP).unwrap();
    let other = Place::new();
    let killing = async { kill(pid(template), Signal::SIGKILL).unwrap() };
    let (second, ()) = tokio::join!(other.sh("exit 3"), killing);
    let of_second = second.pid();
    assert_ne!(parent(of_second), Some(template));
    assert_eq!(finish_exit(&other, second).await.code, Some(3));
    eventually("the second one is reaped", || parent(of_second).is_none()).await;
    assert_eq!(parent(template), None, "so is the killed template");

    first.stop();
    assert_eq!(finish_exit(&place, first).await.code, Some(7));
}

/// Starts a template without a worker: its socket, and itself.
fn start() -> (OwnedFd, Child) {
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sortie"));
    (ours, command.arg("__shim").stdin(theirs).spawn().unwrap())
}

/// Has it fork a supervisor: the lifeline, and the supervisor's process id.
fn ask(template: &OwnedFd) -> (UnixStream, u32) {
    let (mut lifeline, theirs) = UnixStream::pair().unwrap();
    lifeline.set_read_timeout(Some(LONG)).unwrap();
    let null = std::fs::File::options().write(true).open("/dev/null").unwrap();
    let files = [theirs.as_raw_fd(), null.as_raw_fd(), null.as_raw_fd()];
    let message = [ControlMessage::ScmRights(&files)];
    let bytes = [IoSlice::new(&[0])];
    sendmsg::<()>(template.as_raw_fd(), &bytes, &message, MsgFlags::empty(), None).unwrap();
    drop(theirs);
    let mut supervisor = [0; 4];
    lifeline.read_exact(&mut supervisor).unwrap();
    (lifeline, u32::from_ne_bytes(supervisor))
}

fn sleeping(place: &Place) -> serde_json::Value {
    serde_json::json!({
        "dir": place.dir(), "argv": ["/bin/sleep", "1000"], "env": {MARK: place.dir()},
        "cwd": "/", "stdin": null, "grace_ms": 1000, "lease_ns": 1,
    })
}

#[tokio::test]
async fn nonsense_on_the_lifeline_kills() {
    let (socket, mut template) = start();
    let nonsense = "x".repeat(200);
    for say in ["hello\n", &nonsense] {
        let place = Place::new();
        let (mut lifeline, _) = ask(&socket);
        // An order that comes with the request is read as well.
        write!(lifeline, "{}\nlease {}\n", sleeping(&place), u64::MAX).unwrap();
        eventually("a process", || place.processes().len() == 1).await;
        lifeline.write_all(say.as_bytes()).unwrap();
        let mut report = String::new();
        lifeline.read_to_string(&mut report).unwrap();
        assert!(report.contains(r#""signal":9"#), "{report}");
        assert!(place.is_empty());
    }
    drop(socket);
    eventually("the template ends", || template.try_wait().unwrap().is_some()).await;
}

#[tokio::test]
async fn signals_to_everybody_leave_the_template_in_place() {
    let (socket, mut template) = start();
    let (first, _) = ask(&socket);
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        kill(pid(template.id()), signal).unwrap();
    }
    let (second, supervisor) = ask(&socket);
    assert_eq!(parent(supervisor), Some(template.id()));
    // Without a request there is nothing to do but to end, and to be reaped.
    drop((first, second));
    eventually("it is reaped", || parent(supervisor).is_none()).await;
    template.kill().unwrap();
    template.wait().unwrap();
}
