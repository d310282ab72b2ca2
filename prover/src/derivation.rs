//! Columns of later phases, from the circuit's own gates.
//!
//! A witness says by which gates its later columns follow from the earlier ones ([`Step`]). Here the gates are looked up and
//! taken apart, once a key; a backend that [derives](crate::Backend::derives) does the rest where its
//! columns are. Nothing depends on it for soundness: what it gives is committed to and proven like any other witness.

use halo2_proofs::plonk::{ConstraintSystem, Expression};
use lamina_circuits::{
    Fr,
    witness::{Copies, Solve, Step},
};

use crate::{
    error::ProveError,
    expression::{Affine, Identity},
};

/// How the columns of a phase are computed, whatever the challenges.
#[derive(Clone, Debug)]
pub struct Derivation {
    /// The phase's advice columns, ascending.
    pub columns: Vec<usize>,
    /// What to do, in order, with columns of zeros.
    pub steps: Vec<Derived>,
    /// The nodes that relations name, over the circuit's challenges.
    pub identity: Identity,
}

/// A [`Step`] with its gates.
#[derive(Clone, Debug)]
pub enum Derived {
    /// Cells that gates determine, independently of one another.
    Solve(Vec<Relation>),
    /// Cells that equal others.
    Copy(Copies),
}

/// A [`Solve`] with its gate.
#[derive(Clone, Debug)]
pub struct Relation {
    /// The advice column.
    pub column: usize,
    /// The rotation of the cell that is determined.
    pub rotation: i32,
    /// The gate's polynomial.
    pub polynomial: Expression<Fr>,
    /// The same, by its dependence on the column.
    pub affine: Affine,
}

impl Derivation {
    /// Looks up and takes apart what `steps` name.
    ///
    /// # Errors
    /// [`ProveError::AdviceColumns`] where the steps do not write exactly the phase's columns; [`ProveError::Derivation`] where
    /// a gate is not there or not affine in the cell, or a copy is not of usable rows.
    pub fn new(
        cs: &ConstraintSystem<Fr>,
        usable: usize,
        phase: u8,
        steps: &[Step],
    ) -> Result<Self, ProveError> {
        let phases = cs.advice_column_phase();
        let columns: Vec<usize> = (0..phases.len()).filter(|&at| phases[at] == phase).collect();
        let mut written: Vec<usize> = steps.iter().flat_map(Step::columns).collect();
        written.sort_unstable();
        written.dedup();
        if written != columns {
            return Err(ProveError::AdviceColumns { phase, expected: columns, actual: written });
        }
        let mut identity = Identity::empty(cs.num_challenges());
        let derived = steps.iter().map(|step| match step {
            Step::Solve(list) => {
                let relations = list.iter().map(|one| Relation::new(cs, one, &mut identity));
                Ok(Derived::Solve(relations.collect::<Result<_, _>>()?))
            }
            Step::Copy(copies) => {
                let outside = copies.cells.iter().any(|&(source, from, to)| {
                    from.max(to) as usize >= usable || phases.get(source).is_none_or(|of| *of > phase)
                });
                let (column, problem) = (copies.column, "it copies what is not there");
                if outside {
                    Err(ProveError::Derivation { column, problem })
                } else {
                    Ok(Derived::Copy(copies.clone()))
                }
            }
        });
        let steps = derived.collect::<Result<_, _>>()?;
        Ok(Derivation { columns, steps, identity })
    }
}

impl Relation {
    fn new(cs: &ConstraintSystem<Fr>, solve: &Solve, identity: &mut Identity) -> Result<Self, ProveError> {
        let &Solve { column, rotation, gate, polynomial } = solve;
        let refused = |problem| ProveError::Derivation { column, problem };
        let polynomial = cs
            .gates()
            .iter()
            .filter(|other| other.name() == gate)
            .flat_map(|gate| gate.polynomials())
            .nth(polynomial)
            .ok_or(refused("its gate is not there"))?;
        let affine = identity
            .affine(polynomial, column)
            .filter(|affine| affine.factors.contains_key(&rotation))
            .ok_or(refused("its gate is not affine in the cell"))?;
        Ok(Relation { column, rotation, polynomial: polynomial.clone(), affine })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use halo2_proofs::{halo2curves::bn256::Bn256, plonk::Circuit, poly::kzg::commitment::ParamsKZG};
    use lamina_circuits::{
        assign::BlockWitness,
        block::{BlockCircuit, BlockParams},
        executor::execute,
        head::{assign::HeadWitness, circuit::HeadCircuit, execute_head, layout::HeadParams},
        spec::Shape as BlockShape,
        testing,
        witness::{Column, Witness},
    };
    use lamina_kernels_emu::Mode;

    use super::*;
    use crate::{
        backend::{Backend, Columns, Cuda, Reference, Setup, Shape},
        key::ProvingKey,
        setup::Bases,
    };

    /// What a backend derives, and what the witness itself says.
    fn late_columns<B: Backend>(
        backend: &B,
        key: &ProvingKey,
        witness: &dyn Witness,
    ) -> (Vec<Vec<Fr>>, Vec<Vec<Fr>>) {
        let (n, usable) = (1usize << key.k(), key.usable_rows());
        let bases = Bases::new(&ParamsKZG::<Bn256>::setup(key.k(), rand_core::OsRng), key.k()).unwrap();
        let identity = Identity::empty(0);
        let setup = Setup {
            bases: &bases,
            degree: key.degree(),
            usable,
            fixed: &key.fixed,
            sigma: &key.sigma,
            shape: Shape { columns: 0, products: 0, openings: 0, points: 0, identity: &identity },
        };
        let loaded = backend.load(&setup).unwrap();
        let tail = |column: usize| -> Vec<Fr> {
            (usable..n).map(|row| Fr::from((column * n + row) as u64)).collect()
        };
        let mut advice: Vec<Option<B::Column>> = vec![];
        for (index, values) in witness.columns(0, &[]) {
            assert_eq!(index, advice.len());
            let column = backend.columns(&loaded, vec![values]).unwrap();
            advice.push(backend.blind(&loaded, column, vec![tail(index)]).unwrap().pop());
        }
        let cs = key.vk().cs();
        advice.resize_with(cs.num_advice_columns(), || None);
        let instance = backend.columns(&loaded, vec![Column::Field(vec![])]).unwrap();
        let columns = Columns {
            advice: advice.iter().map(Option::as_ref).collect(),
            instance: instance.iter().collect(),
            product: vec![],
        };
        let challenges: Vec<Fr> =
            (0..cs.num_challenges() as u64).map(|i| Fr::from_raw([i + 3, 9 * i, 77, 5])).collect();
        let steps = witness.steps(1).unwrap();
        let derivation = Derivation::new(cs, usable, 1, &steps).unwrap();
        let tails = derivation.columns.iter().map(|&column| tail(column)).collect();
        assert!(backend.derives());
        let compiled = backend.compile(&loaded, derivation).unwrap();
        let derived = backend.derive(&loaded, &columns, &compiled, &challenges, tails).unwrap();
        let derived = derived.iter().map(|column| backend.read_column(&loaded, column).unwrap()).collect();
        let said = witness.columns(1, &challenges).into_iter().map(|(index, values)| {
            let Column::Field(mut values) = values else { panic!("later columns are field elements") };
            values.resize(usable, Fr::from(0));
            values.extend(tail(index));
            values
        });
        (derived, said.collect())
    }

    fn assert_derives<B: Backend>(backend: &B, circuit: &impl Circuit<Fr>, k: u32, witness: &dyn Witness) {
        let srs = ParamsKZG::<Bn256>::setup(k, rand_core::OsRng);
        let key = ProvingKey::generate(&srs, circuit).unwrap();
        let (derived, said) = late_columns(backend, &key, witness);
        assert_eq!(derived.len(), said.len());
        for (at, (derived, said)) in derived.iter().zip(&said).enumerate() {
            let row = derived.iter().zip(said).position(|(derived, said)| derived != said);
            assert_eq!(row, None, "{}: column {at} of {}", backend.name(), said.len());
        }
    }

    fn block_derives<B: Backend>(backend: &B, params: &BlockParams, seed: u64) {
        let circuit = BlockCircuit::new(params).unwrap();
        let weights = testing::weights(&params.spec, seed, 50);
        let trace = execute(&params.spec, &weights, &testing::activations(&params.spec, seed)).unwrap();
        let columns: Vec<_> = circuit.layout.weight_columns(&weights).into_iter().map(Arc::new).collect();
        let witness = BlockWitness::new(&circuit.layout, Arc::new(columns), &trace);
        assert_derives(backend, &circuit, params.k, &witness);
    }

    fn head_derives<B: Backend>(backend: &B, params: &HeadParams, seed: u64) {
        let circuit = HeadCircuit::new(params).unwrap();
        let spec = &params.spec;
        let weights = testing::head_weights(spec, seed, 50);
        let mut rng = testing::Generator(seed + 1);
        let bits = spec.norm.act_bits + spec.norm.residual_lo_bits;
        let x: Vec<i32> = (0..spec.tokens * spec.norm.hidden).map(|_| rng.signed(1 << (bits - 3))).collect();
        let positions: Vec<usize> =
            (0..spec.positions).map(|at| spec.tokens - 1 - at % spec.tokens).collect();
        let trace = execute_head(spec, &weights, &x, &positions).unwrap();
        let columns: Vec<_> = circuit.layout.weight_columns(&weights).into_iter().map(Arc::new).collect();
        let witness = HeadWitness::new(&circuit.layout, Arc::new(columns), &trace);
        assert_derives(backend, &circuit, params.k, &witness);
    }

    /// Gated, plain and biased blocks; one group and several; value features of several blocks and of padding.
    fn blocks() -> Vec<BlockParams> {
        let shape =
            |hidden, ffn, heads, kv_heads, head_dim| BlockShape { hidden, ffn, heads, kv_heads, head_dim };
        let llama = |shape, tokens, lanes| testing::params(shape, tokens, lanes, 9);
        let mut gpt2 = llama(shape(4, 5, 2, 2, 2), 4, 2);
        gpt2.spec.scales = testing::like_gpt2(gpt2.spec.scales);
        let mut qwen2 = llama(shape(4, 3, 2, 1, 4), 3, 1);
        qwen2.spec.scales = testing::like_qwen2(qwen2.spec.scales);
        vec![testing::tiny_params(), llama(shape(5, 3, 3, 1, 8), 4, 1), gpt2, qwen2]
    }

    /// With several chunks of ids, biased gains, open logits.
    fn heads() -> Vec<HeadParams> {
        let mut biased = testing::head_params(3, 12, 4, 2, 4, 2);
        biased.spec.gain_bias = Some(3);
        let mut open = testing::tiny_head();
        open.spec.open_logits = Some(3);
        vec![testing::tiny_head(), biased, open]
    }

    /// A circuit that the steps of its own witness do not fit is an error of its author's, and named.
    #[test]
    fn steps_that_fit_no_circuit_are_refused() {
        let circuit = BlockCircuit::new(&testing::tiny_params()).unwrap();
        let weights = testing::weights(&circuit.params.spec, 1, 50);
        let x = testing::activations(&circuit.params.spec, 1);
        let trace = execute(&circuit.params.spec, &weights, &x).unwrap();
        let columns: Vec<_> = circuit.layout.weight_columns(&weights).into_iter().map(Arc::new).collect();
        let witness = BlockWitness::new(&circuit.layout, Arc::new(columns), &trace);
        let mut cs = ConstraintSystem::default();
        BlockCircuit::configure_with_params(&mut cs, circuit.params.clone());
        let usable = circuit.layout.active + 1;
        let refused = |change: &dyn Fn(&mut Vec<Step>)| {
            let mut steps = witness.steps(1).unwrap();
            change(&mut steps);
            Derivation::new(&cs, usable, 1, &steps).map(|_| ()).unwrap_err()
        };
        let first = |change: &dyn Fn(&mut Solve)| {
            refused(&|steps| match &mut steps[0] {
                Step::Solve(list) => change(&mut list[0]),
                Step::Copy(_) => panic!("sums come first"),
            })
        };
        let copies = |change: &dyn Fn(&mut Copies)| {
            refused(&|steps| match &mut steps[2] {
                Step::Copy(copies) => change(copies),
                Step::Solve(_) => panic!("copies come third"),
            })
        };
        let problem = |error| match error {
            ProveError::Derivation { problem, .. } => problem,
            other => panic!("{other}"),
        };
        assert_eq!(problem(first(&|one| one.gate = "lookup/9")), "its gate is not there");
        assert_eq!(problem(first(&|one| one.polynomial = 99)), "its gate is not there");
        assert_eq!(problem(first(&|one| one.gate = "in/1")), "its gate is not affine in the cell");
        assert_eq!(problem(first(&|one| one.rotation = 5)), "its gate is not affine in the cell");
        assert_eq!(
            problem(copies(&|copies| copies.cells[0].1 = usable as u32)),
            "it copies what is not there"
        );
        assert_eq!(
            problem(copies(&|copies| copies.cells[0].2 = usable as u32)),
            "it copies what is not there"
        );
        assert_eq!(problem(copies(&|copies| copies.cells[0].0 = usize::MAX)), "it copies what is not there");
        let missing = refused(&|steps| steps.truncate(1));
        assert!(matches!(missing, ProveError::AdviceColumns { phase: 1, .. }), "{missing}");
        // The product of a column with itself is not affine in it.
        let mut identity = Identity::empty(cs.num_challenges());
        let column = cs.gates().iter().find(|gate| gate.name() == "product/1").unwrap();
        let polynomial = column.polynomials()[0].clone();
        let (index, _) = cs.advice_queries()[0];
        assert!(identity.affine(&polynomial, index.index()).is_some());
        let square = polynomial.clone() * polynomial;
        let wa = witness.steps(1).unwrap()[2].columns().next().unwrap();
        assert!(identity.affine(&square, wa).is_none());
    }

    #[test]
    fn gates_say_what_the_witness_says() {
        for (seed, params) in (0..).zip(blocks()) {
            block_derives(&Reference, &params, seed);
        }
        for (seed, params) in (0..).zip(heads()) {
            head_derives(&Reference, &params, seed);
        }
    }

    #[test]
    fn the_device_derives_what_the_witness_says() {
        lamina_kernels_emu::install(Mode::Host);
        let mut cuda = Cuda::open(0).unwrap();
        assert_eq!(cuda.name(), "cuda: emulation, host code");
        // Commitments are not what is tested.
        cuda.table_bytes = 0;
        block_derives(&cuda, &blocks()[1], 1);
        block_derives(&cuda, &blocks()[2], 2);
        // One relation at a time.
        cuda.round_bytes = 1;
        head_derives(&cuda, &heads()[1], 3);
    }
}
