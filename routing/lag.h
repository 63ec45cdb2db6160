#pragma once

#include <optional>
#include <vector>

#include "routing/topology.h"

namespace routing {

// Where the primary was, and when: samples of (our monotonic time, primary's position), from which
// the lag of a replica follows without anybody else's clock: "the primary was here 3 seconds ago,
// and you are here now". One ring per cluster, kept by the control thread; not thread-safe.
//
// An idle primary adds no entries, so it costs no memory and makes no lag. At most kEntries; when
// they are full, old ones are thinned so that neighbours stand no further apart than 1/24 of their
// age: a lag is at most 4 % and one sampling interval too large, never too small, and days fit.
// Cost: add() is constant on average, lag() a binary search.
class LagRing {
 public:
  static constexpr std::size_t kEntries = 1024;
  // A replica that is behind everything remembered is "at least" this late before lag() gives a
  // number.
  static constexpr Millis kLongEnough = std::chrono::hours(1);

  // The primary's insert position (normalised) read at `now`. A position lower than the last one
  // means that another timeline took over: everything older is forgotten.
  void add(Instant now, Lsn position);
  // Forgets everything: another primary was accepted.
  void reset() { samples_.clear(); }

  // now - the newest t at which the primary was at or before `replayed`; zero when the replica has
  // replayed the newest sample. Nothing, which is unknown and never zero: there is no sample,
  // `replayed` is zero, or the replica is behind the oldest sample and that one is younger than
  // kLongEnough (then nobody knows how far behind; older, "at least now - oldest" is returned).
  //
  // When the primary has stopped answering, its newest sample stands: replicas past it have no
  // known lag and go on serving, which is how reads survive the primary. Ask newest() if staleness
  // matters.
  std::optional<Millis> lag(Lsn replayed, Instant now) const;

  std::optional<Instant> newest() const;
  std::size_t size() const { return samples_.size(); }

 private:
  struct Sample {
    Instant first, last;  // the primary was seen here from then to then
    Lsn position;
  };
  void thin(Instant now);

  std::vector<Sample> samples_;  // oldest first; positions strictly rise
};

// How far behind a replica may be: in time, and in bytes of log (0: any number).
struct LagLimits {
  Millis time;
  std::uint64_t bytes = 0;
};

// Whether one replica's lag lets it serve, with hysteresis so that a lag near a limit does not
// flap: out above either limit, in again when it is at three quarters of both ("return fast": no
// waiting time). Unknown lag never serves, but does not count as having been out.
class LagGate {
 public:
  // Returns NodeState::lag_ok. `bytes` counts only beside a known lag.
  bool update(std::optional<Millis> lag, std::uint64_t bytes, LagLimits limits);

 private:
  bool late_ = false;
};

}  // namespace routing
