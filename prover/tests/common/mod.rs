//! A circuit with everything the prover supports, small.
#![allow(dead_code, clippy::unwrap_used, missing_docs)]

use ff::Field;
use group::Curve;
use halo2_proofs::{
    circuit::{Layouter, SimpleFloorPlanner, Value},
    halo2curves::bn256::{Bn256, G1, G1Affine},
    plonk::{
        Advice, Challenge, Circuit, Column, ConstraintSystem, Error, Expression, FirstPhase, Fixed, Instance,
        SecondPhase, ThirdPhase, verify_proof,
    },
    poly::{
        Rotation,
        kzg::{
            commitment::{KZGCommitmentScheme, ParamsKZG},
            multiopen::VerifierSHPLONK,
            strategy::SingleStrategy,
        },
    },
    transcript::{Blake2bRead, Challenge255, TranscriptReadBuffer},
};
use lamina_circuits::Fr;
use lamina_prover::ProvingKey;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

/// Parameters whose secret the test knows.
pub fn setup(k: u32) -> (ParamsKZG<Bn256>, Fr, G1Affine) {
    let seed = [7u8; 32];
    let tau = Fr::random(ChaCha20Rng::from_seed(seed));
    let srs = ParamsKZG::setup(k, ChaCha20Rng::from_seed(seed));
    let next = (G1Affine::generator() * tau.pow_vartime([1u64 << k])).to_affine();
    (srs, tau, next)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    pub degree: usize,
    pub weights: usize,
    pub rows: usize,
    /// Add a column of phase 2.
    pub third: bool,
    /// Query the instance in a gate, not only copy it.
    pub query_instance: bool,
}

#[derive(Clone)]
pub struct Config {
    shape: Shape,
    a: Column<Advice>,
    b: Column<Advice>,
    c: Column<Advice>,
    weights: Vec<Column<Advice>>,
    p: Column<Advice>,
    h: Column<Advice>,
    acc: Column<Advice>,
    q: Option<(Column<Advice>, Challenge)>,
    gamma: Challenge,
    beta: Challenge,
    constant: Column<Fixed>,
    every: Column<Fixed>,
    inner: Column<Fixed>,
    first: Column<Fixed>,
    public: Column<Instance>,
}

#[derive(Clone)]
pub struct Kitchen {
    pub shape: Shape,
    pub seed: u64,
    /// Spoils one cell.
    pub wrong: bool,
}

pub struct Values {
    pub a: Vec<i64>,
    pub b: Vec<i64>,
    pub weights: Vec<Vec<i64>>,
}

pub fn fr(value: i64) -> Fr {
    if value < 0 { -Fr::from(value.unsigned_abs()) } else { Fr::from(value as u64) }
}

impl Kitchen {
    pub fn values(&self) -> Values {
        let mut rng = ChaCha20Rng::seed_from_u64(self.seed);
        let rows = self.shape.rows;
        let a = (0..rows).map(|_| i64::from(rng.next_u32() as i16)).collect();
        let b = (0..rows).map(|_| i64::from(rng.next_u32() as i8)).collect();
        // The same weights whatever the seed: they are what is committed.
        let mut rng = ChaCha20Rng::seed_from_u64(99);
        let weights = (0..self.shape.weights)
            .map(|_| (0..rows).map(|_| i64::from(rng.next_u32() as i16)).collect())
            .collect();
        Values { a, b, weights }
    }

    pub fn instances(&self) -> Vec<Vec<Fr>> {
        let values = self.values();
        vec![values.a[..3].iter().map(|v| fr(*v)).collect()]
    }
}

impl Circuit<Fr> for Kitchen {
    type Config = Config;
    type FloorPlanner = SimpleFloorPlanner;
    type Params = Shape;

    fn params(&self) -> Shape {
        self.shape
    }

    fn without_witnesses(&self) -> Self {
        self.clone()
    }

    fn configure(_: &mut ConstraintSystem<Fr>) -> Config {
        unreachable!()
    }

    fn configure_with_params(meta: &mut ConstraintSystem<Fr>, shape: Shape) -> Config {
        let public = meta.instance_column();
        let [a, b, c] = [(); 3].map(|_| meta.advice_column_in(FirstPhase));
        let weights: Vec<_> = (0..shape.weights).map(|_| meta.advice_column_in(FirstPhase)).collect();
        let gamma = meta.challenge_usable_after(FirstPhase);
        let beta = meta.challenge_usable_after(FirstPhase);
        let [p, h, acc] = [(); 3].map(|_| meta.advice_column_in(SecondPhase));
        let q = shape.third.then(|| {
            let late = meta.challenge_usable_after(SecondPhase);
            (meta.advice_column_in(ThirdPhase), late)
        });
        let [constant, every, inner, first] = [(); 4].map(|_| meta.fixed_column());
        for column in [a, b, c, p] {
            meta.enable_equality(column);
        }
        meta.enable_equality(constant);
        meta.enable_equality(public);
        meta.set_minimum_degree(shape.degree);

        let cur = Rotation::cur;
        meta.create_gate("product", |m| {
            let [a, b, c] = [a, b, c].map(|x| m.query_advice(x, cur()));
            vec![m.query_fixed(every, cur()) * (a * b - c)]
        });
        meta.create_gate("neighbours", |m| {
            let now = m.query_advice(p, cur());
            let row = weights.iter().rev().fold(Expression::Constant(Fr::ZERO), |sum, w| {
                sum * m.query_challenge(gamma) + m.query_advice(*w, cur())
            });
            let mix = m.query_advice(a, Rotation::prev()) * m.query_advice(b, Rotation(7))
                + m.query_advice(a, Rotation::next()) * Fr::from(3);
            let s = m.query_fixed(inner, cur());
            vec![s * (now - m.query_advice(a, cur()) * row - mix)]
        });
        meta.create_gate("sum", |m| {
            let (now, next) = (m.query_advice(acc, cur()), m.query_advice(acc, Rotation::next()));
            let public = if shape.query_instance {
                m.query_instance(public, cur())
            } else {
                Expression::Constant(Fr::ZERO)
            };
            let s = m.query_fixed(every, cur());
            let f = m.query_fixed(first, cur());
            vec![f * now.clone(), s * (next - now - m.query_advice(p, cur()) - public)]
        });
        meta.create_gate("helper", |m| {
            let s = m.query_fixed(every, cur());
            let beta = m.query_challenge(beta);
            let (a, b) = (m.query_advice(a, cur()), m.query_advice(b, cur()));
            let factor = |j: u64| beta.clone() + a.clone() + b.clone() * Fr::from(j);
            let product =
                (1..shape.degree as u64 - 1).fold(m.query_advice(h, cur()), |product, j| product * factor(j));
            vec![s * (product - Expression::Constant(Fr::ONE))]
        });
        if let Some((q, late)) = q {
            meta.create_gate("late", |m| {
                let s = m.query_fixed(every, cur());
                let late = m.query_challenge(late);
                vec![s * (m.query_advice(q, cur()) - late * m.query_advice(acc, cur()))]
            });
        }
        Config { shape, a, b, c, weights, p, h, acc, q, gamma, beta, constant, every, inner, first, public }
    }

    fn synthesize(&self, config: Config, mut layouter: impl Layouter<Fr>) -> Result<(), Error> {
        let values = self.values();
        let rows = config.shape.rows;
        let mut copied = Vec::new();
        layouter.assign_region(
            || "kitchen",
            |mut region| {
                let known = |v: i64| Value::known(fr(v));
                for row in 0..rows {
                    let (a, b) = (values.a[row], values.b[row]);
                    let a_cell = region.assign_advice(config.a, row, known(a));
                    if row < 3 {
                        copied.push(a_cell.cell());
                    }
                    let b_cell = region.assign_advice(config.b, row, known(b));
                    let mut c = a * b;
                    if self.wrong && row == 2 {
                        c += 1;
                    }
                    region.assign_advice(config.c, row, known(c));
                    for (column, weights) in config.weights.iter().zip(&values.weights) {
                        region.assign_advice(*column, row, known(weights[row]));
                    }
                    region.assign_fixed(config.every, row, Fr::ONE);
                    if (1..rows - 7).contains(&row) {
                        region.assign_fixed(config.inner, row, Fr::ONE);
                    }
                    if row == 1 {
                        // Fixed values may not depend on the statement, so only a fixed cell equals itself.
                        region.assign_fixed(config.constant, row, Fr::from(5));
                        let _ = b_cell;
                    }
                }
                region.assign_fixed(config.first, 0, Fr::ONE);

                region.next_phase();
                let gamma = region.get_challenge(config.gamma);
                let beta = region.get_challenge(config.beta);
                let mut acc = Value::known(Fr::ZERO);
                let mut accs = Vec::new();
                for row in 0..rows {
                    let (a, b) = (values.a[row], values.b[row]);
                    let p = if (1..rows - 7).contains(&row) {
                        let folded = gamma.map(|gamma| {
                            values.weights.iter().rev().fold(Fr::ZERO, |sum, w| sum * gamma + fr(w[row]))
                        });
                        folded.map(|row_sum| {
                            fr(a) * row_sum
                                + fr(values.a[row - 1] * values.b[row + 7])
                                + fr(values.a[row + 1] * 3)
                        })
                    } else {
                        Value::known(Fr::from(5))
                    };
                    let p_cell = region.assign_advice(config.p, row, p);
                    if row == rows - 1 {
                        let fixed = region.assign_fixed(config.constant, 1, Fr::from(5));
                        region.constrain_equal(p_cell.cell(), fixed);
                    }
                    let h = beta.map(|beta| {
                        (1..config.shape.degree as i64 - 1)
                            .map(|j| beta + fr(a + j * b))
                            .product::<Fr>()
                            .invert()
                            .unwrap()
                    });
                    region.assign_advice(config.h, row, h);
                    region.assign_advice(config.acc, row, acc);
                    accs.push(acc);
                    let public = if config.shape.query_instance && row < 3 { fr(a) } else { Fr::ZERO };
                    acc = acc.zip(p).map(|(acc, p)| acc + p + public);
                }
                region.assign_advice(config.acc, rows, acc);
                if let Some((q, late)) = config.q {
                    region.next_phase();
                    let late = region.get_challenge(late);
                    for (row, acc) in accs.into_iter().enumerate() {
                        region.assign_advice(q, row, acc.zip(late).map(|(acc, late)| acc * late));
                    }
                }
                Ok(())
            },
        )?;
        for (row, cell) in copied.into_iter().enumerate() {
            layouter.constrain_instance(cell, config.public, row);
        }
        Ok(())
    }
}

/// Whether the stock verifier accepts.
pub fn verifies(srs: &ParamsKZG<Bn256>, key: &ProvingKey, instances: &[Vec<Fr>], proof: &[u8]) -> bool {
    let instances: Vec<&[Fr]> = instances.iter().map(Vec::as_slice).collect();
    let mut transcript = Blake2bRead::<_, G1Affine, Challenge255<_>>::init(proof);
    verify_proof::<KZGCommitmentScheme<Bn256>, VerifierSHPLONK<'_, Bn256>, _, _, _>(
        srs,
        key.vk(),
        SingleStrategy::new(srs),
        &[&instances],
        &mut transcript,
    )
    .is_ok()
}

/// Publishes the weight columns of `circuit`, advice indices 3 and on.
pub fn publish(
    prover_bases: &lamina_prover::Bases,
    key: &ProvingKey,
    circuit: &Kitchen,
    rng: &mut impl RngCore,
) -> Vec<lamina_prover::Committed> {
    let values = circuit.values();
    let usable = key.usable_rows();
    values
        .weights
        .iter()
        .enumerate()
        .map(|(at, weights)| {
            let mut column: Vec<Fr> = weights.iter().map(|w| fr(*w)).collect();
            column.resize(usable, Fr::ZERO);
            let tail: Vec<Fr> = (usable..1 << key.k()).map(|_| Fr::random(&mut *rng)).collect();
            column.extend_from_slice(&tail);
            let commitment = prover_bases
                .lagrange
                .iter()
                .zip(&column)
                .map(|(base, scalar)| base * scalar)
                .sum::<G1>()
                .to_affine();
            lamina_prover::Committed { column: 3 + at, commitment, tail }
        })
        .collect()
}
