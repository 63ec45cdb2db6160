#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>

namespace pool {

// The names of databases that "*" serves at the moment, over all workers, and how many workers' users
// each has. Names come from clients: this is what keeps their number, and with it the number of pools,
// bounded. Asked when somebody comes under a name for the first time, under a lock.
class NamesInUse {
 public:
  // False: `limit` other names are in use. Taken once per holder.
  bool take(const std::string& name, std::int64_t limit);
  void give_back(const std::string& name);
  std::size_t size() const;

 private:
  mutable std::mutex mutex_;
  std::map<std::string, std::size_t> holders_;
};

// One holder's part in it.
class NameHold {
 public:
  NameHold() = default;
  // Takes over what take() has taken.
  NameHold(NamesInUse& names, std::string name) : names_(&names), name_(std::move(name)) {}
  NameHold(NameHold&& other) noexcept
      : names_(std::exchange(other.names_, nullptr)), name_(std::move(other.name_)) {}
  NameHold& operator=(NameHold&& other) noexcept {
    std::swap(names_, other.names_);
    name_.swap(other.name_);
    return *this;
  }
  ~NameHold() {
    if (names_ != nullptr) names_->give_back(name_);
  }

 private:
  NamesInUse* names_ = nullptr;
  std::string name_;
};

}  // namespace pool
