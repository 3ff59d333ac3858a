//! Who this worker is, so that others can tell whether it is still alive.

use std::fs;

use crate::core::WorkerId;
use crate::store::WorkerRecord;

use super::Settings;

/// Identity of the host and of the process namespace: two processes with the same one see each
/// other's process ids. Empty where the system does not tell.
#[must_use]
pub fn host() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let namespace = fs::read_link("/proc/self/ns/pid");
    match (boot, namespace) {
        (Ok(boot), Ok(namespace)) => format!("{}/{}", boot.trim(), namespace.display()),
        _ => String::new(),
    }
}

/// What the fleet is told of this process.
pub(super) fn record(settings: &Settings) -> WorkerRecord {
    let pid = std::process::id();
    WorkerRecord {
        id: WorkerId::boot(&settings.name),
        ordinal: if settings.exclusive { ordinal(&settings.name) } else { None },
        exclusive: settings.exclusive,
        slots: settings.slots,
        running: 0,
        draining: false,
        quarantine: None,
        version: env!("CARGO_PKG_VERSION").into(),
        host: host(),
        pid,
        pid_started: started(pid).unwrap_or(0),
        started_at_ms: 0,
        silent_ms: 0,
        is_lost: false,
    }
}

/// Workers of this host whose process is gone.
pub(super) fn dead_peers(me: &WorkerRecord, workers: &[WorkerRecord]) -> Vec<WorkerId> {
    workers
        .iter()
        .filter(|peer| !me.host.is_empty() && peer.host == me.host && peer.id != me.id)
        .filter(|peer| started(peer.pid) != Some(peer.pid_started))
        .map(|peer| peer.id.clone())
        .collect()
}

/// The number of the pod in its StatefulSet: `-7` at the end of its name.
fn ordinal(name: &str) -> Option<u32> {
    name.rsplit_once('-').and_then(|(_, number)| number.parse().ok())
}

/// When a process started, in clock ticks since boot; `None` when it is gone or only waits for its
/// parent to take note of its end.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may contain anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ordinal_is_the_number_at_the_end_of_the_name() {
        assert_eq!(ordinal("sortie-12"), Some(12));
        assert_eq!(ordinal("sortie"), None);
        assert_eq!(ordinal("sortie-a"), None);
    }

    #[test]
    fn a_peer_is_dead_when_its_process_is_gone_or_another_one() {
        let settings = Settings { name: "pod-0".into(), exclusive: true, ..Settings::default() };
        let me = record(&settings);
        assert_eq!(me.ordinal, Some(0));
        let alive = record(&settings);
        let mut reused = record(&settings);
        reused.pid_started -= 1;
        let mut elsewhere = reused.clone();
        elsewhere.host = "another".into();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let mut gone = record(&settings);
        gone.pid = child.id();
        gone.pid_started = started(child.id()).unwrap_or(1);
        child.wait().unwrap();
        let workers = [me.clone(), alive, reused.clone(), elsewhere, gone.clone()];
        assert_eq!(dead_peers(&me, &workers), [reused.id, gone.id]);
    }
}
