//! Models from files, texts to calibrate on, and the integers that come out.

use std::path::Path;

use lamina_circuits::{
    executor::{self, ExecError},
    plan::Plan,
    spec::{Activations, BlockSpec, BlockWeights},
};
use lamina_model::{Model, Options, QuantisedModel, Rotation, quantise, quantise_on_text};

use crate::{
    failure::{Classify, Failure, Kind, Result},
    files,
    output::Output,
    progress::Bar,
};

/// The text that scales are chosen on when the caller has none.
const CALIBRATION: &str = include_str!("../assets/calibration.txt");

/// Name of the bundled model on the command line and in cards.
pub const BUNDLED: &str = "bundled";

/// How a model becomes integers.
#[derive(Clone, Debug)]
pub struct Choices<'a> {
    /// Bits of a weight.
    pub weight_bits: u32,
    /// Tokens a proof is for.
    pub tokens: usize,
    /// Text to choose scales on.
    pub calibrate: Option<&'a Path>,
    /// Bits of room above that text's largest values.
    pub headroom_bits: f64,
}

/// A quantised model with the layout of its blocks.
pub struct Prepared {
    /// The model in floats, its residual stream rotated as the integers' is.
    pub float: Model,
    /// The model in integers; its `spec.tokens` is the plan's, padding to full token groups included.
    pub integers: QuantisedModel,
    /// The layout that all blocks share.
    pub plan: Plan,
}

/// Reads a model: a path, or the bundled one.
///
/// # Errors
/// See [`lamina_model::error::ImportError`].
pub fn load(path: Option<&Path>) -> Result<Model> {
    match path {
        None => Ok(lamina_model::bundled()?),
        Some(path) if path.as_os_str() == BUNDLED && !path.exists() => Ok(lamina_model::bundled()?),
        Some(path) => Ok(lamina_model::import(path)?),
    }
}

/// The name of a model: its file's, never its folder's.
pub fn name(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or(path.as_os_str());
    stem.to_string_lossy().chars().filter(|c| !c.is_control()).take(200).collect()
}

/// Reads, quantises and lays out.
///
/// # Errors
/// The model or the text is unusable, too many tokens are asked for, or no layout fits.
pub fn prepare(output: &Output, path: Option<&Path>, choices: &Choices<'_>) -> Result<Prepared> {
    let bar = Bar::new(output, "model", 3);
    bar.begin(0, "reading")?;
    let float = load(path)?.rotated();
    let context = float.config.context;
    if choices.tokens > context {
        return Err(Failure::new(
            Kind::Input,
            format_args!(
                "--tokens {} is more than the model's context of {context}: ask for fewer",
                choices.tokens
            ),
        ));
    }
    bar.begin(1, "choosing scales and weights")?;
    let options = Options {
        weight_bits: choices.weight_bits,
        headroom_bits: choices.headroom_bits,
        ..Options::new(choices.tokens)
    };
    let quantised = match choices.calibrate {
        Some(path) => quantise_on_text(&float, &files::read_text(path)?, &options),
        // A vocabulary that can't express prose is calibrated on pseudo-random ids alone, as is a model
        // without a tokenizer.
        None => {
            let ids = float.tokenizer().and_then(|t| t.encode(CALIBRATION)).unwrap_or_default();
            quantise(&float, &ids, &options)
        }
    };
    let mut integers = quantised.context("quantising the model")?;
    bar.begin(2, "laying out")?;
    let plan = Plan::best(&integers.spec, choices.tokens).context("laying out the blocks")?;
    integers.spec = plan.params.spec.clone();
    Ok(Prepared { float, integers, plan })
}

/// Token ids of a prompt, at most `limit` of them.
///
/// # Errors
/// No tokenizer, an empty prompt, or one that is too long.
pub fn prompt_ids(model: &Model, prompt: &str, limit: usize) -> Result<Vec<u32>> {
    let ids = model.tokenizer()?.encode(prompt)?;
    if ids.is_empty() {
        return Err(Failure::new(Kind::Input, "the prompt is empty: at least one token is needed"));
    }
    if ids.len() > limit {
        return Err(Failure::new(
            Kind::Input,
            format_args!(
                "the prompt has {} tokens, the published circuit is for {limit}: shorten it, or publish with \
                 --tokens {}",
                ids.len(),
                ids.len()
            ),
        ));
    }
    Ok(ids)
}

/// The first `count` tokens of the calibration text: a prompt for benches.
///
/// # Errors
/// No tokenizer.
pub fn some_ids(model: &Model, count: usize) -> Result<Vec<u32>> {
    let mut ids = model.tokenizer()?.encode(CALIBRATION)?;
    ids.truncate(count);
    if ids.is_empty() {
        return Err(Failure::new(Kind::Input, "the tokenizer finds no tokens in the bench's text"));
    }
    Ok(ids)
}

/// The first boundary of a prompt: rotated embeddings as integers, padded with the model's padding id.
/// `model` is as it was loaded.
///
/// # Shapes
/// Result: `[spec.tokens, hidden]` at scale `2^-residual_frac`.
pub fn embed(model: &Model, spec: &BlockSpec, ids: &[u32]) -> Activations {
    let d = spec.shape.hidden;
    let scale = f64::from(spec.scales.residual_frac).exp2();
    let rotation = Rotation::new(d);
    let padding = std::iter::repeat(&model.config.pad_id);
    ids.iter()
        .chain(padding)
        .take(spec.tokens)
        .flat_map(|&id| rotation.apply(&model.embedding.data[id as usize * d..][..d]))
        .map(|x| (f64::from(x) * scale).round() as i32)
        .collect()
}

/// Runs one layer and names it when a value leaves its range.
///
/// # Errors
/// A value outside its range, with layer, site, token and what to do.
pub fn run_layer(
    spec: &BlockSpec,
    weights: &BlockWeights,
    layer: usize,
    x: &[i32],
) -> Result<executor::Trace> {
    executor::execute(spec, weights, x).map_err(|error| {
        let advice = match error {
            ExecError::OutOfRange { .. } => {
                "; publish again with --calibrate TEXTFILE on text like this prompt, or with more --headroom"
            }
            _ => "",
        };
        Failure::new(Kind::Input, format_args!("layer {layer}, {error}{advice}"))
    })
}
