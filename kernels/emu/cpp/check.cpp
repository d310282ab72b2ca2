#include "check.h"

#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>

// The bounds of this library's own data, from the linker.
extern "C" {
extern char __bss_start __attribute__((visibility("hidden")));
extern char _end __attribute__((visibility("hidden")));
}

namespace check {
namespace {

// Who touched something last: (block, barriers that the block had passed, thread). Blocks are numbered through all
// launches, so that what an earlier launch left is recognised.
using Record = uint64_t;
constexpr unsigned THREAD_BITS = 11, BARRIER_BITS = 21;
constexpr uint64_t SEVERAL = (1u << THREAD_BITS) - 1;          // threads of one block, since one barrier
constexpr uint64_t SEVERAL_BLOCKS = SEVERAL - 1;               // nothing orders these with anyone
constexpr uint64_t MAX_BARRIER = (uint64_t(1) << BARRIER_BITS) - 1;

struct Records {
  Record written, read, counted;  // the last by plain writes, reads, atomics
};
// Accesses of four bytes and more are noted for words, smaller ones for bytes.
struct Word {
  Records all;
  uint64_t bytes_since;  // the last block that touched less than the word
};

struct Region {
  const char *data;
  size_t bytes, zone;
  Word *words = nullptr;
  Records *single = nullptr;

  Region(const void *at, size_t size, size_t around) : data(static_cast<const char *>(at)), bytes(size), zone(around) {}
  Region(const Region &) = delete;
  ~Region() {
    if (words) munmap(words, count() * sizeof(Word));
    if (single) munmap(single, 4 * count() * sizeof(Records));
  }
  size_t count() const { return bytes / 4 + 1; }
};

// Zeros that take memory only where they are touched.
template <class T>
T *shadow(size_t count) {
  void *memory = mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    fputs("emulation: no memory for the checks\n", stderr);
    abort();
  }
  return static_cast<T *>(memory);
}

std::map<uintptr_t, std::unique_ptr<Region>> regions;
Region *recent[4];
std::unique_ptr<Region> shared;
const char *kernel = "";
const char *arguments, *arguments_end, *stack, *stack_end, *self, *self_end;
uint64_t tickets, first_ticket, ticket, passed;
unsigned block_number, thread_number;

const char *name_of(Access kind) { return kind == Access::READ ? "reads" : kind == Access::WRITE ? "writes" : "counts at"; }

// file:line of an address in the kernels' code, as far as the tools at hand can tell.
std::string place_of(uintptr_t address) {
  Dl_info info;
  if (!dladdr(reinterpret_cast<void *>(address), &info)) return "?";
  char text[1024];
  const uintptr_t offset = address - reinterpret_cast<uintptr_t>(info.dli_fbase) - 1;
  snprintf(text, sizeof text, "addr2line -s -i -e '%s' 0x%zx 2>/dev/null", info.dli_fname, static_cast<size_t>(offset));
  std::string places;
  if (FILE *pipe = popen(text, "r")) {
    while (fgets(text, sizeof text, pipe)) {
      std::string line(text, strcspn(text, " \n"));
      if (line.find("emulation.h") == std::string::npos) places += (places.empty() ? "" : " < ") + line;
    }
    pclose(pipe);
  }
  snprintf(text, sizeof text, "+0x%zx", static_cast<size_t>(offset));
  return places.empty() ? text : places;
}

[[noreturn]] void die(const std::string &what, Access kind, size_t bytes, const std::string &where, const char *file,
                      uintptr_t place) {
  const std::string at = file ? std::string(file) + ":" + std::to_string(place) : place_of(place);
  fprintf(stderr, "emulation: %s: thread %u of block %u %s %zu bytes %s: %s\n  at %s\n", kernel, thread_number, block_number,
          name_of(kind), bytes, where.c_str(), what.c_str(), at.c_str());
  abort();
}

// Whether a record counts, of `oldest` or a later block, and nothing orders it before the running thread.
bool unordered(Record record, uint64_t oldest) {
  const uint64_t number = record >> (THREAD_BITS + BARRIER_BITS);
  if (number < oldest) return false;
  const uint64_t thread = record & SEVERAL, since = record >> THREAD_BITS & MAX_BARRIER;
  if (thread == SEVERAL_BLOCKS || number != ticket) return true;
  return since == passed && thread != thread_number;
}

// One more access of the kind that `record` is about.
void note(Record *record, uint64_t oldest) {
  const Record own = (ticket << BARRIER_BITS | passed) << THREAD_BITS;
  const uint64_t number = *record >> (THREAD_BITS + BARRIER_BITS), thread = *record & SEVERAL;
  if (number < oldest) *record = own | thread_number;
  else if (thread == SEVERAL_BLOCKS || number != ticket) *record = own | SEVERAL_BLOCKS;
  else if ((*record ^ own) >> THREAD_BITS || thread == thread_number) *record = own | thread_number;
  else *record = own | SEVERAL;
}

std::string other(Record record) {
  const uint64_t thread = record & SEVERAL;
  if (thread == SEVERAL_BLOCKS) return "threads of several blocks";
  const uint64_t number = record >> (THREAD_BITS + BARRIER_BITS);
  const std::string of = number == ticket ? "of this block" : "of another block";
  return thread == SEVERAL ? "several threads " + of : "thread " + std::to_string(thread) + " " + of;
}

// What the access races with, or null.
const char *conflict(const Records &records, Access kind, uint64_t oldest, Record *with) {
  const auto is = [&](Record record) { return *with = record, unordered(record, oldest); };
  if (is(records.written)) return "written by ";
  if (kind != Access::READ && is(records.read)) return "read by ";
  if (kind != Access::ATOMIC && is(records.counted)) return "counted at by ";
  return nullptr;
}

void note(Records &records, Access kind, uint64_t oldest) {
  note(kind == Access::READ ? &records.read : kind == Access::WRITE ? &records.written : &records.counted, oldest);
}

Region *find(uintptr_t at) {
  for (Region *region : recent)
    if (region && at - reinterpret_cast<uintptr_t>(region->data) < region->bytes) return region;
  auto next = regions.upper_bound(at + 4096);
  while (next != regions.begin()) {
    Region *const region = (--next)->second.get();
    const uintptr_t data = reinterpret_cast<uintptr_t>(region->data);
    if (at + region->zone >= data && at < data + region->bytes + region->zone) {
      std::rotate(recent, recent + 3, recent + 4);
      return recent[0] = region;
    }
    if (data + (size_t(1) << 12) < at) break;
  }
  return nullptr;
}

void look(Region &region, const char *at, size_t bytes, Access kind, bool is_shared, const char *file, uintptr_t place) {
  const ptrdiff_t offset = at - region.data;
  const auto where = [&] {
    return (is_shared ? "of shared memory, at " : "of a buffer of " + std::to_string(region.bytes) + ", at ") + std::to_string(offset);
  };
  if (offset < 0 || static_cast<size_t>(offset) + bytes > region.bytes) die("beyond it", kind, bytes, where(), file, place);
  if (!region.words) region.words = shadow<Word>(region.count());
  // A block's shared memory is its own; what earlier blocks noted there is about other memory.
  const uint64_t oldest = is_shared ? ticket : first_ticket;
  Record with = 0;
  const auto test = [&](const Records &records) {
    if (const char *what = conflict(records, kind, oldest, &with))
      die("a race: " + std::string(what) + other(with) + " with no barrier between", kind, bytes, where(), file, place);
  };
  const size_t from = static_cast<size_t>(offset), to = from + bytes;
  if (from % 4 == 0 && bytes % 4 == 0) {
    for (size_t i = from / 4; i < to / 4; i++) {
      Word &word = region.words[i];
      test(word.all);
      if (word.bytes_since >= oldest)
        for (size_t byte = 4 * i; byte < 4 * i + 4; byte++) test(region.single[byte]);
      note(word.all, kind, oldest);
    }
    return;
  }
  if (!region.single) region.single = shadow<Records>(4 * region.count());
  for (size_t i = from; i < to; i++) {
    Word &word = region.words[i / 4];
    test(word.all);
    test(region.single[i]);
    word.bytes_since = ticket;
    note(region.single[i], kind, oldest);
  }
}

}  // namespace

bool enabled() {
#if defined(__SANITIZE_ADDRESS__)
  return false;  // that checker's lane
#else
  static const bool on = [] {
    const char *value = getenv("LAMINA_EMU_CHECK");
    return !value || strcmp(value, "0");
  }();
  return on;
#endif
}

void allocated(const void *at, size_t bytes, size_t zone) {
  regions[reinterpret_cast<uintptr_t>(at)] = std::make_unique<Region>(at, bytes, zone);
}
void released(const void *at) {
  std::fill(std::begin(recent), std::end(recent), nullptr);
  regions.erase(reinterpret_cast<uintptr_t>(at));
}

void launch(const char *name, const void *list, size_t bytes) {
  kernel = name;
  arguments = static_cast<const char *>(list);
  arguments_end = arguments + bytes;
  first_ticket = tickets + 1;
}
void block(unsigned number, const void *memory, size_t bytes) {
  block_number = number;
  ticket = ++tickets;
  passed = 0;
  if (!shared || shared->data != memory || shared->bytes != bytes) shared = std::make_unique<Region>(memory, bytes, 0);
}
void thread(unsigned number, const void *memory, size_t bytes, const void *own, size_t own_bytes) {
  self = static_cast<const char *>(own);
  self_end = self + own_bytes;
  thread_number = number;
  stack = static_cast<const char *>(memory);
  stack_end = stack + bytes;
}
void idle() { stack = nullptr; }
void barrier() {
  if (++passed > MAX_BARRIER) {
    fputs("emulation: more barriers than the checks can count\n", stderr);
    abort();
  }
}

void access(const void *pointer, size_t bytes, Access kind, const char *file, uintptr_t place) {
  const char *const at = static_cast<const char *>(pointer);
  if (!stack || (at >= &__bss_start && at < &_end)) return;
  if ((at >= stack && at < stack_end) || (at >= self && at < self_end)) return;
  if (shared && at >= shared->data && at < shared->data + shared->bytes) return look(*shared, at, bytes, kind, true, file, place);
  if (Region *region = find(reinterpret_cast<uintptr_t>(at))) return look(*region, at, bytes, kind, false, file, place);
  if (at >= arguments && at < arguments_end) return;
  // Constants of the kernels themselves.
  Dl_info info;
  if (kind == Access::READ && dladdr(at, &info) && info.dli_fbase) {
    static Dl_info own;
    if (own.dli_fbase || dladdr(reinterpret_cast<void *>(&enabled), &own))
      if (info.dli_fbase == own.dli_fbase) return;
  }
  if (shared && at >= shared->data - 65536 && at < shared->data + shared->bytes + 65536)
    die("beyond it", kind, bytes, "of shared memory, at " + std::to_string(at - shared->data), file, place);
  char text[64];
  snprintf(text, sizeof text, "at %p", pointer);
  die("no memory of the device's", kind, bytes, text, file, place);
}

}  // namespace check

// What g++ calls under -fsanitize=thread, which only the kernels are compiled with: the instrumentation is the
// compiler's, the judgement ours.
using check::Access;
#define HOOK extern "C" __attribute__((visibility("hidden")))
#define HERE nullptr, reinterpret_cast<uintptr_t>(__builtin_return_address(0))
#define HOOKS(size)                                                                                    \
  HOOK void __tsan_read##size(void *at) { check::access(at, size, Access::READ, HERE); }               \
  HOOK void __tsan_write##size(void *at) { check::access(at, size, Access::WRITE, HERE); }             \
  HOOK void __tsan_unaligned_read##size(void *at) { check::access(at, size, Access::READ, HERE); }     \
  HOOK void __tsan_unaligned_write##size(void *at) { check::access(at, size, Access::WRITE, HERE); }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
HOOK void __tsan_read_range(void *at, size_t bytes) { check::access(at, bytes, Access::READ, HERE); }
HOOK void __tsan_write_range(void *at, size_t bytes) { check::access(at, bytes, Access::WRITE, HERE); }
HOOK unsigned __tsan_atomic32_fetch_add(volatile unsigned *at, unsigned value, int) {
  check::access(const_cast<unsigned *>(at), 4, Access::ATOMIC, HERE);
  return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}
HOOK void __tsan_vptr_update(void **, void *) {}
HOOK void __tsan_vptr_read(void **) {}
HOOK void __tsan_func_entry(void *) {}
HOOK void __tsan_func_exit() {}
HOOK void __tsan_init() {}
