//! Straight-line arithmetic on every row of some columns.

use lamina_circuits::Fr;

use crate::{
    device::{Argument, Device, Grid},
    error::{Error, at_most, same},
    memory::{Buffer, Matrix},
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

/// An instruction of a machine with an accumulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// `acc = place`
    Load(Place),
    /// `acc = constant`
    Constant(Fr),
    /// `acc += place`
    Add(Place),
    /// `acc -= place`
    Subtract(Place),
    /// `acc *= place`
    Multiply(Place),
    /// `acc += constant * place`
    AddScaled(Fr, Place),
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

/// A program, on the device.
pub struct Program {
    code: Buffer<[u32; 4]>,
    constants: Buffer<Fr>,
    instructions: usize,
    registers: usize,
    columns: usize,
    rows: usize,
    products: usize,
    /// Cells of columns that a row reads.
    reads: usize,
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program")
            .field("instructions", &self.instructions)
            .field("registers", &self.registers)
            .finish_non_exhaustive()
    }
}

impl Program {
    /// Takes a program for columns of `rows` rows to the device. Its result is the accumulator's last value.
    ///
    /// # Errors
    /// [`Error::Shape`] where it reads a register that was not stored before, [`Error::Memory`], [`Error::Driver`].
    pub fn new(device: &Device, rows: usize, code: &[Instruction]) -> Result<Self, Error> {
        at_most("rows, at most", 1 << 30, rows)?;
        let mut words: Vec<[u32; 4]> = Vec::with_capacity(code.len());
        let mut constants = Vec::new();
        let mut stored: Vec<bool> = Vec::new();
        let (mut columns, mut products, mut reads) = (0, 0, 0);
        for instruction in code {
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
        Ok(Program {
            code: Buffer::from_host(device, &words)?,
            constants: Buffer::from_host(device, &constants)?,
            instructions: words.len(),
            registers: stored.len(),
            columns,
            rows,
            products,
            reads,
        })
    }

    /// Registers.
    pub fn registers(&self) -> usize {
        self.registers
    }
}

impl Device {
    /// `out[i] = scale * program(row i)`.
    ///
    /// # Errors
    /// [`Error::Shape`] where the columns are fewer than the program reads or of other rows, [`Error::Memory`],
    /// [`Error::Driver`].
    pub fn run(&self, program: &Program, columns: &Matrix<Fr>, scale: Fr) -> Result<Matrix<Fr>, Error> {
        let n = program.rows;
        if program.columns > 0 {
            same("rows of the columns", n, columns.rows())?;
            at_most("columns that the program reads, at most", columns.columns(), program.columns)?;
        }
        let bytes = 32 * THREADS * program.registers;
        let mut grid = Grid::of(n, THREADS as u32);
        let scratch: Option<Buffer<[u32; 4]>> = if bytes > SHARED_BYTES {
            grid.blocks = grid.blocks.min(SCRATCH_BLOCKS);
            Some(Buffer::new(self, 2 * program.registers * THREADS * grid.blocks)?)
        } else {
            grid.shared_bytes = bytes;
            None
        };
        let out = Matrix::uninitialised(self, 1, n)?;
        self.counters.kernel(32 * n * (program.reads + 1), PRODUCT * n * (program.products + 1));
        let arguments = [
            out.buffer.address(),
            columns.buffer.address(),
            program.code.address(),
            program.constants.address(),
            scratch.as_ref().map_or(Argument::Address(0), Buffer::address),
            scale.into(),
            Argument::U32(n as u32),
            Argument::U32(program.instructions as u32),
            Argument::U32(program.registers as u32),
        ];
        // SAFETY: `program_run`. out: [n], columns: [columns, n], code and constants as `Program::new` made them, scratch:
        // two planes of 16 bytes for each register and thread, or that much shared memory.
        unsafe { self.launch("program_run", grid, &arguments) }?;
        Ok(out)
    }
}
