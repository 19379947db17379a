// The data that Python hands over, and the functions that each instruction set has of its own.
#pragma once

#include <cstddef>
#include <cstdint>

struct Context;  // threads, scratch memory and an instruction set: see context.cpp

enum Format : int32_t { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2, INT4 = 3 };
enum Epilogue : int32_t { STORE = 0, ADD = 1, GATED = 2 };
enum Activation : int32_t { SILU = 0, GELU = 1, GELU_TANH = 2, RELU = 3 };

// A matrix product y = f(norm(x) W^T + bias), W in the layout that layout.py describes.
struct Linear {
  const void* weight;
  const uint16_t* scale;  // bfloat16, INT8 and INT4 alone
  const float* bias;      // in the order of the panels, or null
  const float* norm;      // weights of the RMSNorm that x goes through first, or null
  float eps;
  int32_t num_inputs;
  int32_t num_outputs;  // columns of y: half of W's rows when GATED
  Format format;
  Epilogue epilogue;  // ADD: y += ..., GATED: y = activation(gate) * up
  Activation activation;
};

// One layer's cache and heads.
struct Heads {
  int64_t keys;    // bytes into the cache: [tile][kv head][D][16 keys]
  int64_t values;  // bytes into the cache: [tile][kv head][16 keys][D rounded up to 16]
  Format format;
  int32_t num_heads;
  int32_t num_kv_heads;
  int32_t head_dim;
  int32_t block_size;
  int32_t window;  // 0: none
};

// The rows of one step, as AttentionBackend.plan gets them.
struct Rows {
  int64_t num_rows;
  const int64_t* slots;
  const int64_t* num_computed;
  const int64_t* num_new;
  const int32_t* block_tables;
  int64_t table_stride;
  int64_t num_tokens;
};

// What a step's tokens bring: float32, one row a token with the given distance between rows.
struct Projections {
  const float* queries;
  const float* keys;
  const float* values;
  int64_t query_stride;
  int64_t key_stride;
  int64_t value_stride;
  const float* cosines;  // [token][D], or null where queries and keys are turned already
  const float* sines;
  const int64_t* write;  // flat cache position of each token
};

// The rows that draw a token, by column; see model/sampler.py.
struct Choices {
  int64_t num_rows;
  int64_t vocab_size;
  const float* temperature;  // 0: the most likely token
  const int64_t* top_k;
  const double* top_p;
  const float* min_p_gap;
  const double* typical_p;
  const double* uniform;
};

// The tokens that some of these rows may draw; see model/penalties.py.
struct Masks {
  int64_t num_masked;
  int64_t vocab_size;
  int64_t num_bytes;
  const int64_t* rows;  // [masked]
  const uint8_t* bits;  // [masked][num_bytes], a token's bit 1 where it is allowed
};

// A matrix that is to be packed: layout.py says how.
struct Packing {
  const void* weight;  // [row][num_inputs]
  Format stored;       // of `weight`: FLOAT32 or BFLOAT16
  Format format;       // of `lines`
  const int64_t* rows;  // [num_panels * 16]: which row each output is, -1 for zeros
  int64_t num_panels;
  int64_t num_inputs;
  void* lines;
  uint16_t* scale;  // INT8 and INT4 alone
};

// One layer of the transformer: x += output(attention(qkv(x))), then x += down(gate_up(x)), norms within.
struct Layer {
  const Linear* qkv;
  const Linear* output;
  const Linear* gate_up;
  const Linear* down;
};

// An instruction set. Logits are [row][vocab_size], x and y [row][inputs] and [row][outputs].
struct Kernels {
  const char* name;
  void (*linear)(Context*, const Linear*, const float* x, int64_t num_rows, float* y);
  // The rows of the weights that have these numbers.
  void (*embed)(Context*, const Linear*, const int64_t* outputs, int64_t count, float* to);
  void (*attention)(Context*, const Heads*, const Rows*, const Projections*, char* cache, float* out);
  // A token for each row: NO_TOKEN where a logit is NaN or all are -inf.
  void (*choose)(Context*, const Choices*, const float* logits, int64_t* token_ids);
  // added_to [256][8]: what a byte of a mask adds to eight logits.
  void (*forbid)(Context*, const Masks*, const float* added_to, float* logits);
  void (*pack)(Context*, const Packing*);
};

Context* open_context(const Kernels*, int threads);
const Kernels& kernels_of(const Context*);

// Calls task(argument, i) once for each i below num_tasks, on all threads; returns when all have returned.
void run_parallel(Context*, int64_t num_tasks, void (*task)(void*, int64_t), void* argument);
int num_threads(const Context*);
// Memory that stays valid until the next call with the same number; 64-byte aligned, not initialised.
enum Scratch : int { INPUTS, QUERIES, PIECES, TASKS, LAYER_QKV, LAYER_ATTENDED, LAYER_INNER, NUM_SCRATCHES };
void* scratch(Context*, Scratch, size_t num_bytes);

namespace {

template <class Task>
void parallel(Context* context, int64_t num_tasks, const Task& task) {
  run_parallel(
      context, num_tasks, [](void* self, int64_t i) { (*static_cast<const Task*>(self))(i); },
      const_cast<Task*>(&task));
}

}  // namespace

#define JOINED(name, level) name##_##level
#define OF_LEVEL(name, level) JOINED(name, level)
