//! Who may depend on whom: `prover -> verifier -> circuits <- model`, `prover -> kernels -> circuits`; only `node` and `benches` see everything.
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use serde_json::Value;

/// Our crates and those of ours that they may depend on outside tests.
const LAW: [(&str, &[&str]); 8] = [
    ("lamina-circuits", &[]),
    ("lamina-verifier", &["lamina-circuits"]),
    ("lamina-kernels", &["lamina-circuits"]),
    ("lamina-prover", &["lamina-circuits", "lamina-verifier", "lamina-kernels"]),
    // The stand-in for a GPU: for tests alone.
    ("lamina-kernels-emu", &[]),
    ("lamina-model", &["lamina-circuits"]),
    ("lamina", &["lamina-circuits", "lamina-verifier", "lamina-prover", "lamina-model"]),
    ("lamina-benches", &["lamina-circuits", "lamina-verifier", "lamina-prover", "lamina-model"]),
];

/// What the verifier must stay free of, even indirectly through its own features.
const HEAVY: [&str; 6] = ["tokio", "candle-core", "tokenizers", "cudarc", "anyhow", "clap"];

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Names of the normal dependencies of every package.
fn dependencies(metadata: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let mut all = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        let names = package["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|d| d["kind"].is_null() && !d["optional"].as_bool().unwrap())
            .map(|d| d["name"].as_str().unwrap().to_string())
            .collect();
        all.insert(package["name"].as_str().unwrap().to_string(), names);
    }
    all
}

#[test]
fn crates_depend_as_the_law_says() {
    let all = dependencies(&metadata());
    let ours: BTreeSet<_> = LAW.iter().map(|(name, _)| *name).collect();
    for (name, allowed) in LAW {
        let actual: Vec<_> = all[name].iter().filter(|d| ours.contains(d.as_str())).collect();
        for dependency in actual {
            assert!(allowed.contains(&dependency.as_str()), "{name} may not depend on {dependency}");
        }
    }
}

#[test]
fn the_verifier_is_light() {
    let all = dependencies(&metadata());
    let mut seen = BTreeSet::new();
    let mut todo = vec!["lamina-verifier".to_string()];
    while let Some(name) = todo.pop() {
        if seen.insert(name.clone()) {
            todo.extend(all.get(&name).into_iter().flatten().cloned());
        }
    }
    for heavy in HEAVY {
        assert!(!seen.contains(heavy), "the verifier depends on {heavy}");
    }
    // halo2-axiom lists rayon as a dependency of its own; ours must not.
    for ours in ["lamina-verifier", "lamina-circuits"] {
        assert!(!all[ours].contains("rayon"), "{ours} depends on rayon without being asked to");
    }
}

/// Cheating witnesses and provers are for tests: no binary has them, by default or through anything it depends on.
#[test]
fn no_binary_can_cheat() {
    let all = metadata();
    for package in all["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        if !LAW.iter().any(|(ours, _)| *ours == name) {
            continue;
        }
        let features = package["features"].as_object().unwrap();
        let enables = |feature: &str| features[feature].to_string().contains("cheat");
        assert_eq!(
            features.contains_key("cheat"),
            ["lamina-circuits", "lamina-prover"].contains(&name),
            "{name}"
        );
        for feature in features.keys().filter(|feature| *feature != "cheat") {
            assert!(!enables(feature), "{name}: {feature} enables cheating");
        }
        for dependency in package["dependencies"].as_array().unwrap() {
            assert!(!dependency["features"].to_string().contains("cheat"), "{name} asks for cheating");
        }
    }
    // What cargo resolves for the command as it is released.
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--package", "lamina", "--edges", "normal,build,features", "--locked", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let tree = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && tree.contains("lamina-prover"), "{tree}");
    assert!(!tree.contains("cheat"), "{tree}");
}
