#include "routing/topology.h"

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
  for (const NodeState& node : nodes)
    if (serves_reads(node)) serving.push_back(node.id);
}

}  // namespace routing
