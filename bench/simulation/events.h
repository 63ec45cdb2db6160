#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include "conf/units.h"

// What a simulation that plays millions of statements per second is made of: what happens next, and dice.
namespace simulation {

using conf::Instant;
using conf::Millis;
using conf::Nanos;

// Something that happens to `index` at a moment. Whatever it is about may have ended before: then its
// generation has moved on, and nothing happens.
struct Event {
  enum class Kind : std::uint8_t {
    answer,      // a statement ends at the server `index`
    connected,   // a connection is made, or fails, at the server `index`
    again,       // a user sends the statement `index` again
    probe,       // the node `index` is asked
    probed,      // its answer, or that there is none
    tick,        // 10 ms have passed
    look,        // 100 ms have passed
    sample,      // the primary's position is asked for, because somebody waits for it
    sampled,
    change,      // the scenario's next change
  };
  std::int64_t at;  // nanoseconds
  std::uint32_t index;
  std::uint32_t kind_and_generation;

  static constexpr std::uint32_t kGenerations = (1U << 24) - 1;
  Kind kind() const { return static_cast<Kind>(kind_and_generation & 0xff); }
  std::uint32_t generation() const { return kind_and_generation >> 8; }
};
static_assert(sizeof(Event) == 16);

// The events to come, the soonest first: a heap whose nodes have four children, which lie in one cache line.
// Events of the same moment come in an order that only depends on what was done before.
class EventHeap {
 public:
  void push(Instant at, Event::Kind kind, std::uint32_t index = 0, std::uint32_t generation = 0) {
    const Event event{at.time_since_epoch().count(), index,
                      (generation & Event::kGenerations) << 8 | static_cast<std::uint32_t>(kind)};
    std::size_t hole = heap_.size();
    heap_.push_back(event);
    for (std::size_t parent; hole > 0 && heap_[parent = (hole - 1) / 4].at > event.at; hole = parent)
      heap_[hole] = heap_[parent];
    heap_[hole] = event;
  }
  bool empty() const { return heap_.empty(); }
  std::int64_t next_at() const { return heap_.empty() ? INT64_MAX : heap_[0].at; }
  Event pop() {
    const Event first = heap_[0];
    const Event last = heap_.back();
    heap_.pop_back();
    if (heap_.empty()) return first;
    std::size_t hole = 0;
    for (std::size_t child; (child = hole * 4 + 1) < heap_.size();) {
      const std::size_t end = std::min(child + 4, heap_.size());
      for (std::size_t other = child + 1; other < end; ++other)
        if (heap_[other].at < heap_[child].at) child = other;
      if (heap_[child].at >= last.at) break;
      heap_[hole] = heap_[child];
      hole = child;
    }
    heap_[hole] = last;
    return first;
  }

 private:
  std::vector<Event> heap_;
};

// Seeded, the same on every machine (splitmix64).
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : state_(seed) {}
  std::uint64_t roll() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15U;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9U;
    z = (z ^ z >> 27) * 0x94d049bb133111ebU;
    return z ^ z >> 31;
  }
  std::uint32_t below(std::uint32_t n) {
    return static_cast<std::uint32_t>((roll() >> 32) * n >> 32);
  }
  double part() { return static_cast<double>(roll() >> 11) * 0x1p-53; }  // 0 to 1

 private:
  std::uint64_t state_;
};

// Draws from a distribution of mean 1 that is given by its quantiles: a look-up instead of a logarithm.
class Spread {
 public:
  template <class Quantile>
  explicit Spread(Quantile quantile) {
    double sum = 0;
    for (std::size_t i = 0; i < kSteps; ++i)
      sum += values_[i] = quantile((static_cast<double>(i) + 0.5) / static_cast<double>(kSteps));
    for (double& value : values_) value *= static_cast<double>(kSteps) / sum;
  }
  double draw(Dice& dice) const { return values_[dice.below(kSteps)]; }

 private:
  static constexpr std::uint32_t kSteps = 4096;
  std::array<double, kSteps> values_{};
};

// Draws one of several by their weights, in constant time (Walker's alias method).
class Lottery {
 public:
  explicit Lottery(const std::vector<double>& weights);
  std::uint32_t draw(Dice& dice) const {
    const std::uint32_t place = dice.below(static_cast<std::uint32_t>(part_.size()));
    return dice.part() < part_[place] ? place : other_[place];
  }

 private:
  std::vector<double> part_;
  std::vector<std::uint32_t> other_;
};

}  // namespace simulation
