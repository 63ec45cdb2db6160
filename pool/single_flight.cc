#include "pool/single_flight.h"

#include <utility>

namespace pool {

bool covers(const ReadPosition& at, const routing::SessionState& session, bool later) {
  using routing::Floor;
  switch (session.consistency) {
    case conf::Consistency::eventual: return true;
    case conf::Consistency::strong:
    case conf::Consistency::primary: return false;
    case conf::Consistency::monotonic:
    case conf::Consistency::token:
    case conf::Consistency::session:
    case conf::Consistency::tenant: break;
  }
  const Floor& floor = session.floor;
  if (floor.kind == Floor::Kind::none) return true;
  if (floor.at_kept && at.kept != 0 && at.kept == session.kept) return true;
  if (at.primary) {
    if (later) return true;
    if (floor.has_node() || floor.sample > at.asked) return false;
    return !floor.foreign || (floor.term == at.term && floor.lsn < at.lsn);
  }
  switch (floor.kind) {
    case Floor::Kind::none: return true;
    case Floor::Kind::pending: return false;
    case Floor::Kind::known: return floor.term == at.term && floor.lsn <= at.lsn;
    case Floor::Kind::at_node:
    case Floor::Kind::leaving:
      return floor.node == at.node && floor.incarnation == at.incarnation && (later || floor.probe <= at.asked);
  }
  return false;
}

void note_seen(const ReadPosition& at, std::uint64_t samples_sent, routing::SessionState* session) {
  if (at.primary) {
    session->floor.raise_to(at.told + 1, samples_sent);
  } else {
    session->floor.read_at(at.node, at.incarnation, at.told);
  }
  session->floor.at_kept = at.kept != 0;
  session->kept = at.kept;
}

Flight* SingleFlight::find(const std::string& key) {
  const auto found = flights_.find(key);
  return found == flights_.end() ? nullptr : found->second.get();
}

Flight& SingleFlight::open(std::string key, SettingsRef settings, Millis cache_for, FlightMember& leader) {
  ENSURE(leader.flight == nullptr && !flights_.contains(key));
  std::unique_ptr<Flight> made(new Flight{.key = std::move(key), .settings = std::move(settings),
                                          .leader = &leader, .cache_for = cache_for});
  Flight& flight = *made;
  leader.flight = &flight;
  flights_.emplace(flight.key, std::move(made));
  return flight;
}

void SingleFlight::join(Flight& flight, FlightMember& follower) {
  ENSURE(follower.flight == nullptr && flight.leader != nullptr);
  follower.flight = &flight;
  flight.followers.push_back(follower);
}

void SingleFlight::leave(FlightMember& follower) {
  ENSURE(follower.follows());
  follower.flight->followers.remove(follower);
  follower.flight = nullptr;
}

void SingleFlight::outdate() {
  for (const auto& [key, flight] : flights_) flight->outdated = true;
}

}  // namespace pool
