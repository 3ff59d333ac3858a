//! `sortie doctor`: is this host, and is the store, fit for work? Every line that is not good names
//! its remedy.

use std::path::{Path, PathBuf};

use super::args::Output;
use super::printer::Tone;
use super::{Context, Exit, Failure, Outcome};
use crate::config;
use crate::env;
use crate::store::{Check, Level};

/// Oldest git that a worker accepts (`git/cli.rs`).
const GIT: (u32, u32) = (2, 38);

pub(super) async fn run(
    context: &Context,
    worktrees: Option<PathBuf>,
    shared: Option<PathBuf>,
) -> Outcome {
    let printer = &context.printer;
    let mut checks = vec![git()];
    for (variable, flag) in [(&env::WORKTREES, worktrees), (&env::SHARED, shared)] {
        if let Some(path) = context.sources.optional(variable, flag, config::path)? {
            checks.push(directory(variable, &path));
        }
    }
    match context.connect().await {
        Ok(jobs) => checks.extend(jobs.store().health().await?),
        Err(Failure { message, .. }) => {
            checks.push(Check { name: "store".into(), level: Level::Error, message });
        }
    }
    let is_fit = checks.iter().all(|check| check.level != Level::Error);
    if matches!(printer.format(), Output::Text | Output::Id) {
        for Check { name, level, message } in &checks {
            let (tone, word) = match level {
                Level::Ok => (Tone::Good, "ok   "),
                Level::Warning => (Tone::Busy, "warn "),
                Level::Error => (Tone::Bad, "error"),
            };
            printer.line(&format!("{}  {name}: {message}", printer.tone(tone, word)))?;
        }
    } else {
        printer.items(checks)?;
    }
    Ok(if is_fit { Exit::Success } else { Exit::Failed })
}

fn git() -> Check {
    let name = "git".to_owned();
    let found = match std::process::Command::new("git").arg("--version").output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Err(error) => {
            let message = format!("cannot be started: {error}; install git and put it on PATH");
            return Check { name, level: Level::Error, message };
        }
    };
    match version(&found) {
        Some(version) if version >= GIT => Check { name, level: Level::Ok, message: found },
        _ => {
            let message = format!("{found:?} is too old; install git {}.{} or newer", GIT.0, GIT.1);
            Check { name, level: Level::Error, message }
        }
    }
}

/// Major and minor number of `git version 2.47.3`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.strip_prefix("git version ")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Whether files can be made in a directory (or it can be made).
fn directory(variable: &env::Variable, path: &Path) -> Check {
    let name = variable.flag.trim_start_matches('-').to_owned();
    let probe = path.join(format!(".sortie-doctor-{}", std::process::id()));
    let tried = std::fs::create_dir_all(path)
        .and_then(|()| std::fs::write(&probe, b"sortie"))
        .and_then(|()| std::fs::remove_file(&probe));
    match tried {
        Ok(()) => {
            Check { name, level: Level::Ok, message: format!("{} is writable", path.display()) }
        }
        Err(error) => {
            let (path, user) = (path.display(), nix::unistd::geteuid());
            let message = format!(
                "{path} cannot be written by user {user}: {error}; change its owner, or name \
                 another with {} or {}",
                variable.flag, variable.name
            );
            Check { name, level: Level::Error, message }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_git() {
        assert_eq!(version("git version 2.47.3"), Some((2, 47)));
        assert_eq!(version("git version 2.39.5 (Apple Git-154)"), Some((2, 39)));
        assert_eq!(version("busybox"), None);
    }

    #[test]
    fn a_directory_that_cannot_be_written_names_the_remedy() {
        let place = tempfile::tempdir().unwrap();
        let check = directory(&env::SHARED, &place.path().join("new"));
        assert_eq!(check.level, Level::Ok, "{check:?}");
        std::fs::write(place.path().join("file"), "").unwrap();
        let check = directory(&env::SHARED, &place.path().join("file"));
        assert!(check.level == Level::Error && check.message.contains("--shared"), "{check:?}");
    }
}
