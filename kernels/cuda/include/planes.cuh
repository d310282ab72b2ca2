// Field elements cut into halves of 16 bytes, each half in a plane of its own: a warp's 16-byte accesses to neighbours
// meet no bank of shared memory twice.
#pragma once
#include "bn254_fr.cuh"

struct Planes {
  Quad *low, *high;
};

LAMINA_FN Fr planes_load(const Planes &planes, u32 at) {
  const Quad l = planes.low[at], h = planes.high[at];
  Fr v;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    v.w[i] = l.w[i];
    v.w[i + 4] = h.w[i];
  }
  return v;
}

LAMINA_FN void planes_store(const Planes &planes, u32 at, Fr v) {
  Quad l, h;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    l.w[i] = v.w[i];
    h.w[i] = v.w[i + 4];
  }
  planes.low[at] = l;
  planes.high[at] = h;
}
