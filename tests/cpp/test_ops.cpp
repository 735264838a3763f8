// Every operation that models ask of a device, against plain loops in fp64, on every device.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <functional>
#include <numeric>
#include <optional>
#include <span>
#include <vector>

#include "check.h"
#include "devices.h"
#include "image/pixel_values.h"
#include "ops/cpu/linear.h"
#include "random_weights.h"

namespace internvl {
namespace {

using Doubles = std::vector<double>;

Doubles wide(const std::vector<float>& values) { return {values.begin(), values.end()}; }

// Whether numbers computed beside weights of that type are near enough: activations are rounded to int8 or
// bf16 beside some.
bool close(const std::vector<float>& found, const Doubles& wanted, DataType type) {
  double squares = 0;
  double found_squares = 0;
  double product = 0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const double value = found[i];
    squares += wanted[i] * wanted[i];
    found_squares += value * value;
    product += value * wanted[i];
  }
  const double cosine = product / std::sqrt(squares * found_squares);
  if (is_integer(type)) return found.size() == wanted.size() && cosine >= 0.999;
  if (activations_for(type, features()) == Activations::bfloat16) {
    return found.size() == wanted.size() && cosine >= 0.9999;
  }
  const double bound = 1e-4 * std::sqrt(squares / static_cast<double>(wanted.size()));
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    if (!(std::abs(static_cast<double>(found[i]) - wanted[i]) <= bound)) return false;
  }
  return found.size() == wanted.size();
}

Doubles normed(const double* x, std::size_t n, NormKind kind, const float* weight, const float* bias,
               double eps) {
  const double mean =
      kind == NormKind::layer_norm ? std::accumulate(x, x + n, 0.0) / static_cast<double>(n) : 0;
  double squares = 0;
  for (std::size_t i = 0; i < n; ++i) squares += (x[i] - mean) * (x[i] - mean);
  const double inverse = 1 / std::sqrt(squares / static_cast<double>(n) + eps);
  Doubles out(n);
  for (std::size_t i = 0; i < n; ++i) {
    out[i] = (x[i] - mean) * inverse * weight[i] + (bias != nullptr ? bias[i] : 0);
  }
  return out;
}

Doubles times(const test::RandomWeights& w, const double* x) {
  Doubles out(w.matrix.rows);
  for (std::size_t n = 0; n < out.size(); ++n) {
    for (std::size_t k = 0; k < w.matrix.columns; ++k) out[n] += w.exact[n * w.matrix.columns + k] * x[k];
  }
  return out;
}

double gelu(double x) { return x * 0.5 * std::erfc(-x / std::sqrt(2.0)); }

double silu(double x) { return x / (1 + std::exp(-x)); }

std::vector<float> read(const Operations& ops, const Buffer& buffer) {
  std::vector<float> values(buffer.rows * buffer.columns);
  ops.read(buffer, {0, buffer.rows}, values);
  return values;
}

// What `compute` gives on each device: the same bits, of which one copy is returned.
std::vector<float> on_every_device(const std::function<std::vector<float>(const Device&)>& compute) {
  std::optional<std::vector<float>> first;
  for (const test::TestDevice& tested : test::devices()) {
    std::vector<float> found = compute(*tested.device);
    if (!first)
      first = std::move(found);
    else
      CHECK(*first == found);
  }
  return *first;
}

constexpr std::size_t hidden = 96;
constexpr std::size_t outer = 160;

struct EndCase {
  bool gelu, layer_scale, accumulate, bias;
};
constexpr EndCase ends[] = {{false, false, false, false},
                            {false, false, true, true},
                            {true, false, false, true},
                            {false, true, true, true}};

TEST("a linear layer, behind a norm or not, of a range of rows, with every end and every weight type") {
  const std::vector<float> weight = test::random_floats(hidden, 1);
  const std::vector<float> shift = test::random_floats(hidden, 2);
  const std::vector<float> bias = test::random_floats(outer, 3);
  const std::vector<float> scale = test::random_floats(outer, 4);
  for (const DataType type : test::weight_types) {
    const test::RandomWeights w(type, outer, hidden, 5);
    for (const std::optional<NormKind> kind : {std::optional<NormKind>{}, std::optional(NormKind::layer_norm),
                                               std::optional(NormKind::rms_norm)}) {
      for (const EndCase& one : ends) {
        // One row, few, and many: what computes them differs.
        for (const RowRange rows : {RowRange{0, 1}, RowRange{2, 5}, RowRange{1, 70}}) {
          constexpr std::size_t all = 73;
          const std::vector<float> x = test::random_floats(all * hidden, 6);
          const std::vector<float> before = test::random_floats(all * outer, 7);
          const std::vector<float> found = on_every_device([&](const Device& device) {
            const auto model = device.model();
            const Linear linear{model->load(w.matrix), one.bias ? model->load(bias) : Vector{}};
            const LinearEnd end{one.gelu, one.layer_scale ? model->load(scale) : Vector{}, one.accumulate};
            Norm norm{};
            if (kind) {
              norm = {*kind, model->load(weight), {}, 1e-5F};
              if (*kind == NormKind::layer_norm) norm.bias = model->load(shift);
            }
            const auto ops = model->operations({all, all * hidden});
            const Buffer in = ops->buffer(all, hidden);
            const Buffer out = ops->buffer(all, outer);
            ops->write(x, in, 0);
            ops->write(before, out, 0);
            if (kind) {
              ops->norm_linear(in, rows, norm, linear, end, out);
            } else {
              ops->linear(in, rows, linear, end, out);
              // The same into the host's memory.
              std::vector<float> host(before.begin() + static_cast<std::ptrdiff_t>(rows.first * outer),
                                      before.end());
              ops->linear(in, rows, linear, end, host);
              const std::vector<float> there = read(*ops, out);
              CHECK(std::equal(host.begin(), host.begin() + static_cast<std::ptrdiff_t>(rows.count * outer),
                               there.begin() + static_cast<std::ptrdiff_t>(rows.first * outer)));
            }
            return read(*ops, out);
          });
          Doubles wanted = wide(before);
          for (std::size_t r = rows.first; r < rows.first + rows.count; ++r) {
            Doubles row(x.begin() + static_cast<std::ptrdiff_t>(r * hidden),
                        x.begin() + static_cast<std::ptrdiff_t>((r + 1) * hidden));
            if (kind) {
              row = normed(row.data(), hidden, *kind, weight.data(),
                           *kind == NormKind::layer_norm ? shift.data() : nullptr, 1e-5);
            }
            const Doubles y = times(w, row.data());
            for (std::size_t n = 0; n < outer; ++n) {
              double value = y[n] + (one.bias ? bias[n] : 0);
              if (one.gelu) value = gelu(value);
              if (one.layer_scale) value *= scale[n];
              wanted[r * outer + n] = value + (one.accumulate ? before[r * outer + n] : 0);
            }
          }
          CHECK(close(found, wanted, type));
          // Rows outside of the range are left alone.
          for (std::size_t r = 0; r < all; ++r) {
            if (r >= rows.first && r < rows.first + rows.count) continue;
            CHECK(std::equal(&found[r * outer], &found[r * outer] + outer, &before[r * outer]));
          }
        }
      }
    }
  }
}

TEST("a norm of a range of rows, in place or added to what stands there") {
  constexpr std::size_t all = 40;
  const std::vector<float> weight = test::random_floats(hidden, 1);
  const std::vector<float> shift = test::random_floats(hidden, 2);
  const std::vector<float> x = test::random_floats(all * hidden, 3);
  const std::vector<float> before = test::random_floats(all * hidden, 4);
  for (const RowRange rows : {RowRange{0, 1}, RowRange{3, 30}}) {
    for (const bool accumulate : {false, true}) {
      for (const bool in_place : {false, true}) {
        const std::vector<float> found = on_every_device([&](const Device& device) {
          const auto model = device.model();
          const Norm norm{NormKind::layer_norm, model->load(weight), model->load(shift), 1e-5F};
          const auto ops = model->operations({all, 0});
          const Buffer in = ops->buffer(all, hidden);
          const Buffer out = in_place ? in : ops->buffer(all, hidden);
          ops->write(before, out, 0);
          ops->write(x, in, 0);
          ops->norm(in, rows, norm, accumulate, out);
          return read(*ops, out);
        });
        Doubles wanted = wide(in_place ? x : before);
        for (std::size_t r = rows.first; r < rows.first + rows.count; ++r) {
          const Doubles row = wide({x.begin() + static_cast<std::ptrdiff_t>(r * hidden),
                                    x.begin() + static_cast<std::ptrdiff_t>((r + 1) * hidden)});
          const Doubles y =
              normed(row.data(), hidden, NormKind::layer_norm, weight.data(), shift.data(), 1e-5);
          for (std::size_t i = 0; i < hidden; ++i) {
            wanted[r * hidden + i] = y[i] + (accumulate ? wanted[r * hidden + i] : 0);
          }
        }
        CHECK(close(found, wanted, DataType::float32));
      }
    }
  }
}

TEST("few long rows beside many short ones take no more memory than a workload says, and are right") {
  constexpr std::size_t many = 300;
  constexpr std::size_t few = 17;
  constexpr std::size_t length = 2048;
  static_assert(few * length > many * hidden && many * length > 10 * few * length);
  const std::vector<float> long_rows = test::random_floats(few * length, 1);
  const std::vector<float> short_rows = test::random_floats(many * hidden, 2);
  for (const DataType type : test::weight_types) {
    const test::RandomWeights narrow(type, outer, hidden, 3);
    const test::RandomWeights broad(type, outer, length, 4);
    const auto multiplied = [&](const Device& device, std::size_t read_elements) {
      const auto model = device.model();
      const Linear first{model->load(narrow.matrix), {}};
      const Linear second{model->load(broad.matrix), {}};
      const auto ops = model->operations({.rows = many, .made_elements = 0, .read_elements = read_elements});
      const Buffer short_in = ops->buffer(many, hidden);
      const Buffer long_in = ops->buffer(few, length);
      ops->write(short_rows, short_in, 0);
      ops->write(long_rows, long_in, 0);
      std::vector<float> values((many + few) * outer);
      ops->linear(short_in, {0, many}, first, {}, {values.data(), many * outer});
      ops->linear(long_in, {0, few}, second, {}, {&values[many * outer], few * outer});
      return values;
    };
    const std::vector<float> found =
        on_every_device([&](const Device& device) { return multiplied(device, few * length); });
    CHECK(found == multiplied(*test::cpu(2), 0));
    Doubles wanted;
    for (std::size_t r = 0; r < many; ++r) {
      const Doubles row = wide({short_rows.begin() + static_cast<std::ptrdiff_t>(r * hidden),
                                short_rows.begin() + static_cast<std::ptrdiff_t>((r + 1) * hidden)});
      const Doubles y = times(narrow, row.data());
      wanted.insert(wanted.end(), y.begin(), y.end());
    }
    CHECK(close({found.begin(), found.begin() + many * outer}, wanted, type));
    wanted.clear();
    for (std::size_t r = 0; r < few; ++r) {
      const Doubles row = wide({long_rows.begin() + static_cast<std::ptrdiff_t>(r * length),
                                long_rows.begin() + static_cast<std::ptrdiff_t>((r + 1) * length)});
      const Doubles y = times(broad, row.data());
      wanted.insert(wanted.end(), y.begin(), y.end());
    }
    CHECK(close({found.begin() + many * outer, found.end()}, wanted, type));
  }
  const auto row_bytes = [](std::size_t read_columns) {
    return test::cpu(1)->row_bytes({.read_columns = read_columns, .integer_columns = length});
  };
  CHECK(row_bytes(few * length / many) < row_bytes(0) / 5 && row_bytes(length) == row_bytes(0));
}

TEST("a row of a linear layer has the same bits in any company") {
  for (const DataType type : test::weight_types) {
    const test::RandomWeights w(type, outer, hidden, 5);
    const std::vector<float> weight = test::random_floats(hidden, 1);
    constexpr std::size_t all = 73;
    const std::vector<float> x = test::random_floats(all * hidden, 6);
    for (const test::TestDevice& tested : test::devices()) {
      const auto model = tested.device->model();
      const Linear linear{model->load(w.matrix), {}};
      const Norm norm{NormKind::rms_norm, model->load(weight), {}, 1e-6F};
      const auto ops = model->operations({all, all * hidden});
      const Buffer in = ops->buffer(all, hidden);
      const Buffer together = ops->buffer(all, outer);
      const Buffer apart = ops->buffer(all, outer);
      ops->write(x, in, 0);
      ops->norm_linear(in, {0, all}, norm, linear, {}, together);
      for (std::size_t first = 0; first < all;) {
        const std::size_t count = std::min(all - first, 1 + first % 19);
        ops->norm_linear(in, {first, count}, norm, linear, {}, apart);
        first += count;
      }
      CHECK(read(*ops, together) == read(*ops, apart));
    }
  }
}

TEST("rows that one matrix alone multiplies give the same bits in whichever form the device keeps them") {
  // Rows that need filling up, rows that do not, and rows too short to be worth it.
  for (const std::size_t middle : {std::size_t{24}, std::size_t{100}, std::size_t{128}}) {
    constexpr std::size_t all = 73;
    const std::vector<float> weight = test::random_floats(hidden, 1);
    const std::vector<float> bias = test::random_floats(middle, 3);
    const std::vector<float> x = test::random_floats(all * hidden, 6);
    const std::vector<float> waste(all * std::max(middle, outer), std::nanf(""));
    for (const DataType first_type : test::weight_types) {
      for (const DataType type : test::weight_types) {
        if (type == DataType::int4 && middle % int4_block != 0) continue;
        const test::RandomWeights first(first_type, middle, hidden, 5);
        const test::RandomWeights second(type, outer, middle, 7);
        for (const bool whole : {true, false}) {
          on_every_device([&](const Device& device) {
            const auto model = device.model();
            const Norm norm{NormKind::rms_norm, model->load(weight), {}, 1e-6F};
            const Linear before{model->load(first.matrix), model->load(bias)};
            const Linear after{model->load(second.matrix), {}};
            const auto ops = model->operations({all, all * std::max(hidden, middle)});
            const Buffer in = ops->buffer(all, hidden);
            const Buffer memory = ops->buffer(all, middle);
            const Buffer out = ops->buffer(all, outer);
            ops->write(x, in, 0);
            const auto through = [&](const Buffer& rows) {
              // What stood there before does not matter.
              ops->write({waste.data(), all * middle}, memory, 0);
              ops->write({waste.data(), all * outer}, out, 0);
              const RowRange range = whole ? RowRange{0, all} : RowRange{3, 5};
              ops->norm_linear(in, range, norm, before, {.gelu = true}, rows);
              ops->linear(rows, range, after, {}, out);
              std::vector<float> values(range.count * outer);
              ops->read(out, range, values);
              return values;
            };
            std::vector<float> found = through(ops->operand(memory, all, middle, after.weight));
            CHECK(found == through(ops->view(memory, all, middle)));
            return found;
          });
        }
      }
    }
  }
}

TEST("embeddings are the rows of their table, on the device and on the host") {
  for (const DataType type : {DataType::float32, DataType::float16, DataType::bfloat16}) {
    const test::RandomWeights table(type, 50, 1100, 1);  // longer than a panel
    const std::vector<std::int64_t> tokens{49, 0, 7, 7};
    const std::vector<float> found = on_every_device([&](const Device& device) {
      const auto model = device.model();
      const Matrix matrix = model->load(table.matrix);
      const auto ops = model->operations({8, 0});
      const Buffer out = ops->buffer(6, 1100);
      ops->write(std::vector<float>(6 * 1100), out, 0);
      ops->embed(matrix, tokens, out, 2);
      std::vector<float> host(tokens.size() * 1100);
      model->embed(matrix, tokens, host);
      const std::vector<float> values = read(*ops, out);
      CHECK(std::equal(host.begin(), host.end(), values.begin() + 2 * 1100));
      return values;
    });
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      for (std::size_t k = 0; k < 1100; ++k) {
        CHECK(found[(2 + i) * 1100 + k] == table.exact[static_cast<std::size_t>(tokens[i]) * 1100 + k]);
      }
    }
  }
}

TEST("a gated MLP adds down(silu(gate) * up) of the normalised rows, for every weight type") {
  constexpr std::size_t inner = 128;
  const std::vector<float> weight = test::random_floats(hidden, 1);
  for (const DataType type : test::weight_types) {
    const test::RandomWeights gate_up(type, 2 * inner, hidden, 2);
    const test::RandomWeights down(type, hidden, inner, 3);
    for (const RowRange rows : {RowRange{1, 2}, RowRange{0, 40}}) {
      constexpr std::size_t all = 40;
      const std::vector<float> x = test::random_floats(all * hidden, 4, 0.3F);
      const std::vector<float> found = on_every_device([&](const Device& device) {
        const auto model = device.model();
        const Norm norm{NormKind::rms_norm, model->load(weight), {}, 1e-6F};
        const Matrix first = model->load(gate_up.matrix);
        const Matrix second = model->load(down.matrix);
        const auto ops = model->operations({all, all * inner});
        const Buffer stream = ops->buffer(all, hidden);
        ops->write(x, stream, 0);
        ops->gated_mlp(stream, rows, norm, first, second, ops->buffer(all, 2 * inner));
        return read(*ops, stream);
      });
      Doubles wanted = wide(x);
      for (std::size_t r = rows.first; r < rows.first + rows.count; ++r) {
        const Doubles row =
            normed(&wanted[r * hidden], hidden, NormKind::rms_norm, weight.data(), nullptr, 1e-6);
        const Doubles gates = times(gate_up, row.data());
        Doubles gated(inner);
        for (std::size_t i = 0; i < inner; ++i) gated[i] = silu(gates[i]) * gates[inner + i];
        const Doubles y = times(down, gated.data());
        for (std::size_t i = 0; i < hidden; ++i) wanted[r * hidden + i] += y[i];
      }
      CHECK(close(found, wanted, type));
    }
  }
}

struct Experts {
  MixtureShape shape;
  std::vector<float> norm;
  test::RandomWeights router, gate_up, down;

  Experts(DataType type, std::size_t count, std::size_t chosen, bool normalise)
      : shape{64, 32, count, chosen, normalise},
        norm(test::random_floats(64, 9)),
        router(DataType::float32, count, 64, 1),
        gate_up(type, count * 2 * 32, 64, 2),
        down(type, count * 64, 32, 3) {}

  std::vector<float> added(const Device& device, const std::vector<float>& x) const {
    const auto model = device.model();
    const Norm normed{NormKind::rms_norm, model->load(norm), {}, 1e-6F};
    const Mixture mixture{model->load(router.matrix), model->load(gate_up.matrix), model->load(down.matrix)};
    const std::size_t rows = x.size() / shape.hidden;
    const auto ops = model->operations({rows, rows * shape.hidden, {}, shape});
    const Buffer stream = ops->buffer(rows, shape.hidden);
    ops->write(x, stream, 0);
    ops->mixture(stream, {0, rows}, normed, mixture);
    return read(*ops, stream);
  }

  Doubles wanted(const std::vector<float>& x) const {
    const auto [width, inner, count, chosen, normalise] = shape;
    Doubles out = wide(x);
    for (std::size_t r = 0; r < x.size() / width; ++r) {
      const Doubles token = normed_row(&out[r * width]);
      const Doubles logits = times(router, token.data());
      Doubles shares(count);
      for (std::size_t e = 0; e < count; ++e) shares[e] = std::exp(logits[e]);
      Doubles sorted = shares;
      std::sort(sorted.rbegin(), sorted.rend());
      const double all = std::accumulate(shares.begin(), shares.end(), 0.0);
      const double best =
          std::accumulate(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(chosen), 0.0);
      for (std::size_t e = 0; e < count; ++e) {
        if (shares[e] < sorted[chosen - 1]) continue;
        Doubles gated(inner);
        const auto dot = [](const double* w, const Doubles& v) {
          return std::inner_product(v.begin(), v.end(), w, 0.0);
        };
        for (std::size_t i = 0; i < inner; ++i) {
          const double* rows = &gate_up.exact[e * 2 * inner * width];
          gated[i] = silu(dot(rows + i * width, token)) * dot(rows + (inner + i) * width, token);
        }
        for (std::size_t i = 0; i < width; ++i) {
          out[r * width + i] +=
              shares[e] / (normalise ? best : all) * dot(&down.exact[(e * width + i) * inner], gated);
        }
      }
    }
    return out;
  }

  Doubles normed_row(const double* x) const {
    return normed(x, shape.hidden, NormKind::rms_norm, norm.data(), nullptr, 1e-6);
  }
};

TEST("a mixture of experts adds what the chosen experts make, for every weight type") {
  const std::vector<float> x = test::random_floats(21 * 64, 4, 0.3F);
  for (const DataType type : test::weight_types) {
    for (const bool normalise : {false, true}) {
      const Experts experts(type, 7, 3, normalise);
      const std::vector<float> found =
          on_every_device([&](const Device& device) { return experts.added(device, x); });
      CHECK(close(found, experts.wanted(x), type));
      const std::vector<float> alone = experts.added(*test::cpu(2), {x.begin(), x.begin() + 64});
      CHECK(std::equal(alone.begin(), alone.end(), found.begin()));
    }
  }
  for (const std::size_t chosen : {std::size_t{1}, std::size_t{4}}) {
    const Experts experts(DataType::float32, 4, chosen, false);
    CHECK(close(experts.added(*test::cpu(2), x), experts.wanted(x), DataType::float32));
  }
  for (const std::size_t chosen : {std::size_t{0}, std::size_t{5}}) {
    for (const test::TestDevice& tested : test::devices()) {
      const auto model = tested.device->model();
      CHECK_THROWS(BundleError, model->operations({8, 0, {}, MixtureShape{64, 32, 4, chosen, true}}));
    }
  }
}

// A language model's attention of one layer out of two, with the keys and values that it has seen in fp64.
struct AttentionCase {
  static constexpr std::size_t heads = 6;
  static constexpr std::size_t kv_heads = 2;
  static constexpr std::size_t head_dim = 24;
  static constexpr std::size_t columns = (heads + 2 * kv_heads) * head_dim;

  std::vector<float> q_norm = test::random_floats(head_dim, 1);
  std::vector<float> k_norm = test::random_floats(head_dim, 2);

  // The angles of a position, which are the device's business only in that it multiplies by them.
  static double angle(std::size_t position, std::size_t j) {
    return static_cast<double>(position) * std::pow(100.0, -static_cast<double>(j) / 12);
  }
  static void fill(std::size_t position, float* cosines, float* sines) {
    for (std::size_t j = 0; j < head_dim / 2; ++j) {
      cosines[j] = static_cast<float>(std::cos(angle(position, j)));
      sines[j] = static_cast<float>(std::sin(angle(position, j)));
    }
  }

  // Queries, keys and values after norm and rotation.
  Doubles rotated(const float* qkv, std::size_t position, bool norms) const {
    Doubles row(qkv, qkv + columns);
    for (std::size_t h = 0; h < heads + kv_heads; ++h) {
      double* x = &row[h * head_dim];
      if (norms) {
        const Doubles y =
            normed(x, head_dim, NormKind::rms_norm, (h < heads ? q_norm : k_norm).data(), nullptr, 1e-6);
        std::copy(y.begin(), y.end(), x);
      }
      for (std::size_t j = 0; j < head_dim / 2; ++j) {
        const double a = x[j];
        const double b = x[j + head_dim / 2];
        const double t = angle(position, j);
        x[j] = a * std::cos(t) - b * std::sin(t);
        x[j + head_dim / 2] = b * std::cos(t) + a * std::sin(t);
      }
    }
    return row;
  }

  // Attention of the last of some rotated rows.
  static Doubles attended(const std::vector<Doubles>& rows) {
    Doubles out(heads * head_dim);
    for (std::size_t h = 0; h < heads; ++h) {
      const std::size_t kv = h / (heads / kv_heads);
      Doubles scores;
      for (const Doubles& row : rows) {
        const double* key = &row[(heads + kv) * head_dim];
        const double* query = &rows.back()[h * head_dim];
        scores.push_back(std::inner_product(key, key + head_dim, query, 0.0) / std::sqrt(24.0));
      }
      const double most = *std::max_element(scores.begin(), scores.end());
      double total = 0;
      for (double& score : scores) total += score = std::exp(score - most);
      for (std::size_t i = 0; i < rows.size(); ++i) {
        for (std::size_t d = 0; d < head_dim; ++d) {
          out[h * head_dim + d] += scores[i] / total * rows[i][(heads + kv_heads + kv) * head_dim + d];
        }
      }
    }
    return out;
  }
};

TEST(
    "runs of several sequences are rotated, appended and attended to, in any chunks, with every cache type") {
  const AttentionCase c;
  const std::size_t lengths[] = {5, 150, 64};
  for (const CacheType type :
       {CacheType::float32, CacheType::float16, CacheType::bfloat16, CacheType::int8}) {
    for (const bool norms : {false, true}) {
      const std::vector<float> tokens = test::random_floats(200 * c.columns, 3);
      std::optional<std::vector<float>> whole;
      // All tokens at once, in chunks of 40, and one by one: the bits are the same.
      for (const std::size_t chunk : {std::size_t{200}, std::size_t{40}, std::size_t{1}}) {
        const std::vector<float> found = on_every_device([&](const Device& device) {
          const std::size_t block = device.block_tokens();
          const auto model = device.model();
          const Norm q{NormKind::rms_norm, norms ? model->load(c.q_norm) : Vector{}, {}, 1e-6F};
          const Norm k{NormKind::rms_norm, norms ? model->load(c.k_norm) : Vector{}, {}, 1e-6F};
          model->allocate_cache({type, 2, c.heads, c.kv_heads, c.head_dim, 3 * (150 / block + 1)});
          const auto ops = model->operations({3 * chunk, 0});
          const Buffer qkv = ops->buffer(3 * chunk, c.columns);
          const Buffer out = ops->buffer(3 * chunk, c.heads * c.head_dim);
          std::vector<std::vector<BlockId>> tables(3);
          BlockId next = 0;
          for (std::size_t s = 0; s < 3; ++s) {
            for (std::size_t i = 0; i < (lengths[s] + block - 1) / block; ++i) tables[s].push_back(next++);
          }
          std::reverse(tables[1].begin(), tables[1].end());  // blocks need not be in order
          std::vector<float> results(219 * c.heads * c.head_dim);
          for (std::size_t done = 0; done < 150; done += chunk) {
            std::vector<Run> runs;
            std::size_t rows = 0;
            for (std::size_t s = 0; s < 3; ++s) {
              if (done >= lengths[s]) continue;
              const std::size_t count = std::min(chunk, lengths[s] - done);
              const std::size_t seen = (done + count + block - 1) / block;
              runs.push_back({{tables[s].data(), seen}, done, count, rows});
              ops->write({&tokens[(s * 20 + done) * c.columns], count * c.columns}, qkv, rows);
              rows += count;
            }
            std::vector<float> cosines(rows * c.head_dim / 2);
            std::vector<float> sines(cosines.size());
            for (const Run& run : runs) {
              for (std::size_t i = 0; i < run.count; ++i) {
                const std::size_t at = (run.row + i) * c.head_dim / 2;
                c.fill(run.position + i, &cosines[at], &sines[at]);
              }
            }
            ops->begin_step(runs, cosines, sines);
            ops->rotate_and_append(qkv, 1, q, k);
            ops->attend(qkv, 1, 0, out);
            for (const Run& run : runs) {
              const std::size_t s = run.blocks.data() == tables[0].data()   ? 0
                                    : run.blocks.data() == tables[1].data() ? 1
                                                                            : 2;
              const std::size_t begin = (s == 0 ? 0 : s == 1 ? 5 : 155) + run.position;
              ops->read(out, {run.row, run.count},
                        {&results[begin * c.heads * c.head_dim], run.count * c.heads * c.head_dim});
            }
          }
          return results;
        });
        if (!whole) whole = found;
        CHECK(*whole == found);
      }
      std::vector<float> some;
      Doubles wanted;
      std::size_t begin = 0;
      for (std::size_t s = 0; s < 3; ++s) {
        std::vector<Doubles> rows;
        for (std::size_t i = 0; i < lengths[s]; ++i) {
          rows.push_back(c.rotated(&tokens[(s * 20 + i) * c.columns], i, norms));
          const Doubles row = c.attended(rows);
          wanted.insert(wanted.end(), row.begin(), row.end());
        }
        begin += lengths[s];
      }
      some.assign(whole->begin(), whole->end());
      const DataType like = type == CacheType::float32 ? DataType::float32
                            : type == CacheType::int8  ? DataType::int8
                                                       : DataType::bfloat16;
      if (like == DataType::bfloat16 && activations_for(like, features()) != Activations::bfloat16) {
        // Sixteen bits in the cache round whatever the processor multiplies.
        double product = 0;
        double a = 0;
        double b = 0;
        for (std::size_t i = 0; i < wanted.size(); ++i) {
          product += wanted[i] * static_cast<double>(some[i]);
          a += wanted[i] * wanted[i];
          b += static_cast<double>(some[i]) * static_cast<double>(some[i]);
        }
        CHECK(product >= 0.9999 * std::sqrt(a * b));
      } else {
        CHECK(close(some, wanted, like));
      }
    }
  }
}

TEST("attention from a later row on computes those rows alone, and a copied block is read like its origin") {
  const AttentionCase c;
  const std::vector<float> tokens = test::random_floats(30 * c.columns, 3);
  for (const test::TestDevice& tested : test::devices()) {
    const auto model = tested.device->model();
    model->allocate_cache({CacheType::float16, 1, c.heads, c.kv_heads, c.head_dim, 2});
    const auto ops = model->operations({30, 0});
    const Buffer qkv = ops->buffer(30, c.columns);
    const Buffer all = ops->buffer(30, c.heads * c.head_dim);
    const Buffer late = ops->buffer(30, c.heads * c.head_dim);
    const BlockId origin = 0;
    const BlockId copy = 1;
    std::vector<float> cosines(30 * c.head_dim / 2);
    std::vector<float> sines(cosines.size());
    for (std::size_t i = 0; i < 30; ++i) c.fill(i, &cosines[i * c.head_dim / 2], &sines[i * c.head_dim / 2]);
    ops->write(tokens, qkv, 0);
    const Run first{{&origin, 1}, 0, 30, 0};
    ops->begin_step({&first, 1}, cosines, sines);
    ops->rotate_and_append(qkv, 0, {}, {});
    ops->attend(qkv, 0, 0, all);
    ops->write(std::vector<float>(30 * c.heads * c.head_dim, 7.0F), late, 0);
    model->copy_blocks(std::array{BlockCopy{origin, copy}});
    const Run second{{&copy, 1}, 0, 30, 0};
    ops->begin_step({&second, 1}, cosines, sines);
    ops->attend(qkv, 0, 28, late);
    const std::vector<float> whole = read(*ops, all);
    const std::vector<float> part = read(*ops, late);
    const auto at = static_cast<std::ptrdiff_t>(28 * c.heads * c.head_dim);
    CHECK(std::equal(part.begin() + at, part.end(), whole.begin() + at));
    CHECK(std::all_of(part.begin(), part.begin() + at, [](float value) { return value == 7.0F; }));
  }
}

TEST("what attention writes for one matrix gives the same bits in whichever form the device keeps it") {
  const AttentionCase c;
  const std::size_t width = c.heads * c.head_dim;
  constexpr std::size_t count = 30;
  const std::vector<float> tokens = test::random_floats(count * c.columns, 3);
  const std::vector<float> tile = test::random_floats(count * 3 * width, 4);
  const std::vector<float> waste(count * width, std::nanf(""));
  for (const DataType type : test::weight_types) {
    if (type == DataType::int4 && width % int4_block != 0) continue;
    const test::RandomWeights w(type, outer, width, 5);
    on_every_device([&](const Device& device) {
      const auto model = device.model();
      const Linear linear{model->load(w.matrix), {}};
      model->allocate_cache({CacheType::float16, 1, c.heads, c.kv_heads, c.head_dim, 1});
      const auto ops = model->operations({count, count * width, TowerShape{count, c.heads, c.head_dim}});
      const Buffer causal = ops->buffer(count, c.columns);
      const Buffer vision = ops->buffer(count, 3 * width);
      const Buffer memory = ops->buffer(count, width);
      const Buffer out = ops->buffer(count, outer);
      const BlockId block = 0;
      const Run run{{&block, 1}, 0, count, 0};
      std::vector<float> cosines(count * c.head_dim / 2);
      std::vector<float> sines(cosines.size());
      for (std::size_t i = 0; i < count; ++i)
        c.fill(i, &cosines[i * c.head_dim / 2], &sines[i * c.head_dim / 2]);
      ops->write(tokens, causal, 0);
      ops->write(tile, vision, 0);
      ops->begin_step({&run, 1}, cosines, sines);
      ops->rotate_and_append(causal, 0, {}, {});
      const auto through = [&](const Buffer& rows) {
        std::vector<float> found;
        const auto add = [&](std::size_t first) {
          std::vector<float> values((count - first) * outer);
          ops->linear(rows, {first, count - first}, linear, {}, out);
          ops->read(out, {first, count - first}, values);
          found.insert(found.end(), values.begin(), values.end());
        };
        for (const std::size_t first : {std::size_t{0}, std::size_t{11}}) {
          ops->write(waste, memory, 0);
          ops->attend(causal, 0, first, rows);
          add(first);
        }
        ops->write(waste, memory, 0);
        ops->attend_tiles(vision, 1, type, rows);
        add(0);
        return found;
      };
      std::vector<float> found = through(ops->operand(memory, count, width, linear.weight));
      CHECK(found == through(ops->view(memory, count, width)));
      return found;
    });
  }
}

TEST("logits are the output matrix times the normalised rows") {
  const std::vector<float> weight = test::random_floats(hidden, 1);
  for (const DataType type : test::weight_types) {
    const test::RandomWeights head(type, outer, hidden, 2);
    const std::vector<float> x = test::random_floats(6 * hidden, 3);
    const std::vector<float> found = on_every_device([&](const Device& device) {
      const auto model = device.model();
      const Norm norm{NormKind::rms_norm, model->load(weight), {}, 1e-6F};
      const Matrix matrix = model->load(head.matrix);
      const auto ops = model->operations({6, 6 * hidden});
      const Buffer stream = ops->buffer(6, hidden);
      ops->write(x, stream, 0);
      std::vector<float> logits(2 * outer);
      ops->logits(stream, {4, 2}, norm, matrix, logits);
      return logits;
    });
    Doubles wanted;
    for (std::size_t r = 4; r < 6; ++r) {
      const Doubles row(x.begin() + static_cast<std::ptrdiff_t>(r * hidden),
                        x.begin() + static_cast<std::ptrdiff_t>((r + 1) * hidden));
      const Doubles y =
          times(head, normed(row.data(), hidden, NormKind::rms_norm, weight.data(), nullptr, 1e-6).data());
      wanted.insert(wanted.end(), y.begin(), y.end());
    }
    CHECK(close(found, wanted, type));
  }
}

TEST("patches are embedded behind a class token, with their positions") {
  constexpr std::size_t size = 24;
  constexpr std::size_t patch = 6;
  constexpr std::size_t grid = 4;
  constexpr std::size_t tokens = 1 + grid * grid;
  constexpr std::size_t values = 3 * patch * patch;
  // The pixels of the tiles, and the values that they have after (v / 255 - mean) / deviation.
  const std::array<double, 3> mean{0.5, 0.25, 0.75};
  const std::array<double, 3> deviation{0.5, 0.25, 1.0};
  std::vector<std::uint8_t> rgb(2 * 3 * size * size);
  std::vector<float> pixels(rgb.size());
  for (std::size_t i = 0; i < rgb.size(); ++i) {
    rgb[i] = static_cast<std::uint8_t>(i * i * 7 + i / 5);
    const std::size_t c = i % 3;
    pixels[(i / 3 / (size * size) * 3 + c) * size * size + i / 3 % (size * size)] =
        static_cast<float>((rgb[i] / 255.0 - mean[c]) / deviation[c]);
  }
  const std::vector<float> bias = test::random_floats(hidden, 2);
  const std::vector<float> positions = test::random_floats(tokens * hidden, 3);
  const std::vector<float> first = test::random_floats(hidden, 4);
  for (const DataType type : {DataType::float32, DataType::bfloat16}) {
    const test::RandomWeights w(type, hidden, values, 5);
    const auto embedded = [&](const TilePixels& tiles) {
      return on_every_device([&](const Device& device) {
        const auto model = device.model();
        const PatchEmbedding embedding{{model->load(w.matrix), model->load(bias)},
                                       model->load(first),
                                       model->load(positions),
                                       size,
                                       patch,
                                       make_normalisation(mean, deviation)};
        const auto ops = model->operations({2 * tokens, 0});
        const Buffer stream = ops->buffer(2 * tokens, hidden);
        ops->embed_patches(tiles, 2, embedding, ops->buffer(2 * grid * grid, values), stream);
        return read(*ops, stream);
      });
    };
    const std::vector<float> found = embedded(std::span<const std::uint8_t>(rgb));
    const std::vector<float> of_values = embedded(std::span<const float>(pixels));
    Doubles wanted;
    for (std::size_t tile = 0; tile < 2; ++tile) {
      for (std::size_t i = 0; i < hidden; ++i) wanted.push_back(static_cast<double>(first[i]) + positions[i]);
      for (std::size_t p = 0; p < grid * grid; ++p) {
        Doubles x;
        for (std::size_t channel = 0; channel < 3; ++channel) {
          for (std::size_t y = 0; y < patch; ++y) {
            for (std::size_t column = 0; column < patch; ++column) {
              x.push_back(pixels[((tile * 3 + channel) * size + p / grid * patch + y) * size +
                                 p % grid * patch + column]);
            }
          }
        }
        const Doubles y = times(w, x.data());
        for (std::size_t i = 0; i < hidden; ++i) {
          wanted.push_back(y[i] + bias[i] + positions[(1 + p) * hidden + i]);
        }
      }
    }
    CHECK(close(found, wanted, type));
    CHECK(close(of_values, wanted, type));
  }
}

TEST("a tower's queries and keys are normalised over all channels, and its values are not") {
  const std::vector<float> q_weight = test::random_floats(hidden, 1);
  const std::vector<float> k_weight = test::random_floats(hidden, 2);
  const std::vector<float> x = test::random_floats(9 * 3 * hidden, 3);
  const std::vector<float> found = on_every_device([&](const Device& device) {
    const auto model = device.model();
    const Norm q{NormKind::rms_norm, model->load(q_weight), {}, 1e-6F};
    const Norm k{NormKind::rms_norm, model->load(k_weight), {}, 1e-6F};
    const auto ops = model->operations({9, 0});
    const Buffer qkv = ops->buffer(9, 3 * hidden);
    ops->write(x, qkv, 0);
    ops->norm_queries_and_keys(qkv, {1, 8}, q, k);
    return read(*ops, qkv);
  });
  Doubles wanted = wide(x);
  for (std::size_t r = 1; r < 9; ++r) {
    for (const std::size_t part : {0, 1}) {
      double* row = &wanted[(3 * r + part) * hidden];
      const Doubles y =
          normed(row, hidden, NormKind::rms_norm, (part == 0 ? q_weight : k_weight).data(), nullptr, 1e-6);
      std::copy(y.begin(), y.end(), row);
    }
  }
  CHECK(close(found, wanted, DataType::float32));
}

TEST("tokens of a tile see all tokens of that tile and no others") {
  constexpr std::size_t tokens = 77;
  constexpr std::size_t heads = 3;
  constexpr std::size_t head_dim = 32;
  constexpr std::size_t width = heads * head_dim;
  const std::vector<float> qkv = test::random_floats(2 * tokens * 3 * width, 1);
  Doubles wanted(2 * tokens * width);
  for (std::size_t tile = 0; tile < 2; ++tile) {
    for (std::size_t h = 0; h < heads; ++h) {
      for (std::size_t q = 0; q < tokens; ++q) {
        const auto at = [&](std::size_t row, std::size_t part) {
          return &qkv[((tile * tokens + row) * 3 + part) * width + h * head_dim];
        };
        Doubles scores(tokens);
        for (std::size_t i = 0; i < tokens; ++i) {
          scores[i] = std::inner_product(at(q, 0), at(q, 0) + head_dim, at(i, 1), 0.0) / std::sqrt(32.0);
        }
        double total = 0;
        for (double& score : scores) total += score = std::exp(score);
        for (std::size_t i = 0; i < tokens; ++i) {
          for (std::size_t d = 0; d < head_dim; ++d) {
            wanted[(tile * tokens + q) * width + h * head_dim + d] += scores[i] / total * at(i, 2)[d];
          }
        }
      }
    }
  }
  for (const DataType type : {DataType::float32, DataType::bfloat16, DataType::int8}) {
    const auto attended = [&](const Device& device, std::size_t first, std::size_t tiles) {
      const auto model = device.model();
      const auto ops = model->operations({2 * tokens, 0, TowerShape{tokens, heads, head_dim}});
      const Buffer in = ops->buffer(tiles * tokens, 3 * width);
      const Buffer out = ops->buffer(tiles * tokens, width);
      ops->write({&qkv[first * tokens * 3 * width], tiles * tokens * 3 * width}, in, 0);
      ops->attend_tiles(in, tiles, type, out);
      return read(*ops, out);
    };
    const std::vector<float> both =
        on_every_device([&](const Device& device) { return attended(device, 0, 2); });
    CHECK(close(both, wanted, type));
    const std::vector<float> second = attended(*test::cpu(2), 1, 1);
    CHECK(std::equal(second.begin(), second.end(), both.begin() + tokens * width));
  }
  for (const test::TestDevice& tested : test::devices()) {
    const auto model = tested.device->model();
    CHECK_THROWS(BundleError, model->operations({8, 0, TowerShape{4, 2, 12}}));
  }
}

TEST("a query sees the patches of its tile, not its class token, and no other tile") {
  struct Case {
    std::size_t patches, heads, head_dim;
  };
  // Less than a block of keys, whole blocks, and a rest; heads that kernels take and such that are filled up.
  for (const Case& one :
       {Case{1, 2, 32}, Case{64, 3, 6}, Case{128, 2, 64}, Case{200, 5, 20}, Case{70, 1, 250}}) {
    const std::size_t patches = one.patches;
    const std::size_t heads = one.heads;
    const std::size_t head_dim = one.head_dim;
    const std::size_t tokens = 1 + patches;
    const std::size_t width = heads * head_dim;
    const std::vector<float> queries = test::random_floats(2 * width, 1);
    std::vector<float> keys_values = test::random_floats(2 * tokens * 2 * width, 2);
    // Nothing may depend on a class token, whatever it is.
    for (std::size_t tile = 0; tile < 2; ++tile) {
      std::fill_n(&keys_values[tile * tokens * 2 * width], 2 * width, std::nanf(""));
    }
    Doubles wanted(2 * width);
    for (std::size_t tile = 0; tile < 2; ++tile) {
      for (std::size_t h = 0; h < heads; ++h) {
        const float* query = &queries[tile * width + h * head_dim];
        const auto at = [&](std::size_t patch, std::size_t part) {
          return &keys_values[((tile * tokens + 1 + patch) * 2 + part) * width + h * head_dim];
        };
        Doubles scores(patches);
        for (std::size_t i = 0; i < patches; ++i) {
          scores[i] = std::inner_product(query, query + head_dim, at(i, 0), 0.0) /
                      std::sqrt(static_cast<double>(head_dim));
        }
        double total = 0;
        for (double& score : scores) total += score = std::exp(score);
        for (std::size_t i = 0; i < patches; ++i) {
          for (std::size_t d = 0; d < head_dim; ++d) {
            wanted[tile * width + h * head_dim + d] += scores[i] / total * at(i, 1)[d];
          }
        }
      }
    }
    const auto pooled = [&](const Device& device, std::size_t first, std::size_t tiles) {
      const auto model = device.model();
      const auto ops = model->operations(
          {.rows = tiles * tokens, .made_elements = 0, .pooling = PoolingShape{tokens, heads, head_dim}});
      const Buffer query = ops->buffer(tiles, width);
      const Buffer in = ops->buffer(tiles * tokens, 2 * width);
      const Buffer out = ops->buffer(tiles, width);
      ops->write({&queries[first * width], tiles * width}, query, 0);
      ops->write({&keys_values[first * tokens * 2 * width], tiles * tokens * 2 * width}, in, 0);
      // What stood there before does not matter.
      ops->write(std::vector<float>(tiles * width, std::nanf("")), out, 0);
      ops->pool_tiles(query, in, tiles, out);
      return read(*ops, out);
    };
    const std::vector<float> both =
        on_every_device([&](const Device& device) { return pooled(device, 0, 2); });
    CHECK(close(both, wanted, DataType::float32));
    const std::vector<float> second = pooled(*test::cpu(2), 1, 1);
    CHECK(std::equal(second.begin(), second.end(), both.begin() + static_cast<std::ptrdiff_t>(width)));
  }
  for (const test::TestDevice& tested : test::devices()) {
    const auto model = tested.device->model();
    CHECK_THROWS(BundleError,
                 model->operations({.rows = 8, .made_elements = 0, .pooling = PoolingShape{4, 1, 257}}));
  }
}

TEST("pixel shuffle drops the class token, and its rows are normalised and multiplied") {
  constexpr std::size_t channels = 8;
  constexpr std::size_t side = 8;
  constexpr std::size_t tokens = 1 + side * side;
  const std::vector<float> x = test::random_floats(2 * tokens * channels, 1);
  for (const std::size_t block : {std::size_t{2}, std::size_t{4}}) {
    const std::size_t blocks = side / block;
    const std::size_t width = block * block * channels;
    const std::vector<float> weight = test::random_floats(width, 2);
    const std::vector<float> shift = test::random_floats(width, 3);
    const std::vector<float> bias = test::random_floats(outer, 4);
    for (const PixelShuffleVersion version : {PixelShuffleVersion::v1, PixelShuffleVersion::v2}) {
      for (const DataType type : test::weight_types) {
        const test::RandomWeights w(type, outer, width, 5);
        const std::vector<float> found = on_every_device([&](const Device& device) {
          const auto model = device.model();
          const Norm norm{NormKind::layer_norm, model->load(weight), model->load(shift), 1e-5F};
          const Linear linear{model->load(w.matrix), model->load(bias)};
          const std::size_t rows = 2 * blocks * blocks;
          const auto ops = model->operations({rows, rows * width});
          const Buffer stream = ops->buffer(2 * tokens, channels);
          const Buffer out = ops->buffer(rows, outer);
          ops->write(x, stream, 0);
          ops->shuffle_norm_linear(stream, {2, side, channels, block}, version, norm, linear, {.gelu = true},
                                   out);
          return read(*ops, out);
        });
        Doubles wanted;
        for (std::size_t tile = 0; tile < 2; ++tile) {
          for (std::size_t token = 0; token < blocks * blocks; ++token) {
            // v2 goes through the blocks row by row, v1 column by column; in a block the patches come row by
            // row.
            const std::size_t block_row =
                version == PixelShuffleVersion::v2 ? token / blocks : token % blocks;
            const std::size_t block_column =
                version == PixelShuffleVersion::v2 ? token % blocks : token / blocks;
            Doubles row;
            for (std::size_t r = 0; r < block; ++r) {
              for (std::size_t c = 0; c < block; ++c) {
                const std::size_t patch = (block * block_row + r) * side + block * block_column + c;
                for (std::size_t i = 0; i < channels; ++i) {
                  row.push_back(x[(tile * tokens + 1 + patch) * channels + i]);
                }
              }
            }
            const Doubles y = times(
                w, normed(row.data(), width, NormKind::layer_norm, weight.data(), shift.data(), 1e-5).data());
            for (std::size_t n = 0; n < outer; ++n) wanted.push_back(gelu(y[n] + bias[n]));
          }
        }
        CHECK(close(found, wanted, type));
      }
    }
  }
}

TEST("matrices whose integer sums would not be exact, and buffers beyond the memory, are typed errors") {
  const test::RandomWeights w(DataType::int8, 1, 65536 + 32, 1);
  for (const test::TestDevice& tested : test::devices()) {
    const auto model = tested.device->model();
    CHECK_THROWS(BundleError, model->load(w.matrix));
#if !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)  // whose allocators end the process instead
    const auto ops = model->operations({1, 0});
    CHECK_THROWS(DeviceError, ops->buffer(std::size_t{1} << 30, std::size_t{1} << 28));
#endif
  }
}

}  // namespace
}  // namespace internvl

int main() { return internvl::test::run_all(); }
