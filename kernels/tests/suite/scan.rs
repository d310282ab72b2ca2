//! Running sums and products, and inverses.

use ff::Field;
use lamina_circuits::Fr;
use lamina_kernels::Join;

use crate::common::{device, elements, matrix, single};

fn expected(join: Join, column: &[Fr]) -> Vec<Fr> {
    let mut value = if join == Join::Sum { Fr::ZERO } else { Fr::ONE };
    column
        .iter()
        .map(|v| {
            let before = value;
            match join {
                Join::Sum => value += v,
                Join::Product => value *= v,
            }
            before
        })
        .collect()
}

#[test]
fn running_sums_and_products() {
    let device = device();
    for n in [1, 2, 31, 33, 1023, 1024, 1025, 3000] {
        // Without zeros for products to die of: edges but the first.
        let columns: Vec<Vec<Fr>> = (0..3).map(|seed| elements(n + 1, seed)[1..].to_vec()).collect();
        let input = matrix(&device, &columns);
        for join in [Join::Sum, Join::Product] {
            let out = device.scan(join, &input).unwrap().to_columns(&device).unwrap();
            for (at, column) in columns.iter().enumerate() {
                assert!(out[at] == expected(join, column), "{join:?} of {n}, column {at}");
            }
        }
    }
}

/// More tiles than the scan of the totals takes at once.
#[test]
fn long_columns() {
    let device = device();
    let n = 258 * 1024 + 5;
    let column: Vec<Fr> = (0..n as u64).map(|i| Fr::from(i) - Fr::from(1000)).collect();
    let out = device.scan(Join::Sum, &single(&device, &column)).unwrap();
    assert!(out.column(&device, 0).unwrap() == expected(Join::Sum, &column));
}

#[test]
fn inverses_and_zeros() {
    let device = device();
    for n in [1, 2, 31, 257, 4095, 4097] {
        let mut column: Vec<Fr> = elements(n, 1);
        for i in (0..n).step_by(13) {
            column[i] = Fr::ZERO;
        }
        let columns = [column, vec![Fr::ZERO; n]];
        let out = device.invert(&matrix(&device, &columns)).unwrap().to_columns(&device).unwrap();
        for (column, out) in columns.iter().zip(&out) {
            for (v, out) in column.iter().zip(out) {
                assert_eq!(*out, v.invert().unwrap_or(Fr::ZERO), "{n}");
            }
        }
    }
}
