// Number-theoretic transforms of many columns of one size.
//
// A transform of N = R_1 R_2 ... R_P is P passes (Stockham, decimation in frequency), each a transform of
// size R <= 256 within shared memory. With s the product of the earlier passes' sizes, a pass takes
//
//     y[q + s (R j + r')] = w_N^(s j r') sum_r w_R^(r r') x[t + (N / R) r],   t = q + s j,  q < s,
//
// so input and output are in natural order, and neighbouring t are neighbours in memory on both sides. A
// block takes C = 2^log_c neighbouring t of one column. Blocks of one tile and different columns follow one
// another, so that the roots that they share are found in the second-level cache.
#include "cells.cuh"
#include "planes.cuh"

constexpr u32 NTT_THREADS = 256;

// One pass. Threads: min(256, R C / 4), at least one; shared memory: 32 (R C + R / 2) bytes, the tile in two planes, then R / 2
// roots.
LAMINA_KERNEL(NTT_THREADS, ntt_pass)(
    Fr *out,              // [columns, N], not `in`
    const void *in,       // [columns, in_stride] cells of `kind`; rows from in_len on count as zero
    u32 kind,
    u64 in_stride,
    u32 in_len,
    const Fr *roots,      // [N]: w^i
    const Fr *scale_in,   // [N] factors of the inputs, or null
    const Fr *scale_out,  // [N] factors of the outputs, or [1], or null
    u32 scale_out_step,   // 1, or 0 for one factor
    u32 inverse,          // use 1/w for w
    u32 log_n,
    u32 log_r,            // R = 2^log_r, 2 <= log_r <= 8
    u32 log_s,            // s
    u32 log_c,            // C <= N / R
    u32 columns)
{
  LAMINA_SHARED(Quad, shared);
  const u32 n = 1u << log_n, r_size = 1u << log_r, tile_size = r_size << log_c;
  const Planes tile = {shared, shared + tile_size};
  Fr *const local_roots = reinterpret_cast<Fr *>(shared + 2 * tile_size);
  const u32 column = blockIdx.x % columns, first = (blockIdx.x / columns) << log_c;
  const u32 log_rest = log_n - log_r, negate = inverse ? ~0u : 0u;

  for (u32 i = threadIdx.x; i < r_size / 2; i += blockDim.x) {
    const u32 exponent = i << log_rest;
    local_roots[i] = roots[((exponent ^ negate) - negate) & (n - 1)];
  }
  const u32 size = kind == KIND_FIELD ? 32 : kind == KIND_I8 ? 1 : kind == KIND_I16 ? 2 : 4;
  const void *const source = static_cast<const char *>(in) + column * in_stride * size;
#pragma unroll 1
  for (u32 e = threadIdx.x; e < tile_size; e += blockDim.x) {
    const u32 c = e & ((1u << log_c) - 1), r = e >> log_c, at = first + c + (r << log_rest);
    Fr value = fp_zero<FrParameters>();
    if (at < in_len) {
      value = load_cell(source, kind, at);
      if (scale_in) value = value * scale_in[at];
    }
    planes_store(tile, e, value);
  }
  __syncthreads();

  // Two levels at a time: four elements, a quarter of the sub-transform apart.
  u32 level = log_r;
#pragma unroll 1
  for (; level >= 2; level -= 2) {
    const u32 quarter = 1u << (level - 2), step = log_r - level;
#pragma unroll 1
    for (u32 u = threadIdx.x; u < tile_size / 4; u += blockDim.x) {
      const u32 c = u & ((1u << log_c) - 1), v = u >> log_c, k = v & (quarter - 1);
      const u32 base = ((v >> (level - 2)) << level) + k;
      const u32 at0 = (base << log_c) + c, apart = quarter << log_c;
      const Fr a0 = planes_load(tile, at0), a1 = planes_load(tile, at0 + apart);
      const Fr a2 = planes_load(tile, at0 + 2 * apart), a3 = planes_load(tile, at0 + 3 * apart);
      Fr c0 = a0 - a2, c1 = (a1 - a3) * local_roots[(k + quarter) << step];
      const Fr b0 = a0 + a2, b1 = a1 + a3;
      Fr y1 = b0 - b1;
      if (quarter > 1) {
        c0 = c0 * local_roots[k << step];
        y1 = y1 * local_roots[(2 * k) << step];
      }
      Fr y3 = c0 - c1;
      if (quarter > 1) y3 = y3 * local_roots[(2 * k) << step];
      planes_store(tile, at0, b0 + b1);
      planes_store(tile, at0 + apart, y1);
      planes_store(tile, at0 + 2 * apart, c0 + c1);
      planes_store(tile, at0 + 3 * apart, y3);
    }
    __syncthreads();
  }
  if (level == 1) {
#pragma unroll 1
    for (u32 u = threadIdx.x; u < tile_size / 2; u += blockDim.x) {
      const u32 c = u & ((1u << log_c) - 1), at0 = ((u >> log_c) << (log_c + 1)) + c, at1 = at0 + (1u << log_c);
      const Fr a0 = planes_load(tile, at0), a1 = planes_load(tile, at1);
      planes_store(tile, at0, a0 + a1);
      planes_store(tile, at1, a0 - a1);
    }
    __syncthreads();
  }

  // Level by level the order became that of reversed bits. In the first pass outputs of one t are
  // neighbours, later those of one r'.
  const bool last = log_s + log_r == log_n;
  Fr *const target = out + (u64)column * n;
#pragma unroll 1
  for (u32 e = threadIdx.x; e < tile_size; e += blockDim.x) {
    const u32 r = log_s ? e >> log_c : e & (r_size - 1);
    const u32 c = log_s ? e & ((1u << log_c) - 1) : e >> log_r;
    const u32 t = first + c, j = t >> log_s, q = t & ((1u << log_s) - 1);
    const u32 at = q + (((j << log_r) + r) << log_s);
    Fr value = planes_load(tile, ((__brev(r) >> (32 - log_r)) << log_c) + c);
    const u32 exponent = (j * r) << log_s;
    const Fr *factor = last ? nullptr : roots + (((exponent ^ negate) - negate) & (n - 1));
    if (last && scale_out) factor = scale_out + (u64)at * scale_out_step;
    if (factor) value = value * *factor;
    target[at] = canonical(value);
  }
}
LAMINA_EXPORT(ntt_pass)
