//! Reading logs: what happened to a job, and in the fleet.

use std::time::Duration;

use redis::streams::{StreamId, StreamRangeReply, StreamReadReply};

use super::conn::parse;
use super::records::command;
use super::scripts;
use super::{RedisStore, Result};
use crate::core::Event;
use crate::store::{Entry, Error, Log};

impl RedisStore {
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
