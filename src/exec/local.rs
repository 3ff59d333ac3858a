//! Starting the supervisor on this host.
//!
//! It is forked by another process (`template.rs`), which is the running executable itself, by way
//! of `/proc/self/exe`: that stays right when an upgrade replaces the file. One task per process
//! tree reads both pipes and waits for the report; there are no threads.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, pipe};
use tokio::sync::{mpsc, watch};
use tokio::time::{timeout, timeout_at};

use super::wire::{self, Start};
use super::{Chunk, Error, Exit, Request, Running, SIGKILL, template, tree};
use crate::core::event::OutputStream;

/// Largest argument (and environment entry) in bytes, without the NUL: Linux's `MAX_ARG_STRLEN`
/// with pages of 4 KiB.
const ARGUMENT_MAX: usize = (128 << 10) - 1;
/// Largest [`Chunk`] in bytes.
const CHUNK_MAX: usize = 16 << 10;
/// Chunks kept for a slow reader, after which the writing process waits.
const CHUNKS_MAX: usize = 16;
/// How long output is awaited after the exit. Only a process that escaped the supervisor's
/// killing still holds the pipe then.
const DRAIN: Duration = Duration::from_secs(2);
/// How much of it is read at most, per stream: the largest pipe an unprivileged process can make.
const DRAIN_MAX: usize = 1 << 20;
/// How long the supervisor may take to be there, and to read a request that is larger than its socket takes.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Makes every later [`start`] of this process run `program` as the supervisor, instead of the
/// running executable itself. For tests, whose executable is not `sortie`. The first call wins.
pub fn supervise_with(program: PathBuf) {
    let _first_wins = PROGRAM.set(program);
}

/// Starts the process under a supervisor. Returns once the request is handed over; whether the
/// program could be started is for [`Running::exit`] to tell.
///
/// A script of any size may be passed as `["sh", "-c", SCRIPT, …]` (or bash, dash, ksh, zsh, and
/// more options before the `c`): one that is larger than the kernel takes is sourced from the
/// file `command` in [`Request::dir`].
pub async fn start(request: Request) -> Result<Running, Error> {
    let dir = std::path::absolute(&request.dir).map_err(Error::Spawn)?;
    let start = Start {
        argv: fit(request.argv, &dir)?,
        dir,
        env: request.env,
        cwd: request.cwd,
        stdin: request.stdin,
        grace_ms: u64::try_from(request.grace.as_millis()).unwrap_or(u64::MAX),
        lease_ns: until_ns(request.lease_until),
    };
    let mut line = serde_json::to_vec(&start).map_err(|error| Error::Spawn(error.into()))?;
    line.push(b'\n');

    let supervisor = match supervise(&line).await {
        // The template may have been killed, by whoever needed the memory.
        Err(_) => supervise(&line).await.map_err(Error::Spawn)?,
        Ok(supervisor) => supervisor,
    };
    let pid = supervisor.pid;
    let (report, lifeline) = supervisor.lifeline.into_split();

    let (chunks, output) = mpsc::channel(CHUNKS_MAX);
    let (exited, exit) = watch::channel(None);
    let (stdout, stderr) = (supervisor.stdout, supervisor.stderr);
    tokio::spawn(attend(stdout, stderr, pid, report, chunks, exited));
    Ok(Running { output, pid, lifeline: Mutex::new(Some(lifeline)), exit })
}

/// A supervisor that is there and has its request.
struct Supervisor {
    pid: u32,
    lifeline: tokio::net::UnixStream,
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
}

/// Has a supervisor made and hands the request over. An error drops the lifeline, which ends a
/// supervisor, so the request may be tried again.
async fn supervise(line: &[u8]) -> io::Result<Supervisor> {
    let (lifeline, input) = UnixStream::pair()?;
    let ((stdout, output), (stderr, error)) = (io::pipe()?, io::pipe()?);
    let program = PROGRAM.get().map_or(Path::new("/proc/self/exe"), PathBuf::as_path);
    let template = template::ask(program, [input.as_fd(), output.as_fd(), error.as_fd()])?;
    drop((input, output, error));
    let greeted = async {
        let mut lifeline = hand_over(lifeline, line).await?;
        let pid = wire::read_greeting(&mut lifeline).await?;
        Ok((pid, lifeline))
    };
    let greeted = timeout(REQUEST_TIMEOUT, greeted).await.map_err(io::Error::from).flatten();
    let (pid, lifeline) = greeted.inspect_err(|_| template::discard(template))?;
    let [stdout, stderr] = [stdout, stderr].map(|end| pipe::Receiver::from_owned_fd(end.into()));
    Ok(Supervisor { pid, lifeline, stdout: stdout?, stderr: stderr? })
}

/// The same instant on the clock that the supervisor reads. An interruption between the two
/// readings makes it earlier, never later.
pub(super) fn until_ns(until: Instant) -> u64 {
    let now_ns = wire::now_ns();
    let now = Instant::now();
    let ns = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    if until >= now {
        now_ns.saturating_add(ns(until - now))
    } else {
        now_ns.saturating_sub(ns(now - until))
    }
}

/// Makes arguments out of what no kernel takes as arguments, where that is possible.
fn fit(mut argv: Vec<String>, dir: &Path) -> Result<Vec<String>, Error> {
    let is_shell_script = matches!(argv.as_slice(), [shell, options, _, ..]
        if is_shell(shell) && takes_a_script(options));
    for (index, argument) in argv.iter_mut().enumerate() {
        if argument.len() <= ARGUMENT_MAX {
            continue;
        }
        if index != 2 || !is_shell_script {
            let (bytes, max) = (argument.len(), ARGUMENT_MAX);
            return Err(Error::ArgumentTooLarge { index, bytes, max });
        }
        let path = dir.join("command");
        wire::write_private(&path, argument.as_bytes())
            .map_err(|source| Error::File { path: path.clone(), source })?;
        // Sourcing keeps $0, the positional parameters, the options and `exit` as they were.
        let quoted = path.to_string_lossy().replace('\'', r"'\''");
        *argument = format!(". '{quoted}'");
    }
    Ok(argv)
}

fn is_shell(program: &str) -> bool {
    let name = program.rsplit('/').next().unwrap_or(program);
    matches!(name, "sh" | "bash" | "dash" | "ksh" | "zsh")
}

/// `-c`, or a cluster of options that ends in it, such as `-lc` and `-euc`.
fn takes_a_script(options: &str) -> bool {
    options.starts_with('-') && !options.starts_with("--") && options.ends_with('c')
}

/// Writes the request: in one call if the socket takes it, which it nearly always does.
async fn hand_over(lifeline: UnixStream, line: &[u8]) -> io::Result<tokio::net::UnixStream> {
    lifeline.set_nonblocking(true)?;
    let written = match (&lifeline).write(line) {
        Ok(count) => count,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
        Err(error) => return Err(error),
    };
    let mut lifeline = tokio::net::UnixStream::from_std(lifeline)?;
    if written < line.len() {
        lifeline.write_all(&line[written..]).await?;
    }
    Ok(lifeline)
}

/// Reads the output and waits for the exit of one supervisor. Ends with it, if not sooner than
/// the reader of `chunks` has taken what was written.
async fn attend(
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
    pid: u32,
    report: OwnedReadHalf,
    chunks: mpsc::Sender<Chunk>,
    exited: watch::Sender<Option<Exit>>,
) {
    let forwarding = async {
        tokio::join!(
            forward(stdout, OutputStream::Stdout, &chunks, exited.subscribe()),
            forward(stderr, OutputStream::Stderr, &chunks, exited.subscribe()),
        );
    };
    let waiting = async {
        let report = wire::read_report(report).await;
        let exit = report.unwrap_or_else(|| {
            // The kernel killed the agent with its supervisor, but not what the agent had started.
            tree::kill_session(Pid::from_raw(pid.cast_signed()));
            Exit { signal: Some(SIGKILL), ..Exit::default() }
        });
        exited.send_replace(Some(exit));
    };
    tokio::join!(forwarding, waiting);
}

/// Passes on what one pipe says until its end, or until a bounded time after the exit.
async fn forward(
    mut pipe: impl AsyncRead + Unpin,
    stream: OutputStream,
    chunks: &mpsc::Sender<Chunk>,
    mut exited: watch::Receiver<Option<Exit>>,
) {
    let mut bytes = vec![0; CHUNK_MAX];
    loop {
        // Both branches are cancel-safe: a read that was not ready took nothing.
        let read = tokio::select! {
            biased;
            _ = exited.wait_for(Option::is_some) => break,
            read = pipe.read(&mut bytes) => read,
        };
        let Ok(count @ 1..) = read else { return };
        if chunks.send(Chunk { stream, bytes: bytes[..count].to_vec() }).await.is_err() {
            return;
        }
    }
    let deadline = tokio::time::Instant::now() + DRAIN;
    let mut left = DRAIN_MAX;
    while left > 0 {
        let Ok(Ok(count @ 1..)) = timeout_at(deadline, pipe.read(&mut bytes)).await else { return };
        left = left.saturating_sub(count);
        if chunks.send(Chunk { stream, bytes: bytes[..count].to_vec() }).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_a_shells_script_may_be_too_large() {
        let dir = tempfile::tempdir().unwrap();
        let large = "x".repeat(ARGUMENT_MAX + 1);
        let argv = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();

        let fitted = fit(argv(&["/bin/bash", "-euc", &large, "a", "b"]), dir.path()).unwrap();
        let path = dir.path().join("command");
        assert_eq!(fitted[2], format!(". '{}'", path.display()));
        assert_eq!(fs::read_to_string(&path).unwrap(), large);

        let exactly = argv(&["prog", &large[1..]]);
        assert_eq!(fit(exactly.clone(), dir.path()).unwrap(), exactly);
        for words in [
            &["prog", &large][..],
            &["python3", "-c", &large],
            &["sh", "--norc", &large],
            &["sh", "-c", "true", &large],
        ] {
            let error = fit(argv(words), dir.path()).unwrap_err();
            assert!(matches!(error, Error::ArgumentTooLarge { .. }), "{error}");
        }
    }

    #[test]
    fn an_instant_is_the_same_on_both_clocks() {
        let hour = Duration::from_hours(1);
        let (before, now) = (wire::now_ns(), Instant::now());
        let (later, earlier) =
            (until_ns(now + hour), until_ns(now.checked_sub(Duration::from_secs(1)).unwrap()));
        assert!(later.abs_diff(before + 3_600_000_000_000) < 1_000_000_000);
        assert!(earlier < before);
    }
}
