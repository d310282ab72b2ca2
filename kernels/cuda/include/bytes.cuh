// Sums of products of integers and field elements, on the matrix units: both are taken apart into bytes.
//
// A warp multiplies matrices of bytes, 8 x 16 of integers by 16 x 8 of elements, onto 8 x 8 sums of 32 bits. Of its lanes
// (g, q) = (lane / 4, lane % 4) each holds row g of the integers and column g of the elements for terms 4 q .. 4 q + 3, and the
// sums of row g and columns 2 q and 2 q + 1. Four products, t = 0 .. 3, cover the 32 bytes of an element: product t has
// byte 4 g + t in column g. So a lane takes word g of four elements, and has bytes 8 q .. 8 q + 7 of row g's sum.
//
// An integer's two's complement with its top bit flipped is the integer plus 2^(bits - 1), which is not negative. Each of
// its bytes is a term of its own, byte j with 256^j in its element or in what is done with its sum.
#pragma once
#include "cells.cuh"

// A lane's part of a row of sums: `w[t][e]` counts 2^(8 (4 e + t)). A sum has room for 2^15 terms, 255 * 255 * 2^15 < 2^31:
// the launcher's `BYTE_TERMS`.
struct ByteSums {
  u32 w[4][2];
};

LAMINA_FN ByteSums bytes_zero() {
  ByteSums r;
#pragma unroll
  for (int t = 0; t < 4; t++) r.w[t][0] = r.w[t][1] = 0;
  return r;
}

// sums + integers * elements, by all lanes of a warp. `integers` has four terms of row g, word t of `elements` four terms of
// byte 4 g + t.
LAMINA_FN ByteSums bytes_multiply(ByteSums sums, u32 integers, Quad elements) {
#pragma unroll
  for (int t = 0; t < 4; t++) {
#if defined(__CUDA_ARCH__)
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.u8.u8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
                 : "+r"(sums.w[t][0]), "+r"(sums.w[t][1])
                 : "r"(integers), "r"(elements.w[t]));
#else
    LAMINA_MULTIPLY_BYTES(sums.w[t], integers, elements.w[t]);
#endif
  }
  return sums;
}

// Byte i of each of four words, as word i.
LAMINA_FN Quad bytes_transposed(u32 a, u32 b, u32 c, u32 d) {
  const u32 ab = __byte_perm(a, b, 0x5140), cd = __byte_perm(c, d, 0x5140);
  const u32 ab_high = __byte_perm(a, b, 0x7362), cd_high = __byte_perm(c, d, 0x7362);
  Quad r;
  r.w[0] = __byte_perm(ab, cd, 0x5410);
  r.w[1] = __byte_perm(ab, cd, 0x7632);
  r.w[2] = __byte_perm(ab_high, cd_high, 0x5410);
  r.w[3] = __byte_perm(ab_high, cd_high, 0x7632);
  return r;
}

// An integer below 2^280 modulo p, loose. With h its bits from 248 on and B = floor(2^285 / p), the quotient floor(h B / 2^37)
// is never too large, and too small by less than 1 + 2^248 / p + 2^-5 < 1.06.
LAMINA_FN Fr bytes_reduce(u32 (&sum)[9]) {
  const u32 quotient = mul_hi(__funnelshift_l(sum[7], sum[8], 8), 0xa948e8c4u) >> 5;
  // Modulo 2^256 a multiple of 2^256 - p is added.
  u32 minus[8];
#pragma unroll
  for (int i = 0; i < 8; i++) minus[i] = ~FrParameters::p(i) + (i == 0);
  lamina_row(sum, minus, quotient);
  lamina_row(sum + 1, minus + 1, quotient);
  Fr r;
#pragma unroll
  for (int i = 0; i < 8; i++) r.w[i] = sum[i];
  return r;
}

// Of four rows' sums, each in parts with the four lanes of a group, lane q gets row q's, reduced: loose.
LAMINA_FN Fr bytes_collect(const ByteSums *rows) {
  const u32 odd = threadIdx.x & 1, upper = threadIdx.x & 2;
  u32 pairs[2][5];
#pragma unroll
  for (int h = 0; h < 2; h++) {
    // A part has 88 bits.
    u32 parts[2][3];
#pragma unroll
    for (int i = 0; i < 2; i++) {
      u64 words[2];
#pragma unroll
      for (int e = 0; e < 2; e++) {
        words[e] = rows[2 * h + i].w[0][e];
#pragma unroll
        for (int t = 1; t < 4; t++) words[e] += (u64)rows[2 * h + i].w[t][e] << (8 * t);
      }
      parts[i][0] = (u32)words[0];
      parts[i][1] = add_cc((u32)(words[0] >> 32), (u32)words[1]);
      parts[i][2] = addc((u32)(words[1] >> 32), 0);
    }
    // Of the two rows an even lane wants the first, and its neighbour the second.
    u32 low[3], high[3];
#pragma unroll
    for (int i = 0; i < 3; i++) {
      const u32 own = odd ? parts[1][i] : parts[0][i];
      const u32 other = __shfl_xor_sync(LAMINA_WARP, odd ? parts[0][i] : parts[1][i], 1);
      low[i] = odd ? other : own;
      high[i] = odd ? own : other;
    }
    pairs[h][0] = low[0];
    pairs[h][1] = low[1];
    pairs[h][2] = add_cc(low[2], high[0]);
    pairs[h][3] = addc_cc(high[1], 0);
    pairs[h][4] = addc(high[2], 0);
  }
  // The lower two lanes want rows 0 and 1, the upper two rows 2 and 3.
  u32 low[5], high[5];
#pragma unroll
  for (int i = 0; i < 5; i++) {
    const u32 own = upper ? pairs[1][i] : pairs[0][i];
    const u32 other = __shfl_xor_sync(LAMINA_WARP, upper ? pairs[0][i] : pairs[1][i], 2);
    low[i] = upper ? other : own;
    high[i] = upper ? own : other;
  }
  u32 sum[9];
#pragma unroll
  for (int i = 0; i < 4; i++) sum[i] = low[i];
  sum[4] = add_cc(low[4], high[0]);
#pragma unroll
  for (int i = 1; i < 4; i++) sum[4 + i] = addc_cc(high[i], 0);
  sum[8] = addc(high[4], 0);
  return bytes_reduce(sum);
}

// Rows i .. i + COUNT - 1 of a column of integers, in two's complement, zero beyond its cells. Returns whether one of them is
// in the tail.
template <class T, u32 COUNT>
LAMINA_FN bool load_cells(u32 *words, Column column, u32 i, u32 n) {
  constexpr u32 WORDS = COUNT * sizeof(T) / 4;
  // Cells of a word, where a word has several.
  constexpr u32 SLACK = sizeof(T) == 4 ? 0 : 4 / sizeof(T);
  const u32 row = rotated(column, i, n);
  const T *const from = static_cast<const T *>(column.cells) + row;
  const u64 address = (u64)from;
  if (row + COUNT <= column.len && address % (WORDS == 2 ? 8 : 16) == 0) {
    if (WORDS == 2) {
      const Pair pair = *reinterpret_cast<const Pair *>(from);
      words[0] = pair.w[0];
      words[1] = pair.w[1];
    }
#pragma unroll
    for (u32 at = 0; at + 4 <= WORDS; at += 4) {
      const Quad quad = reinterpret_cast<const Quad *>(from)[at / 4];
#pragma unroll
      for (u32 j = 0; j < 4; j++) words[at + j] = quad.w[j];
    }
    return false;
  }
  // Not where 16 bytes begin: from the words that the cells lie in, and one more. Buffers begin with whole words.
  if (row + COUNT + SLACK <= column.len) {
    const u32 *const around = reinterpret_cast<const u32 *>(address & ~3ull);
    const u32 shift = (u32)(address & 3) * 8;
    u32 word = around[0];
#pragma unroll
    for (u32 at = 0; at < WORDS; at++) {
      const u32 next = SLACK ? around[at + 1] : 0;
      words[at] = SLACK ? __funnelshift_r(word, next, shift) : around[at];
      word = next;
    }
    return false;
  }
  // Round the end of the column, or of its cells: each cell comes in at the top.
  bool tail = false;
#pragma unroll
  for (u32 w = 0; w < WORDS; w++) words[w] = 0;
#pragma unroll 1
  for (u32 r = 0; r < COUNT; r++) {
    const u32 at = rotated(column, i + r, n);
    tail = tail || at >= column.tail_start;
    u32 cell = 0;
    if (at < column.len) cell = (u32)static_cast<const T *>(column.cells)[at];
#pragma unroll
    for (u32 w = 0; w < WORDS; w++) {
      const u32 next = w + 1 < WORDS ? words[w + 1] : cell;
      words[w] = sizeof(T) == 4 ? next : __funnelshift_r(words[w], next, sizeof(T) * 8);
    }
  }
  return tail;
}
