// LogUp helpers: sums of fractions with a common denominator (protocol.md, section 5).
//
//     h = sum_k 1 / (beta + t_k + v_k) = numerator / denominator
//
// The denominators of all helpers are inverted together (fr_invert), multiplied by the numerators
// (fr_elementwise) and summed up (scan_*).
#include "cells.cuh"

// The cells of one helper: `size` neighbouring columns, fewer for the last.
LAMINA_KERNEL(256, logup_fractions)(
    Fr *numerators,     // [helpers, n]
    Fr *denominators,   // [helpers, n]
    const void *cells,  // [columns, stride] cells of `kind`
    u32 kind,
    u64 stride,
    const Fr *shifts,   // [columns]: beta + t_k
    u32 n,
    u32 columns,
    u32 size,           // cells a helper
    u64 total)          // helpers * n, helpers = ceil(columns / size)
{
  const u64 id = (u64)blockIdx.x * blockDim.x + threadIdx.x;
  if (id >= total) return;
  const u64 helper = id / n;
  const u32 i = (u32)(id - helper * n), first = (u32)helper * size;
  const u32 end = columns - first < size ? columns : first + size;
  const u32 width = kind == KIND_FIELD ? 32 : kind == KIND_I8 ? 1 : kind == KIND_I16 ? 2 : 4;
  Fr numerator = fp_zero<FrParameters>(), denominator = fp_one<FrParameters>();
#pragma unroll 1
  for (u32 l = first; l < end; l++) {
    const Fr term = load_cell(static_cast<const char *>(cells) + l * stride * width, kind, i) + shifts[l];
    numerator = numerator * term + denominator;
    denominator = denominator * term;
  }
  numerators[id] = canonical(numerator);
  denominators[id] = canonical(denominator);
}
LAMINA_EXPORT(logup_fractions)
