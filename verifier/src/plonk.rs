//! The halo2 proof, from its bytes to one equation between points.
//!
//! Transcript, queries and challenges are those of the stock verifier, which accepts the same proofs (the
//! tests run both). Ours decodes every point once, compiles the gates when the key is read, interpolates in
//! Lagrange form, and returns the scalars of the final check instead of carrying it out, so that a chain of
//! proofs with their link proofs costs one multi-scalar multiplication and one pairing check.
//!
//! ```text
//! h(x)·(x^n − 1) = Σ_i y^(m−1−i) P_i(x)                                            the circuit
//! e(W', [τ]_2) = e(Σ_s v^s z_s Σ_j y^j (C_j − r_j(u)) − z_0·W + u·W', [1]_2)       SHPLONK
//! ```
//!
//! # Source
//! PLONK: <https://eprint.iacr.org/2019/953>; SHPLONK: <https://eprint.iacr.org/2020/081>; the order of
//! absorption: `halo2_proofs`.

use std::collections::BTreeMap;

use ff::{Field, PrimeField};
use group::prime::PrimeCurveAffine;
use halo2_proofs::{
    plonk::{Any, ConstraintSystem, Expression, VerifyingKey},
    poly::EvaluationDomain,
    transcript::{
        Blake2bRead, Challenge255, EncodedChallenge, Transcript, TranscriptRead, TranscriptReadBuffer,
    },
};

use crate::{Fr, G1Affine};

type Reader<'r, 'p> = Blake2bRead<&'r mut &'p [u8], G1Affine, Challenge255<G1Affine>>;

/// One step of a gate's evaluation on a stack.
#[derive(Clone, Copy, Debug)]
enum Step {
    Constant(Fr),
    /// A scalar of the proof, by position.
    Scalar(usize),
    /// An instance query, by position.
    Instance(usize),
    Challenge(usize),
    Negate,
    Add,
    Multiply,
    Scale(Fr),
    /// A query that the constraint system does not declare.
    Unknown,
}

/// A commitment that is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Opened {
    /// A point of the proof, by position.
    Point(usize),
    /// A fixed column.
    Fixed(usize),
    /// A permutation column.
    Permutation(usize),
    /// The quotient, combined from its limbs.
    Quotient,
}

/// A claimed value.
#[derive(Clone, Copy, Debug)]
enum Claimed {
    /// A scalar of the proof, by position.
    Scalar(usize),
    /// What the gates make the quotient's value.
    Quotient,
}

/// The commitments opened at one set of rotations.
#[derive(Clone, Debug)]
struct RotationSet {
    /// Ascending, reduced to `−n/2 .. n/2`.
    rotations: Vec<i32>,
    /// Each with its values, one a rotation.
    members: Vec<(Opened, Vec<Claimed>)>,
}

/// One permutation product: positions of its scalars, and the columns that it permutes.
#[derive(Clone, Debug)]
struct ProductSet {
    here: usize,
    next: usize,
    last: Option<usize>,
    /// The column's value and `σ`'s.
    columns: Vec<(Step, usize)>,
}

/// Everything about the proofs of a key that does not depend on a proof.
#[derive(Clone, Debug)]
pub(crate) struct Protocol {
    /// Positions of the advice commitments read in each phase, with the challenges drawn after it.
    phases: Vec<(Vec<usize>, Vec<usize>)>,
    advice: usize,
    challenges: usize,
    /// Rotations of the instance queries.
    instance_rotations: Vec<i32>,
    gates: Vec<Vec<Step>>,
    products: Vec<ProductSet>,
    limbs: usize,
    scalars: usize,
    blinding_factors: i32,
    sets: Vec<RotationSet>,
}

/// A proof, reduced: it holds if `e(left, [τ]_2) = e(right, [1]_2)`, where `right` is the combination of
/// points that the scalars spell.
#[derive(Clone, Debug)]
pub(crate) struct Reduction {
    /// `W'`.
    pub left: G1Affine,
    /// The points of the proof before its scalars, decoded.
    pub points: Vec<G1Affine>,
    /// Their scalars.
    pub point_scalars: Vec<Fr>,
    /// Scalars of the key's fixed commitments.
    pub fixed: Vec<Fr>,
    /// Scalars of the key's permutation commitments.
    pub permutation: Vec<Fr>,
    /// Scalar of the generator.
    pub generator: Fr,
    /// `W` and `W'` with their scalars.
    pub opening: [(Fr, G1Affine); 2],
}

/// Why a proof is not reduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Irreducible {
    /// The bytes end early or late, or hold something else than a point or a scalar.
    Bytes,
    /// A challenge is a root of unity or a point of opening; honest proofs meet this with chance `n/p`.
    Challenge,
}

impl Protocol {
    /// # Errors
    /// A feature of the constraint system that this verifier does not handle.
    pub fn new(cs: &ConstraintSystem<Fr>, degree: usize, log_n: u32) -> Result<Self, &'static str> {
        if !cs.lookups().is_empty() {
            return Err("lookup arguments");
        }
        let phases = cs.advice_column_phase();
        let challenge_phases = cs.challenge_phase();
        let last_phase = phases.iter().chain(&challenge_phases).max().copied().unwrap_or(0);
        let of_phase = |phase: u8, all: &[u8]| -> Vec<usize> {
            all.iter().enumerate().filter(|(_, p)| **p == phase).map(|(index, _)| index).collect()
        };
        let phases: Vec<_> = (0..=last_phase)
            .map(|phase| (of_phase(phase, &phases), of_phase(phase, &challenge_phases)))
            .collect();
        // Position of every advice column's commitment among the points.
        let positions: BTreeMap<usize, usize> = phases
            .iter()
            .flat_map(|(columns, _)| columns)
            .enumerate()
            .map(|(position, column)| (*column, position))
            .collect();
        let (advice, fixed) = (cs.advice_queries(), cs.fixed_queries());
        let after_advice = advice.len();
        let random = after_advice.saturating_add(fixed.len());
        let permuted = cs.permutation().get_columns();
        let sigma = random.saturating_add(1);
        let mut next_scalar = sigma.saturating_add(permuted.len());
        let queries = Queries {
            advice: advice.iter().map(|(column, at)| (column.index(), at.0)).zip(0..).collect(),
            fixed: fixed.iter().map(|(column, at)| (column.index(), at.0)).zip(after_advice..).collect(),
            instance: cs
                .instance_queries()
                .iter()
                .map(|(column, at)| (column.index(), at.0))
                .zip(0..)
                .collect(),
        };
        let gates: Vec<_> =
            cs.gates().iter().flat_map(|gate| gate.polynomials()).map(|gate| queries.compile(gate)).collect();
        let per_set = degree.checked_sub(2).filter(|count| *count > 0).ok_or("degree below 3")?;
        let mut products = Vec::new();
        let set_count = permuted.len().div_ceil(per_set);
        for (index, columns) in permuted.chunks(per_set).enumerate() {
            let mut position = || {
                let position = next_scalar;
                next_scalar = next_scalar.saturating_add(1);
                position
            };
            let (here, next) = (position(), position());
            let last = (index.saturating_add(1) < set_count).then(&mut position);
            let first_sigma = sigma.saturating_add(index.saturating_mul(per_set));
            let columns = columns
                .iter()
                .map(|column| queries.any(*column.column_type(), column.index(), 0))
                .zip(first_sigma..);
            products.push(ProductSet { here, next, last, columns: columns.collect() });
        }
        let unknown = |steps: &[Step]| steps.iter().any(|step| matches!(step, Step::Unknown));
        if gates.iter().any(|gate| unknown(gate))
            || products.iter().any(|set| set.columns.iter().any(|(step, _)| unknown(&[*step])))
        {
            return Err("a query that is not declared");
        }
        let blinding = cs.blinding_factors();
        let blinding_factors = i32::try_from(blinding).map_err(|_| "too many blinding rows")?;
        let last_row = blinding_factors.saturating_add(1).saturating_neg();
        let advice_count = positions.len();
        let random_point = advice_count.saturating_add(products.len());

        // The stock verifier's order of queries; sets of rotations in the order of first appearance.
        let mut order: Vec<(Opened, i32, Claimed)> = Vec::new();
        for (query, (column, at)) in advice.iter().enumerate() {
            let position = *positions.get(&column.index()).ok_or("a query that is not declared")?;
            order.push((Opened::Point(position), at.0, Claimed::Scalar(query)));
        }
        for (index, set) in products.iter().enumerate() {
            let point = Opened::Point(advice_count.saturating_add(index));
            order.push((point, 0, Claimed::Scalar(set.here)));
            order.push((point, 1, Claimed::Scalar(set.next)));
        }
        for (index, set) in products.iter().enumerate().rev().skip(1) {
            let last = set.last.ok_or("a permutation product without its last value")?;
            let point = Opened::Point(advice_count.saturating_add(index));
            order.push((point, last_row, Claimed::Scalar(last)));
        }
        for (query, (column, at)) in fixed.iter().enumerate() {
            let scalar = after_advice.saturating_add(query);
            order.push((Opened::Fixed(column.index()), at.0, Claimed::Scalar(scalar)));
        }
        for index in 0..permuted.len() {
            order.push((Opened::Permutation(index), 0, Claimed::Scalar(sigma.saturating_add(index))));
        }
        order.push((Opened::Quotient, 0, Claimed::Quotient));
        order.push((Opened::Point(random_point), 0, Claimed::Scalar(random)));

        Ok(Self {
            phases,
            advice: advice_count,
            challenges: cs.num_challenges(),
            instance_rotations: cs.instance_queries().iter().map(|(_, at)| at.0).collect(),
            gates,
            products,
            limbs: degree.saturating_sub(1),
            scalars: next_scalar,
            blinding_factors,
            sets: rotation_sets(&order, log_n)?,
        })
    }

    /// Replays the transcript of `proof` and reduces it.
    ///
    /// # Soundness
    /// Nothing is taken from the proof before it is absorbed; every scalar that a gate reads is opened.
    ///
    /// # Errors
    /// See [`Irreducible`]. A proof of a false statement is reduced to a false equation.
    #[expect(clippy::arithmetic_side_effects, reason = "field arithmetic is total")]
    pub fn reduce(
        &self,
        key: &VerifyingKey<G1Affine>,
        instance: &[Fr],
        proof: &[u8],
    ) -> Result<Reduction, Irreducible> {
        let bytes = |_| Irreducible::Bytes;
        let mut rest = proof;
        let mut transcript: Reader<'_, '_> = Blake2bRead::init(&mut rest);
        key.hash_into(&mut transcript).map_err(bytes)?;
        for value in instance {
            transcript.common_scalar(*value).map_err(bytes)?;
        }
        let mut points = Vec::with_capacity(self.advice);
        let mut challenges = vec![Fr::ZERO; self.challenges];
        for (columns, drawn) in &self.phases {
            for _ in columns {
                points.push(transcript.read_point().map_err(bytes)?);
            }
            for index in drawn {
                if let Some(challenge) = challenges.get_mut(*index) {
                    *challenge = squeeze(&mut transcript);
                }
            }
        }
        let _theta = squeeze(&mut transcript);
        let beta = squeeze(&mut transcript);
        let gamma = squeeze(&mut transcript);
        // Permutation products, then the random polynomial.
        for _ in 0..=self.products.len() {
            points.push(transcript.read_point().map_err(bytes)?);
        }
        let y = squeeze(&mut transcript);
        for _ in 0..self.limbs {
            points.push(transcript.read_point().map_err(bytes)?);
        }
        let x = squeeze(&mut transcript);
        let scalars: Vec<Fr> =
            (0..self.scalars).map(|_| transcript.read_scalar().map_err(bytes)).collect::<Result<_, _>>()?;

        let domain = key.get_domain();
        let x_n = (0..domain.k()).fold(x, |power, _| power.square());
        let vanishing: Option<Fr> = (x_n - Fr::ONE).invert().into();
        let vanishing = vanishing.ok_or(Irreducible::Challenge)?;
        let values = Values {
            scalars: &scalars,
            instance: self.instance_values(domain, x, x_n, instance),
            challenges: &challenges,
        };
        let mut numerator = Fr::ZERO;
        for gate in &self.gates {
            numerator = numerator * y + values.evaluate(gate).ok_or(Irreducible::Bytes)?;
        }
        for value in
            self.permutation_values(&values, domain, x, x_n, beta, gamma).ok_or(Irreducible::Bytes)?
        {
            numerator = numerator * y + value;
        }
        let quotient = numerator * vanishing;

        // The opening.
        let (y, v) = (squeeze(&mut transcript), squeeze(&mut transcript));
        let w = transcript.read_point().map_err(bytes)?;
        let u = squeeze(&mut transcript);
        let w_next = transcript.read_point().map_err(bytes)?;
        if !rest.is_empty() {
            return Err(Irreducible::Bytes);
        }
        let mut reduction = Reduction {
            left: w_next,
            point_scalars: vec![Fr::ZERO; points.len()],
            points,
            fixed: vec![Fr::ZERO; key.fixed_commitments().len()],
            permutation: vec![Fr::ZERO; key.permutation().commitments().len()],
            generator: Fr::ZERO,
            opening: [(Fr::ZERO, w), (u, w_next)],
        };
        self.open(&mut reduction, &Opening { domain, x, x_n, y, v, u, quotient, scalars: &scalars })?;
        Ok(reduction)
    }

    /// Values of the instance queries at `x`.
    #[expect(clippy::arithmetic_side_effects, reason = "field arithmetic is total")]
    fn instance_values(&self, domain: &EvaluationDomain<Fr>, x: Fr, x_n: Fr, instance: &[Fr]) -> Vec<Fr> {
        let length = i32::try_from(instance.len()).unwrap_or(0);
        self.instance_rotations
            .iter()
            .map(|rotation| {
                let first = rotation.saturating_neg();
                let basis = domain.l_i_range(x, x_n, first..first.saturating_add(length));
                basis.iter().zip(instance).fold(Fr::ZERO, |sum, (l, value)| sum + *l * value)
            })
            .collect()
    }

    /// The permutation argument's polynomials at `x`; `None` if a position does not exist.
    #[expect(clippy::arithmetic_side_effects, reason = "field arithmetic is total")]
    fn permutation_values(
        &self,
        values: &Values<'_>,
        domain: &EvaluationDomain<Fr>,
        x: Fr,
        x_n: Fr,
        beta: Fr,
        gamma: Fr,
    ) -> Option<Vec<Fr>> {
        let last_row = self.blinding_factors.saturating_add(1).saturating_neg();
        let l = domain.l_i_range(x, x_n, last_row..1);
        let (l_last, l_0) = (*l.first()?, *l.last()?);
        // Rows last ..= −1: the first unusable row and the blinding rows.
        let inactive: Fr = l.iter().take(l.len().checked_sub(1)?).sum();
        let scalar = |position: usize| values.scalars.get(position).copied();
        let mut out = Vec::new();
        if let (Some(first), Some(last)) = (self.products.first(), self.products.last()) {
            out.push(l_0 * (Fr::ONE - scalar(first.here)?));
            let z = scalar(last.here)?;
            out.push((z.square() - z) * l_last);
        }
        for (before, set) in self.products.iter().zip(self.products.iter().skip(1)) {
            out.push((scalar(set.here)? - scalar(before.last?)?) * l_0);
        }
        let mut shifted = beta * x;
        for set in &self.products {
            let (mut left, mut right) = (scalar(set.next)?, scalar(set.here)?);
            for (column, sigma) in &set.columns {
                let value = values.evaluate(std::slice::from_ref(column))?;
                left *= value + beta * scalar(*sigma)? + gamma;
                right *= value + shifted + gamma;
                shifted *= Fr::DELTA;
            }
            out.push((left - right) * (Fr::ONE - inactive));
        }
        Some(out)
    }

    /// Adds the opening argument to the scalars of `reduction`.
    #[expect(clippy::arithmetic_side_effects, reason = "field arithmetic is total")]
    fn open(&self, reduction: &mut Reduction, opening: &Opening<'_>) -> Result<(), Irreducible> {
        let Opening { domain, x, x_n, y, v, u, quotient, scalars } = *opening;
        let root = |rotation: &i32| domain.rotate_omega(x, halo2_proofs::poly::Rotation(*rotation));
        let all: BTreeMap<i32, Fr> =
            self.sets.iter().flat_map(|set| &set.rotations).map(|at| (*at, u - root(at))).collect();
        // Π (u − point) over the points outside a set, relative to that of the first set.
        let outside = |set: &RotationSet| {
            let others = all.iter().filter(|(at, _)| !set.rotations.contains(at));
            others.fold(Fr::ONE, |product, (_, difference)| product * difference)
        };
        let mut normal = None;
        let mut power_of_v = Fr::ONE;
        let first_limb = reduction.points.len().checked_sub(self.limbs).ok_or(Irreducible::Bytes)?;
        for set in &self.sets {
            let factor = match normal {
                None => {
                    let inverse: Option<Fr> = outside(set).invert().into();
                    normal = Some(inverse.ok_or(Irreducible::Challenge)?);
                    let inside = set.rotations.iter().filter_map(|at| all.get(at));
                    reduction.opening[0].0 =
                        -inside.fold(Fr::ONE, |product, difference| product * difference);
                    Fr::ONE
                }
                Some(inverse) => outside(set) * inverse,
            };
            let points: Vec<Fr> = set.rotations.iter().map(root).collect();
            let basis = lagrange_at(&points, u).ok_or(Irreducible::Challenge)?;
            let mut scale = power_of_v * factor;
            for (opened, claims) in &set.members {
                let mut value = Fr::ZERO;
                for (claim, l) in claims.iter().zip(&basis) {
                    let claimed = match claim {
                        Claimed::Scalar(position) => *scalars.get(*position).ok_or(Irreducible::Bytes)?,
                        Claimed::Quotient => quotient,
                    };
                    value += claimed * l;
                }
                reduction.generator -= scale * value;
                if let Opened::Quotient = opened {
                    let mut power = scale;
                    for slot in reduction.point_scalars.iter_mut().skip(first_limb) {
                        *slot += power;
                        power *= x_n;
                    }
                } else {
                    let slot = match opened {
                        Opened::Point(position) => reduction.point_scalars.get_mut(*position),
                        Opened::Fixed(column) => reduction.fixed.get_mut(*column),
                        Opened::Permutation(column) => reduction.permutation.get_mut(*column),
                        Opened::Quotient => None,
                    };
                    *slot.ok_or(Irreducible::Bytes)? += scale;
                }
                scale *= y;
            }
            power_of_v *= v;
        }
        Ok(())
    }
}

/// What the opening argument is about.
#[derive(Clone, Copy)]
struct Opening<'a> {
    domain: &'a EvaluationDomain<Fr>,
    x: Fr,
    x_n: Fr,
    y: Fr,
    v: Fr,
    u: Fr,
    quotient: Fr,
    scalars: &'a [Fr],
}

/// The values that gates read.
struct Values<'a> {
    scalars: &'a [Fr],
    instance: Vec<Fr>,
    challenges: &'a [Fr],
}

impl Values<'_> {
    #[expect(clippy::arithmetic_side_effects, reason = "field arithmetic is total")]
    fn evaluate(&self, steps: &[Step]) -> Option<Fr> {
        let mut stack: Vec<Fr> = Vec::new();
        for step in steps {
            let value = match step {
                Step::Constant(value) => *value,
                Step::Scalar(position) => *self.scalars.get(*position)?,
                Step::Instance(position) => *self.instance.get(*position)?,
                Step::Challenge(index) => *self.challenges.get(*index)?,
                Step::Negate => -stack.pop()?,
                Step::Scale(factor) => stack.pop()? * factor,
                Step::Add => stack.pop()? + stack.pop()?,
                Step::Multiply => stack.pop()? * stack.pop()?,
                Step::Unknown => return None,
            };
            stack.push(value);
        }
        stack.pop()
    }
}

/// Where the value of a column at a rotation stands.
struct Queries {
    advice: BTreeMap<(usize, i32), usize>,
    fixed: BTreeMap<(usize, i32), usize>,
    instance: BTreeMap<(usize, i32), usize>,
}

impl Queries {
    fn any(&self, kind: Any, column: usize, rotation: i32) -> Step {
        let at = &(column, rotation);
        let found = match kind {
            Any::Advice(_) => self.advice.get(at).map(|position| Step::Scalar(*position)),
            Any::Fixed => self.fixed.get(at).map(|position| Step::Scalar(*position)),
            Any::Instance => self.instance.get(at).map(|position| Step::Instance(*position)),
        };
        found.unwrap_or(Step::Unknown)
    }

    /// The steps of an expression, operands first.
    fn compile(&self, gate: &Expression<Fr>) -> Vec<Step> {
        let join = |mut left: Vec<Step>, right: Vec<Step>, step| {
            left.extend(right);
            left.push(step);
            left
        };
        gate.evaluate(
            &|constant| vec![Step::Constant(constant)],
            &|_| vec![Step::Unknown],
            &|query| vec![self.any(Any::Fixed, query.column_index(), query.rotation().0)],
            &|query| vec![self.any(Any::advice(), query.column_index(), query.rotation().0)],
            &|query| vec![self.any(Any::Instance, query.column_index(), query.rotation().0)],
            &|challenge| vec![Step::Challenge(challenge.index())],
            &|steps| join(steps, Vec::new(), Step::Negate),
            &|left, right| join(left, right, Step::Add),
            &|left, right| join(left, right, Step::Multiply),
            &|steps, factor| join(steps, Vec::new(), Step::Scale(factor)),
        )
    }
}

/// Groups commitments by the set of rotations that they are opened at, both in order of first appearance.
fn rotation_sets(order: &[(Opened, i32, Claimed)], log_n: u32) -> Result<Vec<RotationSet>, &'static str> {
    let n = 1i32.checked_shl(log_n).ok_or("too many rows")?;
    let reduce = |rotation: i32| {
        let least = rotation.rem_euclid(n);
        if least > n >> 1 { least.saturating_sub(n) } else { least }
    };
    let mut commitments: Vec<(Opened, BTreeMap<i32, Claimed>)> = Vec::new();
    let mut seen: BTreeMap<Opened, usize> = BTreeMap::new();
    for (opened, rotation, claimed) in order {
        let at = *seen.entry(*opened).or_insert_with(|| {
            commitments.push((*opened, BTreeMap::new()));
            commitments.len().saturating_sub(1)
        });
        let values = commitments.get_mut(at).map(|(_, values)| values).ok_or("unreachable query")?;
        // Two values claimed of one commitment at one point would leave one of them unchecked.
        if values.insert(reduce(*rotation), *claimed).is_some() {
            return Err("a column is queried twice at one rotation");
        }
    }
    let mut sets: Vec<RotationSet> = Vec::new();
    for (opened, values) in commitments {
        let (rotations, claims): (Vec<i32>, Vec<Claimed>) = values.into_iter().unzip();
        match sets.iter_mut().find(|set| set.rotations == rotations) {
            Some(set) => set.members.push((opened, claims)),
            None => sets.push(RotationSet { rotations, members: vec![(opened, claims)] }),
        }
    }
    Ok(sets)
}

/// The Lagrange basis of distinct `points` at `u`; `None` if two are equal.
#[expect(clippy::arithmetic_side_effects, reason = "field arithmetic is total")]
fn lagrange_at(points: &[Fr], u: Fr) -> Option<Vec<Fr>> {
    points
        .iter()
        .enumerate()
        .map(|(index, point)| {
            let others = points.iter().enumerate().filter(|(other, _)| *other != index);
            let (above, below) = others.fold((Fr::ONE, Fr::ONE), |(above, below), (_, other)| {
                (above * (u - other), below * (*point - other))
            });
            Option::<Fr>::from(below.invert()).map(|inverse| above * inverse)
        })
        .collect()
}

fn squeeze(transcript: &mut Reader<'_, '_>) -> Fr {
    transcript.squeeze_challenge().get_scalar()
}

impl Reduction {
    /// The terms of `right` that are this proof's own: all but those of the key and of the generator.
    pub fn own_terms(&self) -> impl Iterator<Item = (Fr, G1Affine)> + '_ {
        self.point_scalars.iter().copied().zip(self.points.iter().copied()).chain(self.opening)
    }
}

/// `right`'s terms over the points of a key.
#[derive(Clone, Debug)]
pub(crate) struct KeyTerms {
    fixed: Vec<Fr>,
    permutation: Vec<Fr>,
}

impl KeyTerms {
    /// No terms yet.
    pub fn new(key: &VerifyingKey<G1Affine>) -> Self {
        Self {
            fixed: vec![Fr::ZERO; key.fixed_commitments().len()],
            permutation: vec![Fr::ZERO; key.permutation().commitments().len()],
        }
    }

    /// Adds those of a proof under that key.
    #[expect(clippy::arithmetic_side_effects, reason = "field arithmetic is total")]
    pub fn add(&mut self, reduction: &Reduction, scale: Fr) {
        let pairs = self.fixed.iter_mut().zip(&reduction.fixed);
        for (sum, scalar) in pairs.chain(self.permutation.iter_mut().zip(&reduction.permutation)) {
            *sum += scale * scalar;
        }
    }

    /// With the points.
    pub fn terms(self, key: &VerifyingKey<G1Affine>) -> impl Iterator<Item = (Fr, G1Affine)> + '_ {
        let points = key.fixed_commitments().iter().chain(key.permutation().commitments());
        self.fixed
            .into_iter()
            .chain(self.permutation)
            .zip(points.copied())
            .filter(|(scalar, point)| *scalar != Fr::ZERO && !bool::from(point.is_identity()))
    }
}
