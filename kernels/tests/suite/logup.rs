//! LogUp helpers.

use ff::Field;
use lamina_circuits::Fr;

use crate::common::{Integer, cells, device, elements, matrix};

fn check<T: Integer>(columns: usize, rows: usize, size: usize) {
    let device = device();
    let cells: Vec<Vec<T>> = (0..columns).map(|seed| cells(rows, seed as u8)).collect();
    // The second shift makes a denominator vanish where its cell is 1.
    let mut shifts: Vec<Fr> = elements(columns + 20, 3)[20..].to_vec();
    if let Some(shift) = shifts.get_mut(1) {
        *shift = -Fr::ONE;
    }
    let input = matrix(&device, &cells);
    let fractions = device.fractions(&input, &shifts, size).unwrap();
    let numerators = fractions.numerators.to_columns(&device).unwrap();
    let denominators = fractions.denominators.to_columns(&device).unwrap();
    let helpers = device.helpers(&input, &shifts, size).unwrap().to_columns(&device).unwrap();
    assert_eq!(helpers.len(), columns.div_ceil(size));
    for (helper, (group, shifts)) in cells.chunks(size).zip(shifts.chunks(size)).enumerate() {
        for row in 0..rows {
            let terms: Vec<Fr> =
                group.iter().zip(shifts).map(|(column, s)| column[row].to_field() + s).collect();
            let denominator: Fr = terms.iter().product();
            let numerator: Fr = (0..terms.len())
                .map(|k| terms.iter().enumerate().filter(|(j, _)| *j != k).map(|(_, t)| t).product::<Fr>())
                .sum();
            assert_eq!(numerators[helper][row], numerator);
            assert_eq!(denominators[helper][row], denominator);
            let expected = numerator * denominator.invert().unwrap_or(Fr::ZERO);
            assert_eq!(helpers[helper][row], expected);
        }
    }
}

#[test]
fn integers() {
    check::<i16>(7, 300, 3);
    check::<i8>(2, 1, 4);
    check::<i32>(4, 33, 2);
}

#[test]
fn field_elements() {
    check::<Fr>(5, 257, 1);
    check::<Fr>(5, 64, 4);
}
