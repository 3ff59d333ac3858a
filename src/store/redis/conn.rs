//! Calls over connections (ARCHITECTURE.md, "The queue"): how a dead connection is noticed and replaced, and which
//! calls are repeated. Everything that is sent here may be sent again: scripts are idempotent under
//! repetition (P7), the rest reads.
//!
//! redis-rs does not replace a connection whose peer went silent. So a [`Link`] counts the answers it
//! misses and drops the connection after the third, or at once on an error that says the server is not
//! the one to talk to any more.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use deadpool_redis::{Pool, PoolError};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Arg, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, Value};

use super::Role;
use super::address::{Address, config, timed_out};
use super::scripts::Call;
use crate::store::{Error, Result};

/// How long an answer to a worker may take before the call is repeated. Doubles each time that a new
/// connection did not help, because a big answer over a thin line is not a dead server.
const RESPONSE: Duration = Duration::from_secs(2);
const RESPONSE_MOST: Duration = Duration::from_secs(32);
/// Answers missed in a row after which a connection counts as dead.
const MISSES: u32 = 3;
/// How long a short caller waits for everything: a connection, the answer, and both once more.
const SHORT: Duration = Duration::from_secs(5);
/// How long a pooled connection may take to show that it is alive.
const RECYCLE: Duration = Duration::from_secs(1);

/// What is sent in one go.
pub(super) enum Request<'a> {
    Script(&'a Call),
    Command(&'a Cmd),
    /// Commands with one answer each, answered as an array.
    Commands(&'a Pipeline, usize),
}

impl Request<'_> {
    /// Sends it once.
    async fn send(&self, connection: &mut MultiplexedConnection) -> RedisResult<Value> {
        match self {
            Self::Command(command) => ask(connection, command).await,
            Self::Commands(pipeline, count) => {
                let answers = connection.req_packed_commands(pipeline, 0, *count).await?;
                Value::Array(answers).extract_error()
            }
            Self::Script(call) => match ask(connection, &call.command).await {
                // Not `SCRIPT LOAD` and once more: somebody may flush the scripts in between.
                Err(error) if error.code() == Some("NOSCRIPT") => {
                    ask(connection, &call.in_full()).await
                }
                answer => answer,
            },
        }
    }
}

impl Call {
    /// The same call with the script's text, for a server that does not know the script.
    fn in_full(&self) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(self.script.code);
        // The first two are the name of the command and the hash.
        for argument in self.command.args_iter().skip(2) {
            if let Arg::Simple(bytes) = argument {
                command.arg(bytes);
            }
        }
        command
    }
}

/// One command, one answer. redis-rs hands an error of the server over as a value; here it is an error.
pub(super) async fn ask(
    connection: &mut MultiplexedConnection,
    command: &Cmd,
) -> RedisResult<Value> {
    connection.req_packed_command(command).await?.extract_error()
}

/// How a store calls the server.
pub(super) enum Calls {
    /// A worker: until it is answered.
    Own(Box<Link>),
    /// A short caller: for a few seconds.
    Pool(Box<Pooled>),
}

impl Calls {
    pub(super) fn new(address: &Address, role: Role) -> Self {
        match role {
            Role::Engine => Self::Own(Box::new(Link::new(address.clone()))),
            Role::Client => Self::Pool(Box::new(Pooled::new(address.clone()))),
        }
    }

    pub(super) async fn send(&self, request: &Request<'_>) -> RedisResult<Value> {
        match self {
            // Boxed: these futures are deep, and their callers are many.
            Self::Own(link) => Box::pin(link.send(request)).await,
            Self::Pool(pool) => Box::pin(pool.send(request)).await,
        }
    }

    /// Runs a script.
    pub(super) async fn run<T: FromRedisValue>(&self, call: &Call) -> Result<T> {
        self.answer(&Request::Script(call)).await
    }

    /// Sends a request, reads the answer, explains the error.
    pub(super) async fn answer<T: FromRedisValue>(&self, request: &Request<'_>) -> Result<T> {
        parse(self.send(request).await.map_err(|error| self.address().explain(error))?)
    }

    fn address(&self) -> &Address {
        match self {
            Self::Own(link) => &link.address,
            Self::Pool(pool) => &pool.address,
        }
    }

    /// [`Self::send`] that also tells a worker when there is no answer in time.
    pub(super) async fn send_once(&self, request: &Request<'_>) -> RedisResult<Value> {
        match self {
            Self::Own(link) => Box::pin(link.once(request, SHORT)).await,
            Self::Pool(pool) => Box::pin(pool.send(request)).await,
        }
    }
}

/// One connection that is replaced when it dies.
pub(super) struct Link {
    address: Address,
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
        Self { address, live: Mutex::default(), dialing: tokio::sync::Mutex::default() }
    }

    fn live(&self) -> std::sync::MutexGuard<'_, Live> {
        self.live.lock().expect("no code panics while it holds the lock")
    }

    fn current(&self) -> Option<(MultiplexedConnection, u64)> {
        let live = self.live();
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
        let connection = self.address.dial().await?;
        let mut live = self.live();
        live.number += 1;
        live.missed = 0;
        live.connection = Some(connection.clone());
        Ok((connection, live.number))
    }

    fn note(&self, number: u64, outcome: Result<(), &RedisError>) {
        let mut live = self.live();
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

    /// Drops the connection with whatever is in flight on it.
    pub(super) fn hang_up(&self) {
        self.live().connection = None;
    }

    /// Sends a request once, and waits so long for the answer.
    pub(super) async fn once(
        &self,
        request: &Request<'_>,
        patience: Duration,
    ) -> RedisResult<Value> {
        let (mut connection, number) = self.connection().await?;
        let answer = tokio::time::timeout(patience, request.send(&mut connection))
            .await
            .unwrap_or_else(|_| Err(timed_out("no answer")));
        self.note(number, answer.as_ref().map(|_| ()));
        answer
    }

    /// Sends a request until it is answered.
    pub(super) async fn send(&self, request: &Request<'_>) -> RedisResult<Value> {
        let mut pause = Duration::from_millis(20);
        let mut patience = RESPONSE;
        let mut missed = 0;
        let mut away: Option<(Instant, String)> = None;
        loop {
            let error = match self.once(request, patience).await {
                Ok(value) => {
                    if let Some((since, _)) = away {
                        let away_ms = since.elapsed().as_millis();
                        tracing::info!(away_ms, "Redis answers again");
                    }
                    return Ok(value);
                }
                Err(error) => error,
            };
            if !self.may_pass(&error) {
                return Err(error);
            }
            if error.is_timeout() {
                missed += 1;
                if missed % MISSES == 0 {
                    patience = (patience * 2).min(RESPONSE_MOST);
                }
            }
            let why = self.address.explain(error).to_string();
            let (since, told) = away.unwrap_or_else(|| (Instant::now(), String::new()));
            if told != why {
                tracing::warn!("{why}; the call is repeated until it is answered");
            }
            away = Some((since, why));
            tokio::time::sleep(pause.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    /// Credentials that were right once are right again later: redis-rs calls it a failed authentication
    /// too when a server with too many clients answers `AUTH` with an error.
    fn may_pass(&self, error: &RedisError) -> bool {
        is_passing(error)
            || error.kind() == ErrorKind::AuthenticationFailed && self.live().number > 0
    }
}

/// A pool that is replaced when its connections turn out to be dead, or lead to a server that is not
/// the primary any more.
pub(super) struct Pooled {
    address: Address,
    pool: tokio::sync::Mutex<Option<Pool>>,
}

impl Pooled {
    fn new(address: Address) -> Self {
        Self { address, pool: tokio::sync::Mutex::default() }
    }

    async fn send(&self, request: &Request<'_>) -> RedisResult<Value> {
        let answer = tokio::time::timeout(SHORT, async {
            match self.once(request).await {
                Err(error) if is_over(&error) => self.once(request).await,
                answer => answer,
            }
        });
        let Ok(answer) = answer.await else {
            // Whatever is late belongs to connections that nobody uses again. A lock that is held says
            // that somebody makes others already.
            if let Ok(mut pool) = self.pool.try_lock() {
                *pool = None;
            }
            return Err(timed_out("no answer"));
        };
        answer
    }

    async fn once(&self, request: &Request<'_>) -> RedisResult<Value> {
        let pool = self.pool().await?;
        let answer = match pool.get().await {
            Ok(mut connection) => request.send(&mut connection).await,
            Err(PoolError::Backend(error)) => Err(error),
            Err(PoolError::Closed) => {
                Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe).into())
            }
            Err(_) => Err(timed_out("no connection")),
        };
        if answer.as_ref().is_err_and(|error| is_over(error) || error.is_timeout()) {
            // Who has a connection of it keeps it until it is done.
            pool.close();
        }
        answer
    }

    async fn pool(&self) -> RedisResult<Pool> {
        let mut current = self.pool.lock().await;
        if let Some(pool) = current.as_ref().filter(|pool| !pool.is_closed()) {
            return Ok(pool.clone());
        }
        let client = self.address.client().await?;
        let info = client.get_connection_info().clone();
        let manager = deadpool_redis::Manager::new_with_config(info, config(Some(SHORT)))?;
        let pool = Pool::builder(manager)
            .max_size(8)
            .recycle_timeout(Some(RECYCLE))
            .runtime(deadpool_redis::Runtime::Tokio1)
            .build()
            .expect("the timeout has a runtime");
        *current = Some(pool.clone());
        Ok(pool)
    }
}

pub(super) fn parse<T: FromRedisValue>(value: Value) -> Result<T> {
    redis::from_redis_value(value).map_err(|error| Error::Corrupt(error.to_string()))
}

/// Whether another connection, perhaps to another server, may do better at once.
fn is_over(error: &RedisError) -> bool {
    error.is_connection_dropped() || is_wrong_server(error)
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
    error.is_io_error()
        || is_wrong_server(error)
        || matches!(error.code(), Some("OOM" | "BUSY" | "MISCONF"))
        || error.kind() == ErrorKind::MasterNameNotFoundBySentinel
        || error.kind() == ErrorKind::Parse
        || error.detail().is_some_and(|detail| detail.contains("max number of clients"))
}
