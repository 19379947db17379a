// The C interface: each call goes to the functions of the best instruction set here, or of the one asked for.

#include <cstring>

#include "kernels.h"

#define DECLARE(level)                                                                      \
  void linear_##level(Context*, const Linear*, const float*, int64_t, float*);              \
  void norm_##level(Context*, const float*, float, int64_t, const float*, int64_t, float*); \
  void attention_##level(Context*, const Heads*, const Rows*, const Projections*, float*);  \
  void choose_##level(Context*, const Choices*);                                            \
  void forbid_##level(Context*, const Masks*);                                              \
  void pack_##level(Context*, const Packing*);

#define TABLE(level) {linear_##level, norm_##level, attention_##level, choose_##level, forbid_##level, pack_##level}

DECLARE(plain)
#if defined(__x86_64__)
DECLARE(avx2)
DECLARE(avx512)
DECLARE(avx512bf16)
#endif

namespace {

struct Level {
  const char* name;
  bool (*is_here)();
  Kernels kernels;
};

// Best first.
const Level LEVELS[] = {
#if defined(__x86_64__)
    {"avx512bf16",
     [] {
       return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni") &&
              __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
              __builtin_cpu_supports("avx512dq");
     },
     TABLE(avx512bf16)},
    {"avx512",
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
     },
     TABLE(avx512)},
    {"avx2", [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }, TABLE(avx2)},
#endif
    {"plain", [] { return true; }, TABLE(plain)},
};

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

// The table of a level by name, or of the best one here for null; null where this processor lacks it.
const Level* nexttoken_level(const char* name) {
#if defined(__x86_64__)
  __builtin_cpu_init();
#endif
  for (const Level& level : LEVELS) {
    if (level.is_here() && (name == nullptr || std::strcmp(name, level.name) == 0)) return &level;
  }
  return nullptr;
}

const char* nexttoken_level_name(const Level* level) { return level->name; }

void nexttoken_linear(const Level* level, Context* context, const Linear* linear, const float* x, int64_t num_rows,
                      float* y) {
  level->kernels.linear(context, linear, x, num_rows, y);
}

void nexttoken_norm(const Level* level, Context* context, const float* weight, float eps, int64_t size, const float* x,
                    int64_t num_rows, float* y) {
  level->kernels.norm(context, weight, eps, size, x, num_rows, y);
}

void nexttoken_layers(const Level* level, Context* context, const Layer* layers, const Heads* heads,
                      int64_t num_layers, const Rows* rows, const float* cosines, const float* sines, float* x) {
  run_layers(level->kernels, context, layers, heads, num_layers, rows, cosines, sines, x);
}

void nexttoken_choose(const Level* level, Context* context, const Choices* choices) {
  level->kernels.choose(context, choices);
}

void nexttoken_forbid(const Level* level, Context* context, const Masks* masks) {
  level->kernels.forbid(context, masks);
}

void nexttoken_pack(const Level* level, Context* context, const Packing* packing) {
  level->kernels.pack(context, packing);
}

void nexttoken_attention(const Level* level, Context* context, const Heads* heads, const Rows* rows,
                         const Projections* projections, float* out) {
  level->kernels.attention(context, heads, rows, projections, out);
}
}
