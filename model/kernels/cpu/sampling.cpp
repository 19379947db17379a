// Draws the next tokens as model/sampler.py does, a row a task, in a few passes over its logits.
//
// A token's gap is how far its logit lies below the largest, divided by the temperature; its weight is a whole number,
// so that no sum depends on its order. Truncation sets weights to 0. The gap up to which tokens stay is found without
// sorting: by the bits of the gap, which sort as the numbers do, eleven, ten and ten at a time.

#include <cstdlib>

#include "kernels.h"
#include "simd.h"

namespace {

constexpr int64_t NO_TOKEN = -2;                 // as in model/batch.py
constexpr float FULL_WEIGHT = 1099511627776.0f;  // 2^40: of the most likely token
constexpr float MAX_GAP = 100.0f;                // beyond it every weight is 0

// What one row's draw needs, kept by each thread for its next one. Not a std::vector: see simd.h.
struct Workspace {
  ~Workspace() { std::free(memory); }

  void reserve(int64_t size) {
    const int64_t padded = (size + PANEL - 1) / PANEL * PANEL;
    if (padded > capacity) {
      std::free(memory);
      memory = static_cast<char*>(std::aligned_alloc(64, padded * 20));
      if (memory == nullptr) std::abort();
      capacity = padded;
    }
    weights = reinterpret_cast<int64_t*>(memory);
    gaps = reinterpret_cast<float*>(weights + padded);
    surprises = gaps + padded;
    places = reinterpret_cast<int32_t*>(surprises + padded);
  }

  char* memory = nullptr;
  int64_t capacity = 0;
  int64_t* weights;
  float* gaps;
  float* surprises;
  int32_t* places;
};

thread_local Workspace workspace;

// The largest logit; NaN where any is.
float top_logit(const float* logits, int64_t size) {
  Floats top = filled(-INFINITY);
  Ints has_nan{};
  int64_t i = 0;
  for (; i + LANES <= size; i += LANES) {
    const Floats value = load(logits + i);
    has_nan |= value != value;
    top = maximum(top, value);
  }
  float best = largest(top);
  bool is_nan = false;
  for (int lane = 0; lane < LANES; ++lane) is_nan |= has_nan[lane] != 0;
  for (; i < size; ++i) {
    is_nan |= logits[i] != logits[i];
    best = logits[i] > best ? logits[i] : best;
  }
  return is_nan ? NAN : best;
}

// Gap and weight of one token. An infinite logit minus itself is no number: that token is a most likely one.
inline void weigh(Floats logits, float top, float temperature, Floats& gap, Floats& weight) {
  gap = (top - logits) / temperature;
  gap = gap == gap ? gap : filled(0.0f);
  weight = exponential(-gap) * FULL_WEIGHT;
}

void weigh_all(const float* logits, int64_t size, float top, float temperature, const Workspace& w) {
  Floats gap, weight;
  int64_t i = 0;
  for (; i + LANES <= size; i += LANES) {
    weigh(load(logits + i), top, temperature, gap, weight);
    store(w.gaps + i, gap);
    for (int lane = 0; lane < LANES; ++lane) w.weights[i + lane] = int64_t(weight[lane]);
  }
  for (; i < size; ++i) {
    weigh(filled(logits[i]), top, temperature, gap, weight);
    w.gaps[i] = gap[0];
    w.weights[i] = int64_t(weight[0]);
  }
}

int64_t total_of(const int64_t* weights, int64_t size) {
  int64_t total = 0;
  for (int64_t i = 0; i < size; ++i) total += weights[i];
  return total;
}

// The smallest gap such that the tokens up to it weigh at least `target`, which is at most what all weigh.
template <class WeightOf>
float gap_reaching(const float* gaps, int64_t size, const WeightOf& weight_of, int64_t target, int32_t* places) {
  uint32_t found = 0;
  int64_t count = size;
  for (int shift = 20; shift >= 0; shift -= 10) {
    const bool is_first = shift == 20;
    int64_t histogram[2048] = {};
    const auto place = [&](int64_t n) { return is_first ? n : places[n]; };
    const auto bucket_of = [&](int64_t i) {
      uint32_t bits;
      std::memcpy(&bits, gaps + i, 4);
      return bits >> shift & (is_first ? 2047u : 1023u);
    };
    for (int64_t n = 0; n < count; ++n) histogram[bucket_of(place(n))] += weight_of(place(n));
    uint32_t bucket = 0;
    while (bucket < 2047 && histogram[bucket] < target) target -= histogram[bucket++];
    int64_t kept = 0;
    for (int64_t n = 0; n < count; ++n) {
      const int64_t i = place(n);
      if (bucket_of(i) == bucket) places[kept++] = int32_t(i);
    }
    count = kept;
    found |= bucket << shift;
  }
  float gap;
  std::memcpy(&gap, &found, 4);
  return gap;
}

void cut(const float* gaps, int64_t size, float most, int64_t* weights) {
  for (int64_t i = 0; i < size; ++i) weights[i] = gaps[i] <= most ? weights[i] : 0;
}

// Leaves the tokens of the smallest gaps that weigh at least the share `p` of all together.
void cut_to_share(const float* gaps, int64_t size, double p, const Workspace& w) {
  const int64_t total = total_of(w.weights, size);
  const int64_t target = total - int64_t((1 - p) * double(total));
  const auto weight_of = [&](int64_t i) { return w.weights[i]; };
  cut(gaps, size, gap_reaching(gaps, size, weight_of, target < 1 ? 1 : target, w.places), w.weights);
}

// How far a token's surprise lies from what is expected of all: see model/truncation.py.
void find_surprises(int64_t size, const Workspace& w) {
  int64_t weighed = 0, total = 0;
  for (int64_t i = 0; i < size; ++i) {
    const float gap = w.gaps[i] < MAX_GAP ? w.gaps[i] : MAX_GAP;
    weighed += int64_t(double(w.weights[i]) * double(gap));
    total += w.weights[i];
  }
  const float mean = float(double(weighed) / double(total < 1 ? 1 : total));
  for (int64_t i = 0; i < size; ++i) w.surprises[i] = std::fabs(w.gaps[i] - mean);
}

int64_t draw(const int64_t* weights, int64_t size, double uniform) {
  const int64_t target = int64_t(uniform * double(total_of(weights, size)));
  int64_t running = 0, i = 0;
  while (i < size - 1 && (running += weights[i]) <= target) ++i;
  return i;
}

int64_t choose(const Choices& c, int64_t row, const float* logits) {
  const int64_t size = c.vocab_size;
  const float top = top_logit(logits, size);
  if (!(top > -INFINITY)) return NO_TOKEN;
  if (c.temperature[row] == 0) {
    int64_t i = 0;
    while (logits[i] != top) ++i;
    return i;
  }
  workspace.reserve(size);
  const Workspace& w = workspace;
  weigh_all(logits, size, top, c.temperature[row], w);
  if (c.top_k[row] < size) {
    const auto one = [](int64_t) { return int64_t(1); };
    cut(w.gaps, size, gap_reaching(w.gaps, size, one, c.top_k[row], w.places), w.weights);
  }
  if (c.top_p[row] < 1) cut_to_share(w.gaps, size, c.top_p[row], w);
  if (c.min_p_gap[row] < INFINITY) cut(w.gaps, size, c.min_p_gap[row], w.weights);
  if (c.typical_p[row] < 1) {
    find_surprises(size, w);
    cut_to_share(w.surprises, size, c.typical_p[row], w);
  }
  return draw(w.weights, size, c.uniform[row]);
}

void forbid(const Masks& m, int64_t masked, const float* added_to, float* logits) {
  const uint8_t* bits = m.bits + masked * m.num_bytes;
  for (int64_t i = 0; i < m.vocab_size; i += 8) {
    const uint8_t byte = bits[i / 8];
    if (byte == 0xff) continue;
    const float* added = added_to + byte * 8;
    if (i + 8 <= m.vocab_size) {
      for (int lane = 0; lane < 8; ++lane) logits[i + lane] += added[lane];
    } else {
      for (int lane = 0; i + lane < m.vocab_size; ++lane) logits[i + lane] += added[lane];
    }
  }
}

}  // namespace

void OF_LEVEL(forbid, LEVEL)(Context* context, const Masks* masks, const float* added_to, float* logits) {
  parallel(context, masks->num_masked, [&](int64_t masked) {
    forbid(*masks, masked, added_to, logits + masks->rows[masked] * masks->vocab_size);
  });
}

void OF_LEVEL(choose, LEVEL)(Context* context, const Choices* choices, const float* logits, int64_t* token_ids) {
  parallel(context, choices->num_rows, [&](int64_t row) {
    token_ids[row] = choose(*choices, row, logits + row * choices->vocab_size);
  });
}
