//! `sortie drain`: a worker takes nothing more, and we wait until it holds nothing. The `PreStop`
//! hook of a pod, and a command for people.
//!
//! May be repeated and interrupted at any point: the store keeps that the worker drains, and the
//! worker hands back what still runs by itself.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::{Context, Exit, Failure, Outcome, words};
use crate::core::{Event, Fault, JobId, State, WorkerId};
use crate::env;
use crate::service::Jobs;
use crate::store::{self, Control, Entry, Query, WorkerRecord};
use crate::worker::{drain_within, identity};

/// How long one wait for a transition may take. A worker that leaves makes none, so its record is
/// looked at again then.
const LOOK: Duration = Duration::from_secs(2);

pub(super) async fn run(context: &Context, timeout: Duration, name: Option<&str>) -> Outcome {
    let printer = &context.printer;
    let deadline = Instant::now() + timeout;
    let jobs = context.connect().await?;
    let workers = jobs.workers().await?;
    let worker = match name {
        Some(name) => named(name, &workers)?,
        None => {
            if let Some(worker) = own(context, &workers)? {
                worker
            } else {
                printer.note("no worker of this pod is registered: there is nothing to drain")?;
                return Ok(Exit::Success);
            }
        }
    };
    let mut after = jobs.fleet_position().await?;
    let control = Control::Drain { worker: worker.clone(), within: drain_within(timeout) };
    match jobs.control(&control).await {
        Ok(()) => {}
        Err(crate::service::Error::Store(store::Error::NotFound(_))) => {
            printer.note("the worker has left: there is nothing to drain")?;
            return Ok(Exit::Success);
        }
        Err(error) => return Err(error.into()),
    }
    let mut handed_back = BTreeSet::new();
    loop {
        let held = held(&jobs, &worker).await?;
        // Read once more when the worker is empty: what it handed back last was told before.
        let now = Instant::now();
        let left = deadline.saturating_duration_since(now).min(LOOK);
        let wait = (held > 0 && !left.is_zero()).then_some(left);
        printer.live(&format!("{} runs {}", worker.pod(), words::count(held, "job")));
        let entries = jobs.events(&after, wait).await?;
        if let Some(last) = entries.last() {
            after.clone_from(&last.id);
        }
        handed_back.extend(entries.iter().filter_map(|entry| hand_back(entry, &worker)));
        if held == 0 && entries.is_empty() {
            break;
        }
        if held > 0 && now >= deadline {
            printer.finish_live();
            printer.say(&format!(
                "{} still holds {} after the {timeout:?}; they are handed back when it stops, or \
                 when their leases run out",
                worker.pod(),
                words::count(held, "job"),
            ))?;
            return Ok(Exit::HandedBack);
        }
    }
    printer.finish_live();
    let pod = worker.pod();
    if handed_back.is_empty() {
        printer.note(&format!("{pod} is drained and holds nothing"))?;
        return Ok(Exit::Success);
    }
    let count = words::count(handed_back.len() as u64, "job");
    printer
        .note(&format!("{pod} holds nothing and handed {count} back; others go on with them"))?;
    for id in &handed_back {
        printer.line(id.as_str())?;
    }
    Ok(Exit::HandedBack)
}

/// How many jobs the worker holds; none if it is not known any more.
async fn held(jobs: &Jobs, worker: &WorkerId) -> Result<u64, Failure> {
    let workers = jobs.workers().await?;
    let Some(record) = workers.iter().find(|record| record.id == *worker) else { return Ok(0) };
    if !record.is_lost {
        return Ok(record.running.into());
    }
    // A lost worker cannot say what it holds; the jobs' own records can.
    let query = Query {
        states: vec![State::Running],
        worker: Some(worker.as_str().to_owned()),
        limit: 1000,
        ..Query::default()
    };
    Ok(jobs.list(&query).await?.len() as u64)
}

/// The job that this transition says the worker handed back.
fn hand_back(entry: &Entry, by: &WorkerId) -> Option<JobId> {
    match &entry.event {
        Event::State { state: State::Queued, fault: Some(Fault::Interrupted), worker, .. }
            if worker == by.as_str() =>
        {
            Some(entry.job.clone())
        }
        _ => None,
    }
}

/// The worker of this name: a pod, or the whole id of a worker. A live one rather than a lost one.
fn named(name: &str, workers: &[WorkerRecord]) -> Result<WorkerId, Failure> {
    let has_name = |record: &&WorkerRecord| record.id.pod() == name || record.id.as_str() == name;
    let of_name: Vec<_> = workers.iter().filter(has_name).collect();
    let live: Vec<_> = of_name.iter().copied().filter(|record| !record.is_lost).collect();
    match (if live.is_empty() { of_name } else { live }).as_slice() {
        [one] => Ok(one.id.clone()),
        [] => Err(Failure::usage(format!("there is no worker {name:?}")).next(known(workers))),
        several => Err(Failure::usage(format!("several workers are called {name:?}"))
            .next(format!("give one's whole id: {}", list(several.iter().copied())))),
    }
}

/// The worker of this pod or host. In a pod, that none is registered (any more) is no error: the
/// hook may run twice, or after the worker has left.
fn own(context: &Context, workers: &[WorkerRecord]) -> Result<Option<WorkerId>, Failure> {
    let pod = context.sources.find(&env::NAME, None).value;
    let host = identity::host();
    let is_here = |record: &&WorkerRecord| {
        !record.is_lost && record.host == host && (pod.is_empty() || record.id.pod() == pod)
    };
    let here: Vec<_> = workers.iter().filter(is_here).collect();
    match here.as_slice() {
        [one] => Ok(Some(one.id.clone())),
        [] if !pod.is_empty() => Ok(None),
        [] => Err(Failure::usage("no worker runs on this host").next(known(workers))),
        several => Err(Failure::usage("several workers run on this host")
            .next(format!("name one with --worker: {}", list(several.iter().copied())))),
    }
}

fn known(workers: &[WorkerRecord]) -> String {
    if workers.is_empty() {
        return "no worker is registered: `sortie config` shows which store was asked".into();
    }
    format!("name one of these with --worker: {}", list(workers.iter()))
}

fn list<'a>(workers: impl Iterator<Item = &'a WorkerRecord>) -> String {
    workers.map(|record| record.id.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(id: &str, is_lost: bool) -> WorkerRecord {
        WorkerRecord {
            id: WorkerId::from_store(id),
            ordinal: None,
            exclusive: true,
            slots: 1,
            running: 0,
            draining: false,
            quarantine: None,
            version: String::new(),
            host: "elsewhere".into(),
            pid: 1,
            pid_started: 1,
            started_at_ms: 0,
            silent_ms: 0,
            is_lost,
        }
    }

    #[test]
    fn a_live_worker_is_meant_rather_than_a_lost_one() {
        let workers = [worker("a/1", true), worker("a/2", false), worker("b/3", true)];
        let id = |name| named(name, &workers).map(|id| id.to_string()).map_err(|f| f.exit);
        assert_eq!(id("a"), Ok("a/2".into()));
        assert_eq!(id("a/1"), Ok("a/1".into()));
        assert_eq!(id("b"), Ok("b/3".into()));
        assert_eq!(id("c"), Err(Exit::Usage));
    }

    #[test]
    fn several_workers_of_one_name_are_told_apart_by_id() {
        let workers = [worker("host/1", false), worker("host/2", false)];
        let next = named("host", &workers).unwrap_err().next.unwrap();
        assert!(next.contains("host/1") && next.contains("host/2"), "{next}");
    }

    #[test]
    fn only_what_this_worker_handed_back_counts() {
        let entry = |fault, worker: &str| Entry {
            id: "1-1".into(),
            at_ms: 0,
            job: "a".parse().unwrap(),
            event: Event::State {
                state: State::Queued,
                fault,
                worker: worker.into(),
                attempt: 1,
                message: String::new(),
            },
        };
        let me = WorkerId::from_store("w/1");
        assert!(hand_back(&entry(Some(Fault::Interrupted), "w/1"), &me).is_some());
        assert!(hand_back(&entry(Some(Fault::AgentExit), "w/1"), &me).is_none());
        assert!(hand_back(&entry(Some(Fault::Interrupted), "w/2"), &me).is_none());
    }
}
