//! One small published model with honest proofs, made once and kept in `LAMINA_FUZZ/world`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use halo2_proofs::plonk::VerifyingKey;
use lamina_circuits::{
    Fr,
    assign::BlockWitness,
    block::{BlockCircuit, BlockParams},
    executor::execute,
    range::{RangeCircuit, RangeParams, RangeWitness},
    slice::SliceCircuit,
    spec::Shape,
    testing, witness,
};
use lamina_prover::{
    Blinding, Committed, Cpu, Prover, ProvingKey, Silent,
    link::Draft,
    publish::{BlindedColumns, commit_blinded, open_tail},
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
    srs::VerifierSrs,
    verify::publication_context,
};

/// The card of blocks and of their range circuits.
pub type BlockCard = Card<BlockCircuit, RangeCircuit>;

/// What the targets know.
pub struct World {
    /// The card as it was written.
    pub card_json: Vec<u8>,
    /// The card.
    pub card: BlockCard,
    /// Its identifier.
    pub model: ModelId,
    /// The verifier's reference string, with the whole basis.
    pub srs: VerifierSrs,
    /// The boundaries of [`Self::open`].
    pub values: [OpenBoundary; 2],
    /// Proofs of the two slices between hidden boundaries.
    pub hidden: [Vec<u8>; 2],
    /// A proof of slice 0 between open boundaries.
    pub open: Vec<u8>,
    /// The range proofs.
    pub ranges: [Vec<u8>; 2],
    /// A proving key of [`small_range`].
    pub proving_key: Vec<u8>,
    /// A stored reference string of a few rows.
    pub stored_srs: Vec<u8>,
}

/// The circuit of the slices.
pub fn params() -> BlockParams {
    testing::params(Shape { hidden: 4, ffn: 3, heads: 2, kv_heads: 1, head_dim: 2 }, 4, 2, 9)
}

/// The circuit of a small proving key.
pub fn small_range() -> RangeParams {
    RangeParams { columns: 1, bits: 2, k: 5 }
}

/// The folder of seeds and findings.
pub fn folder() -> PathBuf {
    PathBuf::from(env::var_os("LAMINA_FUZZ").expect("LAMINA_FUZZ names the folder of seeds; see fuzz/run"))
}

/// The occasion of the proofs.
pub fn context(model: ModelId, slice: u32) -> Context {
    let tokens = params().spec.tokens as u32;
    Context { request: RequestId(Digest([1; 32])), node: NodeId(Digest([2; 32])), model, slice, tokens }
}

/// The world of this folder.
pub fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let folder = folder().join("world");
        // Seeds of other circuits than today's are made again.
        let current = |json: Vec<u8>| BlockCard::load(&json, InsecureSrs::Accept).is_ok();
        if !folder.join("whole").exists() || !fs::read(folder.join("card.json")).is_ok_and(current) {
            make(&folder);
            fs::write(folder.join("whole"), b"").expect("the folder is writable");
        }
        load(&folder)
    })
}

/// The values of an open boundary: one column a vector.
fn columns_of(bytes: &[u8]) -> OpenBoundary {
    OpenBoundary { columns: serde_json::from_slice(bytes).expect("written by `make`") }
}

fn load(folder: &Path) -> World {
    let read = |name: &str| fs::read(folder.join(name)).expect("written by `make`");
    let card_json = read("card.json");
    let card = BlockCard::load(&card_json, InsecureSrs::Accept).expect("the seed is sound");
    World {
        model: card.model(),
        card,
        card_json,
        srs: VerifierSrs::read(&read("srs")).expect("the seed is sound"),
        values: [columns_of(&read("input.json")), columns_of(&read("output.json"))],
        hidden: [read("hidden-0"), read("hidden-1")],
        open: read("open"),
        ranges: [read("range-0"), read("range-1")],
        proving_key: read("proving-key"),
        stored_srs: read("stored-srs"),
    }
}

fn entry<P>(vk: &VerifyingKey<G1Affine>, params: P) -> CircuitEntry<P> {
    let key = write_key(vk);
    CircuitEntry { params, key_digest: key_digest(&key), key: KeyBytes(key) }
}

fn make(folder: &Path) {
    fs::create_dir_all(folder).expect("the folder is writable");
    let write =
        |name: &str, bytes: &[u8]| fs::write(folder.join(name), bytes).expect("the folder is writable");
    let params = params();
    let srs = Srs::generate_insecure(params.k).expect("a small string");
    let verifier_srs = srs.verifier_srs(true).expect("consistent");
    let circuit = BlockCircuit::new(&params).expect("sound parameters");
    let layout = circuit.layout.clone();
    let key = ProvingKey::generate(&srs.params(), &circuit).expect("a key");
    let range = RangeParams { columns: layout.weight_lanes, bits: params.spec.weight_bits, k: params.k };
    let range_key =
        ProvingKey::generate(&srs.params(), &RangeCircuit { params: range.clone(), witness: None })
            .expect("a key");
    let weights: Vec<_> = (0..2).map(|i| testing::weights(&params.spec, 20 + i, 60)).collect();
    let columns: Vec<Arc<Vec<Arc<Vec<i16>>>>> = weights
        .iter()
        .map(|w| Arc::new(layout.weight_columns(w).into_iter().map(Arc::new).collect()))
        .collect();
    let blind = |columns: Vec<witness::Column>| {
        commit_blinded(&srs, key.usable_rows(), &columns).expect("columns that fit")
    };
    let published: Vec<BlindedColumns> =
        columns.iter().map(|c| blind(c.iter().cloned().map(witness::Column::I16).collect())).collect();
    let card = ModelCard {
        format: CARD_FORMAT,
        protocol: ProtocolId::current(),
        name: "two small blocks".into(),
        publisher: NodeId(Digest([9; 32])),
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
    let json = card.to_json();
    let loaded = BlockCard::load(&json, InsecureSrs::Accept).expect("sound");
    let model = loaded.model();
    let cpu = Cpu::default();
    let prove =
        |key: &ProvingKey, draft: Draft<'_>, witness: &dyn witness::Witness, committed: &[Committed]| {
            let proved = Prover::from_bases(srs.bases(), srs.identity().tau_g2(), key, &cpu)
                .expect("one size")
                .prove(witness, &[draft.instance().to_vec()], committed, &mut Blinding::new(), &Silent)
                .expect("an honest witness");
            draft.seal(&verifier_srs, proved.proof, &proved.deltas).expect("linked")
        };
    let linked = BlockCircuit::linked(&params);
    type Border = (BoundaryReference, Vec<Vec<Fr>>);
    let slice = |index: u32, x: &[i32], input: &Border, output: &Border| {
        let (i, own) = (index as usize, &published[index as usize]);
        let trace = execute(&params.spec, &weights[i], x).expect("in range");
        let draft = Draft {
            key: loaded.key(index).expect("there"),
            srs: srs.id(),
            context: context(model, index),
            weights: own.commitments(),
            input: input.0.clone(),
            output: output.0.clone(),
        };
        let mut committed = Vec::new();
        for ((reference, tails), first) in
            [(input, linked.boundary_in.start), (output, linked.boundary_out.start)]
        {
            for (at, (commitment, tail)) in reference.columns.iter().zip(tails).enumerate() {
                committed.push(Committed { column: first + at, commitment: *commitment, tail: tail.clone() });
            }
        }
        committed.extend(own.committed(linked.weights.start));
        prove(&key, draft, &BlockWitness::new(&layout, columns[i].clone(), &trace), &committed)
    };
    let x = testing::activations(&params.spec, 7);
    let y = execute(&params.spec, &weights[0], &x).expect("in range").output.q;
    let z = execute(&params.spec, &weights[1], &y).expect("in range").output.q;
    let hide = |x: &[i32]| -> Border {
        let columns = layout.boundary.of(x).into_iter().map(|column| witness::Column::I32(Arc::new(column)));
        let blinded = blind(columns.collect());
        (blinded.boundary(), blinded.tails().to_vec())
    };
    let show = |x: &[i32]| -> Border {
        let boundary = OpenBoundary { columns: layout.boundary.of(x) };
        let reference = boundary.reference(&verifier_srs, key.usable_rows()).expect("fits");
        let tail = open_tail(srs.rows() - key.usable_rows());
        (reference, vec![tail; boundary.columns.len()])
    };
    let [a, b, c] = [&x, &y, &z].map(|x| hide(x));
    write("hidden-0", &slice(0, &x, &a, &b));
    write("hidden-1", &slice(1, &y, &b, &c));
    write("open", &slice(0, &x, &show(&x), &show(&y)));
    for (name, values) in [("input.json", &x), ("output.json", &y)] {
        write(name, &serde_json::to_vec(&layout.boundary.of(values)).expect("integers"));
    }
    for (index, (columns, own)) in columns.iter().zip(&published).enumerate() {
        let draft = Draft {
            key: loaded.range_key(index as u32).expect("there"),
            srs: srs.id(),
            context: publication_context(model, loaded.publisher(), index as u32),
            weights: own.commitments(),
            input: BoundaryReference::none(),
            output: BoundaryReference::none(),
        };
        let witness = RangeWitness::new(&range, columns.clone());
        write(&format!("range-{index}"), &prove(&range_key, draft, &witness, &own.committed(0)));
    }
    let small = Srs::generate_insecure(small_range().k).expect("a small string");
    let circuit = RangeCircuit { params: small_range(), witness: None };
    let mut bytes = Vec::new();
    let small_key = ProvingKey::generate(&small.params(), &circuit).expect("a key");
    small_key.write(&mut bytes).expect("memory");
    write("proving-key", &bytes);
    let store = lamina_prover::srs::SrsStore::new(folder.join("store"));
    let few = Srs::generate_insecure(4).expect("a small string");
    let path = store.save(&few).expect("the folder is writable");
    write("stored-srs", &fs::read(path).expect("just written"));
    write("srs", &verifier_srs.write());
    write("card.json", &json);
}
