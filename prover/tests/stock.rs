//! Our transcript against the stock prover's, byte for byte.
//!
//! The stock prover draws its vanishing argument's random polynomial from a thread-local generator. The test
//! therefore exchanges that polynomial in the stock prover's own transcript: it knows the parameters' secret,
//! so it can compute what each later message would be with ours in its place. Everything else must be equal.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::io;

use common::{Kitchen, Shape, setup, verifies};
use ff::{Field, PrimeField};
use group::{Curve, GroupEncoding};
use halo2_proofs::{
    halo2curves::bn256::{Bn256, G1, G1Affine},
    plonk::{create_proof, keygen_pk2},
    poly::kzg::{commitment::KZGCommitmentScheme, multiopen::ProverSHPLONK},
    transcript::{
        Blake2bWrite, Challenge255, EncodedChallenge, Transcript, TranscriptWrite, TranscriptWriterBuffer,
    },
};
use lamina_circuits::Fr;
use lamina_prover::{Blinding, Cpu, Prover, ProvingKey, Silent, synthesized::Synthesized};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

/// Where things are in a proof.
#[derive(Clone, Debug)]
struct Map {
    /// Index of the random polynomial's commitment among the points.
    random: usize,
    points: usize,
    /// Index of its evaluation among the scalars.
    random_eval: usize,
    scalars: usize,
    /// Squeezed before the opening argument.
    squeezes: usize,
    /// The random polynomial's place: rotation set and position in it.
    set: usize,
    position: usize,
    /// The rotations of every set.
    sets: Vec<Vec<i64>>,
}

impl Map {
    fn of(key: &ProvingKey) -> Self {
        let cs = key.vk().cs();
        let permuted = cs.permutation().get_columns().len();
        let products = permuted.div_ceil(key.degree() - 2);
        let n = 1i64 << key.k();
        let last = -(cs.blinding_factors() as i64 + 1);
        let mut polys: Vec<(String, Vec<i64>)> = Vec::new();
        let mut add = |name: String, rotation: i64| {
            let rotation = rotation.rem_euclid(n);
            match polys.iter_mut().find(|p| p.0 == name) {
                Some(p) => p.1.push(rotation),
                None => polys.push((name, vec![rotation])),
            }
        };
        for (c, r) in cs.advice_queries() {
            add(format!("a{}", c.index()), r.0.into());
        }
        for s in 0..products {
            add(format!("z{s}"), 0);
            add(format!("z{s}"), 1);
        }
        for s in (0..products.saturating_sub(1)).rev() {
            add(format!("z{s}"), last);
        }
        for (c, r) in cs.fixed_queries() {
            add(format!("f{}", c.index()), r.0.into());
        }
        for s in 0..permuted {
            add(format!("s{s}"), 0);
        }
        add("h".into(), 0);
        add("random".into(), 0);
        let mut sets: Vec<(Vec<i64>, usize)> = Vec::new();
        let (mut set, mut position) = (0, 0);
        for (name, mut rotations) in polys {
            rotations.sort();
            let at = match sets.iter().position(|s| s.0 == rotations) {
                Some(at) => at,
                None => {
                    sets.push((rotations, 0));
                    sets.len() - 1
                }
            };
            if name == "random" {
                (set, position) = (at, sets[at].1);
            }
            sets[at].1 += 1;
        }
        let columns = cs.num_advice_columns();
        let scalars = cs.advice_queries().len() + cs.fixed_queries().len();
        Map {
            random: columns + products,
            points: columns + products + 1 + key.degree() - 1 + 2,
            random_eval: scalars,
            scalars: scalars + 1 + permuted + 3 * products - usize::from(products > 0),
            squeezes: cs.num_challenges() + 5,
            set,
            position,
            sets: sets.into_iter().map(|s| s.0).collect(),
        }
    }
}

fn parse(proof: &[u8], map: &Map) -> (Vec<G1Affine>, Vec<Fr>) {
    let before = map.points - 2;
    let point = |at: usize| {
        let mut repr = <G1Affine as GroupEncoding>::Repr::default();
        repr.as_mut().copy_from_slice(&proof[at..at + 32]);
        Option::<G1Affine>::from(G1Affine::from_bytes(&repr)).unwrap()
    };
    let mut points: Vec<G1Affine> = (0..before).map(|i| point(32 * i)).collect();
    let scalars = (0..map.scalars)
        .map(|i| {
            let at = 32 * (before + i);
            Fr::from_repr(proof[at..at + 32].try_into().unwrap()).unwrap()
        })
        .collect();
    let rest = 32 * (before + map.scalars);
    points.push(point(rest));
    points.push(point(rest + 32));
    assert_eq!(proof.len(), rest + 64);
    (points, scalars)
}

/// The stock prover's transcript with another random polynomial put in.
struct Exchange {
    inner: Blake2bWrite<Vec<u8>, G1Affine, Challenge255<G1Affine>>,
    map: Map,
    tau: Fr,
    omega: Fr,
    ours: (G1Affine, Fr),
    theirs: (Option<G1Affine>, Option<Fr>),
    points: usize,
    scalars: usize,
    squeezed: Vec<Fr>,
}

impl Exchange {
    /// `([R'] - [R], (R' - R)(x))`.
    fn change(&self) -> (G1, Fr) {
        (G1::from(self.ours.0) - G1::from(self.theirs.0.unwrap()), self.ours.1 - self.theirs.1.unwrap())
    }
}

impl Transcript<G1Affine, Challenge255<G1Affine>> for Exchange {
    fn squeeze_challenge(&mut self) -> Challenge255<G1Affine> {
        let challenge = self.inner.squeeze_challenge();
        self.squeezed.push(challenge.get_scalar());
        challenge
    }
    fn common_point(&mut self, point: G1Affine) -> io::Result<()> {
        self.inner.common_point(point)
    }
    fn common_scalar(&mut self, scalar: Fr) -> io::Result<()> {
        self.inner.common_scalar(scalar)
    }
}

impl TranscriptWrite<G1Affine, Challenge255<G1Affine>> for Exchange {
    fn write_point(&mut self, point: G1Affine) -> io::Result<()> {
        let at = self.points;
        self.points += 1;
        let map = self.map.clone();
        let mut point = point;
        if at == map.random {
            self.theirs.0 = Some(point);
            point = self.ours.0;
        } else if at + 2 >= map.points {
            let x = self.squeezed[map.squeezes - 1];
            let [y, v] = [self.squeezed[map.squeezes], self.squeezed[map.squeezes + 1]];
            let (commitment, value) = self.change();
            // [(R' - R)(X) - value] / (X - x), by the secret.
            let divided = |at: Fr| {
                let value = G1Affine::generator() * value;
                (commitment - value) * (self.tau - at).invert().unwrap()
            };
            let weight = v.pow_vartime([map.set as u64]) * y.pow_vartime([map.position as u64]);
            let h_change = divided(x) * weight;
            if at + 2 == map.points {
                point = (G1::from(point) + h_change).to_affine();
            } else {
                let u = self.squeezed[map.squeezes + 2];
                let z = |set: &[i64], inside: bool| -> Fr {
                    let mut all: Vec<i64> = map.sets.iter().flatten().copied().collect();
                    all.sort();
                    all.dedup();
                    all.iter()
                        .filter(|r| set.contains(r) == inside)
                        .map(|r| u - x * self.omega.pow_vartime([*r as u64]))
                        .product()
                };
                let own = &map.sets[map.set];
                let whole = z(own, true) * z(own, false);
                // W (X - u) = sum_s v^s Z_(T\s)(u) (N_s - r_s(u)) - Z_T(u) h.
                let constant = G1Affine::generator() * value;
                let linear = (commitment - constant) * (weight * z(own, false)) - h_change * whole;
                let change = linear * ((self.tau - u) * z(&map.sets[0], false)).invert().unwrap();
                point = (G1::from(point) + change).to_affine();
            }
        }
        self.inner.write_point(point)
    }

    fn write_scalar(&mut self, scalar: Fr) -> io::Result<()> {
        let at = self.scalars;
        self.scalars += 1;
        if at == self.map.random_eval {
            self.theirs.1 = Some(scalar);
            return self.inner.write_scalar(self.ours.1);
        }
        self.inner.write_scalar(scalar)
    }
}

/// Two phases at most: the stock prover panics after the third.
fn shapes() -> Vec<Shape> {
    vec![
        Shape { degree: 3, weights: 2, rows: 20, third: false, query_instance: false },
        Shape { degree: 4, weights: 9, rows: 20, third: false, query_instance: true },
        Shape { degree: 5, weights: 30, rows: 50, third: false, query_instance: false },
    ]
}

#[test]
fn equals_the_stock_prover_byte_for_byte() {
    for shape in shapes() {
        let (srs, tau, next) = setup(6);
        let circuit = Kitchen { shape, seed: 4, wrong: false };
        let key = ProvingKey::generate(&srs, &circuit).unwrap();
        let instances = circuit.instances();
        let witness = Synthesized::new(&circuit, &instances, &key);
        let cpu = Cpu::default();
        let prover = Prover::new(&srs, &key, &cpu).unwrap().with_next_power(next).unwrap();
        let rng = || ChaCha20Rng::seed_from_u64(11);
        let prove = |mut blinding: Blinding| {
            let proof = prover.prove(&witness, &instances, &[], &mut blinding, &Silent).unwrap().proof;
            assert!(verifies(&srs, &key, &instances, &proof));
            proof
        };
        let ours = prove(Blinding::stock_compatible(rng()));
        let map = Map::of(&key);
        let (points, scalars) = parse(&ours, &map);

        let stock_key = keygen_pk2(&srs, &circuit, false).unwrap();
        let mut exchange = Exchange {
            inner: Blake2bWrite::init(Vec::new()),
            tau,
            omega: key.vk().get_domain().get_omega(),
            ours: (points[map.random], scalars[map.random_eval]),
            map: map.clone(),
            theirs: (None, None),
            points: 0,
            scalars: 0,
            squeezed: Vec::new(),
        };
        let columns: Vec<&[Fr]> = instances.iter().map(Vec::as_slice).collect();
        create_proof::<KZGCommitmentScheme<Bn256>, ProverSHPLONK<'_, Bn256>, _, _, _, _>(
            &srs,
            &stock_key,
            std::slice::from_ref(&circuit),
            &[&columns],
            rng(),
            &mut exchange,
        )
        .unwrap();
        assert_eq!(exchange.inner.finalize(), ours, "{shape:?}");

        // With blinded limbs nothing before the random polynomial changes; the limbs do.
        let blinded = prove(Blinding::stock_compatible_with_limbs(rng()));
        let same = 32 * map.random;
        assert_eq!(blinded[..same], ours[..same]);
        let limbs = 32 * (map.random + 1)..32 * (map.points - 2);
        for (a, b) in blinded[limbs.clone()].chunks(32).zip(ours[limbs].chunks(32)) {
            assert_ne!(a, b);
        }
    }
}
