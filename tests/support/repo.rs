//! A git repository that belongs to one test.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A bare repository with a branch `main`, and a clone that commits are made in.
#[derive(Debug)]
pub struct TestRepo {
    directory: TempDir,
}

impl TestRepo {
    /// A repository with one commit: `README` says `hello`.
    pub fn new() -> Self {
        let repo = Self { directory: TempDir::new().expect("making a temporary directory") };
        let origin = repo.origin();
        git(repo.directory.path(), &["init", "-q", "--bare", "-b", "main", path(&origin)]);
        git(repo.directory.path(), &["clone", "-q", path(&origin), path(&repo.clone())]);
        git(&repo.clone(), &["checkout", "-q", "-B", "main"]);
        repo.commit("README", "hello\n");
        repo
    }

    /// The bare repository's directory, usable as a job's `repo`.
    pub fn origin(&self) -> PathBuf {
        self.directory.path().join("origin.git")
    }

    /// The bare repository's address as text.
    pub fn url(&self) -> String {
        path(&self.origin()).to_owned()
    }

    fn clone(&self) -> PathBuf {
        self.directory.path().join("clone")
    }

    /// Writes one file, commits it on the current branch and pushes. Answers the commit's id.
    pub fn commit(&self, name: &str, content: &str) -> String {
        std::fs::write(self.clone().join(name), content).expect("writing a file of the clone");
        git(&self.clone(), &["add", "-A"]);
        git(&self.clone(), &["commit", "-q", "--allow-empty", "-m", &format!("change {name}")]);
        git(&self.clone(), &["push", "-q", "origin", "HEAD"]);
        git(&self.clone(), &["rev-parse", "HEAD"])
    }

    /// Makes a branch at the current commit and switches to it.
    pub fn branch(&self, name: &str) {
        git(&self.clone(), &["checkout", "-q", "-b", name]);
        git(&self.clone(), &["push", "-q", "origin", name]);
    }

    /// Runs git in the bare repository; answers its output without the last newline.
    pub fn git(&self, arguments: &[&str]) -> String {
        git(&self.origin(), arguments)
    }
}

/// Runs git without any of the developer's settings; panics when it fails.
pub fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").expect("PATH is set"))
        .env("HOME", directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_NAME"), "Test")))
        .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_EMAIL"), "test@example.com")))
        .output()
        .expect("git must be installed to run these tests");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {arguments:?} in {}: {said}", directory.display());
    String::from_utf8(output.stdout).expect("git speaks UTF-8 here").trim_end().to_owned()
}

fn path(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}
