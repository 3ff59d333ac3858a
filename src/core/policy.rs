//! A worker's rules: what it refuses to run, whoever pushed it.

use serde::Deserialize;

use super::JobSpec;

/// Rules from `sortie worker --policy FILE`. Without a file everything is allowed that the worker
/// can do, but no plain-http repository.
///
/// ```toml
/// repos = ["https://github.com/acme/*", "git@github.com:acme/*"]
/// profiles = ["claude", "codex-*"]
/// command = false          # no job may bring a command of its own
/// max_timeout_s = 7200
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a rule of its own in the file")]
pub struct Policy {
    /// Patterns of repositories that may be checked out; `*` stands for any characters. Jobs
    /// without a repository are not concerned.
    pub repos: Vec<String>,
    /// Patterns of profiles that may be used.
    pub profiles: Vec<String>,
    /// Whether a job may bring a `command` of its own.
    pub command: bool,
    /// Whether a repository may be a path on the worker's own disk.
    pub local_repos: bool,
    /// Whether a repository may be fetched over unencrypted http.
    pub http_repos: bool,
    /// Whether a job may set environment variables.
    pub env: bool,
    /// Longest wall clock limit a job may ask for, and the limit of jobs that ask for none.
    pub max_timeout_s: Option<u64>,
    /// Most attempts a job may ask for.
    pub max_attempts: Option<u32>,
    /// Highest priority a job may ask for.
    pub max_priority: Option<i64>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            repos: vec!["*".into()],
            profiles: vec!["*".into()],
            command: true,
            local_repos: true,
            http_repos: false,
            env: true,
            max_timeout_s: None,
            max_attempts: None,
            max_priority: None,
        }
    }
}

/// A job that breaks a rule. `rule` is the name of the policy's field.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("refused by the worker's policy, rule `{rule}`: {reason}")]
pub struct Refusal {
    pub rule: &'static str,
    pub reason: String,
}

impl Policy {
    /// Reads a policy file.
    pub fn from_toml(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    /// Refuses what breaks a rule. `profile` is the profile the job would run under.
    pub fn check(&self, spec: &JobSpec, profile: &str) -> Result<(), Refusal> {
        let refuse = |rule, reason: String| Err(Refusal { rule, reason });
        if !self.command && !spec.command.is_empty() {
            return refuse("command", "jobs may not bring a command of their own".into());
        }
        if !self.profiles.iter().any(|pattern| matches(pattern, profile)) {
            return refuse("profiles", format!("profile {profile:?} is not allowed here"));
        }
        if !self.env && !spec.env.is_empty() {
            return refuse("env", "jobs may not set environment variables".into());
        }
        if let Some(repo) = spec.repo.as_deref().map(str::trim) {
            if !self.repos.iter().any(|pattern| matches(pattern, repo)) {
                return refuse("repos", format!("repository {repo:?} is not allowed here"));
            }
            // As the address is read later: without spaces around it, and any case of the scheme.
            let scheme = |name| repo.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(name));
            if !self.local_repos && (repo.starts_with('/') || scheme("file:")) {
                return refuse("local_repos", "a path on the worker's disk is not allowed".into());
            }
            if !self.http_repos && scheme("http:") {
                return refuse("http_repos", "unencrypted http is not allowed; use https".into());
            }
        }
        let over = |asked: Option<u64>, ceiling: Option<u64>| match (asked, ceiling) {
            (Some(asked), Some(ceiling)) if asked > ceiling => {
                Some(format!("{asked} is more than the {ceiling} allowed"))
            }
            _ => None,
        };
        if let Some(reason) = over(spec.timeout_s, self.max_timeout_s) {
            return refuse("max_timeout_s", reason);
        }
        let attempts = (spec.max_attempts.map(u64::from), self.max_attempts.map(u64::from));
        if let Some(reason) = over(attempts.0, attempts.1) {
            return refuse("max_attempts", reason);
        }
        if self.max_priority.is_some_and(|highest| spec.priority > highest) {
            return refuse("max_priority", format!("priority {} is too high", spec.priority));
        }
        Ok(())
    }
}

/// Whether `text` is of the form `pattern`, in which `*` stands for any characters.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, is_match) in [
            ("*", "", true),
            ("a", "a", true),
            ("a", "ab", false),
            ("https://x/*", "https://x/y.git", true),
            ("https://x/*", "https://xy/y.git", false),
            ("*/acme/*.git", "https://h/acme/a/b.git", true),
            ("*/acme/*.git", "https://h/acme/a/b", false),
            ("a*a", "a", false),
            ("a*b*c", "a-b-c-b-c", true),
        ] {
            assert_eq!(matches(pattern, text), is_match, "{pattern} ~ {text}");
        }
    }

    #[test]
    fn a_refusal_names_its_rule() {
        let policy = Policy::from_toml(
            "repos = ['https://h/acme/*']\nprofiles = ['claude']\ncommand = false\nmax_timeout_s = 60",
        )
        .unwrap();
        let rule = |json: &str, profile: &str| {
            let spec = JobSpec::from_json(json.as_bytes()).unwrap();
            policy.check(&spec, profile).map_err(|refusal| refusal.rule)
        };
        assert_eq!(rule(r#"{"command":["true"]}"#, "command"), Err("command"));
        assert_eq!(rule(r#"{"prompt":"x"}"#, "codex"), Err("profiles"));
        assert_eq!(rule(r#"{"prompt":"x","repo":"https://h/evil/a"}"#, "claude"), Err("repos"));
        assert_eq!(rule(r#"{"prompt":"x","timeout_s":61}"#, "claude"), Err("max_timeout_s"));
        assert_eq!(rule(r#"{"prompt":"x","repo":"https://h/acme/a"}"#, "claude"), Ok(()));
        let spelled = |repo: &str| {
            let policy = Policy { local_repos: false, ..Policy::default() };
            let spec = JobSpec { repo: Some(repo.into()), ..JobSpec::default() };
            policy.check(&spec, "claude").map_err(|refusal| refusal.rule)
        };
        for local in ["/srv/x", " /srv/x", "file:///srv/x", "FILE:///srv/x"] {
            assert_eq!(spelled(local), Err("local_repos"), "{local:?}");
        }
        for plain in ["http://h/x", "HTTP://h/x", "\thttp://h/x"] {
            assert_eq!(spelled(plain), Err("http_repos"), "{plain:?}");
        }
        assert_eq!(spelled("https://h/x"), Ok(()));
        assert!(Policy::from_toml("repo = []").unwrap_err().contains("repo"));
    }
}
