//! One slice, from a trace to an envelope: boundaries, proof, link, verification.

use std::{sync::Arc, time::Instant};

use halo2_proofs::{
    halo2curves::bn256::{Bn256, G1Affine},
    plonk::{VerifyingKey, verify_proof},
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
    block::{BlockCircuit, BlockParams},
    executor::Trace,
    layout::Layout,
    range::{RangeCircuit, RangeParams, RangeWitness},
    slice::{LinkedColumns, SliceCircuit},
    spec::BlockWeights,
    witness::Column,
};
use lamina_prover::{
    Blinding, Committed, Cpu, Progress, Prover, ProvingKey, Timings,
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
    hash::{NodeId, ProtocolId},
    key::{SliceKey, key_digest, write_key},
    srs::VerifierSrs,
};

use crate::failure::{Failure, Kind, Result};

/// The card of a model of transformer blocks.
pub type BlockCard = ModelCard<BlockParams, RangeParams>;
/// A card that was checked.
pub type LoadedCard = Card<BlockCircuit, RangeCircuit>;
/// Weight columns, shared between proofs.
pub type WeightColumns = Arc<Vec<Arc<Vec<i16>>>>;

/// Activations at the border of a slice, as the prover holds them.
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
    pub fn hide(srs: &Srs, layout: &Layout, usable_rows: usize, x: &[i32]) -> Result<Self> {
        let columns: Vec<_> =
            layout.boundary.of(x).into_iter().map(|column| Column::I32(Arc::new(column))).collect();
        Ok(Boundary::Hidden(commit_blinded(srs, usable_rows, &columns)?))
    }

    /// An open boundary.
    ///
    /// # Errors
    /// Too many activations.
    pub fn open(srs: &VerifierSrs, layout: &Layout, usable_rows: usize, x: &[i32]) -> Result<Self> {
        let values = OpenBoundary { columns: layout.boundary.of(x) };
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

/// What proves slices of one model.
pub struct SliceProver<'a> {
    circuit: BlockCircuit,
    key: SliceKey,
    srs: &'a VerifierSrs,
    prover: Prover<'a, Cpu>,
    linked: LinkedColumns,
}

/// A finished proof.
pub struct Envelope {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Where the time went; the witness's layout is part of `witness_ms`.
    pub timings: Timings,
}

impl<'a> SliceProver<'a> {
    /// Loads a key.
    ///
    /// # Errors
    /// The reference string does not fit the key.
    pub fn new(
        circuit: &BlockCircuit,
        proving_key: &'a ProvingKey,
        key: SliceKey,
        srs: &Srs,
        verifier_srs: &'a VerifierSrs,
        backend: &'a Cpu,
    ) -> Result<Self> {
        let prover = Prover::from_bases(srs.bases(), srs.identity().tau_g2(), proving_key, backend)?;
        let linked = BlockCircuit::linked(&circuit.params);
        Ok(SliceProver { circuit: circuit.clone(), key, srs: verifier_srs, prover, linked })
    }

    /// The layout.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.circuit.layout
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
        trace: &Trace,
        input: &Boundary,
        output: &Boundary,
        progress: &dyn Progress,
    ) -> Result<Envelope> {
        let started = Instant::now();
        let witness = BlockWitness::new(&self.circuit.layout, weights.clone(), trace);
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
        let proved = self.prover.prove(&witness, &instance, &committed, &mut Blinding::new(), progress)?;
        let bytes = draft.seal(self.srs, proved.proof, &proved.deltas)?;
        let mut timings = proved.timings;
        timings.witness_ms += layout_ms;
        Ok(Envelope { bytes, timings })
    }
}

/// Weight columns of a block.
pub fn weight_columns(layout: &Layout, weights: &BlockWeights) -> WeightColumns {
    Arc::new(layout.weight_columns(weights).into_iter().map(Arc::new).collect())
}

/// Commits to weight columns with fresh secret blinding values.
///
/// # Errors
/// No entropy.
pub fn commit_weights(srs: &Srs, usable_rows: usize, weights: &WeightColumns) -> Result<BlindedColumns> {
    let columns: Vec<_> = weights.iter().cloned().map(Column::I16).collect();
    Ok(commit_blinded(srs, usable_rows, &columns)?)
}

/// The range circuit of a block's weight columns.
pub fn range_circuit(params: &BlockParams, layout: &Layout) -> RangeCircuit {
    let params = RangeParams { columns: layout.weight_lanes, bits: params.spec.weight_bits, k: params.k };
    RangeCircuit { params, witness: None }
}

/// Proves that published weights are in range.
pub struct RangeProver<'a> {
    circuit: RangeCircuit,
    key: SliceKey,
    srs: &'a VerifierSrs,
    prover: Prover<'a, Cpu>,
}

impl<'a> RangeProver<'a> {
    /// Loads a key.
    ///
    /// # Errors
    /// The reference string does not fit the key.
    pub fn new(
        circuit: RangeCircuit,
        proving_key: &'a ProvingKey,
        key: SliceKey,
        srs: &Srs,
        verifier_srs: &'a VerifierSrs,
        backend: &'a Cpu,
    ) -> Result<Self> {
        let prover = Prover::from_bases(srs.bases(), srs.identity().tau_g2(), proving_key, backend)?;
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
        let proved = self.prover.prove(&witness, &instance, &committed, &mut Blinding::new(), progress)?;
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
}

/// Assembles a card.
pub fn card<'c>(
    text: &CardText,
    params: &BlockParams,
    range: &RangeParams,
    slice_key: &ProvingKey,
    range_key: &ProvingKey,
    srs: &VerifierSrs,
    commitments: impl Iterator<Item = &'c BlindedColumns>,
) -> BlockCard {
    ModelCard {
        format: CARD_FORMAT,
        protocol: ProtocolId::current(),
        name: text.name.clone(),
        publisher: text.publisher,
        architecture: Architecture {
            family: "llama".into(),
            source: text.source.clone(),
            layers: text.layers as u32,
        },
        quantisation: Quantisation {
            weight_bits: params.spec.weight_bits,
            activation_bits: params.spec.scales.act_bits,
            scheme: "power-of-two scales, per-channel factors folded into weights".into(),
        },
        srs: SrsReference { id: srs.id(), insecure: srs.identity().insecure() },
        kinds: vec![KindEntry {
            name: "block".into(),
            slice: entry(params.clone(), slice_key),
            range: entry(range.clone(), range_key),
        }],
        slices: commitments
            .map(|columns| SliceEntry {
                kind: 0,
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
