//! The scripts: one per transition, each a file in `lua/` behind the shared `prelude.lua`. A script's
//! SHA-1 is its version, so workers of different versions can share a queue.

use std::sync::LazyLock;

use redis::{Cmd, ToRedisArgs};

use super::keys::Keys;
use crate::store::Terms;

macro_rules! script {
    ($name:ident, $($file:literal),+) => {
        pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(concat!(include_str!("lua/prelude.lua"), $(include_str!($file)),+)));
    };
}

script!(SUBMIT, "lua/adopt.lua", "lua/submit.lua");
script!(EXCHANGE, "lua/upkeep.lua", "lua/adopt.lua", "lua/exchange.lua");
script!(BEAT, "lua/upkeep.lua", "lua/beat.lua");
script!(REGISTER, "lua/upkeep.lua", "lua/register.lua");
script!(APPEND, "lua/append.lua");
script!(LOCK, "lua/lock.lua");
script!(CHANGE, "lua/adopt.lua", "lua/change.lua");
script!(CONTROL, "lua/upkeep.lua", "lua/control.lua");
script!(BAD, "lua/bad.lua");
script!(SWEEP, "lua/upkeep.lua", "lua/sweep.lua");
script!(FSCK, "lua/fsck.lua");

/// A script and the SHA-1 under which a server knows it.
pub(super) struct Script {
    pub(super) code: &'static str,
    hash: String,
}

impl Script {
    fn new(code: &'static str) -> Self {
        Self { code, hash: redis::Script::new(code).get_hash().to_owned() }
    }
}

/// One call of a script, to be sent as often as it takes.
pub(super) struct Call {
    pub(super) script: &'static Script,
    pub(super) command: Cmd,
}

impl Call {
    /// A call with the arguments that every script has: the two keys and the terms.
    pub(super) fn new(script: &'static LazyLock<Script>, keys: &Keys, terms: &Terms) -> Self {
        let script: &'static Script = script;
        let mut command = redis::cmd("EVALSHA");
        command.arg(&script.hash).arg(2).arg(&keys.queue).arg(keys.of("meta"));
        command.arg(millis(terms.lease)).arg(millis(terms.job_ttl));
        command.arg(format!("{} {}", millis(terms.dead_ttl), terms.history));
        Self { script, command }
    }

    pub(super) fn arg(mut self, argument: impl ToRedisArgs) -> Self {
        self.command.arg(argument);
        self
    }

    pub(super) fn push(&mut self, argument: impl ToRedisArgs) {
        self.command.arg(argument);
    }
}

pub(super) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
