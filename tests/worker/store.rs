//! The worker and its store: asking little, and what an absent or forgetful store does to jobs.

use std::time::Duration;

use serde_json::json;
use sortie::core::event::OutputStream::Stdout;
use sortie::core::{Event, Fault, State};
use sortie::store::{Control, Exchange};

use crate::fleet::Fleet;
use crate::support::{SOON, eventually};
use crate::{numbers, sh};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_worker_asks_for_little() {
    let fleet = Fleet::new().await;
    let mut settings = fleet.settings("w-0");
    (settings.lease, settings.beat) = (Duration::from_secs(30), Duration::from_secs(5));
    let _worker = fleet.work(settings).await;
    fleet.push(&sh("warm", "true"));
    fleet.ends("warm", State::Succeeded, None).await;
    let commands = || -> u64 {
        // What clients send. The server counts what scripts do under the same names, so these are
        // the ones that no script uses.
        let stats: String = fleet.redis.ask(&["INFO", "commandstats"]);
        let sent = ["evalsha", "eval", "blmove", "blpop", "xread", "ping"];
        let calls = |line: &str| -> Option<u64> {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            sent.contains(&name).then(|| rest.split(',').next().unwrap().parse().unwrap())
        };
        stats.lines().filter_map(calls).sum()
    };
    let before = commands();
    let window = Duration::from_secs(10);
    tokio::time::sleep(window).await;
    let sent = commands() - before;
    assert!(sent <= window.as_secs(), "{sent} commands in {window:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_writes_on_while_the_store_is_away() {
    let fleet = Fleet::new().await;
    let mut settings = fleet.settings("w-0");
    // Long enough not to be frozen meanwhile.
    settings.lease = Duration::from_mins(1);
    let _worker = fleet.work(settings).await;
    let (go, written, end) = (fleet.path("go"), fleet.path("written"), fleet.path("end"));
    let script = format!(
        "echo start; until [ -e {} ]; do sleep 0.01; done; seq 1 800000; : > {}; \
         until [ -e {} ]; do sleep 0.01; done; echo the end",
        go.display(),
        written.display(),
        end.display()
    );
    fleet.push(&sh("w", &script));
    eventually(SOON, "the job runs", async || {
        fleet.job("w").await?;
        (fleet.output("w", Stdout).await == "start\n").then_some(())
    })
    .await;
    fleet.redis.sigstop();
    std::fs::write(&go, "").unwrap();
    eventually(SOON, "all is written", async || written.exists().then_some(())).await;
    fleet.redis.sigcont();
    std::fs::write(&end, "").unwrap();
    let job = fleet.ends("w", State::Succeeded, None).await;
    let all = format!("start\n{}the end\n", numbers(800_000));
    assert_eq!(job.result.output_bytes, all.len() as u64);
    let (mut kept, mut last) = (0, 0);
    for event in fleet.events("w").await {
        if let Event::Output { offset, text, .. } = event {
            let at = usize::try_from(offset).unwrap();
            assert_eq!(&all[at..at + text.len()], text);
            assert!(at >= last, "in order, nothing twice");
            assert!(at < 256 << 10 || last != 0);
            (kept, last) = (kept + text.len(), at + text.len());
        }
    }
    assert_eq!(last, all.len());
    assert!(kept < all.len(), "the middle is given up");
    assert_eq!((all.len() - kept) as u64, job.result.output_dropped);
    assert!(fleet.output("w", Stdout).await.starts_with(&all[..256 << 10]), "the head is whole");
    fleet.is_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_the_store_forgot_registers_again() {
    let fleet = Fleet::new().await;
    let _worker = fleet.work(fleet.settings("w-0")).await;
    fleet.push(&sh("before", "true"));
    fleet.ends("before", State::Succeeded, None).await;
    fleet.redis.ask::<String>(&["FLUSHALL"]);
    fleet.push(&sh("after", "true"));
    fleet.ends("after", State::Succeeded, None).await;
    assert_eq!(fleet.store.workers().await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_no_slot_runs_is_handed_back() {
    let fleet = Fleet::new().await;
    let _worker = fleet.work(fleet.settings("w-0")).await;
    let worker = eventually(SOON, "the worker is known", async || {
        Some(fleet.store.workers().await.unwrap().first()?.id.clone())
    })
    .await;
    fleet.store.control(&Control::Pause { by: "test".into() }).await.unwrap();
    fleet.push(&sh("orphan", "true"));
    // The worker sees that the fleet is paused, and waits for a transition. What it never sees is
    // this claim in its name.
    fleet.store.control(&Control::Resume).await.unwrap();
    let claim = Exchange {
        worker: worker.clone(),
        ordinal: Some(0),
        call: 1_000_000,
        want: 1,
        has_yielded: true,
        finished: Vec::new(),
    };
    let claimed = fleet.store.exchange(&claim).await.unwrap().claimed;
    if claimed.is_empty() {
        // The worker was faster.
        fleet.ends("orphan", State::Succeeded, None).await;
        return;
    }
    let job = fleet.until("orphan", "is handed back", |job| job.state == State::Queued).await;
    assert_eq!((job.fault, job.counters.charged), (Some(Fault::Interrupted), 0));
    fleet.is_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_fleet_claims_nothing_and_goes_on_at_once() {
    let fleet = Fleet::new().await;
    fleet.store.control(&Control::Pause { by: "ann".into() }).await.unwrap();
    let _worker = fleet.work(fleet.settings("w-0")).await;
    fleet.push(&sh("held", "true"));
    // Two heartbeats of a worker that had every reason to ask.
    for _ in 0..2 {
        eventually(SOON, "a heartbeat", async || {
            let workers = fleet.store.workers().await.unwrap();
            (workers.first()?.silent_ms < 50).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert_eq!(fleet.redis.ask::<u64>(&["LLEN", crate::fleet::QUEUE]), 1);
    let since = std::time::Instant::now();
    fleet.store.control(&Control::Resume).await.unwrap();
    fleet.ends("held", State::Succeeded, None).await;
    assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
    fleet.is_sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_job_runs_when_it_is_due() {
    let fleet = Fleet::new().await;
    let _worker = fleet.work(fleet.settings("w-0")).await;
    let since = std::time::Instant::now();
    fleet.push(&json!({"id": "due", "command": ["true"], "delay_ms": 1500}));
    fleet.ends("due", State::Succeeded, None).await;
    let after = since.elapsed();
    assert!(after > Duration::from_millis(1500) && after < Duration::from_secs(4), "{after:?}");
}
