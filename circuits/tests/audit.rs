//! Circuit-level audit: every cell of a small block, changed one at a time, must break a constraint.
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use common::Bench;
use ff::Field;
use halo2_proofs::plonk::{Advice, Column, Expression};
use lamina_circuits::{
    Fr,
    block::{BlockParams, copies},
    ids::intern,
    layout::Row,
    rows::{Kind, SLOTS},
    spec::{BlockSpec, FeedForward, Scales},
    testing,
};

mod common;

/// Cells that no constraint of their kind reads; they are only looked up, in the range of an activation.
fn idle(spec: &BlockSpec, kind: Kind, slot: usize) -> bool {
    let used: &[usize] = match kind {
        Kind::StreamIn => &[0, 1, 2, 3, 4, 6, 7],
        Kind::StreamMid => &[0, 1, 2, 3, 4, 5, 6, 7],
        Kind::Root => &[0, 1, 2, 3, 4, 5, 6, 7],
        Kind::Remainder => &[0, 1, 2, 3, 4, 5, 6],
        Kind::Query | Kind::Key if spec.scales.rope.is_some() => &[1, 3, 4, 5, 6, 7],
        Kind::Query | Kind::Key => &[1, 3, 4],
        Kind::Value => &[0, 1, 2, 3, 4, 5, 6],
        Kind::MixOut => &[0, 1, 2, 3, 4, 5],
        Kind::Score => &[0, 1, 2, 3, 4, 5, 6, 7],
        Kind::Sum => &[1, 2, 3, 4, 5, 7],
        Kind::Max => &[0, 1, 2, 3, 7],
        Kind::FeedForward if spec.scales.feed_forward == FeedForward::Plain => &[0, 1, 2],
        Kind::FeedForward => &[0, 1, 2, 3, 4, 5, 6],
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
                    let free = idle(&params.spec, row.kind(), slot);
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
                let input = (row - op.start) / op.blocks;
                let input_is_zero = input < op.activations() && {
                    let input = op.input_row + input;
                    let slot = match (layout.strip[input].kind(), params.spec.scales.feed_forward) {
                        (Kind::FeedForward, FeedForward::Gated { .. }) => 5,
                        (Kind::FeedForward, FeedForward::Plain) => 1,
                        _ => 3,
                    };
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

/// The smallest block, with the operations of a family.
fn tiny(like: fn(Scales) -> Scales) -> BlockParams {
    let mut params = testing::tiny_params();
    params.spec.scales = like(params.spec.scales);
    params
}

#[test]
fn every_cell_of_a_small_block_is_constrained() {
    audited("audit.txt", &testing::tiny_params());
}

#[test]
fn every_cell_of_a_small_gpt2_block_is_constrained() {
    audited("audit-gpt2.txt", &tiny(testing::like_gpt2));
}

#[test]
fn every_cell_of_a_small_qwen2_block_is_constrained() {
    audited("audit-qwen2.txt", &tiny(testing::like_qwen2));
}

fn audited(name: &str, params: &BlockParams) {
    let caught = audit(params, 3);
    let mut table = String::from(
        "# cell slot (0..7 = a b c2..c6 f): the constraints that some change of one unit breaks\n",
    );
    for ((kind, slot), ids) in caught {
        let ids: Vec<_> = ids.into_iter().collect();
        table += &format!("{kind:?} {slot}: {}\n", ids.join(" "));
    }
    pinned(name, &table);
}

/// One relation of a gate, and where it reads advice.
struct Relation<'a> {
    id: &'static str,
    formula: &'a Expression<Fr>,
    reads: BTreeSet<(usize, i32)>,
}

fn relations(bench: &Bench) -> Vec<Relation<'_>> {
    let union = |mut a: BTreeSet<_>, b| {
        a.extend(b);
        a
    };
    bench
        .cs
        .gates()
        .iter()
        .flat_map(|gate| {
            gate.polynomials().iter().map(|formula| Relation {
                id: intern(gate.name()),
                formula,
                reads: formula.evaluate(
                    &|_| BTreeSet::new(),
                    &|_| BTreeSet::new(),
                    &|_| BTreeSet::new(),
                    &|q| BTreeSet::from([(q.column_index(), q.rotation().0)]),
                    &|_| BTreeSet::new(),
                    &|_| BTreeSet::new(),
                    &|a| a,
                    &union,
                    &union,
                    &|a, _| a,
                ),
            })
        })
        .collect()
}

/// The class of an advice column.
fn class(bench: &Bench, column: usize) -> String {
    let c = &bench.columns;
    let is = |columns: &[Column<Advice>]| columns.iter().any(|one| one.index() == column);
    for (name, columns) in [
        ("boundary in", &c.boundary_in[..]),
        ("boundary out", &c.boundary_out),
        ("weight", &c.weights),
        ("a_in", &[c.a_in]),
        ("a_out", &[c.a_out]),
        ("a_x", &[c.a_x]),
        ("a_s", &[c.a_s]),
        ("wa", &[c.wa]),
        ("wb", &[c.wb]),
        ("acc", &[c.acc]),
        ("multiplicity", &c.logup.multiplicities),
        ("helper", &c.logup.helpers),
        ("table helper", &c.logup.table_helpers),
        ("running sum", &[c.logup.sum]),
    ] {
        if is(columns) {
            return name.to_owned();
        }
    }
    let slot = c.cells.iter().position(|lanes| is(lanes)).unwrap();
    format!("cell {}", ["a", "b", "c2", "c3", "c4", "c5", "c6", "f"][slot])
}

/// Why a cell may be what it likes; a cell without a reason must be bound.
fn reason(bench: &Bench, advice: &[Vec<Fr>], class: &str, row: usize) -> Option<&'static str> {
    let layout = &bench.circuit.layout;
    let kind = layout.rows().nth(row).map(|(_, row)| row.kind());
    let product = bench.fixed[bench.columns.product.index()][row];
    let (weights, pair) = ([Fr::ONE, Fr::from(2)].contains(&product), product == Fr::from(3));
    let reads = |slot: usize| kind.is_some_and(|kind| !idle(&layout.spec, kind, slot));
    match class {
        _ if row > layout.active => Some("blinding: random in every proof, no gate is on"),
        "running sum" => None,
        _ if row == layout.active => Some("the row of the closed sums: only the running sum is read there"),
        "cell f" if !reads(7) => {
            Some("the factor of a row that has none: read by no relation, never looked up")
        }
        "weight" if !weights => Some("no product reads this row"),
        "weight" if advice[bench.columns.wa.index()][row] == Fr::ZERO => {
            Some("its input is zero for every token: it changes no output, and its commitment is published")
        }
        "boundary in" | "boundary out" if row >= layout.boundary.per_column * layout.spec.shape.hidden => {
            Some("below the boundary: not accumulated")
        }
        "wa" if !weights && !pair => Some("no product on this row, and the next one is no multiple of it"),
        "wb" if !pair && bench.fixed[bench.columns.chain.index()][row] == Fr::ZERO => {
            Some("no product and no chain on this row")
        }
        _ => None,
    }
}

#[test]
fn every_assigned_cell_is_rejected_or_argued() {
    assigned("cells.txt", &testing::tiny_params());
}

#[test]
fn every_assigned_cell_of_a_gpt2_block_is_rejected_or_argued() {
    assigned("cells-gpt2.txt", &tiny(testing::like_gpt2));
}

#[test]
fn every_assigned_cell_of_a_qwen2_block_is_rejected_or_argued() {
    assigned("cells-qwen2.txt", &tiny(testing::like_qwen2));
}

/// Every advice cell of every row, phase 1 and idle rows included, changed by one with nothing recomputed: some
/// constraint rejects it, or `reason` says why none needs to.
fn assigned(name: &str, params: &BlockParams) {
    let bench = Bench::new(params, 3);
    let advice = bench.advice(&bench.honest);
    let n = 1usize << bench.circuit.params.k;
    let relations = relations(&bench);
    let wrap = |row: usize, rotation: i32| (row as i64 + i64::from(rotation)).rem_euclid(n as i64) as usize;
    let holds = |relation: &Relation<'_>, row: usize, changed: (usize, usize)| {
        let value = relation.formula.evaluate(
            &|c| c,
            &|_| Fr::ZERO,
            &|q| bench.fixed[q.column_index()][wrap(row, q.rotation().0)],
            &|q| {
                let (column, row) = (q.column_index(), wrap(row, q.rotation().0));
                advice[column][row] + if (column, row) == changed { Fr::ONE } else { Fr::ZERO }
            },
            &|_| Fr::ZERO,
            &|c| bench.challenges[c.index()],
            &|a| -a,
            &|a, b| a + b,
            &|a, b| a * b,
            &|a, s| a * s,
        );
        value == Fr::ZERO
    };
    let mut copied = BTreeSet::new();
    for (one, other) in copies(&bench.circuit.layout) {
        copied.extend([one, other].map(|(port, row)| (bench.columns.port(port).index(), row)));
    }
    // Per class: how many cells, who rejects, and how many are free for which reason.
    let mut rejecting: BTreeMap<String, BTreeMap<&str, usize>> = BTreeMap::new();
    let mut free: BTreeMap<(String, &str), usize> = BTreeMap::new();
    for column in 0..advice.len() {
        let class = class(&bench, column);
        for row in 0..n {
            let mut ids = BTreeSet::new();
            for relation in &relations {
                for (_, rotation) in relation.reads.iter().filter(|(read, _)| *read == column) {
                    if !ids.contains(relation.id) && !holds(relation, wrap(row, -rotation), (column, row)) {
                        ids.insert(relation.id);
                    }
                }
            }
            if copied.contains(&(column, row)) {
                ids.insert("copy");
            }
            if ids.is_empty() {
                let reason = reason(&bench, &advice, &class, row);
                let reason = reason.unwrap_or_else(|| panic!("{class}, row {row}: nothing rejects a change"));
                *free.entry((class.clone(), reason)).or_default() += 1;
            }
            let entry = rejecting.entry(class.clone()).or_default();
            ids.into_iter().for_each(|id| *entry.entry(id).or_default() += 1);
        }
    }
    let mut table = String::from(
        "# advice cells, changed by one with nothing recomputed: how many each constraint rejects\n",
    );
    for (class, ids) in rejecting {
        let ids: Vec<_> = ids.into_iter().map(|(id, count)| format!("{id} {count}")).collect();
        table += &format!("{class}: {}\n", ids.join(", "));
    }
    table += "# cells that nothing rejects, and why nothing needs to\n";
    for ((class, reason), count) in free {
        table += &format!("{class}: {count}: {reason}\n");
    }
    pinned(name, &table);
}

/// Holds a table against its pinned file; `LAMINA_BLESS=1 cargo nextest run -p lamina-circuits` rewrites that.
fn pinned(name: &str, table: &str) {
    let path = format!("{}/tests/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("LAMINA_BLESS").is_some() {
        std::fs::write(&path, table).unwrap();
    }
    assert_eq!(table, std::fs::read_to_string(path).unwrap());
}

#[test]
fn multiplicities_are_constrained() {
    let bench = Bench::new(&testing::tiny_params(), 4);
    for column in 0..bench.honest.multiplicities.len() {
        let mut cheat = bench.honest.clone();
        Arc::make_mut(&mut cheat.multiplicities[column])[7] += 1;
        assert_eq!(bench.violated(&cheat), ["lookup/4"]);
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
