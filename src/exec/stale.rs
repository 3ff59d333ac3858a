//! Job directories that dead workers left behind.
//!
//! Who lives is told by file locks, which the kernel drops with their holder, however it ended;
//! process ids would be used again, and mean nothing to the next container on the same volume.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::wire::LOCK;

const OWNER: &str = "owner";
/// A directory without an owner may be one that is just being made.
const NEW: Duration = Duration::from_mins(1);
/// Pause between two looks at a lock; the kernel offers no wait that a deadline could end.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Proof that a job directory is in use by this process: [`clear`] leaves it alone until this is
/// dropped or the process ends, however it ends.
#[must_use = "the directory is stale as soon as this is dropped"]
#[derive(Debug)]
pub struct Owner {
    _locked: File,
}

/// Claims the existing directory `dir` for this process (file `owner`, locked, with the process id
/// for a person who looks).
pub fn own(dir: &Path) -> io::Result<Owner> {
    // Nobody may see it unlocked, hence the other name.
    let unnamed = dir.join("owner.new");
    let mut file = File::create(&unnamed)?;
    file.try_lock()?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes())?;
    fs::rename(unnamed, dir.join(OWNER))?;
    Ok(Owner { _locked: file })
}

/// Removes each directory right under `root` whose owner is dead, waiting up to `deadline` in all
/// for process trees that are still being killed. Returns what was removed. A missing `root` has
/// nothing to remove.
pub async fn clear(root: &Path, deadline: Duration) -> io::Result<Vec<PathBuf>> {
    let deadline = Instant::now() + deadline;
    let mut removed = Vec::new();
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(removed),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        let dir = entry.path();
        let owner = lock(&dir.join(OWNER))?;
        let is_orphan = match owner {
            Lock::Taken(_) => true,
            Lock::Busy => false,
            Lock::Missing => is_old(&dir)?,
        };
        if !is_orphan {
            continue;
        }
        let Some(tree) = ended(&dir.join(LOCK), deadline).await? else { continue };
        let doomed = dir.clone();
        let removal = tokio::task::spawn_blocking(move || fs::remove_dir_all(doomed));
        removal.await.map_err(io::Error::other)??;
        // The locks were held until here, so that two workers do not remove the same directory.
        drop((owner, tree));
        removed.push(dir);
    }
    Ok(removed)
}

enum Lock {
    Taken(#[expect(dead_code, reason = "held, not read")] File),
    Busy,
    Missing,
}

fn lock(path: &Path) -> io::Result<Lock> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Lock::Missing),
        Err(error) => return Err(error),
    };
    match file.try_lock() {
        Ok(()) => Ok(Lock::Taken(file)),
        Err(TryLockError::WouldBlock) => Ok(Lock::Busy),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Waits for the supervisor that holds the lock. `None` if it still does at the deadline.
async fn ended(path: &Path, deadline: Instant) -> io::Result<Option<Lock>> {
    loop {
        match lock(path)? {
            Lock::Busy if Instant::now() < deadline => tokio::time::sleep(LOCK_PAUSE).await,
            Lock::Busy => return Ok(None),
            lock => return Ok(Some(lock)),
        }
    }
}

fn is_old(dir: &Path) -> io::Result<bool> {
    let age = SystemTime::now().duration_since(fs::metadata(dir)?.modified()?);
    // One from the future was not made just now either, but a clock that was set back is no
    // reason to remove anything.
    Ok(age.is_ok_and(|age| age > NEW))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn directory(root: &Path, name: &str) -> PathBuf {
        let dir = root.join(name);
        fs::create_dir_all(dir.join("repo/.git")).unwrap();
        dir
    }

    #[tokio::test]
    async fn only_what_nobody_owns_any_more_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let alive = directory(root.path(), "alive");
        let _owner = own(&alive).unwrap();
        let dead = directory(root.path(), "dead");
        drop(own(&dead).unwrap());
        let new = directory(root.path(), "new");
        let old = directory(root.path(), "old");
        let long_ago = SystemTime::now() - 2 * NEW;
        File::open(&old).unwrap().set_modified(long_ago).unwrap();
        fs::write(root.path().join("file"), "").unwrap();

        let mut removed = clear(root.path(), NOW).await.unwrap();
        removed.sort();
        assert_eq!(removed, [dead, old]);
        assert!(alive.is_dir() && new.is_dir() && root.path().join("file").exists());
        assert_eq!(clear(&root.path().join("missing"), NOW).await.unwrap(), [] as [PathBuf; 0]);
    }

    #[tokio::test]
    async fn a_tree_that_is_still_ending_is_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let dir = directory(root.path(), "ending");
        drop(own(&dir).unwrap());
        let supervisor = File::create(dir.join(LOCK)).unwrap();
        supervisor.try_lock().unwrap();
        assert_eq!(clear(root.path(), NOW).await.unwrap(), [] as [PathBuf; 0]);
        assert!(dir.is_dir());

        let clearing = clear(root.path(), Duration::from_mins(1));
        let ending = async {
            tokio::task::yield_now().await;
            assert!(dir.is_dir());
            drop(supervisor);
        };
        let (removed, ()) = tokio::join!(clearing, ending);
        assert_eq!(removed.unwrap(), std::slice::from_ref(&dir));
        assert!(!dir.exists());
    }
}
