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
    assign::{BlockWitness, violations},
    block::{BlockCircuit, BlockParams, Columns},
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
        let mock = MockProver::<Fr>::run(params.k, &circuit, vec![vec![]]).unwrap();
        let fixed = (0..cs.num_fixed_columns())
            .map(|i| {
                let column = cs.fixed_queries().iter().map(|q| q.0).find(|c| c.index() == i).unwrap();
                let value = |v: &CellValue<Fr>| match v {
                    CellValue::Assigned(v) => *v,
                    _ => Fr::ZERO,
                };
                mock.fixed_values(column).iter().map(value).collect()
            })
            .collect();
        let mut rng = testing::Generator(seed);
        let challenges = (0..5).map(|_| Fr::from_raw([(); 4].map(|()| rng.next_u64() >> 3))).collect();
        Bench { circuit, cs, columns, fixed, challenges, honest, weights, x }
    }

    /// Every advice column of `witness`, phase 1 computed as its own honest prover would.
    pub fn advice(&self, witness: &BlockWitness) -> Vec<Vec<Fr>> {
        let n = 1usize << self.circuit.params.k;
        let mut advice = vec![vec![Fr::ZERO; n]; self.cs.num_advice_columns()];
        let mut put = |columns: Vec<(usize, Column)>| {
            for (i, column) in columns {
                let values: Vec<Fr> = match column {
                    Column::I16(v) => v.iter().map(|&v| signed(v.into())).collect(),
                    Column::I32(v) => v.iter().map(|&v| signed(v)).collect(),
                    Column::Field(v) => v,
                };
                advice[i][..values.len()].copy_from_slice(&values);
            }
        };
        put(witness.columns(0, &[]));
        put(witness.columns(1, &self.challenges));
        advice
    }

    /// The constraints that `witness` violates, phase 1 computed as its own honest prover would.
    pub fn violated(&self, witness: &BlockWitness) -> Vec<&'static str> {
        let advice = self.advice(witness);
        violations(&self.cs, &self.fixed, &advice, &self.challenges, &self.circuit.layout, &self.columns)
    }
}

pub fn signed(v: i32) -> Fr {
    if v < 0 { -Fr::from(u64::from(v.unsigned_abs())) } else { Fr::from(v as u64) }
}
