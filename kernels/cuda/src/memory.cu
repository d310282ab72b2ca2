// Memory that no buffer holds is overwritten: many pieces of it in one launch.
#include "device.cuh"

constexpr u32 WIPE_THREADS = 256;

// A block overwrites one piece.
LAMINA_KERNEL(WIPE_THREADS, memory_wipe)(
    const u64 *pieces)  // [blocks, 2]: an address, a multiple of 16, and bytes
{
  const u64 address = pieces[2 * blockIdx.x], bytes = pieces[2 * blockIdx.x + 1];
  Quad *const quads = reinterpret_cast<Quad *>(address);
  for (u64 i = threadIdx.x; i < bytes / 16; i += WIPE_THREADS) quads[i] = Quad{{0, 0, 0, 0}};
  i8 *const rest = reinterpret_cast<i8 *>(address + (bytes & ~u64(15)));
  if (threadIdx.x < bytes % 16) rest[threadIdx.x] = 0;
}
LAMINA_EXPORT(memory_wipe)
