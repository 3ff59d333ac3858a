//! What the tests of workspaces share: an upstream repository, pools, jobs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sortie::git::{Checkout, Error, Git, RepoUrl};
use tempfile::TempDir;

/// Runs git as a person would, without anybody's settings. Answers its output.
pub fn git(dir: &Path, args: &[&str]) -> String {
    let (success, text) = try_git(dir, args);
    assert!(success, "git {args:?} in {}: {text}", dir.display());
    text
}

pub fn try_git(dir: &Path, args: &[&str]) -> (bool, String) {
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
pub struct World {
    pub dir: TempDir,
    pub url: RepoUrl,
    pub git: Git,
}

impl World {
    pub async fn new() -> Self {
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
    pub async fn fetched() -> (Self, String) {
        let world = Self::new().await;
        world.git.fetch(&world.url, 1).await.unwrap();
        let commit = world.git.resolve(&world.url, None).await.unwrap();
        (world, commit)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn upstream(&self) -> PathBuf {
        self.path("upstream.git")
    }

    pub fn pool(&self) -> PathBuf {
        self.path("pools").join(self.url.key()).join("repo")
    }

    pub fn write(&self, file: &str, text: &str) {
        fs::write(self.path("author").join(file), text).unwrap();
    }

    /// Commits what the author has and pushes it to `branch`. Answers the commit.
    pub fn push_upstream(&self, branch: &str, message: &str) -> String {
        let author = self.path("author");
        git(&author, &["add", "--all"]);
        git(&author, &["commit", "--quiet", "--allow-empty", "-m", message]);
        git(&author, &["push", "--quiet", "--force", "origin", &format!("HEAD:{branch}")]);
        git(&author, &["rev-parse", "HEAD"])
    }

    pub async fn checkout(&self, job: &str, commit: &str) -> Checkout {
        let dir = self.path("jobs").join(job).join("repo");
        self.git.checkout(&self.url, commit, &dir, job, None).await.unwrap()
    }

    pub fn assert_pool_is_whole(&self) {
        git(&self.pool(), &["fsck", "--full", "--strict", "--no-dangling"]);
    }
}

pub fn invalid<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Err(Error::Invalid(message)) => message,
        other => panic!("expected an error of the job, got {other:?}"),
    }
}
