#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "conf/check.h"

// What a worker counts with. Everything here has one writer (the worker that owns it) and any
// number of readers on other threads. One writer means that a relaxed load, add and store are
// enough: three plain instructions, no lock prefix, no data race. A second writer would lose counts
// silently.
namespace metrics {

// Only grows, from 0 at the start of the process. Add: under 1 ns.
class Counter {
 public:
  void add(std::uint64_t n = 1) {
    value_.store(value_.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }
  std::uint64_t read() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_{0};
};

// Goes up and down. Signed, so that a worker's share of something that moves between workers may
// pass below zero while the sum stays right.
class Gauge {
 public:
  void set(std::int64_t value) { value_.store(value, std::memory_order_relaxed); }
  void add(std::int64_t n) {
    value_.store(value_.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }
  std::int64_t read() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::int64_t> value_{0};
};

// One counter per enumerator of an enum that a higher layer owns (Refusal, RouteReason ...). The
// exporter learns the words from LabelNames. Capacity is fixed, so that adding an enumerator above
// needs no change here; reaching it stops the process in the first test that counts the enumerator.
class CounterArray {
 public:
  static constexpr std::size_t kCapacity = 64;  // the largest enum today has 33

  void add(std::size_t index, std::uint64_t n = 1) {
    ENSURE(index < kCapacity);
    cells_[index].add(n);
  }
  template <class Enum>
    requires std::is_enum_v<Enum>
  void add(Enum reason, std::uint64_t n = 1) {
    add(static_cast<std::size_t>(reason), n);
  }
  std::uint64_t read(std::size_t index) const {
    ENSURE(index < kCapacity);
    return cells_[index].read();
  }

 private:
  std::array<Counter, kCapacity> cells_;
};

}  // namespace metrics
