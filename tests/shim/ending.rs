//! How a process tree ends, and that nothing of it is left.

use std::fs::{self, File};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sortie::exec::local;

use crate::place::{Place, eventually, finish, finish_exit, said};

#[tokio::test]
async fn exit_code_and_both_streams() {
    let place = Place::new();
    let (exit, out, err) = finish(&place, place.sh("echo out; echo err >&2; exit 3").await).await;
    assert_eq!((exit.code, exit.signal, exit.leaked), (Some(3), None, 0));
    assert_eq!((out.as_str(), err.as_str()), ("out\n", "err\n"));
    assert!(exit.max_rss_kib > 100 && exit.cpu_us > 0, "{exit:?}");
}

#[tokio::test]
async fn a_signal_is_told_from_a_code() {
    // A real-time signal has no name to report it by.
    for (signal, number) in [("KILL", 9), ("SEGV", 11), ("34", 9)] {
        let place = Place::new();
        let script = format!("sleep 1000 & kill -{signal} $$");
        let exit = finish_exit(&place, place.sh(&script).await).await;
        assert_eq!((exit.code, exit.signal), (None, Some(number)), "{signal}");
    }
}

#[tokio::test]
async fn what_left_the_group_is_killed_and_counted() {
    let place = Place::new();
    let script = "setsid sleep 1000 & (sleep 1000 &); (setsid sh -c 'sleep 1000 & wait' &); exit 4";
    let exit = finish_exit(&place, place.sh(script).await).await;
    assert_eq!(exit.code, Some(4));
    // The last one may have been killed before it started its own child.
    assert!((3..=4).contains(&exit.leaked), "{exit:?}");
}

#[tokio::test]
async fn an_orphan_that_exits_meanwhile_is_reaped_and_no_leak() {
    let place = Place::new();
    let script = "(true &); while ps -o stat= --ppid $PPID | grep -q Z; do :; done";
    let exit = finish_exit(&place, place.sh(script).await).await;
    assert_eq!((exit.code, exit.leaked), (Some(0), 0));
}

#[tokio::test]
async fn dropping_kills_the_tree() {
    let place = Place::new();
    let mut running = place.sh("setsid sleep 1000 & (setsid sleep 1000 &); echo up; wait").await;
    said(&mut running, "up").await;
    eventually("three processes", || place.processes().len() == 3).await;
    drop(running);
    eventually("nothing left", || place.is_empty()).await;
}

#[tokio::test]
async fn a_polite_end_is_waited_for() {
    let place = Place::new();
    let mut running = place.sh("trap 'exit 7' INT; echo up; while :; do sleep 0.01; done").await;
    said(&mut running, "up").await;
    running.stop();
    assert_eq!(finish_exit(&place, running).await.code, Some(7));
}

#[tokio::test]
async fn a_signal_to_the_supervisor_is_a_stop() {
    let place = Place::new();
    let mut running = place.sh("trap 'exit 7' INT; echo up; while :; do sleep 0.01; done").await;
    said(&mut running, "up").await;
    kill(Pid::from_raw(running.pid().cast_signed()), Signal::SIGTERM).unwrap();
    assert_eq!(finish_exit(&place, running).await.code, Some(7));
}

#[tokio::test]
async fn sigterm_follows_to_those_who_left_the_group() {
    let place = Place::new();
    let mut request = place.request(&[
        "sh",
        "-c",
        "trap '' INT; trap 'until [ -e termed ]; do sleep 0.01; done; exit 8' TERM
         setsid sh -c 'trap \"touch termed; exit\" TERM; echo up; while :; do sleep 0.01; done' &
         while :; do sleep 0.01; done",
    ]);
    request.grace = Duration::from_secs(9);
    let mut running = local::start(request).await.unwrap();
    said(&mut running, "up").await;
    let asked = Instant::now();
    running.stop();
    assert_eq!(finish_exit(&place, running).await.code, Some(8));
    assert!(asked.elapsed() >= Duration::from_secs(3));
}

#[tokio::test]
async fn who_ignores_everything_is_killed_after_the_grace() {
    let place = Place::new();
    let script = "trap '' INT TERM HUP; setsid sleep 1000 & echo up; while :; do sleep 1; done";
    let mut request = place.request(&["sh", "-c", script]);
    request.grace = Duration::from_millis(400);
    let mut running = local::start(request).await.unwrap();
    said(&mut running, "up").await;
    let asked = Instant::now();
    running.stop();
    assert_eq!(finish_exit(&place, running).await.signal, Some(9));
    assert!(asked.elapsed() >= Duration::from_millis(400));
}

#[tokio::test]
async fn killing_is_at_once() {
    let place = Place::new();
    let mut running = place.sh("trap '' INT TERM; echo up; while :; do sleep 1000; done").await;
    said(&mut running, "up").await;
    running.kill();
    let exit = finish_exit(&place, running).await;
    assert_eq!((exit.signal, exit.leaked), (Some(9), 0));
}

#[tokio::test]
async fn much_output_waits_for_its_reader() {
    let place = Place::new();
    let mut running = place.sh("head -c 67108864 /dev/zero").await;
    eventually("a full channel", || running.output.len() == running.output.max_capacity()).await;
    assert!(running.output.max_capacity() <= 16);
    let mut total = 0;
    while let Some(chunk) = running.output.recv().await {
        assert!(chunk.bytes.len() <= 16 << 10);
        total += chunk.bytes.len();
    }
    assert_eq!(total, 64 << 20);
    assert_eq!(finish_exit(&place, running).await.code, Some(0));
}

#[tokio::test]
async fn a_stolen_pipe_does_not_hang() {
    let place = Place::new();
    let mut running = place.sh("echo $$; exec sleep 1000").await;
    let pid = String::from_utf8(running.output.recv().await.unwrap().bytes).unwrap();
    // This process is no descendant of the supervisor, so nobody kills it for holding the pipe.
    let thief = File::options().write(true).open(format!("/proc/{}/fd/1", pid.trim())).unwrap();
    running.kill();
    finish(&place, running).await;
    drop(thief);
}

#[tokio::test]
async fn the_directory_is_locked_while_anything_lives() {
    let place = Place::new();
    let mut running = place.sh("echo up; sleep 1000").await;
    said(&mut running, "up").await;
    let lock = File::open(place.path("lock")).unwrap();
    assert!(matches!(lock.try_lock(), Err(fs::TryLockError::WouldBlock)));

    let mut second = place.sh("touch second").await;
    let reason = second.exit().await.not_started.unwrap();
    assert!(reason.is_infrastructure && reason.reason.contains("lock"), "{reason:?}");

    running.kill();
    assert_eq!(finish_exit(&place, running).await.signal, Some(9));
    assert!(!place.path("second").exists());
    lock.try_lock().unwrap();
}

#[tokio::test]
async fn the_agent_cannot_report_in_place_of_its_supervisor() {
    let place = Place::new();
    let script = r#"cd /proc/self/fd; for fd in *; do [ ! -S $fd ] || echo "has socket $fd"; done
                    echo '{"code":0,"leaked":0,"cpu_us":0,"max_rss_kib":0}' > /proc/$PPID/fd/0
                    exit 6"#;
    let (exit, out, err) = finish(&place, place.sh(script).await).await;
    assert_eq!((exit.code, out.as_str()), (Some(6), ""));
    assert!(err.contains("/fd/0"), "it was tried: {err}");
}

#[tokio::test]
async fn a_killed_supervisor_takes_its_session_along() {
    let place = Place::new();
    let mut running = place.sh("sleep 1000 & (sleep 1000 &); echo up; wait").await;
    said(&mut running, "up").await;
    eventually("three processes", || place.processes().len() == 3).await;
    kill(Pid::from_raw(running.pid().cast_signed()), Signal::SIGKILL).unwrap();
    assert_eq!(running.exit().await.signal, Some(9));
    eventually("nothing left", || place.is_empty()).await;
}
