#include "metrics/histogram.h"

#include <algorithm>
#include <cmath>
#include <memory>

namespace metrics {

using Buckets = HistogramBuckets;

static_assert(Buckets::index(Nanos(-1)) == 0);
static_assert(Buckets::index(Nanos::max()) == Buckets::kBuckets - 1);
static_assert(Buckets::kLargest > 3'600'000'000'000, "the range must reach one hour");

Histogram::~Histogram() {
  for (auto& octave : octaves_) delete octave.load(std::memory_order_relaxed);
}

Histogram::Octave* Histogram::open(std::size_t octave) {
  auto counters = std::make_unique<Octave>();
  octaves_[octave].store(counters.get(), std::memory_order_release);
  return counters.release();
}

conf::Bytes Histogram::memory() const {
  conf::Bytes bytes{sizeof(*this)};
  for (const auto& octave : octaves_)
    if (octave.load(std::memory_order_relaxed) != nullptr) bytes.count += sizeof(Octave);
  return bytes;
}

void HistogramSnapshot::merge(const Histogram& histogram) {
  for (std::size_t octave = 0; octave < Buckets::kOctaves; ++octave) {
    const auto* counters = histogram.octaves_[octave].load(std::memory_order_acquire);
    if (counters == nullptr) continue;
    auto& mine = octaves_[octave];
    for (std::size_t i = 0; i < Buckets::kSubBuckets; ++i) {
      const std::uint64_t n = (*counters)[i].read();
      mine[i] += n;
      count_ += n;
    }
  }
  sum_ += histogram.sum_.read();
}

void HistogramSnapshot::merge(const HistogramSnapshot& other) {
  for (const auto& [octave, counts] : other.octaves_) {
    auto& mine = octaves_[octave];
    for (std::size_t i = 0; i < Buckets::kSubBuckets; ++i) mine[i] += counts[i];
  }
  count_ += other.count_;
  sum_ += other.sum_;
}

Nanos HistogramSnapshot::quantile(double q) const {
  if (count_ == 0) return Nanos(0);
  const double exact = std::ceil(std::clamp(q, 0.0, 1.0) * static_cast<double>(count_));
  const auto rank = std::clamp<std::uint64_t>(static_cast<std::uint64_t>(exact), 1, count_);
  std::uint64_t seen = 0;
  for (const auto& [octave, counts] : octaves_) {
    for (std::size_t i = 0; i < Buckets::kSubBuckets; ++i) {
      seen += counts[i];
      if (seen >= rank) return Buckets::midpoint((octave << Buckets::kSubBits) + i);
    }
  }
  return Buckets::midpoint(Buckets::kBuckets - 1);
}

std::uint64_t HistogramSnapshot::count_at_most(Nanos bound) const {
  std::uint64_t seen = 0;
  for (const auto& [octave, counts] : octaves_) {
    for (std::size_t i = 0; i < Buckets::kSubBuckets; ++i) {
      if (Buckets::midpoint((octave << Buckets::kSubBits) + i) > bound) return seen;
      seen += counts[i];
    }
  }
  return seen;
}

}  // namespace metrics
