//! `sortie worker`: from flags, environment and files to [`crate::worker::Settings`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::args::Worker;
use super::{Context, Exit, Failure, Outcome};
use crate::config::{duration, parsed, path, text};
use crate::core::{Policy, Profile, RetryPolicy};
use crate::store::redis::{Role, connect};
use crate::worker::{self, Ended, Settings, init};
use crate::{env, telemetry};

pub(super) fn run(context: &Context, args: Box<Worker>) -> Outcome {
    // Before there is any thread: as process one of a container, only reap and pass signals on.
    if let Some(ended) = init::as_first_process() {
        let code = ended.map_err(|error| {
            Failure::new(Exit::Failed, format!("cannot start the worker as a child: {error}"))
        })?;
        return Ok(Exit::Agent(u8::try_from(code).unwrap_or(Exit::Failed.code())));
    }
    let format = context.sources.get(&env::LOG_FORMAT, args.log_format, parsed)?;
    let directives = context.sources.get(&env::LOG, None, text)?;
    let mut connection = context.store_settings()?;
    let settings = settings(context, *args)?;
    connection.terms.lease = settings.lease;
    telemetry::start(format, &directives, context.printer.has_color()).map_err(Failure::usage)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot start: {error}")))?;
    let ended = runtime.block_on(async {
        let store = connect(connection, Role::Engine).await?;
        Ok::<_, Failure>(worker::run(settings, store).await?)
    })?;
    // What was handed back goes on elsewhere: the worker itself did its duty.
    match ended {
        Ended::Drained | Ended::HandedBack(_) => Ok(Exit::Success),
    }
}

fn settings(context: &Context, args: Worker) -> Result<Settings, Failure> {
    let sources = &context.sources;
    let defaults = Settings::default();
    let (name, exclusive) = match sources.optional(&env::NAME, args.name, text)? {
        // The part of a worker's id before the slash.
        Some(name) if name.is_empty() || name.contains(|c: char| c == '/' || c.is_control()) => {
            return Err(Failure::usage(format!("{name:?} cannot be the name of a worker"))
                .next("give one without slashes and control characters, such as the pod's"));
        }
        Some(name) => (name, true),
        None => (host_name()?, false),
    };
    let policy = match sources.optional(&env::POLICY, args.policy, path)? {
        Some(file) => Policy::from_toml(&read(&file)?)
            .map_err(|problem| Failure::usage(format!("{}: {problem}", file.display())))?,
        None => Policy::default(),
    };
    let profiles = match sources.optional(&env::PROFILES, args.profiles, path)? {
        Some(directory) => read_profiles(&directory)?,
        None => BTreeMap::new(),
    };
    let default_profile = sources.optional(&env::DEFAULT_PROFILE, args.default_profile, text)?;
    if let Some(name) = &default_profile
        && !profiles.contains_key(name)
    {
        let known: Vec<_> = profiles.keys().map(String::as_str).collect();
        return Err(Failure::usage(format!("there is no profile {name:?} to be the default"))
            .next(format!("--profiles DIR has {name}.toml in it? known are: {known:?}")));
    }
    Ok(Settings {
        name,
        exclusive,
        slots: sources.get(&env::SLOTS, args.slots, parsed)?,
        policy,
        profiles,
        default_profile,
        worktrees: absolute(sources.optional(&env::WORKTREES, args.worktrees, path)?)?
            .unwrap_or(defaults.worktrees),
        pools: absolute(sources.optional(&env::SHARED, args.shared, path)?)?
            .unwrap_or(defaults.pools),
        lease: sources.get(&env::LEASE, args.lease, duration)?,
        beat: sources.get(&env::BEAT, args.beat, duration)?,
        margin: sources.get(&env::FREEZE_MARGIN, args.freeze_margin, duration)?,
        grace: sources.get(&env::GRACE, args.grace, duration)?,
        drain_timeout: sources.get(&env::DRAIN_TIMEOUT, args.drain_timeout, duration)?,
        retry: RetryPolicy {
            base: sources.get(&env::RETRY_BASE, args.retry_base, duration)?,
            cap: sources.get(&env::RETRY_CAP, args.retry_cap, duration)?,
            ..defaults.retry
        },
        once: args.once,
    })
}

/// Jobs run in other directories than the worker.
fn absolute(path: Option<PathBuf>) -> Result<Option<PathBuf>, Failure> {
    path.map(std::path::absolute).transpose().map_err(|error| {
        Failure::usage(format!("cannot tell where a relative path leads: {error}"))
            .next("give absolute paths")
    })
}

/// All `NAME.toml` of a directory.
fn read_profiles(directory: &Path) -> Result<BTreeMap<String, Profile>, Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::usage(format!("cannot read the profiles in {}: {error}", directory.display()))
    };
    let mut profiles = BTreeMap::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        if file.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let Some(name) = file.file_stem().and_then(|stem| stem.to_str()) else {
            return Err(wrong(&file, "the name of a profile must be UTF-8"));
        };
        let profile =
            Profile::from_toml(&read(&file)?).map_err(|problem| wrong(&file, &problem))?;
        profiles.insert(name.to_owned(), profile);
    }
    Ok(profiles)
}

fn read(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file)
        .map_err(|error| Failure::usage(format!("cannot read {}: {error}", file.display())))
}

fn wrong(file: &Path, problem: &str) -> Failure {
    Failure::usage(format!("{}: {problem}", file.display()))
        .next("`sortie help profiles` describes profiles")
}

fn host_name() -> Result<String, Failure> {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.filter(|name| !name.is_empty()).ok_or_else(|| {
        Failure::usage("this host has no usable name").next("name the worker with --name")
    })
}

impl From<worker::Error> for Failure {
    fn from(error: worker::Error) -> Self {
        match error {
            worker::Error::Store(error) => error.into(),
            worker::Error::Settings(_) | worker::Error::Directory { .. } => {
                Self::usage(error.to_string()).next("`sortie doctor` checks this host")
            }
            worker::Error::Git(_) | worker::Error::Internal(_) | worker::Error::Abandoned(_) => {
                Self::new(Exit::Failed, error.to_string())
            }
        }
    }
}
