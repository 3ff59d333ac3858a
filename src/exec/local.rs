//! Starting the supervisor on this host.

use super::{Error, Request, Running};

/// Starts the process.
pub async fn start(_request: Request) -> Result<Running, Error> {
    unimplemented!()
}
