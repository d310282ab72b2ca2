// Columns as they lie in memory: field elements, or integers that stay integers until a field element is
// unavoidable.
#pragma once
#include "bn254_fr.cuh"

// The kind of a column's cells. The launcher has the same numbers.
enum Kind : u32 { KIND_FIELD = 0, KIND_I8 = 1, KIND_I16 = 2, KIND_I32 = 3 };

// Cell i of a column of integers.
LAMINA_FN i32 load_integer(const void *column, u32 kind, u64 i) {
  if (kind == KIND_I8) return static_cast<const i8 *>(column)[i];
  if (kind == KIND_I16) return static_cast<const i16 *>(column)[i];
  return static_cast<const i32 *>(column)[i];
}

// Cell i of a column, in Montgomery form.
LAMINA_FN Fr load_cell(const void *column, u32 kind, u64 i) {
  if (kind == KIND_FIELD) return static_cast<const Fr *>(column)[i];
  return from_integer<FrParameters>(load_integer(column, kind, i));
}

// A column of a proof, wherever its parts lie: cells, zeros, and the blinding tail. The launcher has the same layout.
struct alignas(16) Column {
  const void *cells;  // [len] of `kind`: rows from 0 on
  const Fr *tail;     // [n - tail_start]: the last rows
  u32 kind;
  u32 len;
  u32 tail_start;     // n where there is no tail
  u32 rotation;       // row i is row i + rotation modulo n of what is stored, rotation < n
};

// Where row i is stored.
LAMINA_FN u32 rotated(const Column &column, u32 i, u32 n) {
  const u32 row = i + column.rotation;
  return row >= n ? row - n : row;
}

// A stored row of the field elements among a column's parts: of integers, the tail alone.
LAMINA_FN Fr load_element(const Column &column, u32 row) {
  const Fr *from = nullptr;
  if (row >= column.tail_start) from = column.tail + (row - column.tail_start);
  else if (column.kind == KIND_FIELD && row < column.len) from = static_cast<const Fr *>(column.cells) + row;
  return from ? *from : fp_zero<FrParameters>();
}

// Row i of a column, in Montgomery form.
LAMINA_FN Fr load_row(const Column &column, u32 i, u32 n) {
  const u32 row = rotated(column, i, n);
  if (column.kind == KIND_FIELD || row >= column.len) return load_element(column, row);
  return from_integer<FrParameters>(load_integer(column.cells, column.kind, row));
}
