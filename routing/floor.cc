#include "routing/floor.h"

#include <algorithm>

namespace routing {

void Floor::raise_to(Lsn position, std::uint16_t its_term, std::uint64_t sent) {
  // Where a node was to be asked, its position may be the higher one, or this.
  if (has_node()) raise(sent);
  if (kind == Kind::none) kind = Kind::known;
  at_kept = false;
  if (term != its_term || position > lsn) foreign = true;
  lsn = term == its_term ? std::max(lsn, position) : position;
  term = its_term;
}

bool Floor::learn_rest(const ClusterState& cluster) {
  bool lost = false;
  // What is left of an older term is below anything that is sampled in this one.
  const auto at_least = [&](Lsn position) { return term == cluster.term ? std::max(lsn, position) : position; };
  if (kind == Kind::known && term != cluster.term) {
    const bool stands = term + 1 == cluster.term && lsn <= cluster.switched_at;
    if (stands) {
      term = cluster.term;
    } else {
      // Whatever it was, nobody has it any more; the new primary's first sample is past what is left of it.
      lost = true;
      lsn = {};
      foreign = false;
      kind = Kind::pending;
      sample = std::max(sample, cluster.first_sample);
    }
  }
  if (has_node()) {
    const NodeState* const it = cluster.find(node);
    if (it == nullptr || !it->has_kept(incarnation) || !cluster.serves_reads(*it)) {
      // It cannot be asked, and nothing that it had was ahead of its primary.
      raise(cluster.samples_sent ? cluster.samples_sent->load() : cluster.sample);
    } else if (it->probe >= probe && it->replayed != Lsn{}) {
      kind = Kind::known;
      lsn = it->replayed;
      foreign = true;
      term = cluster.term;
    }
  }
  if ((kind == Kind::pending || kind == Kind::leaving) && sample <= cluster.sample) {
    if (kind == Kind::leaving) lsn = {};  // it was none
    if (lsn <= cluster.sample_lsn || term != cluster.term) foreign = false;
    lsn = at_least(cluster.sample_lsn);
    kind = Kind::known;
    term = cluster.term;
  }
  return lost;
}

}  // namespace routing
