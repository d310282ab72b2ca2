// G1 of BN254, y^2 = x^3 + 3: affine inputs, extended Jacobian (XYZZ) sums.
//
// Formulas are those of the Explicit-Formulas Database, "XYZZ coordinates for short Weierstrass curves":
// madd-2008-s, add-2008-s, dbl-2008-s-1. All cases are handled: infinity on either side, equal and opposite
// points. (0, 0) is the affine point at infinity, ZZ = 0 the extended one.
#pragma once
#include "bn254_fq.cuh"

struct alignas(16) G1Affine {
  Fq x, y;
};

// x = X / ZZ, y = Y / ZZZ, ZZ^3 = ZZZ^2.
struct alignas(16) G1 {
  Fq x, y, zz, zzz;
};

LAMINA_FN G1 g1_infinity() {
  G1 r;
  r.x = r.y = r.zz = r.zzz = fp_zero<FqParameters>();
  return r;
}

LAMINA_FN G1 g1_select(bool first, G1 a, G1 b) {
  a.x = select(first, a.x, b.x);
  a.y = select(first, a.y, b.y);
  a.zz = select(first, a.zz, b.zz);
  a.zzz = select(first, a.zzz, b.zzz);
  return a;
}

// a + b, or 2a where `twice` (b is then ignored). One body for both keeps the code small: an addition that
// meets equal points goes on as a doubling.
LAMINA_FN G1 g1_add(G1 a, G1 b, bool twice) {
  if (!twice) {
    if (is_zero(b.zz)) return a;
    if (is_zero(a.zz)) return b;
    const Fq u1 = a.x * b.zz, s1 = a.y * b.zzz;
    const Fq p = b.x * a.zz - u1, r = b.y * a.zzz - s1;
    if (!is_zero(p)) {
      const Fq pp = p * p, ppp = p * pp, q = u1 * pp;
      G1 sum;
      sum.x = r * r - ppp - q - q;
      sum.y = r * (q - sum.x) - s1 * ppp;
      sum.zz = a.zz * b.zz * pp;
      sum.zzz = a.zzz * b.zzz * ppp;
      return sum;
    }
    if (!is_zero(r)) return g1_infinity();
  }
  const Fq u = a.y + a.y, v = u * u, w = u * v, s = a.x * v, xx = a.x * a.x, m = xx + xx + xx;
  G1 sum;
  sum.x = m * m - s - s;
  sum.y = m * (s - sum.x) - w * a.y;
  sum.zz = v * a.zz;
  sum.zzz = w * a.zzz;
  return sum;
}

// a + (x, y), or a - (x, y) where `negative`.
LAMINA_FN G1 g1_add_affine(G1 a, G1Affine b, bool negative) {
  if (is_zero(b.x) && is_zero(b.y)) return a;
  b.y = select(negative, fp_zero<FqParameters>() - b.y, b.y);
  if (is_zero(a.zz)) {
    a.x = b.x;
    a.y = b.y;
    a.zz = a.zzz = fp_one<FqParameters>();
    return a;
  }
  const Fq p = b.x * a.zz - a.x, r = b.y * a.zzz - a.y;
  G1 sum;
  if (!is_zero(p)) {
    const Fq pp = p * p, ppp = p * pp, q = a.x * pp;
    sum.x = r * r - ppp - q - q;
    sum.y = r * (q - sum.x) - a.y * ppp;
    sum.zz = a.zz * pp;
    sum.zzz = a.zzz * ppp;
    return sum;
  }
  if (!is_zero(r)) return g1_infinity();
  const Fq u = b.y + b.y, v = u * u, w = u * v, s = b.x * v, xx = b.x * b.x, m = xx + xx + xx;
  sum.x = m * m - s - s;
  sum.y = m * (s - sum.x) - w * b.y;
  sum.zz = v;
  sum.zzz = w;
  return sum;
}
