#pragma once

#include <vector>

#include "bench/simulation/events.h"
#include "bench/simulation/plan.h"
#include "routing/lsn.h"

// The nodes themselves: how long they take, what they have replayed, how they fail. What pgsluice knows of
// them it has to find out.
namespace simulation {

enum class NodeFault : std::uint8_t { none, refuses, silent };

class Postgres {
 public:
  // Node 0 is the primary.
  explicit Postgres(const Scale& scale) : scale_(scale), nodes_(scale.replicas + 1) {}

  struct Node {
    NodeFault fault = NodeFault::none;
    std::int64_t started = 1;  // changes with each start
    double slow = 1;           // times as long as usual
    double conflicts = 0;      // part of its reads that it cancels
    int running = 0;           // statements
    Instant stalled_from{}, stalled_until{};  // replays nothing
  };
  Node& node(std::size_t at) { return nodes_[at]; }
  const Node& node(std::size_t at) const { return nodes_[at]; }

  // One more begins to run, for `usual` where the node is well and has a core for it. How long that takes is
  // decided at its beginning.
  Nanos begin(std::size_t at, double usual) {
    Node& node = nodes_[at];
    const double crowd = static_cast<double>(++node.running) / scale_.cores;
    return Nanos(static_cast<std::int64_t>(usual * node.slow * (crowd > 1 ? crowd : 1)));
  }
  void end(std::size_t at) { --nodes_[at].running; }

  // The primary has committed something.
  void commit(Instant now);
  // Where a node stands.
  routing::Lsn position(std::size_t at, Instant now) const;

 private:
  static constexpr Millis kReplayDelay{3};
  static constexpr int kCatchUp = 4;  // so many times as fast as the primary writes

  const Scale& scale_;
  std::vector<Node> nodes_;
  std::vector<std::uint64_t> history_;  // the primary's position, by millisecond
  std::uint64_t written_ = 1'000;
};

// When it all begins: long after Instant{}, which stands for never.
inline constexpr Instant kBeginning = Instant(std::chrono::hours(24));
inline Instant after(double seconds) {
  return kBeginning + Nanos(static_cast<std::int64_t>(seconds * 1e9));
}

}  // namespace simulation
