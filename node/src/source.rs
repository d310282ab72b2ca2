//! Models from files, texts to calibrate on, and the integers that come out.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use lamina_circuits::{model::Part, plan::ModelPlan};
use lamina_model::{
    Model, Options, QuantisedModel, TextTokenizer, error::TokenizerError, quantise, quantise_on_text,
};

use crate::{
    cli::PromptArgs,
    engine::PartWeights,
    failure::{Classify, Failure, Kind, Result},
    files,
    output::Output,
    progress::Bar,
    publication::AllParams,
};

/// The text that scales are chosen on when the caller has none.
pub const CALIBRATION: &str = include_str!("../assets/calibration.txt");

/// Name of the bundled model on the command line and in cards.
pub const BUNDLED: &str = "bundled";

/// How a model becomes integers.
#[derive(Clone, Debug)]
pub struct Choices<'a> {
    /// Bits of a weight.
    pub weight_bits: u32,
    /// Tokens a proof is for.
    pub tokens: usize,
    /// Generated tokens a proof is for, at most.
    pub answer: usize,
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
    /// The layouts of all slices.
    pub plan: ModelPlan,
}

/// A model in integers, laid out: what is published, and what the executor runs.
#[derive(Clone)]
pub struct IntegerModel {
    /// What determines the circuits.
    pub params: AllParams,
    /// Weights of the embedding, of layers from 0 on, and of the head.
    pub weights: BTreeMap<Part, PartWeights>,
    /// Whether the head's matrix is the embedding's.
    pub tied: bool,
    /// The id that pads a pass.
    pub padding: u32,
    /// The id that ends a text, if the model names one.
    pub end_of_text: Option<u32>,
    /// Text to ids and back, if the model came with it.
    pub tokenizer: Option<TextTokenizer>,
}

impl IntegerModel {
    /// Layers.
    pub fn layers(&self) -> usize {
        self.weights.len().saturating_sub(2)
    }
}

impl Prepared {
    /// The model as it is published; weights are shared, not copied.
    pub fn model(&self) -> IntegerModel {
        let (q, ends) = (&self.integers, &self.integers.ends);
        let blocks = q.blocks.iter().enumerate();
        let mut weights: BTreeMap<_, _> =
            blocks.map(|(layer, block)| (Part::Layer(layer), PartWeights::Block(block.clone()))).collect();
        weights.insert(Part::Embedding, PartWeights::Embedding(ends.embedding_weights.clone()));
        weights.insert(Part::Head, PartWeights::Head(ends.head_weights.clone()));
        IntegerModel {
            params: AllParams {
                embedding: self.plan.embedding.clone(),
                block: self.plan.block.params.clone(),
                head: self.plan.head.clone(),
            },
            weights,
            tied: q.config.tied,
            padding: q.config.pad_id,
            end_of_text: q.config.eos_id,
            tokenizer: q.tokenizer.clone(),
        }
    }
}

impl Choices<'static> {
    /// 16-bit weights, the bundled text, the default headroom and answers.
    pub fn new(tokens: usize) -> Self {
        Choices {
            weight_bits: 16,
            tokens,
            answer: Options::DEFAULT_POSITIONS.min(tokens),
            calibrate: None,
            headroom_bits: Options::DEFAULT_HEADROOM_BITS,
        }
    }
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

/// Where a model is published when nobody says where: `NAME.lamina`, here.
pub fn publication_folder(model: &Path) -> PathBuf {
    PathBuf::from(format!("{}.lamina", name(model)))
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
        positions: choices.answer.min(choices.tokens),
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
    let (ends, layers) = (&integers.ends, integers.blocks.len());
    let plan = ModelPlan::best(&integers.spec, &ends.embedding, &ends.head, layers, choices.tokens)
        .context("laying out the slices")?;
    integers.spec = plan.block.params.spec.clone();
    integers.ends = integers.ends.with_tokens(integers.spec.tokens);
    Ok(Prepared { float, integers, plan })
}

/// Token ids of a prompt, at most `limit` of them.
///
/// # Errors
/// An empty prompt, one that is too long, or one that the vocabulary cannot express.
pub fn prompt_ids(tokenizer: Option<&TextTokenizer>, prompt: &PromptArgs, limit: usize) -> Result<Vec<u32>> {
    let ids = match (&prompt.prompt, &prompt.ids) {
        (Some(text), _) => tokenizer.ok_or(TokenizerError::Absent)?.encode_whole(text)?,
        (None, ids) => ids.clone().unwrap_or_default(),
    };
    if ids.is_empty() {
        return Err(Failure::new(Kind::Input, "the prompt is empty: at least one token is needed"));
    }
    if ids.len() > limit {
        return Err(Failure::new(
            Kind::Input,
            format_args!(
                "the prompt has {} tokens, the published circuit is for {limit} beside the answer: shorten it, or \
                 publish with more --tokens",
                ids.len(),
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
