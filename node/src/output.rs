//! The only place that writes to standard output and standard error.

use std::io::{self, IsTerminal, Write};

use serde_json::{Value, json};

use crate::failure::{Failure, Result};

/// Where results go, and in which form.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// One JSON object instead of text.
    pub json: bool,
    /// No progress.
    pub quiet: bool,
}

impl Output {
    /// Writes a line for people; nothing when the result is JSON.
    ///
    /// # Errors
    /// Standard output is closed or full.
    pub fn line(&self, text: impl AsRef<str>) -> Result<()> {
        if !self.json {
            let mut out = io::stdout().lock();
            writeln!(out, "{}", text.as_ref())?;
            out.flush()?;
        }
        Ok(())
    }

    /// Writes the result for programs; nothing when the result is text.
    ///
    /// # Errors
    /// Standard output is closed or full.
    pub fn value(&self, value: &Value) -> Result<()> {
        if self.json {
            let mut out = io::stdout().lock();
            serde_json::to_writer_pretty(&mut out, value)?;
            writeln!(out)?;
        }
        Ok(())
    }

    /// Says something that is neither result nor failure, on standard error.
    pub fn note(&self, text: impl AsRef<str>) {
        if !self.quiet {
            // Nobody is left to tell when standard error is closed.
            let _ = writeln!(io::stderr().lock(), "{}", text.as_ref());
        }
    }

    /// Reports a failure: on standard error, and as JSON on standard output when that was asked for.
    pub fn failure(&self, failure: &Failure) {
        let message = failure.message();
        let _ = writeln!(io::stderr().lock(), "error: {message}");
        let error = json!({
            "error": { "kind": failure.kind, "message": message, "exit_code": failure.kind.exit_code() }
        });
        let _ = self.value(&error);
    }

    /// Whether progress is shown.
    pub fn shows_progress(&self) -> bool {
        !self.quiet && io::stderr().is_terminal()
    }
}

/// A table of text: the first row is the heading, all columns but the first are right-aligned.
pub fn table(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(c, (text, &width))| {
            if c == 0 { format!("{text:<width$}") } else { format!("{text:>width$}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// `12345678` as `12,345,678`.
pub fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let mut parts: Vec<&str> = vec![];
    if first > 0 {
        parts.push(&digits[..first]);
    }
    parts.extend((first..digits.len()).step_by(3).map(|at| &digits[at..at + 3]));
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1000), "1,000");
        assert_eq!(grouped(12_345_678), "12,345,678");
    }

    #[test]
    fn columns_line_up() {
        let rows = [vec!["a".into(), "ms".into()], vec!["total".into(), "1234".into()]];
        assert_eq!(table(&rows), ["a        ms", "total  1234"]);
    }
}
