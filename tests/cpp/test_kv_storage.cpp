#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <fstream>

#include "check.h"
#include "kernels/attention/attention.h"
#include "ops/cpu/kv_storage.h"

namespace internvl {
namespace {

constexpr std::size_t layers = 2;
constexpr std::size_t kv_heads = 2;
constexpr std::size_t head_dim = 8;

ThreadTeam& team() {
  static ThreadTeam two(2);
  return two;
}

// Values of two neighbouring tokens lie beside each other.
constexpr std::size_t width = value_width(head_dim);

TokenRows row_of(const float* key, const float* value) { return {key, value, head_dim, 1, head_dim}; }

KvStorage storage_of(CacheType type) { return {{type, layers, 4, kv_heads, head_dim, 2}, team()}; }

TEST("every place of a block has keys and values of its own, and a copy has all of them") {
  KvStorage storage = storage_of(CacheType::float32);
  const auto mark = [](std::size_t slot, std::size_t layer, std::size_t head, std::size_t d) {
    return static_cast<float>(((slot * layers + layer) * kv_heads + head) * head_dim + d + 1);
  };
  for (std::size_t slot = 0; slot < cache_block; ++slot) {
    for (std::size_t layer = 0; layer < layers; ++layer) {
      for (std::size_t head = 0; head < kv_heads; ++head) {
        float key[head_dim];
        float value[head_dim];
        for (std::size_t d = 0; d < head_dim; ++d) {
          key[d] = mark(slot, layer, head, d);
          value[d] = -key[d];
        }
        storage.write(0, slot, layer, head, row_of(key, value));
      }
    }
  }
  storage.copy({0, 1});
  for (const BlockId block : {0, 1}) {
    for (std::size_t layer = 0; layer < layers; ++layer) {
      for (std::size_t head = 0; head < kv_heads; ++head) {
        const auto* keys = reinterpret_cast<const float*>(storage.head(block, layer, head));
        const float* values = keys + head_dim * cache_block;
        for (std::size_t slot = 0; slot < cache_block; ++slot) {
          for (std::size_t d = 0; d < head_dim; ++d) {
            CHECK(keys[d * cache_block + slot] == mark(slot, layer, head, d));
            CHECK(values[slot * width + d] == -mark(slot, layer, head, d));
          }
        }
      }
    }
  }
}

TEST("storage of impossible size, heads that no kernel takes and unknown types are typed errors") {
  const auto made = [](const CacheShape& shape) { const KvStorage storage(shape, team()); };
  CHECK_THROWS(DeviceError, made({CacheType::float32, 1000, 1000, 1000, 256, std::size_t{1} << 40}));
  // More than any address space has, and less than a number holds.
  CHECK_THROWS(DeviceError, made({CacheType::float32, 100, 1, 1, 256, std::size_t{1} << 31}));
  CHECK_THROWS(DeviceError, made({CacheType::float32, 1, 1, 1, 8, 0}));
  CHECK_THROWS(BundleError, made({CacheType::float32, 1, 1, 1, 12, 1}));
  CHECK_THROWS(BundleError, made({CacheType::float32, 1, 1, 1, most_head_dim + 8, 1}));
  CHECK_THROWS(PromptError, cache_type_from("int3"));
}

std::size_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::size_t size = 0;
  std::size_t resident = 0;
  file >> size >> resident;
  return resident * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

TEST("all of a cache's memory is taken when it is made, and given back with it") {
  if (std::getenv("INTERNVL_TEST_EMULATED") != nullptr) return;  // qemu passes no advice on to the system
  constexpr std::size_t bytes = std::size_t{200} << 20U;
  const std::size_t before = resident_bytes();
  {
    const std::size_t blocks = bytes / (2 * sizeof(float) * layers * kv_heads * head_dim * cache_block);
    const KvStorage storage({CacheType::float32, layers, 4, kv_heads, head_dim, blocks}, team());
    CHECK(resident_bytes() - before > bytes / 10 * 9);
  }
  CHECK(resident_bytes() < before + bytes / 10);
}

TEST("bfloat16 rounds to the nearest, ties to even, and keeps NaN and infinity") {
  KvStorage storage = storage_of(CacheType::bfloat16);
  const float key[head_dim] = {1.0F,     1.00390625F, 1.01171875F, 1.00390637F,
                               -3.0e38F, INFINITY,    NAN,         1.5e-38F};
  const float wanted[head_dim] = {1.0F, 1.0F, 1.015625F, 1.0078125F, -2.99e38F, INFINITY, NAN, 1.5e-38F};
  storage.write(1, 0, 0, 0, row_of(key, key));
  const auto* stored = reinterpret_cast<const std::uint16_t*>(storage.head(1, 0, 0));
  for (std::size_t d = 0; d < head_dim; ++d) {
    const std::uint32_t bits = static_cast<std::uint32_t>(stored[d / 2 * cache_block * 2 + d % 2]) << 16;
    float value = 0;
    __builtin_memcpy(&value, &bits, sizeof(value));
    if (wanted[d] != wanted[d]) {
      CHECK(value != value);
    } else if (d == 4 || d == 7) {
      CHECK(value > wanted[d] * (wanted[d] > 0 ? 0.99F : 1.01F) &&
            value < wanted[d] * (wanted[d] > 0 ? 1.01F : 0.99F));
    } else {
      CHECK(value == wanted[d]);
    }
  }
}

TEST("float16 rounds to the nearest, ties to even, and ends at its greatest number") {
  KvStorage storage = storage_of(CacheType::float16);
  // 1 + 2^-11 lies between 1 and the next; 2^-25 between 0 and the least; 65519.99 below infinity.
  const float key[head_dim] = {1.0F, 1.00048828125F, -1.00146484375F, 0x1p-25F, 0x1.8p-24F, 1e9F,
                               NAN,  0x1.ffep-15F};
  const std::uint16_t wanted[head_dim] = {0x3C00, 0x3C00, 0xBC02, 0, 2, 0x7BFF, 0x7E00, 0x0400};
  const float value[head_dim] = {65519.0F,      -INFINITY, -0.0F,   0.333333F,
                                 6.1035156e-5F, 2049.0F,   2051.0F, -5.9604645e-8F};
  const std::uint16_t wanted_values[head_dim] = {0x7BFF, 0xFBFF, 0x8000, 0x3555,
                                                 0x0400, 0x6800, 0x6802, 0x8001};
  storage.write(1, 0, 0, 0, row_of(key, value));
  const auto* stored = reinterpret_cast<const std::uint16_t*>(storage.head(1, 0, 0));
  for (std::size_t d = 0; d < head_dim; ++d) {
    CHECK(stored[d * cache_block] == wanted[d]);
    CHECK(stored[head_dim * cache_block + d] == wanted_values[d]);
  }
}

TEST("int8 keys and values are within half a step of one scale for each token and head") {
  KvStorage storage = storage_of(CacheType::int8);
  const float rows[3][head_dim] = {{1.0F, -2.54F, 0.01F, 0.03F, 2.0F, -0.011F, 1.27F, 0.0F},
                                   {3e30F, 1e30F, -3e30F, 0, 0, 0, 1e28F, 2e28F},
                                   {0, 0, 0, 0, 0, 0, 0, 1e-38F}};
  const BlockId block = 1;
  for (std::size_t slot = 0; slot < 3; ++slot)
    storage.write(block, slot, 1, 1, row_of(rows[slot], rows[2 - slot]));
  const auto* keys = reinterpret_cast<const std::int8_t*>(storage.head(block, 1, 1));
  const std::int8_t* values = keys + head_dim * cache_block;
  const auto* scales = reinterpret_cast<const float*>(values + width * cache_block);
  for (std::size_t slot = 0; slot < 3; ++slot) {
    for (std::size_t d = 0; d < head_dim; ++d) {
      const float key = rows[slot][d];
      const float value = rows[2 - slot][d];
      const float key_scale = scales[slot];
      const float value_scale = scales[cache_block + slot];
      CHECK(std::abs(static_cast<float>(keys[(d / 2 * cache_block + slot) * 2 + d % 2]) * key_scale - key) <=
            0.50001F * key_scale + 0x1p-100F);
      CHECK(std::abs(static_cast<float>(values[(slot / 2 * width + d) * 2 + slot % 2]) * value_scale -
                     value) <= 0.50001F * value_scale + 0x1p-100F);
    }
  }
  CHECK(keys[1] == -127 && scales[0] == 2.54F / 127.0F && scales[2] == 0.0F);
  float bad[head_dim] = {1, 2, 3, 4, 5, 6, 7, NAN};
  storage.write(block, 0, 1, 1, row_of(bad, rows[0]));
  CHECK(std::isnan(scales[0]) && !std::isnan(scales[cache_block]));
  bad[7] = -INFINITY;
  storage.write(block, 1, 1, 1, row_of(rows[0], bad));
  CHECK(std::isnan(scales[cache_block + 1]) && !std::isnan(scales[1]));
}

}  // namespace
}  // namespace internvl

int main() { return internvl::test::run_all(); }
