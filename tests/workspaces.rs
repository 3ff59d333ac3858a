//! Workspaces, with a real git: pools that survive crashes, and agents that hurt nobody.
//!
//! Two `Git`s over one directory of pools stand for two pods.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]
#![expect(unreachable_pub, reason = "`world` is shared by the modules of this binary only")]

#[path = "workspaces/agents.rs"]
mod agents;
#[path = "workspaces/crashes.rs"]
mod crashes;
#[path = "workspaces/pools.rs"]
mod pools;
#[path = "workspaces/results.rs"]
mod results;
#[path = "workspaces/world.rs"]
mod world;

use std::time::Duration;

const NOW: Duration = Duration::ZERO;
const LONG: Duration = Duration::from_hours(1);
