//! A small slice circuit, a small range circuit, and a model of two slices over them.

#![allow(dead_code, reason = "every test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::sync::{Arc, OnceLock};

use ff::Field;
use halo2_proofs::{
    circuit::{Layouter, SimpleFloorPlanner, Value},
    halo2curves::bn256::{Bn256, G1Affine},
    plonk::{
        Advice, Challenge, Circuit, Column, ConstraintSystem, Error, Expression, FirstPhase, Fixed, Instance,
        ProvingKey, SecondPhase, create_proof, keygen_pk, keygen_vk,
    },
    poly::{
        Rotation,
        commitment::Params as _,
        kzg::{
            commitment::{KZGCommitmentScheme, ParamsKZG},
            multiopen::ProverSHPLONK,
        },
    },
    transcript::{Blake2bWrite, Challenge255, TranscriptWriterBuffer},
};
use lamina_circuits::{
    Fr,
    slice::{LinkedColumns, RefusedParams, SliceCircuit},
    witness,
};
use lamina_prover::{
    link::Draft,
    publish::{BlindedColumns, commit_blinded, deltas, open_tail},
    srs::Srs,
};
use lamina_verifier::{
    boundary::{BoundaryReference, OpenBoundary},
    card::{
        Architecture, CARD_FORMAT, Card, CircuitEntry, Commitment, InsecureSrs, KeyBytes, KindEntry,
        ModelCard, Quantisation, SliceEntry, SrsReference,
    },
    context::Context,
    hash::{Digest, ModelId, NodeId, ProtocolId, RequestId},
    key::{SliceKey, key_digest, write_key},
    srs::VerifierSrs,
    verify::{BoundaryExpectation, ChainExpectation, Expectation, PublicationReceipt, publication_context},
};
use rand_chacha::ChaCha20Rng;
use rand_core::{OsRng, RngCore, SeedableRng};
use serde::{Deserialize, Serialize};

pub const LOG_N: u32 = 6;
pub const ROWS: usize = 40;
pub const SLICES: usize = 2;
pub const TOKENS: u32 = 7;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToyParams {
    pub k: u32,
    pub rows: usize,
}

/// `y = x·w0 + w1` on every row; a column of the second phase stands among those of the first.
#[derive(Clone, Debug, Default)]
pub struct Toy {
    pub params: ToyParams,
    pub x: Vec<i32>,
    pub w: [Vec<i16>; 2],
}

#[derive(Clone, Debug)]
pub struct ToyConfig {
    x: Column<Advice>,
    c: Column<Advice>,
    w: [Column<Advice>; 2],
    s: Column<Advice>,
    y: Column<Advice>,
    q: Column<Fixed>,
    zero: Column<Fixed>,
    instance: Column<Instance>,
    alpha: Challenge,
}

pub fn field(value: i64) -> Fr {
    let magnitude = Fr::from(value.unsigned_abs());
    if value < 0 { -magnitude } else { magnitude }
}

impl Toy {
    pub fn y(&self) -> Vec<i32> {
        let rows = self.x.iter().zip(&self.w[0]).zip(&self.w[1]);
        rows.map(|((x, w0), w1)| x * i32::from(*w0) + i32::from(*w1)).collect()
    }
}

impl Circuit<Fr> for Toy {
    type Config = ToyConfig;
    type FloorPlanner = SimpleFloorPlanner;
    type Params = ToyParams;

    fn params(&self) -> ToyParams {
        self.params.clone()
    }

    fn without_witnesses(&self) -> Self {
        self.clone()
    }

    fn configure(_: &mut ConstraintSystem<Fr>) -> ToyConfig {
        unreachable!("always configured with parameters")
    }

    fn configure_with_params(cs: &mut ConstraintSystem<Fr>, _: ToyParams) -> ToyConfig {
        cs.set_minimum_degree(4);
        let instance = cs.instance_column();
        let x = cs.advice_column_in(FirstPhase);
        // The second phase needs a challenge of the first, and halo2 wants a column there first.
        let c = cs.advice_column_in(SecondPhase);
        let w = [(); 2].map(|()| cs.advice_column_in(FirstPhase));
        let s = cs.advice_column_in(FirstPhase);
        let y = cs.advice_column_in(FirstPhase);
        let (q, zero) = (cs.fixed_column(), cs.fixed_column());
        cs.enable_equality(s);
        cs.enable_equality(x);
        cs.enable_equality(y);
        let alpha = cs.challenge_usable_after(FirstPhase);
        cs.create_gate("toy", |cells| {
            let mut at = |column| cells.query_advice(column, Rotation::cur());
            let (x, c, w0, w1) = (at(x), at(c), at(w[0]), at(w[1]));
            let (s, y) = (at(s), at(y));
            let q = cells.query_fixed(q, Rotation::cur());
            let zero = cells.query_fixed(zero, Rotation::cur());
            let alpha = cells.query_challenge(alpha);
            vec![
                q.clone() * (x.clone() * w0.clone() - s.clone()),
                q.clone() * (s + w1 - y) + zero,
                q * (c - w0 - alpha * x),
            ]
        });
        ToyConfig { x, c, w, s, y, q, zero, instance, alpha }
    }

    fn synthesize(&self, config: ToyConfig, mut layouter: impl Layouter<Fr>) -> Result<(), Error> {
        let _ = (config.instance, config.zero);
        let rows = self.params.rows;
        layouter.assign_region(
            || "first phase",
            |mut region| {
                let x = |row: usize| i64::from(self.x.get(row).copied().unwrap_or_default());
                let w = |at: usize, row: usize| i64::from(self.w[at].get(row).copied().unwrap_or_default());
                for row in 0..rows {
                    let product = x(row) * w(0, row);
                    let mut put = |column, value| {
                        region.assign_advice(column, row, Value::known(field(value)));
                    };
                    put(config.x, x(row));
                    put(config.w[0], w(0, row));
                    put(config.w[1], w(1, row));
                    put(config.s, product);
                    put(config.y, product + w(1, row));
                    region.assign_fixed(config.q, row, Fr::ONE);
                }
                Ok(())
            },
        )?;
        layouter.next_phase();
        let alpha = layouter.get_challenge(config.alpha);
        layouter.assign_region(
            || "second phase",
            |mut region| {
                for row in 0..rows {
                    let x = i64::from(self.x.get(row).copied().unwrap_or_default());
                    let w0 = i64::from(self.w[0].get(row).copied().unwrap_or_default());
                    let value = alpha.map(|alpha| field(w0) + alpha * field(x));
                    region.assign_advice(config.c, row, value);
                }
                Ok(())
            },
        )
    }
}

impl SliceCircuit for Toy {
    fn check(params: &ToyParams) -> Result<(), RefusedParams> {
        let reason = "toy parameters";
        if params.k > 12 || params.rows + 8 > 1 << params.k {
            return Err(RefusedParams { reason });
        }
        Ok(())
    }

    fn log_n(params: &ToyParams) -> u32 {
        params.k
    }

    fn degree(_: &ToyParams) -> usize {
        4
    }

    fn linked(_: &ToyParams) -> LinkedColumns {
        LinkedColumns { weights: 2..4, boundary_in: 0..1, boundary_out: 5..6 }
    }
}

/// Every weight is in `[0, 4)`.
#[derive(Clone, Debug, Default)]
pub struct ToyRange {
    pub params: ToyParams,
    pub w: [Vec<i16>; 2],
}

impl Circuit<Fr> for ToyRange {
    type Config = ([Column<Advice>; 2], Column<Fixed>);
    type FloorPlanner = SimpleFloorPlanner;
    type Params = ToyParams;

    fn params(&self) -> ToyParams {
        self.params.clone()
    }

    fn without_witnesses(&self) -> Self {
        self.clone()
    }

    fn configure(_: &mut ConstraintSystem<Fr>) -> Self::Config {
        unreachable!("always configured with parameters")
    }

    fn configure_with_params(cs: &mut ConstraintSystem<Fr>, _: ToyParams) -> Self::Config {
        cs.set_minimum_degree(5);
        cs.instance_column();
        let w = [(); 2].map(|()| cs.advice_column());
        let q = cs.fixed_column();
        cs.create_gate("range", |cells| {
            let q = cells.query_fixed(q, Rotation::cur());
            w.map(|w| {
                let w = cells.query_advice(w, Rotation::cur());
                (0..4).fold(q.clone(), |product, value| {
                    product * (w.clone() - Expression::Constant(Fr::from(value)))
                })
            })
        });
        (w, q)
    }

    fn synthesize(&self, (w, q): Self::Config, mut layouter: impl Layouter<Fr>) -> Result<(), Error> {
        layouter.assign_region(
            || "range",
            |mut region| {
                for row in 0..self.params.rows {
                    for (column, values) in w.iter().zip(&self.w) {
                        let value = i64::from(values.get(row).copied().unwrap_or_default());
                        region.assign_advice(*column, row, Value::known(field(value)));
                    }
                    region.assign_fixed(q, row, Fr::ONE);
                }
                Ok(())
            },
        )
    }
}

impl SliceCircuit for ToyRange {
    fn check(params: &ToyParams) -> Result<(), RefusedParams> {
        Toy::check(params)
    }

    fn log_n(params: &ToyParams) -> u32 {
        params.k
    }

    fn degree(_: &ToyParams) -> usize {
        5
    }

    fn linked(_: &ToyParams) -> LinkedColumns {
        LinkedColumns { weights: 0..2, ..LinkedColumns::default() }
    }
}

pub type ToyCard = Card<Toy, ToyRange>;
pub type ToyModelCard = ModelCard<ToyParams, ToyParams>;

/// A published model of two slices, and everything a node or a verifier needs.
pub struct World {
    pub srs: Srs,
    pub params: ParamsKZG<Bn256>,
    pub verifier_srs: VerifierSrs,
    pub toy_pk: ProvingKey<G1Affine>,
    pub range_pk: ProvingKey<G1Affine>,
    pub weights: Vec<[Vec<i16>; 2]>,
    pub published: Vec<BlindedColumns>,
    pub model_card: ToyModelCard,
    pub card: ToyCard,
    pub model: ModelId,
}

pub fn toy_params() -> ToyParams {
    ToyParams { k: LOG_N, rows: ROWS }
}

pub fn digest(byte: u8) -> Digest {
    Digest([byte; 32])
}

fn entry(vk: &halo2_proofs::plonk::VerifyingKey<G1Affine>) -> CircuitEntry<ToyParams> {
    let key = write_key(vk);
    CircuitEntry { params: toy_params(), key_digest: key_digest(&key), key: KeyBytes(key) }
}

pub fn blind(srs: &Srs, usable: usize, columns: &[Vec<i16>]) -> BlindedColumns {
    let columns: Vec<_> =
        columns.iter().map(|column| witness::Column::I16(Arc::new(column.clone()))).collect();
    commit_blinded(srs, usable, &columns).unwrap()
}

pub fn blind_boundary(world: &World, values: &[i32]) -> BlindedColumns {
    let column = witness::Column::I32(Arc::new(values.to_vec()));
    commit_blinded(&world.srs, world.usable(), &[column]).unwrap()
}

pub fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let srs = Srs::generate_insecure(LOG_N).unwrap();
        let params = srs.params();
        let verifier_srs = srs.verifier_srs(true).unwrap();
        let toy = Toy { params: toy_params(), ..Toy::default() };
        let range = ToyRange { params: toy_params(), ..ToyRange::default() };
        let toy_vk = keygen_vk(&params, &toy).unwrap();
        let range_vk = keygen_vk(&params, &range).unwrap();
        let toy_pk = keygen_pk(&params, toy_vk, &toy).unwrap();
        let range_pk = keygen_pk(&params, range_vk, &range).unwrap();
        let usable =
            SliceKey::from_generated::<Toy>(toy_pk.get_vk(), &toy_params()).unwrap().shape().usable_rows;
        let weights: Vec<[Vec<i16>; 2]> = (0..SLICES)
            .map(|slice| [1, 2].map(|step| (0..ROWS).map(|row| ((row * step + slice) % 4) as i16).collect()))
            .collect();
        let published: Vec<_> = weights.iter().map(|columns| blind(&srs, usable, columns)).collect();
        let model_card = ModelCard {
            format: CARD_FORMAT,
            protocol: ProtocolId::current(),
            name: "toy".into(),
            publisher: NodeId(digest(9)),
            architecture: Architecture { family: "toy".into(), source: "none".into(), layers: 2 },
            quantisation: Quantisation { weight_bits: 3, activation_bits: 16, scheme: "none".into() },
            tokenizer: None,
            srs: SrsReference { id: srs.id(), insecure: true },
            kinds: vec![KindEntry {
                name: "toy".into(),
                slice: entry(toy_pk.get_vk()),
                range: entry(range_pk.get_vk()),
            }],
            slices: published
                .iter()
                .map(|columns| SliceEntry {
                    kind: 0,
                    weights: columns.commitments().iter().copied().map(Commitment).collect(),
                })
                .collect(),
        };
        let card = Card::load(&model_card.to_json(), InsecureSrs::Accept).unwrap();
        let model = card.model();
        World { srs, params, verifier_srs, toy_pk, range_pk, weights, published, model_card, card, model }
    })
}

impl World {
    pub fn usable(&self) -> usize {
        self.card.key(0).unwrap().shape().usable_rows
    }

    pub fn blinding_rows(&self) -> usize {
        self.card.key(0).unwrap().shape().blinding_rows
    }

    pub fn context(&self, slice: u32) -> Context {
        Context {
            request: RequestId(digest(1)),
            node: NodeId(digest(2)),
            model: self.model,
            slice,
            tokens: TOKENS,
        }
    }

    pub fn draft(&self, slice: u32, input: &Border, output: &Border) -> Draft<'_> {
        Draft {
            key: self.card.key(slice).unwrap(),
            srs: self.srs.id(),
            context: self.context(slice),
            weights: self.card.weights(slice).unwrap(),
            input: input.reference.clone(),
            output: output.reference.clone(),
        }
    }

    pub fn circuit(&self, slice: usize, x: &[i32]) -> Toy {
        Toy { params: toy_params(), x: x.to_vec(), w: self.weights[slice].clone() }
    }
}

/// A boundary as a prover holds it.
#[derive(Clone)]
pub struct Border {
    pub values: Vec<i32>,
    pub reference: BoundaryReference,
    pub tail: Vec<Fr>,
}

impl Border {
    pub fn open(world: &World, values: &[i32]) -> Self {
        let open = OpenBoundary { columns: vec![values.to_vec()] };
        Self {
            values: values.to_vec(),
            reference: open.reference(&world.verifier_srs, world.usable()).unwrap(),
            tail: open_tail(world.blinding_rows()),
        }
    }

    pub fn hidden(world: &World, values: &[i32]) -> Self {
        let blinded = blind_boundary(world, values);
        Self { values: values.to_vec(), reference: blinded.boundary(), tail: blinded.tails()[0].clone() }
    }

    pub fn integers(&self) -> OpenBoundary {
        OpenBoundary { columns: vec![self.values.clone()] }
    }
}

/// The stock prover. Its first draws are the blinding rows of phase 0, column by column, so that a second
/// generator with the same seed knows them.
pub fn stock_proof<C: Circuit<Fr>>(
    world: &World,
    pk: &ProvingKey<G1Affine>,
    circuit: C,
    instance: &[Fr],
) -> (Vec<u8>, Vec<Vec<Fr>>) {
    let mut seed = [0; 32];
    OsRng.fill_bytes(&mut seed);
    let cs = pk.get_vk().cs();
    let rows = cs.blinding_factors() + 1;
    let mut replay = ChaCha20Rng::from_seed(seed);
    let tails = cs
        .advice_column_phase()
        .iter()
        .filter(|phase| **phase == 0)
        .map(|_| (0..rows).map(|_| Fr::random(&mut replay)).collect())
        .collect();
    let mut transcript = Blake2bWrite::<_, G1Affine, Challenge255<_>>::init(Vec::new());
    create_proof::<KZGCommitmentScheme<Bn256>, ProverSHPLONK<'_, Bn256>, _, _, _, _>(
        &world.params,
        pk,
        &[circuit],
        &[&[instance]],
        ChaCha20Rng::from_seed(seed),
        &mut transcript,
    )
    .unwrap();
    (transcript.finalize(), tails)
}

/// The halo2 proof of one slice and the deltas of its linked columns.
pub fn halo2_slice(world: &World, slice: u32, input: &Border, output: &Border) -> (Vec<u8>, Vec<Vec<Fr>>) {
    let draft = world.draft(slice, input, output);
    let circuit = world.circuit(slice as usize, &input.values);
    let (proof, fresh) = stock_proof(world, &world.toy_pk, circuit, &draft.instance());
    let weights = world.published[slice as usize].tails();
    let published = [input.tail.clone(), weights[0].clone(), weights[1].clone(), output.tail.clone()];
    // Phase-0 columns: x, w0, w1, s, y; `s` is not linked.
    let fresh = [0, 1, 2, 4].map(|column: usize| fresh[column].clone());
    (proof, deltas(&published, &fresh))
}

/// One sealed slice proof.
pub fn prove_slice(world: &World, slice: u32, input: &Border, output: &Border) -> Vec<u8> {
    let (proof, deltas) = halo2_slice(world, slice, input, output);
    world.draft(slice, input, output).seal(&world.verifier_srs, proof, &deltas).unwrap()
}

/// The boundaries and proofs of a whole run: open input, hidden middle, open output.
pub struct Run {
    pub borders: Vec<Border>,
    pub envelopes: Vec<Vec<u8>>,
}

pub fn run() -> &'static Run {
    static RUN: OnceLock<Run> = OnceLock::new();
    RUN.get_or_init(|| {
        let world = world();
        let x: Vec<i32> = (0..ROWS as i32).map(|row| 3 * row - 50).collect();
        let middle = world.circuit(0, &x).y();
        let y = world.circuit(1, &middle).y();
        let borders = vec![Border::open(world, &x), Border::hidden(world, &middle), Border::open(world, &y)];
        let envelopes = (0..SLICES)
            .map(|slice| prove_slice(world, slice as u32, &borders[slice], &borders[slice + 1]))
            .collect();
        Run { borders, envelopes }
    })
}

/// What an honest verifier expects of slice 0 of [`run`].
pub fn expect_first<'a>(world: &World, input: &'a OpenBoundary) -> Expectation<'a> {
    Expectation {
        context: world.context(0),
        input: BoundaryExpectation::Open(input),
        output: BoundaryExpectation::Hidden,
        publication: PublicationReceipt::trusting_publisher(world.model),
    }
}

pub fn chain<'a>(
    world: &World,
    nodes: &'a [NodeId],
    boundaries: &'a [BoundaryExpectation<'a>],
) -> ChainExpectation<'a> {
    ChainExpectation {
        request: RequestId(digest(1)),
        model: world.model,
        tokens: TOKENS,
        nodes,
        boundaries,
        publication: PublicationReceipt::trusting_publisher(world.model),
    }
}

/// The publication proof of one slice, over weights of the caller's choice.
pub fn prove_range(world: &World, slice: u32, weights: [Vec<i16>; 2]) -> Vec<u8> {
    let draft = Draft {
        key: world.card.range_key(slice).unwrap(),
        srs: world.srs.id(),
        context: publication_context(world.model, world.card.publisher(), slice),
        weights: world.card.weights(slice).unwrap(),
        input: BoundaryReference::none(),
        output: BoundaryReference::none(),
    };
    let circuit = ToyRange { params: toy_params(), w: weights };
    let (proof, fresh) = stock_proof(world, &world.range_pk, circuit, &draft.instance());
    let published = world.published[slice as usize].tails();
    draft.seal(&world.verifier_srs, proof, &deltas(published, &fresh)).unwrap()
}

pub fn rows(params: &ParamsKZG<Bn256>) -> u64 {
    params.n()
}
