//! Envelopes through the stock prover and our verifier: honest, tampered with, replayed, forged.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails where it unwraps")]

mod toy;

use std::{collections::BTreeSet, ops::Range};

use ff::{Field, PrimeField};
use group::{Curve, prime::PrimeCurveAffine};
use halo2_proofs::{
    arithmetic::best_multiexp,
    halo2curves::bn256::{G1, G1Affine},
};
use lamina_circuits::Fr;
use lamina_prover::{
    link::{LinkError, LinkedDelta, prove_link},
    publish::{deltas, open_tail},
};
use lamina_verifier::{
    boundary::OpenBoundary,
    encoding::{self, PointError},
    envelope::{Claims, DecodeError, Envelope, HEADER_BYTES, Part},
    hash::{Hasher, HeaderDigest, ModelId, NodeId, ProtocolId, RequestId, SrsId},
    key::{KeyError, KeyShape},
    link::{LinkChallenge, LinkProof, LinkedPair, Rho, verify_link},
    verify::{
        BoundaryExpectation, ChainError, Expectation, Field as Claim, PublicationError, PublicationReceipt,
        Refusal, Side, SliceError, verify_chain, verify_publication, verify_slice,
    },
};
use rand_core::{OsRng, RngCore};
use toy::{Border, SLICES, World, chain, digest, expect_first, prove_range, prove_slice, run, world};

fn refusal(expectation: &Expectation<'_>, bytes: &[u8]) -> Refusal {
    let world = world();
    let error = verify_slice(expectation, &world.card, &world.verifier_srs, bytes).unwrap_err();
    assert_eq!(error.slice, expectation.context.slice);
    error.refusal
}

fn first_refusal(bytes: &[u8]) -> Refusal {
    refusal(&expect_first(world(), &run().borders[0].integers()), bytes)
}

#[test]
fn honest_slices_are_accepted() {
    let (world, run) = (world(), run());
    let input = run.borders[0].integers();
    let verdict =
        verify_slice(&expect_first(world, &input), &world.card, &world.verifier_srs, &run.envelopes[0])
            .unwrap();
    assert_eq!(verdict.output, run.borders[1].reference);
    assert!(verdict.insecure_srs && !verdict.publication_verified);

    let output = run.borders[2].integers();
    let expectation = Expectation {
        context: world.context(1),
        input: BoundaryExpectation::HiddenAs(&verdict.output.columns),
        output: BoundaryExpectation::Open(&output),
        publication: PublicationReceipt::trusting_publisher(world.model),
    };
    verify_slice(&expectation, &world.card, &world.verifier_srs, &run.envelopes[1]).unwrap();
}

#[test]
fn encoding_is_a_bijection() {
    let (world, run) = (world(), run());
    for (slice, bytes) in run.envelopes.iter().enumerate() {
        let shape = world.card.key(slice as u32).unwrap().shape();
        assert_eq!(bytes.len(), Envelope::bytes(shape));
        assert_eq!(&Envelope::decode(bytes, shape).unwrap().encode(), bytes);
    }
}

/// Two proofs of one statement share no commitment and no evaluation but those of fixed polynomials
/// (security.md Z4 at the envelope's level).
#[test]
fn proofs_of_one_statement_differ() {
    let (world, run) = (world(), run());
    let again = prove_slice(world, 0, &run.borders[0], &run.borders[1]);
    let shape = world.card.key(0).unwrap().shape();
    let [one, two] = [&run.envelopes[0], &again].map(|bytes| Envelope::decode(bytes, shape).unwrap());
    assert_eq!(one.link.responses.iter().filter(|z| two.link.responses.contains(z)).count(), 0);
    let commitments = |envelope: &Envelope| -> Vec<[u8; 32]> {
        envelope.proof.as_chunks::<32>().0[..shape.points].to_vec()
    };
    assert!(commitments(&one).iter().all(|point| !commitments(&two).contains(point)));
    assert_eq!(run.envelopes[0].len(), again.len());
}

// ---------------------------------------------------------------------------------------------------------
// The tamper manifest: every byte of an envelope belongs to a field, every field has mutations, every
// mutation has its exact refusal.

struct Layout {
    fields: Vec<(&'static str, Range<usize>)>,
    length: usize,
}

fn layout(shape: &KeyShape) -> Layout {
    let mut fields = Vec::new();
    let mut at = 0;
    let mut field = |name, length: usize| {
        fields.push((name, at..at + length));
        at += length;
    };
    field("magic", 8);
    field("version", 2);
    field("protocol", 32);
    field("key", 32);
    field("srs", 32);
    field("model", 32);
    field("slice", 4);
    field("request", 32);
    field("node", 32);
    field("tokens", 4);
    field("input kind", 1);
    field("input columns", 32);
    field("output kind", 1);
    field("output columns", 32);
    field("link nonce", 32);
    field("link responses", 32 * shape.blinding_rows);
    field("proof points", 32 * shape.points);
    field("proof scalars", 32 * shape.scalars);
    field("opening points", 64);
    Layout { length: at, fields }
}

enum Mutation {
    /// Flips the lowest bit of the byte at an offset.
    Flip(usize),
    /// Writes bytes at an offset.
    Put(usize, Vec<u8>),
    /// Sets the infinity bit of the point at an offset.
    Infinity(usize),
    /// Adds the modulus to the scalar at an offset.
    AddModulus(usize),
    /// Swaps the two elements at an offset.
    Swap(usize),
    /// Copies the element at an offset over the next one.
    Repeat(usize),
}

fn mutate(bytes: &mut [u8], field: &Range<usize>, mutation: &Mutation) {
    match mutation {
        Mutation::Flip(at) => bytes[field.start + at] ^= 1,
        Mutation::Put(at, new) => {
            bytes[field.start + at..field.start + at + new.len()].copy_from_slice(new);
        }
        Mutation::Infinity(at) => bytes[field.start + at + 31] |= 0x80,
        Mutation::AddModulus(at) => {
            let mut modulus = (-Fr::ONE).to_repr();
            modulus.as_mut()[0] += 1;
            let mut carry = 0;
            for (byte, add) in bytes[field.start + at..][..32].iter_mut().zip(modulus.as_ref()) {
                let sum = u16::from(*byte) + u16::from(*add) + carry;
                *byte = sum as u8;
                carry = sum >> 8;
            }
            assert_eq!(carry, 0, "two moduli fit in 256 bits");
        }
        Mutation::Swap(at) => {
            let (left, right) = bytes[field.start + at..][..64].split_at_mut(32);
            left.swap_with_slice(right);
        }
        Mutation::Repeat(at) => {
            bytes.copy_within(field.start + at..field.start + at + 32, field.start + at + 32);
        }
    }
}

fn a_point() -> Vec<u8> {
    encoding::g1_bytes(&(G1Affine::generator() * Fr::from(77)).to_affine()).to_vec()
}

fn not_on_curve() -> Vec<u8> {
    let found = (1u8..).map(|x| {
        let mut bytes = vec![0; 32];
        bytes[0] = x;
        bytes
    });
    found
        .into_iter()
        .find(|bytes| encoding::g1(bytes.as_slice().try_into().unwrap()) == Err(PointError::NotOnCurve))
        .unwrap()
}

fn manifest() -> Vec<(&'static str, Mutation, Refusal)> {
    use Mutation::{AddModulus, Flip, Infinity, Put, Repeat, Swap};
    let world = world();
    let key = world.card.key(0).unwrap();
    let shape = key.shape();
    let point = |part, index, error| Refusal::Decode(DecodeError::Point { part, index, error });
    let scalar = |part, index| Refusal::Decode(DecodeError::Scalar { part, index });
    let flipped = |digest: lamina_verifier::hash::Digest| {
        let mut digest = digest;
        digest.0[5] ^= 1;
        digest
    };
    let mut huge = vec![0xff; 32];
    huge[31] = 0x3f;
    let mut identity = vec![0; 32];
    identity[31] = 0x80;
    let not_canonical = PointError::NotCanonical;
    let open = 32 * (shape.scalars - 1);
    vec![
        ("magic", Flip(0), Refusal::Decode(DecodeError::Magic)),
        ("version", Flip(0), Refusal::Decode(DecodeError::Version { actual: 0 })),
        (
            "protocol",
            Flip(5),
            Refusal::Decode(DecodeError::Protocol { actual: ProtocolId(flipped(ProtocolId::current().0)) }),
        ),
        (
            "key",
            Flip(5),
            Refusal::KeyDigest {
                expected: key.digest(),
                actual: lamina_verifier::hash::KeyDigest(flipped(key.digest().0)),
            },
        ),
        ("srs", Flip(0), Refusal::Field { field: Claim::Srs }),
        ("model", Flip(0), Refusal::Field { field: Claim::Model }),
        ("slice", Flip(0), Refusal::Field { field: Claim::Slice }),
        ("request", Flip(31), Refusal::Field { field: Claim::Request }),
        ("node", Flip(0), Refusal::Field { field: Claim::Node }),
        ("tokens", Flip(3), Refusal::Field { field: Claim::Tokens }),
        (
            "input kind",
            Put(0, vec![0]),
            Refusal::BoundaryKind {
                side: Side::Input,
                actual: lamina_verifier::boundary::BoundaryKind::Hidden,
            },
        ),
        ("input kind", Put(0, vec![2]), Refusal::Decode(DecodeError::Kind { part: Part::Input, actual: 2 })),
        ("input columns", Put(0, a_point()), Refusal::Boundary { side: Side::Input, column: 0 }),
        ("input columns", Infinity(0), point(Part::Input, 0, not_canonical)),
        ("input columns", Put(0, not_on_curve()), point(Part::Input, 0, PointError::NotOnCurve)),
        (
            "output kind",
            Put(0, vec![1]),
            Refusal::BoundaryKind {
                side: Side::Output,
                actual: lamina_verifier::boundary::BoundaryKind::Open,
            },
        ),
        (
            "output kind",
            Put(0, vec![255]),
            Refusal::Decode(DecodeError::Kind { part: Part::Output, actual: 255 }),
        ),
        // Another hidden boundary is another statement: the halo2 transcript has absorbed the true one.
        ("output columns", Put(0, a_point()), Refusal::Proof),
        ("output columns", Infinity(0), point(Part::Output, 0, not_canonical)),
        ("output columns", Put(0, huge.clone()), point(Part::Output, 0, not_canonical)),
        ("output columns", Put(0, identity.clone()), point(Part::Output, 0, PointError::Identity)),
        ("link nonce", Put(0, a_point()), Refusal::Link),
        ("link nonce", Infinity(0), point(Part::LinkNonce, 0, not_canonical)),
        ("link nonce", Put(0, identity.clone()), point(Part::LinkNonce, 0, PointError::Identity)),
        ("link responses", Flip(0), Refusal::Link),
        ("link responses", Swap(0), Refusal::Link),
        ("link responses", AddModulus(32), scalar(Part::LinkResponse, 1)),
        ("proof points", Put(0, a_point()), Refusal::Proof),
        ("proof points", Put(32 * 5, a_point()), Refusal::Proof),
        ("proof points", Infinity(32), point(Part::ProofPoint, 1, not_canonical)),
        ("proof points", Infinity(32 * (shape.points - 1)), {
            point(Part::ProofPoint, shape.points - 1, not_canonical)
        }),
        ("proof points", Put(0, not_on_curve()), point(Part::ProofPoint, 0, PointError::NotOnCurve)),
        ("proof points", Put(32 * 3, not_on_curve()), point(Part::ProofPoint, 3, PointError::NotOnCurve)),
        ("proof points", Put(64, identity), point(Part::ProofPoint, 2, PointError::Identity)),
        // S13: equal commitments are refused before anything is opened.
        ("proof points", Repeat(0), Refusal::RepeatedCommitment { first: 0, second: 1 }),
        ("proof points", Repeat(128), Refusal::RepeatedCommitment { first: 4, second: 5 }),
        ("proof points", Swap(32), Refusal::Proof),
        ("proof scalars", Flip(0), Refusal::Proof),
        ("proof scalars", Swap(0), Refusal::Proof),
        ("proof scalars", Flip(open), Refusal::Proof),
        ("proof scalars", AddModulus(0), scalar(Part::ProofScalar, 0)),
        ("proof scalars", AddModulus(open), scalar(Part::ProofScalar, shape.scalars - 1)),
        ("opening points", Put(0, a_point()), Refusal::Proof),
        ("opening points", Put(32, a_point()), Refusal::Proof),
        ("opening points", Infinity(32), point(Part::OpeningPoint, 1, not_canonical)),
        ("opening points", Put(0, not_on_curve()), point(Part::OpeningPoint, 0, PointError::NotOnCurve)),
        ("opening points", Swap(0), Refusal::Proof),
    ]
}

#[test]
fn every_mutation_has_its_exact_refusal() {
    let layout = layout(world().card.key(0).unwrap().shape());
    for (at, (name, mutation, expected)) in manifest().into_iter().enumerate() {
        let (_, range) = layout.fields.iter().find(|(field, _)| *field == name).unwrap();
        let mut bytes = run().envelopes[0].clone();
        mutate(&mut bytes, range, &mutation);
        assert_ne!(bytes, run().envelopes[0], "mutation {at} of {name} changes nothing");
        assert_eq!(first_refusal(&bytes), expected, "mutation {at}, of {name}");
    }
}

#[test]
fn every_field_has_a_mutation() {
    let layout = layout(world().card.key(0).unwrap().shape());
    let covered: BTreeSet<_> = manifest().into_iter().map(|(name, _, _)| name).collect();
    let fields: BTreeSet<_> = layout.fields.iter().map(|(name, _)| *name).collect();
    assert_eq!(covered, fields);
    // The fields are all of the envelope: a field that is added to it breaks this line.
    assert_eq!(layout.length, run().envelopes[0].len());
    let header = &layout.fields.iter().find(|(name, _)| *name == "input kind").unwrap().1;
    assert_eq!(header.start, HEADER_BYTES);
}

#[test]
fn every_single_byte_matters() {
    let envelope = &run().envelopes[0];
    for at in 0..envelope.len() {
        let mut bytes = envelope.clone();
        bytes[at] ^= 1 << (at % 8);
        first_refusal(&bytes);
    }
}

// ---------------------------------------------------------------------------------------------------------
// S11: shape and completeness.

#[test]
fn truncated_extended_and_empty_envelopes_are_refused() {
    let envelope = &run().envelopes[0];
    let expected = envelope.len();
    let length = |expected, actual| Refusal::Decode(DecodeError::Length { expected, actual });
    assert_eq!(first_refusal(&[]), length(HEADER_BYTES, 0));
    assert_eq!(first_refusal(&envelope[..100]), length(HEADER_BYTES, 100));
    for cut in [1, 32, 64, expected - HEADER_BYTES] {
        assert_eq!(first_refusal(&envelope[..expected - cut]), length(expected, expected - cut));
    }
    for more in [1, 32] {
        let mut bytes = envelope.clone();
        bytes.resize(expected + more, 0);
        assert_eq!(first_refusal(&bytes), length(expected, expected + more));
    }
    let twice = [envelope.as_slice(), envelope].concat();
    assert_eq!(first_refusal(&twice), length(expected, 2 * expected));
}

// ---------------------------------------------------------------------------------------------------------
// S9, S15: a prover's values changed on both sides, so that only the transcript can object.

#[test]
fn a_proof_of_one_occasion_is_none_of_another() {
    let (world, run) = (world(), run());
    let input = run.borders[0].integers();
    let shape = world.card.key(0).unwrap().shape();
    let replay = |change: &dyn Fn(&mut lamina_verifier::context::Context)| {
        let mut envelope = Envelope::decode(&run.envelopes[0], shape).unwrap();
        let mut expectation = expect_first(world, &input);
        change(&mut envelope.claims.context);
        change(&mut expectation.context);
        refusal(&expectation, &envelope.encode())
    };
    assert_eq!(replay(&|context| context.request = RequestId(digest(3))), Refusal::Proof);
    assert_eq!(replay(&|context| context.node = NodeId(digest(3))), Refusal::Proof);
    assert_eq!(replay(&|context| context.tokens += 1), Refusal::Proof);
    // Slice 1 has the same key and other weights.
    assert_eq!(replay(&|context| context.slice = 1), Refusal::Proof);
    // Another model needs another card, and a receipt of it.
    assert_eq!(
        replay(&|context| context.model = ModelId(digest(3))),
        Refusal::Publication { expected: ModelId(digest(3)), actual: world.model }
    );
    let mut expectation = expect_first(world, &input);
    expectation.context.model = ModelId(digest(3));
    expectation.publication = PublicationReceipt::trusting_publisher(ModelId(digest(3)));
    assert_eq!(
        refusal(&expectation, &run.envelopes[0]),
        Refusal::Card { expected: ModelId(digest(3)), actual: world.model }
    );
    let mut expectation = expect_first(world, &input);
    expectation.context.slice = 7;
    assert_eq!(refusal(&expectation, &run.envelopes[0]), Refusal::NoSuchSlice { count: SLICES });
}

#[test]
fn a_proof_of_one_model_is_none_of_another() {
    use lamina_verifier::card::{Card, InsecureSrs};
    let (world, run) = (world(), run());
    let mut card = world.model_card.clone();
    card.slices.swap(0, 1);
    let card: toy::ToyCard = Card::check(&card, InsecureSrs::Accept).unwrap();
    assert_ne!(card.model(), world.model);
    let mut envelope = Envelope::decode(&run.envelopes[0], world.card.key(0).unwrap().shape()).unwrap();
    envelope.claims.context.model = card.model();
    let input = run.borders[0].integers();
    let mut expectation = expect_first(world, &input);
    expectation.context.model = card.model();
    expectation.publication = PublicationReceipt::trusting_publisher(card.model());
    let error = verify_slice(&expectation, &card, &world.verifier_srs, &envelope.encode()).unwrap_err();
    assert_eq!(error, SliceError { slice: 0, refusal: Refusal::Proof });
}

#[test]
fn an_open_boundary_is_compared_value_by_value() {
    let run = run();
    let mut input = run.borders[0].integers();
    input.columns[0][11] += 1;
    let boundary = Refusal::Boundary { side: Side::Input, column: 0 };
    assert_eq!(refusal(&expect_first(world(), &input), &run.envelopes[0]), boundary);
    let none = OpenBoundary::default();
    assert_eq!(
        refusal(&expect_first(world(), &none), &run.envelopes[0]),
        Refusal::BoundaryColumns { side: Side::Input, expected: 1, actual: 0 }
    );
    let long = OpenBoundary { columns: vec![vec![1; 64]] };
    assert!(matches!(
        refusal(&expect_first(world(), &long), &run.envelopes[0]),
        Refusal::OpenBoundary { side: Side::Input, .. }
    ));
}

#[test]
fn an_open_boundary_needs_the_basis() {
    let (world, run) = (world(), run());
    let small = world.srs.verifier_srs(false).unwrap();
    let input = run.borders[0].integers();
    let error = verify_slice(&expect_first(world, &input), &world.card, &small, &run.envelopes[0]);
    assert_eq!(
        error.unwrap_err().refusal,
        Refusal::OpenBoundary { side: Side::Input, error: lamina_verifier::srs::SrsError::NoLagrangeBasis }
    );
}

// ---------------------------------------------------------------------------------------------------------
// Cheating provers.

/// Link proof by somebody who knows no deltas that explain the commitments: the best that can be done is
/// to be honest about a part of them.
fn careless_link(
    header: &HeaderDigest,
    tail: &[G1Affine],
    pairs: &[LinkedPair],
    deltas: &[Vec<Fr>],
) -> LinkProof {
    let rho = Rho::draw(header, pairs);
    let r: Vec<Fr> = tail.iter().map(|_| Fr::random(OsRng)).collect();
    let nonce = best_multiexp(&r, tail).to_affine();
    let LinkChallenge(e) = LinkChallenge::draw(rho, &nonce);
    let mut responses = r;
    for (column, power) in deltas.iter().zip(rho.powers()) {
        for (z, delta) in responses.iter_mut().zip(column) {
            *z += e * power * delta;
        }
    }
    LinkProof { nonce, responses }
}

/// A link proof that was made beside a halo2 proof is sealed with that one, not with another of the same statement.
#[test]
fn a_link_is_sealed_with_its_own_proof() {
    let (world, run) = (world(), run());
    let [input, output] = [&run.borders[0], &run.borders[1]];
    let draft = world.draft(0, input, output);
    let [(proof, deltas), (other, _)] = [(); 2].map(|()| toy::halo2_slice(world, 0, input, output));
    let fresh: Vec<_> = draft.pairs(&proof).unwrap().iter().map(|pair| pair.fresh).collect();
    let linked = draft.link(&world.verifier_srs, &fresh, &deltas).unwrap();
    assert_eq!(draft.seal_linked(linked.clone(), other).unwrap_err(), LinkError::Proof);
    assert_eq!(draft.seal_linked(linked.clone(), proof[32..].to_vec()).unwrap_err(), LinkError::Proof);
    let count = |error: LinkError| matches!(error, LinkError::Count { .. });
    assert!(count(draft.link(&world.verifier_srs, &fresh[1..], &deltas).unwrap_err()));
    assert!(count(draft.link(&world.verifier_srs, &fresh, &deltas[1..]).unwrap_err()));
    let envelope = draft.seal_linked(linked, proof).unwrap();
    let input = input.integers();
    verify_slice(&expect_first(world, &input), &world.card, &world.verifier_srs, &envelope).unwrap();
}

/// S10: one weight differs by one from the published weight.
#[test]
fn one_weight_changed_by_one_is_refused_by_the_link() {
    let (world, run) = (world(), run());
    let mut circuit = world.circuit(0, &run.borders[0].values);
    circuit.w[1][17] += 1;
    let output = Border::hidden(world, &circuit.y());
    let draft = world.draft(0, &run.borders[0], &output);
    let (proof, fresh) = toy::stock_proof(world, &world.toy_pk, circuit, &draft.instance());
    let weights = world.published[0].tails();
    let published =
        [run.borders[0].tail.clone(), weights[0].clone(), weights[1].clone(), output.tail.clone()];
    let fresh = [0, 1, 2, 4].map(|column: usize| fresh[column].clone());
    let differences = deltas(&published, &fresh);
    // Our own prover notices.
    let sealed = draft.seal(&world.verifier_srs, proof.clone(), &differences);
    assert_eq!(sealed.unwrap_err(), LinkError::Deltas);
    let pairs = draft.pairs(&proof).unwrap();
    let tail = world.verifier_srs.tail(world.blinding_rows()).unwrap();
    let link = careless_link(&draft.header(), tail, &pairs, &differences);
    let envelope = Envelope {
        claims: Claims { key: draft.key.digest(), srs: draft.srs, context: draft.context },
        input: draft.input.clone(),
        output: draft.output.clone(),
        link,
        proof,
    };
    assert_eq!(first_refusal(&envelope.encode()), Refusal::Link);
}

/// The same for a boundary: the claimed output is not the one that was computed.
#[test]
fn a_forged_output_is_refused_by_the_link() {
    let (world, run) = (world(), run());
    let mut forged = run.borders[2].values.clone();
    forged[0] += 1;
    let output = Border::open(world, &forged);
    let draft = world.draft(1, &run.borders[1], &output);
    let circuit = world.circuit(1, &run.borders[1].values);
    let (proof, fresh) = toy::stock_proof(world, &world.toy_pk, circuit, &draft.instance());
    let weights = world.published[1].tails();
    let published = [
        run.borders[1].tail.clone(),
        weights[0].clone(),
        weights[1].clone(),
        open_tail(world.blinding_rows()),
    ];
    let fresh = [0, 1, 2, 4].map(|column: usize| fresh[column].clone());
    let pairs = draft.pairs(&proof).unwrap();
    let tail = world.verifier_srs.tail(world.blinding_rows()).unwrap();
    let link = careless_link(&draft.header(), tail, &pairs, &deltas(&published, &fresh));
    let envelope = Envelope {
        claims: Claims { key: draft.key.digest(), srs: draft.srs, context: draft.context },
        input: draft.input.clone(),
        output: draft.output.clone(),
        link,
        proof,
    };
    let output = output.integers();
    let expectation = Expectation {
        context: world.context(1),
        input: BoundaryExpectation::Hidden,
        output: BoundaryExpectation::Open(&output),
        publication: PublicationReceipt::trusting_publisher(world.model),
    };
    assert_eq!(refusal(&expectation, &envelope.encode()), Refusal::Link);
}

/// S24: a publisher who also proves chooses the published commitments after the fresh ones.
#[test]
fn rho_binds_the_published_commitments() {
    let world = world();
    let tail = world.verifier_srs.tail(world.blinding_rows()).unwrap();
    let header = HeaderDigest(digest(4));
    // ρ as it must not be: over the fresh commitments only.
    let weak_rho = |pairs: &[LinkedPair]| {
        let mut hasher = Hasher::new("rho");
        hasher.bytes(&header.0.0).count(pairs.len());
        for pair in pairs {
            hasher.point(&pair.fresh);
        }
        Rho(hasher.challenge())
    };
    let weak_check = |pairs: &[LinkedPair], proof: &LinkProof| {
        let rho = weak_rho(pairs);
        let LinkChallenge(e) = LinkChallenge::draw(rho, &proof.nonce);
        let left = best_multiexp(&proof.responses, tail);
        let delta = pairs
            .iter()
            .zip(rho.powers())
            .map(|(pair, power)| (G1::from(pair.fresh) - G1::from(pair.published)) * power)
            .fold(G1::from(G1Affine::identity()), |sum, term| sum + term);
        left == G1::from(proof.nonce) + delta * e
    };
    // Commitments to columns that have nothing in common with what will be published.
    let fresh = [5, 6].map(|value| (world.srs.lagrange()[3] * Fr::from(value)).to_affine());
    let unset = fresh.map(|fresh| LinkedPair { published: fresh, fresh });
    let rho = weak_rho(&unset);
    let change = world.srs.lagrange()[9] * Fr::from(1234);
    let pairs = [
        LinkedPair { published: (G1::from(fresh[0]) + change).to_affine(), fresh: fresh[0] },
        LinkedPair {
            published: (G1::from(fresh[1]) - change * rho.0.invert().unwrap()).to_affine(),
            fresh: fresh[1],
        },
    ];
    // Δ = 0: a Schnorr proof of nothing is accepted.
    let r: Vec<Fr> = tail.iter().map(|_| Fr::random(OsRng)).collect();
    let proof = LinkProof { nonce: best_multiexp(&r, tail).to_affine(), responses: r };
    assert!(weak_check(&pairs, &proof), "the forgery works against a ρ that leaves C out");
    assert!(!verify_link(&header, tail, &pairs, &proof), "and is refused by ours");

    // The same through our prover: it cannot explain the difference either.
    let zeros = vec![Fr::ZERO; tail.len()];
    let columns = pairs.map(|pair| LinkedDelta { pair, deltas: &zeros });
    assert_eq!(prove_link(&header, tail, &columns).unwrap_err(), LinkError::Deltas);
}

#[test]
fn links_of_two_proofs_do_not_mix() {
    let (world, run) = (world(), run());
    let shape = world.card.key(0).unwrap().shape();
    let other = prove_slice(world, 0, &run.borders[0], &run.borders[1]);
    let mut envelope = Envelope::decode(&run.envelopes[0], shape).unwrap();
    envelope.link = Envelope::decode(&other, shape).unwrap().link;
    assert_eq!(first_refusal(&envelope.encode()), Refusal::Link);
}

// ---------------------------------------------------------------------------------------------------------
// S12, S16: chains.

fn chain_result(envelopes: &[&[u8]]) -> Result<(), ChainError> {
    let (world, run) = (world(), run());
    let nodes = [NodeId(digest(2)); SLICES];
    let (input, output) = (run.borders[0].integers(), run.borders[2].integers());
    let boundaries =
        [BoundaryExpectation::Open(&input), BoundaryExpectation::Hidden, BoundaryExpectation::Open(&output)];
    verify_chain(&chain(world, &nodes, &boundaries), &world.card, &world.verifier_srs, envelopes)
        .map(|verdicts| assert_eq!(verdicts.len(), SLICES))
}

fn envelopes() -> Vec<&'static [u8]> {
    run().envelopes.iter().map(Vec::as_slice).collect()
}

#[test]
fn a_whole_chain_is_accepted() {
    chain_result(&envelopes()).unwrap();
}

#[test]
fn chains_enumerate_their_slices() {
    let all = envelopes();
    assert_eq!(chain_result(&all[..1]), Err(ChainError::Missing { slice: 1 }));
    assert_eq!(chain_result(&all[1..]), Err(ChainError::Missing { slice: 0 }));
    assert_eq!(chain_result(&[]), Err(ChainError::Missing { slice: 0 }));
    assert_eq!(chain_result(&[all[0], all[0]]), Err(ChainError::Repeated { slice: 0 }));
    assert_eq!(chain_result(&[all[0], all[1], all[1]]), Err(ChainError::Repeated { slice: 1 }));
    assert_eq!(chain_result(&[all[1], all[0]]), Err(ChainError::Reordered { position: 0, slice: 1 }));
    let renamed = |slice: u32| {
        let mut envelope = Envelope::decode(all[0], world().card.key(0).unwrap().shape()).unwrap();
        envelope.claims.context.slice = slice;
        envelope.encode()
    };
    let third = renamed(2);
    assert_eq!(chain_result(&[all[0], all[1], &third]), Err(ChainError::Extra { position: 2, slice: 2 }));
    // Renaming a slice's proof gets past the enumeration and no further.
    let second = renamed(1);
    assert!(matches!(chain_result(&[all[0], &second]), Err(ChainError::Slice(_))));
    assert_eq!(
        chain_result(&[all[0], b"LAMINA"]),
        Err(ChainError::Unreadable {
            position: 1,
            error: DecodeError::Length { expected: HEADER_BYTES, actual: 6 }
        })
    );
}

#[test]
fn chains_take_no_foreign_proofs() {
    let all = envelopes();
    let shape = world().card.key(0).unwrap().shape();
    let foreign = |change: &dyn Fn(&mut lamina_verifier::context::Context)| {
        let mut envelope = Envelope::decode(all[1], shape).unwrap();
        change(&mut envelope.claims.context);
        chain_result(&[all[0], &envelope.encode()])
    };
    let refused = |field| Err(ChainError::Foreign { position: 1, field });
    assert_eq!(foreign(&|c| c.request = RequestId(digest(7))), refused(Claim::Request));
    assert_eq!(foreign(&|c| c.model = ModelId(digest(7))), refused(Claim::Model));
    assert_eq!(foreign(&|c| c.tokens = 1), refused(Claim::Tokens));
    assert_eq!(
        foreign(&|c| c.node = NodeId(digest(7))),
        Err(SliceError { slice: 1, refusal: Refusal::Field { field: Claim::Node } }.into())
    );
}

#[test]
fn chains_meet_at_their_boundaries() {
    let (world, run) = (world(), run());
    // The same values behind another commitment: an honest proof of a slice that nobody precedes.
    let elsewhere = Border::hidden(world, &run.borders[1].values);
    let second = prove_slice(world, 1, &elsewhere, &run.borders[2]);
    assert_eq!(chain_result(&[&run.envelopes[0], &second]), Err(ChainError::Boundary { slice: 1 }));
    // Renaming the boundary in the envelope does not help.
    let shape = world.card.key(1).unwrap().shape();
    let mut envelope = Envelope::decode(&second, shape).unwrap();
    envelope.input = run.borders[1].reference.clone();
    assert_eq!(
        chain_result(&[&run.envelopes[0], &envelope.encode()]),
        Err(SliceError { slice: 1, refusal: Refusal::Proof }.into())
    );
}

#[test]
fn a_batch_names_the_slice_at_fault() {
    let all = envelopes();
    let shape = world().card.key(0).unwrap().shape();
    let mut envelope = Envelope::decode(all[1], shape).unwrap();
    envelope.link.responses[0] += Fr::ONE;
    assert_eq!(
        chain_result(&[all[0], &envelope.encode()]),
        Err(SliceError { slice: 1, refusal: Refusal::Link }.into())
    );
    let mut bytes = all[0].to_vec();
    let last = bytes.len() - 64;
    bytes[last..last + 32].copy_from_slice(&a_point());
    assert_eq!(chain_result(&[&bytes, all[1]]), Err(SliceError { slice: 0, refusal: Refusal::Proof }.into()));
}

#[test]
fn a_chain_expectation_is_complete() {
    let world = world();
    let nodes = [NodeId(digest(2)); 1];
    let boundaries = [BoundaryExpectation::Hidden; 3];
    let error =
        verify_chain(&chain(world, &nodes, &boundaries), &world.card, &world.verifier_srs, &envelopes());
    assert_eq!(error.unwrap_err(), ChainError::Expectation { slices: 2, nodes: 1, boundaries: 3 });
}

// ---------------------------------------------------------------------------------------------------------
// Publication.

#[test]
fn a_publication_is_verified_once() {
    let (world, run) = (world(), run());
    let proofs: Vec<_> =
        (0..SLICES).map(|slice| prove_range(world, slice as u32, world.weights[slice].clone())).collect();
    let proofs: Vec<&[u8]> = proofs.iter().map(Vec::as_slice).collect();
    let receipt = verify_publication(world.model, &world.card, &world.verifier_srs, &proofs).unwrap();
    assert!(receipt.verified());
    let input = run.borders[0].integers();
    let expectation = Expectation { publication: receipt, ..expect_first(world, &input) };
    let verdict = verify_slice(&expectation, &world.card, &world.verifier_srs, &run.envelopes[0]).unwrap();
    assert!(verdict.publication_verified);

    let check = |model, proofs: &[&[u8]]| {
        verify_publication(model, &world.card, &world.verifier_srs, proofs).unwrap_err()
    };
    assert_eq!(check(world.model, &proofs[..1]), PublicationError::Count { expected: 2, actual: 1 });
    assert_eq!(
        check(world.model, &[proofs[0], proofs[0]]),
        SliceError { slice: 1, refusal: Refusal::Field { field: Claim::Slice } }.into()
    );
    assert_eq!(
        check(ModelId(digest(3)), &proofs),
        PublicationError::Card(Refusal::Card { expected: ModelId(digest(3)), actual: world.model })
    );
    // A slice proof is no publication proof: another occasion, another key.
    assert_eq!(
        check(world.model, &[&run.envelopes[0], proofs[1]]),
        SliceError { slice: 0, refusal: Refusal::Field { field: Claim::Request } }.into()
    );
}

/// S29: what is in range is proved of the published commitments, not of other columns.
#[test]
fn a_range_proof_of_other_weights_is_refused() {
    let world = world();
    let mut weights = world.weights[0].clone();
    weights[0][0] = (weights[0][0] + 1) % 4;
    let draft = lamina_prover::link::Draft {
        key: world.card.range_key(0).unwrap(),
        srs: world.srs.id(),
        context: lamina_verifier::verify::publication_context(world.model, world.card.publisher(), 0),
        weights: world.card.weights(0).unwrap(),
        input: lamina_verifier::boundary::BoundaryReference::none(),
        output: lamina_verifier::boundary::BoundaryReference::none(),
    };
    let circuit = toy::ToyRange { params: toy::toy_params(), w: weights };
    let (proof, fresh) = toy::stock_proof(world, &world.range_pk, circuit, &draft.instance());
    let tail = world.verifier_srs.tail(world.blinding_rows()).unwrap();
    let link = careless_link(
        &draft.header(),
        tail,
        &draft.pairs(&proof).unwrap(),
        &deltas(world.published[0].tails(), &fresh),
    );
    let envelope = Envelope {
        claims: Claims { key: draft.key.digest(), srs: draft.srs, context: draft.context },
        input: draft.input.clone(),
        output: draft.output.clone(),
        link,
        proof,
    };
    let second = prove_range(world, 1, world.weights[1].clone());
    let error =
        verify_publication(world.model, &world.card, &world.verifier_srs, &[&envelope.encode(), &second]);
    assert_eq!(error.unwrap_err(), SliceError { slice: 0, refusal: Refusal::Link }.into());
}

// ---------------------------------------------------------------------------------------------------------
// S26 and reference strings.

#[test]
fn max_degree_in_the_environment_is_refused() {
    const CHILD: &str = "LAMINA_TEST_MAX_DEGREE_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let world_key = lamina_verifier::key::refuse_max_degree();
        assert_eq!(world_key, Err(KeyError::MaxDegreeSet));
        return;
    }
    // Setting a variable of this process would be a race with the other tests.
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "max_degree_in_the_environment_is_refused"])
        .env(CHILD, "1")
        .env("MAX_DEGREE", "9")
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn another_reference_string_is_refused() {
    let (world, run) = (world(), run());
    let input = run.borders[0].integers();
    let other = lamina_prover::srs::Srs::generate_insecure(toy::LOG_N).unwrap();
    let foreign = other.verifier_srs(true).unwrap();
    let refused = |srs| {
        verify_slice(&expect_first(world, &input), &world.card, srs, &run.envelopes[0]).unwrap_err().refusal
    };
    assert_eq!(refused(&foreign), Refusal::Srs { expected: world.srs.id(), actual: other.id() });
    let smaller = world.srs.truncate(toy::LOG_N - 1).unwrap();
    assert_eq!(smaller.id(), world.srs.id());
    assert_eq!(
        refused(&smaller.verifier_srs(true).unwrap()),
        Refusal::SrsSize { expected: toy::LOG_N, actual: toy::LOG_N - 1 }
    );
    let _: SrsId = foreign.id();
}

/// A card that calls a development string sound gets past `InsecureSrs::Refuse`, and no further.
#[test]
fn a_false_mark_on_a_reference_string_is_refused() {
    use lamina_verifier::card::{Card, InsecureSrs};
    let (world, run) = (world(), run());
    let mut card = world.model_card.clone();
    card.srs.insecure = false;
    let card: toy::ToyCard = Card::check(&card, InsecureSrs::Refuse).unwrap();
    let input = run.borders[0].integers();
    let mut expectation = expect_first(world, &input);
    expectation.context.model = card.model();
    expectation.publication = PublicationReceipt::trusting_publisher(card.model());
    let error = verify_slice(&expectation, &card, &world.verifier_srs, &run.envelopes[0]).unwrap_err();
    assert_eq!(error.refusal, Refusal::SrsMark { card: false, actual: true });
}

// ---------------------------------------------------------------------------------------------------------
// Hostile bytes.

#[test]
fn no_bytes_make_the_verifier_panic() {
    let (world, run) = (world(), run());
    let input = run.borders[0].integers();
    let expectation = expect_first(world, &input);
    let shape = world.card.key(0).unwrap().shape();
    let envelope = &run.envelopes[0];
    for round in 0..2000 {
        let mut bytes = match round % 3 {
            0 => {
                let mut bytes = vec![0; OsRng.next_u32() as usize % (2 * envelope.len())];
                OsRng.fill_bytes(&mut bytes);
                bytes
            }
            _ => envelope.clone(),
        };
        if round % 3 == 1 {
            let from = HEADER_BYTES + OsRng.next_u32() as usize % (bytes.len() - HEADER_BYTES);
            let to = (from + OsRng.next_u32() as usize % 64).min(bytes.len());
            OsRng.fill_bytes(&mut bytes[from..to]);
        }
        if round % 3 == 2 {
            let from = OsRng.next_u32() as usize % bytes.len();
            bytes.truncate(from);
        }
        if let Ok(decoded) = Envelope::decode(&bytes, shape) {
            assert_eq!(decoded.encode(), bytes);
        }
        if round % 8 == 0 {
            let verified = verify_slice(&expectation, &world.card, &world.verifier_srs, &bytes);
            assert!(verified.is_err() || bytes == *envelope);
        }
    }
}

#[test]
fn shapes_are_what_the_library_says() {
    let World { toy_pk, .. } = world();
    let shape = world().card.key(0).unwrap().shape();
    let cs = toy_pk.get_vk().cs();
    assert_eq!(shape.blinding_rows, cs.blinding_factors() + 1);
    assert_eq!(shape.usable_rows + shape.blinding_rows, 1 << toy::LOG_N);
    let positions: Vec<_> = shape.linked.iter().map(|c| (c.advice, c.position)).collect();
    assert_eq!(positions, [(0, 0), (2, 1), (3, 2), (5, 4)]);
}
