//! `publish` and `generate`, killed at random instants: what stands under a final name is whole, what was begun
//! can be finished, and nothing temporary is taken for a result.
#![cfg(unix)]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::{Folder, adder, text};
use lamina_circuits::{model::ModelCircuit, range::RangeCircuit};
use lamina_prover::{publish::BlindedColumns, srs::Srs};
use lamina_verifier::{
    bundle::Bundle,
    card::{Card, InsecureSrs},
    envelope::Claims,
    srs::VerifierSrs,
};

/// SplitMix64: the instants are the same in every run.
struct Instants(u64);

impl Instants {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// All files below a folder that are not temporary, by their names from there.
fn final_names(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(folder: &Path, root: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        for entry in entries {
            let path = entry.expect("an entry").path();
            let name = path.file_name().and_then(|name| name.to_str()).expect("text");
            if path.is_dir() {
                walk(&path, root, found);
            } else if !name.starts_with('.') {
                let name = path.strip_prefix(root).expect("below it").to_owned();
                found.insert(name, fs::read(&path).expect("readable"));
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(folder, folder, &mut found);
    found
}

/// Temporary files below a folder.
fn temporaries(folder: &Path) -> usize {
    fs::read_dir(folder).into_iter().flatten().fold(0, |count, entry| {
        let path = entry.expect("an entry").path();
        let hidden =
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with('.'));
        count + if path.is_dir() { temporaries(&path) } else { usize::from(hidden) }
    })
}

/// Asserts that a file is whole: that its own reader takes it, or that it is what an undisturbed run writes.
fn assert_whole(name: &Path, bytes: &[u8], reference: &BTreeMap<PathBuf, Vec<u8>>) {
    let extension = name.extension().and_then(|extension| extension.to_str());
    let file_name = name.file_name().and_then(|name| name.to_str()).expect("text");
    let whole = match (file_name, extension) {
        ("card.json", _) => Card::<ModelCircuit, RangeCircuit>::load(bytes, InsecureSrs::Accept).is_ok(),
        ("srs.bin" | "srs-open.bin", _) => VerifierSrs::read(bytes).is_ok(),
        (_, Some("json")) => serde_json::from_slice::<serde_json::Value>(bytes).is_ok(),
        (_, Some("bundle")) => Bundle::decode(bytes).is_ok(),
        (_, Some("srs")) => Srs::read(bytes).is_ok(),
        // All proofs of one key have one length.
        (_, Some("proof")) => {
            Claims::peek(bytes).is_ok() && reference.get(name).is_some_and(|other| other.len() == bytes.len())
        }
        (_, Some("tails")) => reference.get(name).is_some_and(|other| other.len() == bytes.len()),
        // Their writer is deterministic.
        (_, Some("weights" | "activations" | "key")) => {
            reference.get(name).is_some_and(|other| other == bytes)
        }
        _ => panic!("{} is no file that the command is known to write", name.display()),
    };
    assert!(whole, "{} is half-written: {} bytes", name.display(), bytes.len());
}

struct Scene {
    folder: Folder,
    publish: Vec<String>,
    generate: Vec<String>,
}

impl Scene {
    fn new(name: &str) -> Self {
        let model = adder();
        let line = |line: &str| {
            line.replace("MODEL", text(&model)).split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        Scene {
            folder: Folder::new(name),
            publish: line("publish --model MODEL --out p --tokens 4 --insecure-srs"),
            generate: line(
                "generate --published p --prompt 1+ --max-tokens 2 --prove --out q/a.bundle --request r --node n",
            ),
        }
    }

    fn start(&self, arguments: &[String]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_lamina"))
            .args(arguments)
            .current_dir(&self.folder.0)
            .env("LAMINA_CACHE", self.folder.path("cache"))
            .env_remove("MAX_DEGREE")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs")
    }

    fn whole(&self, arguments: &[String]) -> Duration {
        let started = Instant::now();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        self.folder.lamina(&arguments).exits(0);
        started.elapsed()
    }

    fn remove(&self, name: &str) {
        let _ = fs::remove_dir_all(self.folder.path(name));
    }

    /// Starts a command, kills it after `delay`, checks what it left; whether it was still running.
    fn kill(&self, arguments: &[String], delay: Duration, reference: &BTreeMap<PathBuf, Vec<u8>>) -> bool {
        let mut child = self.start(arguments);
        thread::sleep(delay);
        let running = child.try_wait().expect("a child").is_none();
        // SIGKILL: no handler, no destructor.
        child.kill().expect("a child");
        child.wait().expect("it ends");
        for (name, bytes) in final_names(&self.folder.0) {
            assert_whole(&name, &bytes, reference);
            if name.extension().is_some_and(|extension| extension == "tails") {
                BlindedColumns::load(&self.folder.path(text(&name))).expect("tails that a reader takes");
            }
        }
        running
    }

    /// Kills a command while it runs: when it was faster than `delay`, again and earlier, from `reset` on.
    fn strike(
        &self,
        arguments: &[String],
        mut delay: Duration,
        reference: &BTreeMap<PathBuf, Vec<u8>>,
        reset: impl Fn(),
    ) {
        loop {
            reset();
            if self.kill(arguments, delay, reference) {
                return;
            }
            delay /= 2;
        }
    }

    fn verify(&self) {
        let line =
            "verify --card p/card.json --allow-insecure-srs --request r --node n --prompt 1+ q/a.bundle";
        self.folder.lamina(&line.split(' ').collect::<Vec<_>>()).exits(0);
    }

    /// Proofs of the slices that stand in the folder of parts.
    fn finished(&self) -> Vec<Vec<u8>> {
        let parts = final_names(&self.folder.path("q/a.bundle.parts"));
        let proofs = parts.into_iter().filter(|(name, _)| name.extension().is_some_and(|e| e == "proof"));
        proofs.map(|(_, bytes)| bytes).collect()
    }
}

/// Kills each command `count / 2` times while it runs.
fn kills(name: &str, count: u64) {
    let scene = Scene::new(name);
    // The reference string stays, so that keys and weights are the same in every run; keys come and go.
    scene.whole(&scene.publish);
    let mut reference = final_names(&scene.folder.0);
    scene.remove("p");
    scene.remove("cache/keys");
    let publishing = scene.whole(&scene.publish);
    // All slices as parts: what stands in the folder of parts until the bundle is whole.
    fs::create_dir(scene.folder.path("q")).expect("a folder");
    let parts: Vec<_> = scene.generate.iter().cloned().chain(["--slices".into(), "0..".into()]).collect();
    scene.whole(&parts);
    let parts = final_names(&scene.folder.0);
    assert_eq!(scene.finished().len(), 3);
    scene.remove("q");
    fs::create_dir(scene.folder.path("q")).expect("a folder");
    let proving = scene.whole(&scene.generate);
    scene.verify();
    reference.extend(final_names(&scene.folder.0));
    reference.extend(parts);
    let mut instants = Instants(2026);
    let mut delay = |whole: Duration| Duration::from_micros(instants.below(whole.as_micros() as u64));
    for round in 0..count / 2 {
        scene.strike(&scene.publish, delay(publishing), &reference, || {
            scene.remove("p");
            if round % 2 == 0 {
                scene.remove("cache/keys");
            }
        });
        // A publication without a card is none; with one it is finished, or says what it lacks.
        let card = scene.folder.path("p/card.json");
        if !card.exists() {
            scene.folder.lamina(&scene.generate.iter().map(String::as_str).collect::<Vec<_>>()).exits(4);
        }
        let before = fs::read(&card).ok();
        scene.whole(&scene.publish);
        let after = fs::read(&card).expect("finished");
        assert!(before.is_none_or(|before| before == after), "a card that was there was replaced");

        scene.strike(&scene.generate, delay(proving), &reference, || {
            scene.remove("q");
            fs::create_dir(scene.folder.path("q")).expect("a folder");
        });
        let bundle = scene.folder.path("q/a.bundle");
        if bundle.exists() {
            // Killed while it tidied up.
            scene.verify();
            continue;
        }
        let finished = scene.finished();
        scene.whole(&scene.generate);
        scene.verify();
        let slices = Bundle::decode(&fs::read(bundle).expect("finished")).expect("whole").slices;
        assert!(finished.iter().all(|proof| slices.contains(proof)), "a finished slice was proved again");
        // What a killed run left under a temporary name goes with the next run.
        for folder in ["p", "q"] {
            assert_eq!(
                temporaries(&scene.folder.path(folder)),
                0,
                "round {round}: temporary files in {folder}"
            );
        }
    }
}

#[test]
fn twelve_kills_leave_nothing_half_written() {
    kills("killed-12", 12);
}

/// The same at a hundred instants: minutes, so a step of its own in CI (`--run-ignored only`).
#[test]
#[ignore = "minutes; CI runs ignored tests beside all others"]
fn a_hundred_kills_leave_nothing_half_written() {
    kills("killed-100", 100);
}
