// Elementwise arithmetic, powers, and a chain of products for measurements.
#include "bn254_fq.cuh"
#include "bn254_fr.cuh"

enum Operation : u32 { ADD = 0, SUBTRACT = 1, MULTIPLY = 2 };

template <class P>
LAMINA_FN void elementwise(Fp<P> *out, const Fp<P> *a, const Fp<P> *b, u64 n, u32 operation) {
  for (u64 i = global_thread(); i < n; i += (u64)gridDim.x * blockDim.x) {
    const Fp<P> x = a[i], y = b[i];
    out[i] = canonical(operation == ADD ? x + y : operation == SUBTRACT ? x - y : x * y);
  }
}

// out[i] = a[i] (+, -, *) b[i]
LAMINA_KERNEL(256, fr_elementwise)(
    Fr *out,        // [n], may be a or b
    const Fr *a,    // [n]
    const Fr *b,    // [n]
    u64 n,
    u32 operation)  // 0: +, 1: -, 2: *
{
  elementwise(out, a, b, n, operation);
}
LAMINA_EXPORT(fr_elementwise)

// The same over the base field.
LAMINA_KERNEL(256, fq_elementwise)(Fq *out, const Fq *a, const Fq *b, u64 n, u32 operation) {
  elementwise(out, a, b, n, operation);
}
LAMINA_EXPORT(fq_elementwise)

constexpr u32 POWERS_EACH = 16;

// out[i] = first * base^i
LAMINA_KERNEL(256, fr_powers)(
    Fr *out,   // [n]
    Fr first,
    Fr base,
    u32 n)
{
  const u32 start = global_thread() * POWERS_EACH;
  if (start >= n) return;
  Fr value = first * power(base, start);
  const u32 end = n - start < POWERS_EACH ? n : start + POWERS_EACH;
#pragma unroll 1
  for (u32 i = start; i < end; i++) {
    out[i] = canonical(value);
    value = value * base;
  }
}
LAMINA_EXPORT(fr_powers)

// out[i] = a[i]^(rounds + 1), a product at a time: what the multiplier can do.
LAMINA_KERNEL(256, fr_chain)(
    Fr *out,        // [n]
    const Fr *a,    // [n]
    u32 n,
    u32 rounds)
{
  const u32 i = global_thread();
  if (i >= n) return;
  const Fr a_i = a[i];
  Fr product = a_i;
#pragma unroll 1
  for (u32 round = 0; round < rounds; round++) product = product * a_i;
  out[i] = canonical(product);
}
LAMINA_EXPORT(fr_chain)
