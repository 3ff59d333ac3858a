//! The queue without processes: enqueue, finish + claim, memory, server CPU.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};

use super::{Figure, Server, Target, samples};
use crate::core::retry::Count;
use crate::core::{AttemptResult, JobSpec, Next, State, WorkerId};
use crate::store::redis::Role;
use crate::store::{Claimed, Exchange, Finish, Finished, NewJob, Store, WorkerRecord};

pub(super) fn noop() -> NewJob {
    NewJob::new(JobSpec { command: vec!["true".into()], ..JobSpec::default() })
}

pub(super) fn noops(count: usize) -> Vec<NewJob> {
    (0..count).map(|_| noop()).collect()
}

/// A worker that only speaks to the store.
pub(super) struct Hand {
    store: Arc<dyn Store>,
    record: WorkerRecord,
    call: u64,
}

impl Hand {
    pub(super) async fn new(
        server: &Server,
        queue: &str,
        ordinal: u32,
        slots: u32,
    ) -> Result<Self> {
        let store = server.store(queue, Role::Engine).await?;
        let record = WorkerRecord {
            id: WorkerId::boot(&format!("bench-{ordinal}")),
            ordinal: Some(ordinal),
            exclusive: true,
            slots,
            running: 0,
            draining: false,
            quarantine: None,
            version: env!("CARGO_PKG_VERSION").into(),
            host: "bench".into(),
            pid: std::process::id(),
            pid_started: 0,
            started_at_ms: 0,
            silent_ms: 0,
            is_lost: false,
        };
        store.register(&record, &[]).await?;
        Ok(Self { store, record, call: 0 })
    }

    pub(super) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Ends `done` and claims up to `want`.
    pub(super) async fn exchange(&mut self, done: &[Claimed], want: u32) -> Result<Vec<Claimed>> {
        self.call += 1;
        let exchange = Exchange {
            worker: self.record.id.clone(),
            ordinal: self.record.ordinal,
            call: self.call,
            want,
            has_yielded: true,
            finished: done.iter().map(success).collect(),
        };
        let answer = self.store.exchange(&exchange).await?;
        ensure!(
            answer.finished.iter().all(|one| *one == Finished::Accepted),
            "a finish was refused"
        );
        Ok(answer.claimed)
    }

    /// Runs jobs, `slots` at a time, until the queue is empty. Answers how many.
    pub(super) async fn work_off(&mut self) -> Result<usize> {
        let mut held = Vec::new();
        let mut count = 0;
        loop {
            held = self.exchange(&held, self.record.slots).await?;
            if held.is_empty() {
                return Ok(count);
            }
            count += held.len();
        }
    }
}

fn success(claimed: &Claimed) -> Finish {
    Finish {
        token: claimed.token.clone(),
        next: Next::End { state: State::Succeeded, count: Count::Nothing },
        fault: None,
        result: AttemptResult { exit_code: Some(0), ..AttemptResult::default() },
    }
}

pub(super) async fn measure(server: &Server) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let ping = server.ping().await?;
    figures.push(Figure::of_samples("PING round trip", vec![ping], ping, Target::None));

    let hand = Hand::new(server, "bench:enqueue", 0, 1).await?;
    let jobs = noops(2000);
    let one_by_one = samples(jobs.len(), async |n| {
        hand.store().submit(&jobs[n..=n]).await?;
        Ok(())
    });
    let one_by_one = one_by_one.await?;
    let ping = (server.ping().await? + ping) / 2;
    figures.push(Figure::of_samples("enqueue, one by one", one_by_one, ping, Target::None));
    figures.push(pipelined(&hand).await?);
    let jobs = noops(20_000);
    let start = Instant::now();
    hand.store().submit(&jobs).await?;
    figures.push(Figure::new("enqueue, batched", "jobs/s", rate(jobs.len(), start), Target::None));
    server.flush().await?;

    for slots in [1, 10, 50] {
        figures.push(cycle(server, slots).await?);
        server.flush().await?;
    }
    figures.extend(throughput(server).await?);
    server.flush().await?;
    figures.push(memory(server).await?);
    server.flush().await?;
    Ok(figures)
}

fn rate(count: usize, since: Instant) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts are small")]
    let count = count as f64;
    count / since.elapsed().as_secs_f64()
}

/// Fifty submissions under way at a time on one connection.
async fn pipelined(hand: &Hand) -> Result<Figure> {
    let jobs = Arc::new(noops(20_000));
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for lane in 0..50 {
        let (store, jobs) = (Arc::clone(hand.store()), Arc::clone(&jobs));
        tasks.spawn(async move {
            for job in jobs.iter().skip(lane).step_by(50) {
                store.submit(std::slice::from_ref(job)).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(Figure::new("enqueue, pipelined", "jobs/s", rate(jobs.len(), start), Target::None))
}

/// Finish + claim in one round trip, `slots` jobs in each.
async fn cycle(server: &Server, slots: u32) -> Result<Figure> {
    let mut hand = Hand::new(server, "bench:cycle", 0, slots).await?;
    let rounds = 3000 / slots as usize + 200;
    hand.store().submit(&noops((rounds + 1) * slots as usize)).await?;
    let before = server.ping().await?;
    let mut held = hand.exchange(&[], slots).await?;
    let taken = samples(rounds, async |_| {
        held = hand.exchange(&held, slots).await?;
        ensure!(held.len() == slots as usize, "the queue ran dry");
        Ok(())
    })
    .await?;
    let ping = (server.ping().await? + before) / 2;
    let target = if slots == 1 { Target::PingsAtMost(5.0) } else { Target::None };
    Ok(Figure::of_samples(format!("finish + claim, {slots} slots"), taken, ping, target))
}

/// Everything at once: one producer, four workers, until all have ended; and what it cost the server.
async fn throughput(server: &Server) -> Result<Vec<Figure>> {
    const JOBS: usize = 40_000;
    let cpu = server.cpu_seconds().await?;
    let producer = server.store("bench:throughput", Role::Engine).await?;
    let jobs = noops(JOBS);
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for ordinal in 0..4 {
        let mut hand = Hand::new(server, "bench:throughput", ordinal, 10).await?;
        tasks.spawn(async move {
            let mut count = 0;
            // The queue may be empty for a moment while the producer is busy.
            while hand.store().stats().await?.totals.get("succeeded").copied().unwrap_or_default()
                < JOBS as u64
            {
                count += hand.work_off().await?;
            }
            anyhow::Ok(count)
        });
    }
    for batch in jobs.chunks(500) {
        producer.submit(batch).await?;
    }
    let mut done = 0;
    while let Some(ended) = tasks.join_next().await {
        done += ended??;
    }
    let per_second = rate(JOBS, start);
    ensure!(done == JOBS, "{done} of {JOBS} jobs were run");
    #[expect(clippy::cast_precision_loss, reason = "a small count")]
    let cpu_us = (server.cpu_seconds().await? - cpu) * 1e6 / JOBS as f64;
    Ok(vec![
        Figure::new(
            "no-op jobs through one Redis, 4 workers of 10 slots",
            "jobs/s",
            per_second,
            Target::AtLeast(10_000.0),
        ),
        Figure::new("Redis CPU, enqueue to end", "µs/job", cpu_us, Target::None),
    ])
}

/// What a queued job takes in the server's memory beyond its own bytes.
async fn memory(server: &Server) -> Result<Figure> {
    const JOBS: usize = 100_000;
    let hand = Hand::new(server, "bench:memory", 0, 1).await?;
    let before = server.info("used_memory").await?;
    let jobs = noops(JOBS);
    let payload: usize = jobs.iter().map(|job| job.bytes.len()).sum();
    hand.store().submit(&jobs).await?;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let each = (server.info("used_memory").await? - before - payload as f64) / JOBS as f64;
    Ok(Figure::new("memory of a queued job beyond its bytes", "bytes", each, Target::AtMost(600.0)))
}
