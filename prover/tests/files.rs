//! Keys, cards, reference strings and secret tails as files: hostile, corrupted, of another making
//! (security.md S17, S30, Z6).

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod toy;

use std::{fs, path::PathBuf};

use ff::PrimeField;
use group::Curve;
use halo2_proofs::{
    SerdeFormat,
    halo2curves::{
        CurveAffine,
        bn256::{Fq, G1Affine, G2Affine},
        serde::SerdeObject,
    },
};
use lamina_circuits::{
    Fr,
    range::{RangeCircuit, RangeParams},
};
use lamina_prover::{
    KeyError as StoredKeyError, ProvingKey,
    publish::{BlindedColumns, PublishError},
    srs::{Ceremony, Halo2Format, Srs, SrsFileError, SrsStore},
};
use lamina_verifier::{
    card::{CARD_FORMAT, Card, CardError, CircuitEntry, InsecureSrs, KeyBytes},
    encoding::{self, PointError},
    hash::ProtocolId,
    key::{KeyError, SliceKey, key_digest, write_key},
    srs::{SrsError, TAIL_ROWS, VerifierSrs},
};
use toy::{LOG_N, Toy, ToyCard, ToyModelCard, ToyParams, toy_params, world};

fn scratch(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("lamina-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    folder
}

fn not_on_curve() -> [u8; 32] {
    (1u8..)
        .map(|x| {
            let mut bytes = [0; 32];
            bytes[0] = x;
            bytes
        })
        .find(|bytes| encoding::g1(bytes) == Err(PointError::NotOnCurve))
        .unwrap()
}

// ---------------------------------------------------------------------------------------------------------
// Keys.

fn key_bytes() -> Vec<u8> {
    write_key(world().toy_pk.get_vk())
}

/// Reads a key under the digest of its own bytes: a publisher who is hostile pins what it likes.
fn read(bytes: &[u8], params: &ToyParams) -> Result<SliceKey, KeyError> {
    SliceKey::read::<Toy>(bytes, key_digest(bytes), params)
}

#[test]
fn keys_round_trip() {
    let bytes = key_bytes();
    let key = read(&bytes, &toy_params()).unwrap();
    assert_eq!(key.digest(), world().card.key(0).unwrap().digest());
}

#[test]
fn the_digest_is_checked_before_the_key_is_read() {
    let mut bytes = key_bytes();
    let expected = key_digest(&bytes);
    for at in 0..bytes.len() {
        bytes[at] ^= 1;
        let error = SliceKey::read::<Toy>(&bytes, expected, &toy_params()).unwrap_err();
        assert_eq!(error, KeyError::Digest { expected, actual: key_digest(&bytes) });
        bytes[at] ^= 1;
    }
}

#[test]
fn corrupted_keys_have_exact_errors() {
    let honest = key_bytes();
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = honest.clone();
        change(&mut bytes);
        read(&bytes, &toy_params()).unwrap_err()
    };
    let put = |at: usize, new: &[u8]| {
        let new = new.to_vec();
        move |bytes: &mut Vec<u8>| bytes[at..at + new.len()].copy_from_slice(&new)
    };
    let length = honest.len();
    // magic 8 | version 2 | k 4 | degree 4 | fixed 4 | permutation 4 | representative 32 | points
    let points = 58;
    let point = |part, index, error| KeyError::Point { part, index, error };
    assert_eq!(refused(&put(0, b"X")), KeyError::Magic);
    assert_eq!(refused(&put(8, &[9])), KeyError::Version { actual: 9 });
    assert_eq!(refused(&put(10, &[7])), KeyError::LogN { expected: LOG_N, actual: 7 });
    assert_eq!(refused(&put(10, &[0xff; 4])), KeyError::LogN { expected: LOG_N, actual: u32::MAX });
    assert_eq!(refused(&put(14, &[5])), KeyError::Degree { expected: 4, actual: 5 });
    assert_eq!(refused(&put(18, &[3])), KeyError::Length { expected: length + 32, actual: length });
    assert!(matches!(refused(&put(18, &[0xff; 4])), KeyError::Length { .. }));
    // One fixed commitment fewer and one of the permutation more: the same length.
    assert_eq!(
        refused(&|bytes| {
            bytes[18] -= 1;
            bytes[22] += 1;
        }),
        KeyError::Count { part: "fixed", expected: 2, actual: 1 }
    );
    assert_eq!(refused(&put(26, &[1, 2, 3])), KeyError::Transcript);
    assert_eq!(refused(&put(points, &not_on_curve())), point("fixed", 0, PointError::NotOnCurve));
    assert_eq!(refused(&|bytes| bytes[points + 31] |= 0x80), point("fixed", 0, PointError::NotCanonical));
    assert_eq!(refused(&put(points + 64, &not_on_curve())), point("permutation", 0, PointError::NotOnCurve));
    // Another point of the curve is another circuit's key: the representative covers the commitments.
    assert_eq!(refused(&put(points, &encoding::g1_bytes(&G1Affine::generator()))), KeyError::Transcript);
    assert_eq!(refused(&|bytes| bytes.truncate(20)), KeyError::Length { expected: 58, actual: 20 });
    assert_eq!(refused(&|bytes| bytes.push(0)), KeyError::Length { expected: length, actual: length + 1 });
    assert_eq!(refused(&|bytes| bytes.resize(2 << 20, 0)), KeyError::TooLarge { actual: 2 << 20 });
    let params = ToyParams { k: 40, rows: 1 };
    assert!(matches!(read(&honest, &params).unwrap_err(), KeyError::Params(_)));
}

/// S30, found by fuzzing: the library's reader of verifying keys panics on sizes it does not expect.
#[test]
fn hostile_proving_keys_have_errors() {
    let params = RangeParams { columns: 1, bits: 2, k: 5 };
    let srs = Srs::generate_insecure(params.k).unwrap();
    let circuit = RangeCircuit { params: params.clone(), witness: None };
    let mut honest = Vec::new();
    ProvingKey::generate(&srs.params(), &circuit).unwrap().write(&mut honest).unwrap();
    let read = |bytes: &[u8]| {
        // The digest in the file is whoever wrote it's.
        let digest = blake2b_simd::Params::new().personal(b"lamina-pkey-v1").hash(&bytes[74..]);
        let bytes = [&bytes[..10], digest.as_bytes(), &bytes[74..]].concat();
        ProvingKey::read::<RangeCircuit>(&mut &*bytes, params.clone(), None).map(|_| ())
    };
    read(&honest).unwrap();
    // magic 8 | version 2 | digest 64 | length 8 | version 1 | k 4 | compressed 1 | fixed 4 | points
    let (length, version, k, compressed, fixed) = (74, 82, 83, 87, 88);
    let changed = |at: usize, new: &[u8]| {
        let mut bytes = honest.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        read(&bytes).unwrap_err()
    };
    let refused =
        |error: &StoredKeyError| matches!(error, StoredKeyError::Encoding { field: "verifying key" });
    for bad in [0u32, 1, 25, 31, 32, 63, 64, 1 << 31, u32::MAX] {
        let error = changed(k, &bad.to_le_bytes());
        assert!(refused(&error), "k = {bad}: {error}");
    }
    assert!(refused(&changed(version, &[3])) && refused(&changed(compressed, &[1])));
    // Columns of another length than `k` says.
    assert!(matches!(changed(k, &[4]), StoredKeyError::Encoding { field: "fixed" }));
    let count = u32::from_le_bytes(honest[fixed..fixed + 4].try_into().unwrap());
    assert!(refused(&changed(fixed, &(count - 1).to_le_bytes())));
    for more in [count + 1, u32::MAX] {
        assert!(matches!(changed(fixed, &more.to_le_bytes()), StoredKeyError::Io(_)), "{more} columns");
    }
    for bad in [u64::MAX, 0, 5] {
        let error = changed(length, &bad.to_le_bytes());
        assert!(
            matches!(error, StoredKeyError::Length { .. } | StoredKeyError::Io(_)),
            "{bad} bytes: {error}"
        );
    }
}

// ---------------------------------------------------------------------------------------------------------
// Cards.

fn refused_card(change: impl FnOnce(&mut ToyModelCard)) -> CardError {
    let mut card = world().model_card.clone();
    change(&mut card);
    ToyCard::load(&card.to_json(), InsecureSrs::Accept).unwrap_err()
}

#[test]
fn cards_have_exact_errors() {
    let world = world();
    let json = world.model_card.to_json();
    assert_eq!(ToyCard::load(&json, InsecureSrs::Refuse).unwrap_err(), CardError::InsecureSrs);
    assert_eq!(
        refused_card(|card| card.format = CARD_FORMAT + 1),
        CardError::Format { actual: CARD_FORMAT + 1 }
    );
    let other = ProtocolId(toy::digest(1));
    assert_eq!(refused_card(|card| card.protocol = other), CardError::Protocol { actual: other });
    assert_eq!(refused_card(|card| card.slices.clear()), CardError::Empty { what: "slices" });
    assert_eq!(refused_card(|card| card.kinds.clear()), CardError::Empty { what: "kinds" });
    assert_eq!(refused_card(|card| card.slices[1].kind = 1), CardError::Kind { slice: 1, kind: 1 });
    assert_eq!(
        refused_card(|card| {
            card.slices[1].weights.pop();
        }),
        CardError::Weights { slice: 1, expected: 2, actual: 1 }
    );
    assert_eq!(
        refused_card(|card| card.name = "x".repeat(2000)),
        CardError::Limit { what: "bytes of a string", limit: 1024, actual: 2000 }
    );
    assert!(matches!(
        refused_card(|card| card.kinds[0].slice.key.0[40] ^= 1),
        CardError::Key { part: "slice", kind: 0, error: KeyError::Digest { .. } }
    ));
    assert!(matches!(
        refused_card(|card| card.kinds[0].range.params.k = 7),
        CardError::Key { part: "range", kind: 0, error: KeyError::LogN { expected: 7, actual: LOG_N } }
    ));
    // The slice circuit in the range circuit's place would prove nothing about ranges.
    let key = key_bytes();
    let slice_key = CircuitEntry { params: toy_params(), key_digest: key_digest(&key), key: KeyBytes(key) };
    let mut card = world.model_card.clone();
    card.kinds[0].range = slice_key;
    let error = Card::<Toy, Toy>::check(&card, InsecureSrs::Accept).unwrap_err();
    assert_eq!(error, CardError::RangeColumns { kind: 0 });
}

#[test]
fn cards_are_strict_json() {
    let json = String::from_utf8(world().model_card.to_json()).unwrap();
    let category = |text: &str| match ToyCard::load(text.as_bytes(), InsecureSrs::Accept) {
        Err(CardError::Json { category, .. }) => category,
        other => panic!("{other:?}"),
    };
    assert_eq!(category(&json.replacen("\"name\"", "\"extra\": 1, \"name\"", 1)), "data");
    assert_eq!(category(&json[..json.len() / 2]), "end of file");
    assert_eq!(category(&format!("{json}{json}")), "syntax");
    assert_eq!(category("[]"), "data");
    assert_eq!(category(&"[".repeat(1000)), "data");
    // Commitments are canonical points: uppercase digits, the identity and foreign points are data errors.
    let weight = encoding::to_hex(&encoding::g1_bytes(&world().published[0].commitments()[0]));
    let mut identity = [0; 32];
    identity[31] = 0x80;
    for other in [
        weight.to_uppercase(),
        encoding::to_hex(&identity),
        encoding::to_hex(&not_on_curve()),
        weight[2..].to_string(),
    ] {
        assert_eq!(category(&json.replacen(&weight, &other, 1)), "data");
    }
}

#[test]
fn the_model_identifier_covers_the_card() {
    let base = world().model;
    let changed = |change: &dyn Fn(&mut ToyModelCard)| {
        let mut card = world().model_card.clone();
        change(&mut card);
        card.model_id()
    };
    assert_eq!(changed(&|card| card.name.push('x')), base);
    let changes: [&dyn Fn(&mut ToyModelCard); 11] = [
        &|card| card.format += 1,
        &|card| card.protocol = ProtocolId(toy::digest(0)),
        &|card| card.publisher.0 = toy::digest(0),
        &|card| card.architecture.layers += 1,
        &|card| card.quantisation.weight_bits += 1,
        &|card| card.srs.id.0 = toy::digest(0),
        &|card| card.srs.insecure = false,
        &|card| card.kinds[0].slice.params.rows += 1,
        &|card| card.kinds[0].slice.key_digest.0 = toy::digest(0),
        &|card| card.kinds[0].range.key_digest.0 = toy::digest(0),
        &|card| card.slices[0].weights.swap(0, 1),
    ];
    for (at, change) in changes.iter().enumerate() {
        assert_ne!(changed(change), base, "change {at}");
    }
}

// ---------------------------------------------------------------------------------------------------------
// The verifier's reference string.

#[test]
fn verifier_strings_round_trip() {
    for whole in [true, false] {
        let srs = world().srs.verifier_srs(whole).unwrap();
        let bytes = srs.write();
        let again = VerifierSrs::read(&bytes).unwrap();
        assert_eq!(again.write(), bytes);
        assert_eq!((again.id(), again.has_lagrange_basis()), (world().srs.id(), whole));
        assert_eq!(again.tail(6), srs.tail(6));
        assert_eq!(again.tail(TAIL_ROWS + 1), None);
    }
}

#[test]
fn verifier_strings_have_exact_errors() {
    let honest = world().srs.verifier_srs(false).unwrap().write();
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = honest.clone();
        change(&mut bytes);
        VerifierSrs::read(&bytes).unwrap_err()
    };
    let put = |at: usize, new: &[u8]| {
        let new = new.to_vec();
        move |bytes: &mut Vec<u8>| bytes[at..at + new.len()].copy_from_slice(&new)
    };
    let generator = encoding::g1_bytes(&(G1Affine::generator() * Fr::from(5)).to_affine());
    let raw = encoding::raw_g1_bytes(&(G1Affine::generator() * Fr::from(5)).to_affine());
    let point = |part, index, error| SrsError::Point { part, index, error };
    let (tau_g1, tau_g2, top, opening, lagrange) = (15, 47, 111, 143, 175);
    assert_eq!(refused(&put(0, b"X")), SrsError::Magic);
    assert_eq!(refused(&put(8, &[3])), SrsError::Version { actual: 3 });
    assert_eq!(refused(&put(10, &[9])), SrsError::Flags { flags: 9 });
    assert_eq!(refused(&put(11, &[60])), SrsError::Size { log_n: 60 });
    assert_eq!(refused(&put(tau_g1, &generator)), SrsError::TauMismatch);
    assert_eq!(refused(&put(tau_g1, &not_on_curve())), point("tau_g1", 0, PointError::NotOnCurve));
    assert_eq!(refused(&put(tau_g2, encoding_g2(&G2Affine::generator()).as_slice())), SrsError::TauMismatch);
    assert_eq!(refused(&put(top, &generator)), SrsError::TopPower);
    assert_eq!(refused(&put(opening, &generator)), SrsError::TopPower);
    assert_eq!(refused(&put(lagrange, &raw)), SrsError::Lagrange);
    assert_eq!(refused(&put(lagrange, &[7; 64])), point("lagrange", 0, PointError::NotOnCurve));
    assert_eq!(refused(&put(lagrange + 64, &[0; 64])), point("lagrange", 1, PointError::Identity));
    assert_eq!(refused(&put(lagrange, &[0xff; 64])), point("lagrange", 0, PointError::NotCanonical));
    // Two true points in each other's place.
    assert_eq!(refused(&|bytes| bytes[lagrange..lagrange + 128].rotate_left(64)), SrsError::Lagrange);
    // The mark is part of the identifier, hence of the point at which the top power is opened.
    assert_eq!(refused(&put(10, &[0])), SrsError::TopPower);
    // Another size: the top power is another one.
    assert_eq!(refused(&put(11, &[LOG_N as u8 - 1])), SrsError::TopPower);
    for cut in [1, 64, honest.len() - 20, honest.len()] {
        assert!(matches!(refused(&|bytes| bytes.truncate(honest.len() - cut)), SrsError::Length { .. }));
    }
    assert!(matches!(refused(&|bytes| bytes.push(0)), SrsError::Length { .. }));
}

fn encoding_g2(point: &G2Affine) -> Vec<u8> {
    use group::GroupEncoding;
    point.to_bytes().as_ref().to_vec()
}

// ---------------------------------------------------------------------------------------------------------
// Whole reference strings.

#[test]
fn strings_are_stored_whole_and_checked() {
    let folder = scratch("store");
    let store = SrsStore::new(&folder);
    let srs = &world().srs;
    let path = store.save(srs).unwrap();
    let again = store.load(srs.id(), LOG_N).unwrap();
    assert_eq!((again.powers(), again.lagrange()), (srs.powers(), srs.lagrange()));
    assert_eq!(again.info().ceremony, Ceremony::InsecureDevelopment);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "no temporary file is left");
    let bytes = fs::read(&path).unwrap();
    for at in [0, 8, 10, 11, 20, 100, bytes.len() - 1] {
        let mut corrupted = bytes.clone();
        corrupted[at] ^= 0x11;
        fs::write(&path, &corrupted).unwrap();
        assert!(store.load(srs.id(), LOG_N).is_err(), "byte {at}");
    }
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    assert!(matches!(store.load(srs.id(), LOG_N), Err(SrsFileError::Format { reason: "length", .. })));
    // A sound string under another one's name.
    let other = Srs::generate_insecure(LOG_N).unwrap();
    let elsewhere = store.save(&other).unwrap();
    fs::rename(elsewhere, &path).unwrap();
    assert!(matches!(
        store.load(srs.id(), LOG_N),
        Err(SrsFileError::Format { reason: "stored under another one's name", .. })
    ));
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn development_strings_do_not_repeat() {
    let [one, two] = [(); 2].map(|()| Srs::generate_insecure(2).unwrap());
    assert_ne!(one.id(), two.id());
    assert!(Srs::generate_insecure(0).is_err() && Srs::generate_insecure(25).is_err());
}

#[test]
fn halo2_files_are_imported() {
    let srs = &world().srs;
    for (format, file) in
        [(Halo2Format::Processed, SerdeFormat::Processed), (Halo2Format::RawBytes, SerdeFormat::RawBytes)]
    {
        let mut bytes = Vec::new();
        world().params.write_custom(&mut bytes, file).unwrap();
        let import = |bytes: &[u8], log_n| Srs::import_halo2(bytes, format, log_n, true);
        let smaller = import(&bytes, LOG_N - 1).unwrap();
        assert_eq!(smaller.id(), srs.id());
        assert_eq!(smaller.powers(), &srs.powers()[..33]);
        assert_eq!(smaller.lagrange(), srs.truncate(LOG_N - 1).unwrap().lagrange());
        let marked = Srs::import_halo2(bytes.as_slice(), format, LOG_N - 1, false).unwrap();
        assert_eq!(marked.info().ceremony, Ceremony::Unknown(marked.id()));
        assert_ne!(marked.id(), srs.id());
        assert!(matches!(import(&bytes, LOG_N), Err(SrsFileError::TooSmall { wanted: LOG_N, available: 5 })));
        assert!(matches!(import(&bytes[..bytes.len() - 1], 5), Err(SrsFileError::Io(_))));
        assert!(matches!(import(&bytes[..100], 5), Err(SrsFileError::Io(_))));
        let mut longer = bytes.clone();
        longer.push(0);
        assert!(matches!(import(&longer, 5), Err(SrsFileError::Format { .. })));
        let mut off = bytes.clone();
        off[4 + 2 * if format == Halo2Format::Processed { 32 } else { 64 }] ^= 1;
        assert!(matches!(
            import(&off, 5),
            Err(SrsFileError::Refused(SrsError::Point { .. }) | SrsFileError::Powers)
        ));
        // Two powers swapped: all points are good, their order is not.
        let each = if format == Halo2Format::Processed { 32 } else { 64 };
        let mut swapped = bytes.clone();
        swapped[4 + 5 * each..4 + 7 * each].rotate_left(each);
        assert!(matches!(import(&swapped, 5), Err(SrsFileError::Powers)));
        let mut huge = bytes.clone();
        huge[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(import(&huge, 5), Err(SrsFileError::Format { .. })));
    }
}

/// Writes what a ceremony's tools write, from our own string.
fn ptau(srs: &Srs, power: u32) -> Vec<u8> {
    let mut modulus = (-Fq::one()).to_repr();
    modulus.as_mut()[0] += 1;
    let mut bytes = b"ptau".to_vec();
    let word = |bytes: &mut Vec<u8>, value: u32| bytes.extend(value.to_le_bytes());
    let section = |bytes: &mut Vec<u8>, id: u32, content: &[u8]| {
        bytes.extend(id.to_le_bytes());
        bytes.extend((content.len() as u64).to_le_bytes());
        bytes.extend(content);
    };
    word(&mut bytes, 1);
    word(&mut bytes, 4);
    let mut header = 32u32.to_le_bytes().to_vec();
    header.extend(modulus.as_ref());
    header.extend(power.to_le_bytes());
    header.extend(28u32.to_le_bytes());
    section(&mut bytes, 1, &header);
    let count = (1 << (power + 1)) - 1;
    let powers: Vec<u8> = srs.powers()[..count].iter().flat_map(|point| point.to_raw_bytes()).collect();
    section(&mut bytes, 2, &powers);
    let mut second = G2Affine::generator().to_raw_bytes();
    second.extend(srs.identity().tau_g2().to_raw_bytes());
    second.resize(128 << power, 0);
    section(&mut bytes, 3, &second);
    section(&mut bytes, 7, b"contributions");
    bytes
}

#[test]
fn ceremony_files_are_imported() {
    let srs = &world().srs;
    let power = LOG_N - 1;
    let bytes = ptau(srs, power);
    let import = |bytes: &[u8], log_n| Srs::import_ptau(bytes, log_n);
    for log_n in [power, power - 2] {
        let imported = import(&bytes, log_n).unwrap();
        assert_eq!(imported.powers(), &srs.powers()[..=1 << log_n]);
        assert_eq!(imported.info().ceremony, Ceremony::Unknown(imported.id()));
    }
    assert!(matches!(import(&bytes, LOG_N), Err(SrsFileError::TooSmall { wanted: LOG_N, available: 5 })));
    for length in [0, 3, 30, 60, 2000, 80 + 64 * 63 + 200] {
        assert!(matches!(import(&bytes[..length], power), Err(SrsFileError::Io(_))), "length {length}");
    }
    let changed = |at: usize, value: u8| {
        let mut bytes = bytes.clone();
        bytes[at] ^= value;
        import(&bytes, power).unwrap_err()
    };
    let reason = |error| match error {
        SrsFileError::Format { reason, .. } => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(reason(changed(0, 1)), "not a ptau file");
    assert_eq!(reason(changed(4, 3)), "unknown version");
    // Header: section id 12, length 16, field bytes 24, modulus 28, power 60.
    assert_eq!(reason(changed(24, 1)), "not a field of 32 bytes");
    assert_eq!(reason(changed(28, 2)), "another curve");
    assert_eq!(reason(changed(60, 0x40)), "its power is out of range");
    assert_eq!(reason(changed(60, 1)), "section 2 has the wrong length");
    assert_eq!(reason(changed(12, 8)), "sections out of order or repeated");
    // Section 2: id 68, length 72, points from 80.
    assert!(matches!(changed(80, 1), SrsFileError::Refused(SrsError::Point { .. })));
    let third = 80 + 64 * ((2 << power) - 1) + 12;
    assert!(matches!(changed(third + 128, 1), SrsFileError::Refused(SrsError::Point { .. })));
}

#[test]
fn library_points_and_ours_agree() {
    let srs = &world().srs;
    let params = srs.params();
    let mut bytes = Vec::new();
    params.write_custom(&mut bytes, SerdeFormat::RawBytes).unwrap();
    let first = G1Affine::from_raw_bytes(&bytes[4 + 64..4 + 128]).unwrap();
    assert_eq!(first, srs.powers()[1]);
    assert!(bool::from(first.is_on_curve()));
}

// ---------------------------------------------------------------------------------------------------------
// Secret tails.

#[test]
fn tails_are_kept_privately_and_read_strictly() {
    let folder = scratch("tails");
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("slice-0.tails");
    let columns = &world().published[0];
    columns.save(&path).unwrap();
    assert_eq!(&BlindedColumns::load(&path).unwrap(), columns);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let shown = format!("{columns:?}");
    let secret = encoding::to_hex(&columns.tails()[0][0].to_bytes());
    assert!(!shown.contains(&secret) && shown.len() < 80);
    let bytes = fs::read(&path).unwrap();
    let reason = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        match BlindedColumns::load(&path).unwrap_err() {
            PublishError::Tails { reason } => reason,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(reason(&bytes[..40]), "too short");
    assert_eq!(reason(&bytes[..bytes.len() - 32]), "length");
    let changed = |at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        reason(&bytes)
    };
    assert_eq!(changed(0), "another format");
    assert_eq!(changed(10), "length");
    assert_eq!(changed(14), "length");
    assert_eq!(changed(18), "digest");
    assert_eq!(changed(bytes.len() - 1), "digest");
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn two_publications_share_no_commitment() {
    let world = world();
    let again = toy::blind(&world.srs, world.usable(), &world.weights[0]);
    for commitment in again.commitments() {
        assert!(!world.published[0].commitments().contains(commitment));
    }
    let long = vec![vec![1; world.usable() + 1]; 1];
    let columns = [lamina_circuits::witness::Column::I16(std::sync::Arc::new(long[0].clone()))];
    assert!(matches!(
        lamina_prover::publish::commit_blinded(&world.srs, world.usable(), &columns),
        Err(PublishError::TooManyRows { column: 0, .. })
    ));
    assert!(matches!(
        lamina_prover::publish::commit_blinded(&world.srs, 64, &[]),
        Err(PublishError::UsableRows { usable_rows: 64, .. })
    ));
}

// ---------------------------------------------------------------------------------------------------------
// Hostile bytes.

/// Random bytes, truncations and random changes, reproducible from the seed in the failure's message.
fn mutations(honest: &[u8], rounds: u64, mut read: impl FnMut(&[u8])) {
    use rand_chacha::ChaCha20Rng;
    use rand_core::{RngCore, SeedableRng};
    for seed in 0..rounds {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let mut below = |limit: usize| rng.next_u64() as usize % limit.max(1);
        let mut bytes = honest.to_vec();
        match seed % 4 {
            0 => bytes.truncate(below(honest.len())),
            1 => {
                let at = below(honest.len());
                bytes[at] ^= 1 << below(8);
            }
            2 => {
                let from = below(honest.len());
                let to = (from + below(48)).min(honest.len());
                bytes[from..to].iter_mut().for_each(|byte| *byte = below(256) as u8);
            }
            _ => {
                let head = below(64.min(honest.len()));
                bytes.truncate(head);
                bytes.extend((0..below(300)).map(|_| below(256) as u8));
            }
        }
        read(&bytes);
    }
}

#[test]
fn no_bytes_make_a_reader_panic() {
    let srs = &world().srs;
    let small = srs.truncate(3).unwrap();
    mutations(&key_bytes(), 2000, |bytes| {
        let _ = read(bytes, &toy_params());
    });
    mutations(&world().model_card.to_json(), 1000, |bytes| {
        let _ = ToyCard::load(bytes, InsecureSrs::Accept);
    });
    let honest = small.verifier_srs(true).unwrap().write();
    mutations(&honest, 500, |bytes| {
        assert!(VerifierSrs::read(bytes).is_err() || bytes == honest);
    });
    mutations(&ptau(&small, 2), 500, |bytes| {
        let _ = Srs::import_ptau(bytes, 2);
    });
    for (format, file) in
        [(Halo2Format::Processed, SerdeFormat::Processed), (Halo2Format::RawBytes, SerdeFormat::RawBytes)]
    {
        let mut honest = Vec::new();
        small.params().write_custom(&mut honest, file).unwrap();
        mutations(&honest, 300, |bytes| {
            let _ = Srs::import_halo2(bytes, format, 2, true);
        });
    }
}
