// Puts a matrix of weights into the layout that layout.py describes, and quantises it, one panel a task; and reads rows
// of it back.

#include <algorithm>

#include "kernels.h"
#include "simd.h"

namespace {

constexpr int GROUP = 32;  // inputs that are handled at once, and share a scale

constexpr int line_inputs(Format format) { return format == FLOAT32 ? 1 : format == BFLOAT16 ? 2 : format == INT8 ? 4 : 8; }

constexpr bool is_quantized(Format format) { return format == INT8 || format == INT4; }

int64_t groups_of(int64_t num_inputs) { return (num_inputs + GROUP - 1) / GROUP; }

// Of one panel.
template <Format FORMAT>
int64_t lines_of(int64_t num_inputs) {
  constexpr int64_t inputs = line_inputs(FORMAT);
  return is_quantized(FORMAT) ? groups_of(num_inputs) * (GROUP / inputs) : (num_inputs + inputs - 1) / inputs;
}

// Inputs `first` to `first + GROUP` of a row, zeros where it has none.
void read_group(const Packing& packing, int64_t row, int64_t first, float* group) {
  const int64_t count = row < 0 ? 0 : std::min<int64_t>(GROUP, packing.num_inputs - first);
  std::fill(group + count, group + GROUP, 0.0f);
  const int64_t start = row * packing.num_inputs + first;
  if (packing.stored == FLOAT32) {
    const float* from = static_cast<const float*>(packing.weight) + start;
    for (int64_t i = 0; i < count; ++i) group[i] = from[i];
  } else {
    const bfloat16* from = static_cast<const bfloat16*>(packing.weight) + start;
    for (int64_t i = 0; i < count; ++i) {
      const uint32_t bits = static_cast<uint32_t>(from[i]) << 16;
      std::memcpy(group + i, &bits, 4);
    }
  }
}

// To nearest, ties to even.
bfloat16 narrowed(float value) {
  float lanes[LANES] = {value};
  bfloat16 halves[LANES];
  store(halves, load(lanes));
  return halves[0];
}

float widened(bfloat16 value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float wide;
  std::memcpy(&wide, &bits, 4);
  return wide;
}

// Numbers plus OFFSET of layout.py, and the scale. It is rounded before the numbers are chosen, so that they make up for
// that. An int8's largest magnitude becomes 127; the first of an int4's becomes -8, as in llama.cpp's Q4_0.
template <Format FORMAT>
bfloat16 quantize(const float* group, uint8_t* numbers) {
  float largest = 0.0f;
  for (int i = 0; i < GROUP; ++i) {
    // A NaN stays, so that the whole group is NaN and nobody takes it for a number.
    const float magnitude = std::fabs(group[i]);
    if (magnitude > std::fabs(largest) || magnitude != magnitude) largest = FORMAT == INT8 ? magnitude : group[i];
  }
  const bfloat16 scale = narrowed(FORMAT == INT8 ? largest / 127.0f : largest / -8.0f);
  const float inverse = 1.0f / widened(scale);
  const float factor = std::isfinite(inverse) ? inverse : 0.0f;
  const float low = FORMAT == INT8 ? -127.0f : -8.0f, high = FORMAT == INT8 ? 127.0f : 7.0f;
  for (int i = 0; i < GROUP; ++i) {
    const float number = __builtin_rintf(group[i] * factor);
    const float bounded = number > low ? std::min(number, high) : low;
    numbers[i] = static_cast<uint8_t>(static_cast<int>(bounded) + (FORMAT == INT8 ? 128 : 8));
  }
  return scale;
}

// An output's shares, of 32 bits, of the lines of a group.
template <Format FORMAT>
void write_shares(const float* group, uint32_t (*shares)[PANEL], bfloat16* scale) {
  if constexpr (FORMAT == FLOAT32) {
    for (int i = 0; i < GROUP; ++i) std::memcpy(&shares[i][0], group + i, 4);
  } else if constexpr (FORMAT == BFLOAT16) {
    bfloat16 halves[GROUP];
    for (int i = 0; i < GROUP; i += LANES) store(halves + i, load(group + i));
    for (int i = 0; i < GROUP; i += 2) std::memcpy(&shares[i / 2][0], halves + i, 4);
  } else {
    uint8_t numbers[GROUP];
    *scale = quantize<FORMAT>(group, numbers);
    for (int line = 0; line < GROUP / line_inputs(FORMAT); ++line) {
      const uint8_t* inputs = numbers + line * line_inputs(FORMAT);
      uint8_t share[4];
      for (int i = 0; i < 4; ++i) share[i] = FORMAT == INT4 ? inputs[i] | inputs[i + 4] << 4 : inputs[i];
      std::memcpy(&shares[line][0], share, 4);
    }
  }
}

template <Format FORMAT>
void pack_panel(const Packing& packing, int64_t panel) {
  constexpr int64_t LINES = GROUP / line_inputs(FORMAT);  // of a group
  const int64_t num_groups = groups_of(packing.num_inputs), num_lines = lines_of<FORMAT>(packing.num_inputs);
  uint32_t* lines = static_cast<uint32_t*>(packing.lines) + panel * num_lines * PANEL;
  for (int64_t g = 0; g < num_groups; ++g) {
    uint32_t shares[LINES][PANEL];
    bfloat16 scales[PANEL];
    for (int lane = 0; lane < PANEL; ++lane) {
      float group[GROUP];
      read_group(packing, packing.rows[panel * PANEL + lane], g * GROUP, group);
      write_shares<FORMAT>(group, reinterpret_cast<uint32_t(*)[PANEL]>(&shares[0][lane]), scales + lane);
    }
    const int64_t lines_left = std::min(LINES, num_lines - g * LINES);
    std::memcpy(lines + g * LINES * PANEL, shares, static_cast<size_t>(lines_left) * sizeof(shares[0]));
    if (is_quantized(FORMAT)) std::memcpy(packing.scale + (panel * num_groups + g) * PANEL, scales, sizeof(scales));
  }
}

// The numbers in an output's share of a line.
template <Format FORMAT>
void read_share(uint32_t share, float* numbers) {
  if constexpr (FORMAT == FLOAT32) {
    std::memcpy(numbers, &share, 4);
  } else if constexpr (FORMAT == BFLOAT16) {
    numbers[0] = widened(static_cast<bfloat16>(share));
    numbers[1] = widened(static_cast<bfloat16>(share >> 16));
  } else if constexpr (FORMAT == INT8) {
    for (int i = 0; i < 4; ++i) numbers[i] = float(int(share >> 8 * i & 0xff) - 128);
  } else {
    for (int i = 0; i < 8; ++i) numbers[i] = float(int(share >> (8 * (i % 4) + i / 4 * 4) & 0xf) - 8);
  }
}

template <Format FORMAT>
void read_row(const Linear& linear, int64_t output, float* to) {
  constexpr int64_t INPUTS = line_inputs(FORMAT);
  const int64_t num_inputs = linear.num_inputs, panel = output / PANEL, lane = output % PANEL;
  const uint32_t* shares =
      static_cast<const uint32_t*>(linear.weight) + panel * lines_of<FORMAT>(num_inputs) * PANEL + lane;
  const bfloat16* scales = is_quantized(FORMAT) ? linear.scale + panel * groups_of(num_inputs) * PANEL + lane : nullptr;
  for (int64_t first = 0; first < num_inputs; first += INPUTS) {
    float numbers[INPUTS];
    read_share<FORMAT>(shares[first / INPUTS * PANEL], numbers);
    const float scale = is_quantized(FORMAT) ? widened(scales[first / GROUP * PANEL]) : 1.0f;
    for (int64_t i = 0; i < INPUTS && first + i < num_inputs; ++i) to[first + i] = numbers[i] * scale;
  }
}

}  // namespace

void OF_LEVEL(embed, LEVEL)(Context* context, const Linear* linear, const int64_t* outputs, int64_t count, float* to) {
  parallel(context, count, [&](int64_t i) {
    float* row = to + i * linear->num_inputs;
    // NaN, which no token is drawn from, rather than what lies beyond the weights.
    if (outputs[i] < 0 || outputs[i] >= linear->num_outputs) return std::fill(row, row + linear->num_inputs, NAN);
    switch (linear->format) {
      case FLOAT32: return read_row<FLOAT32>(*linear, outputs[i], row);
      case BFLOAT16: return read_row<BFLOAT16>(*linear, outputs[i], row);
      case INT8: return read_row<INT8>(*linear, outputs[i], row);
      case INT4: return read_row<INT4>(*linear, outputs[i], row);
    }
  });
}

void OF_LEVEL(pack, LEVEL)(Context* context, const Packing* packing) {
  parallel(context, packing->num_panels, [&](int64_t panel) {
    switch (packing->format) {
      case FLOAT32: return pack_panel<FLOAT32>(*packing, panel);
      case BFLOAT16: return pack_panel<BFLOAT16>(*packing, panel);
      case INT8: return pack_panel<INT8>(*packing, panel);
      case INT4: return pack_panel<INT4>(*packing, panel);
    }
  });
}
