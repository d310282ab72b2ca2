//! Permutation products, by their definition.

use std::sync::Arc;

use ff::{Field, PrimeField};
use lamina_circuits::Fr;
use lamina_kernels::{Column, Error, Ntt, Permutation};

use crate::common::{Integer, cells, device, elements};

#[test]
fn products_run_from_set_to_set() {
    let device = device();
    // Several tiles of a scan in the last.
    for (log_n, count, size, short) in [(3, 1usize, 1, 1), (5, 5, 2, 3), (11, 7, 3, 6)] {
        let ntt = Ntt::new(&device, log_n).unwrap();
        let n = 1usize << log_n;
        let u = n - short;
        let integers: Vec<Vec<i16>> = (0..count).map(|seed| cells(n, seed as u8)).collect();
        let sigmas: Vec<Vec<Fr>> = (0..count).map(|seed| elements(n, 50 + seed as u8)).collect();
        let columns: Vec<Column> =
            integers.iter().map(|cells| Column::new(&device, n, cells, &[]).unwrap()).collect();
        let on_device: Vec<Column> =
            sigmas.iter().map(|sigma| Column::new(&device, n, sigma, &[]).unwrap()).collect();
        let [beta, gamma] = [elements::<Fr>(30, 1)[29], elements::<Fr>(30, 2)[29]];
        let sets = count.div_ceil(size);
        let tails: Vec<Vec<Fr>> = (0..sets).map(|seed| elements(n - u - 1, 90 + seed as u8)).collect();
        let permutation = Permutation {
            columns: &columns.iter().collect::<Vec<_>>(),
            sigmas: &on_device.iter().collect::<Vec<_>>(),
            size,
            usable: u,
            beta,
            gamma,
        };
        let out = device.permutation_products(&ntt, &permutation, &tails).unwrap();
        let out: Vec<Vec<Fr>> = Arc::clone(&out).to_columns(&device).unwrap();
        let mut z = Fr::ONE;
        for set in 0..sets {
            for i in 0..=u {
                assert_eq!(out[set][i], z, "set {set}, row {i} of 2^{log_n}");
                if i == u {
                    break;
                }
                for j in set * size..count.min((set + 1) * size) {
                    let value = integers[j][i].to_field();
                    let own = Fr::DELTA.pow_vartime([j as u64]) * ntt.omega().pow_vartime([i as u64]);
                    z *= value + beta * own + gamma;
                    z *= (value + beta * sigmas[j][i] + gamma).invert().unwrap();
                }
            }
            assert_eq!(out[set][u + 1..], tails[set]);
        }
        let error = device.permutation_products(&ntt, &Permutation { size: 0, ..permutation }, &tails);
        assert!(matches!(error, Err(Error::Shape { .. })));
        let error = device.permutation_products(&ntt, &permutation, &[]);
        assert!(matches!(error, Err(Error::Shape { .. })));
    }
}
