//! Output that waits to be written to the log: bounded, whatever the process writes, and in order.
//!
//! Entries are joined while they wait, but never across streams. So a process that writes a byte here
//! and a byte there makes many small entries, and an entry counts for what it costs the store, not
//! for its text alone.

use std::collections::VecDeque;

use crate::core::Event;
use crate::core::event::OutputStream;

/// Most text in one entry; as much is sent without waiting for more.
pub(super) const ENTRY: usize = 16 << 10;
/// What an entry counts for at least: its id and its names are kept beside the text.
const ENTRY_LEAST: usize = 256;
/// Most in one call.
const BATCH: usize = 256 << 10;
/// What is kept from the start, in the log and here.
const HEAD: u64 = 256 << 10;
/// What waits here while the store is away.
const BUFFER: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Backlog {
    attempt: u32,
    waiting: VecDeque<Event>,
    /// What waits, as entries count.
    cost: usize,
    /// What has ever waited, as entries count.
    spent: u64,
    /// Bytes of text so far, with what was given up: the next entry's offset.
    offset: u64,
    /// Where the text begins that may be given up.
    head_end: u64,
    /// Bytes of text that were given up.
    dropped: u64,
}

impl Backlog {
    pub(super) fn new(attempt: u32) -> Self {
        let (waiting, head_end) = (VecDeque::new(), u64::MAX);
        Self { attempt, waiting, cost: 0, spent: 0, offset: 0, head_end, dropped: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether so much waits that it is sent at once.
    pub(super) fn is_urgent(&self) -> bool {
        self.cost >= ENTRY
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether text at this offset may be given up for newer text.
    pub(super) fn may_go(&self, offset: u64) -> bool {
        offset >= self.head_end
    }

    pub(super) fn progress(&mut self, message: String) {
        let event = Event::Progress { attempt: self.attempt, message };
        self.cost += cost(&event);
        self.waiting.push_back(event);
    }

    /// Queues text, cut into entries; gives up older text if too much waits.
    pub(super) fn text(&mut self, stream: OutputStream, text: &str) {
        let mut rest = text;
        while !rest.is_empty() {
            let room = match self.waiting.back() {
                Some(Event::Output { stream: last, text, .. }) if *last == stream => {
                    ENTRY.saturating_sub(text.len())
                }
                _ => 0,
            };
            let mut cut = rest.floor_char_boundary(room);
            let mut before = 0;
            if cut > 0
                && let Some(last) = self.waiting.back_mut()
            {
                before = cost(last);
                if let Event::Output { text, .. } = last {
                    text.push_str(&rest[..cut]);
                }
            } else {
                cut = rest.floor_char_boundary(ENTRY);
                if self.spent >= HEAD {
                    self.head_end = self.head_end.min(self.offset);
                }
                let (attempt, offset) = (self.attempt, self.offset);
                let text = rest[..cut].to_owned();
                self.waiting.push_back(Event::Output { attempt, stream, offset, text });
            }
            let more = self.waiting.back().map_or(0, cost) - before;
            self.cost += more;
            self.spent += more as u64;
            self.offset += cut as u64;
            rest = &rest[cut..];
        }
        self.bound();
    }

    /// Gives up the oldest text that is not of the head when too much waits.
    fn bound(&mut self) {
        while self.cost > BUFFER {
            let victim = self.waiting.iter().position(
                |event| matches!(event, Event::Output { offset, .. } if *offset >= self.head_end),
            );
            let Some(event) = victim.and_then(|index| self.waiting.remove(index)) else { return };
            self.cost -= cost(&event);
            self.dropped += size(&event) as u64;
        }
    }

    /// The oldest entries, as many as one call takes.
    pub(super) fn take(&mut self) -> Vec<Event> {
        let mut batch = Vec::new();
        let mut taken = 0;
        while taken < BATCH
            && let Some(event) = self.waiting.pop_front()
        {
            taken += cost(&event);
            batch.push(event);
        }
        self.cost -= taken;
        batch
    }

    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.cost = 0;
    }
}

/// Bytes of text in an entry.
pub(super) fn size(event: &Event) -> usize {
    match event {
        Event::Output { text, .. } => text.len(),
        Event::Progress { message, .. } => message.len(),
        Event::State { .. } => 0,
    }
}

/// What an entry counts for.
pub(super) fn cost(event: &Event) -> usize {
    size(event).max(ENTRY_LEAST)
}

#[cfg(test)]
mod tests {
    use OutputStream::{Stderr, Stdout};

    use super::*;

    #[test]
    fn many_small_entries_are_as_bounded_as_few_large_ones() {
        let mut backlog = Backlog::new(1);
        for _ in 0..50_000 {
            backlog.text(Stdout, "o");
            backlog.text(Stderr, "e");
        }
        assert!(backlog.waiting.len() <= BUFFER / ENTRY_LEAST, "{}", backlog.waiting.len());
        let kept: usize = backlog.waiting.iter().map(size).sum();
        assert_eq!(kept as u64 + backlog.dropped(), 100_000);
        let offsets: Vec<u64> =
            std::iter::from_fn(|| Some(backlog.take()).filter(|b| !b.is_empty()))
                .flatten()
                .filter_map(|event| match event {
                    Event::Output { offset, .. } => Some(offset),
                    _ => None,
                })
                .collect();
        assert!(offsets.is_sorted() && offsets.last() == Some(&99_999));
        let head = usize::try_from(HEAD).unwrap() / ENTRY_LEAST;
        assert!(offsets[..head].iter().copied().eq(0..head as u64), "the head is whole");
        assert!(backlog.is_empty() && backlog.cost == 0);
    }

    #[test]
    fn the_middle_of_long_output_is_given_up() {
        let mut backlog = Backlog::new(1);
        let line = "0123456789abcdé\n".repeat(64);
        let lines = (4 << 20) / line.len();
        for _ in 0..lines {
            backlog.text(Stdout, &line);
        }
        let mut end = 0;
        let mut gaps = 0;
        while !backlog.is_empty() {
            for event in backlog.take() {
                let Event::Output { offset, text, .. } = event else { panic!("{event:?}") };
                assert!(text.len() <= ENTRY && offset >= end);
                if offset > end {
                    assert!(end >= HEAD, "of the head nothing is missing");
                    gaps += 1;
                }
                end = offset + text.len() as u64;
            }
        }
        assert_eq!((end, gaps), ((lines * line.len()) as u64, 1));
    }
}
