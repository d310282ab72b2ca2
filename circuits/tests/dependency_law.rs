//! Who may depend on whom: `prover -> verifier -> circuits <- model`; only `node` and `benches` see everything.
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use serde_json::Value;

/// Our crates and those of ours that they may depend on outside tests.
const LAW: [(&str, &[&str]); 6] = [
    ("lamina-circuits", &[]),
    ("lamina-verifier", &["lamina-circuits"]),
    ("lamina-prover", &["lamina-circuits", "lamina-verifier"]),
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
