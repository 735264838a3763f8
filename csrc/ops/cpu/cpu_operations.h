#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "ops/cpu/attention_output.h"
#include "ops/cpu/attention_pooling.h"
#include "ops/cpu/cpu_model.h"
#include "ops/cpu/experts.h"
#include "ops/cpu/matmul.h"
#include "ops/cpu/paged_attention.h"
#include "ops/cpu/tower_attention.h"
#include "ops/ops.h"
#include "runtime/aligned_array.h"
#include "runtime/features.h"
#include "runtime/thread_team.h"

namespace internvl {

class CpuOperations : public Operations {
 public:
  // `model` has to stay.
  CpuOperations(CpuModel& model, const Workload& workload);

  Buffer buffer(std::size_t rows, std::size_t columns) override;
  Buffer view(const Buffer& buffer, std::size_t rows, std::size_t columns) override;
  Buffer operand(const Buffer& buffer, std::size_t rows, std::size_t columns, const Matrix& reader) override;

  void write(std::span<const float> values, const Buffer& y, std::size_t first) override;
  void read(const Buffer& x, RowRange rows, std::span<float> values) const override;
  void norm_linear(const Buffer& x, RowRange rows, const Norm& norm, const Linear& linear,
                   const LinearEnd& end, const Buffer& y) override;
  void linear(const Buffer& x, RowRange rows, const Linear& linear, const LinearEnd& end,
              const Buffer& y) override;
  void linear(const Buffer& x, RowRange rows, const Linear& linear, const LinearEnd& end,
              std::span<float> y) override;
  void norm(const Buffer& x, RowRange rows, const Norm& norm, bool accumulate, const Buffer& y) override;

  void embed(const Matrix& table, std::span<const std::int64_t> tokens, const Buffer& y,
             std::size_t first) override;
  void begin_step(std::span<const Run> runs, std::span<const float> cosines,
                  std::span<const float> sines) override;
  void rotate_and_append(const Buffer& qkv, std::size_t layer, const Norm& q_norm,
                         const Norm& k_norm) override;
  void attend(const Buffer& qkv, std::size_t layer, std::size_t first, const Buffer& out) override;
  void gated_mlp(const Buffer& stream, RowRange rows, const Norm& norm, const Matrix& gate_up,
                 const Matrix& down, const Buffer& inner) override;
  void mixture(const Buffer& stream, RowRange rows, const Norm& norm, const Mixture& mixture) override;
  void logits(const Buffer& stream, RowRange rows, const Norm& norm, const Matrix& head,
              std::span<float> logits) override;

  void embed_patches(const TilePixels& pixels, std::size_t tiles, const PatchEmbedding& embedding,
                     const Buffer& patches, const Buffer& stream) override;
  void norm_queries_and_keys(const Buffer& qkv, RowRange rows, const Norm& q_norm,
                             const Norm& k_norm) override;
  void attend_tiles(const Buffer& qkv, std::size_t tiles, DataType weights, const Buffer& out) override;
  void pool_tiles(const Buffer& queries, const Buffer& keys_values, std::size_t tiles,
                  const Buffer& out) override;
  void shuffle_norm_linear(const Buffer& x, const PixelShuffleShape& shape, PixelShuffleVersion version,
                           const Norm& norm, const Linear& linear, const LinearEnd& end,
                           const Buffer& y) override;

 private:
  // Buffer::form: fp32 side by side, or bf16 at a distance of rounded_stride(), filled up with zeros.
  static constexpr std::uint32_t float32_form = 0;
  static constexpr std::uint32_t rounded_form = 1;

  float* row(const Buffer& buffer, std::size_t row) const {
    return buffers_[buffer.id].data() + row * buffer.columns;
  }
  BFloat16* rounded_row(const Buffer& buffer, std::size_t row) const {
    return reinterpret_cast<BFloat16*>(buffers_[buffer.id].data()) + row * rounded_stride(buffer.columns);
  }
  // A job whose result goes into rows of a buffer, whatever their form.
  LinearRows job_into(const Buffer& y, RowRange rows, const Linear& linear, const LinearEnd& end) const;
  // The same for attention.
  AttentionOutput output(const Buffer& y, RowRange rows) const;
  // Ends rows of rounded_form in zeros.
  void fill_up(const Buffer& y, RowRange rows) const;
  const WeightMatrix& weight(const Matrix& matrix) const { return model_.weight(matrix); }
  const float* values(const Vector& vector) const { return model_.values(vector); }
  // out [n] = norm(x [n]); `out` may be `x`.
  void normalise(const Norm& norm, const float* x, std::size_t n, float* out) const;
  // y = end(linear(norm(x))) for rows side by side.
  void multiply_normed(const float* x, const Norm& norm, const Linear& linear, const LinearEnd& end,
                       const LinearRows& job);
  void multiply(const Buffer& x, RowRange rows, const Linear& linear, const LinearEnd& end, LinearRows job);
  Epilogue epilogue_of(const LinearEnd& end) const { return {end.gelu, values(end.layer_scale)}; }

  CpuModel& model_;
  ThreadTeam& team_;
  Features features_;
  std::vector<AlignedArray<float>> buffers_;  // not touched before they are used: a model that sees no
                                              // pictures does not pay for those of the tower
  Matmul matmul_;
  std::unique_ptr<PagedAttention> attention_;  // of a model with a cache
  std::unique_ptr<TowerAttention> tower_;
  std::unique_ptr<AttentionPooling> pooling_;
  std::unique_ptr<ExpertMixture> mixture_;
};

}  // namespace internvl
