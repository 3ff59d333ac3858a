//! A job's own repository, borrowing its objects from the pool.
//!
//! It is laid out by hand, which is what `git clone --shared --no-checkout` would make, in a
//! millisecond instead of three processes; one git process then writes the files. The agent may do
//! to it what it likes: nothing of it is shared, and nothing of it is believed later
//! (`checkpoint.rs`).

use std::fs;
use std::io;
use std::path::Path;

use super::cli::Program;
use super::{Checkout, Error, RepoUrl, blocking, inspect};

/// Makes the repository at `dir`. See [`super::Git::checkout`].
pub(super) async fn checkout(
    program: &Program,
    pool: &Path,
    url: &RepoUrl,
    commit: &str,
    dir: &Path,
    job: &str,
    resume: Option<&str>,
) -> Result<Checkout, Error> {
    let resumed = match resume {
        None => None,
        Some(checkpoint) => {
            let (pool, name) = (pool.to_owned(), checkpoint.to_owned());
            let found = blocking(move || inspect::checkpoint(&pool, &name)).await?;
            Some(found.ok_or_else(|| {
                Error::Failed(format!("checkpoint {checkpoint} is not in the pool of {url}"))
            })?)
        }
    };
    let start = resume.unwrap_or(commit);
    if !inspect::is_full_id(start) || !inspect::is_full_id(commit) {
        return Err(Error::Invalid(format!("{start:?} is not a whole commit id")));
    }
    {
        let (pool, url, start) = (pool.to_owned(), url.clone(), start.to_owned());
        let (dir, job) = (dir.to_owned(), job.to_owned());
        blocking(move || {
            lay_out(&pool, &url, &start, &dir, &job).map_err(|error| {
                Error::Failed(format!("cannot make the checkout {}: {error}", dir.display()))
            })
        })
        .await?;
    }
    let git_dir = dir.join(".git");
    let doing = format!("cannot check out {start} of {url}");
    program
        .call_unsynced(&git_dir, "read-tree")
        .args(["--reset", "-u", "HEAD"])
        .work_tree(dir)
        .run()
        .await
        .map_err(|failure| failure.explain(&doing))?;
    if let Some(checkpoint) = &resumed {
        // Back to the agent's own last commit, with the files left as they are: what was
        // uncommitted is uncommitted again.
        program
            .call_unsynced(&git_dir, "reset")
            .args(["--mixed", "--quiet", &checkpoint.parent])
            .work_tree(dir)
            .run()
            .await
            .map_err(|failure| failure.explain(&doing))?;
    }
    let base = resumed.and_then(|checkpoint| checkpoint.base).unwrap_or_else(|| commit.to_owned());
    Ok(Checkout { url: url.clone(), path: dir.to_owned(), base })
}

fn lay_out(pool: &Path, url: &RepoUrl, start: &str, dir: &Path, job: &str) -> io::Result<()> {
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::create_dir(dir)?;
    let git_dir = dir.join(".git");
    // No more files and directories than git, and tools that write `info/exclude`, need: on some
    // disks two of them cost as much as a process.
    for folder in ["objects/info", "refs", "info"] {
        fs::create_dir_all(git_dir.join(folder))?;
    }
    // An identity, because an agent's first commit would fail without one.
    let config = format!(
        "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\
         \tlogallrefupdates = true\n\
         [remote \"origin\"]\n\turl = {}\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n\
         [user]\n\tname = Sortie\n\temail = sortie@localhost\n",
        quoted(url.address()),
    );
    fs::write(git_dir.join("config"), config)?;
    let objects = pool.join("objects");
    fs::write(git_dir.join("objects/info/alternates"), format!("{}\n", objects.display()))?;
    // The job's branch, and upstream's branches and tags as of the last fetch: `pool.rs` keeps all
    // of them in one file, which is sorted.
    let upstream = fs::read_to_string(pool.join("packed-refs"))?;
    let names = upstream.find('\n').filter(|_| upstream.starts_with('#')).map_or(0, |end| end + 1);
    let (header, upstream) = upstream.split_at(names);
    let refs = format!("{header}{start} refs/heads/sortie/{job}\n{upstream}");
    fs::write(git_dir.join("packed-refs"), refs)?;
    fs::write(git_dir.join("HEAD"), format!("ref: refs/heads/sortie/{job}\n"))
}

/// A value as git's configuration files write it.
pub(super) fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}
