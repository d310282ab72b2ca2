//! Transformer blocks end to end: our prover, link proofs, envelopes, our verifier. And cheating provers: real
//! proofs of false witnesses, each with the exact refusal.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::sync::{Arc, Mutex, OnceLock};

use ff::Field as _;
use group::{Curve, prime::PrimeCurveAffine};
use halo2_proofs::{
    halo2curves::bn256::Bn256,
    plonk::{Circuit, VerifyingKey, verify_proof},
    poly::kzg::{commitment::KZGCommitmentScheme, multiopen::VerifierSHPLONK, strategy::SingleStrategy},
    transcript::{Blake2bRead, Challenge255, TranscriptReadBuffer},
};
use lamina_circuits::{
    Fr,
    assign::BlockWitness,
    block::{BlockCircuit, BlockParams},
    executor::{Trace, execute},
    layout::{Layout, Row},
    range::{RangeCircuit, RangeParams, RangeWitness},
    rows::{C4, Kind},
    slice::SliceCircuit,
    spec::{BlockWeights, Matrix, Shape},
    testing,
    witness::{self, Witness},
};
use lamina_kernels_emu::{Fault, Mode};
use lamina_prover::{
    Backend, Blinding, Committed, Cpu, Cuda, FalseClaim, ProveError, Prover, ProvingKey, Silent,
    backend::Plan,
    link::Draft,
    publish::{BlindedColumns, commit_blinded},
    srs::Srs,
};
use lamina_verifier::{
    G1Affine,
    card::{
        Architecture, CARD_FORMAT, Card, CardError, CircuitEntry, Commitment, InsecureSrs, KeyBytes,
        KindEntry, ModelCard, Quantisation, SliceEntry, SrsReference,
    },
    context::Context,
    encoding,
    envelope::Envelope,
    hash::{Digest, ModelId, NodeId, ProtocolId, RequestId},
    key::{key_digest, write_key},
    srs::VerifierSrs,
    verify::{
        BoundaryExpectation, ChainError, ChainExpectation, Expectation, Field, PublicationError,
        PublicationReceipt, Refusal, publication_context, verify_chain, verify_publication, verify_slice,
    },
};

use rand_core::RngCore;

type BlockCard = Card<BlockCircuit, RangeCircuit>;

/// A published model of two small blocks.
struct World {
    srs: Srs,
    verifier_srs: VerifierSrs,
    circuit: BlockCircuit,
    key: ProvingKey,
    range_key: ProvingKey,
    range: RangeParams,
    weights: Vec<BlockWeights>,
    columns: Vec<Arc<Vec<Arc<Vec<i16>>>>>,
    published: Vec<BlindedColumns>,
    model_card: ModelCard<BlockParams, RangeParams>,
    card: BlockCard,
    model: ModelId,
    x: Vec<i32>,
}

fn digest(byte: u8) -> Digest {
    Digest([byte; 32])
}

fn params() -> BlockParams {
    testing::params(Shape { hidden: 4, ffn: 3, heads: 2, kv_heads: 1, head_dim: 2 }, 4, 2, 9)
}

fn entry<P>(vk: &VerifyingKey<G1Affine>, params: P) -> CircuitEntry<P> {
    let key = write_key(vk);
    CircuitEntry { params, key_digest: key_digest(&key), key: KeyBytes(key) }
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let params = params();
        let weights = (0..2).map(|i| testing::weights(&params.spec, 20 + i, 60)).collect();
        World::publish(params, weights)
    })
}

impl World {
    fn publish(params: BlockParams, weights: Vec<BlockWeights>) -> Self {
        let srs = Srs::generate_insecure(params.k).unwrap();
        let verifier_srs = srs.verifier_srs(true).unwrap();
        let circuit = BlockCircuit::new(&params).unwrap();
        let layout = circuit.layout.clone();
        let key = ProvingKey::generate(&srs.params(), &circuit).unwrap();
        let range = RangeParams { columns: layout.weight_lanes, bits: params.spec.weight_bits, k: params.k };
        let range_circuit = RangeCircuit { params: range.clone(), witness: None };
        let range_key = ProvingKey::generate(&srs.params(), &range_circuit).unwrap();
        let columns: Vec<Arc<Vec<_>>> = weights
            .iter()
            .map(|w| Arc::new(layout.weight_columns(w).into_iter().map(Arc::new).collect()))
            .collect();
        let published: Vec<_> = columns.iter().map(|c| publish(&srs, &key, c)).collect();
        let model_card = ModelCard {
            format: CARD_FORMAT,
            protocol: ProtocolId::current(),
            name: "two small blocks".into(),
            publisher: NodeId(digest(9)),
            architecture: Architecture { family: "llama".into(), source: "random".into(), layers: 2 },
            quantisation: Quantisation {
                weight_bits: params.spec.weight_bits,
                activation_bits: params.spec.scales.act_bits,
                scheme: "none".into(),
            },
            tokenizer: None,
            srs: SrsReference { id: srs.id(), insecure: true },
            kinds: vec![KindEntry {
                name: "block".into(),
                slice: entry(key.vk(), params.clone()),
                range: entry(range_key.vk(), range.clone()),
            }],
            slices: published
                .iter()
                .map(|p| SliceEntry {
                    kind: 0,
                    weights: p.commitments().iter().copied().map(Commitment).collect(),
                })
                .collect(),
        };
        let card = BlockCard::load(&model_card.to_json(), InsecureSrs::Accept).unwrap();
        let model = card.model();
        let x = testing::activations(&params.spec, 7);
        World {
            srs,
            verifier_srs,
            circuit,
            key,
            range_key,
            range,
            weights,
            columns,
            published,
            model_card,
            card,
            model,
            x,
        }
    }
}

fn publish(srs: &Srs, key: &ProvingKey, columns: &[Arc<Vec<i16>>]) -> BlindedColumns {
    let columns: Vec<_> = columns.iter().cloned().map(witness::Column::I16).collect();
    commit_blinded(srs, key.usable_rows(), &columns).unwrap()
}

impl World {
    fn layout(&self) -> &Arc<Layout> {
        &self.circuit.layout
    }

    fn trace(&self, slice: usize, x: &[i32]) -> Trace {
        execute(&self.circuit.params.spec, &self.weights[slice], x).unwrap()
    }

    fn witness(&self, slice: usize, trace: &Trace) -> BlockWitness {
        BlockWitness::new(self.layout(), self.columns[slice].clone(), trace)
    }

    fn boundary(&self, x: &[i32]) -> BlindedColumns {
        let columns: Vec<_> =
            self.layout().boundary.of(x).into_iter().map(|c| witness::Column::I32(Arc::new(c))).collect();
        commit_blinded(&self.srs, self.key.usable_rows(), &columns).unwrap()
    }

    fn context(&self, slice: u32) -> Context {
        Context {
            request: RequestId(digest(1)),
            node: NodeId(digest(2)),
            model: self.model,
            slice,
            tokens: self.circuit.params.spec.tokens as u32,
        }
    }

    /// Proves `witness` for `slice` between two hidden boundaries; `weights` are the commitments claimed.
    fn prove(
        &self,
        slice: u32,
        witness: &dyn Witness,
        weights: &BlindedColumns,
        input: &BlindedColumns,
        output: &BlindedColumns,
    ) -> Vec<u8> {
        self.prove_as(
            &prover(&self.srs, &self.key),
            &mut Blinding::new(),
            slice,
            witness,
            weights,
            input,
            output,
        )
    }

    /// The same with a prover and randomness of the cheater's choice.
    #[expect(clippy::too_many_arguments, reason = "each is one thing that a cheater chooses")]
    fn prove_as(
        &self,
        prover: &Prover<'_, impl Backend>,
        blinding: &mut Blinding,
        slice: u32,
        witness: &dyn Witness,
        weights: &BlindedColumns,
        input: &BlindedColumns,
        output: &BlindedColumns,
    ) -> Vec<u8> {
        let draft = Draft {
            key: self.card.key(slice).unwrap(),
            srs: self.srs.id(),
            context: self.context(slice),
            // An honest prover's are the card's; the verifier takes the card's whatever these are.
            weights: weights.commitments(),
            input: input.boundary(),
            output: output.boundary(),
        };
        let linked = BlockCircuit::linked(&self.circuit.params);
        let mut committed: Vec<Committed> = input.committed(linked.boundary_in.start);
        committed.extend(output.committed(linked.boundary_out.start));
        committed.extend(weights.committed(linked.weights.start));
        let instances = [draft.instance().to_vec()];
        let seen = Mutex::new(None);
        let beside = |fresh: &[G1Affine], deltas: &[Vec<Fr>]| {
            let before = seen.lock().unwrap().replace((fresh.to_vec(), deltas.to_vec()));
            assert!(before.is_none(), "called once");
        };
        let proof =
            prover.prove_with(witness, &instances, &committed, blinding, &Silent, Some(&beside)).unwrap();
        // What was told while the proof was under way is what the finished proof says.
        assert_eq!(seen.into_inner().unwrap(), Some((proof.commitments.clone(), proof.deltas.clone())));
        draft.seal(&self.verifier_srs, proof.proof, &proof.deltas).unwrap()
    }

    /// Proves a witness of slice 0 with a prover that lies about an evaluation.
    fn lie(&self, witness: &dyn Witness, output: &[i32], claim: FalseClaim) -> Refusal {
        let (input, output) = (self.boundary(&self.x), self.boundary(output));
        let prover = prover(&self.srs, &self.key).claiming(claim);
        let blinding = &mut Blinding::new();
        let envelope = self.prove_as(&prover, blinding, 0, witness, &self.published[0], &input, &output);
        self.verify(0, &envelope).unwrap_err()
    }

    fn honest(&self, slice: u32, x: &[i32], input: &BlindedColumns, output: &BlindedColumns) -> Vec<u8> {
        let witness = self.witness(slice as usize, &self.trace(slice as usize, x));
        self.prove(slice, &witness, &self.published[slice as usize], input, output)
    }

    fn expectation(&self, slice: u32) -> Expectation<'static> {
        Expectation {
            context: self.context(slice),
            input: BoundaryExpectation::Hidden,
            output: BoundaryExpectation::Hidden,
            publication: PublicationReceipt::trusting_publisher(self.model),
        }
    }

    fn verify(&self, slice: u32, envelope: &[u8]) -> Result<(), Refusal> {
        verify_slice(&self.expectation(slice), &self.card, &self.verifier_srs, envelope)
            .map(|_| ())
            .map_err(|e| e.refusal)
    }

    /// Proves a false witness of slice 0 and returns the verifier's refusal.
    fn refusal(&self, witness: &dyn Witness, output: &[i32]) -> Refusal {
        let (input, output) = (self.boundary(&self.x), self.boundary(output));
        let envelope = self.prove(0, witness, &self.published[0], &input, &output);
        self.verify(0, &envelope).unwrap_err()
    }
}

fn prover<'a>(srs: &'a Srs, key: &'a ProvingKey) -> Prover<'a, Cpu> {
    static CPU: OnceLock<Cpu> = OnceLock::new();
    let tau_g2 = srs.identity().tau_g2();
    Prover::from_bases(srs.bases(), tau_g2, key, CPU.get_or_init(Cpu::default)).unwrap().without_self_check()
}

/// What halo2's verifier says of a proof whose constraints do not hold.
fn constraints_fail(refusal: &Refusal) -> bool {
    *refusal == Refusal::Proof
}

#[test]
fn two_blocks_chain_with_hidden_boundaries() {
    let w = world();
    let first = w.trace(0, &w.x);
    let second = w.trace(1, &first.output.q);
    let borders = [&w.x, &first.output.q, &second.output.q].map(|x| w.boundary(x));
    let envelopes =
        [w.honest(0, &w.x, &borders[0], &borders[1]), w.honest(1, &first.output.q, &borders[1], &borders[2])];
    for (slice, envelope) in envelopes.iter().enumerate() {
        w.verify(slice as u32, envelope).unwrap();
    }
    let nodes = [NodeId(digest(2)); 2];
    let boundaries = [BoundaryExpectation::Hidden; 3];
    let expectation = ChainExpectation {
        request: RequestId(digest(1)),
        model: w.model,
        tokens: w.circuit.params.spec.tokens as u32,
        nodes: &nodes,
        boundaries: &boundaries,
        publication: PublicationReceipt::trusting_publisher(w.model),
    };
    let [a, b] = [&envelopes[0][..], &envelopes[1][..]];
    verify_chain(&expectation, &w.card, &w.verifier_srs, &[a, b]).unwrap();

    // S16: the second slice proved from other activations.
    let mut moved = first.output.q.clone();
    moved[0] ^= 1;
    let third = w.trace(1, &moved);
    let foreign = w.honest(1, &moved, &w.boundary(&moved), &w.boundary(&third.output.q));
    let error = verify_chain(&expectation, &w.card, &w.verifier_srs, &[a, &foreign]).unwrap_err();
    assert!(matches!(error, ChainError::Boundary { .. }), "{error}");
}

// S29: publication proofs; a weight out of range and a weight that is no integer are refused.
#[test]
fn publication_proves_ranges() {
    let w = world();
    let prove = |slice: u32, columns: &Arc<Vec<Arc<Vec<i16>>>>, published: &BlindedColumns| {
        let draft = Draft {
            key: w.card.range_key(slice).unwrap(),
            srs: w.srs.id(),
            context: publication_context(w.model, w.card.publisher(), slice),
            weights: published.commitments(),
            input: lamina_verifier::boundary::BoundaryReference::none(),
            output: lamina_verifier::boundary::BoundaryReference::none(),
        };
        let witness = RangeWitness::new(&w.range, columns.clone());
        let proof = prover(&w.srs, &w.range_key)
            .prove(
                &witness,
                &[draft.instance().to_vec()],
                &published.committed(0),
                &mut Blinding::new(),
                &Silent,
            )
            .unwrap();
        draft.seal(&w.verifier_srs, proof.proof, &proof.deltas).unwrap()
    };
    let honest: Vec<_> = (0..2).map(|i| prove(i as u32, &w.columns[i], &w.published[i])).collect();
    let refs: Vec<&[u8]> = honest.iter().map(Vec::as_slice).collect();
    let receipt = verify_publication(w.model, &w.card, &w.verifier_srs, &refs).unwrap();
    assert!(receipt.verified());

    // One entry beyond 8 bits, committed to under the same card entry: the link proof objects.
    let mut wide = (*w.columns[0]).clone();
    Arc::make_mut(&mut wide[0])[0] = 200;
    let wide = Arc::new(wide);
    let forged = prove(0, &wide, &publish(&w.srs, &w.key, &wide));
    let error = verify_publication(w.model, &w.card, &w.verifier_srs, &[&forged, refs[1]]).unwrap_err();
    assert!(matches!(&error, PublicationError::Slice(e) if constraints_fail(&e.refusal)), "{error}");
}

// S29: a card whose range circuit proves more bits than the block's bounds assume.
#[test]
fn cards_of_two_widths_are_refused() {
    let w = world();
    let range = RangeParams { bits: 10, ..w.range.clone() };
    let circuit = RangeCircuit { params: range.clone(), witness: None };
    let key = ProvingKey::generate(&w.srs.params(), &circuit).unwrap();
    let mut card = w.model_card.clone();
    card.kinds[0].range = entry(key.vk(), range);
    assert_eq!(
        BlockCard::check(&card, InsecureSrs::Accept).unwrap_err(),
        CardError::WeightBits { kind: 0, slice: Some(8), range: Some(10), card: 8 }
    );
}

// S10: a proof made with one weight changed by one, link proof included.
#[test]
fn another_models_weights_are_refused_by_the_link_proof() {
    let w = world();
    let mut weights = w.weights[0].clone();
    Arc::make_mut(&mut weights.o.data)[0] += 1;
    let columns: Arc<Vec<_>> =
        Arc::new(w.layout().weight_columns(&weights).into_iter().map(Arc::new).collect());
    let trace = execute(&w.circuit.params.spec, &weights, &w.x).unwrap();
    let witness = BlockWitness::new(w.layout(), columns.clone(), &trace);
    // The cheater commits to its own weights: everything it proves is true of them.
    let own = publish(&w.srs, &w.key, &columns);
    let (input, output) = (w.boundary(&w.x), w.boundary(&trace.output.q));
    let envelope = w.prove(0, &witness, &own, &input, &output);
    assert!(matches!(w.verify(0, &envelope), Err(Refusal::Link)));
}

// S31: a wrong product, consistent downstream.
#[test]
fn a_wrong_product_is_refused() {
    let w = world();
    let mut weights = w.weights[0].clone();
    let entry = &mut Arc::make_mut(&mut weights.v.data)[0];
    *entry += if *entry > 0 { -1 } else { 1 };
    let trace = execute(&w.circuit.params.spec, &weights, &w.x).unwrap();
    let refusal = w.refusal(&w.witness(0, &trace), &trace.output.q);
    assert!(constraints_fail(&refusal), "{refusal}");
}

// S2, S22, S3: an out-of-range cell; both neighbours of a rounded value.
#[test]
fn ranges_are_enforced() {
    let w = world();
    let trace = w.trace(0, &w.x);
    let at = w.layout().rows_used.0;
    let mut idle = w.witness(0, &trace);
    idle.overrides.insert((0, at), Fr::from(1 << 30));
    assert!(constraints_fail(&w.refusal(&idle, &trace.output.q)));
    for delta in [1, -1] {
        let mut rounded = trace.clone();
        rounded.output.q[0] += delta;
        rounded.output.r[0] -= delta << w.circuit.params.spec.scales.ffn_out_shift;
        let refusal = w.refusal(&w.witness(0, &rounded), &rounded.output.q);
        assert!(constraints_fail(&refusal), "{refusal}");
    }
}

/// A prover that chooses phase 0 for challenges it expects.
struct Expecting {
    honest: BlockWitness,
    at: [usize; 2],
    challenges: Vec<Fr>,
}

impl Expecting {
    /// `+1` in one remainder and, in another, what cancels it under the expected challenges.
    fn forged(&self) -> BlockWitness {
        let mut forged = self.honest.clone();
        let lanes = forged.layout.lanes;
        let column = C4 * lanes;
        let gamma = self.challenges[1];
        let [a, b] = self.at.map(|at| Fr::from(forged.cells[column][at] as u64));
        forged.overrides.insert((column, self.at[0]), a + Fr::ONE);
        forged.overrides.insert((column, self.at[1]), b - gamma.invert().unwrap());
        forged
    }
}

// S1: a product forged for known challenges passes its identity there and nowhere else.
#[test]
fn products_cannot_be_chosen_after_the_challenges() {
    let w = world();
    let trace = w.trace(0, &w.x);
    let honest = w.witness(0, &trace);
    let row = |j| w.layout().row_of(0, Row::MixOut(j));
    let challenges: Vec<Fr> = (0..5).map(|i| Fr::from(1000 + i)).collect();
    let cheat = Expecting { honest, at: [row(0), row(1)], challenges: challenges.clone() };
    let forged = cheat.forged();
    // Under the expected challenges the closing sum of the head is the honest one.
    let sums = |w: &BlockWitness| w.combine(&BlockWitness::challenges(&challenges))[1][row(0)];
    assert_eq!(sums(&forged), sums(&cheat.honest));
    // Under the transcript's it is not; the remainder is also no 6-bit integer.
    let refusal = w.refusal(&forged, &trace.output.q);
    assert!(constraints_fail(&refusal), "{refusal}");
    assert_eq!(w.layout().rows().nth(row(0)).unwrap().1.kind(), Kind::MixOut);
}

// Z1-Z4 at block level: two proofs of one statement.
#[test]
fn two_proofs_of_one_statement_share_nothing() {
    let w = world();
    let trace = w.trace(0, &w.x);
    let (input, output) = (w.boundary(&w.x), w.boundary(&trace.output.q));
    let [one, two] = [(); 2].map(|()| w.honest(0, &w.x, &input, &output));
    assert_eq!(one.len(), two.len());
    let shape = w.card.key(0).unwrap().shape();
    let body = |bytes: &[u8]| bytes[bytes.len() - shape.proof_bytes()..].to_vec();
    let (one, two) = (body(&one), body(&two));
    let same: Vec<usize> =
        (0..one.len() / 32).filter(|i| one[32 * i..32 * i + 32] == two[32 * i..32 * i + 32]).collect();
    // Evaluations of fixed columns may agree: a table column without outputs is the zero polynomial.
    let cs = w.key.vk().cs();
    let fixed = shape.points - 2 + cs.advice_queries().len();
    let fixed = fixed..fixed + cs.fixed_queries().len();
    assert!(same.iter().all(|i| fixed.contains(i)), "equal fields {same:?}, fixed {fixed:?}");
}

/// Reference executor = circuit = proof, on random shapes: odd head counts, grouped queries, one token, more tokens
/// than lanes, features and values that no lane count divides.
#[test]
fn random_shapes_are_proved_and_accepted() {
    let mut rng = testing::Generator(99);
    let mut pick = |from: usize, to: usize| from + rng.next_u64() as usize % (to - from + 1);
    for round in 0..4 {
        let kv_heads = pick(1, 2);
        let shape = Shape {
            hidden: pick(3, 7),
            ffn: pick(1, 6),
            heads: kv_heads * pick(1, 3),
            kv_heads,
            head_dim: 2 * pick(1, 2),
        };
        let (lanes, groups) = if round == 0 { (1, 1) } else { (pick(1, 3), pick(1, 3)) };
        let params = testing::params(shape, lanes * groups, lanes, 10);
        let circuit = BlockCircuit::new(&params).unwrap();
        let weights = testing::weights(&params.spec, round, 50);
        let trace = execute(&params.spec, &weights, &testing::activations(&params.spec, round)).unwrap();
        let columns: Vec<_> = circuit.layout.weight_columns(&weights).into_iter().map(Arc::new).collect();
        let witness = BlockWitness::new(&circuit.layout, Arc::new(columns), &trace);
        let srs = Srs::generate_insecure(params.k).unwrap();
        let key = ProvingKey::generate(&srs.params(), &circuit).unwrap();
        let instances = vec![vec![Fr::from(round), Fr::ONE]];
        let proved =
            prover(&srs, &key).prove(&witness, &instances, &[], &mut Blinding::new(), &Silent).unwrap();
        assert!(stock_accepts(&srs, &key, &instances, &proved.proof), "{params:?}");
        // S9: another public value.
        assert!(!stock_accepts(&srs, &key, &[vec![Fr::from(round), Fr::ZERO]], &proved.proof));
    }
}

/// The verifier replays halo2's transcript in code of its own: it must decide as halo2's does.
#[test]
fn our_verifier_decides_as_the_stock_one() {
    let world = world();
    let trace = world.trace(0, &world.x);
    let (input, output) = (world.boundary(&world.x), world.boundary(&trace.output.q));
    let honest = world.honest(0, &world.x, &input, &output);
    let (key, srs) = (world.card.key(0).unwrap(), &world.srs);
    let draft = Draft {
        key,
        srs: srs.id(),
        context: world.context(0),
        weights: world.published[0].commitments(),
        input: input.boundary(),
        output: output.boundary(),
    };
    let instance = draft.instance().to_vec();
    let stock = |instance: &[Fr], proof: &[u8]| stock_accepts(srs, &world.key, &[instance.to_vec()], proof);
    let envelope = Envelope::decode(&honest, key.shape()).unwrap();
    assert!(stock(&instance, &envelope.proof));
    assert_eq!(world.verify(0, &honest), Ok(()));
    for wrong in [[instance[1], instance[0]], [instance[0] + Fr::ONE, instance[1]]] {
        assert!(!stock(&wrong, &envelope.proof));
    }

    // Every element of the proof, replaced by another valid one: a neighbour, or a changed scalar.
    let (points, scalars) = (key.shape().points, key.shape().scalars);
    let elements = points + scalars + 2;
    assert_eq!(envelope.proof.len(), 32 * elements);
    for element in (0..elements).filter(|at| *at < points || (at - points) % 7 == 0 || at + 3 > elements) {
        let mut forged = envelope.clone();
        let is_scalar = (points..points + scalars).contains(&element);
        let at = 32 * element;
        if is_scalar {
            let mut scalar = Fr::from_bytes(envelope.proof[at..at + 32].try_into().unwrap()).unwrap();
            scalar += Fr::ONE;
            forged.proof[at..at + 32].copy_from_slice(&scalar.to_bytes());
        } else {
            let point = encoding::g1(envelope.proof[at..at + 32].try_into().unwrap()).unwrap();
            let point = (point + G1Affine::generator()).to_affine();
            forged.proof[at..at + 32].copy_from_slice(&encoding::g1_bytes(&point));
        }
        assert!(!stock(&instance, &forged.proof), "element {element}");
        assert_eq!(world.verify(0, &forged.encode()), Err(Refusal::Proof), "element {element}");
    }
}

/// The whole proof on the kernels, where there is no GPU: the stand-in driver runs them.
#[test]
fn a_block_is_proved_on_the_stand_in_device() {
    lamina_kernels_emu::install(Mode::Host);
    let cuda = Cuda::open(0).unwrap();
    assert_eq!(cuda.name(), "cuda: emulation, host code");
    let world = world();
    // No more memory than is planned.
    let planned = Plan::of(&world.key).needed(false);
    lamina_kernels_emu::inject(Fault::Memory { bytes: planned as u64 });
    let (key, srs) = (world.card.key(0).unwrap(), &world.srs);
    let trace = world.trace(0, &world.x);
    let (input, output) = (world.boundary(&world.x), world.boundary(&trace.output.q));
    let prover = Prover::from_bases(srs.bases(), srs.identity().tau_g2(), &world.key, &cuda).unwrap();
    let (witness, blinding) = (world.witness(0, &trace), &mut Blinding::new());
    let envelope = world.prove_as(&prover, blinding, 0, &witness, &world.published[0], &input, &output);
    assert_eq!(world.verify(0, &envelope), Ok(()));
    let draft = Draft {
        key,
        srs: srs.id(),
        context: world.context(0),
        weights: world.published[0].commitments(),
        input: input.boundary(),
        output: output.boundary(),
    };
    let proof = Envelope::decode(&envelope, key.shape()).unwrap().proof;
    assert!(stock_accepts(srs, &world.key, &[draft.instance().to_vec()], &proof));

    // The device solves gates for the later columns. Those of a false witness contradict its equalities.
    let mut wrong = world.witness(0, &trace);
    let (lanes, score) = (wrong.layout.lanes, wrong.layout.row_of(0, Row::Score { head: 0, key: 0 }));
    Arc::make_mut(&mut wrong.cells[C4 * lanes])[score] += 1;
    wrong.count();
    let instance = vec![draft.instance().to_vec()];
    let refused = prover.prove(&wrong, &instance, &[], &mut Blinding::new(), &Silent);
    assert!(matches!(refused, Err(ProveError::Unsatisfied)), "{refused:?}");
}

/// What stayed is what is proved; `resident` in the backend has tests of what stays.
#[test]
fn weights_stay_on_the_device_from_proof_to_proof() {
    lamina_kernels_emu::install(Mode::Host);
    let cuda = Cuda::open(0).unwrap();
    assert_eq!(cuda.name(), "cuda: emulation, host code");
    let (world, srs) = (world(), &world().srs);
    let prover = Prover::from_bases(srs.bases(), srs.identity().tau_g2(), &world.key, &cuda).unwrap();
    let trace = world.trace(0, &world.x);
    let (input, output) = (world.boundary(&world.x), world.boundary(&trace.output.q));
    // Bytes that a proof sends to the device before it commits.
    let sent = || {
        let (witness, published) = (world.witness(0, &trace), &world.published[0]);
        cuda.measure();
        let envelope = world.prove_as(&prover, &mut Blinding::new(), 0, &witness, published, &input, &output);
        assert_eq!(world.verify(0, &envelope), Ok(()));
        let stages = cuda.measured().unwrap().unwrap().stages;
        stages.iter().find(|stage| stage.stage == "commit").unwrap().work.to_device_bytes
    };
    let first = sent();
    // Integers of 8 bits, as all of them fit.
    let longest = world.columns[0].iter().map(|column| column.len()).max().unwrap();
    let weights = world.columns[0].len() * longest.next_multiple_of(16);
    assert_eq!(sent(), first - weights as u64);
}

fn stock_accepts(srs: &Srs, key: &ProvingKey, instances: &[Vec<Fr>], proof: &[u8]) -> bool {
    let params = srs.params();
    let instances: Vec<&[Fr]> = instances.iter().map(Vec::as_slice).collect();
    let mut transcript = Blake2bRead::<_, G1Affine, Challenge255<_>>::init(proof);
    verify_proof::<KZGCommitmentScheme<Bn256>, VerifierSHPLONK<'_, Bn256>, _, _, _>(
        &params,
        key.vk(),
        SingleStrategy::new(&params),
        &[&instances],
        &mut transcript,
    )
    .is_ok()
}

// S13: a true witness with one evaluation claimed falsely, each in turn; the prover opens what it committed to.
#[test]
fn false_evaluations_are_refused() {
    let w = world();
    let trace = w.trace(0, &w.x);
    let witness = w.witness(0, &trace);
    let evaluations = w.card.key(0).unwrap().shape().scalars - 1;
    let cs = w.key.vk().cs();
    // Some of every class, and the first and the last of each: advice, fixed, permutation, products.
    let (advice, fixed) = (cs.advice_queries().len(), cs.fixed_queries().len());
    let permuted = cs.permutation().get_columns().len();
    let starts = [0, advice, advice + fixed, advice + fixed + permuted, evaluations];
    for pair in starts.windows(2) {
        for at in [pair[0], (pair[0] + pair[1]) / 2, pair[1] - 1] {
            let refusal = w.lie(&witness, &trace.output.q, FalseClaim::Add(at, Fr::ONE));
            assert!(constraints_fail(&refusal), "evaluation {at}: {refusal}");
        }
    }
}

// S13: a false witness, and an evaluation solved for so that the identity holds at x: only the opening is wrong.
#[test]
fn an_evaluation_solved_for_is_refused_by_the_opening() {
    let w = world();
    let trace = w.trace(0, &w.x);
    let mut witness = w.witness(0, &trace);
    witness.overrides.insert((0, w.layout().rows_used.0), Fr::from(1 << 30));
    let (columns, _) = BlockCircuit::configure_with_params(&mut Default::default(), w.circuit.params.clone());
    let queries = w.key.vk().cs().advice_queries();
    for column in [columns.acc, columns.logup.helpers[0]] {
        let at = queries.iter().position(|(query, at)| *query == column && at.0 == 0).unwrap();
        // `FalseClaim::Solve` asserts that the identity holds.
        let refusal = w.lie(&witness, &trace.output.q, FalseClaim::Solve(at));
        assert!(constraints_fail(&refusal), "{refusal}");
    }
}

/// A broken generator: the same value for ever, so that equal columns get equal commitments.
struct Stuck;

impl RngCore for Stuck {
    fn next_u32(&mut self) -> u32 {
        0x0303_0303
    }
    fn next_u64(&mut self) -> u64 {
        0x0303_0303_0303_0303
    }
    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        bytes.fill(3);
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), rand_core::Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

// S13: two columns with one commitment that claim different evaluations at one point.
#[test]
fn equal_commitments_with_different_evaluations_are_refused() {
    // All weights are equal and fill their rows, so two weight columns are equal; so is their fresh blinding.
    let params = testing::params(Shape { hidden: 24, ffn: 24, heads: 4, kv_heads: 4, head_dim: 6 }, 4, 2, 9);
    let mut weights = testing::weights(&params.spec, 1, 60);
    let w = &mut weights;
    let up = w.up.as_mut().unwrap();
    for matrix in [&mut w.q, &mut w.k, &mut w.v, &mut w.o, &mut w.gate, up, &mut w.down] {
        matrix.data = Arc::new(vec![1; matrix.data.len()]);
    }
    let w = World::publish(params, vec![weights.clone(), weights]);
    assert!(w.layout().weight_lanes > 1 && w.columns[0][0] == w.columns[0][1], "equal columns");
    let trace = w.trace(0, &w.x);
    let witness = w.witness(0, &trace);
    let (input, output) = (w.boundary(&w.x), w.boundary(&trace.output.q));
    let linked = BlockCircuit::linked(&w.circuit.params).weights;
    let (first, second) = (linked.start, linked.start + 1);
    let queries = w.key.vk().cs().advice_queries();
    let at = queries.iter().position(|(column, _)| column.index() == second).unwrap();
    // The second column is published with the first one's blinding.
    let mut weights = w.published[0].committed(linked.start);
    (weights[1].commitment, weights[1].tail) = (weights[0].commitment, weights[0].tail.clone());
    let commitments: Vec<G1Affine> = weights.iter().map(|one| one.commitment).collect();
    let draft = Draft {
        key: w.card.key(0).unwrap(),
        srs: w.srs.id(),
        context: w.context(0),
        weights: &commitments,
        input: input.boundary(),
        output: output.boundary(),
    };
    let instances = [draft.instance().to_vec()];
    let places = BlockCircuit::linked(&w.circuit.params);
    let mut committed = input.committed(places.boundary_in.start);
    committed.extend(output.committed(places.boundary_out.start));
    committed.extend(weights);
    let prove = |claim: Option<FalseClaim>| {
        let prover = prover(&w.srs, &w.key);
        let prover = claim.into_iter().fold(prover, Prover::claiming);
        let blinding = &mut Blinding::stock_compatible_with_limbs(Stuck);
        let proved = prover.prove(&witness, &instances, &committed, blinding, &Silent).unwrap();
        draft.seal(&w.verifier_srs, proved.proof, &proved.deltas).unwrap()
    };
    let shape = w.card.key(0).unwrap().shape();
    let body = |envelope: &[u8]| envelope[envelope.len() - shape.proof_bytes()..].to_vec();
    for claim in [None, Some(FalseClaim::Add(at, Fr::ONE))] {
        let envelope = prove(claim);
        let proof = body(&envelope);
        assert_eq!(proof[32 * first..][..32], proof[32 * second..][..32], "one commitment");
        // Ours refuses before it verifies, whatever is claimed: no honest prover has equal commitments.
        assert_eq!(w.verify(0, &envelope), Err(Refusal::RepeatedCommitment { first, second }));
        // The library's verifier opens both columns: equal claims pass, different ones do not.
        assert_eq!(stock_accepts(&w.srs, &w.key, &instances, &proof), claim.is_none(), "{claim:?}");
    }
}

// S6: a slice that the model does not have, expected or claimed. Tokens, heads and lanes are no indices of the
// prover's: `cheats::no_index_is_the_provers`.
#[test]
fn slices_beyond_the_model_are_refused() {
    let w = world();
    let trace = w.trace(0, &w.x);
    let (input, output) = (w.boundary(&w.x), w.boundary(&trace.output.q));
    let honest = w.honest(0, &w.x, &input, &output);
    for slice in [2, u32::MAX] {
        assert_eq!(w.verify(slice, &honest), Err(Refusal::NoSuchSlice { count: 2 }));
        let mut claimed = honest.clone();
        claimed[138..142].copy_from_slice(&slice.to_le_bytes());
        assert_eq!(w.verify(0, &claimed), Err(Refusal::Field { field: Field::Slice }));
        assert!(w.card.key(slice).is_none() && w.card.weights(slice).is_none());
    }
    // The same slice's number with another slice's weights.
    assert_eq!(w.verify(1, &honest), Err(Refusal::Field { field: Field::Slice }));
}

// Z7: one process, one source of blinding, one statement, twice; then the same from a thread of its own.
#[test]
fn no_source_of_blinding_repeats_itself() {
    let w = world();
    let trace = w.trace(0, &w.x);
    let witness = w.witness(0, &trace);
    let (input, output) = (w.boundary(&w.x), w.boundary(&trace.output.q));
    let prover = prover(&w.srs, &w.key);
    let prove = |blinding: &mut Blinding| {
        w.prove_as(&prover, blinding, 0, &witness, &w.published[0], &input, &output)
    };
    let mut kept = Blinding::new();
    let mut proofs = vec![prove(&mut kept), prove(&mut kept), prove(&mut Blinding::default())];
    proofs.push(std::thread::scope(|scope| scope.spawn(|| prove(&mut Blinding::new())).join().unwrap()));
    let shape = w.card.key(0).unwrap().shape();
    let mut points: Vec<[u8; 32]> = Vec::new();
    for proof in &proofs {
        w.verify(0, proof).unwrap();
        points.extend(&proof[proof.len() - shape.proof_bytes()..].as_chunks::<32>().0[..shape.points]);
    }
    let count = points.len();
    points.sort_unstable();
    points.dedup();
    assert_eq!(points.len(), count, "a commitment was repeated");
}

// Z8: what is secret changes neither the length of a proof nor its structure, extremes included.
#[test]
fn secrets_change_no_length_and_no_structure() {
    let w = world();
    let spec = &w.circuit.params.spec;
    let zeros = BlockWeights::build(spec, |_, rows, cols| {
        Ok::<_, std::convert::Infallible>(Matrix { rows, cols, data: Arc::new(vec![0; rows * cols]) })
    })
    .unwrap();
    let still = World::publish(w.circuit.params.clone(), vec![zeros.clone(), zeros]);
    let shape = w.card.key(0).unwrap().shape();
    assert_eq!(still.card.key(0).unwrap().shape(), shape);
    let identity = encoding::g1_bytes(&G1Affine::identity());
    let mut lengths = Vec::new();
    for (w, x) in [
        (w, w.x.clone()),
        (w, testing::activations(spec, 8)),
        (w, vec![0; w.x.len()]),
        (&still, w.x.clone()),
        (&still, vec![0; w.x.len()]),
    ] {
        let trace = w.trace(0, &x);
        let (input, output) = (w.boundary(&x), w.boundary(&trace.output.q));
        let envelope = w.honest(0, &x, &input, &output);
        w.verify(0, &envelope).unwrap();
        let decoded = Envelope::decode(&envelope, shape).unwrap();
        assert_eq!(decoded.input.columns.len() + decoded.output.columns.len(), 2, "boundary columns");
        // A column of zeros is blinded like any other.
        let points = &decoded.proof.as_chunks::<32>().0[..shape.points];
        assert!(!points.contains(&identity), "a commitment tells that its column is zero");
        lengths.push(envelope.len());
    }
    lengths.dedup();
    assert_eq!(lengths.len(), 1, "{lengths:?}");
}

/// A matrix of this shape without content.
// Z5: what a log or a panic message would print of secret structures.
#[test]
fn debug_output_holds_no_secret() {
    let w = world();
    let secrets: Vec<String> =
        w.published[0].tails().iter().flatten().map(|tail| format!("{tail:?}")).collect();
    let printed =
        format!("{:?} {:#?} {:?} {:?}", w.published[0], w.published[0].committed(0), w.verifier_srs, w.card);
    assert!(printed.len() > 200, "{printed}");
    for secret in &secrets {
        let digits = secret.trim_start_matches("0x");
        assert!(digits.len() > 32 && !printed.contains(digits), "a tail is printed");
    }
    let (input, output) = (w.boundary(&w.x), w.boundary(&w.trace(0, &w.x).output.q));
    let mut committed = input.committed(0);
    committed.extend(output.committed(1));
    let witness = w.witness(0, &w.trace(0, &w.x));
    let proved = prover(&w.srs, &w.key)
        .prove(&witness, &[vec![Fr::ONE, Fr::ONE]], &committed, &mut Blinding::new(), &Silent)
        .unwrap();
    let printed = format!("{proved:?}");
    for delta in proved.deltas.iter().flatten() {
        assert!(!printed.contains(format!("{delta:?}").trim_start_matches("0x")), "a delta is printed");
    }
}
