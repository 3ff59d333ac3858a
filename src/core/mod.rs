//! Layer 0: the domain. No I/O, no clock, no runtime; everything here is data and decisions.
//!
//! A **job** is the durable record of one request ([`JobSpec`] is what was asked, [`Job`] what
//! became of it). An **attempt** is one lease of one job by one worker; its **fence** is the number
//! that makes every late write of an older attempt refusable. A **fault** says why an attempt did
//! not succeed, and [`retry`] turns a fault into what happens next.

pub mod event;
pub mod id;
pub mod job;
pub mod policy;
pub mod profile;
pub mod retry;
pub mod spec;

pub use event::Event;
pub use id::{Fence, JobId, WorkerId};
pub use job::{AttemptResult, Counters, Fault, Job, State};
pub use policy::Policy;
pub use profile::Profile;
pub use retry::{Next, RetryPolicy};
pub use spec::{JobSpec, Publish, SpecError};
