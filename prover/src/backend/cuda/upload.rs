//! Columns on their way to the device: integers as narrow as they are, many in one transfer.

use std::collections::BTreeMap;

use lamina_circuits::{Fr, witness::Column};
use lamina_kernels::{Cell, Column as DeviceColumn};
use rayon::prelude::*;

use super::Cuda;
use crate::{blinding::wipe, error::BackendError};

/// Cells, of any width, to which a column's length is rounded up.
const ALIGNED: usize = 16;

/// The most that travels at once: the next are narrowed meanwhile.
const TRANSFER_BYTES: usize = 1 << 25;

/// Bits of the narrowest integers that hold a column's values, zero for field elements.
fn bits(values: &Column) -> u32 {
    // Ends of the range instead of a test of each value: several values an instruction.
    fn ends<W: Copy + Ord + Default + Into<i64>>(values: &[W]) -> (i64, i64) {
        let zero = W::default();
        let (least, most) = values.iter().fold((zero, zero), |ends, v| (ends.0.min(*v), ends.1.max(*v)));
        (least.into(), most.into())
    }
    let (least, most) = match values {
        Column::I16(values) => ends(values),
        Column::I32(values) => ends(values),
        Column::Field(_) => return 0,
    };
    let fits = |bits: u32| -(1i64 << (bits - 1)) <= least && most < 1i64 << (bits - 1);
    if fits(8) {
        8
    } else if fits(16) {
        16
    } else {
        32
    }
}

/// The values, which fit, then zeros.
fn cut<W: Copy, T: TryFrom<W> + Default + Copy>(values: &[W], to: &mut [T]) {
    for (to, value) in to.iter_mut().zip(values) {
        *to = T::try_from(*value).unwrap_or_default();
    }
    to[values.len()..].fill(T::default());
}

fn len(values: &Column) -> usize {
    match values {
        Column::I16(values) => values.len(),
        Column::I32(values) => values.len(),
        Column::Field(values) => values.len(),
    }
}

impl Cuda {
    /// Columns of `n` rows of the narrowest cells that hold their values. Nothing but the time of later steps depends on the
    /// choice. Columns of one width travel together, as many as a transfer holds.
    pub(super) fn device_columns(
        &self,
        n: usize,
        list: &[&Column],
    ) -> Result<Vec<DeviceColumn>, BackendError> {
        let widths: Vec<u32> = list.par_iter().map(|values| bits(values)).collect();
        let mut alike: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (at, width) in widths.into_iter().enumerate() {
            alike.entry(width).or_default().push(at);
        }
        let mut columns: Vec<Option<DeviceColumn>> = list.iter().map(|_| None).collect();
        for (width, places) in alike {
            let own: Vec<&Column> = places.iter().map(|at| list[*at]).collect();
            let taken = match width {
                8 => self.integers::<i8>(n, &own),
                16 => self.integers::<i16>(n, &own),
                32 => self.integers::<i32>(n, &own),
                _ => own
                    .iter()
                    .map(|values| match values {
                        Column::Field(values) => Ok(DeviceColumn::new(&self.device, n, values, &[])?),
                        Column::I16(_) | Column::I32(_) => unreachable!("integers have a width"),
                    })
                    .collect(),
            };
            for (at, column) in places.into_iter().zip(taken?) {
                columns[at] = Some(column);
            }
        }
        Ok(columns.into_iter().flatten().collect())
    }

    /// Columns of integers that fit `T`.
    fn integers<T>(&self, n: usize, list: &[&Column]) -> Result<Vec<DeviceColumn>, BackendError>
    where
        T: Cell + TryFrom<i16> + TryFrom<i32> + Send,
    {
        // Each column begins where kernels load 16 bytes at once.
        let rows = list.iter().map(|values| len(values)).max().unwrap_or(0).next_multiple_of(ALIGNED).min(n);
        let round = (self.round_bytes.min(TRANSFER_BYTES) / (size_of::<T>() * rows.max(1))).max(1);
        let mut columns = Vec::with_capacity(list.len());
        for list in list.chunks(round) {
            let narrow = |cells: &mut [T]| {
                cells.par_chunks_mut(rows.max(1)).zip(list).for_each(|(to, values)| match values {
                    Column::I16(values) => cut(values, to),
                    Column::I32(values) => cut(values, to),
                    Column::Field(_) => unreachable!("field elements have no width"),
                });
            };
            columns.extend(DeviceColumn::filled(&self.device, [list.len(), rows], n, narrow)?);
        }
        Ok(columns)
    }

    /// Blinding values to their columns, all in one transfer.
    pub(super) fn with_tails(
        &self,
        columns: Vec<DeviceColumn>,
        tails: &[Vec<Fr>],
    ) -> Result<Vec<DeviceColumn>, BackendError> {
        // All of its memory at once: what grows leaves copies behind.
        let mut all = Vec::with_capacity(tails.iter().map(Vec::len).sum());
        tails.iter().for_each(|tail| all.extend_from_slice(tail));
        let blinded = DeviceColumn::with_tails(columns, &self.device, &all);
        wipe(&mut all);
        Ok(blinded?)
    }
}
