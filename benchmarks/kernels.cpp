// How near every kernel comes to what the machine can do: GFLOP/s and GB/s beside peaks that are measured in
// the same run, with the same threads. Run it with benchmarks/kernels.sh on a quiet machine.
//
//   kernels [--threads N] [--seconds S] [--peaks]
//
// --peaks measures the machine's peaks alone and prints them as JSON, in operations and bytes per second.
// What is bf16 is held against the peak of bf16 where the processor multiplies pairs of it, else against that
// of fp32, which one that multiplies matrices of it may exceed. INTERNVL_RT_ISA names the instruction set, as
// everywhere. Shapes are those of InternVL2_5-1B. Weights are read from memory, not from a cache: every run
// takes the next place of an arena that no cache holds.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "kernels/attention/attention.h"
#include "kernels/norm/norm.h"
#include "ops/cpu/integer_linear.h"
#include "ops/cpu/kv_storage.h"
#include "ops/cpu/linear.h"
#include "peak_kernels.h"
#include "runtime/weight_file.h"

namespace internvl {
namespace {

constexpr std::size_t arena_bytes = std::size_t{512} << 20U;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The median time of one call, over at least five and about `seconds` seconds.
double median_time(double seconds, const std::function<void()>& call) {
  call();
  std::vector<double> times;
  for (const double end = now() + seconds; times.size() < 5 || now() < end;) {
    const double begin = now();
    call();
    times.push_back(now() - begin);
  }
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

struct Peaks {
  double fp32, bfloat16, int8, bytes;
};

class Bench {
 public:
  Bench(int threads, double seconds) : team_(threads), seconds_(seconds), arena_(arena_bytes) {
    std::uint32_t state = 1;
    for (std::size_t i = 0; i + 4 <= arena_.size(); i += 4) {
      state = state * 1664525U + 1013904223U;
      // Two halves of moderate size: whatever the arena is read as, nothing is infinite or subnormal.
      const std::uint32_t word = (state & 0x83FF83FFU) | 0x28002800U;
      std::memcpy(&arena_[i], &word, 4);
    }
    scales_.assign(std::size_t{1} << 20U, 0.01F);
    half_scales_.assign(std::size_t{8} << 20U, 0x2000);
  }

  void print_peaks() {
    measure_peaks();
    std::printf("{\"fp32\": %.4g, \"bfloat16\": %.4g, \"int8\": %.4g, \"bytes\": %.4g}\n", peaks_.fp32,
                peaks_.bfloat16, peaks_.int8, peaks_.bytes);
  }

  void run() {
    std::printf("instruction set %s, %d threads\n\n", std::string(instruction_set(features())).c_str(),
                team_.size());
    measure_peaks();
    std::printf(
        "peaks: %.0f GFLOP/s fp32, %.0f bf16, %.0f GOP/s int8, %.1f GB/s read; fork and join %.2f us\n\n",
        peaks_.fp32 * 1e-9, peaks_.bfloat16 * 1e-9, peaks_.int8 * 1e-9, peaks_.bytes * 1e-9,
        fork_and_join() * 1e6);
    std::printf("%-34s %9s %9s %7s %8s %7s\n", "", "us", "GFLOP/s", "of peak", "GB/s", "of peak");
    struct Shape {
      const char* name;
      std::size_t n, k;
    };
    constexpr Shape shapes[] = {
        {"qkv", 1152, 896}, {"gate_up", 9728, 896}, {"down", 896, 4864}, {"lm_head", 151674, 896}};
    for (const DataType type : {DataType::int4, DataType::int8, DataType::bfloat16, DataType::float32}) {
      for (const auto& shape : shapes) {
        for (const std::size_t m : {1, 4, 8, 16, 256}) {
          if (m > 16 && shape.n > 100000) continue;
          matrix(shape.name, type, m, shape.n, shape.k);
        }
      }
    }
    // One layer of the vision tower, a tile of it.
    constexpr Shape tower[] = {
        {"tower qkv", 3072, 1024}, {"proj", 1024, 1024}, {"fc1", 4096, 1024}, {"fc2", 1024, 4096}};
    for (const Shape& shape : tower)
      matrix(shape.name, DataType::int8, 1025, shape.n, shape.k, ScaleGroup::row);
    for (const CacheType type :
         {CacheType::float32, CacheType::float16, CacheType::bfloat16, CacheType::int8}) {
      for (const std::size_t tokens : {1024, 4096}) attention(type, tokens);
    }
    small_steps();
  }

 private:
  // Until all threads have come and gone.
  double fork_and_join() {
    return median_time(seconds_, [&] {
      std::atomic<int> came{0};
      team_.run([&](int thread) {
        ++came;
        for (int i = 0; thread == 0 && i < 100000 && came < team_.size(); ++i) continue;
      });
    });
  }

  void measure_peaks() {
    const PeakKernels& kernels = peak_kernels(features());
    // Pieces of what is measured, as threads become free.
    const auto measure = [&](auto kernel) {
      constexpr std::size_t rounds = 100000;
      const auto pieces = static_cast<std::size_t>(team_.size()) * 20;
      std::atomic<double> operations{0};
      const double time = median_time(seconds_, [&] {
        team_.for_each_range(pieces, 1, [&](std::size_t, std::size_t) { operations = kernel(rounds); });
      });
      return operations * static_cast<double>(pieces) / time;
    };
    peaks_.fp32 = measure([&](std::size_t rounds) {
      float sink = 1e-3F;
      return kernels.fp32(rounds, &sink);
    });
    peaks_.bfloat16 = peaks_.fp32;
    if (features().has(Feature::avx512_bf16)) {
      peaks_.bfloat16 = measure([&](std::size_t rounds) {
        float sink = 1e-3F;
        return kernels.bfloat16(rounds, &sink);
      });
    }
    peaks_.int8 = measure([&](std::size_t rounds) {
      std::int32_t sink = 0;
      return kernels.int8(rounds, &sink);
    });
    const double time = median_time(seconds_, [&] {
      team_.for_each_range(arena_.size(), std::size_t{1} << 20U, [&](std::size_t begin, std::size_t end) {
        std::int32_t mine = 0;
        kernels.read(&arena_[begin], end - begin, &mine);
      });
    });
    peaks_.bytes = static_cast<double>(arena_.size()) / time;
  }

  void report(const std::string& name, double time, double operations, double peak, double bytes) const {
    std::printf("%-34s %9.1f", name.c_str(), time * 1e6);
    if (operations > 0) {
      std::printf(" %9.1f %6.0f%%", operations / time * 1e-9, 100 * operations / time / peak);
    } else {
      std::printf(" %9s %7s", "", "");
    }
    std::printf(" %8.1f %6.0f%%\n", bytes / time * 1e-9, 100 * bytes / time / peaks_.bytes);
    std::fflush(stdout);
  }

  // The next `bytes` bytes of the arena.
  const std::byte* next(std::size_t bytes) {
    if (place_ + bytes > arena_.size()) place_ = 0;
    const std::byte* p = &arena_[place_];
    place_ += (bytes + 4095) / 4096 * 4096;
    return p;
  }

  void matrix(const char* name, DataType type, std::size_t m, std::size_t n, std::size_t k,
              ScaleGroup activations = ScaleGroup::block) {
    const std::size_t bytes = byte_size(type, n * k);
    if (bytes > arena_.size()) return;
    const std::vector<float> x(m * k, 0.37F);
    std::vector<float> y(m * n);
    const bool integer = is_integer(type);
    const std::size_t row_bytes =
        LinearWorkspace::row_bytes({type, nullptr, nullptr, n, k}, activations_for(type, features()));
    LinearWorkspace workspace(team_, m, integer ? 0 : row_bytes);
    IntegerWorkspace integer_workspace(team_, m);
    QuantisedBuffer buffer(m, k);
    const void* scales = nullptr;
    std::size_t scale_bytes = 0;
    if (type == DataType::int8) {
      scales = scales_.data();
      scale_bytes = 4 * n;
    } else if (type == DataType::int4) {
      scales = half_scales_.data();
      scale_bytes = 2 * n * k / 32;
    }
    const double time = median_time(seconds_, [&] {
      const WeightMatrix w{type, next(bytes), static_cast<const std::byte*>(scales), n, k, activations};
      LinearRows job{x.data(), k, m, nullptr, false, y.data(), n};
      if (integer) {
        team_.for_each_range(m, 8, [&](std::size_t begin, std::size_t end) {
          for (std::size_t r = begin; r < end; ++r) buffer.quantise(&x[r * k], k, row_form(w), r);
        });
        linear(buffer.rows(m, k, row_form(w)), job, w, team_, integer_workspace);
      } else {
        linear(job, w, team_, workspace);
      }
    });
    const double operations = 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
    report(std::string(name) + " " + std::string(name_of(type)) + " x " + std::to_string(m), time, operations,
           integer                      ? peaks_.int8
           : type == DataType::bfloat16 ? peaks_.bfloat16
                                        : peaks_.fp32,
           static_cast<double>(bytes + scale_bytes));
  }

  // 14 heads, 2 kv heads of 64, a layer after the other: one decoded token, and the last tokens of a prompt,
  // a tile of them for every thread.
  void attention(CacheType type, std::size_t tokens) {
    constexpr std::size_t layers = 24;
    constexpr std::size_t kv_heads = 2;
    constexpr std::size_t group = 7;
    constexpr std::size_t d = 64;
    const std::size_t blocks = (tokens + cache_block - 1) / cache_block;
    KvStorage storage({type, layers, kv_heads * group, kv_heads, d, blocks}, team_);
    const std::vector<float> rows(cache_block * d, 0.3F);
    const TokenRows block{rows.data(), rows.data(), d, cache_block, d};
    for (std::size_t layer = 0; layer < layers; ++layer) {
      for (std::size_t i = 0; i < blocks * kv_heads; ++i) {
        storage.write(static_cast<BlockId>(i / kv_heads), 0, layer, i % kv_heads, block);
      }
    }
    const std::size_t spans = (blocks + span_blocks - 1) / span_blocks;
    const auto attend = [&](std::size_t positions, std::size_t layer, std::size_t head, std::size_t span) {
      float state[attention_rows * (2 + d)];
      const std::byte* places[span_blocks];
      const std::size_t first = span * span_blocks;
      const std::size_t count = std::min(span_blocks, blocks - first);
      for (std::size_t b = 0; b < count; ++b) {
        places[b] = storage.head(static_cast<BlockId>(first + b), layer, head);
      }
      const float* queries[attention_rows];
      std::size_t visible[attention_rows];
      for (std::size_t r = 0; r < positions * group; ++r) {
        queries[r] = rows.data();
        visible[r] = tokens;
      }
      const QueryRows job{positions * group, queries, visible, d, 0.125F};
      storage.kernels().attend(job, places, first * cache_block, count,
                               {state, state + attention_rows, state + 2 * attention_rows});
    };
    const char* names[] = {"float32", "float16", "bfloat16", "int8"};
    const std::size_t element = type == CacheType::float32 ? 4 : type == CacheType::int8 ? 1 : 2;
    const bool pairs = element < 4 && type != CacheType::float16 && attends_in_bfloat16(features());
    const double peak = pairs ? peaks_.bfloat16 : peaks_.fp32;
    const double elements = 2.0 * layers * kv_heads * d * static_cast<double>(tokens);
    const std::string name = std::string(names[static_cast<int>(type)]) + " at " + std::to_string(tokens);
    double time = median_time(seconds_, [&] {
      for (std::size_t layer = 0; layer < layers; ++layer) {
        team_.for_each_range(kv_heads * spans, 1, [&](std::size_t item, std::size_t) {
          attend(1, layer, item % kv_heads, item / kv_heads);
        });
      }
    });
    report("attention " + name, time, 2 * elements * group, peak, elements * static_cast<double>(element));
    constexpr std::size_t positions = attention_rows / group;
    const auto threads = static_cast<std::size_t>(team_.size());
    time = median_time(seconds_, [&] {
      team_.for_each_range(layers * kv_heads * threads, 1, [&](std::size_t item, std::size_t) {
        for (std::size_t span = 0; span < spans; ++span) {
          attend(positions, item / threads / kv_heads, item / threads % kv_heads, span);
        }
      });
    });
    report("prompt attention " + name, time, 2 * elements * group * positions * static_cast<double>(threads),
           peak, elements * static_cast<double>(element) * static_cast<double>(threads));
  }

  void small_steps() {
    constexpr std::size_t n = 896;
    const std::vector<float> x(n, 0.37F);
    std::vector<float> y(n);
    QuantisedBuffer buffer(1, n);
    constexpr int times = 1000;
    double time = median_time(seconds_, [&] {
      for (int i = 0; i < times; ++i)
        norm_kernels(features()).rms_norm(x.data(), x.data(), n, 1e-6F, y.data());
    });
    report("rms_norm 896, one thread", time / times, 0, 1, 8.0 * n);
    for (const RowForm form : {RowForm::whole, RowForm::blocks, RowForm::split_blocks}) {
      time = median_time(seconds_, [&] {
        for (int i = 0; i < times; ++i) buffer.quantise(x.data(), n, form, 0);
      });
      report(form == RowForm::whole    ? "quantise 896 whole"
             : form == RowForm::blocks ? "quantise 896 by blocks"
                                       : "quantise 896 by split blocks",
             time / times, 0, 1, 5.0 * n);
    }
  }

  ThreadTeam team_;
  double seconds_;
  std::vector<std::byte> arena_;
  std::size_t place_ = 0;
  std::vector<float> scales_;
  std::vector<std::uint16_t> half_scales_;
  Peaks peaks_{};
};

}  // namespace
}  // namespace internvl

int main(int count, char** arguments) {
  int threads = 0;
  double seconds = 0.3;
  bool peaks = false;
  for (int i = 1; i < count; ++i) {
    const std::string name = arguments[i];
    const bool valued = i + 1 < count;
    if (name == "--peaks") {
      peaks = true;
    } else if (name == "--threads" && valued) {
      threads = std::atoi(arguments[++i]);
    } else if (name == "--seconds" && valued) {
      seconds = std::atof(arguments[++i]);
    } else {
      std::fprintf(stderr, "usage: kernels [--threads N] [--seconds S] [--peaks]\n");
      return 2;
    }
  }
  internvl::Bench bench(threads, seconds);
  if (peaks) {
    bench.print_peaks();
  } else {
    bench.run();
  }
}
