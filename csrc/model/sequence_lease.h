// A sequence of a decoder that is dropped with the object that owns it.
#pragma once

#include <unistd.h>

#include <memory>

#include "model/decoder.h"
#include "runtime/error.h"

namespace internvl {

// Its blocks of the cache are freed when it goes, if drop() has not done so before, whatever interrupts the
// code that holds it. The decoder may go first.
class SequenceLease {
 public:
  // An empty sequence.
  explicit SequenceLease(const std::shared_ptr<Decoder>& decoder)
      : decoder_(decoder), id_(decoder->new_sequence()) {}
  // A fork of the first `tokens` tokens. Throws PromptError if there is no sequence `origin`, or it has
  // fewer.
  SequenceLease(const std::shared_ptr<Decoder>& decoder, SequenceId origin, std::size_t tokens)
      : decoder_(decoder), id_(decoder->fork(origin, tokens)) {}

  ~SequenceLease() {
    // After a fork of the process, whoever had its turn at the decoder stayed behind: waiting would not end.
    if (getpid() != process_) return;
    const std::shared_ptr<Decoder> decoder = decoder_.lock();
    if (!decoder) return;
    try {
      decoder->drop(id_);
    } catch (const PromptError&) {
      return;  // it was dropped before; ids are not used twice
    }
  }

  SequenceLease(const SequenceLease&) = delete;
  SequenceLease& operator=(const SequenceLease&) = delete;
  SequenceLease(SequenceLease&&) = delete;
  SequenceLease& operator=(SequenceLease&&) = delete;

  SequenceId id() const { return id_; }

 private:
  std::weak_ptr<Decoder> decoder_;
  SequenceId id_;
  pid_t process_ = getpid();
};

}  // namespace internvl
