//! What can go wrong between a model file and a quantised model.

use std::path::PathBuf;

use lamina_circuits::{bounds::SpecError, executor::ExecError, model::Part};
use thiserror::Error;

/// An error of another library, kept as the source of ours.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a model could not be imported. Model files are hostile input: every message names what is wrong
/// where, and what to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImportError {
    /// A file could not be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The path holds no model that this crate reads.
    #[error(
        "{path} holds no model: give a .gguf file, or a directory with config.json, model.safetensors and \
         tokenizer.json"
    )]
    NoModel {
        /// The path.
        path: PathBuf,
    },
    /// A size exceeds the importer's cap.
    #[error(
        "{what} is {actual}, above the cap of {limit}: the file is damaged, or too large for this importer"
    )]
    TooLarge {
        /// What is too large.
        what: String,
        /// Its size.
        actual: u64,
        /// The cap.
        limit: u64,
    },
    /// The bytes end before what they announce.
    #[error("{what} needs {needed} bytes, {available} are left: the file is truncated, fetch it again")]
    Truncated {
        /// What was being read.
        what: String,
        /// Bytes needed.
        needed: u64,
        /// Bytes left.
        available: u64,
    },
    /// The bytes are not of their format.
    #[error("malformed {what}: expected {expected}, found {found}")]
    Malformed {
        /// What was being read.
        what: String,
        /// What the format asks for.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// A JSON file does not parse.
    #[error("{file} does not parse: {source}")]
    Json {
        /// The file.
        file: &'static str,
        /// Where and why.
        source: serde_json::Error,
    },
    /// The safetensors header does not parse.
    #[error("model.safetensors does not parse: {source}")]
    Safetensors {
        /// Why.
        source: safetensors::SafeTensorError,
    },
    /// The model is of no family that can be proved.
    #[error("architecture `{found}` is not supported: only `llama`, `qwen2` and (not in GGUF) `gpt2` are")]
    Architecture {
        /// The architecture found.
        found: String,
    },
    /// The model uses a feature that the circuit does not have.
    #[error("{feature} = {found} is not supported: {hint}")]
    Unsupported {
        /// The feature.
        feature: &'static str,
        /// Its value.
        found: String,
        /// What to do.
        hint: &'static str,
    },
    /// A configuration value is absent.
    #[error("the configuration lacks `{field}`: take the file that was published with the model")]
    MissingField {
        /// The field.
        field: &'static str,
    },
    /// A configuration value is out of range, or contradicts another.
    #[error("configuration: `{field}` is {actual}, expected {expected}")]
    Config {
        /// The field.
        field: &'static str,
        /// What is allowed.
        expected: String,
        /// What was found.
        actual: String,
    },
    /// A tensor is absent.
    #[error("tensor `{name}` is missing: the file is incomplete (sharded checkpoints must be merged first)")]
    MissingTensor {
        /// The tensor.
        name: String,
    },
    /// A tensor that the architecture does not have would be ignored.
    #[error(
        "tensor `{name}` is not part of a model of this architecture: ignoring it would change the model"
    )]
    UnknownTensor {
        /// The tensor.
        name: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("tensor `{name}` has shape {actual:?}, expected {expected:?} from the configuration")]
    TensorShape {
        /// The tensor.
        name: String,
        /// Shape from the configuration.
        expected: Vec<usize>,
        /// Shape in the file.
        actual: Vec<usize>,
    },
    /// A tensor's type is not read.
    #[error(
        "tensor `{name}` has type {actual}, expected one of F32, F16, BF16 or (GGUF) Q4_0, Q4_1, Q5_0, Q8_0, Q4_K, \
         Q6_K: convert it"
    )]
    TensorType {
        /// The tensor.
        name: String,
        /// Its type.
        actual: String,
    },
    /// A tensor holds a value that is not finite.
    #[error("tensor `{name}` holds {value} at {index}: the file is damaged")]
    NotFinite {
        /// The tensor.
        name: String,
        /// Position of the value.
        index: usize,
        /// The value.
        value: f32,
    },
    /// A tensor could not be expanded.
    #[error("tensor `{name}` could not be dequantised: {source}")]
    Dequantise {
        /// The tensor.
        name: String,
        /// Why.
        source: candle_core::Error,
    },
    /// The tokenizer does not parse, or does not fit the model.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// Why text and token ids could not be turned into each other.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A symbol is not in the vocabulary.
    #[error("`{symbol}` is not in the model's vocabulary")]
    Unknown {
        /// The symbol.
        symbol: String,
    },
    /// The description does not parse.
    #[error("the tokenizer does not parse: {source}")]
    Parse {
        /// Why.
        source: Cause,
    },
    /// The tokenizer knows ids that the model has no embedding for.
    #[error(
        "the tokenizer has ids up to {largest}, the model {vocab} embeddings: they do not belong together"
    )]
    Vocabulary {
        /// Largest id of the tokenizer.
        largest: u32,
        /// Embeddings of the model.
        vocab: usize,
    },
    /// The model came without a tokenizer.
    #[error("the model has no tokenizer: put its tokenizer.json beside the model file")]
    Absent,
    /// A text could not be encoded.
    #[error("the text could not be encoded: {source}")]
    Encode {
        /// Why.
        source: Cause,
    },
    /// Ids could not be decoded.
    #[error("the ids could not be decoded: {source}")]
    Decode {
        /// Why.
        source: Cause,
    },
}

/// Why a forward pass could not be run.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ForwardError {
    /// No tokens.
    #[error("no tokens were given: at least one is needed")]
    Empty,
    /// More tokens than the model, or the specification, holds.
    #[error("{given} tokens were given, at most {limit} fit: shorten the text or quantise for more tokens")]
    TooManyTokens {
        /// Tokens given.
        given: usize,
        /// Most that fit.
        limit: usize,
    },
    /// A token id beyond the vocabulary.
    #[error("token {position} has id {id}, the vocabulary ends at {vocab}: it is of another tokenizer")]
    TokenId {
        /// Position of the token.
        position: usize,
        /// Its id.
        id: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// A matrix product failed.
    #[error("matrix product failed: {0}")]
    Product(#[from] candle_core::Error),
}

/// Why a model could not be quantised.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum QuantiseError {
    /// An option is out of range.
    #[error("option `{option}` is {actual}, expected {expected}")]
    Option {
        /// The option.
        option: &'static str,
        /// What is allowed.
        expected: &'static str,
        /// What was given.
        actual: String,
    },
    /// Calibration could not run.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// The calibration text could not be encoded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The model's LayerNorm is not centred yet.
    #[error("the model has LayerNorm: quantise it rotated, its mean taken out of what writes to the stream")]
    LayerNorm,
    /// No power-of-two scales hold a site's values.
    #[error("no scales fit {site} (largest value {largest:e}): lower the headroom, or use wider weights")]
    NoScales {
        /// The site.
        site: &'static str,
        /// Largest magnitude seen there.
        largest: f64,
    },
    /// The scales found are outside what the circuit proves.
    #[error("the model's scales are outside what the circuit proves: {0}")]
    Spec(#[from] SpecError),
}

/// Why a fixed-point pass or its comparison failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EvalError {
    /// Tokens, or the float pass.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// A value left its range.
    #[error("{part}: {source}")]
    Range {
        /// Where in the model.
        part: Part,
        /// Site and value.
        source: ExecError,
    },
    /// A perplexity needs at least one next token.
    #[error("{given} tokens were given: a comparison needs at least 2")]
    TooFewTokens {
        /// Tokens given.
        given: usize,
    },
    /// The two models are not of one shape.
    #[error("the float model and the quantised one differ in {what}")]
    Mismatch {
        /// What differs.
        what: &'static str,
    },
}
