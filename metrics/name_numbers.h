#pragma once

#include <cstddef>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "metrics/counter.h"

namespace metrics {

// Small numbers for names that a reload can bring and take away, such as those of [[route]] rules: a name keeps
// its number as long as the process lives, so that no counter ever changes its meaning. What comes when all
// numbers are taken shares the last one, "other". 0 is nobody's. Any thread.
class NameNumbers {
 public:
  static constexpr std::size_t kOther = CounterArray::kCapacity - 1;

  std::size_t number(std::string_view name) {
    const std::lock_guard lock(mutex_);
    for (std::size_t i = 0; i < names_.size(); ++i)
      if (names_[i] == name) return i + 1;
    if (names_.size() + 1 == kOther) return kOther;
    names_.emplace_back(name);
    return names_.size();
  }
  // "" for a number that nobody has.
  std::string name(std::size_t number) const {
    const std::lock_guard lock(mutex_);
    if (number == kOther && names_.size() + 1 == kOther) return "other";
    return number == 0 || number > names_.size() ? "" : names_[number - 1];
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> names_;
};

}  // namespace metrics
