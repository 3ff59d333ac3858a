//! `sortie config`: every setting, and where its value comes from. Passwords are not shown.

use serde::Serialize;

use super::args::Output;
use super::printer::Tone;
use super::{Context, Exit, Outcome};
use crate::config::redacted;
use crate::env;

#[derive(Serialize)]
struct Shown {
    key: &'static str,
    value: String,
    origin: String,
    variable: &'static str,
}

pub(super) fn run(context: &Context) -> Outcome {
    let (printer, global) = (&context.printer, &context.global);
    let shown: Vec<_> = env::SETTINGS
        .iter()
        .map(|setting| {
            let flag = match setting.key {
                "redis" => global.redis.clone(),
                "queue" => global.queue.clone(),
                "color" => global.color.map(|color| color.as_str().to_owned()),
                _ => None,
            };
            let found = context.sources.find(setting, flag);
            Shown {
                key: setting.key,
                value: redacted(&found.value),
                origin: found.origin.to_string(),
                variable: setting.name,
            }
        })
        .collect();
    if printer.format() == Output::Text {
        if let Some(path) = context.sources.path() {
            printer.note(&format!("file: {}", path.display()))?;
        }
        let plain = |text: &str| (Tone::Plain, text.to_owned());
        let rows: Vec<_> = shown
            .iter()
            .map(|one| vec![plain(one.key), plain(&one.value), (Tone::Faint, one.origin.clone())])
            .collect();
        printer.table(&["KEY", "VALUE", "FROM"], &rows)?;
    } else {
        printer.items(shown)?;
    }
    Ok(Exit::Success)
}
