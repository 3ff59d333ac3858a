//! Numbers, times and jobs as people read them.

use crate::core::{Job, JobId, State};

/// A length of time with its two largest units: `3m12s`, `2h05m`, `4d`.
pub(super) fn length(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms}ms"),
        1..=9 => format!("{seconds}.{}s", ms % 1000 / 100),
        10..=59 => format!("{seconds}s"),
        60..=3_599 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3_600..=86_399 => format!("{}h{:02}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// How long ago, without fractions: `12s`, `3m`, `5h`, `4d`.
pub(super) fn age(now_ms: u64, then_ms: u64) -> String {
    let seconds = now_ms.saturating_sub(then_ms) / 1000;
    match seconds {
        0..=59 => format!("{seconds}s"),
        60..=3_599 => format!("{}m", seconds / 60),
        3_600..=86_399 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// How old a job is; not known of a push that no worker has opened yet.
pub(super) fn age_of(now_ms: u64, job: &Job) -> Option<String> {
    (job.created_at_ms > 0).then(|| age(now_ms, job.created_at_ms))
}

/// A number of bytes: `812 B`, `12.3 kB`, `4.0 MB`.
pub(super) fn bytes(count: u64) -> String {
    let (unit, size) = match count {
        0..=999 => return format!("{count} B"),
        1_000..=999_999 => ("kB", 1_000),
        1_000_000..=999_999_999 => ("MB", 1_000_000),
        _ => ("GB", 1_000_000_000),
    };
    format!("{}.{} {unit}", count / size, count % size * 10 / size)
}

/// The id as a person types it: random ids shortened, chosen ones whole.
pub(super) fn id(id: &JobId) -> &str {
    let text = id.as_str();
    let is_random = text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    if is_random { id.short() } else { text }
}

/// How long the newest attempt has run, or the whole job took.
pub(super) fn run(now_ms: u64, job: &Job) -> Option<String> {
    let end = match job.state {
        State::Running => now_ms,
        _ => job.finished_at_ms?,
    };
    Some(length(end.saturating_sub(job.started_at_ms?)))
}

/// `2/3`: attempts begun, of those allowed where the job says so; `4`: more than that, because what
/// a job is not blamed for, and what came before a retry, is not counted against it.
pub(super) fn attempts(job: &Job) -> String {
    match job.spec.max_attempts {
        Some(most) if job.counters.attempt <= most => format!("{}/{most}", job.counters.attempt),
        _ => job.counters.attempt.to_string(),
    }
}

/// What happens to a job now, or came out of it, in one line.
pub(super) fn now_or_result(now_ms: u64, job: &Job) -> String {
    let because = |word: &str| match &job.result.message {
        Some(message) => format!("{word}: {}", one_line(message)),
        None => word.to_owned(),
    };
    match job.state {
        State::Queued | State::Deferred | State::Waiting => {
            let due = job.due_at_ms.filter(|due| *due > now_ms);
            let mut words = Vec::new();
            if let Some(fault) = job.fault {
                words.push(format!("after {}", because(fault.as_str())));
            }
            match (due, &job.held_by) {
                (Some(due), _) => words.push(format!("due in {}", length(due - now_ms))),
                (None, Some(cap)) => words.push(format!("held by {cap}")),
                (None, None) => {}
            }
            words.join(", ")
        }
        State::Running => match &job.cancel {
            Some(by) => format!("cancel asked for by {by}"),
            None => String::new(),
        },
        State::Succeeded => {
            let mut words = Vec::new();
            words.extend(job.result.branch.as_ref().map(|branch| format!("branch {branch}")));
            words.extend(job.result.changes.clone().filter(|changes| changes != "none"));
            words.join(", ")
        }
        State::Canceled => match &job.cancel {
            Some(by) => format!("by {by}"),
            None => String::new(),
        },
        State::Failed | State::Dead | State::Rejected => match job.fault {
            Some(fault) => because(fault.as_str()),
            None => job.result.message.as_deref().map(one_line).unwrap_or_default(),
        },
    }
}

/// The first line, without control characters: what jobs report must not steer a terminal.
pub(super) fn one_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).collect()
}

/// `1 job`, `2 jobs`.
pub(super) fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes() {
        let lengths: Vec<_> = [7, 1_250, 59_999, 72_000, 7_500_000, 172_800_000].map(length).into();
        assert_eq!(lengths, ["7ms", "1.2s", "59s", "1m12s", "2h05m", "2d"]);
        assert_eq!(age(200_000, 10_000), "3m");
        assert_eq!(age(0, 5), "0s");
        assert_eq!([999, 12_345, 4_000_000].map(bytes), ["999 B", "12.3 kB", "4.0 MB"]);
    }

    #[test]
    fn only_random_ids_are_shortened() {
        let random = JobId::random();
        assert_eq!(id(&random), random.short());
        let chosen = "nightly-2026-01-31".parse().unwrap();
        assert_eq!(id(&chosen), "nightly-2026-01-31");
    }

    #[test]
    fn reports_cannot_steer_the_terminal() {
        assert_eq!(one_line("a\x1b[31mb\nc"), "a[31mb");
    }
}
