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
