// Tiles of a matrix product: some rows of x against some panels of 16 outputs, summed over all inputs in registers.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace {

constexpr int GROUP = 32;  // inputs that share a scale

// The most rows of a tile.
#if defined(__AVX512F__)
constexpr int MAX_ROWS = 12;
#elif defined(__AVX2__) || defined(__aarch64__)
constexpr int MAX_ROWS = 6;
#else
constexpr int MAX_ROWS = 2;
#endif

// Inputs in one 64-byte line of weights, and to how many of them a row is padded.
template <Format>
struct Line;
template <>
struct Line<FLOAT32> {
  static constexpr int INPUTS = 1, PADDING = 1;
};
template <>
struct Line<BFLOAT16> {
  static constexpr int INPUTS = 2, PADDING = 2;
};
template <>
struct Line<INT8> {
  static constexpr int INPUTS = 4, PADDING = GROUP, OFFSET = 128;
};
template <>
struct Line<INT4> {
  static constexpr int INPUTS = 8, PADDING = GROUP, OFFSET = 8;
};

template <Format FORMAT>
constexpr bool IS_QUANTIZED = FORMAT == INT8 || FORMAT == INT4;

// Weight number i of each output in a line.
template <Format FORMAT>
inline Floats weight_of(Words line, int i) {
  if constexpr (FORMAT == FLOAT32) return reinterpret_cast<Floats>(line);
  return reinterpret_cast<Floats>(i == 0 ? line << 16 : line & 0xffff0000u);
}

#if defined(__AVX512BF16__)
constexpr bool HAS_DOT = true;
inline Floats dot(Floats sum, Words weights, Words pairs) {
  return reinterpret_cast<Floats>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(weights),
                                                   reinterpret_cast<__m512bh>(pairs)));
}
#else
constexpr bool HAS_DOT = false;
inline Floats dot(Floats sum, Words, Words) { return sum; }
#endif

// How a block of rows holds x:
// - [input][row] floats,
// - [pair of inputs][row] two bfloat16, for the dot product of such pairs,
// - for quantised weights x is quantised too, each 32 inputs of a row with a scale of their own:
//   [group]{[row] scale, [row] minus OFFSET times the sum of the numbers, [4 inputs][row] numbers}.
template <Format FORMAT>
constexpr bool USES_PAIRS = HAS_DOT && FORMAT == BFLOAT16;

// The products of four unsigned whole numbers of each output with a quad of a row's, added to `sum`; and what that has
// come to after a group. Both are exact.
#if defined(__AVX512VNNI__)
template <Format>
constexpr bool USES_BYTES = true;
template <Format>
inline Ints add_products(Ints sum, Words weights, const uint32_t* quad, int) {
  return reinterpret_cast<Ints>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(sum), reinterpret_cast<__m512i>(weights),
                                                    _mm512_set1_epi32(int(*quad))));
}
template <Format>
inline Ints total(Ints sum) {
  return sum;
}
#else
// int4 adds up in halves: of an output's two, each has room for 16 products of at most 15 * 127.
template <Format FORMAT>
constexpr bool USES_BYTES = HAS_BYTE_PRODUCTS && FORMAT == INT4;
template <Format FORMAT>
inline Ints add_products(Ints sum, Words weights, const uint32_t* quad, int rows) {
  if constexpr (USES_BYTES<FORMAT>) return add_halves(sum, multiply_bytes(weights, filled_words(*quad)));
  return sum + multiply_halves(weights & 0x00ff00ffu, filled_words(quad[0])) +
         multiply_halves((weights >> 8) & 0x00ff00ffu, filled_words(quad[rows]));
}
template <Format FORMAT>
inline Ints total(Ints sum) {
  return USES_BYTES<FORMAT> ? multiply_halves(reinterpret_cast<Words>(sum), filled_words(0x00010001)) : sum;
}
#endif

// A quad of x is its four bytes, or its numbers 0 and 2, then 1 and 3, as halves, such as the weights' bytes fall into.
template <Format FORMAT>
constexpr int QUAD_WORDS = USES_BYTES<FORMAT> ? 1 : 2;
template <Format FORMAT>
inline void put_quad(const int8_t* x, uint32_t* to, int rows) {
  if constexpr (USES_BYTES<FORMAT>) {
    std::memcpy(to, x, 4);
  } else {
    to[0] = uint32_t(uint16_t(x[0])) | uint32_t(uint16_t(x[2])) << 16;
    to[rows] = uint32_t(uint16_t(x[1])) | uint32_t(uint16_t(x[3])) << 16;
  }
}
template <Format FORMAT>
constexpr int GROUP_WORDS = 2 + GROUP / 4 * QUAD_WORDS<FORMAT>;  // of a row of x

// Few rows wait for memory, which is read fastest as one stream. Where sums of single inputs are added one after the
// other, though, they need a second panel to wait less; so do many rows, for which two share what is loaded of x.
template <Format FORMAT, int ROWS>
constexpr int PANELS_AT_ONCE =
    ((IS_QUANTIZED<FORMAT> || USES_PAIRS<FORMAT>) && ROWS <= 4) || panels_at_once(ROWS) == 1 ? 1 : 2;

// How far ahead of the lines at `done` bytes of PANELS panels others are fetched: of the same panel until it ends, then
// of the next ones. The processor would foresee how a long panel goes on, but not where the next begins.
template <int PANELS>
inline int64_t bytes_ahead(int64_t done, int64_t panel_bytes) {
  constexpr int64_t NEAR = (8 << 10) / PANELS;
  return done + NEAR < panel_bytes ? NEAR : NEAR + (PANELS - 1) * panel_bytes;
}

struct Weights {
  const char* weight;
  const bfloat16* scale;
  int64_t num_lines;  // of a panel
};

// ROWS x (PANELS * 16) sums over all inputs, to out with `width` floats a row.
template <Format FORMAT, int ROWS, int PANELS>
inline void tile(const Weights& w, int64_t panel, const float* x, float* out, int width) {
  constexpr int COLUMNS = PANELS * VECTORS, INPUTS = Line<FORMAT>::INPUTS;
  Floats sums[ROWS][COLUMNS] = {};
  const int64_t panel_bytes = w.num_lines * 64;
  const char* from = w.weight + panel * panel_bytes;
  for (int64_t line = 0; line < w.num_lines; ++line, from += 64) {
    const int64_t ahead = bytes_ahead<PANELS>(line * 64, panel_bytes);
    Words words[COLUMNS];
#pragma GCC unroll 16
    for (int c = 0; c < COLUMNS; ++c) {
      const char* place = from + c / VECTORS * panel_bytes + c % VECTORS * LANES * 4;
      if (c % VECTORS == 0) __builtin_prefetch(place + ahead, 0, 2);
      words[c] = load_words(place);
    }
    if constexpr (USES_PAIRS<FORMAT>) {
      const uint32_t* pairs = reinterpret_cast<const uint32_t*>(x);
#pragma GCC unroll 16
      for (int row = 0; row < ROWS; ++row) {
        const Words both = filled_words(pairs[row]);
#pragma GCC unroll 16
        for (int c = 0; c < COLUMNS; ++c) sums[row][c] = dot(sums[row][c], words[c], both);
      }
      x += ROWS;
    } else {
#pragma GCC unroll 2
      for (int i = 0; i < INPUTS; ++i, x += ROWS) {
        Floats weights[COLUMNS];
#pragma GCC unroll 16
        for (int c = 0; c < COLUMNS; ++c) weights[c] = weight_of<FORMAT>(words[c], i);
#pragma GCC unroll 16
        for (int row = 0; row < ROWS; ++row) {
          const Floats input = filled(x[row]);
#pragma GCC unroll 16
          for (int c = 0; c < COLUMNS; ++c) sums[row][c] += weights[c] * input;
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int row = 0; row < ROWS; ++row) {
#pragma GCC unroll 16
    for (int c = 0; c < COLUMNS; ++c) store(out + row * width + c * LANES, sums[row][c]);
  }
}

// The same for quantised weights: whole numbers within a group, which are exact, then scaled and added to `out`.
template <Format FORMAT, int ROWS, int PANELS>
inline void quantized_tile(const Weights& w, int64_t panel, const float* x, float* out, int width) {
  constexpr int COLUMNS = PANELS * VECTORS;
  constexpr int LINES = GROUP / Line<FORMAT>::INPUTS;
  const int64_t panel_bytes = w.num_lines * 64, num_groups = w.num_lines / LINES;
  const char* from = w.weight + panel * panel_bytes;
  const bfloat16* scales = w.scale + panel * num_groups * PANEL;
  for (int row = 0; row < ROWS; ++row) std::memset(out + row * width, 0, PANELS * PANEL * 4);
  for (int64_t group = 0; group < num_groups; ++group, x += ROWS * GROUP_WORDS<FORMAT>) {
    const int64_t ahead = bytes_ahead<PANELS>(group * LINES * 64, panel_bytes);
    const int32_t* offsets = reinterpret_cast<const int32_t*>(x + ROWS);
    const uint32_t* quads = reinterpret_cast<const uint32_t*>(x + 2 * ROWS);
    Ints sums[ROWS][COLUMNS] = {};
#pragma GCC unroll 1
    for (int line = 0; line < LINES; ++line, from += 64) {
#pragma GCC unroll 2
      for (int part = 0; part < Line<FORMAT>::INPUTS / 4; ++part, quads += ROWS * QUAD_WORDS<FORMAT>) {
        Words words[COLUMNS];
#pragma GCC unroll 16
        for (int c = 0; c < COLUMNS; ++c) {
          const char* place = from + c / VECTORS * panel_bytes + c % VECTORS * LANES * 4;
          if (part == 0 && c % VECTORS == 0) __builtin_prefetch(place + ahead, 0, 2);
          words[c] = load_words(place);
          if constexpr (FORMAT == INT4) words[c] = (part == 0 ? words[c] : words[c] >> 4) & 0x0f0f0f0fu;
        }
#pragma GCC unroll 16
        for (int row = 0; row < ROWS; ++row) {
#pragma GCC unroll 16
          for (int c = 0; c < COLUMNS; ++c) {
            sums[row][c] = add_products<FORMAT>(sums[row][c], words[c], quads + row, ROWS);
          }
        }
      }
    }
#pragma GCC unroll 16
    for (int c = 0; c < COLUMNS; ++c) {
      const Floats scale = load(scales + (c / VECTORS * num_groups + group) * PANEL + c % VECTORS * LANES);
#pragma GCC unroll 16
      for (int row = 0; row < ROWS; ++row) {
        float* to = out + row * width + c * LANES;
        const Ints sum = total<FORMAT>(sums[row][c]) + offsets[row];
        store(to, load(to) + __builtin_convertvector(sum, Floats) * (scale * x[row]));
      }
    }
  }
}

template <Format FORMAT, int ROWS, int PANELS>
inline void any_tile(const Weights& w, int64_t panel, const float* x, float* out, int width) {
  if constexpr (IS_QUANTIZED<FORMAT>) {
    quantized_tile<FORMAT, ROWS, PANELS>(w, panel, x, out, width);
  } else {
    tile<FORMAT, ROWS, PANELS>(w, panel, x, out, width);
  }
}

}  // namespace
