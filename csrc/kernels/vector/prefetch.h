// Prefetching. Included by kernel sources only.
//
// A GEMV takes a few rows of W together, which lie in one piece. Where they are short, it prefetches the next
// piece in the order of its addresses: the processor's own prefetchers follow that order, but not the one in
// which the rows are read, a little of each in turn. On long rows they do better alone.
#pragma once

#include <cstddef>

namespace internvl::INTERNVL_ISA {

// Whether a piece is small enough: what is prefetched must stay in the first-level cache until it is read.
constexpr bool fits_prefetching(std::size_t piece_bytes) { return piece_bytes <= 24576; }

enum class Cache { first, second };

// Prefetches `bytes` bytes at p, and gives their end. They need not exist. (Inlined by force: GCC takes a
// call for one without effects.)
template <Cache Into = Cache::first>
[[gnu::always_inline]] inline const char* prefetch(const char* p, std::size_t bytes) {
  constexpr std::size_t cache_line = 64;
  for (std::size_t i = 0; i < bytes; i += cache_line)
    __builtin_prefetch(p + i, 0, Into == Cache::first ? 3 : 2);
  return p + bytes;
}

// A part of each of several rows, prefetched a little at a time in the order of addresses.
struct RowsAhead {
  const char* row;
  std::size_t row_bytes;   // from one row to the next
  std::size_t part_bytes;  // of a row

  template <Cache Into = Cache::first>
  [[gnu::always_inline]] void prefetch(std::size_t bytes) {
    INTERNVL_ISA::prefetch<Into>(row + done, bytes);
    done += bytes;
    if (done >= part_bytes && part_bytes < row_bytes) {  // whole rows lie in one piece
      row += row_bytes;
      done = 0;
    }
  }

  std::size_t done = 0;
};

}  // namespace internvl::INTERNVL_ISA
