//! Settings: flag over environment over file over default, and each value knows where it is from.
//!
//! The file is TOML, `~/.config/sortie/config.toml`; its keys are those of [`crate::env`]:
//!
//! ```toml
//! redis = "rediss://:secret@redis.example:6380"
//! [submit]
//! profile = "claude"
//! [worker]
//! slots = 5
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::env::{self, Variable};

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Flag(&'static str),
    Environment(&'static str),
    File(PathBuf),
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) | Self::Environment(name) => f.write_str(name),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("cannot read the configuration file {path}: {problem}")]
    File { path: PathBuf, problem: String },
    #[error("unknown key `{key}` in {path}; the keys are: {known}")]
    UnknownKey { path: PathBuf, key: String, known: String },
    #[error("{value:?} from {origin} is no value for `{key}`: {problem}")]
    Value { key: &'static str, value: String, origin: Origin, problem: String },
}

/// A value as it was written, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Empty: not set anywhere, and there is no default.
    pub value: String,
    pub origin: Origin,
}

/// Environment and file, read once.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    environment: BTreeMap<&'static str, String>,
    file: BTreeMap<String, String>,
    path: Option<PathBuf>,
}

impl Sources {
    /// Reads what there is. A file that does not exist is no error, unless `SORTIE_CONFIG` names it.
    pub fn load() -> Result<Self, Error> {
        let mut environment = BTreeMap::new();
        for name in env::SETTINGS.iter().flat_map(|one| [Some(one.name), one.also]).flatten() {
            if let Ok(value) = std::env::var(name)
                && !value.is_empty()
            {
                environment.insert(name, value);
            }
        }
        let named = std::env::var_os(env::CONFIG).filter(|path| !path.is_empty());
        let path = named.clone().map(PathBuf::from).or_else(default_path);
        let Some(path) = path else { return Ok(Self { environment, ..Self::default() }) };
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Self { environment, file: read(&text, &path)?, path: Some(path) }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => {
                Ok(Self { environment, ..Self::default() })
            }
            Err(error) => Err(Error::File { path, problem: error.to_string() }),
        }
    }

    /// The configuration file, if there is one.
    #[must_use]
    pub fn path(&self) -> Option<&PathBuf> {
        self.path.as_ref()
    }

    /// The value that counts, as text.
    #[must_use]
    pub fn find(&self, variable: &Variable, flag: Option<String>) -> Setting {
        if let Some(value) = flag {
            return Setting { value, origin: Origin::Flag(variable.flag) };
        }
        for name in [Some(variable.name), variable.also].into_iter().flatten() {
            if let Some(value) = self.environment.get_key_value(name) {
                return Setting { value: value.1.clone(), origin: Origin::Environment(value.0) };
            }
        }
        if let (Some(value), Some(path)) = (self.file.get(variable.key), &self.path) {
            return Setting { value: value.clone(), origin: Origin::File(path.clone()) };
        }
        Setting { value: variable.default.to_owned(), origin: Origin::Default }
    }

    /// The value that counts, or nothing when it is set nowhere and has no default.
    pub fn optional<T>(
        &self,
        variable: &'static Variable,
        flag: Option<T>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Error> {
        if flag.is_some() {
            return Ok(flag);
        }
        let Setting { value, origin } = self.find(variable, None);
        if value.is_empty() {
            return Ok(None);
        }
        match parse(&value) {
            Ok(parsed) => Ok(Some(parsed)),
            Err(problem) => Err(Error::Value { key: variable.key, value, origin, problem }),
        }
    }

    /// The value that counts, of a setting that has a default.
    pub fn get<T>(
        &self,
        variable: &'static Variable,
        flag: Option<T>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, Error> {
        let value = self.optional(variable, flag, parse)?;
        value.ok_or_else(|| Error::Value {
            key: variable.key,
            value: String::new(),
            origin: Origin::Default,
            problem: "it has to be set".into(),
        })
    }
}

fn default_path() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let directory = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")))?;
    Some(directory.join("sortie/config.toml"))
}

/// Keys and values of a configuration file, `[worker] slots` as `worker.slots`.
fn read(text: &str, path: &std::path::Path) -> Result<BTreeMap<String, String>, Error> {
    let problem = |problem: String| Error::File { path: path.to_owned(), problem };
    let table: toml::Table = toml::from_str(text).map_err(|error| {
        // Not the line itself, as the error would show it: the address of Redis has a password.
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        problem(format!("line {}: {}", before.matches('\n').count() + 1, error.message()))
    })?;
    let mut values = BTreeMap::new();
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) => {
                for (name, value) in inner {
                    values.insert(format!("{key}.{name}"), value);
                }
            }
            value => {
                values.insert(key, value);
            }
        }
    }
    let mut texts = BTreeMap::new();
    for (key, value) in values {
        if !env::SETTINGS.iter().any(|setting| setting.key == key) {
            let known: Vec<_> = env::SETTINGS.iter().map(|setting| setting.key).collect();
            let path = path.to_owned();
            return Err(Error::UnknownKey { path, key, known: known.join(", ") });
        }
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Boolean(flag) => flag.to_string(),
            other => {
                return Err(problem(format!("`{key}` is a {}, not a text", other.type_str())));
            }
        };
        texts.insert(key, text);
    }
    Ok(texts)
}

/// Any text.
pub fn text(value: &str) -> Result<String, String> {
    Ok(value.to_owned())
}

/// A path; a leading `~/` is the home directory, because nobody expands it in files and variables.
pub fn path(value: &str) -> Result<PathBuf, String> {
    match value.strip_prefix("~/") {
        Some(rest) => match std::env::var_os("HOME") {
            Some(home) => Ok(PathBuf::from(home).join(rest)),
            None => Err("`~` needs HOME to be set".into()),
        },
        None => Ok(PathBuf::from(value)),
    }
}

/// Anything that can be read from text.
pub fn parsed<T: FromStr<Err: fmt::Display>>(value: &str) -> Result<T, String> {
    value.parse().map_err(|error: T::Err| error.to_string())
}

/// A length of time: `500ms`, `90s`, `10m`, `1h30m`, `2d`; a bare number is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a length of time; write 500ms, 90s, 10m, 1h30m or 2d");
    if text.is_empty() {
        return Err(wrong());
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let after = &rest[digits..];
        let letters =
            after.len() - after.trim_start_matches(|c: char| c.is_ascii_lowercase()).len();
        let unit_ms: u64 = match &after[..letters] {
            "ms" => 1,
            "s" => 1_000,
            "" if rest == text && after.is_empty() => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        let part = number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(wrong)?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = &after[letters..];
    }
    Ok(total)
}

/// A URL without its password.
#[must_use]
pub fn redacted(url: &str) -> String {
    let start = url.find("://").map_or(0, |at| at + 3);
    let mut end = url[start..].find(['/', '?', '#']).map_or(url.len(), |at| start + at);
    // A password with an unescaped `/` makes no valid URL, but it must not be shown either.
    let port = url[start..end].rsplit_once(':').map_or("", |(_, port)| port);
    if start > 0 && port.contains(|c: char| !c.is_ascii_digit()) {
        end = url.len();
    }
    let Some(at) = url[start..end].rfind('@').map(|at| start + at) else { return url.to_owned() };
    let user = url[start..at].split(':').next().unwrap_or_default();
    if user.len() == at - start {
        return url.to_owned();
    }
    format!("{}{user}:***{}", &url[..start], &url[at..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(environment: &[(&'static str, &str)], file: &str) -> Sources {
        let path = PathBuf::from("/c.toml");
        Sources {
            environment: environment.iter().map(|(name, value)| (*name, (*value).into())).collect(),
            file: read(file, &path).unwrap(),
            path: Some(path),
        }
    }

    #[test]
    fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
        let file = "queue = 'file'\n[worker]\nslots = 7";
        let all = sources(&[("SORTIE_QUEUE", "environment")], file);
        let find = |sources: &Sources, flag: Option<&str>| {
            let setting = sources.find(&env::QUEUE, flag.map(Into::into));
            format!("{} {}", setting.value, setting.origin)
        };
        assert_eq!(find(&all, Some("flag")), "flag --queue");
        assert_eq!(find(&all, None), "environment SORTIE_QUEUE");
        assert_eq!(find(&sources(&[], file), None), "file /c.toml");
        assert_eq!(find(&sources(&[], ""), None), "sortie:queue default");
        assert_eq!(all.get(&env::SLOTS, None, parsed::<u32>), Ok(7));
    }

    #[test]
    fn the_second_name_of_a_variable_is_asked_last() {
        let both = sources(&[("REDIS_URL", "b"), ("SORTIE_REDIS_URL", "a")], "");
        assert_eq!(both.find(&env::REDIS, None).value, "a");
        let second = sources(&[("REDIS_URL", "b")], "redis = 'c'");
        assert_eq!(second.find(&env::REDIS, None).origin, Origin::Environment("REDIS_URL"));
    }

    #[test]
    fn a_wrong_value_is_reported_with_its_origin() {
        let wrong = sources(&[("SORTIE_SLOTS", "many")], "");
        let error = wrong.get(&env::SLOTS, None, parsed::<u32>).unwrap_err().to_string();
        assert!(error.contains("SORTIE_SLOTS") && error.contains("`worker.slots`"), "{error}");
        let path = PathBuf::from("/c.toml");
        let error = read("[worker]\nslot = 1", &path).unwrap_err().to_string();
        assert!(error.contains("`worker.slot`") && error.contains("worker.slots"), "{error}");
        assert!(read("queue = [1]", &path).unwrap_err().to_string().contains("`queue`"));
        let error = read("queue = 'x'\nredis = 'redis://:secret@h' x", &path).unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn every_default_can_be_read() {
        let none = Sources::default();
        for setting in [
            &env::JOB_TTL,
            &env::DEAD_TTL,
            &env::DRAIN_TIMEOUT,
            &env::GRACE,
            &env::LEASE,
            &env::BEAT,
            &env::FREEZE_MARGIN,
            &env::RETRY_BASE,
            &env::RETRY_CAP,
        ] {
            assert!(none.get(setting, None, duration).is_ok(), "{}", setting.key);
        }
        assert_eq!(none.get(&env::HISTORY, None, parsed::<u64>), Ok(1_000_000));
        assert_eq!(none.get(&env::ALLOW_EVICTION, None, parsed::<bool>), Ok(false));
    }

    #[test]
    fn lengths_of_time() {
        for (text, ms) in
            [("500ms", 500), ("90", 90_000), ("270s", 270_000), ("1h30m", 5_400_000), ("0s", 0)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "1x", "1h30", "-1s", "1.5h", "99999999999999999999s", "1 h"] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        for (url, shown) in [
            ("redis://:secret@h:6379/1", "redis://:***@h:6379/1"),
            ("redis://u:s@cret@h", "redis://u:***@h"),
            ("redis://h/a@b:c", "redis://h/a@b:c"),
            ("redis://h:1/a@b", "redis://h:1/a@b"),
            ("redis://:a/b@h", "redis://:***@h"),
            ("unix:///run/redis.sock", "unix:///run/redis.sock"),
            ("https://git@h/r", "https://git@h/r"),
            ("git@github.com:acme/a.git", "git@github.com:acme/a.git"),
        ] {
            assert_eq!(redacted(url), shown);
        }
    }
}
