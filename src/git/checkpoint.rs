//! What an agent has made, taken out of its repository without believing anything in it.
//!
//! An agent can write to its own `.git`: hooks, a file monitor, filters, external diffs, aliases,
//! an ssh command, a credential helper, addresses rewritten by `insteadOf`. Git run there by us
//! would run what it finds, with our rights. So it is not run there. A scratch repository of our
//! own, which borrows the objects of both the pool and the job, has a configuration that we wrote;
//! git reads the job's files through it. Of the job's `.git` are used, as data: objects, the commit
//! that HEAD names, a copy of the index (which files are tracked and unchanged), and
//! `info/exclude`. HEAD is read by `git rev-parse`, which runs nothing; submodules are taken out of
//! the copied index, because git would run itself in them.
//!
//! The commit then goes into the pool by `git fetch`, which computes the names of all objects anew
//! and checks that nothing is missing: an agent cannot smuggle a false object into what others use.
//!
//! Filters of the worker's own user (`git lfs install`) do apply.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::cli::Program;
use super::{Checkout, Error, blocking, inspect};

/// Line of a checkpoint's message that tells the commit which the first attempt started from.
pub(super) const BASE: &str = "Sortie-Base: ";

/// The job's files and commits as they are at one moment.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) scratch: Scratch,
    /// Where the agent's HEAD is; the base if it is on a branch without commits.
    pub(super) head: String,
    /// Tree of the files as they are, ignored ones left out.
    pub(super) tree: String,
    pub(super) is_dirty: bool,
}

/// A repository of our own beside the job's; removed when dropped.
#[derive(Debug)]
pub(super) struct Scratch {
    pub(super) git_dir: PathBuf,
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Whatever stays is removed with the directory of the job, in which it is.
        let _leftover = fs::remove_dir_all(&self.git_dir);
    }
}

/// Commits the files as they are to `refs/sortie/<job>/<attempt>`. See [`super::Git::checkpoint`].
pub(super) async fn checkpoint(
    program: &Program,
    pool: &Path,
    checkout: &Checkout,
    job: &str,
    attempt: u32,
) -> Result<String, Error> {
    let name = format!("refs/sortie/{job}/{attempt}");
    let snapshot = take(program, pool, checkout).await?;
    let previous = {
        let (pool, name) = (pool.to_owned(), name.clone());
        blocking(move || inspect::checkpoint(&pool, &name)).await?
    };
    if previous.is_some_and(|p| p.parent == snapshot.head && p.tree == snapshot.tree) {
        return Ok(name);
    }
    let message =
        format!("Checkpoint of job {job}, attempt {attempt}\n\n{BASE}{}\n", checkout.base);
    let commit = snapshot.commit(program, checkout, &message).await?;
    // Only this attempt writes this ref, and one call after the other: a lock is a dead one's.
    let _absent = fs::remove_file(pool.join(format!("{name}.lock")));
    snapshot.give_to_pool(program, pool, checkout, &commit, Some(&name)).await?;
    Ok(name)
}

/// Looks at the job's repository.
pub(super) async fn take(
    program: &Program,
    pool: &Path,
    checkout: &Checkout,
) -> Result<Snapshot, Error> {
    let git_dir = checkout.path.join(".git");
    let is_real = [git_dir.clone(), git_dir.join("objects"), checkout.path.clone()]
        .iter()
        .all(|dir| fs::symlink_metadata(dir).is_ok_and(|found| found.is_dir()));
    if !is_real {
        return Err(ruined(".git is not a directory any more"));
    }
    let head = program.call_unsynced(&git_dir, "rev-parse").args(["--verify", "--quiet", "HEAD"]);
    let head = match head.text().await {
        Ok(head) if inspect::is_full_id(&head) => head,
        Ok(_) => return Err(ruined("HEAD is not a commit")),
        // A branch without commits: the files are still worth something.
        Err(failure) if failure.code() == Some(1) => checkout.base.clone(),
        Err(failure) if failure.code().is_some() => return Err(ruined(&failure.cause())),
        Err(failure) => return Err(failure.explain("cannot read HEAD of the checkout")),
    };
    let (scratch, has_index) = {
        let (pool, path) = (pool.to_owned(), checkout.path.clone());
        blocking(move || Scratch::make(&pool, &path)).await?
    };
    let head_tree = {
        let (git_dir, head) = (scratch.git_dir.clone(), head.clone());
        blocking(move || Ok(inspect::tree_of(&git_dir, &head))).await?
    };
    let head_tree = head_tree.ok_or_else(|| ruined("the commit of HEAD is missing"))?;
    let index = scratch.git_dir.join("index");
    if !has_index {
        let read = program.call_unsynced(&scratch.git_dir, "read-tree").arg(&head_tree);
        read.run().await.map_err(|failure| ruined(&failure.cause()))?;
    }
    let submodules = {
        let index = index.clone();
        blocking(move || inspect::take_submodules(&index).map_err(|e| ruined(e.message()))).await?
    };
    let mut add = program.call_unsynced(&scratch.git_dir, "add").work_tree(&checkout.path);
    add = add.args(["--all", "--ignore-errors", "--", "."]);
    match add.run().await {
        Ok(_) => {}
        // Some files could not be read, or vanished while the agent works; the others are there.
        Err(failure) if failure.code() == Some(1) => {
            tracing::warn!(cause = failure.cause(), "some files of the checkout are left out");
        }
        Err(failure) if failure.code().is_some() => return Err(ruined(&failure.cause())),
        Err(failure) => return Err(failure.explain("cannot read the files of the checkout")),
    }
    if !submodules.is_empty() {
        let work_tree = checkout.path.clone();
        blocking(move || {
            inspect::put_submodules(&index, &submodules, &work_tree)
                .map_err(|e| ruined(e.message()))
        })
        .await?;
    }
    let tree = program.call_unsynced(&scratch.git_dir, "write-tree").text().await;
    let tree = tree.map_err(|failure| match failure.code() {
        Some(_) => ruined(&failure.cause()),
        None => failure.explain("cannot write the tree of the checkout"),
    })?;
    Ok(Snapshot { scratch, head, is_dirty: tree != head_tree, tree })
}

impl Snapshot {
    /// A commit of the files upon the agent's last commit. Answers its id.
    pub(super) async fn commit(
        &self,
        program: &Program,
        checkout: &Checkout,
        message: &str,
    ) -> Result<String, Error> {
        let file = self.scratch.git_dir.join("message");
        fs::write(&file, message)
            .map_err(|error| Error::Failed(format!("cannot write {}: {error}", file.display())))?;
        let mut call = program.call_unsynced(&self.scratch.git_dir, "commit-tree");
        for who in ["AUTHOR", "COMMITTER"] {
            call = call.env(&format!("GIT_{who}_NAME"), "Sortie");
            call = call.env(&format!("GIT_{who}_EMAIL"), "sortie@localhost");
        }
        call.args(["-p", &self.head, "-F"]).arg(&file).arg(&self.tree).text().await.map_err(
            |failure| {
                failure.explain(&format!("cannot commit the files of {}", checkout.path.display()))
            },
        )
    }

    /// Copies `commit`, and all that it needs, into the pool; there `name` will name it.
    pub(super) async fn give_to_pool(
        &self,
        program: &Program,
        pool: &Path,
        checkout: &Checkout,
        commit: &str,
        name: Option<&str>,
    ) -> Result<(), Error> {
        let refs = self.scratch.git_dir.join("packed-refs");
        fs::write(&refs, format!("{commit} refs/heads/snapshot\n"))
            .map_err(|error| Error::Failed(format!("cannot write {}: {error}", refs.display())))?;
        program
            .call(Some(pool), "fetch")
            .args(["--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--"])
            .arg(&self.scratch.git_dir)
            .arg(format!("+refs/heads/snapshot:{}", name.unwrap_or_default()))
            .run()
            .await
            .map_err(|failure| match failure.code() {
                // Git found that the job's objects are not what they should be, or the disk is
                // full.
                Some(_)
                    if [
                        "missing",
                        "bad object",
                        "did not receive",
                        "corrupt",
                        "unable to read",
                    ]
                    .iter()
                    .any(|words| failure.says(words)) =>
                {
                    ruined(&failure.cause())
                }
                _ => failure.explain(&format!("cannot add to the object pool of {}", checkout.url)),
            })?;
        Ok(())
    }
}

impl Scratch {
    /// Makes a scratch repository beside `checkout`. Answers whether it has a copy of the job's
    /// index.
    fn make(pool: &Path, checkout: &Path) -> Result<(Self, bool), Error> {
        let parent = checkout.parent().unwrap_or(checkout);
        let git_dir = parent.join(format!(".sortie-git-{:016x}", fastrand::u64(..)));
        let failed =
            |error: io::Error| Error::Failed(format!("cannot make {}: {error}", git_dir.display()));
        fs::DirBuilder::new().mode(0o700).create(&git_dir).map_err(failed)?;
        let scratch = Self { git_dir: git_dir.clone() };
        scratch.fill(pool, &checkout.join(".git")).map_err(failed)?;
        let has_index = copy_index(&checkout.join(".git/index"), &git_dir.join("index"));
        Ok((scratch, has_index))
    }

    fn fill(&self, pool: &Path, of_job: &Path) -> io::Result<()> {
        for folder in ["objects/info", "refs"] {
            fs::create_dir_all(self.git_dir.join(folder))?;
        }
        fs::write(self.git_dir.join("HEAD"), "ref: refs/heads/snapshot\n")?;
        let exclude = of_job.join("info/exclude");
        let is_file = fs::symlink_metadata(&exclude).is_ok_and(|found| found.is_file());
        let exclude = if is_file { exclude } else { PathBuf::from("/dev/null") };
        let config = format!(
            "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\
             \texcludesFile = {}\n",
            super::checkout::quoted(&exclude.to_string_lossy()),
        );
        fs::write(self.git_dir.join("config"), config)?;
        let lenders =
            format!("{}\n{}\n", pool.join("objects").display(), of_job.join("objects").display());
        fs::write(self.git_dir.join("objects/info/alternates"), lenders)
    }
}

/// Copies the job's index, if it is a regular file that can be read; no link or pipe is followed.
fn copy_index(from: &Path, to: &Path) -> bool {
    let copy = || -> io::Result<bool> {
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let mut from = OpenOptions::new().read(true).custom_flags(flags.bits()).open(from)?;
        if !from.metadata()?.is_file() {
            return Ok(false);
        }
        io::copy(&mut from, &mut File::create(to)?)?;
        Ok(git2::Index::open(to).is_ok())
    };
    let is_copied = copy().unwrap_or(false);
    if !is_copied {
        // Half a copy is worse than none.
        let _absent = fs::remove_file(to);
    }
    is_copied
}

/// The job's own fault, whatever it did.
pub(super) fn ruined(problem: &str) -> Error {
    Error::Invalid(format!("the agent removed or broke its repository: {problem}"))
}
