//! What is refused, and how.

use ff::Field;
use lamina_circuits::Fr;
use lamina_kernels::{Device, Error, Matrix, Msm, Ntt, Operation, PTX, Plan};

use crate::common::{device, emulation, matrix};

#[test]
fn a_device_that_is_not_there_is_a_typed_error() {
    device();
    let error = Device::open(1000).unwrap_err();
    assert!(matches!(error, Error::NoDevice { ordinal: 1000, .. }), "{error}");
}

#[test]
fn the_ptx_runs_on_old_devices() {
    assert!(PTX.contains(".target sm_75"));
    assert!(PTX.contains(".version 8.0"));
    for forbidden in [".local", ".shared .align", "call"] {
        assert!(!PTX.contains(&format!("\n{forbidden}")), "{forbidden}");
    }
}

#[test]
fn columns_come_back_as_they_were() {
    let device = device();
    let columns = vec![vec![i16::MIN, 0, i16::MAX], vec![1, 2, 3]];
    let m = matrix(&device, &columns);
    assert_eq!((m.columns(), m.rows()), (2, 3));
    assert_eq!(m.to_columns(&device).unwrap(), columns);
    let empty: Matrix<Fr> = matrix(&device, &[]);
    assert_eq!(empty.to_columns(&device).unwrap(), Vec::<Vec<Fr>>::new());
}

#[test]
fn shapes_that_do_not_fit_are_typed_errors() {
    let device = device();
    let two = matrix(&device, &[vec![Fr::ONE; 4], vec![Fr::ONE; 4]]);
    let one = matrix(&device, &[vec![Fr::ONE; 4]]);
    let shape = |error: Error| assert!(matches!(error, Error::Shape { .. }), "{error}");
    shape(Matrix::from_columns(&device, &[&[1i8][..], &[1, 2]]).unwrap_err());
    shape(device.elementwise(Operation::Add, &one, &two).unwrap_err());
    shape(Ntt::new(&device, 1).unwrap_err());
    shape(Ntt::new(&device, 25).unwrap_err());
    let ntt = Ntt::new(&device, 2).unwrap();
    shape(ntt.values(&matrix(&device, &[vec![Fr::ONE; 5]])).unwrap_err());
    shape(ntt.coset(Fr::ZERO).unwrap_err());
    let other = Ntt::new(&device, 3).unwrap().coset(Fr::from(7)).unwrap();
    shape(ntt.values_on(&other, &one).unwrap_err());
    let msm = Msm::new(&device, &[]).unwrap();
    shape(msm.multiply(0, &one).unwrap_err());
    let none = matrix::<i16>(&device, &[vec![]]);
    shape(msm.multiply_as(Plan { window: 5, windows: 3 }, 0, &none).unwrap_err());
    shape(msm.multiply_as(Plan { window: 16, windows: 1 }, 0, &none).unwrap_err());
}

#[test]
fn a_full_device_is_a_typed_error() {
    if emulation().is_none() {
        return; // not on a device that others may use too
    }
    let device = device();
    let (free, _) = device.memory_bytes().unwrap();
    let column = vec![0i8; 1 << 20];
    let columns = vec![&column[..]; free / (1 << 20) + 1];
    let error = Matrix::from_columns(&device, &columns).unwrap_err();
    assert!(matches!(error, Error::Memory { .. }), "{error}");
    // Nothing is lost, and the device goes on.
    assert_eq!(device.memory_bytes().unwrap().0, free);
    let three = matrix(&device, &[vec![Fr::from(3)]]);
    let sum = device.elementwise(Operation::Add, &three, &three).unwrap();
    assert_eq!(sum.column(&device, 0).unwrap(), [Fr::from(6)]);
}

#[test]
fn time_is_taken_and_work_counted() {
    let device = device();
    let a = matrix(&device, &[vec![Fr::from(3); 5]]);
    let begin = device.mark().unwrap();
    let out = device.chain(&a, 2).unwrap();
    let end = device.mark().unwrap();
    let (ms, work) = device.between(&begin, &end).unwrap();
    assert!(ms >= 0.0);
    assert_eq!((work.launches, work.kernel_bytes, work.multiply_adds), (1, 5 * 64, 5 * 2 * 139));
    assert_eq!(out.column(&device, 0).unwrap(), [Fr::from(27); 5]);
}
