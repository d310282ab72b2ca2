//! `cargo bench -p lamina-benches --bench primitives [MSM|transform]`: commitments and transforms beside the libraries
//! that others build on, in the same run and on the same values. Every result is compared before it is timed.

use std::{hint::black_box, sync::Arc};

use ark_ec::{AffineRepr, CurveGroup, VariableBaseMSM};
use ark_ff::{BigInt, PrimeField as _};
use ark_poly::{EvaluationDomain as _, Radix2EvaluationDomain};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ff::PrimeField;
use group::Curve;
use halo2_proofs::{
    arithmetic::best_multiexp,
    halo2curves::{CurveAffine, bn256::G1Affine},
    poly::EvaluationDomain,
};
use lamina_circuits::{Fr, block::DEGREE, testing::Generator, witness::Column};
use lamina_prover::{
    Backend, BackendError, Bases, Cpu, Kernels,
    backend::{HostColumn, Setup, Shape},
    expression::Identity,
    srs::Srs,
};

/// Columns of one call: a prover commits to and transforms many at once.
const COLUMNS: usize = 8;

/// What a column holds.
#[derive(Clone, Copy)]
enum Width {
    Bits(u32),
    Full,
}

impl Width {
    fn name(self) -> String {
        match self {
            Width::Bits(bits) => format!("{bits} bits"),
            Width::Full => "field elements".into(),
        }
    }

    fn column(self, rng: &mut Generator, n: usize) -> Column {
        match self {
            Width::Bits(bits) => {
                let half = 1 << (bits - 1);
                Column::I32(Arc::new((0..n).map(|_| rng.signed(half - 1)).collect()))
            }
            Width::Full => Column::Field((0..n).map(|_| element(rng)).collect()),
        }
    }
}

fn element(rng: &mut Generator) -> Fr {
    Fr::from_raw([rng.next_u64(), rng.next_u64(), rng.next_u64(), rng.next_u64() >> 3])
}

fn field(column: &Column) -> Vec<Fr> {
    let signed = |v: i32| if v < 0 { -Fr::from(u64::from(v.unsigned_abs())) } else { Fr::from(v as u64) };
    match column {
        Column::I16(v) => v.iter().map(|&v| signed(v.into())).collect(),
        Column::I32(v) => v.iter().map(|&v| signed(v)).collect(),
        Column::Field(v) => v.clone(),
    }
}

fn ark_scalar(v: &Fr) -> ark_bn254::Fr {
    ark_bn254::Fr::from_le_bytes_mod_order(v.to_repr().as_ref())
}

fn ark_point(p: &G1Affine) -> ark_bn254::G1Affine {
    let Some(c) = Option::from(p.coordinates()) else { return ark_bn254::G1Affine::zero() };
    let c: halo2_proofs::halo2curves::Coordinates<G1Affine> = c;
    let coordinate = |v: &halo2_proofs::halo2curves::bn256::Fq| {
        ark_bn254::Fq::from_le_bytes_mod_order(v.to_repr().as_ref())
    };
    ark_bn254::G1Affine::new(coordinate(c.x()), coordinate(c.y()))
}

/// Affine coordinates as integers, to compare points of two libraries.
fn integers(p: &ark_bn254::G1Affine) -> Option<[BigInt<4>; 2]> {
    p.xy().map(|(x, y)| [x.into_bigint(), y.into_bigint()])
}

/// A column of small integers for arkworks' multiplications by small unsigned scalars: the signs moved to the points.
struct Unsigned {
    bits: u32,
    scalars: Vec<u32>,
    bases: Vec<ark_bn254::G1Affine>,
}

impl Unsigned {
    fn new(width: Width, column: &Column, bases: &[ark_bn254::G1Affine]) -> Option<Unsigned> {
        let (Width::Bits(bits), Column::I32(values)) = (width, column) else { return None };
        let bases = values.iter().zip(bases).map(|(v, base)| if *v < 0 { -*base } else { *base }).collect();
        Some(Unsigned { bits, scalars: values.iter().map(|v| v.unsigned_abs()).collect(), bases })
    }

    /// The multiplication of the narrowest type that holds the scalars.
    fn multiply(&self) -> ark_bn254::G1Affine {
        let Unsigned { bits, scalars, bases } = self;
        let sum = match bits {
            ..=9 => {
                let narrow: Vec<u8> = scalars.iter().map(|v| *v as u8).collect();
                ark_bn254::G1Projective::msm_u8(bases, &narrow)
            }
            ..=17 => {
                let narrow: Vec<u16> = scalars.iter().map(|v| *v as u16).collect();
                ark_bn254::G1Projective::msm_u16(bases, &narrow)
            }
            _ => ark_bn254::G1Projective::msm_u32(bases, scalars),
        };
        sum.into_affine()
    }
}

/// What a backend in the host's memory computed: it never fails.
fn done<T>(result: Result<T, BackendError>) -> T {
    result.unwrap_or_else(|e| panic!("the backend failed: {e}"))
}

/// A backend loaded with bases and no key columns.
struct Loaded {
    name: String,
    cpu: Cpu,
    key: <Cpu as Backend>::Key,
}

impl Loaded {
    fn new(kernels: Kernels, bases: &Bases) -> Self {
        let cpu = Cpu { kernels, ..Cpu::default() };
        let usable = bases.monomial.len() - 6;
        let identity = Identity::empty(0);
        let shape = Shape { columns: 0, products: 0, openings: 0, points: 0, identity: &identity };
        let key = done(cpu.load(&Setup { bases, degree: DEGREE, usable, fixed: &[], sigma: &[], shape }));
        Loaded { name: cpu.name(), cpu, key }
    }

    /// Vector kernels where there are any, and the portable ones.
    fn both(bases: &Bases) -> Vec<Self> {
        let mut all = vec![Self::new(Kernels::Portable, bases)];
        let detected = Self::new(Kernels::Detected, bases);
        if detected.name != all[0].name {
            all.insert(0, detected);
        }
        all
    }

    fn columns(&self, columns: &[Column]) -> Vec<HostColumn> {
        done(self.cpu.columns(&self.key, columns.to_vec()))
    }
}

fn bases(k: u32) -> Bases {
    Srs::generate_insecure(k).unwrap_or_else(|e| panic!("reference string: {e}")).bases().clone()
}

fn msm(c: &mut Criterion) {
    for k in [14, 15, 16] {
        let bases = bases(k);
        let n = 1usize << k;
        let backends = Loaded::both(&bases);
        let ark_bases: Vec<_> = bases.lagrange.iter().map(ark_point).collect();
        for width in [Width::Bits(8), Width::Bits(16), Width::Bits(28), Width::Full] {
            let mut rng = Generator(u64::from(k));
            let columns: Vec<Column> = (0..COLUMNS).map(|_| width.column(&mut rng, n)).collect();
            let scalars: Vec<Vec<Fr>> = columns.iter().map(field).collect();
            let ark_scalars: Vec<Vec<_>> =
                scalars.iter().map(|column| column.iter().map(ark_scalar).collect()).collect();
            let halo2 = || -> Vec<G1Affine> {
                scalars.iter().map(|s| best_multiexp(s, &bases.lagrange).to_affine()).collect()
            };
            let ark = || -> Vec<ark_bn254::G1Affine> {
                ark_scalars
                    .iter()
                    .map(|s| ark_bn254::G1Projective::msm_unchecked(&ark_bases, s).into_affine())
                    .collect()
            };
            let narrow: Vec<Unsigned> =
                columns.iter().filter_map(|column| Unsigned::new(width, column, &ark_bases)).collect();
            let ark_narrow =
                || -> Vec<ark_bn254::G1Affine> { narrow.iter().map(Unsigned::multiply).collect() };
            let expected = halo2();
            let same = |points: Vec<ark_bn254::G1Affine>| {
                expected.iter().zip(points).all(|(a, b)| integers(&ark_point(a)) == integers(&b))
            };
            assert!(same(ark()) && same(ark_narrow()), "halo2curves and arkworks disagree");

            let mut group = c.benchmark_group(format!("MSM of {COLUMNS} columns, {}", width.name()));
            group.sample_size(10).throughput(Throughput::Elements((n * COLUMNS) as u64));
            for backend in &backends {
                let own = backend.columns(&columns);
                let own: Vec<&HostColumn> = own.iter().collect();
                assert_eq!(done(backend.cpu.commit(&backend.key, &own)), expected, "{}", backend.name);
                let id = BenchmarkId::new(format!("ours, {}", backend.name), format!("2^{k}"));
                group.bench_function(id, |b| b.iter(|| backend.cpu.commit(&backend.key, black_box(&own))));
            }
            group.bench_function(BenchmarkId::new("halo2curves", format!("2^{k}")), |b| b.iter(halo2));
            group.bench_function(BenchmarkId::new("arkworks", format!("2^{k}")), |b| b.iter(ark));
            if !narrow.is_empty() {
                let id = BenchmarkId::new("arkworks, small scalars", format!("2^{k}"));
                group.bench_function(id, |b| b.iter(ark_narrow));
            }
            group.finish();
        }
    }
}

/// Inverse transform, then the quotient's `DEGREE - 1` cosets: what every non-linear column pays.
fn transforms(c: &mut Criterion) {
    let cosets = DEGREE - 1;
    for k in [14, 15, 16] {
        let bases = bases(k);
        let n = 1usize << k;
        let mut rng = Generator(u64::from(k));
        let column: Vec<Fr> = (0..n).map(|_| element(&mut rng)).collect();
        let domain = EvaluationDomain::<Fr>::new(DEGREE as u32, k);
        let ark_column: Vec<_> = column.iter().map(ark_scalar).collect();
        let Some(ark_domain) = Radix2EvaluationDomain::<ark_bn254::Fr>::new(n) else {
            panic!("no domain of 2^{k}")
        };
        let Some(ark_cosets) = Radix2EvaluationDomain::new(cosets * n)
            .and_then(|d: Radix2EvaluationDomain<ark_bn254::Fr>| d.get_coset(ark_bn254::Fr::from(7)))
        else {
            panic!("no coset of 2^{k}")
        };

        let mut group = c.benchmark_group("transform back, one column");
        group.sample_size(20).throughput(Throughput::Elements(n as u64));
        for backend in Loaded::both(&bases) {
            let own =
                done(backend.cpu.columns(&backend.key, vec![Column::Field(column.clone())])).swap_remove(0);
            let poly = done(backend.cpu.coefficients(&backend.key, &own));
            let expected = domain.lagrange_to_coeff(domain.lagrange_from_vec(column.clone()));
            assert_eq!(done(backend.cpu.read_poly(&backend.key, &poly)), expected[..], "{}", backend.name);
            let id = BenchmarkId::new(format!("ours, {}", backend.name), format!("2^{k}"));
            group.bench_function(id, |b| b.iter(|| backend.cpu.coefficients(&backend.key, black_box(&own))));
        }
        group.bench_function(BenchmarkId::new("halo2", format!("2^{k}")), |b| {
            b.iter(|| domain.lagrange_to_coeff(domain.lagrange_from_vec(black_box(&column).clone())));
        });
        group.bench_function(BenchmarkId::new("arkworks", format!("2^{k}")), |b| {
            b.iter(|| ark_domain.ifft(black_box(&ark_column)));
        });
        group.finish();

        let mut group = c.benchmark_group(format!("{cosets} cosets of one polynomial"));
        group.sample_size(20).throughput(Throughput::Elements((cosets * n) as u64));
        for backend in Loaded::both(&bases) {
            let poly = done(backend.cpu.poly(&backend.key, column.clone()));
            let id = BenchmarkId::new(format!("ours, {}", backend.name), format!("2^{k}"));
            group.bench_function(id, |b| {
                b.iter(|| {
                    for coset in 0..cosets {
                        let _ = black_box(backend.cpu.coset(&backend.key, black_box(&poly), coset));
                    }
                });
            });
        }
        let poly = domain.coeff_from_vec(column.clone());
        group.bench_function(BenchmarkId::new("halo2", format!("2^{k}")), |b| {
            b.iter(|| domain.coeff_to_extended(black_box(&poly)));
        });
        group.bench_function(BenchmarkId::new("arkworks", format!("2^{k}")), |b| {
            b.iter(|| ark_cosets.fft(black_box(&ark_column)));
        });
        group.finish();
    }
}

criterion_group!(benches, msm, transforms);
criterion_main!(benches);
