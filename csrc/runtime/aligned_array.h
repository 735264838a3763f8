// Memory whose first element begins a cache line: registers of 64 bytes that are loaded across two lines take
// twice as long.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <type_traits>

namespace internvl {

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
