//! One function a target: any bytes, no panic, bounded memory, nothing accepted that is not honest.

use std::fs;

use halo2_proofs::{SerdeFormat, halo2curves::bn256::Bn256, poly::kzg::commitment::ParamsKZG};
use lamina_circuits::{
    block::{BlockCircuit, BlockParams},
    range::{RangeCircuit, RangeParams},
};
use lamina_model::import::{from_gguf_bytes, from_safetensors_bytes};
use lamina_prover::{
    ProvingKey,
    srs::{Halo2Format, Srs},
};
use lamina_verifier::{
    bundle::{Bundle, Prompt},
    card::{InsecureSrs, ModelCard},
    envelope::Envelope,
    hash::{NodeId, RequestId},
    key::{SliceKey, key_digest, write_key},
    srs::VerifierSrs,
    verify::{
        BoundaryExpectation, ChainExpectation, Expectation, PublicationReceipt, verify_chain,
        verify_publication, verify_slice,
    },
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use crate::{
    memory::bounded,
    models,
    world::{BlockCard, World, context, folder, params, small_range, world},
};

/// Writes the seeds of a target where libFuzzer looks for them.
fn seed(target: &str, seeds: &[Vec<u8>]) {
    let folder = folder().join("corpus").join(target);
    fs::create_dir_all(&folder).expect("the folder is writable");
    for (index, bytes) in seeds.iter().enumerate() {
        fs::write(folder.join(format!("seed-{index}")), bytes).expect("the folder is writable");
    }
}

/// Envelopes of slices, of chains and of publications; bundles, as far as they are read before their envelopes are.
pub fn envelope(data: &[u8]) {
    let w = world();
    let honest = |known: &[&Vec<u8>]| known.iter().any(|bytes| *bytes == data);
    bounded(data.len(), 64, || {
        let slice = context(w.model, u32::from(data == w.hidden[1]));
        let expectation = |open: bool| Expectation {
            context: slice,
            input: boundary(w, open, 0),
            output: boundary(w, open, 1),
            publication: PublicationReceipt::trusting_publisher(w.model),
        };
        if let Some(key) = w.card.key(0)
            && let Ok(envelope) = Envelope::decode(data, key.shape())
        {
            assert_eq!(envelope.encode(), data, "decoded from other bytes than it encodes to");
        }
        if let Ok(bundle) = Bundle::decode(data) {
            assert_eq!(bundle.encode(), data, "decoded from other bytes than it encodes to");
        }
        if verify_slice(&expectation(false), &w.card, &w.srs, data).is_ok() {
            assert!(honest(&[&w.hidden[0], &w.hidden[1]]), "accepted between hidden boundaries");
        }
        if verify_slice(&expectation(true), &w.card, &w.srs, data).is_ok() {
            assert!(honest(&[&w.open]), "accepted between open boundaries");
        }
        let chain = ChainExpectation {
            request: RequestId(slice.request.0),
            model: w.model,
            tokens: slice.tokens,
            nodes: &[NodeId(slice.node.0); 2],
            boundaries: &[BoundaryExpectation::Hidden; 3],
            publication: PublicationReceipt::trusting_publisher(w.model),
        };
        if verify_chain(&chain, &w.card, &w.srs, &[data, &w.hidden[1]]).is_ok() {
            assert!(honest(&[&w.hidden[0]]), "accepted in a chain");
        }
        if verify_publication(w.model, &w.card, &w.srs, &[data, &w.ranges[1]]).is_ok() {
            assert!(honest(&[&w.ranges[0]]), "accepted as a publication");
        }
    });
}

fn boundary(w: &World, open: bool, side: usize) -> BoundaryExpectation<'_> {
    if open { BoundaryExpectation::Open(&w.values[side]) } else { BoundaryExpectation::Hidden }
}

/// The seeds of [`envelope`].
pub fn seed_envelope() {
    let w = world();
    let bundle = Bundle {
        model: w.model,
        request: RequestId(context(w.model, 0).request.0),
        prompt: Prompt::Open(vec![1, 2]),
        padding: 0,
        answer: vec![3],
        slices: w.hidden.to_vec(),
    };
    let rest = vec![w.open.clone(), bundle.encode()];
    seed("envelope", &[w.hidden.to_vec(), w.ranges.to_vec(), rest].concat());
}

/// Cards; and cards whose keys have the digests that the card claims, as a hostile publisher's have.
pub fn card(data: &[u8]) {
    // A card has two hexadecimal digits a byte of key and is copied into structures.
    bounded(data.len(), 64, || {
        let strict = BlockCard::load(data, InsecureSrs::Accept).map(|card| card.model());
        let Ok(mut card) = serde_json::from_slice::<ModelCard<BlockParams, RangeParams>>(data) else {
            assert!(strict.is_err(), "accepted what does not parse");
            return;
        };
        if let Ok(model) = strict {
            assert_eq!(model, card.model_id());
            let again = BlockCard::load(&card.to_json(), InsecureSrs::Accept).expect("it was accepted");
            assert_eq!(model, again.model(), "the identifier changes when the card is written");
        }
        for kind in &mut card.kinds {
            kind.slice.key_digest = key_digest(&kind.slice.key.0);
            kind.range.key_digest = key_digest(&kind.range.key.0);
        }
        let _ = BlockCard::check(&card, InsecureSrs::Accept);
    });
}

/// The seeds of [`card`].
pub fn seed_card() {
    let compact: serde_json::Value = serde_json::from_slice(&world().card_json).expect("the seed is JSON");
    seed("card", &[world().card_json.clone(), compact.to_string().into_bytes()]);
}

/// Verifying and proving keys; the first byte chooses. A hostile publisher pins the digest that it likes.
pub fn key(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else { return };
    bounded(data.len(), 64, || match mode % 4 {
        0 => {
            let _ = SliceKey::read::<BlockCircuit>(rest, key_digest(rest), &params());
        }
        1 => {
            let card = world().card.range_key(0).expect("there");
            let columns = card.shape().linked.len();
            let params = RangeParams { columns, bits: 8, k: params().k };
            let _ = SliceKey::read::<RangeCircuit>(rest, key_digest(rest), &params);
        }
        2 => {
            let _ = ProvingKey::read::<RangeCircuit>(&mut &*rest, small_range(), None);
        }
        _ => {
            let mut bytes = rest.to_vec();
            if bytes.len() >= 74 {
                let (head, body) = bytes.split_at_mut(74);
                head[10..].copy_from_slice(
                    blake2b_simd::Params::new().personal(b"lamina-pkey-v1").hash(body).as_bytes(),
                );
            }
            if let Ok(key) = ProvingKey::read::<RangeCircuit>(&mut &*bytes, small_range(), None) {
                let mut again = Vec::new();
                key.write(&mut again).expect("memory");
                assert_eq!(again, bytes, "a key that was read is written otherwise");
            }
        }
    });
}

/// The seeds of [`key`].
pub fn seed_key() {
    let w = world();
    let card: ModelCard<BlockParams, RangeParams> =
        serde_json::from_slice(&w.card_json).expect("the seed is a card");
    let with = |mode: u8, bytes: &[u8]| [&[mode], bytes].concat();
    let kind = &card.kinds[0];
    let key = ProvingKey::read::<RangeCircuit>(&mut &*w.proving_key, small_range(), None).expect("sound");
    seed(
        "key",
        &[
            with(0, &kind.slice.key.0),
            with(1, &kind.range.key.0),
            with(2, &w.proving_key),
            with(3, &w.proving_key),
            with(0, &write_key(key.vk())),
        ],
    );
}

/// Reference strings in every format; the first byte chooses.
pub fn srs(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else { return };
    // Points are expanded for multiplications: some tables' worth a point.
    bounded(data.len(), 256, || match mode % 6 {
        0 => {
            if let Ok(srs) = VerifierSrs::read(rest) {
                assert_eq!(srs.write(), rest, "a string that was read is written otherwise");
            }
        }
        1 => drop(Srs::read(rest)),
        2 => drop(Srs::import_halo2(rest, Halo2Format::Processed, 2, true)),
        3 => drop(Srs::import_halo2(rest, Halo2Format::RawBytes, 2, true)),
        4 => drop(Srs::import_ptau(rest, 2)),
        _ => {
            let mut bytes = rest.to_vec();
            if bytes.len() >= 47 {
                let digest = lamina_verifier::hash::Hasher::new("srs-store").bytes(&bytes[47..]).digest();
                bytes[15..47].copy_from_slice(&digest.0);
            }
            drop(Srs::read(&bytes));
        }
    });
}

/// The seeds of [`srs`].
pub fn seed_srs() {
    let with = |mode: u8, bytes: &[u8]| [&[mode], bytes].concat();
    let few = Srs::read(&world().stored_srs).expect("sound");
    let mut seeds = vec![with(1, &world().stored_srs), with(5, &world().stored_srs)];
    for whole in [true, false] {
        seeds.push(with(0, &few.verifier_srs(whole).expect("sound").write()));
    }
    let params = ParamsKZG::<Bn256>::setup(3, ChaCha20Rng::seed_from_u64(1));
    for (mode, format) in [(2, SerdeFormat::Processed), (3, SerdeFormat::RawBytes)] {
        let mut bytes = Vec::new();
        params.write_custom(&mut bytes, format).expect("memory");
        seeds.push(with(mode, &bytes));
    }
    seeds.push(with(4, &models::ptau(&few)));
    seed("srs", &seeds);
}

/// `config.json`, `tokenizer.json` and `model.safetensors`, as [`models::parts`] cuts them.
pub fn safetensors(data: &[u8]) {
    let [config, tokenizer, weights] = models::parts(data);
    bounded(data.len(), 256, || {
        let tokenizer = (!tokenizer.is_empty()).then_some(tokenizer);
        if let Ok(model) = from_safetensors_bytes(config, weights, tokenizer) {
            use_model(&model);
        }
    });
}

/// The seeds of [`safetensors`].
pub fn seed_safetensors() {
    let [config, tokenizer, weights] = models::ADDER;
    seed("safetensors", &[models::joined(config, tokenizer, weights), models::joined(config, b"", weights)]);
}

/// GGUF files.
pub fn gguf(data: &[u8]) {
    bounded(data.len(), 256, || {
        if let Ok(model) = from_gguf_bytes(data, None) {
            use_model(&model);
        }
    });
}

/// The seeds of [`gguf`].
pub fn seed_gguf() {
    let plain = [0, 1, 2, 3, 6, 8, 30].map(|kind| models::gguf(kind, false));
    seed("gguf", &[plain.to_vec(), vec![models::gguf(0, true)]].concat());
}

/// What a command does first with a model that it was given.
fn use_model(model: &lamina_model::Model) {
    assert!(model.parameters() > 0);
    let Ok(tokenizer) = model.tokenizer() else { return };
    if let Ok(ids) = tokenizer.encode("1+2= ab\u{e9} 11") {
        assert!(ids.iter().all(|id| (*id as usize) < model.config.vocab), "an id beyond the vocabulary");
        let _ = tokenizer.decode(&ids);
    }
}
