//! What can be read without starting a process. Only the pools, and scratch repositories of our
//! own, are opened; never a repository that an agent can write to. All of it blocks.

use std::path::Path;

use git2::{ErrorCode, ObjectType, Oid, Repository, Sort};

use super::Error;

/// Branches and tags that are looked at to find names that come near a missing one.
const NAMES_MAX: usize = 100_000;
/// Commits that are counted.
const COMMITS_MAX: usize = 100_000;
const BRANCHES: &str = "refs/remotes/origin/";
const TAGS: &str = "refs/tags/";

fn broken(error: &git2::Error) -> Error {
    Error::Failed(format!("cannot read the object pool: {}", error.message()))
}

/// Whether `text` is a whole commit id.
pub(super) fn is_full_id(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The commit that `reference` names: a full id, a branch, a tag, or a unique beginning of an id (7
/// digits or more), in this order. Without a reference: upstream's HEAD.
pub(super) fn commit_named(pool: &Path, reference: Option<&str>) -> Result<Option<String>, Error> {
    let repository = Repository::open_bare(pool).map_err(|e| broken(&e))?;
    let found = match reference {
        None => named(&repository, "HEAD", &[BRANCHES]),
        Some(id) if is_full_id(id) => by_id(&repository, id),
        Some(name) => {
            let name = name.strip_prefix("refs/heads/").unwrap_or(name);
            let name = name.strip_prefix(TAGS).unwrap_or(name);
            let is_id = name.len() >= 7 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
            match named(&repository, name, &[BRANCHES, TAGS]) {
                Ok(None) if is_id => by_id(&repository, name),
                other => other,
            }
        }
    };
    found.map_err(|e| broken(&e))
}

fn named(
    repository: &Repository,
    name: &str,
    folders: &[&str],
) -> Result<Option<String>, git2::Error> {
    for folder in folders {
        let full = format!("{folder}{name}");
        if !git2::Reference::is_valid_name(&full) {
            continue;
        }
        match repository.find_reference(&full) {
            Ok(found) => return Ok(Some(found.peel_to_commit()?.id().to_string())),
            Err(error) if error.code() == ErrorCode::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn by_id(repository: &Repository, id: &str) -> Result<Option<String>, git2::Error> {
    let object =
        repository.find_object_by_prefix(id, None).and_then(|o| o.peel(ObjectType::Commit));
    match object {
        Ok(commit) => Ok(Some(commit.id().to_string())),
        Err(error)
            if matches!(
                error.code(),
                ErrorCode::NotFound
                    | ErrorCode::Ambiguous
                    | ErrorCode::Peel
                    | ErrorCode::InvalidSpec
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Up to five branches and tags whose names come near `name`, nearest first.
pub(super) fn names_near(pool: &Path, name: &str) -> Result<Vec<String>, Error> {
    let repository = Repository::open_bare(pool).map_err(|e| broken(&e))?;
    let mut names = Vec::new();
    for folder in [BRANCHES, TAGS] {
        let references =
            repository.references_glob(&format!("{folder}*")).map_err(|e| broken(&e))?;
        for reference in references.take(NAMES_MAX) {
            let reference = reference.map_err(|e| broken(&e))?;
            let short = reference.name().ok().and_then(|full| full.strip_prefix(folder));
            if let Some(short) = short.filter(|short| *short != "HEAD") {
                names.push((distance(name, short), short.to_owned()));
            }
        }
    }
    names.sort();
    names.truncate(5);
    Ok(names.into_iter().map(|(_, name)| name).collect())
}

/// Edits between two names, without regard to case; nothing if one contains the other.
fn distance(left: &str, right: &str) -> usize {
    let (left, right) = (left.to_lowercase(), right.to_lowercase());
    if right.contains(&left) || left.contains(&right) {
        return 0;
    }
    let right: Vec<_> = right.chars().take(100).collect();
    let mut row: Vec<_> = (0..=right.len()).collect();
    for (index, a) in left.chars().take(100).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (column, b) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

/// The newest checkpoint of a job: attempt and commit.
pub(super) fn newest_checkpoint(pool: &Path, job: &str) -> Result<Option<(u32, String)>, Error> {
    let repository = Repository::open_bare(pool).map_err(|e| broken(&e))?;
    let folder = format!("refs/sortie/{job}/");
    let references = repository.references_glob(&format!("{folder}*")).map_err(|e| broken(&e))?;
    let mut newest = None;
    for reference in references {
        let reference = reference.map_err(|e| broken(&e))?;
        let attempt = reference.name().ok().and_then(|full| full.strip_prefix(&folder));
        if let (Some(attempt), Some(id)) =
            (attempt.and_then(|n| n.parse().ok()), reference.target())
        {
            newest = newest.max(Some((attempt, id.to_string())));
        }
    }
    Ok(newest)
}

/// A checkpoint's contents: the agent's own last commit, the job's base if it is told, the tree.
pub(super) struct Checkpoint {
    pub(super) parent: String,
    pub(super) base: Option<String>,
    pub(super) tree: String,
}

/// Reads the checkpoint that `name`, a commit id or a full ref name, points to.
pub(super) fn checkpoint(pool: &Path, name: &str) -> Result<Option<Checkpoint>, Error> {
    let read = || -> Result<Checkpoint, git2::Error> {
        let repository = Repository::open_bare(pool)?;
        let commit = if is_full_id(name) {
            repository.find_commit(Oid::from_str(name)?)?
        } else {
            repository.find_reference(name)?.peel_to_commit()?
        };
        let base = commit
            .message()
            .ok()
            .and_then(|text| {
                text.lines().find_map(|line| line.strip_prefix(super::checkpoint::BASE))
            })
            .filter(|id| is_full_id(id));
        Ok(Checkpoint {
            parent: commit.parent_id(0)?.to_string(),
            base: base.map(str::to_owned),
            tree: commit.tree_id().to_string(),
        })
    };
    match read() {
        Ok(checkpoint) => Ok(Some(checkpoint)),
        Err(error) if matches!(error.code(), ErrorCode::NotFound | ErrorCode::InvalidSpec) => {
            Ok(None)
        }
        Err(error) => Err(broken(&error)),
    }
}

/// The tree of a commit, or `None` if the repository lacks it.
pub(super) fn tree_of(git_dir: &Path, commit: &str) -> Option<String> {
    let repository = Repository::open_bare(git_dir).ok()?;
    let commit = repository.find_commit(Oid::from_str(commit).ok()?).ok()?;
    Some(commit.tree_id().to_string())
}

/// Commits from `base` to `head`, and the difference between `base` and `tree` in words.
pub(super) fn difference(
    git_dir: &Path,
    base: &str,
    head: &str,
    tree: &str,
) -> Result<(u32, String), git2::Error> {
    let repository = Repository::open_bare(git_dir)?;
    let (base, head) = (Oid::from_str(base)?, Oid::from_str(head)?);
    let mut walk = repository.revwalk()?;
    walk.set_sorting(Sort::NONE)?;
    walk.push(head)?;
    walk.hide(base)?;
    let commits = u32::try_from(walk.take(COMMITS_MAX).count()).unwrap_or(u32::MAX);

    let from = repository.find_commit(base)?.tree()?;
    let to = repository.find_tree(Oid::from_str(tree)?)?;
    let stats = repository.diff_tree_to_tree(Some(&from), Some(&to), None)?.stats()?;
    let diffstat = match stats.files_changed() {
        0 => "none".to_owned(),
        1 => format!("1 file, +{} -{}", stats.insertions(), stats.deletions()),
        files => format!("{files} files, +{} -{}", stats.insertions(), stats.deletions()),
    };
    Ok((commits, diffstat))
}

/// The submodules in an index file, taken out of it.
///
/// Git looks into a submodule by running itself there, with the settings that it finds there. An
/// index without submodules keeps it from doing so.
pub(super) fn take_submodules(index: &Path) -> Result<Vec<git2::IndexEntry>, git2::Error> {
    let mut index = git2::Index::open(index)?;
    let submodules: Vec<_> = index.iter().filter(|entry| entry.mode == 0o160_000).collect();
    for submodule in &submodules {
        index.remove_path(path_of(submodule))?;
    }
    if !submodules.is_empty() {
        index.write()?;
    }
    Ok(submodules)
}

/// Puts submodules back whose directory is still there and which git has not added by itself.
pub(super) fn put_submodules(
    index: &Path,
    submodules: &[git2::IndexEntry],
    work_tree: &Path,
) -> Result<(), git2::Error> {
    let mut index = git2::Index::open(index)?;
    for submodule in submodules {
        let path = submodule.path.as_slice();
        let is_known = index.iter().any(|entry| {
            entry
                .path
                .strip_prefix(path)
                .is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
        });
        if !is_known && work_tree.join(path_of(submodule)).is_dir() {
            index.add(submodule)?;
        }
    }
    index.write()
}

fn path_of(entry: &git2::IndexEntry) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(&entry.path))
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn near_names_are_near() {
        assert_eq!(distance("main", "Main"), 0);
        assert_eq!(distance("fix", "feature/fix-it"), 0);
        assert_eq!(distance("mian", "main"), 2);
        assert_eq!(distance("relase", "release"), 1);
        assert_eq!(distance("abc", "xyz"), 3);
    }
}
