//! Publish, prove and verify a small model; forgeries, leaks, resumption.

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
};

use common::{Folder, Ran, adder, text};

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Secrets: pieces of the secret files that can't be anywhere else by chance.
fn secrets(folder: &Path) -> Vec<Vec<u8>> {
    let mut pieces = vec![];
    for path in files(folder) {
        let bytes = fs::read(&path).expect("read");
        let (skip, width) = match path.extension().and_then(|e| e.to_str()) {
            Some("tails") => {
                // Commitments come first and are public: as many as there are columns.
                let columns = u32::from_le_bytes(bytes[10..14].try_into().expect("four bytes")) as usize;
                (50 + 32 * columns, 32)
            }
            Some("weights") => (42, 12),
            Some("activations") => (74, 16),
            _ => continue,
        };
        let distinct = |piece: &[u8]| piece.iter().collect::<std::collections::BTreeSet<_>>().len() > 6;
        pieces.extend(bytes[skip..].chunks_exact(width).filter(|p| distinct(p)).map(<[u8]>::to_vec));
    }
    assert!(pieces.len() > 10, "no secrets to look for in {}", folder.display());
    pieces
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The ways in which outputs could spell a secret.
fn spellings(piece: &[u8]) -> Vec<Vec<u8>> {
    let list = |numbers: Vec<String>| numbers.join(", ").into_bytes();
    let halves = piece.chunks_exact(2).map(|c| i16::from_le_bytes([c[0], c[1]]).to_string()).collect();
    let words =
        piece.chunks_exact(4).map(|c| i32::from_le_bytes([c[0], c[1], c[2], c[3]]).to_string()).collect();
    let bytes = piece.iter().map(u8::to_string).collect();
    let reversed: Vec<u8> = piece.iter().rev().copied().collect();
    vec![
        piece.to_vec(),
        hex(piece).into_bytes(),
        hex(&reversed).into_bytes(),
        list(halves),
        list(words),
        list(bytes),
    ]
}

#[test]
fn a_small_model_from_publication_to_verified_and_forged_proofs() {
    let folder = Folder::new("whole");
    let model = adder();
    let model = text(&model);
    let mut outputs: Vec<Ran> = vec![];

    // No reference string: an error that says how to get one, and nothing written.
    folder
        .lamina(&["publish", "--model", model, "--out", "none", "--tokens", "4"])
        .exits(2)
        .says("--insecure-srs");
    assert!(!folder.path("none").exists());

    let publish = ["publish", "--model", model, "--out", "p", "--tokens", "4", "--insecure-srs", "--json"];
    let published = folder.lamina(&publish).exits(0).says("INSECURE");
    let id = published.json()["model"].as_str().expect("an identifier").to_owned();
    outputs.push(published);
    let card = fs::read(folder.path("p/card.json")).expect("a card");
    // Again: nothing changes. Other options: refused, and still nothing changes.
    let again = folder.lamina(&publish).exits(0);
    assert_eq!(again.json()["model"], id.as_str());
    let other =
        ["publish", "--model", model, "--out", "p", "--tokens", "4", "--insecure-srs", "--weight-bits", "8"];
    folder.lamina(&other).exits(4).says("--force");
    assert_eq!(fs::read(folder.path("p/card.json")).expect("a card"), card);
    // A publication that was cut short goes on where it stopped.
    fs::remove_file(folder.path("p/ranges/slice-0000.proof")).expect("removed");
    folder.lamina(&publish).exits(0);
    assert_eq!(fs::read(folder.path("p/card.json")).expect("a card"), card);

    #[cfg(unix)]
    for path in files(&folder.path("p/secret")) {
        use std::os::unix::fs::PermissionsExt;
        let mode = fs::metadata(&path).expect("metadata").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", path.display());
    }

    let prove = [
        "prove",
        "--model",
        model,
        "--published",
        "p",
        "--layer",
        "0",
        "--prompt",
        "1+2=",
        "--out",
        "q",
        "--request",
        "r1",
        "--node",
        "n1",
    ];
    outputs.push(folder.lamina(&prove).exits(0));
    let proof = folder.path("q/layer-0.proof");
    let honest = fs::read(&proof).expect("a proof");
    // Finished slices are not proved again; another prompt does not replace them.
    assert!(folder.lamina(&prove).exits(0).stdout().contains("finished before"));
    assert_eq!(fs::read(&proof).expect("a proof"), honest);
    let mut changed = prove;
    changed[8] = "2+2=";
    folder.lamina(&changed).exits(4).says("--force");
    assert_eq!(fs::read(&proof).expect("a proof"), honest);
    // Layers and prompts that do not fit.
    let mut absent = prove;
    absent[6] = "7";
    folder.lamina(&absent).exits(2).says("published are 0..1");
    let mut long = prove;
    long[8] = "1+2=3+4=5+6=7+8=9";
    folder.lamina(&long).exits(2).says("tokens");

    let verify = |more: &[&str], code: i32| {
        let fixed = ["verify", "--card", "p/card.json", "q/layer-0.proof"];
        folder.lamina(&[&fixed[..], more].concat()).exits(code)
    };
    verify(&[], 3).says("insecure");
    let verified = verify(&["--allow-insecure-srs", "--json"], 0);
    assert_eq!(verified.json()["verified"], true);
    assert_eq!(verified.json()["publication_verified"], true);
    assert_eq!(verified.json()["insecure_srs"], true);
    outputs.push(verified);
    outputs.push(verify(
        &["--allow-insecure-srs", "--check-key", "--model", &id, "--request", "r1", "--node", "n1"],
        0,
    ));
    verify(&["--allow-insecure-srs", "--request", "r2"], 3).says("another request");
    verify(&["--allow-insecure-srs", "--node", "n2"], 3).says("another node");
    verify(&["--allow-insecure-srs", "--tokens", "3"], 3).says("another token count");
    verify(&["--allow-insecure-srs", "--model", &"0".repeat(64)], 3).says("expected");
    verify(&["--allow-insecure-srs", "--model", "short"], 1);
    for option in
        [&["inspect", "p/card.json"][..], &["inspect", "q/layer-0.proof", "--json"], &["inspect", "p"]]
    {
        outputs.push(folder.lamina(option).exits(0));
    }
    outputs.push(folder.lamina(&["inspect", "q/secret/boundary-0.tails"]).exits(0));

    let boundaries =
        folder.lamina(&["inspect", "q/layer-0.proof", "--card", "p/card.json", "--json"]).exits(0);
    assert_eq!(boundaries.json()["input"]["kind"], "hidden");
    outputs.push(boundaries);
    // Another model than the one that was published.
    let mut foreign = prove;
    foreign[2] = "bundled";
    folder.lamina(&foreign).exits(2).says("not the model that was published");
    // A stale cache is replaced, not believed.
    for key in files(&folder.path("cache/keys")) {
        fs::write(key, b"lamina-K, once").expect("written");
    }
    fs::remove_file(&proof).expect("removed");
    outputs.push(folder.lamina(&prove).exits(0));
    assert_ne!(fs::read(&proof).expect("a proof"), honest, "two proofs of one statement are equal");
    verify(&["--allow-insecure-srs"], 0);

    // A flipped bit anywhere, a byte less, a byte more.
    let forge = |bytes: Vec<u8>| {
        fs::write(folder.path("forged.proof"), bytes).expect("written");
        folder
            .lamina(&["verify", "--card", "p/card.json", "--allow-insecure-srs", "forged.proof"])
            .exits(3)
            .says("forged.proof")
    };
    for at in [0, 9, 40, 80, 120, 150, 300, honest.len() / 2, honest.len() - 40, honest.len() - 1] {
        let mut bytes = honest.clone();
        bytes[at] ^= 1;
        // The request and the node in an envelope are claims: with the verifier's expectation they must agree.
        forge(bytes);
    }
    forge(honest[..honest.len() - 1].to_vec());
    forge([&honest[..], &[0]].concat());
    // A card with another commitment is another model: the proof is not for it.
    let tampered = String::from_utf8(card.clone()).expect("text");
    let at = tampered.rfind("\"weights\"").expect("weights");
    let first = at + tampered[at..].find('[').expect("a list");
    let start = first + tampered[first..].find('"').expect("a commitment") + 1;
    // The generator instead.
    let swapped = format!("{}01{}{}", &tampered[..start], "0".repeat(62), &tampered[start + 64..]);
    fs::write(folder.path("p/other.json"), swapped).expect("written");
    folder.lamina(&["verify", "--card", "p/other.json", "--allow-insecure-srs", "q/layer-0.proof"]).exits(3);
    // Without range proofs the publisher must be trusted explicitly.
    fs::rename(folder.path("p/ranges"), folder.path("p/away")).expect("renamed");
    verify(&["--allow-insecure-srs"], 4).says("--trust-publisher");
    let trusting = verify(&["--allow-insecure-srs", "--trust-publisher", "--json"], 0);
    assert_eq!(trusting.json()["publication_verified"], false);
    fs::rename(folder.path("p/away"), folder.path("p/ranges")).expect("renamed");

    // Open boundaries: the verifier names the values, and other values are refused.
    let open = [
        "prove",
        "--model",
        model,
        "--published",
        "p",
        "--layer",
        "0",
        "--prompt",
        "1+2=",
        "--out",
        "o",
        "--open-input",
        "--open-output",
    ];
    folder.lamina(&open).exits(0);
    let verify_open = |input: &str, code: i32| {
        folder
            .lamina(&[
                "verify",
                "--card",
                "p/card.json",
                "--allow-insecure-srs",
                "--input",
                input,
                "--output",
                "o/boundary-1.json",
                "o/layer-0.proof",
            ])
            .exits(code)
    };
    verify_open("o/boundary-0.json", 0);
    folder
        .lamina(&["verify", "--card", "p/card.json", "--allow-insecure-srs", "o/layer-0.proof"])
        .exits(1)
        .says("--input");
    let mut values: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.path("o/boundary-0.json")).expect("read")).expect("JSON");
    let old = values["columns"][0][0].as_i64().expect("an integer");
    values["columns"][0][0] = (old + 1).into();
    fs::write(folder.path("moved.json"), values.to_string()).expect("written");
    verify_open("moved.json", 3).says("input boundary");

    // Z5: nothing secret in anything public, at any level of detail.
    let mut public: Vec<(String, Vec<u8>)> = vec![];
    for ran in &outputs {
        public.push(("output".into(), [&ran.1.stdout[..], &ran.1.stderr[..]].concat()));
    }
    let shared = ["p", "q"].into_iter().flat_map(|name| files(&folder.path(name)));
    for path in shared.filter(|path| !path.components().any(|part| part.as_os_str() == "secret")) {
        public.push((path.display().to_string(), fs::read(&path).expect("read")));
    }
    assert!(public.len() > 8);
    let mut pieces = secrets(&folder.path("p/secret"));
    pieces.extend(secrets(&folder.path("q/secret")));
    for piece in pieces {
        for spelling in spellings(&piece) {
            for (name, bytes) in &public {
                assert!(!contains(bytes, &spelling), "{name} holds a secret");
            }
        }
    }
    // No temporary file is left anywhere.
    for path in files(&folder.0) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        assert!(!name.starts_with('.'), "{} was left behind", path.display());
    }
}

#[test]
fn the_bench_verifies_what_it_times() {
    let folder = Folder::new("bench");
    let shape = [
        "bench",
        "shape",
        "--hidden",
        "8",
        "--ffn",
        "12",
        "--heads",
        "2",
        "--kv-heads",
        "1",
        "--tokens",
        "3",
        "--stock",
        "--json",
    ];
    let value = folder.lamina(&shape).exits(0).json();
    for field in [
        "witness_ms",
        "commit_ms",
        "quotient_ms",
        "open_ms",
        "prove_ms",
        "verify_ms",
        "proof_bytes",
        "k",
        "weights",
        "stock_prove_ms",
        "threads",
    ] {
        assert!(value[field].as_f64().is_some_and(|v| v > 0.0), "{field} is not in {value}");
    }
    assert_eq!(value["verified"], true);
    assert_eq!(value["stock_verified"], true);
    assert!(value["columns"]["weights"].as_u64().is_some_and(|c| c > 0));
    assert!(value["machine"].is_string() && value["commit"].is_string());
}

#[cfg(unix)]
#[test]
fn interrupted_commands_leave_nothing_half_written() {
    use std::process::{Command, Stdio};

    let folder = Folder::new("interrupt");
    let model = adder();
    let publish = ["publish", "--model", text(&model), "--out", "p", "--tokens", "4", "--insecure-srs"];
    let child = Command::new(env!("CARGO_BIN_EXE_lamina"))
        .args(publish)
        .current_dir(&folder.0)
        .env("LAMINA_CACHE", folder.path("cache"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    // Its first act is to install the handler; keys take longer than this.
    std::thread::sleep(std::time::Duration::from_millis(150));
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().expect("kill runs").success());
    let output = child.wait_with_output().expect("it ends");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("interrupted"), "{stderr}");
    assert!(!folder.path("p/card.json").exists());
    for path in files(&folder.0) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        assert!(!name.starts_with('.'), "{} was left behind", path.display());
    }
    // The same command finishes what was begun.
    folder.lamina(&publish).exits(0);
    folder.lamina(&["inspect", "p"]).exits(0);
}
