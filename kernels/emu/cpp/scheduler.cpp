// Blocks of a grid one after another, threads of a block as fibers, one OS thread for all.
#include "emulation.h"

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>

#include "check.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulation {
namespace {

constexpr size_t STACK_BYTES = 128 << 10;

// A point to go on from, on a stack of its own.
#if defined(__SANITIZE_ADDRESS__)
// AddressSanitizer follows these calls, and has to be told of the stacks.
struct Point {
  ucontext_t context;
  void *fake_stack = nullptr;
};
void jump(Point &from, Point &to, const char *stack) {
  __sanitizer_start_switch_fiber(&from.fake_stack, stack, stack ? STACK_BYTES : 0);
  swapcontext(&from.context, &to.context);
  const void *bottom;
  size_t size;
  __sanitizer_finish_switch_fiber(from.fake_stack, &bottom, &size);
}
void begin(Point &from, Point &to, char *stack, void (*main)()) {
  getcontext(&to.context);
  to.context.uc_stack.ss_sp = stack;
  to.context.uc_stack.ss_size = STACK_BYTES;
  to.context.uc_link = nullptr;
  makecontext(&to.context, main, 0);
  jump(from, to, stack);
}
void begun() {
  const void *bottom;
  size_t size;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
}
#else
// Without the system calls that swapping contexts makes: there are millions of switches.
struct Point {
  jmp_buf at;
};
void jump(Point &from, Point &to, const char *) {
  if (!_setjmp(from.at)) _longjmp(to.at, 1);
}
void begin(Point &from, Point &, char *stack, void (*main)()) {
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = STACK_BYTES;
  context.uc_link = nullptr;
  makecontext(&context, main, 0);
  if (!_setjmp(from.at)) setcontext(&context);
}
void begun() {}
#endif

// One CUDA thread after another: a fiber is kept for the next block, and the next grid.
struct Fiber {
  Point point;
  Self self;
  char *stack = nullptr;
  bool begun = false, done = true;
  const char *file = nullptr;
  int line = 0;
};

struct Warp {
  unsigned arrived = 0, generation = 0, live = 0, size = 0;
  uint64_t values[32];
  const char *file = nullptr;
  int line = 0;
};

struct Block {
  unsigned threads = 0;
  std::vector<Warp> warps;
  std::vector<char> shared;
  size_t shared_bytes = 0;
  unsigned arrived = 0, generation = 0, live = 0;
  const char *barrier_file = nullptr;
  int barrier_line = 0;
  uint64_t progress = 0;
  Fiber *current = nullptr;
  const Entry *entry = nullptr;
  void **arguments = nullptr;
};

std::vector<std::unique_ptr<Fiber>> fibers;
Point scheduler;

// The driver's lock holds while a grid runs.
Block *block;

[[noreturn]] void die(const char *format, ...) {
  va_list list;
  va_start(list, format);
  fputs("emulation: ", stderr);
  vfprintf(stderr, format, list);
  fputc('\n', stderr);
  abort();
}

void yield() { jump(block->current->point, scheduler, nullptr); }

void fiber_main() {
  begun();
  for (;;) {
    (*block->entry)(block->arguments);
    Fiber *const me = block->current;
    me->done = true;
    block->progress++;
    block->live--;
    block->warps[me->self.warp].live &= ~(1u << me->self.lane);
    if (block->arrived)
      die("thread %u returns while %u wait at %s:%d", me->self.thread.x, block->arrived, block->barrier_file, block->barrier_line);
    yield();
  }
}

void resume(Fiber &fiber) {
  block->current = &fiber;
  check::thread(fiber.self.warp * 32 + fiber.self.lane, fiber.stack, STACK_BYTES, &fiber.self, sizeof fiber.self);
  if (fiber.begun) {
    jump(scheduler, fiber.point, fiber.stack);
  } else {
    fiber.begun = true;
    begin(scheduler, fiber.point, fiber.stack, fiber_main);
  }
  check::idle();
}

void prepare(size_t number, Index grid, Index size) {
  const unsigned threads = block->threads;
  while (fibers.size() < threads) {
    auto fiber = std::make_unique<Fiber>();
    void *stack = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) die("no memory for stacks");
    fiber->stack = static_cast<char *>(stack);
    fibers.push_back(std::move(fiber));
  }
  block->warps.assign((threads + 31) / 32, Warp());
  block->arrived = block->generation = 0;
  block->live = threads;
  block->shared.assign(block->shared_bytes + 256, static_cast<char>(0xA5));
  const unsigned b = static_cast<unsigned>(number);
  check::block(b, shared_memory(), block->shared_bytes);
  for (unsigned t = 0; t < threads; t++) {
    Fiber &fiber = *fibers[t];
    fiber.done = false;
    fiber.file = nullptr;
    fiber.self.block = {b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y};
    fiber.self.thread = {t % size.x, t / size.x % size.y, t / size.x / size.y};
    fiber.self.block_size = size;
    fiber.self.grid_size = grid;
    fiber.self.lane = t % 32;
    fiber.self.warp = t / 32;
    Warp &warp = block->warps[fiber.self.warp];
    warp.live |= 1u << fiber.self.lane;
    warp.size++;
  }
}

void warp_barrier(unsigned mask, const char *file, int line) {
  Fiber *me = block->current;
  Warp &warp = block->warps[me->self.warp];
  me->file = file;
  me->line = line;
  const unsigned all = warp.size == 32 ? ~0u : (1u << warp.size) - 1, wanted = mask & all;
  if (!(mask >> me->self.lane & 1)) die("%s:%d: lane %u is not in its own mask %08x", file, line, me->self.lane, mask);
  if (wanted & ~warp.live) die("%s:%d: mask %08x names lanes that have returned", file, line, mask);
  const unsigned generation = warp.generation;
  warp.arrived |= 1u << me->self.lane;
  block->progress++;
  if ((warp.arrived & wanted) == wanted) {
    warp.arrived = 0;
    warp.generation++;
  } else {
    while (warp.generation == generation) yield();
  }
}

}  // namespace

std::map<std::string, Kernel> &kernels(bool checked) {
  static std::map<std::string, Kernel> all[2];
  return all[checked];
}
bool add_kernel(bool checked, const char *name, void (*entry)(void **), std::initializer_list<size_t> argument_sizes) {
  kernels(checked)[name] = {entry, argument_sizes};
  return true;
}
const Self &self() { return block->current->self; }
void *shared_memory() {
  return reinterpret_cast<void *>((reinterpret_cast<uintptr_t>(block->shared.data()) + 255) & ~uintptr_t(255));
}
size_t shared_size() { return block->shared_bytes; }

void sync_block(const char *file, int line) {
  Block *b = block;
  b->current->file = file;
  b->current->line = line;
  b->progress++;
  if (b->live != b->threads) die("%s:%d: a barrier after threads of the block have returned", file, line);
  if (!b->arrived) {
    b->barrier_file = file;
    b->barrier_line = line;
  } else if (b->barrier_line != line || strcmp(b->barrier_file, file)) {
    die("the barrier at %s:%d meets the one at %s:%d", file, line, b->barrier_file, b->barrier_line);
  }
  const unsigned generation = b->generation;
  if (++b->arrived == b->live) {
    b->arrived = 0;
    b->generation++;
    check::barrier();
  } else {
    while (b->generation == generation) yield();
  }
}

void sync_warp(unsigned mask, const char *file, int line) { warp_barrier(mask, file, line); }

uint64_t exchange(unsigned mask, uint64_t value, unsigned from, const char *file, int line) {
  Warp &warp = block->warps[block->current->self.warp];
  warp.values[block->current->self.lane] = value;
  warp_barrier(mask, file, line);
  if (!(mask >> from & 1) || from >= warp.size) die("%s:%d: a shuffle reads lane %u, which takes no part", file, line, from);
  const uint64_t result = warp.values[from];
  warp_barrier(mask, file, line);
  return result;
}

unsigned ballot(unsigned mask, bool value, const char *file, int line) {
  Warp &warp = block->warps[block->current->self.warp];
  warp.values[block->current->self.lane] = value;
  warp_barrier(mask, file, line);
  unsigned result = 0;
  for (unsigned i = 0; i < warp.size; i++) result |= (mask >> i & 1 && warp.values[i]) << i;
  warp_barrier(mask, file, line);
  return result;
}

void multiply_bytes(uint32_t *sum, uint32_t a, uint32_t b, const char *file, int line) {
  Warp &warp = block->warps[block->current->self.warp];
  const unsigned lane = block->current->self.lane;
  if (warp.size != 32) die("%s:%d: a product of matrices by a warp of %u lanes", file, line, warp.size);
  if (!warp.arrived) {
    warp.file = file;
    warp.line = line;
  } else if (warp.line != line || strcmp(warp.file, file)) {
    die("the product of matrices at %s:%d meets the one at %s:%d", file, line, warp.file, warp.line);
  }
  warp.values[lane] = static_cast<uint64_t>(b) << 32 | a;
  warp_barrier(~0u, file, line);
  for (unsigned k = 0; k < 16; k++) {
    const unsigned shift = k % 4 * 8;
    const uint32_t left = warp.values[lane / 4 * 4 + k / 4] >> shift & 255;
    for (unsigned e = 0; e < 2; e++) {
      const unsigned column = lane % 4 * 2 + e;
      sum[e] += left * (warp.values[column * 4 + k / 4] >> (32 + shift) & 255);
    }
  }
  warp_barrier(~0u, file, line);
}

int launch(const char *name, const Entry &entry, Index grid, Index size, size_t shared_bytes, void **arguments) {
  const size_t threads = size_t(size.x) * size.y * size.z, blocks = size_t(grid.x) * grid.y * grid.z;
  const char *seed = getenv("LAMINA_EMU_SEED");
  std::mt19937 random(seed ? static_cast<unsigned>(atoi(seed)) : 0);
  std::vector<size_t> block_order(blocks), thread_order(threads);
  std::iota(block_order.begin(), block_order.end(), 0);
  std::iota(thread_order.begin(), thread_order.end(), 0);
  if (seed) std::shuffle(block_order.begin(), block_order.end(), random);

  Block state;
  state.entry = &entry;
  state.arguments = arguments;
  state.shared_bytes = shared_bytes;
  state.threads = static_cast<unsigned>(threads);
  block = &state;
  for (size_t number : block_order) {
    prepare(number, grid, size);
    if (seed) std::shuffle(thread_order.begin(), thread_order.end(), random);
    for (size_t left = threads; left;) {
      const uint64_t before = state.progress;
      for (size_t i : thread_order) {
        if (fibers[i]->done) continue;
        resume(*fibers[i]);
        left -= fibers[i]->done;
      }
      if (left && state.progress == before) {
        fprintf(stderr, "emulation: %s, block %zu: %zu of %zu threads wait for ever, the first at", name, number, left, threads);
        const auto first = std::find_if(fibers.begin(), fibers.end(), [](const auto &fiber) { return !fiber->done; });
        fprintf(stderr, " %s:%d\n", (*first)->file, (*first)->line);
        fibers.clear();
        block = nullptr;
        return -1;
      }
    }
  }
  block = nullptr;
  return 0;
}

}  // namespace emulation
