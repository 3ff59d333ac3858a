//! `sortie jobs`: the list, once or as it changes.

use std::time::Duration;

use super::args::{self, Output};
use super::printer::{Printer, Tone};
use super::{Context, Exit, Failure, Outcome, parse, words};
use crate::api::wire;
use crate::config::redacted;
use crate::core::Job;
use crate::service::{Error, Jobs};
use crate::store::Query;

/// How long one wait for a change may take. On a terminal the ages are drawn again then.
const REDRAW: Duration = Duration::from_secs(2);
const TITLES: &[&str] =
    &["ID", "STATE", "PROFILE", "REPO", "AGE", "RUN", "TRY", "WORKER", "NOW/RESULT"];

pub(super) async fn run(context: &Context, args: &args::Jobs) -> Outcome {
    let query = Query {
        states: args.state.clone(),
        repo: args.repo.clone(),
        profile: args.profile.clone(),
        labels: args.labels.iter().map(|label| (label.0.clone(), label.1.clone())).collect(),
        worker: args.worker.clone(),
        since_ms: args.since.map(|since| since.0),
        limit: args.limit,
    };
    let jobs = context.connect().await?;
    if args.watch {
        return watch(context, &jobs, &query).await;
    }
    let listed = jobs.list(&query).await?;
    print(&context.printer, &listed)?;
    if listed.is_empty() && context.printer.format() == Output::Text {
        let filtered = Query { limit: query.limit, ..Query::default() } != query;
        let which = if filtered { "matches; `sortie jobs` lists all" } else { "is kept" };
        context.printer.note(&format!("no job {which}"))?;
    }
    Ok(Exit::Success)
}

fn print(printer: &Printer, jobs: &[Job]) -> Result<(), Failure> {
    match printer.format() {
        Output::Text => {
            let now = parse::now_ms();
            let rows: Vec<_> = jobs.iter().map(|job| row(printer, now, job)).collect();
            printer.table(TITLES, &rows)
        }
        Output::Id => jobs.iter().try_for_each(|job| printer.line(job.id.as_str())),
        Output::Json | Output::Jsonl | Output::Yaml => {
            printer.items(jobs.iter().map(wire::Job::from).collect())
        }
    }
}

fn row(printer: &Printer, now: u64, job: &Job) -> Vec<(Tone, String)> {
    let id = if printer.is_terminal() { words::id(&job.id) } else { job.id.as_str() };
    let plain = |text: Option<String>| (Tone::Plain, text.unwrap_or_default());
    let mut result = words::now_or_result(now, job);
    if printer.is_terminal() && result.chars().count() > 60 {
        result = result.chars().take(59).chain(['…']).collect();
    }
    vec![
        plain(Some(id.to_owned())),
        (Tone::of(job.state), job.state.to_string()),
        plain(job.spec.profile_name().map(words::one_line)),
        plain(job.spec.repo.as_deref().map(|repo| short_repo(&redacted(repo)))),
        plain(words::age_of(now, job)),
        plain(words::run(now, job)),
        plain(Some(words::attempts(job))),
        plain(job.worker.as_ref().map(|worker| worker.pod().to_owned())),
        (Tone::Plain, result),
    ]
}

/// `acme/api` of `https://github.com/acme/api.git`.
fn short_repo(url: &str) -> String {
    let url = words::one_line(url);
    let path = url.trim_end_matches('/').trim_end_matches(".git");
    let mut parts = path.rsplit(['/', ':']).filter(|part| !part.is_empty());
    match (parts.next(), parts.next()) {
        (Some(name), Some(owner)) => format!("{owner}/{name}"),
        (Some(name), None) => name.to_owned(),
        _ => path.to_owned(),
    }
}

/// On a terminal the list is drawn again; elsewhere every change is another row (or object).
async fn watch(context: &Context, jobs: &Jobs, query: &Query) -> Outcome {
    let printer = &context.printer;
    let redraws = printer.is_terminal() && printer.format() == Output::Text;
    let mut after = jobs.fleet_position().await?;
    let mut listed = jobs.list(query).await?;
    if !redraws {
        print(printer, &listed)?;
        printer.flush()?;
    }
    // Ends with the process: an interrupt is the way to leave.
    loop {
        if redraws {
            printer.screen(|| print(printer, &listed))?;
        }
        let entries = jobs.events(&after, Some(REDRAW)).await?;
        if let Some(last) = entries.last() {
            after.clone_from(&last.id);
        }
        if redraws {
            listed = jobs.list(query).await?;
            continue;
        }
        for entry in entries {
            let job = match jobs.find(entry.job.as_str()).await {
                Ok(job) if query.wants(&job) => job,
                Ok(_) | Err(Error::NotFound(_) | Error::Ambiguous { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            match printer.format() {
                Output::Text => {
                    let cells = row(printer, parse::now_ms(), &job);
                    let filled =
                        |cell: &str| if cell.is_empty() { "-".into() } else { cell.to_owned() };
                    let cells: Vec<_> = cells.iter().map(|(_, cell)| filled(cell)).collect();
                    printer.line(&cells.join("  "))?;
                }
                Output::Id => printer.line(job.id.as_str())?,
                Output::Json | Output::Jsonl | Output::Yaml => {
                    printer.document(&wire::Job::from(&job))?;
                }
            }
        }
        printer.flush()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_in_few_characters() {
        for (url, short) in [
            ("https://github.com/acme/api.git", "acme/api"),
            ("git@github.com:acme/api", "acme/api"),
            ("/srv/git/api.git/", "git/api"),
            ("api", "api"),
        ] {
            assert_eq!(short_repo(url), short);
        }
    }
}
