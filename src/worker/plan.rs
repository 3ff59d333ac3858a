//! From what was asked to what is run: profile, rules, limits, environment.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::Settings;
use crate::core::{JobSpec, Profile, RetryPolicy, profile};
use crate::store::Claimed;

/// Wall clock limit of jobs for which nobody names one.
const TIMEOUT_S: u64 = 3600;
/// Variables of the worker that its jobs get. Everything else would be a leak.
const PASSED_ON: [&str; 3] = ["PATH", "LANG", "TZ"];

/// What is settled of an attempt before anything is started.
#[derive(Debug)]
pub(super) struct Plan {
    pub argv: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub timeout: Duration,
    pub retry: RetryPolicy,
}

/// Decides how to run a job. The error says why it is not run at all.
pub(super) fn make(settings: &Settings, spec: &JobSpec) -> Result<Plan, String> {
    let name = spec.profile_name().or(settings.default_profile.as_deref()).ok_or_else(|| {
        format!(
            "the job names no profile and brings no command, and this worker has no default \
             profile; name one of: {}",
            known(settings)
        )
    })?;
    let without_settings = Profile::default();
    let profile = match settings.profiles.get(name) {
        Some(profile) => profile,
        None if name == profile::COMMAND => &without_settings,
        None => return Err(format!("unknown profile {name:?}; known here: {}", known(settings))),
    };
    settings.policy.check(spec, name).map_err(|refusal| refusal.to_string())?;
    let argv = if spec.command.is_empty() { &profile.command } else { &spec.command };
    if argv.is_empty() {
        return Err(format!("profile {name:?} runs the job's own `command`, and there is none"));
    }
    let ceiling = settings.policy.max_timeout_s;
    let asked = spec.timeout_s.or(profile.timeout_s).or(ceiling).unwrap_or(TIMEOUT_S);
    // The exit code of a plain command is its answer; an agent that failed may do better next time.
    let usual = if spec.command.is_empty() { settings.retry.max_attempts } else { 1 };
    let attempts = spec.max_attempts.or(profile.max_attempts).unwrap_or(usual);
    let env = profile.env.iter().chain(&spec.env);
    Ok(Plan {
        argv: argv.clone(),
        env: env.map(|(name, value)| (name.clone(), value.clone())).collect(),
        timeout: Duration::from_secs(asked.min(ceiling.unwrap_or(u64::MAX))),
        retry: RetryPolicy {
            max_attempts: attempts.min(settings.policy.max_attempts.unwrap_or(u32::MAX)),
            ..settings.retry
        },
    })
}

fn known(settings: &Settings) -> String {
    let mut names: Vec<&str> = settings.profiles.keys().map(String::as_str).collect();
    if !names.contains(&profile::COMMAND) {
        names.push(profile::COMMAND);
    }
    names.join(", ")
}

/// The whole environment of the process. `own` is the profile's and the job's; what the worker
/// says in `SORTIE_…` outweighs it.
pub(super) fn environment(
    own: &BTreeMap<String, String>,
    spec: &JobSpec,
    claimed: &Claimed,
    dir: &Path,
    prompt: Option<&Path>,
) -> BTreeMap<String, String> {
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let mut env: BTreeMap<String, String> = PASSED_ON
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)))
        .collect();
    let mut set = |name: &str, value: String| env.insert(name.to_owned(), value);
    set("HOME", path(&dir.join("home")));
    set("TMPDIR", path(&dir.join("tmp")));
    set("TERM", "dumb".into());
    set("NO_COLOR", "1".into());
    for (name, value) in own {
        set(name, value.clone());
    }
    set("SORTIE_JOB_ID", claimed.token.id.to_string());
    set("SORTIE_ATTEMPT", claimed.counters.attempt.to_string());
    set("SORTIE_FENCE", claimed.token.fence.to_string());
    let optional = [
        ("SORTIE_REPO", spec.repo.clone()),
        ("SORTIE_REF", spec.reference.clone()),
        ("SORTIE_AGENT", spec.agent.clone()),
        ("SORTIE_MODEL", spec.model.clone()),
        ("SORTIE_PROMPT_FILE", prompt.map(path)),
    ];
    for (name, value) in optional {
        match value {
            Some(value) => env.insert(name.to_owned(), value),
            None => env.remove(name),
        };
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Policy;

    fn plan(json: &str, change: impl FnOnce(&mut Settings)) -> Result<Plan, String> {
        let claude = Profile {
            command: vec!["claude".into(), "-p".into()],
            env: BTreeMap::from([("A".into(), "profile".into()), ("B".into(), "profile".into())]),
            timeout_s: Some(60),
            max_attempts: Some(5),
        };
        let mut settings = Settings::default();
        settings.profiles.insert("claude".into(), claude);
        change(&mut settings);
        make(&settings, &JobSpec::from_json(json.as_bytes()).unwrap())
    }

    #[test]
    fn the_job_outweighs_its_profile_and_the_policy_both() {
        let ours = plan(r#"{"prompt":"x","profile":"claude","env":{"A":"job"}}"#, |_| ()).unwrap();
        assert_eq!(ours.argv, ["claude", "-p"]);
        assert_eq!((ours.env["A"].as_str(), ours.env["B"].as_str()), ("job", "profile"));
        assert_eq!((ours.timeout.as_secs(), ours.retry.max_attempts), (60, 5));
        let theirs = plan(
            r#"{"prompt":"x","profile":"claude","timeout_s":9,"max_attempts":2}"#,
            |settings| {
                settings.policy =
                    Policy { max_attempts: Some(2), max_timeout_s: Some(30), ..Policy::default() };
            },
        )
        .unwrap();
        assert_eq!((theirs.timeout.as_secs(), theirs.retry.max_attempts), (9, 2));
        let ceiling = plan(r#"{"prompt":"x","profile":"claude"}"#, |settings| {
            settings.policy.max_timeout_s = Some(30);
        });
        assert_eq!(ceiling.unwrap().timeout.as_secs(), 30);
    }

    #[test]
    fn a_refusal_says_what_is_known_or_which_rule_it_breaks() {
        let unknown = plan(r#"{"prompt":"x","profile":"codex"}"#, |_| ()).unwrap_err();
        assert!(unknown.contains("codex") && unknown.contains("claude, command"), "{unknown}");
        let unnamed = plan(r#"{"prompt":"x"}"#, |_| ()).unwrap_err();
        assert!(unnamed.contains("default profile"), "{unnamed}");
        let default = plan(r#"{"prompt":"x"}"#, |settings| {
            settings.default_profile = Some("claude".into());
        });
        assert_eq!(default.unwrap().argv, ["claude", "-p"]);
        let policy = plan(r#"{"command":["true"]}"#, |settings| settings.policy.command = false);
        assert!(policy.unwrap_err().contains("`command`"));
        let empty = plan(r#"{"prompt":"x","profile":"command"}"#, |_| ()).unwrap_err();
        assert!(empty.contains("there is none"), "{empty}");
    }
}
