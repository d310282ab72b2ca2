//! Columns that lie anywhere: expanded, gathered, combined at rotations, evaluated.

use std::sync::Arc;

use ff::{Field, PrimeField};
use lamina_circuits::Fr;
use lamina_kernels::{Cell, Column, Device, Error, Matrix, Ntt, PolyTerm, Term};

use crate::common::{Integer, cells, device, elements, matrix, single};

/// A column, and its rows as field elements.
fn column<T: Integer>(device: &Device, rows: usize, len: usize, tail: usize, seed: u8) -> (Column, Vec<Fr>) {
    // The first element is zero, which a row that is left out is too.
    let (cells, tail) = (cells::<T>(len, seed), elements::<Fr>(tail + 1, seed + 1).split_off(1));
    let mut values: Vec<Fr> = cells.iter().map(|cell| cell.to_field()).collect();
    values.resize(rows - tail.len(), Fr::ZERO);
    values.extend(&tail);
    (Column::new(device, rows, &cells, &tail).unwrap(), values)
}

/// Columns of every kind: whole, short, with a tail, of a tail alone.
fn mixed(device: &Device, rows: usize) -> (Vec<Column>, Vec<Vec<Fr>>) {
    let tail = 7.min(rows / 2);
    let mut all = vec![
        column::<i8>(device, rows, rows, 0, 1),
        column::<i16>(device, rows, rows - tail, tail, 3),
        column::<i32>(device, rows, rows / 3, tail, 5),
        column::<Fr>(device, rows, rows - tail, tail, 7),
        column::<Fr>(device, rows, rows / 2, 0, 9),
        column::<i8>(device, rows, 0, tail, 11),
        column::<i32>(device, rows, rows - tail, tail, 13),
    ];
    let owned = elements::<Fr>(rows, 15);
    let shared = Arc::new(matrix(device, &[elements(rows, 16), owned.clone()]));
    all.push((Column::of_matrix(&shared, 1).unwrap(), owned));
    // Taken to the device together: the second one's cells and tail lie behind the first one's.
    let (short, tails) = (cells::<i16>(2 * (rows / 2), 17), elements::<Fr>(2 * tail + 1, 18).split_off(1));
    let together = Column::list(device, 2, rows, &short).unwrap();
    let together = Column::with_tails(together, device, &tails).unwrap();
    for (at, column) in together.into_iter().enumerate() {
        let own = |len: usize| at * len..(at + 1) * len;
        let mut values: Vec<Fr> = short[own(rows / 2)].iter().map(|cell| cell.to_field()).collect();
        values.resize(rows - tail, Fr::ZERO);
        values.extend(&tails[own(tail)]);
        all.push((column, values));
    }
    all.into_iter().unzip()
}

fn turned(values: &[Fr], rotation: i64) -> Vec<Fr> {
    let n = values.len() as i64;
    (0..n).map(|i| values[(i + rotation).rem_euclid(n) as usize]).collect()
}

#[test]
fn columns_of_all_kinds_as_field_elements() {
    let device = device();
    for rows in [8, 64, 1000] {
        let (columns, values) = mixed(&device, rows);
        let columns: Vec<&Column> = columns.iter().collect();
        assert_eq!(device.expand(&columns, rows).unwrap().to_columns(&device).unwrap(), values);
    }
}

#[test]
fn columns_of_one_kind_next_to_each_other() {
    let device = device();
    let list = [cells::<i16>(20, 1), cells(5, 2), vec![]];
    let columns: Vec<Column> =
        list.iter().map(|cells| Column::new(&device, 32, cells, &[Fr::ONE]).unwrap()).collect();
    let columns: Vec<&Column> = columns.iter().collect();
    let out = device.gather::<i16>(&columns, 20).unwrap().to_columns(&device).unwrap();
    for (out, cells) in out.iter().zip(&list) {
        assert_eq!(out[..cells.len()], cells[..]);
        assert!(out[cells.len()..].iter().all(|cell| *cell == 0));
    }
    let shape = |error: Error| assert!(matches!(error, Error::Shape { .. }), "{error}");
    shape(device.gather::<i16>(&columns, 19).unwrap_err());
    shape(device.gather::<i32>(&columns, 20).unwrap_err());
    shape(device.expand(&columns, 31).unwrap_err());
    shape(Column::new(&device, 3, &[1i8, 2, 3], &[Fr::ONE]).unwrap_err());
    shape(Column::list(&device, 2, 2, &[1i8; 6]).unwrap_err());
    shape(Column::list(&device, 2, 4, &[1i8; 5]).unwrap_err());
    shape(Column::list(&device, 0, 4, &[1i8]).unwrap_err());
    let two = || Column::list(&device, 2, 4, &[1i8; 6]).unwrap();
    shape(Column::with_tails(two(), &device, &[Fr::ONE]).unwrap_err());
    assert_eq!(Column::with_tails(two(), &device, &[]).unwrap()[1].cells(), 3);
    assert!(Column::list::<i8>(&device, 0, 4, &[]).unwrap().is_empty());
    shape(Column::with_tails(vec![], &device, &[Fr::ONE]).unwrap_err());
}

#[test]
fn columns_that_a_matrix_has_not_are_typed_errors() {
    let device = device();
    let one = Arc::new(single(&device, &[1i8, 2, 3]));
    let none = Arc::new(Matrix::<i8>::zeros(&device, 0, 3).unwrap());
    assert_eq!(Column::of_matrix(&one, 0).unwrap().rows(), 3);
    for (matrix, expected, at) in [(&one, 1, 1), (&none, 0, 0), (&one, 1, usize::MAX - 1)] {
        let what = "columns of a matrix, at most";
        let error = Column::of_matrix(matrix, at).unwrap_err();
        assert_eq!(error, Error::Shape { what, expected, actual: at + 1 });
    }
    assert!(Column::of_matrix(&one, usize::MAX).is_err());
}

#[test]
fn combinations_of_rotated_columns_of_all_kinds() {
    let device = device();
    for rows in [8, 64, 513, 1000] {
        let (columns, values) = mixed(&device, rows);
        // More terms than a chunk has, with large and small rotations of both signs.
        let rotations = [0, 1, -1, 5, -(rows as i64), rows as i64 - 1, 3 * rows as i64 + 2, -7];
        let coefficients = elements::<Fr>(40, 2);
        let terms: Vec<Term<'_>> = coefficients
            .iter()
            .enumerate()
            .map(|(at, coefficient)| Term {
                column: &columns[at % columns.len()],
                rotation: rotations[at / 3 % rotations.len()],
                coefficient: *coefficient,
            })
            .collect();
        let mut expected = vec![Fr::ZERO; rows];
        for (at, term) in terms.iter().enumerate() {
            let row = turned(&values[at % columns.len()], term.rotation);
            expected.iter_mut().zip(row).for_each(|(sum, v)| *sum += term.coefficient * v);
        }
        assert_eq!(device.combine_columns(&terms, rows).unwrap().column(&device, 0).unwrap(), expected);
    }
    // Several at once: of integers and of field elements, in one chunk and in several, of one kind, of nothing.
    for rows in [70, 600] {
        let (columns, values) = mixed(&device, rows);
        let coefficients = elements::<Fr>(columns.len() * 30 + 3, 5).split_off(3);
        let lists: Vec<Vec<usize>> = vec![
            (0..columns.len()).collect(),
            (0..30 * columns.len()).collect(),
            (5..20 * columns.len()).collect(),
            vec![],
            (0..columns.len()).filter(|at| columns[*at].bits() == 0).collect(),
            (0..columns.len()).filter(|at| columns[*at].bits() == 16).collect(),
            (0..300).filter(|at| columns[*at % columns.len()].bits() == 8).collect(),
            vec![1],
        ];
        let rotation = |at: usize| at as i64 % 5 - 2;
        let terms = |list: &Vec<usize>| -> Vec<Term<'_>> {
            let term = |at: &usize| Term {
                column: &columns[at % columns.len()],
                rotation: rotation(*at),
                coefficient: coefficients[*at % coefficients.len()],
            };
            list.iter().map(term).collect()
        };
        // Around them what must stay.
        let before = elements::<Fr>(rows, 9);
        let all: Vec<&[Fr]> = (0..lists.len() + 2).map(|_| &before[..]).collect();
        let mut out = Matrix::from_columns(&device, &all).unwrap();
        let sums: Vec<Vec<Term<'_>>> = lists.iter().map(terms).collect();
        device.combine_columns_to(&mut out, 1, &sums).unwrap();
        let out = out.to_columns(&device).unwrap();
        assert!(out[0] == before && out[lists.len() + 1] == before, "{rows} rows");
        for (list, out) in lists.iter().zip(&out[1..]) {
            let mut expected = vec![Fr::ZERO; rows];
            for at in list {
                let row = turned(&values[at % columns.len()], rotation(*at));
                let coefficient = coefficients[*at % coefficients.len()];
                expected.iter_mut().zip(row).for_each(|(sum, v)| *sum += coefficient * v);
            }
            assert!(*out == expected, "{list:?}, {rows} rows");
        }
        let mut small = Matrix::zeros(&device, lists.len(), rows).unwrap();
        let error = device.combine_columns_to(&mut small, 1, &sums).unwrap_err();
        assert!(matches!(error, Error::Shape { .. }), "{error}");
    }
    let none = device.combine_columns(&[], 5).unwrap();
    assert_eq!(none.column(&device, 0).unwrap(), [Fr::ZERO; 5]);
}

/// Sizes around those of blocks and chunks, of columns next to each other.
fn combinations_of<T: Integer>() {
    let device = device();
    for (count, rows) in [(1, 1), (3, 2), (16, 255), (17, 513), (40, 1000), (300, 70)] {
        let cells: Vec<Vec<T>> = (0..count).map(|seed| cells(rows, seed as u8)).collect();
        let coefficients = elements::<Fr>(count, 1);
        let shared = Arc::new(matrix(&device, &cells));
        let columns: Vec<Column> = (0..count).map(|at| Column::of_matrix(&shared, at).unwrap()).collect();
        let terms = columns.iter().zip(&coefficients);
        let terms: Vec<Term<'_>> =
            terms.map(|(column, c)| Term { column, rotation: 0, coefficient: *c }).collect();
        let out = device.combine_columns(&terms, rows).unwrap();
        assert_eq!((out.columns(), out.rows()), (1, rows));
        for (row, out) in out.column(&device, 0).unwrap().iter().enumerate() {
            let products = cells.iter().zip(&coefficients).map(|(column, c)| column[row].to_field() * c);
            assert_eq!(*out, products.sum::<Fr>(), "{count} columns, row {row} of {rows}");
        }
    }
}

#[test]
fn combinations_of_integers_of_8_bits() {
    combinations_of::<i8>();
}

#[test]
fn combinations_of_integers_of_16_bits() {
    combinations_of::<i16>();
}

#[test]
fn combinations_of_integers_of_32_bits() {
    combinations_of::<i32>();
}

#[test]
fn combinations_of_field_elements() {
    combinations_of::<Fr>();
}

#[test]
fn combinations_of_polynomials_of_any_length() {
    let device = device();
    let polys = [elements::<Fr>(33, 1), elements(32, 2), elements(4, 3), vec![]];
    let on_device: Vec<_> = polys.iter().map(|poly| single(&device, poly)).collect();
    // Random ones: polynomials begin with the same edge values, which edge values would cancel.
    let coefficients = elements::<Fr>(36, 4).split_off(32);
    let term = |(matrix, coefficient)| PolyTerm { matrix, column: 0, coefficient };
    let list: Vec<_> = on_device.iter().zip(coefficients.iter().copied()).map(term).collect();
    let sum_of = |polys: &[Vec<Fr>], coefficients: &[Fr], len: usize| {
        let mut expected = vec![Fr::ZERO; len];
        for (poly, c) in polys.iter().zip(coefficients) {
            expected.iter_mut().zip(poly).for_each(|(sum, v)| *sum += *c * v);
        }
        expected
    };
    let mut expected = sum_of(&polys, &coefficients, 33);
    // Several at once, of several lengths; one of nothing, one of no coefficients, one of columns of one matrix.
    let twice = vec![polys[2].clone(); 2];
    let two = matrix(&device, &twice);
    let of_two = [0, 1].map(|column| PolyTerm { matrix: &two, column, coefficient: coefficients[column] });
    let lists = [
        (list.clone(), 33),
        (vec![], 7),
        (list[1..].to_vec(), 600),
        (vec![], 0),
        (of_two.to_vec(), 4),
        (list[..1].to_vec(), 33),
    ];
    let sums: Vec<Vec<Fr>> =
        device.combine_polys(&lists).unwrap().iter().map(|sum| sum.column(&device, 0).unwrap()).collect();
    assert_eq!(sums[0], expected);
    assert_eq!(sums[1], [Fr::ZERO; 7]);
    assert_eq!(sums[2], sum_of(&polys[1..], &coefficients[1..], 600));
    assert_eq!(sums[3], []);
    assert_eq!(sums[4], sum_of(&twice, &coefficients, 4));
    assert_eq!(sums[5], sum_of(&polys[..1], &coefficients, 33));
    assert!(device.combine_polys(&[]).unwrap().is_empty());
    let mut sum = device.combine_polys(&lists[..1]).unwrap().remove(0);
    let entries = [(31, Fr::from(5)), (1, Fr::from(7)), (31, -Fr::from(2)), (0, Fr::ONE)];
    assert!(expected[1] != Fr::ZERO && expected[31] != Fr::ZERO);
    device.add_sparse(&mut sum, &entries).unwrap();
    entries.iter().for_each(|(at, value)| expected[*at] += value);
    assert_eq!(sum.column(&device, 0).unwrap(), expected);
    let shape = |error: Error| assert!(matches!(error, Error::Shape { .. }), "{error}");
    shape(device.add_sparse(&mut sum, &[(33, Fr::ONE)]).unwrap_err());
    shape(device.combine_polys(&[(list, 32)]).unwrap_err());
    let beyond = PolyTerm { matrix: &two, column: 2, coefficient: Fr::ONE };
    shape(device.combine_polys(&[(vec![beyond], 4)]).unwrap_err());
}

#[test]
fn evaluations_are_those_of_the_interpolated_polynomials() {
    let device = device();
    // The last size has several chunks of rows.
    for log_n in [3, 6, 11] {
        let ntt = Ntt::new(&device, log_n).unwrap();
        let n = 1usize << log_n;
        let (columns, values) = mixed(&device, n);
        let x = elements::<Fr>(40, log_n as u8)[39];
        let weights = device.lagrange(&ntt, x).unwrap();
        let rotations = [0, 1, -1, -7, 5];
        let queries: Vec<(&Column, i64)> =
            rotations.iter().flat_map(|by| columns.iter().map(move |column| (column, *by))).collect();
        let out = device.evaluate(&weights, &queries).unwrap();
        let expected: Vec<Fr> = rotations
            .iter()
            .flat_map(|by| {
                let point = x * ntt.omega().pow_vartime([by.rem_euclid(n as i64) as u64]);
                let values = &values;
                let device = &device;
                let ntt = &ntt;
                values.iter().map(move |values| {
                    let poly = ntt.coefficients(&single(device, values)).unwrap();
                    let poly = poly.column(device, 0).unwrap();
                    poly.iter().rev().fold(Fr::ZERO, |sum, c| sum * point + c)
                })
            })
            .collect();
        assert_eq!(out, expected, "2^{log_n}");
        assert_eq!(device.evaluate(&weights, &[]).unwrap(), []);
    }
}

/// `sum_i weights[i] values[i + rotation]`.
fn weighted(weights: &[Fr], values: &[Fr], rotation: i64) -> Fr {
    weights.iter().zip(turned(values, rotation)).map(|(weight, value)| *weight * value).sum()
}

/// Cells that begin anywhere in 16 bytes and end anywhere, rows that come round within them, with and without a tail.
fn rotations_of<T: Integer>() {
    let device = device();
    let rows = 203;
    // The second column's cells begin where the first one's end.
    for (len, tail) in [(rows, 0), (rows - 5, 5), (rows - 30, 3), (17, 0), (1, 1), (0, 2)] {
        let (both, tails) = (cells::<T>(2 * len, 1), elements::<Fr>(2 * tail + 1, 2).split_off(1));
        let columns = Column::list(&device, 2, rows, &both).unwrap();
        let columns = Column::with_tails(columns, &device, &tails).unwrap();
        let values = |at: usize| {
            let mut values: Vec<Fr> = both[at * len..][..len].iter().map(|cell| cell.to_field()).collect();
            values.resize(rows - tail, Fr::ZERO);
            values.extend(&tails[at * tail..][..tail]);
            values
        };
        let values = [values(0), values(1)];
        let rotations = || (-8..=8).chain([64, 100]).flat_map(|by| [(0, by), (1, by)]);
        let coefficients = elements::<Fr>(2 * 38, 3);
        let terms = rotations().zip(&coefficients);
        let terms: Vec<Term<'_>> = terms
            .map(|((at, rotation), c)| Term { column: &columns[at], rotation, coefficient: *c })
            .collect();
        let mut expected = vec![Fr::ZERO; rows];
        for ((at, by), c) in rotations().zip(&coefficients) {
            expected.iter_mut().zip(turned(&values[at], by)).for_each(|(sum, v)| *sum += *c * v);
        }
        let out = device.combine_columns(&terms, rows).unwrap().column(&device, 0).unwrap();
        assert!(out == expected, "{len} cells, tail {tail}");

        let weights = weights_of(rows);
        let queries: Vec<(&Column, i64)> = rotations().map(|(at, by)| (&columns[at], by)).collect();
        let out = device.evaluate(&single(&device, &weights), &queries).unwrap();
        for ((at, by), out) in rotations().zip(out) {
            let what = format!("column {at} of {len} cells, tail {tail}, rotation {by}");
            assert_eq!(out, weighted(&weights, &values[at], by), "{what}");
        }
    }
}

/// Weights that sum to one, as those of an evaluation do.
fn weights_of(n: usize) -> Vec<Fr> {
    let mut weights = elements::<Fr>(n + 31, 9).split_off(31);
    weights[n / 2] = Fr::ZERO;
    weights[n / 2] = Fr::ONE - weights.iter().sum::<Fr>();
    weights
}

#[test]
fn rotations_of_integers_of_8_bits() {
    rotations_of::<i8>();
}

#[test]
fn rotations_of_integers_of_16_bits() {
    rotations_of::<i16>();
}

#[test]
fn rotations_of_integers_of_32_bits() {
    rotations_of::<i32>();
}

/// Chunks that end within a kind and between two, steps and groups that are not full, blocks that are not either.
#[test]
fn many_columns_of_all_kinds() {
    let device = device();
    for (rows, counts) in
        [(65, [70, 41, 23, 5]), (300, [33, 17, 9, 18]), (1500, [1, 0, 3, 0]), (257, [0, 9, 0, 0])]
    {
        let (mut columns, mut values) = (Vec::new(), Vec::new());
        let mut add = |(column, own): (Column, Vec<Fr>)| {
            columns.push(column);
            values.push(own);
        };
        // In turns, so that kinds are not in order.
        for at in 0..counts.into_iter().max().unwrap() {
            let (seed, len, tail) = (3 * at as u8, rows - 6 - at % 3, at % 7);
            if at < counts[0] {
                add(column::<i8>(&device, rows, len, tail, seed));
            }
            if at < counts[3] {
                add(column::<Fr>(&device, rows, len, tail, seed));
            }
            if at < counts[2] {
                add(column::<i32>(&device, rows, len, tail, seed));
            }
            if at < counts[1] {
                add(column::<i16>(&device, rows, len, tail, seed));
            }
        }
        let coefficients = elements::<Fr>(columns.len() + 3, 4).split_off(3);
        let rotation = |at: usize| if at % 4 == 3 { at as i64 - 8 } else { 0 };
        let terms: Vec<Term<'_>> = (0..columns.len())
            .map(|at| Term { column: &columns[at], rotation: rotation(at), coefficient: coefficients[at] })
            .collect();
        let mut expected = vec![Fr::ZERO; rows];
        for (at, values) in values.iter().enumerate() {
            let row = turned(values, rotation(at));
            expected.iter_mut().zip(row).for_each(|(sum, v)| *sum += coefficients[at] * v);
        }
        let out = device.combine_columns(&terms, rows).unwrap().column(&device, 0).unwrap();
        assert!(out == expected, "{counts:?}");

        let weights = weights_of(rows);
        let queries: Vec<(&Column, i64)> =
            columns.iter().enumerate().map(|(at, column)| (column, rotation(at))).collect();
        let out = device.evaluate(&single(&device, &weights), &queries).unwrap();
        for (at, out) in out.into_iter().enumerate() {
            assert_eq!(out, weighted(&weights, &values[at], rotation(at)), "column {at} of {counts:?}");
        }
    }
}

/// The largest integers and weights, in every row.
#[test]
fn sums_of_extremes_do_not_overflow() {
    fn check<T: Cell + Integer>(value: T) {
        let r = Fr::from(2).pow_vartime([256u64]).invert().unwrap();
        check_with(value, -r);
        // Of which every byte but the last is the largest there is.
        check_with(value, (Fr::from(2).pow_vartime([248u64]) - Fr::ONE) * r);
    }
    fn check_with<T: Cell + Integer>(value: T, largest: Fr) {
        let device = device();
        let n = 2048;
        let column = Column::new(&device, n, &vec![value; n], &[]).unwrap();
        let term = Term { column: &column, rotation: 1, coefficient: largest };
        let out = device.combine_columns(&[term; 100], n).unwrap().column(&device, 0).unwrap();
        assert!(out.iter().all(|out| *out == largest * value.to_field() * Fr::from(100)));
        // Weights that sum to one: n - 1 of the largest, and what is missing.
        let mut weights = vec![largest; n];
        weights[0] = Fr::ONE - largest * Fr::from(n as u64 - 1);
        let out = device.evaluate(&single(&device, &weights), &[(&column, 0)]).unwrap();
        assert_eq!(out, [value.to_field()]);
    }
    check(i8::MIN);
    check(i8::MAX);
    check(i16::MIN);
    check(i16::MAX);
    check(i32::MIN);
    check(i32::MAX);
    assert_eq!(Fr::NUM_BITS, 254);
}

/// 255 times words of 2^32 - 1 and of (2^32 - 1) / 255: wherever sums of bytes are put together there is a carry.
#[test]
fn sums_of_bytes_carry() {
    let device = device();
    let r = Fr::from(2).pow_vartime([256u64]).invert().unwrap();
    let words =
        [0x0101_0101_ffff_ffff, 0xffff_ffff_0101_0101, 0x0101_0101_0101_0101, 0x0101_0101_0101_0101u64];
    let shift = Fr::from(2).pow_vartime([64u64]);
    let factor = words.iter().rev().fold(Fr::ZERO, |sum, word| sum * shift + Fr::from(*word)) * r;
    let column = Column::new(&device, 2, &[i8::MAX, i8::MIN], &[]).unwrap();
    let term = Term { column: &column, rotation: 0, coefficient: factor };
    let out = device.combine_columns(&[term], 2).unwrap().column(&device, 0).unwrap();
    assert_eq!(out, [factor * Fr::from(127), -factor * Fr::from(128)]);
    let weights = single(&device, &[factor, Fr::ONE - factor]);
    let out = device.evaluate(&weights, &[(&column, 0)]).unwrap();
    assert_eq!(out, [factor * Fr::from(255) - Fr::from(128)]);
}
