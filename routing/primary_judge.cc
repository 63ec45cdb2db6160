#include "routing/primary_judge.h"

#include <algorithm>

namespace routing {
namespace {

const ProbeResult* find(std::span<const ProbeResult> nodes, std::optional<NodeId> id) {
  if (!id) return nullptr;
  const auto it = std::ranges::find(nodes, *id, &ProbeResult::id);
  return it == nodes.end() ? nullptr : &*it;
}

bool is_writable(const ProbeResult& node) { return node.health == NodeHealth::up && node.writable; }

// Do most of the replicas that say what they follow, follow `timeline` or a later one? Nobody says:
// no.
bool most_follow(std::span<const ProbeResult> nodes, std::uint64_t system_id,
                 std::uint32_t timeline) {
  std::size_t say = 0, follow = 0;
  for (const ProbeResult& node : nodes) {
    if (node.health != NodeHealth::up || node.writable || node.timeline == 0) continue;
    if (system_id != 0 && node.system_id != system_id) continue;
    ++say;
    if (node.timeline >= timeline) ++follow;
  }
  return follow * 2 > say;
}

struct Candidates {
  const ProbeResult* best = nullptr;  // the highest timeline
  bool tied = false;                  // another one has the same
  bool rival = false;                 // another one has a lower one that is not ruled out
  bool older = false;                 // some were ruled out by their timeline
  bool other_system = false;          // some were ruled out by their system identifier
};

Candidates candidates(std::span<const ProbeResult> nodes, const Accepted& accepted) {
  Candidates found;
  std::uint64_t system_id = accepted.system_id;
  for (const ProbeResult& node : nodes) {
    if (!is_writable(node)) continue;
    if (system_id == 0) system_id = node.system_id;
    if (node.system_id != system_id) {
      found.other_system = true;
    } else if (node.timeline < accepted.timeline) {
      found.older = true;
    } else if (!found.best) {
      found.best = &node;
    } else if (node.timeline == found.best->timeline) {
      found.tied = true;
    } else {
      found.rival = true;
      if (node.timeline > found.best->timeline) {
        found.best = &node;
        found.tied = false;
      }
    }
  }
  // With nothing accepted before, two systems are two databases and nobody knows which is meant.
  if (accepted.system_id == 0 && found.other_system) found.best = nullptr;
  return found;
}

}  // namespace

std::string_view name(PrimaryReason reason) {
  switch (reason) {
    case PrimaryReason::accepted: return "accepted";
    case PrimaryReason::unreachable: return "unreachable";
    case PrimaryReason::no_writable_node: return "no_writable_node";
    case PrimaryReason::waiting_for_probes: return "waiting_for_probes";
    case PrimaryReason::confirming_failover: return "confirming_failover";
    case PrimaryReason::two_writable_nodes: return "two_writable_nodes";
    case PrimaryReason::older_timeline: return "older_timeline";
    case PrimaryReason::other_system: return "other_system";
  }
  return "unknown";
}

Verdict judge_primary(std::span<const ProbeResult> nodes, const Accepted& accepted, Instant now,
                      Millis confirm) {
  const auto fence = [&accepted](PrimaryReason why) { return Verdict{{}, why, accepted}; };

  if (!accepted.primary && !std::ranges::all_of(nodes, &ProbeResult::heard))
    return fence(PrimaryReason::waiting_for_probes);

  const Candidates found = candidates(nodes, accepted);
  const ProbeResult* const old = find(nodes, accepted.primary);

  if (!found.best) {
    if (old && old->health != NodeHealth::up) {
      if (most_follow(nodes, accepted.system_id, accepted.timeline + 1))
        return fence(PrimaryReason::older_timeline);
      return {old->id, PrimaryReason::unreachable, accepted};
    }
    if (found.other_system) return fence(PrimaryReason::other_system);
    if (found.older) return fence(PrimaryReason::older_timeline);
    return fence(PrimaryReason::no_writable_node);
  }

  const ProbeResult& best = *found.best;
  const bool best_is_followed = most_follow(nodes, best.system_id, best.timeline);
  const auto accept = [&best] {
    return Verdict{best.id,
                   PrimaryReason::accepted,
                   {.primary = best.id, .system_id = best.system_id, .timeline = best.timeline}};
  };

  if (most_follow(nodes, best.system_id, best.timeline + 1))
    return fence(PrimaryReason::older_timeline);
  if (found.tied) return fence(PrimaryReason::two_writable_nodes);
  if (&best == old) return accept();

  if (!accepted.primary) {
    if (found.rival && !best_is_followed) return fence(PrimaryReason::two_writable_nodes);
    return accept();
  }
  if (!old) return accept();

  if (old->health == NodeHealth::up) {
    const bool old_writes = old->writable && old->system_id == best.system_id;
    if (old_writes && !best_is_followed) return fence(PrimaryReason::two_writable_nodes);
    return accept();
  }
  const bool gone = !old->last_seen || now - *old->last_seen >= confirm;
  const bool superseded = best.timeline > accepted.timeline && best_is_followed;
  if (gone || superseded) return accept();
  return fence(PrimaryReason::confirming_failover);
}

}  // namespace routing
