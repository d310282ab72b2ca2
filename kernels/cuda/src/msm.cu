// Sums of multiples of fixed points, sum_i k_i P_i, for many columns of scalars at once.
//
// A scalar is W signed digits of `window` bits, k = sum_w d_w 2^(window w), |d_w| <= M = 2^(window - 1). One
// *task* is one window of one column:
//
//     msm_digits      digits of all scalars
//     msm_count       how many digits of a tile have each magnitude
//     msm_offsets     where each bucket begins, and each tile's part of it
//     msm_scatter     indices of points, by bucket (the order within a bucket is any; the sum is the same)
//     msm_accumulate  bucket sums; a thread adds `each` entries, whatever buckets they are in
//     msm_fold        the sums of threads that began within a bucket, in as many levels as it takes
//     msm_reduce      sum_b b B_b, in levels of 2^log_each nodes
//     msm_finish      sum_w 2^(window w) T_w, a thread a column
//
// With tables of 2^(window w) P_i a column is one task, of the digits of all windows, and one window to finish.
//
// Work depends on the number of nonzero digits only, never on how they are distributed: a column of a
// million equal scalars costs what one of random scalars does.
#include "bn254_g1.cuh"
#include "cells.cuh"

// The sign of an entry; the rest is the index of a point.
constexpr u32 MSM_NEGATIVE = 0x80000000u;

// out[column, w, i] = digit w of scalar i. The low digits lie in [-M, M), the last takes what is left.
LAMINA_KERNEL(256, msm_digits)(
    i16 *out,             // [columns, windows, n]
    const void *scalars,  // [columns, stride] cells of `kind`
    u32 kind,
    u64 stride,
    u32 n,
    u32 window,           // 2 <= window <= 15
    u32 windows,          // window * windows >= bits of an integer, or 255 for field elements
    u32 columns)
{
  const u64 count = (u64)columns * n;
  const u32 size = kind == KIND_FIELD ? 32 : kind == KIND_I8 ? 1 : kind == KIND_I16 ? 2 : 4;
  const i32 half = 1 << (window - 1), mask = 2 * half - 1;
#pragma unroll 1
  for (u64 at = global_thread(); at < count; at += (u64)gridDim.x * blockDim.x) {
    const u64 column = at / n;
    const u32 i = (u32)(at - column * n);
    const void *const source = static_cast<const char *>(scalars) + column * stride * size;
    i16 *const digits = out + column * windows * n + i;
    if (kind == KIND_FIELD) {
      Fr rest = from_montgomery(static_cast<const Fr *>(source)[i]);
      i32 carry = 0;
#pragma unroll 1
      for (u32 w = 0; w < windows; w++) {
        const i32 digit = (i32)(rest.w[0] & (u32)mask) + carry;
        carry = w + 1 < windows && digit >= half;
        digits[(u64)w * n] = (i16)(digit - (carry << window));
#pragma unroll
        for (int j = 0; j < 8; j++) {
          const u32 next = j < 7 ? rest.w[(j + 1) & 7] << (32 - window) : 0;
          rest.w[j] = (rest.w[j] >> window) | next;
        }
      }
    } else {
      long long rest = load_integer(source, kind, i);
#pragma unroll 1
      for (u32 w = 0; w < windows; w++) {
        i32 digit = (i32)(rest & mask);
        if (digit >= half) digit -= 2 * half;
        if (w + 1 == windows) digit = (i32)rest;
        digits[(u64)w * n] = (i16)digit;
        rest = (rest - digit) >> window;
      }
    }
  }
}
LAMINA_EXPORT(msm_digits)

// The bucket of a digit that is not zero.
LAMINA_FN u32 msm_bucket(i32 digit) { return (u32)(digit < 0 ? -digit : digit) - 1; }

// counts[task, tile, b] = how many digits of the tile belong to bucket b. Shared memory: 4 M bytes.
LAMINA_KERNEL(512, msm_count)(
    u32 *counts,        // [tasks, tiles, M]
    const i16 *digits,  // [tasks, n]
    u32 n,
    u32 buckets,        // M
    u32 tile_len,
    u32 tiles)          // blocks: tasks * tiles
{
  LAMINA_SHARED(u32, count);
  const u64 task = blockIdx.x / tiles;
  const u32 first = (blockIdx.x % tiles) * tile_len, end = n - first < tile_len ? n : first + tile_len;
  for (u32 b = threadIdx.x; b < buckets; b += blockDim.x) count[b] = 0;
  __syncthreads();
  for (u32 i = first + threadIdx.x; i < end; i += blockDim.x) {
    const i32 digit = digits[task * n + i];
    if (digit) atomicAdd(&count[msm_bucket(digit)], 1u);
  }
  __syncthreads();
  u32 *const out = counts + (u64)blockIdx.x * buckets;
  for (u32 b = threadIdx.x; b < buckets; b += blockDim.x) out[b] = count[b];
}
LAMINA_EXPORT(msm_count)

constexpr u32 MSM_OFFSETS_THREADS = 512;

// offsets[task, b] = where bucket b begins, counts[task, tile, b] = where its part of the tile does.
// A block a task. Shared memory: 4 (16 + 1) bytes.
LAMINA_KERNEL(MSM_OFFSETS_THREADS, msm_offsets)(
    u32 *offsets,  // [tasks, M + 1]
    u32 *counts,   // [tasks, tiles, M]: as counted, then overwritten
    u32 buckets,   // M
    u32 tiles)
{
  LAMINA_SHARED(u32, warp_sums);  // of 16 warps, then what precedes this round
  u32 *const before = warp_sums + MSM_OFFSETS_THREADS / 32;
  const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  u32 *const own = counts + (u64)blockIdx.x * tiles * buckets;
  u32 *const out = offsets + (u64)blockIdx.x * (buckets + 1);
  if (threadIdx.x == 0) *before = 0;
  for (u32 round = 0; round < buckets; round += blockDim.x) {
    const u32 b = round + threadIdx.x;
    u32 sum = 0;
    if (b < buckets)
      for (u32 tile = 0; tile < tiles; tile++) sum += own[(u64)tile * buckets + b];
    u32 upto = sum;  // of the lanes up to this one
    for (u32 by = 1; by < 32; by *= 2) {
      const u32 other = __shfl_up_sync(LAMINA_WARP, upto, by);
      if (lane >= by) upto += other;
    }
    if (lane == 31) warp_sums[warp] = upto;
    __syncthreads();
    u32 at = *before + upto - sum;
    for (u32 w = 0; w < warp; w++) at += warp_sums[w];
    __syncthreads();
    if (threadIdx.x == blockDim.x - 1) *before = at + sum;
    if (b < buckets) {
      out[b] = at;
      for (u32 tile = 0; tile < tiles; tile++) {
        const u32 count = own[(u64)tile * buckets + b];
        own[(u64)tile * buckets + b] = at;
        at += count;
      }
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) out[buckets] = *before;
}
LAMINA_EXPORT(msm_offsets)

// entries[task, ..] = indices of points with signs, by bucket. Shared memory: 4 M bytes.
LAMINA_KERNEL(512, msm_scatter)(
    u32 *entries,       // [tasks, n]
    const i16 *digits,  // [tasks, n]
    const u32 *starts,  // [tasks, tiles, M]: `counts` after msm_offsets
    u32 n,
    u32 buckets,        // M
    u32 tile_len,
    u32 tiles)          // blocks: tasks * tiles
{
  LAMINA_SHARED(u32, next);
  const u64 task = blockIdx.x / tiles;
  const u32 first = (blockIdx.x % tiles) * tile_len, end = n - first < tile_len ? n : first + tile_len;
  const u32 *const in = starts + (u64)blockIdx.x * buckets;
  for (u32 b = threadIdx.x; b < buckets; b += blockDim.x) next[b] = in[b];
  __syncthreads();
  for (u32 i = first + threadIdx.x; i < end; i += blockDim.x) {
    const i32 digit = digits[task * n + i];
    if (digit) entries[task * n + atomicAdd(&next[msm_bucket(digit)], 1u)] = i | (digit < 0 ? MSM_NEGATIVE : 0);
  }
}
LAMINA_EXPORT(msm_scatter)

// The first b < buckets with end(b) > at; there is one.
template <class End>
LAMINA_FN u32 msm_find(u32 buckets, u32 at, End end) {
  u32 low = 0, high = buckets - 1;
  while (low < high) {
    const u32 middle = (low + high) / 2;
    if (end(middle) > at) high = middle;
    else low = middle + 1;
  }
  return low;
}

// Sums of entries [t 2^log_each, (t + 1) 2^log_each) of each task, bucket by bucket. The sum of a bucket that
// began earlier goes to `heads`, any other to `buckets`.
LAMINA_KERNEL(128, msm_accumulate)(
    G1 *sums,               // [tasks, M]: zeros; buckets with entries are written
    G1 *heads,              // [tasks, threads]: written where thread t began within a bucket
    const u32 *entries,     // [tasks, n]
    const u32 *offsets,     // [tasks, M + 1]
    const G1Affine *bases,  // [n]
    u32 n,
    u32 buckets,            // M
    u32 log_each,
    u32 threads,            // of a task: ceil(n / 2^log_each)
    u64 total)              // threads * tasks
{
  const u64 id = (u64)blockIdx.x * blockDim.x + threadIdx.x;
  if (id >= total) return;
  const u64 task = id / threads;
  const u32 t = (u32)(id - task * threads), start = t << log_each;
  const u32 *const offset = offsets + task * (buckets + 1), *const entry = entries + task * n;
  const u32 count = offset[buckets];
  if (start >= count) return;
  const u32 end = count - start < (1u << log_each) ? count : start + (1u << log_each);
  u32 b = msm_find(buckets, start, [&](u32 i) { return offset[i + 1]; });
  u32 until = offset[b + 1];
  bool owned = offset[b] >= start;
  G1 sum = g1_infinity();
#pragma unroll 1
  for (u32 i = start;; i++) {
    if (i == end || i == until) {
      if (owned) sums[task * buckets + b] = sum;
      else heads[id] = sum;
      if (i == end) break;
      do until = offset[++b + 1];
      while (until == i);
      owned = true;
      sum = g1_infinity();
    }
    const u32 e = entry[i];
    sum = g1_add_affine(sum, bases[e & ~MSM_NEGATIVE], (e & MSM_NEGATIVE) != 0);
  }
}
LAMINA_EXPORT(msm_accumulate)

// The heads that belong to a bucket: of the items [begin, end) of one level, those of the threads that began
// within them are items [begin / each + 1, ceil(end / each)) of the next.
struct MsmRange {
  u32 begin, end;
};

LAMINA_FN MsmRange msm_range(const u32 *offset, u32 b, u32 level, u32 log_first, u32 log_each) {
  MsmRange range = {offset[b], offset[b + 1]};
  u32 log = log_first;
  for (u32 l = 0; l < level; l++, log = log_each) {
    range.begin = (range.begin >> log) + 1;
    range.end = (range.end + (1u << log) - 1) >> log;
  }
  return range;
}

// Adds the heads of one level to the buckets, 2^log_each a thread; what began earlier goes to `heads_out`.
LAMINA_KERNEL(128, msm_fold)(
    G1 *sums,            // [tasks, M]
    G1 *heads_out,       // [tasks, threads]
    const G1 *heads,     // [tasks, items]
    const u32 *offsets,  // [tasks, M + 1]
    u32 items,
    u32 buckets,         // M
    u32 level,           // from 1 on
    u32 log_first,       // log_each of msm_accumulate
    u32 log_each,
    u32 threads,         // of a task: ceil(items / 2^log_each)
    u64 total)           // threads * tasks
{
  const u64 id = (u64)blockIdx.x * blockDim.x + threadIdx.x;
  if (id >= total) return;
  const u64 task = id / threads;
  const u32 t = (u32)(id - task * threads), start = t << log_each;
  const u32 *const offset = offsets + task * (buckets + 1);
  const u32 count = msm_range(offset, buckets - 1, level, log_first, log_each).end;
  if (start >= count) return;
  const u32 end = count - start < (1u << log_each) ? count : start + (1u << log_each);
  u32 b = msm_find(buckets, start, [&](u32 i) { return msm_range(offset, i, level, log_first, log_each).end; });
  MsmRange range = msm_range(offset, b, level, log_first, log_each);
  bool open = false;
  G1 sum = g1_infinity();
#pragma unroll 1
  for (u32 i = start;; i++) {
    if (open && (i == end || i >= range.end)) {
      if (range.begin >= start) sums[task * buckets + b] = sum;
      else heads_out[id] = sum;
      open = false;
    }
    if (i == end) break;
    while (i >= range.end) range = msm_range(offset, ++b, level, log_first, log_each);
    if (i < range.begin) continue;
    if (!open) sum = range.begin >= start ? sums[task * buckets + b] : g1_infinity();
    open = true;
    sum = g1_add(sum, heads[task * items + i], false);
  }
}
LAMINA_EXPORT(msm_fold)

// Joins 2^log_each neighbouring nodes. A node over the buckets [i, i + 2^log_span) is the pair
// (sum B_b, sum (b - i + 1) B_b); at first, with log_span = 0, both are the bucket.
LAMINA_KERNEL(128, msm_reduce)(
    G1 *plain_out,       // [tasks, nodes / 2^log_each]
    G1 *weighted_out,    // likewise
    const G1 *plain,     // [tasks, nodes]
    const G1 *weighted,  // [tasks, nodes]
    u32 log_span,
    u32 log_each,
    u64 total)           // tasks * nodes / 2^log_each
{
  const u64 id = (u64)blockIdx.x * blockDim.x + threadIdx.x;
  if (id >= total) return;
  const u64 first = id << log_each;
  // suffix = S_j + S_(j+1) + ..; steps = sum_j j S_j; inner = sum_j T_j; then inner + 2^log_span steps.
  G1 suffix = g1_infinity(), steps = suffix, inner = suffix;
  const u32 additions = 3u << log_each;
#pragma unroll 1
  for (u32 step = 0; step <= additions + log_span; step++) {
    const u32 j = (1u << log_each) - 1 - step / 3;
    const bool adding = step < additions, twice = !adding && step < additions + log_span;
    const u32 which = adding ? step % 3 : twice ? 1 : 2;
    if (adding && which == 1 && j == 0) continue;
    const G1 a = which == 0 ? suffix : which == 1 ? steps : inner;
    G1 b = which == 1 ? suffix : steps;
    if (adding && which != 1) b = which == 0 ? plain[first + j] : weighted[first + j];
    if (twice && is_zero(a.zz)) continue;
    const G1 sum = g1_add(a, b, twice);
    suffix = g1_select(which == 0, sum, suffix);
    steps = g1_select(which == 1, sum, steps);
    inner = g1_select(which == 2, sum, inner);
  }
  plain_out[id] = suffix;
  weighted_out[id] = inner;
}
LAMINA_EXPORT(msm_reduce)

// out[column] = sum_w 2^(window w) T_w, canonical.
LAMINA_KERNEL(32, msm_finish)(
    G1 *out,          // [columns]
    const G1 *parts,  // [columns, windows]: T_w
    u32 window,
    u32 windows,
    u32 columns)
{
  const u32 column = global_thread();
  if (column >= columns) return;
  G1 sum = g1_infinity();
#pragma unroll 1
  for (u32 w = windows; w-- > 0;) {
#pragma unroll 1
    for (u32 step = 0; step <= window; step++) {
      const bool twice = step < window;
      if (twice && is_zero(sum.zz)) continue;
      sum = g1_add(sum, twice ? sum : parts[(u64)column * windows + w], twice);
    }
  }
  sum.x = canonical(sum.x);
  sum.y = canonical(sum.y);
  sum.zz = canonical(sum.zz);
  sum.zzz = canonical(sum.zzz);
  out[column] = sum;
}
LAMINA_EXPORT(msm_finish)

// out[i] = 2^times in[i]: the next table.
LAMINA_KERNEL(128, msm_double)(
    G1Affine *out,       // [n]
    const G1Affine *in,  // [n]
    u32 times,           // at least one
    u32 n)
{
  const u32 i = global_thread();
  if (i >= n) return;
  G1 sum = g1_add_affine(g1_infinity(), in[i], false);
  // No point but infinity has order two: it stays what it is, ZZ = 0.
#pragma unroll 1
  for (u32 step = 0; step < times; step++) sum = g1_add(sum, sum, true);
  // 1 / ZZ = (ZZ / ZZZ)^2, and 0 for 0: infinity becomes (0, 0).
  const Fq y = inverse(sum.zzz), x = sum.zz * y;
  G1Affine result;
  result.x = canonical(sum.x * (x * x));
  result.y = canonical(sum.y * y);
  out[i] = result;
}
LAMINA_EXPORT(msm_double)
