#pragma once

#include <algorithm>
#include <cstdint>

#include "routing/topology.h"

namespace routing {

// Where a session must not read before: README.md, "Sampled floors". Positions are sampled, not asked for
// after every write, so a floor is first the number of a sample that is still to come, and then a position.
// Pure; a session has one, which costs it no allocation.
struct Floor {
  enum class Kind : std::uint8_t {
    none,     // any replica will do
    pending,  // the position of the primary's sample number `sample`, or of a later one; not known yet
    known,    // `lsn`
    at_node,  // what `node` had replayed when its probe number `probe` was asked; `node` itself will do
    leaving,  // the same, and the session waits for that answer, or for the primary's sample `sample`
  };
  Kind kind = Kind::none;
  bool foreign : 1 = false;  // `lsn` is of none of our samples: a token's, or what a replica had replayed
  // What the session was told last is the kept answer number SessionState::kept, and nothing has moved the floor since.
  bool at_kept : 1 = false;
  NodeId node{};
  std::uint16_t incarnation = 0;  // of it, the low bits: another life of the node may stand lower
  std::uint16_t term = 0;         // ClusterState::term that `lsn` is of
  std::uint64_t sample = 0;       // of all that were pending the highest
  union {
    Lsn lsn{};            // none, pending, known: not less than this, whatever the sample says
    std::uint64_t probe;  // at_node, leaving
  };
  bool has_node() const { return kind == Kind::at_node || kind == Kind::leaving; }

  // The session has written, or has seen the primary's own data, and the newest sample *sent* so far is `sent`:
  // the first one after it is past that.
  void raise(std::uint64_t sent) {
    if (has_node()) {
      lsn = {};
      foreign = false;
    }
    at_kept = false;
    kind = Kind::pending;
    sample = sent + 1;
  }
  // It has read at a replica that satisfied the floor; `probes_sent` is the newest number sent there so far.
  // What it has seen is no newer than what that node says when it is asked next.
  void read_at(NodeId n, std::uint64_t its_incarnation, std::uint64_t probes_sent) {
    kind = Kind::at_node;
    foreign = at_kept = false;
    node = n;
    incarnation = static_cast<std::uint16_t>(its_incarnation);
    probe = probes_sent + 1;
  }
  // It would rather read elsewhere than at its node, and waits to hear where it may: of its node's position, or of
  // the primary's. Or that takes too long, and it stays; which samples its node satisfies is forgotten then.
  void leave(std::uint64_t sent) {
    at_kept = false;
    kind = Kind::leaving;
    sample = sent + 1;
  }
  void stay() {
    kind = Kind::at_node;
    sample = 0;
  }
  // Somebody else has written, and sample number `of` is past it. Nothing if that is covered already. The next
  // sample is past everything, whatever other cluster's numbers got into `of`.
  void raise_to(std::uint64_t of, std::uint64_t sent) {
    of = std::min(of, sent + 1);
    if (of <= sample) return;
    // What was read at a replica may be newer than that sample.
    has_node() ? raise(sent) : raise(of - 1);
  }
  // A position that the application brings: it, and what there was before.
  void raise_to(Lsn position, std::uint16_t its_term, std::uint64_t sent);

  // Takes what `cluster` has learnt. True: the position was lost with an old primary, and the first sample of
  // the new one stands for it.
  bool learn(const ClusterState& cluster) {
    return kind == Kind::none ? false : learn_rest(cluster);
  }

 private:
  bool learn_rest(const ClusterState& cluster);
};

}  // namespace routing
