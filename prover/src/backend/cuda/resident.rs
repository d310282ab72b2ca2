//! Weights that stay on the device from one proof to the next.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use lamina_circuits::witness::Column;
use lamina_kernels::Column as DeviceColumn;

use super::{Cuda, CudaKey};
use crate::error::BackendError;

/// Columns of weights, by where the host has them.
///
/// A column is found again only while somebody on the host holds the very memory that it was copied from, which nobody can change.
#[derive(Clone, Default)]
pub(super) struct Resident(Arc<Mutex<HashMap<usize, Weights>>>);

struct Weights {
    /// Keeps the address from being used again.
    host: Weak<Vec<i16>>,
    device: DeviceColumn,
}

impl fmt::Debug for Resident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resident").field("columns", &self.list().len()).finish()
    }
}

impl Resident {
    fn list(&self) -> MutexGuard<'_, HashMap<usize, Weights>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets all.
    pub(super) fn clear(&self) {
        self.list().clear();
    }

    /// The column of `n` rows that was copied from there, without a tail.
    fn find(&self, n: usize, host: &Arc<Vec<i16>>) -> Option<DeviceColumn> {
        let list = self.list();
        let found = list.get(&(Arc::as_ptr(host) as usize)).filter(|one| one.device.rows() == n)?;
        Some(found.device.cells_alone())
    }

    /// Keeps a column while all take no more than `limit` bytes, without those that nobody on the host has any more.
    fn keep(&self, host: &Arc<Vec<i16>>, column: &DeviceColumn, limit: usize) {
        let mut list = self.list();
        list.retain(|_, one| one.host.strong_count() > 0);
        let bytes: usize = list.values().map(|one| one.device.bytes()).sum();
        if column.bytes() <= limit.saturating_sub(bytes) {
            let weights = Weights { host: Arc::downgrade(host), device: column.cells_alone() };
            list.insert(Arc::as_ptr(host) as usize, weights);
        }
    }
}

impl Cuda {
    /// See [`crate::Backend::lasting_columns`].
    pub(super) fn take_lasting(
        &self,
        key: &CudaKey,
        list: &[Column],
    ) -> Result<Vec<DeviceColumn>, BackendError> {
        let mut columns: Vec<Option<DeviceColumn>> = list
            .iter()
            .map(|values| match values {
                Column::I16(host) => self.resident.find(key.n, host),
                Column::I32(_) | Column::Field(_) => None,
            })
            .collect();
        let missing: Vec<usize> = (0..list.len()).filter(|at| columns[*at].is_none()).collect();
        let new: Vec<&Column> = missing.iter().map(|at| &list[*at]).collect();
        for (at, column) in missing.into_iter().zip(self.device_columns(key.n, &new)?) {
            if let Column::I16(host) = &list[at] {
                self.resident.keep(host, &column, key.weight_bytes);
            }
            columns[at] = Some(column);
        }
        Ok(columns.into_iter().flatten().collect())
    }
}
