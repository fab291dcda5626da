// CUDA's vector types, with CUDA's alignment.
#pragma once

#include "runtime.h"

#define FASTBG_VECTORS(T, NAME, ALIGN2, ALIGN4)                                         \
  struct NAME##1 { T x; };                                                              \
  struct alignas(ALIGN2) NAME##2 { T x, y; };                                           \
  struct alignas(ALIGN4) NAME##4 { T x, y, z, w; };                                     \
  inline NAME##1 make_##NAME##1(T x) { return {x}; }                                    \
  inline NAME##2 make_##NAME##2(T x, T y) { return {x, y}; }                            \
  inline NAME##4 make_##NAME##4(T x, T y, T z, T w) { return {x, y, z, w}; }
#define FASTBG_VECTORS_3(T, NAME)                                                       \
  struct NAME##3 { T x, y, z; };                                                        \
  inline NAME##3 make_##NAME##3(T x, T y, T z) { return {x, y, z}; }

FASTBG_VECTORS(signed char, char, 2, 4)
FASTBG_VECTORS(unsigned char, uchar, 2, 4)
FASTBG_VECTORS(short, short, 4, 8)
FASTBG_VECTORS(unsigned short, ushort, 4, 8)
FASTBG_VECTORS(int, int, 8, 16)
FASTBG_VECTORS(unsigned, uint, 8, 16)
FASTBG_VECTORS(long long, longlong, 16, 16)
FASTBG_VECTORS(unsigned long long, ulonglong, 16, 16)
FASTBG_VECTORS(float, float, 8, 16)
FASTBG_VECTORS(double, double, 16, 16)
FASTBG_VECTORS_3(signed char, char)
FASTBG_VECTORS_3(unsigned char, uchar)
FASTBG_VECTORS_3(short, short)
FASTBG_VECTORS_3(unsigned short, ushort)
FASTBG_VECTORS_3(int, int)
FASTBG_VECTORS_3(float, float)
FASTBG_VECTORS_3(double, double)
inline uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }

#undef FASTBG_VECTORS
#undef FASTBG_VECTORS_3
