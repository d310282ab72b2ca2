//! Running sums and products, and inverses.

use lamina_circuits::Fr;

use crate::{
    device::{Argument, Device, Grid},
    error::{Error, at_most},
    memory::{Buffer, Matrix, Reading},
    work::PRODUCT,
};

/// How a scan joins elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// Running sums.
    Sum,
    /// Running products.
    Product,
}

const THREADS: u32 = 256;
const SCAN_TILE: usize = 1024;
const INVERT_TILE: usize = 4096;

/// Products of an inversion, one after the other: 0.1 ms by the model.
const INVERSION: usize = 380;

impl Device {
    /// What precedes each row, joined:
    ///
    /// ```text
    /// out[c][0] = the neutral element,   out[c][i + 1] = out[c][i] * in[c][i]
    /// ```
    ///
    /// # Errors
    /// [`Error::Memory`], [`Error::Driver`].
    pub fn scan(&self, join: Join, columns: &Matrix<Fr>) -> Result<Matrix<Fr>, Error> {
        let (count, n) = (columns.columns(), columns.rows());
        let tiles = n.div_ceil(SCAN_TILE);
        let product = Argument::U32((join == Join::Product).into());
        let out = Matrix::uninitialised(self, count, n)?;
        let totals: Buffer<Fr> = Buffer::new(self, count * tiles)?;
        let joins = if join == Join::Product { 3 * PRODUCT } else { 0 };
        self.counters.kernel(96 * count * n, joins * count * n);
        let grid = Grid { blocks: count * tiles, threads: THREADS, shared_bytes: 256 };
        let (source, stride) = (columns.buffer.address(), Argument::U64(n as u64));
        let (rows, tile_count) = (Argument::U32(n as u32), Argument::U32(tiles as u32));
        let arguments = [totals.address(), source, stride, rows, tile_count, product];
        // SAFETY: `scan_totals`. totals: [columns, tiles], in: [columns, n].
        unsafe { self.launch("scan_totals", grid, &arguments) }?;
        let arguments = [totals.address(), tile_count, product];
        let one_each = Grid { blocks: if tiles == 0 { 0 } else { count }, ..grid };
        // SAFETY: `scan_offsets`. totals: [columns, tiles].
        unsafe { self.launch("scan_offsets", one_each, &arguments) }?;
        let arguments = [out.buffer.address(), source, stride, totals.address(), rows, tile_count, product];
        // SAFETY: `scan_apply`. out, in: [columns, n], offsets: [columns, tiles].
        unsafe { self.launch("scan_apply", grid, &arguments) }?;
        Ok(out)
    }

    /// The sum of each column of at most 1024 rows, on its way to the host.
    pub(crate) fn totals(&self, columns: &Matrix<Fr>) -> Result<Reading<Fr>, Error> {
        let (count, n) = (columns.columns(), columns.rows());
        at_most("rows, at most", SCAN_TILE, n)?;
        let out: Buffer<Fr> = Buffer::new(self, count)?;
        let arguments = [
            out.address(),
            columns.buffer.address(),
            Argument::U64(n as u64),
            Argument::U32(n as u32),
            Argument::U32(1),
            Argument::U32(0),
        ];
        let grid = Grid { blocks: count, threads: THREADS, shared_bytes: 256 };
        // SAFETY: `scan_totals`. totals: [columns, 1], in: [columns, n].
        unsafe { self.launch("scan_totals", grid, &arguments) }?;
        out.read_later(self, 0, count)
    }

    /// One row of every column, on the host.
    pub(crate) fn rows_of(&self, columns: &Matrix<Fr>, row: usize) -> Result<Vec<Fr>, Error> {
        let n = columns.rows();
        let mut out: Buffer<Fr> = Buffer::new(self, columns.columns())?;
        for at in 0..columns.columns() {
            let source = columns.buffer.base() + ((at * n + row) * size_of::<Fr>()) as u64;
            out.copy_in(self, at * size_of::<Fr>(), source, size_of::<Fr>())?;
        }
        out.read(self, 0, columns.columns())
    }

    /// The inverse of each element, and zero of zero.
    ///
    /// # Errors
    /// [`Error::Memory`], [`Error::Driver`].
    pub fn invert(&self, elements: &Matrix<Fr>) -> Result<Matrix<Fr>, Error> {
        let n = elements.columns() * elements.rows();
        let out = Matrix::uninitialised(self, elements.columns(), elements.rows())?;
        self.counters.kernel(160 * n, 7 * PRODUCT * n);
        // The block's one inversion: squarings and half as many products.
        self.counters.chained(INVERSION);
        let grid = Grid { blocks: n.div_ceil(INVERT_TILE), threads: THREADS, shared_bytes: 512 };
        let arguments = [out.buffer.address(), elements.buffer.address(), Argument::U64(n as u64)];
        // SAFETY: `fr_invert`. Two buffers of n elements.
        unsafe { self.launch("fr_invert", grid, &arguments) }?;
        Ok(out)
    }
}
