// The tables behind unicode.h, in the order of code points.
#pragma once

#include <cstdint>
#include <span>

namespace internvl::unicode {

// From this code point on, up to the next change, code points have these classes.
struct ClassChange {
  char32_t first;
  std::uint8_t classes;
};

struct CombiningClass {
  char32_t code_point;
  std::uint8_t order;
};

// The full canonical decomposition of a code point is a part of decomposed(). Without Hangul syllables.
struct Decomposition {
  char32_t code_point;
  std::uint16_t offset;
  std::uint16_t length;
};

// Two code points that NFC makes one of. In the order of both.
struct Composition {
  char32_t first;
  char32_t second;
  char32_t composed;
};

std::span<const ClassChange> class_changes();
std::span<const CombiningClass> combining_classes();
std::span<const char32_t> decomposed();
std::span<const Decomposition> decompositions();
std::span<const Composition> compositions();

}  // namespace internvl::unicode
