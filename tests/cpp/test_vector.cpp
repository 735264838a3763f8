// The vector layer has no code of its own outside of kernels: this test is compiled once per instruction set,
// as they are.
#include <cmath>
#include <cstring>
#include <vector>

#include "check.h"
#include "random_weights.h"
#include "vector_cases.h"

namespace internvl {
namespace {

const VectorCases& cases() { return vector_cases(features()); }

TEST("exp is within two units in the last place, and saturates at its ends") {
  std::vector<float> x;
  for (float value = -87.0F; value <= 88.0F; value += 0.0037F) x.push_back(value);
  for (int i = -300; i <= 300; ++i)
    x.push_back(static_cast<float>(i) * 0.34657359F / 300);  // one octave, finely
  x.insert(x.end(), {0.0F, -0.0F, 1e-30F, -87.0F, 88.0F});
  while (x.size() % 8 != 0) x.push_back(0.5F);
  std::vector<float> y(x.size());
  for (std::size_t i = 0; i < x.size(); i += 8) cases().exp(&x[i], &y[i]);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double exact = std::exp(static_cast<double>(x[i]));
    CHECK(std::abs(y[i] - exact) <= 2 * std::ldexp(1.0, std::ilogb(exact) - 23));
  }
  const float inf = INFINITY;
  const float odd[8] = {-87.1F, -1000.0F, -inf, 88.1F, 1e9F, inf, NAN, 0.0F};
  float out[8];
  cases().exp(odd, out);
  CHECK(out[0] == 0.0F && out[1] == 0.0F && out[2] == 0.0F);
  CHECK(out[3] == out[4] && out[4] == out[5] && std::isfinite(out[5]) && out[5] > 1.6e38F);
  CHECK(std::isnan(out[6]) && out[7] == 1.0F);
}

TEST("gelu is x Phi(x) within its rounding bound, in the tail too, and right at its ends") {
  std::vector<float> x;
  for (float value = -13.0F; value <= 20.0F; value += 0.0013F) x.push_back(value);
  x.insert(x.end(), {0.0F, -0.0F, 1e-30F, -1e-30F, 1e-6F, -1e-6F, 3e38F, 1e5F});
  while (x.size() % 8 != 0) x.push_back(-0.5F);
  std::vector<float> y(x.size());
  for (std::size_t i = 0; i < x.size(); i += 8) cases().gelu(&x[i], &y[i]);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double a = std::abs(static_cast<double>(x[i]));
    const double tail = a * 0.5 * std::erfc(a / std::sqrt(2.0));
    const double exact = x[i] > 0 ? x[i] - tail : -tail;
    // The exponent's rounding counts a^2 / 2 times; exp has 4 units, the quotient's polynomials a product and
    // a sum for each of nine coefficients and their own rounding, the products 3, the last difference 1.
    const double bound = (a * a / 2 + 32) * tail + 2 * std::abs(exact);
    CHECK(std::abs(y[i] - exact) <= bound * std::ldexp(1.0, -24) + 1e-36);
  }
  const float odd[8] = {-14.5F, -1e30F, -INFINITY, INFINITY, NAN, 0.0F, -0.0F, 40.0F};
  float out[8];
  cases().gelu(odd, out);
  for (const int i : {0, 1, 2, 5, 6}) CHECK(out[i] == 0.0F);
  CHECK(out[3] == INFINITY && std::isnan(out[4]) && out[7] == 40.0F);
}

TEST("partial loads and stores touch the first elements alone") {
  for (std::size_t count = 0; count <= 8; ++count) {
    const std::vector<float> floats = test::random_floats(count, 1);
    // Exactly `count` elements of memory: the sanitizers see a step too far.
    std::vector<float> out(count, -1.0F);
    cases().copy_part(floats.data(), count, out.data());
    for (std::size_t i = 0; i < count; ++i) CHECK(out[i] == floats[i]);
    float lanes[8];
    const std::vector<std::int8_t> bytes(count, std::int8_t{-5});
    cases().load_int8_part(bytes.data(), count, lanes);
    for (std::size_t i = 0; i < 8; ++i) CHECK(lanes[i] == (i < count ? -5.0F : 0.0F));
    const std::vector<Float16> halves(count, Float16{0x3C00});
    cases().load_float16_part(halves.data(), count, lanes);
    for (std::size_t i = 0; i < 8; ++i) CHECK(lanes[i] == (i < count ? 1.0F : 0.0F));
  }
}

TEST("every half, every bfloat16 and every int8 loads as its own value") {
  for (unsigned bits = 0; bits < 65536; bits += 8) {
    Float16 halves[8];
    BFloat16 brains[8];
    for (unsigned i = 0; i < 8; ++i) {
      halves[i].bits = static_cast<std::uint16_t>(bits + i);
      brains[i].bits = static_cast<std::uint16_t>(bits + i);
    }
    float out[8];
    cases().load_float16(halves, out);
    for (unsigned i = 0; i < 8; ++i) {
      if ((halves[i].bits & 0x7C00) == 0x7C00) {  // infinities and NaN
        CHECK((halves[i].bits & 0x3FF) == 0 ? std::isinf(out[i]) : std::isnan(out[i]));
      } else {
        CHECK(out[i] == test::half_value(halves[i].bits));
      }
      CHECK(std::signbit(out[i]) == ((halves[i].bits & 0x8000) != 0) || std::isnan(out[i]));
    }
    cases().load_bfloat16(brains, out);
    for (unsigned i = 0; i < 8; ++i) {
      const auto value = static_cast<float>(test::bfloat_value(brains[i].bits));
      CHECK(out[i] == value || (std::isnan(out[i]) && std::isnan(value)));
    }
  }
  for (int first = -128; first < 128; first += 8) {
    std::int8_t bytes[8];
    float out[8];
    for (int i = 0; i < 8; ++i) bytes[i] = static_cast<std::int8_t>(first + i);
    cases().load_int8(bytes, out);
    for (int i = 0; i < 8; ++i) CHECK(out[i] == static_cast<float>(first + i));
  }
}

TEST("sums of lanes are taken by the one tree, alone and in fours") {
  const std::vector<float> x = test::random_floats(32, 3);
  float alone[4];
  float together[4];
  for (int i = 0; i < 4; ++i) {
    const float* v = &x[8 * static_cast<std::size_t>(i)];
    alone[i] = cases().reduce_add(v);
    CHECK(alone[i] == ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7])));
    float greatest = v[0];
    for (int j = 1; j < 8; ++j) greatest = std::max(greatest, v[j]);
    CHECK(cases().reduce_max(v) == greatest);
  }
  cases().reduce_add4(x.data(), together);
  CHECK(std::memcmp(alone, together, sizeof(alone)) == 0);
}

}  // namespace
}  // namespace internvl

int main() { return internvl::test::run_all(); }
