// Vectors of one instruction set, written with the compiler's vector extensions: the same source is compiled once a
// level.
//
// Everything lives in an unnamed namespace. A template with external linkage would be merged by the linker across
// levels, and a processor without AVX-512 could then run code that was compiled for it.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

// ACCUMULATORS: registers for sums, which leave enough for what is multiplied.
#if defined(__AVX512F__)
constexpr int LANES = 16, ACCUMULATORS = 24;
#elif defined(__AVX2__)
constexpr int LANES = 8, ACCUMULATORS = 12;
#elif defined(__aarch64__)
constexpr int LANES = 4, ACCUMULATORS = 24;
#else
constexpr int LANES = 4, ACCUMULATORS = 8;
#endif

// Panels of weights and tiles of keys are this wide.
constexpr int PANEL = 16;
constexpr int VECTORS = PANEL / LANES;  // of one panel

// Panels whose sums for that many rows fit into registers.
constexpr int panels_at_once(int rows) {
  const int fit = ACCUMULATORS / (rows * VECTORS);
  return fit >= 4 ? 4 : fit >= 2 ? 2 : 1;
}

typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef int32_t Ints __attribute__((vector_size(LANES * 4)));
typedef uint32_t Words __attribute__((vector_size(LANES * 4)));
typedef uint16_t Halves __attribute__((vector_size(LANES * 2)));
typedef int8_t Bytes __attribute__((vector_size(LANES)));
typedef Floats FloatsAnywhere __attribute__((aligned(4), may_alias));
typedef Words WordsAnywhere __attribute__((aligned(4), may_alias));
typedef Halves HalvesAnywhere __attribute__((aligned(2), may_alias));
typedef Bytes BytesAnywhere __attribute__((aligned(1), may_alias));

typedef uint16_t bfloat16;  // the upper half of a float's bits

inline Floats load(const float* from) { return *reinterpret_cast<const FloatsAnywhere*>(from); }

// One instruction each, where GCC 12 makes five of __builtin_convertvector.
inline Words widened(const bfloat16* from) {
#if defined(__AVX512F__)
  return reinterpret_cast<Words>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
#elif defined(__AVX2__)
  return reinterpret_cast<Words>(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#else
  return __builtin_convertvector(*reinterpret_cast<const HalvesAnywhere*>(from), Words);
#endif
}

inline Floats load(const bfloat16* from) { return reinterpret_cast<Floats>(widened(from) << 16); }

inline Words load_words(const void* from) { return *static_cast<const WordsAnywhere*>(from); }

inline void store(float* to, Floats value) { *reinterpret_cast<FloatsAnywhere*>(to) = value; }

// Without 0, as x - 0 is x; 0 + x is not where x is -0, and would be computed.
inline Floats filled(float value) { return value - Floats{}; }

inline Words filled_words(uint32_t value) { return Words{} + value; }

inline Floats maximum(Floats a, Floats b) { return a > b ? a : b; }

// The nearest whole number, ties to even, as a float; for magnitudes below 2^22.
inline Floats rounded(Floats value) {
  const float round = 12582912.0f;  // 1.5 * 2^23: adding it leaves the whole number in the lowest bits
  return value + round - round;
}

inline Floats magnitude(Floats value) { return reinterpret_cast<Floats>(reinterpret_cast<Words>(value) & 0x7fffffffu); }

// The sum of two products of 16-bit numbers in each lane.
inline Ints multiply_halves(Words a, Words b) {
#if defined(__AVX512BW__)
  return reinterpret_cast<Ints>(_mm512_madd_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
#elif defined(__AVX2__)
  return reinterpret_cast<Ints>(_mm256_madd_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
#elif defined(__SSE2__)
  return reinterpret_cast<Ints>(_mm_madd_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#else
  const auto low = [](Words x) { return reinterpret_cast<Ints>(x << 16) >> 16; };
  const auto high = [](Words x) { return reinterpret_cast<Ints>(x) >> 16; };
  return low(a) * low(b) + high(a) * high(b);
#endif
}

// The sums of two products of bytes, unsigned ones of a with signed ones of b, in each half of a lane, and the sums of
// such halves.
#if defined(__AVX512BW__)
constexpr bool HAS_BYTE_PRODUCTS = true;
inline Words multiply_bytes(Words a, Words b) {
  return reinterpret_cast<Words>(_mm512_maddubs_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
}
inline Ints add_halves(Ints a, Words b) {
  return reinterpret_cast<Ints>(_mm512_add_epi16(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
}
#elif defined(__AVX2__)
constexpr bool HAS_BYTE_PRODUCTS = true;
inline Words multiply_bytes(Words a, Words b) {
  return reinterpret_cast<Words>(_mm256_maddubs_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
}
inline Ints add_halves(Ints a, Words b) {
  return reinterpret_cast<Ints>(_mm256_add_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
}
#else
constexpr bool HAS_BYTE_PRODUCTS = false;
inline Words multiply_bytes(Words a, Words) { return a; }
inline Ints add_halves(Ints a, Words) { return a; }
#endif

// Lane by lane in order: the same sum at every level that has these lanes, whatever came before.
inline float sum(Floats value) {
  float total = 0;
  for (int i = 0; i < LANES; ++i) total += value[i];
  return total;
}

inline float largest(Floats value) {
  float best = value[0];
  for (int i = 1; i < LANES; ++i) best = value[i] > best ? value[i] : best;
  return best;
}

// Rounds to nearest, ties to even, as torch does. A NaN stays one.
inline void store(bfloat16* to, Floats value) {
  const Words bits = reinterpret_cast<Words>(value);
  const Words rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const Words result = (bits & 0x7fffffffu) > 0x7f800000u ? filled_words(0x7fc0) : rounded;
  *reinterpret_cast<HalvesAnywhere*>(to) = __builtin_convertvector(result, Halves);
}

// Whole numbers from -128 to 127.
inline void store(int8_t* to, Floats value) {
  *reinterpret_cast<BytesAnywhere*>(to) = __builtin_convertvector(__builtin_convertvector(value, Ints), Bytes);
}

// e^x by Cephes' polynomial (Moshier), within 2 units in the last place. exactly 1 at 0, exactly 0 below -87.
inline Floats exponential(Floats x) {
  const Floats low = filled(-87.0f), high = filled(88.0f);
  Floats clamped = x > high ? high : x;
  clamped = clamped < low ? low : clamped;
  const float round = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest whole number in the lowest bits
  const Floats shifted = clamped * 1.44269504088896341f + round;
  const Ints exponent = reinterpret_cast<Ints>(shifted) - reinterpret_cast<Ints>(filled(round));
  const Floats whole = shifted - round;
  const Floats r = (clamped - whole * 0.693359375f) + whole * 2.12194440e-4f;
  Floats p = filled(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const Floats power = reinterpret_cast<Floats>((exponent + 127) << 23);
  return x < low ? filled(0.0f) : p * power;
}

}  // namespace
