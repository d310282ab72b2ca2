//! Models of the Llama, Qwen2 and GPT-2 families made ready for proofs: import, tokenizer, float reference, quantisation.
//!
//! - [`mod@import`]: safetensors and GGUF files, read as hostile input, into a [`Model`];
//! - [`bundled()`]: a small trained model that comes with the crate;
//! - [`forward`]: the float reference, every intermediate value visible;
//! - [`rotate`]: the same model with a residual stream that integers hold well;
//! - [`mod@quantise`]: calibration and integer weights, a [`QuantisedModel`]; [`ends`]: embedding and head;
//! - [`mod@eval`]: fixed point against float.

pub mod bundled;
mod calibrate;
pub mod config;
pub mod ends;
pub mod error;
pub mod eval;
mod feedback;
pub mod forward;
pub mod import;
pub mod model;
pub mod quantise;
pub mod rotate;
pub mod tokenizer;

pub use bundled::{bundled, bundled_adder};
pub use config::{Config, Family};
pub use ends::Ends;
pub use eval::{EvalReport, eval};
pub use import::import;
pub use model::Model;
pub use quantise::{Options, QuantisedModel, quantise, quantise_on_text};
pub use rotate::Rotation;
pub use tokenizer::TextTokenizer;
