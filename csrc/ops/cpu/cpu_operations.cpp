#include "ops/cpu/cpu_operations.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <string>

#include "kernels/norm/norm.h"
#include "ops/cpu/patchify.h"
#include "ops/cpu/pixel_shuffle.h"
#include "runtime/error.h"

namespace internvl {
CpuOperations::CpuOperations(CpuModel& model, const Workload& workload)
    : model_(model),
      team_(model.team()),
      features_(model.features()),
      matmul_(team_, features_, workload, model.needs()) {
  if (KvStorage* storage = model.storage()) {
    attention_ = std::make_unique<PagedAttention>(model.cache_shape(), *storage, team_, features_);
  }
  if (workload.tower) tower_ = std::make_unique<TowerAttention>(*workload.tower, team_, features_);
  if (workload.pooling) pooling_ = std::make_unique<AttentionPooling>(*workload.pooling, team_, features_);
  if (workload.mixture) mixture_ = std::make_unique<ExpertMixture>(*workload.mixture, workload.rows);
}

Buffer CpuOperations::buffer(std::size_t rows, std::size_t columns) {
  try {
    buffers_.emplace_back(rows * columns);
  } catch (const std::bad_alloc&) {
    throw DeviceError("there is no memory for " + std::to_string(rows * columns * sizeof(float) >> 20U) +
                      " MB of activations. Free memory, or use a smaller model.");
  }
  return {static_cast<std::uint32_t>(buffers_.size() - 1), rows, columns};
}

Buffer CpuOperations::view(const Buffer& buffer, std::size_t rows, std::size_t columns) {
  return {buffer.id, rows, columns};
}

Buffer CpuOperations::operand(const Buffer& buffer, std::size_t rows, std::size_t columns,
                              const Matrix& reader) {
  const std::size_t bytes = buffers_[buffer.id].size() * sizeof(float);
  // Short rows are longer when they are filled up.
  const bool rounded = matmul_.rounds(weight(reader)) &&
                       rounded_row_memory(rows) * rounded_stride(columns) * sizeof(BFloat16) <= bytes;
  return {buffer.id, rows, columns, rounded ? rounded_form : float32_form};
}

void CpuOperations::write(std::span<const float> values, const Buffer& y, std::size_t first) {
  std::copy(values.begin(), values.end(), row(y, first));
}

void CpuOperations::read(const Buffer& x, RowRange rows, std::span<float> values) const {
  std::copy_n(row(x, rows.first), rows.count * x.columns, values.data());
}

LinearRows CpuOperations::job_into(const Buffer& y, RowRange rows, const Linear& linear,
                                   const LinearEnd& end) const {
  LinearRows job{nullptr, 0, rows.count, values(linear.bias), end.accumulate, nullptr, y.columns};
  if (y.form == float32_form) {
    job.y = row(y, rows.first);
    return job;
  }
  job.rounded_y = rounded_row(y, rows.first);
  job.y_stride = rounded_stride(y.columns);
  fill_up(y, rows);
  return job;
}

void CpuOperations::fill_up(const Buffer& y, RowRange rows) const {
  const std::size_t missing = rounded_row_elements(y.columns) - y.columns;
  if (missing == 0) return;
  for (std::size_t r = rows.first; r < rows.first + rows.count; ++r) {
    std::fill_n(rounded_row(y, r) + y.columns, missing, BFloat16{0});
  }
}

AttentionOutput CpuOperations::output(const Buffer& y, RowRange rows) const {
  if (y.form == float32_form) return {row(y, 0), nullptr, y.columns};
  fill_up(y, rows);
  return {nullptr, rounded_row(y, 0), rounded_stride(y.columns)};
}

void CpuOperations::normalise(const Norm& norm, const float* x, std::size_t n, float* out) const {
  const NormKernels& kernels = norm_kernels(features_);
  if (norm.kind == NormKind::layer_norm) {
    kernels.layer_norm(x, values(norm.weight), values(norm.bias), n, norm.eps, out);
  } else {
    kernels.rms_norm(x, values(norm.weight), n, norm.eps, out);
  }
}

void CpuOperations::multiply_normed(const float* x, const Norm& norm, const Linear& linear,
                                    const LinearEnd& end, const LinearRows& job) {
  const WeightMatrix& w = weight(linear.weight);
  const auto normed = [&](std::size_t row, float* out) {
    normalise(norm, x + row * w.columns, w.columns, out);
  };
  matmul_.multiply_made(normed, job, w, epilogue_of(end));
}

void CpuOperations::norm_linear(const Buffer& x, RowRange rows, const Norm& norm, const Linear& linear,
                                const LinearEnd& end, const Buffer& y) {
  multiply_normed(row(x, rows.first), norm, linear, end, job_into(y, rows, linear, end));
}

void CpuOperations::multiply(const Buffer& x, RowRange rows, const Linear& linear, const LinearEnd& end,
                             LinearRows job) {
  const WeightMatrix& w = weight(linear.weight);
  if (x.form == rounded_form) {
    matmul_.multiply_rounded(rounded_row(x, rows.first), job, w, epilogue_of(end));
    return;
  }
  job.x = row(x, rows.first);
  job.x_stride = x.columns;
  matmul_.multiply(job, w, epilogue_of(end));
}

void CpuOperations::linear(const Buffer& x, RowRange rows, const Linear& linear, const LinearEnd& end,
                           const Buffer& y) {
  multiply(x, rows, linear, end, job_into(y, rows, linear, end));
}

void CpuOperations::linear(const Buffer& x, RowRange rows, const Linear& linear, const LinearEnd& end,
                           std::span<float> y) {
  multiply(x, rows, linear, end,
           {nullptr, 0, rows.count, values(linear.bias), end.accumulate, y.data(), linear.weight.rows});
}

void CpuOperations::norm(const Buffer& x, RowRange rows, const Norm& norm, bool accumulate, const Buffer& y) {
  const std::size_t n = x.columns;
  team_.for_each_range(rows.count, row_grain, [&](std::size_t begin, std::size_t end) {
    std::vector<float> normed(accumulate ? n : 0);
    for (std::size_t i = rows.first + begin; i < rows.first + end; ++i) {
      float* const out = row(y, i);
      normalise(norm, row(x, i), n, accumulate ? normed.data() : out);
      for (std::size_t k = 0; k < normed.size(); ++k) out[k] += normed[k];
    }
  });
}

void CpuOperations::embed(const Matrix& table, std::span<const std::int64_t> tokens, const Buffer& y,
                          std::size_t first) {
  model_.embed(table, tokens, {row(y, first), tokens.size() * y.columns});
}

void CpuOperations::begin_step(std::span<const Run> runs, std::span<const float> cosines,
                               std::span<const float> sines) {
  attention_->begin_step(runs, cosines, sines);
}

void CpuOperations::rotate_and_append(const Buffer& qkv, std::size_t layer, const Norm& q_norm,
                                      const Norm& k_norm) {
  attention_->rotate_and_append(row(qkv, 0), layer, values(q_norm.weight), values(k_norm.weight), q_norm.eps);
}

void CpuOperations::attend(const Buffer& qkv, std::size_t layer, std::size_t first, const Buffer& out) {
  attention_->attend(row(qkv, 0), layer, first, output(out, {first, out.rows - first}));
}

void CpuOperations::gated_mlp(const Buffer& stream, RowRange rows, const Norm& norm, const Matrix& gate_up,
                              const Matrix& down, const Buffer& inner) {
  const float* const x = row(stream, rows.first);
  const auto normed = [&](std::size_t i, float* out) {
    normalise(norm, x + i * stream.columns, stream.columns, out);
  };
  matmul_.multiply_gated(normed, weight(gate_up), weight(down), {row(inner, 0), rows.count * inner.columns},
                         {nullptr, 0, rows.count, nullptr, true, row(stream, rows.first), stream.columns});
}

void CpuOperations::mixture(const Buffer& stream, RowRange rows, const Norm& norm, const Mixture& mixture) {
  float* x = row(stream, rows.first);
  float* normed = mixture_->rows();
  team_.for_each_range(rows.count, row_grain, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
      normalise(norm, x + i * stream.columns, stream.columns, normed + i * stream.columns);
    }
  });
  mixture_->add({weight(mixture.router), weight(mixture.gate_up), weight(mixture.down)}, rows.count, matmul_,
                team_, x);
}

void CpuOperations::logits(const Buffer& stream, RowRange rows, const Norm& norm, const Matrix& head,
                           std::span<float> logits) {
  multiply_normed(row(stream, rows.first), norm, {head, {}}, {},
                  {nullptr, 0, rows.count, nullptr, false, logits.data(), head.rows});
}

void CpuOperations::embed_patches(const TilePixels& pixels, std::size_t tiles,
                                  const PatchEmbedding& embedding, const Buffer& patches,
                                  const Buffer& stream) {
  const std::size_t hidden = stream.columns;
  const std::size_t grid = embedding.image_size / embedding.patch_size;
  const std::size_t tokens = 1 + grid * grid;
  const float* positions = values(embedding.positions);
  const float* class_embedding = values(embedding.class_embedding);
  team_.for_each_range(tiles * grid, 1, [&](std::size_t begin, std::size_t) {
    const std::size_t tile = begin / grid;
    const std::size_t grid_row = begin % grid;
    patchify(pixels, begin, embedding, features_, row(patches, begin * grid));
    // The positions stand there already when the patches are added to them.
    float* out = row(stream, tile * tokens);
    const std::size_t first = (1 + grid_row * grid) * hidden;
    std::copy_n(positions + first, grid * hidden, out + first);
    if (grid_row == 0) {
      for (std::size_t i = 0; i < hidden; ++i) out[i] = class_embedding[i] + positions[i];
    }
  });
  const WeightMatrix& w = weight(embedding.patches.weight);
  for (std::size_t tile = 0; tile < tiles; ++tile) {
    matmul_.multiply({row(patches, tile * grid * grid), w.columns, grid * grid,
                      values(embedding.patches.bias), true, row(stream, tile * tokens + 1), hidden},
                     w);
  }
}

void CpuOperations::norm_queries_and_keys(const Buffer& qkv, RowRange rows, const Norm& q_norm,
                                          const Norm& k_norm) {
  const std::size_t n = qkv.columns / 3;
  team_.for_each_range(rows.count, row_grain, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
      float* queries = row(qkv, rows.first + i);
      float* keys = queries + n;
      normalise(q_norm, queries, n, queries);
      normalise(k_norm, keys, n, keys);
    }
  });
}

void CpuOperations::attend_tiles(const Buffer& qkv, std::size_t tiles, DataType weights, const Buffer& out) {
  tower_->attend(row(qkv, 0), tiles, weights, output(out, {0, out.rows}));
}

void CpuOperations::pool_tiles(const Buffer& queries, const Buffer& keys_values, std::size_t tiles,
                               const Buffer& out) {
  pooling_->pool(row(queries, 0), row(keys_values, 0), tiles, row(out, 0));
}

void CpuOperations::shuffle_norm_linear(const Buffer& x, const PixelShuffleShape& shape,
                                        PixelShuffleVersion version, const Norm& norm, const Linear& linear,
                                        const LinearEnd& end, const Buffer& y) {
  const WeightMatrix& w = weight(linear.weight);
  const auto shuffled = [&](std::size_t token, float* out) {
    pixel_shuffle_token(row(x, 0), shape, version, token, out);
    normalise(norm, out, w.columns, out);
  };
  const LinearRows job = job_into(y, {0, shape.tiles * shape.tokens()}, linear, end);
  matmul_.multiply_made(shuffled, job, w, epilogue_of(end));
}

}  // namespace internvl
