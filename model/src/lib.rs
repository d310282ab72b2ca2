//! Llama-architecture models made ready for proofs: import, tokenizer, float reference, quantisation.
//!
//! - [`mod@import`]: safetensors and GGUF files, read as hostile input, into a [`Model`];
//! - [`bundled()`]: a small trained model that comes with the crate;
//! - [`forward`]: the float reference, every intermediate value visible.

pub mod bundled;
pub mod config;
pub mod error;
pub mod forward;
pub mod import;
pub mod model;
pub mod tokenizer;

pub use bundled::{bundled, bundled_adder};
pub use config::Config;
pub use import::import;
pub use model::Model;
pub use tokenizer::TextTokenizer;
