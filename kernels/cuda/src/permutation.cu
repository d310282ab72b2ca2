// The permutation argument's running products (protocol.md, section 9), between inversion (fr_invert) and scan (scan_*).
#include "cells.cuh"

// Row i of set s:
//
//     numerator = prod_j (p_j[i] + own_j w^i + gamma),   denominator = prod_j (p_j[i] + beta sigma_j[i] + gamma),
//
// j over the set's columns, own_j = beta delta^j. Row u is 1 / 1.
LAMINA_KERNEL(256, permutation_fractions)(
    Fr *numerators,         // [sets, u + 1]
    Fr *denominators,       // [sets, u + 1]
    const Column *columns,  // [count]
    const Column *sigmas,   // [count]
    const Fr *own,          // [count]
    const Fr *roots,        // [n]: w^i
    Fr beta,
    Fr gamma,
    u32 n,
    u32 u,
    u32 count,
    u32 size,               // columns of a set, fewer for the last
    u64 total)              // sets * (u + 1)
{
  const u64 id = (u64)blockIdx.x * blockDim.x + threadIdx.x;
  if (id >= total) return;
  const u64 set = id / (u + 1);
  const u32 i = (u32)(id - set * (u + 1)), first = (u32)set * size;
  const u32 end = count - first < size ? count : first + size;
  Fr numerator = fp_one<FrParameters>(), denominator = numerator;
  if (i < u) {
    const Fr root = roots[i];
#pragma unroll 1
    for (u32 j = first; j < end; j++) {
      const Fr value = load_row(columns[j], i, n) + gamma;
      numerator = numerator * (value + own[j] * root);
      denominator = denominator * (value + beta * load_row(sigmas[j], i, n));
    }
  }
  numerators[id] = canonical(numerator);
  denominators[id] = canonical(denominator);
}
LAMINA_EXPORT(permutation_fractions)

// out[s, i] = starts[s] z[s, i] for i <= u, then the set's tail.
LAMINA_KERNEL(256, permutation_finish)(
    Fr *out,           // [sets, n]
    const Fr *z,       // [sets, u + 1]
    const Fr *starts,  // [sets]
    const Fr *tails,   // [sets, n - u - 1]
    u32 n,
    u32 u,
    u64 total)         // sets * n
{
  const u64 id = (u64)blockIdx.x * blockDim.x + threadIdx.x;
  if (id >= total) return;
  const u64 set = id / n;
  const u32 i = (u32)(id - set * n);
  out[id] = i <= u ? canonical(starts[set] * z[set * (u + 1) + i]) : tails[set * (n - u - 1) + (i - u - 1)];
}
LAMINA_EXPORT(permutation_finish)
