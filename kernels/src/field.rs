//! Elementwise arithmetic and powers.

use halo2_proofs::halo2curves::bn256::Fq;
use lamina_circuits::Fr;

use crate::{
    device::{Argument, Device, Grid},
    error::{Error, at_most, same},
    memory::{Buffer, Matrix},
    work::PRODUCT,
};

/// An operation on two elements: `enum Operation` of field.cu.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Operation {
    /// `a + b`
    Add = 0,
    /// `a - b`
    Subtract = 1,
    /// `a b`
    Multiply = 2,
}

/// Blocks of a kernel that strides over what its grid does not cover.
const STRIDE_BLOCKS: usize = 1 << 16;

impl Device {
    /// `out[c][i] = a[c][i] op b[c][i]`.
    ///
    /// # Errors
    /// [`Error::Shape`] where the shapes differ, [`Error::Memory`], [`Error::Driver`].
    pub fn elementwise(
        &self,
        operation: Operation,
        a: &Matrix<Fr>,
        b: &Matrix<Fr>,
    ) -> Result<Matrix<Fr>, Error> {
        same("columns of the second operand", a.columns(), b.columns())?;
        same("rows of the second operand", a.rows(), b.rows())?;
        let out = Matrix::uninitialised(self, a.columns(), a.rows())?;
        let n = a.columns() * a.rows();
        self.counters.kernel(96 * n, if operation == Operation::Multiply { PRODUCT * n } else { 0 });
        self.apply("fr_elementwise", operation, &out.buffer, &a.buffer, &b.buffer, a.columns() * a.rows())?;
        Ok(out)
    }

    fn apply<T>(
        &self,
        kernel: &'static str,
        operation: Operation,
        out: &Buffer<T>,
        a: &Buffer<T>,
        b: &Buffer<T>,
        n: usize,
    ) -> Result<(), Error> {
        let grid = Grid { blocks: n.div_ceil(256).min(STRIDE_BLOCKS), threads: 256, shared_bytes: 0 };
        let arguments =
            [out.address(), a.address(), b.address(), (n as u64).into(), (operation as u32).into()];
        // SAFETY: `fr_elementwise` and `fq_elementwise`; three buffers of n elements.
        unsafe { self.launch(kernel, grid, &arguments) }
    }

    /// `[first, first base, first base^2, ..]`, `n` of them.
    pub(crate) fn powers(&self, first: Fr, base: Fr, n: usize) -> Result<Buffer<Fr>, Error> {
        const EACH: usize = 16;
        at_most("powers, at most", 1 << 31, n)?;
        let out = Buffer::new(self, n)?;
        // A product each, and a power for every sixteen.
        self.counters.kernel(32 * n, PRODUCT * (n + n.div_ceil(EACH) * n.max(2).ilog2() as usize));
        let arguments = [out.address(), first.into(), base.into(), Argument::U32(n as u32)];
        // SAFETY: `fr_powers`; out has n elements.
        unsafe { self.launch("fr_powers", Grid::of(n.div_ceil(EACH), 256), &arguments) }?;
        Ok(out)
    }

    /// `a[i]^(rounds + 1)` for each element of a column, a product at a time: what the multiplier can do.
    ///
    /// # Errors
    /// [`Error::Shape`] for more than one column, [`Error::Memory`], [`Error::Driver`].
    pub fn chain(&self, a: &Matrix<Fr>, rounds: u32) -> Result<Matrix<Fr>, Error> {
        same("columns", 1, a.columns())?;
        let out = Matrix::uninitialised(self, 1, a.rows())?;
        let arguments =
            [out.buffer.address(), a.buffer.address(), Argument::U32(a.rows() as u32), rounds.into()];
        self.counters.kernel(64 * a.rows(), PRODUCT * rounds as usize * a.rows());
        // SAFETY: `fr_chain`; both buffers have n elements.
        unsafe { self.launch("fr_chain", Grid::of(a.rows(), 256), &arguments) }?;
        Ok(out)
    }

    /// `out[i] = a[i] op b[i]` in the base field of the curve, on host values.
    ///
    /// # Errors
    /// [`Error::Shape`] where the lengths differ, [`Error::Memory`], [`Error::Driver`].
    pub fn base_field(&self, operation: Operation, a: &[Fq], b: &[Fq]) -> Result<Vec<Fq>, Error> {
        same("elements of the second operand", a.len(), b.len())?;
        let (x, y, out) =
            (Buffer::from_host(self, a)?, Buffer::from_host(self, b)?, Buffer::new(self, a.len())?);
        self.apply("fq_elementwise", operation, &out, &x, &y, a.len())?;
        out.read(self, 0, a.len())
    }
}
