//! `sortie version`.

use serde::Serialize;

use super::args::Output;
use super::{Context, Exit, Outcome};
use crate::api::wire::API_VERSION;

#[derive(Serialize)]
struct Version {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    version: &'static str,
}

pub(super) fn run(context: &Context) -> Outcome {
    let version = env!("CARGO_PKG_VERSION");
    if context.printer.format() == Output::Text {
        context.printer.line(&format!("sortie {version}"))?;
    } else {
        context.printer.document(&Version { api_version: API_VERSION, version })?;
    }
    Ok(Exit::Success)
}
