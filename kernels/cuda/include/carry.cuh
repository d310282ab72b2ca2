// 32-bit arithmetic with a carry flag, one PTX instruction each.
//
// On the device the flag is PTX's `CC.CF`. On the host it is a variable, so that chains written with these
// run unchanged in emulation. Between the first `_cc` of a chain and its last link nothing else may
// compute, and operands must be registers: a load that the compiler places inside a chain keeps ptxas from
// fusing `mad.lo.cc, madc.hi.cc` into one wide multiply-add, and costs half of the speed.
#pragma once
#include "device.cuh"

#if defined(__CUDA_ARCH__)

#define LAMINA_OP2(name, op)                                        \
  LAMINA_FN u32 name(u32 a, u32 b) {                                \
    u32 r;                                                          \
    asm volatile(op ".u32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b)); \
    return r;                                                       \
  }
#define LAMINA_OP3(name, op)                                                    \
  LAMINA_FN u32 name(u32 a, u32 b, u32 c) {                                     \
    u32 r;                                                                      \
    asm volatile(op ".u32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c)); \
    return r;                                                                   \
  }
LAMINA_OP2(add_cc, "add.cc")
LAMINA_OP2(addc_cc, "addc.cc")
LAMINA_OP2(addc, "addc")
LAMINA_OP2(sub_cc, "sub.cc")
LAMINA_OP2(subc_cc, "subc.cc")
LAMINA_OP2(subc, "subc")
LAMINA_OP3(mad_lo_cc, "mad.lo.cc")
LAMINA_OP3(madc_lo_cc, "madc.lo.cc")
LAMINA_OP3(madc_hi_cc, "madc.hi.cc")
LAMINA_OP3(madc_hi, "madc.hi")
LAMINA_FN u32 mul_hi(u32 a, u32 b) { return __umulhi(a, b); }

#else

// The emulator runs one thread at a time, and switches only at barriers, where no chain is open.
static u32 lamina_carry;
#define LAMINA_CHAIN static inline
LAMINA_CHAIN u32 lamina_add(u64 a, u64 b, u64 c) {
  const u64 sum = a + b + c;
  lamina_carry = (u32)(sum >> 32);
  return (u32)sum;
}
LAMINA_CHAIN u32 lamina_sub(u64 a, u64 b, u64 c) {
  const u64 difference = a - b - c;
  lamina_carry = (u32)(difference >> 63);
  return (u32)difference;
}
LAMINA_CHAIN u32 mul_hi(u32 a, u32 b) { return (u32)(((u64)a * b) >> 32); }
LAMINA_CHAIN u32 add_cc(u32 a, u32 b) { return lamina_add(a, b, 0); }
LAMINA_CHAIN u32 addc_cc(u32 a, u32 b) { return lamina_add(a, b, lamina_carry); }
LAMINA_CHAIN u32 addc(u32 a, u32 b) { return a + b + lamina_carry; }
LAMINA_CHAIN u32 sub_cc(u32 a, u32 b) { return lamina_sub(a, b, 0); }
LAMINA_CHAIN u32 subc_cc(u32 a, u32 b) { return lamina_sub(a, b, lamina_carry); }
LAMINA_CHAIN u32 subc(u32 a, u32 b) { return a - b - lamina_carry; }
LAMINA_CHAIN u32 mad_lo_cc(u32 a, u32 b, u32 c) { return lamina_add(a * b, c, 0); }
LAMINA_CHAIN u32 madc_lo_cc(u32 a, u32 b, u32 c) { return lamina_add(a * b, c, lamina_carry); }
LAMINA_CHAIN u32 madc_hi_cc(u32 a, u32 b, u32 c) { return lamina_add(mul_hi(a, b), c, lamina_carry); }
LAMINA_CHAIN u32 madc_hi(u32 a, u32 b, u32 c) { return mul_hi(a, b) + c + lamina_carry; }

#endif
