//! What proves: devices that are not there, devices that fail, and whole answers on the stand-in driver.
#![cfg(unix)]

mod common;

use std::{fs, os::unix::fs::symlink};

use common::{Folder, Ran, adder, text};

/// A folder with the published adder, and the stand-in driver in `driver/`.
fn published(name: &str) -> Folder {
    let folder = Folder::new(name);
    let model = adder();
    let sizes = ["--tokens", "6", "--answer", "2", "--insecure-srs", "--backend", "cpu"];
    let publish = ["publish", "--model", text(&model), "--out", "p"];
    folder.lamina(&[&publish[..], &sizes].concat()).exits(0);
    fs::create_dir(folder.path("driver")).expect("a folder");
    symlink(lamina_kernels_emu::LIBRARY_FILE, folder.path("driver/libcuda.so")).expect("a link");
    folder
}

const GENERATE: [&str; 9] =
    ["generate", "--published", "p", "--prompt", "1+2=", "--request", "r", "--prove", "--json"];

/// The stand-in without its checks of every access, which kernels have in a suite of their own.
fn stand_in(folder: &Folder, more: &[(&str, &str)], arguments: &[&str]) -> Ran {
    let driver = folder.path("driver");
    let environment = [("LD_LIBRARY_PATH", text(&driver)), ("LAMINA_EMU_CHECK", "0")];
    folder.lamina_with(arguments, &[&environment[..], more].concat())
}

/// Hides whatever devices this machine has.
const NONE: (&str, &str) = ("CUDA_VISIBLE_DEVICES", "");

#[test]
fn a_device_that_is_not_there_is_said_to_be_missing() {
    let folder = published("no-device");
    let run = |backend: &str| {
        let more = ["--out", "a.bundle", "--slices", "0..1", "--backend", backend];
        folder.lamina_with(&[&GENERATE[..], &more].concat(), &[NONE])
    };
    run("cuda").exits(5).says("--backend cuda: ").says("--backend cpu");
    assert!(!folder.path("a.bundle.parts/embedding.proof").exists());
    let auto = run("auto").exits(0).says("backend   cpu").says("CUDA");
    assert!(auto.json()["backend"].as_str().is_some_and(|name| name.starts_with("cpu")), "{}", auto.stdout());
    folder.lamina(&["generate", "--backend", "gpu"]).exits(1).says("[possible values: auto, cpu, cuda]");
}

// The embedding's proof; the whole model's is `a_whole_answer_is_proved_on_the_stand_in`.
#[test]
fn slices_are_proved_on_the_stand_in() {
    let folder = published("stand-in");
    let more = ["--out", "a.bundle", "--slices", "0..1", "--backend", "cuda"];
    let ran = stand_in(&folder, &[], &[&GENERATE[..], &more].concat()).exits(0).json();
    assert_eq!(ran["backend"], "cuda: emulation, host code");
    assert_eq!(ran["slices"][0]["reused"], false);
    let rest = ["--out", "b.bundle", "--slices", "1..", "--receive", "a.bundle.parts", "--backend", "cpu"];
    folder.lamina(&[&GENERATE[..], &rest].concat()).exits(0);
    let card = ["--card", "p/card.json"];
    let join = ["join", "a.bundle.parts", "b.bundle.parts", "--out", "c.bundle"];
    folder.lamina(&[&join[..], &card].concat()).exits(0);
    let verify = ["verify", "c.bundle", "--prompt", "1+2=", "--allow-insecure-srs"];
    let shown = folder.lamina(&[&verify[..], &card].concat()).exits(0).stdout();
    assert!(shown.contains("all 3 slices"), "{shown}");
}

// Lost in the middle of a proof: no proof of it is left, and the CPU proves the slice anew where it may.
#[test]
fn a_device_lost_in_the_middle_of_a_proof_hands_over() {
    let folder = published("lost");
    let run = |backend: &str, out: &str, launch: &str| {
        let more = ["--out", out, "--slices", "0..1", "--backend", backend];
        stand_in(&folder, &[("LAMINA_EMU_LOSE_AT", launch)], &[&GENERATE[..], &more].concat())
    };
    // While the key is loaded, and during the proof.
    for launch in ["1", "40"] {
        run("cuda", "a.bundle", launch).exits(5).says("CUDA driver failed");
        assert!(!folder.path("a.bundle.parts/embedding.proof").exists(), "launch {launch}");
    }
    let ran = run("auto", "a.bundle", "40").exits(0).says("found by --backend auto").says("from here on: ");
    assert!(ran.json()["backend"].as_str().is_some_and(|name| name.starts_with("cpu")));
    let rest = ["--out", "b.bundle", "--slices", "1..", "--receive", "a.bundle.parts", "--backend", "cpu"];
    folder.lamina(&[&GENERATE[..], &rest].concat()).exits(0);
    let join = ["join", "a.bundle.parts", "b.bundle.parts", "--out", "c.bundle", "--card", "p/card.json"];
    folder.lamina(&join).exits(0);
    folder.lamina(&["verify", "c.bundle", "--card", "p/card.json", "--allow-insecure-srs"]).exits(0);
}

#[test]
#[ignore = "a minute and more; CI runs ignored tests beside all others"]
fn a_whole_answer_is_proved_on_the_stand_in() {
    let folder = published("stand-in-whole");
    let more = ["--out", "a.bundle", "--backend", "cuda"];
    let ran = stand_in(&folder, &[], &[&GENERATE[..], &more].concat());
    assert_eq!(ran.exits(0).json()["backend"], "cuda: emulation, host code");
    let verify = ["verify", "a.bundle", "--card", "p/card.json", "--prompt", "1+2=", "--allow-insecure-srs"];
    let shown = folder.lamina(&verify).exits(0).stdout();
    assert!(shown.contains("all 3 slices"), "{shown}");
}
