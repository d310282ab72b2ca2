// Linked recurrences: columns of which a relation gives every cell through at most one other cell, and single cells copied.
//
// A relation says for every row r of n, rows modulo n,
//
//     a[r] x[r + at] + sum_j links_j[r] x[r + rotation_j] + rest[r] = 0,
//
// where at most one link of a row is not zero. So each row is a value, or a value and a weight times another row:
//
//     x[t] = value[t] + weight[t] x[next[t]].
//
// Pointer jumping puts the right side of row next[t] in for x[next[t]], and does so thrice in a round, which so solves four
// times as many links, whatever their directions: ceil(log4 n) rounds solve chains of any length.
#include "cells.cuh"

// Where a row has no successor.
constexpr u32 LINKED_NONE = 0xffffffffu;

// The launcher has the same layouts.
struct Relation {
  u32 at;          // < n
  u32 first, end;  // which links of the table are its own
};

struct Link {
  u32 rotation;  // < n
  u32 column;    // of `links`
};

LAMINA_FN u32 linked_turned(u32 row, u32 by, u32 n) { return row + by >= n ? row + by - n : row + by; }

// Every row as value, weight and successor. A row whose inverse is zero keeps its prior value. The weight of a row
// without a successor is not written.
LAMINA_KERNEL(256, linked_start)(
    Fr *values,                 // [relations, n]
    Fr *weights,                // [relations, n], or null where no relation has links
    u32 *next,                  // [relations, n], or null
    const Fr *prior,            // [relations, n]
    const Fr *inverses,         // [relations, n]: 1 / a[r], zero where a[r] is
    const Fr *rests,            // [relations, n]
    const Fr *links,            // [columns, n]
    const Relation *relations,  // [relations]
    const Link *table,          // the links of all relations
    u32 n,                      // below 2^31
    u64 total)                  // relations * n
{
  const u64 id = (u64)blockIdx.x * blockDim.x + threadIdx.x;
  if (id >= total) return;
  const u64 number = id / n;
  const Relation of = relations[number];
  const u32 t = (u32)(id - number * n), r = linked_turned(t, n - of.at, n);
  const Fr inverse = inverses[number * n + r];
  u32 successor = LINKED_NONE;
  if (is_zero(inverse)) {
    values[id] = prior[id];
  } else {
    const Fr minus = fp_zero<FrParameters>() - inverse;
    values[id] = canonical(minus * rests[number * n + r]);
#pragma unroll 1
    for (u32 l = of.first; l < of.end && successor == LINKED_NONE; l++) {
      const Fr link = links[(u64)table[l].column * n + r];
      if (is_zero(link)) continue;
      weights[id] = canonical(minus * link);
      successor = linked_turned(r, table[l].rotation, n);
    }
  }
  if (next) next[id] = successor;
}
LAMINA_EXPORT(linked_start)

// Links that a round follows. The launcher has the same number.
constexpr u32 LINKED_EACH = 3;

// One round: what the successor is takes its place, and so with the next. Weights of rows without a successor are neither read nor written.
LAMINA_KERNEL(256, linked_jump)(
    Fr *values_out,     // [relations, n], not `values`; the others likewise
    Fr *weights_out,    // [relations, n]
    u32 *next_out,      // [relations, n]
    const Fr *values,   // [relations, n]
    const Fr *weights,  // [relations, n]
    const u32 *next,    // [relations, n]
    u32 n,
    u64 total)          // relations * n
{
  const u64 id = (u64)blockIdx.x * blockDim.x + threadIdx.x;
  if (id >= total) return;
  Fr value = values[id], weight = fp_zero<FrParameters>();
  u32 successor = next[id];
  if (successor != LINKED_NONE) weight = weights[id];
#pragma unroll 1
  for (u32 link = 0; link < LINKED_EACH && successor != LINKED_NONE; link++) {
    const u64 from = id / n * n + successor;
    value = value + weight * values[from];
    successor = next[from];
    if (successor != LINKED_NONE) weight = weight * weights[from];
  }
  if (successor != LINKED_NONE) weights_out[id] = canonical(weight);
  values_out[id] = canonical(value);
  next_out[id] = successor;
}
LAMINA_EXPORT(linked_jump)

// The launcher has the same layout.
struct CellCopy {
  u32 source, from, to;
};

// out[to] = row `from` of a source, for each cell; the places are distinct.
LAMINA_KERNEL(256, linked_scatter)(
    Fr *out,                // [n]
    const Column *sources,  // [sources], not rotated
    const CellCopy *cells,  // [count]
    u32 n,
    u32 count)
{
  const u32 t = global_thread();
  if (t >= count) return;
  const CellCopy cell = cells[t];
  out[cell.to] = canonical(load_row(sources[cell.source], cell.from, n));
}
LAMINA_EXPORT(linked_scatter)
