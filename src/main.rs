//! The program. Everything it does is in the library, where tests can reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The supervisor of one process tree; it must not pay for what the command line sets up.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == "__shim") {
        return sortie::exec::shim::main();
    }
    sortie::cli::main()
}
