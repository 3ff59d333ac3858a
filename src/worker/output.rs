//! What an attempt's process writes, on its way to the job's log.
//!
//! The process must never wait for the store. So everything here is a bounded buffer and at most
//! one call on its way; while the store is away, the middle of the output is given up. The log
//! keeps the head and the tail of each attempt: entries in between are dropped as newer ones come.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{debug, warn};

use super::backlog::{Backlog, cost, size};
use crate::core::Event;
use crate::core::event::OutputStream;
use crate::store::{Error, Kind, Store, Token};

/// Longest stay of a byte in the buffer, unless a call is on its way.
const FLUSH: Duration = Duration::from_millis(50);
/// Pause after a call that failed.
const RETRY: Duration = Duration::from_secs(1);
/// What is kept up to the end in the log, as entries count.
const TAIL: u64 = 1 << 20;

type Call = BoxFuture<'static, Result<Vec<String>, Error>>;

/// One attempt's writer of the log.
pub(super) struct Log {
    store: Arc<dyn Store>,
    token: Token,
    /// Bytes that the process has written.
    written: u64,
    /// Bytes of text that the log lost again.
    dropped: u64,
    /// The start of a character whose rest has not come yet, for each stream.
    partial: [Vec<u8>; 2],
    backlog: Backlog,
    flush_at: Option<Instant>,
    /// The call on its way. Kept here, so that dropping a wait for it does not drop the call.
    call: Option<Call>,
    /// What is being sent, until it is answered.
    sent: Arc<[Event]>,
    /// Entries of the log's tail: id, bytes of text, and what each counts for.
    tail: VecDeque<(String, u64, u64)>,
    tail_cost: u64,
    /// Entries to drop with the next call.
    surplus: Arc<[String]>,
    /// Nothing more can be written: the attempt is not the current one.
    is_closed: bool,
}

impl Log {
    pub(super) fn new(store: Arc<dyn Store>, token: Token, attempt: u32) -> Self {
        Self {
            store,
            token,
            written: 0,
            dropped: 0,
            partial: [Vec::new(), Vec::new()],
            backlog: Backlog::new(attempt),
            flush_at: None,
            call: None,
            sent: Arc::new([]),
            tail: VecDeque::new(),
            tail_cost: 0,
            surplus: Arc::new([]),
            is_closed: false,
        }
    }

    pub(super) fn written(&self) -> u64 {
        self.written
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped + self.backlog.dropped()
    }

    /// Says what the worker does for the job.
    pub(super) fn progress(&mut self, message: String) {
        if self.is_closed {
            return;
        }
        self.backlog.progress(message);
        self.flush_at = Some(Instant::now());
    }

    /// Takes what the process wrote. Never waits.
    pub(super) fn write(&mut self, stream: OutputStream, bytes: &[u8]) {
        self.written += bytes.len() as u64;
        let partial = &mut self.partial[stream as usize];
        let text = if partial.is_empty() {
            decode(bytes, partial)
        } else {
            let mut whole = std::mem::take(partial);
            whole.extend_from_slice(bytes);
            decode(&whole, partial)
        };
        self.put(stream, &text);
    }

    fn put(&mut self, stream: OutputStream, text: &str) {
        if text.is_empty() || self.is_closed {
            return;
        }
        self.backlog.text(stream, text);
        let at = if self.backlog.is_urgent() { Instant::now() } else { Instant::now() + FLUSH };
        self.flush_at = Some(self.flush_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Waits until there is something to do for the log, and does it. May be dropped at any time.
    pub(super) async fn turn(&mut self) {
        if let Some(call) = &mut self.call {
            let answer = call.await;
            self.call = None;
            self.answered(answer);
            return;
        }
        match self.flush_at {
            Some(at) => sleep_until(at).await,
            None => pending().await,
        }
        self.send();
    }

    /// Starts a call with what waits, or repeats the last one if it failed.
    fn send(&mut self) {
        self.flush_at = None;
        if self.sent.is_empty() {
            self.sent = self.backlog.take().into();
            let cost: usize = self.sent.iter().map(cost).sum();
            self.surplus = self.surplus(cost as u64).into();
        }
        if self.sent.is_empty() {
            return;
        }
        let store = Arc::clone(&self.store);
        let (token, events, surplus) =
            (self.token.clone(), Arc::clone(&self.sent), Arc::clone(&self.surplus));
        self.call = Some(Box::pin(async move { store.append(&token, &events, &surplus).await }));
    }

    /// The oldest entries of the tail that have to go for what counts for `more`.
    fn surplus(&mut self, more: u64) -> Vec<String> {
        let mut surplus = Vec::new();
        while self.tail_cost + more > TAIL
            && let Some((id, size, cost)) = self.tail.pop_front()
        {
            self.tail_cost -= cost;
            self.dropped += size;
            surplus.push(id);
        }
        surplus
    }

    fn answered(&mut self, answer: Result<Vec<String>, Error>) {
        match answer {
            Ok(ids) => {
                for (event, id) in self.sent.iter().zip(ids) {
                    if let Event::Output { offset, text, .. } = event
                        && self.backlog.may_go(*offset)
                    {
                        let cost = cost(event) as u64;
                        self.tail_cost += cost;
                        self.tail.push_back((id, text.len() as u64, cost));
                    }
                }
            }
            Err(error) => match error.kind() {
                Kind::Unavailable => {
                    debug!(%error, "the log has to wait");
                    self.flush_at = Some(Instant::now() + RETRY);
                    return;
                }
                // The lease keeper learns of it too, and ends the attempt.
                Kind::Fenced | Kind::NotFound => self.close(),
                Kind::Conflict | Kind::Misconfigured | Kind::Corrupt => {
                    warn!(%error, "part of the log is lost");
                    self.dropped += self.sent.iter().map(|event| size(event) as u64).sum::<u64>();
                }
            },
        }
        self.sent = Arc::new([]);
        if !self.backlog.is_empty() {
            self.flush_at = Some(Instant::now());
        }
    }

    fn close(&mut self) {
        self.is_closed = true;
        self.backlog.clear();
    }

    /// Sends what is left, for `limit` at most.
    pub(super) async fn finish(&mut self, limit: Duration) {
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            let rest = std::mem::take(&mut self.partial[stream as usize]);
            self.put(stream, &String::from_utf8_lossy(&rest));
        }
        let end = Instant::now() + limit;
        while self.call.is_some() || !self.sent.is_empty() || !self.backlog.is_empty() {
            if self.call.is_none() && self.sent.is_empty() {
                self.flush_at = Some(Instant::now());
            }
            if timeout_at(end, self.turn()).await.is_err() {
                warn!("the end of the log could not be written in time");
                return;
            }
        }
    }
}

/// The text in `bytes`; a character that is cut off at the end is left in `partial`.
fn decode(bytes: &[u8], partial: &mut Vec<u8>) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(error) => {
            let mut end = bytes.len();
            // Only the end can become a character with more bytes.
            if let Some(last) = bytes.utf8_chunks().last()
                && error_is_at_end(last.invalid())
            {
                end -= last.invalid().len();
            }
            debug_assert!(error.valid_up_to() <= end);
            partial.extend_from_slice(&bytes[end..]);
            String::from_utf8_lossy(&bytes[..end]).into_owned()
        }
    }
}

/// Whether these bytes are the start of a character, cut off by the end of input.
fn error_is_at_end(invalid: &[u8]) -> bool {
    std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_cut_in_two_is_put_together_and_garbage_is_replaced() {
        let mut partial = Vec::new();
        assert_eq!(decode(b"a\xe2\x82", &mut partial), "a");
        assert_eq!(partial, b"\xe2\x82");
        partial.push(0xac);
        let whole = std::mem::take(&mut partial);
        assert_eq!(decode(&whole, &mut partial), "€");
        assert_eq!(decode(b"x\xffy", &mut partial), "x\u{fffd}y");
        assert_eq!(decode(b"x\xff", &mut partial), "x\u{fffd}");
        assert!(partial.is_empty());
    }
}
