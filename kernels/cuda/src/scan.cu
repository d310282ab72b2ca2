// Running sums, running products, and inverses of many columns.
//
// A scan is three kernels: totals of tiles of 1024, a scan of the totals (one block a column), and the tiles
// again, each from its offset. Inverses share one inversion among a tile of 4096.
#include "bn254_fr.cuh"

constexpr u32 SCAN_THREADS = 256, SCAN_EACH = 4, SCAN_WARPS = SCAN_THREADS / 32;
constexpr u32 SCAN_TILE = SCAN_THREADS * SCAN_EACH;

LAMINA_FN Fr scan_neutral(bool product) {
  return select(product, fp_one<FrParameters>(), fp_zero<FrParameters>());
}

LAMINA_FN Fr scan_join(bool product, Fr a, Fr b) { return product ? a * b : a + b; }

// What the threads before this one hold, joined; `all` becomes what all of them hold. Shared memory: 8 elements.
// The caller puts a barrier before the next use of `shared`.
LAMINA_FN Fr scan_block(bool product, Fr own, Fr *shared, Fr *all) {
  const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  Fr upto = own;
#pragma unroll 1
  for (u32 by = 1; by < 32; by *= 2) {
    const Fr other = shuffle_up(upto, by);
    if (lane >= by) upto = scan_join(product, upto, other);
  }
  if (lane == 31) shared[warp] = upto;
  Fr before = shuffle_up(upto, 1);
  if (lane == 0) before = scan_neutral(product);
  __syncthreads();
  Fr sum = scan_neutral(product), mine = sum;
#pragma unroll 1
  for (u32 w = 0; w < SCAN_WARPS; w++) {
    if (w == warp) mine = sum;
    sum = scan_join(product, sum, shared[w]);
  }
  *all = sum;
  return scan_join(product, mine, before);
}

// totals[column, tile] = a tile of `in`, joined. Shared memory: 256 bytes.
LAMINA_KERNEL(SCAN_THREADS, scan_totals)(
    Fr *totals,    // [columns, tiles]
    const Fr *in,  // [columns, stride]
    u64 stride,
    u32 n,
    u32 tiles,     // ceil(n / 1024); blocks: columns * tiles
    u32 product)   // 1: running products, 0: running sums
{
  LAMINA_SHARED(Fr, shared);
  const Fr *const column = in + (blockIdx.x / tiles) * stride;
  const u32 first = (blockIdx.x % tiles) * SCAN_TILE + threadIdx.x;
  Fr own = scan_neutral(product), all;
#pragma unroll 1
  for (u32 e = 0; e < SCAN_EACH; e++) {
    const u32 i = first + e * SCAN_THREADS;
    if (i < n) own = scan_join(product, own, column[i]);
  }
  scan_block(product, own, shared, &all);
  if (threadIdx.x == 0) totals[blockIdx.x] = canonical(all);
}
LAMINA_EXPORT(scan_totals)

// totals[column, tile] = what precedes the tile. A block a column. Shared memory: 256 bytes.
LAMINA_KERNEL(SCAN_THREADS, scan_offsets)(
    Fr *totals,  // [columns, tiles]
    u32 tiles,
    u32 product)
{
  LAMINA_SHARED(Fr, shared);
  Fr *const own = totals + (u64)blockIdx.x * tiles;
  Fr before = scan_neutral(product);
#pragma unroll 1
  for (u32 first = 0; first < tiles; first += SCAN_THREADS) {
    const u32 tile = first + threadIdx.x;
    Fr all;
    const Fr value = tile < tiles ? own[tile] : scan_neutral(product);
    const Fr upto = scan_block(product, value, shared, &all);
    if (tile < tiles) own[tile] = canonical(scan_join(product, before, upto));
    before = scan_join(product, before, all);
    __syncthreads();
  }
}
LAMINA_EXPORT(scan_offsets)

// out[column, i] = the offset of the tile and in[column, first of the tile .. i), joined. Shared memory: 256 bytes.
LAMINA_KERNEL(SCAN_THREADS, scan_apply)(
    Fr *out,            // [columns, n]
    const Fr *in,       // [columns, stride]
    u64 stride,
    const Fr *offsets,  // [columns, tiles]
    u32 n,
    u32 tiles,
    u32 product)
{
  LAMINA_SHARED(Fr, shared);
  const u64 number = blockIdx.x / tiles;
  const Fr *const column = in + number * stride;
  const u32 first = (blockIdx.x % tiles) * SCAN_TILE + threadIdx.x * SCAN_EACH;
  Fr own = scan_neutral(product), all;
#pragma unroll 1
  for (u32 i = first; i < first + SCAN_EACH && i < n; i++) own = scan_join(product, own, column[i]);
  Fr value = scan_block(product, own, shared, &all);
  value = scan_join(product, offsets[blockIdx.x], value);
#pragma unroll 1
  for (u32 i = first; i < first + SCAN_EACH && i < n; i++) {
    out[number * n + i] = canonical(value);
    value = scan_join(product, value, column[i]);
  }
}
LAMINA_EXPORT(scan_apply)

constexpr u32 INVERT_EACH = 16, INVERT_TILE = SCAN_THREADS * INVERT_EACH;

// out[i] = 1 / in[i], and 0 for 0. Shared memory: 512 bytes.
LAMINA_KERNEL(SCAN_THREADS, fr_invert)(
    Fr *out,       // [n], not `in`
    const Fr *in,  // [n]
    u64 n)
{
  LAMINA_SHARED(Fr, shared);
  const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const u64 first = (u64)blockIdx.x * INVERT_TILE + threadIdx.x;
  // Products of a thread's elements before each, zeros left out.
  Fr product = fp_one<FrParameters>();
#pragma unroll 1
  for (u32 e = 0; e < INVERT_EACH; e++) {
    const u64 i = first + e * SCAN_THREADS;
    if (i >= n) break;
    const Fr value = in[i];
    out[i] = product;
    if (!is_zero(value)) product = product * value;
  }
  // What the other threads of the warp hold: those before this one times those after it.
  Fr before = product, after = product;
#pragma unroll 1
  for (u32 by = 1; by < 32; by *= 2) {
    const Fr lower = shuffle_up(before, by), upper = shuffle_down(after, by);
    if (lane >= by) before = before * lower;
    if (lane + by < 32) after = after * upper;
  }
  if (lane == 31) shared[warp] = before;
  before = shuffle_up(before, 1);
  after = shuffle_down(after, 1);
  if (lane == 0) before = fp_one<FrParameters>();
  if (lane == 31) after = fp_one<FrParameters>();
  Fr others = before * after;
  __syncthreads();
  // shared[w] becomes the inverse of what warp w holds: one inversion a block.
  if (threadIdx.x == 0) {
    Fr all = shared[0];
#pragma unroll 1
    for (u32 w = 1; w < SCAN_WARPS; w++) {
      const Fr own = shared[w];
      shared[w] = all;
      all = all * own;
      shared[w + SCAN_WARPS] = own;
    }
    Fr rest = inverse(all);
#pragma unroll 1
    for (u32 w = SCAN_WARPS - 1; w > 0; w--) {
      const Fr own = shared[w + SCAN_WARPS];
      shared[w] = rest * shared[w];
      rest = rest * own;
    }
    shared[0] = rest;
  }
  __syncthreads();
  // 1 / product, then from the last element to the first.
  Fr running = others * shared[warp];
#pragma unroll 1
  for (u32 e = INVERT_EACH; e-- > 0;) {
    const u64 i = first + e * SCAN_THREADS;
    if (i >= n) continue;
    const Fr value = in[i];
    const bool zero = is_zero(value);
    out[i] = canonical(select(zero, fp_zero<FrParameters>(), running * out[i]));
    if (!zero) running = running * value;
  }
}
LAMINA_EXPORT(fr_invert)
