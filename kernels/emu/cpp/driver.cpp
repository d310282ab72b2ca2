// The entry points of libcuda that cudarc's safe interface uses.
//
// Device memory is host memory between red zones. Work is queued on streams and runs as late as the
// interface allows: at a synchronisation, or where a wait forces it.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <set>

#include "check.h"
#include "emulation.h"
#include "ptx.h"

#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

#define API extern "C" __attribute__((visibility("default")))

using Result = int;
using Address = unsigned long long;

namespace {

enum : Result {
  SUCCESS = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  INVALID_DEVICE = 101,
  INVALID_IMAGE = 200,
  INVALID_PTX = 218,
  NOT_FOUND = 500,
  NOT_READY = 600,
  LAUNCH_FAILED = 719,
};

struct Stream;
struct Event {
  uint64_t recorded = 0, reached = 0;
  Stream *stream = nullptr;
};
struct Work {
  std::function<Result()> run;
  bool always = false;          // even where earlier work failed
  std::shared_ptr<Event> wait;  // not before it has reached `ticket`
  uint64_t ticket = 0;
};
struct Stream {
  std::deque<Work> queue;
  bool draining = false;
};
struct alignas(16) Quad {
  char bytes[16];
};
struct Function {
  std::string name;
  ptx::Signature signature;
  std::shared_ptr<const ptx::Program> program;
  size_t max_shared = 48 << 10;
};
struct Module {
  std::string text;
  std::map<std::string, std::unique_ptr<Function>> functions;
};

constexpr size_t MAX_SHARED = 227 << 10;
constexpr size_t MEMORY = size_t(2) << 30;
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t RED_ZONE = 0;  // it has its own
#else
constexpr size_t RED_ZONE = 256;
#endif

std::recursive_mutex mutex;
int interpret = -1;
std::set<Stream *> streams;
Stream default_stream;
std::map<void *, std::shared_ptr<Event>> events;
std::map<uintptr_t, size_t> device_memory, pinned_memory;
size_t used;
Result failure = SUCCESS;  // of work: sticky, as on a device
uint64_t tickets;

// Faults that a test asks for. The counts are of what has been asked for since the last `lamina_emu_heal`.
constexpr uint64_t NEVER = ~uint64_t(0);
uint64_t from_environment(const char *name) {
  const char *value = getenv(name);
  return value ? strtoull(value, nullptr, 10) : NEVER;
}
struct Faults {
  uint64_t launches = 0, allocations = 0, flips = 0;
  uint64_t lose_at = NEVER;  // the device is lost at this launch
  uint64_t full_at = NEVER;  // this allocation finds no memory
  std::string flipped;       // of this kernel's launches, number `flip_at` has a bit of what it wrote flipped
  uint64_t flip_at = NEVER, flip_bit = 0;
  size_t memory = MEMORY;
  int version = 12000;   // of the driver's interface
  bool refuse = false;   // modules are refused, as those of a compiler that is too new are
};
// A process that cannot be told otherwise finds its faults in the environment.
Faults from_environment() {
  Faults faults;
  faults.lose_at = from_environment("LAMINA_EMU_LOSE_AT");
  return faults;
}
Faults faults = from_environment();

// What is copied to the host is recorded, or comes from the record while nothing is computed.
enum class Tape { NONE, RECORDING, REPLAYING } tape = Tape::NONE;
bool replayed = false;  // once: what lies in memory is not what would
std::vector<std::vector<char>> answers;
size_t next_answer;

#define LOCKED std::lock_guard<std::recursive_mutex> lock(mutex)

Stream *stream_of(void *handle) {
  return reinterpret_cast<uintptr_t>(handle) <= 2 ? &default_stream : static_cast<Stream *>(handle);
}
void *pointer(Address address) { return reinterpret_cast<void *>(static_cast<uintptr_t>(address)); }

bool contains(const std::map<uintptr_t, size_t> &memory, const void *at, size_t bytes) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(at);
  auto found = memory.upper_bound(address);
  if (found == memory.begin()) return false;
  --found;
  return address - found->first <= found->second && bytes <= found->second - (address - found->first);
}
bool on_device(Address at, size_t bytes) { return contains(device_memory, pointer(at), bytes); }

void drain(Stream *stream) {
  while (!stream->queue.empty()) {
    Work work = stream->queue.front();
    if (work.wait && work.wait->reached < work.ticket) {
      if (stream->draining) {
        fputs("emulation: streams wait for each other\n", stderr);
        abort();
      }
      stream->draining = true;
      drain(work.wait->stream);
      stream->draining = false;
      continue;
    }
    stream->queue.pop_front();
    const Result result = work.run && (!failure || work.always) ? work.run() : SUCCESS;
    if (!failure) failure = result;
  }
}
void drain_all() {
  drain(&default_stream);
  for (Stream *stream : std::set<Stream *>(streams)) drain(stream);
}
Result push(void *handle, Work work) {
  static const bool eager = getenv("LAMINA_EMU_EAGER") != nullptr;
  Stream *stream = stream_of(handle);
  stream->queue.push_back(std::move(work));
  if (eager) drain(stream);
  return SUCCESS;
}
Result push(void *handle, std::function<Result()> run) { return push(handle, Work{std::move(run), false, nullptr, 0}); }
// What is done even on a device that is lost.
Result push_always(void *handle, std::function<Result()> run) {
  return push(handle, Work{std::move(run), true, nullptr, 0});
}

Result release(Address address) {
  auto found = device_memory.find(static_cast<uintptr_t>(address));
  if (found == device_memory.end()) return INVALID_VALUE;
  unsigned char *const data = static_cast<unsigned char *>(pointer(address));
  const size_t bytes = found->second;
  for (size_t i = 0; i < RED_ZONE; i++)
    if (data[-1 - static_cast<ptrdiff_t>(i)] != 0xFD || data[bytes + i] != 0xFD) {
      fprintf(stderr, "emulation: something wrote beside an allocation of %zu bytes\n", bytes);
      abort();
    }
  // Buffers may have held secrets: whoever frees them overwrites them first, unless the device is lost.
  for (size_t i = 0; i < bytes && !failure && !replayed; i++)
    if (data[i]) {
      fprintf(stderr, "emulation: %zu bytes are freed with what was in them\n", bytes);
      abort();
    }
  memset(data, 0xDD, bytes);
  check::released(data);
  device_memory.erase(found);
  used -= bytes;
  free(data - RED_ZONE);
  return SUCCESS;
}

}  // namespace

API int lamina_emu_interpret(int on) {
  LOCKED;
  if (interpret >= 0 && interpret != on) return 1;
  interpret = on;
  return 0;
}

// The device is as new: what was lost is found, no fault is to come, nothing is counted or recorded.
API void lamina_emu_heal() {
  LOCKED;
  drain_all();
  failure = SUCCESS;
  faults = Faults();
  tape = Tape::NONE;
  replayed = false;
  answers.clear();
  next_answer = 0;
}
API void lamina_emu_lose_at(unsigned long long launch) {
  LOCKED;
  faults.lose_at = launch;
}
API void lamina_emu_full_at(unsigned long long allocation) {
  LOCKED;
  faults.full_at = allocation;
}
API void lamina_emu_memory(unsigned long long bytes) {
  LOCKED;
  faults.memory = bytes;
}
API void lamina_emu_version(unsigned long long version) {
  LOCKED;
  faults.version = static_cast<int>(version);
}
API void lamina_emu_refuse(unsigned long long refuse) {
  LOCKED;
  faults.refuse = refuse;
}
API void lamina_emu_flip(const char *kernel, unsigned long long launch, unsigned long long bit) {
  LOCKED;
  faults.flipped = kernel;
  faults.flip_at = launch;
  faults.flip_bit = bit;
}
// 0: as usual; 1: copies to the host are recorded from now on; 2: they come from the record, from its beginning, and nothing
// is computed or copied. 1 if there is no record.
API int lamina_emu_tape(int what) {
  LOCKED;
  drain_all();
  if (what == 2 && answers.empty()) return 1;
  tape = static_cast<Tape>(what);
  replayed = replayed || what == 2;
  next_answer = 0;
  if (what == 1) answers.clear();
  return 0;
}
// Answers that the record has, from the one that comes next.
API unsigned long long lamina_emu_answers() {
  LOCKED;
  return answers.size() - next_answer;
}
API unsigned long long lamina_emu_launches() {
  LOCKED;
  return faults.launches;
}
API unsigned long long lamina_emu_allocations() {
  LOCKED;
  return faults.allocations;
}

API Result cuInit(unsigned) { return SUCCESS; }
API Result cuDriverGetVersion(int *version) { return *version = faults.version, SUCCESS; }
API Result cuDeviceGet(int *device, int ordinal) { return *device = 0, ordinal ? INVALID_DEVICE : SUCCESS; }
API Result cuDeviceGetCount(int *count) { return *count = 1, SUCCESS; }
API Result cuDeviceGetName(char *name, int bytes, int) {
  snprintf(name, static_cast<size_t>(bytes), "emulation, %s", interpret == 1 ? "PTX" : "host code");
  return SUCCESS;
}
API Result cuDeviceGetAttribute(int *value, int attribute, int) {
  switch (attribute) {
    case 1: *value = 1024; break;         // threads of a block
    case 8: *value = 48 << 10; break;     // shared memory of a block
    case 10: *value = 32; break;          // warp
    case 16: *value = 4; break;           // multiprocessors
    case 75: *value = 9; break;           // compute capability, major
    case 97: *value = MAX_SHARED; break;  // shared memory of a block that asks for it
    case 115: *value = 1; break;          // memory pools
    default: *value = 0;
  }
  return SUCCESS;
}
API Result cuDeviceTotalMem_v2(size_t *bytes, int) { return *bytes = MEMORY, SUCCESS; }
API Result cuMemGetInfo_v2(size_t *available, size_t *total) {
  LOCKED;
  *total = faults.memory;
  *available = used < faults.memory ? faults.memory - used : 0;
  return SUCCESS;
}
API Result cuDevicePrimaryCtxRetain(void **context, int) { return *context = &default_stream, SUCCESS; }
API Result cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
API Result cuCtxGetCurrent(void **context) { return *context = &default_stream, SUCCESS; }
API Result cuCtxSetCurrent(void *) { return SUCCESS; }
API Result cuCtxSynchronize() {
  LOCKED;
  drain_all();
  return failure;
}
API Result cuGetErrorName(int error, const char **name) {
  static thread_local char text[32];
  snprintf(text, sizeof text, "error %d", error);
  return *name = text, SUCCESS;
}
API Result cuGetErrorString(int error, const char **text) { return cuGetErrorName(error, text); }

API Result cuStreamCreate(void **stream, unsigned) {
  LOCKED;
  Stream *fresh = new Stream;
  streams.insert(fresh);
  return *stream = fresh, SUCCESS;
}
API Result cuStreamCreateWithPriority(void **stream, unsigned flags, int) { return cuStreamCreate(stream, flags); }
API Result cuStreamDestroy_v2(void *handle) {
  LOCKED;
  Stream *stream = stream_of(handle);
  drain(stream);
  if (streams.erase(stream)) delete stream;
  return SUCCESS;
}
API Result cuStreamSynchronize(void *stream) {
  LOCKED;
  drain(stream_of(stream));
  return failure;
}
API Result cuStreamWaitEvent(void *stream, void *event, unsigned) {
  LOCKED;
  auto found = events.at(event);
  if (found->recorded > found->reached) push(stream, Work{nullptr, false, found, found->recorded});
  return SUCCESS;
}
API Result cuEventCreate(void **event, unsigned) {
  LOCKED;
  auto fresh = std::make_shared<Event>();
  events[fresh.get()] = fresh;
  return *event = fresh.get(), SUCCESS;
}
API Result cuEventDestroy_v2(void *event) {
  LOCKED;
  events.erase(event);
  return SUCCESS;
}
API Result cuEventRecord(void *event, void *stream) {
  LOCKED;
  auto found = events.at(event);
  const uint64_t ticket = ++tickets;
  found->recorded = ticket;
  found->stream = stream_of(stream);
  return push_always(stream, [found, ticket]() -> Result {
    if (found->reached < ticket) found->reached = ticket;
    return SUCCESS;
  });
}
API Result cuEventSynchronize(void *event) {
  LOCKED;
  auto found = events.at(event);
  if (found->reached < found->recorded) drain(found->stream);
  return failure;
}
API Result cuEventQuery(void *event) {
  LOCKED;
  auto found = events.at(event);
  return found->reached >= found->recorded ? SUCCESS : NOT_READY;
}
// There is no time here.
API Result cuEventElapsedTime(float *ms, void *, void *) { return *ms = 0, SUCCESS; }

API Result cuMemAlloc_v2(Address *address, size_t bytes) {
  LOCKED;
  if (!bytes) return INVALID_VALUE;
  if (failure) return failure;
  if (faults.allocations++ == faults.full_at) return OUT_OF_MEMORY;
  void *memory = nullptr;
  if (used > faults.memory || bytes > faults.memory - used || posix_memalign(&memory, 256, bytes + 2 * RED_ZONE)) return OUT_OF_MEMORY;
  char *const data = static_cast<char *>(memory) + RED_ZONE;
  memset(data - RED_ZONE, 0xFD, RED_ZONE);
  memset(data, 0xCD, bytes);
  memset(data + bytes, 0xFD, RED_ZONE);
  device_memory[reinterpret_cast<uintptr_t>(data)] = bytes;
  check::allocated(data, bytes, RED_ZONE);
  used += bytes;
  return *address = reinterpret_cast<uintptr_t>(data), SUCCESS;
}
API Result cuMemFree_v2(Address address) {
  LOCKED;
  drain_all();
  return release(address);
}
// What the stream frees before is there for it: where memory is short that work is done first.
API Result cuMemAllocAsync(Address *address, size_t bytes, void *stream) {
  LOCKED;
  if (used > faults.memory || bytes > faults.memory - used) drain(stream_of(stream));
  return cuMemAlloc_v2(address, bytes);
}
API Result cuMemFreeAsync(Address address, void *stream) {
  LOCKED;
  return push_always(stream, [address] { return release(address); });
}
API Result cuMemHostAlloc(void **memory, size_t bytes, unsigned) {
  LOCKED;
  *memory = aligned_alloc(4096, (bytes + 4095) & ~size_t(4095));
  if (!*memory) return OUT_OF_MEMORY;
  memset(*memory, 0xCD, bytes);
  pinned_memory[reinterpret_cast<uintptr_t>(*memory)] = bytes;
  return SUCCESS;
}
API Result cuMemFreeHost(void *memory) {
  LOCKED;
  pinned_memory.erase(reinterpret_cast<uintptr_t>(memory));
  free(memory);
  return SUCCESS;
}
API Result cuMemsetD8Async(Address at, unsigned char value, size_t bytes, void *stream) {
  LOCKED;
  if (failure) return failure;
  if (!on_device(at, bytes)) return INVALID_VALUE;
  if (tape == Tape::REPLAYING) return SUCCESS;
  return push(stream, [=]() -> Result { return memset(pointer(at), value, bytes), SUCCESS; });
}
API Result cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t bytes, void *stream) {
  LOCKED;
  if (failure) return failure;
  if (!on_device(to, bytes)) return INVALID_VALUE;
  if (tape == Tape::REPLAYING) return SUCCESS;
  if (contains(pinned_memory, from, bytes))
    return push(stream, [=]() -> Result { return memcpy(pointer(to), from, bytes), SUCCESS; });
  const char *const data = static_cast<const char *>(from);
  auto copy = std::make_shared<std::vector<char>>(data, data + bytes);
  return push(stream, [=]() -> Result { return memcpy(pointer(to), copy->data(), bytes), SUCCESS; });
}
API Result cuMemcpyDtoHAsync_v2(void *to, Address from, size_t bytes, void *stream) {
  LOCKED;
  if (!on_device(from, bytes)) return INVALID_VALUE;
  if (tape == Tape::REPLAYING) {
    if (next_answer == answers.size() || answers[next_answer].size() != bytes) {
      fprintf(stderr, "emulation: %zu bytes are asked for, which are not what was recorded\n", bytes);
      return failure = LAUNCH_FAILED;
    }
    memcpy(to, answers[next_answer++].data(), bytes);
    return SUCCESS;
  }
  const bool record = tape == Tape::RECORDING;
  push(stream, [=]() -> Result {
    memcpy(to, pointer(from), bytes);
    const char *const data = static_cast<const char *>(to);
    if (record) answers.emplace_back(data, data + bytes);
    return SUCCESS;
  });
  if (!contains(pinned_memory, to, bytes)) drain(stream_of(stream));
  return failure;
}
API Result cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, void *stream) {
  LOCKED;
  if (failure) return failure;
  if (!on_device(to, bytes) || !on_device(from, bytes)) return INVALID_VALUE;
  if (tape == Tape::REPLAYING) return SUCCESS;
  return push(stream, [=]() -> Result { return memmove(pointer(to), pointer(from), bytes), SUCCESS; });
}

API Result cuModuleLoadData(void **module, const void *image) {
  const char *const text = static_cast<const char *>(image);
  if (!strstr(text, ".version")) return INVALID_IMAGE;
  if (faults.refuse || !strstr(text, ".target sm_")) return INVALID_PTX;
  auto fresh = new Module;
  fresh->text = text;
  return *module = fresh, SUCCESS;
}
API Result cuModuleUnload(void *module) {
  LOCKED;
  drain_all();
  delete static_cast<Module *>(module);
  return SUCCESS;
}
// A function is there only where the PTX and the host build have it, with the same parameters.
API Result cuModuleGetFunction(void **function, void *handle, const char *name) {
  LOCKED;
  Module *const module = static_cast<Module *>(handle);
  auto found = module->functions.find(name);
  if (found == module->functions.end()) {
    auto fresh = std::make_unique<Function>();
    fresh->name = name;
    if (!ptx::signature(module->text, name, &fresh->signature)) return NOT_FOUND;
    const auto &kernels = emulation::kernels(check::enabled());
    const auto kernel = kernels.find(name);
    if (kernel == kernels.end() || kernel->second.argument_sizes != fresh->signature.argument_sizes) {
      fprintf(stderr, "emulation: %s has other parameters in the PTX than in the source: is it stale?\n", name);
      return INVALID_PTX;
    }
    if (interpret == 1) fresh->program = ptx::decode(module->text, name);
    found = module->functions.emplace(name, std::move(fresh)).first;
  }
  return *function = found->second.get(), SUCCESS;
}
API Result cuFuncGetAttribute(int *value, int attribute, void *function) {
  *value = attribute == 0 ? static_cast<Function *>(function)->signature.max_threads : 0;
  return SUCCESS;
}
API Result cuFuncSetAttribute(void *function, int attribute, int value) {
  if (attribute != 8) return SUCCESS;
  if (value < 0 || static_cast<size_t>(value) > MAX_SHARED) return INVALID_VALUE;
  return static_cast<Function *>(function)->max_shared = static_cast<size_t>(value), SUCCESS;
}
API Result cuLaunchKernel(void *handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned x, unsigned y,
                          unsigned z, unsigned shared_bytes, void *stream, void **arguments, void **) {
  LOCKED;
  if (failure) return failure;
  const Function *const function = static_cast<Function *>(handle);
  const size_t threads = size_t(x) * y * z;
  if (!threads || threads > static_cast<size_t>(function->signature.max_threads)) return INVALID_VALUE;
  if (!grid_x || !grid_y || !grid_z || grid_x > 0x7fffffff || grid_y > 65535 || grid_z > 65535) return INVALID_VALUE;
  if (shared_bytes > function->max_shared) return INVALID_VALUE;
  if (tape == Tape::REPLAYING) return faults.launches++, SUCCESS;
  // Copies of the arguments, one after another, then pointers to them.
  const std::vector<size_t> &sizes = function->signature.argument_sizes;
  std::vector<size_t> places;
  size_t end = 0;
  for (const size_t size : sizes) {
    places.push_back(end);
    end += (size + 15) & ~size_t(15);
  }
  const size_t bytes = end + ((sizes.size() * sizeof(void *) + 15) & ~size_t(15));
  auto copies = std::make_shared<std::vector<Quad>>(bytes / sizeof(Quad));
  char *const copy = reinterpret_cast<char *>(copies->data());
  for (size_t i = 0; i < sizes.size(); i++) memcpy(copy + places[i], arguments[i], sizes[i]);
  emulation::Entry entry = emulation::kernels(check::enabled())[function->name].entry;
  if (auto program = function->program) entry = [program](void **list) { ptx::run(*program, list); };
  const std::string name = function->name;
  const bool lost = faults.launches++ == faults.lose_at;
  const bool flip = name == faults.flipped && faults.flips++ == faults.flip_at;
  const uint64_t bit = faults.flip_bit;
  return push(stream, [=]() -> Result {
    if (lost) return LAUNCH_FAILED;
    void **const list = reinterpret_cast<void **>(copy + end);
    for (size_t i = 0; i < places.size(); i++) list[i] = copy + places[i];
    check::launch(name.c_str(), copies->data(), bytes);
    const int result = emulation::launch(name.c_str(), entry, {grid_x, grid_y, grid_z}, {x, y, z}, shared_bytes, list);
    if (flip) {
      // Kernels write to their first argument.
      Address target;
      memcpy(&target, list[0], sizeof target);
      auto found = --device_memory.upper_bound(static_cast<uintptr_t>(target));
      const size_t bits = 8 * (found->first + found->second - static_cast<uintptr_t>(target));
      static_cast<unsigned char *>(pointer(target))[bit % bits / 8] ^= static_cast<unsigned char>(1u << bit % 8);
    }
    return result ? LAUNCH_FAILED : SUCCESS;
  });
}
