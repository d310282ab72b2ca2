// CUDA C++ for a C++ compiler: what a kernel sees of its launch, on the CPU.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <map>
#include <string>
#include <utility>
#include <vector>

#define LAMINA_FN static inline
#define LAMINA_MEMBER static inline
#define LAMINA_KERNEL(threads, name) static void name
#define LAMINA_SHARED(type, name) type *name = static_cast<type *>(emulation::shared_memory())
#if defined(__SANITIZE_THREAD__)
#define LAMINA_CHECKED true
// g++ does not report memory that is read as an argument of a function, only what statements read: with a copy of our
// own it is a statement.
#define LAMINA_VALUE(type)                                                                                    \
  type() = default;                                                                                           \
  __attribute__((always_inline)) type(const type &other) { *this = other; }                                   \
  __attribute__((always_inline)) type &operator=(const type &other) {                                         \
    for (unsigned i = 0; i < sizeof w / sizeof *w; i++) w[i] = other.w[i];                                    \
    return *this;                                                                                             \
  }
#else
#define LAMINA_CHECKED false
#define LAMINA_VALUE(type)
#endif

namespace emulation {

struct Index {
  unsigned x, y, z;
};

// One CUDA thread.
struct Self {
  Index thread, block, block_size, grid_size;
  unsigned lane, warp;
};

const Self &self();
void *shared_memory();
size_t shared_size();

// Barriers and exchanges among the threads that are named; `file` and `line` are for messages.
void sync_block(const char *file, int line);
void sync_warp(unsigned mask, const char *file, int line);
uint64_t exchange(unsigned mask, uint64_t value, unsigned from, const char *file, int line);
unsigned ballot(unsigned mask, bool value, const char *file, int line);
// sum += a b by all lanes of a warp, `mma.m8n8k16` of bytes: lane 4 g + q has a[g][4 q ..], b[4 q ..][g] and sum[g][2 q ..].
void multiply_bytes(uint32_t *sum, uint32_t a, uint32_t b, const char *file, int line);

// A kernel, called once for each thread with pointers to its arguments.
using Entry = std::function<void(void **)>;
struct Kernel {
  Entry entry;
  std::vector<size_t> argument_sizes;
};
// All kernels, compiled with or without the checks of check.h.
std::map<std::string, Kernel> &kernels(bool checked);
bool add_kernel(bool checked, const char *name, void (*entry)(void **), std::initializer_list<size_t> argument_sizes);

// Runs a grid; 0, or -1 where the threads wait for each other for ever. The arguments lie in one block of memory.
int launch(const char *name, const Entry &entry, Index grid, Index block, size_t shared_bytes, void **arguments);

template <auto K>
struct Wrap;
template <class... A, void (*K)(A...)>
struct Wrap<K> {
  template <size_t... I>
  static void call_with(void **p, std::index_sequence<I...>) {
    K(*static_cast<A *>(p[I])...);
  }
  static void call(void **p) { call_with(p, std::index_sequence_for<A...>{}); }
  static bool add(bool checked, const char *name) { return add_kernel(checked, name, call, {sizeof(A)...}); }
};

}  // namespace emulation

#define LAMINA_EXPORT(name) \
  [[maybe_unused]] static const bool lamina_export_##name = emulation::Wrap<&name>::add(LAMINA_CHECKED, #name);

#define threadIdx (emulation::self().thread)
#define blockIdx (emulation::self().block)
#define blockDim (emulation::self().block_size)
#define gridDim (emulation::self().grid_size)
#define __syncthreads() emulation::sync_block(__FILE__, __LINE__)
#define LAMINA_SHUFFLE(mask, value, from) \
  static_cast<unsigned>(emulation::exchange(mask, value, from, __FILE__, __LINE__))
#define __shfl_up_sync(mask, value, by) \
  LAMINA_SHUFFLE(mask, value, emulation::self().lane < (by) ? emulation::self().lane : emulation::self().lane - (by))
#define __shfl_down_sync(mask, value, by) \
  LAMINA_SHUFFLE(mask, value, emulation::self().lane + (by) > 31 ? emulation::self().lane : emulation::self().lane + (by))
#define __shfl_xor_sync(mask, value, by) LAMINA_SHUFFLE(mask, value, emulation::self().lane ^ (by))
#define __ballot_sync(mask, value) emulation::ballot(mask, value, __FILE__, __LINE__)
#define LAMINA_MULTIPLY_BYTES(sum, a, b) emulation::multiply_bytes(sum, a, b, __FILE__, __LINE__)

static inline unsigned __brev(unsigned x) {
  unsigned r = 0;
  for (int i = 0; i < 32; i++) r |= (x >> i & 1u) << (31 - i);
  return r;
}
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selectors) {
  const uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
  unsigned r = 0;
  for (int i = 0; i < 4; i++) r |= static_cast<unsigned>(bytes >> (selectors >> 4 * i & 7) * 8 & 255) << 8 * i;
  return r;
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by) {
  return static_cast<unsigned>(((static_cast<uint64_t>(high) << 32 | low) << (by & 31)) >> 32);
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by) {
  return static_cast<unsigned>((static_cast<uint64_t>(high) << 32 | low) >> (by & 31));
}
static inline unsigned atomicAdd(unsigned *at, unsigned value) { return __atomic_fetch_add(at, value, __ATOMIC_RELAXED); }
