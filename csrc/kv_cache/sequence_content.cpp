#include "kv_cache/sequence_content.h"

#include <algorithm>

namespace internvl {

void SequenceContent::append(std::int64_t id, std::size_t frequencies_of_length) {
  ids.push_back(id);
  if (!frequencies.empty() && frequencies.back().frequencies == frequencies_of_length) {
    frequencies.back().end = ids.size();
  } else {
    frequencies.push_back({ids.size(), frequencies_of_length});
  }
}

std::size_t common_prefix(const SequenceContent& kept, const SequenceContent& prompt, std::size_t frequencies,
                          std::int64_t image_context_id) {
  if (kept.salt != prompt.salt) return 0;
  std::size_t rotated = 0;
  for (const FrequencyRun& run : kept.frequencies) {
    if (run.frequencies != frequencies) break;
    rotated = run.end;
  }
  const std::size_t most = std::min({rotated, kept.ids.size(), prompt.ids.size()});
  std::size_t image = 0;   // the run that comes next, or is under way
  std::size_t inside = 0;  // places of it so far
  std::size_t begin = 0;   // of the run that is under way
  for (std::size_t i = 0; i < most; ++i) {
    const std::int64_t id = prompt.ids[i];
    const bool place = id == image_context_id;
    if (place && inside == 0) {
      begin = i;
      const bool known = image < kept.images.size() && image < prompt.images.size();
      if (!known || kept.images[image] != prompt.images[image]) return begin;
    }
    if (kept.ids[i] != id) return inside > 0 ? begin : i;
    if (place && ++inside == prompt.images[image].tokens) {
      ++image;
      inside = 0;
    }
  }
  return inside > 0 ? begin : most;
}

}  // namespace internvl
