//! Pools under crashes, lost locks, many jobs and a moving upstream.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use sortie::git::{Error, Git, RepoUrl};

use crate::world::{World, git, invalid, try_git};
use crate::{LONG, NOW};

/// Not a test: the process that the next test kills.
#[tokio::test]
#[ignore = "started by a_fetch_killed_anywhere_leaves_no_pool_or_a_whole_one"]
async fn fetch_to_be_killed() {
    let Ok(order) = std::env::var("FETCH_TO_BE_KILLED") else { return };
    let (pools, upstream) = order.split_once('|').unwrap();
    let git = Git::open(Path::new(pools), LONG).await.unwrap();
    let url = RepoUrl::parse(upstream).unwrap();
    let fence = std::env::var("FENCE").unwrap().parse().unwrap();
    git.fetch(&url, fence).await.unwrap();
}

/// Kills a process and all that descend from it, as the end of a pod does.
fn kill_tree(root: u32) {
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(pid) = tree.get(next).copied() {
        next += 1;
        signal(pid, nix::sys::signal::Signal::SIGSTOP);
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            tree.extend(children.split_whitespace().map(|pid| pid.parse::<u32>().unwrap()));
        }
    }
    for pid in tree {
        signal(pid, nix::sys::signal::Signal::SIGKILL);
    }
}

fn signal(pid: u32, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    // It may have ended by itself.
    let _gone = nix::sys::signal::kill(pid, signal);
}

#[tokio::test]
async fn a_fetch_killed_anywhere_leaves_no_pool_or_a_whole_one() {
    let world = World::new().await;
    for number in 0..300 {
        world.write(&format!("file-{number}"), &format!("{number}\n").repeat(2000));
    }
    world.push_upstream("main", "much");
    let start = |fence: u64| {
        let order = format!("{}|{}", world.path("pools").display(), world.upstream().display());
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crashes::fetch_to_be_killed", "--ignored"])
            .env("FETCH_TO_BE_KILLED", order)
            .env("FENCE", fence.to_string())
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    };
    let began = Instant::now();
    assert!(start(1).wait().unwrap().success());
    let whole = began.elapsed();
    world.assert_pool_is_whole();

    let mut interrupted = 0;
    for round in 0..20_u64 {
        if round % 2 == 0 {
            fs::remove_dir_all(world.path("pools")).unwrap();
        }
        let newest = world.push_upstream("main", &format!("round {round}"));
        let mut child = start(10 + 2 * round);
        // Not a wait for something: the point at which the pod dies.
        tokio::time::sleep(whole.mul_f64(fastrand::f64())).await;
        kill_tree(child.id());
        interrupted += u32::from(!child.wait().unwrap().success());

        if world.pool().exists() {
            world.assert_pool_is_whole();
            world.git.resolve(&world.url, Some("main")).await.unwrap();
        }
        world.git.fetch(&world.url, 11 + 2 * round).await.unwrap();
        let found = world.git.find(&world.url, Some("main"), LONG).await.unwrap();
        assert_eq!(found, Some(newest), "round {round}");
        let left: Vec<_> = fs::read_dir(world.pool().parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "leftovers: {left:?}");
    }
    assert!(interrupted >= 5, "only {interrupted} of 20 were killed before they ended");
    world.assert_pool_is_whole();
}

#[tokio::test]
async fn two_holders_of_a_lost_lock() {
    let world = World::new().await;
    let other = Git::open(&world.path("pools"), LONG).await.unwrap();
    for round in 0..5 {
        let newest = world.push_upstream("main", &format!("round {round}"));
        let (left, right) = tokio::join!(
            world.git.fetch(&world.url, 10 * round + 1),
            other.fetch(&world.url, 10 * round + 2),
        );
        // The newer holder may clear away what the older one is making, never the reverse.
        right.unwrap();
        assert!(matches!(left, Ok(()) | Err(Error::Failed(_))), "{left:?}");
        world.assert_pool_is_whole();
        let found = world.git.find(&world.url, Some("main"), LONG).await.unwrap();
        assert_eq!(found, Some(newest));
    }
}

#[tokio::test]
async fn forty_checkouts_at_once() {
    let (world, commit) = World::fetched().await;
    let other = Git::open(&world.path("pools"), LONG).await.unwrap();
    let tasks: Vec<_> = (0..40)
        .map(|number| {
            let git = if number % 2 == 0 { world.git.clone() } else { other.clone() };
            let (url, commit) = (world.url.clone(), commit.clone());
            let dir = world.path("jobs").join(number.to_string()).join("repo");
            tokio::spawn(async move {
                let job = format!("job-{number}");
                let checkout = git.checkout(&url, &commit, &dir, &job, None).await?;
                fs::write(checkout.path.join("mine"), &job).unwrap();
                git.checkpoint(&checkout, &job, 1).await?;
                Ok::<_, Error>(checkout)
            })
        })
        .collect();
    for (number, task) in tasks.into_iter().enumerate() {
        let checkout = task.await.unwrap().unwrap();
        assert_eq!(git(&checkout.path, &["rev-parse", "HEAD"]), commit);
        let mine = format!("refs/sortie/job-{number}/1:mine");
        assert_eq!(git(&world.pool(), &["show", &mine]), format!("job-{number}"));
    }
    world.assert_pool_is_whole();
}

#[tokio::test]
async fn a_running_checkout_survives_what_upstream_does() {
    let (world, _) = World::fetched().await;
    world.write("doomed", "x");
    let doomed = world.push_upstream("doomed", "will be deleted");
    world.git.fetch(&world.url, 2).await.unwrap();
    let checkout = world.checkout("job", &doomed).await;

    git(&world.path("author"), &["checkout", "--quiet", "--orphan", "other"]);
    let forced = world.push_upstream("main", "history rewritten");
    git(&world.upstream(), &["update-ref", "-d", "refs/heads/doomed"]);
    git(&world.upstream(), &["update-ref", "refs/heads/doomed/below", &forced]);
    world.git.fetch(&world.url, 3).await.unwrap();

    assert_eq!(world.git.resolve(&world.url, Some("main")).await.unwrap(), forced);
    invalid(world.git.resolve(&world.url, Some("doomed")).await);
    assert_eq!(world.git.resolve(&world.url, Some("doomed/below")).await.unwrap(), forced);
    // Even a person who cleans up in the pool cannot hurt it.
    let (pruned, text) = try_git(&world.pool(), &["prune", "--expire=now"]);
    assert!(!pruned && text.contains("precious"), "{text}");
    git(&world.pool(), &["gc", "--quiet"]);
    git(&checkout.path, &["fsck", "--full", "--no-dangling"]);
    // A retry of the job finds its commit still there, and a place where its last attempt died.
    fs::remove_dir_all(&checkout.path).unwrap();
    assert!(world.git.find(&world.url, Some(&doomed), NOW).await.unwrap().is_some());
    assert_eq!(world.checkout("job", &doomed).await.base, doomed);
}
