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

use crate::core::Event;
use crate::core::event::OutputStream;
use crate::store::{Error, Kind, Store, Token};

/// Most text in one entry; as much is sent without waiting for more.
const ENTRY: usize = 16 << 10;
/// Most text in one call.
const BATCH: usize = 256 << 10;
/// Longest stay of a byte in the buffer, unless a call is on its way.
const FLUSH: Duration = Duration::from_millis(50);
/// Pause after a call that failed.
const RETRY: Duration = Duration::from_secs(1);
/// Bytes from the start that are kept, in the log and here.
const HEAD: u64 = 256 << 10;
/// Bytes up to the end that are kept in the log.
const TAIL: u64 = 1 << 20;
/// Bytes that wait here while the store is away.
const BUFFER: usize = 1 << 20;

type Call = BoxFuture<'static, Result<Vec<String>, Error>>;

/// One attempt's writer of the log.
pub(super) struct Log {
    store: Arc<dyn Store>,
    token: Token,
    attempt: u32,
    /// Bytes that the process has written.
    written: u64,
    /// Bytes of text that were given up, here or in the log.
    dropped: u64,
    /// Bytes of text so far, with what was dropped: the next entry's offset.
    offset: u64,
    /// The start of a character whose rest has not come yet, for each stream.
    partial: [Vec<u8>; 2],
    waiting: VecDeque<Event>,
    waiting_bytes: usize,
    flush_at: Option<Instant>,
    /// The call on its way. Kept here, so that dropping a wait for it does not drop the call.
    call: Option<Call>,
    /// What is being sent, until it is answered.
    sent: Arc<[Event]>,
    /// Entries of the log's tail: id and bytes.
    tail: VecDeque<(String, u64)>,
    tail_bytes: u64,
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
            attempt,
            written: 0,
            dropped: 0,
            offset: 0,
            partial: [Vec::new(), Vec::new()],
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            flush_at: None,
            call: None,
            sent: Arc::new([]),
            tail: VecDeque::new(),
            tail_bytes: 0,
            surplus: Arc::new([]),
            is_closed: false,
        }
    }

    pub(super) fn written(&self) -> u64 {
        self.written
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Says what the worker does for the job.
    pub(super) fn progress(&mut self, message: String) {
        if self.is_closed {
            return;
        }
        self.waiting_bytes += message.len();
        self.waiting.push_back(Event::Progress { attempt: self.attempt, message });
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

    /// Queues text, cut into entries.
    fn put(&mut self, stream: OutputStream, text: &str) {
        if text.is_empty() || self.is_closed {
            return;
        }
        let mut rest = text;
        while !rest.is_empty() {
            let room = match self.waiting.back() {
                Some(Event::Output { stream: last, text, .. }) if *last == stream => {
                    ENTRY.saturating_sub(text.len())
                }
                _ => 0,
            };
            let cut = rest.floor_char_boundary(room);
            if cut > 0 {
                if let Some(Event::Output { text, .. }) = self.waiting.back_mut() {
                    text.push_str(&rest[..cut]);
                }
                self.offset += cut as u64;
                rest = &rest[cut..];
            } else {
                let cut = rest.floor_char_boundary(ENTRY);
                let (attempt, offset) = (self.attempt, self.offset);
                let text = rest[..cut].to_owned();
                self.waiting.push_back(Event::Output { attempt, stream, offset, text });
                self.offset += cut as u64;
                rest = &rest[cut..];
            }
        }
        self.waiting_bytes += text.len();
        self.bound();
        let at = if self.waiting_bytes >= ENTRY { Instant::now() } else { Instant::now() + FLUSH };
        self.flush_at = Some(self.flush_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Gives up the oldest text that is not of the head when too much waits.
    fn bound(&mut self) {
        while self.waiting_bytes > BUFFER {
            let victim = self
                .waiting
                .iter()
                .position(|event| matches!(event, Event::Output { offset, .. } if *offset >= HEAD));
            let Some(event) = victim.and_then(|index| self.waiting.remove(index)) else { return };
            self.waiting_bytes -= size(&event);
            self.dropped += size(&event) as u64;
        }
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
            let mut batch = Vec::new();
            let mut bytes = 0;
            while bytes < BATCH
                && let Some(event) = self.waiting.pop_front()
            {
                bytes += size(&event);
                batch.push(event);
            }
            self.waiting_bytes -= bytes;
            self.sent = batch.into();
            self.surplus = self.surplus(bytes as u64).into();
        }
        if self.sent.is_empty() {
            return;
        }
        let store = Arc::clone(&self.store);
        let (token, events, surplus) =
            (self.token.clone(), Arc::clone(&self.sent), Arc::clone(&self.surplus));
        self.call = Some(Box::pin(async move { store.append(&token, &events, &surplus).await }));
    }

    /// The oldest entries of the tail that have to go for `bytes` more.
    fn surplus(&mut self, bytes: u64) -> Vec<String> {
        let mut surplus = Vec::new();
        while self.tail_bytes + bytes > TAIL
            && let Some((id, size)) = self.tail.pop_front()
        {
            self.tail_bytes -= size;
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
                        && *offset >= HEAD
                    {
                        self.tail_bytes += text.len() as u64;
                        self.tail.push_back((id, text.len() as u64));
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
        if !self.waiting.is_empty() {
            self.flush_at = Some(Instant::now());
        }
    }

    fn close(&mut self) {
        self.is_closed = true;
        self.waiting.clear();
        self.waiting_bytes = 0;
    }

    /// Sends what is left, for `limit` at most.
    pub(super) async fn finish(&mut self, limit: Duration) {
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            let rest = std::mem::take(&mut self.partial[stream as usize]);
            self.put(stream, &String::from_utf8_lossy(&rest));
        }
        let end = Instant::now() + limit;
        while self.call.is_some() || !self.sent.is_empty() || !self.waiting.is_empty() {
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

fn size(event: &Event) -> usize {
    match event {
        Event::Output { text, .. } => text.len(),
        Event::Progress { message, .. } => message.len(),
        Event::State { .. } => 0,
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
