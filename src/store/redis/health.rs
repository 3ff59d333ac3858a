//! Is this server fit to hold a queue? Each answer comes with its remedy.

use std::collections::HashMap;

use redis::{RedisResult, Value};

use super::conn::{Request, parse};
use super::{RedisStore, Result};
use crate::store::{Check, Error, Level};

/// Oldest Redis with all commands that are used (BLMOVE, `ZADD GT` and exclusive stream ranges are of 6.2).
const REDIS: (u32, u32) = (6, 2);
/// Oldest Valkey that is supported.
const VALKEY: (u32, u32) = (7, 2);

impl RedisStore {
    /// Refuses a server that would lose jobs or does not know the commands.
    pub(super) async fn demand_fitness(&self, allow_eviction: bool) -> Result<()> {
        // Once: an address at which nobody answers is told, not waited for.
        let answer = self.calls.send_once(&Request::Command(&redis::cmd("INFO"))).await;
        let Some(info) = self.read_info(answer)? else { return Ok(()) };
        if let Some(problem) = version_problem(&info).or_else(|| role_problem(&info)) {
            return Err(Error::Misconfigured(problem));
        }
        match eviction_problem(&info) {
            Some(problem) if !allow_eviction => Err(Error::Misconfigured(problem)),
            Some(problem) => {
                tracing::warn!("{problem}");
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub(super) async fn judge(&self) -> Result<Vec<Check>> {
        let answer = self.calls.send(&Request::Command(&redis::cmd("INFO"))).await;
        let Some(info) = self.read_info(answer)? else {
            return Ok(vec![check("redis", Some((Level::Warning, "the ACL does not allow INFO: version, eviction and persistence cannot be checked; add +info to the user".into())), String::new())]);
        };
        let of = |name: &str| info.get(name).map(String::as_str).unwrap_or_default();
        let version = version_problem(&info).map(|problem| (Level::Error, problem));
        let eviction = eviction_problem(&info).map(|problem| (Level::Error, problem));
        let persistence = (of("aof_enabled") != "1").then(|| {
            (
                Level::Warning,
                "append-only file is off: a restart of Redis loses jobs; set `appendonly yes`"
                    .to_owned(),
            )
        });
        let write = (of("aof_last_write_status") == "err").then(|| {
            (
                Level::Error,
                "Redis cannot write its append-only file; look at its disk and its log".to_owned(),
            )
        });
        let role = role_problem(&info).map(|problem| (Level::Error, problem));
        let stats = self.read_stats().await?;
        let bad = (stats.bad > 0).then(|| {
            (
                Level::Warning,
                format!("{} pushes were no valid jobs; see `sortie queue bad`", stats.bad),
            )
        });
        Ok(vec![
            check(
                "redis version",
                version,
                format!(
                    "{} {}",
                    if info.contains_key("valkey_version") { "Valkey" } else { "Redis" },
                    info.get("valkey_version").map_or(of("redis_version"), String::as_str)
                ),
            ),
            check("redis eviction", eviction, "noeviction".into()),
            check("redis persistence", persistence, "append-only file".into()),
            check("redis disk", write, "writes succeed".into()),
            check("redis role", role, "primary".into()),
            check("bad pushes", bad, "none".into()),
        ])
    }

    /// `INFO` as a map; `None` where the ACL forbids it.
    fn read_info(&self, answer: RedisResult<Value>) -> Result<Option<HashMap<String, String>>> {
        let text: String = match answer {
            Ok(text) => parse(text)?,
            // Only INFO itself: a database that may not be selected is told in other words.
            Err(error) if error.code() == Some("NOPERM") => return Ok(None),
            Err(error) => return Err(self.address.explain(error)),
        };
        Ok(Some(
            text.lines()
                .filter_map(|line| line.split_once(':'))
                .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
                .collect(),
        ))
    }
}

fn check(name: &str, problem: Option<(Level, String)>, fine: String) -> Check {
    let (level, message) = problem.unwrap_or((Level::Ok, fine));
    Check { name: name.to_owned(), level, message }
}

fn version_problem(info: &HashMap<String, String>) -> Option<String> {
    let (name, version, oldest) = match (info.get("valkey_version"), info.get("redis_version")) {
        (Some(version), _) => ("Valkey", version, VALKEY),
        (None, Some(version)) => ("Redis", version, REDIS),
        (None, None) => return None,
    };
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or_default());
    let found = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    (found < oldest).then(|| {
        format!(
            "{name} {version} is too old: {name} {}.{} or newer is needed; upgrade the server",
            oldest.0, oldest.1
        )
    })
}

fn role_problem(info: &HashMap<String, String>) -> Option<String> {
    (info.get("role").map(String::as_str) == Some("slave")).then(|| {
        "Redis is a read-only replica there; give the address of the primary, or a redis+sentinel:// URL"
            .to_owned()
    })
}

fn eviction_problem(info: &HashMap<String, String>) -> Option<String> {
    let policy = info.get("maxmemory_policy")?;
    (policy != "noeviction").then(|| {
        format!(
            "Redis has maxmemory-policy {policy}: it may delete jobs; run `redis-cli CONFIG SET maxmemory-policy noeviction` (and set it in redis.conf), or set SORTIE_ALLOW_EVICTION=true to accept the loss"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn versions() {
        let problem = |name, version| version_problem(&info(&[(name, version)]));
        assert!(problem("redis_version", "6.0.16").unwrap().contains("6.2 or newer"));
        assert_eq!(problem("redis_version", "6.2.0"), None);
        assert_eq!(problem("redis_version", "7.0.15"), None);
        let valkey = info(&[("redis_version", "7.2.4"), ("valkey_version", "7.1.0")]);
        assert!(version_problem(&valkey).unwrap().contains("Valkey 7.1.0"));
    }

    #[test]
    fn eviction() {
        let problem = |policy| eviction_problem(&info(&[("maxmemory_policy", policy)]));
        assert!(problem("allkeys-lru").unwrap().contains("noeviction"));
        assert_eq!(problem("noeviction"), None);
    }
}
