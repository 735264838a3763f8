// What a model asks of a device. csrc/model says the order of layers over these operations, and knows no
// thread, no instruction set and no pointer that it could read.
//
// An operation is a whole step over all rows, so that a device is free to share the work as it likes and to
// fuse what stands in it. At this grain a virtual call costs nothing that could be measured.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <variant>

#include "kernels/matmul/weight_matrix.h"
#include "kernels/pixel_values/pixel_values.h"
#include "kv_cache/ledger.h"
#include "ops/cache_type.h"
#include "ops/norm_kind.h"
#include "ops/pixel_shuffle_shape.h"
#include "runtime/turn_lock.h"

namespace internvl {

// A weight of a linear layer on a device, [rows, columns] = [out, in].
struct Matrix {
  std::uint32_t id;
  DataType type;
  std::size_t rows;
  std::size_t columns;
};

// Values in fp32 on a device: the weight of a norm, a bias, factors.
struct Vector {
  static constexpr std::uint32_t none = ~std::uint32_t{0};

  std::uint32_t id = none;

  explicit operator bool() const { return id != none; }
};

// Rows of activations on a device. They live as long as the operations that made them.
struct Buffer {
  std::uint32_t id;
  std::size_t rows;
  std::size_t columns;
  std::uint32_t form = 0;  // in which the device keeps the values
};

struct RowRange {
  std::size_t first;
  std::size_t count;
};

struct Norm {
  NormKind kind;
  Vector weight;
  Vector bias;  // none in an RMSNorm
  float eps;
};

struct Linear {
  Matrix weight;
  Vector bias;
};

// What becomes of the result of a linear layer, in this order.
struct LinearEnd {
  bool gelu = false;        // x * Phi(x), exactly
  Vector layer_scale{};     // factors [out]
  bool accumulate = false;  // add to what stands in the rows that are written
};

// Tokens that stand one after the other in one sequence, and their rows in the buffers of a step.
struct Run {
  std::span<const BlockId> blocks;  // of the sequence
  std::size_t position;             // of the first token
  std::size_t count;
  std::size_t row;  // of the first token
};

// Keys and values of the sequences of one language model.
struct CacheShape {
  CacheType type;
  std::size_t layers;
  std::size_t heads;  // of the queries
  std::size_t kv_heads;
  std::size_t head_dim;
  std::size_t blocks;
};

// Attention of a vision tower: every token of a tile sees all tokens of that tile.
struct TowerShape {
  std::size_t tokens;  // of a tile
  std::size_t heads;
  std::size_t head_dim;
};

// Attention pooling: one query for each tile sees the tile's patches, which are all its tokens but the first.
struct PoolingShape {
  std::size_t tokens;  // of a tile
  std::size_t heads;
  std::size_t head_dim;
};

// A router chooses, for every token, so many of so many MLPs.
struct MixtureShape {
  std::size_t hidden;
  std::size_t inner;  // of each expert
  std::size_t experts;
  std::size_t chosen;
  bool normalise;  // the weights of the chosen ones are made to sum to one
};

struct Mixture {
  Matrix router;   // [experts, hidden], fp32: rounding might send a token to another expert
  Matrix gate_up;  // [experts * 2 * inner, hidden]
  Matrix down;     // [experts * hidden, inner]
};

struct PatchEmbedding {
  Linear patches;  // [hidden, 3 * patch * patch]
  Vector class_embedding;
  Vector positions;  // [1 + patches, hidden]
  std::size_t image_size;
  std::size_t patch_size;
  Normalisation normalisation;
};

// Tiles in the host's memory: their pixels, RGB of 8 bits [tiles, size, size, 3]; or [tiles, 3, size, size]
// where somebody else has normalised them.
using TilePixels = std::variant<std::span<const std::uint8_t>, std::span<const float>>;

// What one set of operations computes at most.
struct Workload {
  std::size_t rows;
  // Of the rows that operations make on their way from a norm or a gate to a matrix.
  std::size_t made_elements;
  // Their {} let the members be left out of an initialiser, in the eyes of GCC.
  // NOLINTBEGIN(readability-redundant-member-init)
  std::optional<TowerShape> tower{};
  std::optional<MixtureShape> mixture{};
  std::optional<PoolingShape> pooling{};
  // NOLINTEND(readability-redundant-member-init)
  // Of the rows that one matrix reads, at most, where the longest rows are few. 0: `rows` of the longest.
  std::size_t read_elements = 0;
};

// Operations over the weights and the cache of one model, with activations of their own: several sets of
// operations of one model can be in the middle of something. One set serves one thread at a time.
//
// A row of a result depends on its own row (and, in attention, on its own sequence or tile) and on weights
// alone, bit for bit: not on the other rows, on how many there are, or on the number of threads.
class Operations {
 public:
  Operations() = default;
  virtual ~Operations() = default;
  Operations(const Operations&) = delete;
  Operations& operator=(const Operations&) = delete;
  Operations(Operations&&) = delete;
  Operations& operator=(Operations&&) = delete;

  // Memory for activations, not initialised. Throws DeviceError if there is none.
  virtual Buffer buffer(std::size_t rows, std::size_t columns) = 0;
  // The memory of `buffer` as rows of another width, at most as many elements.
  virtual Buffer view(const Buffer& buffer, std::size_t rows, std::size_t columns) = 0;
  // A view of rows that `reader` alone multiplies: linear() reads them, and linear(), norm_linear(),
  // shuffle_norm_linear(), attend() or attend_tiles() writes them. The device may keep them in the form that
  // it multiplies, as it would bring them into it otherwise: results are the same bits as with view().
  virtual Buffer operand(const Buffer& buffer, std::size_t rows, std::size_t columns,
                         const Matrix& reader) = 0;

  // Rows `first` and following of y become `values` [n, y.columns].
  virtual void write(std::span<const float> values, const Buffer& y, std::size_t first) = 0;
  // Rows of x into the host's memory [rows.count, x.columns].
  virtual void read(const Buffer& x, RowRange rows, std::span<float> values) const = 0;

  // y[rows] = end(linear(norm(x[rows])))
  virtual void norm_linear(const Buffer& x, RowRange rows, const Norm& norm, const Linear& linear,
                           const LinearEnd& end, const Buffer& y) = 0;
  // y[rows] = end(linear(x[rows]))
  virtual void linear(const Buffer& x, RowRange rows, const Linear& linear, const LinearEnd& end,
                      const Buffer& y) = 0;
  // The same into the host's memory [rows, linear.weight.rows].
  virtual void linear(const Buffer& x, RowRange rows, const Linear& linear, const LinearEnd& end,
                      std::span<float> y) = 0;

  // y[rows] = norm(x[rows]), or added to what stands there; y may be x.
  virtual void norm(const Buffer& x, RowRange rows, const Norm& norm, bool accumulate, const Buffer& y) = 0;

  // ---- the language model

  // Rows `first` and following of y become those rows of a table that `tokens` name.
  virtual void embed(const Matrix& table, std::span<const std::int64_t> tokens, const Buffer& y,
                     std::size_t first) = 0;
  // Begins a step: what rotate_and_append() and attend() compute until the next one. Angles [rows, head_dim /
  // 2] are those of the runs' tokens, row by row.
  virtual void begin_step(std::span<const Run> runs, std::span<const float> cosines,
                          std::span<const float> sines) = 0;
  // qkv [rows, (heads + 2 kv_heads) * head_dim]: norms queries and keys head by head where there are weights,
  // rotates them, and appends keys and values to their sequences.
  virtual void rotate_and_append(const Buffer& qkv, std::size_t layer, const Norm& q_norm,
                                 const Norm& k_norm) = 0;
  // Causal attention of the step's rows from `first` on: out [rows, heads * head_dim].
  virtual void attend(const Buffer& qkv, std::size_t layer, std::size_t first, const Buffer& out) = 0;
  // stream[rows] += down(silu(gate) * up) of gate_up(norm(stream[rows])); `inner` is memory for
  // [rows, 2 * inner].
  virtual void gated_mlp(const Buffer& stream, RowRange rows, const Norm& norm, const Matrix& gate_up,
                         const Matrix& down, const Buffer& inner) = 0;
  // The same by the experts that a router chooses for each row. Their results are added in the order of their
  // numbers.
  virtual void mixture(const Buffer& stream, RowRange rows, const Norm& norm, const Mixture& mixture) = 0;
  // The logits after rows of the stream, in the host's memory [rows, head.rows].
  virtual void logits(const Buffer& stream, RowRange rows, const Norm& norm, const Matrix& head,
                      std::span<float> logits) = 0;

  // ---- the vision side

  // Tiles to stream [tiles * (1 + patches), hidden]; `patches` is memory for [tiles * patches, 3 * patch *
  // patch].
  virtual void embed_patches(const TilePixels& pixels, std::size_t tiles, const PatchEmbedding& embedding,
                             const Buffer& patches, const Buffer& stream) = 0;
  // qkv [rows, 3 * hidden]: RMSNorm over all channels of the queries and of the keys, before they are heads.
  virtual void norm_queries_and_keys(const Buffer& qkv, RowRange rows, const Norm& q_norm,
                                     const Norm& k_norm) = 0;
  // qkv [tiles * tokens, 3 * heads * head_dim] to out [tiles * tokens, heads * head_dim]. `weights` is the
  // type of the matrices around: attention rounds no closer than they do.
  virtual void attend_tiles(const Buffer& qkv, std::size_t tiles, DataType weights, const Buffer& out) = 0;
  // Attention pooling, in fp32: queries [tiles, heads * head_dim] over the patches of keys_values [tiles *
  // tokens, 2 * heads * head_dim] to out [tiles, heads * head_dim].
  virtual void pool_tiles(const Buffer& queries, const Buffer& keys_values, std::size_t tiles,
                          const Buffer& out) = 0;
  // y = end(linear(norm(pixel_shuffle(x)))), a row for each image token.
  virtual void shuffle_norm_linear(const Buffer& x, const PixelShuffleShape& shape,
                                   PixelShuffleVersion version, const Norm& norm, const Linear& linear,
                                   const LinearEnd& end, const Buffer& y) = 0;
};

// What a row of activations needs beside buffers.
struct RowNeeds {
  std::size_t made_columns = 0;      // of a row that an operation makes: Workload.made_elements / rows
  std::size_t read_columns = 0;      // Workload.read_elements / rows, rounded up
  bool floats = false;               // some matrices are fp32 or fp16
  std::size_t bfloat16_columns = 0;  // of the widest bf16 matrix
  std::size_t integer_columns = 0;   // of the widest int8 or int4 matrix
};

// What a model keeps on a device: its weights, and the keys and values of its sequences.
class DeviceModel {
 public:
  DeviceModel() = default;
  virtual ~DeviceModel() = default;
  DeviceModel(const DeviceModel&) = delete;
  DeviceModel& operator=(const DeviceModel&) = delete;
  DeviceModel(DeviceModel&&) = delete;
  DeviceModel& operator=(DeviceModel&&) = delete;

  // Brings a weight to the device. The host's memory has to stay: a device may compute from it in place.
  // Throws BundleError if the device cannot multiply such a matrix.
  virtual Matrix load(const WeightMatrix& weight) = 0;
  virtual Vector load(std::span<const float> values) = 0;
  // Takes the memory for keys and values. Throws BundleError if the device has no attention for heads of that
  // size, DeviceError if there is no memory.
  virtual void allocate_cache(const CacheShape& shape) = 0;
  // Operations, once everything is loaded. Throws DeviceError if there is no memory for such a workload,
  // BundleError if the device cannot compute it. They may not outlive the model.
  virtual std::unique_ptr<Operations> operations(const Workload& workload) = 0;

  // Rows of a table into the host's memory [tokens, columns]. May be called by several threads, beside
  // everything else, as the next.
  virtual void embed(const Matrix& table, std::span<const std::int64_t> tokens,
                     std::span<float> rows) const = 0;
  // Copies whole blocks of the cache, in order.
  virtual void copy_blocks(std::span<const BlockCopy> copies) = 0;
};

// A place where models compute; several models may share it.
class Device {
 public:
  Device() = default;
  virtual ~Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  Device(Device&&) = delete;
  Device& operator=(Device&&) = delete;

  virtual std::unique_ptr<DeviceModel> model() const = 0;
  // Whoever holds this has the whole device for a stretch of many operations, such as a layer or a decoded
  // token. Without it two callers would alternate operation by operation, and each would take as long as
  // both. Hold it for milliseconds, and let go between two layers.
  virtual TurnLock& stretch() const = 0;
  // Throws DeviceError where the device cannot be used, as in a process that was forked from the one that
  // opened it.
  virtual void check() const = 0;
  // Tokens of a block of the cache.
  virtual std::size_t block_tokens() const = 0;
  // Bytes that operations set aside for each row of their Workload.
  virtual std::size_t row_bytes(const RowNeeds& needs) const = 0;
};

}  // namespace internvl
