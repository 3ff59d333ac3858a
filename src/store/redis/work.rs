//! What workers call.

use std::sync::atomic::Ordering;

use redis::Value;

use super::conn::parse;
use super::scripts::{self, millis};
use super::{RedisStore, Result};
use crate::core::retry::Count;
use crate::core::{Counters, Event, Fault, Fence, Next, State};
use crate::core::{JobId, WorkerId};
use crate::store::{
    Beat, Claimed, Error, Exchange, Exchanged, Finish, Finished, Lock, LockAction, Pulse, Supply,
    Token, Verdict, WorkerRecord,
};

/// id, fence, attempt, charged, lost, overloaded, infrastructure, spec, previous result.
type ClaimedRow = (String, String, u32, u32, u32, u32, u32, Vec<u8>, Vec<u8>);

impl RedisStore {
    pub(super) async fn register_worker(
        &self,
        worker: &WorkerRecord,
        gone: &[WorkerId],
    ) -> Result<usize> {
        let mut call = self
            .call(&scripts::REGISTER)
            .arg(worker.id.as_str())
            .arg(worker.id.pod())
            .arg(u8::from(worker.exclusive))
            .arg(u8::from(worker.started_at_ms == 0))
            .arg(ordinal(worker.ordinal))
            .arg(worker.slots)
            .arg(&worker.host)
            .arg(worker.pid)
            .arg(worker.pid_started)
            .arg(&worker.version)
            .arg(gone.len());
        for id in gone {
            call.push(id.as_str());
        }
        let taken: i64 = self.run(call).await?;
        usize::try_from(taken).map_err(|_| {
            Error::Misconfigured(format!(
                "a newer worker runs under the name {:?} and took over; every worker needs a name (POD_NAME, --name) of its own",
                worker.id.pod()
            ))
        })
    }

    pub(super) async fn exchange_jobs(&self, exchange: &Exchange) -> Result<Exchanged> {
        let mut call = self
            .call(&scripts::EXCHANGE)
            .arg(exchange.worker.as_str())
            .arg(ordinal(exchange.ordinal))
            .arg(exchange.call)
            .arg(exchange.want)
            .arg(u8::from(exchange.has_yielded))
            .arg(exchange.finished.len());
        for finish in &exchange.finished {
            push_finish(&mut call, finish);
        }
        let (supply, detail, finished, jobs, seen): (
            String,
            String,
            Vec<String>,
            Vec<ClaimedRow>,
            Option<String>,
        ) = self.run(call).await?;
        if let Some(seen) = seen {
            self.waits.has_seen(seen);
        }
        Ok(Exchanged {
            finished: finished.iter().map(|word| read_finished(word)).collect::<Result<_>>()?,
            claimed: jobs.into_iter().map(read_claimed).collect::<Result<_>>()?,
            supply: match &*supply {
                "enough" => Supply::Enough,
                "empty" => Supply::Empty { next_due_ms: detail.parse().ok() },
                "yield" => Supply::Yield,
                "closed" => Supply::Closed { reason: detail },
                "draining" => Supply::Draining,
                "unregistered" => Supply::Unregistered,
                other => return Err(Error::Corrupt(format!("supply {other:?}"))),
            },
        })
    }

    pub(super) async fn beat_once(&self, beat: &Beat) -> Result<Pulse> {
        let mut call = self
            .call(&scripts::BEAT)
            .arg(beat.worker.as_str())
            .arg(u8::from(beat.is_whole))
            .arg(beat.quarantine.as_deref().unwrap_or_default())
            .arg(millis(beat.lease))
            .arg(beat.held.len());
        for token in &beat.held {
            call.push(token.id.as_str());
            call.push(token.fence.0);
        }
        let (registered, drain, verdicts, others): (
            u8,
            String,
            Vec<String>,
            Vec<(String, String)>,
        ) = self.run(call).await?;
        Ok(Pulse {
            verdicts: verdicts
                .iter()
                .map(|word| match word.split_at_checked(1) {
                    Some(("k", _)) => Ok(Verdict::Keep),
                    Some(("c", by)) => Ok(Verdict::Cancel { by: by.to_owned() }),
                    Some(("l", _)) => Ok(Verdict::Lost),
                    _ => Err(Error::Corrupt(format!("verdict {word:?}"))),
                })
                .collect::<Result<_>>()?,
            others: others
                .into_iter()
                .map(|(id, fence)| token(&id, &fence))
                .collect::<Result<_>>()?,
            drain_in: drain.parse().ok().map(std::time::Duration::from_millis),
            is_registered: registered == 1,
        })
    }

    pub(super) async fn append_events(
        &self,
        token: &Token,
        events: &[Event],
        drop: &[String],
    ) -> Result<Vec<String>> {
        // Numbers only have to grow for one attempt, and an attempt has one writer: this process.
        let number = self.appends.fetch_add(1, Ordering::Relaxed);
        let mut call = self
            .call(&scripts::APPEND)
            .arg(token.id.as_str())
            .arg(token.fence.0)
            .arg(number)
            .arg(events.len());
        for event in events {
            call.push(serde_json::to_vec(event).expect("an event has only string keys"));
        }
        for id in drop {
            call.push(id);
        }
        let answer: Vec<Value> = self.logs.run(&call).await?;
        let mut answer = answer.into_iter();
        match answer.next().map(parse::<String>).transpose()?.as_deref() {
            Some("ok") => parse(answer.next().unwrap_or(Value::Array(Vec::new()))),
            _ => Err(Error::Fenced(token.fence)),
        }
    }

    pub(super) async fn take_lock(&self, lock: &Lock) -> Result<Option<Fence>> {
        let life = match lock.action {
            LockAction::Hold(life) => millis(life).max(1).to_string(),
            LockAction::Release => String::new(),
        };
        let fence: String =
            self.run(self.call(&scripts::LOCK).arg(&lock.name).arg(&lock.owner).arg(life)).await?;
        Ok(fence.parse().ok().map(Fence))
    }
}

fn push_finish(call: &mut scripts::Call, finish: &Finish) {
    let (verb, state, count, delay, head) = match finish.next {
        Next::End { state, count } => ("end", state, count, std::time::Duration::ZERO, false),
        Next::Again { state: State::Waiting, count, .. } => {
            ("wait", State::Waiting, count, std::time::Duration::ZERO, false)
        }
        Next::Again { state, delay, head, count } => ("again", state, count, delay, head),
    };
    let counter = match count {
        Count::Charged => "charged",
        Count::Overloaded => "overloaded",
        Count::Infrastructure => "infrastructure",
        Count::Nothing => "",
    };
    call.push(finish.token.id.as_str());
    call.push(finish.token.fence.0);
    call.push(verb);
    call.push(state.as_str());
    call.push(finish.fault.map_or("", Fault::as_str));
    call.push(counter);
    call.push(millis(delay));
    call.push(u8::from(head));
    call.push(serde_json::to_vec(&finish.result).expect("a result has only string keys"));
    call.push(finish.result.message.as_deref().unwrap_or_default());
}

fn ordinal(ordinal: Option<u32>) -> String {
    ordinal.map(|number| number.to_string()).unwrap_or_default()
}

fn token(id: &str, fence: &str) -> Result<Token> {
    let corrupt = || Error::Corrupt(format!("attempt {id:?} with fence {fence:?}"));
    Ok(Token {
        id: id.parse::<JobId>().map_err(|_| corrupt())?,
        fence: Fence(fence.parse().map_err(|_| corrupt())?),
    })
}

fn read_finished(word: &str) -> Result<Finished> {
    match word {
        "accepted" => Ok(Finished::Accepted),
        "stale" => Ok(Finished::Stale),
        "unknown" => Ok(Finished::Unknown),
        other => Err(Error::Corrupt(format!("answer to a finish: {other:?}"))),
    }
}

fn read_claimed(row: ClaimedRow) -> Result<Claimed> {
    let (id, fence, attempt, charged, lost, overloaded, infrastructure, bytes, previous) = row;
    Ok(Claimed {
        token: token(&id, &fence)?,
        counters: Counters { attempt, charged, lost, overloaded, infrastructure },
        bytes,
        // A result that cannot be read is as good as none: the attempt starts from the beginning.
        previous: serde_json::from_slice(&previous).ok(),
    })
}
