//! Transforms between values on a domain and coefficients.

use std::ops::Range;

use ff::{Field, PrimeField};
use lamina_circuits::Fr;

use crate::{
    device::{Argument, Device, Grid},
    error::{Error, at_most, same},
    memory::{Buffer, Cell, Matrix},
    work::PRODUCT,
};

/// The largest transform: `2^24`.
const MAX_LOG_N: u32 = 24;

/// A pass transforms `2^8` values at most.
const MAX_LOG_R: u32 = 8;

/// Values in the shared memory of a block, where a column has as many.
const LOG_TILE: u32 = 10;

/// Bytes that the second buffer of a transform may take; more columns go in several rounds.
const SCRATCH_BYTES: usize = 1 << 30;

/// Transforms of one size.
///
/// ```text
/// values[i] = sum_j coefficients[j] w^(i j),   w = ROOT_OF_UNITY^(2^(S - log_n)): the root that halo2 uses
/// ```
pub struct Ntt {
    device: Device,
    log_n: u32,
    omega: Fr,
    pub(crate) roots: Buffer<Fr>,
    n_inverse: Buffer<Fr>,
}

impl std::fmt::Debug for Ntt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ntt").field("log_n", &self.log_n).finish_non_exhaustive()
    }
}

/// Powers of a coset's generator: `64 n` bytes.
pub struct Coset {
    powers: Buffer<Fr>,
    inverses: Buffer<Fr>,
    log_n: u32,
}

impl std::fmt::Debug for Coset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Coset").field("log_n", &self.log_n).finish_non_exhaustive()
    }
}

/// Factors of the inputs or outputs: a buffer, and whether there is one for each row or one for all.
type Factors<'a> = Option<(&'a Buffer<Fr>, bool)>;

impl Ntt {
    /// Prepares transforms of `2^log_n` values: `32 n` bytes of roots.
    ///
    /// # Errors
    /// [`Error::Shape`] unless `2 <= log_n <= 24`, [`Error::Memory`], [`Error::Driver`].
    pub fn new(device: &Device, log_n: u32) -> Result<Self, Error> {
        at_most("log_n, at most", MAX_LOG_N as usize, log_n as usize)?;
        if log_n < 2 {
            return Err(Error::Shape { what: "log_n, at least", expected: 2, actual: log_n as usize });
        }
        let omega = (log_n..Fr::S).fold(Fr::ROOT_OF_UNITY, |omega, _| omega.square());
        let roots = device.powers(Fr::ONE, omega, 1 << log_n)?;
        let n_inverse = Fr::TWO_INV.pow_vartime([u64::from(log_n)]);
        let n_inverse = Buffer::from_host(device, &[n_inverse])?;
        Ok(Ntt { device: device.clone(), log_n, omega, roots, n_inverse })
    }

    /// The root `w`.
    pub fn omega(&self) -> Fr {
        self.omega
    }

    /// Logarithm of the number of values.
    pub fn log_n(&self) -> u32 {
        self.log_n
    }

    /// Powers of `generator` for transforms on the coset `generator H`.
    ///
    /// # Errors
    /// [`Error::Shape`] for zero, [`Error::Memory`], [`Error::Driver`].
    pub fn coset(&self, generator: Fr) -> Result<Coset, Error> {
        let inverse: Option<Fr> = generator.invert().into();
        let inverse = inverse.ok_or(Error::Shape { what: "generator", expected: 1, actual: 0 })?;
        let n_inverse = Fr::TWO_INV.pow_vartime([u64::from(self.log_n)]);
        Ok(Coset {
            powers: self.device.powers(Fr::ONE, generator, 1 << self.log_n)?,
            inverses: self.device.powers(n_inverse, inverse, 1 << self.log_n)?,
            log_n: self.log_n,
        })
    }

    /// Values on `H` of polynomials of at most `n` coefficients.
    ///
    /// # Errors
    /// [`Error::Shape`] for more than `n` rows, [`Error::Memory`], [`Error::Driver`].
    pub fn values<T: Cell>(&self, coefficients: &Matrix<T>) -> Result<Matrix<Fr>, Error> {
        self.transformed(coefficients, false, None, None)
    }

    /// Coefficients of columns of values on `H`; rows that are not given are zero.
    ///
    /// # Errors
    /// As [`Ntt::values`].
    pub fn coefficients<T: Cell>(&self, values: &Matrix<T>) -> Result<Matrix<Fr>, Error> {
        self.transformed(values, true, None, Some((&self.n_inverse, false)))
    }

    /// [`Ntt::coefficients`], as columns `at..` of a matrix.
    ///
    /// # Errors
    /// As there; [`Error::Shape`] where the matrix has not as many columns, or other than `n` rows.
    pub fn coefficients_to<T: Cell>(
        &self,
        out: &mut Matrix<Fr>,
        at: usize,
        values: &Matrix<T>,
    ) -> Result<(), Error> {
        self.transform((out, at), (values, 0..values.columns()), true, [None, Some((&self.n_inverse, false))])
    }

    /// Values on a coset of polynomials of at most `n` coefficients.
    ///
    /// # Errors
    /// As [`Ntt::values`], and [`Error::Shape`] for a coset of another size.
    pub fn values_on<T: Cell>(&self, coset: &Coset, coefficients: &Matrix<T>) -> Result<Matrix<Fr>, Error> {
        same("log_n of the coset", self.log_n as usize, coset.log_n as usize)?;
        self.transformed(coefficients, false, Some((&coset.powers, true)), None)
    }

    /// [`Ntt::values_on`] of some columns, as columns `at..` of a matrix.
    ///
    /// # Errors
    /// As there; [`Error::Shape`] where either matrix has not as many columns, or `out` other than `n` rows.
    pub fn values_on_to<T: Cell>(
        &self,
        coset: &Coset,
        out: &mut Matrix<Fr>,
        at: usize,
        coefficients: &Matrix<T>,
        columns: Range<usize>,
    ) -> Result<(), Error> {
        same("log_n of the coset", self.log_n as usize, coset.log_n as usize)?;
        self.transform((out, at), (coefficients, columns), false, [Some((&coset.powers, true)), None])
    }

    /// Coefficients of columns of values on a coset.
    ///
    /// # Errors
    /// As [`Ntt::values_on`].
    pub fn coefficients_from<T: Cell>(&self, coset: &Coset, values: &Matrix<T>) -> Result<Matrix<Fr>, Error> {
        same("log_n of the coset", self.log_n as usize, coset.log_n as usize)?;
        self.transformed(values, true, None, Some((&coset.inverses, true)))
    }

    /// The sizes of the passes: as few as possible, as equal as possible.
    fn passes(&self) -> Vec<u32> {
        let count = self.log_n.div_ceil(MAX_LOG_R);
        (0..count).map(|pass| (self.log_n + count - 1 - pass) / count).collect()
    }

    fn transformed<T: Cell>(
        &self,
        input: &Matrix<T>,
        inverse: bool,
        scale_in: Factors<'_>,
        scale_out: Factors<'_>,
    ) -> Result<Matrix<Fr>, Error> {
        let mut out = Matrix::uninitialised(&self.device, input.columns(), 1 << self.log_n)?;
        self.transform((&mut out, 0), (input, 0..input.columns()), inverse, [scale_in, scale_out])?;
        Ok(out)
    }

    /// Some columns of a matrix, to those of another from `at` on; what is multiplied before and after.
    fn transform<T: Cell>(
        &self,
        (out, at): (&mut Matrix<Fr>, usize),
        (input, columns): (&Matrix<T>, Range<usize>),
        inverse: bool,
        [scale_in, scale_out]: [Factors<'_>; 2],
    ) -> Result<(), Error> {
        let n = 1usize << self.log_n;
        at_most("rows, at most", n, input.rows())?;
        same("rows of the result", n, out.rows())?;
        at_most("columns of a matrix, at most", input.columns(), columns.end)?;
        at_most("columns of a matrix, at most", out.columns().saturating_sub(at), columns.len())?;
        let passes = self.passes();
        let round = (SCRATCH_BYTES / (32 * n)).clamp(1, columns.len().max(1));
        let scratch = if passes.len() > 1 { round } else { 0 };
        let scratch: Buffer<Fr> = Buffer::new(&self.device, scratch * n)?;
        let offset = columns.start;
        for first in columns.clone().step_by(round) {
            let columns = round.min(columns.end - first);
            let final_target = out.buffer.address_of((at + first - offset) * n);
            let mut source = input.buffer.address_of(first * input.rows());
            let (mut kind, mut stride) = (T::KIND, input.rows());
            let mut log_s = 0;
            for (pass, &log_r) in passes.iter().enumerate() {
                let last = pass + 1 == passes.len();
                // The passes alternate between the buffers so that the last one ends in `out`.
                let target = if (passes.len() - pass) % 2 == 1 { final_target } else { scratch.address() };
                let log_c = LOG_TILE.min(self.log_n).saturating_sub(log_r);
                let tile = 1usize << (log_r + log_c);
                let grid = Grid {
                    blocks: columns * (n / tile),
                    threads: (tile / 4) as u32,
                    shared_bytes: 32 * (tile + (1 << log_r) / 2),
                };
                let none = Argument::Address(0);
                // Four products for four values and two levels, three of which the last two levels do without.
                let products = 4 * (log_r as usize / 2) - if log_r % 2 == 0 { 3 } else { 0 };
                let scalings =
                    usize::from(!last || scale_out.is_some()) + usize::from(pass == 0 && scale_in.is_some());
                let cell = if pass == 0 { size_of::<T>() } else { 32 };
                self.device
                    .counters
                    .kernel(columns * n * (cell + 32), columns * n / 4 * (products + 4 * scalings) * PRODUCT);
                let before = scale_in.filter(|_| pass == 0).map_or(none, |(factors, _)| factors.address());
                let after = scale_out.filter(|_| last).map_or(none, |(factors, _)| factors.address());
                let arguments = [
                    target,
                    source,
                    kind.into(),
                    (stride as u64).into(),
                    Argument::U32(stride as u32),
                    self.roots.address(),
                    before,
                    after,
                    u32::from(scale_out.is_some_and(|(_, each)| each)).into(),
                    u32::from(inverse).into(),
                    self.log_n.into(),
                    log_r.into(),
                    log_s.into(),
                    log_c.into(),
                    Argument::U32(columns as u32),
                ];
                // SAFETY: `ntt_pass`. out: [columns, n], another buffer than in: [columns, stride]; roots, scale_in
                // and, where there is one for each row, scale_out: [n]. The tile divides n.
                unsafe { self.device.launch("ntt_pass", grid, &arguments) }?;
                source = target;
                kind = Fr::KIND;
                stride = n;
                log_s += log_r;
            }
        }
        Ok(())
    }
}
