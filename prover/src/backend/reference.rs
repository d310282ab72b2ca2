//! The oracle: every step as its equation says, single-threaded, without a fast algorithm.

use std::collections::HashMap;

use ff::{Field, PrimeField};
use group::Group;
use halo2_proofs::{
    halo2curves::bn256::{G1, G1Affine},
    plonk::Expression,
    poly::Rotation,
};
use lamina_circuits::{Fr, witness::Column};

use super::{Backend, Columns, Combination, HostColumn, Setup};
use crate::{
    derivation::{Derivation, Derived, Relation},
    error::BackendError,
    expression::{Atom, Identity, Node, Source},
    setup::Bases,
    tape::Values,
};

/// The naive backend, for tests at small sizes: transforms and products take quadratic time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

/// What [`Reference`] keeps of a proving key.
#[derive(Debug)]
pub struct ReferenceKey {
    bases: Bases,
    n: usize,
    degree: usize,
    usable: usize,
    omega: Fr,
    fixed: Vec<Vec<Fr>>,
    sigma: Vec<Vec<Fr>>,
    identity: Identity,
}

/// The generator of the `j`-th coset: `7^(j+1)`, whose `n`-th powers differ from one another and from 1.
pub(crate) fn coset_generator(coset: usize) -> Fr {
    Fr::MULTIPLICATIVE_GENERATOR.pow_vartime([coset as u64 + 1])
}

/// A primitive `2^k`-th root of unity, the one that halo2 uses.
pub(crate) fn omega(k: u32) -> Fr {
    let mut omega = Fr::ROOT_OF_UNITY;
    for _ in k..Fr::S {
        omega = omega.square();
    }
    omega
}

fn horner(coefficients: &[Fr], x: Fr) -> Fr {
    coefficients.iter().rev().fold(Fr::ZERO, |acc, c| acc * x + c)
}

fn sum_of(bases: &[G1Affine], scalars: &[Fr]) -> G1 {
    assert!(scalars.len() <= bases.len());
    bases
        .iter()
        .zip(scalars)
        .filter(|(_, scalar)| **scalar != Fr::ZERO)
        .fold(G1::identity(), |acc, (base, scalar)| acc + base * scalar)
}

impl ReferenceKey {
    fn values(&self, columns: &Columns<'_, HostColumn>, source: Source) -> Vec<Fr> {
        let indicator = |on: &dyn Fn(usize) -> bool| {
            (0..self.n).map(|row| if on(row) { Fr::ONE } else { Fr::ZERO }).collect()
        };
        match source {
            Source::Fixed(at) => self.fixed[at].clone(),
            Source::Sigma(at) => self.sigma[at].clone(),
            Source::First => indicator(&|row| row == 0),
            Source::Last => indicator(&|row| row == self.usable),
            Source::Active => indicator(&|row| row < self.usable),
            Source::Identity => (0..self.n).map(|row| self.omega.pow_vartime([row as u64])).collect(),
            _ => columns.get(source).map(HostColumn::to_field).unwrap_or_default(),
        }
    }

    /// `f_i = 1/n sum_j f(w^j) w^(-ij)`.
    fn interpolate(&self, values: &[Fr]) -> Vec<Fr> {
        let n_inverse = Fr::from(self.n as u64).invert().unwrap_or(Fr::ZERO);
        let omega_inverse = self.omega.invert().unwrap_or(Fr::ZERO);
        (0..self.n).map(|i| horner(values, omega_inverse.pow_vartime([i as u64])) * n_inverse).collect()
    }
}

fn add(left: &mut Vec<Fr>, right: &[Fr], by: Fr) {
    if left.len() < right.len() {
        left.resize(right.len(), Fr::ZERO);
    }
    for (l, r) in left.iter_mut().zip(right) {
        *l += by * r;
    }
}

fn multiply(left: &[Fr], right: &[Fr]) -> Vec<Fr> {
    let mut product = vec![Fr::ZERO; (left.len() + right.len()).saturating_sub(1)];
    for (i, l) in left.iter().enumerate() {
        for (j, r) in right.iter().enumerate() {
            product[i + j] += l * r;
        }
    }
    product
}

/// All columns of a proof, by row.
struct Cells<'a> {
    fixed: &'a [Vec<Fr>],
    instance: Vec<Vec<Fr>>,
    advice: Vec<Option<Vec<Fr>>>,
    challenges: &'a [Fr],
}

impl Cells<'_> {
    /// The value of a gate's polynomial on a row.
    fn evaluate(&self, polynomial: &Expression<Fr>, row: usize) -> Fr {
        let at = |values: &Vec<Fr>, rotation: Rotation| {
            values[(row as i64 + i64::from(rotation.0)).rem_euclid(values.len() as i64) as usize]
        };
        polynomial.evaluate(
            &|constant| constant,
            &|_| Fr::ZERO,
            &|query| at(&self.fixed[query.column_index()], query.rotation()),
            &|query| {
                let values = self.advice[query.column_index()].as_ref();
                values.map_or(Fr::ZERO, |values| at(values, query.rotation()))
            },
            &|query| at(&self.instance[query.column_index()], query.rotation()),
            &|challenge| self.challenges[challenge.index()],
            &|value| -value,
            &|left, right| left + right,
            &|left, right| left * right,
            &|value, by| value * by,
        )
    }

    /// Row by row, the cells that others need first.
    ///
    /// # Panics
    /// Where some cells need earlier and others later ones.
    fn solve(&mut self, relation: &Relation, n: usize) {
        let others = || relation.affine.factors.keys().map(|other| other - relation.rotation);
        assert!(others().all(|other| other >= 0) || others().all(|other| other <= 0), "cells in no order");
        let downwards = others().any(|other| other < 0);
        for row in 0..n {
            let row = if downwards { row } else { n - 1 - row };
            let cell = (row as i64 + i64::from(relation.rotation)).rem_euclid(n as i64) as usize;
            let mut with = |value: Fr| {
                let before =
                    self.advice[relation.column].as_mut().map(|x| std::mem::replace(&mut x[cell], value));
                (before, self.evaluate(&relation.polynomial, row))
            };
            let (before, zero) = with(Fr::ZERO);
            let (_, one) = with(Fr::ONE);
            let value = Option::<Fr>::from((one - zero).invert()).map(|inverse| -zero * inverse);
            with(value.or(before).unwrap_or(Fr::ZERO));
        }
    }
}

impl Backend for Reference {
    type Key = ReferenceKey;
    type Column = HostColumn;
    type Poly = Vec<Fr>;
    type Derivation = Derivation;
    type Pending = Vec<G1>;
    type Ahead = ();

    fn name(&self) -> String {
        "reference".into()
    }

    fn load(&self, setup: &Setup<'_>) -> Result<ReferenceKey, BackendError> {
        let n = 1 << setup.bases.k;
        let field = |columns: &[Column]| {
            columns.iter().map(|column| HostColumn::new(n, column.clone(), Vec::new()).to_field()).collect()
        };
        Ok(ReferenceKey {
            bases: setup.bases.clone(),
            n,
            degree: setup.degree,
            usable: setup.usable,
            omega: omega(setup.bases.k),
            fixed: field(setup.fixed),
            sigma: field(setup.sigma),
            identity: setup.shape.identity.clone(),
        })
    }

    fn columns(&self, key: &ReferenceKey, list: Vec<Column>) -> Result<Vec<HostColumn>, BackendError> {
        Ok(list.into_iter().map(|values| HostColumn::new(key.n, values, Vec::new())).collect())
    }

    fn blind(
        &self,
        _key: &ReferenceKey,
        columns: Vec<HostColumn>,
        tails: Vec<Vec<Fr>>,
    ) -> Result<Vec<HostColumn>, BackendError> {
        Ok(columns.into_iter().zip(tails).map(|(column, tail)| column.with_tail(tail)).collect())
    }

    fn poly(&self, _key: &ReferenceKey, coefficients: Vec<Fr>) -> Result<Vec<Fr>, BackendError> {
        Ok(coefficients)
    }

    fn derives(&self) -> bool {
        true
    }

    fn compile(&self, _key: &ReferenceKey, derivation: Derivation) -> Result<Derivation, BackendError> {
        Ok(derivation)
    }

    fn derive(
        &self,
        key: &ReferenceKey,
        columns: &Columns<'_, HostColumn>,
        derivation: &Derivation,
        challenges: &[Fr],
        tails: Vec<Vec<Fr>>,
    ) -> Result<Vec<HostColumn>, BackendError> {
        let mut cells = Cells {
            fixed: &key.fixed,
            instance: columns.instance.iter().map(|column| column.to_field()).collect(),
            advice: columns.advice.iter().map(|column| column.map(HostColumn::to_field)).collect(),
            challenges,
        };
        for &column in &derivation.columns {
            cells.advice[column] = Some(vec![Fr::ZERO; key.n]);
        }
        for step in &derivation.steps {
            match step {
                Derived::Solve(relations) => {
                    relations.iter().for_each(|relation| cells.solve(relation, key.n))
                }
                Derived::Copy(copies) => {
                    for &(source, from, to) in &copies.cells {
                        let value = cells.advice[source].as_ref().map(|values| values[from as usize]);
                        if let (Some(values), Some(value)) = (&mut cells.advice[copies.column], value) {
                            values[to as usize] = value;
                        }
                    }
                }
            }
        }
        let derived = derivation.columns.iter().zip(tails).map(|(&column, tail)| {
            let mut values = cells.advice[column].take().unwrap_or_default();
            values.truncate(key.usable);
            HostColumn::new(key.n, Column::Field(values), tail)
        });
        Ok(derived.collect())
    }

    fn read_column(&self, _key: &ReferenceKey, column: &HostColumn) -> Result<Vec<Fr>, BackendError> {
        Ok(column.to_field())
    }

    fn read_poly(&self, _key: &ReferenceKey, poly: &Vec<Fr>) -> Result<Vec<Fr>, BackendError> {
        Ok(poly.clone())
    }

    fn points(&self, points: Vec<G1>) -> Result<Vec<G1>, BackendError> {
        Ok(points)
    }

    fn queue_commit(&self, key: &ReferenceKey, columns: &[&HostColumn]) -> Result<Vec<G1>, BackendError> {
        Ok(columns.iter().map(|column| sum_of(&key.bases.lagrange, &column.to_field())).collect())
    }

    fn queue_commit_polys(&self, key: &ReferenceKey, polys: &[&Vec<Fr>]) -> Result<Vec<G1>, BackendError> {
        Ok(polys.iter().map(|poly| sum_of(&key.bases.monomial, poly)).collect())
    }

    fn coefficients(&self, key: &ReferenceKey, column: &HostColumn) -> Result<Vec<Fr>, BackendError> {
        Ok(key.interpolate(&column.to_field()))
    }

    fn coset(&self, key: &ReferenceKey, poly: &Vec<Fr>, coset: usize) -> Result<Vec<Fr>, BackendError> {
        let shift = coset_generator(coset);
        Ok((0..key.n).map(|i| horner(poly, shift * key.omega.pow_vartime([i as u64]))).collect())
    }

    fn products(
        &self,
        key: &ReferenceKey,
        columns: &Columns<'_, HostColumn>,
        sets: &[&[Source]],
        beta: Fr,
        gamma: Fr,
        tails: Vec<Vec<Fr>>,
    ) -> Result<Vec<HostColumn>, BackendError> {
        let (mut start, mut delta, mut at) = (Fr::ONE, Fr::ONE, 0);
        let mut products = Vec::new();
        for (set, tail) in sets.iter().zip(tails) {
            let mut ratios = vec![Fr::ONE; key.usable];
            for source in set.iter() {
                let values = key.values(columns, *source);
                for (i, ratio) in ratios.iter_mut().enumerate() {
                    let own = delta * key.omega.pow_vartime([i as u64]);
                    let below = values[i] + beta * key.sigma[at][i] + gamma;
                    *ratio *= (values[i] + beta * own + gamma) * below.invert().unwrap_or(Fr::ZERO);
                }
                delta *= Fr::DELTA;
                at += 1;
            }
            let mut z = vec![start];
            for ratio in ratios {
                z.push(z[z.len() - 1] * ratio);
            }
            start = z[key.usable];
            products.push(HostColumn::new(key.n, Column::Field(z), tail));
        }
        Ok(products)
    }

    fn quotient(
        &self,
        key: &ReferenceKey,
        columns: &Columns<'_, HostColumn>,
        _ahead: (),
        scalars: &Values,
    ) -> Result<Vec<Vec<Fr>>, BackendError> {
        // Polynomials are multiplied out, then divided by X^n - 1.
        let mut coefficients: HashMap<Source, Vec<Fr>> = HashMap::new();
        let mut atom = |atom: Atom| -> Vec<Fr> {
            let shift = if atom.rotation < 0 { key.omega.invert().unwrap_or(Fr::ZERO) } else { key.omega }
                .pow_vartime([u64::from(atom.rotation.unsigned_abs())]);
            let mut power = Fr::ONE;
            coefficients
                .entry(atom.source)
                .or_insert_with(|| key.interpolate(&key.values(columns, atom.source)))
                .iter()
                .map(|c| {
                    let scaled = *c * power;
                    power *= shift;
                    scaled
                })
                .collect()
        };
        let mut nodes: Vec<Vec<Fr>> = Vec::new();
        for node in &key.identity.nodes {
            let value = match node {
                Node::Product(a, b) => multiply(&nodes[*a], &nodes[*b]),
                Node::Sum { linear, terms } => {
                    let mut sum = vec![scalars[linear.constant]];
                    for (a, c) in &linear.terms {
                        add(&mut sum, &atom(*a), scalars[*c]);
                    }
                    for (c, node) in terms {
                        add(&mut sum, &nodes[*node], scalars[*c]);
                    }
                    sum
                }
            };
            nodes.push(value);
        }
        let mut rest = nodes.swap_remove(key.identity.root);
        let limbs = key.degree - 1;
        rest.resize(rest.len().max((limbs + 1) * key.n), Fr::ZERO);
        let mut quotient = vec![Fr::ZERO; rest.len() - key.n];
        for i in (key.n..rest.len()).rev() {
            let lead = rest[i];
            quotient[i - key.n] = lead;
            rest[i - key.n] += lead;
        }
        Ok(quotient.chunks(key.n).take(limbs).map(<[Fr]>::to_vec).collect())
    }

    fn evaluate(
        &self,
        key: &ReferenceKey,
        columns: &Columns<'_, HostColumn>,
        queries: &[(Source, i32)],
        x: Fr,
    ) -> Result<Vec<Fr>, BackendError> {
        Ok(queries
            .iter()
            .map(|&(source, rotation)| {
                let rotation = i64::from(rotation).rem_euclid(key.n as i64) as u64;
                let point = x * key.omega.pow_vartime([rotation]);
                horner(&key.interpolate(&key.values(columns, source)), point)
            })
            .collect())
    }

    fn evaluate_polys(
        &self,
        _key: &ReferenceKey,
        polys: &[&Vec<Fr>],
        x: Fr,
    ) -> Result<Vec<Fr>, BackendError> {
        Ok(polys.iter().map(|poly| horner(poly, x)).collect())
    }

    fn combine(
        &self,
        key: &ReferenceKey,
        columns: &Columns<'_, HostColumn>,
        combinations: &[Combination<'_, Vec<Fr>>],
    ) -> Result<Vec<Vec<Fr>>, BackendError> {
        Ok(combinations
            .iter()
            .map(|combination| {
                let mut sum = vec![Fr::ZERO; key.n];
                for (source, c) in &combination.columns {
                    add(&mut sum, &key.interpolate(&key.values(columns, *source)), *c);
                }
                for (poly, c) in &combination.polys {
                    add(&mut sum, poly, *c);
                }
                for (power, value) in &combination.sparse {
                    if sum.len() <= *power {
                        sum.resize(power + 1, Fr::ZERO);
                    }
                    sum[*power] += value;
                }
                sum
            })
            .collect())
    }

    fn divide(&self, _key: &ReferenceKey, terms: &[(&Vec<Fr>, Fr)]) -> Result<Vec<Fr>, BackendError> {
        let mut sum = Vec::new();
        for (poly, root) in terms {
            let mut rest = (*poly).clone();
            let mut quotient = vec![Fr::ZERO; rest.len().saturating_sub(1)];
            for i in (0..quotient.len()).rev() {
                let lead = rest[i + 1];
                quotient[i] = lead;
                rest[i] += lead * root;
            }
            add(&mut sum, &quotient, Fr::ONE);
        }
        Ok(sum)
    }
}
