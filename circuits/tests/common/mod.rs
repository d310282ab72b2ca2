//! A small block with its constraint system, so that any witness can be held against every gate.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::sync::Arc;

use ff::Field;
use halo2_proofs::{
    dev::{CellValue, MockProver},
    plonk::{Circuit, ConstraintSystem},
};
use lamina_circuits::{
    Fr,
    assign::BlockWitness,
    audit::violations,
    block::{BlockCircuit, BlockParams, Columns, copies},
    executor::execute,
    spec::BlockWeights,
    testing,
    witness::{Column, Witness},
};

/// A circuit, its fixed columns, and challenges.
pub struct Bench {
    pub circuit: BlockCircuit,
    pub cs: ConstraintSystem<Fr>,
    pub columns: Columns,
    pub fixed: Vec<Vec<Fr>>,
    pub challenges: Vec<Fr>,
    pub honest: BlockWitness,
    pub weights: BlockWeights,
    pub x: Vec<i32>,
}

impl Bench {
    pub fn new(params: &BlockParams, seed: u64) -> Bench {
        let circuit = BlockCircuit::new(params).unwrap();
        let weights = testing::weights(&params.spec, seed, 60);
        let x = testing::activations(&params.spec, seed);
        let trace = execute(&params.spec, &weights, &x).unwrap();
        let columns = circuit.layout.weight_columns(&weights).into_iter().map(Arc::new).collect();
        let honest = BlockWitness::new(&circuit.layout, Arc::new(columns), &trace);
        let mut cs = ConstraintSystem::default();
        let (columns, _) = BlockCircuit::configure_with_params(&mut cs, params.clone());
        let fixed = fixed(&circuit, &cs, params.k);
        let challenges = challenges(&cs, seed);
        Bench { circuit, cs, columns, fixed, challenges, honest, weights, x }
    }

    /// Pairs of cells that must be equal, as advice columns and rows.
    pub fn copies(&self) -> Vec<((usize, usize), (usize, usize))> {
        let cell = |(port, row)| (self.columns.port(port).index(), row);
        copies(&self.circuit.layout).into_iter().map(|(a, b)| (cell(a), cell(b))).collect()
    }

    /// Every advice column of `witness`, phase 1 computed as its own honest prover would.
    pub fn advice(&self, witness: &BlockWitness) -> Vec<Vec<Fr>> {
        advice(&self.cs, self.circuit.params.k, witness, &self.challenges)
    }

    /// The constraints that `witness` violates, phase 1 computed as its own honest prover would.
    pub fn violated(&self, witness: &BlockWitness) -> Vec<&'static str> {
        let (advice, first) = (self.advice(witness), self.circuit.layout.active + 1);
        violations(&self.cs, &self.fixed, &advice, &self.challenges, first, &self.copies())
    }
}

/// All advice columns of a witness, every phase computed as its own honest prover would.
pub fn advice(cs: &ConstraintSystem<Fr>, k: u32, witness: &dyn Witness, challenges: &[Fr]) -> Vec<Vec<Fr>> {
    let mut advice = vec![vec![Fr::ZERO; 1 << k]; cs.num_advice_columns()];
    let phases = cs.advice_column_phase().into_iter().max().unwrap_or(0);
    for phase in 0..=phases {
        let known: Vec<Fr> = cs
            .challenge_phase()
            .into_iter()
            .zip(challenges)
            .map(|(of, &c)| if of < phase { c } else { Fr::ZERO })
            .collect();
        for (i, column) in witness.columns(phase, &known) {
            let values: Vec<Fr> = match column {
                Column::I16(v) => v.iter().map(|&v| signed(v.into())).collect(),
                Column::I32(v) => v.iter().map(|&v| signed(v)).collect(),
                Column::Field(v) => v,
            };
            advice[i][..values.len()].copy_from_slice(&values);
        }
    }
    advice
}

/// The fixed columns of a circuit.
pub fn fixed<C: Circuit<Fr>>(circuit: &C, cs: &ConstraintSystem<Fr>, k: u32) -> Vec<Vec<Fr>> {
    let mock = MockProver::<Fr>::run(k, circuit, vec![vec![]]).unwrap();
    (0..cs.num_fixed_columns())
        .map(|i| {
            let column = cs.fixed_queries().iter().map(|q| q.0).find(|c| c.index() == i).unwrap();
            let value = |v: &CellValue<Fr>| match v {
                CellValue::Assigned(v) => *v,
                _ => Fr::ZERO,
            };
            mock.fixed_values(column).iter().map(value).collect()
        })
        .collect()
}

/// As many challenges as the circuit draws.
pub fn challenges(cs: &ConstraintSystem<Fr>, seed: u64) -> Vec<Fr> {
    let mut rng = testing::Generator(seed);
    (0..cs.num_challenges()).map(|_| Fr::from_raw([(); 4].map(|()| rng.next_u64() >> 3))).collect()
}

pub fn signed(v: i32) -> Fr {
    if v < 0 { -Fr::from(u64::from(v.unsigned_abs())) } else { Fr::from(v as u64) }
}
