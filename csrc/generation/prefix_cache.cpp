#include "generation/prefix_cache.h"

#include <algorithm>
#include <unordered_set>
#include <utility>

#include "runtime/rounding.h"

namespace internvl {
namespace {

// Every prompt is compared with all of them.
constexpr std::size_t most_kept = 64;

}  // namespace

PrefixCache::PrefixCache(const CacheRoom& cache, std::size_t most_tokens, std::int64_t image_context_id)
    : cache_(cache), most_tokens_(most_tokens), image_context_id_(image_context_id) {}

PrefixCache::Match PrefixCache::find(const SequenceContent& prompt, std::size_t frequencies) const {
  Match best;
  if (prompt.ids.empty()) return best;
  for (const Kept& kept : kept_) {
    const std::size_t common = common_prefix(kept->content, prompt, frequencies, image_context_id_);
    if (common > best.tokens) best = {kept, common};
  }
  if (best.tokens == prompt.ids.size()) --best.tokens;
  if (best.tokens < cache_.block_tokens) return {};
  return best;
}

BlockShares PrefixCache::shared_blocks(const KeptSequence& origin, std::size_t tokens) const {
  if (!cache_.forks_share) return {};
  const std::size_t full = tokens / cache_.block_tokens;
  return {origin.blocks.begin(), origin.blocks.begin() + static_cast<std::ptrdiff_t>(full)};
}

std::vector<PrefixCache::Kept> PrefixCache::keep(SequenceId sequence, SequenceContent content,
                                                 const BlockShares& shared) {
  const auto kept = std::make_shared<KeptSequence>();
  kept->sequence = sequence;
  kept->content = std::move(content);
  kept->blocks = shared;
  const std::size_t blocks = divide_up(kept->content.ids.size(), cache_.block_tokens);
  while (kept->blocks.size() < blocks) kept->blocks.push_back(std::make_shared<CountedBlock>(blocks_));
  std::vector<Kept> spare;
  // What another one begins with is found through that one.
  const auto within = [&](const KeptSequence& shorter, const KeptSequence& longer) {
    const auto& runs = shorter.content.frequencies;
    return runs.size() == 1 && common_prefix(longer.content, shorter.content, runs.front().frequencies,
                                             image_context_id_) == shorter.content.ids.size();
  };
  for (const Kept& other : kept_) {
    if (!within(*kept, *other) || within(*other, *kept)) continue;
    touch(other);
    return {kept};
  }
  for (const Kept& other : kept_) {
    if (other->pins == 0 && within(*other, *kept)) spare.push_back(other);
  }
  for (const Kept& other : spare) take_out(other);
  kept_.push_back(kept);
  while (!kept_.empty() && (kept_tokens() > most_tokens_ || kept_.size() > most_kept)) {
    Kept oldest = take_oldest();
    if (oldest == nullptr) break;
    spare.push_back(std::move(oldest));
  }
  return spare;
}

void PrefixCache::touch(const Kept& kept) {
  const auto found = std::find(kept_.begin(), kept_.end(), kept);
  if (found != kept_.end()) std::rotate(found, found + 1, kept_.end());
}

void PrefixCache::take_out(const Kept& kept) { std::erase(kept_, kept); }

PrefixCache::Kept PrefixCache::take_oldest(const KeptSequence* except) {
  const auto found = std::find_if(kept_.begin(), kept_.end(),
                                  [&](const Kept& kept) { return kept.get() != except && kept->pins == 0; });
  if (found == kept_.end()) return nullptr;
  Kept oldest = *found;
  kept_.erase(found);
  return oldest;
}

std::vector<PrefixCache::Kept> PrefixCache::take_all() { return std::exchange(kept_, {}); }

std::size_t PrefixCache::own_tokens(const KeptSequence& kept, std::size_t first, std::size_t block_tokens) {
  const auto begin = kept.blocks.begin() + static_cast<std::ptrdiff_t>(first);
  return block_tokens *
         static_cast<std::size_t>(std::count_if(begin, kept.blocks.end(),
                                                [](const auto& block) { return block.use_count() == 1; }));
}

std::size_t PrefixCache::kept_tokens() const {
  std::unordered_set<const void*> blocks;
  for (const Kept& kept : kept_) {
    for (const BlockShare& block : kept->blocks) blocks.insert(block.get());
  }
  return blocks.size() * cache_.block_tokens;
}

std::size_t PrefixCache::reclaimable(std::span<const BlockShares* const> others) const {
  std::unordered_set<const void*> blocks;
  for (const BlockShares* shares : others) {
    for (const BlockShare& block : *shares) blocks.insert(block.get());
  }
  return (*blocks_ - blocks.size()) * cache_.block_tokens;
}

}  // namespace internvl
