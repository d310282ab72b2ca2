//! The device of the suite, and test data with edge values.

use ff::Field;
use lamina_circuits::Fr;
use lamina_kernels::{Cell, Device, Matrix};
use lamina_kernels_emu::Mode;
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

/// The emulation that was asked for; `None` for a real device.
pub fn emulation() -> Option<Mode> {
    match std::env::var("LAMINA_TEST_DEVICE").as_deref() {
        Err(_) | Ok("host") => Some(Mode::Host),
        Ok("ptx") => Some(Mode::Ptx),
        Ok("cuda") => None,
        Ok(other) => panic!("LAMINA_TEST_DEVICE is host, ptx or cuda, not {other}"),
    }
}

/// The device that was asked for, and no other. Every buffer of it is allocated and freed by itself, so that uses of one that is gone
/// are seen.
pub fn device() -> Device {
    let device = keeping_device();
    device.keep_at_most(0);
    device
}

/// The device as provers have it: what buffers leave behind is kept.
pub fn keeping_device() -> Device {
    match emulation() {
        Some(mode) => {
            lamina_kernels_emu::install(mode);
            let device = Device::open(0).unwrap();
            assert_eq!(device.name(), mode.device_name());
            device
        }
        None => {
            let device = Device::open(0).expect("LAMINA_TEST_DEVICE=cuda, and there is no device to test");
            assert!(!device.name().starts_with("emulation"), "{}", device.name());
            device
        }
    }
}

pub fn rng(seed: u8) -> ChaCha20Rng {
    ChaCha20Rng::from_seed([seed; 32])
}

/// What carries and reductions stumble over.
pub fn edges<F: Field + From<u64>>() -> Vec<F> {
    let two = F::ONE.double();
    let half = two.invert().unwrap();
    let power = |e: u64| two.pow_vartime([e]);
    let mut list =
        vec![F::ZERO, F::ONE, -F::ONE, two, -two, half, -half, F::from(u64::MAX), -F::from(u64::MAX)];
    // Montgomery forms 1, R^2 and neighbours of powers of two.
    let r = power(256);
    list.extend([r, r.invert().unwrap(), -r, r.square()]);
    list.extend([31, 32, 63, 64, 127, 128, 224, 253].map(power));
    list.extend([32, 64, 128, 224, 253].map(|e| power(e) - F::ONE));
    list
}

/// Edge values, then random ones.
pub fn elements<F: Field + From<u64>>(n: usize, seed: u8) -> Vec<F> {
    let mut rng = rng(seed);
    edges().into_iter().chain(std::iter::repeat_with(|| F::random(&mut rng))).take(n).collect()
}

/// An integer of a column, and the field element that it is.
pub trait Integer: Cell + PartialEq + std::fmt::Debug + 'static {
    const EDGES: &'static [Self];
    fn from_word(word: u32) -> Self;
    fn to_field(self) -> Fr;
}

macro_rules! integer {
    ($($t:ty),*) => {$(
        impl Integer for $t {
            const EDGES: &'static [Self] = &[0, 1, -1, <$t>::MAX, <$t>::MIN, <$t>::MIN + 1, <$t>::MAX / 2 + 1, <$t>::MIN / 2];
            fn from_word(word: u32) -> Self {
                word as $t
            }
            fn to_field(self) -> Fr {
                let size = Fr::from(u64::from(self.unsigned_abs()));
                if self < 0 { -size } else { size }
            }
        }
    )*};
}
integer!(i8, i16, i32);

impl Integer for Fr {
    const EDGES: &'static [Self] = &[];
    fn from_word(word: u32) -> Self {
        // Any element: words are random.
        Fr::from(u64::from(word)).square().square().square() - Fr::ONE
    }
    fn to_field(self) -> Fr {
        self
    }
}

/// Edge values, then random ones.
pub fn cells<T: Integer>(n: usize, seed: u8) -> Vec<T> {
    let mut rng = rng(seed);
    T::EDGES.iter().copied().chain(std::iter::repeat_with(|| T::from_word(rng.next_u32()))).take(n).collect()
}

pub fn to_field<T: Integer>(cells: &[T]) -> Vec<Fr> {
    cells.iter().map(|cell| cell.to_field()).collect()
}

pub fn matrix<T: Cell>(device: &Device, columns: &[Vec<T>]) -> Matrix<T> {
    let columns: Vec<&[T]> = columns.iter().map(Vec::as_slice).collect();
    Matrix::from_columns(device, &columns).unwrap()
}

/// One column.
pub fn single<T: Cell>(device: &Device, column: &[T]) -> Matrix<T> {
    Matrix::from_columns(device, &[column]).unwrap()
}
