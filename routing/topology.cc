#include "routing/topology.h"

#include <algorithm>

namespace routing {

std::string_view name(NodeRole role) {
  switch (role) {
    case NodeRole::unknown: return "unknown";
    case NodeRole::primary: return "primary";
    case NodeRole::replica: return "replica";
  }
  return "unknown";
}

std::string_view name(NodeHealth health) {
  switch (health) {
    case NodeHealth::unknown: return "unknown";
    case NodeHealth::up: return "up";
    case NodeHealth::down: return "down";
  }
  return "unknown";
}

void ClusterState::find_serving() {
  serving.clear();
  for (std::size_t i = 0; i < std::min(nodes.size(), kMaxNodes); ++i)
    if (serves_reads(nodes[i])) serving.push_back(static_cast<std::uint16_t>(i));
}

}  // namespace routing
