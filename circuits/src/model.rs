//! The slices of a whole model as one circuit type, so that one card holds embedding, blocks and head.

use std::fmt;

use halo2_proofs::{
    circuit::{Layouter, SimpleFloorPlanner},
    plonk::{Circuit, ConstraintSystem, Error},
};
use serde::{Deserialize, Serialize, Serializer};

use crate::{
    Fr,
    block::{BlockCircuit, BlockParams},
    embedding::{EmbeddingCircuit, EmbeddingParams, EmbeddingSpec},
    head::{HeadSpec, circuit::HeadCircuit, layout::HeadParams},
    layout::LayoutError,
    slice::{LinkedColumns, RefusedParams, SliceCircuit},
};

/// Which part of a model a slice is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// Token ids to the first boundary.
    Embedding,
    /// A transformer block, from 0.
    Layer(usize),
    /// The last boundary to token ids.
    Head,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedding => f.write_str("embedding"),
            Self::Layer(layer) => write!(f, "layer {layer}"),
            Self::Head => f.write_str("head"),
        }
    }
}

impl Serialize for Part {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Parameters of any slice.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelParams {
    /// Token ids to the first boundary.
    Embedding(EmbeddingParams),
    /// A transformer block.
    Block(BlockParams),
    /// The last boundary to token ids.
    Head(HeadParams),
}

impl Default for ModelParams {
    fn default() -> Self {
        Self::Block(BlockParams::default())
    }
}

/// The circuit of any slice.
#[derive(Clone, Debug)]
pub enum ModelCircuit {
    /// See [`EmbeddingCircuit`].
    Embedding(EmbeddingCircuit),
    /// See [`BlockCircuit`].
    Block(BlockCircuit),
    /// See [`HeadCircuit`].
    Head(HeadCircuit),
}

impl ModelCircuit {
    /// The circuit without a witness.
    ///
    /// # Errors
    /// An unsound specification, or rows that do not fit.
    pub fn new(params: &ModelParams) -> Result<Self, LayoutError> {
        Ok(match params {
            ModelParams::Embedding(params) => Self::Embedding(EmbeddingCircuit::new(params)?),
            ModelParams::Block(params) => Self::Block(BlockCircuit::new(params)?),
            ModelParams::Head(params) => Self::Head(HeadCircuit::new(params)?),
        })
    }
}

/// The configuration of any slice.
#[derive(Clone, Debug)]
pub enum ModelConfig {
    /// Of an embedding.
    Embedding(<EmbeddingCircuit as Circuit<Fr>>::Config),
    /// Of a block.
    Block(<BlockCircuit as Circuit<Fr>>::Config),
    /// Of a head.
    Head(<HeadCircuit as Circuit<Fr>>::Config),
}

impl Circuit<Fr> for ModelCircuit {
    type Config = ModelConfig;
    type FloorPlanner = SimpleFloorPlanner;
    type Params = ModelParams;

    fn params(&self) -> ModelParams {
        match self {
            Self::Embedding(circuit) => ModelParams::Embedding(circuit.params()),
            Self::Block(circuit) => ModelParams::Block(circuit.params()),
            Self::Head(circuit) => ModelParams::Head(circuit.params()),
        }
    }

    fn without_witnesses(&self) -> Self {
        match self {
            Self::Embedding(circuit) => Self::Embedding(circuit.without_witnesses()),
            Self::Block(circuit) => Self::Block(circuit.without_witnesses()),
            Self::Head(circuit) => Self::Head(circuit.without_witnesses()),
        }
    }

    fn configure_with_params(meta: &mut ConstraintSystem<Fr>, params: ModelParams) -> ModelConfig {
        match params {
            ModelParams::Embedding(params) => {
                ModelConfig::Embedding(EmbeddingCircuit::configure_with_params(meta, params))
            }
            ModelParams::Block(params) => {
                ModelConfig::Block(BlockCircuit::configure_with_params(meta, params))
            }
            ModelParams::Head(params) => ModelConfig::Head(HeadCircuit::configure_with_params(meta, params)),
        }
    }

    fn configure(_: &mut ConstraintSystem<Fr>) -> ModelConfig {
        unreachable!("halo2 calls configure_with_params when circuits have parameters")
    }

    fn synthesize(&self, config: ModelConfig, layouter: impl Layouter<Fr>) -> Result<(), Error> {
        match (self, config) {
            (Self::Embedding(circuit), ModelConfig::Embedding(config)) => {
                circuit.synthesize(config, layouter)
            }
            (Self::Block(circuit), ModelConfig::Block(config)) => circuit.synthesize(config, layouter),
            (Self::Head(circuit), ModelConfig::Head(config)) => circuit.synthesize(config, layouter),
            // A circuit is synthesized with the configuration of another kind.
            _ => Err(Error::Synthesis),
        }
    }
}

impl SliceCircuit for ModelCircuit {
    fn check(params: &ModelParams) -> Result<(), RefusedParams> {
        match params {
            ModelParams::Embedding(params) => EmbeddingCircuit::check(params),
            ModelParams::Block(params) => BlockCircuit::check(params),
            ModelParams::Head(params) => HeadCircuit::check(params),
        }
    }

    fn log_n(params: &ModelParams) -> u32 {
        match params {
            ModelParams::Embedding(params) => EmbeddingCircuit::log_n(params),
            ModelParams::Block(params) => BlockCircuit::log_n(params),
            ModelParams::Head(params) => HeadCircuit::log_n(params),
        }
    }

    fn degree(params: &ModelParams) -> usize {
        match params {
            ModelParams::Embedding(params) => EmbeddingCircuit::degree(params),
            ModelParams::Block(params) => BlockCircuit::degree(params),
            ModelParams::Head(params) => HeadCircuit::degree(params),
        }
    }

    fn weight_bits(params: &ModelParams) -> Option<u32> {
        match params {
            ModelParams::Embedding(params) => EmbeddingCircuit::weight_bits(params),
            ModelParams::Block(params) => BlockCircuit::weight_bits(params),
            ModelParams::Head(params) => HeadCircuit::weight_bits(params),
        }
    }

    fn linked(params: &ModelParams) -> LinkedColumns {
        match params {
            ModelParams::Embedding(params) => EmbeddingCircuit::linked(params),
            ModelParams::Block(params) => BlockCircuit::linked(params),
            ModelParams::Head(params) => HeadCircuit::linked(params),
        }
    }
}

/// Checks that an embedding and a head are of one model.
///
/// # Errors
/// [`LayoutError::Ends`] names what they disagree about.
pub fn same_model(embedding: &EmbeddingSpec, head: &HeadSpec) -> Result<(), LayoutError> {
    let sizes = [
        ("hidden", embedding.hidden, head.norm.hidden),
        ("vocabulary", embedding.vocab, head.vocab),
        ("tokens", embedding.tokens, head.tokens),
        ("weight bits", embedding.weight_bits as usize, head.weight_bits as usize),
    ];
    match sizes.iter().find(|(_, a, b)| a != b) {
        Some(&(what, embedding, head)) => Err(LayoutError::Ends { what, embedding, head }),
        None => Ok(()),
    }
}

/// Fits both ends of a model on the `2^k` rows of its blocks, with the fewest weight columns, the same for both:
/// so a tied head links the embedding's commitments.
///
/// # Errors
/// An unsound specification, rows that do not fit, or [`LayoutError::Ends`] when the two disagree.
pub fn fit_ends(
    embedding: &EmbeddingSpec,
    head: &HeadSpec,
    k: u32,
) -> Result<(EmbeddingParams, HeadParams), LayoutError> {
    same_model(embedding, head)?;
    let head = HeadParams::fit(head, k)?;
    let embedding = EmbeddingParams { spec: embedding.clone(), weight_lanes: head.weight_lanes, k };
    embedding.layout()?;
    Ok((embedding, head))
}
