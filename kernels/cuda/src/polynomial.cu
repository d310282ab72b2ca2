// Polynomials: division by X - r, and single coefficients added.
#include "bn254_fr.cuh"

struct alignas(16) Dividend {
  const Fr *poly;  // [len]
  u64 len;
  Fr root, inverse;  // one over it; zero where it is zero
};

constexpr u32 DIVIDE_EACH = 8;

// The quotient of sum_i p_i X^i by X - r, from scaled[i] = p_i r^i and its running sums before[i] = sum_(j < i) scaled[j]:
//
//     q_i = r^-(i + 1) sum_(j > i) scaled[j] = r^-(i + 1) (total - before[i + 1])
//
// For many polynomials at once, padded with zeros to n coefficients. A thread takes some neighbours, and the first power anew.
LAMINA_KERNEL(256, divide_scale)(
    Fr *scaled,                 // [columns, n]
    const Dividend *dividends,  // [columns]
    u32 n,
    u32 columns)
{
  const u32 each = (n + DIVIDE_EACH - 1) / DIVIDE_EACH, column = global_thread() / each;
  if (column >= columns) return;
  const Dividend *const own = dividends + column;
  const u32 start = global_thread() % each * DIVIDE_EACH, end = n - start < DIVIDE_EACH ? n : start + DIVIDE_EACH;
  const Fr root = own->root;
  Fr factor = power(root, start);
#pragma unroll 1
  for (u32 i = start; i < end; i++) {
    const Fr value = i < own->len ? own->poly[i] * factor : fp_zero<FrParameters>();
    scaled[(u64)column * n + i] = canonical(value);
    factor = factor * root;
  }
}
LAMINA_EXPORT(divide_scale)

// By X itself the quotient is what is left without the constant.
LAMINA_KERNEL(256, divide_finish)(
    Fr *out,                    // [columns, n - 1]
    const Fr *before,           // [columns, n]
    const Fr *scaled,           // [columns, n]
    const Dividend *dividends,  // [columns]
    u32 n,                      // at least 2
    u32 columns)
{
  const u32 rows = n - 1, each = (rows + DIVIDE_EACH - 1) / DIVIDE_EACH, column = global_thread() / each;
  if (column >= columns) return;
  const Dividend *const own = dividends + column;
  const u32 start = global_thread() % each * DIVIDE_EACH, end = rows - start < DIVIDE_EACH ? rows : start + DIVIDE_EACH;
  const Fr inverse = own->inverse;
  const bool shifted = is_zero(inverse);
  before += (u64)column * n;
  const Fr total = before[rows] + scaled[(u64)column * n + rows];
  Fr factor = power(inverse, start + 1);
#pragma unroll 1
  for (u32 i = start; i < end; i++) {
    Fr value = fp_zero<FrParameters>();
    if (!shifted)
      value = factor * (total - before[i + 1]);
    else if (i + 1 < own->len)
      value = own->poly[i + 1];
    out[(u64)column * rows + i] = canonical(value);
    factor = factor * inverse;
  }
}
LAMINA_EXPORT(divide_finish)

// out[at[t]] += values[t]; the places are distinct.
LAMINA_KERNEL(256, fr_add_at)(
    Fr *out,
    const Fr *values,  // [count]
    const u32 *at,     // [count]
    u32 count)
{
  const u32 t = global_thread();
  if (t < count) out[at[t]] = canonical(out[at[t]] + values[t]);
}
LAMINA_EXPORT(fr_add_at)
