//! Sums of multiples of fixed points.

use std::fmt;

use ff::Field;
use group::Curve;
use halo2_proofs::halo2curves::bn256::{Fq, G1, G1Affine};

use crate::{
    device::{Argument, Device, Grid},
    error::{Error, at_most, same},
    memory::{Buffer, Cell, Matrix, Reading},
    work::PRODUCT,
};

/// Digits of a field element must cover `2^254` and a sign.
const FIELD_BITS: u32 = 255;

/// A window of 15 bits has 2^14 buckets, whose counters fill the 64 KiB of shared memory that every device has.
const MAX_WINDOW: u32 = 15;

/// Products of an addition to a bucket, and of an addition of sums.
const ADD_AFFINE: usize = 10;
const ADD: usize = 14;
/// Products of a doubling.
const DOUBLE: usize = 9;

/// Entries that a thread of `msm_fold` adds, nodes that one of `msm_reduce` joins.
const LOG_FOLD: u32 = 4;
const LOG_REDUCE: u32 = 3;

/// Threads that keep a large device busy.
const LOG_THREADS: u32 = 17;

/// How scalars are cut into digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Bits of a digit.
    pub window: u32,
    /// Digits of a scalar.
    pub windows: u32,
}

impl Plan {
    /// The digits that make sums of `n` multiples cheapest, for signed integers of `bits` bits, or field elements
    /// where `bits` is zero.
    ///
    /// ```text
    /// cost = windows (10 n + 2 * 14 * 2^(window - 1)) products
    /// ```
    pub fn new(bits: u32, n: usize) -> Self {
        let bits = if bits == 0 { FIELD_BITS } else { bits };
        let plan = |window| Plan { window, windows: bits.div_ceil(window) };
        (2..=MAX_WINDOW).map(plan).min_by_key(|plan| plan.cost(n)).unwrap_or(plan(2))
    }

    /// Digits with tables of `2^(window t) P`: all windows share one set of buckets.
    ///
    /// ```text
    /// cost = windows 10 n + 2 * 14 * 2^(window - 1) products
    /// ```
    fn shared_cost(&self, n: usize) -> usize {
        self.windows as usize * ADD_AFFINE * n + 2 * ADD * self.buckets()
    }

    fn cost(&self, n: usize) -> usize {
        self.windows as usize * (ADD_AFFINE * n + 2 * ADD * self.buckets())
    }

    /// The digits of field elements for which tables of `n` points, `64 n windows` bytes, fit `memory_bytes` and make
    /// sums cheapest; `None` where none fit, or none are cheaper than sums without.
    pub fn of_tables(n: usize, memory_bytes: usize) -> Option<Self> {
        let plan = |window| Plan { window, windows: FIELD_BITS.div_ceil(window) };
        (2..=MAX_WINDOW)
            .map(plan)
            .filter(|plan| n > 0 && plan.table_bytes(n).is_some_and(|bytes| bytes <= memory_bytes))
            .filter(|plan| n.saturating_mul(plan.windows as usize) <= i32::MAX as usize)
            .min_by_key(|plan| plan.shared_cost(n))
            .filter(|plan| plan.shared_cost(n) < Plan::new(0, n).cost(n))
    }

    /// `Ok` where windows have 2 to 15 bits, and `bits` in all.
    fn covers(&self, bits: u32) -> Result<(), Error> {
        at_most("bits of a window, at most", MAX_WINDOW as usize, self.window as usize)?;
        let actual = (self.window * self.windows) as usize;
        if self.window < 2 || actual < bits as usize {
            let expected = bits as usize;
            return Err(Error::Shape { what: "bits of all windows, at least", expected, actual });
        }
        Ok(())
    }

    /// Bytes of tables of `n` points.
    fn table_bytes(&self, n: usize) -> Option<usize> {
        n.checked_mul(self.windows as usize)?.checked_mul(size_of::<[Fq; 2]>())
    }

    /// Buckets of a window: `2^(window - 1)`.
    fn buckets(&self) -> usize {
        1 << (self.window - 1)
    }
}

/// The tasks of a column: lists of digits that share buckets.
#[derive(Clone, Copy, Debug)]
struct Tasks {
    plan: Plan,
    count: usize,
    rows: usize,
}

impl Tasks {
    fn new(plan: Plan, shared: bool, n: usize) -> Self {
        let windows = plan.windows as usize;
        let (count, rows) = if shared { (1, windows * n) } else { (windows, n) };
        Tasks { plan, count, rows }
    }

    /// Rows of a tile: several times as many as buckets, so that counters are fewer than digits.
    fn tile_len(&self) -> usize {
        (4 * self.plan.buckets()).max(4096).min(self.rows)
    }

    fn bytes(&self) -> usize {
        let (n, buckets) = (self.rows, self.plan.buckets());
        let tiles = n.div_ceil(self.tile_len());
        let heads = (n >> 3) * 2;
        let nodes = buckets / 2;
        let task = 2 * n + 4 * n + 4 * buckets * (tiles + 1) + 128 * (buckets + heads + nodes);
        self.count * task
    }
}

/// A point as a kernel has it: `X, Y, ZZ, ZZZ`.
type Xyzz = [Fq; 4];

/// Sums of multiples of one list of points.
pub struct Msm {
    device: Device,
    /// `[len]`, or with tables `[windows, len]`: the points, then `2^(window t)` times each.
    bases: Buffer<[Fq; 2]>,
    tables: Option<Plan>,
    len: usize,
    /// Bytes of device memory that a call may take beside its arguments; more columns go in several rounds.
    pub scratch_bytes: usize,
}

impl fmt::Debug for Msm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Msm")
            .field("len", &self.len)
            .field("tables", &self.tables)
            .field("scratch_bytes", &self.scratch_bytes)
            .finish_non_exhaustive()
    }
}

/// The buffers of one round.
struct Round {
    digits: Buffer<[u8; 2]>,
    counts: Buffer<u32>,
    entries: Buffer<u32>,
    offsets: Buffer<u32>,
    sums: Buffer<Xyzz>,
}

impl Msm {
    /// Takes the points to the device: 64 bytes each.
    ///
    /// # Errors
    /// [`Error::Shape`] for `2^31` points or more, [`Error::Memory`], [`Error::Driver`].
    pub fn new(device: &Device, bases: &[G1Affine]) -> Result<Self, Error> {
        at_most("points, at most", i32::MAX as usize, bases.len())?;
        let points: Vec<[Fq; 2]> = bases.iter().map(|point| [point.x, point.y]).collect();
        let buffer = Buffer::from_host(device, &points)?;
        Ok(Msm {
            device: device.clone(),
            bases: buffer,
            tables: None,
            len: bases.len(),
            scratch_bytes: 1 << 30,
        })
    }

    /// [`Msm::new`], with tables of multiples where [`Plan::of_tables`] has any for these bytes of memory.
    ///
    /// # Errors
    /// As [`Msm::new`].
    pub fn with_tables(device: &Device, bases: &[G1Affine], memory_bytes: usize) -> Result<Self, Error> {
        match Plan::of_tables(bases.len(), memory_bytes) {
            Some(plan) => Self::with_tables_as(plan, device, bases),
            None => Self::new(device, bases),
        }
    }

    /// [`Msm::with_tables`] with digits of the caller's choice.
    ///
    /// # Errors
    /// As [`Msm::new`], and [`Error::Shape`] for windows that are not of 2 to 15 bits or do not cover field elements.
    pub fn with_tables_as(plan: Plan, device: &Device, bases: &[G1Affine]) -> Result<Self, Error> {
        plan.covers(FIELD_BITS)?;
        let len = bases.len();
        at_most(
            "points of all tables, at most",
            i32::MAX as usize,
            len.saturating_mul(plan.windows as usize),
        )?;
        let points: Vec<[Fq; 2]> = bases.iter().map(|point| [point.x, point.y]).collect();
        let mut tables = Buffer::new(device, len * plan.windows as usize)?;
        tables.write(device, 0, &points)?;
        for t in 1..plan.windows as usize {
            let arguments = [
                tables.address_of(t * len),
                tables.address_of((t - 1) * len),
                plan.window.into(),
                Argument::U32(len as u32),
            ];
            // SAFETY: `msm_double`. out, in: [len], which do not overlap.
            unsafe { device.launch("msm_double", Grid::of(len, 128), &arguments) }?;
        }
        Ok(Msm { device: device.clone(), bases: tables, tables: Some(plan), len, scratch_bytes: 1 << 30 })
    }

    /// The digits of the tables, if there are any.
    pub fn tables(&self) -> Option<Plan> {
        self.tables
    }

    /// `sum_i scalars[c][i] bases[first + i]` for each column `c`.
    ///
    /// Integers cost by their width: two digits for 16 bits where a field element has some twenty.
    ///
    /// # Errors
    /// [`Error::Shape`] for more rows than points, [`Error::Memory`], [`Error::Driver`].
    pub fn multiply<T: Cell>(&self, first: usize, scalars: &Matrix<T>) -> Result<Vec<G1Affine>, Error> {
        self.queue(first, scalars)?.affine()
    }

    /// [`Msm::multiply`], under way: what is queued after it is not waited for, and the scalars may be dropped.
    ///
    /// # Errors
    /// As there.
    pub fn queue<T: Cell>(&self, first: usize, scalars: &Matrix<T>) -> Result<Sums, Error> {
        let (n, plain) = (scalars.rows(), Plan::new(T::BITS, scalars.rows()));
        if let Some(tables) = self.tables.filter(|_| first == 0 && n == self.len) {
            let bits = if T::BITS == 0 { FIELD_BITS } else { T::BITS };
            let plan = Plan { windows: bits.div_ceil(tables.window), ..tables };
            if plan.shared_cost(n) < plain.cost(n) {
                return self.rounds(plan, true, 0, scalars);
            }
        }
        self.queue_as(plain, first, scalars)
    }

    /// The sums from the tables, also where sums without would be cheaper.
    ///
    /// # Errors
    /// [`Error::Shape`] where there are no tables, or not a row for each point; [`Error::Memory`], [`Error::Driver`].
    pub fn multiply_with_tables<T: Cell>(&self, scalars: &Matrix<T>) -> Result<Vec<G1Affine>, Error> {
        let tables = self.tables.ok_or(Error::Shape { what: "tables, at least", expected: 1, actual: 0 })?;
        same("rows, with tables", self.len, scalars.rows())?;
        let bits = if T::BITS == 0 { FIELD_BITS } else { T::BITS };
        self.rounds(Plan { windows: bits.div_ceil(tables.window), ..tables }, true, 0, scalars)?.affine()
    }

    /// [`Msm::multiply`] with digits of the caller's choice.
    ///
    /// # Errors
    /// As [`Msm::multiply`], and [`Error::Shape`] for windows that are not of 2 to 15 bits or do not cover the
    /// scalars.
    pub fn multiply_as<T: Cell>(
        &self,
        plan: Plan,
        first: usize,
        scalars: &Matrix<T>,
    ) -> Result<Vec<G1Affine>, Error> {
        self.queue_as(plan, first, scalars)?.affine()
    }

    fn queue_as<T: Cell>(&self, plan: Plan, first: usize, scalars: &Matrix<T>) -> Result<Sums, Error> {
        let n = scalars.rows();
        at_most("rows, at most", self.len.saturating_sub(first), n)?;
        plan.covers(if T::BITS == 0 { FIELD_BITS } else { T::BITS })?;
        self.rounds(plan, false, first, scalars)
    }

    /// With `shared` buckets, a column's windows are one task over the tables; without, a task each.
    fn rounds<T: Cell>(
        &self,
        plan: Plan,
        shared: bool,
        first: usize,
        scalars: &Matrix<T>,
    ) -> Result<Sums, Error> {
        let mut sums =
            Sums { device: self.device.clone(), columns: scalars.columns(), rounds: Vec::with_capacity(1) };
        if scalars.rows() == 0 {
            return Ok(sums);
        }
        let tasks = Tasks::new(plan, shared, scalars.rows());
        let round = (self.scratch_bytes / tasks.bytes()).clamp(1, scalars.columns().max(1));
        for start in (0..scalars.columns()).step_by(round) {
            let count = round.min(scalars.columns() - start);
            sums.rounds.push(self.round(tasks, first, scalars, start, count)?);
        }
        Ok(sums)
    }

    fn round<T: Cell>(
        &self,
        of_column: Tasks,
        first: usize,
        scalars: &Matrix<T>,
        start: usize,
        columns: usize,
    ) -> Result<Reading<Xyzz>, Error> {
        let (plan, rows, buckets) = (of_column.plan, scalars.rows(), of_column.plan.buckets());
        let (tasks, n) = (columns * of_column.count, of_column.rows);
        let tile_len = of_column.tile_len();
        let tiles = n.div_ceil(tile_len);
        let device = &self.device;
        let round = Round {
            digits: Buffer::new(device, tasks * n)?,
            counts: Buffer::new(device, tasks * tiles * buckets)?,
            entries: Buffer::new(device, tasks * n)?,
            offsets: Buffer::new(device, tasks * (buckets + 1))?,
            sums: Buffer::zeros(device, tasks * buckets)?,
        };
        let u32_of = |v: usize| Argument::U32(v as u32);

        let grid =
            Grid { blocks: (columns * rows).div_ceil(256).min(1 << 16), threads: 256, shared_bytes: 0 };
        let arguments = [
            round.digits.address(),
            scalars.buffer.address_of(start * rows),
            T::KIND.into(),
            (rows as u64).into(),
            u32_of(rows),
            plan.window.into(),
            plan.windows.into(),
            u32_of(columns),
        ];
        // A digit is written, counted and scattered.
        device.counters.kernel(16 * tasks * n, 0);
        // SAFETY: `msm_digits`. out: [columns, windows, rows], scalars: [columns, rows].
        unsafe { device.launch("msm_digits", grid, &arguments) }?;

        // Small blocks for small tasks: there may be thousands of them.
        let threads = |work: usize| work.next_multiple_of(32).min(512) as u32;
        let grid = Grid {
            blocks: tasks * tiles,
            threads: threads(tile_len.max(buckets)),
            shared_bytes: 4 * buckets,
        };
        let shape = [u32_of(n), u32_of(buckets), u32_of(tile_len), u32_of(tiles)];
        let arguments = [&[round.counts.address(), round.digits.address()], &shape[..]].concat();
        // SAFETY: `msm_count`. counts: [tasks, tiles, buckets], digits: [tasks, n].
        unsafe { device.launch("msm_count", grid, &arguments) }?;
        let one_each = Grid { blocks: tasks, threads: threads(buckets), shared_bytes: 4 * 17 };
        let arguments = [round.offsets.address(), round.counts.address(), u32_of(buckets), u32_of(tiles)];
        // SAFETY: `msm_offsets`. offsets: [tasks, buckets + 1], counts: [tasks, tiles, buckets].
        unsafe { device.launch("msm_offsets", one_each, &arguments) }?;
        let arguments =
            [&[round.entries.address(), round.digits.address(), round.counts.address()], &shape[..]].concat();
        // SAFETY: `msm_scatter`. entries, digits: [tasks, n], starts: [tasks, tiles, buckets].
        unsafe { device.launch("msm_scatter", grid, &arguments) }?;

        self.accumulate(&round, first, tasks, n, buckets)?;
        self.reduce(plan.window, of_column.count, round.sums, columns)
    }

    /// Bucket sums, `sums[task][b]`.
    fn accumulate(
        &self,
        round: &Round,
        first: usize,
        tasks: usize,
        n: usize,
        buckets: usize,
    ) -> Result<(), Error> {
        let device = &self.device;
        let u32_of = |v: usize| Argument::U32(v as u32);
        // Few entries a thread where there are few in all, so that the device is full.
        let log_first = (tasks * n).ilog2().saturating_sub(LOG_THREADS).clamp(3, 6);
        let mut threads = n.div_ceil(1 << log_first);
        let mut heads: Buffer<Xyzz> = Buffer::new(device, tasks * threads)?;
        let arguments = [
            round.sums.address(),
            heads.address(),
            round.entries.address(),
            round.offsets.address(),
            self.bases.address_of(first),
            u32_of(n),
            u32_of(buckets),
            log_first.into(),
            u32_of(threads),
            ((threads * tasks) as u64).into(),
        ];
        // An addition a digit, whose point is read.
        device.counters.kernel(64 * tasks * n, tasks * n * ADD_AFFINE * PRODUCT);
        device.counters.chained(ADD_AFFINE << log_first);
        // SAFETY: `msm_accumulate`. sums: [tasks, buckets], heads: [tasks, threads], entries: [tasks, n], offsets:
        // [tasks, buckets + 1], bases: [n] from `first` on.
        unsafe { device.launch("msm_accumulate", Grid::of(threads * tasks, 128), &arguments) }?;

        let mut level = 1u32;
        while threads > 1 {
            let items = threads;
            threads = items.div_ceil(1 << LOG_FOLD);
            let next: Buffer<Xyzz> = Buffer::new(device, tasks * threads)?;
            let arguments = [
                round.sums.address(),
                next.address(),
                heads.address(),
                round.offsets.address(),
                u32_of(items),
                u32_of(buckets),
                level.into(),
                log_first.into(),
                LOG_FOLD.into(),
                u32_of(threads),
                ((threads * tasks) as u64).into(),
            ];
            device.counters.chained(ADD << LOG_FOLD);
            // SAFETY: `msm_fold`. sums: [tasks, buckets], heads_out: [tasks, threads], heads: [tasks, items], offsets:
            // [tasks, buckets + 1].
            unsafe { device.launch("msm_fold", Grid::of(threads * tasks, 128), &arguments) }?;
            heads = next;
            level += 1;
        }
        Ok(())
    }

    /// `sum_w 2^(window w) sum_b (b + 1) sums[column, w][b]` for each column.
    fn reduce(
        &self,
        window: u32,
        windows: usize,
        sums: Buffer<Xyzz>,
        columns: usize,
    ) -> Result<Reading<Xyzz>, Error> {
        let device = &self.device;
        let tasks = columns * windows;
        let (mut log_nodes, mut log_span) = (window - 1, 0);
        // Two additions a bucket.
        device.counters.kernel((256 * tasks) << log_nodes, (2 * ADD * PRODUCT * tasks) << log_nodes);
        let mut plain = sums;
        let mut weighted: Option<Buffer<Xyzz>> = None;
        while log_nodes > 0 {
            let log_each = log_nodes.min(LOG_REDUCE);
            log_nodes -= log_each;
            let total = tasks << log_nodes;
            let (next, next_weighted) = (Buffer::new(device, total)?, Buffer::new(device, total)?);
            let arguments = [
                next.address(),
                next_weighted.address(),
                plain.address(),
                weighted.as_ref().unwrap_or(&plain).address(),
                log_span.into(),
                log_each.into(),
                (total as u64).into(),
            ];
            device.counters.chained((2 * ADD) << log_each);
            // SAFETY: `msm_reduce`. All are [tasks, nodes], the outputs with 2^log_each times fewer nodes.
            unsafe { device.launch("msm_reduce", Grid::of(total, 128), &arguments) }?;
            plain = next;
            weighted = Some(next_weighted);
            log_span += log_each;
        }
        let out: Buffer<Xyzz> = Buffer::new(device, columns)?;
        let parts = weighted.as_ref().unwrap_or(&plain);
        let arguments = [
            out.address(),
            parts.address(),
            window.into(),
            Argument::U32(windows as u32),
            Argument::U32(columns as u32),
        ];
        device.counters.chained(windows * (ADD + DOUBLE * window as usize) - DOUBLE * window as usize);
        // SAFETY: `msm_finish`. out: [columns], parts: [columns, windows].
        unsafe { device.launch("msm_finish", Grid::of(columns, 32), &arguments) }?;
        out.read_later(device, 0, columns)
    }
}

/// Sums that a device computes.
pub struct Sums {
    device: Device,
    columns: usize,
    /// Of so many columns each, one after another; none where all sums are zero.
    rounds: Vec<Reading<Xyzz>>,
}

impl fmt::Debug for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sums").field("columns", &self.columns).finish_non_exhaustive()
    }
}

impl Sums {
    /// Waits for them: one for each column.
    ///
    /// # Errors
    /// [`Error::Driver`] where the device has failed.
    pub fn wait(self) -> Result<Vec<G1>, Error> {
        let mut points = Vec::with_capacity(self.columns);
        for round in self.rounds {
            points.extend(round.wait(&self.device)?.into_iter().map(projective));
        }
        points.resize(self.columns, G1::default());
        Ok(points)
    }

    fn affine(self) -> Result<Vec<G1Affine>, Error> {
        let points = self.wait()?;
        let mut affine = vec![G1Affine::default(); points.len()];
        G1::batch_normalize(&points, &mut affine);
        Ok(affine)
    }
}

/// `x = X / ZZ, y = Y / ZZZ`: over the denominator `ZZ ZZZ`, which is zero at infinity.
fn projective([x, y, zz, zzz]: Xyzz) -> G1 {
    if bool::from(zz.is_zero()) {
        return G1::default();
    }
    G1 { x: x * zzz, y: y * zz, z: zz * zzz }
}

#[cfg(test)]
mod tests {
    use super::Plan;

    #[test]
    fn digits_cost_by_width() {
        assert_eq!(Plan::new(8, 1 << 16), Plan { window: 8, windows: 1 });
        assert_eq!(Plan::new(16, 1 << 16), Plan { window: 8, windows: 2 });
        assert_eq!(Plan::new(32, 1 << 16), Plan { window: 11, windows: 3 });
        assert_eq!(Plan::new(0, 1 << 20), Plan { window: 15, windows: 17 });
    }

    #[test]
    fn tables_take_the_memory_that_there_is() {
        let n = 1 << 15;
        assert_eq!(Plan::of_tables(n, 1 << 30), Some(Plan { window: 15, windows: 17 }));
        assert_eq!(Plan::of_tables(n, 64 * n * 17), Some(Plan { window: 15, windows: 17 }));
        // Fewer windows than 17 there are not.
        assert_eq!(Plan::of_tables(n, 64 * n * 17 - 1), None);
        // Small buckets where there is little to put into them.
        assert!(Plan::of_tables(1 << 10, 1 << 30).is_some_and(|plan| plan.window < 15));
        assert_eq!(Plan::of_tables(0, 1 << 30), None);
        assert_eq!(Plan::of_tables(usize::MAX, usize::MAX), None);
        // 28 products a bucket, once for all windows.
        assert_eq!(
            Plan { window: 15, windows: 17 }.shared_cost(1 << 20),
            17 * 10 * (1 << 20) + 28 * (1 << 14)
        );
    }
}
