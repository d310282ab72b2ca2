// An interpreter for the integer part of PTX that the kernels use.
#pragma once
#include <memory>
#include <string>
#include <vector>

namespace ptx {

struct Program;

// What a module says of one `.entry`.
struct Signature {
  std::vector<size_t> argument_sizes;
  int max_threads;
};

// False where the module has no such entry.
bool signature(const std::string &module, const std::string &name, Signature *out);

// Decodes an entry; an instruction that is not covered aborts and is named.
std::shared_ptr<const Program> decode(const std::string &module, const std::string &name);

// Runs it as the current thread of the emulation.
void run(const Program &program, void **arguments);

}  // namespace ptx
