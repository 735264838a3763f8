#include "runtime/emulated_tiles.h"

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <stdexcept>
#include <string>

namespace internvl {
namespace {

[[noreturn]] void fault(const std::string& what) { throw std::logic_error("emulated AMX: " + what); }

std::string text(int tile) { return "tile " + std::to_string(tile); }

// Subnormal numbers are zeros, as what goes in and as what comes out.
float flushed(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0F, x) : x; }

float wide(const std::uint8_t* p) {
  std::uint16_t bits = 0;
  std::memcpy(&bits, p, sizeof(bits));
  return flushed(std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16U));
}

template <class T>
T read(const std::uint8_t* row, int element) {
  T value;
  std::memcpy(&value, row + sizeof(T) * static_cast<std::size_t>(element), sizeof(T));
  return value;
}
template <class T>
void write(std::uint8_t* row, int element, T value) {
  std::memcpy(row + sizeof(T) * static_cast<std::size_t>(element), &value, sizeof(T));
}

}  // namespace

void EmulatedTiles::configure(const TileShapes& shapes) {
  if (shapes.palette != 1 || shapes.start_row != 0) fault("an impossible configuration.");
  for (int tile = 0; tile < tiles; ++tile) {
    const bool possible = shapes.rows[tile] <= most_tile_rows &&
                          shapes.row_bytes[tile] <= most_tile_row_bytes && shapes.row_bytes[tile] % 4 == 0 &&
                          (shapes.rows[tile] == 0) == (shapes.row_bytes[tile] == 0);
    if (!possible) fault("an impossible shape of " + text(tile) + ".");
  }
  shapes_ = shapes;
  configured_ = true;
  std::memset(data_, 0, sizeof(data_));
}

const TileShapes& EmulatedTiles::shapes() const {
  if (!configured_) fault("there is no configuration.");
  return shapes_;
}

void EmulatedTiles::expect_configured(int tile) const {
  if (!configured_) fault("a kernel uses " + text(tile) + " without a configuration.");
  if (tile < 0 || tile >= tiles || shapes_.rows[tile] == 0) fault(text(tile) + " has no shape.");
}

void EmulatedTiles::expect(int tile, int rows, int row_bytes) const {
  expect_configured(tile);
  if (shapes_.rows[tile] != rows || shapes_.row_bytes[tile] != row_bytes) {
    fault("a kernel takes " + text(tile) + " for " + std::to_string(rows) + " rows of " +
          std::to_string(row_bytes) + " bytes; it is configured as " + std::to_string(shapes_.rows[tile]) +
          " of " + std::to_string(shapes_.row_bytes[tile]) + ".");
  }
}

void EmulatedTiles::expect_product(int c, int a, int b) const {
  expect_configured(c);
  expect_configured(a);
  expect_configured(b);
  if (a == b || a == c || b == c) fault("a product of tiles that are not three.");
  if (shapes_.rows[c] != shapes_.rows[a] || shapes_.row_bytes[c] != shapes_.row_bytes[b] ||
      shapes_.row_bytes[a] / 4 != shapes_.rows[b]) {
    fault("the shapes of " + text(a) + " and " + text(b) + " do not give that of " + text(c) + ".");
  }
}

void EmulatedTiles::zero(int tile) {
  expect_configured(tile);
  std::memset(data_[tile], 0, sizeof(data_[tile]));
}

void EmulatedTiles::load(int tile, const void* p, std::size_t stride) {
  zero(tile);
  for (std::size_t row = 0; row < shapes_.rows[tile]; ++row) {
    std::memcpy(data_[tile][row], static_cast<const std::uint8_t*>(p) + row * stride,
                shapes_.row_bytes[tile]);
  }
}

void EmulatedTiles::store(int tile, void* p, std::size_t stride) {
  expect_configured(tile);
  for (std::size_t row = 0; row < shapes_.rows[tile]; ++row) {
    std::memcpy(static_cast<std::uint8_t*>(p) + row * stride, data_[tile][row], shapes_.row_bytes[tile]);
  }
}

// The even elements and the odd ones have a sum each, by fused multiply-adds in the order of k; the sum of
// both is added to what stands in c.
void EmulatedTiles::add_bfloat16_products(int c, int a, int b) {
  expect_product(c, a, b);
  for (int m = 0; m < shapes_.rows[c]; ++m) {
    for (int n = 0; n < shapes_.row_bytes[c] / 4; ++n) {
      float even = 0;
      float odd = 0;
      for (int k = 0; k < shapes_.rows[b]; ++k) {
        const std::uint8_t* x = data_[a][m] + std::ptrdiff_t{4} * k;
        const std::uint8_t* w = data_[b][k] + std::ptrdiff_t{4} * n;
        even = flushed(std::fma(wide(x), wide(w), even));
        odd = flushed(std::fma(wide(x + 2), wide(w + 2), odd));
      }
      const float sum = flushed(read<float>(data_[c][m], n)) + flushed(even + odd);
      write(data_[c][m], n, flushed(sum));
    }
  }
}

void EmulatedTiles::add_int8_products(int c, int a, int b) {
  expect_product(c, a, b);
  for (int m = 0; m < shapes_.rows[c]; ++m) {
    for (int n = 0; n < shapes_.row_bytes[c] / 4; ++n) {
      auto sum = read<std::uint32_t>(data_[c][m], n);
      for (int k = 0; k < 4 * shapes_.rows[b]; ++k) {
        const int product =
            read<std::int8_t>(data_[a][m], k) * read<std::int8_t>(data_[b][k / 4], 4 * n + k % 4);
        sum += static_cast<std::uint32_t>(product);
      }
      write(data_[c][m], n, sum);
    }
  }
}

EmulatedTiles& emulated_tiles() {
  static thread_local EmulatedTiles own;
  return own;
}

}  // namespace internvl
