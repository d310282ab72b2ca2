//! A whole small model end to end: embedding, block and tied head, chained by their boundaries, each a real proof;
//! and real proofs of false witnesses, each with the exact refusal.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::sync::{Arc, OnceLock};

use halo2_proofs::plonk::VerifyingKey;
use lamina_circuits::{
    Fr,
    assign::BlockWitness,
    embedding::{EmbeddingSpec, EmbeddingWeights, EmbeddingWitness, embed},
    executor::{Trace, execute},
    head::{HeadSpec, HeadTrace, HeadWeights, assign::HeadWitness, execute_head},
    layout::Layout,
    model::{ModelCircuit, ModelParams, fit_ends},
    range::{RangeCircuit, RangeParams},
    slice::SliceCircuit,
    spec::{Activation, BlockWeights, Matrix, Scales, Shape},
    testing,
    witness::{self, Witness},
};
use lamina_prover::{
    Blinding, Committed, Cpu, Prover, ProvingKey, Silent,
    link::Draft,
    publish::{BlindedColumns, commit_blinded},
    srs::Srs,
};
use lamina_verifier::{
    G1Affine,
    boundary::{BoundaryReference, OpenBoundary},
    card::{
        Architecture, CARD_FORMAT, Card, CircuitEntry, Commitment, InsecureSrs, KeyBytes, KindEntry,
        ModelCard, Quantisation, SliceEntry, SrsReference,
    },
    context::Context,
    hash::{Digest, ModelId, NodeId, ProtocolId, RequestId},
    key::{key_digest, write_key},
    srs::{SrsError, VerifierSrs},
    verify::{
        BoundaryExpectation, ChainError, ChainExpectation, Expectation, PublicationReceipt, Refusal,
        verify_chain, verify_slice,
    },
};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

const K: u32 = 9;
const VOCAB: usize = 23;
const PROMPT: [u32; 2] = [22, 5];
const POSITIONS: [usize; 2] = [1, 2];

fn digest(byte: u8) -> Digest {
    Digest([byte; 32])
}

fn entry<P>(vk: &VerifyingKey<G1Affine>, params: P) -> CircuitEntry<P> {
    let key = write_key(vk);
    CircuitEntry { params, key_digest: key_digest(&key), key: KeyBytes(key) }
}

/// One side of a slice: what the header says, and what the prover commits to.
#[derive(Clone)]
struct Border {
    reference: BoundaryReference,
    tails: Vec<Vec<Fr>>,
}

impl Border {
    fn committed(&self, first: usize) -> Vec<Committed> {
        let columns = self.reference.columns.iter().zip(&self.tails).enumerate();
        let one = |(i, (&commitment, tail)): (usize, (&G1Affine, &Vec<Fr>))| Committed {
            column: first + i,
            commitment,
            tail: tail.clone(),
        };
        columns.map(one).collect()
    }
}

/// Greedy decoding by the reference executor.
struct Run {
    ids: Vec<u32>,
    first: Vec<i32>,
    block: lamina_circuits::executor::Trace,
    head: HeadTrace,
}

/// A published model: embedding, one block, tied head.
struct World {
    srs: Srs,
    verifier_srs: VerifierSrs,
    circuits: [ModelCircuit; 3],
    keys: Vec<ProvingKey>,
    embedding: EmbeddingWeights,
    block: BlockWeights,
    head: HeadWeights,
    columns: [Arc<Vec<Arc<Vec<i16>>>>; 3],
    published: Vec<Border>,
    card: Card<ModelCircuit, RangeCircuit>,
    model: ModelId,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| World::new("llama", |scales| scales))
}

/// The same with the operations of GPT-2: learned positions, a centred stream, biases, a plain GELU layer.
fn gpt2() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| World::new("gpt2", testing::like_gpt2))
}

impl World {
    fn new(family: &str, like: fn(Scales) -> Scales) -> World {
        let shape = Shape { hidden: 4, ffn: 3, heads: 2, kv_heads: 1, head_dim: 2 };
        let mut block = testing::params(shape, 4, 2, K);
        block.spec.scales = like(block.spec.scales);
        let learned = block.spec.scales.rope.is_none();
        let embedding_spec = EmbeddingSpec {
            hidden: 4,
            vocab: VOCAB,
            tokens: 4,
            weight_bits: 8,
            stream_bits: 12,
            shift: 2,
            position_shift: learned.then_some(1),
            centred: learned,
        };
        let head_spec = HeadSpec {
            norm: block.spec.norm(),
            gain_shift: 4,
            gain_bias: learned.then_some(3),
            vocab: VOCAB,
            tokens: 4,
            positions: 2,
            weight_bits: 8,
            open_logits: None,
        };
        let (embedding, head) = fit_ends(&embedding_spec, &head_spec, K).unwrap();
        let params =
            [ModelParams::Embedding(embedding), ModelParams::Block(block.clone()), ModelParams::Head(head)];
        let circuits = params.clone().map(|params| ModelCircuit::new(&params).unwrap());
        let embedding = testing::embedding_weights(&embedding_spec, 31, 90);
        let gain = testing::head_weights(&head_spec, 32, 1).gain;
        let head = HeadWeights { gain, matrix: embedding.matrix.clone() };
        let block = testing::weights(&block.spec, 33, 60);
        let srs = Srs::generate_insecure(K).unwrap();
        let keys: Vec<_> = circuits.iter().map(|c| ProvingKey::generate(&srs.params(), c).unwrap()).collect();
        let shared = |columns: Vec<Vec<i16>>| Arc::new(columns.into_iter().map(Arc::new).collect::<Vec<_>>());
        let both = shared(head_layout(&circuits).weight_columns(&head));
        let usable = keys[0].usable_rows();
        // The head's matrix is the embedding's: published once, with the gain in rows that the embedding does not
        // read, and linked by both. Positions are the embedding's own.
        let own = embedding_layout(&circuits).weight_columns(&embedding);
        let rows = head_layout(&circuits).matrix.rows();
        let same = own.iter().zip(both.iter()).all(|(own, both)| own[..rows] == both[..rows]);
        assert!(same && (own.len() > both.len()) == learned, "one layout of the matrix");
        let positions = shared(own[both.len()..].to_vec());
        let first: Vec<_> = both.iter().chain(positions.iter()).cloned().collect();
        let columns = [Arc::new(first), shared(block_layout(&circuits).weight_columns(&block)), both.clone()];
        let ends = publish(&srs, usable, &both);
        let mut first = ends.clone();
        if learned {
            let positions = publish(&srs, usable, &positions);
            first.reference.columns.extend(positions.reference.columns);
            first.tails.extend(positions.tails);
        }
        let middle = publish(&srs, usable, &columns[1]);
        let published = vec![first, middle, ends];
        let mut kinds = vec![];
        for (name, (key, params)) in ["embedding", "block", "head"].iter().zip(keys.iter().zip(params)) {
            let columns = ModelCircuit::linked(&params).weights.len();
            let range = RangeParams { columns, bits: 8, k: K };
            let circuit = RangeCircuit { params: range.clone(), witness: None };
            let range_key = ProvingKey::generate(&srs.params(), &circuit).unwrap();
            kinds.push(KindEntry {
                name: (*name).into(),
                slice: entry(key.vk(), params),
                range: entry(range_key.vk(), range),
            });
        }
        let card = ModelCard {
            format: CARD_FORMAT,
            protocol: ProtocolId::current(),
            name: "a whole small model".into(),
            publisher: NodeId(digest(9)),
            architecture: Architecture { family: family.into(), source: "random".into(), layers: 1 },
            quantisation: Quantisation { weight_bits: 8, activation_bits: 8, scheme: "none".into() },
            tokenizer: None,
            srs: SrsReference { id: srs.id(), insecure: true },
            kinds,
            slices: published
                .iter()
                .enumerate()
                .map(|(kind, p)| SliceEntry {
                    kind,
                    weights: p.reference.columns.iter().copied().map(Commitment).collect(),
                })
                .collect(),
        };
        let card = Card::<ModelCircuit, RangeCircuit>::load(&card.to_json(), InsecureSrs::Accept).unwrap();
        let model = card.model();
        let verifier_srs = srs.verifier_srs(true).unwrap();
        World { srs, verifier_srs, circuits, keys, embedding, block, head, columns, published, card, model }
    }
}

fn embedding_layout(circuits: &[ModelCircuit; 3]) -> &Arc<lamina_circuits::embedding::EmbeddingLayout> {
    let ModelCircuit::Embedding(circuit) = &circuits[0] else { panic!("slice 0 is the embedding") };
    &circuit.layout
}

fn block_layout(circuits: &[ModelCircuit; 3]) -> &Arc<Layout> {
    let ModelCircuit::Block(circuit) = &circuits[1] else { panic!("slice 1 is a block") };
    &circuit.layout
}

fn head_layout(circuits: &[ModelCircuit; 3]) -> &Arc<lamina_circuits::head::layout::HeadLayout> {
    let ModelCircuit::Head(circuit) = &circuits[2] else { panic!("slice 2 is the head") };
    &circuit.layout
}

fn publish(srs: &Srs, usable: usize, columns: &[Arc<Vec<i16>>]) -> Border {
    let columns: Vec<_> = columns.iter().cloned().map(witness::Column::I16).collect();
    border(&commit_blinded(srs, usable, &columns).unwrap())
}

fn border(columns: &BlindedColumns) -> Border {
    Border { reference: columns.boundary(), tails: columns.tails().to_vec() }
}

impl World {
    fn usable(&self) -> usize {
        self.keys[0].usable_rows()
    }

    fn hidden(&self, columns: Vec<Vec<i32>>) -> Border {
        let columns: Vec<_> = columns.into_iter().map(|c| witness::Column::I32(Arc::new(c))).collect();
        border(&commit_blinded(&self.srs, self.usable(), &columns).unwrap())
    }

    fn open(&self, columns: Vec<Vec<i32>>) -> (OpenBoundary, Border) {
        let values = OpenBoundary { columns };
        let reference = values.reference(&self.verifier_srs, self.usable()).unwrap();
        let blinding = (1 << K) - self.usable();
        let tails = vec![vec![Fr::zero(); blinding]; reference.columns.len()];
        (values, Border { reference, tails })
    }

    fn stream(&self, x: &[i32]) -> Border {
        self.hidden(block_layout(&self.circuits).boundary.of(x))
    }

    fn ids(&self, ids: &[u32]) -> (OpenBoundary, Border) {
        self.open(embedding_layout(&self.circuits).ids(ids))
    }

    fn answer(&self, tokens: &[u32]) -> (OpenBoundary, Border) {
        self.open(head_layout(&self.circuits).output(&POSITIONS, tokens, &[]))
    }

    /// The two greedy tokens after the prompt; unused places hold token 0.
    fn generate(&self) -> Run {
        let mut ids = vec![PROMPT[0], PROMPT[1], 0, 0];
        loop {
            let run = self.run(&ids);
            let next = [run.head.tokens[0], run.head.tokens[1]];
            if ids[2..] == next {
                return run;
            }
            ids[2..].copy_from_slice(&next);
        }
    }

    fn run(&self, ids: &[u32]) -> Run {
        let first = embed(&embedding_layout(&self.circuits).spec, &self.embedding, ids).unwrap();
        let block = execute(&block_layout(&self.circuits).spec, &self.block, &first).unwrap();
        let head = &head_layout(&self.circuits).spec;
        let head = execute_head(head, &self.head, &block.output.q, &POSITIONS).unwrap();
        Run { ids: ids.to_vec(), first, block, head }
    }

    fn context(&self, slice: u32) -> Context {
        Context {
            request: RequestId(digest(1)),
            node: NodeId(digest(2)),
            model: self.model,
            slice,
            tokens: PROMPT.len() as u32,
        }
    }

    fn prove(
        &self,
        slice: usize,
        witness: &dyn Witness,
        weights: &Border,
        input: &Border,
        output: &Border,
    ) -> Vec<u8> {
        let draft = Draft {
            key: self.card.key(slice as u32).unwrap(),
            srs: self.srs.id(),
            context: self.context(slice as u32),
            weights: &weights.reference.columns,
            input: input.reference.clone(),
            output: output.reference.clone(),
        };
        let linked = ModelCircuit::linked(&halo2_proofs::plonk::Circuit::params(&self.circuits[slice]));
        let mut committed = input.committed(linked.boundary_in.start);
        committed.extend(output.committed(linked.boundary_out.start));
        committed.extend(weights.committed(linked.weights.start));
        static CPU: OnceLock<Cpu> = OnceLock::new();
        let tau_g2 = self.srs.identity().tau_g2();
        let cpu = CPU.get_or_init(Cpu::default);
        let proof = Prover::from_bases(self.srs.bases(), tau_g2, &self.keys[slice], cpu)
            .unwrap()
            .without_self_check()
            .prove(witness, &[draft.instance().to_vec()], &committed, &mut Blinding::new(), &Silent)
            .unwrap();
        draft.seal(&self.verifier_srs, proof.proof, &proof.deltas).unwrap()
    }

    fn embedding_witness(&self, ids: &[u32], x: &[i32]) -> EmbeddingWitness {
        EmbeddingWitness::new(embedding_layout(&self.circuits), self.columns[0].clone(), ids, x)
    }

    fn head_witness(&self, trace: &HeadTrace) -> HeadWitness {
        HeadWitness::new(head_layout(&self.circuits), self.columns[2].clone(), trace)
    }

    fn verify(
        &self,
        slice: u32,
        input: BoundaryExpectation<'_>,
        output: BoundaryExpectation<'_>,
        envelope: &[u8],
    ) -> Result<(), Refusal> {
        let expectation = Expectation {
            context: self.context(slice),
            input,
            output,
            publication: PublicationReceipt::trusting_publisher(self.model),
        };
        let verdict = verify_slice(&expectation, &self.card, &self.verifier_srs, envelope);
        verdict.map(|_| ()).map_err(|e| e.refusal)
    }
}

#[test]
fn prompt_in_tokens_out() {
    chain_of(world());
}

#[test]
fn prompt_in_tokens_out_of_a_gpt2() {
    chain_of(gpt2());
}

fn chain_of(w: &World) {
    let run = w.generate();
    assert_eq!(run.ids[2..], run.head.tokens[..], "two tokens, each the greedy one after those before it");
    let (ids, input) = w.ids(&run.ids);
    let (answer, output) = w.answer(&run.head.tokens);
    let borders = [input, w.stream(&run.first), w.stream(&run.block.output.q), output];
    let block = BlockWitness::new(block_layout(&w.circuits), w.columns[1].clone(), &run.block);
    let witnesses: [&dyn Witness; 3] =
        [&w.embedding_witness(&run.ids, &run.first), &block, &w.head_witness(&run.head)];
    let envelopes: Vec<Vec<u8>> =
        (0..3).map(|i| w.prove(i, witnesses[i], &w.published[i], &borders[i], &borders[i + 1])).collect();
    let parts: Vec<&[u8]> = envelopes.iter().map(Vec::as_slice).collect();
    let check = |ids: &OpenBoundary, answer: &OpenBoundary, parts: &[&[u8]]| {
        let hidden = BoundaryExpectation::Hidden;
        let expectation = ChainExpectation {
            request: RequestId(digest(1)),
            model: w.model,
            tokens: PROMPT.len() as u32,
            nodes: &[NodeId(digest(2)); 3],
            boundaries: &[BoundaryExpectation::Open(ids), hidden, hidden, BoundaryExpectation::Open(answer)],
            publication: PublicationReceipt::trusting_publisher(w.model),
        };
        verify_chain(&expectation, &w.card, &w.verifier_srs, parts).map(|_| ())
    };
    check(&ids, &answer, &parts).unwrap();

    // A tied head links the very commitments of the embedding.
    let head = w.card.weights(2).unwrap();
    assert_eq!(w.card.weights(0).unwrap()[..head.len()], *head);

    // Another prompt, another answer, another position than those proved.
    let mut other = run.ids.clone();
    other[0] -= 1;
    let slice = |error: ChainError| match error {
        ChainError::Slice(error) => (error.slice, error.refusal),
        error => panic!("{error}"),
    };
    let (slice_0, refusal) = slice(check(&w.ids(&other).0, &answer, &parts).unwrap_err());
    assert!(slice_0 == 0 && matches!(refusal, Refusal::Boundary { column: 0, .. }), "{refusal}");
    let wrong = [run.head.tokens[0], (run.head.tokens[1] + 1) % VOCAB as u32];
    let (slice_2, refusal) = slice(check(&ids, &w.answer(&wrong).0, &parts).unwrap_err());
    assert!(slice_2 == 2 && matches!(refusal, Refusal::Boundary { column: 0, .. }), "{refusal}");
    let (moved, _) = w.open(head_layout(&w.circuits).output(&[0, 2], &run.head.tokens, &[]));
    let (_, refusal) = slice(check(&ids, &moved, &parts).unwrap_err());
    assert!(matches!(refusal, Refusal::Boundary { column: 0, .. }), "{refusal}");

    // The block left out, the head glued to the embedding: its own proof holds, the model has three slices.
    let trace = execute_head(&head_layout(&w.circuits).spec, &w.head, &run.first, &POSITIONS).unwrap();
    let (glued_answer, glued_output) = w.answer(&trace.tokens);
    let glued = w.prove(2, &w.head_witness(&trace), &w.published[2], &borders[1], &glued_output);
    let hidden = BoundaryExpectation::Hidden;
    w.verify(2, hidden, BoundaryExpectation::Open(&glued_answer), &glued).unwrap();
    let error = check(&ids, &glued_answer, &[parts[0], &glued]).unwrap_err();
    assert_eq!(error, ChainError::Missing { slice: 1 });
    let error = check(&ids, &glued_answer, &[parts[0], parts[1], &glued]).unwrap_err();
    assert_eq!(error, ChainError::Boundary { slice: 2 });

    // The head of another stream: its own proof holds, the chain does not.
    let mut stream = run.block.output.q.clone();
    stream[0] ^= 1;
    let trace = execute_head(&head_layout(&w.circuits).spec, &w.head, &stream, &POSITIONS).unwrap();
    let (answer, output) = w.answer(&trace.tokens);
    let foreign = w.prove(2, &w.head_witness(&trace), &w.published[2], &w.stream(&stream), &output);
    let hidden = BoundaryExpectation::Hidden;
    w.verify(2, hidden, BoundaryExpectation::Open(&answer), &foreign).unwrap();
    let error = check(&ids, &answer, &[parts[0], parts[1], &foreign]).unwrap_err();
    assert!(matches!(error, ChainError::Boundary { .. }), "{error}");
}

// The operations of GPT-2, each with one lie and everything downstream consistent with it.
#[test]
fn lies_about_gpt2s_operations_are_refused() {
    let w = gpt2();
    let run = w.generate();
    let layout = block_layout(&w.circuits);
    let spec = &layout.spec;
    let block = |witness: &BlockWitness, trace: &Trace| {
        let (input, output) = (w.stream(&trace.x), w.stream(&trace.output.q));
        let envelope = w.prove(1, witness, &w.published[1], &input, &output);
        w.verify(1, BoundaryExpectation::Hidden, BoundaryExpectation::Hidden, &envelope)
    };
    let laid_out = |trace: &Trace| BlockWitness::new(layout, w.columns[1].clone(), trace);
    block(&laid_out(&run.block), &run.block).unwrap();

    // Another bias, of every product that has one.
    type Pick = fn(&mut BlockWeights) -> &mut Matrix;
    let picks: [Pick; 6] =
        [|w| &mut w.q, |w| &mut w.k, |w| &mut w.v, |w| &mut w.o, |w| &mut w.gate, |w| &mut w.down];
    for pick in picks {
        let mut weights = w.block.clone();
        let matrix = pick(&mut weights);
        let bias = (matrix.rows - 1) * matrix.cols;
        Arc::make_mut(&mut matrix.data)[bias] += 1;
        let trace = execute(spec, &weights, &run.first).unwrap();
        assert_eq!(block(&laid_out(&trace), &trace).unwrap_err(), Refusal::Proof);
    }
    // The biases added twice to one token.
    let mut witness = laid_out(&run.block);
    witness.bias_counts = vec![1, 2, 1, 1];
    assert_eq!(block(&witness, &run.block).unwrap_err(), Refusal::Proof);
    // An activation that is not GELU's.
    let mut other = spec.clone();
    other.scales.activation = Activation::Silu;
    let trace = execute(&other, &w.block, &run.first).unwrap();
    assert_ne!(trace.activated, run.block.activated);
    assert_eq!(block(&laid_out(&trace), &trace).unwrap_err(), Refusal::Proof);
    // A query that its product does not give.
    let mut trace = run.block.clone();
    trace.query.q[0] += 1;
    assert_eq!(block(&laid_out(&trace), &trace).unwrap_err(), Refusal::Proof);

    // A stream whose mean is not zero.
    let mut first = run.first.clone();
    first[0] += 4;
    let (ids, input) = w.ids(&run.ids);
    let witness = w.embedding_witness(&run.ids, &first);
    let envelope = w.prove(0, &witness, &w.published[0], &input, &w.stream(&first));
    let refusal = w.verify(0, BoundaryExpectation::Open(&ids), BoundaryExpectation::Hidden, &envelope);
    assert_eq!(refusal.unwrap_err(), Refusal::Proof);

    // The bias of the last norm added twice at one position.
    let (answer, output) = w.answer(&run.head.tokens);
    let mut witness = w.head_witness(&run.head);
    witness.bias_counts = vec![1, 2];
    let envelope = w.prove(2, &witness, &w.published[2], &w.stream(&run.block.output.q), &output);
    let refusal = w.verify(2, BoundaryExpectation::Hidden, BoundaryExpectation::Open(&answer), &envelope);
    assert_eq!(refusal.unwrap_err(), Refusal::Proof);
}

// S6: rows of another id, ids outside the vocabulary; hidden ids are proved alike.
#[test]
fn embeddings_of_other_ids_are_refused() {
    let w = world();
    let run = w.generate();
    let stream = w.stream(&run.first);
    let open = |ids: &[u32]| {
        let (values, input) = w.ids(ids);
        let witness = w.embedding_witness(ids, &run.first);
        let envelope = w.prove(0, &witness, &w.published[0], &input, &stream);
        w.verify(0, BoundaryExpectation::Open(&values), BoundaryExpectation::Hidden, &envelope)
    };
    open(&run.ids).unwrap();
    for (token, id) in [(0, 21), (1, VOCAB as u32), (3, 1 << 20)] {
        let mut ids = run.ids.clone();
        ids[token] = id;
        assert_eq!(open(&ids).unwrap_err(), Refusal::Proof, "id {id}");
    }
    // Hidden ids, and a prover who knows others than those behind the commitment.
    let ids = w.hidden(embedding_layout(&w.circuits).ids(&run.ids));
    let expected = BoundaryExpectation::HiddenAs(&ids.reference.columns);
    let prove = |witness: &EmbeddingWitness| w.prove(0, witness, &w.published[0], &ids, &stream);
    let envelope = prove(&w.embedding_witness(&run.ids, &run.first));
    w.verify(0, expected, BoundaryExpectation::Hidden, &envelope).unwrap();
    // A row combination chosen in phase 1, after gamma.
    let mut x = run.first.clone();
    x[0] += 4;
    let mut cheat = w.embedding_witness(&run.ids, &x);
    cheat.added.insert((0, run.ids[0] as usize), Fr::one());
    let envelope = w.prove(0, &cheat, &w.published[0], &ids, &w.stream(&x));
    let refusal = w.verify(0, expected, BoundaryExpectation::Hidden, &envelope).unwrap_err();
    assert_eq!(refusal, Refusal::Proof);
}

// S7: every other token at one position, whether or not its logit ties.
#[test]
fn wrong_tokens_are_refused() {
    let w = world();
    let run = w.generate();
    let stream = w.stream(&run.block.output.q);
    let hidden = BoundaryExpectation::Hidden;
    for wrong in [0, 7, 22].into_iter().filter(|&id| id != run.head.tokens[1]) {
        let mut trace = run.head.clone();
        trace.tokens[1] = wrong;
        let (values, output) = w.answer(&trace.tokens);
        let envelope = w.prove(2, &w.head_witness(&trace), &w.published[2], &stream, &output);
        let refusal = w.verify(2, hidden, BoundaryExpectation::Open(&values), &envelope).unwrap_err();
        assert_eq!(refusal, Refusal::Proof, "token {wrong}");
        // Honest cells under the wrong claim.
        let mut honest = w.head_witness(&run.head);
        honest.output =
            vec![Arc::new(head_layout(&w.circuits).output(&POSITIONS, &trace.tokens, &[]).swap_remove(0))];
        let envelope = w.prove(2, &honest, &w.published[2], &stream, &output);
        let refusal = w.verify(2, hidden, BoundaryExpectation::Open(&values), &envelope).unwrap_err();
        assert_eq!(refusal, Refusal::Proof, "token {wrong} in the boundary alone");
    }
}

// S10: a head with a matrix of its own where the card's is the embedding's.
#[test]
fn a_head_of_another_matrix_is_refused_by_the_link_proof() {
    let w = world();
    let run = w.generate();
    let mut head = w.head.clone();
    Arc::make_mut(&mut head.matrix.data)[0] += 1;
    let layout = head_layout(&w.circuits);
    let columns: Arc<Vec<_>> = Arc::new(layout.weight_columns(&head).into_iter().map(Arc::new).collect());
    let trace = execute_head(&layout.spec, &head, &run.block.output.q, &POSITIONS).unwrap();
    let witness = HeadWitness::new(layout, columns.clone(), &trace);
    let own = publish(&w.srs, w.usable(), &columns);
    let (values, output) = w.answer(&trace.tokens);
    let envelope = w.prove(2, &witness, &own, &w.stream(&run.block.output.q), &output);
    let hidden = BoundaryExpectation::Hidden;
    let refusal = w.verify(2, hidden, BoundaryExpectation::Open(&values), &envelope).unwrap_err();
    assert_eq!(refusal, Refusal::Link);
}

// Many open columns are checked in one sum: of one wrong value, of errors that cancel, of exchanged commitments.
#[test]
fn many_open_columns_are_checked_together() {
    let w = world();
    let mut rng = ChaCha20Rng::seed_from_u64(5);
    let mut column = |rows: usize| -> Vec<i32> { (0..rows).map(|_| rng.next_u32() as i32 >> 4).collect() };
    let columns: Vec<_> = (0..9).map(|i| column(w.usable() - 7 * i)).collect();
    let honest = OpenBoundary { columns };
    let commitments = honest.reference(&w.verifier_srs, w.usable()).unwrap().columns;
    let behind = |values: &OpenBoundary, commitments: &[_]| {
        values.is_behind(&w.verifier_srs, w.usable(), commitments).unwrap()
    };
    assert!(behind(&honest, &commitments));
    assert!(!behind(&honest, &commitments[1..]));
    for at in 0..9 {
        let mut wrong = honest.clone();
        wrong.columns[at][at] += 1;
        assert!(!behind(&wrong, &commitments), "column {at}");
        // The same too little in another column.
        wrong.columns[(at + 1) % 9][at] -= 1;
        assert!(!behind(&wrong, &commitments), "columns {at} and the next");
        let mut exchanged = commitments.clone();
        exchanged.swap(at, (at + 4) % 9);
        assert!(!behind(&honest, &exchanged), "commitment {at}");
    }
    let long = OpenBoundary { columns: vec![vec![0; w.usable() + 1]; 9] };
    let refused = long.is_behind(&w.verifier_srs, w.usable(), &commitments).unwrap_err();
    assert_eq!(refused, SrsError::TooManyRows { limit: w.usable(), actual: w.usable() + 1 });
}
