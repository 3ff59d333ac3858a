//! `sortie completions`: a script that teaches a shell our words.

use clap::CommandFactory;
use clap_complete::Shell;

use super::args::Cli;
use super::{Context, Exit, Outcome};

pub(super) fn run(context: &Context, shell: Shell) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "sortie", &mut script);
    context.printer.text(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Success)
}
