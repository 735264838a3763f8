// Memory whose first element begins a cache line: registers of 64 bytes that are loaded across two lines take
// twice as long. Large arrays ask for huge pages: a matrix is read and written some columns at a time, and
// rows lie so far apart that every one of them would be a page of its own.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <type_traits>

namespace internvl {

// How an array of so many bytes is aligned.
constexpr std::align_val_t array_alignment(std::size_t bytes) {
  constexpr std::size_t line = 64;
  constexpr std::size_t huge_page = std::size_t{2} << 20U;
  return std::align_val_t{bytes >= 2 * huge_page ? huge_page : line};
}

// Asks the system for huge pages, where there are such and the array is aligned to them. They may not come.
void ask_for_huge_pages(void* array, std::size_t bytes);

// From one row of so many bytes to the next, where several are read together: an odd number of cache lines,
// so that they begin in different sets of the first cache.
constexpr std::size_t spread_stride(std::size_t bytes) {
  constexpr std::size_t line = 64;
  return bytes == 0 ? 0 : ((bytes + line - 1) / line | 1U) * line;
}

// Not initialised, and not touched.
template <class T>
class AlignedArray {
  static_assert(std::is_trivial_v<T>);

 public:
  explicit AlignedArray(std::size_t size)
      : size_(size),
        data_(static_cast<T*>(::operator new(size * sizeof(T), array_alignment(size * sizeof(T)))),
              Free{array_alignment(size * sizeof(T))}) {
    ask_for_huge_pages(data(), size * sizeof(T));
  }

  T* data() const { return data_.get(); }
  std::size_t size() const { return size_; }

 private:
  struct Free {
    std::align_val_t alignment;
    void operator()(T* p) const { ::operator delete(p, alignment); }
  };

  std::size_t size_;
  std::unique_ptr<T, Free> data_;
};

}  // namespace internvl
