#include "image/tile.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "image/resample_filter.h"
#include "runtime/error.h"
#include "runtime/function_ref.h"
#include "runtime/rounding.h"

namespace internvl {
namespace {

// One picture to be resized: to the grid, or to the thumbnail.
struct Resize {
  ImageView source;
  ResampleFilter horizontal;
  ResampleFilter vertical;
};

// Output rows [begin, end) of one resize.
struct Band {
  const Resize* resize;
  std::size_t begin;
  std::size_t end;
};

// A horizontal pass writes rows in whole runs of pixels, a vertical pass reads them in whole vectors.
std::size_t row_bytes(const Resize& resize) {
  return round_up(round_up(resize.horizontal.outputs(), pixel_block) * rgb_channels, row_block);
}

// What a thread works in; reused from band to band.
struct Scratch {
  std::vector<std::uint8_t> columns;
  std::vector<std::uint8_t> window;
  std::vector<std::uint8_t> row;
};

// The horizontally resized rows that are wanted for the next output row: a stretch of the source's rows that
// slides down.
class RowWindow {
 public:
  RowWindow(const Resize& resize, const ResampleKernels& kernels, Scratch& scratch)
      : resize_(resize), kernels_(kernels), scratch_(scratch), stride_(row_bytes(resize)) {
    scratch.columns.resize(
        std::max(scratch.columns.size(), (resize.horizontal.chunk_source() + 1) * rgb_channels * row_block));
    // The row after the last may be read with weight 0.
    scratch.window.resize(
        std::max(scratch.window.size(), (resize.vertical.most_taps() + row_block + 1) * stride_));
  }

  std::size_t stride() const { return stride_; }

  // Row `first` of the source's rows [first, end), of which there are at most most_taps(). `first` never
  // decreases.
  const std::uint8_t* rows(std::size_t first, std::size_t end) {
    if (end_ < first) begin_ = end_ = first;
    while (end_ < end) {
      if (begin_ < first) {
        std::memmove(place(0), place(first - begin_), (end_ - first) * stride_);
        begin_ = first;
      }
      fill();
    }
    return place(first - begin_);
  }

 private:
  std::uint8_t* place(std::size_t row) { return scratch_.window.data() + row * stride_; }

  void fill() {
    const std::size_t height = static_cast<std::size_t>(resize_.source.height);
    const std::uint8_t* source[row_block];
    for (std::size_t row = 0; row < row_block; ++row) {
      const std::size_t y = std::min(end_ + row, height - 1);
      source[row] = resize_.source.pixels + static_cast<std::ptrdiff_t>(y) * resize_.source.row_stride;
    }
    if (resize_.horizontal.is_identity()) {
      for (std::size_t row = 0; row < row_block; ++row) {
        std::memcpy(place(end_ - begin_ + row), source[row], resize_.horizontal.outputs() * rgb_channels);
      }
    } else {
      kernels_.horizontal(source, resize_.horizontal.view(), scratch_.columns.data(), place(end_ - begin_),
                          stride_);
    }
    end_ = std::min(end_ + row_block, height);
  }

  const Resize& resize_;
  const ResampleKernels& kernels_;
  Scratch& scratch_;
  std::size_t stride_;
  std::size_t begin_ = 0;  // rows [begin_, end_) of the source are in the window
  std::size_t end_ = 0;
};

using RowSink = FunctionRef<void(const Resize& resize, std::size_t y, const std::uint8_t* rgb)>;

void resize_band(const Band& band, const ResampleKernels& kernels, Scratch& scratch, RowSink sink) {
  const Resize& resize = *band.resize;
  RowWindow window(resize, kernels, scratch);
  scratch.row.resize(std::max(scratch.row.size(), window.stride()));
  for (std::size_t y = band.begin; y < band.end; ++y) {
    if (resize.vertical.is_identity()) {
      sink(resize, y, window.rows(y, y + 1));
      continue;
    }
    const std::uint8_t* rows = window.rows(resize.vertical.first(y), resize.vertical.end(y));
    kernels.vertical(rows, window.stride(), resize.vertical.weights(y), resize.vertical.taps(y).pairs,
                     window.stride(), scratch.row.data());
    sink(resize, y, scratch.row.data());
  }
}

// Cuts a resize into bands of about `rows` output rows. Horizontal passes work on whole blocks of source
// rows, so a band is extended to what its blocks give.
void add_bands(const Resize& resize, std::size_t rows, std::vector<Band>& bands) {
  const std::size_t height = resize.vertical.outputs();
  for (std::size_t begin = 0; begin < height;) {
    std::size_t end = std::min(begin + rows, height);
    const std::size_t first = resize.vertical.first(begin);
    const std::size_t given = first + round_up(resize.vertical.end(end - 1) - first, row_block);
    while (end < height && resize.vertical.end(end) <= given) ++end;
    bands.push_back({&resize, begin, end});
    begin = end;
  }
}

void for_each_row(std::span<const Resize> resizes, ThreadTeam& team, RowSink sink) {
  const ResampleKernels& kernels = resample_kernels(features());
  const auto threads = static_cast<std::size_t>(team.size());
  std::vector<Band> bands;
  for (const Resize& resize : resizes) {
    const std::size_t pieces = threads == 1 ? 1 : 4 * threads;
    add_bands(resize, divide_up(resize.vertical.outputs(), pieces), bands);
  }
  std::atomic<std::size_t> next{0};
  team.run([&](int) {
    Scratch scratch;
    for (std::size_t band = next++; band < bands.size(); band = next++) {
      resize_band(bands[band], kernels, scratch, sink);
    }
  });
}

// A picture more than a hundred times as tall as wide is what Pillow 12.3 shrinks vertically first, in a step
// of its own.
bool shrinks_vertically_first(const ImageView& image, std::size_t new_height) {
  return image.height > 100 * image.width && new_height < static_cast<std::size_t>(image.height);
}

// A resize of the picture; `shrunk` holds the picture of the vertical step if there is one.
Resize make_resize(const ImageView& image, std::size_t new_width, std::size_t new_height, ThreadTeam& team,
                   std::vector<std::uint8_t>& shrunk) {
  const auto width = static_cast<std::size_t>(image.width);
  const auto height = static_cast<std::size_t>(image.height);
  if (!shrinks_vertically_first(image, new_height)) {
    return {image, ResampleFilter(width, new_width), ResampleFilter(height, new_height)};
  }
  const std::size_t row = width * rgb_channels;
  shrunk.resize(new_height * row);
  const Resize step{image, ResampleFilter(width, width), ResampleFilter(height, new_height)};
  for_each_row({&step, 1}, team, [&](const Resize&, std::size_t y, const std::uint8_t* rgb) {
    std::memcpy(shrunk.data() + y * row, rgb, row);
  });
  const ImageView source{shrunk.data(), static_cast<std::int64_t>(new_height), image.width,
                         static_cast<std::ptrdiff_t>(row)};
  return {source, ResampleFilter(width, new_width), ResampleFilter(new_height, new_height)};
}

// One row of one tile: the tile, the row's number in it, and its pixels.
using TileRowSink = FunctionRef<void(std::size_t tile, std::size_t y, const std::uint8_t* rgb)>;

void for_each_tile_row(const ImageView& image, const TilePlan& plan, ThreadTeam& team, TileRowSink sink) {
  const auto side = static_cast<std::size_t>(plan.tile_size);
  const auto columns = static_cast<std::size_t>(plan.grid.columns);
  const auto rows = static_cast<std::size_t>(plan.grid.rows);
  std::vector<std::uint8_t> shrunk[2];
  std::vector<Resize> resizes;
  resizes.push_back(make_resize(image, columns * side, rows * side, team, shrunk[0]));
  if (plan.thumbnail) resizes.push_back(make_resize(image, side, side, team, shrunk[1]));
  for_each_row(resizes, team, [&](const Resize& resize, std::size_t y, const std::uint8_t* rgb) {
    if (&resize != resizes.data()) return sink(columns * rows, y, rgb);
    for (std::size_t column = 0; column < columns; ++column) {
      sink(y / side * columns + column, y % side, rgb + column * side * rgb_channels);
    }
  });
}

}  // namespace

TilePlan plan_tiles(std::int64_t width, std::int64_t height, const TilingOptions& options) {
  if (options.tile_size % 2 != 0) {
    throw ImageError("tile_size is " + std::to_string(options.tile_size) +
                     "; expected an even number, such as 448.");
  }
  Grid grid = choose_grid(width, height, options.min_tiles, options.max_tiles, options.tile_size);
  if (!options.dynamic) grid = Grid{};
  return {grid, options.thumbnail && grid.tiles() > 1, options.tile_size};
}

TilingOptions with_at_most(const TilingOptions& tiling, int max_tiles) {
  TilingOptions options = tiling;
  options.max_tiles = max_tiles;
  options.min_tiles = std::min(tiling.min_tiles, max_tiles);
  return options;
}

int count_tiles(std::int64_t width, std::int64_t height, const TilingOptions& tiling, int max_tiles) {
  return plan_tiles(width, height, with_at_most(tiling, max_tiles)).tiles();
}

void write_tiles(const ImageView& image, const TilePlan& plan, std::uint8_t* out, ThreadTeam& team) {
  const std::size_t row = static_cast<std::size_t>(plan.tile_size) * rgb_channels;
  for_each_tile_row(image, plan, team, [&](std::size_t tile, std::size_t y, const std::uint8_t* rgb) {
    std::memcpy(out + (tile * plan.tile_size + y) * row, rgb, row);
  });
}

}  // namespace internvl
