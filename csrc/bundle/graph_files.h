// Which ONNX graphs a bundle may hold: one set per dialect and floating-point type, over the same weights.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

namespace internvl {

struct GraphSet {
  std::string_view dialect;
  std::string_view compute;
};

// The first is the one whose files have the plain names.
inline constexpr std::array<GraphSet, 8> kGraphSets = {{{"onnx24", "fp32"},
                                                        {"onnx24", "fp16"},
                                                        {"onnx24", "bf16"},
                                                        {"ort", "fp32"},
                                                        {"ort", "fp16"},
                                                        {"trt10", "fp32"},
                                                        {"trt10", "fp16"},
                                                        {"trt10", "bf16"}}};

// The parts that have a graph; the last is there for models with a resolution router only.
inline constexpr std::array<std::string_view, 4> kGraphParts = {"vit", "projector", "llm", "flash"};

// ort, trt10-fp16, ...: fp32 is not spelled out.
std::string name_of(const GraphSet& set);
// vit.onnx, vit.trt10-fp16.onnx, ...
std::string graph_file(const GraphSet& set, std::string_view part);
// Of every set.
std::vector<std::string> graph_files();

}  // namespace internvl
