//! Whole jobs: real workers, a process for each job, and the commands as people call them.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::queue::{Hand, noops};
use super::{Figure, Server, Target, samples};
use crate::core::{Event, JobId, JobSpec, State};
use crate::store::redis::Role;
use crate::store::{Control, Log, NewJob, Store};

/// A worker process. Killed when dropped.
struct Worker(Child);

impl Worker {
    fn start(server: &Server, queue: &str, name: &str, slots: u32) -> Result<Self> {
        let child = sortie()?
            .arg("worker")
            .args(["--redis", &server.url(), "--queue", queue, "--name", name])
            .args(["--slots", &slots.to_string()])
            .arg("--worktrees")
            .arg(server.directory().join(format!("worktrees-{name}")))
            .arg("--shared")
            .arg(server.directory().join("shared"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start a worker")?;
        Ok(Self(child))
    }

    /// User and system CPU time of the process itself, and of what it has started: children that
    /// it, or one of them, has waited for, and children that live.
    fn cpu(&self) -> Result<(Duration, Duration)> {
        let (_, own, mut children) = cpu(self.0.id())?;
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // Whoever is gone by now is no child of ours.
            if let Ok((parent, of_child, of_theirs)) = cpu(pid)
                && parent == u64::from(self.0.id())
            {
                children += of_child + of_theirs;
            }
        }
        Ok((own, children))
    }

    fn kill(&mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It may be gone already.
        drop(self.kill());
    }
}

/// Of one process: its parent, and the CPU time of itself and of children it has waited for.
fn cpu(pid: u32) -> Result<(u64, Duration, Duration)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<u64> = stat
        .rsplit_once(')')
        .context("a strange /proc/…/stat")?
        .1
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse::<i64>().ok())
        .map(|ticks| u64::try_from(ticks).unwrap_or_default())
        .collect();
    // Fields 14 to 17 of proc(5), in ticks of 10 ms; the first here is field 4, the parent.
    let ticks = |first: usize| Duration::from_millis(10 * (fields[first - 4] + fields[first - 3]));
    Ok((fields[0], ticks(14), ticks(16)))
}

fn sortie() -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env("NO_COLOR", "1");
    Ok(command)
}

async fn until(
    what: &str,
    limit: Duration,
    mut condition: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !condition().await? {
        if Instant::now() > deadline {
            bail!("not within {} s: {what}", limit.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

async fn ready(store: &Arc<dyn Store>, workers: usize) -> Result<()> {
    let there = async || Ok(store.workers().await?.len() >= workers);
    until("the worker is registered", Duration::from_secs(20), there).await
}

/// 200 jobs, each a process, through one worker.
pub(super) async fn whole_path(server: &Server) -> Result<Vec<Figure>> {
    const JOBS: u32 = 200;
    let mut figures = Vec::new();
    for (slots, least) in [(3, 500.0), (10, 800.0)] {
        let queue = format!("bench:path-{slots}");
        let store = server.store(&queue, Role::Engine).await?;
        let start = Instant::now();
        let worker = Worker::start(server, &queue, "bench-0", slots)?;
        ready(&store, 1).await?;
        if slots == 3 {
            let ms = start.elapsed().as_secs_f64() * 1e3;
            figures.push(Figure::new("worker, start to ready", "ms", ms, Target::AtMost(20.0)));
        }
        store.control(&Control::Pause { by: "bench".into() }).await?;
        store.submit(&noops(JOBS as usize)).await?;
        let (cpu, children) = worker.cpu()?;
        store.control(&Control::Resume).await?;
        let start = Instant::now();
        let all = async || {
            let stats = store.stats().await?;
            Ok(stats.totals.get("succeeded").copied().unwrap_or_default() >= u64::from(JOBS))
        };
        until("200 jobs have succeeded", Duration::from_mins(1), all).await?;
        let per_second = f64::from(JOBS) / start.elapsed().as_secs_f64();
        figures.push(Figure::new(
            format!("a process for each job, {slots} slots"),
            "jobs/s",
            per_second,
            Target::AtLeast(least),
        ));
        let (cpu_after, children_after) = worker.cpu()?;
        let each = |time: Duration| time.as_secs_f64() * 1e3 / f64::from(JOBS);
        let ours = each(cpu_after.saturating_sub(cpu))
            + each(children_after.saturating_sub(children))
            - bare_cpu_ms()?;
        figures.push(Figure::new(
            format!("CPU of worker and supervisor, {slots} slots"),
            "ms/job",
            ours,
            Target::AtMost(3.0),
        ));
    }
    Ok(figures)
}

/// CPU of one `true` by itself, in milliseconds.
fn bare_cpu_ms() -> Result<f64> {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeValLike;
    let children = || -> Result<i64> {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
        Ok(usage.user_time().num_microseconds() + usage.system_time().num_microseconds())
    };
    let before = children()?;
    for _ in 0..100 {
        Command::new("true").status()?;
    }
    #[expect(clippy::cast_precision_loss, reason = "a small number of microseconds")]
    let micros = (children()? - before) as f64;
    Ok(micros / 1e3 / 100.0)
}

/// The commands as people call them.
pub(super) async fn commands(server: &Server) -> Result<Vec<Figure>> {
    let ping = server.ping().await?;
    let run = |command: &mut Command| -> Result<()> {
        let status =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        ensure!(status.success(), "{command:?} ended with {status}");
        Ok(())
    };
    let median = |mut taken: Vec<Duration>| {
        taken.sort_unstable();
        taken[taken.len() / 2]
    };
    let bare = median(samples(30, async |_| run(&mut Command::new("true"))).await?);
    let version = samples(30, async |_| run(sortie()?.arg("version"))).await?;
    let mut figures =
        vec![Figure::of_samples("sortie version", version, ping, Target::AtMost(10_000.0))];

    let queue = "bench:wait";
    let worker = Worker::start(server, queue, "bench-0", 3)?;
    ready(&server.store(queue, Role::Engine).await?, 1).await?;
    let url = server.url();
    let waited = samples(30, async |_| {
        run(sortie()?
            .args(["submit", "--redis", &url, "--queue", queue, "--wait", "--quiet", "--", "true"]))
    });
    let beyond: Vec<_> =
        waited.await?.into_iter().map(|taken| taken.saturating_sub(bare)).collect();
    figures.push(Figure::of_samples(
        "sortie submit --wait of a no-op, beyond the process itself",
        beyond,
        ping,
        Target::AtMost(10_000.0),
    ));
    drop(worker);

    let queue = "bench:history";
    let mut hand = Hand::new(server, queue, 0, 100).await?;
    for _ in 0..20 {
        hand.store().submit(&noops(5_000)).await?;
        hand.work_off().await?;
    }
    let listed =
        samples(10, async |_| run(sortie()?.args(["jobs", "--redis", &url, "--queue", queue])))
            .await?;
    figures.push(Figure::of_samples(
        "sortie jobs, 100,000 ended jobs",
        listed,
        ping,
        Target::AtMost(100_000.0),
    ));
    server.flush().await?;
    Ok(figures)
}

/// A worker without work.
pub(super) async fn idle(server: &Server) -> Result<Vec<Figure>> {
    const SECONDS: u32 = 20;
    let queue = "bench:still";
    let worker = Worker::start(server, queue, "bench-0", 3)?;
    ready(&server.store(queue, Role::Engine).await?, 1).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (before, cpu) = (server.client_commands().await?, worker.cpu()?.0);
    tokio::time::sleep(Duration::from_secs(u64::from(SECONDS))).await;
    let (after, cpu_after) = (server.client_commands().await?, worker.cpu()?.0);
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.0.id()))?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let rss: f64 = rss.trim().trim_end_matches(" kB").trim().parse()?;
    let cpu_percent = (cpu_after.saturating_sub(cpu)).as_secs_f64() * 100.0 / f64::from(SECONDS);
    Ok(vec![
        Figure::new(
            "idle worker, commands sent",
            "1/s",
            (after - before) / f64::from(SECONDS),
            Target::AtMost(1.0),
        ),
        Figure::new("idle worker, memory", "MB", rss / 1000.0, Target::AtMost(15.0)),
        Figure::new("idle worker, CPU", "% of a core", cpu_percent, Target::AtMost(0.3)),
    ])
}

/// From `kill -9` of a worker until its job runs again.
pub(super) async fn recovery(server: &Server) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (name, other_pod, target) in [
        ("kill -9 to running again, same pod restarted", false, 2.0),
        ("kill -9 to running again, other pod (lease 30 s)", true, 35.0),
    ] {
        let queue = format!("bench:recovery-{other_pod}");
        let store = server.store(&queue, Role::Engine).await?;
        let mut first = Worker::start(server, &queue, "bench-0", 1)?;
        ready(&store, 1).await?;
        let job = NewJob::new(JobSpec {
            command: vec!["sleep".into(), "600".into()],
            ..JobSpec::default()
        });
        store.submit(std::slice::from_ref(&job)).await?;
        let mut seen = "0".to_owned();
        running(&store, &job.id, 1, &mut seen).await?;
        let second = if other_pod {
            let second = Worker::start(server, &queue, "bench-1", 1)?;
            ready(&store, 2).await?;
            Some(second)
        } else {
            None
        };
        let start = Instant::now();
        first.kill()?;
        let _again = match second {
            Some(second) => second,
            None => Worker::start(server, &queue, "bench-0", 1)?,
        };
        running(&store, &job.id, 2, &mut seen).await?;
        figures.push(Figure::new(name, "s", start.elapsed().as_secs_f64(), Target::AtMost(target)));
    }
    Ok(figures)
}

/// Waits until attempt `attempt` of the job runs.
async fn running(
    store: &Arc<dyn Store>,
    id: &JobId,
    attempt: u32,
    seen: &mut String,
) -> Result<()> {
    let deadline = Instant::now() + Duration::from_mins(1);
    while Instant::now() < deadline {
        for entry in
            store.read(&Log::Job(id.clone()), seen, 100, Some(Duration::from_secs(1))).await?
        {
            *seen = entry.id;
            if matches!(entry.event, Event::State { state: State::Running, attempt: of, .. } if of >= attempt)
            {
                return Ok(());
            }
        }
    }
    bail!("attempt {attempt} of the job did not start");
}
