//! What people do to the jobs of the model.

use sortie::core::State;

use crate::model::Model;
use crate::record::{Cap, JobNumber, Place, Refusal, Region, Ticket};

impl Model {
    pub fn limit_profile(&mut self, limit: Option<usize>) {
        self.profile_limit = limit;
        let mut promised = 0;
        while self.unpark(Cap::Profile, promised) {
            promised += 1;
        }
    }

    pub fn cancel(&mut self, number: JobNumber) -> Result<State, Refusal> {
        let Some(job) = self.jobs.get_mut(&number) else { return self.cancel_unopened(number) };
        if job.place == Place::Ended {
            return Ok(job.state);
        }
        job.is_cancel_wanted = true;
        if job.place == Place::Running {
            return Ok(State::Running);
        }
        let was = job.place;
        let caps: Vec<Cap> = job.caps().collect();
        self.end(number, State::Canceled);
        match was {
            Place::Pending => {
                self.remove_ticket();
                for cap in caps {
                    self.offer(cap);
                }
            }
            Place::Parked(cap) if self.parked(cap).is_none() => drop(self.parks.remove(&cap)),
            _ => {}
        }
        Ok(State::Canceled)
    }

    /// Any one that stands for a pending job: the last ticket if it does, else the first such one.
    fn remove_ticket(&mut self) {
        if matches!(self.queue.back(), Some(Ticket::Dot)) {
            self.queue.pop_back();
        } else {
            let first = self.queue.iter().position(|ticket| matches!(ticket, Ticket::Dot));
            self.queue.remove(first.expect("a pending job has a ticket"));
        }
    }

    fn cancel_unopened(&mut self, number: JobNumber) -> Result<State, Refusal> {
        let is_it = |ticket: &Ticket| matches!(ticket, Ticket::Raw(spec) if spec.job == number);
        let at = self.queue.iter().position(is_it).ok_or(Refusal::NotFound)?;
        let Some(Ticket::Raw(spec)) = self.queue.remove(at) else { unreachable!("found above") };
        if self.create(&spec, Region::Raw).1 {
            self.end(number, State::Canceled);
            self.job(number).is_cancel_wanted = true;
        }
        Ok(State::Canceled)
    }

    pub fn retry(&mut self, number: JobNumber) -> Result<State, Refusal> {
        let job = self.jobs.get(&number).ok_or(Refusal::NotFound)?;
        match (job.place, job.state) {
            (Place::Ended, _) => {}
            (_, State::Queued) => return Ok(State::Queued),
            _ => return Err(Refusal::Conflict),
        }
        self.sequence += 1;
        let sequence = self.sequence;
        let job = self.job(number);
        (job.charged, job.lost, job.is_cancel_wanted) = (0, 0, false);
        job.sequence = sequence;
        self.enqueue(number, Region::Normal);
        Ok(State::Queued)
    }

    pub fn delete(&mut self, number: JobNumber) -> Result<State, Refusal> {
        let job = self.jobs.get(&number).ok_or(Refusal::NotFound)?;
        if job.place != Place::Ended {
            return Err(Refusal::Conflict);
        }
        let state = job.state;
        if let Some(key) = job.spec.idempotency {
            self.idempotency.remove(&key);
        }
        self.jobs.remove(&number);
        Ok(state)
    }
}
