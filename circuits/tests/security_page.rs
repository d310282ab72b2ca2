//! `docs/security.md` names a test for every known hole, and every test that it names is there.
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Test functions by the stem of their file.
fn tests() -> BTreeMap<String, Vec<String>> {
    fn walk(folder: &Path, found: &mut BTreeMap<String, Vec<String>>) {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
                let source = fs::read_to_string(&path).unwrap();
                let names = source.split("#[test]").skip(1).filter_map(|after| {
                    let name = after.split_once("fn ")?.1;
                    Some(name.split_once('(')?.0.to_owned())
                });
                found.entry(stem).or_default().extend(names);
            }
        }
    }
    let mut found = BTreeMap::new();
    for package in ["circuits", "verifier", "prover", "kernels", "model", "node"] {
        for part in ["src", "tests"] {
            walk(&root().join(package).join(part), &mut found);
        }
    }
    found
}

#[test]
fn every_row_has_its_tests_and_they_exist() {
    let page = fs::read_to_string(root().join("docs/security.md")).unwrap();
    let tests = tests();
    let mut rows = BTreeMap::new();
    for line in page.lines() {
        let Some(cells) = line.strip_prefix("| ") else { continue };
        let first = cells.split(" | ").next().unwrap_or_default();
        let named: Vec<&str> =
            // Types, whose names are capitalised, are errors rather than tests.
            line.split('`')
                .skip(1)
                .step_by(2)
                .filter(|code| code.contains("::") && code.starts_with(|c: char| c.is_ascii_lowercase()))
                .collect();
        for name in &named {
            let (file, test) = name.split_once("::").unwrap();
            let there = tests.get(file).is_some_and(|tests| tests.iter().any(|one| one == test));
            assert!(there, "row {first}: there is no test `{name}`");
        }
        rows.insert(first.to_owned(), named.len());
    }
    let expected = (1..=31).map(|i| format!("S{i}")).chain((1..=8).map(|i| format!("Z{i}")));
    for row in expected {
        assert!(rows.get(&row).is_some_and(|tests| *tests > 0), "row {row} names no test");
    }
}
