#include "bundle/graph_files.h"

namespace internvl {

std::string name_of(const GraphSet& set) {
  const std::string dialect(set.dialect);
  return set.compute == "fp32" ? dialect : dialect + "-" + std::string(set.compute);
}

std::string graph_file(const GraphSet& set, std::string_view part) {
  const std::string name = name_of(set);
  return std::string(part) + (name == name_of(kGraphSets[0]) ? "" : "." + name) + ".onnx";
}

std::vector<std::string> graph_files() {
  std::vector<std::string> names;
  for (const GraphSet& set : kGraphSets) {
    for (const std::string_view part : kGraphParts) names.push_back(graph_file(set, part));
  }
  return names;
}

}  // namespace internvl
