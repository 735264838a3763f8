// How many rows of x pass a panel of unpacked weights before it is unpacked again.
#pragma once

#include <cstddef>

namespace internvl {

// What every tile of rows divides.
inline constexpr std::size_t row_piece_step = 12;

// Pieces of one size instead of a short last one, for which the weights would be unpacked as for the others:
// a vision tower's tile has 1025 rows. At most `most`, a multiple of row_piece_step, as the answer is.
// (Inlined by force, so that no instruction set's code stands for another's.)
[[gnu::always_inline]] constexpr std::size_t rows_of_a_piece(std::size_t rows, std::size_t most) {
  if (rows == 0) return most;
  const std::size_t pieces = (rows + most - 1) / most;
  const std::size_t even = (rows + pieces - 1) / pieces;
  return (even + row_piece_step - 1) / row_piece_step * row_piece_step;
}

}  // namespace internvl
