// The tile unit: when it may be used, what every parallel region does with it, and its emulation.
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "check.h"
#include "kernels/matmul/bfloat16_gemm.h"
#include "random_weights.h"
#include "runtime/thread_team.h"
#include "runtime/tile_shapes.h"
#include "runtime/tile_unit.h"
#if defined(INTERNVL_EMULATED_AMX)
#include "runtime/emulated_tiles.h"
#endif

namespace internvl {
namespace {

constexpr std::uint32_t all_features = 1U << 22U | 1U << 24U | 1U << 25U;
constexpr std::uint64_t all_registers = 1U << 17U | 1U << 18U;

TEST("the kernel is asked for tiles where the processor has all of AMX and the system saves its registers") {
  int asked = 0;
  const auto grant = [&] {
    ++asked;
    return true;
  };
  for (const std::uint32_t missing : {1U << 22U, 1U << 24U, 1U << 25U, all_features})
    CHECK(tile_unit_of(all_features & ~missing, all_registers, grant) == TileUnit::absent);
  for (const std::uint64_t missing : {1U << 17U, 1U << 18U})
    CHECK(tile_unit_of(all_features, all_registers & ~missing, grant) == TileUnit::refused);
  CHECK(asked == 0);
  CHECK(tile_unit_of(all_features | 1U, all_registers | 7U, grant) == TileUnit::usable && asked == 1);
  CHECK(tile_unit_of(all_features, all_registers, [] { return false; }) == TileUnit::refused);
}

TEST("kernels for tiles are chosen where the unit is usable, and no other") {
  bool amx = false;
  for (const std::string_view set : available_instruction_sets()) amx = amx || set == "amx";
  CHECK(!amx || tile_unit() == TileUnit::usable);
  CHECK(tile_unit() == tile_unit());
}

// The shapes of this thread's tiles; those of no configuration are zero.
TileShapes current_shapes() {
  TileShapes shapes{};
#if defined(INTERNVL_EMULATED_AMX)
  try {
    return emulated_tiles().shapes();
  } catch (const std::logic_error&) {
    shapes.palette = 0;
  }
#elif defined(__x86_64__)
  asm volatile("sttilecfg %0" : "=m"(shapes));
#endif
  return shapes;
}

void set_shapes(const TileShapes& shapes) {
#if defined(INTERNVL_EMULATED_AMX)
  emulated_tiles().configure(shapes);
#elif defined(__x86_64__)
  asm volatile("ldtilecfg %0" : : "m"(shapes));
#else
  static_cast<void>(shapes);
#endif
}

bool same(const TileShapes& a, const TileShapes& b) { return std::memcmp(&a, &b, sizeof(a)) == 0; }

TEST("every parallel region begins with whole tiles and ends with none, whatever another library has set") {
  if (tile_unit() != TileUnit::usable) return;
  TileShapes others;
  others.set(0, {3, 12});
  for (const int threads : {1, 3}) {
    ThreadTeam team(threads);
    for (const std::size_t count : {std::size_t{1}, std::size_t{40}}) {
      for (const bool throws : {false, true}) {
        set_shapes(others);
        std::atomic<int> wrong{0};
        std::atomic<int> done{0};
        try {
          team.for_each_range(count, 1, [&](std::size_t, std::size_t) {
            if (!same(current_shapes(), whole_tiles)) ++wrong;
            ++done;
            if (throws) throw DeviceError("expected");
          });
          CHECK(!throws);
        } catch (const DeviceError&) {
          CHECK(throws);
        }
        CHECK(wrong == 0 && done > 0);
        CHECK(current_shapes().palette == 0);
      }
    }
    std::atomic<int> wrong{0};
    team.run([&](int) {
      if (!same(current_shapes(), whole_tiles)) ++wrong;
    });
    CHECK(wrong == 0 && current_shapes().palette == 0);
  }
}

#if defined(INTERNVL_EMULATED_AMX)

TEST("a kernel outside of a parallel region is an error that the emulation sees") {
  if (!features().has(Feature::amx_bf16)) return;
  const BFloat16GemmKernels& kernels = bfloat16_gemm_kernels(features());
  std::vector<BFloat16> x(16 * 32);
  std::vector<BFloat16> w(16 * 32);
  std::vector<float> sums(16 * most_bfloat16_columns);
  std::vector<float> panel(panel_elements);
  const auto multiply = [&] {
    kernels.multiply(x.data(), 32, 16, w.data(), 32, 16, 32, false, sums.data(),
                     reinterpret_cast<BFloat16*>(panel.data()), w.data());
  };
  CHECK_THROWS(std::logic_error, multiply());
  TileShapes narrow = whole_tiles;
  narrow.set(4, {16, 32});
  emulated_tiles().configure(narrow);
  CHECK_THROWS(std::logic_error, multiply());
  emulated_tiles().release();
  const TileRegion region;
  multiply();
}

TEST("the emulation refuses what the processor does") {
  EmulatedTiles tiles;
  std::uint8_t memory[1024] = {};
  CHECK_THROWS(std::logic_error, tiles.zero(0));
  CHECK_THROWS(std::logic_error, tiles.load(0, memory, 64));
  CHECK_THROWS(std::logic_error, tiles.store(0, memory, 64));
  TileShapes shapes;
  shapes.set(0, {17, 64});
  CHECK_THROWS(std::logic_error, tiles.configure(shapes));
  shapes.set(0, {16, 68});
  CHECK_THROWS(std::logic_error, tiles.configure(shapes));
  shapes = {};
  shapes.set(0, {5, 12});
  shapes.set(1, {5, 8});
  shapes.set(2, {2, 12});
  shapes.set(3, {2, 8});
  tiles.configure(shapes);
  tiles.add_int8_products(0, 1, 2);
  tiles.add_bfloat16_products(0, 1, 2);
  CHECK_THROWS(std::logic_error, tiles.add_int8_products(0, 1, 3));
  CHECK_THROWS(std::logic_error, tiles.add_int8_products(0, 3, 2));
  CHECK_THROWS(std::logic_error, tiles.add_bfloat16_products(3, 1, 2));
  CHECK_THROWS(std::logic_error, tiles.add_bfloat16_products(0, 1, 1));
  CHECK_THROWS(std::logic_error, tiles.zero(7));
  CHECK_THROWS(std::logic_error, tiles.expect(0, 5, 16));
  tiles.expect(0, 5, 12);
  tiles.release();
  CHECK_THROWS(std::logic_error, tiles.zero(0));
}

TEST("emulated products are plain loops, and rows and columns may change their roles") {
  const int m = 7;
  const int n = 11;
  const int k = 32;  // bf16; 64 int8
  std::mt19937 generator(3);
  const auto small = [&] {
    return static_cast<std::uint16_t>((generator() & 0x80FFU) | (120U + generator() % 8) << 7U);
  };
  std::uint16_t x[m][k];
  std::uint16_t w[n][k];
  for (auto& row : x) {
    for (auto& value : row) value = small();
  }
  for (auto& row : w) {
    for (auto& value : row) value = small();
  }
  x[0][0] = 1;  // subnormal: 0
  std::uint16_t words[k / 2][n][2];
  std::uint16_t other_words[k / 2][m][2];
  for (int i = 0; i < k; ++i) {
    for (int c = 0; c < n; ++c) words[i / 2][c][i % 2] = w[c][i];
    for (int r = 0; r < m; ++r) other_words[i / 2][r][i % 2] = x[r][i];
  }
  EmulatedTiles tiles;
  TileShapes shapes;
  shapes.set(0, {m, 4 * n});
  shapes.set(1, {m, 2 * k});
  shapes.set(2, {k / 2, 4 * n});
  shapes.set(3, {n, 4 * m});
  shapes.set(4, {n, 2 * k});
  shapes.set(5, {k / 2, 4 * m});
  tiles.configure(shapes);
  tiles.load(1, x, sizeof(x[0]));
  tiles.load(2, words, sizeof(words[0]));
  tiles.load(4, w, sizeof(w[0]));
  tiles.load(5, other_words, sizeof(other_words[0]));
  tiles.add_bfloat16_products(0, 1, 2);
  tiles.add_bfloat16_products(3, 4, 5);
  float sums[m][n];
  float other_sums[n][m];
  tiles.store(0, sums, sizeof(sums[0]));
  tiles.store(3, other_sums, sizeof(other_sums[0]));
  for (int r = 0; r < m; ++r) {
    for (int c = 0; c < n; ++c) {
      double sum = 0;
      double size = 0;
      for (int i = r == 0 ? 1 : 0; i < k; ++i) {
        sum += test::bfloat_value(x[r][i]) * test::bfloat_value(w[c][i]);
        size += std::abs(test::bfloat_value(x[r][i]) * test::bfloat_value(w[c][i]));
      }
      CHECK(std::abs(sums[r][c] - sum) <= 20 * std::ldexp(size, -24));
      CHECK(std::memcmp(&sums[r][c], &other_sums[c][r], sizeof(float)) == 0);
    }
  }
  tiles.zero(0);
  tiles.add_int8_products(0, 1, 2);
  std::int32_t integers[m][n];
  tiles.store(0, integers, sizeof(integers[0]));
  for (int r = 0; r < m; ++r) {
    for (int c = 0; c < n; ++c) {
      const auto* a = reinterpret_cast<const std::int8_t*>(x[r]);
      const auto* b = reinterpret_cast<const std::int8_t*>(words);
      std::int32_t sum = 0;
      for (int i = 0; i < 2 * k; ++i) sum += a[i] * b[(i / 4 * n + c) * 4 + i % 4];
      CHECK(integers[r][c] == sum);
    }
  }
}

#endif

}  // namespace
}  // namespace internvl

int main() { return internvl::test::run_all(); }
