//! The store in Redis.

use std::sync::Arc;

use super::{Result, Store, Terms};

/// How to reach the queue.
#[derive(Clone)]
pub struct Settings {
    /// `redis://`, `rediss://`, `unix://` or `redis+sentinel://` URL; may contain a password.
    pub url: String,
    /// Name of the list, e.g. `sortie:queue`.
    pub queue: String,
    pub terms: Terms,
    /// Use the server in spite of an eviction policy that may lose jobs.
    pub allow_eviction: bool,
}

/// Who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A worker: a few connections of its own, calls are repeated until they are answered.
    Engine,
    /// A short caller (CLI, API): pooled connections, calls fail after a few seconds.
    Client,
}

/// Connects and checks that the server is fit for a queue.
pub async fn connect(_settings: Settings, _role: Role) -> Result<Arc<dyn Store>> {
    unimplemented!()
}
