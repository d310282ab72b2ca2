//! The head slice: executor = circuit, every cell constrained, every cheat rejected by its constraint.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test panics where it fails")]

use std::{collections::BTreeSet, sync::Arc};

use common::{advice, challenges, fixed};
use halo2_proofs::{
    dev::MockProver,
    plonk::{Circuit, ConstraintSystem},
};
use lamina_circuits::{
    Fr,
    audit::{determination, violations},
    bounds::SpecError,
    embedding::EmbeddingSpec,
    executor::{ExecError, Site},
    head::{
        HeadSpec, HeadTrace, HeadWeights,
        assign::HeadWitness,
        circuit::{HeadCircuit, HeadColumns},
        execute_head,
        layout::HeadParams,
        rows::{F, Kind, SLOTS},
    },
    layout::LayoutError,
    model::fit_ends,
    plan::{EndPlan, Plan},
    slice::SliceCircuit,
    spec::{BlockSpec, Shape},
    testing,
};

mod common;

/// A head held against every gate.
struct Bench {
    circuit: HeadCircuit,
    cs: ConstraintSystem<Fr>,
    columns: HeadColumns,
    fixed: Vec<Vec<Fr>>,
    challenges: Vec<Fr>,
    weights: HeadWeights,
    trace: HeadTrace,
    honest: HeadWitness,
}

/// Stream values, positions with one repeated, and weights.
fn inputs(params: &HeadParams, seed: u64) -> (HeadWeights, Vec<i32>, Vec<usize>) {
    let spec = &params.spec;
    let weights = testing::head_weights(spec, seed, 90);
    let mut rng = testing::Generator(seed + 1);
    let bits = spec.norm.act_bits + spec.norm.residual_lo_bits;
    let x = (0..spec.tokens * spec.norm.hidden).map(|_| rng.signed(1 << (bits - 3))).collect();
    let mut positions: Vec<usize> =
        (0..spec.positions).map(|_| rng.next_u64() as usize % spec.tokens).collect();
    positions[0] = spec.tokens - 1;
    (weights, x, positions)
}

impl Bench {
    fn new(params: &HeadParams, seed: u64) -> Bench {
        let (weights, x, positions) = inputs(params, seed);
        Self::with(params, seed, weights, &x, &positions)
    }

    fn with(params: &HeadParams, seed: u64, weights: HeadWeights, x: &[i32], positions: &[usize]) -> Bench {
        let circuit = HeadCircuit::new(params).unwrap();
        let trace = execute_head(&params.spec, &weights, x, positions).unwrap();
        let columns = circuit.layout.weight_columns(&weights).into_iter().map(Arc::new).collect();
        let honest = HeadWitness::new(&circuit.layout, Arc::new(columns), &trace);
        let mut cs = ConstraintSystem::default();
        let (columns, _) = HeadCircuit::configure_with_params(&mut cs, params.clone());
        let fixed = fixed(&circuit, &cs, params.k);
        let challenges = challenges(&cs, seed);
        Bench { circuit, cs, columns, fixed, challenges, weights, trace, honest }
    }

    fn violated(&self, witness: &HeadWitness) -> Vec<&'static str> {
        let advice = advice(&self.cs, self.circuit.params.k, witness, &self.challenges);
        let layout = &self.circuit.layout;
        let copies = self.columns.copies(layout);
        violations(&self.cs, &self.fixed, &advice, &self.challenges, layout.active + 1, &copies)
    }

    /// The honest weights with another trace.
    fn claim(&self, trace: &HeadTrace) -> HeadWitness {
        HeadWitness::new(&self.circuit.layout, self.honest.weights.clone(), trace)
    }

    /// As [`Bench::claim`], with every distance exact: those below zero have a negative limb.
    fn exact(&self, trace: &HeadTrace) -> HeadWitness {
        let mut cheat = self.claim(trace);
        let spec = &self.circuit.params.spec;
        for (position, &best) in trace.tokens.iter().enumerate() {
            let row = &trace.logits[position * spec.vocab..(position + 1) * spec.vocab];
            for id in 0..spec.vocab {
                let distance = row[best as usize] - row[id] - i64::from(id < best as usize);
                let (at, lane) = self.logit(position, id);
                let limb = (distance >> (2 * spec.norm.limb_bits)) as i32;
                let lanes = cheat.layout.lanes;
                Arc::make_mut(&mut cheat.cells[2 * lanes + lane])[at] = limb;
            }
        }
        cheat.count();
        cheat
    }

    /// Row and lane of a logit.
    fn logit(&self, position: usize, id: usize) -> (usize, usize) {
        let layout = &self.circuit.layout;
        (layout.logits + id / layout.chunks, id % layout.chunks * layout.spec.positions + position)
    }
}

fn add(w: &mut HeadWitness, at: usize, slot: usize, lane: usize, delta: i32) {
    let lanes = w.layout.lanes;
    Arc::make_mut(&mut w.cells[slot * lanes + lane])[at] += delta;
}

/// The same head with a bias under its gain.
fn biased(mut params: HeadParams) -> HeadParams {
    params.spec.gain_bias = Some(3);
    params
}

/// The same head with open logits.
fn open(mut params: HeadParams) -> HeadParams {
    params.spec.open_logits = Some(3);
    params
}

fn shapes() -> Vec<HeadParams> {
    vec![
        testing::tiny_head(),
        testing::head_params(3, 12, 4, 2, 4, 12),
        testing::head_params(2, 1, 1, 1, 1, 1),
        testing::head_params(5, 23, 130, 4, 1, 2),
        biased(testing::tiny_head()),
        biased(testing::head_params(3, 12, 4, 2, 4, 2)),
        open(testing::tiny_head()),
        open(testing::head_params(2, 1, 1, 1, 1, 1)),
    ]
}

#[test]
fn shapes_satisfy_the_circuit() {
    for (i, params) in shapes().into_iter().enumerate() {
        let bench = Bench::new(&params, i as u64);
        assert_eq!(determination(&bench.cs), Ok(()));
        HeadCircuit::check(&params).unwrap();
        assert_eq!(bench.violated(&bench.honest), Vec::<&str>::new(), "{params:?}");
        let circuit = bench.circuit.with_witness(Arc::new(bench.honest.clone()));
        MockProver::<Fr>::run(params.k, &circuit, vec![vec![]]).unwrap().assert_satisfied();
    }
}

/// Cells that no constraint of their kind reads; they are only looked up.
fn idle(kind: Kind, chunks: usize, positions: usize, slot: usize, lane: usize) -> bool {
    let used: &[usize] = match kind {
        Kind::Stream | Kind::Square | Kind::Root | Kind::Logit | Kind::Tail => &[0, 1, 2, 3],
        Kind::BelowLow | Kind::BelowHigh | Kind::AboveLow | Kind::AboveHigh | Kind::Max => &[0, 1, 2],
        Kind::Rest | Kind::Gain => &[0, 1],
        Kind::Select => &[F],
    };
    lane >= chunks * positions || !used.contains(&slot)
}

#[test]
fn every_cell_is_constrained() {
    // Small: each of its cells is a run of all gates.
    let params = HeadParams { k: 7, ..testing::head_params(3, 7, 3, 2, 2, 3) };
    cells_are_constrained(&params);
    cells_are_constrained(&biased(params.clone()));
    cells_are_constrained(&open(params));
}

fn cells_are_constrained(params: &HeadParams) {
    let bench = Bench::new(params, 7);
    let layout = bench.circuit.layout.clone();
    let mut seen = BTreeSet::new();
    for at in 0..=layout.max {
        let Some(kind) = layout.kind(at) else { continue };
        seen.insert(kind);
        for slot in 0..SLOTS {
            for lane in 0..layout.lanes {
                for change in [1, -1] {
                    let mut cheat = bench.honest.clone();
                    add(&mut cheat, at, slot, lane, change);
                    cheat.count();
                    let ids = bench.violated(&cheat);
                    let free = idle(kind, layout.chunks_of(kind), params.spec.positions, slot, lane);
                    let out_of_table = ids == ["lookup/4"] && free;
                    assert!(
                        ids.is_empty() == free || out_of_table,
                        "{kind:?} row {at} slot {slot} lane {lane} {change:+}: {ids:?}"
                    );
                }
            }
        }
    }
    assert_eq!(seen.len(), Kind::ALL.len());
    // Every weight, by the product that reads it.
    let d = params.spec.norm.hidden;
    let matrices = [
        (&layout.matrix, 0, &bench.trace.gained.q),
        (&layout.gain, layout.matrix.rows(), &bench.trace.norm.n.q),
    ];
    for (matrix, first, read) in matrices {
        for (column, row) in (0..matrix.lanes).flat_map(|c| (0..matrix.rows()).map(move |row| (c, row))) {
            let mut cheat = bench.honest.clone();
            let weights = Arc::make_mut(&mut cheat.weights);
            Arc::make_mut(&mut weights[column])[first + row] += 1;
            let input = row / matrix.blocks;
            let zero = input < d && (0..params.spec.positions).all(|p| read[p * d + input] == 0);
            let expected = if zero { vec![] } else { vec!["copy"] };
            assert_eq!(bench.violated(&cheat), expected, "weight {column} {row} of {matrix:?}");
        }
    }
    for position in 0..2 * params.spec.positions {
        for change in [1, -1] {
            let mut cheat = bench.honest.clone();
            Arc::make_mut(&mut cheat.output[0])[position] += change;
            assert_eq!(bench.violated(&cheat), ["copy"], "output {position}");
        }
    }
    // Every open logit; what stands elsewhere in those columns is the verifier's choice.
    for (column, at) in (1..layout.outputs()).flat_map(|c| (layout.logits..layout.max).map(move |at| (c, at)))
    {
        let (part, lane) = ((column - 1) / layout.lanes, (column - 1) % layout.lanes);
        for change in [1, -1] {
            let mut cheat = bench.honest.clone();
            Arc::make_mut(&mut cheat.output[column])[at] += change;
            let there =
                layout.kind(at).is_some_and(|kind| lane < layout.chunks_of(kind) * params.spec.positions);
            let expected = if there { vec![["logits/1", "logits/2"][part]] } else { vec![] };
            assert_eq!(bench.violated(&cheat), expected, "logits, column {column} row {at}");
        }
    }
    for token in 0..params.spec.tokens {
        let (column, row) = layout.boundary.place(token);
        for j in 0..d {
            let mut cheat = bench.honest.clone();
            Arc::make_mut(&mut cheat.input[column])[row + j] += 1;
            let read = bench.trace.positions.contains(&token);
            let expected = if read { vec!["copy"] } else { vec![] };
            assert_eq!(bench.violated(&cheat), expected, "input {token} {j}");
        }
    }
    for column in 0..bench.honest.multiplicities.len() {
        let mut cheat = bench.honest.clone();
        Arc::make_mut(&mut cheat.multiplicities[column])[7] += 1;
        assert_eq!(bench.violated(&cheat), ["lookup/4"]);
    }
}

/// A head whose logits are known: one feature, positive, times the matrix row given.
fn known(matrix: &[i16]) -> Bench {
    let params = testing::head_params(1, matrix.len(), 2, 2, 3, 5);
    let mut weights = testing::head_weights(&params.spec, 1, 1);
    weights.gain.data = Arc::new(vec![1 << params.spec.gain_shift]);
    weights.matrix.data = Arc::new(matrix.to_vec());
    Bench::with(&params, 9, weights, &[300, 500], &[0, 1])
}

// S7: another id than the greatest; by one unit of a logit; a tie to a higher or a lower id.
#[test]
fn a_wrong_arg_max_is_rejected() {
    // Ids 3 and 6 tie at 50, id 1 is one weight unit below.
    let matrix = [-7, 49, 3, 50, 0, 20, 50, -50];
    let bench = known(&matrix);
    assert_eq!(bench.trace.tokens, [3, 3]);
    for wrong in [0usize, 1, 6, 7] {
        let mut trace = bench.trace.clone();
        trace.tokens[1] = wrong as u32;
        // All distances recomputed from the claimed maximum: some are negative, as they are or modulo 2^24.
        assert_eq!(bench.violated(&bench.exact(&trace)), ["lookup/4"], "token {wrong}");
        assert_eq!(bench.violated(&bench.claim(&trace)), ["copy"], "token {wrong}");
    }
    // The claimed maximum kept, the flag moved: the distance there is not zero.
    for wrong in [1usize, 6, 2] {
        let mut cheat = bench.honest.clone();
        let (from, to) = (bench.logit(1, 3), bench.logit(1, wrong));
        add(&mut cheat, from.0, F, from.1, -1);
        add(&mut cheat, to.0, F, to.1, 1);
        Arc::make_mut(&mut cheat.output[0])[3] = wrong as i32 + 1;
        let ids = bench.violated(&cheat);
        let expected = if wrong == 6 { vec!["copy"] } else { vec!["argmax/2", "copy"] };
        assert_eq!(ids, expected, "flag at {wrong}");
    }
    // Only the id in the boundary.
    let mut cheat = bench.honest.clone();
    Arc::make_mut(&mut cheat.output[0])[3] = 7;
    assert_eq!(bench.violated(&cheat), ["copy"]);
}

// S7: a client that samples would choose otherwise; two distances exchanged, or shifted between limbs.
#[test]
fn wrong_open_logits_are_rejected() {
    let params = open(testing::tiny_head());
    let bench = Bench::new(&params, 5);
    let layout = &bench.circuit.layout;
    let (vocab, gaps) = (params.spec.vocab, bench.trace.gaps());
    for (position, row) in gaps.chunks(vocab).enumerate() {
        let logits = &bench.trace.logits[position * vocab..(position + 1) * vocab];
        let best = bench.trace.tokens[position] as usize;
        assert!(row.iter().zip(logits).all(|(&gap, &logit)| gap as i64 == logits[best] - logit));
    }
    let columns: Vec<Vec<i32>> = bench.honest.output.iter().map(|column| column.to_vec()).collect();
    assert_eq!(layout.gaps(&columns), Some(gaps.clone()));
    assert_eq!(layout.gaps(&columns[1..]), None);
    let lied = |gaps: &[u64]| {
        let mut cheat = bench.honest.clone();
        let columns = layout.output(&bench.trace.positions, &bench.trace.tokens, gaps);
        cheat.output = columns.into_iter().map(Arc::new).collect();
        bench.violated(&cheat)
    };
    assert_eq!(lied(&gaps), Vec::<&str>::new());
    let best = bench.trace.tokens[0] as usize;
    let other = (best + 1) % vocab;
    let mut swapped = gaps.clone();
    swapped.swap(other, (best + 2) % vocab);
    assert_eq!(lied(&swapped), ["logits/1"]);
    let mut closer = gaps.clone();
    closer[other] -= 1;
    assert_eq!(lied(&closer), ["logits/1"]);
    // As much more in the upper limb as is less below it, which no honest split gives.
    let mut cheat = bench.honest.clone();
    let (at, lane) = bench.logit(0, other);
    Arc::make_mut(&mut cheat.output[1 + lane])[at] -= 1 << (2 * params.spec.norm.limb_bits);
    Arc::make_mut(&mut cheat.output[1 + layout.lanes + lane])[at] += 1;
    assert_eq!(bench.violated(&cheat), ["logits/1", "logits/2"]);
}

// One unit of a logit, not of a weight: the true maximum is one above the claimed one.
#[test]
fn one_unit_decides() {
    // One feature that is 1 after the gain: logits are the matrix.
    let mut params = testing::head_params(1, 6, 2, 1, 3, 5);
    params.spec.gain_shift = 6;
    let mut weights = testing::head_weights(&params.spec, 1, 1);
    weights.matrix.data = Arc::new(vec![5, 40, 41, 41, 3, 40]);
    weights.gain.data = Arc::new(vec![1]);
    let bench = Bench::with(&params, 3, weights, &[300, 500], &[0]);
    assert_eq!(bench.trace.gained.q, [1]);
    assert_eq!(bench.trace.tokens, [2]);
    for wrong in [1u32, 3, 5] {
        let mut trace = bench.trace.clone();
        trace.tokens[0] = wrong;
        assert_eq!(bench.violated(&bench.exact(&trace)), ["lookup/4"], "token {wrong}");
    }
    // A maximum one too great is attained nowhere; claimed attained, the distance there is 1.
    let layout = bench.circuit.layout.clone();
    let mut cheat = bench.honest.clone();
    add(&mut cheat, layout.max, 0, 0, 1);
    for id in 0..6 {
        let (at, lane) = bench.logit(0, id);
        add(&mut cheat, at, 0, lane, 1);
    }
    cheat.count();
    assert_eq!(bench.violated(&cheat), ["argmax/2"]);
}

// Flags that are no flags: two of one half, minus one and two ones, none, two.
#[test]
fn flags_are_one_hot() {
    let bench = known(&[-7, 49, 3, 50, 0, 20, 50, -50]);
    let flags = |changes: &[(usize, i32)]| {
        let mut cheat = bench.honest.clone();
        for &(id, delta) in changes {
            let (at, lane) = bench.logit(1, id);
            add(&mut cheat, at, F, lane, delta);
        }
        bench.violated(&cheat)
    };
    assert_eq!(flags(&[(3, -1)]), ["copy", "sum/3"]);
    assert_eq!(flags(&[(6, 1)]), ["copy", "sum/3"]);
    assert_eq!(flags(&[(6, 1), (7, -1)]), ["argmax/1", "argmax/2", "copy"]);
    let ids = flags(&[(3, 1), (6, -1)]);
    assert_eq!(ids, ["argmax/1", "copy"]);
}

#[test]
#[cfg(feature = "cheat")]
fn halves_and_fields_are_rejected() {
    let bench = known(&[-7, 49, 3, 50, 0, 20, 50, -50]);
    let lanes = bench.circuit.layout.lanes;
    let half = Fr::from(2).invert().unwrap();
    // Half of the flag at each of the two ties.
    let mut cheat = bench.honest.clone();
    for id in [3, 6] {
        let (at, lane) = bench.logit(1, id);
        cheat.overrides.insert((F * lanes + lane, at), half);
    }
    assert_eq!(bench.violated(&cheat), ["argmax/1", "copy"]);
    // A maximum modulo p: distances follow, and are in no range.
    let mut cheat = bench.honest.clone();
    for at in bench.circuit.layout.logits..=bench.circuit.layout.max {
        for lane in (1..lanes).step_by(2) {
            let value = Fr::from(cheat.cells[lane][at] as u64) + half;
            cheat.overrides.insert((lane, at), value);
        }
    }
    let ids = bench.violated(&cheat);
    assert!(ids.contains(&"lookup/4") && ids.contains(&"argmax/2"), "{ids:?}");
}

// S20: +1 in one logit, -1 in another of the same position, of another position, of another chunk.
#[test]
fn errors_do_not_cancel() {
    let bench = Bench::new(&testing::tiny_head(), 21);
    for (one, other) in [((0, 2), (0, 5)), ((0, 3), (0, 4)), ((0, 2), (1, 2)), ((0, 16), (2, 15))] {
        let mut cheat = bench.honest.clone();
        for ((position, id), delta) in [(one, 1), (other, -1)] {
            let (at, lane) = bench.logit(position, id);
            add(&mut cheat, at, 1, lane, delta);
        }
        cheat.count();
        let ids = bench.violated(&cheat);
        assert!(ids.contains(&"copy"), "{one:?} {other:?}: {ids:?}");
    }
}

// Another position than the one claimed, a sum of two, one outside the boundary.
#[test]
fn positions_are_those_of_the_boundary() {
    let params = testing::tiny_head();
    let bench = Bench::new(&params, 5);
    let layout = bench.circuit.layout.clone();
    // Honest for position 0, claimed for position 2.
    let mut positions = bench.trace.positions.clone();
    positions[1] = 0;
    let trace = execute_head(&params.spec, &bench.weights, &bench.trace.x, &positions).unwrap();
    let mut cheat = bench.claim(&trace);
    Arc::make_mut(&mut cheat.output[0])[1] = 2;
    assert_eq!(bench.violated(&cheat), ["copy"]);
    // The choice moved, the stream kept.
    let mut cheat = bench.claim(&trace);
    add(&mut cheat, layout.select, F, 1, -1);
    add(&mut cheat, layout.select + 2, F, 1, 1);
    Arc::make_mut(&mut cheat.output[0])[1] = 2;
    assert_eq!(bench.violated(&cheat), ["copy"]);
    // 2 * token 1 - token 0 for position 2.
    let mut cheat = bench.claim(&trace);
    add(&mut cheat, layout.select, F, 1, -2);
    add(&mut cheat, layout.select + 1, F, 1, 2);
    let ids = bench.violated(&cheat);
    assert_eq!(ids, ["copy", "select/1"]);
    // Nothing chosen.
    let mut cheat = bench.claim(&trace);
    add(&mut cheat, layout.select, F, 1, -1);
    assert_eq!(bench.violated(&cheat), ["copy", "sum/3"]);
}

// The gain's bias: changed by one, and counted twice at one position, both consistent downstream.
#[test]
fn the_bias_of_the_gain_is_added_once() {
    let params = biased(testing::tiny_head());
    let bench = Bench::new(&params, 17);
    let (spec, layout) = (&params.spec, &bench.circuit.layout);
    let (d, honest) = (spec.norm.hidden, &bench.trace);
    let with_bias = |change: &dyn Fn(i16) -> i16| {
        let mut weights = bench.weights.clone();
        Arc::make_mut(&mut weights.gain.data)[d * d..].iter_mut().for_each(|b| *b = change(*b));
        execute_head(spec, &weights, &honest.x, &honest.positions).unwrap()
    };
    let other = with_bias(&|b| b + 1);
    assert_ne!(other.gained, honest.gained);
    assert_eq!(bench.violated(&bench.claim(&other)), ["copy"]);
    let twice = with_bias(&|b| 2 * b);
    for p in 0..spec.positions {
        let mut trace = honest.clone();
        let (own, logits) = (p * d..(p + 1) * d, p * spec.vocab..(p + 1) * spec.vocab);
        trace.gained.q[own.clone()].copy_from_slice(&twice.gained.q[own.clone()]);
        trace.gained.r[own.clone()].copy_from_slice(&twice.gained.r[own]);
        trace.logits[logits.clone()].copy_from_slice(&twice.logits[logits]);
        trace.tokens[p] = twice.tokens[p];
        let mut cheat = bench.claim(&trace);
        assert_eq!(bench.violated(&cheat), ["copy"], "position {p}");
        cheat.bias_counts = vec![1; spec.positions];
        cheat.bias_counts[p] = 2;
        assert_eq!(bench.violated(&cheat), ["product/3"], "position {p}");
    }
    let (row, shift) = layout.bias_row().unwrap();
    assert_eq!((row, shift), (layout.matrix.rows() + d * layout.gain.blocks, 3));
}

// S3, S21: both neighbours of every rounded value; the root off by one.
#[test]
fn both_neighbours_of_every_rounded_value_are_rejected() {
    let bench = Bench::new(&testing::tiny_head(), 13);
    let (layout, spec) = (bench.circuit.layout.clone(), bench.circuit.params.spec.clone());
    let (lo, _) = lamina_circuits::rows::halves(spec.norm.norm_shift);
    for delta in [1, -1] {
        // n and the high limb of its remainder.
        let mut cheat = bench.honest.clone();
        add(&mut cheat, 0, 2, 0, delta);
        add(&mut cheat, layout.stride, 1, 0, -delta << (spec.norm.norm_shift - lo));
        cheat.count();
        let ids = bench.violated(&cheat);
        assert!(ids.contains(&"lookup/4") && !ids.contains(&"head-norm/4"), "{ids:?}");
        // A feature after the gain and its remainder: the gain's product is content, the logits' is not.
        let mut cheat = bench.honest.clone();
        add(&mut cheat, 2 * layout.stride, 1, 0, delta);
        add(&mut cheat, 2 * layout.stride, 0, 0, -delta << spec.gain_shift);
        cheat.count();
        let ids = bench.violated(&cheat);
        assert!(ids.contains(&"lookup/4"), "{ids:?}");
        // The reciprocal root, consistently above.
        let mut cheat = bench.honest.clone();
        let d = spec.norm.hidden;
        for at in 0..d + 2 {
            add(&mut cheat, at, F, 0, delta);
        }
        add(&mut cheat, d + 1, 1, 0, delta);
        cheat.count();
        let ids = bench.violated(&cheat);
        assert!(ids.contains(&"norm/3") && ids.contains(&"head-norm/4"), "{ids:?}");
    }
}

#[test]
fn the_executor_names_what_it_refuses() {
    let params = testing::tiny_head();
    let (weights, x, positions) = inputs(&params, 2);
    let run = |weights: &HeadWeights, x: &[i32], positions: &[usize]| {
        execute_head(&params.spec, weights, x, positions).unwrap_err()
    };
    let site = |error: ExecError| match error {
        ExecError::OutOfRange { site, .. } => site,
        error => panic!("{error}"),
    };
    assert_eq!(site(run(&weights, &x, &[0, 6, 1])), Site::Position);
    let mut wide = weights.clone();
    let mut wild = x.clone();
    wild[3] = 1 << 11;
    assert_eq!(site(run(&weights, &wild, &positions)), Site::Input);
    Arc::make_mut(&mut wide.gain.data)[1] = 30000;
    assert_eq!(site(run(&wide, &x, &positions)), Site::HeadGain);
    assert!(matches!(run(&weights, &x[1..], &positions), ExecError::Size { what: "input", .. }));
    assert!(matches!(run(&weights, &x, &positions[1..]), ExecError::Size { what: "positions", .. }));
}

#[test]
fn unsound_specifications_are_refused() {
    let bad = |change: &dyn Fn(&mut HeadParams)| {
        let mut params = testing::tiny_head();
        change(&mut params);
        assert!(HeadCircuit::check(&params).is_err(), "{params:?}");
        params.layout().unwrap_err()
    };
    let relation = |error| match error {
        LayoutError::Spec(SpecError::Bound { relation, .. }) => relation,
        error => panic!("{error}"),
    };
    assert_eq!(relation(bad(&|p| p.spec.norm.rsqrt_bits = 30)), "rms-norm/2 reciprocal root");
    assert!(matches!(bad(&|p| p.spec.gain_shift = 16), LayoutError::Spec(_)));
    assert_eq!(relation(bad(&|p| p.spec.gain_bias = Some(54))), "matmul/bias");
    assert!(matches!(bad(&|p| p.spec.positions = 0), LayoutError::Spec(_)));
    assert!(matches!(bad(&|p| p.spec.norm.hidden = 0), LayoutError::Spec(_)));
    assert!(matches!(bad(&|p| p.chunks = 0), LayoutError::Lanes { .. }));
    assert!(matches!(bad(&|p| p.spec.open_logits = Some(65)), LayoutError::Spec(_)));
    // A layout that exists, but asks a verifier for too many columns: 4 a lane, 6 with open logits.
    let wide = HeadParams { chunks: 4, k: 12, ..testing::head_params(2, 8, 256, 200, 4, 8) };
    HeadCircuit::check(&wide).unwrap();
    let refused = HeadCircuit::check(&open(wide)).unwrap_err();
    assert_eq!(refused.reason, "the head has too many columns");
    assert!(matches!(bad(&|p| p.chunks = usize::MAX / 2), LayoutError::Lanes { .. }));
    assert!(matches!(bad(&|p| p.weight_lanes = 0), LayoutError::Rows { .. }));
    assert!(matches!(bad(&|p| p.spec.vocab = 1 << 20), LayoutError::Rows { .. }));
    assert!(matches!(bad(&|p| p.k = 4), LayoutError::Rows { .. }));
}

// Llama-2-7B's block: the largest shape that the GPU's figures are derived for (`docs/gpu.md`).
#[test]
fn a_block_of_llama_2_7b_fits() {
    let shape = Shape { hidden: 4096, ffn: 11008, heads: 32, kv_heads: 32, head_dim: 128 };
    let block = BlockSpec { shape, scales: testing::wide_scales(4096), weight_bits: 16, tokens: 128 };
    let plan = Plan::best(&block, 128).unwrap();
    println!("{plan}");
    assert_eq!(plan.weights, 4 * 4096 * 4096 + 3 * 4096 * 11008);
    assert!(plan.proof_bytes < 64 << 10, "{}", plan.proof_bytes);
}

// GPT-2-small's shape: 12 blocks of 7.1 M weights, biases included, and tied ends with learned positions.
#[test]
fn a_gpt2_small_fits() {
    let scales = testing::like_gpt2(testing::wide_scales(768));
    let shape = Shape { hidden: 768, ffn: 3072, heads: 12, kv_heads: 12, head_dim: 64 };
    let block = BlockSpec { shape, scales, weight_bits: 16, tokens: 64 };
    let plan = Plan::best(&block, 64).unwrap();
    println!("{plan}");
    assert_eq!(plan.weights, 768 * 2304 + 2304 + 768 * 768 + 768 + 2 * 768 * 3072 + 3072 + 768);
    let gated = BlockSpec { scales: testing::wide_scales(768), ..block.clone() };
    let gated = Plan::best(&gated, 64).unwrap();
    println!("{gated}");
    assert!(plan.expected_core_ms < gated.expected_core_ms && plan.columns.fixed < gated.columns.fixed);
    let head = HeadSpec {
        norm: block.norm(),
        gain_shift: 12,
        gain_bias: Some(8),
        vocab: 50257,
        tokens: 64,
        positions: 8,
        weight_bits: 16,
        open_logits: None,
    };
    let embedding = EmbeddingSpec {
        hidden: 768,
        vocab: 50257,
        tokens: 64,
        weight_bits: 16,
        stream_bits: 25,
        shift: 2,
        position_shift: Some(2),
        centred: true,
    };
    let (e, h) = fit_ends(&embedding, &head, 17).unwrap();
    assert_eq!(e.weight_lanes, h.weight_lanes);
    println!("{}\n{}", EndPlan::embedding(&e).unwrap(), EndPlan::head(&h).unwrap());
}

// SmolLM2-135M's shape: what `docs/protocol.md` section 11 says of its costs.
#[test]
fn both_ends_of_a_real_model_fit_with_one_matrix_layout() {
    let scales = testing::wide_scales(576);
    let shape = Shape { hidden: 576, ffn: 1536, heads: 9, kv_heads: 3, head_dim: 64 };
    let block = BlockSpec { shape, scales, weight_bits: 16, tokens: 32 };
    let head = HeadSpec {
        norm: block.norm(),
        gain_shift: 12,
        gain_bias: None,
        vocab: 49152,
        tokens: 32,
        positions: 8,
        weight_bits: 16,
        open_logits: None,
    };
    let embedding = EmbeddingSpec {
        hidden: 576,
        vocab: 49152,
        tokens: 32,
        weight_bits: 16,
        stream_bits: 25,
        shift: 2,
        position_shift: None,
        centred: false,
    };
    for (k, lanes, chunks) in [(15, 894, 2), (16, 443, 1), (17, 220, 1)] {
        let (e, h) = fit_ends(&embedding, &head, k).unwrap();
        assert_eq!((e.weight_lanes, h.weight_lanes, h.chunks), (lanes, lanes, chunks));
        let (e, h) = (EndPlan::embedding(&e).unwrap(), EndPlan::head(&h).unwrap());
        println!("k = {k}\n{e}\n{h}");
        assert_eq!((e.columns.weights, h.columns.weights), (lanes, lanes));
        assert_eq!(h.lookups, 3 * 8 * 49152);
    }
    let other = EmbeddingSpec { vocab: 49151, ..embedding.clone() };
    let error = LayoutError::Ends { what: "vocabulary", embedding: 49151, head: 49152 };
    assert_eq!(fit_ends(&other, &head, 16).unwrap_err(), error);
    assert!(matches!(fit_ends(&embedding, &head, 10).unwrap_err(), LayoutError::Rows { .. }));
}
