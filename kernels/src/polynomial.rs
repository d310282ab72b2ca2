//! Polynomials on the device: columns of one, coefficients from the constant on.

use ff::{BatchInvert, Field};
use lamina_circuits::Fr;

use crate::{
    device::{Argument, Device, Grid},
    error::{Error, at_most, same},
    memory::{Buffer, Matrix, bytes_of, quads},
    scan::Join,
    work::PRODUCT,
};

impl Device {
    /// The values of polynomials at one place.
    ///
    /// # Errors
    /// [`Error::Shape`] for more than one column, [`Error::Memory`], [`Error::Driver`].
    pub fn evaluate_polys(&self, polys: &[&Matrix<Fr>], x: Fr) -> Result<Vec<Fr>, Error> {
        let longest = polys.iter().map(|poly| poly.rows()).max().unwrap_or(0);
        let powers = Matrix::from_buffer(self.powers(Fr::ONE, x, longest)?, longest);
        self.dot(&powers, polys)
    }

    /// `sum_t floor(poly_t / (X - root_t))`, without the remainders.
    ///
    /// # Shapes
    /// Polynomials of any lengths; the result: `[1, longest - 1]`.
    ///
    /// # Errors
    /// [`Error::Shape`] for more than one column, [`Error::Memory`], [`Error::Driver`].
    pub fn divide(&self, terms: &[(&Matrix<Fr>, Fr)]) -> Result<Matrix<Fr>, Error> {
        /// `DIVIDE_EACH` of polynomial.cu.
        const EACH: usize = 8;
        let longest = terms.iter().map(|(poly, _)| poly.rows()).max().unwrap_or(0);
        let (count, len) = (terms.len(), longest.saturating_sub(1));
        at_most("coefficients of all polynomials, at most", 1 << 31, longest.saturating_mul(count))?;
        if len == 0 {
            return Matrix::uninitialised(self, 1, 0);
        }
        // `struct Dividend`: an address, a length, two elements of four words.
        let mut inverses: Vec<Fr> = terms.iter().map(|(_, root)| *root).collect();
        // Zero stays zero.
        inverses.iter_mut().batch_invert();
        let mut dividends = Vec::with_capacity(10 * count);
        for ((poly, root), inverse) in terms.iter().zip(inverses) {
            same("columns of a polynomial", 1, poly.columns())?;
            dividends.extend([poly.buffer.base(), poly.rows() as u64]);
            dividends.extend([*root, inverse].into_iter().flat_map(quads));
        }
        let dividends = Buffer::from_host(self, &dividends)?;
        let [n, columns] = [longest, count].map(|v| Argument::U32(v as u32));
        let scaled = Matrix::uninitialised(self, count, longest)?;
        let total = count * longest;
        let powers = count * longest.div_ceil(EACH) * longest.ilog2() as usize;
        self.counters.kernel(64 * total, PRODUCT * (2 * total + powers));
        let arguments = [scaled.buffer.address(), dividends.address(), n, columns];
        // SAFETY: `divide_scale`. scaled: [columns, n], dividends: [columns], of polynomials of at most n coefficients.
        unsafe { self.launch("divide_scale", Grid::of(count * longest.div_ceil(EACH), 256), &arguments) }?;
        let before = self.scan(Join::Sum, &scaled)?;
        let quotients = Matrix::uninitialised(self, count, len)?;
        self.counters.kernel(64 * total, PRODUCT * (2 * total + powers));
        let arguments = [
            quotients.buffer.address(),
            before.buffer.address(),
            scaled.buffer.address(),
            dividends.address(),
            n,
            columns,
        ];
        // SAFETY: `divide_finish`. out: [columns, n - 1], before, scaled: [columns, n], dividends: [columns], n >= 2.
        unsafe { self.launch("divide_finish", Grid::of(count * len.div_ceil(EACH), 256), &arguments) }?;
        if count == 1 {
            return Ok(quotients);
        }
        self.sum_columns(&quotients)
    }

    /// Adds `value X^power` for each entry; powers may repeat.
    ///
    /// # Errors
    /// [`Error::Shape`] for more than one column or a power that it has not, [`Error::Memory`], [`Error::Driver`].
    pub fn add_sparse(&self, poly: &mut Matrix<Fr>, entries: &[(usize, Fr)]) -> Result<(), Error> {
        same("columns of a polynomial", 1, poly.columns())?;
        let mut merged: Vec<(usize, Fr)> = Vec::with_capacity(entries.len());
        for (power, value) in entries {
            at_most("power, at most", poly.rows().saturating_sub(1), *power)?;
            match merged.iter_mut().find(|(other, _)| other == power) {
                Some((_, sum)) => *sum += value,
                None => merged.push((*power, *value)),
            }
        }
        let values: Vec<Fr> = merged.iter().map(|(_, value)| *value).collect();
        let places: Vec<u32> = merged.iter().map(|(power, _)| *power as u32).collect();
        let (lists, at) = Buffer::packed(self, [bytes_of(&values), bytes_of(&places)])?;
        let count = merged.len();
        let [values, places] = at.map(|at| lists.address_of(at));
        let arguments = [poly.buffer.address(), values, places, Argument::U32(count as u32)];
        // SAFETY: `fr_add_at`. values, at: [count], places distinct and within out.
        unsafe { self.launch("fr_add_at", Grid::of(count, 256), &arguments) }
    }

    /// Polynomials as columns of one matrix, `rows` coefficients each, zero where there are fewer.
    ///
    /// # Errors
    /// [`Error::Shape`] for more than one column or `rows` rows, [`Error::Memory`], [`Error::Driver`].
    pub fn stack(&self, polys: &[&Matrix<Fr>], rows: usize) -> Result<Matrix<Fr>, Error> {
        let mut out = Matrix::zeros(self, polys.len(), rows)?;
        for (at, poly) in polys.iter().enumerate() {
            same("columns of a polynomial", 1, poly.columns())?;
            at_most("coefficients, at most", rows, poly.rows())?;
            let size = size_of::<Fr>();
            out.buffer.copy_in(self, at * rows * size, poly.buffer.base(), poly.rows() * size)?;
        }
        Ok(out)
    }
}
