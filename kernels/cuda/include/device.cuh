// What a kernel may use of its surroundings, for three compilers: NVRTC, nvcc and, for emulation, g++.
//
// Kernels are `LAMINA_KERNEL(threads, name)(parameters) { ... }` followed by `LAMINA_EXPORT(name)`. Their
// names are those of C, the same in PTX, in a cubin and in the host build. `LAMINA_VALUE` stands in structs of words `w`
// that are passed by value. Shared memory is dynamic, one
// block of it for each kernel, cut up by the kernel itself.
#pragma once

typedef signed char i8;
typedef short i16;
typedef int i32;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define LAMINA_FN static __device__ __forceinline__
#define LAMINA_MEMBER static __device__ __forceinline__
#define LAMINA_KERNEL(threads, name) extern "C" __global__ void __launch_bounds__(threads) name
#define LAMINA_EXPORT(name)
#define LAMINA_VALUE(type)
#define LAMINA_SHARED(type, name) extern __shared__ uint4 lamina_shared[]; \
  type *name = reinterpret_cast<type *>(lamina_shared)
#else
#include "emulation.h"
#endif

// Every lane of a warp.
#define LAMINA_WARP 0xffffffffu

// 8 bytes at once.
struct alignas(8) Pair {
  u32 w[2];
};

// 16 bytes at once: the widest access there is.
struct alignas(16) Quad {
  u32 w[4];
};

LAMINA_FN u32 global_thread() { return blockIdx.x * blockDim.x + threadIdx.x; }
