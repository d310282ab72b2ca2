// Linear combinations of columns: sum_l c_l v_l[i].
//
// Integers are not turned into field elements. A coefficient's eight words times an integer of up to 32 bits
// are eight wide multiply-adds onto a sum of ten words, which is reduced once for all columns:
//
//     sum_l c_l (v_l + offset) = low + 2^256 high,   offset = 2^(bits - 1)
//
// The caller takes offset * sum_l c_l off again.
#include "wide.cuh"

constexpr u32 COMBINE_THREADS = 256, COMBINE_ROWS = 2;

// Two rows of some columns. Rows are there, and the loop has no branch, so that loads of several columns are
// in flight at once.
template <class Integer>
LAMINA_FN void combine_rows(const void *cells, u64 stride, const Fr *coefficients, u32 count, u32 row0, u32 row1,
                            Wide *sum0, Wide *sum1) {
  const u32 offset = 1u << (8 * sizeof(Integer) - 1);
  const Integer *column = static_cast<const Integer *>(cells);
#pragma unroll 4
  for (u32 l = 0; l < count; l++, column += stride) {
    const u32 v0 = (u32)column[row0] + offset, v1 = (u32)column[row1] + offset;
    const Fr coefficient = coefficients[l];
    *sum0 = wide_add(*sum0, coefficient, v0);
    *sum1 = wide_add(*sum1, coefficient, v1);
  }
}

// out[chunk, i] = sum over the chunk's columns of c_l (v_l[i] + offset), for integers.
// A block takes 512 rows of one chunk. Shared memory: 32 * chunk_len bytes.
LAMINA_KERNEL(COMBINE_THREADS, combine_integers)(
    Fr *out,             // [chunks, n]
    const void *cells,   // [columns, stride] cells of `kind`
    u32 kind,
    u64 stride,
    const Fr *c,         // [columns]
    u32 n,
    u32 columns,
    u32 chunk_len,       // columns of a chunk
    u32 row_blocks)      // ceil(n / 512); blocks: row_blocks * chunks
{
  LAMINA_SHARED(Fr, coefficients);
  const u32 chunk = blockIdx.x / row_blocks, first = chunk * chunk_len;
  const u32 count = columns - first < chunk_len ? columns - first : chunk_len;
  for (u32 l = threadIdx.x; l < count; l += blockDim.x) coefficients[l] = c[first + l];
  __syncthreads();
  const u32 size = kind == KIND_I8 ? 1 : kind == KIND_I16 ? 2 : 4;
  const void *const from = static_cast<const char *>(cells) + first * stride * size;
  const u32 row = (blockIdx.x % row_blocks) * COMBINE_THREADS * COMBINE_ROWS + threadIdx.x;
  const u32 next = row + COMBINE_THREADS;
  // What is beyond the last row is computed as the last row, and not kept.
  const u32 row0 = row < n ? row : n - 1, row1 = next < n ? next : n - 1;
  Wide sum0 = wide_zero(), sum1 = sum0;
  if (kind == KIND_I8) combine_rows<i8>(from, stride, coefficients, count, row0, row1, &sum0, &sum1);
  else if (kind == KIND_I16) combine_rows<i16>(from, stride, coefficients, count, row0, row1, &sum0, &sum1);
  else combine_rows<i32>(from, stride, coefficients, count, row0, row1, &sum0, &sum1);
  if (row < n) out[(u64)chunk * n + row] = canonical(wide_reduce(sum0));
  if (next < n) out[(u64)chunk * n + next] = canonical(wide_reduce(sum1));
}
LAMINA_EXPORT(combine_integers)

// out[chunk, i] = sum over the chunk's columns of c_l v_l[i], for field elements.
LAMINA_KERNEL(COMBINE_THREADS, combine_fields)(
    Fr *out,          // [chunks, n]
    const Fr *cells,  // [columns, stride]
    u64 stride,
    const Fr *c,      // [columns]
    u32 n,
    u32 columns,
    u32 chunk_len,    // columns of a chunk
    u32 row_blocks)   // ceil(n / 256); blocks: row_blocks * chunks
{
  const u32 chunk = blockIdx.x / row_blocks, first = chunk * chunk_len;
  const u32 end = columns - first < chunk_len ? columns : first + chunk_len;
  const u32 row = (blockIdx.x % row_blocks) * blockDim.x + threadIdx.x;
  if (row >= n) return;
  Fr sum = fp_zero<FrParameters>();
#pragma unroll 1
  for (u32 l = first; l < end; l++) sum = sum + c[l] * cells[l * stride + row];
  out[(u64)chunk * n + row] = canonical(sum);
}
LAMINA_EXPORT(combine_fields)

// out[i] = sum_chunk parts[chunk, i] - excess
LAMINA_KERNEL(256, combine_sum)(
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
LAMINA_EXPORT(combine_sum)
