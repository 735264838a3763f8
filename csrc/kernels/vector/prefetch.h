// Prefetching. Included by kernel sources only.
//
// A GEMV takes a few rows of W together, which lie in one piece, and reads a little of each row in turn. The
// processor's own prefetchers do not follow that order; so the next piece is prefetched in the order of its
// addresses.
#pragma once

#include <cstddef>

namespace internvl::INTERNVL_ISA {

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

// The same for what is going to be written. Lines that another core has read would else be asked for twice.
[[gnu::always_inline]] inline void prefetch_for_writing(const char* p, std::size_t bytes) {
  constexpr std::size_t cache_line = 64;
  for (std::size_t i = 0; i < bytes; i += cache_line) {
#if defined(__x86_64__)
    // GCC has a flag for it; a processor without it takes it for no operation.
    asm volatile("prefetchw %0" : : "m"(p[i]));
#else
    __builtin_prefetch(p + i, 1, 3);
#endif
  }
}

// The piece of rows that comes next, prefetched a little at a time: into the first-level cache where it has
// room there beside the piece that is being read, else into the second.
class PieceAhead {
 public:
  PieceAhead(const char* piece, std::size_t bytes)
      : next_(piece), near_(bytes <= 12288), asks_(bytes <= 131072) {}

  [[gnu::always_inline]] void prefetch(std::size_t bytes) {
    if (!asks_) return;
    next_ =
        near_ ? INTERNVL_ISA::prefetch(next_, bytes) : INTERNVL_ISA::prefetch<Cache::second>(next_, bytes);
  }
  void stop() { asks_ = false; }

 private:
  const char* next_;
  bool near_;
  bool asks_;
};

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
