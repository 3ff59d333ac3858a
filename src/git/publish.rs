//! The result of an attempt: what changed, as commits in the pool, pushed from there.
//!
//! Pushing from the pool, not from the job's repository, keeps the worker's credentials away from
//! whatever the agent configured (`checkpoint.rs`).

use std::path::Path;

use super::checkpoint::{Snapshot, ruined, take};
use super::cli::Program;
use super::{Changes, Checkout, Error, blocking, inspect};

/// See [`super::Git::changes`].
pub(super) async fn changes(
    program: &Program,
    pool: &Path,
    checkout: &Checkout,
) -> Result<Changes, Error> {
    let snapshot = take(program, pool, checkout).await?;
    describe(&snapshot, checkout, snapshot.head.clone()).await
}

/// See [`super::Git::commit_all`].
pub(super) async fn commit_all(
    program: &Program,
    pool: &Path,
    checkout: &Checkout,
    message: &str,
) -> Result<Changes, Error> {
    let snapshot = take(program, pool, checkout).await?;
    let head = if snapshot.is_dirty {
        snapshot.commit(program, checkout, message).await?
    } else {
        snapshot.head.clone()
    };
    if head != checkout.base {
        snapshot.give_to_pool(program, pool, checkout, &head, None).await?;
    }
    let changes = describe(&snapshot, checkout, head).await?;
    Ok(Changes { is_dirty: false, ..changes })
}

async fn describe(
    snapshot: &Snapshot,
    checkout: &Checkout,
    head: String,
) -> Result<Changes, Error> {
    let (git_dir, base) = (snapshot.scratch.git_dir.clone(), checkout.base.clone());
    let (tree, is_dirty) = (snapshot.tree.clone(), snapshot.is_dirty);
    blocking(move || {
        let (commits, diffstat) = inspect::difference(&git_dir, &base, &head, &tree)
            .map_err(|error| ruined(error.message()))?;
        Ok(Changes { head, commits, diffstat, is_dirty })
    })
    .await
}

/// See [`super::Git::push`].
pub(super) async fn push(
    program: &Program,
    pool: &Path,
    checkout: &Checkout,
    commit: &str,
    branch: &str,
) -> Result<(), Error> {
    let target = format!("refs/heads/{branch}");
    if !inspect::is_full_id(commit) || !git2::Reference::is_valid_name(&target) {
        return Err(Error::Invalid(format!(
            "cannot push {commit:?} to branch {branch:?}: not a commit id, or not a branch name"
        )));
    }
    // A branch below `sortie/` is the job's own: an attempt that was pushed and then lost is
    // replaced by the next one. Of other branches nothing is ever thrown away.
    let force = if branch.starts_with("sortie/") { "+" } else { "" };
    let url = &checkout.url;
    program
        .call(Some(pool), "push")
        .args(["--quiet", "--no-verify", "--no-follow-tags", "--no-signed", "--", url.address()])
        .arg(format!("{force}{commit}:{target}"))
        .run()
        .await
        .map_err(|failure| {
            let doing = format!("cannot push to branch {branch} of {url}");
            if failure.says("[rejected]") || failure.says("[remote rejected]") {
                return Error::Invalid(format!("{doing}: refused: {}", failure.rejection()));
            }
            failure.explain_remote(&doing, url)
        })?;
    Ok(())
}
