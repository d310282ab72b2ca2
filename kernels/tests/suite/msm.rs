//! Sums of multiples of points, against halo2curves.

use ff::Field;
use group::{Curve, Group};
use halo2_proofs::halo2curves::bn256::{G1, G1Affine};
use lamina_circuits::Fr;
use lamina_kernels::{Device, Msm, Plan};
use rand_core::RngCore;

use crate::common::{Integer, cells, device, elements, matrix, rng, single, to_field};

/// Points and their logarithms: `G, 2G, 3G, ..`, so that sums meet equal and opposite points all the time, some
/// replaced by infinity, repetitions and negatives.
fn points(n: usize) -> (Vec<G1Affine>, Vec<Fr>) {
    let logarithms: Vec<Fr> = (0..n)
        .map(|i| match i % 11 {
            3 => Fr::ZERO,
            5 => Fr::from(i as u64),
            7 => -Fr::from(i as u64),
            _ => Fr::from(i as u64 + 1),
        })
        .collect();
    let mut multiples = vec![G1::identity()];
    for _ in 0..=n {
        multiples.push(multiples[multiples.len() - 1] + G1::generator());
    }
    let points: Vec<G1> = (0..n)
        .map(|i| match i % 11 {
            3 => G1::identity(),
            5 => multiples[i],
            7 => -multiples[i],
            _ => multiples[i + 1],
        })
        .collect();
    let mut affine = vec![G1Affine::default(); n];
    G1::batch_normalize(&points, &mut affine);
    (affine, logarithms)
}

fn expected(logarithms: &[Fr], scalars: &[Fr]) -> G1Affine {
    let sum: Fr = logarithms.iter().zip(scalars).map(|(l, s)| *l * s).sum();
    (G1::generator() * sum).to_affine()
}

fn check<T: Integer>(device: &Device, msm: &Msm, plan: Option<Plan>, logarithms: &[Fr], columns: &[Vec<T>]) {
    let scalars = matrix(device, columns);
    let sums = match plan {
        Some(plan) => msm.multiply_as(plan, 0, &scalars).unwrap(),
        None => msm.multiply(0, &scalars).unwrap(),
    };
    assert_eq!(sums.len(), columns.len());
    for (at, (sum, column)) in sums.iter().zip(columns).enumerate() {
        assert_eq!(*sum, expected(logarithms, &to_field(column)), "column {at}, {plan:?}");
    }
}

#[test]
fn field_elements() {
    let device = device();
    for n in [1, 2, 37, 600] {
        let (points, logarithms) = points(n);
        let msm = Msm::new(&device, &points).unwrap();
        let columns: Vec<Vec<Fr>> =
            vec![elements(n, 1), elements(n, 2), vec![Fr::ZERO; n], vec![-Fr::ONE; n]];
        check(&device, &msm, None, &logarithms, &columns);
    }
}

fn integers<T: Integer>() {
    let device = device();
    for n in [1, 9, 500, 3000] {
        let (points, logarithms) = points(n);
        let msm = Msm::new(&device, &points).unwrap();
        let mut columns: Vec<Vec<T>> = (0..3).map(|seed| cells(n, seed)).collect();
        columns.extend(T::EDGES.iter().map(|edge| vec![*edge; n]));
        check(&device, &msm, None, &logarithms, &columns);
    }
}

#[test]
fn integers_of_8_bits() {
    integers::<i8>();
}

#[test]
fn integers_of_16_bits() {
    integers::<i16>();
}

#[test]
fn integers_of_32_bits() {
    integers::<i32>();
}

/// Every width of a window, for scalars whose digits are at the ends of their range.
#[test]
fn windows_of_every_width() {
    let device = device();
    let (points, logarithms) = points(40);
    let msm = Msm::new(&device, &points).unwrap();
    for window in 2..=15 {
        let plan = |bits: u32| Some(Plan { window, windows: bits.div_ceil(window) });
        check(&device, &msm, plan(255), &logarithms, &[elements::<Fr>(40, 3)]);
        check(&device, &msm, plan(32), &logarithms, &[cells::<i32>(40, 3)]);
        check(&device, &msm, plan(16), &logarithms, &[cells::<i16>(40, 3)]);
        check(&device, &msm, plan(8), &logarithms, &[cells::<i8>(40, 3)]);
        // More digits than needed.
        check(&device, &msm, plan(33), &logarithms, &[cells::<i16>(40, 4)]);
    }
}

/// All scalars in one bucket, or in two, or runs of every length: the sums that cross threads.
#[test]
fn buckets_of_every_size() {
    let device = device();
    let n = 5000;
    let (points, logarithms) = points(n);
    let msm = Msm::new(&device, &points).unwrap();
    let mut rng = rng(9);
    let one: Vec<i8> = vec![1; n];
    let two: Vec<i8> = (0..n).map(|i| if i % 2 == 0 { 5 } else { -6 }).collect();
    let skewed: Vec<i8> = (0..n).map(|_| (rng.next_u32().trailing_zeros() as i8).min(7)).collect();
    let mut run = (0..127i8).flat_map(|v| std::iter::repeat_n(v, usize::from(v as u8)));
    let runs: Vec<i8> = (0..n).map(|_| run.next().unwrap_or(127)).collect();
    let sparse: Vec<i8> = (0..n).map(|i| if i % 997 == 0 { 100 } else { 0 }).collect();
    check(&device, &msm, None, &logarithms, &[one, two, skewed, runs, sparse]);
}

/// Several rounds of many columns: two thousand in all, of few rows, as it is their number that is at stake.
#[test]
fn thousands_of_columns() {
    let device = device();
    let (points, logarithms) = points(3);
    let mut msm = Msm::new(&device, &points).unwrap();
    msm.scratch_bytes = 1 << 21;
    let columns: Vec<Vec<i8>> =
        (0..2050u16).map(|c| (0..3).map(|i| (c.wrapping_mul(31) + i * 79) as i8).collect()).collect();
    check(&device, &msm, Some(Plan { window: 4, windows: 2 }), &logarithms, &columns);
}

#[test]
fn part_of_the_points() {
    let device = device();
    let (points, logarithms) = points(50);
    let msm = Msm::new(&device, &points).unwrap();
    let column: Vec<Fr> = elements(13, 4);
    let sums = msm.multiply(37, &single(&device, &column)).unwrap();
    assert_eq!(sums, [expected(&logarithms[37..], &column)]);
    assert!(msm.multiply(38, &matrix(&device, &[column])).is_err());
    let none = msm.multiply(50, &matrix(&device, &[Vec::<Fr>::new()])).unwrap();
    assert_eq!(none, [G1Affine::default()]);
}

/// All windows in one set of buckets, from tables of multiples.
#[test]
fn tables_give_the_same_sums() {
    let device = device();
    for (n, window) in [(1, 2), (45, 6), (200, 9)] {
        let (points, logarithms) = points(n);
        let plan = Plan { window, windows: 255u32.div_ceil(window) };
        let msm = Msm::with_tables_as(plan, &device, &points).unwrap();
        assert_eq!(msm.tables(), Some(plan));
        fn with_tables<T: Integer>(device: &Device, msm: &Msm, logarithms: &[Fr], columns: &[Vec<T>]) {
            let sums = msm.multiply_with_tables(&matrix(device, columns)).unwrap();
            for (at, (sum, column)) in sums.iter().zip(columns).enumerate() {
                assert_eq!(*sum, expected(logarithms, &to_field(column)), "column {at}");
            }
            // By cost, and for a part of the points without the tables.
            check(device, msm, None, logarithms, columns);
            let (half, rest) = (columns[0].len() / 2, &columns[0][columns[0].len() / 2..]);
            let sums = msm.multiply(half, &single(device, rest)).unwrap();
            assert_eq!(sums, [expected(&logarithms[half..], &to_field(rest))]);
        }
        let columns = [elements(n, 1), elements(n, 2), vec![Fr::ZERO; n], vec![-Fr::ONE; n]];
        with_tables(&device, &msm, &logarithms, &columns);
        with_tables::<i8>(&device, &msm, &logarithms, &[cells(n, 1), vec![i8::MIN; n]]);
        with_tables::<i16>(&device, &msm, &logarithms, &[cells(n, 1), vec![i16::MIN; n]]);
        with_tables::<i32>(&device, &msm, &logarithms, &[cells(n, 1), vec![i32::MAX; n]]);
    }
    let (points, logarithms) = points(200);
    let msm = Msm::with_tables(&device, &points, 1 << 30).unwrap();
    assert!(msm.tables().is_some());
    check(&device, &msm, None, &logarithms, &[elements::<Fr>(200, 4)]);
    let msm = Msm::with_tables(&device, &points, 1000).unwrap();
    assert_eq!(msm.tables(), None);
    assert!(msm.multiply_with_tables(&matrix(&device, &[vec![Fr::ONE; 200]])).is_err());
    assert!(Msm::with_tables_as(Plan { window: 15, windows: 16 }, &device, &points).is_err());
}

/// Several tiles, so that buckets have parts from each.
#[test]
fn several_tiles() {
    let device = device();
    let n = 9000;
    let (points, logarithms) = points(n);
    let msm = Msm::new(&device, &points).unwrap();
    check(&device, &msm, None, &logarithms, &[cells::<i16>(n, 1), cells(n, 2)]);
}

/// What is queued later, waited for earlier or dropped changes nothing of what is under way.
#[test]
fn sums_are_waited_for_in_any_order() {
    let device = device();
    let (points, logarithms) = points(300);
    let msm = Msm::new(&device, &points).unwrap();
    let columns: Vec<Vec<Fr>> = (0..4).map(|seed| elements(300, seed)).collect();
    let mut queue: Vec<_> =
        columns.iter().map(|column| Some(msm.queue(0, &single(&device, column)).unwrap())).collect();
    drop(queue[2].take());
    let narrow: Vec<Vec<i16>> = vec![cells(300, 9), cells(300, 10)];
    check(&device, &msm, None, &logarithms, &narrow);
    for (sums, column) in queue.into_iter().zip(&columns).rev() {
        let Some(sums) = sums else { continue };
        let sums: Vec<G1Affine> = sums.wait().unwrap().iter().map(Curve::to_affine).collect();
        assert_eq!(sums, [expected(&logarithms, column)]);
    }
    let none = msm.queue(0, &matrix(&device, &[Vec::<Fr>::new(), Vec::new()])).unwrap();
    assert_eq!(none.wait().unwrap(), [G1::identity(); 2]);
    device.synchronize().unwrap();
}
