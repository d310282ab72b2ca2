//! Reference executor = circuit, on small shapes.
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::sync::Arc;

use halo2_proofs::dev::MockProver;
use lamina_circuits::{
    Fr,
    assign::BlockWitness,
    block::{BlockCircuit, BlockParams},
    executor::execute,
    layout::Row,
    rows::{A, B, C2, LOOKUPS},
    spec::Shape,
    tables::Table,
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

/// The multiplicities by their definition: cell by cell, each sought among the entries of its table.
fn counted(witness: &BlockWitness) -> Vec<i32> {
    let layout = &witness.layout;
    let scales = &layout.spec.scales;
    let rows: Vec<_> = layout.rows().collect();
    let mut counts = vec![0; layout.table_columns() * layout.active];
    for at in 0..layout.active {
        for lane in 0..layout.lanes {
            let cell = |slot: usize| witness.cells[slot * layout.lanes + lane][at];
            let mut tables = [Table::Signed(scales.act_bits); LOOKUPS];
            if let Some((group, row)) = rows.get(at) {
                tables = row.kind().tables(&layout.spec);
                if let (Row::Score { key, .. }, Some(group)) = (row, group)
                    && *key <= group * layout.lanes + lane
                {
                    tables[0] = Table::Exp;
                }
            }
            for (i, table) in tables.into_iter().enumerate() {
                let index = layout.tables.index(table);
                let before: usize = layout.tables.spans[..index].iter().map(|&(_, _, size)| size).sum();
                let (first, size) = table.domain(scales);
                let (input, output) = if i == 0 { (cell(A), cell(B)) } else { (cell(C2 + i - 1), 0) };
                let offset = (0..size as i32).position(|offset| first + offset == input);
                if let Some(offset) = offset.filter(|_| table.output(scales, input) == output) {
                    counts[before + offset] += 1;
                }
            }
        }
    }
    counts
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
fn multiplicities_are_the_counts_of_all_cells() {
    let all = |columns: &[Arc<Vec<i32>>]| columns.iter().flat_map(|c| c.to_vec()).collect::<Vec<_>>();
    let shape = Shape { hidden: 6, ffn: 9, heads: 2, kv_heads: 1, head_dim: 4 };
    for like in [std::convert::identity, testing::like_gpt2, testing::like_qwen2] {
        let mut params = testing::params(shape.clone(), 6, 3, 10);
        params.spec.scales = like(params.spec.scales);
        let (_, mut witness) = witness(&params, 50);
        assert_eq!(all(&witness.multiplicities), counted(&witness));
        // Entries of other rows, outputs of other inputs, and cells in no table.
        for (i, column) in witness.cells.iter_mut().enumerate() {
            let column = Arc::make_mut(column);
            for (at, delta) in [(0, 1), (7, -1), (31, 1 << 20), (column.len() - 1, 1), (column.len() / 2, 2)]
            {
                column[(at + 3 * i) % (at + 1)] += 1;
                column[at] += delta;
            }
        }
        witness.count();
        assert_eq!(all(&witness.multiplicities), counted(&witness));
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
