//! Small trained models that come with the crate; `assets/*/PROVENANCE.md` says from where.

use crate::{error::ImportError, import::from_safetensors_bytes, model::Model};

/// The bundled demonstration model: 4 layers, 0.85 M parameters, trained on English prose.
///
/// # Errors
/// None in a sound build: the bytes are part of the binary.
pub fn bundled() -> Result<Model, ImportError> {
    from_safetensors_bytes(
        include_bytes!("../assets/glassllm/config.json"),
        include_bytes!("../assets/glassllm/model.safetensors"),
        Some(include_bytes!("../assets/glassllm/tokenizer.json")),
    )
}

/// A bundled model of one layer and 1,480 parameters that adds one-digit numbers: for tests.
///
/// # Errors
/// None in a sound build: the bytes are part of the binary.
pub fn bundled_adder() -> Result<Model, ImportError> {
    from_safetensors_bytes(
        include_bytes!("../assets/mathformer/config.json"),
        include_bytes!("../assets/mathformer/model.safetensors"),
        Some(include_bytes!("../assets/mathformer/tokenizer.json")),
    )
}
