//! Transforms, against arkworks and each other.

use ark_ff::{BigInteger, Field as _, PrimeField as _};
use ark_poly::{EvaluationDomain, Radix2EvaluationDomain};
use ff::{Field, PrimeField};
use lamina_circuits::Fr;
use lamina_kernels::{Error, Ntt};

use crate::common::{cells, device, elements, matrix, single, to_field};

type Theirs = ark_bn254::Fr;

fn theirs(v: &Fr) -> Theirs {
    Theirs::from_le_bytes_mod_order(v.to_repr().as_ref())
}

fn ours(v: &Theirs) -> Fr {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(&v.into_bigint().to_bytes_le());
    Fr::from_repr(bytes).unwrap()
}

/// arkworks' domain with halo2's root.
fn domain(n: usize, omega: Fr, offset: Fr) -> Radix2EvaluationDomain<Theirs> {
    let mut domain = Radix2EvaluationDomain::<Theirs>::new(n).unwrap();
    domain.group_gen = theirs(&omega);
    domain.group_gen_inv = domain.group_gen.inverse().unwrap();
    let offset = theirs(&offset);
    domain.get_coset(offset).unwrap()
}

fn values(n: usize, omega: Fr, offset: Fr, coefficients: &[Fr]) -> Vec<Fr> {
    let coefficients: Vec<Theirs> = coefficients.iter().map(theirs).collect();
    domain(n, omega, offset).fft(&coefficients).iter().map(ours).collect()
}

/// Every way to split a size into passes, with several columns and inputs shorter than the domain.
#[test]
fn transforms_are_those_of_arkworks() {
    let device = device();
    for log_n in (2..=12).chain([14]) {
        let n = 1usize << log_n;
        let ntt = Ntt::new(&device, log_n).unwrap();
        for rows in [n, n - 1, n / 2 + 1, 1] {
            let columns: Vec<Vec<Fr>> = (0..3).map(|seed| elements(rows, seed)).collect();
            let input = matrix(&device, &columns);
            let out = ntt.values(&input).unwrap();
            for (at, column) in columns.iter().enumerate() {
                let out = out.column(&device, at).unwrap();
                assert!(
                    out == values(n, ntt.omega(), Fr::ONE, column),
                    "2^{log_n}, {rows} rows, column {at}"
                );
            }
            let mut back = ntt.coefficients(&out).unwrap().to_columns(&device).unwrap();
            for (back, column) in back.iter_mut().zip(&columns) {
                assert!(back[rows..].iter().all(|v| *v == Fr::ZERO));
                back.truncate(rows);
                assert!(back == column, "2^{log_n}, {rows} rows, back");
            }
        }
    }
}

#[test]
fn cosets_are_those_of_arkworks() {
    let device = device();
    for log_n in [3, 8, 11] {
        let n = 1usize << log_n;
        let ntt = Ntt::new(&device, log_n).unwrap();
        let columns: Vec<Vec<Fr>> = (0..2).map(|seed| elements(n, seed)).collect();
        let input = matrix(&device, &columns);
        for generator in [Fr::ONE, Fr::from(7), -Fr::ONE, ntt.omega()] {
            let coset = ntt.coset(generator).unwrap();
            let out = ntt.values_on(&coset, &input).unwrap();
            for (at, column) in columns.iter().enumerate() {
                let expected = values(n, ntt.omega(), generator, column);
                assert!(out.column(&device, at).unwrap() == expected, "2^{log_n}, column {at}");
            }
            assert!(ntt.coefficients_from(&coset, &out).unwrap().to_columns(&device).unwrap() == columns);
        }
    }
}

fn integers_are_transformed_as_they_are<T: crate::common::Integer>() {
    let device = device();
    let (log_n, rows) = (9, 300);
    let ntt = Ntt::new(&device, log_n).unwrap();
    let columns: Vec<Vec<T>> = (0..3).map(|seed| cells(rows, seed)).collect();
    let fields: Vec<Vec<Fr>> = columns.iter().map(|column| to_field(column)).collect();
    let (integers, fields) = (matrix(&device, &columns), matrix(&device, &fields));
    let read = |m: lamina_kernels::Matrix<Fr>| m.to_columns(&device).unwrap();
    assert!(read(ntt.coefficients(&integers).unwrap()) == read(ntt.coefficients(&fields).unwrap()));
    let coset = ntt.coset(Fr::from(7)).unwrap();
    assert!(read(ntt.values_on(&coset, &integers).unwrap()) == read(ntt.values_on(&coset, &fields).unwrap()));
}

#[test]
fn integers_of_8_bits_are_transformed_as_they_are() {
    integers_are_transformed_as_they_are::<i8>();
}

#[test]
fn integers_of_16_bits_are_transformed_as_they_are() {
    integers_are_transformed_as_they_are::<i16>();
}

#[test]
fn integers_of_32_bits_are_transformed_as_they_are() {
    integers_are_transformed_as_they_are::<i32>();
}

/// Three passes: a root to the power i is a column of one 1, and back.
#[test]
fn large_transforms() {
    let device = device();
    let log_n = 17;
    let n = 1usize << log_n;
    let ntt = Ntt::new(&device, log_n).unwrap();
    let mut column = vec![0i8; n];
    column[12345] = 1;
    let out = ntt.values(&single(&device, &column)).unwrap();
    let values = out.column(&device, 0).unwrap();
    let (step, mut expected) = (ntt.omega().pow_vartime([12345u64]), Fr::ONE);
    for value in values {
        assert_eq!(value, expected);
        expected *= step;
    }
    let back = ntt.coefficients(&out).unwrap().column(&device, 0).unwrap();
    assert!(back == to_field(&column));
}

#[test]
fn columns_of_a_matrix_are_transformed_alone() {
    let device = device();
    let ntt = Ntt::new(&device, 9).unwrap();
    let coset = ntt.coset(Fr::from(7)).unwrap();
    let columns: Vec<Vec<Fr>> = (0..5).map(|seed| elements(512, seed)).collect();
    let whole = matrix(&device, &columns);
    let coefficients = ntt.coefficients(&whole).unwrap();
    // In two parts, the last first.
    let mut parts = matrix(&device, &vec![vec![Fr::ONE; 512]; 5]);
    ntt.coefficients_to(&mut parts, 2, &matrix(&device, &columns[2..])).unwrap();
    ntt.coefficients_to(&mut parts, 0, &matrix(&device, &columns[..2])).unwrap();
    let expected = coefficients.to_columns(&device).unwrap();
    assert!(parts.to_columns(&device).unwrap() == expected);
    let mut values = matrix(&device, &vec![vec![Fr::ONE; 512]; 6]);
    ntt.values_on_to(&coset, &mut values, 1, &parts, 3..5).unwrap();
    ntt.values_on_to(&coset, &mut values, 4, &parts, 0..2).unwrap();
    ntt.values_on_to(&coset, &mut values, 0, &parts, 2..2).unwrap();
    let expected = ntt.values_on(&coset, &coefficients).unwrap().to_columns(&device).unwrap();
    let ones = vec![Fr::ONE; 512];
    let actual = values.to_columns(&device).unwrap();
    for (at, expected) in
        [&ones, &expected[3], &expected[4], &ones, &expected[0], &expected[1]].into_iter().enumerate()
    {
        assert!(actual[at] == *expected, "column {at}");
    }
    // Columns that are not there, of either, and rows that are not.
    let shape = |result: Result<(), Error>| assert!(matches!(result, Err(Error::Shape { .. })), "{result:?}");
    shape(ntt.values_on_to(&coset, &mut values, 0, &parts, 4..6));
    shape(ntt.values_on_to(&coset, &mut values, 5, &parts, 0..2));
    shape(ntt.coefficients_to(&mut values, 7, &parts));
    shape(ntt.coefficients_to(&mut matrix(&device, &vec![vec![Fr::ONE; 256]; 5]), 0, &parts));
}
