//! Circuit-level audit: every cell of a small block, changed one at a time, must break a constraint.
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use common::Bench;
use lamina_circuits::{
    block::BlockParams,
    layout::Row,
    rows::{Kind, SLOTS},
    testing,
};

mod common;

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

fn audit(params: &BlockParams, seed: u64) -> BTreeMap<(Kind, usize), BTreeSet<&'static str>> {
    let bench = Bench::new(params, seed);
    assert_eq!(bench.violated(&bench.honest), Vec::<&str>::new(), "honest witness");
    let layout = bench.circuit.layout.clone();
    let mut caught: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
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
                        caught.entry((row.kind(), slot)).or_default().extend(ids);
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
            for row in 0..layout.boundary.rows() {
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
    let mut table = String::from(
        "# cell slot (0..7 = a b c2..c6 f): the constraints that some change of one unit breaks\n",
    );
    for ((kind, slot), ids) in caught {
        let ids: Vec<_> = ids.into_iter().collect();
        table += &format!("{kind:?} {slot}: {}\n", ids.join(" "));
    }
    // `LAMINA_BLESS=1 cargo nextest run -p lamina-circuits` rewrites the pinned table.
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/audit.txt");
    if std::env::var_os("LAMINA_BLESS").is_some() {
        std::fs::write(path, &table).unwrap();
    }
    assert_eq!(table, std::fs::read_to_string(path).unwrap());
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
}
