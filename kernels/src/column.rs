//! Columns that lie anywhere on the device, of any kinds.

use std::{any::Any, fmt, sync::Arc};

use ff::{Field, PrimeField as _};
use lamina_circuits::Fr;

use crate::{
    device::{Argument, Device, Grid},
    error::{Error, at_most, same},
    memory::{Buffer, Cell, Matrix, Reading, bytes_of, words},
    ntt::Ntt,
    work::{PRODUCT, REDUCTION},
};

/// Blocks that keep a large device busy; terms are split into chunks until there are as many.
const BLOCKS: usize = 512;

/// Rows of a block of `combine_fields`, and the fewest and the most terms of a chunk.
const FIELD_ROWS: usize = 512;
const MIN_CHUNK: usize = 16;
const MAX_CHUNK: usize = 512;

/// Rows of a block of `combine_integers`, bytes of a row that it takes in a step, and the fewest and the most steps of a chunk.
const INTEGER_ROWS: usize = 256;
const STEP_BYTES: usize = 16;
const MIN_STEPS: usize = 4;
const MAX_STEPS: usize = BYTE_TERMS / STEP_BYTES;

/// The most products of two bytes that a sum of 32 bits has room for: `struct ByteSums` of bytes.cuh.
const BYTE_TERMS: usize = 1 << 15;
const _: () = assert!(BYTE_TERMS * 255 * 255 < 1 << 31);

/// Rows that a block of `dot_integers` takes at least, and how many partial sums a column has at most: a scan's tile.
const MIN_DOT_ROWS: usize = 1024;
const MAX_DOT_CHUNKS: usize = 1024;

/// Rows that `dot_integers` takes at once, bytes of a row that a warp of it takes, and warps of a block.
const DOT_ROWS: usize = 64;
const DOT_BYTES: usize = 32;
const DOT_WARPS: usize = 4;

/// One column: cells in rows from 0 on, zeros, then a tail of field elements in the last rows.
///
/// What it leaves behind when dropped is kept for others and overwritten by [`Device::wipe`], as that of the matrices it lies in.
pub struct Column {
    /// What keeps the cells alive.
    owner: Arc<dyn Any + Send + Sync>,
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

/// One term of a linear combination of polynomials: a coefficient times a column of a matrix.
#[derive(Clone, Copy, Debug)]
pub struct PolyTerm<'a> {
    /// Where its coefficients are.
    pub matrix: &'a Matrix<Fr>,
    /// Which column of it.
    pub column: usize,
    /// What it is multiplied by.
    pub coefficient: Fr,
}

/// `struct Column` of cells.cuh: two addresses, then `kind`, `len`, `tail_start`, `rotation`.
pub(crate) type Descriptor = [u64; 4];

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
        Self::filled(device, [count, len], rows, |all: &mut [T]| all.copy_from_slice(cells))
    }

    /// The same of cells that `fill` writes, each of them, where anything may be before: in memory of the host that the copy takes as
    /// it is, where they are not too many for that.
    ///
    /// # Shapes
    /// shape: how many columns, and cells of each.
    ///
    /// # Errors
    /// As [`Column::new`].
    pub fn filled<T: Cell>(
        device: &Device,
        shape: [usize; 2],
        rows: usize,
        fill: impl FnOnce(&mut [T]),
    ) -> Result<Vec<Self>, Error> {
        let [count, len] = shape;
        at_most("cells of a column, at most", rows, len)?;
        at_most("rows of a column, at most", i32::MAX as usize, rows)?;
        let cells = Arc::new(Buffer::filled(device, count * len, fill)?);
        let column = |at: usize| {
            let owner: Arc<Buffer<T>> = cells.clone();
            Column {
                owner,
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
        Ok(Column { owner, address, kind: T::KIND, bits: T::BITS, len: rows, rows, tail: None, tail_len: 0 })
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

    /// The same cells, without the tail.
    pub fn cells_alone(&self) -> Self {
        let &Column { ref owner, address, kind, bits, len, rows, .. } = self;
        Column { owner: owner.clone(), address, kind, bits, len, rows, tail: None, tail_len: 0 }
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

    /// Bytes of the cells.
    pub fn bytes(&self) -> usize {
        self.len * self.cell_bytes()
    }

    /// Bytes of a cell.
    pub(crate) fn cell_bytes(&self) -> usize {
        if self.bits == 0 { size_of::<Fr>() } else { self.bits as usize / 8 }
    }

    /// Bytes that a kernel reads of the column, and multiplications of words where each cell is multiplied: of integers by
    /// matrix units, and of none but the tail by words.
    fn work(&self) -> (usize, usize) {
        let elements = self.tail_len + if self.bits == 0 { self.len } else { 0 };
        (self.len * self.cell_bytes() + 32 * self.tail_len, elements * PRODUCT)
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

/// The descriptors of columns that all have `rows` rows.
pub(crate) fn described(columns: &[&Column], rows: usize) -> Result<Vec<Descriptor>, Error> {
    let list = columns.iter().map(|column| {
        same("rows of a column", rows, column.rows)?;
        Ok(column.descriptor(0))
    });
    list.collect()
}

impl Device {
    /// Columns as field elements, tails included.
    ///
    /// # Errors
    /// [`Error::Shape`] where a column has other than `rows` rows, [`Error::Memory`], [`Error::Driver`].
    pub fn expand(&self, columns: &[&Column], rows: usize) -> Result<Matrix<Fr>, Error> {
        let mut out = Matrix::uninitialised(self, columns.len(), rows)?;
        self.expand_to(&mut out, 0, columns)?;
        Ok(out)
    }

    /// [`Device::expand`], as columns `at..` of a matrix.
    ///
    /// # Errors
    /// As there; [`Error::Shape`] where the matrix has not as many columns.
    pub fn expand_to(&self, out: &mut Matrix<Fr>, at: usize, columns: &[&Column]) -> Result<(), Error> {
        at_most("columns of a matrix, at most", out.columns().saturating_sub(at), columns.len())?;
        let rows = out.rows();
        let list = Buffer::from_host(self, &described(columns, rows)?)?;
        let total = columns.len() * rows;
        let target = out.buffer.address_of(at * rows);
        let arguments = [target, list.address(), Argument::U32(rows as u32), (total as u64).into()];
        let bytes: usize = columns.iter().map(|column| column.work().0).sum();
        let integers = columns.iter().filter(|column| column.bits > 0).count();
        self.counters.kernel(bytes + 32 * total, PRODUCT * integers * rows);
        // SAFETY: `columns_expand`. out: [count, n], columns: [count], all of n rows.
        unsafe { self.launch("columns_expand", Grid::of(total, 256), &arguments) }
    }

    /// Cells of columns of one kind next to each other, `rows` of each, zero where there are fewer; without tails.
    ///
    /// # Errors
    /// [`Error::Shape`] where a column is of another kind or has more cells, [`Error::Memory`], [`Error::Driver`].
    pub fn gather<T: Cell>(&self, columns: &[&Column], rows: usize) -> Result<Matrix<T>, Error> {
        let full = columns.iter().all(|column| column.len == rows);
        let mut out = if full {
            Matrix::<T>::uninitialised(self, columns.len(), rows)?
        } else {
            Matrix::zeros(self, columns.len(), rows)?
        };
        let size = size_of::<T>();
        // A copy's first column, where it goes, and its bytes: columns that came together lie next to each other.
        let mut copies: Vec<(&Column, usize, usize)> = Vec::new();
        for (at, column) in columns.iter().enumerate() {
            same("kind of a column", T::KIND as usize, column.kind as usize)?;
            at_most("cells of a column, at most", rows, column.len)?;
            let (target, bytes) = (at * rows * size, column.len * size);
            match copies.last_mut() {
                Some((first, to, before))
                    if Arc::as_ptr(&first.owner).addr() == Arc::as_ptr(&column.owner).addr()
                        && first.address + *before as u64 == column.address
                        && *to + *before == target =>
                {
                    *before += bytes;
                }
                _ => copies.push((column, target, bytes)),
            }
        }
        for (first, to, bytes) in copies {
            out.buffer.copy_in(self, to, first.address, bytes)?;
        }
        Ok(out)
    }

    /// `out[i] = sum_l coefficient_l column_l[i + rotation_l]`, tails included.
    ///
    /// # Errors
    /// [`Error::Shape`] where a column has other than `rows` rows, [`Error::Memory`], [`Error::Driver`].
    pub fn combine_columns(&self, terms: &[Term<'_>], rows: usize) -> Result<Matrix<Fr>, Error> {
        let mut out = Matrix::uninitialised(self, 1, rows)?;
        self.combine_columns_to(&mut out, 0, &[terms])?;
        Ok(out)
    }

    /// [`Device::combine_columns`] of each of some lists, as columns `at..` of a matrix, in a few launches for all.
    ///
    /// # Errors
    /// As there; [`Error::Shape`] where the matrix has not as many columns.
    pub fn combine_columns_to<'a, L: AsRef<[Term<'a>]>>(
        &self,
        out: &mut Matrix<Fr>,
        at: usize,
        lists: &[L],
    ) -> Result<(), Error> {
        at_most("columns of a matrix, at most", out.columns().saturating_sub(at), lists.len())?;
        let rows = out.rows();
        let mut sums = Vec::with_capacity(lists.len());
        let (mut bytes, mut multiply_adds) = (0, 0);
        for (at, terms) in (at..).zip(lists) {
            let mut sum = Sum::new(out.buffer.base() + (at * rows * size_of::<Fr>()) as u64, rows);
            for term in terms.as_ref() {
                let Term { column, rotation, coefficient } = *term;
                same("rows of a column", rows, column.rows)?;
                let work = column.work();
                (bytes, multiply_adds) = (bytes + work.0, multiply_adds + work.1);
                let factor = Factor { descriptor: column.descriptor(rotation), coefficient };
                match INTEGER_BYTES.iter().position(|bytes| 8 * bytes == column.bits as usize) {
                    None => sum.fields.push(factor),
                    Some(kind) => {
                        sum.excess += coefficient * column.offset();
                        sum.integers[kind].push(factor);
                    }
                }
            }
            sums.push(sum);
        }
        self.counters.kernel(bytes, multiply_adds);
        self.combine(&sums)
    }

    /// `out[i] = sum_l coefficient_l poly_l[i]` for each of some lists of polynomials, which are columns of matrices, in a few launches
    /// for all.
    ///
    /// # Shapes
    /// lists: terms and the number of coefficients of their sum, which no polynomial has more of.
    ///
    /// # Errors
    /// [`Error::Shape`] for a column that is not there or a polynomial of more coefficients, [`Error::Memory`],
    /// [`Error::Driver`].
    pub fn combine_polys(&self, lists: &[(Vec<PolyTerm<'_>>, usize)]) -> Result<Vec<Matrix<Fr>>, Error> {
        let (mut polys, mut sums) = (Vec::with_capacity(lists.len()), Vec::with_capacity(lists.len()));
        for (terms, len) in lists {
            let out = Matrix::uninitialised(self, 1, *len)?;
            let mut sum = Sum::new(out.buffer.base(), *len);
            for PolyTerm { matrix, column, coefficient } in terms {
                at_most("columns of a matrix, at most", matrix.columns(), column + 1)?;
                let rows = matrix.rows();
                at_most("coefficients, at most", *len, rows)?;
                self.counters.kernel(32 * rows, PRODUCT * rows);
                let address = matrix.buffer.base() + (column * rows * size_of::<Fr>()) as u64;
                let descriptor = [address, 0, pair(Fr::KIND as usize, rows), pair(*len, 0)];
                sum.fields.push(Factor { descriptor, coefficient: *coefficient });
            }
            polys.push(out);
            sums.push(sum);
        }
        self.combine(&sums)?;
        Ok(polys)
    }

    /// Computes sums, those of integers of as many rows all.
    fn combine(&self, sums: &[Sum]) -> Result<(), Error> {
        let rows = sums.iter().map(|sum| sum.rows).max().unwrap_or(0);
        if rows == 0 {
            return Ok(());
        }
        // As many chunks as keep a large device busy.
        let wanted = |block_rows: usize| BLOCKS / (rows.div_ceil(block_rows) * sums.len());
        let of_sums: Vec<Chunks> = sums
            .iter()
            .map(|sum| {
                let fields = sum.fields.len();
                let field_chunks = wanted(FIELD_ROWS).clamp(1, fields.div_ceil(MIN_CHUNK).max(1));
                let steps = Steps::of(&sum.integers);
                let chunk_steps =
                    steps.len().div_ceil(wanted(INTEGER_ROWS).clamp(1, (steps.len() / MIN_STEPS).max(1)));
                Chunks {
                    fields: fields.div_ceil(field_chunks).clamp(1, MAX_CHUNK),
                    steps: chunk_steps.clamp(1, MAX_STEPS),
                    of: steps,
                }
            })
            .collect();
        // Where a sum is of several chunks of a kind, they are computed aside, and added.
        let aside = |(sum, chunks): (&Sum, &Chunks)| {
            let (integers, fields) = chunks.count(sum);
            if integers <= 1 && fields <= 1 { 0 } else { sum.rows * (integers + fields) }
        };
        let cells: usize = sums.iter().zip(&of_sums).map(aside).sum();
        let parts: Option<Buffer<Fr>> = if cells > 0 { Some(Buffer::new(self, cells)?) } else { None };
        let mut free = parts.as_ref().map_or(0, Buffer::base);

        let (mut lists, mut added) = (Lists::with_room(sums, &of_sums), Vec::new());
        let mut longest = 0;
        for (sum, chunks) in sums.iter().zip(&of_sums) {
            let (integers, fields) = chunks.count(sum);
            let bytes = (sum.rows * size_of::<Fr>()) as u64;
            let is_aside = aside((sum, chunks)) > 0;
            if is_aside {
                let count = pair(sum.rows, integers + fields);
                added.push([sum.to, free, count]);
            }
            let mut to = || {
                let to = if is_aside { free } else { sum.to };
                free += if is_aside { bytes } else { 0 };
                to
            };
            lists.push_integers(sum, chunks, &mut to);
            longest = longest.max(chunks.fields.min(sum.fields.len()));
            let first = lists.columns.len();
            lists.columns.extend(sum.fields.iter().map(|factor| factor.descriptor));
            lists.scales.extend(sum.fields.iter().map(|factor| factor.coefficient));
            let add = u64::from(!is_aside && integers > 0);
            // Zeros, where nothing is summed.
            let none = usize::from(integers + fields == 0);
            for chunk in 0..fields + none {
                let (before, left) = (chunk * chunks.fields, sum.fields.len() - chunk * chunks.fields);
                let count = left.min(chunks.fields);
                lists.chunks.push([to(), pair(first + before, count), pair(sum.rows, add as usize)]);
            }
            // What is written, read again where it is added to, and where several are added their sum.
            let again = if is_aside { integers + fields + 1 } else { usize::from(add > 0) };
            self.counters.kernel(32 * sum.rows * (integers + fields + none + again), 0);
            self.counters.kernel(0, REDUCTION * sum.rows * integers);
        }

        let (sent, places) = Buffer::packed(
            self,
            [
                bytes_of(&lists.step_columns),
                bytes_of(&lists.step_scales),
                bytes_of(&lists.elements),
                bytes_of(&lists.step_chunks),
                bytes_of(&lists.excesses),
                bytes_of(&lists.columns),
                bytes_of(&lists.scales),
                bytes_of(&lists.chunks),
                bytes_of(&added),
            ],
        )?;
        let [columns, scales, elements, chunks, excesses, of_fields @ .., added_at] =
            places.map(|at| sent.address_of(at));
        if !lists.step_chunks.is_empty() {
            let row_blocks = rows.div_ceil(INTEGER_ROWS);
            let [n, row_blocks_u32] = [rows, row_blocks].map(|v| Argument::U32(v as u32));
            let arguments = [columns, scales, elements, chunks, excesses, n, row_blocks_u32];
            let blocks = row_blocks * lists.step_chunks.len();
            let grid = Grid { blocks, threads: 128, shared_bytes: 0 };
            // SAFETY: `combine_integers`. columns of n rows and coefficients, as many as the steps of each kind ask for; elements:
            // [steps, 32]; chunks: each with where its n rows go, and which of the excesses it takes off.
            unsafe { self.launch("combine_integers", grid, &arguments) }?;
        }
        if !lists.chunks.is_empty() {
            let [columns, scales, chunks] = of_fields;
            let row_blocks = rows.div_ceil(FIELD_ROWS);
            let [longest_u32, row_blocks_u32] = [longest, row_blocks].map(|v| Argument::U32(v as u32));
            let arguments = [columns, scales, chunks, longest_u32, row_blocks_u32];
            let blocks = row_blocks * lists.chunks.len();
            let grid = Grid { blocks, threads: 256, shared_bytes: 64 * longest };
            // SAFETY: `combine_fields`. columns and coefficients: [count]; chunks: each with where its rows go, and its columns
            // among those, of as many rows, at most as many as shared memory has room for.
            unsafe { self.launch("combine_fields", grid, &arguments) }?;
        }
        self.add_up(&added, rows, added_at)
    }

    /// `out[i] = sum_c columns[c][i]`.
    pub(crate) fn sum_columns(&self, columns: &Matrix<Fr>) -> Result<Matrix<Fr>, Error> {
        let (count, rows) = (columns.columns(), columns.rows());
        let out = Matrix::uninitialised(self, 1, rows)?;
        self.counters.kernel(32 * rows * (count + 1), 0);
        let sums = [[out.buffer.base(), columns.buffer.base(), pair(rows, count)]];
        let list = Buffer::from_host(self, &sums)?;
        self.add_up(&sums, rows, list.address())?;
        Ok(out)
    }

    /// Adds columns up; `list` is where `sums`, `struct Sum` of columns.cu, are on the device.
    fn add_up(&self, sums: &[[u64; 3]], rows: usize, list: Argument) -> Result<(), Error> {
        let row_blocks = rows.div_ceil(256);
        let arguments = [list, Argument::U32(row_blocks as u32)];
        let grid = Grid { blocks: row_blocks * sums.len(), threads: 256, shared_bytes: 0 };
        // SAFETY: `columns_sum`. sums: each with where its rows go and where its columns are, at most `rows` rows.
        unsafe { self.launch("columns_sum", grid, &arguments) }
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
    /// [`Error::Shape`] where a column has other than `rows` rows, or these are more than `2^25`; [`Error::Memory`],
    /// [`Error::Driver`].
    pub fn evaluate(&self, weights: &Matrix<Fr>, queries: &[(&Column, i64)]) -> Result<Vec<Fr>, Error> {
        same("columns of weights", 1, weights.columns())?;
        let mut values = vec![Fr::ZERO; queries.len()];
        let (mut integers, mut fields) =
            (Vec::with_capacity(queries.len()), Vec::with_capacity(queries.len()));
        let (mut bytes, mut multiply_adds) = (0, 0);
        for (at, (column, rotation)) in queries.iter().enumerate() {
            same("rows of a column", weights.rows(), column.rows)?;
            let work = column.work();
            (bytes, multiply_adds) = (bytes + work.0, multiply_adds + work.1);
            if column.bits == 0 {
                fields.push((at, column.descriptor(*rotation)));
                continue;
            }
            values[at] -= column.offset();
            integers.push((at, column.bits, column.descriptor(*rotation)));
            fields.extend(column.tail_descriptor(*rotation).map(|descriptor| (at, descriptor)));
        }
        self.counters.kernel(bytes, multiply_adds);
        integers.sort_by_key(|(_, bits, _)| *bits);
        // Columns of one kind, as many as a warp takes.
        let mut groups: Vec<Group> = Vec::new();
        for list in integers.chunk_by(|(_, a, _), (_, b, _)| a == b) {
            for list in list.chunks(8 * DOT_BYTES / list[0].1 as usize) {
                let first = groups.last().map_or(0, |[first, count]| first + count);
                groups.push([first, list.len() as u32]);
            }
        }
        let integers: Vec<(usize, Descriptor)> =
            integers.into_iter().map(|(at, _, descriptor)| (at, descriptor)).collect();
        let queue = |list: Vec<(usize, Descriptor)>, groups| {
            let (places, descriptors): (Vec<usize>, Vec<Descriptor>) = list.into_iter().unzip();
            // The weights, once.
            self.counters.kernel(if places.is_empty() { 0 } else { 32 * weights.rows() }, 0);
            let sums = self.dots(weights, &descriptors, groups)?;
            Ok::<_, Error>((places, sums))
        };
        // Both are queued before either is waited for.
        for (places, sums) in [queue(integers, Some(&groups[..]))?, queue(fields, None)?] {
            for (at, sum) in places.into_iter().zip(sums.wait(self)?) {
                values[at] += sum;
            }
        }
        Ok(values)
    }

    /// `sum_i weights[i] poly[i]` for polynomials of at most as many coefficients as there are weights.
    pub(crate) fn dot(&self, weights: &Matrix<Fr>, polys: &[&Matrix<Fr>]) -> Result<Vec<Fr>, Error> {
        same("columns of weights", 1, weights.columns())?;
        let mut list = Vec::with_capacity(polys.len());
        for poly in polys {
            same("columns of a polynomial", 1, poly.columns())?;
            at_most("coefficients, at most", weights.rows(), poly.rows())?;
            self.counters.kernel(32 * poly.rows(), PRODUCT * poly.rows());
            list.push([poly.buffer.base(), 0, pair(Fr::KIND as usize, poly.rows()), pair(weights.rows(), 0)]);
        }
        self.counters.kernel(32 * weights.rows(), 0);
        self.dots(weights, &list, None)?.wait(self)
    }

    /// Sums of products of each column with the weights; `groups` are those of columns of integers.
    fn dots(
        &self,
        weights: &Matrix<Fr>,
        list: &[Descriptor],
        groups: Option<&[Group]>,
    ) -> Result<Dots, Error> {
        if list.is_empty() || weights.rows() == 0 {
            return Ok(Dots::Zero(list.len()));
        }
        let n = weights.rows();
        let chunk_rows = n.div_ceil(MAX_DOT_CHUNKS / 2).max(MIN_DOT_ROWS).next_multiple_of(DOT_ROWS);
        let chunk_rows = if groups.is_some() { chunk_rows.min(BYTE_TERMS) } else { chunk_rows };
        at_most("rows of an evaluation, at most", MAX_DOT_CHUNKS * chunk_rows, n)?;
        let chunks = n.div_ceil(chunk_rows);
        let parts = Matrix::uninitialised(self, list.len(), chunks)?;
        let (lists, places) = Buffer::packed(self, [bytes_of(list), bytes_of(groups.unwrap_or_default())])?;
        let [columns, group_of] = places.map(|at| lists.address_of(at));
        let (out, weights) = (parts.buffer.address(), weights.buffer.address());
        let [n, chunk_rows, chunks_u32] = [n, chunk_rows, chunks].map(|v| Argument::U32(v as u32));
        match groups {
            Some(groups) => {
                let teams = groups.len().div_ceil(DOT_WARPS);
                let count = Argument::U32(groups.len() as u32);
                let arguments = [out, columns, group_of, weights, n, count, chunk_rows, chunks_u32];
                let grid = Grid { blocks: teams * chunks, threads: 128, shared_bytes: 4096 };
                self.counters.kernel(0, 2 * REDUCTION * list.len() * chunks);
                // SAFETY: `dot_integers`. parts: [count, chunks], columns: [count], of n rows, those of the groups,
                // group_of: [groups], weights: [n].
                unsafe { self.launch("dot_integers", grid, &arguments) }?;
            }
            None => {
                let arguments = [out, columns, weights, n, chunk_rows, chunks_u32];
                let grid = Grid { blocks: list.len() * chunks, threads: 128, shared_bytes: 128 };
                // SAFETY: `dot_fields`. parts: [count, chunks], columns: [count], of n rows, weights: [n].
                unsafe { self.launch("dot_fields", grid, &arguments) }?;
            }
        }
        Ok(Dots::Reading(self.totals(&parts)?))
    }
}

/// Sums that a device computes, or none that it has to.
enum Dots {
    Zero(usize),
    Reading(Reading<Fr>),
}

impl Dots {
    fn wait(self, device: &Device) -> Result<Vec<Fr>, Error> {
        match self {
            Dots::Zero(count) => Ok(vec![Fr::ZERO; count]),
            Dots::Reading(sums) => sums.wait(device),
        }
    }
}

/// A column, and what it is multiplied by.
#[derive(Clone, Copy)]
struct Factor {
    descriptor: Descriptor,
    coefficient: Fr,
}

/// Bytes of integers, one after another of the kinds.
const INTEGER_BYTES: [usize; 3] = [1, 2, 4];

/// `struct Group` of columns.cu: the first of a warp's columns, and how many they are.
type Group = [u32; 2];

/// Byte `i` of each of four words, as word `i`.
fn transposed(words: [u32; 4]) -> [u32; 4] {
    std::array::from_fn(|byte| (0..4).fold(0, |word, at| word | (words[at] >> (8 * byte) & 0xff) << (8 * at)))
}

/// What the steps of a combination of integers take, one after another.
struct Steps {
    /// The kind of each: which of [`INTEGER_BYTES`].
    kinds: Vec<usize>,
    /// Of each step as many columns as it takes bytes, the last of its kind filled up with a column times zero.
    descriptors: Vec<Descriptor>,
    coefficients: Vec<Fr>,
    /// Of each step, for each lane of a warp, what `bytes_multiply` of bytes.cuh takes.
    elements: Vec<[u32; 4]>,
}

impl Steps {
    fn of(integers: &[Vec<Factor>; 3]) -> Self {
        let counts =
            integers.iter().zip(INTEGER_BYTES).map(|(list, bytes)| (list.len() * bytes).div_ceil(STEP_BYTES));
        let (count, columns) = (
            counts.clone().sum::<usize>(),
            counts.zip(INTEGER_BYTES).map(|(steps, bytes)| steps * STEP_BYTES / bytes).sum(),
        );
        let mut steps = Steps {
            kinds: Vec::with_capacity(count),
            descriptors: Vec::with_capacity(columns),
            coefficients: Vec::with_capacity(columns),
            elements: Vec::with_capacity(32 * count),
        };
        let shift = Fr::from(256);
        for (kind, (list, bytes)) in integers.iter().zip(INTEGER_BYTES).enumerate() {
            let columns = STEP_BYTES / bytes;
            for list in list.chunks(columns) {
                steps.descriptors.extend(list.iter().map(|factor| factor.descriptor));
                steps.coefficients.extend(list.iter().map(|factor| factor.coefficient));
                steps.descriptors.resize(steps.descriptors.len() + columns - list.len(), list[0].descriptor);
                steps.coefficients.resize(steps.descriptors.len(), Fr::ZERO);
                // The words of each term's element as they lie in memory.
                let mut terms = [[0; 8]; STEP_BYTES];
                for (factor, terms) in list.iter().zip(terms.chunks_exact_mut(bytes)) {
                    let mut coefficient = factor.coefficient;
                    for (at, term) in terms.iter_mut().enumerate() {
                        if at > 0 {
                            coefficient *= shift;
                        }
                        *term = words(coefficient);
                    }
                }
                // Lane 4 g + q: of terms 4 q .. 4 q + 3 byte 4 g + t, as word t.
                for g in 0..8 {
                    for own in terms.chunks_exact(4) {
                        steps.elements.push(transposed([own[0][g], own[1][g], own[2][g], own[3][g]]));
                    }
                }
                steps.kinds.push(kind);
            }
        }
        steps
    }

    fn len(&self) -> usize {
        self.kinds.len()
    }

    fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }
}

/// A linear combination, and where its rows go.
struct Sum {
    fields: Vec<Factor>,
    /// Of 8, 16 and 32 bits.
    integers: [Vec<Factor>; 3],
    /// What the offsets of integers sum to.
    excess: Fr,
    to: u64,
    rows: usize,
}

impl Sum {
    fn new(to: u64, rows: usize) -> Self {
        Sum { fields: Vec::new(), integers: Default::default(), excess: Fr::ZERO, to, rows }
    }
}

/// How a sum is cut into chunks.
struct Chunks {
    /// Columns of field elements of a chunk, at most.
    fields: usize,
    /// Steps of a chunk, at most.
    steps: usize,
    /// All its steps.
    of: Steps,
}

impl Chunks {
    /// Chunks of integers, and of field elements.
    fn count(&self, sum: &Sum) -> (usize, usize) {
        (self.of.len().div_ceil(self.steps), sum.fields.len().div_ceil(self.fields))
    }
}

/// What `combine_integers` and `combine_fields` take, for all sums.
#[derive(Default)]
struct Lists {
    step_columns: Vec<Descriptor>,
    step_scales: Vec<Fr>,
    elements: Vec<[u32; 4]>,
    /// `struct Steps` of columns.cu.
    step_chunks: Vec<[u64; 4]>,
    excesses: Vec<Fr>,
    columns: Vec<Descriptor>,
    scales: Vec<Fr>,
    /// `struct Fields` of columns.cu.
    chunks: Vec<[u64; 3]>,
}

impl Lists {
    fn with_room(sums: &[Sum], of_sums: &[Chunks]) -> Self {
        let steps: usize = of_sums.iter().map(|chunks| chunks.of.len()).sum();
        let columns = of_sums.iter().map(|chunks| chunks.of.descriptors.len()).sum();
        let fields = sums.iter().map(|sum| sum.fields.len()).sum();
        Lists {
            step_columns: Vec::with_capacity(columns),
            step_scales: Vec::with_capacity(columns),
            elements: Vec::with_capacity(32 * steps),
            columns: Vec::with_capacity(fields),
            scales: Vec::with_capacity(fields),
            ..Lists::default()
        }
    }

    /// Adds a sum's integers. `to`: where the next chunk goes.
    fn push_integers(&mut self, sum: &Sum, chunks: &Chunks, to: &mut dyn FnMut() -> u64) {
        let steps = &chunks.of;
        let (mut first, mut first_step) = (self.step_columns.len(), self.elements.len() / 32);
        // The first chunk's, and none: that of all others.
        let excess = self.excesses.len();
        if !steps.is_empty() {
            self.excesses.extend([sum.excess, Fr::ZERO]);
        }
        for (at, kinds) in steps.kinds.chunks(chunks.steps).enumerate() {
            let of = |kind: usize| kinds.iter().filter(|other| **other == kind).count();
            let of_32 = pair(of(2), excess + usize::from(at > 0));
            self.step_chunks.push([to(), pair(first, first_step), pair(of(0), of(1)), of_32]);
            first += kinds.iter().map(|kind| STEP_BYTES / INTEGER_BYTES[*kind]).sum::<usize>();
            first_step += kinds.len();
        }
        self.step_columns.extend(&steps.descriptors);
        self.step_scales.extend(&steps.coefficients);
        self.elements.extend(&steps.elements);
    }
}

const _: () = assert!(Fr::NUM_BITS == 254, "2^15 products of elements and bytes are below 2^280");
