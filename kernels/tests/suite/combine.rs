//! Linear combinations of columns.

use ff::Field;
use lamina_circuits::Fr;

use crate::common::{Integer, cells, device, elements, matrix};

fn check<T: Integer>(columns: usize, rows: usize, coefficients: &[Fr]) {
    let device = device();
    let cells: Vec<Vec<T>> = (0..columns).map(|seed| cells(rows, seed as u8)).collect();
    let out = device.combine(&matrix(&device, &cells), coefficients).unwrap();
    assert_eq!((out.columns(), out.rows()), (1, rows));
    let out = out.column(&device, 0).unwrap();
    for (row, out) in out.iter().enumerate() {
        let expected: Fr = cells.iter().zip(coefficients).map(|(column, c)| column[row].to_field() * c).sum();
        assert_eq!(*out, expected, "{columns} columns, row {row} of {rows}");
    }
}

fn sizes<T: Integer>() {
    for (columns, rows) in [(1, 1), (3, 2), (16, 255), (17, 513), (40, 1000), (300, 70), (1100, 5)] {
        check::<T>(columns, rows, &elements(columns, 1));
    }
}

#[test]
fn integers_of_8_bits() {
    sizes::<i8>();
}

#[test]
fn integers_of_16_bits() {
    sizes::<i16>();
}

#[test]
fn integers_of_32_bits() {
    sizes::<i32>();
}

#[test]
fn field_elements() {
    sizes::<Fr>();
}

/// Sums of ten words: the largest coefficients, the largest integers, many columns.
#[test]
fn nothing_overflows() {
    let device = device();
    for value in [i32::MIN, i32::MAX] {
        // Montgomery form p - 1.
        let largest = -Fr::from(2).pow_vartime([256u64]).invert().unwrap();
        let columns = vec![vec![value; 3]; 3000];
        let out = device.combine(&matrix(&device, &columns), &vec![largest; 3000]).unwrap();
        let expected = value.to_field() * largest * Fr::from(3000);
        assert_eq!(out.column(&device, 0).unwrap(), [expected; 3]);
    }
}
