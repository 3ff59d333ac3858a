//! Where Redis is, how a connection to it is made, and how its errors are told to a person.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::{TcpSettings, socket2};
use redis::sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo,
    RedisError, RedisResult, TlsMode,
};

use crate::store::{Error, Result};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(3);
/// How long the Sentinels may take to name the primary, several of them dead.
const RESOLVE: Duration = Duration::from_secs(5);

/// Where the server is, checked. Shows no credentials.
#[derive(Clone)]
pub(super) struct Address {
    target: Target,
    /// For messages: the URL without credentials.
    shown: String,
}

#[derive(Clone)]
enum Target {
    Server(Box<ConnectionInfo>),
    Sentinel(Box<Sentinels>),
}

#[derive(Clone)]
struct Sentinels {
    open: Vec<ConnectionInfo>,
    /// The same with the server's credentials, for Sentinels that want some.
    locked: Vec<ConnectionInfo>,
    master: String,
    node: SentinelNodeConnectionInfo,
}

impl Address {
    /// Reads `redis://`, `rediss://`, `unix://` (or `redis+unix://`) and
    /// `redis+sentinel://[user:password@]host:port[,host:port…]/master[/db]` (`rediss+sentinel://` for TLS).
    pub(super) fn parse(url: &str) -> Result<Self> {
        let shown = without_credentials(url);
        let wrong = |problem: &str| {
            Error::Misconfigured(format!(
                "the Redis URL {shown:?} {problem}; expected redis://[user:password@]host:port/db, rediss://…, \
                 unix:///path/to/socket or redis+sentinel://host:port,host:port/master"
            ))
        };
        let sentinel = url
            .strip_prefix("redis+sentinel://")
            .map(|rest| (rest, "redis://"))
            .or_else(|| url.strip_prefix("rediss+sentinel://").map(|rest| (rest, "rediss://")));
        let target = if let Some((rest, scheme)) = sentinel {
            sentinels(rest, scheme).ok_or_else(|| wrong("is not a Sentinel address"))?
        } else {
            let info = url.into_connection_info().map_err(|_| wrong("cannot be read"))?;
            Target::Server(Box::new(info.set_tcp_settings(tcp())))
        };
        if url.starts_with("rediss") {
            // Without a choice made here rustls panics as soon as any dependency brings a second
            // provider. An error says that the process has chosen already.
            rustls::crypto::ring::default_provider().install_default().ok();
        }
        Ok(Self { target, shown })
    }

    /// The server as it is now: behind Sentinels the primary may move.
    pub(super) async fn client(&self) -> RedisResult<Client> {
        let sentinels = match &self.target {
            Target::Server(info) => return Client::open((**info).clone()),
            Target::Sentinel(sentinels) => sentinels,
        };
        let ask = async {
            match sentinels.primary(&sentinels.open).await {
                Err(error) if error.code() == Some("NOAUTH") => {
                    sentinels.primary(&sentinels.locked).await
                }
                answer => answer,
            }
        };
        // Boxed: the future of a lookup is huge.
        tokio::time::timeout(RESOLVE, Box::pin(ask))
            .await
            .unwrap_or_else(|_| Err(timed_out("the Sentinels did not answer")))
    }

    /// Makes a connection. How long an answer may take is up to the caller.
    pub(super) async fn dial(&self) -> RedisResult<MultiplexedConnection> {
        self.client().await?.get_multiplexed_async_connection_with_config(&config(None)).await
    }

    /// One clear line for a person: what, why, what to do.
    pub(super) fn explain(&self, error: RedisError) -> Error {
        let at = &self.shown;
        let detail = error.detail().unwrap_or_default();
        let misconfigured =
            |problem: String| Error::Misconfigured(format!("Redis at {at} {problem}"));
        match (error.kind(), error.code()) {
            (ErrorKind::AuthenticationFailed, _) | (_, Some("WRONGPASS" | "NOAUTH")) => {
                return misconfigured(
                    "refused the user name or password; check the credentials in the URL (redis://user:password@host)".into(),
                );
            }
            _ if is_forbidden(&error) => {
                return misconfigured(format!(
                    "does not allow this user what is needed: {detail}; widen its ACL: docs/redis.md has the rights of each role, `redis-cli ACL LOG` names the missing one"
                ));
            }
            (_, Some("DENIED")) => {
                return misconfigured(
                    "is in protected mode and refuses other hosts; give it a password (requirepass, or an ACL user) and put it in the URL".into(),
                );
            }
            (_, Some("WRONGTYPE")) => {
                return misconfigured(
                    "holds something else under a key of the queue; choose another queue name or database".into(),
                );
            }
            (ErrorKind::InvalidClientConfig, _) => {
                return misconfigured(format!("cannot be used: {error}; check the URL"));
            }
            _ if error.to_string().contains("refused to switch database") => {
                return misconfigured(format!("refused the database of the URL: {detail}"));
            }
            (ErrorKind::Server(_) | ErrorKind::Extension, _)
                if !super::conn::is_passing(&error) =>
            {
                return Error::Corrupt(format!("Redis at {at} says: {error}"));
            }
            _ => {}
        }
        let message = format!("cannot use Redis at {at}: {}", self.why_not_now(&error));
        Error::Unavailable { message, source: Some(Box::new(error)) }
    }

    /// Why a call failed that may succeed later, and what a person can look at.
    fn why_not_now(&self, error: &RedisError) -> String {
        let text = error.to_string();
        let why = match (error.kind(), error.code()) {
            (_, Some("READONLY")) => {
                "it is a read-only replica; give the address of the primary, or a redis+sentinel:// URL"
            }
            (_, Some("LOADING")) => {
                "it is still loading its data after a start; try again in a moment"
            }
            (_, Some("MASTERDOWN")) => "it is a replica that lost its primary; look at the primary",
            (_, Some("OOM")) => {
                "it is full (maxmemory); raise maxmemory, or forget ended jobs sooner (SORTIE_JOB_TTL)"
            }
            (_, Some("MISCONF")) => "it cannot write to its disk; look at its disk and its log",
            (_, Some("BUSY")) => "it is busy with a long script of somebody; see its log",
            (_, Some("NOREPLICAS")) => {
                "too few replicas follow it (min-replicas-to-write); look at the replicas"
            }
            (ErrorKind::MasterNameNotFoundBySentinel, _) => {
                "the Sentinels know no primary of this name that is up; check the name in the URL"
            }
            (ErrorKind::Parse, _) => {
                "what answers there does not speak the Redis protocol; check the port"
            }
            _ if text.contains("invalid peer certificate") => {
                return format!(
                    "{text}; name the file of the certificate authority in SSL_CERT_FILE, and use the host name of the certificate"
                );
            }
            _ if text.contains("InvalidContentType") => {
                "it does not speak TLS on this port; use redis:// or the TLS port"
            }
            _ if text.contains("lookup address") => {
                "there is no such host; check the name in the URL, and the DNS"
            }
            _ if error.is_connection_refusal() => {
                "nothing listens there; is Redis running, and is the address right?"
            }
            _ if error.is_timeout() && self.shown.starts_with("rediss") => {
                "no answer in time; does the port speak TLS (if not: redis://), and is the network open?"
            }
            _ if error.is_timeout() => {
                "no answer in time; is the address right, and is the network open?"
            }
            _ if error.is_connection_dropped() => {
                "it closed the connection; does the port want TLS (rediss://), or are there too many clients?"
            }
            _ => return text,
        };
        why.to_owned()
    }
}

impl Sentinels {
    async fn primary(&self, sentinels: &[ConnectionInfo]) -> RedisResult<Client> {
        SentinelClient::build(
            sentinels.to_vec(),
            self.master.clone(),
            Some(self.node.clone()),
            SentinelServerType::Master,
        )?
        .async_get_client()
        .await
    }
}

/// Whether the ACL does not allow a command or key, called directly or inside a script.
fn is_forbidden(error: &RedisError) -> bool {
    error.code() == Some("NOPERM")
        || error.detail().is_some_and(|detail| {
            detail.contains("can't run this command")
                || detail.contains("can't access")
                || detail.contains("ACL failure in script")
                || detail.contains("has no permissions")
        })
}

/// The settings of a connection; `response`: how long an answer may take, `None` for ever.
pub(super) fn config(response: Option<Duration>) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT))
        .set_response_timeout(response)
}

pub(super) fn timed_out(what: &'static str) -> RedisError {
    std::io::Error::new(std::io::ErrorKind::TimedOut, what).into()
}

fn tcp() -> TcpSettings {
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(10))
        .with_interval(Duration::from_secs(3))
        .with_retries(3);
    TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(keepalive)
        .set_user_timeout(Duration::from_secs(10))
}

fn sentinels(rest: &str, scheme: &str) -> Option<Target> {
    let (credentials, rest) = match rest.rsplit_once('@') {
        Some((credentials, rest)) => (format!("{credentials}@"), rest),
        None => (String::new(), rest),
    };
    let mut parts = rest.split('/');
    let hosts = parts.next()?;
    let master = parts.next().filter(|name| !name.is_empty())?.to_owned();
    let db = parts.next().filter(|db| !db.is_empty()).unwrap_or("0");
    // A URL parser already knows the escapes of names and passwords.
    let read = |user: &str, rest: &str| format!("{scheme}{user}{rest}").into_connection_info().ok();
    let each = |user: &str| {
        hosts
            .split(',')
            .map(|host| Some(read(user, host)?.set_tcp_settings(tcp())))
            .collect::<Option<Vec<_>>>()
    };
    let server = read(&credentials, &format!("localhost/{db}"))?;
    let mut node = SentinelNodeConnectionInfo::default()
        .set_redis_connection_info(server.redis_settings().clone())
        .set_tcp_settings(tcp());
    if matches!(server.addr(), ConnectionAddr::TcpTls { .. }) {
        node = node.set_tls_mode(TlsMode::Secure);
    }
    let (open, locked) = (each("")?, each(&credentials)?);
    Some(Target::Sentinel(Box::new(Sentinels { open, locked, master, node })))
}

/// A password may be before the last `@`, and in the query of a socket's URL.
fn without_credentials(url: &str) -> String {
    let is_socket = url.starts_with("unix:") || url.starts_with("redis+unix:");
    let url = if is_socket { url.split('?').next().unwrap_or_default() } else { url };
    let Some((before, host)) = url.rsplit_once('@') else {
        return url.split('?').next().unwrap_or_default().to_owned();
    };
    let host = host.split('?').next().unwrap_or_default();
    match before.split_once("://") {
        Some((scheme, _)) => format!("{scheme}://{host}"),
        None => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_can_be_used() {
        for url in [
            "redis://localhost",
            "redis://user:p%40ss@host:6380/3",
            "rediss://host",
            "unix:///run/redis.sock",
            "unix:///run/redis.sock?db=2&user=u&pass=secret",
            "redis+sentinel://:secret@a:26379,b:26379/mymaster/2",
            "rediss+sentinel://a:26379/mymaster",
        ] {
            let address = Address::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert!(!address.shown.contains("p%40ss") && !address.shown.contains("secret"));
        }
    }

    #[test]
    fn urls_that_cannot_be_used_are_told_without_the_password() {
        for url in [
            "http://h",
            "localhost:6379",
            "redis+sentinel://a:1",
            "redis://u:secret@h:port",
            "u:secret@h:6379",
            "redis://u:se?cret@secret@h:port/?secret",
            "unix://relative?pass=secret@secret",
            "redis+sentinel://u:secret@a:x/m",
        ] {
            let error = Address::parse(url).err().unwrap_or_else(|| panic!("{url} is read"));
            let error = error.to_string();
            assert!(
                error.contains("redis://[user:password@]host")
                    && !error.contains("secret")
                    && !error.contains("cret"),
                "{error}"
            );
        }
    }
}
