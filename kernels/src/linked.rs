//! Linked recurrences: columns of which every cell is given by at most one other of them; and single cells, copied.

use lamina_circuits::Fr;

use crate::{
    column::{Column, described},
    device::{Argument, Device, Grid},
    error::{Error, at_most, same},
    memory::{Buffer, Matrix, Plain, bytes_of},
    work::PRODUCT,
};

/// What defines a column through itself, see [`Device::solve`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Relation {
    /// Row `r` of the relation defines row `r + at` of the column. Any sign.
    pub at: i32,
    /// Rotations, of any sign, and their columns of `links`.
    pub links: Vec<(i32, usize)>,
}

/// A cell that [`Device::scatter`] copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct CellCopy {
    /// Which of the sources.
    pub source: u32,
    /// Its row.
    pub from: u32,
    /// The row of the result.
    pub to: u32,
}

// SAFETY: three integers, without padding.
unsafe impl Plain for CellCopy {}

/// A round solves `2^JUMP_BITS` times as many links: it follows `LINKED_EACH` of linked.cu, three.
const JUMP_BITS: u32 = 2;

/// Values, weights and successors of all rows, as `linked_start` and `linked_jump` write them.
struct Links {
    values: Matrix<Fr>,
    weights: Buffer<Fr>,
    next: Buffer<u32>,
}

impl Links {
    fn new(device: &Device, relations: usize, n: usize) -> Result<Self, Error> {
        let values = Matrix::uninitialised(device, relations, n)?;
        let len = values.buffer.len();
        Ok(Links { values, weights: Buffer::new(device, len)?, next: Buffer::new(device, len)? })
    }

    fn addresses(&self) -> [Argument; 3] {
        [self.values.buffer.address(), self.weights.address(), self.next.address()]
    }
}

impl Device {
    /// The columns `x` that relations define, one a relation: for every row `r`, rows modulo `n`,
    ///
    /// ```text
    /// a[r] x[r + at] + sum_j links_j[r] x[r + rotation_j] + rest[r] = 0      where a[r] is not zero,
    /// x[r + at] = prior[r + at]                                             elsewhere
    /// ```
    ///
    /// At most one link of a row is not zero; of several the first counts. Links may lead up and down, and round the end.
    /// Where they lead back to the row that they began at, the cells on the way are not defined: some values come
    /// out, no error. The links of a row whose `a` is zero are not looked at.
    ///
    /// # Shapes
    /// prior, inverses: `[relations, n]`, inverses being `1 / a`, and zero where `a` is; rests: `[relations + columns, n]`, the rests,
    /// then the links of all relations; the result: `[relations, n]`. `n` is any number below `2^31`.
    ///
    /// # Errors
    /// [`Error::Shape`] where columns or rows do not fit together, or a relation names a link that is not there;
    /// [`Error::Memory`], [`Error::Driver`].
    pub fn solve(
        &self,
        prior: &Matrix<Fr>,
        inverses: &Matrix<Fr>,
        rests: &Matrix<Fr>,
        relations: &[Relation],
    ) -> Result<Matrix<Fr>, Error> {
        let (count, n) = (relations.len(), prior.rows());
        at_most("rows, at most", i32::MAX as usize, n)?;
        same("columns of prior values", count, prior.columns())?;
        same("columns of inverses", count, inverses.columns())?;
        same("rows of inverses", n, inverses.rows())?;
        at_most("relations, at most as many as rests", rests.columns(), count)?;
        same("rows of rests", n, rests.rows())?;
        let links = rests.columns() - count;
        let turn = |rotation: i32| i64::from(rotation).rem_euclid(n.max(1) as i64) as u32;
        let (mut heads, mut table): (Vec<[u32; 3]>, Vec<[u32; 2]>) = (Vec::with_capacity(count), Vec::new());
        for relation in relations {
            let first = table.len() as u32;
            for (rotation, column) in &relation.links {
                at_most("columns of links that a relation names, at most", links, column + 1)?;
                table.push([turn(*rotation), *column as u32]);
            }
            heads.push([turn(relation.at), first, table.len() as u32]);
        }
        let (lists, places) = Buffer::packed(self, [bytes_of(&heads), bytes_of(&table)])?;
        let [heads, links_of] = places.map(|at| lists.address_of(at));
        let total = count * n;
        let grid = Grid::of(total, 256);
        let start = |[values, weights, next]: [Argument; 3]| {
            let arguments = [
                values,
                weights,
                next,
                prior.buffer.address(),
                inverses.buffer.address(),
                rests.buffer.address(),
                rests.buffer.address_of(count * n),
                heads,
                links_of,
                Argument::U32(n as u32),
                (total as u64).into(),
            ];
            self.counters.kernel(128 * total + 32 * n * table.len(), PRODUCT * (total + n * table.len()));
            // SAFETY: `linked_start`. values, prior, inverses, rests: [relations, n], weights, next: likewise, or none where
            // the table is empty; links, behind the rests: [columns, n], and the table names none beyond; relations: [relations].
            unsafe { self.launch("linked_start", grid, &arguments) }
        };
        if table.is_empty() {
            let out = Matrix::uninitialised(self, count, n)?;
            start([out.buffer.address(), Argument::Address(0), Argument::Address(0)])?;
            return Ok(out);
        }
        let (mut from, mut to) = (Links::new(self, count, n)?, Links::new(self, count, n)?);
        start(from.addresses())?;
        for _ in 0..n.next_power_of_two().ilog2().div_ceil(JUMP_BITS) {
            let [[values_out, weights_out, next_out], [values, weights, next]] =
                [to.addresses(), from.addresses()];
            let arguments = [
                values_out,
                weights_out,
                next_out,
                values,
                weights,
                next,
                Argument::U32(n as u32),
                (total as u64).into(),
            ];
            self.counters.kernel(136 * total, 6 * PRODUCT * total);
            // SAFETY: `linked_jump`. All six are [relations, n], and three of them other buffers than the others.
            unsafe { self.launch("linked_jump", grid, &arguments) }?;
            std::mem::swap(&mut from, &mut to);
        }
        Ok(from.values)
    }

    /// A column of field elements that is `prior`, or zeros, but for some cells, which are copied from other columns:
    ///
    /// ```text
    /// out[to] = sources[source][from]      tails included
    /// ```
    ///
    /// # Shapes
    /// prior and sources: `rows` rows, of any kinds; the result: `[1, rows]`.
    ///
    /// # Errors
    /// [`Error::Shape`] where a column has other than `rows` rows, a cell names a column or a row that is not there, or two cells
    /// go to one row; [`Error::Memory`], [`Error::Driver`].
    pub fn scatter(
        &self,
        prior: Option<&Column>,
        sources: &[&Column],
        cells: &[CellCopy],
        rows: usize,
    ) -> Result<Matrix<Fr>, Error> {
        let mut taken = vec![0u64; rows.div_ceil(64)];
        for cell in cells {
            at_most("columns that a cell is copied from, at most", sources.len(), cell.source as usize + 1)?;
            at_most("rows that a cell is copied from, at most", rows, cell.from as usize + 1)?;
            at_most("rows that a cell is copied to, at most", rows, cell.to as usize + 1)?;
            let (word, bit) = (&mut taken[cell.to as usize / 64], 1 << (cell.to % 64));
            at_most("cells that are copied to one row, at most", 1, 1 + usize::from(*word & bit != 0))?;
            *word |= bit;
        }
        let (lists, places) = Buffer::packed(self, [bytes_of(&described(sources, rows)?), bytes_of(cells)])?;
        let [list, copies] = places.map(|at| lists.address_of(at));
        let out = match prior {
            Some(prior) => self.expand(&[prior], rows)?,
            None => Matrix::zeros(self, 1, rows)?,
        };
        let arguments = [
            out.buffer.address(),
            list,
            copies,
            Argument::U32(rows as u32),
            Argument::U32(cells.len() as u32),
        ];
        let (mut bytes, mut multiply_adds) = (0, 0);
        for cell in cells {
            let source = sources[cell.source as usize];
            bytes += size_of::<CellCopy>() + source.cell_bytes() + size_of::<Fr>();
            multiply_adds += if source.bits() == 0 { 0 } else { PRODUCT };
        }
        self.counters.kernel(bytes, multiply_adds);
        // SAFETY: `linked_scatter`. out: [n], sources: [sources], of n rows, cells: [count], all within them, no two to one row.
        unsafe { self.launch("linked_scatter", Grid::of(cells.len(), 256), &arguments) }?;
        Ok(out)
    }
}
