//! One attempt, top to bottom: plan, workspace, process, publish, end.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep_until, timeout};
use tracing::{Instrument, error, info, info_span};

use super::Context;
use super::claim::Done;
use super::lease::{Order, Orders};
use super::output::Log;
use super::plan::{self, Plan};
use super::publish;
use super::workspace::{self, Problem, Workspace};
use crate::core::retry::Count;
use crate::core::{AttemptResult, Fault, JobSpec, Next, RetryPolicy, State};
use crate::exec::{self, Exit, Request, Running};
use crate::git::RepoUrl;
use crate::store::{Claimed, Finish, Token};

/// A process that was frozen for so long (its lease ran out and the store was away) is given up.
const FROZEN_MAX: Duration = Duration::from_mins(30);
/// Longest wait for the log at an attempt's end.
const LOG_WAIT: Duration = Duration::from_secs(5);
/// Longest wait for output that is still in the pipes when everything has exited.
const PIPE_WAIT: Duration = Duration::from_secs(5);

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum End {
    Succeeded,
    /// The job may not run at all.
    Rejected {
        fault: Option<Fault>,
        message: String,
    },
    /// A fault whose class decides what is next.
    Fault {
        fault: Fault,
        message: String,
    },
    /// A fault that another attempt would only repeat.
    Hopeless {
        fault: Fault,
        message: String,
    },
    /// Another attempt is the current one: nothing is written.
    Forgotten,
}

/// Why we stopped a process.
#[derive(Clone, Debug)]
pub(super) enum Stop {
    Timeout,
    Frozen,
    Ordered(Order),
}

/// Runs a claimed job and reports its end, whatever happens.
pub(super) async fn run(cx: Arc<Context>, claimed: Claimed, mut orders: watch::Receiver<Orders>) {
    let (token, attempt) = (claimed.token.clone(), claimed.counters.attempt);
    let span = info_span!("job", job.id = %token.id, job.attempt = attempt);
    let mut retry = cx.settings.retry;
    let mut result = AttemptResult::default();
    let work = attempt_job(&cx, &claimed, &mut orders, &mut retry, &mut result);
    let ended = AssertUnwindSafe(work).catch_unwind().instrument(span.clone()).await;
    let end = ended.unwrap_or_else(|_| {
        let message = "internal error: the slot panicked; the worker's log has more".to_owned();
        End::Fault { fault: Fault::Spawn, message }
    });
    cx.running.fetch_sub(1, Ordering::SeqCst);
    let _entered = span.entered();
    match conclude(&cx, &claimed, end, &retry, result) {
        Some(finish) => {
            let saved_in = saved_in(&claimed, &finish);
            cx.send(Done::Finish(Box::new(finish), saved_in));
        }
        None => cx.send(Done::Forgotten(token)),
    }
}

/// The repository in which earlier attempts may have saved what is of no use after this end.
fn saved_in(claimed: &Claimed, finish: &Finish) -> Option<RepoUrl> {
    let is_over = matches!(finish.next, Next::End { state: State::Succeeded, .. });
    if !is_over || claimed.counters.attempt < 2 {
        return None;
    }
    let spec = JobSpec::from_json(&claimed.bytes).ok()?;
    RepoUrl::parse(spec.repo.as_deref()?).ok()
}

/// From an attempt's end to what the store is told. `None`: nothing, it is not ours any more.
fn conclude(
    cx: &Context,
    claimed: &Claimed,
    end: End,
    retry: &RetryPolicy,
    mut result: AttemptResult,
) -> Option<Finish> {
    let (next, fault, message) = match end {
        End::Forgotten => {
            info!("stopped: another attempt is the current one");
            return None;
        }
        End::Succeeded => {
            (Next::End { state: State::Succeeded, count: Count::Nothing }, None, None)
        }
        End::Rejected { fault, message } => {
            (Next::End { state: State::Rejected, count: Count::Nothing }, fault, Some(message))
        }
        End::Hopeless { fault, message } => {
            let next = Next::End { state: State::Failed, count: Count::Charged };
            (next, Some(fault), Some(message))
        }
        End::Fault { fault, message } => {
            if fault.is_infrastructure() {
                cx.quarantine.fault(tokio::time::Instant::now(), &message);
            }
            let next = retry.decide(fault, &claimed.counters, fastrand::f64());
            (next, Some(fault), Some(message))
        }
    };
    info!(fault = fault.map(Fault::as_str), message, ?next, "attempt ended");
    result.message = message;
    if fault.is_some() && result.checkpoint.is_none() {
        // An attempt that did not get as far as saving anything does not undo what was saved.
        result.checkpoint = claimed.previous.as_ref().and_then(|last| last.checkpoint.clone());
    }
    Some(Finish { token: claimed.token.clone(), next, fault, result })
}

/// What hands an attempt back that was not begun.
pub(super) fn hand_back(token: Token) -> Box<Finish> {
    let next = Next::Again {
        state: State::Queued,
        delay: Duration::ZERO,
        head: true,
        count: Count::Nothing,
    };
    let result = AttemptResult::default();
    Box::new(Finish { token, next, fault: Some(Fault::Interrupted), result })
}

async fn attempt_job(
    cx: &Context,
    claimed: &Claimed,
    orders: &mut watch::Receiver<Orders>,
    retry: &mut RetryPolicy,
    result: &mut AttemptResult,
) -> End {
    if let Some(order) = orders.borrow().stop.clone() {
        return ended_by(Stop::Ordered(order), Duration::ZERO);
    }
    let spec = match JobSpec::from_json(&claimed.bytes) {
        Ok(spec) => spec,
        Err(problem) => return End::Rejected { fault: None, message: problem.to_string() },
    };
    let plan = match plan::make(&cx.settings, &spec) {
        Ok(plan) => plan,
        Err(message) => return End::Rejected { fault: Some(Fault::Policy), message },
    };
    *retry = plan.retry;
    let mut log = Log::new(Arc::clone(&cx.store), claimed.token.clone(), claimed.counters.attempt);
    let end = attempt_plan(cx, claimed, &spec, &plan, orders, &mut log, result).await;
    if !matches!(end, End::Forgotten) {
        log.finish(LOG_WAIT).await;
    }
    result.output_bytes = log.written();
    result.output_dropped = log.dropped();
    end
}

async fn attempt_plan(
    cx: &Context,
    claimed: &Claimed,
    spec: &JobSpec,
    plan: &Plan,
    orders: &mut watch::Receiver<Orders>,
    log: &mut Log,
    result: &mut AttemptResult,
) -> End {
    let mut phase = Phase::start();
    let workspace = match Workspace::create(cx, claimed, spec) {
        Ok(workspace) => workspace,
        Err(error) => {
            let message = format!(
                "cannot make a directory for the job in {}: {error}",
                cx.settings.worktrees.display()
            );
            return End::Fault { fault: Fault::Workspace, message };
        }
    };
    let checkout = match &spec.repo {
        None => None,
        Some(repo) => {
            let dir = &workspace.cwd;
            match workspace::check_out(cx, claimed, spec, repo, dir, orders, log).await {
                Ok(checkout) => Some(checkout),
                Err(problem) => return no_workspace(problem, plan.timeout),
            }
        }
    };
    result.base_sha = checkout.as_ref().map(|checkout| checkout.base.clone());
    phase.ends("prepare", result);

    let prompt = workspace.prompt.as_deref();
    let request = Request {
        argv: plan.argv.clone(),
        env: plan::environment(&plan.env, spec, claimed, &workspace.dir, prompt),
        cwd: workspace.cwd.clone(),
        stdin: workspace.prompt.clone(),
        dir: workspace.dir.clone(),
        grace: cx.settings.grace,
        lease_until: orders.borrow().lease_until,
    };
    let running = match exec::local::start(request).await {
        Ok(running) => running,
        Err(error @ exec::Error::ArgumentTooLarge { .. }) => {
            return End::Hopeless { fault: Fault::AgentExit, message: error.to_string() };
        }
        Err(error) => return End::Fault { fault: Fault::Spawn, message: error.to_string() },
    };
    let (exit, stop) = supervise(running, orders, log, plan.timeout).await;
    if exit.not_started.is_none() {
        // However it ended, and whoever ended it: the surroundings let it run.
        cx.quarantine.success();
    }
    result.exit_code = exit.code;
    result.signal = exit.signal;
    phase.ends("run", result);
    let end = match stop {
        Some(stop) => ended_by(stop, plan.timeout),
        None => exited(&exit),
    };

    let Some(checkout) = checkout else { return end };
    let end = match end {
        End::Succeeded => publish::publish(cx, claimed, spec, &checkout, orders, result).await,
        other => other,
    };
    publish::keep(cx, claimed, &checkout, &end, result).await;
    phase.ends("publish", result);
    end
}

fn no_workspace(problem: Problem, timeout: Duration) -> End {
    match problem {
        Problem::Job(message) => End::Hopeless { fault: Fault::Workspace, message },
        Problem::Surroundings(message) => End::Fault { fault: Fault::Workspace, message },
        Problem::Ordered(order) => ended_by(Stop::Ordered(order), timeout),
    }
}

/// Sees the process through to its end, and ends it if it must.
async fn supervise(
    mut running: Running,
    orders: &mut watch::Receiver<Orders>,
    log: &mut Log,
    limit: Duration,
) -> (Exit, Option<Stop>) {
    // Apart from `running`, so that both can be waited for.
    let mut output = std::mem::replace(&mut running.output, mpsc::channel(1).1);
    let mut stop: Option<Stop> = None;
    let mut lease_until = orders.borrow().lease_until;
    // A heartbeat may have renewed it while the supervisor was started.
    running.extend(lease_until);
    // An order may have come while nobody looked.
    orders.mark_changed();
    let mut deadline = Instant::now() + limit;
    let mut is_open = true;
    let exit = loop {
        let give_up = lease_until + FROZEN_MAX;
        // A frozen process does not use up its time.
        let is_frozen = lease_until <= Instant::now();
        let alarm = if is_frozen { give_up } else { deadline.min(give_up) };
        // Of these only `turn` changes anything outside, and it goes on where it was dropped.
        tokio::select! {
            exit = running.exit() => break exit,
            chunk = output.recv(), if is_open => match chunk {
                Some(chunk) => log.write(chunk.stream, &chunk.bytes),
                None => is_open = false,
            },
            () = log.turn() => {}
            Ok(()) = orders.changed() => {
                let now = orders.borrow_and_update().clone();
                if now.lease_until > lease_until {
                    running.extend(now.lease_until);
                    deadline += Instant::now().saturating_duration_since(lease_until);
                    lease_until = now.lease_until;
                }
                match now.stop {
                    Some(Order::Lost) => running.kill(),
                    Some(_) if stop.is_none() => running.stop(),
                    _ => {}
                }
                stop = now.stop.map(Stop::Ordered).or(stop);
            }
            () = sleep_until(alarm.into()), if stop.is_none() => {
                if Instant::now() >= give_up {
                    running.kill();
                    stop = Some(Stop::Frozen);
                } else if Instant::now() < lease_until {
                    running.stop();
                    stop = Some(Stop::Timeout);
                }
            }
        }
    };
    let rest = async {
        while let Some(chunk) = output.recv().await {
            log.write(chunk.stream, &chunk.bytes);
        }
    };
    if timeout(PIPE_WAIT, rest).await.is_err() {
        error!("output did not end with the processes that wrote it");
    }
    (exit, stop)
}

pub(super) fn ended_by(stop: Stop, limit: Duration) -> End {
    let (fault, message) = match stop {
        Stop::Timeout => (Fault::Timeout, format!("over its limit of {} s", limit.as_secs())),
        Stop::Frozen => {
            let minutes = FROZEN_MAX.as_secs() / 60;
            (Fault::Interrupted, format!("frozen for {minutes} min while the store was away"))
        }
        Stop::Ordered(Order::HandBack) => {
            (Fault::Interrupted, "handed back by a worker that leaves".to_owned())
        }
        Stop::Ordered(Order::Cancel { by }) => (Fault::Canceled, format!("canceled by {by}")),
        Stop::Ordered(Order::Lost) => return End::Forgotten,
    };
    End::Fault { fault, message }
}

/// What a process's own end says.
fn exited(exit: &Exit) -> End {
    if let Some(not_started) = &exit.not_started {
        let message = not_started.reason.clone();
        return if not_started.is_infrastructure {
            End::Fault { fault: Fault::Spawn, message }
        } else {
            End::Hopeless { fault: Fault::AgentExit, message }
        };
    }
    let message = match (exit.code, exit.signal) {
        (Some(0), _) => return End::Succeeded,
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended without saying how".to_owned(),
    };
    End::Fault { fault: Fault::AgentExit, message }
}

/// Measures how long the parts of an attempt take.
struct Phase(Instant);

impl Phase {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn ends(&mut self, name: &str, result: &mut AttemptResult) {
        let spent = u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX);
        result.phases_ms.insert(name.to_owned(), spent);
        self.0 = Instant::now();
    }
}
