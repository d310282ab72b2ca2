//! Times of the kernels on a device, one JSON object a line. `docs/gpu.md` has the floors.
//!
//! `bench [large | device]`: `device` only says which device there is and how long it takes to open. Needs nothing but
//! the driver. Every result that is timed is compared with the host's, in all rows or some; one that is wrong ends the
//! program. Each line has the shares of the device's ceilings that the kernels' [`Work`] is, where the driver tells the
//! ceilings. `LAMINA_TEST_DEVICE=host` runs tiny sizes in emulation, where time means nothing, to show that everything
//! still runs.
#![expect(clippy::print_stdout, reason = "a command")]

use std::{sync::Arc, time::Instant};

use ff::Field;
use group::Group;
use halo2_proofs::halo2curves::bn256::{G1, G1Affine};
use lamina_circuits::Fr;
use lamina_kernels::{Ceilings, Cell, Column, Device, Error, Join, Matrix, Msm, Ntt, Relation, Term, Work};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

/// The median of some runs, and what one of them asks of the device.
struct Timed {
    ms: f32,
    work: Work,
    ceilings: Option<Ceilings>,
}

/// Times some runs after one that warms up, whose result is `right` or ends the program.
fn median<T>(
    device: &Device,
    right: impl FnOnce(T) -> Result<bool, Error>,
    mut work: impl FnMut() -> Result<T, Error>,
) -> Result<Timed, Error> {
    assert!(right(work()?)?, "the device gives a wrong result");
    let mut times = Vec::new();
    for _ in 0..7 {
        let begin = device.mark()?;
        let result = work()?;
        let end = device.mark()?;
        times.push(device.between(&begin, &end)?);
        drop(result);
    }
    times.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let (ms, work) = times[times.len() / 2];
    Ok(Timed { ms, work, ceilings: device.ceilings()? })
}

/// `count` times a `unit` were done, in `runs` parts of which the time is told.
fn line(what: &str, timed: &Timed, runs: usize, unit: &str, count: usize) {
    // There is no time in emulation.
    let number =
        |v: Option<f64>| v.filter(|v| v.is_finite()).map_or("null".to_owned(), |v| format!("{v:.4e}"));
    let seconds = f64::from(timed.ms) / 1e3;
    let share = |work: u64, ceiling: fn(&Ceilings) -> f64| {
        number(timed.ceilings.as_ref().map(|most| work as f64 / seconds / ceiling(most)))
    };
    println!(
        r#"{{"what": "{what}", "ms": {:.4}, "per_second": {}, "unit": "{unit}", "of_memory_bandwidth": {}, "of_multiply_adds": {}}}"#,
        timed.ms / runs as f32,
        number(Some(count as f64 / seconds)),
        share(timed.work.kernel_bytes, |most| most.bytes_per_s),
        share(timed.work.multiply_adds, |most| most.multiply_adds_per_s),
    );
}

fn random<T: Copy>(n: usize, seed: u8, of: impl Fn(u32) -> T) -> Vec<T> {
    let mut rng = ChaCha20Rng::from_seed([seed; 32]);
    (0..n).map(|_| of(rng.next_u32())).collect()
}

/// A column on the device, the same for each.
fn columns<T: Cell>(device: &Device, column: &[T], count: usize) -> Result<Matrix<T>, Error> {
    Matrix::from_columns(device, &vec![column; count])
}

/// `G, 2G, 3G, ..`
fn points(n: usize) -> Vec<G1Affine> {
    let mut point = G1::identity();
    let multiples: Vec<G1> = (0..n)
        .map(|_| {
            point += G1::generator();
            point
        })
        .collect();
    let mut affine = vec![G1Affine::default(); n];
    <G1 as group::Curve>::batch_normalize(&multiples, &mut affine);
    affine
}

/// Rows that are compared where all would take the host too long.
fn some(n: usize) -> impl Iterator<Item = usize> {
    (0..n).step_by((n / 64).max(1)).chain([n - 1])
}

/// A matrix whose columns are all the same is right in its first and last.
fn each_is(device: &Device, out: &Matrix<Fr>, row: impl Fn(usize, &Fr) -> bool) -> Result<bool, Error> {
    let first = out.column(device, 0)?;
    let same = out.columns() == 1 || out.column(device, out.columns() - 1)? == first;
    Ok(same && some(first.len()).all(|i| row(i, &first[i])))
}

/// `sum_i scalars[i] (i + 1) G`: what [`points`] makes of the scalars.
fn multiple_of_generator(scalars: impl Iterator<Item = Fr>) -> G1Affine {
    let sum: Fr = scalars.zip(1u64..).map(|(scalar, i)| scalar * Fr::from(i)).sum();
    (G1::generator() * sum).into()
}

fn small(v: i64) -> Fr {
    let size = Fr::from(v.unsigned_abs());
    if v < 0 { -size } else { size }
}

/// A column times each of the factors, summed, as proofs combine integers.
fn combination<T: Cell + Into<i64>>(device: &Device, column: &[T], factors: &[Fr]) -> Result<(), Error> {
    let (n, batch) = (column.len(), factors.len());
    let many = Arc::new(columns(device, column, batch)?);
    let list: Vec<Column> = (0..batch).map(|at| Column::of_matrix(&many, at)).collect::<Result<_, _>>()?;
    let terms = list.iter().zip(factors);
    let terms: Vec<Term<'_>> =
        terms.map(|(column, factor)| Term { column, rotation: 0, coefficient: *factor }).collect();
    let factor: Fr = factors.iter().sum();
    let right = |out| each_is(device, &out, |i, v| *v == factor * small(column[i].into()));
    let timed = median(device, right, || device.combine_columns(&terms, n))?;
    let (log_n, bits) = (n.ilog2(), T::BITS);
    line(&format!("combination of {batch} x 2^{log_n}, {bits} bits"), &timed, 1, "cells", n * batch);
    Ok(())
}

fn run(device: &Device, log_sizes: &[u32], batch: usize) -> Result<(), Error> {
    let largest = 1usize << log_sizes.iter().max().copied().unwrap_or(10);
    let fields = random(largest, 1, |w| Fr::from(u64::from(w)).square().square().square());
    let shorts = random(largest, 2, |w| w as i16);
    let bytes = random(largest, 3, |w| w as i8);

    let chain = columns(device, &fields, 1)?;
    let rounds = 500;
    let right = |out| each_is(device, &out, |i, v| *v == fields[i].pow_vartime([u64::from(rounds) + 1]));
    let timed = median(device, right, || device.chain(&chain, rounds))?;
    line("products of field elements", &timed, 1, "products", rounds as usize * largest);

    let points = points(largest);
    let msm = Msm::new(device, &points)?;
    for &log_n in log_sizes {
        let n = 1usize << log_n;
        let ntt = Ntt::new(device, log_n)?;
        let batch = batch.min((1 << 26) / n).max(1);
        let (fields, shorts, bytes) = (&fields[..n], &shorts[..n], &bytes[..n]);
        let many = columns(device, fields, batch)?;
        let right = |out: Matrix<Fr>| {
            // One value by Horner's rule, and all of them back again.
            let (at, values) = (n / 3, out.column(device, 0)?);
            let root = ntt.omega().pow_vartime([at as u64]);
            let value = fields.iter().rev().fold(Fr::ZERO, |sum, c| sum * root + c);
            let back = ntt.coefficients(&out)?;
            Ok(values[at] == value && each_is(device, &back, |i, v| *v == fields[i])?)
        };
        let timed = median(device, right, || ntt.values(&many))?;
        line(&format!("transform 2^{log_n}, each of {batch}"), &timed, batch, "rows", n * batch);
        let right =
            |out| each_is(device, &out, |i, v| *v == fields[i].invert().into_option().unwrap_or(Fr::ZERO));
        let timed = median(device, right, || device.invert(&many))?;
        line(&format!("inverses, {batch} x 2^{log_n}"), &timed, 1, "rows", n * batch);
        let products: Vec<Fr> = fields
            .iter()
            .scan(Fr::ONE, |product, v| Some(std::mem::replace(product, *product * v)))
            .collect();
        let right = |out| each_is(device, &out, |i, v| *v == products[i]);
        let timed = median(device, right, || device.scan(Join::Product, &many))?;
        line(&format!("running products, {batch} x 2^{log_n}"), &timed, 1, "rows", n * batch);

        // Every row by the one before it. The first keeps its value: the last row's inverse is zero.
        let (mut inverses, rests) = (fields.to_vec(), random(n, 4, |w| Fr::from(u64::from(w)).square()));
        inverses[n - 1] = Fr::ZERO;
        let mut solution = vec![Fr::ONE];
        for (r, inverse) in inverses[..n - 1].iter().enumerate() {
            solution.push(-(fields[r] * solution[r] + rests[r]) * inverse);
        }
        let (prior, inverses) = (columns(device, &vec![Fr::ONE; n], 1)?, columns(device, &inverses, 1)?);
        let rests = Matrix::from_columns(device, &[&rests[..], fields])?;
        let down = [Relation { at: 1, links: vec![(0, 0)] }];
        let right = |out| each_is(device, &out, |i, v| *v == solution[i]);
        let timed = median(device, right, || device.solve(&prior, &inverses, &rests, &down))?;
        line(&format!("linked recurrence down 2^{log_n}"), &timed, 1, "rows", n);

        let sum = multiple_of_generator(fields.iter().copied());
        let one = columns(device, fields, 1)?;
        let timed = median(device, |sums| Ok(sums == [sum]), || msm.multiply(0, &one))?;
        line(&format!("MSM 2^{log_n}, field elements"), &timed, 1, "points", n);
        let tables = Msm::with_tables(device, &points[..n], device.memory_bytes()?.0 / 4)?;
        let timed = median(device, |sums| Ok(sums == [sum]), || tables.multiply(0, &one))?;
        line(&format!("MSM 2^{log_n}, field elements, tables"), &timed, 1, "points", n);
        let sum = multiple_of_generator(shorts.iter().map(|v| small((*v).into())));
        let one = columns(device, shorts, 1)?;
        let timed = median(device, |sums| Ok(sums == [sum]), || msm.multiply(0, &one))?;
        line(&format!("MSM 2^{log_n}, 16 bits"), &timed, 1, "points", n);
        let many = columns(device, shorts, batch)?;
        let timed = median(device, |sums| Ok(sums == vec![sum; batch]), || msm.multiply(0, &many))?;
        line(&format!("MSM 2^{log_n}, 16 bits, each of {batch}"), &timed, batch, "points", n * batch);

        combination(device, shorts, &fields[..batch])?;
        combination(device, bytes, &fields[..batch])?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if std::env::var("LAMINA_TEST_DEVICE").is_ok_and(|device| device == "host") {
        lamina_kernels_emu::install(lamina_kernels_emu::Mode::Host);
    }
    let start = Instant::now();
    let device = Device::open(0).map_err(|error| error.to_string())?;
    let emulated = device.name().starts_with("emulation");
    let (free, all) = device.memory_bytes()?;
    println!(
        r#"{{"device": "{}", "open_ms": {:.1}, "memory_bytes": {all}, "free_bytes": {free}}}"#,
        device.name(),
        start.elapsed().as_secs_f64() * 1e3
    );
    let what = std::env::args().nth(1).unwrap_or_default();
    if what == "device" {
        return Ok(());
    }
    let large = what == "large";
    let sizes: &[u32] = if emulated {
        &[6]
    } else if large {
        &[16, 20, 22]
    } else {
        &[15, 16, 18, 20]
    };
    run(&device, sizes, if emulated { 2 } else { 64 })?;
    Ok(())
}
