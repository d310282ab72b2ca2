//! `lamina srs`: reference strings.

use std::{
    fs::File,
    io::{BufReader, Read},
    path::Path,
};

use lamina_prover::srs::{Halo2Format, Srs, SrsFileError};
use serde_json::{Value, json};

use crate::{
    Session,
    cache::{StoredSrs, srs_name},
    cli::SrsCommand,
    failure::{Classify, Failure, Kind, Result},
    output::Output,
    progress::Bar,
};

/// Largest size that is imported when none is asked for.
const MAX_IMPORT_K: u32 = 18;

/// Runs the command.
///
/// # Errors
/// The file is no reference string, or is not consistent.
pub fn run(session: &Session, command: &SrsCommand) -> Result<()> {
    match command {
        SrsCommand::Insecure { k } => {
            let bar = Bar::new(&session.output, "srs", 1);
            bar.begin(0, "drawing points")?;
            let srs = Srs::generate_insecure(*k)?;
            let path = session.cache.keep_srs(&srs, None)?;
            drop(bar);
            session.output.note(
                "warning: whoever ran this could know the secret of this reference string: for development only",
            );
            describe(&session.output, &srs, None, &path)
        }
        SrsCommand::Import { file, ceremony, k } => {
            let bar = Bar::new(&session.output, "srs", 1);
            bar.begin(0, "reading and checking points")?;
            let srs = import(file, *k)?;
            let path = session.cache.keep_srs(&srs, ceremony.as_deref())?;
            drop(bar);
            describe(&session.output, &srs, ceremony.as_deref(), &path)
        }
        SrsCommand::Info { file: Some(file) } => {
            let value = inspect(session, file)?;
            super::inspect::show(&session.output, &value)
        }
        SrsCommand::Info { file: None } => list(session),
    }
}

/// Imports halo2 parameters (either encoding) or a `.ptau` file, for the most rows it serves up to a cap.
fn import(path: &Path, k: Option<u32>) -> Result<Srs> {
    let open =
        || File::open(path).map(BufReader::new).context(format_args!("cannot read {}", path.display()));
    let mut head = [0; 4];
    open()?.read_exact(&mut head).context(format_args!("cannot read {}", path.display()))?;
    let context = || format!("{} is not imported", path.display());
    let bytes = std::fs::metadata(path)?.len();
    let read = |log_n: u32| -> Result<std::result::Result<Srs, SrsFileError>> {
        if &head == b"ptau" {
            return Ok(Srs::import_ptau(open()?, log_n));
        }
        // Both encodings say how long the file is.
        let power = u32::from_le_bytes(head);
        let format = match 1u64.checked_shl(power).filter(|_| power < 32) {
            Some(n) if bytes == 4 + 64 * n + 128 => Halo2Format::Processed,
            Some(n) if bytes == 4 + 128 * n + 256 => Halo2Format::RawBytes,
            _ => {
                return Err(Failure::new(
                    Kind::Input,
                    format_args!(
                        "{} is neither a .ptau file nor halo2 parameters: its length fits no size",
                        path.display()
                    ),
                ));
            }
        };
        Ok(Srs::import_halo2(open()?, format, log_n, false))
    };
    match k {
        Some(k) => Ok(read(k)?.context(context())?),
        None => match read(MAX_IMPORT_K)? {
            Err(SrsFileError::TooSmall { available, .. }) if available < MAX_IMPORT_K => {
                Ok(read(available)?.context(context())?)
            }
            other => Ok(other.context(context())?),
        },
    }
}

fn describe(output: &Output, srs: &Srs, ceremony: Option<&str>, path: &Path) -> Result<()> {
    let insecure = srs.identity().insecure();
    output.line(format!("id        {}", srs.id()))?;
    output.line(format!("rows      2^{}", srs.log_n()))?;
    output.line(format!("origin    {}", origin(insecure, ceremony)))?;
    output.line(format!("file      {}", path.display()))?;
    if !insecure {
        output.line("The points are consistent. Compare the id with one from a source that you trust.")?;
    }
    output.value(&json!({
        "id": srs.id(), "k": srs.log_n(), "insecure": insecure, "ceremony": ceremony, "file": path,
    }))
}

fn origin(insecure: bool, ceremony: Option<&str>) -> String {
    match (insecure, ceremony) {
        (true, _) => "INSECURE: drawn for development".into(),
        (false, Some(name)) => format!("{name} (as its importer said)"),
        (false, None) => "unnamed ceremony".into(),
    }
}

fn list(session: &Session) -> Result<()> {
    let stored: Vec<StoredSrs> = session.cache.stored_srs()?;
    if stored.is_empty() {
        session.output.line(
            "no reference strings yet: `lamina srs import FILE`, or `lamina srs insecure --k 14` to try things out",
        )?;
    }
    for srs in &stored {
        session.output.line(format!(
            "{}  2^{:<2}  {}",
            srs.id,
            srs.k,
            origin(srs.insecure, srs.origin.as_deref())
        ))?;
    }
    session.output.value(&json!({ "srs": stored, "cache": session.cache.folder() }))
}

/// What is known of a stored reference string, after checking all of it.
///
/// # Errors
/// The file is not one of the cache's, or does not check.
pub fn inspect(session: &Session, file: &Path) -> Result<Value> {
    let Some((id, k)) = srs_name(file) else {
        let srs = import(file, None)?;
        return Ok(json!({
            "kind": "reference string to import",
            "id": srs.id(),
            "k": srs.log_n(),
            "insecure": srs.identity().insecure(),
        }));
    };
    let folder = file.parent().unwrap_or(Path::new("."));
    let srs = lamina_prover::srs::SrsStore::new(folder).load(id, k).context(file.display())?;
    let known = session.cache.stored_srs()?.into_iter().find(|one| one.id == id);
    Ok(json!({
        "kind": "reference string",
        "id": srs.id(),
        "k": srs.log_n(),
        "insecure": srs.identity().insecure(),
        "ceremony": known.and_then(|one| one.origin),
    }))
}
