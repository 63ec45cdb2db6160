#include "routing/chooser.h"

#include <algorithm>
#include <bit>

namespace routing {
namespace {

constexpr auto relaxed = std::memory_order_relaxed;

// One choice in so many takes the first draw whatever it costs. Latency is only learnt from
// statements that ran: without this a replica that was slow once would be asked again only when its latency
// has faded. Rare enough that two replicas of which one is slow keep the slow one out of the P99 (1/128 of
// the reads).
constexpr std::uint32_t kExploreOneIn = 64;

// What is shorter than this is the machine's noise, not the node's.
constexpr std::uint64_t kNoiseMicros = 256;

// minstd_rand yields 1 .. 2^31 - 2; the product's high part is even enough for any sum of shares.
std::uint32_t draw(std::minstd_rand& random, std::uint32_t n) {
  return static_cast<std::uint32_t>((std::uint64_t{random()} * n) >> 31);
}

// Latencies that differ by less than a factor of two are noise, and would send all reads of a quiet moment
// to whichever replica had the luckier last answer. So they are compared as powers of two, and load decides
// between equals.
std::uint64_t coarse(const NodeLoad& load) {
  return std::bit_floor(std::max(load.latency.load(relaxed), kNormal));
}

std::uint64_t in_flight(const NodeLoad& load) {
  return static_cast<std::uint64_t>(std::max(load.in_flight.load(relaxed), 0));
}

bool has_room(const NodeLoad& load) {
  const std::int32_t limit = load.limit.load(relaxed);
  return limit == 0 || load.in_flight.load(relaxed) < limit;
}

// Is latency x (1 + in flight / weight) lower at `a` than at `b`? Both sides times both shares.
bool cheaper(const NodeLoads& loads, const Candidate& a, const Candidate& b) {
  const NodeLoad& at_a = loads[index(a.id)];
  const NodeLoad& at_b = loads[index(b.id)];
  return coarse(at_a) * (a.share + in_flight(at_a) * kFullShare) * b.share <
         coarse(at_b) * (b.share + in_flight(at_b) * kFullShare) * a.share;
}

// The candidate in whose part of the sum of shares `point` lies.
std::size_t at(std::span<const Candidate> candidates, std::uint32_t point) {
  if (candidates.back().up_to == candidates.size() * kFullShare) return point / kFullShare;
  const auto found = std::ranges::upper_bound(candidates, point, {}, &Candidate::up_to);
  return static_cast<std::size_t>(found - candidates.begin());
}

// The less busy of two that are drawn.
NodeId draw_two(std::span<const Candidate> candidates, const NodeLoads& loads,
                std::minstd_rand& random) {
  if (candidates.size() == 1) return candidates[0].id;
  const std::uint32_t sum = candidates.back().up_to;
  const Candidate& a = candidates[at(candidates, draw(random, sum))];
  std::uint32_t point = draw(random, sum - a.share);
  if (point >= a.up_to - a.share) point += a.share;
  const Candidate& b = candidates[at(candidates, point)];
  const bool a_has_room = has_room(loads[index(a.id)]), b_has_room = has_room(loads[index(b.id)]);
  if (a_has_room != b_has_room) return a_has_room ? a.id : b.id;
  if (!a_has_room && candidates.size() > 2) [[unlikely]] {
    const Candidate* best = nullptr;
    for (const Candidate& one : candidates)
      if (has_room(loads[index(one.id)]) && (best == nullptr || cheaper(loads, one, *best))) best = &one;
    if (best != nullptr) return best->id;
  }
  if (draw(random, kExploreOneIn) == 0) return a.id;
  return cheaper(loads, b, a) ? b.id : a.id;
}

// The same where all have the same share and none is nearer: what nearly every statement asks.
ReadChoice draw_two_even(std::span<const Candidate> candidates, const NodeLoads& loads,
                         std::minstd_rand& random) {
  const auto count = static_cast<std::uint32_t>(candidates.size());
  if (count == 1) return {candidates[0].id, ReadReason::fresh_replica};
  const std::uint32_t drawn = draw(random, count * kExploreOneIn);
  const std::uint32_t first = drawn / kExploreOneIn;
  const std::uint32_t other = draw(random, count - 1);
  const NodeId a = candidates[first].id;
  const NodeId b = candidates[other + (other >= first ? 1 : 0)].id;
  const NodeLoad& at_a = loads[index(a)];
  const NodeLoad& at_b = loads[index(b)];
  if (!has_room(at_a) || !has_room(at_b)) [[unlikely]]
    return {draw_two(candidates, loads, random), ReadReason::fresh_replica};
  const bool second = drawn % kExploreOneIn != 0 &&
                      coarse(at_b) * (in_flight(at_b) + 1) < coarse(at_a) * (in_flight(at_a) + 1);
  return {second ? b : a, ReadReason::fresh_replica};
}

// `near` of them, those in front, are in our zone.
ReadChoice choose(std::span<const Candidate> candidates, std::size_t near, const NodeLoads& loads,
                  std::minstd_rand& random) {
  if (near > 0 && near < candidates.size()) {
    const NodeId drawn = draw_two(candidates.first(near), loads, random);
    if (has_room(loads[index(drawn)])) return {drawn, ReadReason::fresh_replica};
  }
  return {draw_two(candidates, loads, random), ReadReason::fresh_replica};
}

// So often a session looks whether another replica is less busy than its own by a factor of two. Leaving costs
// some ten milliseconds, so one that reads every millisecond loses less than a tenth even if it always finds one.
constexpr std::uint32_t kLeaveOneIn = 128;
// And so often whether its own has become slow, which is a fault, and not load: four times slower than the other.
constexpr std::uint32_t kFleeOneIn = 16;
constexpr std::uint64_t kFleeFactor = 4;

bool is_better_elsewhere(const ClusterState& cluster, const NodeLoads& loads, NodeId here, std::uint64_t excluded,
                         std::minstd_rand& random) {
  const auto count = static_cast<std::uint32_t>(cluster.serving.size());
  if (count < 2) return false;
  const std::uint32_t drawn = draw(random, kLeaveOneIn);
  if (drawn % kFleeOneIn != 0) return false;
  const NodeId other = cluster.serving[draw(random, count)].id;
  if (excluded != 0 && cluster.is_among(excluded, other)) return false;
  if (coarse(loads[index(here)]) >= kFleeFactor * coarse(loads[index(other)])) return other != here;
  if (drawn != 0) return false;
  const auto cost = [&loads](NodeId node) {
    return coarse(loads[index(node)]) * (in_flight(loads[index(node)]) + 1);
  };
  return other != here && 2 * cost(other) <= cost(here);
}

// A moving average's next value: a sixteenth of the way.
std::uint32_t toward(std::uint32_t average, std::uint32_t value) {
  return value > average ? average + (value - average + 15) / 16 : average - (average - value) / 16;
}

bool close_enough(const NodeState& node, const ReadNeeds& needs) {
  return needs.however_late || ClusterState::close_enough(node, needs.max_lag) ||
         (needs.tolerated.count() > 0 && node.lag && *node.lag <= needs.tolerated &&
          (needs.tolerated_bytes == 0 || node.lag_bytes <= needs.tolerated_bytes));
}

}  // namespace

void NodeLoad::observe(std::uint32_t relative, std::uint32_t us) {
  // Workers may overwrite each other's observation; one that is lost changes nothing that matters.
  const std::uint32_t before = latency.load(relaxed);
  const std::uint32_t next =
      relative > before ? before + (relative - before + 7) / 8 : before - (before - relative) / 256;
  latency.store(next, relaxed);
  mean.store(toward(mean.load(relaxed), relative), relaxed);
  const std::uint32_t shown = latency_us.load(relaxed);
  latency_us.store(shown == 0 ? us : toward(shown, us), relaxed);
}

void NodeLoad::fade(const LoadRules& rules, std::int32_t slots) {
  const std::uint32_t now = latency.load(relaxed);
  const auto steps = static_cast<std::uint32_t>(std::max<std::int64_t>(1, rules.decay / kFadePeriod));
  for (std::atomic<std::uint32_t>* average : {&latency, &mean}) {
    const std::uint32_t value = average->load(relaxed);
    const std::uint32_t away = value > kNormal ? value - kNormal : kNormal - value;
    const std::uint32_t step = (away + steps - 1) / steps;
    if (away > 0) average->store(value > kNormal ? value - step : value + step, relaxed);
  }

  if (rules.least == 0 || slots <= rules.least) return limit.store(0, relaxed);
  const std::int32_t old = limit.load(relaxed) == 0 ? slots : std::min(limit.load(relaxed), slots);
  // As in Netflix's Gradient2: the part of the latency that is tolerable, never less than half at once, and
  // room for a queue, without which a limit could never be found too low.
  const double gradient = std::clamp(rules.tolerance / 100.0 * kNormal / now, 0.5, 1.0);
  const double step = (old * gradient + std::max(1.0, old / 8.0) - old) * rules.smoothing / 100.0;
  // A whole one at least, or small limits would stand still.
  const double next = step >= 0 ? old + std::max(step, 1.0) : old + std::min(step, -1.0);
  limit.store(std::clamp(static_cast<std::int32_t>(next), rules.least, slots), relaxed);
}

std::uint32_t Baselines::relative(std::uint32_t digest, std::uint32_t us) {
  Entry& entry = entries_[digest % kEntries];
  if (entry.digest != digest || entry.us == 0) {
    entry = {digest, std::max(us, 1U)};
    return kNormal;
  }
  const std::uint32_t usual = entry.us;
  const std::uint64_t times = (us + kNoiseMicros) * kNormal / (usual + kNoiseMicros);
  if (us < usual)
    entry.us = std::max(usual - (usual - us + 7) / 8, 1U);
  else
    entry.us = usual + std::min((us - usual) / 64, usual / 64 + 1);
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(times, kLongest));
}

std::string_view name(ReadReason r) {
  switch (r) {
    case ReadReason::fresh_replica: return "fresh_replica";
    case ReadReason::same_replica: return "same_replica";
    case ReadReason::floor_pending: return "floor_pending";
    case ReadReason::no_replica: return "no_replica";
    case ReadReason::no_replica_up: return "no_replica_up";
    case ReadReason::all_lagging: return "all_lagging";
    case ReadReason::none_has_replayed: return "none_has_replayed";
    case ReadReason::all_drained: return "all_drained";
    case ReadReason::all_ejected: return "all_ejected";
    case ReadReason::none_in_group: return "none_in_group";
  }
  return "unknown";
}

ReadChoice choose_replica(const ClusterState& cluster, const ReadNeeds& needs,
                          const NodeLoads& loads, std::minstd_rand& random) {
  const bool any_will_do = needs.floor == Lsn{} && !needs.pending && needs.excluded == 0 && needs.groups == 0 &&
                           needs.max_lag.count() == 0 && needs.tolerated.count() == 0 && !needs.however_late;
  if (any_will_do && !cluster.serving.empty())
    return cluster.even ? draw_two_even(cluster.serving, loads, random)
                        : choose(cluster.serving, cluster.near, loads, random);
  if (needs.stay)
    if (const NodeState* node = cluster.find(*needs.stay);
        node != nullptr && cluster.may_serve_reads(*node) &&
        close_enough(*node, needs) &&
        (needs.groups == 0 || (node->groups & needs.groups) != 0)) {
      const auto place = static_cast<std::size_t>(node - cluster.nodes.data());
      if (place >= 64 || (needs.excluded >> place & 1) == 0)
        return {node->id, ReadReason::same_replica, is_better_elsewhere(cluster, loads, node->id, needs.excluded, random)};
    }

  const NodeState* const primary = cluster.primary ? cluster.find(*cluster.primary) : nullptr;
  const auto follows = [&cluster, primary](const NodeState& node) { return cluster.on_same_history(node, primary); };

  std::array<Candidate, kMaxNodes> eligible;
  std::size_t count = 0, near = 0;
  std::uint32_t sum = 0;
  bool any_replica = false, any_up = false, any_open = false, any_meant = false, any_close = false,
       any_drained = false, soon = false;
  // Two passes, so that those of our zone stand in front.
  for (const bool nearby : {true, false}) {
    for (std::size_t i = 0; i < std::min(cluster.nodes.size(), kMaxNodes); ++i) {
      const NodeState& node = cluster.nodes[i];
      if (node.nearby != nearby || node.role != NodeRole::replica || &node == primary) continue;
      any_replica = true;
      if (node.health != NodeHealth::up || node.ips.empty()) continue;
      if (i < 64 && (needs.excluded >> i & 1) != 0) continue;
      any_drained |= node.drained;
      if (node.drained) continue;
      any_up = true;
      if (!cluster.may_serve_reads(node)) continue;
      any_open = true;
      if (needs.groups != 0 && (node.groups & needs.groups) == 0) continue;
      any_meant = true;
      if (!close_enough(node, needs)) continue;
      any_close = true;
      soon |= follows(node) && node.lag && *node.lag <= needs.close;
      if (needs.pending) continue;
      if (needs.floor != Lsn{} && (node.replayed < needs.floor || !follows(node))) continue;
      // One whose probe is late is all but passed over.
      const std::uint16_t share = node.late ? 1 : node.share;
      eligible[count++] = {node.id, share, sum += share};
    }
    if (nearby) near = count;
  }
  if (!any_replica) return {std::nullopt, ReadReason::no_replica};
  if (!any_up)
    return {std::nullopt, any_drained ? ReadReason::all_drained : ReadReason::no_replica_up};
  if (!any_open) return {std::nullopt, ReadReason::all_ejected};
  if (!any_meant) return {std::nullopt, ReadReason::none_in_group};
  if (!any_close) return {std::nullopt, ReadReason::all_lagging};
  if (needs.pending) return {.why = ReadReason::floor_pending, .soon = soon};
  if (count == 0) return {.why = ReadReason::none_has_replayed, .soon = soon};
  return choose(std::span(eligible).first(count), near, loads, random);
}

}  // namespace routing
