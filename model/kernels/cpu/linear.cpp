// Matrix products of a few to many rows with weights packed in panels of 16 outputs (layout.py describes the layout).
//
// An output element is one lane of one register, to which all inputs are added in order: nothing about this sum depends
// on the number of rows, on the thread or on the tile that it is computed in. That makes each row's result bitwise the
// same whatever other rows are there.
//
// Few rows: each weight is read from memory once and meets all rows in registers. Many rows: a task keeps a chunk of
// weights in the second-level cache and runs all rows past it.

#include "kernels.h"
#include "simd.h"
#include "tiles.h"

namespace {

constexpr int64_t CHUNK_BYTES = 256 << 10;
constexpr int PART = 256;  // numbers of x that are prepared together
constexpr int64_t PARALLEL_ELEMENTS = 1 << 15;  // fewer are prepared faster than a thread wakes

__attribute__((noinline)) Floats rarely_activated(Floats x, Activation activation) {
  if (activation == RELU) return maximum(x, filled(0.0f));
  Floats y{};
  for (int i = 0; i < LANES; ++i) {
    const float cube = x[i] * x[i] * x[i];
    const float inner =
        activation == GELU ? std::erf(x[i] * 0.70710678f) : std::tanh(0.79788456f * (x[i] + 0.044715f * cube));
    y[i] = 0.5f * x[i] * (1.0f + inner);
  }
  return y;
}

inline Floats activated(Floats x, Activation activation) {
  return activation == SILU ? x / (exponential(-x) + 1.0f) : rarely_activated(x, activation);
}

// One row's sums of one panel (of a gate's and an up's panel when GATED) into the 16 numbers at y.
template <Epilogue EPILOGUE>
inline void finish(const Linear& linear, const float* sums, int64_t panel, float* y) {
#pragma GCC unroll 4
  for (int v = 0; v < PANEL; v += LANES) {
    Floats value = load(sums + v);
    if (linear.bias) value += load(linear.bias + panel * PANEL + v);
    if constexpr (EPILOGUE == ADD) value += load(y + v);
    if constexpr (EPILOGUE == GATED) {
      Floats up = load(sums + PANEL + v);
      if (linear.bias) up += load(linear.bias + (panel + 1) * PANEL + v);
      value = activated(value, linear.activation) * up;
    }
    store(y + v, value);
  }
}

// The same for `count` panels of a row, of which the last may have outputs that y doesn't.
template <Epilogue EPILOGUE>
inline void finish_row(const Linear& linear, const float* sums, int64_t panel, int count, float* y) {
  constexpr int STEP = EPILOGUE == GATED ? 2 : 1;
  for (int p = 0; p < count; p += STEP) {
    const int64_t first = (panel + p) / STEP * PANEL, left = linear.num_outputs - first;
    if (left >= PANEL) {
      finish<EPILOGUE>(linear, sums + p * PANEL, panel + p, y + first);
    } else {
      float values[PANEL] = {};
      std::memcpy(values, y + first, left * 4);
      finish<EPILOGUE>(linear, sums + p * PANEL, panel + p, values);
      std::memcpy(y + first, values, left * 4);
    }
  }
}

// Panels first to last of a block of ROWS rows.
template <Format FORMAT, int ROWS>
void block(const Linear& linear, const Weights& w, int64_t first, int64_t last, const float* x, float* y) {
  constexpr int AT_ONCE = PANELS_AT_ONCE<FORMAT, ROWS>;
  constexpr int STEP = 2;  // a gate and its up are finished together
  constexpr int WIDTH = STEP * PANEL;
  alignas(64) float out[ROWS * WIDTH];
  for (int64_t panel = first; panel < last; panel += STEP) {
    const int count = int(last - panel < STEP ? last - panel : STEP);
    int i = 0;
    for (; i + AT_ONCE <= count; i += AT_ONCE) any_tile<FORMAT, ROWS, AT_ONCE>(w, panel + i, x, out + i * PANEL, WIDTH);
    for (; i < count; ++i) any_tile<FORMAT, ROWS, 1>(w, panel + i, x, out + i * PANEL, WIDTH);
    for (int row = 0; row < ROWS; ++row) {
      const float* sums = out + row * WIDTH;
      float* y_row = y + row * linear.num_outputs;
      if (linear.epilogue == STORE) finish_row<STORE>(linear, sums, panel, count, y_row);
      if (linear.epilogue == ADD) finish_row<ADD>(linear, sums, panel, count, y_row);
      if (linear.epilogue == GATED) finish_row<GATED>(linear, sums, panel, count, y_row);
    }
  }
}

template <Format FORMAT, int ROWS = MAX_ROWS>
void block_of(int rows, const Linear& linear, const Weights& w, int64_t first, int64_t last, const float* x, float* y) {
  if (rows == ROWS) return block<FORMAT, ROWS>(linear, w, first, last, x, y);
  if constexpr (ROWS > 1) block_of<FORMAT, ROWS - 1>(rows, linear, w, first, last, x, y);
}

float inverse_norm(const float* x, int64_t size, float eps) {
  Floats squares{};
  int64_t i = 0;
  for (; i + LANES <= size; i += LANES) squares += load(x + i) * load(x + i);
  float total = sum(squares);
  for (; i < size; ++i) total += x[i] * x[i];
  return 1.0f / std::sqrt(total / float(size) + eps);
}

// The numbers [first, first + PART) of a row of x, normalised where asked, and zeros beyond its end.
void read_part(const Linear& linear, const float* x, float factor, int64_t first, float* values) {
  const int64_t left = linear.num_inputs - first, count = left < PART ? left : PART;
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) {
    const Floats value = load(x + first + i);
    store(values + i, linear.norm ? value * factor * load(linear.norm + first + i) : value);
  }
  for (; i < count; ++i) values[i] = linear.norm ? x[first + i] * factor * linear.norm[first + i] : x[first + i];
  for (; i < PART; ++i) values[i] = 0;
}

// One group of one row: 32 numbers, their scale, and what the offset of the weights adds to every product.
template <Format FORMAT>
inline void quantize(const float* values, float* scale, int32_t* correction, uint32_t* quads, int rows) {
  Floats top{};
  for (int i = 0; i < GROUP; i += LANES) top = maximum(top, magnitude(load(values + i)));
  *scale = largest(top) / 127.0f;
  const float inverse = *scale > 0 ? 1.0f / *scale : 0.0f;
  alignas(64) int8_t numbers[GROUP];
  Floats total{};
  for (int i = 0; i < GROUP; i += LANES) {
    const Floats number = rounded(load(values + i) * inverse);
    store(numbers + i, number);
    total += number;
  }
  *correction = -Line<FORMAT>::OFFSET * int32_t(sum(total));
  for (int i = 0; i < GROUP; i += 4) put_quad<FORMAT>(numbers + i, quads + i / 4 * QUAD_WORDS<FORMAT> * rows, rows);
}

// One row of x as its place in a block of `rows` rows holds it.
template <Format FORMAT>
void prepare(const Linear& linear, int64_t padded, const float* x, int rows, float* to) {
  const float factor = linear.norm ? inverse_norm(x, linear.num_inputs, linear.eps) : 1.0f;
  alignas(64) float values[PART];
  for (int64_t first = 0; first < padded; first += PART) {
    read_part(linear, x, factor, first, values);
    const int count = int(padded - first < PART ? padded - first : PART);
    if constexpr (IS_QUANTIZED<FORMAT>) {
      for (int i = 0; i < count; i += GROUP, to += rows * GROUP_WORDS<FORMAT>) {
        int32_t* correction = reinterpret_cast<int32_t*>(to + rows);
        quantize<FORMAT>(values + i, to, correction, reinterpret_cast<uint32_t*>(to + 2 * rows), rows);
      }
    } else if constexpr (USES_PAIRS<FORMAT>) {
      alignas(64) bfloat16 halves[PART];
      for (int i = 0; i < count; i += LANES) store(halves + i, load(values + i));
      for (int i = 0; i < count; i += 2, to += rows) std::memcpy(to, halves + i, 4);
    } else {
      for (int i = 0; i < count; ++i, to += rows) *to = values[i];
    }
  }
}

template <Format FORMAT>
void linear(Context* context, const Linear& l, const float* x, int64_t num_rows, float* y) {
  constexpr int64_t PADDING = Line<FORMAT>::PADDING;
  const int64_t padded = (l.num_inputs + PADDING - 1) / PADDING * PADDING;
  const int64_t row_size = IS_QUANTIZED<FORMAT> ? padded / GROUP * GROUP_WORDS<FORMAT>
                           : USES_PAIRS<FORMAT> ? padded / 2
                                                : padded;
  const Weights w{static_cast<const char*>(l.weight), l.scale, padded / Line<FORMAT>::INPUTS};
  float* prepared = static_cast<float*>(scratch(context, INPUTS, num_rows * row_size * 4));

  // Blocks as equal as can be: 16 rows are 8 and 8, not 12 and 4.
  const int64_t num_blocks = (num_rows + MAX_ROWS - 1) / MAX_ROWS;
  const auto first_row = [=](int64_t b) { return b * num_rows / num_blocks; };
  const auto prepare_block = [&](int64_t b) {
    const int64_t first = first_row(b), last = first_row(b + 1);
    for (int64_t row = first; row < last; ++row) {
      float* to = prepared + first * row_size + (row - first);
      prepare<FORMAT>(l, padded, x + row * l.num_inputs, int(last - first), to);
    }
  };
  if (num_rows * padded < PARALLEL_ELEMENTS) {
    for (int64_t b = 0; b < num_blocks; ++b) prepare_block(b);
  } else {
    parallel(context, num_blocks, prepare_block);
  }

  const int64_t outputs_padded = (l.num_outputs + PANEL - 1) / PANEL;
  const int64_t num_panels = l.epilogue == GATED ? 2 * outputs_padded : outputs_padded;
  const int64_t num_pairs = (num_panels + 1) / 2;
  const int64_t fit = CHUNK_BYTES / (2 * w.num_lines * 64);
  const int64_t share = num_pairs / (num_threads(context) * 8);
  const int64_t smaller = fit < share ? fit : share;
  const int64_t per_task = smaller < 1 ? 1 : smaller;
  parallel(context, (num_pairs + per_task - 1) / per_task, [&](int64_t task) {
    const int64_t first = task * per_task * 2;
    const int64_t last = first + per_task * 2 < num_panels ? first + per_task * 2 : num_panels;
    for (int64_t b = 0; b < num_blocks; ++b) {
      const int64_t row = first_row(b);
      block_of<FORMAT>(int(first_row(b + 1) - row), l, w, first, last, prepared + row * row_size,
                       y + row * l.num_outputs);
    }
  });
}

}  // namespace

void OF_LEVEL(linear, LEVEL)(Context* context, const Linear* l, const float* x, int64_t num_rows, float* y) {
  if (num_rows == 0) return;
  if (l->format == FLOAT32) linear<FLOAT32>(context, *l, x, num_rows, y);
  if (l->format == BFLOAT16) linear<BFLOAT16>(context, *l, x, num_rows, y);
  if (l->format == INT8) linear<INT8>(context, *l, x, num_rows, y);
  if (l->format == INT4) linear<INT4>(context, *l, x, num_rows, y);
}
