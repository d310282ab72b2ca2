//! LogUp helpers: sums of a few fractions for each row.

use lamina_circuits::Fr;

use crate::{
    device::{Argument, Device, Grid},
    error::{Error, same},
    field::Operation,
    memory::{Cell, Matrix},
    work::PRODUCT,
};

/// Numerators and denominators, a column a helper.
#[derive(Debug)]
pub struct Fractions {
    /// `sum_k prod_(j != k) (shift_j + v_j)`
    pub numerators: Matrix<Fr>,
    /// `prod_k (shift_k + v_k)`
    pub denominators: Matrix<Fr>,
}

impl Device {
    /// Fractions with a common denominator of `size` neighbouring columns each, fewer for the last:
    ///
    /// ```text
    /// numerator / denominator = sum_k 1 / (shifts[k] + cells[k][i])        (protocol.md, section 5)
    /// ```
    ///
    /// # Soundness
    /// `shifts[k]` is `beta` plus what is the same in all of a column's tuples, its tag.
    ///
    /// # Errors
    /// [`Error::Shape`] unless there is a shift for each column and `size > 0`, [`Error::Memory`], [`Error::Driver`].
    pub fn fractions<T: Cell>(
        &self,
        cells: &Matrix<T>,
        shifts: &[Fr],
        size: usize,
    ) -> Result<Fractions, Error> {
        same("shifts", cells.columns(), shifts.len())?;
        if size == 0 {
            return Err(Error::Shape { what: "cells of a helper, at least", expected: 1, actual: 0 });
        }
        let (helpers, n) = (cells.columns().div_ceil(size), cells.rows());
        let shifts = crate::memory::Buffer::from_host(self, shifts)?;
        let fractions = Fractions {
            numerators: Matrix::uninitialised(self, helpers, n)?,
            denominators: Matrix::uninitialised(self, helpers, n)?,
        };
        let arguments = [
            fractions.numerators.buffer.address(),
            fractions.denominators.buffer.address(),
            cells.buffer.address(),
            T::KIND.into(),
            (n as u64).into(),
            shifts.address(),
            Argument::U32(n as u32),
            Argument::U32(cells.columns() as u32),
            Argument::U32(size as u32),
            ((helpers * n) as u64).into(),
        ];
        let cell_count = cells.columns() * n;
        self.counters.kernel(cell_count * size_of::<T>() + 64 * helpers * n, 3 * PRODUCT * cell_count);
        // SAFETY: `logup_fractions`. numerators, denominators: [helpers, n], cells: [columns, n], shifts: [columns].
        unsafe { self.launch("logup_fractions", Grid::of(helpers * n, 256), &arguments) }?;
        Ok(fractions)
    }

    /// The helpers themselves: [`Device::fractions`], divided; zero where a denominator is.
    ///
    /// # Errors
    /// As [`Device::fractions`].
    pub fn helpers<T: Cell>(
        &self,
        cells: &Matrix<T>,
        shifts: &[Fr],
        size: usize,
    ) -> Result<Matrix<Fr>, Error> {
        let fractions = self.fractions(cells, shifts, size)?;
        let inverses = self.invert(&fractions.denominators)?;
        self.elementwise(Operation::Multiply, &fractions.numerators, &inverses)
    }
}
