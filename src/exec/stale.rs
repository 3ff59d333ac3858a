//! Job directories that dead workers left behind.
//!
//! Who lives is told by file locks, which the kernel drops with their holder, however it ended;
//! process ids would be used again, and mean nothing to the next container on the same volume.

use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use tokio::time::Instant;

use super::wire::{LOCK, wary};

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

/// Removes a job directory, even if it has directories that their owner may not write (as Go makes
/// them for modules).
pub fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            make_writable(dir)?;
            fs::remove_dir_all(dir)
        }
        result => result,
    }
}

fn make_writable(dir: &Path) -> io::Result<()> {
    let mut found = vec![dir.to_owned()];
    while let Some(dir) = found.pop() {
        fs::set_permissions(&dir, Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                found.push(entry.path());
            }
        }
    }
    Ok(())
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
        let removal = tokio::task::spawn_blocking(move || remove(&doomed));
        match removal.await.map_err(io::Error::other).flatten() {
            Ok(()) => removed.push(dir),
            Err(error) => {
                tracing::warn!(dir = %dir.display(), %error, "cannot remove a stale job directory");
            }
        }
        // The locks were held until here, so that two workers do not remove the same directory.
        drop((owner, tree));
    }
    Ok(removed)
}

enum Lock {
    Taken(#[expect(dead_code, reason = "held, not read")] File),
    Busy,
    Missing,
}

fn lock(path: &Path) -> io::Result<Lock> {
    let file = match File::options().read(true).custom_flags(wary()).open(path) {
        Ok(file) => file,
        // A process of the job put a link in its place.
        Err(error) if error.raw_os_error() == Some(Errno::ELOOP as i32) => {
            return Ok(Lock::Missing);
        }
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

    #[test]
    fn a_tree_of_read_only_directories_becomes_writable() {
        let root = tempfile::tempdir().unwrap();
        let dir = directory(root.path(), "go");
        let outside = directory(root.path(), "outside");
        std::os::unix::fs::symlink(&outside, dir.join("repo/link")).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        for path in [&dir.join("repo/.git"), &dir.join("repo"), &dir, &outside] {
            fs::set_permissions(path, Permissions::from_mode(0o555)).unwrap();
        }
        make_writable(&dir).unwrap();
        assert_eq!([mode(&dir), mode(&dir.join("repo")), mode(&dir.join("repo/.git"))], [0o700; 3]);
        assert_eq!(mode(&outside), 0o555, "a link is not followed");
        remove(&dir).unwrap();
        assert!(!dir.exists() && outside.exists());
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
