// Byte-pair encoding of one word: characters or bytes, merged pair by pair in the order that training found.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "prompt/vocabulary.h"
#include "runtime/json.h"

namespace internvl {

// What encoding one text needs beside the model. Not for several threads at once.
class BytePairScratch {
 public:
  // Pairs that were looked up: the work that a text took.
  std::uint64_t lookups() const { return lookups_; }

 private:
  friend class BytePairModel;

  struct Symbol {
    std::int32_t id;  // -1: merged into the one in front
    std::int32_t previous;
    std::int32_t next;
  };
  struct Merge {
    std::uint32_t rank;
    std::int32_t position;
    std::int32_t id;
    bool operator>(const Merge& other) const {
      return std::pair(rank, position) > std::pair(other.rank, other.position);
    }
  };
  // Words of this text that were encoded before, one to a slot.
  struct Known {
    std::uint32_t word = 0;
    std::uint32_t length = 0;
    std::uint32_t ids = 0;
    std::uint32_t count = 0;
  };

  std::vector<Symbol> symbols_;
  std::vector<std::uint32_t> ranks_;
  std::vector<Merge> queue_;
  std::vector<Known> known_;
  std::string words_;
  std::vector<std::int32_t> ids_;
  std::uint64_t lookups_ = 0;
};

// The model of a tokenizer.json. May be used from several threads.
class BytePairModel {
 public:
  // Throws BundleError if the model is of another kind or malformed.
  BytePairModel(const json::Value& document, bool byte_level);

  const Vocabulary& vocabulary() const { return vocabulary_; }

  // Appends the tokens of a word: of its bytes where the vocabulary is of that kind, of its characters
  // elsewhere.
  void encode(std::string_view word, BytePairScratch& scratch, std::vector<std::int64_t>& ids) const;

 private:
  struct Pair {
    std::uint64_t ids = kFree;
    std::uint32_t rank = 0;
    std::int32_t id = 0;
  };
  static constexpr std::uint64_t kFree = ~std::uint64_t{0};

  void read_merges(const json::Value& document);
  void add_merge(std::string_view first, std::string_view second, std::uint32_t rank);
  const Pair* find(std::int32_t first, std::int32_t second, BytePairScratch& scratch) const;

  void encode_part(std::string_view part, BytePairScratch& scratch, std::vector<std::int64_t>& ids) const;
  void split(std::string_view word, std::vector<BytePairScratch::Symbol>& symbols) const;
  void merge_short(BytePairScratch& scratch) const;
  void merge_long(BytePairScratch& scratch) const;

  bool byte_level_;
  Vocabulary vocabulary_;
  bool byte_fallback_ = false;
  bool fuse_unknown_ = false;
  bool ignore_merges_ = false;
  bool no_token_crosses_spaces_ = false;  // no merge goes over the beginning of a marked space
  std::int32_t unknown_ = -1;
  std::array<std::int32_t, 256> byte_ids_ = {};
  std::vector<Pair> pairs_;  // open addressing
};

}  // namespace internvl
