//! Ctrl-C, and the polite signal of whoever started us: both mean "stop waiting".

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::exit::{Exit, Failure};

/// The signals that end waiting. From its creation on they no longer end the process by themselves.
#[derive(Debug)]
pub(super) struct Interrupt {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupt {
    pub(super) fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                Failure::new(Exit::Failed, format!("cannot listen for signals: {error}"))
            })
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// Waits for one of them. May be dropped at any time; a signal in between is not lost.
    pub(super) async fn wait(&mut self) {
        tokio::select! {
            // Both are cancel-safe: a signal stays pending until it is received.
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
