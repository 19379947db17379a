// The C interface: each call goes to the functions of the best instruction set here, or of the one asked for.

#include <cstring>

#include "kernels.h"

#define DECLARE(level)                                                                            \
  void linear_##level(Context*, const Linear*, const float*, int64_t, float*);                    \
  void embed_##level(Context*, const Linear*, const int64_t*, int64_t, float*);                   \
  void attention_##level(Context*, const Heads*, const Rows*, const Projections*, char*, float*); \
  void choose_##level(Context*, const Choices*, const float*, int64_t*);                          \
  void forbid_##level(Context*, const Masks*, const float*, float*);                              \
  void pack_##level(Context*, const Packing*);

#define TABLE(level)                                                                                               \
  {#level, linear_##level, embed_##level, attention_##level, choose_##level, forbid_##level, pack_##level}

DECLARE(plain)
#if defined(__x86_64__)
DECLARE(avx2)
DECLARE(avx512)
DECLARE(avx512bf16)
#endif

namespace {

struct Level {
  bool (*is_here)();
  Kernels kernels;
};

// Best first.
const Level LEVELS[] = {
#if defined(__x86_64__)
    {[] {
       return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni") &&
              __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
              __builtin_cpu_supports("avx512dq");
     },
     TABLE(avx512bf16)},
    {[] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
     },
     TABLE(avx512)},
    {[] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }, TABLE(avx2)},
#endif
    {[] { return true; }, TABLE(plain)},
};

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

// With the best instruction set here, or the one of that name; null where this processor lacks it.
Context* nexttoken_open(const char* name, int threads) {
#if defined(__x86_64__)
  __builtin_cpu_init();
#endif
  for (const Level& level : LEVELS) {
    if (level.is_here() && (name == nullptr || std::strcmp(name, level.kernels.name) == 0)) {
      return open_context(&level.kernels, threads);
    }
  }
  return nullptr;
}

const char* nexttoken_level(const Context* context) { return kernels_of(context).name; }

void nexttoken_linear(Context* context, const Linear* linear, const float* x, int64_t num_rows, float* y) {
  kernels_of(context).linear(context, linear, x, num_rows, y);
}

void nexttoken_embed(Context* context, const Linear* linear, const int64_t* outputs, int64_t count, float* to) {
  kernels_of(context).embed(context, linear, outputs, count, to);
}

void nexttoken_attention(Context* context, const Heads* heads, const Rows* rows, const Projections* projections,
                         char* cache, float* out) {
  kernels_of(context).attention(context, heads, rows, projections, cache, out);
}

void nexttoken_choose(Context* context, const Choices* choices, const float* logits, int64_t* token_ids) {
  kernels_of(context).choose(context, choices, logits, token_ids);
}

void nexttoken_forbid(Context* context, const Masks* masks, const float* added_to, float* logits) {
  kernels_of(context).forbid(context, masks, added_to, logits);
}

void nexttoken_pack(Context* context, const Packing* packing) { kernels_of(context).pack(context, packing); }
}
