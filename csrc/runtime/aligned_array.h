// Memory whose first element begins a cache line: registers of 64 bytes that are loaded across two lines take
// twice as long.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <type_traits>

namespace internvl {

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
      : size_(size), data_(static_cast<T*>(::operator new(size * sizeof(T), alignment))) {}

  T* data() const { return data_.get(); }
  std::size_t size() const { return size_; }

 private:
  static constexpr std::align_val_t alignment{64};
  struct Free {
    void operator()(T* p) const { ::operator delete(p, alignment); }
  };

  std::size_t size_;
  std::unique_ptr<T, Free> data_;
};

}  // namespace internvl
