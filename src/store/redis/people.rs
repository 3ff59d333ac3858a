//! What producers and operators call.

use super::scripts::{self, millis};
use super::{RedisStore, Result};
use crate::core::{JobId, State};
use crate::store::{
    BadAction, BadTicket, Change, Control, Error, NewJob, Submitted, Sweep, WorkerRecord,
};

/// Jobs sent in one script call; keeps a call short on the server.
const BATCH: usize = 200;

impl RedisStore {
    pub(super) async fn submit_all(&self, jobs: &[NewJob]) -> Result<Vec<Submitted>> {
        let mut answers = Vec::with_capacity(jobs.len());
        for batch in jobs.chunks(BATCH) {
            let mut call = self.call(&scripts::SUBMIT).arg(batch.len());
            for job in batch {
                let spec = &job.spec;
                call.push(job.id.as_str());
                call.push(&job.bytes);
                call.push(spec.priority);
                call.push(spec.delay_ms.unwrap_or(0));
                call.push(spec.concurrency_key.as_deref().unwrap_or_default());
                call.push(
                    spec.concurrency_limit.map(|limit| limit.to_string()).unwrap_or_default(),
                );
                call.push(spec.profile_name().unwrap_or_default());
                call.push(spec.idempotency_key.as_deref().unwrap_or_default());
            }
            let rows: Vec<(String, u8)> = self.run(call).await?;
            for (id, is_new) in rows {
                let id = id.parse().map_err(|_| Error::Corrupt(format!("job id {id:?}")))?;
                answers.push(Submitted { id, is_new: is_new == 1 });
            }
        }
        Ok(answers)
    }

    pub(super) async fn change_job(&self, id: &JobId, change: &Change) -> Result<State> {
        let (verb, by, fresh) = match change {
            Change::Cancel { by } => ("cancel", by.as_str(), false),
            Change::Retry { fresh } => ("retry", "a person", *fresh),
            Change::Delete => ("delete", "a person", false),
        };
        let call =
            self.call(&scripts::CHANGE).arg(id.as_str()).arg(verb).arg(by).arg(u8::from(fresh));
        let answer: String = self.run(call).await?;
        match answer.as_str() {
            "!unknown" => Err(Error::NotFound(id.to_string())),
            "!not ended" => {
                let state = match self.record(id).await? {
                    Some(job) => job.state,
                    None => return Err(Error::NotFound(id.to_string())),
                };
                let problem = "it has not ended; cancel it first";
                Err(Error::Conflict { id: id.clone(), state, problem })
            }
            word => word.parse().map_err(|_| Error::Corrupt(format!("state {word:?}"))),
        }
    }

    pub(super) async fn control_fleet(&self, control: &Control) -> Result<()> {
        let (verb, first, second) = match control {
            Control::Pause { by } => ("pause", by.clone(), String::new()),
            Control::Resume => ("resume", String::new(), String::new()),
            Control::Limit { profile, running } => (
                "limit",
                profile.clone().unwrap_or_default(),
                running.map(|most| most.to_string()).unwrap_or_default(),
            ),
            Control::Drain { worker, within } => {
                ("drain", worker.to_string(), millis(*within).to_string())
            }
            Control::Leave { worker } => ("leave", worker.to_string(), String::new()),
        };
        let call = self.call(&scripts::CONTROL).arg(verb).arg(&first).arg(second);
        match self.run::<String>(call).await?.as_str() {
            "!unknown" => Err(Error::NotFound(format!("worker {first}"))),
            _ => Ok(()),
        }
    }

    pub(super) async fn bad_tickets(&self, action: &BadAction) -> Result<Vec<BadTicket>> {
        let (verb, ids) = match action {
            BadAction::List => {
                let mut command = redis::cmd("LRANGE");
                command.arg(self.keys.of("bad")).arg(0).arg(-1);
                let elements: Vec<Vec<u8>> = self.ask(&command).await?;
                return elements.iter().map(|element| bad_ticket(element)).collect();
            }
            BadAction::Requeue(ids) => ("requeue", ids),
            BadAction::Drop(ids) => ("drop", ids),
        };
        let mut call = self.call(&scripts::BAD).arg(verb);
        for id in ids {
            call.push(id);
        }
        let elements: Vec<Vec<u8>> = self.run(call).await?;
        elements.iter().map(|element| bad_ticket(element)).collect()
    }

    pub(super) async fn sweep_history(&self, dry_run: bool) -> Result<Sweep> {
        let mut sweep = Sweep::default();
        let lost: Vec<WorkerRecord> = self
            .read_workers()
            .await?
            .into_iter()
            .filter(|worker| worker.is_lost && worker.running == 0)
            .collect();
        sweep.workers = lost.len() as u64;
        loop {
            let count: u64 = self.run(self.call(&scripts::SWEEP).arg(u8::from(dry_run))).await?;
            sweep.records += count;
            if dry_run || count == 0 {
                break;
            }
        }
        if !dry_run {
            for worker in lost {
                // Not `leave`: it may have come back and claimed since it was read.
                let call = self.call(&scripts::CONTROL).arg("forget").arg(worker.id.as_str());
                self.run::<String>(call.arg("")).await?;
            }
        }
        Ok(sweep)
    }
}

/// `<number> <milliseconds> <reason>\n<bytes>`, as `adopt.lua` writes it.
fn bad_ticket(element: &[u8]) -> Result<BadTicket> {
    let corrupt = || Error::Corrupt("an entry of the list of bad tickets".into());
    let line = element.iter().position(|byte| *byte == b'\n').ok_or_else(corrupt)?;
    let head = String::from_utf8_lossy(&element[..line]);
    let mut words = head.splitn(3, ' ');
    let (Some(id), Some(at), Some(reason)) = (words.next(), words.next(), words.next()) else {
        return Err(corrupt());
    };
    Ok(BadTicket {
        id: id.to_owned(),
        at_ms: at.parse().map_err(|_| corrupt())?,
        reason: reason.to_owned(),
        bytes: element[line + 1..].to_vec(),
    })
}
