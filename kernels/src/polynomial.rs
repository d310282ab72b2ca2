//! Polynomials on the device: columns of one, coefficients from the constant on.

use ff::Field;
use lamina_circuits::Fr;

use crate::{
    device::{Argument, Device, Grid},
    error::{Error, at_most, same},
    field::Operation,
    memory::{Buffer, Matrix},
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

    /// The quotient of a polynomial by `X - root`, without the remainder; one coefficient fewer.
    ///
    /// # Errors
    /// [`Error::Shape`] for more than one column, [`Error::Memory`], [`Error::Driver`].
    pub fn divide(&self, poly: &Matrix<Fr>, root: Fr) -> Result<Matrix<Fr>, Error> {
        same("columns of a polynomial", 1, poly.columns())?;
        let len = poly.rows();
        let mut out = Matrix::uninitialised(self, 1, len.saturating_sub(1))?;
        if len < 2 {
            return Ok(out);
        }
        let Some(inverse) = Option::<Fr>::from(root.invert()) else {
            out.buffer.copy_in(
                self,
                0,
                poly.buffer.base() + size_of::<Fr>() as u64,
                (len - 1) * size_of::<Fr>(),
            )?;
            return Ok(out);
        };
        let powers = Matrix::from_buffer(self.powers(Fr::ONE, root, len)?, len);
        let scaled = self.elementwise(Operation::Multiply, poly, &powers)?;
        drop(powers);
        let before = self.scan(Join::Sum, &scaled)?;
        let inverses = self.powers(inverse, inverse, len - 1)?;
        let arguments = [
            out.buffer.address(),
            before.buffer.address(),
            scaled.buffer.address(),
            inverses.address(),
            Argument::U32(len as u32),
        ];
        self.counters.kernel(128 * len, PRODUCT * len);
        // SAFETY: `divide_finish`. out, inverses: [len - 1], before, scaled: [len], len >= 2.
        unsafe { self.launch("divide_finish", Grid::of(len - 1, 256), &arguments) }?;
        Ok(out)
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
        let (values, places) = (Buffer::from_host(self, &values)?, Buffer::from_host(self, &places)?);
        let count = merged.len();
        let arguments =
            [poly.buffer.address(), values.address(), places.address(), Argument::U32(count as u32)];
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
