//! What verification costs: `RAYON_NUM_THREADS=1 cargo test --release -p lamina-prover --test costs -- --ignored
//! --nocapture`. The cost depends on columns and queries, hardly on rows.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod toy;

use std::{
    hint::black_box,
    sync::OnceLock,
    time::{Duration, Instant},
};

use ff::Field;
use halo2_proofs::{
    circuit::{Layouter, SimpleFloorPlanner, Value},
    plonk::{Advice, Circuit, Column, ConstraintSystem, Error, Fixed, keygen_pk, keygen_vk},
    poly::Rotation,
};
use lamina_circuits::{
    Fr,
    slice::{LinkedColumns, RefusedParams, SliceCircuit},
};
use lamina_prover::{link::Draft, publish::deltas};
use lamina_verifier::{
    boundary::BoundaryReference,
    card::{
        Architecture, CARD_FORMAT, Card, CircuitEntry, Commitment, InsecureSrs, KeyBytes, KindEntry,
        ModelCard, Quantisation, SliceEntry, SrsReference,
    },
    context::Context,
    envelope::Envelope,
    hash::{NodeId, ProtocolId, RequestId},
    key::{key_digest, write_key},
    link::verify_link,
    srs::VerifierSrs,
    verify::{BoundaryExpectation, Expectation, PublicationReceipt, verify_slice},
};
use serde::{Deserialize, Serialize};
use toy::{LOG_N, digest, world};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WideParams {
    weights: usize,
    others: usize,
}

/// Many columns, each in one gate.
#[derive(Clone, Debug, Default)]
struct Wide(WideParams);

impl Circuit<Fr> for Wide {
    type Config = (Vec<Column<Advice>>, Column<Fixed>);
    type FloorPlanner = SimpleFloorPlanner;
    type Params = WideParams;

    fn params(&self) -> WideParams {
        self.0.clone()
    }

    fn without_witnesses(&self) -> Self {
        self.clone()
    }

    fn configure(_: &mut ConstraintSystem<Fr>) -> Self::Config {
        unreachable!("always configured with parameters")
    }

    fn configure_with_params(cs: &mut ConstraintSystem<Fr>, params: WideParams) -> Self::Config {
        cs.set_minimum_degree(5);
        cs.instance_column();
        let count = params.weights + params.others;
        let columns: Vec<_> = (0..count).map(|_| cs.advice_column()).collect();
        let fixed: Vec<_> = (0..1.max(params.others / 8)).map(|_| cs.fixed_column()).collect();
        cs.create_gate("wide", |cells| {
            let q: Vec<_> = fixed.iter().map(|q| cells.query_fixed(*q, Rotation::cur())).collect();
            let cells: Vec<_> = columns.iter().map(|c| cells.query_advice(*c, Rotation::cur())).collect();
            cells
                .iter()
                .enumerate()
                .map(|(at, cell)| {
                    // Of the full degree: the stock prover leaves a quotient limb that is not needed unblinded,
                    // and an envelope holds no identity.
                    let square = cell.clone() * cell.clone();
                    q[at % q.len()].clone() * (square.clone() * square - cell.clone())
                })
                .collect::<Vec<_>>()
        });
        (columns, fixed[0])
    }

    fn synthesize(&self, (columns, q): Self::Config, mut layouter: impl Layouter<Fr>) -> Result<(), Error> {
        layouter.assign_region(
            || "wide",
            |mut region| {
                for row in 0..4 {
                    region.assign_fixed(q, row, Fr::ONE);
                    for column in &columns {
                        region.assign_advice(*column, row, Value::known(Fr::ONE));
                    }
                }
                Ok(())
            },
        )
    }
}

impl SliceCircuit for Wide {
    fn check(_: &WideParams) -> Result<(), RefusedParams> {
        Ok(())
    }

    fn log_n(_: &WideParams) -> u32 {
        LOG_N
    }

    fn degree(_: &WideParams) -> usize {
        5
    }

    fn linked(params: &WideParams) -> LinkedColumns {
        LinkedColumns { weights: 0..params.weights, ..LinkedColumns::default() }
    }
}

/// Processor time of all threads of this process where the system tells it, else the time of day: other
/// processes do not disturb the former.
fn clock() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    let threads = std::fs::read_dir("/proc/self/task").ok().map(|tasks| {
        tasks
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
            .filter_map(|stat| stat.split_whitespace().next()?.parse::<u64>().ok())
            .sum::<u64>()
    });
    match threads {
        Some(ns) if ns > 0 => Duration::from_nanos(ns),
        _ => START.get_or_init(Instant::now).elapsed(),
    }
}

fn time<T>(what: &str, mut work: impl FnMut() -> T) -> f64 {
    const ROUNDS: u32 = 50;
    black_box(work());
    let start = clock();
    for _ in 0..ROUNDS {
        black_box(work());
    }
    let ms = (clock() - start).as_secs_f64() * 1e3 / f64::from(ROUNDS);
    eprintln!("{what:<44} {ms:9.3} ms");
    ms
}

#[test]
#[ignore = "a measurement; CI runs ignored tests beside all others"]
fn costs_of_verification() {
    let world = world();
    for (weights, others) in [(8, 32), (108, 167)] {
        let circuit = Wide(WideParams { weights, others });
        let vk = keygen_vk(&world.params, &circuit).unwrap();
        let pk = keygen_pk(&world.params, vk, &circuit).unwrap();
        let key = write_key(pk.get_vk());
        let entry =
            CircuitEntry { params: circuit.0.clone(), key_digest: key_digest(&key), key: KeyBytes(key) };
        let published = toy::blind(&world.srs, world.usable(), &vec![vec![1; 4]; weights]);
        // The range circuit of this measurement is the same one: it has the weights and no boundary.
        let card = ModelCard {
            format: CARD_FORMAT,
            protocol: ProtocolId::current(),
            name: "wide".into(),
            publisher: NodeId::default(),
            architecture: Architecture::default(),
            quantisation: Quantisation::default(),
            tokenizer: None,
            srs: SrsReference { id: world.srs.id(), insecure: true },
            kinds: vec![KindEntry { name: "wide".into(), slice: entry.clone(), range: entry }],
            slices: vec![SliceEntry {
                kind: 0,
                weights: published.commitments().iter().copied().map(Commitment).collect(),
            }],
        };
        let json = card.to_json();
        let card: Card<Wide, Wide> = Card::load(&json, InsecureSrs::Accept).unwrap();
        let context = Context {
            request: RequestId(digest(1)),
            node: NodeId(digest(2)),
            model: card.model(),
            slice: 0,
            tokens: 1,
        };
        let draft = Draft {
            key: card.key(0).unwrap(),
            srs: world.srs.id(),
            context,
            weights: card.weights(0).unwrap(),
            input: BoundaryReference::none(),
            output: BoundaryReference::none(),
        };
        let (proof, fresh) = toy::stock_proof(world, &pk, circuit, &draft.instance());
        let deltas = deltas(published.tails(), &fresh[..weights]);
        let envelope = draft.seal(&world.verifier_srs, proof.clone(), &deltas).unwrap();
        let expectation = Expectation {
            context,
            input: BoundaryExpectation::Hidden,
            output: BoundaryExpectation::Hidden,
            publication: PublicationReceipt::trusting_publisher(card.model()),
        };
        eprintln!(
            "\n{weights} weight columns, {others} others: card {} B, proof {} B, envelope {} B",
            json.len(),
            proof.len(),
            envelope.len()
        );
        let shape = card.key(0).unwrap().shape();
        let total = time("verify_slice", || {
            verify_slice(&expectation, &card, &world.verifier_srs, &envelope).unwrap()
        });
        let decode = time("  decoding", || Envelope::decode(&envelope, shape).unwrap());
        let pairs = draft.pairs(&proof).unwrap();
        let points = time("  linked points", || draft.pairs(&proof).unwrap());
        let link = Envelope::decode(&envelope, shape).unwrap().link;
        let tail = world.verifier_srs.tail(shape.blinding_rows).unwrap();
        let header = draft.header();
        let linked = time("  link proof", || assert!(verify_link(&header, tail, &pairs, &link)));
        eprintln!("{:<44} {:9.3} ms", "  halo2 and the rest", total - decode - points - linked);
        time("loading the card", || Card::<Wide, Wide>::load(&json, InsecureSrs::Accept).unwrap());
        time("sealing (the prover's link proof)", || {
            draft.seal(&world.verifier_srs, proof.clone(), &deltas).unwrap()
        });
    }
    let small = world.srs.verifier_srs(false).unwrap().write();
    eprintln!("\nverifier's reference string: {} B", small.len());
    time("reading it", || VerifierSrs::read(&small).unwrap());
}
