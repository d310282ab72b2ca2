//! Columns in the host's memory.

use ff::Field;
use lamina_circuits::{Fr, witness::Column};

use crate::{blinding::wipe, key::field_of};

/// A column in host memory: integers or field elements, then the blinding tail.
///
/// Field elements are overwritten when it is dropped; integers belong to whoever made them.
#[derive(Debug)]
pub struct HostColumn {
    /// Rows from 0 on; rows that are not given are zero.
    pub values: Column,
    /// The last rows.
    pub tail: Vec<Fr>,
    n: usize,
}

impl HostColumn {
    /// A column of `n` rows.
    pub(crate) fn new(n: usize, values: Column, tail: Vec<Fr>) -> Self {
        let mut values = values;
        if let Column::Field(values) = &mut values {
            values.resize(n - tail.len(), Fr::ZERO);
        }
        HostColumn { values, tail, n }
    }

    /// The same with this tail in the last rows, whatever was there.
    pub(crate) fn with_tail(mut self, tail: Vec<Fr>) -> Self {
        let start = self.n - tail.len();
        if let Column::Field(values) = &mut self.values {
            wipe(&mut values[start..]);
            values.truncate(start);
        }
        wipe(&mut self.tail);
        self.tail = tail;
        self
    }

    /// The value of a row.
    pub(crate) fn get(&self, row: usize) -> Fr {
        let start = self.n - self.tail.len();
        if row >= start {
            return self.tail[row - start];
        }
        match &self.values {
            Column::I16(v) => v.get(row).map_or(Fr::ZERO, |&v| field_of(i64::from(v))),
            Column::I32(v) => v.get(row).map_or(Fr::ZERO, |&v| field_of(i64::from(v))),
            Column::Field(v) => v.get(row).copied().unwrap_or(Fr::ZERO),
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.n
    }

    /// Fills `out` with rows `start..`.
    pub(crate) fn read(&self, start: usize, out: &mut [Fr]) {
        for (row, o) in (start..).zip(out) {
            *o = self.get(row);
        }
    }

    /// All rows as field elements.
    pub(crate) fn to_field(&self) -> Vec<Fr> {
        let mut all = vec![Fr::ZERO; self.n];
        self.read(0, &mut all);
        all
    }
}

impl Drop for HostColumn {
    fn drop(&mut self) {
        wipe(&mut self.tail);
        if let Column::Field(values) = &mut self.values {
            wipe(values);
        }
    }
}
