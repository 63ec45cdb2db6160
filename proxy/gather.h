#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <sys/uio.h>

namespace proxy {

// Puts the bytes for a server together without copying what is large: runs of the client's own bytes,
// and bytes of ours in between.
class Gather {
 public:
  explicit Gather(std::string& scratch) : scratch_(scratch) { scratch_.clear(); }

  // Bytes of the client's, which stay where they are until they are sent.
  void pass(std::string_view bytes) {
    if (bytes.empty()) return;
    if (bytes.size() <= kCopy) {
      ours([bytes](std::string& out) { out.append(bytes); });
      return;
    }
    parts_[count_++] = {bytes.data(), 0, bytes.size()};
    if (count_ + 2 > parts_.size()) flatten();
  }
  // Bytes that `write` appends.
  template <class Write>
  void ours(Write write) {
    const std::size_t before = scratch_.size();
    write(scratch_);
    if (count_ > 0 && parts_[count_ - 1].from == nullptr) {
      parts_[count_ - 1].size += scratch_.size() - before;
    } else {
      parts_[count_++] = {nullptr, before, scratch_.size() - before};
      if (count_ + 2 > parts_.size()) flatten();
    }
  }
  // What finish() gave is all in the scratch room.
  bool is_copied() const { return count_ == 1 && parts_[0].from == nullptr; }
  std::span<const iovec> finish() {
    for (std::size_t i = 0; i < count_; ++i) {
      const Part& part = parts_[i];
      const char* base = part.from != nullptr ? part.from : scratch_.data() + part.offset;
      vectors_[i] = {const_cast<char*>(base), part.size};
    }
    return {vectors_.data(), count_};
  }

 private:
  static constexpr std::size_t kCopy = 2048;  // below it a copy is cheaper than one more part
  struct Part {
    const char* from;  // null: in scratch_
    std::size_t offset, size;
  };
  // Too many parts for one system call: what there is becomes one.
  void flatten() {
    std::string joined;
    for (std::size_t i = 0; i < count_; ++i)
      joined.append(parts_[i].from != nullptr ? parts_[i].from : scratch_.data() + parts_[i].offset,
                    parts_[i].size);
    scratch_ = std::move(joined);
    parts_[0] = {nullptr, 0, scratch_.size()};
    count_ = 1;
  }

  std::string& scratch_;
  std::array<Part, 32> parts_;
  std::array<iovec, 32> vectors_;
  std::size_t count_ = 0;
};

}  // namespace proxy
