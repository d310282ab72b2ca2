//! Files that are whole or absent: temporary name, sync, rename; secret ones for their owner only.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    path::{Path, PathBuf},
};

use crate::failure::{Classify, Failure, Kind, Result};

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anybody, as the system's defaults say.
    Public,
    /// Its owner: mode 0600.
    Secret,
}

/// What happens to a file that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and the command fails.
    Keep,
    /// It is replaced.
    Replace,
}

impl Existing {
    /// From `--force`.
    pub fn from_force(force: bool) -> Self {
        if force { Existing::Replace } else { Existing::Keep }
    }
}

/// Refuses early to write where something is.
///
/// # Errors
/// `path` exists and must stay.
pub fn check_free(path: &Path, existing: Existing) -> Result<()> {
    if existing == Existing::Keep && path.symlink_metadata().is_ok() {
        return Err(Failure::new(
            Kind::Files,
            format_args!("{} exists: choose another name, or replace it with --force", path.display()),
        ));
    }
    Ok(())
}

/// Removes a temporary file unless it was renamed.
struct Temporary {
    path: PathBuf,
    keep: bool,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Writes a file so that a reader sees all of it or none, whenever the process dies.
///
/// # Errors
/// The file exists and must stay; it cannot be written.
pub fn write(path: &Path, bytes: &[u8], access: Access, existing: Existing) -> Result<()> {
    check_free(path, existing)?;
    let context = || format!("cannot write {}", path.display());
    let folder = folder_of(path);
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.part", std::process::id()));
    let mut temporary = Temporary { path: folder.join(name), keep: false };
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    if access == Access::Secret {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let mut file = options.open(&temporary.path).context(context())?;
    file.write_all(bytes).context(context())?;
    file.sync_all().context(context())?;
    drop(file);
    if existing == Existing::Keep {
        // A link fails where a rename would replace what came into being meanwhile.
        match fs::hard_link(&temporary.path, path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return check_free(path, existing);
            }
            // Some file systems have no links.
            Err(_) => {
                fs::rename(&temporary.path, path).context(context())?;
                temporary.keep = true;
            }
        }
    } else {
        fs::rename(&temporary.path, path).context(context())?;
        temporary.keep = true;
    }
    // The name is on disk only when its folder is; not every system lets a folder be synced.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// Creates a folder and those above it; a secret one is closed to others.
///
/// # Errors
/// It cannot be created.
pub fn create_folder(path: &Path, access: Access) -> Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    if access == Access::Secret {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder.create(path).context(format_args!("cannot create {}", path.display()))
}

/// Removes what killed processes left in a folder under temporary names; some of it may be secret.
///
/// A temporary name holds the number of its process: files of processes that still run stay, and so does
/// everything where the system does not say which run.
pub fn sweep(folder: &Path) {
    let processes = Path::new("/proc");
    if !processes.join("self").exists() {
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(process) = name.to_str().and_then(temporary_of) else { continue };
        if !processes.join(process.to_string()).exists() {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The folder that a file stands in.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The process out of `.NAME.PROCESS.part`, or `.partial` as the prover's library names them.
fn temporary_of(name: &str) -> Option<u32> {
    let name = name.strip_prefix('.')?;
    let name = name.strip_suffix(".part").or_else(|| name.strip_suffix(".partial"))?;
    name.rsplit_once('.')?.1.parse().ok()
}

/// Reads a file of at most `limit` bytes.
///
/// # Errors
/// It cannot be read, or is larger.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let context = || format!("cannot read {}", path.display());
    let file = File::open(path).context(context())?;
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).context(context())?;
    if bytes.len() as u64 > limit {
        return Err(Failure::new(
            Kind::Input,
            format_args!("{} is larger than {limit} bytes, more than any file of its kind", path.display()),
        ));
    }
    Ok(bytes)
}

/// Reads a text file of at most 64 MiB.
///
/// # Errors
/// It cannot be read, is larger, or is not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    String::from_utf8(read(path, 64 << 20)?)
        .map_err(|_| Failure::new(Kind::Input, format_args!("{} is not UTF-8 text", path.display())))
}

/// The cache folder: `--cache`, else `LAMINA_CACHE`, else in the user's cache, else in the temporary folder.
pub fn cache_folder(given: Option<&Path>) -> PathBuf {
    if let Some(path) = given {
        return path.to_owned();
    }
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = variable("LAMINA_CACHE") {
        return path;
    }
    variable("XDG_CACHE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
        .join("lamina")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("lamina-files-{}-{name}", std::process::id()));
        create_folder(&folder, Access::Secret).expect("a folder");
        folder
    }

    #[test]
    fn existing_files_stay_without_force() {
        let folder = folder("existing");
        let path = folder.join("a");
        write(&path, b"one", Access::Public, Existing::Keep).expect("written");
        let failure = write(&path, b"two", Access::Public, Existing::Keep).expect_err("kept");
        assert_eq!(failure.kind, Kind::Files);
        assert!(failure.message().contains("--force"), "{}", failure.message());
        assert_eq!(fs::read(&path).expect("read"), b"one");
        write(&path, b"two", Access::Public, Existing::Replace).expect("replaced");
        assert_eq!(fs::read(&path).expect("read"), b"two");
        // No temporary name is left.
        assert_eq!(fs::read_dir(&folder).expect("folder").count(), 1);
        fs::remove_dir_all(folder).expect("removed");
    }

    #[cfg(unix)]
    #[test]
    fn secret_files_are_their_owners() {
        use std::os::unix::fs::PermissionsExt;
        let folder = folder("secret");
        let path = folder.join("a");
        write(&path, b"one", Access::Secret, Existing::Keep).expect("written");
        assert_eq!(fs::metadata(&path).expect("metadata").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&folder).expect("metadata").permissions().mode() & 0o777, 0o700);
        fs::remove_dir_all(folder).expect("removed");
    }

    #[test]
    fn only_leftovers_of_dead_processes_are_swept() {
        let folder = folder("sweep");
        let own = std::process::id();
        let stay = [".a.part".into(), "a.1.part".into(), format!(".a.{own}.part"), ".a.0x1.partial".into()];
        // No system numbers its processes so high.
        let go = [".a.tails.4294967295.partial", ".card.json.4294967294.part"];
        for name in stay.iter().map(String::as_str).chain(go) {
            fs::write(folder.join(name), b"half").expect("written");
        }
        sweep(&folder);
        let swept = Path::new("/proc/self").exists();
        for name in &stay {
            assert!(folder.join(name).exists(), "{name}");
        }
        for name in go {
            assert_eq!(folder.join(name).exists(), !swept, "{name}");
        }
        fs::remove_dir_all(folder).expect("removed");
    }

    #[test]
    fn files_above_their_cap_are_refused() {
        let folder = folder("cap");
        let path = folder.join("a");
        write(&path, &[0; 100], Access::Public, Existing::Keep).expect("written");
        assert_eq!(read(&path, 99).expect_err("too large").kind, Kind::Input);
        assert_eq!(read(&path, 100).expect("read").len(), 100);
        fs::remove_dir_all(folder).expect("removed");
    }
}
