// Quantised activations, and the linear layers that are computed from them in integers.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "check.h"
#include "kernels/activation/activation.h"
#include "kernels/quantise/quantise.h"
#include "ops/cpu/integer_linear.h"
#include "random_weights.h"

namespace internvl {
namespace {

struct Shape {
  std::size_t m, n, k;
};

const double unit = std::ldexp(1.0, -24);

constexpr RowForm row_forms[] = {RowForm::whole, RowForm::blocks, RowForm::split_blocks};

// Where element k of a row lies: split blocks hold the even elements before the odd ones.
std::size_t place(std::size_t k, RowForm form) {
  if (form != RowForm::split_blocks) return k;
  return k / 32 * 32 + k % 2 * 16 + k % 32 / 2;
}

struct Quantised {
  std::vector<std::int8_t> values;
  std::vector<float> scales;
  std::vector<std::int32_t> starts;
};

Quantised quantised(const std::vector<float>& x, RowForm form) {
  const std::size_t groups = form == RowForm::whole ? 1 : (x.size() + 31) / 32;
  Quantised q{std::vector<std::int8_t>((x.size() + 63) / 64 * 64, 55), std::vector<float>(groups),
              std::vector<std::int32_t>(groups)};
  quantise_kernels(features())
      .of(form)(x.data(), x.size(), q.values.data(), q.scales.data(), q.starts.data());
  return q;
}

TEST("activations are quantised to the nearest, with the greatest magnitude of a group as 127") {
  const Features features = internvl::features();
  const bool unsigned_int8 = features.has(Feature::avx512) || features.has(Feature::avx_vnni);
  const bool unsigned_int4 = !features.has(Feature::neon);
  for (const RowForm form : row_forms) {
    for (std::size_t n : {1, 7, 8, 31, 32, 33, 64, 95, 96, 100, 896, 4864}) {
      if (form == RowForm::split_blocks) n = (n + 31) / 32 * 32;
      const std::size_t size = form == RowForm::whole ? n : 32;
      // What is added to weights.
      const int offset = form == RowForm::split_blocks ? (unsigned_int4 ? 8 : 0) : (unsigned_int8 ? 128 : 0);
      for (const float deviation : {1e-20F, 1.0F, 3e30F}) {
        const std::vector<float> x = test::random_floats(n, 1, deviation);
        const Quantised q = quantised(x, form);
        for (std::size_t g = 0; g < q.scales.size(); ++g) {
          float greatest = 0;
          std::int32_t sum = 0;
          for (std::size_t i = g * size; i < std::min((g + 1) * size, n); ++i)
            greatest = std::max(greatest, std::abs(x[i]));
          CHECK(q.scales[g] == greatest / 127.0F);
          for (std::size_t i = g * size; i < std::min((g + 1) * size, n); ++i) {
            const int value = q.values[place(i, form)];
            sum += value;
            CHECK(std::abs(value) <= 127);
            if (std::abs(x[i]) == greatest) CHECK(value == (x[i] > 0 ? 127 : -127));
            // x / scale is rounded at 127 / greatest, at the product, and to the integer.
            CHECK(std::abs(x[i] / static_cast<double>(q.scales[g]) - value) <= 0.5 + 127 * 4 * unit);
          }
          CHECK(q.starts[g] == -offset * sum);
        }
        for (std::size_t i = n; i < q.values.size(); ++i) CHECK(q.values[i] == 0);
      }
    }
  }
}

TEST("halves are rounded to even numbers") {
  std::vector<float> x(64);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i) - 31.5F;
  x[0] = 127;
  x[32] = -127;
  for (const RowForm form : row_forms) {
    const Quantised q = quantised(x, form);
    for (std::size_t i = 0; i < x.size(); ++i) CHECK(q.values[place(i, form)] == std::nearbyint(x[i]));
  }
}

TEST("a group with a NaN or an infinity has NaN for its scale; zeros and next to nothing are zeros") {
  for (const RowForm form : row_forms) {
    for (const float bad : {NAN, INFINITY, -INFINITY}) {
      for (const std::size_t at : {0, 31, 37, 63}) {
        std::vector<float> x = test::random_floats(64, 1);
        x[at] = bad;
        const Quantised q = quantised(x, form);
        for (std::size_t g = 0; g < q.scales.size(); ++g)
          CHECK(std::isnan(q.scales[g]) == (q.scales.size() == 1 || at / 32 == g));
      }
    }
    for (const float small : {0.0F, -0.0F, 1e-40F, -7e-31F}) {
      const Quantised q = quantised(std::vector<float>(64, small), form);
      for (const float scale : q.scales) CHECK(scale == 0.0F);
      for (const std::int8_t value : q.values) CHECK(value == 0);
    }
    const Quantised least = quantised(std::vector<float>(64, 0x1p-100F), form);
    CHECK(least.scales[0] > 0.0F && least.values[5] == 127);
  }
}

// y has a margin, so that a kernel that writes too far is seen here.
std::vector<float> computed(const std::vector<float>& x, std::size_t m, const WeightMatrix& w, int threads,
                            const float* bias = nullptr, const std::vector<float>* addend = nullptr,
                            const Epilogue& epilogue = {}) {
  ThreadTeam team(threads);
  IntegerWorkspace workspace(team, m);
  QuantisedBuffer buffer(m, w.columns);
  const RowForm form = row_form(w);
  for (std::size_t r = 0; r < m; ++r) buffer.quantise(&x[r * w.columns], w.columns, form, r);
  const std::size_t stride = w.rows + 3;
  std::vector<float> y(m * stride, -7.0F);
  if (addend != nullptr) {
    for (std::size_t r = 0; r < m; ++r) {
      for (std::size_t c = 0; c < w.rows; ++c) y[r * stride + c] = (*addend)[r * w.rows + c];
    }
  }
  linear(buffer.rows(m, w.columns, form), {nullptr, 0, m, bias, addend != nullptr, y.data(), stride}, w, team,
         workspace, features(), epilogue);
  std::vector<float> packed;
  for (std::size_t r = 0; r < m; ++r) {
    packed.insert(packed.end(), y.begin() + r * stride, y.begin() + r * stride + w.rows);
    for (std::size_t c = w.rows; c < stride; ++c) CHECK(y[r * stride + c] == -7.0F);
  }
  return packed;
}

int weight(const WeightMatrix& w, std::size_t n, std::size_t k) {
  const std::size_t i = n * w.columns + k;
  if (w.type == DataType::int8) return static_cast<std::int8_t>(w.values[i]);
  const unsigned nibble = static_cast<unsigned>(w.values[i / 2]) >> (i % 2 * 4) & 15U;
  return nibble >= 8 ? static_cast<int>(nibble) - 16 : static_cast<int>(nibble);
}

float scale_at(const std::byte* scales, std::size_t i) {
  float value = 0;
  std::memcpy(&value, scales + 4 * i, 4);
  return value;
}
double half_at(const std::byte* scales, std::size_t i) {
  std::uint16_t bits = 0;
  std::memcpy(&bits, scales + 2 * i, 2);
  return test::half_value(bits);
}

// The result that integer_sums.h describes, one element by plain loops.
float expected(const Quantised& x, const WeightMatrix& w, std::size_t n) {
  const RowForm form = row_form(w);
  const std::size_t size = form == RowForm::whole ? w.columns : 32;
  float total = 0;
  for (std::size_t b = 0; b * size < w.columns; ++b) {
    std::int64_t sum = 0;
    for (std::size_t k = b * size; k < std::min((b + 1) * size, w.columns); ++k)
      sum += weight(w, n, k) * x.values[place(k, form)];
    const auto exact = static_cast<float>(sum);
    float scale = x.scales[b];
    if (w.type == DataType::int4) scale *= static_cast<float>(half_at(w.scales, n * (w.columns / 32) + b));
    if (features() == Features{} || form == RowForm::whole) {
      const float product = exact * scale;  // two roundings there
      total += product;
    } else {
      total = std::fma(exact, scale, total);
    }
  }
  return w.type == DataType::int8 ? total * scale_at(w.scales, n) : total;
}

// int8 weights beside rows with one scale, and beside blocks; int4 weights.
struct Kind {
  DataType type;
  ScaleGroup activations;
};
constexpr Kind kinds[] = {{DataType::int8, ScaleGroup::row},
                          {DataType::int8, ScaleGroup::block},
                          {DataType::int4, ScaleGroup::block}};

test::RandomWeights random_weights(const Kind& kind, std::size_t n, std::size_t k, unsigned seed) {
  test::RandomWeights w(kind.type, n, k, seed);
  w.matrix.activations = kind.activations;
  return w;
}

const std::vector<Shape> shapes = {{1, 1, 1},    {1, 7, 5},     {2, 50, 33},   {3, 13, 8},    {4, 49, 97},
                                   {5, 3, 100},  {6, 100, 64},  {7, 97, 1030}, {9, 48, 2049}, {16, 5, 31},
                                   {17, 1, 72},  {30, 10, 40},  {33, 145, 96}, {2, 4, 1024},  {18, 70, 2080},
                                   {19, 64, 61}, {23, 130, 257}};

TEST("integer sums are exact: every element is what plain loops give, to the last bit") {
  for (const Kind& kind : kinds) {
    for (Shape shape : shapes) {
      if (kind.type == DataType::int4) shape.k = (shape.k + 31) / 32 * 32;
      const test::RandomWeights w = random_weights(kind, shape.n, shape.k, 11);
      const std::vector<float> x = test::random_floats(shape.m * shape.k, 12);
      const std::vector<float> y = computed(x, shape.m, w.matrix, 2);
      for (std::size_t r = 0; r < shape.m; ++r) {
        const std::vector<float> row(&x[r * shape.k], &x[r * shape.k] + shape.k);
        const Quantised q = quantised(row, row_form(w.matrix));
        for (std::size_t c = 0; c < shape.n; ++c) CHECK(y[r * shape.n + c] == expected(q, w.matrix, c));
      }
    }
  }
}

// A layer scale of 1 changes nothing, and makes few rows go the way of many.
TEST("any number of rows taken past panels of weights is summed exactly") {
  for (const Kind& kind : kinds) {
    for (std::size_t m = 1; m <= 26; ++m) {
      const std::size_t n = m % 3 == 0 ? 65 : 23;
      const std::size_t k = m % 4 == 1 ? 1056 : kind.type == DataType::int4 ? 96 : 72 + m;
      const test::RandomWeights w = random_weights(kind, n, k, 51);
      const std::vector<float> x = test::random_floats(m * k, 52);
      const std::vector<float> ones(n, 1.0F);
      const std::vector<float> y = computed(x, m, w.matrix, 1, nullptr, nullptr, {false, ones.data()});
      for (std::size_t r = 0; r < m; ++r) {
        const std::vector<float> row(&x[r * k], &x[r * k] + k);
        const Quantised q = quantised(row, row_form(w.matrix));
        for (std::size_t c = 0; c < n; ++c) CHECK(y[r * n + c] == expected(q, w.matrix, c));
      }
    }
  }
}

TEST("a quantised layer is within the bound that the activations' scales give of a plain fp64 loop") {
  for (const Kind& kind : kinds) {
    for (const Shape shape : {Shape{3, 40, 896}, Shape{21, 70, 1312}}) {
      const test::RandomWeights w = random_weights(kind, shape.n, shape.k, 15);
      const std::vector<float> x = test::random_floats(shape.m * shape.k, 16);
      const std::vector<float> bias = test::random_floats(shape.n, 17);
      const std::vector<float> addend = test::random_floats(shape.m * shape.n, 18);
      const std::vector<float> y = computed(x, shape.m, w.matrix, 2, bias.data(), &addend);
      const std::size_t group = kind.activations == ScaleGroup::block ? 32 : shape.k;
      for (std::size_t r = 0; r < shape.m; ++r) {
        for (std::size_t c = 0; c < shape.n; ++c) {
          double sum = static_cast<double>(bias[c]) + addend[r * shape.n + c];
          double bound = 0;
          double size = std::abs(sum);
          for (std::size_t begin = 0; begin < shape.k; begin += group) {
            double greatest = 0;
            for (std::size_t k = begin; k < std::min(begin + group, shape.k); ++k)
              greatest = std::max(greatest, std::abs(static_cast<double>(x[r * shape.k + k])));
            for (std::size_t k = begin; k < std::min(begin + group, shape.k); ++k) {
              const double product = x[r * shape.k + k] * w.exact[c * shape.k + k];
              sum += product;
              size += std::abs(product);
              // Half a step of rounding, and its own small error.
              bound += (0.5 + 1e-4) * greatest / 127 * std::abs(w.exact[c * shape.k + k]);
            }
          }
          const double chain = 2.0 * static_cast<double>(shape.k) / 32 + 6;
          CHECK(std::abs(y[r * shape.n + c] - sum) <= bound + chain * unit * (size + bound));
        }
      }
    }
  }
}

TEST("a row of the result is the same bits whatever the other rows and the number of threads") {
  for (const Kind& kind : kinds) {
    for (const Shape shape : {Shape{655, 53, 96}, Shape{21, 131, 1056}, Shape{40, 20, 4864}}) {
      const auto [rows, n, k] = shape;
      const test::RandomWeights w = random_weights(kind, n, k, 21);
      const std::vector<float> x = test::random_floats(rows * k, 22);
      const std::vector<float> bias = test::random_floats(n, 23);
      const std::vector<float> all = computed(x, rows, w.matrix, 3, bias.data());
      for (const std::size_t m : {1, 2, 3, 4, 5, 8, 15, 16, 17}) {
        for (const std::size_t first : {std::size_t{1}, rows - m}) {
          const std::vector<float> some(x.begin() + first * k, x.begin() + (first + m) * k);
          const std::vector<float> y = computed(some, m, w.matrix, 1, bias.data());
          CHECK(std::memcmp(y.data(), &all[first * n], m * n * sizeof(float)) == 0);
        }
      }
    }
  }
}

TEST("bias, GELU, layer scale and addend follow a sum in that order, for few rows as for many") {
  for (const Kind& kind : kinds) {
    for (Shape shape : shapes) {
      if (kind.type == DataType::int4) shape.k = (shape.k + 31) / 32 * 32;
      const auto [m, n, k] = shape;
      const test::RandomWeights w = random_weights(kind, n, k, 41);
      // Small, so that sums lie where GELU is neither 0 nor its argument.
      const std::vector<float> x = test::random_floats(m * k, 42, 0.1F);
      const std::vector<float> bias = test::random_floats(n, 43);
      const std::vector<float> factors = test::random_floats(n, 44);
      const std::vector<float> addend = test::random_floats(m * n, 45);
      for (const bool gelu : {false, true}) {
        for (const bool scaled : {false, true}) {
          for (const bool added : {false, true}) {
            const Epilogue epilogue{gelu, scaled ? factors.data() : nullptr};
            const std::vector<float> y =
                computed(x, m, w.matrix, 2, bias.data(), added ? &addend : nullptr, epilogue);
            for (std::size_t r = 0; r < m; ++r) {
              const std::vector<float> row(&x[r * k], &x[r * k] + k);
              const Quantised q = quantised(row, row_form(w.matrix));
              for (std::size_t c = 0; c < n; ++c) {
                const double sum = expected(q, w.matrix, c);
                double value = sum + bias[c];
                // One rounding of the sum, the GELU's own error (see gelu.h), and a rounding for each step.
                double bound = unit * (std::abs(sum) + std::abs(bias[c]));
                if (gelu) {
                  const double a = std::abs(value);
                  const double tail = a * 0.5 * std::erfc(a / std::sqrt(2.0));
                  value *= 0.5 * std::erfc(-value / std::sqrt(2.0));
                  bound = 1.13 * bound + unit * ((a * a / 2 + 40) * tail + 2 * std::abs(value));
                }
                if (scaled) {
                  value *= factors[c];
                  bound = bound * std::abs(factors[c]) + unit * std::abs(value);
                }
                if (added) {
                  value += addend[r * n + c];
                  bound += unit * (std::abs(value) + bound);
                }
                CHECK(std::abs(y[r * n + c] - value) <= bound * (1 + 1e-6) + 1e-38);
              }
            }
            // The last row alone, on one thread: the same bits.
            const std::vector<float> last(x.end() - static_cast<std::ptrdiff_t>(k), x.end());
            const std::vector<float> last_addend(addend.end() - static_cast<std::ptrdiff_t>(n), addend.end());
            const std::vector<float> alone =
                computed(last, 1, w.matrix, 1, bias.data(), added ? &last_addend : nullptr, epilogue);
            CHECK(std::memcmp(alone.data(), &y[(m - 1) * n], n * sizeof(float)) == 0);
          }
        }
      }
    }
  }
}

// Products of bytes are added in 16 bits on some processors: the greatest that there are must not saturate.
TEST("the most extreme weights and activations, of all signs, are summed exactly") {
  constexpr std::size_t n = 12;
  for (const Kind& kind : kinds) {
    for (const std::size_t k :
         {std::size_t{64}, std::size_t{1184}, std::size_t{8192}, most_integer_columns}) {
      if (kind.type == DataType::int4 && k > 8192) continue;
      test::RandomWeights w = random_weights(kind, n, k, 1);
      for (std::size_t row = 0; row < n; ++row) {
        for (std::size_t i = 0; i < k; ++i) {
          // All least, all greatest, alternating by one, two, four.
          const bool least = row % 6 == 0 || (row % 6 > 1 && (i >> (row % 6 - 2)) % 2 == 0);
          if (kind.type == DataType::int8) {
            w.values_bytes[row * k + i] = static_cast<std::byte>(least ? -128 : 127);
          } else {
            std::byte& both = w.values_bytes[(row * k + i) / 2];
            const int shift = i % 2 == 0 ? 0 : 4;
            both = (both & static_cast<std::byte>(0xF0 >> shift)) |
                   static_cast<std::byte>((least ? 8 : 7) << shift);
          }
        }
      }
      for (const std::size_t m : {std::size_t{1}, std::size_t{4}, std::size_t{17}}) {
        std::vector<float> x(m * k);
        for (std::size_t r = 0; r < m; ++r) {
          for (std::size_t i = 0; i < k; ++i) {
            const bool negative = r % 4 == 1 || (r % 4 > 1 && (i >> (r % 4 - 2)) % 2 == 0);
            x[r * k + i] = negative ? -3.0F : 3.0F;
          }
        }
        const std::vector<float> y = computed(x, m, w.matrix, 1);
        for (std::size_t r = 0; r < m; ++r) {
          const std::vector<float> row(&x[r * k], &x[r * k] + k);
          const Quantised q = quantised(row, row_form(w.matrix));
          CHECK(std::abs(q.values[0]) == 127 && std::abs(q.values[k - 1]) == 127);
          for (std::size_t c = 0; c < n; ++c) CHECK(y[r * n + c] == expected(q, w.matrix, c));
        }
      }
    }
  }
}

TEST("a NaN in one row stays in that row") {
  for (const Kind& kind : kinds) {
    for (const std::size_t m : {6, 18}) {
      const test::RandomWeights w = random_weights(kind, 50, 96, 31);
      std::vector<float> x = test::random_floats(m * 96, 32);
      x[2 * 96 + 95] = NAN;
      const std::vector<float> y = computed(x, m, w.matrix, 2);
      for (std::size_t i = 0; i < y.size(); ++i) CHECK(std::isnan(y[i]) == (i / 50 == 2));
    }
  }
}

// Memory for rows of a gated product, in which every byte that must be written is wrong and every other one
// is known.
struct GatedMemory {
  static constexpr std::byte untouched{0x5A};

  std::vector<std::byte> bytes;
  QuantisedOutput out;

  GatedMemory(std::size_t m, std::size_t inner, RowForm form)
      : bytes(quantised_bytes(m, inner, form), untouched),
        out(quantised_output(bytes.data(), m, inner, form)) {}
};

TEST("a gated row has the bits that products, SiLU and rounding have one after the other") {
  struct Case {
    Kind gate_up;
    RowForm form;  // of what is given to the next matrix
    std::size_t m, inner, k;
  };
  constexpr Kind int8_rows{DataType::int8, ScaleGroup::row};
  constexpr Kind int8_blocks{DataType::int8, ScaleGroup::block};
  constexpr Kind int4{DataType::int4, ScaleGroup::block};
  // Blocks that are whole and not, an odd number of them, more elements of k than a panel spans, and more
  // rows than pass a panel at once.
  const Case cases[] = {
      {int4, RowForm::split_blocks, 1, 32, 64},     {int4, RowForm::split_blocks, 17, 96, 96},
      {int4, RowForm::split_blocks, 33, 224, 1120}, {int4, RowForm::blocks, 18, 100, 32},
      {int4, RowForm::split_blocks, 661, 64, 32},   {int8_blocks, RowForm::blocks, 19, 128, 33},
      {int8_blocks, RowForm::blocks, 40, 75, 1030}, {int8_blocks, RowForm::split_blocks, 6, 160, 8},
      {int8_blocks, RowForm::blocks, 700, 33, 40},  {int8_rows, RowForm::blocks, 21, 97, 100}};
  for (const Case& c : cases) {
    const test::RandomWeights w = random_weights(c.gate_up, 2 * c.inner, c.k, 41);
    const std::vector<float> x = test::random_floats(c.m * c.k, 42, 0.05F);
    const std::vector<float> gates = computed(x, c.m, w.matrix, 1);
    const RowForm x_form = row_form(w.matrix);
    for (const int threads : {1, 3}) {
      ThreadTeam team(threads);
      IntegerWorkspace workspace(team, c.m);
      QuantisedBuffer buffer(c.m, c.k);
      for (std::size_t r = 0; r < c.m; ++r) buffer.quantise(&x[r * c.k], c.k, x_form, r);
      GatedMemory memory(c.m, c.inner, c.form);
      const QuantisedOutput& out = memory.out;
      gated_linear(buffer.rows(c.m, c.k, x_form), w.matrix, out, team, workspace);
      const std::size_t written = (c.inner + 63) / 64 * 64;
      for (std::size_t r = 0; r < c.m; ++r) {
        std::vector<float> gated(c.inner);
        const float* const gate = &gates[r * 2 * c.inner];
        activation_kernels(features()).silu_multiply(gate, gate + c.inner, c.inner, gated.data());
        const Quantised wanted = quantised(gated, c.form);
        CHECK(std::equal(wanted.values.begin(), wanted.values.end(), out.values + r * out.stride));
        CHECK(std::equal(wanted.scales.begin(), wanted.scales.end(), out.scales + r * out.groups));
        CHECK(std::equal(wanted.starts.begin(), wanted.starts.end(), out.starts + r * out.groups));
        for (std::size_t i = written; i < out.stride; ++i)
          CHECK(std::byte(out.values[r * out.stride + i]) == GatedMemory::untouched);
      }
      // Rows that only fill up a group belong to nobody.
      const auto* const end = reinterpret_cast<const std::byte*>(out.values + c.m * out.stride);
      const auto* const scales = reinterpret_cast<const std::byte*>(out.scales);
      CHECK(std::all_of(end, scales, [](std::byte b) { return b == GatedMemory::untouched; }));
    }
  }
}

TEST("a NaN in one row of a gated product stays in that row") {
  const test::RandomWeights w = random_weights({DataType::int4, ScaleGroup::block}, 128, 64, 43);
  std::vector<float> x = test::random_floats(std::size_t{20} * 64, 44);
  x[3 * 64 + 7] = NAN;
  ThreadTeam team(2);
  IntegerWorkspace workspace(team, 20);
  QuantisedBuffer buffer(20, 64);
  for (std::size_t r = 0; r < 20; ++r) buffer.quantise(&x[r * 64], 64, RowForm::split_blocks, r);
  GatedMemory memory(20, 64, RowForm::split_blocks);
  gated_linear(buffer.rows(20, 64, RowForm::split_blocks), w.matrix, memory.out, team, workspace);
  for (std::size_t i = 0; i < 40; ++i) CHECK(std::isnan(memory.out.scales[i]) == (i / 2 == 3));
}

}  // namespace
}  // namespace internvl

int main() { return internvl::test::run_all(); }
