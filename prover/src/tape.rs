//! Numbers that follow from the challenges, named before any is drawn.
//!
//! The shape of everything that is made of a circuit's gates is the same in every proof; only coefficients differ. So gates are
//! folded and compiled once a key, over [`Scalar`]s, and a proof computes what these are: some thousand products.

use std::{collections::HashMap, ops::Index};

use ff::{BatchInvert, Field, FromUniformBytes};
use lamina_circuits::Fr;

/// A number of a [`Tape`]. Equal numbers are one scalar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scalar(u32);

impl Scalar {
    /// Zero, of every tape.
    pub const ZERO: Self = Scalar(0);
    /// One.
    pub const ONE: Self = Scalar(1);
    /// Minus one.
    pub const MINUS_ONE: Self = Scalar(2);
}

/// How a scalar follows from earlier ones.
#[derive(Clone, Copy, Debug)]
enum Step {
    Known(Fr),
    Challenge,
    Add(Scalar, Scalar),
    Multiply(Scalar, Scalar),
    Negate(Scalar),
    Invert(Scalar),
}

/// The scalars of something, each with how it is computed.
///
/// # Soundness
/// Which scalars are equal, or zero, is decided by their values for challenges that are hashes of their numbers: what differs as
/// a function of challenges differs there, unless its degree in them over the field's size says otherwise (Schwartz, Zippel). A
/// wrong decision would make a wrong quotient, which the prover's own check refuses; no verifier depends on it.
#[derive(Clone, Debug)]
pub struct Tape {
    steps: Vec<Step>,
    samples: Vec<Fr>,
    /// How many inversions are nested in each step.
    depths: Vec<u32>,
    index: HashMap<Fr, Scalar>,
    challenges: usize,
}

/// What the scalars of a tape are in one proof.
#[derive(Clone, Debug)]
pub struct Values(Vec<Fr>);

impl Index<Scalar> for Values {
    type Output = Fr;

    fn index(&self, scalar: Scalar) -> &Fr {
        &self.0[scalar.0 as usize]
    }
}

/// What a challenge is taken to be while scalars are told apart.
fn sample(challenge: usize) -> Fr {
    let mut state = blake2b_simd::Params::new().hash_length(64).personal(b"lamina-sample").to_state();
    state.update(&(challenge as u64).to_le_bytes());
    Fr::from_uniform_bytes(state.finalize().as_array())
}

impl Tape {
    /// A tape for this many challenges.
    pub fn new(challenges: usize) -> Self {
        let mut tape = Tape {
            steps: Vec::new(),
            samples: Vec::new(),
            depths: Vec::new(),
            index: HashMap::new(),
            challenges,
        };
        for known in [Fr::ZERO, Fr::ONE, -Fr::ONE] {
            tape.push(Step::Known(known), known);
        }
        for at in 0..challenges {
            tape.push(Step::Challenge, sample(at));
        }
        tape
    }

    fn push(&mut self, step: Step, sample: Fr) -> Scalar {
        if let Some(scalar) = self.index.get(&sample) {
            return *scalar;
        }
        let depth = |scalar: Scalar| self.depths[scalar.0 as usize];
        self.depths.push(match step {
            Step::Known(_) | Step::Challenge => 0,
            Step::Add(a, b) | Step::Multiply(a, b) => depth(a).max(depth(b)),
            Step::Negate(a) => depth(a),
            Step::Invert(a) => depth(a) + 1,
        });
        let scalar = Scalar(self.steps.len() as u32);
        self.steps.push(step);
        self.samples.push(sample);
        self.index.insert(sample, scalar);
        scalar
    }

    fn sample(&self, scalar: Scalar) -> Fr {
        self.samples[scalar.0 as usize]
    }

    /// A constant.
    pub fn known(&mut self, value: Fr) -> Scalar {
        self.push(Step::Known(value), value)
    }

    /// A challenge, by its place among those of the tape.
    ///
    /// # Panics
    /// Where there is none.
    pub fn challenge(&self, at: usize) -> Scalar {
        assert!(at < self.challenges, "challenge {at} of {}", self.challenges);
        Scalar(3 + at as u32)
    }

    /// `a + b`.
    pub fn add(&mut self, a: Scalar, b: Scalar) -> Scalar {
        match (a, b) {
            (Scalar::ZERO, other) | (other, Scalar::ZERO) => other,
            _ => self.push(Step::Add(a, b), self.sample(a) + self.sample(b)),
        }
    }

    /// `a b`.
    pub fn multiply(&mut self, a: Scalar, b: Scalar) -> Scalar {
        match (a, b) {
            (Scalar::ZERO, _) | (_, Scalar::ZERO) => Scalar::ZERO,
            (Scalar::ONE, other) | (other, Scalar::ONE) => other,
            (Scalar::MINUS_ONE, other) | (other, Scalar::MINUS_ONE) => self.negate(other),
            _ => self.push(Step::Multiply(a, b), self.sample(a) * self.sample(b)),
        }
    }

    /// `-a`.
    pub fn negate(&mut self, a: Scalar) -> Scalar {
        self.push(Step::Negate(a), -self.sample(a))
    }

    /// `1 / a`; zero for zero.
    pub fn invert(&mut self, a: Scalar) -> Scalar {
        match a {
            Scalar::ZERO | Scalar::ONE | Scalar::MINUS_ONE => a,
            _ => self.push(Step::Invert(a), self.sample(a).invert().unwrap_or(Fr::ZERO)),
        }
    }

    /// What all scalars are. Challenges that are not given yet count as zero.
    pub fn values(&self, challenges: &[Fr]) -> Values {
        let mut values = vec![Fr::ZERO; 3 + self.challenges];
        values[1] = Fr::ONE;
        values[2] = -Fr::ONE;
        let given = challenges.len().min(self.challenges);
        values[3..3 + given].copy_from_slice(&challenges[..given]);
        self.extended(&Values(values))
    }

    /// What all scalars are, given those of a tape that this one goes on from.
    pub fn extended(&self, values: &Values) -> Values {
        let known = values.0.len();
        let mut values = values.0.clone();
        values.resize(self.steps.len(), Fr::ZERO);
        let deepest = self.depths[known..].iter().copied().max().unwrap_or(0);
        for depth in 0..=deepest {
            // Inversions of one depth do not depend on one another.
            let inversions: Vec<(usize, Scalar)> = (known..self.steps.len())
                .filter(|at| self.depths[*at] == depth)
                .filter_map(|at| if let Step::Invert(of) = self.steps[at] { Some((at, of)) } else { None })
                .collect();
            let mut inverses: Vec<Fr> = inversions.iter().map(|(_, of)| values[of.0 as usize]).collect();
            inverses.iter_mut().batch_invert();
            for ((at, _), inverse) in inversions.iter().zip(inverses) {
                values[*at] = inverse;
            }
            for at in (known..self.steps.len()).filter(|at| self.depths[*at] == depth) {
                let value = |scalar: Scalar| values[scalar.0 as usize];
                values[at] = match self.steps[at] {
                    Step::Known(value) => value,
                    Step::Challenge | Step::Invert(_) => continue,
                    Step::Add(a, b) => value(a) + value(b),
                    Step::Multiply(a, b) => value(a) * value(b),
                    Step::Negate(a) => -value(a),
                };
            }
        }
        Values(values)
    }
}

#[cfg(test)]
mod tests {
    use ff::PrimeField;

    use super::*;

    #[test]
    fn scalars_are_what_they_are_made_of() {
        let mut tape = Tape::new(2);
        let (a, b) = (tape.challenge(0), tape.challenge(1));
        let five = tape.known(Fr::from(5));
        let sum = tape.add(a, b);
        let inverse = tape.invert(sum);
        let product = tape.multiply(inverse, five);
        let before = tape.clone();
        let nested = tape.add(product, Scalar::MINUS_ONE);
        let nested = tape.invert(nested);
        let negative = tape.negate(nested);
        let (x, y) = (Fr::from(77), Fr::from(1 << 40));
        let values = tape.extended(&before.values(&[x, y]));
        let quotient = Fr::from(5) * (x + y).invert().expect("not zero");
        assert_eq!(values[product], quotient);
        assert_eq!(values[negative], -(quotient - Fr::ONE).invert().expect("not zero"));
        assert_eq!(tape.values(&[x, y])[negative], values[negative]);
    }

    #[test]
    fn equal_scalars_are_one() {
        let mut tape = Tape::new(2);
        let (a, b) = (tape.challenge(0), tape.challenge(1));
        let one_way = tape.multiply(a, b);
        assert_eq!(tape.multiply(b, a), one_way);
        let back = tape.negate(one_way);
        assert_eq!(tape.add(one_way, back), Scalar::ZERO);
        assert_eq!(tape.multiply(back, Scalar::MINUS_ONE), one_way);
        let inverse = tape.invert(b);
        assert_eq!(tape.multiply(one_way, inverse), a);
        assert_eq!(tape.known(Fr::ONE), Scalar::ONE);
        assert_eq!(tape.invert(Scalar::ZERO), Scalar::ZERO);
        assert_ne!(a, b);
    }

    #[test]
    fn an_inverse_of_zero_is_zero() {
        let mut tape = Tape::new(1);
        let minus = tape.known(-Fr::from(3));
        let difference = tape.add(tape.challenge(0), minus);
        let inverse = tape.invert(difference);
        assert_eq!(tape.values(&[Fr::from(3)])[inverse], Fr::ZERO);
        assert_eq!(tape.values(&[Fr::from(5)])[inverse], Fr::TWO_INV);
    }
}
