//! Cheating witnesses for every soundness row of `docs/security.md` that lives in the circuit, each with the
//! exact constraints that reject it. The cheater recomputes everything downstream as an honest prover would,
//! multiplicities and accumulators included: only the lie itself is inconsistent.
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::sync::Arc;

use common::Bench;
use ff::Field;
use halo2_proofs::plonk::{Circuit, ConstraintSystem, FirstPhase, SecondPhase};
use lamina_circuits::{
    Fr,
    assign::BlockWitness,
    audit::{AuditError, determination},
    block::{BlockCircuit, Columns},
    executor::{ExecError, Trace, execute, product},
    layout::{Layout, Norm, Row, WeightOp},
    logup::LogUp,
    range::{RangeCircuit, RangeParams},
    rows::{A, B, C2, C3, C4, C5, C6, F, Kind, SLOTS, halves},
    slice::SliceCircuit,
    spec::{Activation, Biases, BlockSpec, BlockWeights, FeedForward, Matrix, Rope, Scales, Shape},
    testing,
};

mod common;

fn bench() -> Bench {
    bench_of(|scales| scales)
}

/// The block of the tests with the operations of a family.
fn bench_of(like: impl Fn(Scales) -> Scales) -> Bench {
    let mut params = testing::params(testing::tiny_params().spec.shape, 4, 2, 9);
    params.spec.shape.kv_heads = 2;
    params.spec.scales = like(params.spec.scales);
    Bench::new(&params, 5)
}

/// A block of each family.
fn families() -> [Bench; 3] {
    [bench(), bench_of(testing::like_gpt2), bench_of(testing::like_qwen2)]
}

/// Adds `delta` to one cell.
fn add(w: &mut BlockWitness, at: usize, slot: usize, lane: usize, delta: i32) {
    let lanes = w.layout.lanes;
    Arc::make_mut(&mut w.cells[slot * lanes + lane])[at] += delta;
}

fn get(w: &BlockWitness, at: usize, slot: usize, lane: usize) -> i32 {
    w.cells[slot * w.layout.lanes + lane][at]
}

fn recounted(mut w: BlockWitness) -> BlockWitness {
    w.count();
    w
}

/// A witness of `trace` with the honest weight columns.
fn laid_out(bench: &Bench, trace: &Trace) -> BlockWitness {
    BlockWitness::new(&bench.circuit.layout, bench.honest.weights.clone(), trace)
}

fn first_row(layout: &Layout, kind: Kind) -> usize {
    layout.rows().position(|(_, row)| row.kind() == kind).unwrap()
}

// S3, S4: a value has one quotient, one remainder, one set of limbs.
#[test]
fn both_neighbours_of_every_rounded_value_are_rejected() {
    families().iter().for_each(neighbours_are_rejected);
}

fn neighbours_are_rejected(bench: &Bench) {
    let (layout, s) = (bench.circuit.layout.clone(), bench.circuit.params.spec.scales.clone());
    let (norm_lo, _) = halves(s.norm_shift);
    let (prob_lo, _) = halves(s.prob_shift);
    // (kind, quotient slot, remainder slots with their weights, shift); quotients that an operation reads
    // downstream also break that operation, so only the range check is asserted to be among the reasons.
    let mut sites: Vec<(Kind, usize, usize, u32, u32)> = vec![
        (Kind::StreamIn, C3, C6, s.norm_shift, norm_lo),
        (Kind::StreamMid, C3, C6, s.norm_shift, norm_lo),
        (Kind::StreamMid, C2, C5, s.attn_out_shift, 0),
        (Kind::MixOut, C2, C5, s.ffn_out_shift, 0),
        (Kind::Query, C3, C4, s.qk_shift, 0),
        (Kind::Key, C3, C4, s.qk_shift, 0),
        (Kind::Value, C3, C4, s.v_shift, 0),
        (Kind::Score, C5, C6, s.prob_shift, prob_lo),
        (Kind::MixOut, C3, C4, s.mix_shift, 0),
        (Kind::FeedForward, A, C2, s.gate_shift, 0),
    ];
    if let Some(rope) = s.rope {
        sites.push((Kind::Key, C5, C6, rope.bits, 0));
    }
    if let FeedForward::Gated { up_shift, glu_shift } = s.feed_forward {
        sites.push((Kind::FeedForward, C3, C4, up_shift, 0));
        sites.push((Kind::FeedForward, C5, C6, glu_shift, 0));
    }
    for (kind, q, r, shift, low) in sites {
        let at = first_row(&layout, kind);
        for delta in [1, -1] {
            let mut cheat = bench.honest.clone();
            add(&mut cheat, at, q, 0, delta);
            add(&mut cheat, at, r, 0, -delta << (shift - low));
            let ids = bench.violated(&recounted(cheat));
            assert!(ids.contains(&"lookup/4"), "{kind:?} {delta:+}: {ids:?}");
            // The relation that splits the value is content: the range of the remainder is what rejects.
            assert!(!ids.iter().any(|id| id.starts_with("norm/") || *id == "softmax/6"), "{kind:?}: {ids:?}");
        }
    }
    // Limbs of the stream: one more high limb, 2^lo less low limb.
    let mut cheat = bench.honest.clone();
    let at = first_row(&layout, Kind::MixOut);
    add(&mut cheat, at, A, 0, 1);
    add(&mut cheat, at, C2, 0, -(1 << s.residual_lo_bits));
    assert_eq!(bench.violated(&recounted(cheat)), ["lookup/4"]);
}

// S2: each row looks up every cell of every lane; one out-of-range cell is rejected, on idle rows too.
#[test]
fn every_cell_is_looked_up() {
    families().iter().for_each(cells_are_looked_up);
}

fn cells_are_looked_up(bench: &Bench) {
    let layout = bench.circuit.layout.clone();
    let per_row = bench.cs.gates().iter().find(|g| g.name() == "lookup/1").unwrap().polynomials().len();
    assert_eq!(per_row * 3, 6 * layout.lanes, "three lookups a helper, six a lane");
    for at in [0, first_row(&layout, Kind::Value), layout.rows_used.0, layout.active - 1] {
        for slot in [A, C2, C3, C4, C5, C6] {
            let mut cheat = bench.honest.clone();
            cheat.overrides.insert((slot * layout.lanes, at), Fr::from(1 << 20));
            let ids = bench.violated(&recounted(cheat));
            assert!(ids.contains(&"lookup/4"), "row {at} slot {slot}: {ids:?}");
        }
    }
}

// S5: a table entry counted twice, and one not counted.
#[test]
fn wrong_multiplicities_are_rejected() {
    let bench = bench();
    for delta in [1, -1] {
        let mut cheat = bench.honest.clone();
        Arc::make_mut(&mut cheat.multiplicities[0])[3] += delta;
        assert_eq!(bench.violated(&cheat), ["lookup/4"]);
    }
    let mut cheat = bench.honest.clone();
    Arc::make_mut(&mut cheat.multiplicities[0])[3] += 1;
    Arc::make_mut(&mut cheat.multiplicities[0])[4] -= 1;
    assert_eq!(bench.violated(&cheat), ["lookup/4"]);
}

/// Rewrites the attention of head 0, query `t`, from a chosen maximum, consistently downstream of `e`.
fn with_maximum(bench: &Bench, t: usize, shift: i32) -> BlockWitness {
    let spec = &bench.circuit.params.spec;
    let mut trace = execute(spec, &bench.weights, &bench.x).unwrap();
    let a = &mut trace.attention;
    let row = t * spec.tokens;
    a.max[t] += shift;
    let mut sum = 0;
    for s in 0..spec.tokens {
        a.distance[row + s] += shift;
        if s <= t {
            a.exp[row + s] = lamina_circuits::tables::exp_entry(&spec.scales, a.distance[row + s].max(0));
        }
        sum += i64::from(a.exp[row + s]);
    }
    a.sum[t] = sum;
    a.recip[t] = ((1i64 << spec.scales.recip_bits) / sum) as i32;
    for s in 0..spec.tokens {
        let c = i64::from(a.exp[row + s]) * i64::from(a.recip[t]) + (1 << (spec.scales.prob_shift - 1));
        a.prob.q[row + s] = (c >> spec.scales.prob_shift) as i32;
        a.prob.r[row + s] = (c & ((1 << spec.scales.prob_shift) - 1)) as i32;
    }
    laid_out(bench, &trace)
}

// S7: the maximum off by one.
#[test]
fn a_maximum_off_by_one_is_rejected() {
    let bench = bench();
    let above = bench.violated(&with_maximum(&bench, 2, 1));
    assert!(above.contains(&"sum/2"), "no key attains the maximum: {above:?}");
    let below = bench.violated(&with_maximum(&bench, 2, -1));
    assert!(below.contains(&"lookup/4"), "a distance of -1: {below:?}");
    // Claiming attainment at a key whose distance is not zero.
    let layout = bench.circuit.layout.clone();
    let (mut cheat, t) = (with_maximum(&bench, 2, 1), 2);
    let (group, lane) = (t / layout.lanes, t % layout.lanes);
    let at = layout.row_of(group, Row::Score { head: 0, key: 0 });
    add(&mut cheat, at, C3, lane, 1);
    let ids = bench.violated(&recounted(cheat));
    assert!(ids.contains(&"softmax/2"), "{ids:?}");
}

// S7, S21: the reciprocal off by one, half, or anything modulo p.
#[test]
fn a_wrong_reciprocal_is_rejected() {
    let bench = bench();
    let layout = bench.circuit.layout.clone();
    let s = &bench.circuit.params.spec.scales;
    let lanes = layout.lanes;
    let sum_row = layout.row_of(0, Row::Sum(0));
    let max_row = layout.row_of(0, Row::Max(0));
    let limb = 1i64 << s.limb_bits;
    let z = 1
        + i64::from(get(&bench.honest, sum_row, C2, 0))
        + limb * i64::from(get(&bench.honest, sum_row, C3, 0))
        + i64::from(get(&bench.honest, sum_row, C4, 0))
        + limb * i64::from(get(&bench.honest, sum_row, C5, 0));
    for delta in [1i64, -1] {
        // R + delta everywhere, rem - delta Z, the weights recomputed.
        let mut cheat = bench.honest.clone();
        add(&mut cheat, max_row, C2, 0, delta as i32);
        add(&mut cheat, sum_row, C2, 0, (-delta * z) as i32);
        add(&mut cheat, sum_row, C4, 0, (delta * z) as i32);
        for at in layout.row_of(0, Row::Score { head: 0, key: 0 })..=max_row {
            add(&mut cheat, at, F, 0, delta as i32);
            if at < sum_row {
                let c = i64::from(get(&cheat, at, B, 0)) * i64::from(get(&cheat, at, F, 0))
                    + (1 << (s.prob_shift - 1));
                let (q, r) = ((c >> s.prob_shift) as i32, (c & ((1 << s.prob_shift) - 1)) as i32);
                let (lo, _) = halves(s.prob_shift);
                for (slot, v) in [(C5, q), (C4, r & ((1 << lo) - 1)), (C6, r >> lo)] {
                    let old = get(&cheat, at, slot, 0);
                    add(&mut cheat, at, slot, 0, v - old);
                }
            }
        }
        let ids = bench.violated(&recounted(cheat));
        assert!(ids.contains(&"lookup/4"), "reciprocal {delta:+}: {ids:?}");
        assert!(!ids.contains(&"softmax/5") && !ids.contains(&"softmax/6"), "{ids:?}");
    }
    // Any R modulo p: rem is solved for, and is no integer of two limbs.
    let mut cheat = bench.honest.clone();
    let r = Fr::from(3).invert().unwrap();
    for at in layout.row_of(0, Row::Score { head: 0, key: 0 })..=max_row {
        cheat.overrides.insert((F * lanes, at), r);
    }
    cheat.overrides.insert((C2 * lanes, max_row), r);
    cheat.overrides.insert((C3 * lanes, max_row), Fr::ZERO);
    let rem = Fr::from(1u64 << s.recip_bits) - r * Fr::from(z as u64);
    cheat.overrides.insert((C2 * lanes, sum_row), rem);
    cheat.overrides.insert((C3 * lanes, sum_row), Fr::ZERO);
    cheat.overrides.insert((C4 * lanes, sum_row), Fr::from(z as u64) - Fr::ONE - rem);
    cheat.overrides.insert((C5 * lanes, sum_row), Fr::ZERO);
    let ids = bench.violated(&recounted(cheat));
    assert!(ids.contains(&"lookup/4") && !ids.contains(&"softmax/5"), "{ids:?}");
}

// S21: a reciprocal root off by one, and a half-integer one.
#[test]
fn a_wrong_reciprocal_root_is_rejected() {
    let bench = bench();
    let layout = bench.circuit.layout.clone();
    let s = &bench.circuit.params.spec.scales;
    let lanes = layout.lanes;
    let root = layout.row_of(0, Row::Root(Norm::Attn));
    let v: u64 = (0..4)
        .map(|i| (get(&bench.honest, root, [C2, C3, C4, C5][i], 0) as u64) << (s.limb_bits * i as u32))
        .sum();
    let honest = Fr::from(get(&bench.honest, root, F, 0) as u64);
    let half = Fr::from(2).invert().unwrap();
    let one = Fr::from(2).pow_vartime([u64::from(2 * s.rsqrt_bits)]);
    for change in [Fr::ONE, -Fr::ONE, half] {
        let mut cheat = bench.honest.clone();
        let r = honest + change;
        let v = Fr::from(v);
        for at in 0..=root {
            cheat.overrides.insert((F * lanes, at), r);
        }
        cheat.overrides.insert((A * lanes, root), r);
        cheat.overrides.insert((C6 * lanes, root), Fr::ZERO);
        // Both remainders solved for, in one limb.
        let next = r + Fr::ONE;
        for (row, value) in [(root + 1, one - r * r * v), (root + 2, next * next * v - one - Fr::ONE)] {
            for slot in [A, C2, C3, C4, C5, C6] {
                cheat.overrides.insert((slot * lanes, row), if slot == A { value } else { Fr::ZERO });
            }
        }
        let ids = bench.violated(&recounted(cheat));
        assert!(ids.contains(&"lookup/4"), "{ids:?}");
        assert!(!ids.contains(&"norm/2") && !ids.contains(&"norm/3"), "{ids:?}");
    }
}

// S19: a weight on a masked key; a maximum taken from one.
#[test]
fn masked_keys_have_no_weight_and_no_maximum() {
    let bench = bench();
    let layout = bench.circuit.layout.clone();
    // Lane 0 of group 0 is token 0: key 1 is masked for it.
    let at = layout.row_of(0, Row::Score { head: 0, key: 1 });
    let mut cheat = bench.honest.clone();
    add(&mut cheat, at, B, 0, 1);
    let ids = bench.violated(&recounted(cheat));
    assert_eq!(ids, ["lookup/4", "softmax/6", "sum/2"], "an exponential where masked");
    let mut cheat = bench.honest.clone();
    add(&mut cheat, at, C5, 0, 1);
    assert_eq!(bench.violated(&recounted(cheat)), ["copy", "softmax/6"], "a weight where masked");
    let own = layout.row_of(0, Row::Score { head: 0, key: 0 });
    let mut cheat = bench.honest.clone();
    add(&mut cheat, own, C3, 0, -1);
    add(&mut cheat, at, C3, 0, 1);
    let ids = bench.violated(&recounted(cheat));
    assert!(ids.contains(&"softmax/3"), "the maximum claimed at a masked key: {ids:?}");
}

// S20: +E in one head, group or operation and -E in another.
#[test]
fn errors_do_not_cancel() {
    let bench = bench();
    let layout = bench.circuit.layout.clone();
    let mix = |group, j| layout.row_of(group, Row::MixOut(j));
    let glu = layout.row_of(0, Row::FeedForward(0));
    let out = layout.row_of(0, Row::MixOut(0));
    let hd = layout.spec.shape.head_dim;
    for (name, plus, minus) in [
        ("two heads", (mix(0, 0), C4, 0), (mix(0, hd), C4, 0)),
        ("two groups", (mix(0, 0), C4, 0), (mix(1, 0), C4, 0)),
        ("two lanes", (mix(0, 0), C4, 0), (mix(0, 0), C4, 1)),
        ("two features", (mix(0, 0), C4, 0), (mix(0, 1), C4, 0)),
        ("gate and up", (glu, C2, 0), (glu, C4, 0)),
        ("two operations", (mix(0, 0), C4, 0), (out, C5, 0)),
    ] {
        let mut cheat = bench.honest.clone();
        for ((at, slot, lane), delta) in [(plus, 1), (minus, -1)] {
            // Keep the remainder in its range, so that only the product can object.
            let v = get(&cheat, at, slot, lane);
            let delta = if v + delta < 0 || v + delta > 30 { -delta } else { delta };
            add(&mut cheat, at, slot, lane, delta);
        }
        let ids = bench.violated(&recounted(cheat));
        assert_eq!(ids, ["copy"], "{name}: the closing equality of each operation is a copy constraint");
    }
}

// S20: both boundaries and the last product share one equality, three relations by powers of eta.
#[test]
fn relations_that_share_an_equality_do_not_cancel() {
    let bench = bench();
    let layout = bench.circuit.layout.clone();
    let shift = bench.circuit.params.spec.scales.ffn_out_shift;
    let out = layout.row_of(0, Row::MixOut(0));
    let lo = get(&bench.honest, out, C2, 0);
    // One unit up or down, whichever keeps the low limb of the output in its range.
    let unit = if lo == 0 { 1 } else { -1 };
    // Changes of the first cell of the input boundary and of the output's, of the output and of its remainder.
    for (name, input, output, y, rest, expected) in [
        ("input against output boundary", 1, -1, 0, 0, &["copy"][..]),
        ("input boundary against remainder", 1, 0, 0, -1, &["copy"]),
        ("output boundary against remainder", unit, 0, 0, -unit << shift, &["copy", "lookup/4"]),
        ("output against its boundary", 0, unit, unit, 0, &["copy"]),
        ("output and remainder, the boundary kept", 0, 0, unit, -unit << shift, &["copy", "lookup/4"]),
        // Everything adds up, and only the remainder's range is left to object.
        ("all three", 0, unit, unit, -unit << shift, &["lookup/4"]),
    ] {
        let mut cheat = bench.honest.clone();
        Arc::make_mut(&mut cheat.boundary_in[0])[0] += input;
        Arc::make_mut(&mut cheat.boundary_out[0])[0] += output;
        add(&mut cheat, out, C2, 0, y);
        add(&mut cheat, out, C5, 0, rest);
        assert_eq!(bench.violated(&recounted(cheat)), expected, "{name}");
    }
}

// S8: out of range is an error of the executor, and a value that the witness clamps is rejected.
#[test]
fn a_clamp_in_the_witness_is_rejected() {
    let bench = bench();
    let spec = &bench.circuit.params.spec;
    let largest = (1i64 << (spec.scales.act_bits - 1)) - 1;
    let mut trace = execute(spec, &bench.weights, &bench.x).unwrap();
    // What a prover does whose output is too large: the largest value, and the rest in the remainder.
    let excess = largest as i32 - trace.output.q[0];
    assert!(excess > 0, "the honest value is smaller");
    trace.output.q[0] += excess;
    trace.output.r[0] -= excess << spec.scales.ffn_out_shift;
    let ids = bench.violated(&laid_out(&bench, &trace));
    assert_eq!(ids, ["lookup/4"], "only the remainder's range objects");
    // The executor says so instead.
    let mut weights = bench.weights.clone();
    let up = weights.up.as_mut().unwrap();
    for matrix in [&mut weights.v, &mut weights.o, up, &mut weights.gate, &mut weights.down] {
        for entry in Arc::make_mut(&mut matrix.data) {
            *entry = if *entry < 0 { -127 } else { 127 };
        }
    }
    let x = vec![largest as i32; bench.x.len()];
    let error = execute(spec, &weights, &x).unwrap_err();
    assert!(
        matches!(error, ExecError::OutOfRange { value, min, max, .. } if value < min || value > max),
        "{error}"
    );
}

// S10, S31: one product computed with another weight, everything downstream consistent with it.
#[test]
fn a_wrong_product_consistent_downstream_is_rejected() {
    for bench in families() {
        for (name, _, _, _) in bench.weights.matrices(&bench.circuit.params.spec) {
            with_entry_changed(&bench, name, |_| 0);
        }
    }
}

// S10, S31: one bias changed by one, everything downstream consistent with it.
#[test]
fn an_altered_bias_is_rejected() {
    for bench in [bench_of(testing::like_gpt2), bench_of(testing::like_qwen2)] {
        let spec = &bench.circuit.params.spec;
        let biased = |name: &str| match name {
            "q" | "k" => spec.scales.bias.qk,
            "v" => spec.scales.bias.v,
            "o" => spec.scales.bias.o,
            "gate" | "up" => spec.scales.bias.gate,
            _ => spec.scales.bias.down,
        };
        for (name, _, rows, cols) in bench.weights.matrices(spec) {
            if biased(name).is_some() {
                with_entry_changed(&bench, name, |_| (rows - 1) * cols);
            }
        }
    }
}

/// A trace of weights with one entry of one matrix changed, under the honest commitments.
fn with_entry_changed(bench: &Bench, changed: &str, entry: impl Fn(&Matrix) -> usize) {
    let spec = &bench.circuit.params.spec;
    let made = bench.weights.matrices(spec);
    let weights = BlockWeights::build(spec, |name, _, _| {
        let (_, matrix, _, _) = made.iter().find(|(own, ..)| *own == name).unwrap();
        let mut matrix = (*matrix).clone();
        if name == changed {
            let at = entry(&matrix);
            let value = &mut Arc::make_mut(&mut matrix.data)[at];
            *value += if *value > 0 { -1 } else { 1 };
        }
        Ok::<_, ExecError>(matrix)
    });
    let trace = execute(spec, &weights.unwrap(), &bench.x).unwrap();
    assert_ne!(trace, execute(spec, &bench.weights, &bench.x).unwrap(), "{changed} changes something");
    assert_eq!(bench.violated(&laid_out(bench, &trace)), ["copy"], "{changed}");
}

// The bias counted twice for one token, everything downstream consistent with it: only its left factor is wrong.
#[test]
fn biases_are_added_once_to_every_token() {
    let only_down =
        |scales| Scales { bias: Biases { down: Some(4), ..Biases::default() }, ..testing::like_gpt2(scales) };
    let bench = bench_of(only_down);
    let spec = &bench.circuit.params.spec;
    let d = spec.shape.hidden;
    let honest = execute(spec, &bench.weights, &bench.x).unwrap();
    let mut twice = bench.weights.clone();
    let bias = twice.down.data.len() - d;
    Arc::make_mut(&mut twice.down.data)[bias..].iter_mut().for_each(|b| *b *= 2);
    let other = execute(spec, &twice, &bench.x).unwrap();
    for token in 0..spec.tokens {
        let own = token * d..(token + 1) * d;
        let mut trace = honest.clone();
        trace.output.q[own.clone()].copy_from_slice(&other.output.q[own.clone()]);
        trace.output.r[own.clone()].copy_from_slice(&other.output.r[own]);
        let mut cheat = laid_out(&bench, &trace);
        assert_eq!(bench.violated(&cheat), ["copy"], "token {token}: the sum is another");
        cheat.bias_counts = vec![1; spec.tokens];
        cheat.bias_counts[token] = 2;
        assert_eq!(bench.violated(&cheat), ["product/3"], "token {token}");
    }
}

// S3, S31: an activation that is not the table's, everything downstream consistent with it.
#[test]
fn another_activation_is_rejected() {
    let bench = bench_of(testing::like_gpt2);
    let spec = &bench.circuit.params.spec;
    let shift = spec.scales.ffn_out_shift;
    for change in [1, -1] {
        let mut trace = execute(spec, &bench.weights, &bench.x).unwrap();
        trace.activated[0] += change;
        let sums = product(&trace.activated, &bench.weights.down, spec.scales.bias.down);
        for (i, sum) in sums.into_iter().enumerate() {
            let c = sum + (1 << (shift - 1));
            trace.output.q[i] = trace.middle.q[i] + (c >> shift) as i32;
            trace.output.r[i] = (c & ((1 << shift) - 1)) as i32;
        }
        assert_ne!(trace.output, execute(spec, &bench.weights, &bench.x).unwrap().output);
        assert_eq!(bench.violated(&laid_out(&bench, &trace)), ["lookup/4"], "{change:+}");
    }
    // The same with SiLU's table in place of GELU's.
    let (mut other, mut trace) = (spec.clone(), execute(spec, &bench.weights, &bench.x).unwrap());
    other.scales.activation = Activation::Silu;
    let silu = execute(&other, &bench.weights, &bench.x).unwrap();
    (trace.activated, trace.output) = (silu.activated, silu.output);
    assert_eq!(bench.violated(&laid_out(&bench, &trace)), ["lookup/4"]);
}

// S31: queries and keys that no rotation follows are those that the scores read.
#[test]
fn queries_without_rotation_are_those_of_the_product() {
    let bench = bench_of(testing::like_gpt2);
    let spec = &bench.circuit.params.spec;
    let honest = execute(spec, &bench.weights, &bench.x).unwrap();
    for key in [false, true] {
        let mut trace = honest.clone();
        let values = if key { &mut trace.key.q } else { &mut trace.query.q };
        values[0] += if values[0] > 0 { -1 } else { 1 };
        assert_eq!(bench.violated(&laid_out(&bench, &trace)), ["copy"], "key {key}");
    }
    let mut trace = honest;
    trace.query.r[0] ^= 1;
    assert_eq!(bench.violated(&laid_out(&bench, &trace)), ["copy"], "a remainder");
}

// S16, S27: a boundary, or a padding token, that is not the one computed.
#[test]
fn boundaries_are_the_streams() {
    let bench = bench();
    for (side, last) in [(0, bench.x.len() - 1), (1, 0)] {
        let mut cheat = bench.honest.clone();
        let columns = if side == 0 { &mut cheat.boundary_in } else { &mut cheat.boundary_out };
        Arc::make_mut(&mut columns[0])[last] += 1;
        assert_eq!(bench.violated(&cheat), ["copy"]);
    }
    // The last token is padding to a caller who sent fewer; its cells are constrained like any other's.
    let layout = &bench.circuit.layout;
    for slot in 0..SLOTS {
        let mut cheat = bench.honest.clone();
        let at = layout.row_of(layout.groups - 1, Row::Stream(Kind::StreamMid, 0));
        add(&mut cheat, at, slot, layout.lanes - 1, 1);
        assert_ne!(bench.violated(&recounted(cheat)), Vec::<&str>::new());
    }
}

// S28: no table holds the zero tuple, and padding repeats true entries.
#[test]
fn tables_hold_no_zero_tuple() {
    let bench = bench();
    let l = &bench.columns.logup;
    let active = bench.circuit.layout.active;
    for [input, output, tag] in &l.tables {
        for row in 0..active {
            let tag = bench.fixed[tag.index()][row];
            assert_ne!(tag, Fr::ZERO, "row {row}");
            let entry = (bench.fixed[input.index()][row], bench.fixed[output.index()][row], tag);
            let first = l.tables[0].map(|c| bench.fixed[c.index()][0]);
            let (set, spec) = (&bench.circuit.layout.tables, &bench.circuit.params.spec);
            let known = set.tables.iter().zip(&set.spans).enumerate().any(|(i, (t, &(_, from, size)))| {
                entry.2 == Fr::from(i as u64 + 1)
                    && (0..size as i32).any(|o| {
                        common::signed(from + o) == entry.0
                            && common::signed(t.output(&spec.scales, from + o)) == entry.1
                    })
            });
            assert!(known || entry == (first[0], first[1], first[2]));
        }
    }
}

// S22: without the closing gate the same forgery would pass every other constraint.
#[test]
fn only_the_closed_sum_rejects_an_out_of_range_cell() {
    let bench = bench();
    let at = bench.circuit.layout.rows_used.0;
    let mut cheat = bench.honest.clone();
    cheat.overrides.insert((0, at), Fr::from(1 << 30));
    assert_eq!(bench.violated(&recounted(cheat)), ["lookup/4"]);
}

// S23: a circuit that looks up a phase-1 cell is refused.
#[test]
fn looked_up_phase_one_cells_are_refused() {
    let params = testing::tiny_params();
    let mut cs = ConstraintSystem::<Fr>::default();
    let _: (Columns, Arc<Layout>) = BlockCircuit::configure_with_params(&mut cs, params);
    assert_eq!(determination(&cs), Ok(()));

    let mut cs = ConstraintSystem::<Fr>::default();
    let counts = LogUp::multiplicities(&mut cs, 1);
    let cell = cs.advice_column_in(SecondPhase);
    let active = cs.fixed_column();
    let logup = LogUp::new(&mut cs, counts, 1, active);
    let [theta, beta] = [(); 2].map(|()| cs.challenge_usable_after(FirstPhase));
    logup.gates(&mut cs, theta, beta, |meta| {
        vec![meta.query_advice(cell, halo2_proofs::poly::Rotation::cur())]
    });
    assert_eq!(
        determination(&cs),
        Err(AuditError::LookedUpLate {
            gate: "lookup/1".into(),
            relation: 0,
            columns: vec![cell.index(), logup.helpers[0].index()]
        })
    );
}

// S14: specifications whose relations could wrap around are refused, each by name.
#[test]
fn unsound_specifications_are_refused() {
    let good = testing::tiny_params().spec;
    good.check().unwrap();
    let refused = |change: &dyn Fn(&mut BlockSpec)| {
        let mut spec = good.clone();
        change(&mut spec);
        spec.check().unwrap_err().to_string()
    };
    for (change, expected) in [
        (&(|s: &mut BlockSpec| s.shape.hidden = 1 << 16) as &dyn Fn(&mut BlockSpec), "rms-norm/1"),
        (&|s: &mut BlockSpec| s.scales.rsqrt_bits = 40, "rms-norm/2"),
        (&|s: &mut BlockSpec| s.scales.recip_bits = 30, "softmax/5"),
        (&|s: &mut BlockSpec| s.scales.qk_shift = 16, "qk_shift"),
        (&|s: &mut BlockSpec| s.weight_bits = 17, "weight_bits"),
        (&|s: &mut BlockSpec| s.scales.exp_out_bits = 8, "exp_out_bits"),
        (&|s: &mut BlockSpec| s.shape.kv_heads = 3, "kv_heads"),
        (&|s: &mut BlockSpec| s.scales.rope = Some(Rope { bits: 16, base: 2 }), "rope.bits"),
        (&|s: &mut BlockSpec| s.scales.rope = Some(Rope { bits: 6, base: 1 }), "rope.base"),
        (
            &|s: &mut BlockSpec| {
                s.scales.feed_forward = FeedForward::Gated { up_shift: 6, glu_shift: 16 };
            },
            "glu_shift",
        ),
        (&|s: &mut BlockSpec| s.scales.activated_frac = 6, "feed-forward/activation"),
        (&|s: &mut BlockSpec| s.scales.bias.o = Some(54), "matmul/bias"),
        (&|s: &mut BlockSpec| s.scales.bias.down = Some(u32::MAX), "matmul/bias"),
    ] {
        let message = refused(change);
        assert!(message.contains(expected), "{message}");
    }
}

// S6: which token, head, lane and operation a row belongs to is fixed in the key, never in a witness: a row has
// at most one kind, every selector, mask and link is a fixed column, and there is nothing else that selects.
#[test]
fn no_index_is_the_provers() {
    families().iter().for_each(indices_are_fixed);
}

fn indices_are_fixed(bench: &Bench) {
    let (layout, c) = (&bench.circuit.layout, &bench.columns);
    for (at, row) in
        layout.rows().map(|(_, row)| Some(row)).chain(std::iter::repeat(None)).take(layout.active).enumerate()
    {
        let on: Vec<usize> =
            (0..Kind::ALL.len()).filter(|&kind| bench.fixed[c.kinds[kind].index()][at] != Fr::ZERO).collect();
        let expected: Vec<usize> = Kind::ALL
            .iter()
            .position(|kind| row.is_some_and(|row| row.kind() == *kind))
            .into_iter()
            .collect();
        assert_eq!(on, expected, "row {at}");
        assert!(on.iter().all(|&kind| bench.fixed[c.kinds[kind].index()][at] == Fr::ONE), "row {at}");
    }
    // The causal mask is 0 or 1 and says `key <= token` on score rows.
    for (at, (group, row)) in layout.rows().enumerate() {
        let Row::Score { key, .. } = row else { continue };
        for (lane, mask) in c.mask.iter().enumerate() {
            let token = group.unwrap() * layout.lanes + lane;
            let expected = if key <= token { Fr::ONE } else { Fr::ZERO };
            assert_eq!(bench.fixed[mask.index()][at], expected, "token {token}, key {key}");
        }
    }
    // A bias is a left factor on the first of its rows and nowhere else.
    let mut factors = vec![Fr::ZERO; layout.active];
    for (row, shift) in layout.weight_ops.iter().filter_map(WeightOp::bias_row) {
        factors[row] = Fr::from(1 << shift);
    }
    match c.bias {
        Some(bias) => assert_eq!(bench.fixed[bias.index()][..layout.active], factors),
        None => assert!(factors.iter().all(|factor| *factor == Fr::ZERO)),
    }
    // No gate has a fixed selector's job done by advice: switched off rows hold whatever is in the advice columns.
    let n = 1usize << layout.k;
    for gate in bench.cs.gates() {
        for formula in gate.polynomials() {
            for row in layout.active + 1..n {
                let noise = |index: usize, at: i32| {
                    Fr::from((7919 * (index as u64 + 3)) ^ (row as u64 + 40) ^ (at + 9) as u64)
                };
                let value = formula.evaluate(
                    &|c| c,
                    &|_| Fr::ZERO,
                    &|q| {
                        bench.fixed[q.column_index()]
                            [(row as i64 + i64::from(q.rotation().0)).rem_euclid(n as i64) as usize]
                    },
                    &|q| noise(q.column_index(), q.rotation().0),
                    &|_| Fr::ZERO,
                    &|c| bench.challenges[c.index()],
                    &|a| -a,
                    &|a, b| a + b,
                    &|a, b| a * b,
                    &|a, s| a * s,
                );
                assert_eq!(value, Fr::ZERO, "{} on blinding row {row}", gate.name());
            }
        }
    }
}

// Parameters of a stranger's card: absurd sizes are refused before anything of that size is allocated.
#[test]
fn absurd_parameters_are_refused_cheaply() {
    let mut params = testing::tiny_params();
    params.spec.shape = Shape { hidden: 16, ffn: 1 << 17, heads: 1 << 10, kv_heads: 1, head_dim: 1 << 10 };
    params.spec.tokens = 64;
    let refused = <BlockCircuit as SliceCircuit>::check(&params).unwrap_err();
    assert_eq!(refused.reason, "the block does not fit its rows");
    // Found by fuzzing cards: columns whose number alone takes the library minutes.
    params = testing::tiny_params();
    params.spec.scales = testing::wide_scales(params.spec.shape.hidden);
    params.spec.tokens = 512;
    params.lanes = 512;
    params.k = 20;
    let refused = <BlockCircuit as SliceCircuit>::check(&params).unwrap_err();
    assert_eq!(refused.reason, "the block has too many columns");
    for range in [
        RangeParams { columns: 1 << 15, bits: 8, k: 9 },
        RangeParams { columns: usize::MAX, bits: 8, k: 9 },
        RangeParams { columns: 1, bits: 16, k: 4 },
    ] {
        let refused = <RangeCircuit as SliceCircuit>::check(&range).unwrap_err();
        assert_eq!(refused.reason, "unsupported size of a range circuit", "{range:?}");
    }
    params.k = 30;
    assert_eq!(<BlockCircuit as SliceCircuit>::check(&params).unwrap_err().reason, "k is above 20");
    params.k = 9;
    params.spec.shape.hidden = usize::MAX;
    let refused = <BlockCircuit as SliceCircuit>::check(&params).unwrap_err();
    assert_eq!(refused.reason, "the block's specification breaks a static bound");
}
