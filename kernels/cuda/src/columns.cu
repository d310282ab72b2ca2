// Columns that lie anywhere, of any kinds: as field elements, combined, and evaluated.
#include "bytes.cuh"

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

constexpr u32 COMBINE_THREADS = 256, COMBINE_ROWS = 2;

// Columns of field elements that a block of `combine_fields` adds up, and where the sum goes. The launcher has the same layout.
struct alignas(8) Fields {
  Fr *to;             // [n]
  u32 first, count;   // of the columns, at most chunk_len
  u32 n;              // rows, of the columns too
  u32 add;            // whether to add it to what is there
};

// to[i] = sum over the chunk's columns of c_l v_l[i], and what was there, for columns of field elements.
// A block takes 512 rows of one chunk. Shared memory: 64 * chunk_len bytes.
LAMINA_KERNEL(COMBINE_THREADS, combine_fields)(
    const Column *columns,   // [count]
    const Fr *c,             // [count]
    const Fields *chunk_of,  // [chunks]
    u32 chunk_len,           // columns of a chunk, at most
    u32 row_blocks)          // ceil(n / 512) for the largest n; blocks: row_blocks * chunks
{
  LAMINA_SHARED(Fr, coefficients);
  Column *const list = reinterpret_cast<Column *>(coefficients + chunk_len);
  const Fields chunk = chunk_of[blockIdx.x / row_blocks];
  for (u32 l = threadIdx.x; l < chunk.count; l += blockDim.x) {
    coefficients[l] = c[chunk.first + l];
    list[l] = columns[chunk.first + l];
  }
  __syncthreads();
  const u32 n = chunk.n;
  const u32 row = (blockIdx.x % row_blocks) * COMBINE_THREADS * COMBINE_ROWS + threadIdx.x;
  const u32 next = row + COMBINE_THREADS;
  if (row >= n) return;
  // What is beyond the last row is computed as the last row, and not kept.
  const u32 i1 = next < n ? next : n - 1;
  Fr sum0 = fp_zero<FrParameters>(), sum1 = sum0;
  if (chunk.add) {
    sum0 = chunk.to[row];
    if (next < n) sum1 = chunk.to[next];
  }
#pragma unroll 1
  for (u32 l = 0; l < chunk.count; l++) {
    const Column column = list[l];
    const Fr coefficient = coefficients[l];
    sum0 = sum0 + coefficient * load_element(column, rotated(column, row, n));
    sum1 = sum1 + coefficient * load_element(column, rotated(column, i1, n));
  }
  chunk.to[row] = canonical(sum0);
  if (next < n) chunk.to[next] = canonical(sum1);
}
LAMINA_EXPORT(combine_fields)

// A step of a combination is 16 bytes of each row: 16 columns of 8 bits, 8 of 16 or 4 of 32. Lane (g, q) of a warp loads
// a quarter of the columns, in rows 8 g .. 8 g + 7 of the warp's 64.
constexpr u32 STEP_THREADS = 128, STEP_BYTES = 16, LANE_ROWS = 8, WARP_ROWS = 64;

// A lane's cells of a step as they are stored. Returns whether one of its rows is in the tail of one of its columns.
template <class T>
LAMINA_FN bool step_load(u32 *cells, const Column *columns, u32 row, u32 n) {
  constexpr u32 OWN = 4 / sizeof(T);
  bool tail = false;
#pragma unroll
  for (u32 l = 0; l < OWN; l++) {
    const Column column = columns[(threadIdx.x & 3) * OWN + l];
    tail = load_cells<T, LANE_ROWS>(cells + l * LANE_ROWS / OWN, column, row, n) || tail;
  }
  return tail;
}

// The four bytes that a lane has of each of its rows, made positive.
template <class T>
LAMINA_FN void step_rows(u32 *rows, const u32 *cells) {
  if (sizeof(T) == 1) {
#pragma unroll
    for (u32 h = 0; h < 2; h++) {
      const Quad four = bytes_transposed(cells[h], cells[2 + h], cells[4 + h], cells[6 + h]);
#pragma unroll
      for (u32 j = 0; j < 4; j++) rows[4 * h + j] = four.w[j] ^ 0x80808080u;
    }
  } else if (sizeof(T) == 2) {
#pragma unroll
    for (u32 h = 0; h < 4; h++) {
      rows[2 * h] = __byte_perm(cells[h], cells[4 + h], 0x5410) ^ 0x80008000u;
      rows[2 * h + 1] = __byte_perm(cells[h], cells[4 + h], 0x7632) ^ 0x80008000u;
    }
  } else {
#pragma unroll
    for (u32 h = 0; h < 8; h++) rows[h] = cells[h] ^ 0x80000000u;
  }
}

// Steps of columns of one kind, whose columns and elements follow. The next step's cells are loaded before this one's are
// multiplied.
template <class T>
LAMINA_FN bool combine_steps(ByteSums *sums, const Column *&columns, const Quad *&elements, u32 steps, u32 row, u32 n) {
  u32 cells[LANE_ROWS], next_cells[LANE_ROWS];
  bool tail = false;
  if (steps == 0) return tail;
#pragma unroll 1
  for (u32 s = 0;; s++) {
    Quad own;
    if (s > 0) {
      own = elements[threadIdx.x & 31];
      elements += 32;
    }
    if (s < steps) {
      tail = step_load<T>(next_cells, columns, row, n) || tail;
      columns += STEP_BYTES / sizeof(T);
    }
    if (s > 0) {
      u32 rows[LANE_ROWS];
      step_rows<T>(rows, cells);
#pragma unroll
      for (u32 f = 0; f < LANE_ROWS; f++) sums[f] = bytes_multiply(sums[f], rows[f], own);
    }
    if (s == steps) break;
#pragma unroll
    for (u32 f = 0; f < LANE_ROWS; f++) cells[f] = next_cells[f];
  }
  return tail;
}

// The steps of a chunk, and where their sum goes. The launcher has the same layout.
struct alignas(16) Steps {
  Fr *to;                  // [n]
  u32 first, first_step;   // the first step's first column, and which step it is of all
  u32 of_8, of_16, of_32;  // steps of columns of 8 bits, then of 16, then of 32: at most BYTE_TERMS / 16
  u32 excess;              // what is taken off
};

// to[i] = sum over the chunk's columns of c_l (v_l[i] + offset_l), less an excess, for columns of integers: `offset_l` is
// 2^(bits - 1), none in tails.
// A block takes 256 rows of one chunk, a warp 64 of them. No shared memory.
LAMINA_KERNEL(STEP_THREADS, combine_integers)(
    const Column *columns,  // step after step: where there are too few of a kind, any of it
    const Fr *c,            // as many, zero where there are too few
    const Quad *elements,   // [steps, 32 lanes]: as `bytes_multiply` takes them, c_l 256^j for byte j of column l
    const Steps *chunk_of,  // [chunks]
    const Fr *excesses,     // as many as chunks name
    u32 n,
    u32 row_blocks)         // ceil(n / 256); blocks: row_blocks * chunks
{
  const u32 lane = threadIdx.x & 31;
  const u32 warp_row = (blockIdx.x % row_blocks * (STEP_THREADS / 32) + threadIdx.x / 32) * WARP_ROWS;
  // All lanes of a warp or none.
  if (warp_row >= n) return;
  const u32 row = warp_row + lane / 4 * LANE_ROWS;
  const Steps steps = chunk_of[blockIdx.x / row_blocks];
  const Column *const begin = columns + steps.first, *end = begin;
  elements += (u64)steps.first_step * 32;
  ByteSums sums[LANE_ROWS];
#pragma unroll
  for (u32 f = 0; f < LANE_ROWS; f++) sums[f] = bytes_zero();
  bool tail = combine_steps<i8>(sums, end, elements, steps.of_8, row, n);
  tail = combine_steps<i16>(sums, end, elements, steps.of_16, row, n) || tail;
  tail = combine_steps<i32>(sums, end, elements, steps.of_32, row, n) || tail;
  // Lane q of a group gets rows q and 4 + q of its eight.
  const u32 at0 = row + (lane & 3), at1 = at0 + 4;
  Fr sum0 = bytes_collect(sums), sum1 = bytes_collect(sums + 4);
  if (__ballot_sync(LAMINA_WARP, tail)) {
    const u32 i0 = at0 < n ? at0 : n - 1, i1 = at1 < n ? at1 : n - 1;
    c += steps.first;
#pragma unroll 1
    for (const Column *at = begin; at < end; at++, c++) {
      const Column column = *at;
      const Fr coefficient = *c;
      const u32 r0 = rotated(column, i0, n), r1 = rotated(column, i1, n);
      if (r0 >= column.tail_start) sum0 = sum0 + coefficient * load_element(column, r0);
      if (r1 >= column.tail_start) sum1 = sum1 + coefficient * load_element(column, r1);
    }
  }
  const Fr excess = excesses[steps.excess];
  if (at0 < n) steps.to[at0] = canonical(sum0 - excess);
  if (at1 < n) steps.to[at1] = canonical(sum1 - excess);
}
LAMINA_EXPORT(combine_integers)

// Columns that are added up. The launcher has the same layout.
struct alignas(8) Sum {
  Fr *to;           // [n]
  const Fr *parts;  // [count, n]
  u32 n, count;
};

// to[i] = sum_l parts[l, i]
LAMINA_KERNEL(256, columns_sum)(
    const Sum *sums,
    u32 row_blocks)   // ceil(n / 256) for the largest n; blocks: row_blocks * sums
{
  const Sum own = sums[blockIdx.x / row_blocks];
  const u32 i = blockIdx.x % row_blocks * blockDim.x + threadIdx.x;
  if (i >= own.n) return;
  Fr sum = fp_zero<FrParameters>();
#pragma unroll 1
  for (u32 l = 0; l < own.count; l++) sum = sum + own.parts[(u64)l * own.n + i];
  own.to[i] = canonical(sum);
}
LAMINA_EXPORT(columns_sum)

constexpr u32 DOT_THREADS = 128, DOT_WARPS = DOT_THREADS / 32;

// What the threads of a warp hold, joined in its first.
LAMINA_FN Fr warp_sum(Fr own) {
#pragma unroll 1
  for (u32 by = 16; by > 0; by /= 2) own = own + shuffle_down(own, by);
  return own;
}

// A warp takes 64 rows of 32 bytes at a time: 32 columns of 8 bits, 16 of 16 or 8 of 32. Lane (g, q) loads columns g, 8 + g, ..
// in rows 16 q .. 16 q + 15 of the 64. Of its matrices, four to each four of a lane's rows, row g is one byte of one column.
constexpr u32 DOT_ROWS = 64, DOT_LANE_ROWS = 16;

template <class T>
LAMINA_FN void dot_load(u32 *cells, const Column *columns, u32 count, u32 row, u32 n) {
  constexpr u32 OWN = 4 / sizeof(T);
#pragma unroll
  for (u32 l = 0; l < OWN; l++) {
    const u32 at = 8 * l + (threadIdx.x & 31) / 4;
    const Column column = columns[at < count ? at : count - 1];
    load_cells<T, DOT_LANE_ROWS>(cells + l * DOT_LANE_ROWS / OWN, column, row, n);
  }
}

// Where a block has word `j` of the weights of rows 4 r .. 4 r + 3 of 64: the lanes of a warp meet no bank of shared memory twice.
LAMINA_FN u32 dot_place(u32 r, u32 j) { return r * 8 + ((j + r / 4 * 2) & 7); }

// Byte j of column 8 l + g is made positive and multiplied in matrix `l * sizeof(T) + j`.
template <class T>
LAMINA_FN void dot_multiply(ByteSums *sums, const u32 *cells, const Quad *weights) {
  const u32 lane = threadIdx.x & 31;
#pragma unroll
  for (u32 f = 0; f < 4; f++) {
    u32 bytes[4];
#pragma unroll
    for (u32 l = 0; l < 4; l++) bytes[l] = cells[sizeof(T) == 1 ? 4 * l + f : 4 * f + l];
    if (sizeof(T) == 2) {
#pragma unroll
      for (u32 l = 0; l < 2; l++) {
        const u32 low = cells[8 * l + 2 * f], high = cells[8 * l + 2 * f + 1];
        bytes[2 * l] = __byte_perm(low, high, 0x6420);
        bytes[2 * l + 1] = __byte_perm(low, high, 0x7531);
      }
    } else if (sizeof(T) == 4) {
      const Quad four = bytes_transposed(bytes[0], bytes[1], bytes[2], bytes[3]);
#pragma unroll
      for (u32 j = 0; j < 4; j++) bytes[j] = four.w[j];
    }
    const Quad own = weights[dot_place(lane % 4 * 4 + f, lane / 4)];
#pragma unroll
    for (u32 m = 0; m < 4; m++) {
      const bool top = m % sizeof(T) == sizeof(T) - 1;
      sums[m] = bytes_multiply(sums[m], top ? bytes[m] ^ 0x80808080u : bytes[m], own);
    }
  }
}

// What a warp of `dot_integers` takes. The launcher has the same layout.
struct alignas(8) Group {
  u32 first, count;  // columns of one kind: at most 32 of 8 bits, 16 of 16, 8 of 32
};

// parts[l, chunk] = sum over a chunk of rows of weights[i] (v_l[i] + offset_l), `offset_l` being 2^(bits - 1), without tails.
// A block takes a chunk of rows for four groups of columns. Blocks: chunks * ceil(groups / 4). Shared memory: 4096 bytes.
LAMINA_KERNEL(DOT_THREADS, dot_integers)(
    Fr *parts,              // [count, chunks]
    const Column *columns,  // [count]
    const Group *group_of,  // [groups]
    const Fr *weights,      // [n]
    u32 n,
    u32 groups,
    u32 chunk_rows,         // a multiple of 64, at most BYTE_TERMS
    u32 chunks)             // ceil(n / chunk_rows)
{
  LAMINA_SHARED(Quad, shared);
  // Blocks of the same rows follow one another: the second-level cache has their weights.
  const u32 teams = (groups + DOT_WARPS - 1) / DOT_WARPS, chunk = blockIdx.x / teams;
  const u32 begin = chunk * chunk_rows, end = n - begin < chunk_rows ? n : begin + chunk_rows;
  const u32 lane = threadIdx.x & 31, at = blockIdx.x % teams * DOT_WARPS + threadIdx.x / 32;
  Group group = {0, 0};
  if (at < groups) group = group_of[at];
  columns += group.first;
  const u32 kind = group.count ? columns->kind : KIND_FIELD;
  ByteSums sums[4];
#pragma unroll
  for (u32 m = 0; m < 4; m++) sums[m] = bytes_zero();
  // While the 64 rows of one round are multiplied those of the next are loaded. What warps read and what they write for
  // the next round are two halves of shared memory, so one barrier a round is enough.
  const u32 r = threadIdx.x / 8, j = threadIdx.x & 7;
  u32 cells[DOT_LANE_ROWS], next_cells[DOT_LANE_ROWS], words[4];
  Quad *half = shared;
#pragma unroll 1
  for (u32 i = begin;; i += DOT_ROWS) {
    if (i < end) {
#pragma unroll
      for (u32 k = 0; k < 4; k++) words[k] = i + 4 * r + k < end ? weights[i + 4 * r + k].w[j] : 0;
      const u32 row = i + lane % 4 * DOT_LANE_ROWS;
      if (kind == KIND_I8) dot_load<i8>(next_cells, columns, group.count, row, n);
      else if (kind == KIND_I16) dot_load<i16>(next_cells, columns, group.count, row, n);
      else if (kind == KIND_I32) dot_load<i32>(next_cells, columns, group.count, row, n);
    }
    if (i > begin) {
      if (kind == KIND_I8) dot_multiply<i8>(sums, cells, half);
      else if (kind == KIND_I16) dot_multiply<i16>(sums, cells, half);
      else if (kind == KIND_I32) dot_multiply<i32>(sums, cells, half);
    }
    if (i >= end) break;
    half = half == shared ? shared + DOT_ROWS * 2 : shared;
    half[dot_place(r, j)] = bytes_transposed(words[0], words[1], words[2], words[3]);
    __syncthreads();
#pragma unroll
    for (u32 k = 0; k < DOT_LANE_ROWS; k++) cells[k] = next_cells[k];
  }
  if (kind == KIND_FIELD) return;
  // Lane q of a group gets byte q % bytes of a column; bytes are joined in its first.
  const u32 bytes = 1u << (kind - KIND_I8), byte = lane % bytes;
  const Fr sum = bytes_collect(sums);
  u32 shifted[9];
  shifted[0] = sum.w[0] << 8 * byte;
#pragma unroll
  for (u32 w = 1; w < 8; w++) shifted[w] = __funnelshift_l(sum.w[w - 1], sum.w[w], 8 * byte);
  shifted[8] = __funnelshift_l(sum.w[7], 0, 8 * byte);
  Fr value = bytes_reduce(shifted);
#pragma unroll 1
  for (u32 by = 1; by < bytes; by *= 2) value = value + shuffle_down(value, by);
  const u32 column = lane % 4 / bytes * 8 + lane / 4;
  if (byte == 0 && column < group.count) parts[(u64)(group.first + column) * chunks + chunk] = canonical(value);
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
