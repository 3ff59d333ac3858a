//! Connections to Redis, against real servers: each kind of address, each way in which a server cannot
//! be used and what a person is told of it, and each fault that passes while a worker goes on.

#![expect(unreachable_pub, reason = "the parts of one test program, not an interface")]
#![expect(clippy::unwrap_used, reason = "a call that must not fail fails its test")]

mod support;

#[path = "connections/acl.rs"]
mod acl;
#[path = "connections/addresses.rs"]
mod addresses;
#[path = "connections/bench.rs"]
mod bench;
#[path = "connections/faults.rs"]
mod faults;
#[path = "connections/refusals.rs"]
mod refusals;
#[path = "connections/sentinel.rs"]
mod sentinel;
#[path = "connections/short.rs"]
mod short;
#[path = "connections/waits.rs"]
mod waits;
