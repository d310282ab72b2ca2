//! Linear combinations of columns.

use ff::{Field, PrimeField};
use lamina_circuits::Fr;

use crate::{
    device::{Argument, Device, Grid},
    error::{Error, same},
    memory::{Buffer, Cell, Matrix},
    work::{CELL, PRODUCT},
};

/// Blocks that keep a large device busy; columns are split into chunks until there are as many.
const BLOCKS: usize = 512;

/// A chunk has at least as many columns where there are any more: each costs a pass over field elements.
const MIN_CHUNK: usize = 16;

/// Coefficients that fit the shared memory of a block.
const MAX_CHUNK: usize = 1024;

impl Device {
    /// `out[i] = sum_l coefficients[l] columns[l][i]`, integers read as they are.
    ///
    /// # Errors
    /// [`Error::Shape`] unless there is a coefficient for each column, [`Error::Memory`], [`Error::Driver`].
    pub fn combine<T: Cell>(&self, columns: &Matrix<T>, coefficients: &[Fr]) -> Result<Matrix<Fr>, Error> {
        same("coefficients", columns.columns(), coefficients.len())?;
        let (count, n) = (columns.columns(), columns.rows());
        let integers = T::BITS > 0;
        let each = if integers { CELL } else { PRODUCT };
        self.counters.kernel(count * n * size_of::<T>() + 32 * n, count * n * each);
        let rows_of_block = if integers { 512 } else { 256 };
        let row_blocks = n.div_ceil(rows_of_block);
        let wanted = (BLOCKS / row_blocks.max(1)).clamp(1, count.div_ceil(MIN_CHUNK).max(1));
        let chunk_len = count.div_ceil(wanted).clamp(1, MAX_CHUNK);
        let chunks = count.div_ceil(chunk_len);
        let parts: Buffer<Fr> = Buffer::new(self, chunks * n)?;
        let factors = Buffer::from_host(self, coefficients)?;
        let mut arguments = vec![parts.address(), columns.buffer.address()];
        if integers {
            arguments.push(T::KIND.into());
        }
        arguments.extend([
            (n as u64).into(),
            factors.address(),
            Argument::U32(n as u32),
            Argument::U32(count as u32),
            Argument::U32(chunk_len as u32),
            Argument::U32(row_blocks as u32),
        ]);
        let shared_bytes = if integers { 32 * chunk_len } else { 0 };
        let grid = Grid { blocks: row_blocks * chunks, threads: 256, shared_bytes };
        let kernel = if integers { "combine_integers" } else { "combine_fields" };
        // SAFETY: `combine_integers`, or `combine_fields`, which takes no kind. parts: [chunks, n], cells:
        // [columns, n], coefficients: [columns].
        unsafe { self.launch(kernel, grid, &arguments) }?;

        let offset = if integers { Fr::from(1 << (T::BITS - 1)) } else { Fr::ZERO };
        let excess = offset * coefficients.iter().sum::<Fr>();
        let out = Matrix::uninitialised(self, 1, n)?;
        let arguments = [
            out.buffer.address(),
            parts.address(),
            excess.into(),
            Argument::U32(n as u32),
            Argument::U32(chunks as u32),
        ];
        // SAFETY: `combine_sum`. out: [n], parts: [chunks, n].
        unsafe { self.launch("combine_sum", Grid::of(n, 256), &arguments) }?;
        Ok(out)
    }
}

const _: () = assert!(Fr::NUM_BITS == 254, "ten words hold 2^32 products with 32-bit integers");
