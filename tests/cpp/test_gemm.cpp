#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "check.h"
#include "ops/cpu/linear.h"
#include "random_weights.h"

namespace internvl {
namespace {

constexpr DataType float_types[] = {DataType::float32, DataType::float16, DataType::bfloat16};

struct Shape {
  std::size_t m, n, k;
};

// x is kept in memory of exactly its size and y has a margin, so that a kernel that reads or writes too far
// is seen by the sanitizers or here.
std::vector<float> computed(const std::vector<float>& x, std::size_t m, const WeightMatrix& w, int threads,
                            const float* bias, const std::vector<float>* addend, bool gelu = false,
                            const float* layer_scale = nullptr,
                            Activations activations = Activations::exact) {
  ThreadTeam team(threads);
  LinearWorkspace workspace(team, m, LinearWorkspace::row_bytes(w, activations));
  const std::size_t stride = w.rows + 3;
  std::vector<float> y(m * stride, -7.0F);
  if (addend != nullptr) {
    for (std::size_t r = 0; r < m; ++r) {
      for (std::size_t c = 0; c < w.rows; ++c) y[r * stride + c] = (*addend)[r * w.rows + c];
    }
  }
  linear({x.data(), w.columns, m, bias, addend != nullptr, y.data(), stride}, w, team, workspace, features(),
         {gelu, layer_scale}, activations);
  std::vector<float> packed;
  for (std::size_t r = 0; r < m; ++r) {
    packed.insert(packed.end(), y.begin() + r * stride, y.begin() + r * stride + w.rows);
    for (std::size_t c = w.rows; c < stride; ++c) CHECK(y[r * stride + c] == -7.0F);
  }
  return packed;
}

bool same_bits(const float* a, const float* b, std::size_t count) {
  return std::memcmp(a, b, count * sizeof(float)) == 0;
}

const std::vector<Shape> shapes = {
    {1, 1, 1},     {1, 7, 5},     {2, 50, 33}, {3, 13, 8},   {4, 49, 97},   {5, 3, 100},   {6, 100, 64},
    {7, 97, 1030}, {9, 48, 2049}, {16, 5, 31}, {17, 1, 72},  {300, 10, 40}, {33, 145, 96}, {2, 4, 1024},
    {8, 17, 1025}, {10, 33, 7},   {11, 16, 4}, {12, 47, 12}, {13, 15, 36},  {14, 31, 68},  {15, 65, 9}};

TEST("a linear layer is within the rounding bound of a plain fp64 loop, for every weight type and shape") {
  for (const DataType type : float_types) {
    for (const Shape& shape : shapes) {
      const test::RandomWeights w(type, shape.n, shape.k, 11);
      const std::vector<float> x = test::random_floats(shape.m * shape.k, 12);
      const std::vector<float> bias = test::random_floats(shape.n, 13);
      const std::vector<float> addend = test::random_floats(shape.m * shape.n, 14);
      const std::vector<float> plain = computed(x, shape.m, w.matrix, 2, nullptr, nullptr);
      const std::vector<float> biased = computed(x, shape.m, w.matrix, 2, bias.data(), nullptr);
      const std::vector<float> added = computed(x, shape.m, w.matrix, 2, nullptr, &addend);
      const std::vector<float> both = computed(x, shape.m, w.matrix, 2, bias.data(), &addend);
      // Longest chain: a lane's products, the tree, the blocks, scale, bias and addend; a product and its sum
      // round once or (portable) twice.
      const double chain = 2.0 * std::ceil(std::min<double>(static_cast<double>(shape.k), 1024) / 8) + 3 +
                           std::ceil(static_cast<double>(shape.k) / 1024) + 4;
      const double bound = chain * std::ldexp(1.0, -24) * 1.01;
      for (std::size_t r = 0; r < shape.m; ++r) {
        for (std::size_t c = 0; c < shape.n; ++c) {
          double sum = 0;
          double size = 0;
          for (std::size_t k = 0; k < shape.k; ++k) {
            const double product = x[r * shape.k + k] * w.exact[c * shape.k + k];
            sum += product;
            size += std::abs(product);
          }
          const std::size_t i = r * shape.n + c;
          const double b = bias[c];
          const double a = addend[i];
          CHECK(std::abs(plain[i] - sum) <= bound * size + 1e-37);
          CHECK(std::abs(biased[i] - (sum + b)) <= bound * (size + std::abs(b)) + 1e-37);
          CHECK(std::abs(added[i] - (sum + a)) <= bound * (size + std::abs(a)) + 1e-37);
          CHECK(std::abs(both[i] - (sum + b + a)) <= bound * (size + std::abs(b) + std::abs(a)) + 1e-37);
        }
      }
    }
  }
}

TEST("a row of the result is the same bits whatever the other rows and the number of threads") {
  for (const DataType type : float_types) {
    for (const Shape shape : {Shape{291, 53, 96}, Shape{21, 50, 1056}, Shape{9, 20, 4864}}) {
      const auto [rows, n, k] = shape;
      const test::RandomWeights w(type, n, k, 21);
      const std::vector<float> x = test::random_floats(rows * k, 22);
      const std::vector<float> bias = test::random_floats(n, 23);
      const std::vector<float> layer_scale = test::random_floats(n, 24);
      const std::vector<float> residual = test::random_floats(rows * n, 25);
      const std::vector<float> all = computed(x, rows, w.matrix, 3, bias.data(), nullptr);
      const std::vector<float> all_finished =
          computed(x, rows, w.matrix, 3, bias.data(), &residual, true, layer_scale.data());
      for (const std::size_t m : {1, 2, 3, 4, 5, 8}) {
        for (const std::size_t first : {std::size_t{1}, rows - m}) {
          const std::vector<float> some(x.begin() + first * k, x.begin() + (first + m) * k);
          const std::vector<float> y = computed(some, m, w.matrix, 1, bias.data(), nullptr);
          CHECK(same_bits(y.data(), all.data() + first * n, m * n));
          const std::vector<float> added(residual.begin() + first * n, residual.begin() + (first + m) * n);
          const std::vector<float> finished =
              computed(some, m, w.matrix, 1, bias.data(), &added, true, layer_scale.data());
          CHECK(same_bits(finished.data(), all_finished.data() + first * n, m * n));
        }
      }
    }
  }
}

TEST("gelu and layer scale follow the bias, and the residual comes last") {
  const double unit = std::ldexp(1.0, -24);
  for (const DataType type : float_types) {
    for (const Shape& shape : shapes) {
      const test::RandomWeights w(type, shape.n, shape.k, 41);
      const std::vector<float> x = test::random_floats(shape.m * shape.k, 42, 0.1F);
      const std::vector<float> bias = test::random_floats(shape.n, 43);
      const std::vector<float> layer_scale = test::random_floats(shape.n, 44);
      const std::vector<float> residual = test::random_floats(shape.m * shape.n, 45);
      const std::vector<float> biased = computed(x, shape.m, w.matrix, 2, bias.data(), nullptr);
      const std::vector<float> activated = computed(x, shape.m, w.matrix, 2, bias.data(), nullptr, true);
      const std::vector<float> all =
          computed(x, shape.m, w.matrix, 2, bias.data(), &residual, true, layer_scale.data());
      const std::vector<float> added =
          computed(x, shape.m, w.matrix, 2, bias.data(), &residual, false, layer_scale.data());
      for (std::size_t i = 0; i < biased.size(); ++i) {
        const double scale = layer_scale[i % shape.n];
        const double value = biased[i];  // held against its bound above
        const double a = std::abs(value);
        const double tail = a * 0.5 * std::erfc(a / std::sqrt(2.0));
        const double gelu = value > 0 ? value - tail : -tail;
        CHECK(std::abs(activated[i] - gelu) <= unit * ((a * a / 2 + 32) * tail + 2 * std::abs(gelu)) + 1e-36);
        const double last = 2 * unit * std::abs(residual[i]);
        const double scaled = activated[i] * scale;
        CHECK(std::abs(all[i] - (scaled + residual[i])) <= 3 * unit * std::abs(scaled) + last + 1e-36);
        CHECK(std::abs(added[i] - (value * scale + residual[i])) <=
              3 * unit * std::abs(value * scale) + last + 1e-36);
      }
    }
  }
}

// To the nearest bf16, ties to even, from the definition: eight significant bits.
double rounded_to_bfloat16(float x) {
  if (x == 0) return 0;
  const int unit = std::ilogb(x) - 7;
  return std::ldexp(std::nearbyint(std::ldexp(static_cast<double>(x), -unit)), unit);
}

TEST("bf16 weights meet rounded activations: exactly the nearest bf16, summed within the rounding bound") {
  for (const Shape shape : shapes) {
    const test::RandomWeights w(DataType::bfloat16, shape.n, shape.k, 51);
    std::vector<float> x = test::random_floats(shape.m * shape.k, 52);
    x[0] = 1 + 0x1p-8F;                     // a tie, down to 1
    if (x.size() > 1) x[1] = -1 - 0x3p-8F;  // a tie, up to -1.015625
    const std::vector<float> bias = test::random_floats(shape.n, 53);
    const std::vector<float> addend = test::random_floats(shape.m * shape.n, 54);
    const std::vector<float> y =
        computed(x, shape.m, w.matrix, 2, bias.data(), &addend, false, nullptr, Activations::bfloat16);
    // Products are exact. Longest chain: all products, bias and addend. Products of matrices add a pair's
    // sum, both rounded to odd, two units; and panels one to another.
    const auto depth = static_cast<double>(shape.k);
    const double chain =
        features().has(Feature::i8mm) ? 4 * std::ceil(depth / 4) + std::ceil(depth / 1024) + 6 : depth + 4;
    const double bound = chain * std::ldexp(1.0, -24) * 1.01;
    for (std::size_t r = 0; r < shape.m; ++r) {
      for (std::size_t c = 0; c < shape.n; ++c) {
        const std::size_t i = r * shape.n + c;
        double sum = static_cast<double>(bias[c]) + addend[i];
        double unrounded = sum;
        double size = std::abs(bias[c]) + std::abs(addend[i]);
        double unrounded_size = 0;
        for (std::size_t k = 0; k < shape.k; ++k) {
          const double weight = w.exact[c * shape.k + k];
          const float value = x[r * shape.k + k];
          sum += rounded_to_bfloat16(value) * weight;
          size += std::abs(rounded_to_bfloat16(value) * weight);
          unrounded += value * weight;
          unrounded_size += std::abs(value * weight);
        }
        CHECK(std::abs(y[i] - sum) <= bound * size + 1e-34);
        CHECK(std::abs(y[i] - unrounded) <= bound * size + std::ldexp(unrounded_size, -8) * 1.01 + 1e-34);
      }
    }
  }
}

TEST(
    "by pairs of bf16, a sum is its products one after the other, each pair's second one first, to the bit") {
  if (features().has(Feature::i8mm) || features().has(Feature::amx_bf16)) return;  // multiply matrices
  for (const Shape shape : shapes) {
    const test::RandomWeights w(DataType::bfloat16, shape.n, shape.k, 81);
    const std::vector<float> x = test::random_floats(shape.m * shape.k, 82);
    const std::vector<float> y =
        computed(x, shape.m, w.matrix, 2, nullptr, nullptr, false, nullptr, Activations::bfloat16);
    for (std::size_t r = 0; r < shape.m; ++r) {
      for (std::size_t c = 0; c < shape.n; ++c) {
        float sum = 0;
        const auto add = [&](std::size_t k) {
          if (k < shape.k) {
            sum += static_cast<float>(rounded_to_bfloat16(x[r * shape.k + k]) * w.exact[c * shape.k + k]);
          }
        };
        for (std::size_t k = 0; k < shape.k; k += 2) {
          add(k + 1);
          add(k);
        }
        CHECK(y[r * shape.n + c] == sum);
      }
    }
  }
}

// What the manual says of TDPBF16PS: of 32 elements, the even ones and the odd ones are summed apart.
TEST("in tiles of bf16, a sum is that of 32 products after the other, for few rows as for many, to the bit") {
  if (!features().has(Feature::amx_bf16)) return;
  std::vector<Shape> all = shapes;
  all.insert(all.end(), {{1, 200, 1060}, {16, 130, 2080}, {530, 97, 1100}, {49, 192, 544}});
  for (const Shape shape : all) {
    const test::RandomWeights w(DataType::bfloat16, shape.n, shape.k, 81);
    const std::vector<float> x = test::random_floats(shape.m * shape.k, 82);
    const std::vector<float> y =
        computed(x, shape.m, w.matrix, 2, nullptr, nullptr, false, nullptr, Activations::bfloat16);
    for (std::size_t r = 0; r < shape.m; ++r) {
      for (std::size_t c = 0; c < shape.n; ++c) {
        float sum = 0;
        for (std::size_t first = 0; first < shape.k; first += 32) {
          float parts[2] = {0, 0};
          for (std::size_t k = first; k < std::min(first + 32, shape.k); ++k) {
            const auto value = static_cast<float>(rounded_to_bfloat16(x[r * shape.k + k]));
            parts[k % 2] = std::fma(value, static_cast<float>(w.exact[c * shape.k + k]), parts[k % 2]);
          }
          sum += parts[0] + parts[1];
        }
        CHECK(y[r * shape.n + c] == sum);
      }
    }
  }
}

TEST("rounded activations: the same bits whatever the other rows, their number and the threads; NaN stays") {
  for (const Shape shape : {Shape{291, 53, 96}, Shape{21, 50, 1056}, Shape{9, 20, 4870}}) {
    const auto [rows, n, k] = shape;
    const test::RandomWeights w(DataType::bfloat16, n, k, 61);
    std::vector<float> x = test::random_floats(rows * k, 62);
    x[3 * k + k - 1] = NAN;
    x[4 * k] = INFINITY;
    const std::vector<float> layer_scale = test::random_floats(n, 64);
    const std::vector<float> all =
        computed(x, rows, w.matrix, 3, nullptr, nullptr, true, layer_scale.data(), Activations::bfloat16);
    for (std::size_t i = 0; i < rows * n; ++i) {
      CHECK(std::isfinite(all[i]) || i / n == 3 || i / n == 4);
      if (i / n == 3) CHECK(std::isnan(all[i]));
    }
    for (const std::size_t m : {1, 2, 3, 5, 6, 7, 8, 16, 17}) {
      if (m > rows) continue;
      for (const std::size_t first : {std::size_t{0}, std::size_t{1}, rows - m}) {
        const std::vector<float> some(x.begin() + first * k, x.begin() + (first + m) * k);
        const std::vector<float> y =
            computed(some, m, w.matrix, 1, nullptr, nullptr, true, layer_scale.data(), Activations::bfloat16);
        for (std::size_t r = 0; r < m; ++r) {
          if (first + r == 3 || first + r == 4) continue;  // which NaN it is may differ
          CHECK(same_bits(y.data() + r * n, all.data() + (first + r) * n, n));
        }
      }
    }
  }
}

TEST("activations are rounded for bf16 weights where the processor multiplies those, and nowhere else") {
  const std::size_t n = 50;
  const std::size_t k = 96;
  for (const std::string_view name : available_instruction_sets()) {
    const Features features = *features_of(name);
    for (const DataType type : float_types) {
      const test::RandomWeights w(type, n, k, 71);
      for (const std::size_t m : {1, 40}) {
        const std::vector<float> x = test::random_floats(m * k, 72);
        ThreadTeam team(2);
        std::vector<float> chosen(m * n);
        const bool rounds = type == DataType::bfloat16 && multiplies_bfloat16(features);
        LinearWorkspace workspace(team, m,
                                  LinearWorkspace::row_bytes(w.matrix, activations_for(type, features)));
        linear({x.data(), k, m, nullptr, false, chosen.data(), n}, w.matrix, team, workspace, features);
        for (const Activations activations : {Activations::exact, Activations::bfloat16}) {
          if (type != DataType::bfloat16 && activations == Activations::bfloat16) continue;
          std::vector<float> y(m * n);
          LinearWorkspace other(team, m, LinearWorkspace::row_bytes(w.matrix, activations));
          linear({x.data(), k, m, nullptr, false, y.data(), n}, w.matrix, team, other, features, {},
                 activations);
          CHECK(same_bits(chosen.data(), y.data(), m * n) == (rounds == (activations != Activations::exact)));
        }
      }
    }
  }
}

TEST("rows have memory where they are rounded, and none where they are not") {
  const auto bytes = [](DataType type, std::size_t columns, Activations activations) {
    return LinearWorkspace::row_bytes({type, nullptr, nullptr, 1, columns}, activations);
  };
  for (const DataType type : float_types) CHECK(bytes(type, 100, Activations::exact) == 0);
  // An odd number of cache lines.
  CHECK(bytes(DataType::bfloat16, 100, Activations::bfloat16) == 5 * 64);
  CHECK(bytes(DataType::bfloat16, 1024, Activations::bfloat16) == 33 * 64);
  CHECK(bytes(DataType::float16, 100, Activations::bfloat16) == 0);
  ThreadTeam team(1);
  const std::size_t without = LinearWorkspace(team, 7, 0).bytes();
  CHECK(LinearWorkspace(team, 7, 320).bytes() == without + std::size_t{16} * 320);  // whole tiles of rows
}

TEST("a NaN in one row stays in that row") {
  for (const DataType type : float_types) {
    const test::RandomWeights w(type, 50, 96, 31);
    std::vector<float> x = test::random_floats(6 * 96, 32);
    x[2 * 96 + 95] = NAN;
    const std::vector<float> y = computed(x, 6, w.matrix, 2, nullptr, nullptr);
    for (std::size_t i = 0; i < y.size(); ++i) CHECK(std::isnan(y[i]) == (i / 50 == 2));
  }
}

}  // namespace
}  // namespace internvl

int main() { return internvl::test::run_all(); }
