//! The embedding slice: executor = circuit, every cell constrained, every cheat rejected by its constraint.
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::sync::Arc;

use common::{advice, challenges, fixed};
use ff::Field;
use halo2_proofs::{
    dev::MockProver,
    plonk::{Circuit, ConstraintSystem},
};
use lamina_circuits::{
    Fr,
    audit::{determination, violations},
    bounds::SpecError,
    embedding::{
        EmbeddingCircuit, EmbeddingParams, EmbeddingSpec, EmbeddingWeights, EmbeddingWitness, embed,
    },
    executor::ExecError,
    layout::LayoutError,
    slice::SliceCircuit,
    testing,
};

mod common;

/// An embedding held against every gate.
struct Bench {
    circuit: EmbeddingCircuit,
    cs: ConstraintSystem<Fr>,
    fixed: Vec<Vec<Fr>>,
    challenges: Vec<Fr>,
    weights: EmbeddingWeights,
    ids: Vec<u32>,
    x: Vec<i32>,
    honest: EmbeddingWitness,
}

impl Bench {
    fn new(params: &EmbeddingParams, seed: u64) -> Bench {
        let circuit = EmbeddingCircuit::new(params).unwrap();
        let weights = testing::embedding_weights(&params.spec, seed, 90);
        let mut rng = testing::Generator(seed);
        let mut ids: Vec<u32> =
            (0..params.spec.tokens).map(|_| (rng.next_u64() % params.spec.vocab as u64) as u32).collect();
        // The first and the last id, and one twice.
        ids[0] = 0;
        *ids.last_mut().unwrap() = params.spec.vocab as u32 - 1;
        if ids.len() > 3 {
            ids[1] = ids[2];
        }
        let x = embed(&params.spec, &weights, &ids).unwrap();
        let columns = circuit.layout.weight_columns(&weights).into_iter().map(Arc::new).collect();
        let honest = EmbeddingWitness::new(&circuit.layout, Arc::new(columns), &ids, &x);
        let mut cs = ConstraintSystem::default();
        EmbeddingCircuit::configure_with_params(&mut cs, params.clone());
        let fixed = fixed(&circuit, &cs, params.k);
        let challenges = challenges(&cs, seed);
        Bench { circuit, cs, fixed, challenges, weights, ids, x, honest }
    }

    fn violated(&self, witness: &EmbeddingWitness) -> Vec<&'static str> {
        let advice = advice(&self.cs, self.circuit.params.k, witness, &self.challenges);
        violations(&self.cs, &self.fixed, &advice, &self.challenges, self.circuit.layout.active + 1, &[])
    }

    /// The honest weights with other ids and activations.
    fn claim(&self, ids: &[u32], x: &[i32]) -> EmbeddingWitness {
        EmbeddingWitness::new(&self.circuit.layout, self.honest.weights.clone(), ids, x)
    }
}

fn shapes() -> Vec<EmbeddingParams> {
    let tiny = testing::tiny_embedding();
    let shape = |hidden, vocab, tokens, weight_lanes, position_shift, k| EmbeddingParams {
        spec: EmbeddingSpec { hidden, vocab, tokens, position_shift, ..tiny.spec.clone() },
        weight_lanes,
        k,
    };
    let centred = |mut params: EmbeddingParams| {
        params.spec.centred = true;
        params
    };
    vec![
        tiny.clone(),
        centred(tiny.clone()),
        centred(shape(3, 57, 4, 13, None, 6)),
        shape(3, 57, 4, 13, None, 6),
        shape(1, 1, 1, 1, None, 5),
        shape(7, 60, 9, 60, Some(0), 5),
        shape(4, 29, 6, 3, None, 6),
    ]
}

#[test]
fn shapes_satisfy_the_circuit() {
    for (i, params) in shapes().into_iter().enumerate() {
        let bench = Bench::new(&params, i as u64);
        assert_eq!(determination(&bench.cs), Ok(()));
        EmbeddingCircuit::check(&params).unwrap();
        assert_eq!(bench.violated(&bench.honest), Vec::<&str>::new(), "{params:?}");
        let circuit = bench.circuit.with_witness(Arc::new(bench.honest.clone()));
        MockProver::<Fr>::run(params.k, &circuit, vec![vec![]]).unwrap().assert_satisfied();
    }
}

#[test]
fn every_cell_is_constrained() {
    for params in shapes() {
        let bench = Bench::new(&params, 11);
        let layout = bench.circuit.layout.clone();
        let spec = &params.spec;
        for column in 0..layout.boundary.columns {
            for row in 0..layout.boundary.rows() {
                for change in [1, -1] {
                    let mut cheat = bench.honest.clone();
                    Arc::make_mut(&mut cheat.out[column])[row] += change;
                    let token = column * layout.boundary.per_column + row / spec.hidden;
                    let expected = if token < spec.tokens { "lookup/4" } else { "embed/4" };
                    assert_eq!(bench.violated(&cheat), [expected], "activation {column} {row}");
                }
            }
        }
        for token in 0..spec.tokens {
            let (column, row) = layout.boundary.place(token);
            for change in [1, -1] {
                let mut cheat = bench.honest.clone();
                Arc::make_mut(&mut cheat.ids[column])[row] += change;
                cheat.count();
                assert_eq!(bench.violated(&cheat), ["lookup/4"], "id of token {token}");
            }
        }
        for column in 0..layout.matrix.lanes {
            for row in 0..layout.matrix.rows() {
                let mut cheat = bench.honest.clone();
                let weights = Arc::make_mut(&mut cheat.weights);
                Arc::make_mut(&mut weights[column])[row] += 1;
                let id = row % layout.matrix.blocks * layout.matrix.lanes + column;
                // The cheater's own combinations follow; only tokens and unused lanes are fixed.
                let expected = match id {
                    _ if row < layout.matrix_rows().start => vec![],
                    id if id >= spec.vocab => vec!["embed/3"],
                    id if bench.ids.contains(&(id as u32)) => vec!["lookup/4"],
                    _ => vec![],
                };
                assert_eq!(bench.violated(&cheat), expected, "weight {column} {row}");
            }
        }
        for column in layout.matrix.lanes..bench.honest.weights.len() {
            let mut cheat = bench.honest.clone();
            let weights = Arc::make_mut(&mut cheat.weights);
            Arc::make_mut(&mut weights[column])[0] += 1;
            assert_eq!(bench.violated(&cheat), ["lookup/4"], "position");
        }
        for id in 0..spec.vocab {
            let (column, row) = (id / layout.table_rows, id % layout.table_rows);
            let mut cheat = bench.honest.clone();
            Arc::make_mut(&mut cheat.multiplicities[column])[row] += 1;
            assert_eq!(bench.violated(&cheat), ["lookup/4"], "multiplicity of {id}");
        }
    }
}

// The embedding of another id, whole and in one feature.
#[test]
fn rows_of_another_id_are_rejected() {
    let bench = Bench::new(&testing::tiny_embedding(), 3);
    let mut other = bench.ids.clone();
    other[2] = (other[2] + 1) % 40;
    let x = embed(&bench.circuit.params.spec, &bench.weights, &other).unwrap();
    assert_eq!(bench.violated(&bench.claim(&bench.ids, &x)), ["lookup/4"]);
    assert_eq!(bench.violated(&bench.claim(&other, &bench.x)), ["lookup/4"]);
    assert_eq!(bench.violated(&bench.claim(&other, &x)), Vec::<&str>::new());
    // Two tokens exchange their ids: the combinations are the right ones, elsewhere.
    let mut swapped = bench.ids.clone();
    swapped.swap(0, 4);
    assert_eq!(bench.violated(&bench.claim(&swapped, &bench.x)), ["lookup/4"]);
}

// S6: an id outside the vocabulary, with zeros or another row for its embedding.
#[test]
fn ids_outside_the_vocabulary_are_rejected() {
    let bench = Bench::new(&testing::tiny_embedding(), 4);
    let d = bench.circuit.params.spec.hidden;
    for outside in [40, 41, 79, 1 << 20] {
        let mut ids = bench.ids.clone();
        ids[1] = outside;
        assert_eq!(bench.violated(&bench.claim(&ids, &bench.x)), ["lookup/4"], "id {outside}");
        let mut x = bench.x.clone();
        x[d..2 * d].fill(0);
        assert_eq!(bench.violated(&bench.claim(&ids, &x)), ["lookup/4"], "id {outside} as zeros");
        let error = embed(&bench.circuit.params.spec, &bench.weights, &ids).unwrap_err();
        assert_eq!(error, ExecError::Token { token: 1, id: outside as usize, vocab: 40 });
    }
    // The encoding of no token.
    let mut cheat = bench.honest.clone();
    Arc::make_mut(&mut cheat.ids[0])[0] = 0;
    cheat.count();
    assert_eq!(bench.violated(&cheat), ["lookup/4"]);
}

// A centred stream: feature 0 is the mean, and nothing but zero whatever the matrix holds there.
#[test]
fn the_mean_of_a_centred_stream_is_zero() {
    let mut params = testing::tiny_embedding();
    params.spec.centred = true;
    let bench = Bench::new(&params, 8);
    let (spec, d) = (&bench.circuit.params.spec, bench.circuit.params.spec.hidden);
    let place = |t: usize| i32::from(bench.weights.positions.as_ref().unwrap().data[t * d]) << 1;
    for (t, row) in bench.x.chunks(d).enumerate() {
        assert_eq!(row[0], place(t), "the position alone");
    }
    // What a stream that is not centred would hold.
    let plain = EmbeddingSpec { centred: false, ..spec.clone() };
    let x = embed(&plain, &bench.weights, &bench.ids).unwrap();
    assert_ne!(x, bench.x);
    assert_eq!(bench.violated(&bench.claim(&bench.ids, &x)), ["lookup/4"]);
    for change in [1, -1, 4] {
        let mut x = bench.x.clone();
        x[2 * d] += change;
        assert_eq!(bench.violated(&bench.claim(&bench.ids, &x)), ["lookup/4"], "{change:+}");
    }
}

// S5: an entry counted twice, another not at all.
#[test]
fn wrong_multiplicities_are_rejected() {
    let bench = Bench::new(&testing::tiny_embedding(), 5);
    let mut cheat = bench.honest.clone();
    let counts = Arc::make_mut(&mut cheat.multiplicities[0]);
    counts[0] -= 1;
    counts[1] += 1;
    assert_eq!(bench.violated(&cheat), ["lookup/4"]);
    // Beyond the last entry nothing is an entry, whatever is counted there.
    let layout = &bench.circuit.layout;
    let mut cheat = bench.claim(
        &{
            let mut ids = bench.ids.clone();
            ids[1] = 40;
            ids
        },
        &bench.x,
    );
    Arc::make_mut(&mut cheat.multiplicities[1])[layout.table_rows] = 1;
    assert_eq!(bench.violated(&cheat), ["lookup/4"]);
}

// Row combinations chosen after gamma: alone, and with errors that cancel under a rho known beforehand.
#[test]
#[cfg(feature = "cheat")]
fn row_combinations_are_those_of_the_matrix() {
    let bench = Bench::new(&testing::tiny_embedding(), 6);
    let layout = bench.circuit.layout.clone();
    let gamma = bench.challenges[0];
    // Token 2 claims one more in its first feature, `e` agrees: 2^shift e[id] + 1.
    let (id, d) = (bench.ids[2] as usize, layout.spec.hidden);
    let mut x = bench.x.clone();
    x[2 * d] += 4;
    let mut cheat = bench.claim(&bench.ids, &x);
    let place = (id / layout.table_rows, id % layout.table_rows);
    cheat.added.insert(place, Fr::ONE);
    let ids = bench.violated(&cheat);
    // Token 1 has the same id and the true row, so the lookup objects for it.
    assert_eq!(ids, ["embed/3", "lookup/4"]);
    x[d] += 4;
    let mut cheat = bench.claim(&bench.ids, &x);
    cheat.added.insert(place, Fr::ONE);
    assert_eq!(bench.violated(&cheat), ["embed/3"]);
    // An error of another entry that cancels it under one expected rho, not under the one drawn.
    let expected = Fr::from(77);
    let free =
        (0..40).find(|&i| i / layout.table_rows == place.0 && i != id && !bench.ids.contains(&(i as u32)));
    let free = free.unwrap();
    let power = |e: usize| expected.pow_vartime([e as u64]);
    let cancel = -power(id) * power(free).invert().unwrap();
    cheat.added.insert((free / layout.table_rows, free % layout.table_rows), cancel);
    assert_eq!(bench.violated(&cheat), ["embed/3"]);
    let known = [gamma, expected, bench.challenges[2], bench.challenges[3]];
    let columns = advice(&bench.cs, bench.circuit.params.k, &cheat, &known);
    let sees = violations(&bench.cs, &bench.fixed, &columns, &known, layout.active + 1, &[]);
    assert_eq!(sees, Vec::<&str>::new(), "the forgery is exact for the rho that it expects");
}

#[test]
fn unsound_specifications_are_refused() {
    let tiny = testing::tiny_embedding();
    let bad = |change: &dyn Fn(&mut EmbeddingParams)| {
        let mut params = tiny.clone();
        change(&mut params);
        assert!(EmbeddingCircuit::check(&params).is_err(), "{params:?}");
        params.layout().unwrap_err()
    };
    let stream = SpecError::Bound { relation: "embed/stream", needed: 13, available: 12 };
    assert_eq!(bad(&|p| p.spec.shift = 4), LayoutError::Spec(stream));
    assert!(matches!(bad(&|p| p.spec.hidden = 0), LayoutError::Spec(_)));
    assert!(matches!(bad(&|p| p.spec.vocab = 1 << 21), LayoutError::Spec(_)));
    assert!(matches!(bad(&|p| p.weight_lanes = 0), LayoutError::Rows { .. }));
    assert!(matches!(bad(&|p| p.weight_lanes = 5), LayoutError::Rows { needed: 40, .. }));
    assert!(matches!(bad(&|p| p.weight_lanes = 1 << 40), LayoutError::Rows { .. }));
    assert!(matches!(bad(&|p| p.k = 2), LayoutError::Rows { .. }));
    let one = |p: &mut EmbeddingParams| {
        let spec = EmbeddingSpec { hidden: 1, vocab: 1, tokens: 1, ..p.spec.clone() };
        *p = EmbeddingParams { spec, weight_lanes: 1, k: 3 };
    };
    assert!(matches!(bad(&one), LayoutError::Rows { needed: 2, available: 1, .. }));
    // Layouts that exist, but ask a verifier for too many columns.
    for (vocab, weight_lanes, k) in [(5000, 4097, 6), (36_000, 4000, 4)] {
        let spec = EmbeddingSpec { hidden: 1, vocab, tokens: 1, ..tiny.spec.clone() };
        let params = EmbeddingParams { spec, weight_lanes, k };
        EmbeddingCircuit::check(&params).unwrap_err();
    }
}
