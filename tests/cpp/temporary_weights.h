// A weight file that lies in the system's folder for such files as long as its object lives.
#pragma once

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime/weight_file.h"

namespace internvl::test {

class TemporaryWeights {
 public:
  // `without`: a tensor that is left out.
  explicit TemporaryWeights(std::string without)
      : path_(std::filesystem::temp_directory_path() /
              ("internvl_weights_" + std::to_string(::getpid()) + "_" + std::to_string(++files))),
        without_(std::move(without)) {}
  ~TemporaryWeights() { std::filesystem::remove(path_); }
  TemporaryWeights(const TemporaryWeights&) = delete;
  TemporaryWeights& operator=(const TemporaryWeights&) = delete;
  TemporaryWeights(TemporaryWeights&&) = delete;
  TemporaryWeights& operator=(TemporaryWeights&&) = delete;

  void put(const std::string& name, DataType type, std::vector<std::int64_t> shape,
           const std::vector<std::byte>& bytes) {
    if (name == without_) return;
    while (bytes_.size() % 64 != 0) bytes_.push_back(std::byte{0});
    entries_.push_back({name, type, std::move(shape), bytes_.size(), bytes_.size() + bytes.size()});
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  }

  // Once all tensors are put.
  void write() {
    std::ofstream(path_, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes_.data()), static_cast<std::streamsize>(bytes_.size()));
    file_ = std::make_shared<WeightFile>(path_, std::move(entries_));
  }

  std::shared_ptr<const WeightFile> file() const { return file_; }

 private:
  static inline int files = 0;

  std::filesystem::path path_;
  std::string without_;
  std::vector<std::byte> bytes_;
  std::vector<TensorEntry> entries_;
  std::shared_ptr<const WeightFile> file_;
};

}  // namespace internvl::test
