//! The only place that prints. Data goes to standard output in the form that was asked for,
//! everything else to standard error. A reader that has gone away is no error: the command ends.

use std::cell::{Cell, RefCell};
use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::args::{Color, Output};
use super::exit::Failure;
use crate::core::State;
use crate::core::event::OutputStream;

/// Prints.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Printer {
    format: Output,
    is_quiet: bool,
    has_color: bool,
    out_is_terminal: bool,
    error_is_terminal: bool,
    out: RefCell<BufWriter<StdoutLock<'static>>>,
    /// Whether the last bytes of a job did not end a line, for each of the two streams.
    is_inside_line: [Cell<bool>; 2],
    live: RefCell<Option<ProgressBar>>,
    /// Row of the terminal for the next line, while a screen is drawn.
    row: Cell<Option<u32>>,
}

/// How a piece of text stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Good,
    Bad,
    Busy,
    Faint,
}

impl Tone {
    #[must_use]
    pub(super) const fn of(state: State) -> Self {
        match state {
            State::Succeeded => Self::Good,
            State::Failed | State::Dead | State::Rejected => Self::Bad,
            State::Running => Self::Busy,
            State::Canceled => Self::Faint,
            State::Queued | State::Waiting | State::Deferred => Self::Plain,
        }
    }

    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Good => "\x1b[32m",
            Self::Bad => "\x1b[31m",
            Self::Busy => "\x1b[36m",
            Self::Faint => "\x1b[2m",
        }
    }
}

impl Printer {
    #[must_use]
    pub(super) fn new(format: Output, is_quiet: bool, color: Color, no_color: bool) -> Self {
        let (out_is_terminal, error_is_terminal) =
            (io::stdout().is_terminal(), io::stderr().is_terminal());
        let has_color = match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => !no_color && out_is_terminal && error_is_terminal,
        };
        Self {
            format,
            is_quiet,
            has_color,
            out_is_terminal,
            error_is_terminal,
            out: RefCell::new(BufWriter::with_capacity(1 << 16, io::stdout().lock())),
            is_inside_line: [Cell::new(false), Cell::new(false)],
            live: RefCell::new(None),
            row: Cell::new(None),
        }
    }

    pub(super) fn has_color(&self) -> bool {
        self.has_color
    }

    pub(super) fn format(&self) -> Output {
        self.format
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.is_quiet
    }

    /// Whether a person looks at standard output.
    pub(super) fn is_terminal(&self) -> bool {
        self.out_is_terminal
    }

    /// Text in colour, where there are colours.
    #[must_use]
    pub(super) fn tone(&self, tone: Tone, text: &str) -> String {
        if self.has_color && tone != Tone::Plain {
            format!("{}{text}\x1b[0m", tone.code())
        } else {
            text.to_owned()
        }
    }

    /// A line of data.
    pub(super) fn line(&self, text: &str) -> Result<(), Failure> {
        let mut out = self.out.borrow_mut();
        if let Some(row) = self.row.get() {
            self.row.set(Some(row + 1));
            return Ok(write!(out, "\x1b[{row};1H\x1b[2K{text}")?);
        }
        out.write_all(text.as_bytes())?;
        Ok(out.write_all(b"\n")?)
    }

    /// Data, as it is.
    pub(super) fn text(&self, text: &str) -> Result<(), Failure> {
        Ok(self.out.borrow_mut().write_all(text.as_bytes())?)
    }

    /// One document as JSON (with line breaks; `jsonl` without) or YAML. In the text forms nothing.
    pub(super) fn document<T: Serialize>(&self, value: &T) -> Result<(), Failure> {
        match self.format {
            Output::Text | Output::Id => Ok(()),
            Output::Json => self.line(&serde_json::to_string_pretty(value).map_err(unprintable)?),
            Output::Jsonl => self.line(&serde_json::to_string(value).map_err(unprintable)?),
            Output::Yaml => self.text(&serde_saphyr::to_string(value).map_err(unprintable)?),
        }
    }

    /// A list: one document, or with `jsonl` one line for each item. In the text forms nothing.
    pub(super) fn items<T: Serialize>(&self, items: Vec<T>) -> Result<(), Failure> {
        if self.format == Output::Jsonl {
            return items.iter().try_for_each(|item| self.document(item));
        }
        self.document(&crate::api::wire::List::new(items))
    }

    /// Rows in columns, under a title; an empty cell is `-`. For text.
    pub(super) fn table(
        &self,
        titles: &[&str],
        rows: &[Vec<(Tone, String)>],
    ) -> Result<(), Failure> {
        let mut widths: Vec<_> = titles.iter().map(|title| title.len()).collect();
        for row in rows {
            for (width, (_, cell)) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let titles = titles.iter().map(|title| (Tone::Plain, (*title).to_owned())).collect();
        for row in std::iter::once(&titles).chain(rows) {
            let mut line = String::new();
            for (index, (tone, cell)) in row.iter().enumerate() {
                let cell = if cell.is_empty() { "-" } else { cell };
                line += &self.tone(*tone, cell);
                if index + 1 < row.len() {
                    let missing = widths[index].saturating_sub(cell.chars().count());
                    line.extend(std::iter::repeat_n(' ', missing + 2));
                }
            }
            self.line(&line)?;
        }
        Ok(())
    }

    /// Bytes that a job wrote. They go to the stream that the job wrote them to; where standard
    /// output carries a document, to standard error.
    pub(super) fn output(&self, stream: OutputStream, text: &str) -> Result<(), Failure> {
        // What is drawn again and again would erase a line that the job has not ended yet.
        self.finish_live();
        let is_out = stream == OutputStream::Stdout && self.format == Output::Text;
        self.is_inside_line[usize::from(!is_out)].set(!text.ends_with('\n'));
        let mut out = self.out.borrow_mut();
        if is_out {
            out.write_all(text.as_bytes())?;
        }
        out.flush()?;
        if !is_out {
            io::stderr().write_all(text.as_bytes())?;
        }
        Ok(())
    }

    /// A line about what is going on, on standard error; not when it should be quiet.
    pub(super) fn note(&self, text: &str) -> Result<(), Failure> {
        if self.is_quiet { Ok(()) } else { self.say(text) }
    }

    /// A line on standard error, in any case. Fails only if what was printed before it on standard
    /// output cannot be written.
    pub(super) fn say(&self, text: &str) -> Result<(), Failure> {
        // What a job wrote may have left a terminal inside a line.
        let is_inside = self.is_inside_line[1].replace(false)
            | (self.out_is_terminal && self.is_inside_line[0].replace(false));
        let start = if is_inside { "\n" } else { "" };
        let line = format!("{start}{text}\n");
        // Lines on the two streams should appear in the order in which they were printed.
        let flushed = self.flush();
        // What is said beside the data may be lost: it is no reason to leave a job that is waited for.
        let write = || io::stderr().write_all(line.as_bytes()).ok();
        match &*self.live.borrow() {
            Some(bar) => bar.suspend(write),
            None => write(),
        };
        flushed
    }

    /// An error: what and why, then what to do next.
    pub(super) fn failure(&self, failure: &Failure) -> Result<(), Failure> {
        self.finish_live();
        let error = format!("{}: {}", self.tone(Tone::Bad, "error"), failure.message);
        let next = failure.next.as_ref().map(|next| format!("\n  next: {next}"));
        self.say(&(error + next.as_deref().unwrap_or_default()))
    }

    /// Shows what goes on at the moment, where a person looks at standard error.
    pub(super) fn live(&self, text: &str) {
        if self.is_quiet || !self.error_is_terminal {
            return;
        }
        let mut live = self.live.borrow_mut();
        let bar = live.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
            let bar = ProgressBar::new_spinner().with_style(style);
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        bar.set_message(text.to_owned());
    }

    /// Shows how far something has come, where a person looks at standard error.
    pub(super) fn progress(&self, done: usize, all: usize) {
        if self.is_quiet || !self.error_is_terminal {
            return;
        }
        let mut live = self.live.borrow_mut();
        let bar = live.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {per_sec} {eta}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(all as u64).with_style(style)
        });
        bar.set_position(done as u64);
    }

    /// Removes what [`Self::live`] or [`Self::progress`] shows.
    pub(super) fn finish_live(&self) {
        if let Some(bar) = self.live.borrow_mut().take() {
            bar.finish_and_clear();
        }
    }

    /// Hands everything to the operating system.
    pub(super) fn flush(&self) -> Result<(), Failure> {
        Ok(self.out.borrow_mut().flush()?)
    }

    /// Empties the terminal and draws lines on it, whatever its size: what is too wide is cut off,
    /// and the first lines are not scrolled away by those that have no room.
    pub(super) fn screen(&self, draw: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
        self.text("\x1b[?7l\x1b[2J")?;
        // A terminal draws every row below its last one on its last one.
        self.row.set(Some(1));
        let drawn = draw();
        self.row.set(None);
        drawn.and(self.text("\x1b[?7h")).and(self.flush())
    }
}

fn unprintable(error: impl std::fmt::Display) -> Failure {
    Failure::new(super::exit::Exit::Failed, format!("cannot print this: {error}"))
}
