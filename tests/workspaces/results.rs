//! What an attempt leaves: checkpoints and pushed branches.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use sortie::git::Git;

use crate::LONG;
use crate::world::{World, git, invalid};

#[tokio::test]
async fn the_next_attempt_continues_from_a_checkpoint() {
    let (world, base) = World::fetched().await;
    let first = world.checkout("job", &base).await;
    assert_eq!(world.git.newest_checkpoint(&world.url, "job").await.unwrap(), None);
    fs::write(first.path.join("committed"), "c").unwrap();
    git(&first.path, &["add", "--all"]);
    git(&first.path, &["commit", "--quiet", "-m", "the agent's own"]);
    let own = git(&first.path, &["rev-parse", "HEAD"]);
    fs::write(first.path.join("README"), "edited\n").unwrap();
    fs::write(first.path.join("untracked"), "u").unwrap();
    fs::write(first.path.join("staged"), "s").unwrap();
    fs::write(first.path.join("ignored"), "i").unwrap();
    git(&first.path, &["add", "staged"]);
    let before = git(&first.path, &["status", "--porcelain=v2", "--branch"]);

    let name = world.git.checkpoint(&first, "job", 1).await.unwrap();
    assert_eq!(name, "refs/sortie/job/1");
    let (attempt, commit) =
        world.git.newest_checkpoint(&world.url, "job").await.unwrap().expect("a checkpoint");
    assert_eq!(attempt, 1);
    // Nothing of the checkout has changed, and a checkpoint of the same is the same.
    assert_eq!(git(&first.path, &["status", "--porcelain=v2", "--branch"]), before);
    assert_eq!(git(&first.path, &["rev-parse", "HEAD"]), own);
    world.git.checkpoint(&first, "job", 1).await.unwrap();
    assert_eq!(git(&world.pool(), &["rev-parse", &name]), commit);

    fs::remove_dir_all(world.path("jobs")).unwrap();
    // Upstream went on meanwhile; the base is the old one all the same.
    let newer = world.push_upstream("main", "newer");
    world.git.fetch(&world.url, 2).await.unwrap();
    let other_pod = Git::open(&world.path("pools"), LONG).await.unwrap();
    let dir = world.path("pod-2/job/repo");
    let second = other_pod.checkout(&world.url, &newer, &dir, "job", Some(&commit)).await.unwrap();
    assert_eq!(second.base, base);
    assert_eq!(git(&second.path, &["rev-parse", "HEAD"]), own);
    assert_eq!(git(&second.path, &["symbolic-ref", "HEAD"]), "refs/heads/sortie/job");
    assert_eq!(
        git(&second.path, &["status", "--porcelain"]),
        "M README\n?? staged\n?? untracked".trim()
    );
    assert_eq!(fs::read_to_string(second.path.join("untracked")).unwrap(), "u");
    assert!(!second.path.join("ignored").exists());

    // A second checkpoint is the newest one, and keeps the base.
    fs::write(second.path.join("more"), "m").unwrap();
    other_pod.checkpoint(&second, "job", 12).await.unwrap();
    let (attempt, commit) =
        world.git.newest_checkpoint(&world.url, "job").await.unwrap().expect("a checkpoint");
    assert_eq!(attempt, 12);
    let third = world.path("pod-3/job/repo");
    let third = world.git.checkout(&world.url, &newer, &third, "job", Some(&commit)).await.unwrap();
    assert_eq!(third.base, base);

    world.git.forget(&world.url, "job").await.unwrap();
    world.git.forget(&world.url, "job").await.unwrap();
    assert_eq!(world.git.newest_checkpoint(&world.url, "job").await.unwrap(), None);
    assert_eq!(git(&world.pool(), &["for-each-ref", "refs/sortie"]), "");
}

#[tokio::test]
async fn changes_are_counted_and_pushed() {
    let (world, base) = World::fetched().await;
    let checkout = world.checkout("job", &base).await;
    let none = world.git.commit_all(&checkout, "nothing").await.unwrap();
    assert_eq!((none.commits, none.diffstat.as_str(), none.is_dirty), (0, "none", false));
    assert_eq!(none.head, base);

    fs::write(checkout.path.join("README"), "one\nthree\nfour\n").unwrap();
    fs::write(checkout.path.join("ignored"), "i").unwrap();
    let dirty = world.git.changes(&checkout).await.unwrap();
    assert_eq!((dirty.commits, dirty.diffstat.as_str()), (0, "1 file, +2 -1"));
    assert!(dirty.is_dirty && dirty.head == base);
    git(&checkout.path, &["commit", "--quiet", "--all", "-m", "by the agent"]);
    fs::write(checkout.path.join("new"), "n\n").unwrap();

    let done = world.git.commit_all(&checkout, "the job's message").await.unwrap();
    assert_eq!((done.commits, done.diffstat.as_str(), done.is_dirty), (2, "2 files, +3 -1", false));
    // The checkout itself was not written to; doing it again has the same outcome.
    assert_eq!(git(&checkout.path, &["status", "--porcelain"]), "?? new");
    let again = world.git.commit_all(&checkout, "the job's message").await.unwrap();
    assert_eq!((again.commits, &again.diffstat), (done.commits, &done.diffstat));

    for head in [&done.head, &again.head, &again.head] {
        world.git.push(&checkout, head, "sortie/job").await.unwrap();
        assert_eq!(&git(&world.upstream(), &["rev-parse", "sortie/job"]), head);
    }
    let log = git(&world.upstream(), &["log", "--format=%an: %s", "sortie/job"]);
    assert_eq!(log, "Sortie: the job's message\nTest: by the agent\nTest: first");
    assert_eq!(git(&world.upstream(), &["for-each-ref", "--format=%(refname)"]).lines().count(), 2);

    // A branch of other people only moves forward.
    world.push_upstream("main", "meanwhile");
    let message = invalid(world.git.push(&checkout, &done.head, "main").await);
    assert!(message.contains("refused"), "{message}");
    assert!(invalid(world.git.push(&checkout, &done.head, "a..b").await).contains("branch name"));
}

#[tokio::test]
async fn odd_files_do_not_stop_a_checkpoint() {
    let (world, base) = World::fetched().await;
    let checkout = world.checkout("job", &base).await;
    let root = &checkout.path;
    git(root, &["init", "--quiet", "empty-inner"]);
    nix::unistd::mkfifo(&root.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    symlink("/etc/passwd", root.join("link")).unwrap();
    fs::write(root.join("new\nline \u{e4}"), "x").unwrap();
    fs::write(root.join(".git/info/exclude"), "private\n").unwrap();
    fs::write(root.join("private"), "p").unwrap();
    // An index that is a pipe must not be waited for; one that is rubbish must not be believed.
    for plant in [
        (|index: &Path| nix::unistd::mkfifo(index, nix::sys::stat::Mode::S_IRWXU).unwrap())
            as fn(&Path),
        |index| fs::write(index, "rubbish").unwrap(),
        |_| {},
    ] {
        fs::remove_file(root.join(".git/index")).ok();
        plant(&root.join(".git/index"));
        let changes = world.git.changes(&checkout).await.unwrap();
        assert_eq!(changes.diffstat, "2 files, +2 -0");
    }
    let left: Vec<_> = fs::read_dir(root.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}
