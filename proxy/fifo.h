#pragma once

#include <cstddef>
#include <utility>
#include <vector>

namespace proxy {

// A queue in one piece of memory, which an empty std::deque is not: taking from the front only moves a mark,
// and what has been taken is dropped when it is half of everything. Allocates when it is longer than ever.
template <class T>
class Fifo {
 public:
  bool empty() const { return head_ == items_.size(); }
  std::size_t size() const { return items_.size() - head_; }
  T& front() { return items_[head_]; }
  T& back() { return items_.back(); }
  const T& operator[](std::size_t place) const { return items_[head_ + place]; }
  auto begin() const { return items_.begin() + static_cast<std::ptrdiff_t>(head_); }
  auto end() const { return items_.end(); }

  void push_back(T item) { items_.push_back(std::move(item)); }
  T take_front() {
    T first = std::move(items_[head_++]);
    if (head_ == items_.size()) {
      clear();
    } else if (head_ > items_.size() / 2) {
      items_.erase(items_.begin(), items_.begin() + static_cast<std::ptrdiff_t>(head_));
      head_ = 0;
    }
    return first;
  }
  // Keeps the first and the last ones, `count` in all.
  void drop_behind_first(std::size_t count) {
    if (size() <= count) return;
    const auto second = items_.begin() + static_cast<std::ptrdiff_t>(head_) + 1;
    items_.erase(second, second + static_cast<std::ptrdiff_t>(size() - count));
  }
  void clear() {
    items_.clear();
    head_ = 0;
  }

 private:
  std::vector<T> items_;
  std::size_t head_ = 0;
};

}  // namespace proxy
