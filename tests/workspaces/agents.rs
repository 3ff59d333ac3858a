//! Agents that do what they like to their repository hurt nobody else.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::world::{World, git, invalid, try_git};

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
