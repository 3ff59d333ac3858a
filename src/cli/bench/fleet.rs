//! How long an idle fleet takes to notice a job.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::sync::mpsc;

use super::queue::{Hand, noop};
use super::{Figure, Server, Target, samples};
use crate::store::Wake;
use crate::store::redis::Role;

/// From the call that enqueues to the answer that hands the job to a worker, `workers` waiting.
pub(super) async fn wake_up(server: &Server, workers: u32) -> Result<Figure> {
    let queue = format!("bench:idle-{workers}");
    let (claimed, mut claims) = mpsc::unbounded_channel::<Instant>();
    let mut tasks = tokio::task::JoinSet::new();
    for ordinal in 0..workers {
        let mut hand = Hand::new(server, &queue, ordinal, 1).await?;
        let claimed = claimed.clone();
        tasks.spawn(async move {
            loop {
                hand.store().wake(&Wake::Work, Duration::from_secs(30)).await?;
                let jobs = hand.exchange(&[], 1).await?;
                if !jobs.is_empty() {
                    if claimed.send(Instant::now()).is_err() {
                        return anyhow::Ok(());
                    }
                    hand.exchange(&jobs, 0).await?;
                }
            }
        });
    }
    let producer = server.store(&queue, Role::Engine).await?;
    let before = server.ping().await?;
    let mut taken = Vec::new();
    for _ in 0..200 {
        all_wait(server, workers).await?;
        let one = samples(1, async |_| {
            producer.submit(&[noop()]).await?;
            match claims.recv().await {
                Some(_) => Ok(()),
                None => bail!("all workers are gone"),
            }
        });
        taken.extend(one.await?);
    }
    tasks.shutdown().await;
    let ping = (server.ping().await? + before) / 2;
    let target = Target::PingsAtMost(if workers == 1 { 30.0 } else { 150.0 });
    let target = if workers == 10 { Target::None } else { target };
    Ok(Figure::of_samples(
        format!("enqueue to claimed, {workers} idle workers"),
        taken,
        ping,
        target,
    ))
}

/// Waits until every worker is blocked on the queue again.
async fn all_wait(server: &Server, workers: u32) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while server.info("blocked_clients").await? < f64::from(workers) {
        if Instant::now() > deadline {
            bail!("the workers do not come to rest");
        }
        tokio::task::yield_now().await;
    }
    Ok(())
}
