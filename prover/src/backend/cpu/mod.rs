//! The fast backend: all cores, integers kept as integers, linear combinations before transforms.

mod msm;
mod ntt;
#[cfg(target_arch = "x86_64")]
mod vector;

use std::collections::HashMap;

use ff::{BatchInvert, Field, PrimeField};
use halo2_proofs::halo2curves::bn256::G1;
use lamina_circuits::{
    Fr,
    integers::{Integer, Limbs, Wide, dot, limbs},
    witness::Column,
};
use rayon::prelude::*;

pub(crate) use self::msm::{Scalars, Table, multiply, normalise};
use self::ntt::Ntt;
use super::{
    Backend, Columns, Combination, HostColumn, Setup,
    program::{CHUNK, Code, Machine, Quotient, Slot},
    reference::{coset_generator, omega},
};
use crate::{blinding::wipe, error::BackendError, expression::Source, setup::Bases, tape::Values};

/// Which arithmetic is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kernels {
    /// The widest vectors that this machine has: AVX-512 IFMA, or none.
    #[default]
    Detected,
    /// The library's field arithmetic, which runs everywhere.
    Portable,
}

impl Kernels {
    /// Whether vector kernels run here.
    fn vector(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self == Kernels::Detected && vector::available();
        #[cfg(not(target_arch = "x86_64"))]
        false
    }
}

impl Kernels {
    /// Whether vector kernels transform and evaluate columns of `n` rows.
    fn for_rows(self, n: usize) -> bool {
        #[cfg(target_arch = "x86_64")]
        return self.vector() && n >= 1 << vector::ntt::MIN_LOG_N;
        #[cfg(not(target_arch = "x86_64"))]
        return n == 0;
    }

    /// What coset values are multiplied by: the vector kernels' Montgomery factor over the library's.
    fn slot_factor(self, n: usize) -> Fr {
        #[cfg(target_arch = "x86_64")]
        if self.for_rows(n) {
            return Fr::from(vector::program::SLOT_FACTOR);
        }
        let _ = n;
        Fr::ONE
    }
}

/// The backend for CPUs; uses rayon's current thread pool.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    /// Which arithmetic is used; both give the same proofs.
    pub kernels: Kernels,
    /// How many bytes of coset values of the key's columns may be kept between proofs.
    ///
    /// A column takes `32 n (degree - 1)` bytes: 8 MiB at k = 16 and degree 5. Columns beyond the limit are
    /// transformed again in every proof.
    pub cache_bytes: usize,
}

impl Default for Cpu {
    fn default() -> Self {
        Cpu { kernels: Kernels::Detected, cache_bytes: 2 << 30 }
    }
}

/// What [`Cpu`] keeps of a proving key.
#[derive(Debug)]
pub struct CpuKey {
    bases: Bases,
    kernels: Kernels,
    n: usize,
    cosets: usize,
    usable: usize,
    omega: Fr,
    ntt: Ntt,
    /// For each coset: `g^i / n`, and `g^(-i) / n`, in bit-reversed order.
    shifts: Vec<(Factors, Factors)>,
    /// For each coset: `g^n - 1`, inverted.
    vanishing: Vec<Fr>,
    /// Row `i`: the weights of the cosets in limb `i`.
    limb_weights: Vec<Vec<Fr>>,
    columns: HashMap<Source, HostColumn>,
    quotient: Quotient,
    /// Coset values of the key's columns, as many as [`Cpu::cache_bytes`] allows.
    cached: HashMap<Source, Vec<Vec<Fr>>>,
}

impl CpuKey {
    fn column<'a>(&'a self, columns: &Columns<'a, HostColumn>, source: Source) -> &'a HostColumn {
        match columns.get(source).or_else(|| self.columns.get(&source)) {
            Some(column) => column,
            None => unreachable!("the identity reads only columns of the key and the proof"),
        }
    }

    /// Scaled coefficients in bit-reversed order.
    fn transformed(&self, mut values: Vec<Fr>) -> Vec<Fr> {
        self.ntt.inverse_scaled(&mut values);
        values
    }

    /// Values on a coset, times the slot factor of the kernels.
    fn on_coset(&self, coefficients: &[Fr], coset: usize, out: &mut Vec<Fr>) {
        out.resize(self.n, Fr::ZERO);
        self.shifts[coset].0.apply(coefficients, out);
        self.ntt.forward(out);
    }

    /// `sum_j c_j f_j(w^(r_j) X)` in the Lagrange basis.
    fn linear_combination(&self, terms: &[(&HostColumn, i32, Fr)]) -> Vec<Fr> {
        let n = self.n;
        let prepared: Vec<Term<'_>> = terms
            .iter()
            .filter(|(_, _, c)| *c != Fr::ZERO)
            .map(|(column, rotation, c)| Term {
                column,
                rotation: i64::from(*rotation).rem_euclid(n as i64) as usize,
                coefficient: *c,
                limbs: limbs(c),
            })
            .collect();
        let excess: Fr = prepared
            .iter()
            .map(|term| match &term.column.values {
                Column::I16(_) => term.coefficient * Fr::from(i16::OFFSET),
                Column::I32(_) => term.coefficient * Fr::from(i32::OFFSET),
                Column::Field(_) => Fr::ZERO,
            })
            .sum();
        let integers = prepared.iter().any(|term| !matches!(term.column.values, Column::Field(_)));
        let mut out = vec![Fr::ZERO; n];
        const BLOCK: usize = 256;
        out.par_chunks_mut(BLOCK).enumerate().for_each(|(at, out)| {
            let mut wide = [Wide::default(); BLOCK];
            for term in &prepared {
                // The block's rows of the rotated column, in at most two runs.
                let from = (at * BLOCK + term.rotation) % n;
                let first = out.len().min(n - from);
                let (head, tail) = out.split_at_mut(first);
                term.add(from, head, &mut wide[..first]);
                term.add(0, tail, &mut wide[first..]);
            }
            if integers {
                for (o, w) in out.iter_mut().zip(&wide) {
                    *o += w.reduce() - excess;
                }
            }
        });
        out
    }

    /// Coset values of a column of the key.
    fn key_cosets(&self, source: Source) -> Vec<Vec<Fr>> {
        let coefficients = self.transformed(self.columns[&source].to_field());
        (0..self.cosets)
            .map(|coset| {
                let mut values = Vec::with_capacity(self.n);
                self.on_coset(&coefficients, coset, &mut values);
                values
            })
            .collect()
    }

    /// `scale * N` on a coset, from the values of its slots there.
    fn numerator(&self, code: &Code<'_>, slots: &[&[Fr]], scale: Fr) -> Vec<Fr> {
        let mut values = vec![Fr::ZERO; self.n];
        #[cfg(target_arch = "x86_64")]
        if self.kernels.for_rows(self.n) {
            const CHUNK: usize = vector::program::CHUNK;
            values.par_chunks_mut(CHUNK).enumerate().for_each_init(
                || vector::program::Machine::new(code.program),
                |machine, (at, out)| machine.run(code, slots, at * CHUNK, scale, out),
            );
            return values;
        }
        values.par_chunks_mut(CHUNK).enumerate().for_each_init(
            || Machine::new(code.program),
            |machine, (at, out)| machine.run(code, slots, at * CHUNK, scale, out),
        );
        values
    }

    /// Commits columns by their integers or field elements.
    fn commit(&self, columns: &[&HostColumn]) -> Vec<G1> {
        let lists: Vec<Scalars<'_>> = columns
            .iter()
            .map(|column| {
                let scalars = match &column.values {
                    Column::I16(v) => Scalars::I16(v),
                    Column::I32(v) => Scalars::I32(v),
                    Column::Field(v) => return Scalars::Field(v, &column.tail),
                };
                assert!(column.tail.is_empty(), "integers are committed to before they are blinded");
                scalars
            })
            .collect();
        msm::multiply(&self.bases.lagrange, &lists, self.kernels)
    }
}

/// Factors of the coefficients of a polynomial, prepared for the kernels.
#[derive(Debug)]
enum Factors {
    Portable(Vec<Fr>),
    #[cfg(target_arch = "x86_64")]
    Vector(Vec<vector::Packed>),
}

impl Factors {
    fn new(list: Vec<Fr>, kernels: Kernels) -> Self {
        #[cfg(target_arch = "x86_64")]
        if kernels.for_rows(list.len()) {
            return Factors::Vector(vector::ntt::factors(&list));
        }
        Factors::Portable(list)
    }

    /// `out[i] = values[i] * factors[i]`.
    fn apply(&self, values: &[Fr], out: &mut [Fr]) {
        match self {
            Factors::Portable(list) => {
                let pairs = values.par_iter().zip(list);
                out.par_iter_mut().zip(pairs).for_each(|(out, (value, factor))| *out = *value * factor);
            }
            #[cfg(target_arch = "x86_64")]
            Factors::Vector(list) => vector::ntt::scale(out, values, list),
        }
    }
}

/// One term of a linear combination.
struct Term<'a> {
    column: &'a HostColumn,
    rotation: usize,
    coefficient: Fr,
    limbs: Limbs,
}

impl Term<'_> {
    /// Adds rows `from..` to a block that does not wrap around.
    fn add(&self, from: usize, out: &mut [Fr], wide: &mut [Wide]) {
        if out.is_empty() {
            return;
        }
        match &self.column.values {
            Column::I16(v) => self.add_integers(v, from, out, wide),
            Column::I32(v) => self.add_integers(v, from, out, wide),
            Column::Field(v) => {
                let given = v.get(from..).unwrap_or(&[]);
                for (o, v) in out.iter_mut().zip(given) {
                    *o += self.coefficient * v;
                }
                self.add_tail(from, out);
            }
        }
    }

    fn add_integers<I: Integer>(&self, v: &[I], from: usize, out: &mut [Fr], wide: &mut [Wide]) {
        let given = v.get(from..).unwrap_or(&[]);
        let given = &given[..given.len().min(wide.len())];
        let (head, rest) = wide.split_at_mut(given.len());
        for (w, v) in head.iter_mut().zip(given) {
            w.add(&self.limbs, v.shifted());
        }
        for w in rest {
            w.add(&self.limbs, I::OFFSET);
        }
        self.add_tail(from, out);
    }

    fn add_tail(&self, from: usize, out: &mut [Fr]) {
        let start = self.column.rows() - self.column.tail.len();
        for (row, o) in (from..).zip(out) {
            if row >= start {
                *o += self.coefficient * self.column.tail[row - start];
            }
        }
    }
}

/// `L_i(x)` in the forms that evaluation needs.
struct Weights {
    field: Vec<Fr>,
    limbs: Vec<Limbs>,
    /// Sums of the first `i` weights.
    prefix: Vec<Fr>,
}

impl Weights {
    /// `L_i(x) = (x^n - 1) / n * w^i / (x - w^i)`.
    fn new(key: &CpuKey, x: Fr) -> Self {
        let n = key.n;
        let scale = (x.pow_vartime([n as u64]) - Fr::ONE) * key.ntt.n_inverse();
        let mut field = vec![Fr::ZERO; n];
        const BLOCK: usize = 1024;
        field.par_chunks_mut(BLOCK).enumerate().for_each(|(at, out)| {
            let first = key.omega.pow_vartime([(at * BLOCK) as u64]);
            let mut power = first;
            for o in out.iter_mut() {
                *o = x - power;
                power *= key.omega;
            }
            out.iter_mut().batch_invert();
            let mut power = first * scale;
            for o in out.iter_mut() {
                *o *= power;
                power *= key.omega;
            }
        });
        let limbs = field.par_iter().map(limbs).collect();
        let mut sum = Fr::ZERO;
        let mut prefix = Vec::with_capacity(n + 1);
        prefix.push(sum);
        for weight in &field {
            sum += weight;
            prefix.push(sum);
        }
        Weights { field, limbs, prefix }
    }

    /// `f(w^rotation x) = sum_i f_i L_(i - rotation)(x)`.
    fn evaluate(&self, column: &HostColumn, rotation: i32) -> Fr {
        let n = self.field.len();
        let shift = (-i64::from(rotation)).rem_euclid(n as i64) as usize;
        let body = match &column.values {
            Column::I16(v) => self.integers(v, shift),
            Column::I32(v) => self.integers(v, shift),
            Column::Field(v) => self.elements(v, shift),
        };
        let start = n - column.tail.len();
        body + self.elements(&column.tail, (start + shift) % n)
    }

    fn elements(&self, values: &[Fr], shift: usize) -> Fr {
        let (head, rest) = values.split_at(values.len().min(self.field.len() - shift));
        let product =
            |values: &[Fr], weights: &[Fr]| -> Fr { values.iter().zip(weights).map(|(v, w)| *v * w).sum() };
        product(head, &self.field[shift..]) + product(rest, &self.field)
    }

    fn integers<I: Integer>(&self, values: &[I], shift: usize) -> Fr {
        let (head, rest) = values.split_at(values.len().min(self.field.len() - shift));
        let excess = self.prefix[shift + head.len()] - self.prefix[shift] + self.prefix[rest.len()];
        dot(&self.limbs[shift..], head) + dot(&self.limbs, rest) - excess * Fr::from(I::OFFSET)
    }
}

/// The inverse of the matrix `points[j]^i`.
pub(crate) fn vandermonde_inverse(points: &[Fr]) -> Vec<Vec<Fr>> {
    let count = points.len();
    // Column j holds the coefficients of the j-th Lagrange polynomial over the points.
    let mut inverse = vec![vec![Fr::ZERO; count]; count];
    for (j, own) in points.iter().enumerate() {
        let mut polynomial = vec![Fr::ONE];
        let mut scale = Fr::ONE;
        for (_, other) in points.iter().enumerate().filter(|(other, _)| *other != j) {
            scale *= *own - other;
            polynomial.push(Fr::ZERO);
            for i in (0..polynomial.len()).rev() {
                let lower = if i > 0 { polynomial[i - 1] } else { Fr::ZERO };
                polynomial[i] = lower - polynomial[i] * other;
            }
        }
        let scale = scale.invert().unwrap_or(Fr::ZERO);
        for (row, coefficient) in inverse.iter_mut().zip(polynomial) {
            row[j] = coefficient * scale;
        }
    }
    inverse
}

fn horner(coefficients: &[Fr], x: Fr) -> Fr {
    const BLOCK: usize = 1 << 12;
    let step = x.pow_vartime([BLOCK as u64]);
    let blocks: Vec<Fr> = coefficients
        .par_chunks(BLOCK)
        .map(|block| block.iter().rev().fold(Fr::ZERO, |acc, c| acc * x + c))
        .collect();
    blocks.iter().rev().fold(Fr::ZERO, |acc, b| acc * step + b)
}

impl Backend for Cpu {
    type Key = CpuKey;
    type Column = HostColumn;
    type Poly = Vec<Fr>;
    type Derivation = ();
    type Pending = Vec<G1>;
    type Ahead = ();

    fn name(&self) -> String {
        if self.kernels.vector() { "cpu-ifma".into() } else { "cpu".into() }
    }

    fn load(&self, setup: &Setup<'_>) -> Result<CpuKey, BackendError> {
        let (k, usable) = (setup.bases.k, setup.usable);
        let n = 1usize << k;
        let cosets = setup.degree - 1;
        let ntt = Ntt::new(k, self.kernels);
        let slot_factor = self.kernels.slot_factor(n);
        let generators: Vec<Fr> = (0..cosets).map(coset_generator).collect();
        let n_th: Vec<Fr> = generators.iter().map(|g| g.pow_vartime([n as u64])).collect();
        let shifts = generators
            .iter()
            .map(|g| {
                let inverse = g.invert().unwrap_or(Fr::ONE);
                let scale = ntt.n_inverse();
                let factors = |list: Vec<Fr>| Factors::new(list, self.kernels);
                (factors(ntt.shifts(*g, scale * slot_factor)), factors(ntt.shifts(inverse, scale)))
            })
            .collect();
        let vanishing = n_th.iter().map(|g| (*g - Fr::ONE).invert().unwrap_or(Fr::ZERO)).collect();
        let indicator = |on: &dyn Fn(usize) -> bool| {
            Column::I16(std::sync::Arc::new((0..n).map(|row| i16::from(on(row))).collect()))
        };
        let omega = omega(k);
        let identity = std::iter::successors(Some(Fr::ONE), |power| Some(*power * omega));
        let mut columns: Vec<(Source, Column)> = vec![
            (Source::First, indicator(&|row| row == 0)),
            (Source::Last, indicator(&|row| row == usable)),
            (Source::Active, indicator(&|row| row < usable)),
            (Source::Identity, Column::Field(identity.take(n).collect())),
        ];
        let fixed = setup.fixed.iter().enumerate();
        columns.extend(fixed.map(|(at, c)| (Source::Fixed(at), c.clone())));
        let sigma = setup.sigma.iter().enumerate();
        columns.extend(sigma.map(|(at, c)| (Source::Sigma(at), c.clone())));
        let each = 32 * n * cosets;
        let cached: Vec<Source> =
            columns.iter().take(self.cache_bytes / each).map(|(source, _)| *source).collect();
        let mut key = CpuKey {
            bases: setup.bases.clone(),
            kernels: self.kernels,
            n,
            cosets,
            usable,
            omega,
            ntt,
            shifts,
            vanishing,
            limb_weights: vandermonde_inverse(&n_th),
            columns: columns
                .into_iter()
                .map(|(source, values)| (source, HostColumn::new(n, values, Vec::new())))
                .collect(),
            quotient: Quotient::new(setup.shape.identity, k, cosets),
            cached: HashMap::new(),
        };
        key.cached = cached.into_par_iter().map(|source| (source, key.key_cosets(source))).collect();
        Ok(key)
    }

    fn columns(&self, key: &CpuKey, list: Vec<Column>) -> Result<Vec<HostColumn>, BackendError> {
        Ok(list.into_iter().map(|values| HostColumn::new(key.n, values, Vec::new())).collect())
    }

    fn blind(
        &self,
        _key: &CpuKey,
        columns: Vec<HostColumn>,
        tails: Vec<Vec<Fr>>,
    ) -> Result<Vec<HostColumn>, BackendError> {
        Ok(columns.into_iter().zip(tails).map(|(column, tail)| column.with_tail(tail)).collect())
    }

    fn poly(&self, _key: &CpuKey, coefficients: Vec<Fr>) -> Result<Vec<Fr>, BackendError> {
        Ok(coefficients)
    }

    fn read_column(&self, _key: &CpuKey, column: &HostColumn) -> Result<Vec<Fr>, BackendError> {
        Ok(column.to_field())
    }

    fn read_poly(&self, _key: &CpuKey, poly: &Vec<Fr>) -> Result<Vec<Fr>, BackendError> {
        Ok(poly.clone())
    }

    fn points(&self, points: Vec<G1>) -> Result<Vec<G1>, BackendError> {
        Ok(points)
    }

    fn queue_commit(&self, key: &CpuKey, columns: &[&HostColumn]) -> Result<Vec<G1>, BackendError> {
        Ok(key.commit(columns))
    }

    fn queue_commit_polys(&self, key: &CpuKey, polys: &[&Vec<Fr>]) -> Result<Vec<G1>, BackendError> {
        let lists: Vec<Scalars<'_>> = polys.iter().map(|p| Scalars::Field(p, &[])).collect();
        Ok(msm::multiply(&key.bases.monomial, &lists, key.kernels))
    }

    fn coefficients(&self, key: &CpuKey, column: &HostColumn) -> Result<Vec<Fr>, BackendError> {
        let mut values = key.transformed(column.to_field());
        key.ntt.permute(&mut values);
        let scale = key.ntt.n_inverse();
        values.par_iter_mut().for_each(|v| *v *= scale);
        Ok(values)
    }

    fn coset(&self, key: &CpuKey, poly: &Vec<Fr>, coset: usize) -> Result<Vec<Fr>, BackendError> {
        let factor = key.kernels.slot_factor(key.n);
        let scale = Fr::from(key.n as u64) * factor.invert().unwrap_or(Fr::ONE);
        let mut coefficients: Vec<Fr> = poly.iter().map(|c| *c * scale).collect();
        coefficients.resize(key.n, Fr::ZERO);
        key.ntt.permute(&mut coefficients);
        let mut values = Vec::new();
        key.on_coset(&coefficients, coset, &mut values);
        Ok(values)
    }

    fn products(
        &self,
        key: &CpuKey,
        columns: &Columns<'_, HostColumn>,
        sets: &[&[Source]],
        beta: Fr,
        gamma: Fr,
        tails: Vec<Vec<Fr>>,
    ) -> Result<Vec<HostColumn>, BackendError> {
        const BLOCK: usize = 1024;
        let firsts: Vec<usize> = sets
            .iter()
            .scan(0, |at, set| {
                let first = *at;
                *at += set.len();
                Some(first)
            })
            .collect();
        let ratios: Vec<Vec<Fr>> = sets
            .par_iter()
            .zip(&firsts)
            .map(|(set, first)| {
                let mut ratios = vec![Fr::ONE; key.usable];
                ratios.par_chunks_mut(BLOCK).enumerate().for_each(|(at, out)| {
                    let start = at * BLOCK;
                    let mut values = vec![Fr::ZERO; out.len()];
                    let mut permuted = values.clone();
                    let mut above = vec![Fr::ONE; out.len()];
                    let turn = key.omega.pow_vartime([start as u64]);
                    for (j, source) in set.iter().enumerate() {
                        let sigma = &key.columns[&Source::Sigma(first + j)];
                        key.column(columns, *source).read(start, &mut values);
                        sigma.read(start, &mut permuted);
                        let delta = Fr::DELTA.pow_vartime([(first + j) as u64]);
                        let mut own = beta * delta * turn;
                        for (((value, permuted), below), above) in
                            values.iter().zip(&permuted).zip(out.iter_mut()).zip(&mut above)
                        {
                            let value = *value + gamma;
                            *below *= value + beta * permuted;
                            *above *= value + own;
                            own *= key.omega;
                        }
                    }
                    out.iter_mut().batch_invert();
                    for (ratio, above) in out.iter_mut().zip(&above) {
                        *ratio *= above;
                    }
                });
                ratios
            })
            .collect();
        let mut start = Fr::ONE;
        Ok(ratios
            .into_iter()
            .zip(tails)
            .map(|(ratios, tail)| {
                let mut z = Vec::with_capacity(key.n);
                z.push(start);
                for ratio in ratios {
                    start *= ratio;
                    z.push(start);
                }
                HostColumn::new(key.n, Column::Field(z), tail)
            })
            .collect())
    }

    fn quotient(
        &self,
        key: &CpuKey,
        columns: &Columns<'_, HostColumn>,
        _ahead: (),
        values: &Values,
    ) -> Result<Vec<Vec<Fr>>, BackendError> {
        let n = key.n;
        let code = key.quotient.code(values);
        let (program, values) = (code.program, &code.values);
        // `None` for slots whose coset values are cached.
        let mut coefficients: Vec<Option<Vec<Fr>>> = program
            .slots
            .par_iter()
            .map(|slot| match slot {
                Slot::Column(source) if key.cached.contains_key(source) => None,
                Slot::Column(source) => Some(key.transformed(key.column(columns, *source).to_field())),
                Slot::Combination(terms) => {
                    let terms: Vec<_> = terms
                        .iter()
                        .map(|(a, c)| (key.column(columns, a.source), a.rotation, values[*c]))
                        .collect();
                    Some(key.transformed(key.linear_combination(&terms)))
                }
            })
            .collect();
        let mut buffers: Vec<Vec<Fr>> = program.slots.iter().map(|_| Vec::new()).collect();
        let parts: Vec<Vec<Fr>> = (0..key.cosets)
            .map(|coset| {
                buffers.par_iter_mut().zip(&coefficients).for_each(|(buffer, coefficients)| {
                    if let Some(coefficients) = coefficients {
                        key.on_coset(coefficients, coset, buffer);
                    }
                });
                let slots: Vec<&[Fr]> = program
                    .slots
                    .iter()
                    .zip(&buffers)
                    .zip(&coefficients)
                    .map(|((slot, buffer), coefficients)| match (slot, coefficients) {
                        (Slot::Column(source), None) => &key.cached[source][coset],
                        _ => &buffer[..],
                    })
                    .collect();
                let mut part = key.numerator(&code, &slots, key.vanishing[coset]);
                key.ntt.inverse_scaled(&mut part);
                let mut shifted = vec![Fr::ZERO; n];
                key.shifts[coset].1.apply(&part, &mut shifted);
                shifted
            })
            .collect();
        // Both hold the witness in another basis.
        coefficients.par_iter_mut().flatten().chain(&mut buffers).for_each(|values| wipe(values));
        Ok(key
            .limb_weights
            .par_iter()
            .map(|weights| {
                let mut limb: Vec<Fr> = (0..n)
                    .into_par_iter()
                    .map(|i| weights.iter().zip(&parts).map(|(w, part)| *w * part[i]).sum())
                    .collect();
                key.ntt.permute(&mut limb);
                limb
            })
            .collect())
    }

    fn evaluate(
        &self,
        key: &CpuKey,
        columns: &Columns<'_, HostColumn>,
        queries: &[(Source, i32)],
        x: Fr,
    ) -> Result<Vec<Fr>, BackendError> {
        let weights = Weights::new(key, x);
        Ok(queries
            .par_iter()
            .map(|(source, rotation)| weights.evaluate(key.column(columns, *source), *rotation))
            .collect())
    }

    fn evaluate_polys(&self, _key: &CpuKey, polys: &[&Vec<Fr>], x: Fr) -> Result<Vec<Fr>, BackendError> {
        Ok(polys.iter().map(|poly| horner(poly, x)).collect())
    }

    fn combine(
        &self,
        key: &CpuKey,
        columns: &Columns<'_, HostColumn>,
        combinations: &[Combination<'_, Vec<Fr>>],
    ) -> Result<Vec<Vec<Fr>>, BackendError> {
        Ok(combinations
            .par_iter()
            .map(|combination| {
                let mut sum = if combination.columns.is_empty() {
                    vec![Fr::ZERO; key.n]
                } else {
                    // The factor n of the transform is taken off the coefficients beforehand.
                    let scale = key.ntt.n_inverse();
                    let terms: Vec<_> = combination
                        .columns
                        .iter()
                        .map(|(source, c)| (key.column(columns, *source), 0, *c * scale))
                        .collect();
                    let mut sum = key.transformed(key.linear_combination(&terms));
                    key.ntt.permute(&mut sum);
                    sum
                };
                let longest = combination.polys.iter().map(|(poly, _)| poly.len());
                let sparse = combination.sparse.iter().map(|(power, _)| power + 1);
                let len = longest.chain(sparse).fold(key.n, usize::max);
                sum.resize(len, Fr::ZERO);
                const BLOCK: usize = 1024;
                sum.par_chunks_mut(BLOCK).enumerate().for_each(|(at, out)| {
                    for (poly, c) in &combination.polys {
                        let own = poly.get(at * BLOCK..).unwrap_or(&[]);
                        for (o, v) in out.iter_mut().zip(own) {
                            *o += *c * v;
                        }
                    }
                });
                for (power, value) in &combination.sparse {
                    sum[*power] += value;
                }
                sum
            })
            .collect())
    }

    fn divide(&self, _key: &CpuKey, terms: &[(&Vec<Fr>, Fr)]) -> Result<Vec<Fr>, BackendError> {
        let quotient = |(poly, root): &(&Vec<Fr>, Fr)| {
            let mut quotient = (*poly).clone();
            let mut carry = Fr::ZERO;
            for value in quotient.iter_mut().rev() {
                let next = *value + carry * root;
                *value = carry;
                carry = next;
            }
            quotient.pop();
            quotient
        };
        let quotients: Vec<Vec<Fr>> = terms.par_iter().map(quotient).collect();
        let longest = quotients.iter().map(Vec::len).max().unwrap_or(0);
        let mut sum = vec![Fr::ZERO; longest];
        for quotient in &quotients {
            sum.iter_mut().zip(quotient).for_each(|(sum, value)| *sum += value);
        }
        Ok(sum)
    }
}
