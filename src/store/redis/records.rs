//! Reading: records, lists, logs, numbers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use redis::streams::{StreamId, StreamRangeReply, StreamReadReply};
use redis::{Cmd, FromRedisValue, Value};

use super::conn::parse;
use super::scripts;
use super::{RedisStore, Result};
use crate::core::{AttemptResult, Counters, Event, Fence, Job, JobId, JobSpec, State, WorkerId};
use crate::store::{Entry, Error, Found, Log, Query, Stats, WorkerRecord};

/// Records fetched in one pipeline.
const PAGE: usize = 200;
/// Ended jobs looked through for a filter.
const SCAN: usize = 20_000;
/// Unopened pushes looked at.
const UNOPENED: isize = 1_000;

type Fields = HashMap<String, String>;

pub(super) fn command(name: &str, arguments: &[&str]) -> Cmd {
    let mut command = redis::cmd(name);
    command.arg(arguments);
    command
}

fn values<T: FromRedisValue>(answer: &mut impl Iterator<Item = Value>) -> Result<T> {
    parse(answer.next().ok_or_else(|| Error::Corrupt("fewer answers than questions".into()))?)
}

impl RedisStore {
    pub(super) async fn now_ms(&self) -> Result<u64> {
        let (seconds, micros): (u64, u64) = self.ask(&redis::cmd("TIME")).await?;
        Ok(seconds * 1000 + micros / 1000)
    }

    pub(super) async fn record(&self, id: &JobId) -> Result<Option<Job>> {
        Ok(self.records(std::slice::from_ref(id)).await?.pop())
    }

    /// The records of these jobs, without those that are gone.
    async fn records(&self, ids: &[JobId]) -> Result<Vec<Job>> {
        let mut commands = Vec::with_capacity(ids.len() * 3);
        for id in ids {
            commands.push(command("HGETALL", &[&self.keys.job(id)]));
            commands.push(command("GET", &[&self.keys.spec(id)]));
            commands.push(command("GET", &[&self.keys.result(id)]));
        }
        let mut answers = self.ask_all(&commands).await?.into_iter();
        let mut jobs = Vec::with_capacity(ids.len());
        for id in ids {
            let fields: Fields = values(&mut answers)?;
            let spec: Option<Vec<u8>> = values(&mut answers)?;
            let result: Option<Vec<u8>> = values(&mut answers)?;
            if let Some(state) = fields.get("state") {
                let state =
                    state.parse().map_err(|_| Error::Corrupt(format!("state {state:?}")))?;
                jobs.push(job(id.clone(), state, &fields, spec.as_deref(), result.as_deref()));
            }
        }
        Ok(jobs)
    }

    pub(super) async fn find_job(&self, id_or_prefix: &str) -> Result<Found> {
        // A prefix of an id is an id by its form, unless it ends in a dot.
        let Ok(id) = id_or_prefix.trim_end_matches('.').parse::<JobId>() else {
            return Ok(Found::None);
        };
        if let Some(job) = self.record(&id).await? {
            return Ok(Found::One(Box::new(job)));
        }
        let mut found: BTreeSet<JobId> = BTreeSet::new();
        for key in self.places().await? {
            let mut cursor = 0_u64;
            loop {
                let mut scan = command("ZSCAN", &[&key]);
                scan.arg(cursor).arg("MATCH").arg(format!("{id}*")).arg("COUNT").arg(10_000);
                let (next, members): (u64, Vec<(String, f64)>) = self.ask(&scan).await?;
                found.extend(members.iter().filter_map(|(member, _)| member.parse().ok()));
                cursor = next;
                if cursor == 0 || found.len() > 10 {
                    break;
                }
            }
        }
        let unopened = self.unopened().await?;
        found.extend(
            unopened
                .iter()
                .map(|job| &job.id)
                .filter(|of| of.as_str().starts_with(id.as_str()))
                .cloned(),
        );
        if found.len() > 1 {
            return Ok(Found::Ambiguous(found.into_iter().take(10).collect()));
        }
        let Some(only) = found.first() else { return Ok(Found::None) };
        let job = match self.record(only).await? {
            Some(job) => Some(job),
            None => unopened.into_iter().find(|job| job.id == *only),
        };
        Ok(job.map_or(Found::None, |job| Found::One(Box::new(job))))
    }

    /// Keys of all sorted sets that a job can be in.
    async fn places(&self) -> Result<Vec<String>> {
        let mut keys: Vec<String> =
            ["run", "pending", "later", "waiting"].iter().map(|name| self.keys.of(name)).collect();
        keys.extend(self.parks().await?);
        keys.extend([self.keys.of("done"), self.keys.of("dead")]);
        Ok(keys)
    }

    async fn parks(&self) -> Result<Vec<String>> {
        let caps: Vec<String> = self.ask(&command("HKEYS", &[&self.keys.of("parks")])).await?;
        Ok(caps.iter().map(|cap| self.keys.of(&format!("park:{cap}"))).collect())
    }

    /// Pushes with an id of their own that no worker has opened yet.
    async fn unopened(&self) -> Result<Vec<Job>> {
        let mut range = command("LRANGE", &[&self.keys.queue]);
        range.arg(0).arg(UNOPENED - 1);
        let tickets: Vec<Vec<u8>> = self.ask(&range).await?;
        let specs = tickets.iter().filter(|ticket| ticket.as_slice() != b".");
        Ok(specs
            .filter_map(|bytes| {
                let id = JobSpec::from_json(bytes).ok()?.id?;
                Some(job(id, State::Queued, &Fields::new(), Some(bytes), None))
            })
            .collect())
    }

    pub(super) async fn list_jobs(&self, query: &Query) -> Result<Vec<Job>> {
        let limit = if query.limit == 0 { 50 } else { query.limit };
        let is_filtered = Query { states: Vec::new(), limit: 0, ..query.clone() }
            != Query::default()
            || !query.states.is_empty();
        let most = if is_filtered { SCAN.max(limit) } else { limit };
        let wants = |states: &[State]| {
            query.states.is_empty() || states.iter().any(|state| query.states.contains(state))
        };

        let mut keys = Vec::new();
        for (name, states) in [
            ("run", &[State::Running][..]),
            ("pending", &[State::Queued]),
            ("later", &[State::Queued, State::Deferred]),
            ("waiting", &[State::Waiting]),
        ] {
            if wants(states) {
                keys.push(self.keys.of(name));
            }
        }
        if wants(&[State::Queued]) {
            keys.extend(self.parks().await?);
        }
        let mut ranges: Vec<Cmd> = keys
            .iter()
            .map(|key| {
                let mut range = command("ZRANGE", &[key]);
                range.arg(0).arg(most - 1);
                range
            })
            .collect();
        let active = ranges.len();
        for (name, states) in [
            ("done", &[State::Succeeded, State::Failed, State::Canceled, State::Rejected][..]),
            ("dead", &[State::Dead]),
        ] {
            if wants(states) {
                let mut range = command("ZREVRANGE", &[&self.keys.of(name)]);
                range.arg(0).arg(most - 1).arg("WITHSCORES");
                ranges.push(range);
            }
        }
        let mut ids: Vec<String> = Vec::new();
        let mut ended: Vec<(String, f64)> = Vec::new();
        if !ranges.is_empty() {
            for (n, answer) in self.ask_all(&ranges).await?.into_iter().enumerate() {
                if n < active {
                    ids.extend(parse::<Vec<String>>(answer)?);
                } else {
                    ended.extend(parse::<Vec<(String, f64)>>(answer)?);
                }
            }
        }
        ended.sort_by(|left, right| right.1.total_cmp(&left.1));
        ids.extend(ended.into_iter().map(|(id, _)| id));

        let mut jobs = if wants(&[State::Queued]) { self.unopened().await? } else { Vec::new() };
        jobs.retain(|job| query.wants(job));
        let ids: Vec<JobId> = ids.iter().filter_map(|id| id.parse().ok()).collect();
        for page in ids.chunks(PAGE.min(limit.max(1))) {
            if jobs.len() >= limit {
                break;
            }
            jobs.extend(self.records(page).await?.into_iter().filter(|job| query.wants(job)));
        }
        jobs.truncate(limit);
        Ok(jobs)
    }

    pub(super) async fn read_log(
        &self,
        log: &Log,
        after: &str,
        count: usize,
        wait: Option<Duration>,
    ) -> Result<Vec<Entry>> {
        let key = match log {
            Log::Job(id) => self.keys.log(id),
            Log::Fleet => self.keys.of("events"),
        };
        let after = if after.is_empty() { "0" } else { after };
        let rows: Vec<StreamId> = if let Some(wait) = wait {
            let mut read = redis::cmd("XREAD");
            read.arg("COUNT")
                .arg(count)
                .arg("BLOCK")
                .arg(scripts::millis(wait).max(1))
                .arg("STREAMS")
                .arg(&key)
                .arg(after);
            let answer =
                self.waits.tail(&read, wait).await.map_err(|error| self.address.explain(error))?;
            let answer: Option<StreamReadReply> = parse(answer)?;
            answer.into_iter().flat_map(|reply| reply.keys).flat_map(|stream| stream.ids).collect()
        } else if after == "$" {
            Vec::new()
        } else {
            let start = if after == "0" { "-".to_owned() } else { format!("({after}") };
            let mut range = command("XRANGE", &[&key, &start, "+", "COUNT"]);
            range.arg(count);
            self.ask::<StreamRangeReply>(&range).await?.ids
        };
        rows.iter().filter_map(|row| entry(row, log).transpose()).collect()
    }

    pub(super) async fn read_stats(&self) -> Result<Stats> {
        let of = |name: &str| self.keys.of(name);
        let mut answers = self
            .ask_all(&[
                command("LLEN", &[&self.keys.queue]),
                command("ZCARD", &[&of("pending")]),
                command("ZCARD", &[&of("run")]),
                command("ZCARD", &[&of("later")]),
                command("ZCARD", &[&of("waiting")]),
                command("ZCARD", &[&of("done")]),
                command("ZCARD", &[&of("dead")]),
                command("LLEN", &[&of("bad")]),
                command("LLEN", &[&of("floor")]),
                command("HGETALL", &[&of("meta")]),
                command("HGETALL", &[&of("limits")]),
                command("ZRANGE", &[&of("pending"), "0", "0"]),
            ])
            .await?
            .into_iter();
        let pending: u64 = values(&mut answers)?;
        let opened: u64 = values(&mut answers)?;
        let mut stats = Stats {
            pending,
            unopened: pending.saturating_sub(opened),
            running: values(&mut answers)?,
            later: values(&mut answers)?,
            waiting: values(&mut answers)?,
            done: values(&mut answers)?,
            dead: values(&mut answers)?,
            bad: values(&mut answers)?,
            busy_floor: values(&mut answers)?,
            ..Stats::default()
        };
        let meta: Fields = values(&mut answers)?;
        stats.limits = values::<BTreeMap<String, u64>>(&mut answers)?;
        if let Some(limit) = meta.get("limit").and_then(|text| text.parse().ok()) {
            stats.limits.insert("fleet".into(), limit);
        }
        stats.paused_by = meta.get("paused").cloned();
        stats.totals = meta
            .iter()
            .filter_map(|(name, count)| {
                Some((name.strip_prefix("n:")?.to_owned(), count.parse().ok()?))
            })
            .collect();
        let head: Vec<String> = values(&mut answers)?;
        if let Some(id) = head.first() {
            let created: Option<u64> =
                self.ask(&command("HGET", &[&of(&format!("job:{id}")), "created"])).await?;
            let now = self.now_ms().await?;
            stats.oldest_ms = created.map(|at| now.saturating_sub(at));
        }
        for park in self.parks().await? {
            stats.parked += self.ask::<u64>(&command("ZCARD", &[&park])).await?;
        }
        Ok(stats)
    }

    pub(super) async fn read_workers(&self) -> Result<Vec<WorkerRecord>> {
        let seen: Vec<(String, f64)> = self
            .ask(&command("ZRANGE", &[&self.keys.of("workers"), "0", "-1", "WITHSCORES"]))
            .await?;
        if seen.is_empty() {
            return Ok(Vec::new());
        }
        let now = self.now_ms().await?;
        let ids: Vec<WorkerId> =
            seen.iter().map(|(id, _)| WorkerId::from_store(id.as_str())).collect();
        let commands: Vec<Cmd> = ids
            .iter()
            .flat_map(|id| {
                [
                    command("HGETALL", &[&self.keys.worker(id)]),
                    command("SCARD", &[&self.keys.held(id)]),
                ]
            })
            .collect();
        let mut answers = self.ask_all(&commands).await?.into_iter();
        let mut workers = Vec::with_capacity(ids.len());
        for (id, (_, last)) in ids.into_iter().zip(seen) {
            let fields: Fields = values(&mut answers)?;
            let running = values(&mut answers)?;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a time in milliseconds"
            )]
            let silent_ms = now.saturating_sub(last as u64);
            workers.push(WorkerRecord {
                id,
                ordinal: number(&fields, "ordinal"),
                exclusive: fields.contains_key("exclusive"),
                slots: number(&fields, "slots").unwrap_or_default(),
                running,
                draining: fields.contains_key("draining"),
                quarantine: fields.get("quarantine").cloned(),
                version: fields.get("version").cloned().unwrap_or_default(),
                host: fields.get("host").cloned().unwrap_or_default(),
                pid: number(&fields, "pid").unwrap_or_default(),
                pid_started: number(&fields, "pid_started").unwrap_or_default(),
                started_at_ms: number(&fields, "started").unwrap_or_default(),
                silent_ms,
                is_lost: silent_ms > scripts::millis(self.terms.lease),
            });
        }
        workers.sort_by(|left, right| {
            (left.ordinal.unwrap_or(u32::MAX), &left.id)
                .cmp(&(right.ordinal.unwrap_or(u32::MAX), &right.id))
        });
        Ok(workers)
    }

    pub(super) async fn check_records(&self) -> Result<Vec<String>> {
        let mut problems: Vec<String> = self.run(self.call(&scripts::FSCK)).await?;
        let mut ids: BTreeSet<String> = BTreeSet::new();
        for key in self.places().await? {
            if !key.ends_with(":done") && !key.ends_with(":dead") {
                ids.extend(self.ask::<Vec<String>>(&command("ZRANGE", &[&key, "0", "-1"])).await?);
            }
        }
        let prefix = self.keys.of("job:");
        let pattern: String = prefix
            .chars()
            .flat_map(|c| {
                if matches!(c, '*' | '?' | '[' | ']' | '\\') { vec!['\\', c] } else { vec![c] }
            })
            .collect();
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(format!("{pattern}*")).arg("COUNT").arg(5_000);
            let (next, keys): (u64, Vec<String>) = self.ask(&scan).await?;
            ids.extend(keys.iter().filter_map(|key| key.strip_prefix(&prefix)).map(str::to_owned));
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        let ids: Vec<String> = ids.into_iter().collect();
        for page in ids.chunks(500) {
            let mut call = self.call(&scripts::FSCK);
            for id in page {
                call.push(id);
            }
            problems.extend(self.run::<Vec<String>>(call).await?);
        }
        Ok(problems)
    }
}

fn number<T: std::str::FromStr>(fields: &Fields, name: &str) -> Option<T> {
    fields.get(name)?.parse().ok()
}

fn job(
    id: JobId,
    state: State,
    fields: &Fields,
    spec: Option<&[u8]>,
    result: Option<&[u8]>,
) -> Job {
    let text = |name: &str| fields.get(name).filter(|text| !text.is_empty());
    let count = |name: &str| number(fields, name).unwrap_or_default();
    let due_at_ms = number(fields, "due");
    let held_by = match text("park") {
        Some(cap) => Some(match cap.split_once(':') {
            Some(("k", key)) => format!("concurrency key {key}"),
            Some((_, profile)) => format!("limit of profile {profile}"),
            None => cap.clone(),
        }),
        None => due_at_ms.filter(|_| state == State::Queued).map(|_| "delayed".to_owned()),
    };
    Job {
        id,
        spec: spec.and_then(|bytes| serde_json::from_slice(bytes).ok()).unwrap_or_default(),
        state,
        counters: Counters {
            attempt: count("attempt"),
            charged: count("charged"),
            lost: count("lost"),
            overloaded: count("overloaded"),
            infrastructure: count("infrastructure"),
        },
        fence: Fence(number(fields, "fence").unwrap_or_default()),
        worker: text("worker").map(WorkerId::from_store),
        fault: text("fault").and_then(|word| word.parse().ok()),
        cancel: text("cancel").cloned(),
        held_by,
        created_at_ms: number(fields, "created").unwrap_or_default(),
        started_at_ms: number(fields, "started"),
        finished_at_ms: number(fields, "finished"),
        due_at_ms,
        result: result
            .and_then(|bytes| serde_json::from_slice::<AttemptResult>(bytes).ok())
            .unwrap_or_default(),
    }
}

/// One stream entry; `None` for what a newer version may write.
fn entry(row: &StreamId, log: &Log) -> Result<Option<Entry>> {
    let field = |name: &str| row.get::<String>(name).unwrap_or_default();
    let job = match log {
        Log::Job(id) => id.clone(),
        // `-` stands for the fleet as a whole.
        Log::Fleet => match field("id").parse() {
            Ok(id) => id,
            Err(_) => "fleet".parse().map_err(|_| Error::Corrupt("event without a job".into()))?,
        },
    };
    let event = match row.get::<Vec<u8>>("e") {
        Some(json) => match serde_json::from_slice(&json) {
            Ok(event) => event,
            Err(_) => return Ok(None),
        },
        None => match field("s").parse() {
            Ok(state) => Event::State {
                state,
                fault: field("f").parse().ok(),
                worker: field("w"),
                attempt: field("a").parse().unwrap_or_default(),
                message: field("m"),
            },
            Err(_) => return Ok(None),
        },
    };
    let at_ms = row.id.split('-').next().and_then(|ms| ms.parse().ok()).unwrap_or_default();
    Ok(Some(Entry { id: row.id.clone(), at_ms, job, event }))
}
