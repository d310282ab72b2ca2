//! Notes the commit that is built, for `lamina bench`.

use std::process::Command;

fn main() {
    // Written at every commit; absent outside a checkout, where there is no commit to note.
    println!("cargo::rerun-if-changed=../.git/logs/HEAD");
    let commit = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output()
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok());
    println!("cargo::rustc-env=LAMINA_COMMIT={}", commit.as_deref().unwrap_or("unknown").trim());
}
