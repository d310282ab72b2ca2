//! Times of the kernels on a device, one JSON object a line. `docs/gpu.md` has the floors.
//!
//! `bench [large]`. Needs nothing but the driver. `LAMINA_TEST_DEVICE=host` runs tiny sizes in emulation, where time
//! means nothing, to show that everything still runs.
//!

#![expect(clippy::print_stdout, reason = "a command")]

use std::time::Instant;

use group::Group;
use halo2_proofs::halo2curves::bn256::{G1, G1Affine};
use lamina_circuits::Fr;
use lamina_kernels::{Cell, Device, Error, Join, Matrix, Msm, Ntt};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

/// Median, in milliseconds, of some runs after one that warms up.
fn median<T>(device: &Device, mut work: impl FnMut() -> Result<T, Error>) -> Result<f32, Error> {
    drop(work()?);
    let mut times = Vec::new();
    for _ in 0..7 {
        times.push(device.time_ms(&mut work)?.1);
    }
    times.sort_by(f32::total_cmp);
    Ok(times[times.len() / 2])
}

fn line(what: &str, ms: f32, each: &str, per_second: f64) {
    println!(r#"{{"what": "{what}", "ms": {ms:.4}, "per_second": {per_second:.4e}, "unit": "{each}"}}"#);
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

fn run(device: &Device, log_sizes: &[u32], batch: usize) -> Result<(), Error> {
    let largest = 1usize << log_sizes.iter().max().copied().unwrap_or(10);
    let fields = random(largest, 1, |w| Fr::from(u64::from(w)).square().square().square());
    let shorts = random(largest, 2, |w| w as i16);
    let bytes = random(largest, 3, |w| w as i8);

    let chain = columns(device, &fields, 1)?;
    let rounds = 500;
    let ms = median(device, || device.chain(&chain, rounds))?;
    line(
        "products of field elements",
        ms,
        "products",
        f64::from(rounds) * largest as f64 / f64::from(ms) * 1e3,
    );

    let points = points(largest);
    let msm = Msm::new(device, &points)?;
    for &log_n in log_sizes {
        let n = 1usize << log_n;
        let ntt = Ntt::new(device, log_n)?;
        let batch = batch.min((1 << 26) / n).max(1);
        let many = columns(device, &fields[..n], batch)?;
        let ms = median(device, || ntt.values(&many))?;
        line(
            &format!("transform 2^{log_n}, each of {batch}"),
            ms / batch as f32,
            "rows",
            n as f64 * batch as f64 / f64::from(ms) * 1e3,
        );
        let ms = median(device, || device.invert(&many))?;
        line(
            &format!("inverses, {batch} x 2^{log_n}"),
            ms,
            "rows",
            n as f64 * batch as f64 / f64::from(ms) * 1e3,
        );
        let ms = median(device, || device.scan(Join::Product, &many, None))?;
        line(
            &format!("running products, {batch} x 2^{log_n}"),
            ms,
            "rows",
            n as f64 * batch as f64 / f64::from(ms) * 1e3,
        );
        let one = columns(device, &fields[..n], 1)?;
        let ms = median(device, || msm.multiply(0, &one))?;
        line(&format!("MSM 2^{log_n}, field elements"), ms, "points", n as f64 / f64::from(ms) * 1e3);
        let one = columns(device, &shorts[..n], 1)?;
        let ms = median(device, || msm.multiply(0, &one))?;
        line(&format!("MSM 2^{log_n}, 16 bits"), ms, "points", n as f64 / f64::from(ms) * 1e3);
        let many = columns(device, &shorts[..n], batch)?;
        let ms = median(device, || msm.multiply(0, &many))?;
        line(
            &format!("MSM 2^{log_n}, 16 bits, each of {batch}"),
            ms / batch as f32,
            "points",
            n as f64 * batch as f64 / f64::from(ms) * 1e3,
        );
        let factors = &fields[..batch];
        let ms = median(device, || device.combine(&many, factors))?;
        line(
            &format!("combination of {batch} x 2^{log_n}, 16 bits"),
            ms,
            "cells",
            n as f64 * batch as f64 / f64::from(ms) * 1e3,
        );
        let many = columns(device, &bytes[..n], batch)?;
        let ms = median(device, || device.combine(&many, factors))?;
        line(
            &format!("combination of {batch} x 2^{log_n}, 8 bits"),
            ms,
            "cells",
            n as f64 * batch as f64 / f64::from(ms) * 1e3,
        );
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let emulated = std::env::var("LAMINA_TEST_DEVICE").is_ok_and(|device| device == "host");
    if emulated {
        lamina_kernels_emu::install(lamina_kernels_emu::Mode::Host);
    }
    let start = Instant::now();
    let device = Device::open(0)?;
    let (free, all) = device.memory_bytes()?;
    println!(
        r#"{{"device": "{}", "open_ms": {:.1}, "memory_bytes": {all}, "free_bytes": {free}}}"#,
        device.name(),
        start.elapsed().as_secs_f64() * 1e3
    );
    let large = std::env::args().nth(1).is_some_and(|size| size == "large");
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
