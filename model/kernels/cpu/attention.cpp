// Rotary positions, the write to the paged cache and attention over it.
//
// Each query's context is cut into pieces of 256 positions, at fixed places. A piece's softmax is computed by itself,
// in the order of its keys, and pieces are merged in order (Milakov and Gimelshein 2018). So a query's result depends
// on its context alone: not on the batch, on how its prompt was cut into chunks, or on who computed which piece.
//
// The query heads that share a kv head stand together, so each cached key and value is loaded once for all of them.

#include <algorithm>

#include "kernels.h"
#include "simd.h"

namespace {

constexpr int TILE = PANEL;        // keys that lie side by side in the cache
constexpr int PIECE = 256;         // positions
constexpr int MAX_TILE_ROWS = 32;  // queries times heads that a task takes through a piece together
constexpr int MAX_HEAD_DIM = 256;
constexpr int AHEAD = 4;  // tiles
constexpr float HIDDEN = -1e30f;  // score of a key that isn't seen; finite, since inf - inf is NaN

// The most rows at once.
#if defined(__AVX512F__)
constexpr int MAX_ROWS = 8;
#elif defined(__AVX2__) || defined(__aarch64__)
constexpr int MAX_ROWS = 6;
#else
constexpr int MAX_ROWS = 2;
#endif

inline int64_t rounded_up(int64_t n) { return (n + TILE - 1) / TILE * TILE; }

// The queries of one row and one kv head that are computed together: `count` positions times `group` heads.
struct Queries {
  int64_t row;
  int64_t kv_head;
  int64_t first_token;     // of the step
  int64_t first_position;  // in the sequence
  int64_t count;
};

// Softmax over what has been seen so far: largest score, sum of weights, weighted sum of values, for each row.
struct State {
  float* best;
  float* total;
  float* value;  // [row][head_dim rounded up]
};

template <class Cached>
struct Attention {
  Context* context;
  const Heads& heads;
  const Rows& rows;
  const Cached *keys, *values;  // of this layer
  const float* queries;         // [token][head][D], turned and scaled
  float* out;
  int64_t dim, dim_padded, group, num_kv_heads;

  const Cached* key_tile(int64_t position, const Queries& q) const {
    return keys + (tile_at(position, q) * num_kv_heads + q.kv_head) * dim * TILE;
  }

  const Cached* value_tile(int64_t position, const Queries& q) const {
    return values + (tile_at(position, q) * num_kv_heads + q.kv_head) * dim_padded * TILE;
  }

  int64_t tile_at(int64_t position, const Queries& q) const {
    const int64_t block = rows.block_tables[rows.slots[q.row] * rows.table_stride + position / heads.block_size];
    return (block * heads.block_size + position % heads.block_size) / TILE;
  }

  int64_t first_visible(int64_t position) const {
    const int64_t first = heads.window ? position + 1 - heads.window : 0;
    return first < 0 ? 0 : first;
  }

  const float* query(const Queries& q, int64_t row) const {
    return queries + ((q.first_token + row / group) * heads.num_heads + q.kv_head * group + row % group) * dim;
  }

  // scores[row] of ROWS rows with TILES tiles of keys. Later tiles are fetched meanwhile: a head's tiles lie anywhere in
  // the cache, so the processor can't foresee where it goes on.
  template <int ROWS, int TILES>
  void score(const float* const* from, const Cached* const* tiles, float* scores) const {
    constexpr int COLUMNS = TILES * VECTORS;
    Floats sums[ROWS][COLUMNS] = {};
    for (int64_t d = 0; d < dim; ++d) {
#pragma GCC unroll 8
      for (int t = 0; t < TILES; ++t) __builtin_prefetch(tiles[AHEAD + t] + d * TILE, 0, 2);
#pragma GCC unroll 8
      for (int c = 0; c < COLUMNS; ++c) {
        const Floats key = load(tiles[c / VECTORS] + d * TILE + c % VECTORS * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) sums[r][c] += key * from[r][d];
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < COLUMNS; ++c) store(scores + r * PIECE + c * LANES, sums[r][c]);
    }
  }

  template <int ROWS = MAX_ROWS>
  void score_rows(int count, const Queries& q, int64_t row, const Cached* const* tiles, int num_tiles,
                  float* scores) const {
    if (count == ROWS) {
      constexpr int AT_ONCE = panels_at_once(ROWS);
      const float* from[ROWS];
      for (int r = 0; r < ROWS; ++r) from[r] = query(q, row + r);
      int t = 0;
      for (; t + AT_ONCE <= num_tiles; t += AT_ONCE) score<ROWS, AT_ONCE>(from, tiles + t, scores + t * TILE);
      for (; t < num_tiles; ++t) score<ROWS, 1>(from, tiles + t, scores + t * TILE);
      return;
    }
    if constexpr (ROWS > 1) score_rows<ROWS - 1>(count, q, row, tiles, num_tiles, scores);
  }

  // Turns a row's scores into weights; keys outside [low, high) of the piece have none.
  void softmax(float* scores, int num_keys, int low, int high, float& best, float& total) const {
    best = HIDDEN, total = 0;
    if (low >= high) return void(std::memset(scores, 0, num_keys * sizeof(float)));
    std::fill(scores, scores + low, HIDDEN);
    std::fill(scores + high, scores + num_keys, HIDDEN);
    Floats top = filled(HIDDEN);
    for (int i = 0; i < num_keys; i += LANES) top = maximum(top, load(scores + i));
    best = largest(top);
    // What is seen is -inf, so the row is NaN, as softmax makes it; hidden keys would count as much as those.
    if (best == HIDDEN) return void(total = NAN);
    Floats sums{};
    for (int i = 0; i < num_keys; i += LANES) {
      const Floats weight = exponential(load(scores + i) - best);
      store(scores + i, weight);
      sums += weight;
    }
    total = sum(sums);
  }

  // value[row] of ROWS rows in TILES * 16 dimensions: the weighted sum over positions [low, high) of the piece. Others
  // may hold anything, NaN too.
  template <int ROWS, int TILES>
  void weigh(const Cached* const* tiles, int low, int high, const float* weights, int64_t column, float* value) const {
    constexpr int COLUMNS = TILES * VECTORS, LINE = 64 / (LANES * sizeof(Cached));
    Floats sums[ROWS][COLUMNS] = {};
    for (int start = low; start < high;) {
      const int tile = start / TILE, end = (tile + 1) * TILE < high ? (tile + 1) * TILE : high;
      const int64_t place = (start - tile * TILE) * dim_padded + column;
      const Cached *from = tiles[tile] + place, *next = tiles[tile + AHEAD] + place;
      for (int i = start; i < end; ++i, from += dim_padded, next += dim_padded) {
#pragma GCC unroll 8
        for (int c = 0; c < COLUMNS; c += LINE) __builtin_prefetch(next + c * LANES, 0, 2);
#pragma GCC unroll 8
        for (int c = 0; c < COLUMNS; ++c) {
          const Floats cached = load(from + c * LANES);
#pragma GCC unroll 8
          for (int r = 0; r < ROWS; ++r) sums[r][c] += cached * weights[r * PIECE + i];
        }
      }
      start = end;
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < COLUMNS; ++c) store(value + r * dim_padded + column + c * LANES, sums[r][c]);
    }
  }

  template <int ROWS = MAX_ROWS>
  void weigh_rows(int count, const Cached* const* tiles, int low, int high, const float* weights, float* value) const {
    if (count == ROWS) {
      constexpr int AT_ONCE = panels_at_once(ROWS);
      int64_t d = 0;
      for (; d + AT_ONCE * TILE <= dim_padded; d += AT_ONCE * TILE)
        weigh<ROWS, AT_ONCE>(tiles, low, high, weights, d, value);
      for (; d < dim_padded; d += TILE) weigh<ROWS, 1>(tiles, low, high, weights, d, value);
      return;
    }
    if constexpr (ROWS > 1) weigh_rows<ROWS - 1>(count, tiles, low, high, weights, value);
  }

  // The state of all rows over positions [piece * 256, piece * 256 + 256) alone.
  void attend_piece(const Queries& q, int64_t piece, State state) const {
    alignas(64) float scores[MAX_TILE_ROWS * PIECE];
    const int64_t start = piece * PIECE, num_rows = q.count * group;
    const int64_t last_position = q.first_position + q.count - 1;
    const int high = int(last_position + 1 - start < PIECE ? last_position + 1 - start : PIECE);
    const int64_t first = first_visible(q.first_position) - start;
    const int low = int(first > 0 ? first : 0);
    const int first_tile = low / TILE, num_tiles = (high + TILE - 1) / TILE;
    // The keys', then the values', then the next piece's keys, which are fetched ahead.
    const Cached* tiles[2 * PIECE / TILE + AHEAD];
    const Cached** key_tiles = tiles;
    const Cached** value_tiles = tiles + num_tiles;
    for (int t = 0; t < num_tiles; ++t) {
      const int64_t position = start + (t < first_tile ? first_tile : t) * TILE;
      key_tiles[t] = key_tile(position, q);
      value_tiles[t] = value_tile(position, q);
    }
    for (int t = 0; t < AHEAD; ++t) {
      const int64_t position = start + (num_tiles + t) * TILE;
      value_tiles[num_tiles + t] = key_tile(position < last_position ? position : last_position, q);
    }
    for (int64_t r = 0; r < num_rows; r += MAX_ROWS) {
      const int count = int(num_rows - r < MAX_ROWS ? num_rows - r : MAX_ROWS);
      float* row_scores = scores + r * PIECE + first_tile * TILE;
      score_rows(count, q, r, key_tiles + first_tile, num_tiles - first_tile, row_scores);
    }
    for (int64_t r = 0; r < num_rows; ++r) {
      const int64_t position = q.first_position + r / group;
      const int64_t row_low = first_visible(position) - start, row_high = position + 1 - start;
      const auto within = [=](int64_t place) { return int(std::clamp<int64_t>(place, 0, num_tiles * TILE)); };
      softmax(scores + r * PIECE, num_tiles * TILE, within(row_low), within(row_high), state.best[r], state.total[r]);
    }
    for (int64_t r = 0; r < num_rows; r += MAX_ROWS) {
      const int count = int(num_rows - r < MAX_ROWS ? num_rows - r : MAX_ROWS);
      weigh_rows(count, value_tiles, low, high, scores + r * PIECE, state.value + r * dim_padded);
    }
  }

  void begin(int64_t num_rows, State state) const {
    for (int64_t r = 0; r < num_rows; ++r) state.best[r] = HIDDEN;
    std::memset(state.total, 0, num_rows * 4);
    std::memset(state.value, 0, num_rows * dim_padded * 4);
  }

  // A piece that a row doesn't see leaves it bitwise as it was: it has factor 1 for the old and 0 for the new.
  void merge(int64_t num_rows, State state, State piece) const {
    for (int64_t r = 0; r < num_rows; ++r) {
      const float best = state.best[r] > piece.best[r] ? state.best[r] : piece.best[r];
      const Floats old_factor = exponential(filled(state.best[r] - best));
      const Floats new_factor = exponential(filled(piece.best[r] - best));
      state.best[r] = best;
      state.total[r] = state.total[r] * old_factor[0] + piece.total[r] * new_factor[0];
      float *value = state.value + r * dim_padded, *added = piece.value + r * dim_padded;
      for (int64_t d = 0; d < dim_padded; d += LANES) {
        store(value + d, load(value + d) * old_factor + load(added + d) * new_factor);
      }
    }
  }

  void finish(const Queries& q, State state) const {
    for (int64_t r = 0; r < q.count * group; ++r) {
      float* to = out + (query(q, r) - queries);
      const float factor = 1.0f / state.total[r];
      for (int64_t d = 0; d < dim; ++d) to[d] = state.value[r * dim_padded + d] * factor;
    }
  }

  int64_t first_piece(const Queries& q) const { return first_visible(q.first_position) / PIECE; }
  int64_t num_pieces(const Queries& q) const { return (q.first_position + q.count - 1) / PIECE + 1 - first_piece(q); }

  void attend_all(const Queries& q) const {
    float best[2 * MAX_TILE_ROWS], total[2 * MAX_TILE_ROWS];
    alignas(64) float value[2 * MAX_TILE_ROWS * MAX_HEAD_DIM];
    const int64_t num_rows = q.count * group;
    const State state{best, total, value};
    const State piece{best + num_rows, total + num_rows, value + num_rows * dim_padded};
    begin(num_rows, state);
    for (int64_t p = 0; p < num_pieces(q); ++p) {
      attend_piece(q, first_piece(q) + p, piece);
      merge(num_rows, state, piece);
    }
    finish(q, state);
  }

  // The same with each piece as a task, for few queries over long contexts.
  void attend_in_pieces(const Queries* all, int64_t num_queries) const {
    int64_t most = 0;
    for (int64_t i = 0; i < num_queries; ++i) most = most > num_pieces(all[i]) ? most : num_pieces(all[i]);
    const int64_t state_size = MAX_TILE_ROWS * (2 + dim_padded);
    float* memory = static_cast<float*>(scratch(context, PIECES, num_queries * (most + 1) * state_size * 4));
    const auto state_at = [=](int64_t i) {
      float* start = memory + i * state_size;
      return State{start, start + MAX_TILE_ROWS, start + 2 * MAX_TILE_ROWS};
    };
    parallel(context, num_queries * most, [&](int64_t task) {
      const int64_t i = task / most, p = task % most;
      if (p < num_pieces(all[i])) attend_piece(all[i], first_piece(all[i]) + p, state_at(i * (most + 1) + p));
    });
    for (int64_t i = 0; i < num_queries; ++i) {
      const int64_t num_rows = all[i].count * group;
      const State state = state_at(i * (most + 1) + most);
      begin(num_rows, state);
      for (int64_t p = 0; p < num_pieces(all[i]); ++p) merge(num_rows, state, state_at(i * (most + 1) + p));
      finish(all[i], state);
    }
  }

  void run() const {
    const int64_t most_queries = MAX_TILE_ROWS / group;
    int64_t num_queries = 0;
    for (int64_t r = 0; r < rows.num_rows; ++r)
      num_queries += (rows.num_new[r] + most_queries - 1) / most_queries * num_kv_heads;
    Queries* all = static_cast<Queries*>(scratch(context, TASKS, num_queries * sizeof(Queries)));
    Queries* next = all;
    int64_t first_token = 0, total_pieces = 0;
    for (int64_t r = 0; r < rows.num_rows; first_token += rows.num_new[r], ++r) {
      for (int64_t i = 0; i < rows.num_new[r]; i += most_queries) {
        const int64_t count = rows.num_new[r] - i < most_queries ? rows.num_new[r] - i : most_queries;
        for (int64_t head = 0; head < num_kv_heads; ++head, ++next) {
          *next = {r, head, first_token + i, rows.num_computed[r] + i, count};
          total_pieces += num_pieces(*next);
        }
      }
    }
    const bool is_few = num_queries < 4 * num_threads(context);
    if (is_few && num_threads(context) > 1 && total_pieces > num_queries) return attend_in_pieces(all, num_queries);
    parallel(context, num_queries, [&](int64_t i) { attend_all(all[i]); });
  }
};

void turn(const float* x, const float* cosines, const float* sines, int64_t dim, float factor, float* to) {
  if (cosines == nullptr) {
    for (int64_t d = 0; d < dim; ++d) to[d] = x[d] * factor;
    return;
  }
  const int64_t half = dim / 2;
  for (int64_t d = 0; d < half; ++d) to[d] = (x[d] * cosines[d] + x[d + half] * sines[d]) * factor;
  for (int64_t d = half; d < dim; ++d) to[d] = (x[d] * cosines[d] + x[d - half] * sines[d]) * factor;
}

// Turns a token's heads (cos and sin with the signs of model/layers/rope.py), keeps its keys and values, leaves its
// scaled queries in `queries`.
template <class Cached>
void take_in(const Heads& heads, const Projections& p, int64_t token, Cached* keys, Cached* values, float* queries) {
  const int64_t dim = heads.head_dim, dim_padded = rounded_up(dim);
  const float* cosines = p.cosines ? p.cosines + token * dim : nullptr;
  const float* sines = p.sines + (p.cosines ? token * dim : 0);
  const float scale = 1.0f / std::sqrt(float(dim));
  for (int64_t h = 0; h < heads.num_heads; ++h) {
    const float* from = p.queries + token * p.query_stride + h * dim;
    turn(from, cosines, sines, dim, scale, queries + (token * heads.num_heads + h) * dim);
  }
  const int64_t tile = p.write[token] / TILE, lane = p.write[token] % TILE;
  float floats[MAX_HEAD_DIM] = {};
  Cached cached[MAX_HEAD_DIM];
  const auto round_to = [&](Cached* to) {
    for (int64_t d = 0; d < dim_padded; d += LANES) store(to + d, load(floats + d));
  };
  for (int64_t h = 0; h < heads.num_kv_heads; ++h) {
    Cached* key = keys + (tile * heads.num_kv_heads + h) * dim * TILE + lane;
    turn(p.keys + token * p.key_stride + h * dim, cosines, sines, dim, 1.0f, floats);
    round_to(cached);
    for (int64_t d = 0; d < dim; ++d) key[d * TILE] = cached[d];
    std::memcpy(floats, p.values + token * p.value_stride + h * dim, dim * sizeof(float));
    round_to(values + ((tile * heads.num_kv_heads + h) * TILE + lane) * dim_padded);
  }
}

template <class Cached>
void attention(Context* context, const Heads& heads, const Rows& rows, const Projections& p, char* cache, float* out) {
  constexpr int64_t TOKENS = 16;  // of one task
  const int64_t dim = heads.head_dim;
  Cached* keys = reinterpret_cast<Cached*>(cache + heads.keys);
  Cached* values = reinterpret_cast<Cached*>(cache + heads.values);
  float* queries = static_cast<float*>(scratch(context, QUERIES, rows.num_tokens * heads.num_heads * dim * 4));
  parallel(context, (rows.num_tokens + TOKENS - 1) / TOKENS, [&](int64_t task) {
    const int64_t end = (task + 1) * TOKENS < rows.num_tokens ? (task + 1) * TOKENS : rows.num_tokens;
    for (int64_t token = task * TOKENS; token < end; ++token) take_in(heads, p, token, keys, values, queries);
  });
  const Attention<Cached> a{
      context, heads, rows,           keys, values, queries,
      out,     dim,   rounded_up(dim), heads.num_heads / heads.num_kv_heads, heads.num_kv_heads};
  a.run();
}

}  // namespace

void OF_LEVEL(attention, LEVEL)(Context* context, const Heads* heads, const Rows* rows, const Projections* p,
                                char* cache, float* out) {
  if (heads->format == FLOAT32) attention<float>(context, *heads, *rows, *p, cache, out);
  if (heads->format == BFLOAT16) attention<bfloat16>(context, *heads, *rows, *p, cache, out);
}
