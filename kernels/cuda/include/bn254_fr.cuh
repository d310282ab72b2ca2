// The scalar field of BN254.
#pragma once
#include "field.cuh"

struct FrParameters {
  LAMINA_MEMBER u32 p(int i) {
    constexpr u32 k[8] = {0xf0000001u, 0x43e1f593u, 0x79b97091u, 0x2833e848u,
                        0x8181585du, 0xb85045b6u, 0xe131a029u, 0x30644e72u};
    return k[i];
  }
  LAMINA_MEMBER u32 p2(int i) {
    constexpr u32 k[8] = {0xe0000002u, 0x87c3eb27u, 0xf372e122u, 0x5067d090u,
                        0x0302b0bau, 0x70a08b6du, 0xc2634053u, 0x60c89ce5u};
    return k[i];
  }
  LAMINA_MEMBER u32 one(int i) {
    constexpr u32 k[8] = {0x4ffffffbu, 0xac96341cu, 0x9f60cd29u, 0x36fc7695u,
                        0x7879462eu, 0x666ea36fu, 0x9a07df2fu, 0x0e0a77c1u};
    return k[i];
  }
  LAMINA_MEMBER u32 r2(int i) {
    constexpr u32 k[8] = {0xae216da7u, 0x1bb8e645u, 0xe35c59e3u, 0x53fe3ab1u,
                        0x53bb8085u, 0x8c49833du, 0x7f4e44a5u, 0x0216d0b1u};
    return k[i];
  }
  static constexpr u32 INV = 0xefffffffu;
};
typedef Fp<FrParameters> Fr;
