// The small steps between the matrices: RMSNorm, rotation, SiLU.
#include <algorithm>
#include <cmath>
#include <vector>

#include "check.h"
#include "kernels/activation/activation.h"
#include "kernels/norm/norm.h"
#include "kernels/rope/rope.h"
#include "model/rope_table.h"
#include "random_weights.h"

namespace internvl {
namespace {

const double unit = std::ldexp(1.0, -24);

TEST("rms_norm is within its rounding bound, in place and at any length") {
  const NormKernels& kernels = norm_kernels(features());
  for (const std::size_t n : {1, 7, 8, 9, 64, 100, 896, 4097}) {
    for (const float size : {1e-3F, 1.0F, 1e3F}) {
      std::vector<float> x = test::random_floats(n, 1, size);
      const std::vector<float> weight = test::random_floats(n, 2);
      double squares = 0;
      for (const float value : x) squares += static_cast<double>(value) * value;
      const double factor = 1 / std::sqrt(squares / static_cast<double>(n) + 1e-6);
      const std::vector<float> before = x;
      kernels.rms_norm(x.data(), weight.data(), n, 1e-6F, x.data());
      // Half of the sum's error (a lane adds n / 8 squares, each rounding at most twice), then five
      // roundings.
      const double bound = (static_cast<double>(n) / 8 + 3 + 8) * unit;
      for (std::size_t i = 0; i < n; ++i) {
        const double exact = before[i] * factor * weight[i];
        CHECK(std::abs(x[i] - exact) <= bound * std::abs(exact) + 1e-37);
      }
    }
  }
}

TEST("layer_norm is within its rounding bound, in place, at any length and about a large mean") {
  const NormKernels& kernels = norm_kernels(features());
  for (const std::size_t n : {1, 2, 7, 8, 9, 64, 100, 1024, 3203, 12800}) {
    for (const float mean : {0.0F, 5.0F, -1000.0F}) {
      std::vector<float> x = test::random_floats(n, 1, 2.0F);
      for (float& value : x) value += mean;
      const std::vector<float> weight = test::random_floats(n, 2);
      const std::vector<float> bias = test::random_floats(n, 3);
      double sum = 0;
      double size = 0;
      for (const float value : x) {
        sum += value;
        size += std::abs(value);
      }
      const auto count = static_cast<double>(n);
      const double center = sum / count;
      double squares = 0;
      for (const float value : x) squares += (value - center) * (value - center);
      const double deviation = std::sqrt(squares / count + 1e-6);
      const std::vector<float> before = x;
      kernels.layer_norm(x.data(), weight.data(), bias.data(), n, 1e-6F, x.data());
      // A lane adds n / 8 values. The mean's error shifts every difference, and enters the variance only
      // squared.
      const double shift = (count / 8 + 5) * unit * size / count;
      const double factor = (count / 8 + 12) * unit + shift * shift / (deviation * deviation);
      for (std::size_t i = 0; i < n; ++i) {
        const double value = (before[i] - center) / deviation * weight[i];
        const double bound = factor * std::abs(value) + shift / deviation * std::abs(weight[i]) +
                             2 * unit * (std::abs(value) + std::abs(bias[i])) +
                             unit * std::abs(center) / deviation * std::abs(weight[i]);
        CHECK(std::abs(x[i] - (value + bias[i])) <= bound + 1e-37);
      }
    }
  }
}

TEST("silu times up is within eight units in the last place, and right at its ends") {
  const ActivationKernels& kernels = activation_kernels(features());
  std::vector<float> gate = test::random_floats(997, 1, 6.0F);
  const std::vector<float> up = test::random_floats(997, 2);
  gate[0] = 0;
  gate[1] = 90;
  gate[2] = -80;
  std::vector<float> out(gate.size());
  for (const std::size_t n : {std::size_t{5}, std::size_t{8}, gate.size()}) {
    kernels.silu_multiply(gate.data(), up.data(), n, out.data());
    for (std::size_t i = 0; i < n; ++i) {
      const double exact = gate[i] / (1 + std::exp(-static_cast<double>(gate[i]))) * up[i];
      CHECK(std::abs(out[i] - exact) <= 16 * unit * std::abs(exact) + 1e-37);
    }
  }
  const float ends[4] = {-1e4F, -89.0F, 1e4F, NAN};
  const float ones[4] = {1, 1, 1, 1};
  kernels.silu_multiply(ends, ones, 4, out.data());
  CHECK(std::abs(out[0]) < 1e-33F && std::abs(out[1]) < 1e-35F && out[2] == 1e4F && std::isnan(out[3]));
}

TEST("rotation turns pairs of halves by position times frequency") {
  const RopeKernels& kernels = rope_kernels(features());
  for (const std::size_t d : {8, 24, 64, 128, 256}) {
    RopeTable table({1e6, false, 1.0, 4096}, d);
    std::vector<float> cosines(3 * d / 2);
    std::vector<float> sines(3 * d / 2);
    for (const std::size_t first : {0, 5, 1023, 20000}) {
      table.fill(first, 3, first + 3, cosines.data(), sines.data());
      for (std::size_t p = 0; p < 3; ++p) {
        std::vector<float> heads = test::random_floats(2 * d, 1);
        const std::vector<float> before = heads;
        kernels.rotate(heads.data(), 2, d, &cosines[p * d / 2], &sines[p * d / 2]);
        for (std::size_t h = 0; h < 2; ++h) {
          for (std::size_t j = 0; j < d / 2; ++j) {
            const double a = before[h * d + j];
            const double b = before[h * d + j + d / 2];
            const double angle = static_cast<double>(first + p) *
                                 std::pow(1e6, -2.0 * static_cast<double>(j) / static_cast<double>(d));
            const double bound = 4 * unit * (std::abs(a) + std::abs(b));
            CHECK(std::abs(heads[h * d + j] - (a * std::cos(angle) - b * std::sin(angle))) <= bound);
            CHECK(std::abs(heads[h * d + j + d / 2] - (b * std::cos(angle) + a * std::sin(angle))) <= bound);
          }
        }
      }
    }
  }
}

TEST("dynamic scaling changes the base beyond the trained length, and only there") {
  const std::size_t d = 128;
  RopeTable plain({1e6, false, 1.0, 32768}, d);
  RopeTable dynamic({1e6, true, 2.0, 32768}, d);
  std::vector<float> a(d / 2);
  std::vector<float> b(d / 2);
  std::vector<float> sines(d / 2);
  plain.fill(1000, 1, 32768, a.data(), sines.data());
  dynamic.fill(1000, 1, 32768, b.data(), sines.data());
  CHECK(a == b);
  dynamic.fill(1000, 1, 65536, b.data(), sines.data());
  // theta 1e6, factor 2, twice the trained length, d 128: base 3.0528e6.
  for (std::size_t j = 0; j < d / 2; ++j) {
    const double angle = 1000 * std::pow(3.0528e6, -2.0 * static_cast<double>(j) / 128);
    CHECK(std::abs(b[j] - std::cos(angle)) < 1e-3);
  }
  CHECK(std::abs(b[1] - a[1]) > 1e-2);
  dynamic.fill(1000, 1, 1001, b.data(), sines.data());
  CHECK(a == b);
}

}  // namespace
}  // namespace internvl

int main() { return internvl::test::run_all(); }
