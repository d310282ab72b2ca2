// Blocks of a grid one after another, threads of a block as fibers, one OS thread for all.
#include "emulation.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#define WITH_ASAN(x) x
#else
#define WITH_ASAN(x)
#endif
#if defined(LAMINA_EMU_RACES)
// A fiber of ThreadSanitizer's for each CUDA thread. Switches order nothing; barriers and launches do.
#include <sanitizer/tsan_interface.h>
#define WITH_TSAN(x) x
#else
#define WITH_TSAN(x)
#endif

namespace emulation {
namespace {

constexpr size_t STACK_BYTES = 128 << 10;

struct Fiber {
  ucontext_t context;
  Self self;
  char *stack;
  bool done;
  const char *file;
  int line;
  void *race_fiber;
};

struct Warp {
  char order;
  unsigned arrived = 0, generation = 0, live = 0, size = 0;
  uint64_t values[32];
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<char> shared;
  size_t shared_bytes = 0;
  unsigned arrived = 0, generation = 0, live = 0;
  const char *barrier_file = nullptr;
  int barrier_line = 0;
  uint64_t progress = 0;
  ucontext_t scheduler;
  Fiber *current = nullptr;
  const Entry *entry = nullptr;
  void **arguments = nullptr;
  void *race_scheduler = nullptr;
  void *fake_stack = nullptr;
  char begin_order, end_order, barrier_order;
  std::vector<std::vector<char>> past_shared;  // kept, so that the race check sees fresh addresses
};

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

void yield() {
  Fiber *me = block->current;
  WITH_ASAN(void *fake; __sanitizer_start_switch_fiber(&fake, nullptr, 0);)
  WITH_TSAN(__tsan_switch_to_fiber(block->race_scheduler, __tsan_switch_to_fiber_no_sync);)
  swapcontext(&me->context, &block->scheduler);
  WITH_ASAN(const void *bottom; size_t size; __sanitizer_finish_switch_fiber(fake, &bottom, &size);)
}

void fiber_main() {
  Fiber *me = block->current;
  WITH_ASAN(const void *bottom; size_t size; __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);)
  WITH_TSAN(__tsan_acquire(&block->begin_order);)
  (*block->entry)(block->arguments);
  WITH_TSAN(__tsan_release(&block->end_order);)
  me->done = true;
  block->progress++;
  block->live--;
  block->warps[me->self.warp].live &= ~(1u << me->self.lane);
  if (block->arrived)
    die("thread %u returns while %u wait at %s:%d", me->self.thread.x, block->arrived, block->barrier_file, block->barrier_line);
  WITH_ASAN(__sanitizer_start_switch_fiber(nullptr, nullptr, 0);)
  WITH_TSAN(__tsan_switch_to_fiber(block->race_scheduler, __tsan_switch_to_fiber_no_sync);)
  setcontext(&block->scheduler);
}

void resume(Fiber &fiber) {
  block->current = &fiber;
  WITH_ASAN(__sanitizer_start_switch_fiber(&block->fake_stack, fiber.stack, STACK_BYTES);)
  WITH_TSAN(__tsan_switch_to_fiber(fiber.race_fiber, __tsan_switch_to_fiber_no_sync);)
  swapcontext(&block->scheduler, &fiber.context);
  WITH_ASAN(const void *bottom; size_t size; __sanitizer_finish_switch_fiber(block->fake_stack, &bottom, &size);)
}

char *stack(size_t at) {
  static std::vector<char *> stacks;
  while (stacks.size() <= at) {
    void *fresh = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (fresh == MAP_FAILED) die("no memory for stacks");
    stacks.push_back(static_cast<char *>(fresh));
  }
  return stacks[at];
}

void prepare(size_t number, Index grid, Index size) {
  const size_t threads = block->fibers.size();
  block->warps.assign((threads + 31) / 32, Warp());
  block->arrived = block->generation = 0;
  block->live = static_cast<unsigned>(threads);
  WITH_TSAN(block->past_shared.push_back(std::move(block->shared)); block->shared = {};)
  block->shared.assign(block->shared_bytes + 256, static_cast<char>(0xA5));
  WITH_TSAN(__tsan_release(&block->begin_order);)
  for (size_t i = 0; i < threads; i++) {
    Fiber &fiber = block->fibers[i];
    fiber.done = false;
    fiber.file = nullptr;
    fiber.stack = stack(i);
    const unsigned b = static_cast<unsigned>(number), t = static_cast<unsigned>(i);
    fiber.self.block = {b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y};
    fiber.self.thread = {t % size.x, t / size.x % size.y, t / size.x / size.y};
    fiber.self.block_size = size;
    fiber.self.grid_size = grid;
    fiber.self.lane = t % 32;
    fiber.self.warp = t / 32;
    Warp &warp = block->warps[fiber.self.warp];
    warp.live |= 1u << fiber.self.lane;
    warp.size++;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = STACK_BYTES;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_main, 0);
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
  WITH_TSAN(__tsan_release(&warp.order);)
  if ((warp.arrived & wanted) == wanted) {
    warp.arrived = 0;
    warp.generation++;
  } else {
    while (warp.generation == generation) yield();
  }
  WITH_TSAN(__tsan_acquire(&warp.order);)
}

}  // namespace

std::map<std::string, Kernel> &kernels() {
  static std::map<std::string, Kernel> all;
  return all;
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
  if (b->live != b->fibers.size()) die("%s:%d: a barrier after threads of the block have returned", file, line);
  if (!b->arrived) {
    b->barrier_file = file;
    b->barrier_line = line;
  } else if (b->barrier_line != line || strcmp(b->barrier_file, file)) {
    die("the barrier at %s:%d meets the one at %s:%d", file, line, b->barrier_file, b->barrier_line);
  }
  const unsigned generation = b->generation;
  WITH_TSAN(__tsan_release(&b->barrier_order);)
  if (++b->arrived == b->live) {
    b->arrived = 0;
    b->generation++;
  } else {
    while (b->generation == generation) yield();
  }
  WITH_TSAN(__tsan_acquire(&b->barrier_order);)
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
  state.fibers.resize(threads);
  block = &state;
  WITH_TSAN(state.race_scheduler = __tsan_get_current_fiber();)
  WITH_TSAN(for (Fiber &fiber : state.fibers) fiber.race_fiber = __tsan_create_fiber(0);)
  for (size_t number : block_order) {
    prepare(number, grid, size);
    if (seed) std::shuffle(thread_order.begin(), thread_order.end(), random);
    for (size_t left = threads; left;) {
      const uint64_t before = state.progress;
      for (size_t i : thread_order) {
        if (state.fibers[i].done) continue;
        resume(state.fibers[i]);
        left -= state.fibers[i].done;
      }
      if (left && state.progress == before) {
        fprintf(stderr, "emulation: %s, block %zu: %zu of %zu threads wait for ever, the first at", name, number, left, threads);
        for (const Fiber &fiber : state.fibers)
          if (!fiber.done) {
            fprintf(stderr, " %s:%d\n", fiber.file, fiber.line);
            return -1;
          }
      }
    }
  }
  WITH_TSAN(__tsan_acquire(&state.end_order); for (Fiber &fiber : state.fibers) __tsan_destroy_fiber(fiber.race_fiber);)
  block = nullptr;
  return 0;
}

}  // namespace emulation
