//! Waiting on the server. Blocking commands have connections of their own, and carry no data (ARCHITECTURE.md
//! P8): the queue is watched by moving its head onto itself, so whoever drops the wait loses nothing.
//!
//! A wait that its caller drops goes on in the background, and the next caller joins it: a worker that
//! is called away from the queue all the time does not dial a connection each time, and a hint that came
//! while nobody listened is there for whoever listens next.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisResult, Value};
use tokio::sync::watch;

use super::Role;
use super::address::{Address, timed_out};
use super::conn::{Link, Request, ask, is_passing};
use super::keys::Keys;
use super::scripts::millis;
use crate::store::Wake;

/// How much longer than the server may wait the client does.
const PATIENCE: Duration = Duration::from_secs(5);
/// A server that is away is asked again after this time, not at once.
const PAUSE: Duration = Duration::from_millis(250);
/// Idle connections kept for readers of logs.
const IDLE: usize = 8;

/// The waits of one worker: two that wait for pokes share one wait, and the one hint it brings.
pub(super) struct Waits {
    address: Address,
    role: Role,
    work: Wait,
    poke: Wait,
    transition: Wait,
    /// The newest transition that the last exchange knew of.
    seen: Mutex<String>,
    /// Connections for readers of logs, not in use at the moment.
    tails: Mutex<Vec<MultiplexedConnection>>,
}

/// How a wait ended: with something (true) or after its time (false).
type Outcome = Option<RedisResult<bool>>;

/// One kind of wait, of which one is under way at most.
struct Wait {
    link: Arc<Link>,
    /// The wait that is under way, or ended and was not told to anybody yet.
    latest: Mutex<Option<watch::Receiver<Outcome>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no code panics while it holds the lock")
}

impl Waits {
    pub(super) fn new(address: &Address, role: Role) -> Self {
        let wait = || Wait { link: Arc::new(Link::new(address.clone())), latest: Mutex::default() };
        Self {
            address: address.clone(),
            role,
            work: wait(),
            poke: wait(),
            transition: wait(),
            seen: Mutex::new("$".into()),
            tails: Mutex::default(),
        }
    }

    pub(super) fn has_seen(&self, transition: String) {
        *locked(&self.seen) = transition;
    }

    /// Fails only for what does not pass by itself, after a pause.
    pub(super) async fn wake(&self, keys: &Keys, wake: &Wake, limit: Duration) -> RedisResult<()> {
        let limit = limit.max(Duration::from_millis(1));
        match wake {
            Wake::Work => {
                let mut peek = redis::cmd("BLMOVE");
                peek.arg(&keys.queue)
                    .arg(&keys.queue)
                    .arg("LEFT")
                    .arg("LEFT")
                    .arg(limit.as_secs_f64());
                self.work.wait(peek, limit).await
            }
            Wake::Poke(worker) => {
                let mut pop = redis::cmd("BLPOP");
                pop.arg(keys.poke(worker)).arg(limit.as_secs_f64());
                self.poke.wait(pop, limit).await
            }
            Wake::Transition => {
                let seen = locked(&self.seen).clone();
                let mut read = redis::cmd("XREAD");
                read.arg("COUNT")
                    .arg(1)
                    .arg("BLOCK")
                    .arg(millis(limit))
                    .arg("STREAMS")
                    .arg(keys.of("events"))
                    .arg(seen);
                self.transition.wait(read, limit).await
            }
        }
    }

    /// A blocking read on a connection of its own; a dropped read takes its connection along.
    pub(super) async fn tail(&self, command: &Cmd, wait: Duration) -> RedisResult<Value> {
        loop {
            let idle = locked(&self.tails).pop();
            let was_idle = idle.is_some();
            let error = match Box::pin(self.read(idle, command, wait)).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if was_idle && error.is_connection_dropped() {
                // It died while it was idle; each attempt uses one of them up.
                continue;
            }
            if self.role == Role::Client || !is_passing(&error) {
                return Err(error);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn read(
        &self,
        idle: Option<MultiplexedConnection>,
        command: &Cmd,
        wait: Duration,
    ) -> RedisResult<Value> {
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.address.dial().await?,
        };
        let answer = tokio::time::timeout(wait + PATIENCE, ask(&mut connection, command)).await;
        let answer = answer.map_err(|_| timed_out("no answer to a blocking read"))??;
        let mut tails = locked(&self.tails);
        if tails.len() < IDLE {
            tails.push(connection);
        }
        Ok(answer)
    }
}

impl Wait {
    /// Joins the wait that is under way, or begins one.
    async fn wait(&self, command: Cmd, limit: Duration) -> RedisResult<()> {
        let mut latest = {
            let mut latest = locked(&self.latest);
            // One that ended for nothing while nobody listened says nothing.
            latest.take_if(|wait| matches!(*wait.borrow(), Some(Ok(false))));
            latest.get_or_insert_with(|| self.begin(command, limit)).clone()
        };
        // Limited here too, because the wait may be an older, longer one.
        let ended = tokio::time::timeout(limit, latest.wait_for(Option::is_some)).await;
        let outcome = match &ended {
            Ok(Ok(outcome)) => (*outcome).clone(),
            // Its task is gone, with the runtime.
            Ok(Err(_)) => None,
            Err(_) => return Ok(()),
        };
        drop(ended);
        locked(&self.latest).take_if(|wait| wait.same_channel(&latest));
        match outcome {
            Some(Err(error)) if !is_passing(&error) => Err(error),
            _ => Ok(()),
        }
    }

    fn begin(&self, command: Cmd, limit: Duration) -> watch::Receiver<Outcome> {
        let (tell, outcome) = watch::channel(None);
        let link = Arc::clone(&self.link);
        tokio::spawn(async move {
            let answer = link.once(&Request::Command(&command), limit + PATIENCE).await;
            if let Err(error) = &answer {
                if error.is_timeout() {
                    // The command may still be armed, and keeps all others on the connection waiting.
                    link.hang_up();
                }
                tokio::time::sleep(PAUSE.min(limit)).await;
            }
            tell.send_replace(Some(answer.map(|value| value != Value::Nil)));
        });
        outcome
    }
}
