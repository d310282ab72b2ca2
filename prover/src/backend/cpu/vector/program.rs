//! The quotient's straight-line code, eight rows at a time.

use halo2_proofs::halo2curves::bn256::Fr;

use super::{
    Words, as_words,
    lanes::{Lanes, Packed, Scalar},
    words,
};
use crate::backend::program::{Code, Coefficient, Op, Operand, Program, window};

type Elements = Lanes<Scalar>;

/// Rows that are worked on at once.
pub(crate) const CHUNK: usize = 64;

const PACKS: usize = CHUNK / 8;

/// Terms that are added up before a reduction: each is below `2p`, and below `64p` can be reduced.
const TERMS: usize = 30;

/// A thread's registers, below `2p`, in 260-form.
pub(crate) struct Machine {
    registers: Vec<[Packed; PACKS]>,
    /// Takes a result, then becomes its register: operands may be that register.
    spare: [Packed; PACKS],
    wrapped: [Vec<Fr>; 2],
}

/// An operand's rows: a register, or elements in memory.
#[derive(Clone, Copy)]
enum Rows<'a> {
    Register(&'a [Packed; PACKS]),
    Slot(&'a [[Fr; 8]]),
}

impl Rows<'_> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn get(&self, at: usize) -> Elements {
        match self {
            Rows::Register(packs) => Elements::unpack(&packs[at]),
            // SAFETY: eight consecutive elements.
            Rows::Slot(chunks) => unsafe { Elements::load_next(chunks[at].as_ptr().cast()) },
        }
    }
}

impl Machine {
    pub(crate) fn new(program: &Program) -> Self {
        Machine {
            registers: vec![[Packed::default(); PACKS]; program.registers],
            spare: [Packed::default(); PACKS],
            wrapped: [Vec::with_capacity(CHUNK), Vec::with_capacity(CHUNK)],
        }
    }

    /// `out[i] = scale * N(row start + i)`.
    ///
    /// # Shapes
    /// `slots` hold 16 times the columns' values; `out` has `CHUNK` rows.
    pub(crate) fn run(&mut self, code: &Code<'_>, slots: &[&[Fr]], start: usize, scale: Fr, out: &mut [Fr]) {
        // SAFETY: this code runs where the features were detected.
        unsafe { self.execute(code, slots, start, scale, out) }
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    fn execute(&mut self, code: &Code<'_>, slots: &[&[Fr]], start: usize, scale: Fr, out: &mut [Fr]) {
        let Code { program, values } = code;
        let Machine { registers, spare, wrapped: [left_rows, right_rows] } = self;
        for op in &program.ops {
            let to = match op {
                Op::Product { to, left, right } => {
                    let left = read(registers, slots, *left, start, left_rows);
                    let right = read(registers, slots, *right, start, right_rows);
                    for (at, to) in spare.iter_mut().enumerate() {
                        left.get(at).mul(right.get(at)).pack(to);
                    }
                    *to
                }
                Op::Sum { to, constant, terms } => {
                    let constant = Elements::broadcast(form(&values[*constant]));
                    spare.iter_mut().for_each(|to| constant.pack(to));
                    for terms in terms.chunks(TERMS) {
                        for (c, operand) in terms {
                            let rows = read(registers, slots, *operand, start, left_rows);
                            let factor = match c {
                                Coefficient::Other(c) => Some(Elements::broadcast(form(&values[*c]))),
                                Coefficient::One | Coefficient::MinusOne => None,
                            };
                            add(spare, c, factor, rows);
                        }
                        for to in spare.iter_mut() {
                            Elements::unpack(to).normalise().reduce().pack(to);
                        }
                    }
                    *to
                }
            };
            std::mem::swap(&mut registers[to], spare);
        }
        let result = read(registers, slots, program.result, start, left_rows);
        // In 256-form, so that the product is too.
        let scale = Elements::broadcast(words(&scale));
        for (at, out) in as_words(out).as_chunks_mut::<8>().0.iter_mut().enumerate() {
            // SAFETY: eight consecutive elements.
            unsafe { result.get(at).mul(scale).less::<1>().store_next(out.as_mut_ptr().cast()) };
        }
    }
}

/// Adds `c · rows`, below `2p`, without carries; `factor` is `c` where that is neither one nor minus one.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn add(sums: &mut [Packed; PACKS], c: &Coefficient, factor: Option<Elements>, rows: Rows<'_>) {
    let twice = Elements::moduli::<2>();
    for (at, sum) in sums.iter_mut().enumerate() {
        let value = rows.get(at);
        let term = match (c, factor) {
            (_, Some(factor)) => value.mul(factor),
            (Coefficient::MinusOne, None) => twice.minus(value),
            (_, None) => value,
        };
        Elements::unpack(sum).plus(term).pack(sum);
    }
}

/// An element's words in 260-form.
fn form(value: &Fr) -> Words {
    words(&(*value * Fr::from(16)))
}

#[inline]
fn read<'a>(
    registers: &'a [[Packed; PACKS]],
    slots: &[&'a [Fr]],
    operand: Operand,
    start: usize,
    wrapped: &'a mut Vec<Fr>,
) -> Rows<'a> {
    match operand {
        Operand::Register(register) => Rows::Register(&registers[register]),
        Operand::Slot(slot, rotation) => {
            Rows::Slot(window(slots[slot], start, rotation, CHUNK, wrapped).as_chunks::<8>().0)
        }
    }
}

/// What the values in slots are multiplied by.
pub(crate) const SLOT_FACTOR: u64 = 16;
