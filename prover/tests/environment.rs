//! `MAX_DEGREE` changes keys behind their digest's back: refused. Alone in its process, as it sets a variable.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::process::Command;

use common::{Kitchen, Shape, setup};
use lamina_prover::{KeyError, ProvingKey, UnsupportedError};

#[test]
fn max_degree_is_refused() {
    if std::env::var_os("MAX_DEGREE").is_none() {
        let status = Command::new(std::env::current_exe().unwrap())
            .arg("max_degree_is_refused")
            .env("MAX_DEGREE", "7")
            .status()
            .unwrap();
        assert!(status.success());
        return;
    }
    let (srs, ..) = setup(5);
    let shape = Shape { degree: 3, weights: 1, rows: 12, third: false, query_instance: false };
    let error = ProvingKey::generate(&srs, &Kitchen { shape, seed: 1, wrong: false }).unwrap_err();
    assert!(matches!(error, KeyError::Unsupported(UnsupportedError::MaxDegree)));
}
