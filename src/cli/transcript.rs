//! A job's log as people see it: its output as it was written, and the steps of its life as lines
//! of Sortie's own beside it.

use super::args::{LogKind, Output};
use super::exit::Failure;
use super::printer::{Printer, Tone};
use super::words;
use crate::api::wire::LogEntry;
use crate::core::event::OutputStream;
use crate::core::{Event, State, WorkerId};
use crate::store::Entry;

/// What of a log is shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Selection {
    /// Empty: all kinds.
    pub only: Vec<LogKind>,
    pub attempt: Option<u32>,
    /// Milliseconds since the epoch.
    pub since_ms: Option<u64>,
    /// Without Sortie's own lines.
    pub raw: bool,
}

impl Selection {
    /// Only the steps of the job's life.
    pub(super) fn steps() -> Self {
        Self { only: vec![LogKind::Events], ..Self::default() }
    }

    fn shows(&self, kind: LogKind) -> bool {
        if self.only.is_empty() {
            !(self.raw && kind == LogKind::Events)
        } else {
            self.only.contains(&kind)
        }
    }

    /// Whether the entry is of the attempt and the time that are wanted.
    pub(super) fn wants(&self, entry: &Entry) -> bool {
        let (Event::State { attempt, .. }
        | Event::Output { attempt, .. }
        | Event::Progress { attempt, .. }) = &entry.event;
        self.attempt.is_none_or(|wanted| wanted == *attempt)
            && self.since_ms.is_none_or(|since| entry.at_ms >= since)
    }
}

/// Shows one job's entries, in order.
#[derive(Debug)]
pub(super) struct Transcript<'a> {
    printer: &'a Printer,
    selection: Selection,
    /// Attempt and offset of the newest output, and where the next one should start if that is
    /// known.
    newest: Option<(u32, u64, Option<u64>)>,
    /// The line of an end that turned out to be the last one only if nothing follows.
    end: Option<String>,
}

impl<'a> Transcript<'a> {
    pub(super) fn new(printer: &'a Printer, selection: Selection) -> Self {
        Self { printer, selection, newest: None, end: None }
    }

    pub(super) fn show(&mut self, entry: &Entry) -> Result<(), Failure> {
        if !self.selection.wants(entry) {
            return Ok(());
        }
        if let Some(line) = self.end.take() {
            self.printer.note(&line)?;
        }
        let is_shown = self.selection.shows(kind(&entry.event));
        let is_json = self.printer.format() == Output::Jsonl;
        if let Event::Output { attempt, stream, offset, text } = &entry.event {
            let missing = match self.place(*attempt, *offset, text) {
                Place::Repeated => return Ok(()),
                Place::After(missing) => missing,
            };
            if missing > 0 && !self.selection.raw && !is_json {
                let line = format!("[… {} not kept …]", words::bytes(missing));
                self.printer.say(&self.printer.tone(Tone::Faint, &line))?;
            }
            if is_shown && !is_json {
                return if text.is_empty() { Ok(()) } else { self.printer.output(*stream, text) };
            }
        }
        if !is_shown {
            return Ok(());
        }
        if is_json {
            self.printer.document(&LogEntry::from(entry))?;
            return self.printer.flush();
        }
        let Some((line, is_end)) = line(&entry.event) else { return Ok(()) };
        let line = self.printer.tone(Tone::Faint, &line);
        if is_end {
            self.end = Some(line);
            return Ok(());
        }
        self.printer.live(&line);
        self.printer.note(&line)
    }

    /// Shows the end that was held back, for a reader who is not told of it in another way.
    pub(super) fn finish(&mut self) -> Result<(), Failure> {
        self.end.take().map_or(Ok(()), |line| self.printer.note(&line))
    }

    /// Where a piece of output belongs. Invalid UTF-8 was replaced by characters of other lengths,
    /// so after such a piece the next offset is not known.
    fn place(&mut self, attempt: u32, offset: u64, text: &str) -> Place {
        let mut missing = 0;
        if let Some((of, newest, expected)) = self.newest
            && of == attempt
        {
            if offset <= newest {
                return Place::Repeated;
            }
            missing = expected.map_or(0, |expected| offset.saturating_sub(expected));
        }
        let is_exact = !text.contains(char::REPLACEMENT_CHARACTER);
        let next = is_exact.then_some(offset + text.len() as u64);
        self.newest = Some((attempt, offset, next));
        Place::After(missing)
    }
}

fn kind(event: &Event) -> LogKind {
    match event {
        Event::Output { stream: OutputStream::Stdout, .. } => LogKind::Stdout,
        Event::Output { stream: OutputStream::Stderr, .. } => LogKind::Stderr,
        Event::State { .. } | Event::Progress { .. } => LogKind::Events,
    }
}

enum Place {
    /// It was shown already.
    Repeated,
    /// So many bytes before it were not kept.
    After(u64),
}

/// A step of a job's life as a line, and whether it ends the job.
fn line(event: &Event) -> Option<(String, bool)> {
    match event {
        Event::Output { .. } => None,
        Event::Progress { message, .. } => Some((format!("· {}", words::one_line(message)), false)),
        Event::State { state, fault, worker, attempt, message } => {
            let worker = WorkerId::from_store(worker.as_str());
            let mut words = vec![match state {
                // Something is said about a job that runs on.
                State::Running if !message.is_empty() => String::new(),
                State::Running => format!("running on {} (attempt {attempt})", worker.pod()),
                state => state.to_string(),
            }];
            words.extend(fault.map(|fault| fault.to_string()));
            words.push(words::one_line(message));
            words.retain(|word| !word.is_empty());
            Some((format!("· {}", words.join(": ")), state.is_terminal()))
        }
    }
}

/// Keeps the last `lines` lines of the output that is shown, and what is between them.
pub(super) fn tail(mut entries: Vec<Entry>, lines: usize, selection: &Selection) -> Vec<Entry> {
    let mut missing = lines;
    let mut is_last = true;
    for index in (0..entries.len()).rev() {
        if !selection.shows(kind(&entries[index].event)) {
            continue;
        }
        let Event::Output { text, offset, .. } = &mut entries[index].event else { continue };
        // A line end at the very end of the output ends its last line, it begins no new one.
        let body = if is_last { text.strip_suffix('\n').unwrap_or(text) } else { text.as_str() };
        is_last = false;
        let Some(before) = missing.checked_sub(1) else { return entries.split_off(index + 1) };
        if let Some((at, _)) = body.rmatch_indices('\n').nth(before) {
            *offset += at as u64 + 1;
            text.drain(..=at);
            return entries.split_off(index);
        }
        missing -= body.matches('\n').count();
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(offset: u64, text: &str) -> Entry {
        Entry {
            id: offset.to_string(),
            at_ms: 0,
            job: "a".parse().unwrap(),
            event: Event::Output {
                attempt: 1,
                stream: OutputStream::Stdout,
                offset,
                text: text.into(),
            },
        }
    }

    fn text(entries: &[Entry]) -> String {
        let texts = entries.iter().filter_map(|entry| match &entry.event {
            Event::Output { text, .. } => Some(text.as_str()),
            _ => None,
        });
        texts.collect()
    }

    #[test]
    fn the_last_lines() {
        let all = || vec![output(0, "one\ntw"), output(6, "o\nthree\n"), output(14, "four\n")];
        let last = |lines| tail(all(), lines, &Selection::default());
        assert_eq!(text(&last(0)), "");
        assert_eq!(text(&last(1)), "four\n");
        assert_eq!(text(&last(2)), "three\nfour\n");
        assert_eq!(text(&last(3)), "two\nthree\nfour\n");
        assert_eq!(text(&last(4)), "one\ntwo\nthree\nfour\n");
        assert_eq!(text(&last(9)), "one\ntwo\nthree\nfour\n");
        let cut = last(2);
        let nothing = Selection { only: vec![LogKind::Stderr], ..Selection::default() };
        assert_eq!(tail(all(), 1, &nothing).len(), 3, "what is not shown is not counted");
        assert!(matches!(cut[0].event, Event::Output { offset: 8, .. }), "{cut:?}");
    }

    #[test]
    fn gaps_and_repetitions() {
        let printer = Printer::new(Output::Text, true, super::super::args::Color::Never, true);
        let mut transcript = Transcript::new(&printer, Selection::default());
        let mut place = |attempt, offset, text| match transcript.place(attempt, offset, text) {
            Place::Repeated => None,
            Place::After(missing) => Some(missing),
        };
        assert_eq!(place(1, 0, "abc"), Some(0));
        assert_eq!(place(1, 0, "abc"), None);
        assert_eq!(place(1, 3, "d"), Some(0));
        assert_eq!(place(1, 10, "\u{fffd}"), Some(6));
        assert_eq!(place(1, 11, "e"), Some(0));
        assert_eq!(place(2, 0, "f"), Some(0));
    }

    #[test]
    fn steps_are_one_line_each() {
        let state = |state, fault, message: &str| Event::State {
            state,
            fault,
            worker: "sortie-0/boot".into(),
            attempt: 2,
            message: message.into(),
        };
        let (running, is_end) = line(&state(State::Running, None, "")).unwrap();
        assert_eq!((running.as_str(), is_end), ("· running on sortie-0 (attempt 2)", false));
        let (asked, _) = line(&state(State::Running, None, "cancel requested by me")).unwrap();
        assert_eq!(asked, "· cancel requested by me");
        let fault = Some(crate::core::Fault::AgentExit);
        let (failed, is_end) = line(&state(State::Failed, fault, "code 3\nmore")).unwrap();
        assert_eq!((failed.as_str(), is_end), ("· failed: agent_exit: code 3", true));
    }
}
