//! Reading jobs: one, by a prefix, many.

use std::collections::{BTreeSet, HashMap};

use redis::{Cmd, FromRedisValue, Value};

use super::conn::parse;
use super::{RedisStore, Result};
use crate::core::{AttemptResult, Counters, Fence, Job, JobId, JobSpec, State, WorkerId};
use crate::store::{Error, Found, Query};

/// Records fetched in one pipeline.
const PAGE: usize = 200;
/// Ended jobs looked through for a filter.
const SCAN: usize = 20_000;
/// Unopened pushes looked at.
const UNOPENED: isize = 1_000;

pub(super) type Fields = HashMap<String, String>;

pub(super) fn command(name: &str, arguments: &[&str]) -> Cmd {
    let mut command = redis::cmd(name);
    command.arg(arguments);
    command
}

pub(super) fn values<T: FromRedisValue>(answer: &mut impl Iterator<Item = Value>) -> Result<T> {
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
        // The places are looked at one after the other, and the unopened pushes last: a job that is
        // opened meanwhile is seen nowhere. It is opened once, so a second look is enough.
        match self.search(&id).await? {
            Found::None => self.search(&id).await,
            found => Ok(found),
        }
    }

    /// One look at all places and at the unopened pushes, for ids that begin like this one.
    async fn search(&self, id: &JobId) -> Result<Found> {
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
    pub(super) async fn places(&self) -> Result<Vec<String>> {
        let mut keys: Vec<String> =
            ["run", "pending", "later", "waiting"].iter().map(|name| self.keys.of(name)).collect();
        keys.extend(self.parks().await?);
        keys.extend([self.keys.of("done"), self.keys.of("dead")]);
        Ok(keys)
    }

    pub(super) async fn parks(&self) -> Result<Vec<String>> {
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
}

pub(super) fn number<T: std::str::FromStr>(fields: &Fields, name: &str) -> Option<T> {
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
