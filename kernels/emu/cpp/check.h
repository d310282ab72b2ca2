// Memory and races, in terms of CUDA threads: every access of a kernel is looked at, and the first that is wrong
// aborts with both threads, the place and what was touched.
//
// Two accesses of one launch race where at least one writes, not both are atomic, they are by different threads, and
// no barrier of a block that both threads are in lies between them. What is remembered of each word says so whatever
// order the threads happened to run in, so a race is found without having to go wrong.
#pragma once
#include <cstddef>
#include <cstdint>

namespace check {

enum class Access { READ, WRITE, ATOMIC };

// Whether accesses are looked at: yes, but for LAMINA_EMU_CHECK=0.
bool enabled();

// Device memory that kernels may touch, with `zone` bytes on either side that they may not.
void allocated(const void *at, size_t bytes, size_t zone);
void released(const void *at);

// A launch begins; its arguments, and the pointers to them, lie in [arguments, arguments + bytes).
void launch(const char *kernel, const void *arguments, size_t bytes);
// A block begins. Its threads see `bytes` of shared memory.
void block(unsigned number, const void *shared, size_t bytes);
// A thread runs on. What is on its stack is its own; its indices are in [self, self + self_bytes).
void thread(unsigned number, const void *stack, size_t bytes, const void *self, size_t self_bytes);
// The running thread's block has passed a barrier, for all of its threads.
void barrier();

// No thread runs: what the compiler made calls of elsewhere is not looked at.
void idle();

// An access by the running thread. `file` is null where `place` is an address in the kernels' code.
void access(const void *at, size_t bytes, Access kind, const char *file, uintptr_t place);

}  // namespace check
