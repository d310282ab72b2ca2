//! Straight-line arithmetic on every row of some columns.

use lamina_circuits::Fr;

use crate::{
    device::{Argument, Device, Grid},
    error::{Error, at_most, same},
    memory::{Buffer, Matrix, bytes_of},
    work::PRODUCT,
};

/// Where an operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A register.
    Register(u32),
    /// A column at a rotation: row `i` is row `i + rotation`, modulo the rows.
    Column {
        /// Which.
        column: u32,
        /// Any sign.
        rotation: i32,
    },
}

/// An instruction of a machine with an accumulator; `C` is a constant, or what stands for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction<C = Fr> {
    /// `acc = place`
    Load(Place),
    /// `acc = constant`
    Constant(C),
    /// `acc += place`
    Add(Place),
    /// `acc -= place`
    Subtract(Place),
    /// `acc *= place`
    Multiply(Place),
    /// `acc += constant * place`
    AddScaled(C, Place),
    /// `register = acc`
    Store(u32),
}

/// Threads of a block of `program_run`.
const THREADS: usize = 64;

/// Shared memory that registers may take; programs of more registers have them in global memory. A multiprocessor then
/// has at least two blocks at work, on the smallest devices.
const SHARED_BYTES: usize = 32 << 10;

/// Blocks whose registers in global memory are there at once.
const SCRATCH_BLOCKS: usize = 1024;

/// `OPERAND_COLUMN` of program.cu.
const COLUMN: u32 = 1 << 31;

/// What a launch has to know of programs.
#[derive(Clone, Copy, Debug)]
struct Size {
    programs: usize,
    registers: usize,
    columns: usize,
    rows: usize,
    products: usize,
    /// Cells of columns that a row reads.
    reads: usize,
}

/// Programs that read the same columns, checked and encoded: for all values of what stands for constants.
#[derive(Clone, Debug)]
pub struct Code<C = Fr> {
    words: Vec<[u32; 4]>,
    starts: Vec<u32>,
    constants: Vec<C>,
    size: Size,
}

impl<C: Copy> Code<C> {
    /// Programs for columns of `rows` rows. The result of each is the accumulator's last value.
    ///
    /// # Errors
    /// [`Error::Shape`] where one reads a register that it did not store before.
    pub fn new(rows: usize, programs: &[Vec<Instruction<C>>]) -> Result<Self, Error> {
        at_most("rows, at most", 1 << 30, rows)?;
        let mut words: Vec<[u32; 4]> = Vec::with_capacity(programs.iter().map(Vec::len).sum());
        let mut starts = vec![0];
        let mut constants = Vec::new();
        let mut stored: Vec<bool> = Vec::new();
        let (mut columns, mut products, mut reads, mut registers) = (0, 0, 0, 0);
        for program in programs {
            stored.clear();
            for instruction in program {
                let mut place = |place: &Place| match place {
                    Place::Register(register) => {
                        let known = stored.get(*register as usize).copied().unwrap_or(false);
                        same("registers stored before they are read", 1, known.into())?;
                        Ok((*register, 0))
                    }
                    Place::Column { column, rotation } => {
                        reads += 1;
                        columns = columns.max(*column as usize + 1);
                        at_most("columns, at most", COLUMN as usize, columns)?;
                        Ok((*column | COLUMN, i64::from(*rotation).rem_euclid(rows.max(1) as i64) as u32))
                    }
                };
                let (opcode, (place, rotation), constant) = match instruction {
                    Instruction::Load(from) => (0, place(from)?, None),
                    Instruction::Constant(value) => (1, (0, 0), Some(*value)),
                    Instruction::Add(from) => (2, place(from)?, None),
                    Instruction::Subtract(from) => (3, place(from)?, None),
                    Instruction::Multiply(from) => (4, place(from)?, None),
                    Instruction::AddScaled(value, from) => (5, place(from)?, Some(*value)),
                    Instruction::Store(register) => {
                        let register = *register;
                        if stored.len() <= register as usize {
                            stored.resize(register as usize + 1, false);
                        }
                        stored[register as usize] = true;
                        (6, (register, 0), None)
                    }
                };
                products += usize::from(matches!(opcode, 4 | 5));
                words.push([opcode, place, rotation, constants.len() as u32]);
                constants.extend(constant);
            }
            registers = registers.max(stored.len());
            starts.push(words.len() as u32);
        }
        let size = Size { programs: programs.len(), registers, columns, rows, products, reads };
        Ok(Code { words, starts, constants, size })
    }

    /// Registers, of the program that has most.
    pub fn registers(&self) -> usize {
        self.size.registers
    }
}

/// Programs that read the same columns, on the device.
pub struct Program {
    lists: Buffer<u8>,
    /// Where instructions, the programs' starts and constants are among them.
    places: [usize; 3],
    size: Size,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program").field("size", &self.size).finish_non_exhaustive()
    }
}

impl Program {
    /// Takes programs to the device, with the constants that `value` gives.
    ///
    /// # Errors
    /// [`Error::Memory`], [`Error::Driver`].
    pub fn new<C: Copy>(device: &Device, code: &Code<C>, value: impl Fn(C) -> Fr) -> Result<Self, Error> {
        let constants: Vec<Fr> = code.constants.iter().map(|constant| value(*constant)).collect();
        let (lists, places) =
            Buffer::packed(device, [bytes_of(&code.words), bytes_of(&code.starts), bytes_of(&constants)])?;
        Ok(Program { lists, places, size: code.size })
    }
}

impl Device {
    /// `out[p][i] = scale * program_p(row i)`.
    ///
    /// # Errors
    /// [`Error::Shape`] where the columns are fewer than the programs read or of other rows, [`Error::Memory`],
    /// [`Error::Driver`].
    pub fn run(&self, program: &Program, columns: &Matrix<Fr>, scale: Fr) -> Result<Matrix<Fr>, Error> {
        let Size { programs: count, registers, columns: read, rows: n, products, reads } = program.size;
        if read > 0 {
            same("rows of the columns", n, columns.rows())?;
            at_most("columns that the program reads, at most", columns.columns(), read)?;
        }
        let bytes = 32 * THREADS * registers;
        let mut each = n.div_ceil(THREADS).max(1);
        let mut shared_bytes = bytes;
        let scratch: Option<Buffer<[u32; 4]>> = if bytes > SHARED_BYTES {
            each = each.min((SCRATCH_BLOCKS / count.max(1)).max(1));
            shared_bytes = 0;
            Some(Buffer::new(self, 2 * registers * THREADS * each * count)?)
        } else {
            None
        };
        let out = Matrix::uninitialised(self, count, n)?;
        self.counters.kernel(32 * n * (reads + count), PRODUCT * n * (products + count));
        let [code, starts, constants] = program.places.map(|at| program.lists.address_of(at));
        let arguments = [
            out.buffer.address(),
            columns.buffer.address(),
            code,
            starts,
            constants,
            scratch.as_ref().map_or(Argument::Address(0), Buffer::address),
            scale.into(),
            Argument::U32(n as u32),
            Argument::U32(registers as u32),
            Argument::U32(each as u32),
        ];
        let grid = Grid { blocks: each * count, threads: THREADS as u32, shared_bytes };
        // SAFETY: `program_run`. out: [programs, n], columns: [columns, n], code, starts and constants as `Program::new` made
        // them, scratch: two planes of 16 bytes for each register and thread, or that much shared memory.
        unsafe { self.launch("program_run", grid, &arguments) }?;
        Ok(out)
    }
}
