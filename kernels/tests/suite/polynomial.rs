//! Values of polynomials and their division, against arkworks.

use ark_ff::{BigInt, PrimeField as _};
use ark_poly::{
    DenseUVPolynomial, Polynomial,
    univariate::{DenseOrSparsePolynomial, DensePolynomial},
};
use ff::{Field, PrimeField};
use lamina_circuits::Fr;

use crate::common::{device, elements, single};

type Ark = ark_bn254::Fr;

fn ark(v: &Fr) -> Ark {
    Ark::from_le_bytes_mod_order(v.to_repr().as_ref())
}

fn from_ark(v: &Ark) -> Fr {
    let BigInt(words) = v.into_bigint();
    let mut repr = <Fr as PrimeField>::Repr::default();
    for (bytes, word) in repr.as_mut().chunks_mut(8).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    Fr::from_repr(repr).unwrap()
}

#[test]
fn values_and_quotients_are_arkworks() {
    let device = device();
    for len in [1, 2, 3, 33, 1024, 1025, 3000] {
        let poly = elements::<Fr>(len, 1);
        let on_device = single(&device, &poly);
        let reference = DensePolynomial::from_coefficients_vec(poly.iter().map(ark).collect());
        for root in [Fr::ONE, -Fr::ONE, elements::<Fr>(30, 2)[29], Fr::ZERO] {
            let value = device.evaluate_polys(&[&on_device], root).unwrap()[0];
            assert_eq!(value, from_ark(&reference.evaluate(&ark(&root))), "{len}");
            let divisor = DensePolynomial::from_coefficients_vec(vec![-ark(&root), Ark::from(1u64)]);
            let by = DenseOrSparsePolynomial::from(&divisor);
            let (quotient, _) = DenseOrSparsePolynomial::from(&reference).divide_with_q_and_r(&by).unwrap();
            let mut expected: Vec<Fr> = quotient.coeffs.iter().map(from_ark).collect();
            expected.resize(len - 1, Fr::ZERO);
            let out = device.divide(&[(&on_device, root)]).unwrap();
            assert_eq!(out.rows(), len - 1);
            assert_eq!(out.column(&device, 0).unwrap(), expected, "{len}");
        }
    }
    let empty = single::<Fr>(&device, &[]);
    assert_eq!(device.evaluate_polys(&[&empty], Fr::ONE).unwrap(), [Fr::ZERO]);
    assert_eq!(device.divide(&[(&empty, Fr::ONE)]).unwrap().rows(), 0);
    assert_eq!(device.divide(&[]).unwrap().rows(), 0);
}

#[test]
fn quotients_of_different_lengths_are_summed() {
    let device = device();
    let lengths = [700, 9, 1, 2, 1029, 1028, 0];
    let roots: Vec<Fr> = [Fr::ZERO, -Fr::ONE, Fr::ONE, Fr::ZERO].into_iter().chain(elements(40, 3)).collect();
    let polys: Vec<_> = lengths.iter().map(|len| elements::<Fr>(*len, *len as u8)).collect();
    let on_device: Vec<_> = polys.iter().map(|poly| single(&device, poly)).collect();
    let terms: Vec<_> =
        on_device.iter().zip(roots[roots.len() - 3..].iter().chain(&roots).copied()).collect();
    let mut expected = vec![Fr::ZERO; 1028];
    for (poly, (_, root)) in polys.iter().zip(&terms) {
        // Horner's rule: what is carried from a coefficient to the next is the quotient's.
        let mut carry = Fr::ZERO;
        for (i, coefficient) in poly.iter().enumerate().rev() {
            if i + 1 < poly.len() {
                expected[i] += carry;
            }
            carry = carry * root + coefficient;
        }
    }
    let out = device.divide(&terms).unwrap();
    assert_eq!(out.column(&device, 0).unwrap(), expected);
}

#[test]
fn polynomials_side_by_side() {
    let device = device();
    let (long, short) = (elements::<Fr>(9, 1), elements::<Fr>(4, 2));
    let out = device.stack(&[&single(&device, &long), &single(&device, &short)], 9).unwrap();
    let mut padded = short;
    padded.resize(9, Fr::ZERO);
    assert_eq!(out.to_columns(&device).unwrap(), [long, padded]);
}
