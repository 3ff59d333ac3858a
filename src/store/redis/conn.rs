//! Connections to Redis (PROTOCOL.md §5): how one is made, how a dead one is noticed and replaced, and
//! which calls may be repeated.
//!
//! redis-rs sets neither `TCP_NODELAY` nor a user timeout, and its timeouts do not replace a connection
//! whose peer went silent. So a [`Link`] counts timeouts, and drops the connection after the third, or at
//! once on an error that says the server is not the one to talk to any more.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::io::tcp::{TcpSettings, socket2};
use redis::sentinel::{SentinelClient, SentinelNodeConnectionInfo, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, FromRedisValue,
    IntoConnectionInfo, RedisError, RedisResult, TlsMode, Value,
};

use super::scripts::Call;
use crate::store::{Error, Result};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(3);
/// How long an answer may take before the call is repeated.
const RESPONSE: Duration = Duration::from_secs(2);
/// Answers missed in a row after which a connection counts as dead.
const MISSES: u32 = 3;

/// Where the server is, checked, without a password in sight.
#[derive(Clone)]
pub(super) struct Address {
    target: Target,
    /// For messages: the URL without credentials.
    shown: String,
}

#[derive(Clone)]
enum Target {
    Server(ConnectionInfo),
    Sentinel { sentinels: Vec<ConnectionInfo>, master: String, node: SentinelNodeConnectionInfo },
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
            Target::Server(info.set_tcp_settings(tcp()))
        };
        Ok(Self { target, shown })
    }

    /// The server as it is now: behind Sentinels the master may move.
    async fn client(&self) -> RedisResult<Client> {
        match &self.target {
            Target::Server(info) => Client::open(info.clone()),
            Target::Sentinel { sentinels, master, node } => {
                let node = node.clone();
                SentinelClient::build(
                    sentinels.clone(),
                    master,
                    Some(node),
                    SentinelServerType::Master,
                )?
                .async_get_client()
                .await
            }
        }
    }

    /// What the pool needs to make connections of its own.
    pub(super) async fn info(&self) -> Result<ConnectionInfo> {
        let client = self.client().await.map_err(|error| self.explain(error))?;
        Ok(client.get_connection_info().clone())
    }

    /// Makes a connection. `response`: how long an answer may take; `None` for blocking commands.
    pub(super) async fn dial(
        &self,
        response: Option<Duration>,
    ) -> RedisResult<MultiplexedConnection> {
        self.client().await?.get_multiplexed_async_connection_with_config(&config(response)).await
    }

    /// One clear line for a person: what, why, what to do.
    pub(super) fn explain(&self, error: RedisError) -> Error {
        let code = error.code().unwrap_or_default().to_owned();
        let at = &self.shown;
        if error.kind() == redis::ErrorKind::AuthenticationFailed
            || matches!(&*code, "WRONGPASS" | "NOAUTH")
        {
            return Error::Misconfigured(format!(
                "Redis at {at} refused the user name or password; check the credentials in the URL (redis://user:password@host)"
            ));
        }
        if code == "NOPERM" {
            let detail = error.detail().unwrap_or("a command is not allowed").to_owned();
            return Error::Misconfigured(format!(
                "the ACL of Redis at {at} is too narrow: {detail}; see docs/redis.md for the rights each role needs"
            ));
        }
        let why = if error.is_connection_refusal() {
            "nothing listens there; is Redis running, and is the address right?".to_owned()
        } else if error.is_timeout() {
            "no answer in time; is the address right, and is the network open?".to_owned()
        } else {
            error.to_string()
        };
        let message = format!("cannot use Redis at {at}: {why}");
        Error::Unavailable { message, source: Some(Box::new(error)) }
    }
}

fn config(response: Option<Duration>) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT))
        .set_response_timeout(response)
}

/// The settings of the pool's connections.
pub(super) fn pool_config() -> AsyncConnectionConfig {
    config(Some(Duration::from_secs(5)))
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
        Some((credentials, rest)) => (Some(credentials), rest),
        None => (None, rest),
    };
    let mut parts = rest.split('/');
    let hosts = parts.next()?;
    let master = parts.next().filter(|name| !name.is_empty())?.to_owned();
    let db = parts.next().filter(|db| !db.is_empty()).unwrap_or("0");
    let sentinels = hosts
        .split(',')
        .map(|host| {
            format!("{scheme}{host}")
                .into_connection_info()
                .ok()
                .map(|info| info.set_tcp_settings(tcp()))
        })
        .collect::<Option<Vec<_>>>()?;
    // The credentials and the database are the server's; a URL parser already knows their escapes.
    let user = credentials.map(|text| format!("{text}@")).unwrap_or_default();
    let server = format!("{scheme}{user}localhost/{db}").into_connection_info().ok()?;
    let mut node = SentinelNodeConnectionInfo::default()
        .set_redis_connection_info(server.redis_settings().clone())
        .set_tcp_settings(tcp());
    if matches!(server.addr(), ConnectionAddr::TcpTls { .. }) {
        node = node.set_tls_mode(TlsMode::Secure);
    }
    Some(Target::Sentinel { sentinels, master, node })
}

fn without_credentials(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        _ => url.to_owned(),
    }
}

/// One connection that is replaced when it dies.
pub(super) struct Link {
    address: Address,
    response: Option<Duration>,
    live: Mutex<Live>,
    dialing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Live {
    connection: Option<MultiplexedConnection>,
    /// Grows with every new connection, so that a late error cannot end a newer one.
    number: u64,
    missed: u32,
}

impl Link {
    pub(super) fn new(address: Address) -> Self {
        Self {
            address,
            response: Some(RESPONSE),
            live: Mutex::default(),
            dialing: tokio::sync::Mutex::default(),
        }
    }

    /// For blocking commands: the server decides how long an answer takes.
    pub(super) fn blocking(address: Address) -> Self {
        Self { response: None, ..Self::new(address) }
    }

    fn current(&self) -> Option<(MultiplexedConnection, u64)> {
        let live = self.live.lock().expect("no code panics while it holds the lock");
        live.connection.clone().map(|connection| (connection, live.number))
    }

    async fn connection(&self) -> RedisResult<(MultiplexedConnection, u64)> {
        if let Some(current) = self.current() {
            return Ok(current);
        }
        let _one_at_a_time = self.dialing.lock().await;
        if let Some(current) = self.current() {
            return Ok(current);
        }
        let connection = self.address.dial(self.response).await?;
        let mut live = self.live.lock().expect("no code panics while it holds the lock");
        live.number += 1;
        live.missed = 0;
        live.connection = Some(connection.clone());
        Ok((connection, live.number))
    }

    fn note(&self, number: u64, outcome: Result<(), &RedisError>) {
        let mut live = self.live.lock().expect("no code panics while it holds the lock");
        if live.number != number {
            return;
        }
        match outcome {
            Ok(()) => live.missed = 0,
            Err(error) => {
                if error.is_timeout() {
                    live.missed += 1;
                }
                if live.missed >= MISSES || is_wrong_server(error) || error.is_unrecoverable_error()
                {
                    live.connection = None;
                }
            }
        }
    }

    /// Sends a command once.
    pub(super) async fn once(&self, command: &Cmd) -> RedisResult<Value> {
        let (mut connection, number) = self.connection().await?;
        // redis-rs hands an error of the server over as a value.
        let answer = connection.req_packed_command(command).await.and_then(Value::extract_error);
        self.note(number, answer.as_ref().map(|_| ()));
        answer
    }

    /// Drops the connection with whatever is in flight on it.
    pub(super) fn hang_up(&self) {
        self.live.lock().expect("no code panics while it holds the lock").connection = None;
    }

    /// Sends `count` commands together, once.
    pub(super) async fn once_all(
        &self,
        pipeline: &redis::Pipeline,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let (mut connection, number) = self.connection().await?;
        let answer = connection.req_packed_commands(pipeline, 0, count).await;
        self.note(number, answer.as_ref().map(|_| ()));
        answer
    }

    /// Runs a script until it is answered. Scripts are idempotent under repetition (PROTOCOL.md P7).
    pub(super) async fn run<T: FromRedisValue>(&self, call: &Call) -> Result<T> {
        let mut pause = Duration::from_millis(20);
        let mut since: Option<Instant> = None;
        loop {
            let error = match self.attempt(call).await {
                Ok(value) => {
                    if let Some(since) = since {
                        tracing::info!(
                            away_ms = since.elapsed().as_millis(),
                            "Redis answers again"
                        );
                    }
                    return parse(value);
                }
                Err(error) => error,
            };
            if !is_passing(&error) {
                return Err(self.address.explain(error));
            }
            if since.is_none() {
                tracing::warn!(%error, "Redis does not answer; the call is repeated until it does");
                since = Some(Instant::now());
            }
            tokio::time::sleep(pause.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    async fn attempt(&self, call: &Call) -> RedisResult<Value> {
        let answer = self.once(&call.command).await;
        match answer {
            Err(error) if is_unknown_script(&error) => {
                self.once(&call.load()).await?;
                self.once(&call.command).await
            }
            answer => answer,
        }
    }
}

impl Call {
    pub(super) fn load(&self) -> Cmd {
        let mut command = redis::cmd("SCRIPT");
        command.arg("LOAD").arg(self.script.code);
        command
    }

    /// Runs the script on any connection, once.
    pub(super) async fn on(&self, connection: &mut impl ConnectionLike) -> RedisResult<Value> {
        let answer = connection.req_packed_command(&self.command).await;
        match answer.and_then(Value::extract_error) {
            Err(error) if is_unknown_script(&error) => {
                connection.req_packed_command(&self.load()).await?.extract_error()?;
                connection.req_packed_command(&self.command).await?.extract_error()
            }
            answer => answer,
        }
    }
}

pub(super) fn parse<T: FromRedisValue>(value: Value) -> Result<T> {
    redis::from_redis_value(value).map_err(|error| Error::Corrupt(error.to_string()))
}

fn is_unknown_script(error: &RedisError) -> bool {
    error.code() == Some("NOSCRIPT")
}

/// The server is up but is not, or not yet, the one to write to.
fn is_wrong_server(error: &RedisError) -> bool {
    matches!(
        error.code(),
        Some(
            "READONLY"
                | "LOADING"
                | "MASTERDOWN"
                | "UNBLOCKED"
                | "TRYAGAIN"
                | "CLUSTERDOWN"
                | "NOREPLICAS"
        )
    )
}

/// Whether the same call may succeed later without anybody changing a setting.
pub(super) fn is_passing(error: &RedisError) -> bool {
    error.is_timeout()
        || error.is_connection_dropped()
        || error.is_io_error()
        || is_wrong_server(error)
        || matches!(error.code(), Some("OOM" | "BUSY" | "MISCONF"))
        || error.kind() == redis::ErrorKind::MasterNameNotFoundBySentinel
        || error.is_unrecoverable_error() && error.kind() != redis::ErrorKind::AuthenticationFailed
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
            "redis+sentinel://:secret@a:26379,b:26379/mymaster/2",
            "rediss+sentinel://a:26379/mymaster",
        ] {
            let address = Address::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert!(!address.shown.contains("p%40ss") && !address.shown.contains("secret"));
        }
    }

    #[test]
    fn urls_that_cannot_be_used_are_told_without_the_password() {
        for url in ["http://h", "localhost:6379", "redis+sentinel://a:1", "redis://u:secret@h:port"]
        {
            let error = Address::parse(url).err().unwrap().to_string();
            assert!(
                error.contains("redis://[user:password@]host") && !error.contains("secret"),
                "{error}"
            );
        }
    }
}
