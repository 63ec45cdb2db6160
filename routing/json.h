#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace routing {

// The JSON that libpg_query writes, as a flat list of nodes in document order: a subtree is the
// range [i, end(i)), so that a walk over everything below a node is a loop, without recursion.
class Json {
 public:
  using Index = std::size_t;
  static constexpr Index kNone = static_cast<Index>(-1);
  enum class Type : std::uint8_t { object, array, string, number, yes, no, null };

  // False if it is not JSON from the first to the last byte.
  bool parse(std::string_view text);

  std::size_t size() const { return nodes_.size(); }
  Type type(Index i) const { return nodes_[i].type; }
  // Name of the member; empty for an element of an array.
  std::string_view key(Index i) const { return nodes_[i].key; }
  Index end(Index i) const { return nodes_[i].end; }
  // Direct children: for (c = first(i); c != end(i); c = end(c)).
  Index first(Index i) const { return i + 1; }

  Index find(Index object, std::string_view key) const;  // kNone: no such member
  bool has(Index object, std::string_view key) const { return find(object, key) != kNone; }
  bool is_true(Index object, std::string_view key) const;
  // Text of a string (unescaped) or the digits of a number; "" for anything else and for kNone.
  std::string text(Index i) const;
  std::string text(Index object, std::string_view key) const { return text(find(object, key)); }
  // As it stands in the document: enough to compare with a name that has nothing to escape.
  std::string_view raw(Index i) const { return i == kNone ? std::string_view() : nodes_[i].value; }
  std::string_view raw(Index object, std::string_view key) const { return raw(find(object, key)); }

 private:
  struct Node {
    std::string_view key, value;
    Index end = 0;
    Type type = Type::null;
  };
  std::vector<Node> nodes_;
};

}  // namespace routing
