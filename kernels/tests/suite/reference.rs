//! The prover's steps that these kernels are for, against its naive backend.

use ff::{Field, PrimeField};
use halo2_proofs::poly::kzg::commitment::ParamsKZG;
use lamina_circuits::{Fr, witness::Column};
use lamina_kernels::{Msm, Ntt};
use lamina_prover::{
    Bases, Reference,
    backend::{Backend, Setup, Shape},
    expression::Identity,
};

use crate::common::{Integer, cells, device, elements, matrix, rng, single, to_field};

#[test]
fn transforms_cosets_and_commitments_are_those_of_the_reference() {
    let device = device();
    let k = 5;
    let n = 1usize << k;
    let bases = Bases::new(&ParamsKZG::setup(k, rng(1)), k).unwrap();
    let identity = Identity::empty(0);
    let shape = Shape { columns: 0, products: 0, openings: 0, points: 0, identity: &identity };
    let setup = Setup { bases: &bases, degree: 5, usable: n - 6, fixed: &[], sigma: &[], shape };
    assert_eq!(Reference.name(), "reference");
    let key = Reference.load(&setup).unwrap();
    let ntt = Ntt::new(&device, k).unwrap();
    let (lagrange, monomial) =
        (Msm::new(&device, &bases.lagrange).unwrap(), Msm::new(&device, &bases.monomial).unwrap());

    let check = |column: Column, values: Vec<Fr>, commitment| {
        let column = Reference.columns(&key, vec![column]).unwrap().swap_remove(0);
        assert_eq!(commitment, Reference.commit(&key, &[&column]).unwrap());
        let poly = Reference.coefficients(&key, &column).unwrap();
        let coefficients = ntt.coefficients(&matrix(&device, &[values])).unwrap();
        assert_eq!(coefficients.column(&device, 0).unwrap(), poly);
        assert_eq!(
            monomial.multiply(0, &coefficients).unwrap(),
            Reference.commit_polys(&key, &[&poly]).unwrap()
        );
        for j in 0..4 {
            let coset = ntt.coset(Fr::MULTIPLICATIVE_GENERATOR.pow_vartime([j as u64 + 1])).unwrap();
            let out = ntt.values_on(&coset, &coefficients).unwrap();
            assert_eq!(out.column(&device, 0).unwrap(), Reference.coset(&key, &poly, j).unwrap());
        }
    };
    let (short, long, field) = (cells::<i16>(n, 1), cells::<i32>(n, 2), elements::<Fr>(n, 3));
    let sums = lagrange.multiply(0, &single(&device, &short)).unwrap();
    check(Column::I16(short.clone().into()), to_field(&short), sums);
    let sums = lagrange.multiply(0, &single(&device, &long)).unwrap();
    check(Column::I32(long.clone().into()), to_field(&long), sums);
    let sums = lagrange.multiply(0, &single(&device, &field)).unwrap();
    check(Column::Field(field.clone()), field.iter().map(|v| v.to_field()).collect(), sums);
}
