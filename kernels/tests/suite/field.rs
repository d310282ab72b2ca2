//! Arithmetic of both fields, against arkworks.

use ark_ff::BigInteger;
use ff::{Field, PrimeField};
use halo2_proofs::halo2curves::bn256::Fq;
use lamina_circuits::Fr;
use lamina_kernels::Operation;

use crate::common::{device, edges, elements, single};

const OPERATIONS: [Operation; 3] = [Operation::Add, Operation::Subtract, Operation::Multiply];

/// All pairs of edge values with each other and with random ones.
fn pairs<F: Field + From<u64>>() -> (Vec<F>, Vec<F>) {
    let all: Vec<F> = elements(200, 1);
    edges::<F>().iter().flat_map(|a| all.iter().map(|b| (*a, *b))).unzip()
}

fn theirs<A: ark_ff::PrimeField, F: PrimeField<Repr: AsRef<[u8]>>>(v: &F) -> A {
    A::from_le_bytes_mod_order(v.to_repr().as_ref())
}

fn expected<A: ark_ff::PrimeField, F: PrimeField<Repr: AsRef<[u8]>>>(op: Operation, a: &F, b: &F) -> Vec<u8> {
    let (a, b) = (theirs::<A, F>(a), theirs::<A, F>(b));
    let result = match op {
        Operation::Add => a + b,
        Operation::Subtract => a - b,
        Operation::Multiply => a * b,
    };
    result.into_bigint().to_bytes_le()
}

#[test]
fn the_scalar_field_is_that_of_arkworks() {
    let device = device();
    let (a, b) = pairs::<Fr>();
    let (x, y) = (single(&device, &a), single(&device, &b));
    for op in OPERATIONS {
        let out = device.elementwise(op, &x, &y).unwrap().column(&device, 0).unwrap();
        for ((a, b), out) in a.iter().zip(&b).zip(&out) {
            assert_eq!(out.to_repr().as_ref(), expected::<ark_bn254::Fr, _>(op, a, b), "{op:?} {a:?} {b:?}");
        }
    }
}

#[test]
fn the_base_field_is_that_of_arkworks() {
    let device = device();
    let (a, b) = pairs::<Fq>();
    for op in OPERATIONS {
        let out = device.base_field(op, &a, &b).unwrap();
        for ((a, b), out) in a.iter().zip(&b).zip(&out) {
            assert_eq!(out.to_repr().as_ref(), expected::<ark_bn254::Fq, _>(op, a, b), "{op:?} {a:?} {b:?}");
        }
    }
}

/// Values stay below twice the modulus through any number of products.
#[test]
fn chains_of_products_stay_reduced() {
    let device = device();
    let a: Vec<Fr> = elements(300, 2);
    for rounds in [0, 1, 2, 33] {
        let out = device.chain(&single(&device, &a), rounds).unwrap().column(&device, 0).unwrap();
        let expected: Vec<Fr> = a.iter().map(|a| a.pow_vartime([u64::from(rounds) + 1])).collect();
        assert!(out == expected, "{rounds}");
    }
}
