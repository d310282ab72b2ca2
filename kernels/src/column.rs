//! Columns that lie anywhere on the device, of any kinds.

use std::{any::Any, fmt, sync::Arc};

use ff::{Field, PrimeField};
use lamina_circuits::Fr;

use crate::{
    device::{Argument, Device, Grid},
    error::{Error, at_most, same},
    memory::{Buffer, Cell, Matrix},
    ntt::Ntt,
    work::{CELL, PRODUCT},
};

/// Blocks that keep a large device busy; terms are split into chunks until there are as many.
const BLOCKS: usize = 512;

/// Rows of a block of `columns_combine`, and the fewest and the most terms of a chunk.
const COMBINE_ROWS: usize = 512;
const MIN_CHUNK: usize = 16;
const MAX_CHUNK: usize = 512;

/// Rows that a block of `dot_integers` takes at least, and how many partial sums a column has at most: a scan's tile.
const MIN_DOT_ROWS: usize = 1024;
const MAX_DOT_CHUNKS: usize = 1024;
const DOT_COLUMNS: usize = 4;

/// One column: cells in rows from 0 on, zeros, then a tail of field elements in the last rows.
///
/// Zeroised when dropped, as the matrices that it lies in.
pub struct Column {
    /// What keeps the cells alive.
    _owner: Arc<dyn Any + Send + Sync>,
    address: u64,
    kind: u32,
    bits: u32,
    len: usize,
    rows: usize,
    tail: Option<Tail>,
    tail_len: usize,
}

/// Where a tail lies, in a buffer that other columns' may be in too.
struct Tail {
    _owner: Arc<Buffer<Fr>>,
    address: u64,
}

impl fmt::Debug for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Column")
            .field("bits", &self.bits)
            .field("len", &self.len)
            .field("rows", &self.rows)
            .field("tail_len", &self.tail_len)
            .finish_non_exhaustive()
    }
}

/// One term of a linear combination: `coefficient * column` at a rotation.
#[derive(Clone, Copy, Debug)]
pub struct Term<'a> {
    /// The column.
    pub column: &'a Column,
    /// Row `i` of the term is row `i + rotation` of the column, modulo its rows.
    pub rotation: i64,
    /// What it is multiplied by.
    pub coefficient: Fr,
}

/// `struct Column` of cells.cuh: two addresses, then `kind`, `len`, `tail_start`, `rotation`.
type Descriptor = [u64; 4];

fn pair(low: usize, high: usize) -> u64 {
    low as u64 | (high as u64) << 32
}

impl Column {
    /// Takes cells and a tail to the device, as a column of `rows` rows.
    ///
    /// # Errors
    /// [`Error::Shape`] where they are more than `rows`, or `rows` is `2^31` or more; [`Error::Memory`],
    /// [`Error::Driver`].
    pub fn new<T: Cell>(device: &Device, rows: usize, cells: &[T], tail: &[Fr]) -> Result<Self, Error> {
        at_most("cells and tail of a column, at most", rows, cells.len() + tail.len())?;
        let mut columns = Self::with_tails(Self::list(device, 1, rows, cells)?, device, tail)?;
        Ok(columns.swap_remove(0))
    }

    /// Columns of one kind, without tails, taken to the device in one transfer.
    ///
    /// # Shapes
    /// cells: `[count, any]`, column after column.
    ///
    /// # Errors
    /// As [`Column::new`]; [`Error::Shape`] where the columns are not equally long.
    pub fn list<T: Cell>(
        device: &Device,
        count: usize,
        rows: usize,
        cells: &[T],
    ) -> Result<Vec<Self>, Error> {
        let len = cells.len() / count.max(1);
        same("cells of all columns", count * len, cells.len())?;
        at_most("cells of a column, at most", rows, len)?;
        at_most("rows of a column, at most", i32::MAX as usize, rows)?;
        let cells = Arc::new(Buffer::from_host(device, cells)?);
        let column = |at: usize| {
            let owner: Arc<Buffer<T>> = cells.clone();
            Column {
                _owner: owner,
                address: cells.base() + (at * len * size_of::<T>()) as u64,
                kind: T::KIND,
                bits: T::BITS,
                len,
                rows,
                tail: None,
                tail_len: 0,
            }
        };
        Ok((0..count).map(column).collect())
    }

    /// Column `at` of a matrix, which stays as long as any of its columns does.
    ///
    /// # Errors
    /// [`Error::Shape`] where there is no such column, or its rows are `2^31` or more.
    pub fn of_matrix<T: Cell>(matrix: &Arc<Matrix<T>>, at: usize) -> Result<Self, Error> {
        at_most("columns of a matrix, at most", matrix.columns(), at.saturating_add(1))?;
        let rows = matrix.rows();
        let address = matrix.buffer.base() + (at * rows * size_of::<T>()) as u64;
        let owner: Arc<Matrix<T>> = matrix.clone();
        at_most("rows of a column, at most", i32::MAX as usize, rows)?;
        Ok(Column {
            _owner: owner,
            address,
            kind: T::KIND,
            bits: T::BITS,
            len: rows,
            rows,
            tail: None,
            tail_len: 0,
        })
    }

    /// The same columns with field elements in their last rows, in one transfer; cells that lay there are not part of them any
    /// more.
    ///
    /// # Shapes
    /// tails: `[columns, any]`, column after column.
    ///
    /// # Errors
    /// [`Error::Shape`] where the tails are not equally long, longer than a column, or shorter than the tail that it has;
    /// [`Error::Memory`], [`Error::Driver`].
    pub fn with_tails(list: Vec<Self>, device: &Device, tails: &[Fr]) -> Result<Vec<Self>, Error> {
        let tail_len = tails.len() / list.len().max(1);
        same("elements of all tails", list.len() * tail_len, tails.len())?;
        for column in &list {
            at_most("elements of a tail, at most", column.rows, tail_len)?;
            at_most("elements of the tail before, at most", tail_len, column.tail_len)?;
        }
        if tail_len == 0 {
            return Ok(list);
        }
        let owner = Arc::new(Buffer::from_host(device, tails)?);
        let with = |(at, column): (usize, Self)| {
            let address = owner.base() + (at * tail_len * size_of::<Fr>()) as u64;
            let len = column.len.min(column.rows - tail_len);
            Column { len, tail: Some(Tail { _owner: owner.clone(), address }), tail_len, ..column }
        };
        Ok(list.into_iter().enumerate().map(with).collect())
    }

    /// Bits of an integer, zero for field elements.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// Rows, zeros and tail included.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Whether field elements lie in the last rows, beside the cells.
    pub fn has_tail(&self) -> bool {
        self.tail.is_some()
    }

    /// Cells that are stored, without the tail.
    pub fn cells(&self) -> usize {
        self.len
    }

    /// `2^(bits - 1)` for integers, zero for field elements: what kernels add to every cell.
    fn offset(&self) -> Fr {
        if self.bits == 0 { Fr::ZERO } else { Fr::from(1 << (self.bits - 1)) }
    }

    /// Bytes of a cell.
    pub(crate) fn cell_bytes(&self) -> usize {
        if self.bits == 0 { size_of::<Fr>() } else { self.bits as usize / 8 }
    }

    /// Bytes that a kernel reads of the column, and multiplications of words where each cell is multiplied.
    fn work(&self) -> (usize, usize) {
        let each = if self.bits == 0 { PRODUCT } else { CELL };
        (self.len * self.cell_bytes() + 32 * self.tail_len, self.len * each + self.tail_len * PRODUCT)
    }

    fn descriptor(&self, rotation: i64) -> Descriptor {
        let tail = self.tail.as_ref().map_or(0, |tail| tail.address);
        let rotation = rotation.rem_euclid(self.rows.max(1) as i64) as usize;
        let tail_start = self.rows - self.tail_len;
        [self.address, tail, pair(self.kind as usize, self.len), pair(tail_start, rotation)]
    }

    /// The tail alone, as a column of field elements.
    fn tail_descriptor(&self, rotation: i64) -> Option<Descriptor> {
        let tail = self.tail.as_ref()?;
        let start = (self.rows - self.tail_len) as i64;
        let rotation = (rotation - start).rem_euclid(self.rows as i64) as usize;
        Some([tail.address, 0, pair(Fr::KIND as usize, self.tail_len), pair(self.rows, rotation)])
    }
}

impl Device {
    pub(crate) fn descriptors(&self, columns: &[&Column], rows: usize) -> Result<Buffer<Descriptor>, Error> {
        let list = columns.iter().map(|column| {
            same("rows of a column", rows, column.rows)?;
            Ok(column.descriptor(0))
        });
        Buffer::from_host(self, &list.collect::<Result<Vec<_>, Error>>()?)
    }

    /// Columns as field elements, tails included.
    ///
    /// # Errors
    /// [`Error::Shape`] where a column has other than `rows` rows, [`Error::Memory`], [`Error::Driver`].
    pub fn expand(&self, columns: &[&Column], rows: usize) -> Result<Matrix<Fr>, Error> {
        let out = Matrix::uninitialised(self, columns.len(), rows)?;
        let list = self.descriptors(columns, rows)?;
        let total = columns.len() * rows;
        let arguments =
            [out.buffer.address(), list.address(), Argument::U32(rows as u32), (total as u64).into()];
        let bytes: usize = columns.iter().map(|column| column.work().0).sum();
        let integers = columns.iter().filter(|column| column.bits > 0).count();
        self.counters.kernel(bytes + 32 * total, PRODUCT * integers * rows);
        // SAFETY: `columns_expand`. out: [count, n], columns: [count], all of n rows.
        unsafe { self.launch("columns_expand", Grid::of(total, 256), &arguments) }?;
        Ok(out)
    }

    /// Cells of columns of one kind next to each other, `rows` of each, zero where there are fewer; without tails.
    ///
    /// # Errors
    /// [`Error::Shape`] where a column is of another kind or has more cells, [`Error::Memory`], [`Error::Driver`].
    pub fn gather<T: Cell>(&self, columns: &[&Column], rows: usize) -> Result<Matrix<T>, Error> {
        let mut out = Matrix::<T>::zeros(self, columns.len(), rows)?;
        for (at, column) in columns.iter().enumerate() {
            same("kind of a column", T::KIND as usize, column.kind as usize)?;
            at_most("cells of a column, at most", rows, column.len)?;
            let size = size_of::<T>();
            out.buffer.copy_in(self, at * rows * size, column.address, column.len * size)?;
        }
        Ok(out)
    }

    /// `out[i] = sum_l coefficient_l column_l[i + rotation_l]`, tails included.
    ///
    /// # Errors
    /// [`Error::Shape`] where a column has other than `rows` rows, [`Error::Memory`], [`Error::Driver`].
    pub fn combine_columns(&self, terms: &[Term<'_>], rows: usize) -> Result<Matrix<Fr>, Error> {
        let mut list = Vec::with_capacity(terms.len());
        let mut coefficients = Vec::with_capacity(terms.len());
        let mut excess = None;
        for term in terms {
            same("rows of a column", rows, term.column.rows)?;
            let (bytes, multiply_adds) = term.column.work();
            self.counters.kernel(bytes, multiply_adds);
            list.push(term.column.descriptor(term.rotation));
            coefficients.push(term.coefficient);
            if term.column.bits > 0 {
                *excess.get_or_insert(Fr::ZERO) += term.coefficient * term.column.offset();
            }
        }
        self.combine_described(&list, &coefficients, excess, rows)
    }

    /// `out[i] = sum_l coefficient_l poly_l[i]` for polynomials of at most `len` coefficients, as columns of one.
    ///
    /// # Errors
    /// [`Error::Shape`] for more than one column or `len` rows, [`Error::Memory`], [`Error::Driver`].
    pub fn combine_polys(&self, polys: &[(&Matrix<Fr>, Fr)], len: usize) -> Result<Matrix<Fr>, Error> {
        let mut list: Vec<Descriptor> = Vec::with_capacity(polys.len());
        for (poly, _) in polys {
            same("columns of a polynomial", 1, poly.columns())?;
            at_most("coefficients, at most", len, poly.rows())?;
            self.counters.kernel(32 * poly.rows(), PRODUCT * poly.rows());
            list.push([poly.buffer.base(), 0, pair(Fr::KIND as usize, poly.rows()), pair(len, 0)]);
        }
        let coefficients: Vec<Fr> = polys.iter().map(|(_, coefficient)| *coefficient).collect();
        self.combine_described(&list, &coefficients, None, len)
    }

    /// `excess`: what the offsets of integers sum to, none where all columns are field elements.
    fn combine_described(
        &self,
        list: &[Descriptor],
        coefficients: &[Fr],
        excess: Option<Fr>,
        rows: usize,
    ) -> Result<Matrix<Fr>, Error> {
        let count = list.len();
        let list = Buffer::from_host(self, list)?;
        let coefficients = Buffer::from_host(self, coefficients)?;
        let row_blocks = rows.div_ceil(COMBINE_ROWS);
        let wanted = (BLOCKS / row_blocks.max(1)).clamp(1, count.div_ceil(MIN_CHUNK).max(1));
        let chunk_len = count.div_ceil(wanted).clamp(1, MAX_CHUNK);
        let chunks = count.div_ceil(chunk_len);
        let parts: Buffer<Fr> = Buffer::new(self, chunks * rows)?;
        let arguments = [
            parts.address(),
            list.address(),
            coefficients.address(),
            Argument::U32(rows as u32),
            Argument::U32(count as u32),
            Argument::U32(chunk_len as u32),
            Argument::U32(row_blocks as u32),
        ];
        let grid = Grid { blocks: row_blocks * chunks, threads: 256, shared_bytes: 64 * chunk_len };
        // SAFETY: `columns_combine`. parts: [chunks, n], columns and coefficients: [count], columns of n rows.
        unsafe { self.launch("columns_combine", grid, &arguments) }?;
        // Sums of integers are reduced by two products a row and chunk.
        let reductions = if excess.is_some() { 2 } else { 0 };
        self.counters.kernel(64 * rows * chunks, reductions * PRODUCT * rows * chunks);
        let out = Matrix::uninitialised(self, 1, rows)?;
        let arguments = [
            out.buffer.address(),
            parts.address(),
            excess.unwrap_or(Fr::ZERO).into(),
            Argument::U32(rows as u32),
            Argument::U32(chunks as u32),
        ];
        // SAFETY: `columns_sum`. out: [n], parts: [chunks, n].
        unsafe { self.launch("columns_sum", Grid::of(rows, 256), &arguments) }?;
        Ok(out)
    }

    /// `L_i(x) = (x^n - 1) / n * w^i / (x - w^i)`, `i < n`: zero where `x` is a root of unity.
    ///
    /// # Errors
    /// [`Error::Memory`], [`Error::Driver`].
    pub fn lagrange(&self, ntt: &Ntt, x: Fr) -> Result<Matrix<Fr>, Error> {
        let log_n = ntt.log_n();
        let n = 1usize << log_n;
        let scale = (x.pow_vartime([n as u64]) - Fr::ONE) * Fr::TWO_INV.pow_vartime([u64::from(log_n)]);
        let below = Matrix::uninitialised(self, 1, n)?;
        let arguments = [below.buffer.address(), ntt.roots.address(), x.into(), Argument::U32(n as u32)];
        // SAFETY: `lagrange_denominators`. out, roots: [n].
        unsafe { self.launch("lagrange_denominators", Grid::of(n, 256), &arguments) }?;
        self.counters.kernel(160 * n, 2 * PRODUCT * n);
        let inverses = self.invert(&below)?;
        let address = inverses.buffer.address();
        let arguments = [address, ntt.roots.address(), address, scale.into(), Argument::U32(n as u32)];
        // SAFETY: `lagrange_weights`. weights, roots, inverses: [n]; the first and the last may be one.
        unsafe { self.launch("lagrange_weights", Grid::of(n, 256), &arguments) }?;
        Ok(inverses)
    }

    /// `f(w^rotation x) = sum_i f[i + rotation] L_i(x)` for each query, `weights` being [`Device::lagrange`].
    ///
    /// Integers stay integers. On the host: one element a query comes back.
    ///
    /// # Soundness
    /// Integers are summed with an offset that is taken off as often as the weights' sum says, which is one for every `x`
    /// outside the domain.
    ///
    /// # Errors
    /// [`Error::Shape`] where a column has other than `rows` rows, [`Error::Memory`], [`Error::Driver`].
    pub fn evaluate(&self, weights: &Matrix<Fr>, queries: &[(&Column, i64)]) -> Result<Vec<Fr>, Error> {
        same("columns of weights", 1, weights.columns())?;
        let mut values = vec![Fr::ZERO; queries.len()];
        let (mut integers, mut fields) = (Vec::new(), Vec::new());
        for (at, (column, rotation)) in queries.iter().enumerate() {
            same("rows of a column", weights.rows(), column.rows)?;
            let (bytes, multiply_adds) = column.work();
            self.counters.kernel(bytes + 8 * column.len, multiply_adds);
            if column.bits == 0 {
                fields.push((at, column.descriptor(*rotation)));
                continue;
            }
            values[at] -= column.offset();
            integers.push((at, column.descriptor(*rotation)));
            fields.extend(column.tail_descriptor(*rotation).map(|descriptor| (at, descriptor)));
        }
        for (list, kernel) in [(integers, "dot_integers"), (fields, "dot_fields")] {
            let descriptors: Vec<Descriptor> = list.iter().map(|(_, descriptor)| *descriptor).collect();
            for ((at, _), sum) in list.iter().zip(self.dots(kernel, weights, &descriptors)?) {
                values[*at] += sum;
            }
        }
        Ok(values)
    }

    /// `sum_i weights[i] poly[i]` for a polynomial of at most as many coefficients as there are weights.
    ///
    /// # Errors
    /// [`Error::Shape`] where there are more, [`Error::Memory`], [`Error::Driver`].
    pub fn dot(&self, weights: &Matrix<Fr>, poly: &Matrix<Fr>) -> Result<Fr, Error> {
        same("columns of weights", 1, weights.columns())?;
        same("columns of a polynomial", 1, poly.columns())?;
        at_most("coefficients, at most", weights.rows(), poly.rows())?;
        let kind = Fr::KIND as usize;
        self.counters.kernel(64 * poly.rows(), PRODUCT * poly.rows());
        let one = [poly.buffer.base(), 0, pair(kind, poly.rows()), pair(weights.rows(), 0)];
        Ok(self.dots("dot_fields", weights, &[one])?.into_iter().sum())
    }

    fn dots(
        &self,
        kernel: &'static str,
        weights: &Matrix<Fr>,
        list: &[Descriptor],
    ) -> Result<Vec<Fr>, Error> {
        if list.is_empty() || weights.rows() == 0 {
            return Ok(vec![Fr::ZERO; list.len()]);
        }
        let n = weights.rows();
        let chunk_rows = n.div_ceil(MAX_DOT_CHUNKS / 2).max(MIN_DOT_ROWS);
        let chunks = n.div_ceil(chunk_rows);
        let integers = kernel == "dot_integers";
        let parts = Matrix::uninitialised(self, list.len(), chunks)?;
        let descriptors = Buffer::from_host(self, list)?;
        let mut arguments = vec![
            parts.buffer.address(),
            descriptors.address(),
            weights.buffer.address(),
            Argument::U32(n as u32),
        ];
        if integers {
            arguments.push(Argument::U32(list.len() as u32));
        }
        arguments.extend([Argument::U32(chunk_rows as u32), Argument::U32(chunks as u32)]);
        let groups = if integers { list.len().div_ceil(DOT_COLUMNS) } else { list.len() };
        let grid =
            Grid { blocks: groups * chunks, threads: 128, shared_bytes: if integers { 512 } else { 128 } };
        // SAFETY: `dot_integers`, or `dot_fields`, which takes no count. parts: [count, chunks], columns: [count], of n
        // rows, weights: [n].
        unsafe { self.launch(kernel, grid, &arguments) }?;
        self.totals(&parts)
    }
}

const _: () = assert!(Fr::NUM_BITS == 254, "ten words hold 2^32 products with 32-bit integers");
