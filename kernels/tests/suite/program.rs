//! Programs over rows, against an interpreter.

use ff::Field;
use lamina_circuits::Fr;
use lamina_kernels::{Code, Error, Instruction, Place, Program};
use rand_core::RngCore;

use crate::common::{device, elements, matrix, rng};

fn interpret(code: &[Instruction], columns: &[Vec<Fr>], row: usize) -> Fr {
    let mut registers = vec![Fr::ZERO; 1000];
    let mut acc = Fr::ZERO;
    for instruction in code {
        let value = |place: &Place| match place {
            Place::Register(at) => registers[*at as usize],
            Place::Column { column, rotation } => {
                let column = &columns[*column as usize];
                column[(row as i64 + i64::from(*rotation)).rem_euclid(column.len() as i64) as usize]
            }
        };
        match instruction {
            Instruction::Load(place) => acc = value(place),
            Instruction::Constant(constant) => acc = *constant,
            Instruction::Add(place) => acc += value(place),
            Instruction::Subtract(place) => acc -= value(place),
            Instruction::Multiply(place) => acc *= value(place),
            Instruction::AddScaled(constant, place) => acc += *constant * value(place),
            Instruction::Store(at) => registers[*at as usize] = acc,
        }
    }
    acc
}

/// Random programs; the last of more registers than shared memory has place for.
#[test]
fn random_programs_do_what_they_say() {
    let device = device();
    for (rows, registers, seed) in [(4, 1, 1u8), (64, 4, 2), (100, 9, 3), (130, 30, 4)] {
        let mut rng = rng(seed);
        let columns: Vec<Vec<Fr>> = (0..5).map(|at| elements(rows, at)).collect();
        let mut code = Vec::new();
        for register in 0..registers {
            code.extend([Instruction::Constant(Fr::random(&mut rng)), Instruction::Store(register)]);
        }
        for _ in 0..300 {
            let place = if rng.next_u32().is_multiple_of(2) {
                Place::Register(rng.next_u32() % registers)
            } else {
                Place::Column { column: rng.next_u32() % 5, rotation: (rng.next_u32() % 15) as i32 - 7 }
            };
            code.push(match rng.next_u32() % 7 {
                0 => Instruction::Load(place),
                1 => Instruction::Constant(Fr::random(&mut rng)),
                2 => Instruction::Add(place),
                3 => Instruction::Subtract(place),
                4 => Instruction::Multiply(place),
                5 => Instruction::AddScaled(Fr::random(&mut rng), place),
                _ => Instruction::Store(rng.next_u32() % registers),
            });
        }
        let scale = Fr::random(&mut rng);
        // Beside it one that is shorter, one that does nothing, and itself again.
        let short = vec![Instruction::Load(Place::Column { column: 1, rotation: 1 }), Instruction::Store(0)];
        let codes = [code.clone(), short, vec![], code];
        let encoded = Code::new(rows, &codes).unwrap();
        assert_eq!(encoded.registers(), registers as usize);
        let program = Program::new(&device, &encoded, |constant| constant).unwrap();
        let out = device.run(&program, &matrix(&device, &columns), scale).unwrap();
        for (at, code) in codes.iter().enumerate() {
            let expected: Vec<Fr> = (0..rows).map(|row| scale * interpret(code, &columns, row)).collect();
            assert_eq!(out.column(&device, at).unwrap(), expected, "program {at}, {registers} registers");
        }
    }
}

/// The same code with other values of its constants.
#[test]
fn constants_are_what_they_stand_for() {
    let device = device();
    let row = Place::Column { column: 0, rotation: 0 };
    let code = Code::new(4, &[vec![Instruction::Constant(2usize), Instruction::AddScaled(0, row)]]).unwrap();
    let column = elements::<Fr>(4, 1);
    for values in [[3, 5, 7].map(Fr::from), [11, 13, 17].map(Fr::from)] {
        let program = Program::new(&device, &code, |at| values[at]).unwrap();
        let out = device.run(&program, &matrix(&device, std::slice::from_ref(&column)), Fr::ONE).unwrap();
        let expected: Vec<Fr> = column.iter().map(|v| values[2] + values[0] * v).collect();
        assert_eq!(out.column(&device, 0).unwrap(), expected);
    }
}

#[test]
fn programs_that_read_what_is_not_there_are_typed_errors() {
    let device = device();
    let shape = |error: Error| assert!(matches!(error, Error::Shape { .. }), "{error}");
    let reads = vec![Instruction::Load(Place::Register(0))];
    shape(Code::new(4, std::slice::from_ref(&reads)).unwrap_err());
    // What another program stored is not this one's.
    let stores = vec![Instruction::Constant(Fr::ONE), Instruction::Store(0)];
    shape(Code::new(4, &[stores, reads]).unwrap_err());
    let program = |code: Vec<Instruction>| {
        Program::new(&device, &Code::new(4, &[code]).unwrap(), |constant| constant).unwrap()
    };
    let code = vec![Instruction::Load(Place::Column { column: 1, rotation: 0 })];
    let program_of_two = program(code);
    shape(device.run(&program_of_two, &matrix(&device, &[vec![Fr::ONE; 4]]), Fr::ONE).unwrap_err());
    shape(
        device
            .run(&program_of_two, &matrix(&device, &[vec![Fr::ONE; 5], vec![Fr::ONE; 5]]), Fr::ONE)
            .unwrap_err(),
    );
    // No instruction at all: zero.
    let nothing = program(vec![]);
    let out = device.run(&nothing, &matrix(&device, &[]), Fr::ONE).unwrap();
    assert_eq!(out.column(&device, 0).unwrap(), [Fr::ZERO; 4]);
}
