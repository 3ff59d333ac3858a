//! Waiting on the server. Blocking commands have connections of their own, and carry no data (PROTOCOL.md
//! P8): the queue is watched by moving its head onto itself, so whoever drops the wait loses nothing.
//!
//! A wait that its caller drops goes on in the background, and the next caller joins it: a worker that
//! is called away from the queue all the time does not dial a connection each time.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisResult, Value};
use tokio::sync::watch;

use super::conn::{Address, Link};
use super::keys::Keys;
use super::scripts::millis;
use crate::store::Wake;

/// How much longer than the server may wait the client does.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct Waits {
    address: Address,
    work: Wait,
    poke: Wait,
    transition: Wait,
    /// The newest transition that the last exchange knew of.
    seen: Mutex<String>,
    /// Connections for readers of logs, not in use at the moment.
    tails: Mutex<Vec<MultiplexedConnection>>,
}

/// One kind of wait, of which one is under way at most.
struct Wait {
    link: Arc<Link>,
    running: Mutex<Option<watch::Receiver<bool>>>,
}

impl Waits {
    pub(super) fn new(address: &Address) -> Self {
        let wait =
            || Wait { link: Arc::new(Link::blocking(address.clone())), running: Mutex::default() };
        Self {
            address: address.clone(),
            work: wait(),
            poke: wait(),
            transition: wait(),
            seen: Mutex::new("$".into()),
            tails: Mutex::default(),
        }
    }

    pub(super) fn has_seen(&self, transition: String) {
        *self.seen.lock().expect("no code panics while it holds the lock") = transition;
    }

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
                let seen =
                    self.seen.lock().expect("no code panics while it holds the lock").clone();
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
        let idle = self.tails.lock().expect("no code panics while it holds the lock").pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => self.address.dial(None).await?,
        };
        let answer = tokio::time::timeout(
            wait + PATIENCE,
            redis::aio::ConnectionLike::req_packed_command(&mut connection, command),
        );
        let answer = answer.await.map_err(|_| no_answer())??.extract_error()?;
        self.tails.lock().expect("no code panics while it holds the lock").push(connection);
        Ok(answer)
    }
}

impl Wait {
    /// Joins the wait that is under way, or begins one.
    async fn wait(&self, command: Cmd, limit: Duration) -> RedisResult<()> {
        let mut done = {
            let mut running = self.running.lock().expect("no code panics while it holds the lock");
            if let Some(done) = running.as_ref().filter(|done| done.has_changed().is_ok()) {
                done.clone()
            } else {
                let (tell, done) = watch::channel(false);
                let link = Arc::clone(&self.link);
                tokio::spawn(async move {
                    let answer = tokio::time::timeout(limit + PATIENCE, link.once(&command)).await;
                    if !matches!(answer, Ok(Ok(_))) {
                        // A server that is away is asked again in a moment, not at once.
                        link.hang_up();
                        tokio::time::sleep(Duration::from_millis(250).min(limit)).await;
                    }
                    // Nobody may be waiting any more.
                    drop(tell.send(true));
                });
                *running = Some(done.clone());
                done
            }
        };
        // An error says that the wait is over too. Limited again, because the wait may be an older, longer one.
        drop(tokio::time::timeout(limit, done.wait_for(|is_done| *is_done)).await);
        Ok(())
    }
}

fn no_answer() -> redis::RedisError {
    std::io::Error::new(std::io::ErrorKind::TimedOut, "no answer to a blocking read").into()
}
