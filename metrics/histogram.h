#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <map>

#include "conf/units.h"
#include "metrics/counter.h"

// How long things take. Buckets are log-linear (the idea of HdrHistogram): every power of two of
// nanoseconds, an *octave*, is cut into 32 equal buckets, so a bucket is at most 1/32 of its lower
// bound wide and its midpoint at most 1/64 = 1.6 % from anything in it.
namespace metrics {

using conf::Nanos;

// Where a duration lands. Octave 0 is [0, 1.024 us) in steps of 32 ns; octave i >= 1 is
// [2^(9+i), 2^(10+i)) ns. The last octave ends at 2^42 ns = 73 min; its last bucket also takes
// everything longer.
struct HistogramBuckets {
  static constexpr unsigned kSubBits = 5;
  static constexpr std::size_t kSubBuckets = 1U << kSubBits;
  static constexpr unsigned kFirstBits = 10;  // 2^10 ns: what "about 1 us" means here
  static constexpr unsigned kLastBits = 42;   // the first power of two of ns beyond one hour
  static constexpr std::size_t kOctaves = kLastBits - kFirstBits + 1;
  static constexpr std::size_t kBuckets = kOctaves * kSubBuckets;
  static constexpr std::uint64_t kLargest = (std::uint64_t{1} << kLastBits) - 1;

  // No branch but the clamps and no division. Octaves 0 and 1 have buckets of the same width, which
  // is what lets one formula serve both.
  static constexpr std::size_t index(Nanos duration) {
    const std::uint64_t ns = clamp(duration);
    const auto bits =
        static_cast<unsigned>(std::bit_width(ns | (std::uint64_t{1} << kFirstBits)));
    const unsigned shift = bits - 1 - kSubBits;
    return (std::size_t{bits - 1 - kFirstBits} << kSubBits) + static_cast<std::size_t>(ns >> shift);
  }
  static constexpr std::uint64_t clamp(Nanos duration) {
    const auto ns = duration.count();
    if (ns <= 0) return 0;  // a clock that stood still
    return static_cast<std::uint64_t>(ns) < kLargest ? static_cast<std::uint64_t>(ns) : kLargest;
  }
  // The value that stands for everything in a bucket.
  static constexpr Nanos midpoint(std::size_t bucket) {
    const std::size_t octave = bucket >> kSubBits;
    const unsigned shift = kFirstBits - kSubBits +
                           static_cast<unsigned>(octave > 0 ? octave - 1 : 0);
    const std::uint64_t sub = bucket & (kSubBuckets - 1);
    const std::uint64_t step = octave > 0 ? sub + kSubBuckets : sub;
    return Nanos(static_cast<std::int64_t>((step << shift) + (std::uint64_t{1} << (shift - 1))));
  }
};

// Counts durations. One writer, which also allocates the counters of an octave when the first
// duration lands in it; concurrent readers through HistogramSnapshot. Empty it takes 272 bytes,
// each octave in use 256 more (statements of one kind usually spread over four to eight).
// record() costs about 3 ns (bench/histogram_bench.cc) and allocates at most kOctaves times in the
// life of the histogram.
class Histogram {
 public:
  Histogram() = default;
  ~Histogram();
  Histogram(const Histogram&) = delete;
  Histogram& operator=(const Histogram&) = delete;

  // Negative counts as zero, longer than 73 minutes as 73 minutes.
  void record(Nanos duration) {
    const std::size_t bucket = HistogramBuckets::index(duration);
    const std::size_t octave = bucket >> HistogramBuckets::kSubBits;
    Octave* counters = octaves_[octave].load(std::memory_order_relaxed);  // our own store
    if (counters == nullptr) [[unlikely]]
      counters = open(octave);
    (*counters)[bucket & (HistogramBuckets::kSubBuckets - 1)].add();
    sum_.add(HistogramBuckets::clamp(duration));
  }

  // Of everything recorded.
  Nanos sum() const { return Nanos(static_cast<std::int64_t>(sum_.read())); }

  // What it occupies now, itself included.
  conf::Bytes memory() const;

 private:
  friend class HistogramSnapshot;
  using Octave = std::array<Counter, HistogramBuckets::kSubBuckets>;
  Octave* open(std::size_t octave);

  Counter sum_;
  // Published with release, read with acquire: a reader that sees the block sees zeroed counters.
  std::array<std::atomic<Octave*>, HistogramBuckets::kOctaves> octaves_{};
};

// What one or several histograms held at a moment: the readers' side. A value; copying is fine.
// Taken from a histogram in use it misses at most what was recorded meanwhile; count() is always
// the sum of its own buckets, sum() may be a few recordings ahead or behind.
class HistogramSnapshot {
 public:
  HistogramSnapshot() = default;
  explicit HistogramSnapshot(const Histogram& histogram) { merge(histogram); }

  void merge(const Histogram& histogram);
  void merge(const HistogramSnapshot& other);
  // As if so many durations of zero had been recorded.
  void add_zeros(std::uint64_t count) {
    if (count == 0) return;
    octaves_[0][0] += count;
    count_ += count;
  }

  std::uint64_t count() const { return count_; }
  Nanos sum() const { return Nanos(static_cast<std::int64_t>(sum_)); }

  // The duration that a share `q` (0 to 1) of all recordings does not exceed: the midpoint of the
  // bucket that holds the recording of rank ceil(q * count), hence within 1.6 % of the exact one
  // from 1 us to 73 min (below: within 16 ns). Zero when nothing was recorded.
  Nanos quantile(double q) const;

  // How many recordings are at most `bound`. Recordings in the bucket that `bound` cuts count all
  // or not at all, by its midpoint: as if the bound were off by at most 1.6 %. Grows with `bound`.
  std::uint64_t count_at_most(Nanos bound) const;

 private:
  // By octave, and only those in use: a snapshot of thousands of series stays small.
  std::map<std::size_t, std::array<std::uint64_t, HistogramBuckets::kSubBuckets>> octaves_;
  std::uint64_t count_ = 0;
  std::uint64_t sum_ = 0;
};

}  // namespace metrics
