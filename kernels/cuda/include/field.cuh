// A prime field of 254 bits in Montgomery form, R = 2^256, eight words of 32 bits, little endian.
//
// Values in registers are *loose*: any representative in [0, 2p). Since 4p < R,
//
//     a, b < 2p   =>   (a b + m p) / R < p (4p / R + 1) < 2p,
//
// a product of loose values is loose without a final subtraction. `canonical` gives the representative
// below p. Kernels write canonical values to memory, so that the host reads the layout of its own library.
//
// Pass elements by value: see carry.cuh.
#pragma once
#include "carry.cuh"

// `P` has `p(i)`, `p2(i)` (2p), `one(i)` (R mod p), `r2(i)` (R^2 mod p), words 0..8, and `INV` (-1/p mod 2^32).
template <class P>
struct alignas(16) Fp {
  u32 w[8];
  LAMINA_VALUE(Fp)
};

template <class P>
LAMINA_FN Fp<P> fp_zero() {
  Fp<P> r;
#pragma unroll
  for (int i = 0; i < 8; i++) r.w[i] = 0;
  return r;
}

template <class P>
LAMINA_FN Fp<P> fp_one() {
  Fp<P> r;
#pragma unroll
  for (int i = 0; i < 8; i++) r.w[i] = P::one(i);
  return r;
}

// a + b, loose.
template <class P>
LAMINA_FN Fp<P> operator+(Fp<P> a, Fp<P> b) {
  Fp<P> sum, less;
  sum.w[0] = add_cc(a.w[0], b.w[0]);
#pragma unroll
  for (int i = 1; i < 7; i++) sum.w[i] = addc_cc(a.w[i], b.w[i]);
  sum.w[7] = addc(a.w[7], b.w[7]);
  less.w[0] = sub_cc(sum.w[0], P::p2(0));
#pragma unroll
  for (int i = 1; i < 8; i++) less.w[i] = subc_cc(sum.w[i], P::p2(i));
  const u32 below = subc(0, 0);
#pragma unroll
  for (int i = 0; i < 8; i++) sum.w[i] = below ? sum.w[i] : less.w[i];
  return sum;
}

// a - b, loose.
template <class P>
LAMINA_FN Fp<P> operator-(Fp<P> a, Fp<P> b) {
  Fp<P> r;
  r.w[0] = sub_cc(a.w[0], b.w[0]);
#pragma unroll
  for (int i = 1; i < 8; i++) r.w[i] = subc_cc(a.w[i], b.w[i]);
  const u32 borrowed = subc(0, 0);
  r.w[0] = add_cc(r.w[0], P::p2(0) & borrowed);
#pragma unroll
  for (int i = 1; i < 7; i++) r.w[i] = addc_cc(r.w[i], P::p2(i) & borrowed);
  r.w[7] = addc(r.w[7], P::p2(7) & borrowed);
  return r;
}

// sum += (a[0], a[2], a[4], a[6]) * b, each product over two words; the carry stays in the flag.
LAMINA_FN void lamina_row(u32 *sum, const u32 *a, u32 b) {
  sum[0] = mad_lo_cc(a[0], b, sum[0]);
  sum[1] = madc_hi_cc(a[0], b, sum[1]);
#pragma unroll
  for (int j = 2; j < 8; j += 2) {
    sum[j] = madc_lo_cc(a[j], b, sum[j]);
    sum[j + 1] = madc_hi_cc(a[j], b, sum[j + 1]);
  }
}

// As `lamina_row`, onto `sum` shifted down by two words; takes a carry in, and cannot overflow.
LAMINA_FN void lamina_row_shifted(u32 *sum, const u32 *a, u32 b) {
#pragma unroll
  for (int j = 0; j < 6; j += 2) {
    sum[j] = madc_lo_cc(a[j], b, sum[j + 2]);
    sum[j + 1] = madc_hi_cc(a[j], b, sum[j + 3]);
  }
  sum[6] = madc_lo_cc(a[6], b, 0);
  sum[7] = madc_hi(a[6], b, 0);
}

// One word of the multiplier. The running value is `low + 2^32 high`; its lowest word becomes zero, and the
// next call takes `high` for `low` and `low`, two words down, for `high`.
template <class P>
LAMINA_FN void lamina_reduce_row(u32 *low, u32 *high) {
  const u32 m = low[0] * P::INV;
  u32 p[8];
#pragma unroll
  for (int i = 0; i < 8; i++) p[i] = P::p(i);
  lamina_row(high, p + 1, m);
  lamina_row(low, p, m);
  high[7] = addc(high[7], 0);
}

template <class P>
LAMINA_FN void lamina_next_row(u32 *low, u32 *high, const u32 *a, u32 b) {
  low[0] = add_cc(low[0], high[1]);
  lamina_row_shifted(high, a + 1, b);
  lamina_row(low, a, b);
  high[7] = addc(high[7], 0);
  lamina_reduce_row<P>(low, high);
}

// a b / R, loose.
template <class P>
LAMINA_FN Fp<P> operator*(Fp<P> a, Fp<P> b) {
  u32 even[8], odd[8];
#pragma unroll
  for (int j = 0; j < 8; j += 2) {
    even[j] = a.w[j] * b.w[0];
    even[j + 1] = mul_hi(a.w[j], b.w[0]);
    odd[j] = a.w[j + 1] * b.w[0];
    odd[j + 1] = mul_hi(a.w[j + 1], b.w[0]);
  }
  lamina_reduce_row<P>(even, odd);
#pragma unroll
  for (int i = 1; i < 7; i += 2) {
    lamina_next_row<P>(odd, even, a.w, b.w[i]);
    lamina_next_row<P>(even, odd, a.w, b.w[i + 1]);
  }
  lamina_next_row<P>(odd, even, a.w, b.w[7]);
  // The lowest word of `odd` is zero: a last shift by a word joins the two.
  Fp<P> r;
  r.w[0] = add_cc(even[0], odd[1]);
#pragma unroll
  for (int i = 1; i < 7; i++) r.w[i] = addc_cc(even[i], odd[i + 1]);
  r.w[7] = addc(even[7], 0);
  return r;
}

// The representative below p.
template <class P>
LAMINA_FN Fp<P> canonical(Fp<P> a) {
  Fp<P> less;
  less.w[0] = sub_cc(a.w[0], P::p(0));
#pragma unroll
  for (int i = 1; i < 8; i++) less.w[i] = subc_cc(a.w[i], P::p(i));
  const u32 below = subc(0, 0);
#pragma unroll
  for (int i = 0; i < 8; i++) a.w[i] = below ? a.w[i] : less.w[i];
  return a;
}

// Whether a loose value is zero, that is 0 or p.
template <class P>
LAMINA_FN bool is_zero(Fp<P> a) {
  u32 zero = 0, p = 0;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    zero |= a.w[i];
    p |= a.w[i] ^ P::p(i);
  }
  return zero == 0 || p == 0;
}

template <class P>
LAMINA_FN Fp<P> select(bool first, Fp<P> a, Fp<P> b) {
#pragma unroll
  for (int i = 0; i < 8; i++) a.w[i] = first ? a.w[i] : b.w[i];
  return a;
}

// The integer below p that a stands for.
template <class P>
LAMINA_FN Fp<P> from_montgomery(Fp<P> a) {
  Fp<P> one = fp_zero<P>();
  one.w[0] = 1;
  return canonical(a * one);
}

// An integer below 2^255, given as words, times R.
template <class P>
LAMINA_FN Fp<P> to_montgomery(Fp<P> a) {
  Fp<P> r2;
#pragma unroll
  for (int i = 0; i < 8; i++) r2.w[i] = P::r2(i);
  return a * r2;
}

// A signed integer as a field element.
template <class P>
LAMINA_FN Fp<P> from_integer(i32 v) {
  const u32 negative = v < 0;
  Fp<P> a = fp_zero<P>();
  a.w[0] = negative ? 0u - (u32)v : (u32)v;
  a = to_montgomery(a);
  return select(negative, fp_zero<P>() - a, a);
}

// a^e.
template <class P>
LAMINA_FN Fp<P> power(Fp<P> a, u32 e) {
  Fp<P> r = fp_one<P>();
#pragma unroll 1
  for (; e; e >>= 1) {
    if (e & 1) r = r * a;
    a = a * a;
  }
  return r;
}

// 1/a, and 0 for 0: a^(p-2), left to right. The exponent is shifted out of registers: a table of words would be
// indexed at run time, and lie in local memory.
template <class P>
LAMINA_FN Fp<P> inverse(Fp<P> a) {
  u32 e[8];
#pragma unroll
  for (int j = 0; j < 8; j++) e[j] = P::p(j) - (j == 0 ? 2 : 0);
  Fp<P> r = fp_one<P>();
#pragma unroll 1
  for (int i = 0; i < 256; i++) {
    r = r * r;
    if (e[7] >> 31) r = r * a;
#pragma unroll
    for (int j = 7; j > 0; j--) e[j] = (e[j] << 1) | (e[j - 1] >> 31);
    e[0] <<= 1;
  }
  return r;
}

template <class P>
LAMINA_FN Fp<P> shuffle_up(Fp<P> a, u32 by) {
  Fp<P> r;
#pragma unroll
  for (int i = 0; i < 8; i++) r.w[i] = __shfl_up_sync(LAMINA_WARP, a.w[i], by);
  return r;
}

template <class P>
LAMINA_FN Fp<P> shuffle_down(Fp<P> a, u32 by) {
  Fp<P> r;
#pragma unroll
  for (int i = 0; i < 8; i++) r.w[i] = __shfl_down_sync(LAMINA_WARP, a.w[i], by);
  return r;
}
