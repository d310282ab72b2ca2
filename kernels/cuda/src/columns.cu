// Columns that lie anywhere, of any kinds: as field elements, combined, and evaluated.
#include "wide.cuh"

// out[column, i] = row i of a column.
LAMINA_KERNEL(256, columns_expand)(
    Fr *out,                // [count, n]
    const Column *columns,  // [count]
    u32 n,
    u64 total)              // count * n
{
  const u64 id = (u64)blockIdx.x * blockDim.x + threadIdx.x;
  if (id >= total) return;
  const u64 at = id / n;
  out[id] = canonical(load_row(columns[at], (u32)(id - at * n), n));
}
LAMINA_EXPORT(columns_expand)

constexpr u32 COLUMNS_THREADS = 256, COLUMNS_ROWS = 2;

// parts[chunk, i] = sum over the chunk's columns of c_l (v_l[i] + offset_l): `offset_l` is `kind_offset` for integers,
// zero for field elements and for tails. The caller takes sum_l offset_l c_l off again.
// Integers are not turned into field elements. A coefficient's eight words times an integer of up to 32 bits are eight wide
// multiply-adds onto a sum of ten words, which is reduced once for all columns: low + 2^256 high.
// A block takes 512 rows of one chunk. Shared memory: 64 * chunk_len bytes.
LAMINA_KERNEL(COLUMNS_THREADS, columns_combine)(
    Fr *parts,              // [chunks, n]
    const Column *columns,  // [count]
    const Fr *c,            // [count]
    u32 n,
    u32 count,
    u32 chunk_len,          // columns of a chunk
    u32 row_blocks)         // ceil(n / 512); blocks: row_blocks * chunks
{
  LAMINA_SHARED(Fr, coefficients);
  Column *const list = reinterpret_cast<Column *>(coefficients + chunk_len);
  const u32 chunk = blockIdx.x / row_blocks, first = chunk * chunk_len;
  const u32 own = count - first < chunk_len ? count - first : chunk_len;
  for (u32 l = threadIdx.x; l < own; l += blockDim.x) {
    coefficients[l] = c[first + l];
    list[l] = columns[first + l];
  }
  __syncthreads();
  const u32 row = (blockIdx.x % row_blocks) * COLUMNS_THREADS * COLUMNS_ROWS + threadIdx.x;
  const u32 next = row + COLUMNS_THREADS;
  // What is beyond the last row is computed as the last row, and not kept.
  const u32 i0 = row < n ? row : n - 1, i1 = next < n ? next : n - 1;
  Wide wide0 = wide_zero(), wide1 = wide0;
  Fr sum0 = fp_zero<FrParameters>(), sum1 = sum0;
  bool integers = false;
#pragma unroll 1
  for (u32 l = 0; l < own; l++) {
    const Column column = list[l];
    const Fr coefficient = coefficients[l];
    const u32 r0 = rotated(column, i0, n), r1 = rotated(column, i1, n);
    const bool elements = column.kind == KIND_FIELD;
    integers = integers || !elements;
    if (!elements) {
      const u32 v0 = load_shifted(column, r0), v1 = load_shifted(column, r1);
      wide0 = wide_add(wide0, coefficient, v0);
      wide1 = wide_add(wide1, coefficient, v1);
    }
    if (elements || r0 >= column.tail_start) sum0 = sum0 + coefficient * load_element(column, r0);
    if (elements || r1 >= column.tail_start) sum1 = sum1 + coefficient * load_element(column, r1);
  }
  // Field elements alone have nothing to reduce.
  if (integers) {
    sum0 = sum0 + wide_reduce(wide0);
    sum1 = sum1 + wide_reduce(wide1);
  }
  if (row < n) parts[(u64)chunk * n + row] = canonical(sum0);
  if (next < n) parts[(u64)chunk * n + next] = canonical(sum1);
}
LAMINA_EXPORT(columns_combine)

// out[i] = sum_chunk parts[chunk, i] - excess
LAMINA_KERNEL(256, columns_sum)(
    Fr *out,          // [n]
    const Fr *parts,  // [chunks, n]
    Fr excess,
    u32 n,
    u32 chunks)
{
  const u32 i = global_thread();
  if (i >= n) return;
  Fr sum = fp_zero<FrParameters>() - excess;
#pragma unroll 1
  for (u32 chunk = 0; chunk < chunks; chunk++) sum = sum + parts[(u64)chunk * n + i];
  out[i] = canonical(sum);
}
LAMINA_EXPORT(columns_sum)

constexpr u32 DOT_THREADS = 128, DOT_WARPS = DOT_THREADS / 32, DOT_COLUMNS = 4;

// What the threads of a warp hold, joined in its first.
LAMINA_FN Fr warp_sum(Fr own) {
#pragma unroll 1
  for (u32 by = 16; by > 0; by /= 2) own = own + shuffle_down(own, by);
  return own;
}

// parts[l, chunk] = sum over a chunk of rows of weights[i] (v_l[i] + offset_l), without tails: four columns a block, so that
// a weight is read once for all. Blocks: chunks * ceil(count / 4). Shared memory: 512 bytes.
LAMINA_KERNEL(DOT_THREADS, dot_integers)(
    Fr *parts,              // [count, chunks]
    const Column *columns,  // [count]
    const Fr *weights,      // [n]
    u32 n,
    u32 count,
    u32 chunk_rows,
    u32 chunks)             // ceil(n / chunk_rows)
{
  LAMINA_SHARED(Fr, shared);
  const u32 chunk = blockIdx.x % chunks, first = blockIdx.x / chunks * DOT_COLUMNS;
  const u32 begin = chunk * chunk_rows, end = n - begin < chunk_rows ? n : begin + chunk_rows;
  Column list[DOT_COLUMNS];
  Wide sums[DOT_COLUMNS];
#pragma unroll
  for (u32 l = 0; l < DOT_COLUMNS; l++) {
    list[l] = columns[first + l < count ? first + l : count - 1];
    sums[l] = wide_zero();
  }
#pragma unroll 1
  for (u32 i = begin + threadIdx.x; i < end; i += DOT_THREADS) {
    const Fr weight = weights[i];
    u32 v[DOT_COLUMNS];
#pragma unroll
    for (u32 l = 0; l < DOT_COLUMNS; l++) v[l] = load_shifted(list[l], rotated(list[l], i, n));
#pragma unroll
    for (u32 l = 0; l < DOT_COLUMNS; l++) sums[l] = wide_add(sums[l], weight, v[l]);
  }
#pragma unroll
  for (u32 l = 0; l < DOT_COLUMNS; l++) {
    const Fr sum = warp_sum(wide_reduce(sums[l]));
    if ((threadIdx.x & 31) == 0) shared[l * DOT_WARPS + threadIdx.x / 32] = sum;
  }
  __syncthreads();
  if (threadIdx.x < DOT_COLUMNS && first + threadIdx.x < count) {
    Fr sum = fp_zero<FrParameters>();
#pragma unroll 1
    for (u32 w = 0; w < DOT_WARPS; w++) sum = sum + shared[threadIdx.x * DOT_WARPS + w];
    parts[(u64)(first + threadIdx.x) * chunks + chunk] = canonical(sum);
  }
}
LAMINA_EXPORT(dot_integers)

// parts[l, chunk] = sum over a chunk of rows of weights[i] v_l[i], for field elements and tails.
// Blocks: chunks * count. Shared memory: 128 bytes.
LAMINA_KERNEL(DOT_THREADS, dot_fields)(
    Fr *parts,              // [count, chunks]
    const Column *columns,  // [count]
    const Fr *weights,      // [n]
    u32 n,
    u32 chunk_rows,
    u32 chunks)             // ceil(n / chunk_rows)
{
  LAMINA_SHARED(Fr, shared);
  const u32 chunk = blockIdx.x % chunks;
  const u32 begin = chunk * chunk_rows, end = n - begin < chunk_rows ? n : begin + chunk_rows;
  const Column column = columns[blockIdx.x / chunks];
  Fr sum = fp_zero<FrParameters>();
#pragma unroll 1
  for (u32 i = begin + threadIdx.x; i < end; i += DOT_THREADS) {
    const u32 row = rotated(column, i, n);
    const bool there = row >= column.tail_start || (column.kind == KIND_FIELD && row < column.len);
    if (there) sum = sum + weights[i] * load_element(column, row);
  }
  sum = warp_sum(sum);
  if ((threadIdx.x & 31) == 0) shared[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
#pragma unroll 1
    for (u32 w = 1; w < DOT_WARPS; w++) sum = sum + shared[w];
    parts[blockIdx.x] = canonical(sum);
  }
}
LAMINA_EXPORT(dot_fields)

// out[i] = x - w^i
LAMINA_KERNEL(256, lagrange_denominators)(
    Fr *out,          // [n]
    const Fr *roots,  // [n]: w^i
    Fr x,
    u32 n)
{
  const u32 i = global_thread();
  if (i < n) out[i] = canonical(x - roots[i]);
}
LAMINA_EXPORT(lagrange_denominators)

// weights[i] = scale w^i inverses[i]: L_i(x), where scale = (x^n - 1) / n and inverses[i] = 1 / (x - w^i).
LAMINA_KERNEL(256, lagrange_weights)(
    Fr *weights,         // [n], may be `inverses`
    const Fr *roots,     // [n]: w^i
    const Fr *inverses,  // [n]
    Fr scale,
    u32 n)
{
  const u32 i = global_thread();
  if (i < n) weights[i] = canonical(scale * roots[i] * inverses[i]);
}
LAMINA_EXPORT(lagrange_weights)
