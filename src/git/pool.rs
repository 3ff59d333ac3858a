//! The object pool of one repository: made and updated so that a crash, or two holders of one lock,
//! leave it whole.
//!
//! ```text
//! <pools>/<key>/repo                bare; objects are only ever added
//!                   packed-refs     upstream's branches and tags, all of them, replaced as a whole
//!                   fetched         `<fence> <ms since the epoch>` of the last fetch
//!                   refs/sortie/    checkpoints; always loose files
//! <pools>/<key>/repo.tmp-<fence>    a clone or fetch in progress
//! ```
//!
//! Git itself never fetches upstream into the pool: killed at the wrong moment it would leave lock
//! files behind that stop every later fetch. It fetches into a staging repository that borrows from
//! the pool; the new packs are then moved over (the index last, as `git repack` does), and one
//! rename replaces all refs. Whatever is left of a staging repository is rubbish.
//!
//! A branch that upstream deleted or forced loses its ref but never its objects: the pool has
//! `extensions.preciousObjects`, with which git refuses to prune.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::cli::{Failure, Program};
use super::{Error, RepoUrl, blocking};

const REFSPECS: [&str; 3] = [
    "+HEAD:refs/remotes/origin/HEAD",
    "+refs/heads/*:refs/remotes/origin/*",
    "+refs/tags/*:refs/tags/*",
];

/// Makes or updates the pool in `home` (`<pools>/<key>`).
pub(super) async fn fetch(
    program: &Program,
    home: PathBuf,
    url: &RepoUrl,
    fence: u64,
) -> Result<(), Error> {
    let fetched = Fetched { fence, at_ms: now_ms() };
    let doing = format!("cannot fetch {url}");
    let staging = {
        let (home, url) = (home.clone(), url.clone());
        blocking(move || stage(&home, &url, fence).map_err(|e| disk(&home, &e))).await?
    };
    let mut result = download(program, &staging, url, &REFSPECS).await;
    if result.as_ref().is_err_and(|failure| failure.says("couldn't find remote ref HEAD")) {
        // HEAD names a branch that does not exist; the others may.
        result = download(program, &staging, url, &REFSPECS[1..]).await;
    }
    if let Err(failure) = result {
        discard(staging).await;
        return Err(failure.explain_remote(&doing, url));
    }
    let packed = program
        .call(Some(&staging), "pack-refs")
        .args(["--all", "--prune"])
        .run()
        .await
        .map_err(|failure| failure.explain(&doing));
    if let Err(error) = packed {
        discard(staging).await;
        return Err(error);
    }
    let installed = {
        let (home, staging) = (home.clone(), staging.clone());
        blocking(move || install(&home, &staging, &fetched).map_err(|e| disk(&home, &e))).await
    };
    discard(staging).await;
    installed
}

async fn download(
    program: &Program,
    staging: &Path,
    url: &RepoUrl,
    refspecs: &[&str],
) -> Result<Vec<u8>, Failure> {
    program
        .call(Some(staging), "fetch")
        .args(["--quiet", "--prune", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance"])
        .args(["--", url.address()])
        .args(refspecs)
        .run()
        .await
}

/// Removes a staging repository. What cannot be removed now is removed by a later fetch.
async fn discard(staging: PathBuf) {
    let _leftover = blocking(move || Ok(fs::remove_dir_all(staging))).await;
}

/// How old the knowledge of upstream is. `None` if nothing was ever fetched.
pub(super) fn age(pool: &Path) -> Option<Duration> {
    let at_ms = Fetched::read(pool)?.at_ms;
    now_ms().checked_sub(at_ms).map(Duration::from_millis)
}

/// Clears what older holders of the lock left, and makes an empty repository to fetch into; it
/// borrows from the pool if there is one.
fn stage(home: &Path, url: &RepoUrl, fence: u64) -> io::Result<PathBuf> {
    fs::create_dir_all(home)?;
    for entry in fs::read_dir(home)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let rubbish = if name.starts_with("rubbish-") {
            entry.path()
        } else if let Some(older) = name.strip_prefix("repo.tmp-")
            && older.parse::<u64>().is_ok_and(|older| older <= fence)
        {
            // Renamed first: if its maker still lives and renames it at this moment, one of the two
            // renames fails, and nobody deletes files from under a pool.
            let rubbish = home.join(format!("rubbish-{fence}-{older}"));
            if fs::rename(entry.path(), &rubbish).is_err() {
                continue;
            }
            rubbish
        } else {
            continue;
        };
        if let Err(error) = fs::remove_dir_all(&rubbish) {
            tracing::warn!(path = %rubbish.display(), %error, "cannot remove a leftover");
        }
    }
    let staging = home.join(format!("repo.tmp-{fence}"));
    let pool = home.join("repo");
    for dir in ["objects/info", "objects/pack", "refs"] {
        fs::create_dir_all(staging.join(dir))?;
    }
    fs::write(staging.join("HEAD"), "ref: refs/heads/none\n")?;
    let config = format!(
        "[core]\n\trepositoryformatversion = 1\n\tbare = true\n\
         [extensions]\n\tpreciousObjects = true\n\
         [gc]\n\tauto = 0\n\tpackRefs = false\n\
         [maintenance]\n\tauto = false\n\
         [fetch]\n\tunpackLimit = 1\n\
         [remote \"origin\"]\n\turl = {}\n\tfetch = {}\n\tfetch = {}\n",
        super::checkout::quoted(url.address()),
        REFSPECS[1],
        REFSPECS[2],
    );
    write_synced(&staging.join("config"), &config)?;
    if pool.is_dir() {
        let objects = pool.join("objects");
        fs::write(staging.join("objects/info/alternates"), format!("{}\n", objects.display()))?;
        fs::copy(pool.join("packed-refs"), staging.join("packed-refs"))?;
    }
    Ok(staging)
}

/// Makes what was fetched visible: the staging repository becomes the pool, or its packs and refs
/// go into the pool there is.
fn install(home: &Path, staging: &Path, fetched: &Fetched) -> io::Result<()> {
    let pool = home.join("repo");
    let packs = staging.join("objects/pack");
    if !staging.join("packed-refs").exists() {
        // Upstream has no branch at all; saying so is easier with an empty file than without one.
        write_synced(&staging.join("packed-refs"), "")?;
    }
    if !staging.join("objects/info/alternates").exists() {
        fetched.write(staging)?;
        for dir in [&packs, &staging.join("objects"), staging] {
            sync_dir(dir)?;
        }
        match fs::rename(staging, &pool) {
            Ok(()) => return sync_dir(home),
            // Another holder of a lost lock made the pool in the meantime: add to it.
            Err(_) if pool.is_dir() => {}
            Err(error) => return Err(error),
        }
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(&packs)? {
        let path = entry?.path();
        let order = match path.extension().and_then(|extension| extension.to_str()) {
            Some("pack") => 0,
            Some("rev") => 1,
            Some("idx") => 2,
            _ => continue,
        };
        files.push((order, path));
    }
    files.sort();
    for (_, path) in files {
        if let Some(name) = path.file_name() {
            fs::rename(&path, pool.join("objects/pack").join(name))?;
        }
    }
    sync_dir(&pool.join("objects/pack"))?;
    if Fetched::read(&pool).is_some_and(|newer| newer.fence > fetched.fence) {
        // The lock was lost and its next holder has fetched since: its refs are the newer ones.
        return Ok(());
    }
    fs::rename(staging.join("packed-refs"), pool.join("packed-refs"))?;
    fetched.write(staging)?;
    fs::rename(staging.join("fetched"), pool.join("fetched"))?;
    sync_dir(&pool)
}

/// When the pool was last fetched, and under which lock.
struct Fetched {
    fence: u64,
    /// Start of the fetch, in milliseconds since the epoch.
    at_ms: u64,
}

impl Fetched {
    fn read(pool: &Path) -> Option<Self> {
        let text = fs::read_to_string(pool.join("fetched")).ok()?;
        let (fence, at_ms) = text.trim_end().split_once(' ')?;
        Some(Self { fence: fence.parse().ok()?, at_ms: at_ms.parse().ok()? })
    }

    fn write(&self, dir: &Path) -> io::Result<()> {
        write_synced(&dir.join("fetched"), &format!("{} {}\n", self.fence, self.at_ms))
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn write_synced(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn disk(home: &Path, error: &io::Error) -> Error {
    Error::Failed(format!("cannot write the object pool in {}: {error}", home.display()))
}
