// The base field of BN254.
#pragma once
#include "field.cuh"

struct FqParameters {
  LAMINA_MEMBER u32 p(int i) {
    constexpr u32 k[8] = {0xd87cfd47u, 0x3c208c16u, 0x6871ca8du, 0x97816a91u,
                        0x8181585du, 0xb85045b6u, 0xe131a029u, 0x30644e72u};
    return k[i];
  }
  LAMINA_MEMBER u32 p2(int i) {
    constexpr u32 k[8] = {0xb0f9fa8eu, 0x7841182du, 0xd0e3951au, 0x2f02d522u,
                        0x0302b0bbu, 0x70a08b6du, 0xc2634053u, 0x60c89ce5u};
    return k[i];
  }
  LAMINA_MEMBER u32 one(int i) {
    constexpr u32 k[8] = {0xc58f0d9du, 0xd35d438du, 0xf5c70b3du, 0x0a78eb28u,
                        0x7879462cu, 0x666ea36fu, 0x9a07df2fu, 0x0e0a77c1u};
    return k[i];
  }
  LAMINA_MEMBER u32 r2(int i) {
    constexpr u32 k[8] = {0x538afa89u, 0xf32cfc5bu, 0xd44501fbu, 0xb5e71911u,
                        0x0a417ff6u, 0x47ab1effu, 0xcab8351fu, 0x06d89f71u};
    return k[i];
  }
  static constexpr u32 INV = 0xe4866389u;
};
typedef Fp<FqParameters> Fq;
