//! The Redis store under attack: pushes that are almost jobs, packets that arrive late or twice, keys
//! that somebody meddled with, and queues that are far too long. What is promised is in
//! `src/store/mod.rs`; here somebody tries to make it untrue.

#![expect(unreachable_pub, reason = "the parts of one test program, not an interface")]

mod support;

#[path = "store_hostile/bulk.rs"]
mod bulk;
#[path = "store_hostile/caps.rs"]
mod caps;
#[path = "store_hostile/packets.rs"]
mod packets;
#[path = "store_hostile/pushes.rs"]
mod pushes;
#[path = "store_hostile/rig.rs"]
mod rig;
#[path = "store_hostile/upkeep.rs"]
mod upkeep;
