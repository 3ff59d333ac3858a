//! Log lines of long-running processes: readable on a terminal, JSON for everything else.

use std::io::IsTerminal;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `Text` on a terminal, else `Json`.
    Auto,
    Text,
    Json,
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("unknown log format {text:?}; one of: auto, text, json")),
        }
    }
}

/// Starts logging to standard error. `directives` is a level or `target=level,…`. Must be called
/// once at most in a process.
pub fn start(format: Format, directives: &str, color: bool) -> Result<(), String> {
    let targets: Targets = directives
        .parse()
        .map_err(|error| format!("{directives:?} does not say what to log: {error}"))?;
    let is_json = match format {
        Format::Auto => !std::io::stderr().is_terminal(),
        Format::Text => false,
        Format::Json => true,
    };
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(color);
    let lines = if is_json {
        lines.json().flatten_event(true).with_current_span(false).boxed()
    } else {
        lines.with_target(false).boxed()
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(targets))
        .try_init()
        .map_err(|error| error.to_string())
}
