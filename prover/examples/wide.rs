//! Times a proof of the shape that a transformer block has: `wide [k] [weights] [cells] [stock]`.
//!
//! Weight columns that occur in one linear form, cells that are looked up three to a helper, one running sum,
//! copies between combinations. The stock verifier checks what was timed.
#![allow(clippy::unwrap_used, missing_docs, reason = "a measurement, not a library")]

use std::{sync::Arc, time::Instant};

use ff::{BatchInvert, Field};
use group::Curve;
use halo2_proofs::{
    circuit::{Layouter, SimpleFloorPlanner, Value},
    halo2curves::bn256::{Bn256, G1Affine},
    plonk::{
        Advice, Challenge, Circuit, Column as PlonkColumn, ConstraintSystem, Error, Expression, FirstPhase,
        Fixed, SecondPhase, verify_proof,
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
use lamina_circuits::{
    Fr,
    witness::{Column, Witness},
};
use lamina_prover::{Blinding, Committed, Cpu, Prover, ProvingKey, Silent, stock};
use rand_chacha::ChaCha20Rng;
use rand_core::{OsRng, RngCore, SeedableRng};
use rayon::prelude::*;

#[derive(Clone, Copy, Debug, Default)]
struct Shape {
    k: u32,
    weights: usize,
    cells: usize,
}

impl Shape {
    fn rows(&self) -> usize {
        (1 << self.k) - 20
    }
}

#[derive(Clone)]
struct Config {
    advice: Vec<PlonkColumn<Advice>>,
    challenges: [Challenge; 3],
    every: PlonkColumn<Fixed>,
    table: PlonkColumn<Fixed>,
    copied: [PlonkColumn<Advice>; 2],
}

#[derive(Clone)]
struct Wide {
    shape: Shape,
    weights: Vec<Arc<Vec<i16>>>,
    cells: Vec<Arc<Vec<i32>>>,
}

impl Wide {
    fn new(shape: Shape) -> Self {
        let rows = shape.rows();
        let column = |seed: usize| {
            let mut rng = ChaCha20Rng::seed_from_u64(seed as u64);
            (0..rows).map(move |_| rng.next_u32() as i16).collect::<Vec<i16>>()
        };
        Wide {
            shape,
            weights: (0..shape.weights)
                .into_par_iter()
                .map(|at| Arc::new(column(at).iter().map(|w| w >> 8).collect()))
                .collect(),
            cells: (0..shape.cells)
                .into_par_iter()
                .map(|at| Arc::new(column(1000 + at).into_iter().map(i32::from).collect()))
                .collect(),
        }
    }
}

impl Witness for Wide {
    fn columns(&self, phase: u8, challenges: &[Fr]) -> Vec<(usize, Column)> {
        let rows = self.shape.rows();
        let (w, c) = (self.weights.len(), self.cells.len());
        if phase == 0 {
            let weights = self.weights.iter().cloned().map(Column::I16);
            let cells = self.cells.iter().cloned().map(Column::I32);
            let counts = std::iter::once(Column::I32(Arc::new(vec![0; rows])));
            return weights.chain(cells).chain(counts).enumerate().collect();
        }
        let [alpha, gamma, beta] = [challenges[0], challenges[1], challenges[2]];
        let small = |v: i64| {
            if v < 0 { -Fr::from(v.unsigned_abs()) } else { Fr::from(v as u64) }
        };
        let folded: Vec<(Fr, Fr)> = (0..rows)
            .into_par_iter()
            .map(|row| {
                let weights = self.weights.iter().rev();
                let x = self.cells.iter().rev();
                (
                    weights.fold(Fr::ZERO, |s, w| s * gamma + small(w[row].into())),
                    x.fold(Fr::ZERO, |s, x| s * alpha + small(x[row].into())),
                )
            })
            .collect();
        let hat: Vec<Fr> = folded.iter().map(|f| f.1).collect();
        let mut acc = vec![Fr::ZERO];
        for (w, x) in &folded[..rows - 1] {
            acc.push(acc[acc.len() - 1] + *x * w);
        }
        let helpers: Vec<Vec<Fr>> = self
            .cells
            .par_chunks(3)
            .map(|cells| {
                let mut h = vec![Fr::ZERO; rows];
                for cell in cells {
                    let mut v: Vec<Fr> = cell.iter().map(|v| beta + small((*v).into())).collect();
                    v.iter_mut().batch_invert();
                    h.iter_mut().zip(v).for_each(|(h, v)| *h += v);
                }
                h
            })
            .collect();
        let mut sum = vec![Fr::ZERO];
        for row in 0..rows - 1 {
            let step: Fr = helpers.iter().map(|h| h[row]).sum();
            sum.push(sum[row] + step);
        }
        let late = [hat.clone(), hat, acc, sum];
        let late = late.into_iter().chain(helpers).map(Column::Field);
        (w + c + 1..).zip(late).collect()
    }
}

impl Circuit<Fr> for Wide {
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
        let mut advice: Vec<_> =
            (0..shape.weights + shape.cells + 1).map(|_| meta.advice_column_in(FirstPhase)).collect();
        let challenges = [(); 3].map(|_| meta.challenge_usable_after(FirstPhase));
        let helpers = shape.cells.div_ceil(3);
        let late: Vec<_> = (0..4 + helpers).map(|_| meta.advice_column_in(SecondPhase)).collect();
        advice.extend(&late);
        let [every, table] = [(); 2].map(|_| meta.fixed_column());
        meta.set_minimum_degree(5);
        meta.enable_equality(late[0]);
        meta.enable_equality(late[1]);
        let cur = Rotation::cur();
        let (weights, rest) = advice.split_at(shape.weights);
        let (cells, rest) = rest.split_at(shape.cells);
        let (count, hat, copy, acc, sum) = (rest[0], rest[1], rest[2], rest[3], rest[4]);
        let helpers = &rest[5..];
        let fold = |m: &mut halo2_proofs::plonk::VirtualCells<'_, Fr>,
                    columns: &[PlonkColumn<Advice>],
                    by: Challenge| {
            columns.iter().rev().fold(Expression::Constant(Fr::ZERO), |sum, c| {
                sum * m.query_challenge(by) + m.query_advice(*c, cur)
            })
        };
        meta.create_gate("combination", |m| {
            let row = fold(m, cells, challenges[0]);
            vec![m.query_fixed(every, cur) * (m.query_advice(hat, cur) - row)]
        });
        meta.create_gate("product", |m| {
            let row = fold(m, weights, challenges[1]);
            let step = m.query_advice(copy, cur) * row;
            let [now, next] = [cur, Rotation::next()].map(|r| m.query_advice(acc, r));
            vec![m.query_fixed(every, cur) * (next - now - step)]
        });
        for (cells, helper) in cells.chunks(3).zip(helpers) {
            meta.create_gate("lookup", |m| {
                let beta = m.query_challenge(challenges[2]);
                let v: Vec<_> = cells.iter().map(|c| m.query_advice(*c, cur) + beta.clone()).collect();
                let product = |skip: usize| {
                    let rest = v.iter().enumerate().filter(|(at, _)| *at != skip);
                    rest.fold(Expression::Constant(Fr::ONE), |p, (_, v)| p * v.clone())
                };
                let right = (0..v.len()).map(product).reduce(|a, b| a + b).unwrap();
                let left = m.query_advice(*helper, cur) * product(usize::MAX);
                vec![m.query_fixed(every, cur) * (left - right)]
            });
        }
        meta.create_gate("running sum", |m| {
            let step = helpers.iter().map(|h| m.query_advice(*h, cur)).reduce(|a, b| a + b).unwrap();
            let [now, next] = [cur, Rotation::next()].map(|r| m.query_advice(sum, r));
            let t = m.query_challenge(challenges[2]) + m.query_fixed(table, cur);
            let m_count = m.query_advice(count, cur);
            vec![m.query_fixed(every, cur) * ((next - now - step) * t + m_count)]
        });
        Config { copied: [hat, copy], advice, challenges, every, table }
    }

    fn synthesize(&self, config: Config, mut layouter: impl Layouter<Fr>) -> Result<(), Error> {
        let rows = self.shape.rows();
        layouter.assign_region(
            || "wide",
            |mut region| {
                for row in 0..rows - 1 {
                    region.assign_fixed(config.every, row, Fr::ONE);
                    region.assign_fixed(config.table, row, Fr::from(row as u64 % 4096));
                }
                let assign = |region: &mut halo2_proofs::circuit::Region<'_, Fr>,
                              columns: Vec<(usize, Column)>| {
                    let mut pair = Vec::new();
                    for (index, column) in columns {
                        let Column::Field(values) = lamina_prover::synthesized::widened(&column) else {
                            continue;
                        };
                        for (row, value) in values.into_iter().enumerate() {
                            let column = config.advice[index];
                            let cell = region.assign_advice(column, row, Value::known(value));
                            if config.copied.contains(&column) {
                                pair.push((row, cell.cell()));
                            }
                        }
                    }
                    pair.sort_by_key(|p| p.0);
                    for two in pair.chunks_exact(2) {
                        region.constrain_equal(two[0].1, two[1].1);
                    }
                };
                assign(&mut region, self.columns(0, &[]));
                region.next_phase();
                let mut known = Vec::new();
                for challenge in config.challenges {
                    region.get_challenge(challenge).map(|value| known.push(value));
                }
                if known.is_empty() {
                    known = vec![Fr::ONE; 3];
                }
                assign(&mut region, self.columns(1, &known));
                Ok(())
            },
        )
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let number = |at: usize, default: usize| args.get(at).and_then(|a| a.parse().ok()).unwrap_or(default);
    let shape = Shape { k: number(1, 14) as u32, weights: number(2, 108), cells: number(3, 48) };
    let circuit = Wide::new(shape);
    let seed = [3; 32];
    let srs: ParamsKZG<Bn256> = ParamsKZG::setup(shape.k, ChaCha20Rng::from_seed(seed));
    let tau = Fr::random(ChaCha20Rng::from_seed(seed));
    let next = (G1Affine::generator() * tau.pow_vartime([1u64 << shape.k])).to_affine();
    let start = Instant::now();
    let key = ProvingKey::generate(&srs, &circuit).unwrap();
    eprintln!(
        "key generation: {:.0?}, advice columns: {}",
        start.elapsed(),
        key.vk().cs().num_advice_columns()
    );
    let start = Instant::now();
    let cpu = Cpu::default();
    let prover = Prover::new(&srs, &key, &cpu).unwrap().with_next_power(next).unwrap();
    eprintln!("loading: {:.0?}", start.elapsed());

    // Publish the weights.
    let usable = key.usable_rows();
    let committed: Vec<Committed> = circuit
        .weights
        .par_iter()
        .enumerate()
        .map(|(column, weights)| {
            let mut rng = ChaCha20Rng::seed_from_u64(column as u64);
            let tail: Vec<Fr> = (usable..1 << shape.k).map(|_| Fr::random(&mut rng)).collect();
            let mut all: Vec<Fr> = weights
                .iter()
                .map(|w| if *w < 0 { -Fr::from(u64::from(w.unsigned_abs())) } else { Fr::from(*w as u64) })
                .collect();
            all.resize(usable, Fr::ZERO);
            all.extend_from_slice(&tail);
            let lagrange = &prover.bases().lagrange;
            let sum = halo2_proofs::halo2curves::msm::msm_best(&all, lagrange);
            Committed { column, commitment: sum.to_affine(), tail }
        })
        .collect();
    for _ in 0..3 {
        let start = Instant::now();
        let proved = prover.prove(&circuit, &[], &committed, &mut Blinding::new(), &Silent).unwrap();
        let elapsed = start.elapsed();
        let mut transcript = Blake2bRead::<_, G1Affine, Challenge255<_>>::init(&proved.proof[..]);
        verify_proof::<KZGCommitmentScheme<Bn256>, VerifierSHPLONK<'_, Bn256>, _, _, _>(
            &srs,
            key.vk(),
            SingleStrategy::new(&srs),
            &[&[]],
            &mut transcript,
        )
        .unwrap();
        let t = &proved.timings;
        eprintln!(
            "proved in {elapsed:.0?} ({} bytes): witness {:.0}, commit {:.0}, quotient {:.0}, open {:.0} ms",
            proved.proof.len(),
            t.witness_ms,
            t.commit_ms,
            t.quotient_ms,
            t.open_ms
        );
        for (step, ms) in &t.steps {
            eprintln!("    {step}: {ms:.1} ms");
        }
    }
    if args.iter().any(|a| a == "stock") {
        let (proof, ms) = stock::prove(&srs, circuit, &[], OsRng).unwrap();
        eprintln!("stock prover: {ms:.0} ms ({} bytes)", proof.len());
    }
}
