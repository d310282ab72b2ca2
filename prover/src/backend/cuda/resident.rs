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

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test panics where it fails")]
mod tests {
    use halo2_proofs::{halo2curves::bn256::Bn256, poly::kzg::commitment::ParamsKZG};
    use lamina_circuits::Fr;
    use lamina_kernels_emu::Mode;

    use super::*;
    use crate::{
        backend::{Backend, Setup, Shape},
        expression::Identity,
        setup::Bases,
    };

    const ROWS: usize = 32;

    fn load(cuda: &Cuda) -> CudaKey {
        let bases = Bases::new(&ParamsKZG::<Bn256>::setup(5, rand_core::OsRng), 5).unwrap();
        let identity = Identity::empty(0);
        let shape = Shape { columns: 0, products: 0, openings: 0, points: 0, identity: &identity };
        let setup = Setup { bases: &bases, degree: 4, usable: 20, fixed: &[], sigma: &[], shape };
        cuda.load(&setup).unwrap()
    }

    fn weights(first: i16) -> Arc<Vec<i16>> {
        Arc::new((first..first + ROWS as i16).collect())
    }

    /// Bytes that are sent for these columns; they must be on the device as the host has them.
    fn sent(cuda: &Cuda, key: &CudaKey, list: &[&Arc<Vec<i16>>]) -> u64 {
        let before = cuda.device().work();
        let columns = list.iter().map(|host| Column::I16(Arc::clone(host))).collect();
        let columns = cuda.lasting_columns(key, columns).unwrap();
        let sent = cuda.device().work().since(&before).to_device_bytes;
        for (column, host) in columns.iter().zip(list) {
            let cell = |cell: &i16| {
                let size = Fr::from(u64::from(cell.unsigned_abs()));
                if *cell < 0 { -size } else { size }
            };
            let expected: Vec<Fr> = host.iter().map(cell).collect();
            assert_eq!(cuda.read_column(key, column).unwrap(), expected);
        }
        sent
    }

    #[test]
    fn weights_are_sent_once_while_the_host_has_them() {
        lamina_kernels_emu::install(Mode::Host);
        let cuda = Cuda::open(0).unwrap();
        assert_eq!(cuda.name(), "cuda: emulation, host code");
        let key = load(&cuda);
        // Of 8 and of 16 bits.
        let (narrow, wide) = (weights(-40), weights(1000));
        let (n, w) = (ROWS as u64, 2 * ROWS as u64);
        assert_eq!(sent(&cuda, &key, &[&narrow, &wide]), n + w);
        assert_eq!(sent(&cuda, &key, &[&wide, &narrow]), 0);
        // Equal values elsewhere are not known to be equal; what is missing is sent beside what is there.
        let copy = Arc::new(Vec::clone(&narrow));
        assert_eq!(sent(&cuda, &key, &[&wide, &copy, &narrow]), n);
        // Nobody has them any more: whatever comes to lie there is another column.
        drop(copy);
        for first in 0..8 {
            let other = weights(-first);
            assert_eq!(sent(&cuda, &key, &[&other]), n);
            assert!(cuda.resident.list().len() <= 3);
        }
        // Another stream has memory of its own.
        let fork = cuda.fork().unwrap();
        let key_of_fork = load(&fork);
        assert_eq!(sent(&fork, &key_of_fork, &[&narrow]), n);
        assert_eq!(sent(&cuda, &key, &[&narrow]), 0);
        cuda.forget();
        assert_eq!(sent(&cuda, &key, &[&narrow]), n);
    }

    #[test]
    fn weights_stay_as_far_as_they_may() {
        lamina_kernels_emu::install(Mode::Host);
        let mut cuda = Cuda::open(0).unwrap();
        cuda.weight_bytes = 3 * ROWS;
        let key = load(&cuda);
        let (narrow, wide, more) = (weights(-40), weights(1000), weights(-39));
        assert_eq!(sent(&cuda, &key, &[&narrow, &wide, &more]), 4 * ROWS as u64);
        // The last had no room.
        assert_eq!(sent(&cuda, &key, &[&narrow, &wide, &more]), ROWS as u64);
        drop(wide);
        // It has now.
        assert_eq!(sent(&cuda, &key, &[&more]), ROWS as u64);
        assert_eq!(sent(&cuda, &key, &[&more, &narrow]), 0);
        cuda.forget();
        cuda.weight_bytes = 0;
        let key = load(&cuda);
        assert_eq!([(); 2].map(|()| sent(&cuda, &key, &[&narrow])), [ROWS as u64; 2]);
    }
}
