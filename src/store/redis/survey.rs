//! Reading the queue as a whole: numbers, workers, and whether everything is where it belongs.

use std::collections::{BTreeMap, BTreeSet};

use redis::Cmd;

use super::records::{Fields, command, number, values};
use super::scripts;
use super::{RedisStore, Result};
use crate::core::WorkerId;
use crate::store::{Stats, WorkerRecord};

impl RedisStore {
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
