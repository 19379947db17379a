// A step's way through all layers in one call: between two kernels of a small model, Python would take as long as they.

#include "kernels.h"

namespace {

float* floats(Context* context, Scratch number, int64_t count) {
  return static_cast<float*>(scratch(context, number, count * sizeof(float)));
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

// On x [token][hidden size].
void nexttoken_layers(Context* context, const Layer* layers, const Heads* heads, int64_t num_layers, const Rows* rows,
                      const float* cosines, const float* sines, const int64_t* write, char* cache, float* x) {
  const Kernels& kernels = kernels_of(context);
  const int64_t num_tokens = rows->num_tokens;
  for (int64_t i = 0; i < num_layers; ++i) {
    const Layer& layer = layers[i];
    const int64_t width = layer.qkv->num_outputs, num_queries = int64_t(heads[i].num_heads) * heads[i].head_dim;
    const int64_t num_keys = int64_t(heads[i].num_kv_heads) * heads[i].head_dim;
    float* qkv = floats(context, LAYER_QKV, num_tokens * width);
    float* attended = floats(context, LAYER_ATTENDED, num_tokens * num_queries);
    float* inner = floats(context, LAYER_INNER, num_tokens * layer.gate_up->num_outputs);
    kernels.linear(context, layer.qkv, x, num_tokens, qkv);
    const Projections projections{qkv,   qkv + num_queries, qkv + num_queries + num_keys, width, width, width,
                                  cosines, sines,           write};
    kernels.attention(context, heads + i, rows, &projections, cache, attended);
    kernels.linear(context, layer.output, attended, num_tokens, x);
    kernels.linear(context, layer.gate_up, x, num_tokens, inner);
    kernels.linear(context, layer.down, inner, num_tokens, x);
  }
}
}
