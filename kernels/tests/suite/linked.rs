//! Linked recurrences, row by row, and cells that are copied.

use std::sync::Arc;

use ff::Field;
use lamina_circuits::Fr;
use lamina_kernels::{CellCopy, Column, Device, Error, Matrix, Relation};
use rand_core::RngCore;

use crate::common::{cells, device, elements, matrix, rng, single, to_field};

/// A relation, the columns that it is made of, and what it defines.
struct Case {
    at: i32,
    /// Rotations and columns.
    links: Vec<(i32, Vec<Fr>)>,
    a: Vec<Fr>,
    prior: Vec<Fr>,
    rests: Vec<Fr>,
}

fn row(row: usize, by: i32, n: usize) -> usize {
    (row as i64 + i64::from(by)).rem_euclid(n as i64) as usize
}

/// Elements without the edge values, of which one is zero.
fn nonzero(n: usize, seed: u8) -> Vec<Fr> {
    elements(n + 40, seed).split_off(40)
}

impl Case {
    /// Which link a row has is what `pick` says of its place: rows counted from `origin` on. A row whose link would lead
    /// past `origin` or the row before it begins a chain: it keeps its prior value, or has no link.
    fn new(
        n: usize,
        at: i32,
        rotations: &[i32],
        origin: usize,
        pick: impl Fn(usize) -> Option<usize>,
        seed: u8,
    ) -> Self {
        let mut case = Case {
            at,
            links: rotations.iter().map(|rotation| (*rotation, vec![Fr::ZERO; n])).collect(),
            a: nonzero(n, seed),
            prior: elements(n, seed + 1),
            rests: elements(n, seed + 2),
        };
        for (place, weight) in nonzero(n, seed + 3).into_iter().enumerate() {
            let of = row(origin + place, -at, n);
            let Some(link) = pick(place) else { continue };
            let to = place as i64 + i64::from(rotations[link]) - i64::from(at);
            if (0..n as i64).contains(&to) {
                case.links[link].1[of] = weight;
            } else if place % 2 == 0 {
                case.a[of] = Fr::ZERO;
                // Links that do not count.
                case.links[link].1[of] = weight;
            }
        }
        case
    }

    /// The definition, row after row until nothing is left to be defined.
    fn expected(&self) -> Vec<Fr> {
        let n = self.a.len();
        let mut x: Vec<Option<Fr>> = vec![None; n];
        for t in 0..n {
            let mut waiting = vec![t];
            while let Some(t) = waiting.pop() {
                let r = row(t, -self.at, n);
                let Some(inverse) = Option::<Fr>::from(self.a[r].invert()) else {
                    x[t] = Some(self.prior[t]);
                    continue;
                };
                let mut sum = self.rests[r];
                if let Some((rotation, link)) = self.links.iter().find(|(_, link)| link[r] != Fr::ZERO) {
                    let other = row(r, *rotation, n);
                    let Some(value) = x[other] else {
                        waiting.extend([t, other]);
                        assert!(waiting.len() <= 2 * n, "a link back to its beginning");
                        continue;
                    };
                    sum += link[r] * value;
                }
                x[t] = Some(-sum * inverse);
            }
        }
        x.into_iter().map(Option::unwrap).collect()
    }

    /// Whether the relation holds of a column, in every row, all links counted.
    fn holds(&self, x: &[Fr]) -> bool {
        let n = self.a.len();
        (0..n).all(|r| {
            if self.a[r] == Fr::ZERO {
                return x[row(r, self.at, n)] == self.prior[row(r, self.at, n)];
            }
            let links: Fr = self.links.iter().map(|(rotation, link)| link[r] * x[row(r, *rotation, n)]).sum();
            self.a[r] * x[row(r, self.at, n)] + links + self.rests[r] == Fr::ZERO
        })
    }
}

fn solved(device: &Device, cases: &[Case]) -> Vec<Vec<Fr>> {
    let of = |column: fn(&Case) -> &Vec<Fr>| {
        matrix(device, &cases.iter().map(|case| column(case).clone()).collect::<Vec<_>>())
    };
    let inverses = device.invert(&of(|case| &case.a)).unwrap();
    let links: Vec<Vec<Fr>> =
        cases.iter().flat_map(|case| &case.links).map(|(_, link)| link.clone()).collect();
    let mut column = 0..;
    let relations: Vec<Relation> = cases
        .iter()
        .map(|case| Relation {
            at: case.at,
            links: case.links.iter().map(|(rotation, _)| *rotation).zip(&mut column).collect(),
        })
        .collect();
    let prior = of(|case| &case.prior);
    let rests: Vec<Vec<Fr>> = cases.iter().map(|case| case.rests.clone()).chain(links).collect();
    device.solve(&prior, &inverses, &matrix(device, &rests), &relations).unwrap().to_columns(device).unwrap()
}

fn check(device: &Device, cases: &[Case], what: &str) {
    for (at, (case, out)) in cases.iter().zip(solved(device, cases)).enumerate() {
        assert!(out == case.expected(), "{what}, relation {at}");
        assert!(case.holds(&out), "{what}, relation {at}");
    }
}

const SIZES: [usize; 6] = [1, 2, 3, 31, 1000, 4097];

#[test]
fn chains_as_long_as_the_column_up_and_down() {
    let device = device();
    for n in SIZES.into_iter().chain([4096]) {
        let all = |_| Some(0);
        let cases = [
            Case::new(n, 1, &[0], 0, all, 1),
            Case::new(n, 0, &[1], 0, all, 5),
            // At negative rows, and round the end, as the chain begins in the middle.
            Case::new(n, -3, &[-4], n / 2, all, 9),
            Case::new(n, -1, &[0], n / 3, all, 13),
        ];
        check(&device, &cases, &format!("{n} rows"));
    }
}

#[test]
fn strided_links() {
    let device = device();
    for n in SIZES {
        let all = |_| Some(0);
        let cases = [
            Case::new(n, 0, &[37], 0, all, 1),
            Case::new(n, 1, &[-36], n / 2, all, 5),
            // More than once round the column, where it is short.
            Case::new(n, 5, &[-5000, 5000], n / 2, |place| Some(place % 2), 9),
        ];
        check(&device, &cases, &format!("{n} rows"));
    }
}

#[test]
fn rows_that_have_one_of_two_links_or_none() {
    let device = device();
    for n in SIZES {
        let cases = [
            Case::new(n, 1, &[0, -16], 0, |place| Some(place % 3 % 2), 1),
            // To the row after, and from there up the column.
            Case::new(n, 0, &[1, -2], n / 2, |place| Some(place % 2), 5),
            Case::new(n, 0, &[-1], 0, |place| (place % 50 > 3).then_some(0), 9),
            Case::new(n, 2, &[1, 3], 0, |_| None, 13),
            Case::new(n, 1, &[], 0, |_| None, 17),
        ];
        check(&device, &cases, &format!("{n} rows"));
    }
}

#[test]
fn rows_that_keep_their_values() {
    let device = device();
    let mut rng = rng(7);
    for n in SIZES {
        let mut case = Case::new(n, 1, &[0], n / 2, |_| Some(0), 1);
        for a in &mut case.a {
            if rng.next_u32().is_multiple_of(10) {
                *a = Fr::ZERO;
            }
        }
        let mut none = Case::new(n, -1, &[0], 0, |_| Some(0), 5);
        none.a.fill(Fr::ZERO);
        assert!(none.expected() == none.prior);
        check(&device, &[case, none], &format!("{n} rows"));
    }
}

#[test]
fn without_links_there_are_no_rounds() {
    let device = device();
    for n in SIZES {
        let mut cases = [Case::new(n, 1, &[], 0, |_| None, 1), Case::new(n, -2, &[], 0, |_| None, 5)];
        cases[1].a[n / 2] = Fr::ZERO;
        let before = device.work();
        check(&device, &cases, &format!("{n} rows"));
        // `fr_invert` and `linked_start`.
        assert_eq!(device.work().since(&before).launches, 2);
    }
}

#[test]
fn the_first_of_several_links_counts() {
    let device = device();
    let mut case = Case::new(100, 0, &[-1, -2, -3], 0, |place| Some(place % 3), 1);
    let all = nonzero(100, 9);
    for (r, weight) in all.iter().enumerate().skip(3) {
        case.links[2].1[r] = *weight;
    }
    let out = solved(&device, std::slice::from_ref(&case));
    assert!(out[0] == case.expected());
    assert!(!case.holds(&out[0]));
}

#[test]
fn links_back_to_their_beginning_end_all_the_same() {
    let device = device();
    let mut case = Case::new(64, 1, &[0], 0, |_| Some(0), 1);
    case.a = nonzero(64, 2);
    case.links[0].1 = nonzero(64, 3);
    assert_eq!(solved(&device, &[case])[0].len(), 64);
}

#[test]
fn nothing_to_solve() {
    let device = device();
    let none = || Matrix::<Fr>::zeros(&device, 0, 8).unwrap();
    let out = device.solve(&none(), &none(), &none(), &[]).unwrap();
    assert_eq!((out.columns(), out.rows()), (0, 8));
    let empty = || Matrix::<Fr>::zeros(&device, 1, 0).unwrap();
    let relation = Relation { at: 1, links: vec![(-1, 0)] };
    let rests = Matrix::<Fr>::zeros(&device, 2, 0).unwrap();
    let out = device.solve(&empty(), &empty(), &rests, &[relation]).unwrap();
    assert_eq!(out.to_columns(&device).unwrap(), [[]]);
}

/// What a call says of arguments that do not fit.
fn refused<T>(result: Result<T, Error>, what: &'static str, expected: usize, actual: usize) {
    assert_eq!(result.err().unwrap(), Error::Shape { what, expected, actual });
}

#[test]
fn relations_that_do_not_fit_are_typed_errors() {
    let device = device();
    let of = |columns, rows| Matrix::<Fr>::zeros(&device, columns, rows).unwrap();
    let relation = |column| Relation { at: 0, links: vec![(1, column)] };
    let (one, two) = ([relation(0)], [relation(0), relation(2)]);
    let solve =
        |prior, inverses, rests, relations: &[Relation]| device.solve(&prior, &inverses, &rests, relations);
    refused(solve(of(2, 8), of(1, 8), of(2, 8), &one), "columns of prior values", 1, 2);
    refused(solve(of(1, 8), of(2, 8), of(2, 8), &one), "columns of inverses", 1, 2);
    refused(solve(of(1, 8), of(1, 7), of(2, 8), &one), "rows of inverses", 8, 7);
    refused(solve(of(1, 8), of(1, 8), of(0, 8), &one), "relations, at most as many as rests", 0, 1);
    refused(solve(of(1, 8), of(1, 8), of(2, 9), &one), "rows of rests", 8, 9);
    let named = "columns of links that a relation names, at most";
    refused(solve(of(2, 8), of(2, 8), of(4, 8), &two), named, 2, 3);
    refused(solve(of(1, 8), of(1, 8), of(1, 8), &one), named, 0, 1);
}

/// Columns of every kind with tails, and their rows.
fn sources(device: &Device, rows: usize) -> (Vec<Column>, Vec<Vec<Fr>>) {
    fn one<T: crate::common::Integer>(
        device: &Device,
        rows: usize,
        len: usize,
        tail: usize,
        seed: u8,
    ) -> (Column, Vec<Fr>) {
        let (cells, tail) = (cells::<T>(len, seed), nonzero(tail, seed + 1));
        let mut values = to_field(&cells);
        values.resize(rows - tail.len(), Fr::ZERO);
        values.extend(&tail);
        (Column::new(device, rows, &cells, &tail).unwrap(), values)
    }
    [
        one::<i8>(device, rows, rows - 5, 5, 1),
        one::<i16>(device, rows, rows / 2, 5, 3),
        one::<i32>(device, rows, rows, 0, 5),
        one::<Fr>(device, rows, rows - 7, 7, 7),
        one::<i8>(device, rows, 0, 0, 9),
    ]
    .into_iter()
    .unzip()
}

#[test]
fn cells_are_copied_from_columns_of_all_kinds() {
    let device = device();
    for n in [16, 300, 1000] {
        let (columns, values) = sources(&device, n);
        let columns: Vec<&Column> = columns.iter().collect();
        let mut rng = rng(n as u8);
        // Every third row, the last ones' sources among the tails; in no order.
        let mut copies: Vec<CellCopy> = (0..n as u32)
            .filter(|to| to % 3 == 1)
            .map(|to| CellCopy {
                source: rng.next_u32() % 5,
                from: if to % 2 == 0 { rng.next_u32() % n as u32 } else { n as u32 - 1 - to % 8 },
                to,
            })
            .collect();
        copies.rotate_left(2);
        let (prior, prior_values) = (columns[0], &values[0]);
        for (prior, before) in [(Some(prior), prior_values), (None, &vec![Fr::ZERO; n])] {
            let mut expected = before.clone();
            for copy in &copies {
                expected[copy.to as usize] = values[copy.source as usize][copy.from as usize];
            }
            let out = device.scatter(prior, &columns, &copies, n).unwrap();
            assert_eq!((out.columns(), out.rows()), (1, n));
            assert_eq!(out.column(&device, 0).unwrap(), expected);
            let same = device.scatter(prior, &[], &[], n).unwrap();
            assert_eq!(same.column(&device, 0).unwrap(), *before);
        }
    }
}

#[test]
fn cells_that_are_not_there_are_typed_errors() {
    let device = device();
    let column = Column::new(&device, 8, &[1i8, 2], &[]).unwrap();
    let scatter = |cells: &[(u32, u32, u32)], rows| {
        let cells: Vec<CellCopy> = cells
            .iter()
            .map(|(source, from, to)| CellCopy { source: *source, from: *from, to: *to })
            .collect();
        device.scatter(None, &[&column], &cells, rows)
    };
    refused(scatter(&[(0, 0, 0), (1, 0, 1)], 8), "columns that a cell is copied from, at most", 1, 2);
    refused(scatter(&[(0, 8, 0)], 8), "rows that a cell is copied from, at most", 8, 9);
    refused(scatter(&[(0, 0, 8)], 8), "rows that a cell is copied to, at most", 8, 9);
    let twice = "cells that are copied to one row, at most";
    refused(scatter(&[(0, 1, 7), (0, 0, 6), (0, 2, 7)], 8), twice, 1, 2);
    refused(scatter(&[(0, 0, 0)], 7), "rows of a column", 7, 8);
    refused(device.scatter(Some(&column), &[], &[], 7), "rows of a column", 7, 8);
}

#[test]
fn columns_get_tails() {
    let device = device();
    let n = 40;
    let tail = nonzero(6, 1);
    let whole = cells::<i16>(n, 2);
    let fields = nonzero(n, 3);
    let shared = Arc::new(single(&device, &fields));
    let with_tail = |column: Column, tail: &[Fr]| {
        Column::with_tails(vec![column], &device, tail).map(|mut columns| columns.swap_remove(0))
    };
    let rows = |values: &[Fr], tail: &[Fr]| {
        let mut values = values.to_vec();
        values.resize(n, Fr::ZERO);
        values.splice(n - tail.len().., tail.iter().copied());
        values
    };
    let cases = [
        (Column::new(&device, n, &whole, &[]).unwrap(), rows(&to_field(&whole), &tail), n - 6),
        (Column::new(&device, n, &whole[..9], &[]).unwrap(), rows(&to_field(&whole[..9]), &tail), 9),
        (Column::new(&device, n, &whole[..36], &tail[..4]).unwrap(), rows(&to_field(&whole), &tail), n - 6),
        (Column::of_matrix(&shared, 0).unwrap(), rows(&fields, &tail), n - 6),
    ];
    for (column, expected, len) in cases {
        let column = with_tail(column, &tail).unwrap();
        assert_eq!((column.rows(), column.cells()), (n, len));
        assert_eq!(device.expand(&[&column], n).unwrap().column(&device, 0).unwrap(), expected);
    }
    // The matrix is what it was.
    assert_eq!(shared.column(&device, 0).unwrap(), fields);
    let column = with_tail(Column::of_matrix(&shared, 0).unwrap(), &[]).unwrap();
    assert_eq!((column.cells(), column.bits()), (n, 0));
    let column = with_tail(column, &nonzero(n, 4)).unwrap();
    assert_eq!(column.cells(), 0);
    refused(with_tail(column, &tail), "elements of the tail before, at most", 6, n);
    let column = Column::new(&device, 5, &[1i8], &[]).unwrap();
    refused(with_tail(column, &tail), "elements of a tail, at most", 5, 6);
}
