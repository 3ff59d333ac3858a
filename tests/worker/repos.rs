//! Jobs with a repository: checkout, publish, checkpoints.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use sortie::core::event::OutputStream::Stdout;
use sortie::core::{Event, Fault, State};
use sortie::git::RepoUrl;
use sortie::store::{Change, Lock, LockAction};

use crate::fleet::{Fleet, lives, told};
use crate::sh;
use crate::support::repo::{TestRepo, git};
use crate::support::{SOON, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_works_in_a_checkout_and_its_commits_are_pushed() {
    let fleet = Fleet::new().await;
    let repo = TestRepo::new();
    let base = repo.git(&["rev-parse", "main"]);
    let _worker = fleet.work(fleet.settings("w-0")).await;
    let script = "cat README; git config user.name a; git config user.email a@b; echo x > new;
        git add new; git commit -qm one; echo y > left";
    let mut job = sh("push", script);
    job["repo"] = repo.url().into();
    job["ref"] = "main".into();
    job["publish"] = "branch".into();
    fleet.push(&job);
    let job = fleet.ends("push", State::Succeeded, None).await;
    assert_eq!(fleet.output("push", Stdout).await, "hello\n");
    assert_eq!(job.result.base_sha.as_deref(), Some(base.as_str()));
    assert_eq!((job.result.branch.as_deref(), job.result.commits), (Some("sortie/push"), Some(2)));
    let head = repo.git(&["rev-parse", "sortie/push"]);
    assert_eq!(job.result.head_sha, Some(head));
    assert_eq!(repo.git(&["show", "sortie/push:left"]), "y");
    assert!(job.result.changes.unwrap().starts_with("2 files"));
    assert_eq!(job.result.checkpoint, None);
    let phases: Vec<&str> = job.result.phases_ms.keys().map(String::as_str).collect();
    assert_eq!(phases, ["prepare", "publish", "run"]);

    let idle = json!({"id": "idle", "command": ["true"], "repo": repo.url(), "publish": "branch"});
    fleet.push(&idle);
    let job = fleet.ends("idle", State::Succeeded, None).await;
    assert_eq!((job.result.branch, job.result.changes.as_deref()), (None, Some("none")));
    assert_eq!(repo.git(&["branch", "--list", "sortie/idle"]), "");
    fleet.is_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_attempt_continues_where_the_first_one_stopped() {
    let fleet = Fleet::new().await;
    let repo = TestRepo::new();
    let base = repo.git(&["rev-parse", "main"]);
    let _worker = fleet.work(fleet.settings("w-0")).await;
    let script = "if [ -e done ]; then cat done; exit 0; fi; echo half > done; exit 1";
    let mut job = sh("again", script);
    job["max_attempts"] = 2.into();
    job["repo"] = repo.url().into();
    job["max_attempts"] = 2.into();
    fleet.push(&job);
    let job = fleet.ends("again", State::Succeeded, None).await;
    assert_eq!(job.counters.attempt, 2);
    assert_eq!(job.result.base_sha, Some(base));
    assert_eq!(fleet.output("again", Stdout).await, "half\n");
    let pool = pool(&fleet, &repo);
    eventually(SOON, "checkpoints are forgotten", async || {
        git(&pool, &["for-each-ref", "refs/sortie"]).is_empty().then_some(())
    })
    .await;
    let said = fleet.events("again").await;
    let says = |wanted: &str| {
        said.iter()
            .any(|e| matches!(e, Event::Progress { message, .. } if message.contains(wanted)))
    };
    assert!(says("fetching") && says("continuing from attempt 1"), "{said:?}");
}

/// Makes the repository run a script, in its own directory, before it takes a push.
fn on_push(repo: &TestRepo, script: &str) {
    let hook = repo.origin().join("hooks/pre-receive");
    std::fs::create_dir_all(repo.origin().join("hooks")).expect("making a directory");
    std::fs::write(&hook, format!("#!/bin/sh\n{script}\n")).expect("writing a hook");
    let is_program = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&hook, is_program).expect("making the hook a program");
}

/// The pool of a repository.
fn pool(fleet: &Fleet, repo: &TestRepo) -> PathBuf {
    let key = RepoUrl::parse(&repo.url()).expect("a usable address").key();
    fleet.path("pools").join(key).join("repo")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_saved_is_kept_until_the_store_knows_of_the_success() {
    let fleet = Fleet::new().await;
    let repo = TestRepo::new();
    let mut settings = fleet.settings("w-0");
    // Long enough not to be frozen while the store is away.
    settings.lease = Duration::from_mins(1);
    let _worker = fleet.work(settings).await;
    let (second, go) = (fleet.path("second"), fleet.path("go"));
    let script = format!(
        "if [ $SORTIE_ATTEMPT = 1 ]; then echo half > half; exit 1; fi
         echo > {}; until [ -e {} ]; do sleep 0.01; done",
        second.display(),
        go.display()
    );
    let mut job = sh("saved", &script);
    job["max_attempts"] = 2.into();
    job["repo"] = repo.url().into();
    fleet.push(&job);
    told(&second).await;
    fleet.redis.sigstop();
    std::fs::write(&go, "").unwrap();
    eventually(SOON, "the slot is done with the job", async || {
        (!fleet.path("worktrees-w-0/saved").exists()).then_some(())
    })
    .await;
    let saved = git(&pool(&fleet, &repo), &["for-each-ref", "refs/sortie"]);
    assert!(saved.contains("refs/sortie/saved/1"), "{saved}");
    fleet.redis.sigcont();
    fleet.ends("saved", State::Succeeded, None).await;
    eventually(SOON, "checkpoints are forgotten", async || {
        git(&pool(&fleet, &repo), &["for-each-ref", "refs/sortie"]).is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_that_fails_for_a_moment_does_not_cost_the_agents_work() {
    let fleet = Fleet::new().await;
    let repo = TestRepo::new();
    let _worker = fleet.work(fleet.settings("w-0")).await;
    // The other side hangs up during the first push.
    on_push(&repo, "[ -e tried ] || { touch tried; kill -9 $PPID; }");
    let ran = fleet.path("ran");
    let mut job = sh("push", &format!("echo >> {}; echo x > new", ran.display()));
    job["repo"] = repo.url().into();
    job["publish"] = "branch".into();
    fleet.push(&job);
    let job = fleet.ends("push", State::Succeeded, None).await;
    assert!(repo.origin().join("tried").exists(), "the first push failed");
    assert_eq!(job.result.branch.as_deref(), Some("sortie/push"));
    assert_eq!(repo.git(&["show", "sortie/push:new"]), "x");
    assert_eq!(std::fs::read_to_string(&ran).unwrap(), "\n", "the agent ran once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_canceled_while_it_is_pushed_ends() {
    let fleet = Fleet::new().await;
    let repo = TestRepo::new();
    let _worker = fleet.work(fleet.settings("w-0")).await;
    let pid = fleet.path("pid");
    on_push(&repo, &format!("echo $$ > {}; exec sleep 300", pid.display()));
    let mut job = sh("push", "echo x > new");
    job["repo"] = repo.url().into();
    job["publish"] = "branch".into();
    fleet.push(&job);
    let pid = told(&pid).await;
    let cancel = Change::Cancel { by: "ann".into() };
    fleet.store.change(&"push".parse().unwrap(), &cancel).await.unwrap();
    fleet.ends("push", State::Canceled, Some(Fault::Canceled)).await;
    eventually(SOON, "the push is stopped", async || (!lives(&pid)).then_some(())).await;
    assert_eq!(repo.git(&["branch", "--list", "sortie/push"]), "");
    fleet.is_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_that_is_not_there_is_the_jobs_fault() {
    let fleet = Fleet::new().await;
    let repo = TestRepo::new();
    let _worker = fleet.work(fleet.settings("w-0")).await;
    fleet.push(&json!({"id": "none", "command": ["true"], "repo": "/no/such/repo"}));
    fleet.push(&json!({"id": "ref", "command": ["true"], "repo": repo.url(), "ref": "nowhere"}));
    for (id, said) in [("none", "/no/such/repo"), ("ref", "nowhere")] {
        let job = fleet.ends(id, State::Failed, Some(Fault::Workspace)).await;
        assert_eq!(job.counters.attempt, 1);
        let message = job.result.message.unwrap();
        assert!(message.contains(said), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_jobs_on_two_workers_fetches_a_repository_once() {
    let fleet = Fleet::new().await;
    let repo = TestRepo::new();
    let _low = fleet.work(fleet.settings("w-0")).await;
    let _high = fleet.work(fleet.settings("w-1")).await;
    for number in 0..8 {
        let job = json!({"id": format!("b{number}"), "command": ["true"], "repo": repo.url()});
        fleet.push(&job);
    }
    let mut fetches = 0;
    for number in 0..8 {
        let id = format!("b{number}");
        fleet.ends(&id, State::Succeeded, None).await;
        let events = fleet.events(&id).await;
        let is_fetch = |e: &&Event| matches!(e, Event::Progress { message, .. } if message.starts_with("fetching"));
        fetches += events.iter().filter(is_fetch).count();
    }
    assert_eq!(fetches, 1);
    fleet.is_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_waits_for_a_repository_can_be_canceled_and_works_never_unlocked() {
    let fleet = Fleet::new().await;
    let repo = TestRepo::new();
    let name = format!("repo:{}", RepoUrl::parse(&repo.url()).unwrap().key());
    let hold = Lock { name, owner: "test".into(), action: LockAction::Hold(SOON * 3) };
    assert!(fleet.store.lock(&hold).await.unwrap().is_some());
    let _worker = fleet.work(fleet.settings("w-0")).await;
    let job = |id: &str| json!({"id": id, "command": ["true"], "repo": repo.url()});
    fleet.push(&job("canceled"));
    fleet.push(&job("patient"));
    for id in ["canceled", "patient"] {
        fleet.until(id, "is claimed", |job| job.state == State::Running).await;
    }
    let cancel = Change::Cancel { by: "ann".into() };
    fleet.store.change(&"canceled".parse().unwrap(), &cancel).await.unwrap();
    fleet.ends("canceled", State::Canceled, Some(Fault::Canceled)).await;
    assert_eq!(fleet.job("patient").await.unwrap().state, State::Running);
    assert!(!fleet.path("pools").join(RepoUrl::parse(&repo.url()).unwrap().key()).exists());
    let release = Lock { action: LockAction::Release, ..hold };
    fleet.store.lock(&release).await.unwrap();
    fleet.ends("patient", State::Succeeded, None).await;
    fleet.is_sound().await;
}
