#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>

#include "conf/check.h"
#include "conf/units.h"
#include "pool/list.h"
#include "pool/session_settings.h"
#include "routing/router.h"

// Answers for several: identical reads that are in flight at the same time run once.
namespace pool {

using conf::Instant;
using conf::Millis;

// Whose data an answer shows: what was known of that node before it had the statement, and when the answer had been
// read.
struct ReadPosition {
  Instant began{};  // on this worker's clock
  bool primary = false;
  routing::NodeId node{};
  std::uint16_t incarnation = 0;  // of the node, its low bits
  std::uint16_t term = 0;         // ClusterState::term
  routing::Lsn lsn{};  // it had replayed at least so much; of the primary: the newest sample that had been answered
  std::uint64_t asked = 0;  // the newest number that had been sent to it: of a sample (the primary), or of a probe
  std::uint64_t told = 0;   // the same when the answer had been read
  std::uint32_t kept = 0;   // its number among the answers that are kept; 0: it is not
};

// Does an answer from there show all that this session must see? Every scope of consistency has its say here, and
// nowhere else: never to those that want the state of now. `later`: it was sent after the session's floor had come to
// be, so that it sees whatever the session has been told by that node, or by the primary if that is it. Pure.
//
// A sample (or a probe) is sent after the answer that wants it has been read. So a read that begins at that node after
// it was sent sees all that the answer showed. Two positions of the primary that are equal prove less: a commit may
// stand before both and become visible between them.
//
// A kept answer can be told again to the session that was told it last: whatever that answer showed stands before the
// session's floor, but nothing else does (Floor::at_kept). Only that very one, by its number: of another answer with
// the same position nobody knows whether it was read before or after.
bool covers(const ReadPosition& at, const routing::SessionState& session, bool later = false);
// The session has seen it.
void note_seen(const ReadPosition& at, std::uint64_t samples_sent, routing::SessionState* session);

struct Flight;

// One batch that takes part in a flight. It leaves before it dies.
struct FlightMember {
  Flight* flight = nullptr;
  ListNode<FlightMember> among_followers;  // linked: it follows; else, with a flight, it leads
  bool leads() const { return flight != nullptr && !among_followers.linked(); }
  bool follows() const { return among_followers.linked(); }
};

// One read that runs for all who have asked for the same.
struct Flight {
  const std::string key;
  const SettingsRef settings;      // that the key speaks of by its address
  FlightMember* leader = nullptr;  // null: it has been answered
  List<FlightMember, &FlightMember::among_followers> followers{};
  Millis cache_for{0};   // its answer is kept for so long
  bool started = false;  // a server has it
  bool outdated = false;  // positions mean something else now: its answer is for those who follow already
  ReadPosition at{};     // of that server, before it had it
  std::string answer{};  // what the leader's client has been sent so far
};

// The flights of one worker. It decides nothing about sockets: the worker asks who takes part, and acts.
class SingleFlight {
 public:
  // The flight of this key; null: there is none.
  Flight* find(const std::string& key);
  // A new one. There must be none of its key.
  Flight& open(std::string key, SettingsRef settings, Millis cache_for, FlightMember& leader);
  // May one more wait for its answer, of whom `may_see` says whether a position is good enough? A flight that has not
  // started may turn out to go where it must not read: that is asked again then.
  template <class MaySee>
  static bool takes(const Flight& flight, std::size_t most_followers, MaySee&& may_see) {
    return !flight.outdated && flight.followers.size() < most_followers && (!flight.started || may_see(flight.at));
  }
  void join(Flight& flight, FlightMember& follower);
  // A follower goes its own way.
  void leave(FlightMember& follower);
  // Its server is lost, or cannot do it: the leader begins anew.
  static void restart(Flight& flight) {
    flight.started = false;
    flight.at = {};
    flight.answer.clear();
  }
  // Another primary, another configuration: nobody joins those that are under way.
  void outdate();
  // The flight ends. Its leader has left it or is let go, and the followers are, one by one, in the order in
  // which they came. `release` may open the next flight of this key.
  template <class Release>
  void close(Flight& flight, Release&& release) {
    if (flight.leader != nullptr) flight.leader->flight = nullptr;
    flight.leader = nullptr;
    const auto found = flights_.find(flight.key);
    ENSURE(found != flights_.end() && found->second.get() == &flight);
    const std::unique_ptr<Flight> owned = std::move(found->second);
    flights_.erase(found);
    while (FlightMember* follower = owned->followers.front()) {
      leave(*follower);
      release(*follower);
    }
  }
  std::size_t size() const { return flights_.size(); }

 private:
  std::unordered_map<std::string_view, std::unique_ptr<Flight>> flights_;  // by the key in the flight
};

}  // namespace pool
