//! Running the binary, in a folder of its own.

#![allow(dead_code, reason = "each test file uses its part")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A folder that goes away with the test.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("lamina-test-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Runs `lamina` with its cache in this folder, at the highest log level there is.
    pub fn lamina(&self, arguments: &[&str]) -> Ran {
        self.lamina_with(arguments, &[])
    }

    /// The same with more in its environment.
    pub fn lamina_with(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Ran {
        let output = Command::new(env!("CARGO_BIN_EXE_lamina"))
            .args(arguments)
            .envs(environment.iter().copied())
            .current_dir(&self.0)
            .env("LAMINA_CACHE", self.0.join("cache"))
            .env("RUST_LOG", "trace")
            .env("RUST_BACKTRACE", "full")
            .env_remove("MAX_DEGREE")
            .output()
            .expect("the binary runs");
        Ran(arguments.join(" "), output)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A finished run.
pub struct Ran(String, pub Output);

impl Ran {
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.1.stdout).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.1.stderr).into_owned()
    }

    /// Asserts the exit code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(
            self.1.status.code(),
            Some(code),
            "lamina {}\n{}\n{}",
            self.0,
            self.stdout(),
            self.stderr()
        );
        self
    }

    /// Asserts that standard error holds `text`.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.stderr().contains(text), "lamina {}: no `{text}` in:\n{}", self.0, self.stderr());
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        match serde_json::from_slice(&self.1.stdout) {
            Ok(value) => value,
            Err(error) => panic!("lamina {}: {error}\n{}", self.0, self.stdout()),
        }
    }
}

/// A bundled model of one layer and 1,480 parameters, as files.
pub fn adder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/assets/mathformer")
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("paths of tests are text")
}
