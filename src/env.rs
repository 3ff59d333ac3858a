//! Every environment variable that Sortie reads or sets, by name. `docs/environment.md`, `sortie
//! help environment`, `sortie config` and the keys of the configuration file all come from here.

/// One setting: a flag, an environment variable and a key of the configuration file.
#[derive(Debug, PartialEq, Eq)]
pub struct Variable {
    pub name: &'static str,
    /// Another name, asked when the first is not set.
    pub also: Option<&'static str>,
    /// Key in the configuration file; `worker.slots` is `slots` in the table `[worker]`.
    pub key: &'static str,
    /// The flag that sets it, or nothing.
    pub flag: &'static str,
    /// As it would be written; empty: none.
    pub default: &'static str,
    pub meaning: &'static str,
}

const fn variable(
    name: &'static str,
    key: &'static str,
    flag: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> Variable {
    Variable { name, also: None, key, flag, default, meaning }
}

pub const REDIS: Variable = Variable {
    name: "SORTIE_REDIS_URL",
    also: Some("REDIS_URL"),
    key: "redis",
    flag: "--redis",
    default: "redis://127.0.0.1:6379",
    meaning: "where the queue is: a redis://, rediss://, unix:// or redis+sentinel:// URL",
};
pub const QUEUE: Variable = variable(
    "SORTIE_QUEUE",
    "queue",
    "--queue",
    "sortie:queue",
    "name of the list in which jobs wait",
);
pub const COLOR: Variable =
    variable("SORTIE_COLOR", "color", "--color", "auto", "colours in text: auto, always or never");
pub const ALLOW_EVICTION: Variable = variable(
    "SORTIE_ALLOW_EVICTION",
    "allow-eviction",
    "",
    "false",
    "use a Redis whose eviction policy may lose jobs",
);
pub const JOB_TTL: Variable =
    variable("SORTIE_JOB_TTL", "job-ttl", "", "1d", "how long an ended job is kept");
pub const DEAD_TTL: Variable =
    variable("SORTIE_DEAD_TTL", "dead-ttl", "", "30d", "how long a dead job is kept");
pub const HISTORY: Variable =
    variable("SORTIE_HISTORY", "history", "", "1000000", "most ended jobs that are kept");

pub const REPO: Variable =
    variable("SORTIE_REPO", "submit.repo", "--repo", "", "repository of submitted jobs");
pub const REFERENCE: Variable =
    variable("SORTIE_REF", "submit.ref", "--ref", "", "branch, tag or commit to start from");
pub const PROFILE: Variable =
    variable("SORTIE_PROFILE", "submit.profile", "--profile", "", "profile of submitted jobs");
pub const AGENT: Variable =
    variable("SORTIE_AGENT", "submit.agent", "--agent", "", "agent of submitted jobs");
pub const MODEL: Variable =
    variable("SORTIE_MODEL", "submit.model", "--model", "", "model of submitted jobs");
pub const TIMEOUT: Variable =
    variable("SORTIE_TIMEOUT", "submit.timeout", "--timeout", "", "wall clock limit of an attempt");
pub const MAX_ATTEMPTS: Variable = variable(
    "SORTIE_MAX_ATTEMPTS",
    "submit.max-attempts",
    "--max-attempts",
    "",
    "failures a job may be blamed for before it is dead",
);
pub const PRIORITY: Variable =
    variable("SORTIE_PRIORITY", "submit.priority", "--priority", "0", "-10 to 10, higher first");
pub const PUBLISH: Variable = variable(
    "SORTIE_PUBLISH",
    "submit.publish",
    "--publish",
    "",
    "what happens to the commits: none or branch",
);

pub const SLOTS: Variable =
    variable("SORTIE_SLOTS", "worker.slots", "--slots", "3", "jobs that a worker runs at a time");
pub const NAME: Variable = variable(
    "POD_NAME",
    "worker.name",
    "--name",
    "",
    "name of the worker, of which only one process may live; without it the host's name",
);
pub const POLICY: Variable =
    variable("SORTIE_POLICY", "worker.policy", "--policy", "", "file with the worker's rules");
pub const PROFILES: Variable = variable(
    "SORTIE_PROFILES",
    "worker.profiles",
    "--profiles",
    "",
    "directory with one NAME.toml for each profile",
);
pub const DEFAULT_PROFILE: Variable = variable(
    "SORTIE_DEFAULT_PROFILE",
    "worker.default-profile",
    "--default-profile",
    "",
    "profile of jobs that name none",
);
pub const WORKTREES: Variable = variable(
    "SORTIE_WORKTREES",
    "worker.worktrees",
    "--worktrees",
    "",
    "directory for the jobs' checkouts",
);
pub const SHARED: Variable = variable(
    "SORTIE_SHARED",
    "worker.shared",
    "--shared",
    "",
    "directory for the clones that workers share",
);
pub const DRAIN_TIMEOUT: Variable = variable(
    "SORTIE_DRAIN_TIMEOUT",
    "worker.drain-timeout",
    "--drain-timeout",
    "270s",
    "how long a drain may take in all",
);
pub const GRACE: Variable = variable(
    "SORTIE_GRACE",
    "worker.grace",
    "--grace",
    "10s",
    "time a process has between a polite signal and SIGKILL",
);
pub const LEASE: Variable = variable(
    "SORTIE_LEASE",
    "worker.lease",
    "--lease",
    "30s",
    "life of a job's lease that is not renewed",
);
pub const BEAT: Variable =
    variable("SORTIE_BEAT", "worker.beat", "--beat", "5s", "time between two heartbeats");
pub const FREEZE_MARGIN: Variable = variable(
    "SORTIE_FREEZE_MARGIN",
    "worker.freeze-margin",
    "--freeze-margin",
    "3s",
    "so long before its lease ends a job is frozen",
);
pub const RETRY_BASE: Variable = variable(
    "SORTIE_RETRY_BASE",
    "worker.retry-base",
    "--retry-base",
    "10s",
    "first delay before a failed job runs again",
);
pub const RETRY_CAP: Variable = variable(
    "SORTIE_RETRY_CAP",
    "worker.retry-cap",
    "--retry-cap",
    "10m",
    "longest delay before a failed job runs again",
);
pub const LOG_FORMAT: Variable = variable(
    "SORTIE_LOG_FORMAT",
    "worker.log-format",
    "--log-format",
    "auto",
    "log lines of the worker: auto, text or json",
);
pub const LOG: Variable = variable(
    "SORTIE_LOG",
    "worker.log",
    "",
    "info",
    "what the worker logs: error, warn, info, debug, trace, or target=level,…",
);

/// All settings, in the order in which people look for them.
pub const SETTINGS: &[&Variable] = &[
    &REDIS,
    &QUEUE,
    &COLOR,
    &ALLOW_EVICTION,
    &JOB_TTL,
    &DEAD_TTL,
    &HISTORY,
    &REPO,
    &REFERENCE,
    &PROFILE,
    &AGENT,
    &MODEL,
    &TIMEOUT,
    &MAX_ATTEMPTS,
    &PRIORITY,
    &PUBLISH,
    &SLOTS,
    &NAME,
    &POLICY,
    &PROFILES,
    &DEFAULT_PROFILE,
    &WORKTREES,
    &SHARED,
    &DRAIN_TIMEOUT,
    &GRACE,
    &LEASE,
    &BEAT,
    &FREEZE_MARGIN,
    &RETRY_BASE,
    &RETRY_CAP,
    &LOG_FORMAT,
    &LOG,
];

/// Path of the configuration file.
pub const CONFIG: &str = "SORTIE_CONFIG";
/// Set to anything: no colours, unless `--color always` is given.
pub const NO_COLOR: &str = "NO_COLOR";

/// Variables that are no settings: name and meaning.
pub const OTHERS: &[(&str, &str)] = &[
    (CONFIG, "path of the configuration file; default `~/.config/sortie/config.toml`"),
    ("XDG_CONFIG_HOME", "directory used in place of `~/.config`"),
    (NO_COLOR, "set to anything: no colours in text"),
];

/// What a job's process finds in its environment, beside what its profile and the job itself set.
pub const OF_JOBS: &[(&str, &str)] = &[
    ("SORTIE_JOB_ID", "id of the job"),
    ("SORTIE_ATTEMPT", "number of the attempt, from 1"),
    ("SORTIE_FENCE", "number that grows with every attempt of the job"),
    ("SORTIE_REPO", "repository of the job, where it has one"),
    ("SORTIE_REF", "what the job asked to start from, where it did"),
    ("SORTIE_AGENT", "agent the job asked for, where it did"),
    ("SORTIE_MODEL", "model the job asked for, where it did"),
    ("SORTIE_PROMPT_FILE", "file with the prompt, which is also on standard input"),
    ("HOME", "private directory that is removed after the attempt"),
    ("TMPDIR", "private directory that is removed after the attempt"),
    ("PATH, LANG, TZ", "those of the worker"),
    ("TERM, NO_COLOR", "`dumb` and `1`"),
];

/// The reference page, in Markdown.
#[must_use]
pub fn reference() -> String {
    let code = |text: &str| if text.is_empty() { String::new() } else { format!("`{text}`") };
    let settings = SETTINGS.iter().map(|setting| {
        let also = setting.also.map(|name| format!(", `{name}`")).unwrap_or_default();
        let Variable { name, flag, key, default, meaning, .. } = setting;
        let (flag, default) = (code(flag), code(default));
        format!("| `{name}`{also} | {flag} | `{key}` | {default} | {meaning} |")
    });
    let table = |rows: &[(&str, &str)]| {
        let rows = rows.iter().map(|(name, meaning)| format!("| `{name}` | {meaning} |"));
        format!("| Variable | Meaning |\n| --- | --- |\n{}", rows.collect::<Vec<_>>().join("\n"))
    };
    format!(
        "# Environment\n\n\
         A flag wins over the environment, the environment over the configuration file\n\
         (`~/.config/sortie/config.toml`), the file over the default. An empty variable counts as\n\
         not set. `sortie config` shows every setting and where its value comes from.\n\n\
         ## Settings\n\n\
         | Variable | Flag | Key in the file | Default | Meaning |\n\
         | --- | --- | --- | --- | --- |\n\
         {}\n\n## Other variables\n\n{}\n\n## In a job's process\n\n{}\n",
        settings.collect::<Vec<_>>().join("\n"),
        table(OTHERS),
        table(OF_JOBS),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_page_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/environment.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, reference()).unwrap();
        }
        let published = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(published, reference(), "run the tests with UPDATE_DOCS=1 and commit the file");
    }

    #[test]
    fn every_setting_has_a_name_and_a_key_of_its_own() {
        for (index, setting) in SETTINGS.iter().enumerate() {
            for other in &SETTINGS[index + 1..] {
                assert!(setting.name != other.name && setting.key != other.key, "{other:?}");
            }
        }
    }
}
