//! One slice, from a trace to an envelope: boundaries, proof, link, verification.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use halo2_proofs::{
    halo2curves::bn256::{Bn256, G1Affine},
    plonk::{Circuit, VerifyingKey, verify_proof},
    poly::kzg::{
        commitment::{KZGCommitmentScheme, ParamsKZG},
        multiopen::VerifierSHPLONK,
        strategy::SingleStrategy,
    },
    transcript::{Blake2bRead, Challenge255, TranscriptReadBuffer},
};
use lamina_circuits::{
    Fr,
    assign::BlockWitness,
    embedding::{EmbeddingWeights, EmbeddingWitness, embed},
    executor::{ExecError, Trace, execute},
    head::{HeadTrace, HeadWeights, assign::HeadWitness, execute_head},
    model::{ModelCircuit, ModelParams, Part},
    range::{RangeCircuit, RangeParams, RangeWitness},
    slice::{LinkedColumns, SliceCircuit},
    spec::BlockWeights,
    witness::{Column, Witness},
};
use lamina_prover::{
    Committed, Progress, ProvingKey, Timings,
    link::Draft,
    publish::{BlindedColumns, commit_blinded, open_tail},
    srs::Srs,
};
use lamina_verifier::{
    boundary::{BoundaryReference, OpenBoundary},
    card::{
        Architecture, CARD_FORMAT, Card, CircuitEntry, Commitment, KeyBytes, KindEntry, ModelCard,
        Quantisation, SliceEntry, SrsReference,
    },
    context::Context,
    hash::{Digest, NodeId, ProtocolId},
    key::{SliceKey, key_digest, write_key},
    srs::VerifierSrs,
};

use crate::{
    compute::{Compute, KeyProver},
    failure::{Failure, Kind, Result},
};

/// The card of a model as it stands in its file.
pub type CardFile = ModelCard<ModelParams, RangeParams>;
/// A card that was checked.
pub type LoadedCard = Card<ModelCircuit, RangeCircuit>;
/// Weight columns, shared between proofs.
pub type WeightColumns = Arc<Vec<Arc<Vec<i16>>>>;

/// The integer weights of a part of a model.
#[derive(Clone, Debug, PartialEq)]
pub enum PartWeights {
    /// Of the embedding.
    Embedding(EmbeddingWeights),
    /// Of a block.
    Block(BlockWeights),
    /// Of the head.
    Head(HeadWeights),
}

/// Every value of a part of a model on one pass.
pub enum PartTrace {
    /// Ids and their embeddings.
    Embedding {
        /// All ids, padding included.
        ids: Vec<u32>,
        /// The first boundary.
        x: Vec<i32>,
    },
    /// Of a block.
    Block(Box<Trace>),
    /// Of the head.
    Head(Box<HeadTrace>),
}

/// What a pass goes over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// All ids, padding included.
    pub ids: Vec<u32>,
    /// The positions that the head reads.
    pub positions: Vec<usize>,
}

/// A circuit met parts of another kind: a publication that was put together wrongly.
fn mixed_up(part: Part) -> Failure {
    Failure::new(Kind::Input, format_args!("{part}: circuit and weights are of different kinds"))
}

/// Runs a part of a model on a pass, and names it when a value leaves its range.
///
/// # Shapes
/// `x`: the boundary before it, `[tokens, hidden]`; the embedding reads none.
///
/// # Errors
/// A value outside its range, with part, site, token and what to do.
pub fn run(
    params: &ModelParams,
    weights: &PartWeights,
    part: Part,
    pass: &Pass,
    x: &[i32],
) -> Result<PartTrace> {
    let traced = match (params, weights) {
        (ModelParams::Embedding(params), PartWeights::Embedding(weights)) => {
            embed(&params.spec, weights, &pass.ids).map(|x| PartTrace::Embedding { ids: pass.ids.clone(), x })
        }
        (ModelParams::Block(params), PartWeights::Block(weights)) => {
            execute(&params.spec, weights, x).map(|trace| PartTrace::Block(Box::new(trace)))
        }
        (ModelParams::Head(params), PartWeights::Head(weights)) => {
            execute_head(&params.spec, weights, x, &pass.positions)
                .map(|trace| PartTrace::Head(Box::new(trace)))
        }
        _ => return Err(mixed_up(part)),
    };
    traced.map_err(|error| {
        let advice = match error {
            ExecError::OutOfRange { .. } => {
                "; publish again with --calibrate TEXTFILE on text like this prompt, or with more --headroom"
            }
            _ => "",
        };
        Failure::new(Kind::Input, format_args!("{part}, {error}{advice}"))
    })
}

impl PartTrace {
    /// The boundary after it: activations, or nothing after the head.
    pub fn stream(&self) -> &[i32] {
        match self {
            PartTrace::Embedding { x, .. } => x,
            PartTrace::Block(trace) => &trace.output.q,
            PartTrace::Head(_) => &[],
        }
    }

    /// Columns of the boundaries before and after it.
    pub fn borders(&self, circuit: &ModelCircuit) -> Option<[Vec<Vec<i32>>; 2]> {
        Some(match (circuit, self) {
            (ModelCircuit::Embedding(c), PartTrace::Embedding { ids, x }) => {
                [c.layout.ids(ids), c.layout.boundary.of(x)]
            }
            (ModelCircuit::Block(c), PartTrace::Block(trace)) => {
                [c.layout.boundary.of(&trace.x), c.layout.boundary.of(&trace.output.q)]
            }
            (ModelCircuit::Head(c), PartTrace::Head(trace)) => {
                let gaps = if c.layout.spec.opens_logits() { trace.gaps() } else { vec![] };
                [c.layout.boundary.of(&trace.x), c.layout.output(&trace.positions, &trace.tokens, &gaps)]
            }
            _ => return None,
        })
    }

    /// The witness of its circuit.
    pub fn witness(&self, circuit: &ModelCircuit, weights: &WeightColumns) -> Option<Box<dyn Witness>> {
        let weights = weights.clone();
        Some(match (circuit, self) {
            (ModelCircuit::Embedding(c), PartTrace::Embedding { ids, x }) => {
                Box::new(EmbeddingWitness::new(&c.layout, weights, ids, x))
            }
            (ModelCircuit::Block(c), PartTrace::Block(trace)) => {
                Box::new(BlockWitness::new(&c.layout, weights, trace))
            }
            (ModelCircuit::Head(c), PartTrace::Head(trace)) => {
                Box::new(HeadWitness::new(&c.layout, weights, trace))
            }
            _ => return None,
        })
    }
}

/// The weight columns of a part, without what a tied head keeps in the embedding's.
pub fn weight_columns(circuit: &ModelCircuit, weights: &PartWeights) -> Option<WeightColumns> {
    let columns = match (circuit, weights) {
        (ModelCircuit::Embedding(c), PartWeights::Embedding(weights)) => c.layout.weight_columns(weights),
        (ModelCircuit::Block(c), PartWeights::Block(weights)) => c.layout.weight_columns(weights),
        (ModelCircuit::Head(c), PartWeights::Head(weights)) => c.layout.weight_columns(weights),
        _ => return None,
    };
    Some(Arc::new(columns.into_iter().map(Arc::new).collect()))
}

/// Rows of a boundary's columns that hold activations or ids, and the weight columns of a circuit.
pub fn linked(circuit: &ModelCircuit) -> LinkedColumns {
    ModelCircuit::linked(&circuit.params())
}

/// Activations at the border of a slice, as the prover holds them.
#[derive(Clone)]
pub enum Boundary {
    /// Behind commitments; the blinding values are secret.
    Hidden(BlindedColumns),
    /// Public integers; the blinding values are zero.
    Open {
        /// The integers.
        values: OpenBoundary,
        /// Their commitments, as the verifier computes them.
        reference: BoundaryReference,
    },
}

impl Boundary {
    /// A hidden boundary with fresh blinding values.
    ///
    /// # Errors
    /// No entropy, or too many activations.
    pub fn hide(srs: &Srs, usable_rows: usize, columns: Vec<Vec<i32>>) -> Result<Self> {
        let columns: Vec<_> = columns.into_iter().map(|column| Column::I32(Arc::new(column))).collect();
        Ok(Boundary::Hidden(commit_blinded(srs, usable_rows, &columns)?))
    }

    /// An open boundary.
    ///
    /// # Errors
    /// Too many activations.
    pub fn open(srs: &VerifierSrs, usable_rows: usize, columns: Vec<Vec<i32>>) -> Result<Self> {
        let values = OpenBoundary { columns };
        let reference = values.reference(srs, usable_rows)?;
        Ok(Boundary::Open { values, reference })
    }

    /// What the header says.
    pub fn reference(&self) -> BoundaryReference {
        match self {
            Boundary::Hidden(columns) => columns.boundary(),
            Boundary::Open { reference, .. } => reference.clone(),
        }
    }

    fn committed(&self, first: usize, blinding_rows: usize) -> Vec<Committed> {
        match self {
            Boundary::Hidden(columns) => columns.committed(first),
            Boundary::Open { reference, .. } => reference
                .columns
                .iter()
                .enumerate()
                .map(|(index, commitment)| Committed {
                    column: first + index,
                    commitment: *commitment,
                    tail: open_tail(blinding_rows),
                })
                .collect(),
        }
    }
}

/// What proves slices of one kind.
pub struct SliceProver<'a> {
    circuit: ModelCircuit,
    key: SliceKey,
    srs: &'a VerifierSrs,
    prover: KeyProver<'a>,
    linked: LinkedColumns,
}

/// A finished proof.
pub struct Envelope {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Where the time went, the layout of the witness included.
    pub timings: Timings,
}

impl<'a> SliceProver<'a> {
    /// Loads a key.
    ///
    /// # Errors
    /// The reference string does not fit the key, or the device failed.
    pub fn new(
        circuit: &ModelCircuit,
        proving_key: &'a ProvingKey,
        key: SliceKey,
        srs: &Srs,
        verifier_srs: &'a VerifierSrs,
        compute: &'a Compute,
    ) -> Result<Self> {
        let prover = compute.load(&srs.bases(), srs.identity().tau_g2(), proving_key)?;
        Ok(SliceProver { linked: linked(circuit), circuit: circuit.clone(), key, srs: verifier_srs, prover })
    }

    /// The circuit.
    pub fn circuit(&self) -> &ModelCircuit {
        &self.circuit
    }

    /// The verifying key.
    pub fn key(&self) -> &SliceKey {
        &self.key
    }

    /// Proves one slice.
    ///
    /// `weights` are the columns and `published` their commitments with the secret blinding values.
    ///
    /// # Errors
    /// The trace is not one of these weights, or the user stopped it.
    #[expect(clippy::too_many_arguments, reason = "a statement has these parts and no fewer")]
    pub fn prove(
        &self,
        context: Context,
        weights: &WeightColumns,
        published: &BlindedColumns,
        trace: &PartTrace,
        input: &Boundary,
        output: &Boundary,
        progress: &dyn Progress,
    ) -> Result<Envelope> {
        let started = Instant::now();
        let witness = trace.witness(&self.circuit, weights);
        let witness = witness.ok_or_else(|| {
            Failure::new(Kind::Input, "the values of one kind of slice, the circuit of another")
        })?;
        let layout_ms = milliseconds(started);
        let blinding_rows = self.key.shape().blinding_rows;
        let mut committed = input.committed(self.linked.boundary_in.start, blinding_rows);
        committed.extend(output.committed(self.linked.boundary_out.start, blinding_rows));
        committed.extend(published.committed(self.linked.weights.start));
        let draft = Draft {
            key: &self.key,
            srs: self.srs.id(),
            context,
            weights: published.commitments(),
            input: input.reference(),
            output: output.reference(),
        };
        let instance = vec![draft.instance().to_vec()];
        // The link proof needs no more than phase 0: it is ready before the rest of the proof is.
        let link = Mutex::new(None);
        let beside = |fresh: &[G1Affine], deltas: &[Vec<Fr>]| {
            *link.lock().unwrap_or_else(PoisonError::into_inner) = Some(draft.link(self.srs, fresh, deltas));
        };
        let proved = self.prover.prove(witness.as_ref(), &instance, &committed, progress, Some(&beside))?;
        let linked = match link.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(linked) => linked?,
            None => draft.link(self.srs, &proved.commitments, &proved.deltas)?,
        };
        let mut timings = proved.timings;
        timings.add_witness("cells", layout_ms);
        Ok(Envelope { bytes: draft.seal_linked(linked, proved.proof)?, timings })
    }
}

/// Commits to weight columns with fresh secret blinding values.
///
/// # Errors
/// No entropy.
pub fn commit_weights(srs: &Srs, usable_rows: usize, weights: &[Arc<Vec<i16>>]) -> Result<BlindedColumns> {
    let columns: Vec<_> = weights.iter().cloned().map(Column::I16).collect();
    Ok(commit_blinded(srs, usable_rows, &columns)?)
}

/// The range circuit of a slice's weight columns.
pub fn range_circuit(circuit: &ModelCircuit) -> RangeCircuit {
    let params = circuit.params();
    let (bits, k) = match &params {
        ModelParams::Embedding(p) => (p.spec.weight_bits, p.k),
        ModelParams::Block(p) => (p.spec.weight_bits, p.k),
        ModelParams::Head(p) => (p.spec.weight_bits, p.k),
    };
    RangeCircuit { params: RangeParams { columns: linked(circuit).weights.len(), bits, k }, witness: None }
}

/// Proves that published weights are in range.
pub struct RangeProver<'a> {
    circuit: RangeCircuit,
    key: SliceKey,
    srs: &'a VerifierSrs,
    prover: KeyProver<'a>,
}

impl<'a> RangeProver<'a> {
    /// Loads a key.
    ///
    /// # Errors
    /// The reference string does not fit the key, or the device failed.
    pub fn new(
        circuit: RangeCircuit,
        proving_key: &'a ProvingKey,
        key: SliceKey,
        srs: &Srs,
        verifier_srs: &'a VerifierSrs,
        compute: &'a Compute,
    ) -> Result<Self> {
        let prover = compute.load(&srs.bases(), srs.identity().tau_g2(), proving_key)?;
        Ok(RangeProver { circuit, key, srs: verifier_srs, prover })
    }

    /// Proves one slice's weights.
    ///
    /// # Errors
    /// A weight is out of range, or the user stopped it.
    pub fn prove(
        &self,
        context: Context,
        weights: &WeightColumns,
        published: &BlindedColumns,
        progress: &dyn Progress,
    ) -> Result<Vec<u8>> {
        let witness = RangeWitness::new(&self.circuit.params, weights.clone());
        let draft = Draft {
            key: &self.key,
            srs: self.srs.id(),
            context,
            weights: published.commitments(),
            input: BoundaryReference::none(),
            output: BoundaryReference::none(),
        };
        let instance = vec![draft.instance().to_vec()];
        let committed = published.committed(0);
        let proved = self.prover.prove(&witness, &instance, &committed, progress, None)?;
        Ok(draft.seal(self.srs, proved.proof, &proved.deltas)?)
    }
}

/// What a card says besides keys and commitments.
pub struct CardText {
    /// Name of the model.
    pub name: String,
    /// Who publishes.
    pub publisher: NodeId,
    /// Where the weights came from.
    pub source: String,
    /// Layers of the whole model.
    pub layers: usize,
    /// Digest of the tokenizer's file.
    pub tokenizer: Option<Digest>,
}

/// A kind of slice with its keys.
pub struct KindKeys {
    /// Its circuit.
    pub circuit: ModelCircuit,
    /// Of slices.
    pub slice: (ProvingKey, SliceKey),
    /// Of publication proofs.
    pub range: (ProvingKey, SliceKey),
}

/// What a kind of slice is called.
pub fn kind_name(circuit: &ModelCircuit) -> &'static str {
    match circuit {
        ModelCircuit::Embedding(_) => "embedding",
        ModelCircuit::Block(_) => "block",
        ModelCircuit::Head(_) => "head",
    }
}

/// The family whose operations the blocks have.
fn family(kinds: &[KindKeys]) -> &'static str {
    let scales = kinds.iter().find_map(|kind| match kind.circuit.params() {
        ModelParams::Block(params) => Some(params.spec.scales),
        ModelParams::Embedding(_) | ModelParams::Head(_) => None,
    });
    match scales {
        Some(scales) if scales.rope.is_none() => "gpt2",
        Some(scales) if scales.bias.qk.is_some() => "qwen2",
        _ => "llama",
    }
}

/// Assembles a card of slices, each with the index of its kind.
pub fn card<'c>(
    text: &CardText,
    kinds: &[KindKeys],
    srs: &VerifierSrs,
    slices: impl Iterator<Item = (usize, &'c BlindedColumns)>,
) -> CardFile {
    let bits = |kind: &KindKeys| range_circuit(&kind.circuit).params.bits;
    let activation_bits = kinds.iter().map(|kind| match kind.circuit.params() {
        ModelParams::Embedding(p) => p.spec.stream_bits,
        ModelParams::Block(p) => p.spec.scales.act_bits,
        ModelParams::Head(p) => p.spec.norm.act_bits,
    });
    ModelCard {
        format: CARD_FORMAT,
        protocol: ProtocolId::current(),
        name: text.name.clone(),
        publisher: text.publisher,
        architecture: Architecture {
            family: family(kinds).into(),
            source: text.source.clone(),
            layers: text.layers as u32,
        },
        quantisation: Quantisation {
            weight_bits: kinds.iter().map(bits).max().unwrap_or(0),
            activation_bits: activation_bits.min().unwrap_or(0),
            scheme: "power-of-two scales, per-channel factors folded into weights".into(),
        },
        tokenizer: text.tokenizer,
        srs: SrsReference { id: srs.id(), insecure: srs.identity().insecure() },
        kinds: kinds
            .iter()
            .map(|kind| KindEntry {
                name: kind_name(&kind.circuit).into(),
                slice: entry(kind.circuit.params(), &kind.slice.0),
                range: entry(range_circuit(&kind.circuit).params, &kind.range.0),
            })
            .collect(),
        slices: slices
            .map(|(kind, columns)| SliceEntry {
                kind,
                weights: columns.commitments().iter().copied().map(Commitment).collect(),
            })
            .collect(),
    }
}

fn entry<P>(params: P, key: &ProvingKey) -> CircuitEntry<P> {
    let bytes = write_key(key.vk());
    CircuitEntry { params, key_digest: key_digest(&bytes), key: KeyBytes(bytes) }
}

/// Milliseconds since `start`.
pub fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// Verifies a proof of the stock prover with the stock verifier.
///
/// # Errors
/// It does not verify.
pub fn verify_stock(
    params: &ParamsKZG<Bn256>,
    key: &VerifyingKey<G1Affine>,
    instances: &[Vec<Fr>],
    proof: &[u8],
) -> Result<()> {
    let instances: Vec<&[Fr]> = instances.iter().map(Vec::as_slice).collect();
    let mut transcript = Blake2bRead::<_, G1Affine, Challenge255<G1Affine>>::init(proof);
    verify_proof::<KZGCommitmentScheme<Bn256>, VerifierSHPLONK<'_, Bn256>, _, _, _>(
        params,
        key,
        SingleStrategy::new(params),
        &[&instances],
        &mut transcript,
    )
    .map_err(|error| Failure::new(Kind::Rejected, format_args!("stock proof: {error:?}")))
}
