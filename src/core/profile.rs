//! A profile: named settings under which a worker runs a job's agent.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The profile of jobs that bring a `command` of their own.
pub const COMMAND: &str = "command";

/// Named settings, read from `NAME.toml` in the worker's profile directory.
///
/// ```toml
/// command = ["claude", "-p", "--output-format", "stream-json"]   # the prompt arrives on stdin
/// timeout_s = 3600
/// [env]
/// DISABLE_TELEMETRY = "1"
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Profile {
    /// Program and arguments. Empty only for the profile `command`, where the job brings it.
    pub command: Vec<String>,
    /// Environment of the process; the job's own `env` wins.
    pub env: BTreeMap<String, String>,
    /// Wall clock limit in seconds for jobs that name none.
    pub timeout_s: Option<u64>,
    /// Charged failures before a job is dead, for jobs that name none.
    pub max_attempts: Option<u32>,
}

impl Profile {
    /// Reads one profile file.
    pub fn from_toml(text: &str) -> Result<Self, String> {
        let profile: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        if profile.command.first().is_none_or(String::is_empty) {
            return Err("`command` must name a program".into());
        }
        Ok(profile)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_names_a_program_and_nothing_unknown() {
        let profile = Profile::from_toml("command = ['claude', '-p']\ntimeout_s = 9").unwrap();
        assert_eq!(profile.command, ["claude", "-p"]);
        assert!(Profile::from_toml("timeout_s = 9").unwrap_err().contains("`command`"));
        assert!(
            Profile::from_toml("command = ['x']\ntimout_s = 9").unwrap_err().contains("timout_s")
        );
    }
}
