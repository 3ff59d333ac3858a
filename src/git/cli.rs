//! The one way in which the git program is called.
//!
//! Every call has an absolute program path, no `GIT_*` of ours (but for those by which an operator
//! gives credentials), a C locale so that messages can be told apart, no prompts, no hooks, no
//! file monitor, no background maintenance, a process group of its own that is killed as a whole
//! when the call takes too long or is dropped, and output of which only a part is kept.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use super::{Error, RepoUrl};

/// Oldest git that works: `core.fsync` (2.36) and safe owner checks in every command (2.38).
const MINIMUM: (u32, u32) = (2, 38);
/// How much of what a call writes is kept.
const OUTPUT_MAX: usize = 64 << 10;
/// How long a process that git left behind may hold the pipes open.
const PIPES_LIMIT: Duration = Duration::from_secs(1);
/// `GIT_*` variables that stay: how an operator tells git about keys and certificates.
const KEPT: [&str; 8] = [
    "GIT_ASKPASS",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_SYSTEM",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_SSH_VARIANT",
    "GIT_SSL_CAINFO",
    "GIT_SSL_NO_VERIFY",
];
const SETTINGS: [&str; 11] = [
    "advice.addEmbeddedRepo=false",
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.untrackedCache=false",
    "fetch.recurseSubmodules=false",
    "fetch.writeCommitGraph=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "protocol.ext.allow=never",
    "push.recurseSubmodules=no",
    "submodule.recurse=false",
];

/// The git program.
#[derive(Clone, Debug)]
pub(super) struct Program {
    path: PathBuf,
    timeout: Duration,
    /// Whether somebody configured how ssh is called; otherwise we do, so that it never prompts.
    has_ssh: bool,
}

/// One call of git, not yet made.
#[derive(Debug)]
pub(super) struct Call {
    command: Command,
    name: String,
    timeout: Duration,
}

/// Why a call of git did not succeed.
#[derive(Debug)]
pub(super) enum Failure {
    Start(io::Error),
    Timeout(Duration),
    Exit { code: Option<i32>, stderr: String },
}

impl Program {
    /// Looks for git on the `PATH` and checks its version.
    pub(super) async fn find(timeout: Duration) -> Result<Self, Error> {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::split_paths(&paths)
            .filter(|dir| dir.is_absolute())
            .map(|dir| dir.join("git"))
            .find(|path| path.is_file())
            .ok_or_else(|| {
                Error::Failed("git is not on the PATH; install git 2.38 or newer".into())
            })?;
        let mut program = Self { path, timeout, has_ssh: true };
        let banner = program
            .call(None, "version")
            .text()
            .await
            .map_err(|failure| failure.explain("cannot ask git for its version"))?;
        if version(&banner).is_none_or(|found| found < MINIMUM) {
            let (major, minor) = MINIMUM;
            return Err(Error::Failed(format!(
                "{} is {banner:?}; Sortie needs git {major}.{minor} or newer",
                program.path.display(),
            )));
        }
        let asked = program.call(None, "config").args(["--get", "core.sshCommand"]).text().await;
        program.has_ssh = asked.is_ok_and(|command| !command.is_empty())
            || ["GIT_SSH", "GIT_SSH_COMMAND"].iter().any(|name| std::env::var_os(name).is_some());
        Ok(program)
    }

    /// A call of the subcommand `name` in a pool, or in none: what git writes is synced to disk.
    pub(super) fn call(&self, git_dir: Option<&Path>, name: &str) -> Call {
        self.prepare(git_dir, name, "core.fsync=committed")
    }

    /// A call of the subcommand `name` in a repository that nobody will look for after a crash of
    /// the host.
    pub(super) fn call_unsynced(&self, git_dir: &Path, name: &str) -> Call {
        self.prepare(Some(git_dir), name, "core.fsync=none")
    }

    /// Naming the repository keeps git from searching for one, and from refusing one that another
    /// user made.
    fn prepare(&self, git_dir: Option<&Path>, name: &str, fsync: &str) -> Call {
        let mut command = Command::new(&self.path);
        for (name, _) in std::env::vars_os() {
            let is_ours = name.to_str().is_some_and(|name| KEPT.contains(&name));
            if name.as_encoded_bytes().starts_with(b"GIT_") && !is_ours {
                command.env_remove(name);
            }
        }
        command
            .env("LC_ALL", "C")
            .env("LC_MESSAGES", "C")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_NO_LAZY_FETCH", "1")
            .env("GIT_OPTIONAL_LOCKS", "0");
        if !self.has_ssh {
            command.env("GIT_SSH_COMMAND", "ssh -oBatchMode=yes");
        }
        if let Some(git_dir) = git_dir {
            command.env("GIT_DIR", git_dir);
        }
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        command.args(["-c", fsync]);
        command.arg(name).current_dir("/").process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Call { command, name: name.to_owned(), timeout: self.timeout }
    }
}

impl Call {
    pub(super) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    pub(super) fn arg(self, arg: impl AsRef<OsStr>) -> Self {
        self.args([arg])
    }

    pub(super) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Works on the files in `dir`.
    pub(super) fn work_tree(mut self, dir: &Path) -> Self {
        self.command.env("GIT_WORK_TREE", dir).current_dir(dir);
        self
    }

    /// Makes the call. Answers what git wrote to standard output, without the last newline.
    pub(super) async fn text(self) -> Result<String, Failure> {
        let output = self.run().await?;
        Ok(String::from_utf8_lossy(output.trim_ascii_end()).into_owned())
    }

    /// Makes the call. Answers what git wrote to standard output, of which 64 KiB are kept.
    /// Dropping the future kills git and all that it started.
    pub(super) async fn run(mut self) -> Result<Vec<u8>, Failure> {
        let started = std::time::Instant::now();
        let mut child = self.command.spawn().map_err(Failure::Start)?;
        let mut group = Group(child.id());
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let finished = {
            let (out, err) = (child.stdout.take(), child.stderr.take());
            let mut pipes = pin!(async {
                tokio::join!(keep(out, &mut stdout), keep(err, &mut stderr));
            });
            // Both branches are cancel-safe: a wait may be repeated, and the pipes are only
            // borrowed here.
            let exit = async {
                tokio::select! {
                    status = child.wait() => {
                        // A process that git left in the background may keep the pipes open; what
                        // it would still write is of no interest.
                        let _late = tokio::time::timeout(PIPES_LIMIT, &mut pipes).await;
                        status
                    }
                    () = &mut pipes => child.wait().await,
                }
            };
            tokio::time::timeout(self.timeout, exit).await
        };
        let Ok(status) = finished else {
            return Err(Failure::Timeout(self.timeout));
        };
        group.0 = None;
        let status = status.map_err(Failure::Start)?;
        tracing::trace!(command = self.name, elapsed = ?started.elapsed(), %status, "git");
        if status.success() {
            return Ok(stdout);
        }
        let stderr = redact(&String::from_utf8_lossy(&stderr));
        Err(Failure::Exit { code: status.code(), stderr })
    }
}

/// Kills the process group unless it has ended.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0.and_then(|pid| i32::try_from(pid).ok()) {
            // The group may be gone already, which is as good.
            let _gone = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// Reads to the end, keeps the first part.
async fn keep(pipe: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = vec![0; 8192];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        let room = OUTPUT_MAX - kept.len();
        kept.extend_from_slice(&buffer[..count.min(room)]);
    }
}

impl Failure {
    /// The exit code, if git ran to its end.
    pub(super) fn code(&self) -> Option<i32> {
        match self {
            Self::Exit { code, .. } => *code,
            Self::Start(_) | Self::Timeout(_) => None,
        }
    }

    pub(super) fn says(&self, text: &str) -> bool {
        matches!(self, Self::Exit { stderr, .. } if stderr.contains(text))
    }

    /// An infrastructure error: `doing` failed, and why.
    pub(super) fn explain(&self, doing: &str) -> Error {
        Error::Failed(format!("{doing}: {}", self.cause()))
    }

    /// The error of a call that talks to the repository `url`. Which messages are the job's own
    /// doing was read from git's and the common forges' English texts.
    pub(super) fn explain_remote(&self, doing: &str, url: &RepoUrl) -> Error {
        const REFUSED: [&str; 9] = [
            "authentication failed",
            "could not read username",
            "could not read password",
            "permission denied (",
            "host key verification failed",
            "returned error: 401",
            "returned error: 403",
            "access denied",
            "permission to ",
        ];
        const MISSING: [&str; 4] = [
            "repository not found",
            "not appear to be a git repository",
            "' not found",
            "project you were looking for could not be found",
        ];
        let text = match self {
            Self::Exit { stderr, .. } => stderr.to_lowercase(),
            Self::Start(_) | Self::Timeout(_) => String::new(),
        };
        let cause = self.cause();
        if REFUSED.iter().any(|words| text.contains(words)) {
            return Error::Invalid(format!(
                "{doing}: {} refused access ({cause}); give the worker's user an ssh key, or a git \
                 credential helper for that host",
                url.host(),
            ));
        }
        if MISSING.iter().any(|words| text.contains(words)) {
            return Error::Invalid(format!(
                "{doing}: there is no such repository, or the worker may not see it ({cause})"
            ));
        }
        self.explain(doing)
    }

    /// One line: why the other side refused a push.
    pub(super) fn rejection(&self) -> String {
        let Self::Exit { stderr, .. } = self else { return self.cause() };
        let lines: Vec<_> = stderr
            .lines()
            .filter(|line| line.starts_with("remote: ") || line.contains("rejected]"))
            .map(|line| line.trim_start_matches("remote: ").trim())
            .filter(|line| !line.is_empty())
            .collect();
        lines.join("; ").chars().take(300).collect()
    }

    /// One line: what git said was the cause.
    pub(super) fn cause(&self) -> String {
        match self {
            Self::Start(error) => format!("git could not be run: {error}"),
            Self::Timeout(limit) => format!("git took more than {} s", limit.as_secs()),
            Self::Exit { code, stderr } => {
                let lines = || stderr.lines().map(str::trim).filter(|line| !line.is_empty());
                let line = lines()
                    .find(|line| {
                        ["fatal: ", "error: ", "ERROR: ", "ssh: "]
                            .iter()
                            .any(|p| line.starts_with(p))
                    })
                    .or_else(|| lines().next_back());
                match (line, code) {
                    (Some(line), _) => line.chars().take(300).collect(),
                    (None, Some(code)) => format!("git exited with code {code}"),
                    (None, None) => "git was killed".to_owned(),
                }
            }
        }
    }
}

/// Takes user names and passwords out of every URL in `text`.
fn redact(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        clean.push_str(before);
        let end = after
            .find(|c: char| c == '/' || c.is_whitespace() || matches!(c, '\'' | '"'))
            .unwrap_or(after.len());
        rest = match after[..end].rfind('@') {
            Some(user_end) => {
                clean.push_str("***");
                &after[user_end..]
            }
            None => after,
        };
    }
    clean.push_str(rest);
    clean
}

fn version(banner: &str) -> Option<(u32, u32)> {
    let mut numbers = banner.strip_prefix("git version ")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_several_vendors() {
        assert_eq!(version("git version 2.47.3"), Some((2, 47)));
        assert_eq!(version("git version 2.39.5 (Apple Git-154)"), Some((2, 39)));
        assert_eq!(version("git version 2.45.windows.1"), Some((2, 45)));
        assert_eq!(version("hub version 2"), None);
    }

    #[test]
    fn no_password_is_left_in_a_message() {
        let text = "fatal: unable to access 'https://me:s3cret@host/x.git/': 403\nssh://a@b/c";
        assert_eq!(
            redact(text),
            "fatal: unable to access 'https://***@host/x.git/': 403\nssh://***@b/c"
        );
        assert_eq!(redact("https://user:p@ss@host"), "https://***@host");
        assert_eq!(redact("a://b, c@d"), "a://b, c@d");
    }
}
