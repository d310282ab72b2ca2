//! Blocks of real shapes with random weights, ready to be proved.

use std::sync::Arc;

use halo2_proofs::{
    halo2curves::bn256::{Bn256, G1Affine},
    plonk::verify_proof,
    poly::kzg::{commitment::KZGCommitmentScheme, multiopen::VerifierSHPLONK, strategy::SingleStrategy},
    transcript::{Blake2bRead, Challenge255, TranscriptReadBuffer},
};
use lamina_circuits::{
    Fr,
    assign::BlockWitness,
    block::BlockCircuit,
    executor::{ExecError, Trace, execute},
    layout::LayoutError,
    plan::Plan,
    slice::SliceCircuit,
    spec::{BlockSpec, BlockWeights, Shape},
    testing,
    witness::Column,
};
use lamina_prover::{
    Committed, KeyError, ProvingKey,
    publish::{PublishError, commit_blinded},
    srs::{Srs, SrsFileError},
};

/// What a fixture can fail with.
#[derive(Debug)]
pub enum FixtureError {
    /// No layout fits.
    Layout(LayoutError),
    /// The random block leaves its ranges.
    Exec(ExecError),
    /// Reference string.
    Srs(SrsFileError),
    /// Key generation.
    Key(KeyError),
    /// Commitments.
    Publish(PublishError),
}

/// A block with everything that proving it needs.
pub struct Fixture {
    /// Its plan.
    pub plan: Plan,
    /// Its circuit.
    pub circuit: BlockCircuit,
    /// Its weights.
    pub weights: BlockWeights,
    /// Its input.
    pub x: Vec<i32>,
    /// Its run.
    pub trace: Trace,
    /// Its witness.
    pub witness: BlockWitness,
    /// A development reference string.
    pub srs: Srs,
    /// Its key.
    pub key: ProvingKey,
    /// Weights and boundaries, committed.
    pub committed: Vec<Committed>,
}

impl Fixture {
    /// A block of `shape` for at least `tokens` tokens, with random 16-bit weights.
    ///
    /// # Errors
    /// [`FixtureError`]; none at shapes of 64 to 4096 features.
    pub fn new(shape: Shape, tokens: usize) -> Result<Fixture, FixtureError> {
        let scales = testing::wide_scales(shape.hidden);
        let spec = BlockSpec { shape, scales, weight_bits: 16, tokens };
        let plan = Plan::best(&spec, tokens).map_err(FixtureError::Layout)?;
        let spec = &plan.params.spec;
        let weights = testing::weights(spec, 1, 32767);
        let x = testing::activations(spec, 2);
        let trace = execute(spec, &weights, &x).map_err(FixtureError::Exec)?;
        let circuit = BlockCircuit::new(&plan.params).map_err(FixtureError::Layout)?;
        let columns: Vec<_> = circuit.layout.weight_columns(&weights).into_iter().map(Arc::new).collect();
        let witness = BlockWitness::new(&circuit.layout, Arc::new(columns), &trace);
        let srs = Srs::generate_insecure(plan.k).map_err(FixtureError::Srs)?;
        let key = ProvingKey::generate(&srs.params(), &circuit).map_err(FixtureError::Key)?;
        let linked = BlockCircuit::linked(&plan.params);
        let mut committed = vec![];
        let boundary = |c: &Vec<Arc<Vec<i32>>>| c.iter().cloned().map(Column::I32).collect::<Vec<_>>();
        for (first, columns) in [
            (linked.boundary_in.start, boundary(&witness.boundary_in)),
            (linked.boundary_out.start, boundary(&witness.boundary_out)),
            (linked.weights.start, witness.weights.iter().cloned().map(Column::I16).collect()),
        ] {
            let blinded = commit_blinded(&srs, key.usable_rows(), &columns).map_err(FixtureError::Publish)?;
            committed.extend(blinded.committed(first));
        }
        Ok(Fixture { plan, circuit, weights, x, trace, witness, srs, key, committed })
    }

    /// Whether the stock verifier accepts `proof` for `instances`.
    pub fn verifies(&self, instances: &[Vec<Fr>], proof: &[u8]) -> bool {
        let params = self.srs.params();
        let instances: Vec<&[Fr]> = instances.iter().map(Vec::as_slice).collect();
        let mut transcript = Blake2bRead::<_, G1Affine, Challenge255<_>>::init(proof);
        verify_proof::<KZGCommitmentScheme<Bn256>, VerifierSHPLONK<'_, Bn256>, _, _, _>(
            &params,
            self.key.vk(),
            SingleStrategy::new(&params),
            &[&instances],
            &mut transcript,
        )
        .is_ok()
    }
}
