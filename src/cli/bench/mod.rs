//! `sortie bench`: what this build costs on this machine, against the machine's own Redis round trip.
//!
//! Machines are noisy, so a figure is told as a ratio to the `PING`s measured around it in the same
//! run. Everything runs against a private redis-server on a unix socket.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

mod fleet;
mod processes;
mod queue;
mod server;

pub use server::Server;

/// Everything measured in one run.
#[derive(Debug, Serialize)]
pub struct Report {
    #[serde(rename = "apiVersion")]
    pub api_version: &'static str,
    pub version: &'static str,
    pub redis: String,
    pub cores: usize,
    pub figures: Vec<Figure>,
}

/// One figure.
#[derive(Debug, Serialize)]
pub struct Figure {
    pub name: String,
    pub unit: &'static str,
    /// The median, where there are several samples.
    pub value: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99: Option<f64>,
    /// `value` in round trips of a PING measured around it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pings: Option<f64>,
    /// What is to be reached, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_reached: Option<bool>,
}

/// What a figure should be, in the unit of the figure, or in PINGs.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    AtMost(f64),
    AtLeast(f64),
    PingsAtMost(f64),
    None,
}

impl Figure {
    fn new(name: impl Into<String>, unit: &'static str, value: f64, target: Target) -> Self {
        Self {
            name: name.into(),
            unit,
            value,
            p99: None,
            pings: None,
            target: None,
            is_reached: None,
        }
        .judged(target)
    }

    /// A figure from single samples, beside the PINGs taken with them.
    fn of_samples(
        name: impl Into<String>,
        mut samples: Vec<Duration>,
        ping: Duration,
        target: Target,
    ) -> Self {
        samples.sort_unstable();
        let micros =
            |at: usize| samples.get(at).map_or(f64::NAN, |sample| sample.as_secs_f64() * 1e6);
        let value = micros(samples.len() / 2);
        let figure = Self {
            name: name.into(),
            unit: "µs",
            value,
            p99: Some(micros(samples.len() * 99 / 100)),
            pings: Some(value / (ping.as_secs_f64() * 1e6)),
            target: None,
            is_reached: None,
        };
        figure.judged(target)
    }

    fn judged(mut self, target: Target) -> Self {
        (self.target, self.is_reached) = match target {
            Target::AtMost(most) => {
                (Some(format!("≤ {most} {}", self.unit)), Some(self.value <= most))
            }
            Target::AtLeast(least) => {
                (Some(format!("≥ {least} {}", self.unit)), Some(self.value >= least))
            }
            Target::PingsAtMost(most) => {
                (Some(format!("≤ {most} PING")), self.pings.map(|pings| pings <= most))
            }
            Target::None => (None, None),
        };
        self
    }
}

/// Which parts to run; all when none is named.
pub const PARTS: [&str; 5] = ["queue", "fleet", "path", "idle", "recovery"];

/// Runs the parts and tells `progress` what it is doing.
pub async fn run(parts: &[String], mut progress: impl FnMut(&str)) -> Result<Report> {
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|name| name == part);
    let mut figures = Vec::new();
    let server = Server::start().await?;
    if wanted("queue") {
        progress("queue: enqueue, finish + claim, memory");
        figures.extend(queue::measure(&server).await.context("measuring the queue")?);
    }
    if wanted("fleet") {
        progress("fleet: from enqueue to claim with 1, 10 and 50 idle workers");
        for workers in [1, 10, 50] {
            figures
                .push(fleet::wake_up(&server, workers).await.context("measuring an idle fleet")?);
        }
    }
    if wanted("path") {
        progress("path: a process for each job; the commands");
        figures.extend(processes::whole_path(&server).await.context("measuring whole jobs")?);
        figures.extend(processes::commands(&server).await.context("measuring the commands")?);
    }
    if wanted("idle") {
        progress("idle: one worker without work for 20 s");
        figures.extend(processes::idle(&server).await.context("measuring an idle worker")?);
    }
    if wanted("recovery") {
        progress("recovery: kill -9 of a worker, same pod and other pod (up to 40 s)");
        figures.extend(processes::recovery(&server).await.context("measuring recovery")?);
    }
    Ok(Report {
        api_version: "sortie/v1",
        version: env!("CARGO_PKG_VERSION"),
        redis: server.version().await?,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        figures,
    })
}

/// Takes `count` samples of an action.
async fn samples(
    count: usize,
    mut action: impl AsyncFnMut(usize) -> Result<()>,
) -> Result<Vec<Duration>> {
    let mut samples = Vec::with_capacity(count);
    for n in 0..count {
        let start = Instant::now();
        action(n).await?;
        samples.push(start.elapsed());
    }
    Ok(samples)
}
