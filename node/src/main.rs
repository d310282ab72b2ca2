//! The `lamina` command: publish a model with hidden weights, prove answers and blocks, verify the proofs.

mod cache;
mod cli;
mod commands;
mod compute;
mod decode;
mod engine;
mod failure;
mod files;
mod ids;
mod output;
mod page;
mod plot;
mod progress;
mod proving;
mod publication;
mod source;

use std::{process::ExitCode, sync::OnceLock};

use clap::{Parser, error::ErrorKind};

use crate::{
    cache::Cache,
    cli::{BackendChoice, Cli},
    compute::Compute,
    failure::{Kind, Result},
    files::Existing,
    output::Output,
};

/// What every command is given.
pub struct Session {
    /// Where results go.
    pub output: Output,
    /// Keys and reference strings.
    pub cache: Cache,
    /// What happens to files that exist.
    pub existing: Existing,
    /// What was asked to prove.
    pub backend: BackendChoice,
    compute: OnceLock<Compute>,
}

impl Session {
    /// What proves, opened on first use.
    ///
    /// # Errors
    /// See [`Compute::open`].
    pub fn compute(&self) -> Result<&Compute> {
        if let Some(compute) = self.compute.get() {
            return Ok(compute);
        }
        let compute = Compute::open(self.output, self.backend)?;
        Ok(self.compute.get_or_init(|| compute))
    }
}

/// Keeps weights and activations out of core files: a process that dies leaves none.
fn refuse_core_files() {
    #[cfg(unix)]
    {
        use nix::sys::resource::{Resource, setrlimit};
        // Every process may lower its own limits.
        let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    }
}

fn main() -> ExitCode {
    refuse_core_files();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitCode::from(Kind::Usage.exit_code()),
            };
        }
    };
    let output = Output { json: cli.global.json, quiet: cli.global.quiet };
    let session = Session {
        output,
        cache: Cache::new(files::cache_folder(cli.global.cache.as_deref())),
        existing: Existing::from_force(cli.global.force),
        backend: cli.global.backend,
        compute: OnceLock::new(),
    };
    let result = progress::handle_interrupts().and_then(|()| commands::run(&session, &cli.command));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.kind.exit_code())
        }
    }
}
