//! What must hold whatever was done: the invariants I1 to I10 of the queue protocol. (I8, that
//! hand-backs run before younger jobs, cannot be told from outside while there are faults; the
//! contract suite has it.)

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use sortie::core::{Fault, Job, State};
use sortie::store::redis::Role;
use sortie::store::{Change, Found, Stats, Store};

use crate::agent::Line;
use crate::fleet::{ATTEMPTS, Fleet, LEASE, QUEUE};
use crate::producers::AskedFor;

/// Time in which everything must be done when there are no more faults (I9).
const DRAINED: Duration = Duration::from_mins(2);

pub async fn check(fleet: &mut Fleet, asked: &AskedFor) -> Vec<String> {
    let store = fleet.store(Role::Engine).await;
    let mut problems = Vec::new();
    let stats = drain(fleet, &*store, &mut problems).await;
    let jobs = find_all(&*store, asked, &mut problems).await;
    let text = std::fs::read_to_string(fleet.journal()).unwrap_or_default();
    let lines: Vec<Line> = text.lines().filter_map(Line::parse).collect();
    if lines.len() != text.lines().count() {
        problems.push("the journal has torn lines".into());
    }
    problems.extend(ends_are_right(asked, &jobs, &lines));
    problems.extend(totals_are_right(&stats, &jobs));
    problems.extend(attempts_do_not_overlap(&lines));
    problems.extend(keys_are_kept(asked, &lines));
    fleet.leave().await;
    problems.extend(nothing_is_left(fleet, &*store, &jobs, text.len()).await);
    fleet.note(&format!(
        "{} jobs, {} attempts, {} reaped, {} stale ends refused",
        jobs.len(),
        stats.totals.get("claimed").unwrap_or(&0),
        stats.totals.get("reaped").unwrap_or(&0),
        stats.totals.get("stale").unwrap_or(&0)
    ));
    problems
}

/// I9, and I5 and I6 of what is then left.
async fn drain(fleet: &mut Fleet, store: &dyn Store, problems: &mut Vec<String>) -> Stats {
    let end = Instant::now() + DRAINED;
    loop {
        fleet.respawn_ended(|_| false);
        let stats = store.stats().await.expect("no more faults");
        let open = [stats.pending, stats.running, stats.later, stats.parked, stats.waiting];
        if open == [0; 5] {
            break;
        }
        if Instant::now() > end {
            problems.push(format!("I9: not drained in {DRAINED:?}: {stats:?}"));
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let unfit = store.fsck().await.expect("no more faults");
    problems.extend(unfit.into_iter().map(|problem| format!("I5: {problem}")));
    store.stats().await.expect("no more faults")
}

/// I1: each acknowledged job is there, and has ended.
async fn find_all(
    store: &dyn Store,
    asked: &AskedFor,
    problems: &mut Vec<String>,
) -> BTreeMap<String, Job> {
    let mut jobs = BTreeMap::new();
    for name in asked.keys() {
        match store.get(name).await.expect("no more faults") {
            Found::One(job) if job.id.as_str() == name => {
                if !job.state.is_terminal() {
                    problems.push(format!("I1: job {name} is {}", job.state));
                }
                jobs.insert(name.clone(), *job);
            }
            _ => problems.push(format!("I1: job {name} was acknowledged and is lost")),
        }
    }
    jobs
}

/// Each job ended as it was told to, and its last attempt is the one that counts (I2, I3).
fn ends_are_right(asked: &AskedFor, jobs: &BTreeMap<String, Job>, lines: &[Line]) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, job) in jobs {
        let asked = &asked[name];
        let was_lost = job.state == State::Dead && job.fault == Some(Fault::Lost);
        let is_right = match job.state {
            State::Canceled => asked.is_canceled,
            State::Succeeded => !asked.plan.fails,
            State::Dead => was_lost || asked.plan.fails && job.counters.charged == ATTEMPTS,
            _ => false,
        };
        if !is_right {
            problems.push(format!("I1: {asked:?} ended as {job:?}"));
        }
        if job.counters.charged > ATTEMPTS || job.counters.lost > 4 {
            problems.push(format!("I7: job {name} has {:?}", job.counters));
        }
        let own: Vec<&Line> = lines.iter().filter(|line| line.job == *name).collect();
        let fences: BTreeMap<u32, u64> =
            own.iter().map(|line| (line.attempt, line.fence)).collect();
        if !fences.values().is_sorted_by(|one, next| one < next) {
            problems.push(format!("I2: the fences of job {name} are {fences:?}"));
        }
        let of_attempts: BTreeSet<(u32, u64)> =
            own.iter().map(|line| (line.attempt, line.fence)).collect();
        if of_attempts.len() != fences.len() {
            problems.push(format!("I2: two claims of job {name} have one number: {of_attempts:?}"));
        }
        if fences.values().max().is_some_and(|newest| *newest > job.fence.0) {
            problems.push(format!("I3: job {name} ended by {} after {fences:?}", job.fence));
        }
        let is_last = |line: &&&Line| line.fence == job.fence.0 && !line.is_child;
        let written = own.iter().filter(is_last).count();
        if job.state == State::Succeeded && written != asked.plan.lines as usize {
            let due = asked.plan.lines;
            problems.push(format!("job {name} succeeded with {written} of {due} lines written"));
        }
    }
    problems
}

/// I3: as many ends were accepted as jobs have ended.
fn totals_are_right(stats: &Stats, jobs: &BTreeMap<String, Job>) -> Vec<String> {
    let mut problems = Vec::new();
    for state in State::ALL.into_iter().filter(|state| state.is_terminal()) {
        let ended = jobs.values().filter(|job| job.state == state).count() as u64;
        let accepted = stats.totals.get(state.as_str()).copied().unwrap_or_default();
        if ended != accepted {
            problems
                .push(format!("I3: {ended} jobs are {state}, but {accepted} ends were accepted"));
        }
    }
    if stats.done + stats.dead != jobs.len() as u64 {
        problems.push(format!(
            "I1: {} jobs were acknowledged, but the store has {stats:?}",
            jobs.len()
        ));
    }
    if stats.bad != 0 {
        problems.push(format!("{} pushes count as bad", stats.bad));
    }
    problems
}

/// I4: once a newer attempt has written, no older one of the job writes any more.
fn attempts_do_not_overlap(lines: &[Line]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut newest: BTreeMap<&str, (usize, &Line)> = BTreeMap::new();
    for (at, line) in lines.iter().enumerate() {
        let (since, known) = *newest.entry(&line.job).or_insert((at, line));
        if line.fence < known.fence {
            problems.push(format!("I4: line {at} is {line:?}, after line {since}: {known:?}"));
        }
        if line.fence > known.fence {
            newest.insert(&line.job, (at, line));
        }
    }
    problems
}

/// I7: jobs of one concurrency key never run at the same time. An attempt runs from its first
/// line to its last.
fn keys_are_kept(asked: &AskedFor, lines: &[Line]) -> Vec<String> {
    let mut runs: BTreeMap<(&str, u64), (usize, usize, &str)> = BTreeMap::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(key) = asked.get(&line.job).and_then(|asked| asked.key.as_deref()) else {
            continue;
        };
        let run = runs.entry((&line.job, line.fence)).or_insert((at, at, key));
        run.1 = at;
    }
    let mut problems = Vec::new();
    let mut last: BTreeMap<&str, (usize, (&str, u64))> = BTreeMap::new();
    let mut in_order: Vec<_> = runs.into_iter().collect();
    in_order.sort_by_key(|(_, (first, ..))| *first);
    for (who, (from, to, key)) in in_order {
        if let Some((until, other)) = last.get(key)
            && *until > from
        {
            problems.push(format!("I7: {who:?} and {other:?} of key {key} ran at the same time"));
        }
        let until = last.get(key).map_or(to, |(until, _)| to.max(*until));
        last.insert(key, (until, who));
    }
    problems
}

/// I10, and that no process survived its job.
async fn nothing_is_left(
    fleet: &Fleet,
    store: &dyn Store,
    jobs: &BTreeMap<String, Job>,
    written: usize,
) -> Vec<String> {
    let mut problems = Vec::new();
    // What is still alive would write within this time.
    tokio::time::sleep(LEASE / 4).await;
    let now = std::fs::metadata(fleet.journal()).map_or(0, |file| file.len());
    if now != written as u64 {
        problems
            .push(format!("some process outlived its job: {} more bytes", now - written as u64));
    }
    for job in jobs.values().filter(|job| job.state.is_terminal()) {
        if let Err(error) = store.change(&job.id, &Change::Delete).await {
            problems.push(format!("I10: {error}"));
        }
    }
    let mut keys: Vec<String> = fleet.redis.ask(&["KEYS", "*"]);
    keys.retain(|key| {
        let suffix = key.strip_prefix(&format!("{{{QUEUE}}}:")).unwrap_or(key);
        !matches!(suffix, "meta" | "events" | "pods")
    });
    if !keys.is_empty() {
        problems.push(format!("I10: {} keys are left: {keys:?}", keys.len()));
    }
    problems
}
