#include "kernels/attention/attention.h"
#include "kernels/attention/block_forms.h"
#include "kernels/attention/float_arithmetic.h"
#include "kernels/attention/online_softmax.h"
#include "kernels/vector/with_count.h"
#if defined(INTERNVL_AMX_BF16)
#include "kernels/attention/tile_arithmetic.h"
#elif defined(INTERNVL_AVX512_BF16)
#include "kernels/attention/pair_arithmetic.h"
#endif

namespace internvl::INTERNVL_ISA {
namespace {

// Calls function(first row, Count<rows>) on groups of about equal size, each of at most Most rows.
template <int Most, class Function>
void in_row_groups(std::size_t begin, std::size_t end, Function function) {
  constexpr std::size_t most = Most;
  while (begin < end) {
    const std::size_t groups = (end - begin + most - 1) / most;
    const std::size_t rows = (end - begin + groups - 1) / groups;
    with_count<Most>(rows, [&](auto count) { function(begin, count); });
    begin += rows;
  }
}

// scores[r, key] *= scales[key]
void multiply(float* scores, std::size_t rows, std::size_t keys, const float* scales) {
  for (std::size_t key = 0; key < keys; key += wide_lanes) {
    const WideVector scale = load_wide(scales + key);
    for (std::size_t r = 0; r < rows; ++r) {
      float* const place = scores + r * cache_block + key;
      store(place, load_wide(place) * scale);
    }
  }
}

template <class Arithmetic, class Block>
void attend(const QueryRows& job, const std::byte* const* blocks, std::size_t first_key, std::size_t count,
            const AttentionState& state) {
  using Weight = Arithmetic::Weight;
  constexpr std::size_t element = sizeof(typename Block::Element);
  constexpr std::size_t most_rows = Arithmetic::rows_at_once;
  static_assert(most_rows <= 2 * wide_lanes);
  const std::size_t width = value_width(job.head_dim);
  const float factor = job.scale * log2_e;
  alignas(64) float scores[most_rows * cache_block];
  alignas(64) Weight weights[most_rows * cache_block];
  alignas(64) float totals[attention_rows * wide_lanes];
  for (std::size_t r = 0; r < job.rows; ++r) {
    state.greatest[r] = -infinity;
    store(totals + r * wide_lanes, broadcast_wide(0.0F));
  }
  for (std::size_t i = 0; i < job.rows * width; ++i) state.values[i] = 0.0F;
  Arithmetic arithmetic(job);
  std::size_t begin = 0;  // rows before it see nothing from here on
  for (std::size_t b = 0; b < count; ++b) {
    const std::size_t block_key = first_key + b * cache_block;
    const auto seen_by = [&](std::size_t row) { return smaller(job.visible[row] - block_key, cache_block); };
    while (begin < job.rows && job.visible[begin] <= block_key) ++begin;
    if (begin == job.rows) break;
    const Block block(blocks[b], job.head_dim);
    arithmetic.begin(blocks[b], seen_by(job.rows - 1), job.rows - begin);
    // One pass over the next block's memory, in the order of its addresses, while the first rows pass here.
    const bool ask = b + 1 < count;
    const char* const next = ask ? reinterpret_cast<const char*>(blocks[b + 1]) : nullptr;
    const char* const next_values = ask ? next + job.head_dim * cache_block * element : nullptr;
    in_row_groups<Arithmetic::rows_at_once>(begin, job.rows, [&](std::size_t row, auto rows) {
      constexpr int group = decltype(rows)::value;
      constexpr std::size_t size = group;
      const bool first = row == begin;
      const std::size_t most = seen_by(row + size - 1);
      arithmetic.template score<group>(row, most, scores, first ? next : nullptr);
      if constexpr (Block::scaled) multiply(scores, size, most, block.key_scales());
      float greatest[size];
      float corrections[size];
      for (std::size_t r = 0; r < size; ++r) {
        const float here = greatest_of(scores + r * cache_block, seen_by(row + r), most) * factor;
        greatest[r] = here > state.greatest[row + r] ? here : state.greatest[row + r];
      }
      corrections_of(state.greatest + row, greatest, size, corrections);
      for (std::size_t r = 0; r < size; ++r) {
        state.greatest[row + r] = greatest[r];
        float* const place = totals + (row + r) * wide_lanes;
        WideVector total = load_wide(place) * broadcast_wide(corrections[r]);
        const std::size_t seen = seen_by(row + r);
        weigh<Arithmetic::exponent_degree>(
            scores + r * cache_block, seen, seen == cache_block ? block_vectors : vectors_of(most), factor,
            greatest[r], block.value_scales(), total, weights + r * cache_block);
        store(place, total);
      }
      arithmetic.template add_values<group>(weights, corrections, most, state.values + row * width,
                                            first ? next_values : nullptr);
    });
  }
  for (std::size_t r = 0; r < job.rows; ++r) state.total[r] = reduce_add(load_wide(totals + r * wide_lanes));
}

void merge(std::size_t rows, std::size_t head_dim, const AttentionState& state, const AttentionState& next) {
  const std::size_t width = value_width(head_dim);
  float greatest[attention_rows] = {};
  float before[attention_rows];
  float after[attention_rows];
  for (std::size_t r = 0; r < rows; ++r) {
    greatest[r] = state.greatest[r] > next.greatest[r] ? state.greatest[r] : next.greatest[r];
  }
  corrections_of(state.greatest, greatest, rows, before);
  corrections_of(next.greatest, greatest, rows, after);
  for (std::size_t r = 0; r < rows; ++r) {
    // A row that saw nothing of the next span keeps its bits.
    if (next.greatest[r] == -infinity) continue;
    state.greatest[r] = greatest[r];
    state.total[r] = state.total[r] * before[r] + next.total[r] * after[r];
    float* const into = state.values + r * width;
    const float* const from = next.values + r * width;
    for (std::size_t d = 0; d < width; d += wide_lanes) {
      store(into + d, fma(load_wide(from + d), broadcast_wide(after[r]),
                          load_wide(into + d) * broadcast_wide(before[r])));
    }
  }
}

void finish(std::size_t rows, std::size_t head_dim, const AttentionState& state, float* const* out) {
  const std::size_t width = value_width(head_dim);
  for (std::size_t r = 0; r < rows; ++r) {
    const FloatVector factor = broadcast(1.0F / state.total[r]);
    for (std::size_t d = 0; d < head_dim; d += lanes) {
      store(out[r] + d, load(state.values + r * width + d) * factor);
    }
  }
}

// Of what is stored as pairs.
#if defined(INTERNVL_AMX_BF16)
template <class T>
using OfPairs = TileArithmetic<PairBlock<T>>;
#elif defined(INTERNVL_AVX512_BF16)
template <class T>
using OfPairs = PairArithmetic<PairBlock<T>>;
#else
template <class T>
using OfPairs = FloatArithmetic<PairBlock<T>>;
#endif

template <class T>
constexpr BlockKernels plain{write_plain<T>, attend<FloatArithmetic<PlainBlock<T>>, PlainBlock<T>>};

}  // namespace

const AttentionKernels& attention_kernels() {
  static constexpr AttentionKernels kernels{
      .float32 = plain<float>,
      .float16 = plain<Float16>,
      .bfloat16 = {write_pairs_bfloat16, attend<OfPairs<BFloat16>, PairBlock<BFloat16>>},
      .int8 = {write_pairs_int8, attend<OfPairs<std::int8_t>, PairBlock<std::int8_t>>},
      .merge = merge,
      .finish = finish,
  };
  return kernels;
}

}  // namespace internvl::INTERNVL_ISA
