//! Workspaces, with a real git: pools that survive crashes, and agents that hurt nobody.
//!
//! Two `Git`s over one directory of pools stand for two pods.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sortie::git::{Checkout, Error, Git, RepoUrl};
use tempfile::TempDir;

const NOW: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_hours(1);

/// Runs git as a person would, without anybody's settings. Answers its output.
fn git(dir: &Path, args: &[&str]) -> String {
    let (success, text) = try_git(dir, args);
    assert!(success, "git {args:?} in {}: {text}", dir.display());
    text
}

fn try_git(dir: &Path, args: &[&str]) -> (bool, String) {
    let output = Command::new("git")
        .args(["-c", "user.name=Test", "-c", "user.email=test@localhost"])
        .args(args)
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).trim().to_owned())
}

/// An upstream repository, a place for pools, a place for jobs.
struct World {
    dir: TempDir,
    url: RepoUrl,
    git: Git,
}

impl World {
    async fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let (upstream, author) = (dir.path().join("upstream.git"), dir.path().join("author"));
        git(dir.path(), &["init", "--quiet", "--bare", "-b", "main", "upstream.git"]);
        git(dir.path(), &["init", "--quiet", "-b", "main", "author"]);
        git(&author, &["remote", "add", "origin", upstream.to_str().unwrap()]);
        let url = RepoUrl::parse(upstream.to_str().unwrap()).unwrap();
        let git = Git::open(&dir.path().join("pools"), Duration::from_mins(1)).await.unwrap();
        let world = Self { dir, url, git };
        world.write("README", "one\ntwo\n");
        world.write(".gitignore", "ignored\n");
        world.push_upstream("main", "first");
        world
    }

    /// A world whose pool has been fetched once; and the commit of `main`.
    async fn fetched() -> (Self, String) {
        let world = Self::new().await;
        world.git.fetch(&world.url, 1).await.unwrap();
        let commit = world.git.resolve(&world.url, None).await.unwrap();
        (world, commit)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn upstream(&self) -> PathBuf {
        self.path("upstream.git")
    }

    fn pool(&self) -> PathBuf {
        self.path("pools").join(self.url.key()).join("repo")
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.path("author").join(file), text).unwrap();
    }

    /// Commits what the author has and pushes it to `branch`. Answers the commit.
    fn push_upstream(&self, branch: &str, message: &str) -> String {
        let author = self.path("author");
        git(&author, &["add", "--all"]);
        git(&author, &["commit", "--quiet", "--allow-empty", "-m", message]);
        git(&author, &["push", "--quiet", "--force", "origin", &format!("HEAD:{branch}")]);
        git(&author, &["rev-parse", "HEAD"])
    }

    async fn checkout(&self, job: &str, commit: &str) -> Checkout {
        let dir = self.path("jobs").join(job).join("repo");
        self.git.checkout(&self.url, commit, &dir, job, None).await.unwrap()
    }

    fn assert_pool_is_whole(&self) {
        git(&self.pool(), &["fsck", "--full", "--strict", "--no-dangling"]);
    }
}

fn invalid<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::Invalid(message)) => message,
        other => panic!("expected an error of the job, got {other:?}"),
    }
}

#[tokio::test]
async fn the_first_clone_and_what_a_reference_may_be() {
    let world = World::new().await;
    assert_eq!(world.git.find(&world.url, None, LONG).await.unwrap(), None);

    git(&world.path("author"), &["tag", "-a", "v1", "-m", "release"]);
    git(&world.path("author"), &["push", "--quiet", "origin", "v1"]);
    let first = git(&world.path("author"), &["rev-parse", "HEAD"]);
    let second = world.push_upstream("feature/x", "second");
    world.git.fetch(&world.url, 1).await.unwrap();
    world.assert_pool_is_whole();

    for (reference, expected) in [
        (None, &first),
        (Some("main"), &first),
        (Some("refs/heads/main"), &first),
        (Some("v1"), &first),
        (Some("feature/x"), &second),
        (Some(second.as_str()), &second),
        (Some(&second[..10]), &second),
    ] {
        let found = world.git.find(&world.url, reference, LONG).await.unwrap();
        assert_eq!(found.as_ref(), Some(expected), "{reference:?}");
    }
    // Too old for names, never too old for a whole id.
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert_eq!(world.git.find(&world.url, Some("main"), NOW).await.unwrap(), None);
    assert_eq!(world.git.find(&world.url, Some(&first), NOW).await.unwrap(), Some(first.clone()));

    let message = invalid(world.git.resolve(&world.url, Some("featur/x")).await);
    assert!(message.contains("`featur/x`") && message.contains("nearest: feature/x"), "{message}");
    for odd in ["main~1", "@{u}", "..", "-x", "HEAD^{tree}"] {
        assert!(world.git.resolve(&world.url, Some(odd)).await.is_err(), "{odd}");
    }

    let checkout = world.checkout("job", &second).await;
    assert_eq!(checkout.base, second);
    assert_eq!(git(&checkout.path, &["rev-parse", "HEAD"]), second);
    assert_eq!(git(&checkout.path, &["symbolic-ref", "HEAD"]), "refs/heads/sortie/job");
    assert_eq!(git(&checkout.path, &["status", "--porcelain"]), "");
    assert_eq!(git(&checkout.path, &["rev-parse", "origin/main"]), first);
    assert_eq!(
        git(&checkout.path, &["remote", "get-url", "origin"]),
        world.upstream().to_str().unwrap()
    );
    git(&checkout.path, &["fetch", "--quiet"]);
}

#[tokio::test]
async fn repositories_that_cannot_be_had() {
    let world = World::new().await;
    let gone = RepoUrl::parse(world.path("gone").to_str().unwrap()).unwrap();
    assert!(invalid(world.git.fetch(&gone, 1).await).contains("no such repository"));

    git(world.dir.path(), &["init", "--quiet", "--bare", "empty.git"]);
    let empty = RepoUrl::parse(world.path("empty.git").to_str().unwrap()).unwrap();
    world.git.fetch(&empty, 1).await.unwrap();
    assert!(invalid(world.git.resolve(&empty, None).await).contains("first commit"));
    assert!(invalid(world.git.resolve(&empty, Some("main")).await).contains("none at all"));

    // A host that does not answer is nobody's fault but ours.
    let unreachable = RepoUrl::parse("http://127.0.0.1:1/x.git").unwrap();
    let error = world.git.fetch(&unreachable, 1).await.unwrap_err();
    assert!(matches!(error, Error::Failed(_)), "{error}");
}

/// A server on loopback that answers every request with `answer`, or never answers. Answers a
/// repository on it.
fn server(answer: Option<&'static str>) -> RepoUrl {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            match answer {
                None => silent.push(stream),
                Some(answer) => {
                    let _request = stream.read(&mut [0; 4096]).unwrap();
                    let end = "Content-Length: 0\r\nConnection: close\r\n\r\n";
                    write!(stream, "HTTP/1.1 {answer}\r\n{end}").unwrap();
                }
            }
        }
    });
    RepoUrl::parse(&format!("http://127.0.0.1:{port}/x.git")).unwrap()
}

#[tokio::test]
async fn servers_that_refuse_or_know_nothing_or_never_answer() {
    let world = World::new().await;
    let refuses = server(Some("401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\""));
    let message = invalid(world.git.fetch(&refuses, 1).await);
    assert!(message.contains("127.0.0.1 refused access"), "{message}");
    assert!(message.contains("credential helper"), "{message}");
    let ignorant = server(Some("404 Not Found"));
    let message = invalid(world.git.fetch(&ignorant, 1).await);
    assert!(message.contains("no such repository"), "{message}");
    let failing = server(Some("502 Bad Gateway"));
    let error = world.git.fetch(&failing, 1).await.unwrap_err();
    assert!(matches!(&error, Error::Failed(message) if message.contains("502")), "{error}");

    let silent = server(None);
    let hasty = Git::open(&world.path("pools"), Duration::from_millis(500)).await.unwrap();
    let error = hasty.fetch(&silent, 1).await.unwrap_err();
    assert!(matches!(&error, Error::Failed(message) if message.contains("more than")), "{error}");
    // And a call that is dropped takes its processes with it, too.
    let dropped = tokio::time::timeout(Duration::from_millis(200), world.git.fetch(&silent, 2));
    dropped.await.unwrap_err();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !processes_about(&silent.to_string()).is_empty() {
        assert!(Instant::now() < deadline, "{:?}", processes_about(&silent.to_string()));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Command lines of running processes that contain `text`.
fn processes_about(text: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(text))
        .collect()
}

/// Not a test: the process that the next test kills.
#[tokio::test]
#[ignore = "started by a_fetch_killed_anywhere_leaves_no_pool_or_a_whole_one"]
async fn fetch_to_be_killed() {
    let Ok(order) = std::env::var("FETCH_TO_BE_KILLED") else { return };
    let (pools, upstream) = order.split_once('|').unwrap();
    let git = Git::open(Path::new(pools), LONG).await.unwrap();
    let url = RepoUrl::parse(upstream).unwrap();
    let fence = std::env::var("FENCE").unwrap().parse().unwrap();
    git.fetch(&url, fence).await.unwrap();
}

/// Kills a process and all that descend from it, as the end of a pod does.
fn kill_tree(root: u32) {
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(pid) = tree.get(next).copied() {
        next += 1;
        signal(pid, nix::sys::signal::Signal::SIGSTOP);
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            tree.extend(children.split_whitespace().map(|pid| pid.parse::<u32>().unwrap()));
        }
    }
    for pid in tree {
        signal(pid, nix::sys::signal::Signal::SIGKILL);
    }
}

fn signal(pid: u32, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    // It may have ended by itself.
    let _gone = nix::sys::signal::kill(pid, signal);
}

#[tokio::test]
async fn a_fetch_killed_anywhere_leaves_no_pool_or_a_whole_one() {
    let world = World::new().await;
    for number in 0..300 {
        world.write(&format!("file-{number}"), &format!("{number}\n").repeat(2000));
    }
    world.push_upstream("main", "much");
    let start = |fence: u64| {
        let order = format!("{}|{}", world.path("pools").display(), world.upstream().display());
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "fetch_to_be_killed", "--ignored"])
            .env("FETCH_TO_BE_KILLED", order)
            .env("FENCE", fence.to_string())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    };
    let began = Instant::now();
    assert!(start(1).wait().unwrap().success());
    let whole = began.elapsed();
    world.assert_pool_is_whole();

    let mut interrupted = 0;
    for round in 0..20_u64 {
        if round % 2 == 0 {
            fs::remove_dir_all(world.path("pools")).unwrap();
        }
        let newest = world.push_upstream("main", &format!("round {round}"));
        let mut child = start(10 + 2 * round);
        // Not a wait for something: the point at which the pod dies.
        tokio::time::sleep(whole.mul_f64(fastrand::f64())).await;
        kill_tree(child.id());
        interrupted += u32::from(!child.wait().unwrap().success());

        if world.pool().exists() {
            world.assert_pool_is_whole();
            world.git.resolve(&world.url, Some("main")).await.unwrap();
        }
        world.git.fetch(&world.url, 11 + 2 * round).await.unwrap();
        let found = world.git.find(&world.url, Some("main"), LONG).await.unwrap();
        assert_eq!(found, Some(newest), "round {round}");
        let left: Vec<_> = fs::read_dir(world.pool().parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "leftovers: {left:?}");
    }
    assert!(interrupted >= 5, "only {interrupted} of 20 were killed before they ended");
    world.assert_pool_is_whole();
}

#[tokio::test]
async fn two_holders_of_a_lost_lock() {
    let world = World::new().await;
    let other = Git::open(&world.path("pools"), LONG).await.unwrap();
    for round in 0..5 {
        let newest = world.push_upstream("main", &format!("round {round}"));
        let (left, right) = tokio::join!(
            world.git.fetch(&world.url, 10 * round + 1),
            other.fetch(&world.url, 10 * round + 2),
        );
        // The newer holder may clear away what the older one is making, never the reverse.
        right.unwrap();
        assert!(matches!(left, Ok(()) | Err(Error::Failed(_))), "{left:?}");
        world.assert_pool_is_whole();
        let found = world.git.find(&world.url, Some("main"), LONG).await.unwrap();
        assert_eq!(found, Some(newest));
    }
}

#[tokio::test]
async fn forty_checkouts_at_once() {
    let (world, commit) = World::fetched().await;
    let other = Git::open(&world.path("pools"), LONG).await.unwrap();
    let tasks: Vec<_> = (0..40)
        .map(|number| {
            let git = if number % 2 == 0 { world.git.clone() } else { other.clone() };
            let (url, commit) = (world.url.clone(), commit.clone());
            let dir = world.path("jobs").join(number.to_string()).join("repo");
            tokio::spawn(async move {
                let job = format!("job-{number}");
                let checkout = git.checkout(&url, &commit, &dir, &job, None).await?;
                fs::write(checkout.path.join("mine"), &job).unwrap();
                git.checkpoint(&checkout, &job, 1).await?;
                Ok::<_, Error>(checkout)
            })
        })
        .collect();
    for (number, task) in tasks.into_iter().enumerate() {
        let checkout = task.await.unwrap().unwrap();
        assert_eq!(git(&checkout.path, &["rev-parse", "HEAD"]), commit);
        let mine = format!("refs/sortie/job-{number}/1:mine");
        assert_eq!(git(&world.pool(), &["show", &mine]), format!("job-{number}"));
    }
    world.assert_pool_is_whole();
}

#[tokio::test]
async fn a_running_checkout_survives_what_upstream_does() {
    let (world, _) = World::fetched().await;
    world.write("doomed", "x");
    let doomed = world.push_upstream("doomed", "will be deleted");
    world.git.fetch(&world.url, 2).await.unwrap();
    let checkout = world.checkout("job", &doomed).await;

    git(&world.path("author"), &["checkout", "--quiet", "--orphan", "other"]);
    let forced = world.push_upstream("main", "history rewritten");
    git(&world.upstream(), &["update-ref", "-d", "refs/heads/doomed"]);
    git(&world.upstream(), &["update-ref", "refs/heads/doomed/below", &forced]);
    world.git.fetch(&world.url, 3).await.unwrap();

    assert_eq!(world.git.resolve(&world.url, Some("main")).await.unwrap(), forced);
    invalid(world.git.resolve(&world.url, Some("doomed")).await);
    assert_eq!(world.git.resolve(&world.url, Some("doomed/below")).await.unwrap(), forced);
    // Even a person who cleans up in the pool cannot hurt it.
    let (pruned, text) = try_git(&world.pool(), &["prune", "--expire=now"]);
    assert!(!pruned && text.contains("precious"), "{text}");
    git(&world.pool(), &["gc", "--quiet"]);
    git(&checkout.path, &["fsck", "--full", "--no-dangling"]);
    // A retry of the job finds its commit still there, and a place where its last attempt died.
    fs::remove_dir_all(&checkout.path).unwrap();
    assert!(world.git.find(&world.url, Some(&doomed), NOW).await.unwrap().is_some());
    assert_eq!(world.checkout("job", &doomed).await.base, doomed);
}

#[tokio::test]
async fn an_agent_hurts_nobody_else() {
    let (world, commit) = World::fetched().await;
    let (bad, good) = (world.checkout("bad", &commit).await, world.checkout("good", &commit).await);
    git(&bad.path, &["config", "user.name", "Mallory"]);
    git(&bad.path, &["checkout", "--quiet", "--detach"]);
    git(&bad.path, &["branch", "-D", "sortie/bad"]);
    git(&bad.path, &["remote", "remove", "origin"]);
    git(&bad.path, &["repack", "-adq"]);
    git(&bad.path, &["gc", "--quiet", "--prune=now"]);
    world.assert_pool_is_whole();
    assert_eq!(world.git.changes(&bad).await.unwrap().diffstat, "none");

    fs::remove_file(bad.path.join(".git/HEAD")).unwrap();
    assert!(invalid(world.git.checkpoint(&bad, "bad", 1).await).contains("broke its repository"));
    fs::remove_dir_all(bad.path.join(".git")).unwrap();
    assert!(invalid(world.git.changes(&bad).await).contains("removed or broke"));
    symlink(good.path.join(".git"), bad.path.join(".git")).unwrap();
    assert!(invalid(world.git.commit_all(&bad, "x").await).contains("removed or broke"));

    assert_eq!(git(&good.path, &["config", "--local", "user.name"]), "Sortie");
    assert_eq!(git(&good.path, &["symbolic-ref", "HEAD"]), "refs/heads/sortie/good");
    git(&good.path, &["fsck", "--full"]);
    world.git.checkpoint(&good, "good", 1).await.unwrap();
}

#[tokio::test]
async fn nothing_that_an_agent_plants_is_run() {
    let (world, commit) = World::fetched().await;
    let checkout = world.checkout("job", &commit).await;
    let (marker, script) = (world.path("ran"), world.path("evil"));
    fs::write(&script, format!("#!/bin/sh\necho \"$0 $*\" >> {}\ncat\n", marker.display()))
        .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let evil = script.to_str().unwrap();

    let inner = checkout.path.join("inner");
    git(&checkout.path, &["init", "--quiet", "inner"]);
    fs::write(inner.join("file"), "x").unwrap();
    git(&inner, &["add", "--all"]);
    git(&inner, &["commit", "--quiet", "-m", "inner"]);
    git(&checkout.path, &["-c", "advice.addEmbeddedRepo=false", "add", "inner"]);
    git(&checkout.path, &["commit", "--quiet", "-m", "a submodule of sorts"]);
    for (dir, git_dir) in [(&checkout.path, ".git"), (&inner, ".git")] {
        fs::write(dir.join(".gitattributes"), "* filter=evil diff=evil\n").unwrap();
        for hook in ["pre-commit", "pre-push", "post-index-change", "reference-transaction"] {
            fs::create_dir_all(dir.join(git_dir).join("hooks")).unwrap();
            fs::copy(&script, dir.join(git_dir).join("hooks").join(hook)).unwrap();
        }
        for key in [
            "core.fsmonitor",
            "core.sshCommand",
            "core.alternateRefsCommand",
            "filter.evil.clean",
            "filter.evil.smudge",
            "diff.evil.textconv",
            "diff.external",
            "credential.helper",
            "uploadpack.packObjectsHook",
            "remote.origin.uploadpack",
            "remote.origin.receivepack",
            "gpg.program",
        ] {
            git(dir, &["config", key, evil]);
        }
        git(dir, &["config", "commit.gpgSign", "true"]);
        git(dir, &["config", "alias.add", &format!("!{evil}")]);
        let rewritten = format!("url.ext::{evil}.insteadOf");
        git(dir, &["config", &rewritten, world.upstream().to_str().unwrap()]);
    }
    fs::write(checkout.path.join("README"), "changed").unwrap();
    // Of the same size, so that git has to read it (through the filter) to see a change.
    fs::write(inner.join("file"), "y").unwrap();
    // What was planted so far does run when git is called the plain way.
    try_git(&checkout.path, &["add", "--all"]);
    assert!(marker.exists(), "the trap is no trap");
    fs::remove_file(&marker).unwrap();
    fs::write(checkout.path.join("README"), "changed again").unwrap();
    fs::write(inner.join("file"), "z").unwrap();

    world.git.checkpoint(&checkout, "job", 1).await.unwrap();
    let changes = world.git.changes(&checkout).await.unwrap();
    assert!(changes.is_dirty);
    let changes = world.git.commit_all(&checkout, "work").await.unwrap();
    world.git.push(&checkout, &changes.head, "sortie/job").await.unwrap();
    assert!(!marker.exists(), "ran: {}", fs::read_to_string(&marker).unwrap());
    let pushed = git(&world.upstream(), &["show", "sortie/job:README"]);
    assert_eq!(pushed, "changed again");
    let listed = git(&world.upstream(), &["ls-tree", "sortie/job", "inner"]);
    assert!(listed.starts_with("160000 commit"), "{listed}");
}

#[tokio::test]
async fn an_object_with_a_false_name_does_not_get_into_the_pool() {
    let (world, commit) = World::fetched().await;
    let checkout = world.checkout("job", &commit).await;
    fs::write(checkout.path.join("new"), "honest").unwrap();
    git(&checkout.path, &["add", "new"]);
    git(&checkout.path, &["commit", "--quiet", "-m", "new"]);
    let id = git(&checkout.path, &["rev-parse", "HEAD:new"]);
    let other = checkout.path.join("other");
    fs::write(&other, "false!").unwrap();
    let false_id = git(&checkout.path, &["hash-object", "-w", "other"]);
    let object = |id: &str| checkout.path.join(".git/objects").join(&id[..2]).join(&id[2..]);
    fs::remove_file(object(&id)).unwrap();
    fs::rename(object(&false_id), object(&id)).unwrap();
    fs::remove_file(other).unwrap();

    invalid(world.git.checkpoint(&checkout, "job", 1).await);
    assert!(!try_git(&world.pool(), &["cat-file", "-e", &id]).0);
    assert_eq!(world.git.newest_checkpoint(&world.url, "job").await.unwrap(), None);
    world.assert_pool_is_whole();
}

#[tokio::test]
async fn the_next_attempt_continues_from_a_checkpoint() {
    let (world, base) = World::fetched().await;
    let first = world.checkout("job", &base).await;
    assert_eq!(world.git.newest_checkpoint(&world.url, "job").await.unwrap(), None);
    fs::write(first.path.join("committed"), "c").unwrap();
    git(&first.path, &["add", "--all"]);
    git(&first.path, &["commit", "--quiet", "-m", "the agent's own"]);
    let own = git(&first.path, &["rev-parse", "HEAD"]);
    fs::write(first.path.join("README"), "edited\n").unwrap();
    fs::write(first.path.join("untracked"), "u").unwrap();
    fs::write(first.path.join("staged"), "s").unwrap();
    fs::write(first.path.join("ignored"), "i").unwrap();
    git(&first.path, &["add", "staged"]);
    let before = git(&first.path, &["status", "--porcelain=v2", "--branch"]);

    let name = world.git.checkpoint(&first, "job", 1).await.unwrap();
    assert_eq!(name, "refs/sortie/job/1");
    let (attempt, commit) =
        world.git.newest_checkpoint(&world.url, "job").await.unwrap().expect("a checkpoint");
    assert_eq!(attempt, 1);
    // Nothing of the checkout has changed, and a checkpoint of the same is the same.
    assert_eq!(git(&first.path, &["status", "--porcelain=v2", "--branch"]), before);
    assert_eq!(git(&first.path, &["rev-parse", "HEAD"]), own);
    world.git.checkpoint(&first, "job", 1).await.unwrap();
    assert_eq!(git(&world.pool(), &["rev-parse", &name]), commit);

    fs::remove_dir_all(world.path("jobs")).unwrap();
    // Upstream went on meanwhile; the base is the old one all the same.
    let newer = world.push_upstream("main", "newer");
    world.git.fetch(&world.url, 2).await.unwrap();
    let other_pod = Git::open(&world.path("pools"), LONG).await.unwrap();
    let dir = world.path("pod-2/job/repo");
    let second = other_pod.checkout(&world.url, &newer, &dir, "job", Some(&commit)).await.unwrap();
    assert_eq!(second.base, base);
    assert_eq!(git(&second.path, &["rev-parse", "HEAD"]), own);
    assert_eq!(git(&second.path, &["symbolic-ref", "HEAD"]), "refs/heads/sortie/job");
    assert_eq!(
        git(&second.path, &["status", "--porcelain"]),
        "M README\n?? staged\n?? untracked".trim()
    );
    assert_eq!(fs::read_to_string(second.path.join("untracked")).unwrap(), "u");
    assert!(!second.path.join("ignored").exists());

    // A second checkpoint is the newest one, and keeps the base.
    fs::write(second.path.join("more"), "m").unwrap();
    other_pod.checkpoint(&second, "job", 12).await.unwrap();
    let (attempt, commit) =
        world.git.newest_checkpoint(&world.url, "job").await.unwrap().expect("a checkpoint");
    assert_eq!(attempt, 12);
    let third = world.path("pod-3/job/repo");
    let third = world.git.checkout(&world.url, &newer, &third, "job", Some(&commit)).await.unwrap();
    assert_eq!(third.base, base);

    world.git.forget(&world.url, "job").await.unwrap();
    world.git.forget(&world.url, "job").await.unwrap();
    assert_eq!(world.git.newest_checkpoint(&world.url, "job").await.unwrap(), None);
    assert_eq!(git(&world.pool(), &["for-each-ref", "refs/sortie"]), "");
}

#[tokio::test]
async fn changes_are_counted_and_pushed() {
    let (world, base) = World::fetched().await;
    let checkout = world.checkout("job", &base).await;
    let none = world.git.commit_all(&checkout, "nothing").await.unwrap();
    assert_eq!((none.commits, none.diffstat.as_str(), none.is_dirty), (0, "none", false));
    assert_eq!(none.head, base);

    fs::write(checkout.path.join("README"), "one\nthree\nfour\n").unwrap();
    fs::write(checkout.path.join("ignored"), "i").unwrap();
    let dirty = world.git.changes(&checkout).await.unwrap();
    assert_eq!((dirty.commits, dirty.diffstat.as_str()), (0, "1 file, +2 -1"));
    assert!(dirty.is_dirty && dirty.head == base);
    git(&checkout.path, &["commit", "--quiet", "--all", "-m", "by the agent"]);
    fs::write(checkout.path.join("new"), "n\n").unwrap();

    let done = world.git.commit_all(&checkout, "the job's message").await.unwrap();
    assert_eq!((done.commits, done.diffstat.as_str(), done.is_dirty), (2, "2 files, +3 -1", false));
    // The checkout itself was not written to; doing it again has the same outcome.
    assert_eq!(git(&checkout.path, &["status", "--porcelain"]), "?? new");
    let again = world.git.commit_all(&checkout, "the job's message").await.unwrap();
    assert_eq!((again.commits, &again.diffstat), (done.commits, &done.diffstat));

    for head in [&done.head, &again.head, &again.head] {
        world.git.push(&checkout, head, "sortie/job").await.unwrap();
        assert_eq!(&git(&world.upstream(), &["rev-parse", "sortie/job"]), head);
    }
    let log = git(&world.upstream(), &["log", "--format=%an: %s", "sortie/job"]);
    assert_eq!(log, "Sortie: the job's message\nTest: by the agent\nTest: first");
    assert_eq!(git(&world.upstream(), &["for-each-ref", "--format=%(refname)"]).lines().count(), 2);

    // A branch of other people only moves forward.
    world.push_upstream("main", "meanwhile");
    let message = invalid(world.git.push(&checkout, &done.head, "main").await);
    assert!(message.contains("refused"), "{message}");
    assert!(invalid(world.git.push(&checkout, &done.head, "a..b").await).contains("branch name"));
}

#[tokio::test]
async fn odd_files_do_not_stop_a_checkpoint() {
    let (world, base) = World::fetched().await;
    let checkout = world.checkout("job", &base).await;
    let root = &checkout.path;
    git(root, &["init", "--quiet", "empty-inner"]);
    nix::unistd::mkfifo(&root.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    symlink("/etc/passwd", root.join("link")).unwrap();
    fs::write(root.join("new\nline \u{e4}"), "x").unwrap();
    fs::write(root.join(".git/info/exclude"), "private\n").unwrap();
    fs::write(root.join("private"), "p").unwrap();
    // An index that is a pipe must not be waited for; one that is rubbish must not be believed.
    for plant in [
        (|index: &Path| nix::unistd::mkfifo(index, nix::sys::stat::Mode::S_IRWXU).unwrap())
            as fn(&Path),
        |index| fs::write(index, "rubbish").unwrap(),
        |_| {},
    ] {
        fs::remove_file(root.join(".git/index")).ok();
        plant(&root.join(".git/index"));
        let changes = world.git.changes(&checkout).await.unwrap();
        assert_eq!(changes.diffstat, "2 files, +2 -0");
    }
    let left: Vec<_> = fs::read_dir(root.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}
