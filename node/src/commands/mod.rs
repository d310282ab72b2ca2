//! One module per command.

mod bench;
mod bench_model;
mod demo;
mod eval;
mod generate;
mod inspect;
mod plan;
mod prove;
mod publish;
mod srs;
mod verify;

use crate::{Session, cli::Command, failure::Result};

/// Runs a command.
///
/// # Errors
/// See the exit codes in `lamina --help`.
pub fn run(session: &Session, command: &Command) -> Result<()> {
    match command {
        Command::Demo(arguments) => demo::run(session, arguments),
        Command::Plan(arguments) => plan::run(session, arguments),
        Command::Eval(arguments) => eval::run(session, arguments),
        Command::Publish(arguments) => publish::run(session, arguments),
        Command::Generate(arguments) => generate::run(session, arguments),
        Command::Join(arguments) => generate::join::run(session, arguments),
        Command::Prove(arguments) => prove::run(session, arguments),
        Command::Verify(arguments) => verify::run(session, arguments),
        Command::Inspect(arguments) => inspect::run(session, arguments),
        Command::Srs { command } => srs::run(session, command),
        Command::Bench { command } => bench::run(session, command),
    }
}
