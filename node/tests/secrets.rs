//! Where secrets may lie while a command runs (Z5, Z6): in `secret` folders, for their owner, and nowhere else.
#![cfg(unix)]

mod common;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::{Folder, adder, text};

fn lamina(folder: &Folder, line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lamina"));
    let model = adder();
    command
        .args(line.split(' ').map(|word| if word == "MODEL" { text(&model) } else { word }))
        .current_dir(&folder.0)
        .env("LAMINA_CACHE", folder.path("cache"))
        .env("TMPDIR", folder.path("tmp"))
        .env("HOME", folder.path("home"))
        .env_remove("MAX_DEGREE")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

const PUBLISH: &str = "publish --model MODEL --out p --tokens 4 --insecure-srs";

/// Every file below a folder that others may read, or that lies in a folder that they may list.
fn exposed(folder: &Path) -> Vec<String> {
    let mut found = vec![];
    let mode = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode() & 0o777);
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if mode(folder) != 0o700 || !matches!(mode(&entry.path()), 0 | 0o600) {
            found.push(entry.path().display().to_string());
        }
    }
    found
}

#[test]
fn secrets_lie_in_their_folders_only_and_for_their_owner_only() {
    let folder = Folder::new("secrets");
    for name in ["tmp", "home"] {
        fs::create_dir(folder.path(name)).expect("a folder");
    }
    let prove = "prove --model MODEL --published p --layer 0 --prompt 1+2= --out q";
    for (line, secret) in [(PUBLISH, "p/secret"), (prove, "q/secret")] {
        let mut child = lamina(&folder, line).spawn().expect("the binary runs");
        // Temporary files too, while they are there.
        while child.try_wait().expect("a child").is_none() {
            assert_eq!(exposed(&folder.path(secret)), Vec::<String>::new());
            thread::sleep(Duration::from_millis(2));
        }
        assert!(child.wait().expect("a child").success(), "{line}");
        assert!(fs::read_dir(folder.path(secret)).expect("there").count() > 1, "{secret} is empty");
        assert_eq!(exposed(&folder.path(secret)), Vec::<String>::new());
        for name in ["tmp", "home"] {
            assert_eq!(fs::read_dir(folder.path(name)).expect("there").count(), 0, "{line} wrote to {name}");
        }
    }
}

/// A process that dies writes its memory to a core file unless its limit is zero.
#[cfg(target_os = "linux")]
#[test]
fn no_core_file_is_written() {
    let folder = Folder::new("core");
    let mut child = lamina(&folder, PUBLISH).spawn().expect("the binary runs");
    let limits = format!("/proc/{}/limits", child.id());
    let started = Instant::now();
    let mut seen = String::new();
    while started.elapsed() < Duration::from_secs(10) && child.try_wait().expect("a child").is_none() {
        let limits = fs::read_to_string(&limits).unwrap_or_default();
        let Some(line) = limits.lines().find(|line| line.starts_with("Max core file size")) else { continue };
        seen = line.split_whitespace().skip(4).take(2).collect::<Vec<_>>().join(" ");
        if seen == "0 0" {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    let _ = child.kill();
    child.wait().expect("it ends");
    assert_eq!(seen, "0 0", "soft and hard limit");
}
