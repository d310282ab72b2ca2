//! Reference executor = circuit, on small shapes.
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::sync::Arc;

use halo2_proofs::dev::MockProver;
use lamina_circuits::{
    Fr,
    assign::BlockWitness,
    block::{BlockCircuit, BlockParams},
    executor::execute,
    spec::Shape,
    testing,
};

fn witness(params: &BlockParams, seed: u64) -> (BlockCircuit, BlockWitness) {
    let circuit = BlockCircuit::new(params).unwrap();
    let weights = testing::weights(&params.spec, seed, 60);
    let x = testing::activations(&params.spec, seed);
    let trace = execute(&params.spec, &weights, &x).unwrap();
    let columns = circuit.layout.weight_columns(&weights).into_iter().map(Arc::new).collect();
    let witness = BlockWitness::new(&circuit.layout, Arc::new(columns), &trace);
    (circuit, witness)
}

fn satisfied(params: &BlockParams, seed: u64) {
    let (circuit, witness) = witness(params, seed);
    let circuit = circuit.with_witness(Arc::new(witness));
    let mock = MockProver::<Fr>::run(params.k, &circuit, vec![vec![]]).unwrap();
    if let Err(failures) = mock.verify() {
        let shown: Vec<_> = failures.iter().take(8).map(ToString::to_string).collect();
        panic!("{} failures:\n{}", failures.len(), shown.join("\n"));
    }
}

#[test]
fn tiny_block_satisfies_the_circuit() {
    satisfied(&testing::tiny_params(), 1);
}

#[test]
fn families_satisfy_the_circuit() {
    for (i, like) in [testing::like_gpt2, testing::like_qwen2].into_iter().enumerate() {
        let shape = Shape { hidden: 6, ffn: 9, heads: 2, kv_heads: 2, head_dim: 4 };
        for (tokens, lanes) in [(1, 1), (4, 2), (3, 3)] {
            let mut params = testing::params(shape.clone(), tokens, lanes, 10);
            params.spec.scales = like(params.spec.scales);
            satisfied(&params, 30 + i as u64);
        }
    }
}

#[test]
fn shapes_satisfy_the_circuit() {
    // Odd head counts, grouped queries, one token, several groups, features that no lane count divides.
    let shape = |hidden, ffn, heads, kv_heads, head_dim| Shape { hidden, ffn, heads, kv_heads, head_dim };
    for (i, (shape, tokens, lanes, k)) in [
        (shape(6, 5, 3, 1, 4), 4, 2, 10),
        (shape(4, 3, 1, 1, 2), 1, 1, 9),
        (shape(8, 7, 4, 2, 6), 6, 2, 10),
        (shape(5, 4, 3, 3, 2), 4, 4, 9),
    ]
    .into_iter()
    .enumerate()
    {
        satisfied(&testing::params(shape, tokens, lanes, k), i as u64 + 10);
    }
}
