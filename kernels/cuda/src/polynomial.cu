// Polynomials: division by X - r, and single coefficients added.
#include "bn254_fr.cuh"

// The quotient of sum_i p_i X^i by X - r, from scaled[i] = p_i r^i and its running sums before[i] = sum_(j < i) scaled[j]:
//
//     q_i = r^-(i + 1) sum_(j > i) scaled[j] = r^-(i + 1) (total - before[i + 1])
LAMINA_KERNEL(256, divide_finish)(
    Fr *out,             // [len - 1]
    const Fr *before,    // [len]
    const Fr *scaled,    // [len]
    const Fr *inverses,  // [len - 1]: r^-(i + 1)
    u32 len)             // at least 2
{
  const u32 i = global_thread();
  if (i >= len - 1) return;
  const Fr total = before[len - 1] + scaled[len - 1];
  out[i] = canonical(inverses[i] * (total - before[i + 1]));
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
