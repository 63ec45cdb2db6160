#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "metrics/histogram.h"
#include "metrics/worker_metrics.h"

// What each kind of statement costs: one digest of one database.
namespace metrics {

// Durations, coarser than Histogram and of fixed size: eight buckets per octave, so that a quantile is
// within 6.3 %. Plain counters: whoever wants it asks the worker that owns it.
class DigestHistogram {
 public:
  void record(Nanos duration, std::uint32_t times = 1) {
    std::uint32_t& bucket = buckets_[HistogramBuckets::index(duration) / kMerged];
    bucket += times;
    if (bucket < times) [[unlikely]]
      halve(bucket);
  }
  void merge(const DigestHistogram& other);
  // As in HistogramSnapshot. Zero when nothing was recorded.
  Nanos quantile(double q) const;

 private:
  static constexpr std::size_t kMerged = 4;  // of Histogram's buckets in one
  void halve(std::uint32_t& overflown);
  std::array<std::uint32_t, HistogramBuckets::kBuckets / kMerged> buckets_{};
};

// A place in DigestStats. It may have been given to another digest since: `life` tells.
struct DigestRef {
  std::uint16_t slot = 0, life = 0;
  friend bool operator==(const DigestRef&, const DigestRef&) = default;
};

// What one batch runs: up to kMost digests, and how often each. What comes beyond these is counted as
// "other digests". A batch is nearly always one statement, or BEGIN and one.
class DigestRuns {
 public:
  static constexpr std::size_t kMost = 3;
  struct One {
    DigestRef ref;
    std::uint16_t calls : 15 = 0;
    bool controls : 1 = false;  // transaction control, settings: its time is nothing beside that of the others
  };
  static_assert(sizeof(One) == 6);  // every client has room for kMost

  void add(DigestRef ref, bool controls) {
    if (runs_[0].calls == 0) [[likely]] {
      runs_[0] = {ref, 1, controls};
    } else {
      add_behind(ref, controls);
    }
  }
  void add(const DigestRuns& more);
  bool empty() const { return runs_[0].calls == 0; }
  bool alone() const { return runs_[1].calls == 0; }
  const std::array<One, kMost>& all() const { return runs_; }

 private:
  void add_behind(DigestRef ref, bool controls, std::uint16_t calls = 1);
  std::array<One, kMost> runs_{};  // those with calls come first
};

// What became of a batch.
struct DigestOutcome {
  Nanos server{0};  // time at the server
  std::uint64_t rows = 0;
  bool failed = false;
  std::uint16_t tenant = 0;
};

// The statements of one worker by database and digest, for SHOW DIGESTS. Bounded: when all places are
// taken, one that has not been used for longest (by a clock's hand) goes to the next new digest. One
// thread. A place takes about 1.2 kB, and up to kMaxText for the statement's text.
//
// Costs some dozen instructions to find a place and as many to count, no allocation after a digest's first
// statement: whoever asks keeps a hint of where the digest was found last.
class DigestStats {
 public:
  static constexpr std::size_t kMostPlaces = 60'000, kMaxText = 500, kTenants = 8;

  struct Counts {
    std::uint64_t calls = 0;
    std::uint64_t failed = 0;
    std::uint64_t rows = 0;
    std::uint64_t shared = 0;  // beside `calls`: answered with another's answer
    Nanos time{0};             // at servers
  };
  // A place as it is told to others.
  struct Use {
    std::uint64_t digest = 0;
    std::string database, text;
    Counts counts;
    DigestHistogram times;
    std::vector<std::uint16_t> tenants;  // in order of appearance, kTenants at most
    bool more_tenants = false;
  };

  explicit DigestStats(std::size_t places);
  // Another number of places: everything is forgotten.
  void resize(std::size_t places);

  // The place of a digest. `hint` is the caller's, one per digest: where it was found last. `text()` says what
  // the statement reads like, and is called when the digest is new.
  template <class Text>
  DigestRef find(std::uint64_t digest, const DatabaseCounters& database, std::uint16_t& hint, Text&& text) {
    if (hint < places_.size()) [[likely]] {
      Place& place = places_[hint];
      if (place.digest == digest && place.database == &database) [[likely]] {
        place.used = true;
        return {hint, place.life};
      }
    }
    const DigestRef found = look_up(digest, database);
    if (found.slot != kOther) {
      hint = found.slot;
      return found;
    }
    if (limit_ == 0) return {};
    const DigestRef made = make(digest, database, text());
    hint = made.slot;
    return made;
  }

  void count(const DigestRuns& runs, const DigestOutcome& outcome) {
    if (runs.alone()) [[likely]] {
      count(runs.all()[0], outcome);
    } else {
      count_several(runs, outcome);
    }
  }
  // Somebody's batch was answered with an answer that was there.
  void count_shared(const DigestRuns& runs, std::uint16_t tenant);

  // Whose place that is, or was. 0: another's by now, or it has none.
  std::uint64_t digest_of(DigestRef ref) const;
  const DatabaseCounters* database_of(DigestRef ref) const;

  // Digests that have lost their place.
  std::uint64_t evictions() const { return evictions_; }
  // Places in use, that of all other digests included, which is number 0 and has the digest 0.
  std::size_t size() const { return places_.size(); }
  Use use(std::size_t place) const;

 private:
  static constexpr std::uint16_t kOther = 0;
  struct alignas(64) Place {
    std::uint64_t digest = 0;
    const DatabaseCounters* database = nullptr;
    std::uint16_t life = 0;
    std::uint16_t last_tenant = 0xffff;
    bool used = false;
    Counts counts;
  };
  struct Details {
    DigestHistogram times;
    std::string text;
    std::array<std::uint16_t, kTenants> tenants{};
    std::uint8_t tenant_count = 0;
    bool more_tenants = false;
  };
  struct Key {
    std::uint64_t digest;
    const DatabaseCounters* database;
    friend bool operator==(const Key&, const Key&) = default;
  };
  struct Hash {
    std::uint64_t multiplier;  // secret: digests come from strangers
    std::size_t operator()(const Key& key) const;
  };

  void count(const DigestRuns::One& run, const DigestOutcome& outcome) {
    Place& place = place_of(run.ref);
    place.counts.calls += run.calls;
    place.counts.rows += outcome.rows;
    place.counts.failed += outcome.failed ? 1 : 0;
    place.counts.time += outcome.server;
    Details& details = details_[static_cast<std::size_t>(&place - places_.data())];
    details.times.record(run.calls == 1 ? outcome.server : outcome.server / run.calls, run.calls);
    if (place.last_tenant != outcome.tenant) [[unlikely]]
      note_tenant(place, details, outcome.tenant);
  }
  Place& place_of(DigestRef ref) {
    Place* const place = ref.slot < places_.size() ? &places_[ref.slot] : places_.data();
    return place->life == ref.life ? *place : places_.front();
  }
  void count_several(const DigestRuns& runs, const DigestOutcome& outcome);
  static void note_tenant(Place& place, Details& details, std::uint16_t tenant);
  DigestRef look_up(std::uint64_t digest, const DatabaseCounters& database);
  DigestRef make(std::uint64_t digest, const DatabaseCounters& database, std::string text);

  std::size_t limit_ = 0;  // of places, without that of the others
  std::size_t hand_ = 1;
  std::uint64_t evictions_ = 0;
  std::uint16_t lives_ = 0;  // of places that were there before a resize
  std::vector<Place> places_;
  std::vector<Details> details_;  // at the same place: what a statement touches less often
  std::unordered_map<Key, std::uint16_t, Hash> by_key_;
};

}  // namespace metrics
