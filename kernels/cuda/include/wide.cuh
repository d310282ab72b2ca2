// Sums of field elements times integers of up to 32 bits, reduced once.
#pragma once
#include "cells.cuh"

// Two sums of nine words: `even` from bit 0 on, `odd` from bit 32 on.
struct Wide {
  u32 even[9], odd[9];
};

LAMINA_FN Wide wide_zero() {
  Wide r;
#pragma unroll
  for (int i = 0; i < 9; i++) r.even[i] = r.odd[i] = 0;
  return r;
}

// sum + c v, for up to 2^32 terms.
LAMINA_FN Wide wide_add(Wide sum, Fr c, u32 v) {
  lamina_row(sum.even, c.w, v);
  sum.even[8] = addc(sum.even[8], 0);
  lamina_row(sum.odd, c.w + 1, v);
  sum.odd[8] = addc(sum.odd[8], 0);
  return sum;
}

// The sum modulo p, loose: one * low / R * R + high R.
LAMINA_FN Fr wide_reduce(Wide sum) {
  Fr low, high = fp_zero<FrParameters>();
  low.w[0] = sum.even[0];
  low.w[1] = add_cc(sum.even[1], sum.odd[0]);
#pragma unroll
  for (int i = 2; i < 8; i++) low.w[i] = addc_cc(sum.even[i], sum.odd[i - 1]);
  high.w[0] = addc_cc(sum.even[8], sum.odd[7]);
  high.w[1] = addc(sum.odd[8], 0);
  // `low` may be any 256-bit number: then it must be the second operand.
  return fp_one<FrParameters>() * low + to_montgomery(high);
}
