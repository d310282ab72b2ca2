// Straight-line arithmetic on every row of some columns: the numerator of the quotient on a coset, the parts of gates.
//
// A register machine with an accumulator. A thread runs the whole program for its row; registers are in shared
// memory where they fit, in global memory otherwise, thread next to thread in planes of 16 bytes, so that no access
// meets a bank twice. Instructions are the same for all threads: there is no divergence, and their words come from the cache.
#include "cells.cuh"
#include "planes.cuh"

// The launcher has the same numbers.
enum Opcode : u32 {
  LOAD = 0,        // acc = operand
  CONSTANT = 1,    // acc = constant
  ADD_TERM = 2,    // acc += operand
  SUB_TERM = 3,    // acc -= operand
  MUL_TERM = 4,    // acc *= operand
  ADD_SCALED = 5,  // acc += constant * operand
  STORE = 6,       // register = acc
};
constexpr u32 OPERAND_COLUMN = 1u << 31;

// `place`: a register, or a column and OPERAND_COLUMN; `rotation` < n for columns.
struct alignas(16) Instruction {
  u32 opcode, place, rotation, constant;
};

constexpr u32 PROGRAM_THREADS = 64;

// out[p][i] = scale * program p(row i), `blocks_each` blocks a program. Shared memory: 2048 bytes a register, none where
// there is scratch.
LAMINA_KERNEL(PROGRAM_THREADS, program_run)(
    Fr *out,                  // [programs, n]
    const Fr *columns,        // [columns, n]
    const Instruction *code,  // of all programs
    const u32 *starts,        // [programs + 1]: where each begins, and the last ends
    const Fr *constants,
    Quad *scratch,            // [2, registers, 64 * blocks], or null
    Fr scale,
    u32 n,
    u32 registers,
    u32 blocks_each)
{
  LAMINA_SHARED(Quad, shared);
  // Register r of this thread is at r stride + own.
  const u32 stride = scratch ? gridDim.x * PROGRAM_THREADS : PROGRAM_THREADS;
  const u32 own = scratch ? global_thread() : threadIdx.x;
  Quad *const low = scratch ? scratch : shared;
  const Planes planes = {low, low + registers * stride};
  const u32 program = blockIdx.x / blocks_each, begin = starts[program], end = starts[program + 1];
#pragma unroll 1
  for (u32 i = blockIdx.x % blocks_each * PROGRAM_THREADS + threadIdx.x; i < n; i += blocks_each * PROGRAM_THREADS) {
    Fr acc = fp_zero<FrParameters>();
#pragma unroll 1
    for (u32 pc = begin; pc < end; pc++) {
      const Instruction in = code[pc];
      if (in.opcode == STORE) {
        planes_store(planes, in.place * stride + own, acc);
        continue;
      }
      if (in.opcode == CONSTANT) {
        acc = constants[in.constant];
        continue;
      }
      Fr operand;
      if (in.place & OPERAND_COLUMN) {
        const u32 row = i + in.rotation;
        operand = columns[(u64)(in.place & ~OPERAND_COLUMN) * n + (row >= n ? row - n : row)];
      } else {
        operand = planes_load(planes, in.place * stride + own);
      }
      if (in.opcode == ADD_SCALED || in.opcode == MUL_TERM) {
        const bool scaled = in.opcode == ADD_SCALED;
        const Fr product = operand * (scaled ? constants[in.constant] : acc);
        acc = select(scaled, acc + product, product);
      } else if (in.opcode == LOAD) {
        acc = operand;
      } else {
        acc = in.opcode == ADD_TERM ? acc + operand : acc - operand;
      }
    }
    out[(u64)program * n + i] = canonical(acc * scale);
  }
}
LAMINA_EXPORT(program_run)
