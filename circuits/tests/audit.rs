//! Circuit-level audit: every cell of a small block, changed one at a time, must break a constraint.

use std::{collections::BTreeMap, sync::Arc};

use ff::{Field, PrimeField};
use halo2_proofs::{
    dev::{CellValue, MockProver},
    plonk::{Circuit, ConstraintSystem},
};
use lamina_circuits::{
    Fr,
    assign::{BlockWitness, violations},
    block::{BlockCircuit, BlockParams, Columns},
    executor::execute,
    layout::Row,
    rows::{Kind, SLOTS},
    testing,
    witness::{Column, Witness},
};

/// A circuit, its fixed columns, and challenges.
struct Bench {
    circuit: BlockCircuit,
    cs: ConstraintSystem<Fr>,
    columns: Columns,
    fixed: Vec<Vec<Fr>>,
    challenges: Vec<Fr>,
    honest: BlockWitness,
}

impl Bench {
    fn new(params: &BlockParams, seed: u64) -> Bench {
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
        Bench { circuit, cs, columns, fixed, challenges, honest }
    }

    /// The constraints that `witness` violates, phase 1 computed as its own honest prover would.
    fn violated(&self, witness: &BlockWitness) -> Vec<&'static str> {
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
        violations(&self.cs, &self.fixed, &advice, &self.challenges, &self.circuit.layout, &self.columns)
    }
}

fn signed(v: i32) -> Fr {
    if v < 0 { -Fr::from(u64::from(v.unsigned_abs())) } else { Fr::from(v as u64) }
}

/// Cells that no constraint of their kind reads; they are only looked up, in the range of an activation.
fn idle(kind: Kind, slot: usize) -> bool {
    let used: &[usize] = match kind {
        Kind::StreamIn => &[0, 1, 2, 3, 4, 6, 7],
        Kind::StreamMid => &[0, 1, 2, 3, 4, 5, 6, 7],
        Kind::StreamOut => &[0, 1, 2, 5],
        Kind::Root => &[0, 1, 2, 3, 4, 5, 6, 7],
        Kind::Remainder => &[0, 1, 2, 3, 4, 5, 6],
        Kind::RotaryQ | Kind::RotaryK => &[1, 3, 4, 5, 6, 7],
        Kind::Value | Kind::Mix => &[1, 3, 4],
        Kind::Score => &[0, 1, 2, 3, 4, 5, 6, 7],
        Kind::Sum => &[1, 2, 3, 4, 5, 7],
        Kind::Max => &[0, 1, 2, 3, 7],
        Kind::Glu => &[0, 1, 2, 3, 4, 5, 6],
    };
    !used.contains(&slot)
}

fn audit(params: &BlockParams, seed: u64) -> BTreeMap<(Kind, usize), Vec<&'static str>> {
    let bench = Bench::new(params, seed);
    assert_eq!(bench.violated(&bench.honest), Vec::<&str>::new(), "honest witness");
    let layout = bench.circuit.layout.clone();
    let mut caught = BTreeMap::new();
    for (at, (_, row)) in layout.rows().enumerate() {
        for slot in 0..SLOTS {
            for lane in 0..layout.lanes {
                for change in [1, -1] {
                    let mut cheat = bench.honest.clone();
                    let column = Arc::make_mut(&mut cheat.cells[slot * layout.lanes + lane]);
                    column[at] += change;
                    cheat.count();
                    let ids = bench.violated(&cheat);
                    let free = idle(row.kind(), slot);
                    assert_eq!(ids.is_empty(), free, "{row:?} slot {slot} lane {lane} {change:+}: {ids:?}");
                    if !free {
                        caught.insert((row.kind(), slot), ids);
                    }
                }
            }
        }
    }
    // Weights: any change breaks the product that reads it, and nothing reads an unused weight cell.
    for column in 0..layout.weight_lanes {
        for op in &layout.weight_ops {
            for row in op.start..op.start + op.inputs * op.blocks {
                let mut cheat = bench.honest.clone();
                let weights = Arc::make_mut(&mut cheat.weights);
                Arc::make_mut(&mut weights[column])[row] += 1;
                let input_is_zero = {
                    let input = op.input_row + (row - op.start) / op.blocks;
                    let slot = if layout.strip[input].kind() == Kind::Glu { 5 } else { 3 };
                    (0..layout.lanes).all(|l| {
                        (0..layout.groups).all(|g| {
                            bench.honest.cells[slot * layout.lanes + l][g * layout.strip.len() + input] == 0
                        })
                    })
                };
                let ids = bench.violated(&cheat);
                assert_eq!(ids, if input_is_zero { vec![] } else { vec!["copy"] }, "{} row {row}", op.id);
            }
        }
    }
    for (side, columns) in
        [bench.honest.boundary_in.len(), bench.honest.boundary_out.len()].iter().enumerate()
    {
        for column in 0..*columns {
            for row in 0..layout.boundary_tokens * params.spec.shape.hidden {
                let mut cheat = bench.honest.clone();
                let side = if side == 0 { &mut cheat.boundary_in } else { &mut cheat.boundary_out };
                Arc::make_mut(&mut side[column])[row] += 1;
                assert_eq!(bench.violated(&cheat), ["copy"], "boundary row {row}");
            }
        }
    }
    caught
}

#[test]
fn every_cell_of_a_small_block_is_constrained() {
    let caught = audit(&testing::tiny_params(), 3);
    for ((kind, slot), ids) in caught {
        println!("{kind:?} {slot}: {ids:?}");
    }
}

#[test]
fn multiplicities_are_constrained() {
    let bench = Bench::new(&testing::tiny_params(), 4);
    for column in 0..bench.honest.multiplicities.len() {
        let mut cheat = bench.honest.clone();
        Arc::make_mut(&mut cheat.multiplicities[column])[7] += 1;
        assert_eq!(bench.violated(&cheat), ["lookup/5"]);
    }
}

#[test]
fn rows_stand_where_row_of_says() {
    let params = testing::params(testing::tiny_params().spec.shape, 4, 2, 9);
    let layout = params.layout().unwrap();
    for (at, (group, row)) in layout.rows().enumerate() {
        assert_eq!(layout.row_of(group.unwrap_or(0), row), at, "{row:?}");
        if let (None, false) = (group, matches!(row, Row::Value { .. })) {
            panic!("{row:?} has no group");
        }
    }
    assert!(Fr::CAPACITY >= 252);
}
