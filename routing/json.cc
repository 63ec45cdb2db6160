#include "routing/json.h"

#include <cstring>

namespace routing {
namespace {

struct Reader {
  const char* p;
  const char* end;

  void blanks() {
    while (p < end && (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r')) ++p;
  }
  bool take(char c) {
    if (p >= end || *p != c) return false;
    ++p;
    return true;
  }
  bool take(std::string_view word) {
    if (static_cast<std::size_t>(end - p) < word.size()) return false;
    if (std::memcmp(p, word.data(), word.size()) != 0) return false;
    p += word.size();
    return true;
  }
  // Behind the opening quote; leaves the content, escapes included.
  bool string(std::string_view& out) {
    const char* start = p;
    while (p < end && *p != '"') p += *p == '\\' ? 2 : 1;
    if (p >= end) return false;
    out = {start, static_cast<std::size_t>(p - start)};
    ++p;
    return true;
  }
};

int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

bool Json::parse(std::string_view text) {
  nodes_.clear();
  std::vector<Index> open;
  Reader r{text.data(), text.data() + text.size()};
  bool after_value = false;  // a comma or a closing bracket has to follow
  for (;;) {
    r.blanks();
    if (open.empty() && !nodes_.empty()) return r.p == r.end;
    if (!open.empty()) {
      const bool object = nodes_[open.back()].type == Type::object;
      if (r.take(object ? '}' : ']')) {
        nodes_[open.back()].end = nodes_.size();
        open.pop_back();
        after_value = true;
        continue;
      }
      if (after_value && !r.take(',')) return false;
      r.blanks();
    }
    Node node;
    if (!open.empty() && nodes_[open.back()].type == Type::object) {
      if (!r.take('"') || !r.string(node.key)) return false;
      r.blanks();
      if (!r.take(':')) return false;
      r.blanks();
    }
    if (r.take('{')) {
      node.type = Type::object;
    } else if (r.take('[')) {
      node.type = Type::array;
    } else if (r.take('"')) {
      node.type = Type::string;
      if (!r.string(node.value)) return false;
    } else if (r.take("true")) {
      node.type = Type::yes;
    } else if (r.take("false")) {
      node.type = Type::no;
    } else if (r.take("null")) {
      node.type = Type::null;
    } else {
      const char* start = r.p;
      while (r.p < r.end &&
             ((*r.p >= '0' && *r.p <= '9') || (*r.p != '\0' && std::strchr("+-.eE", *r.p)))) {
        ++r.p;
      }
      if (r.p == start) return false;
      node.type = Type::number;
      node.value = {start, static_cast<std::size_t>(r.p - start)};
    }
    nodes_.push_back(node);
    nodes_.back().end = nodes_.size();
    after_value = node.type != Type::object && node.type != Type::array;
    if (!after_value) open.push_back(nodes_.size() - 1);
  }
}

Json::Index Json::find(Index object, std::string_view key) const {
  if (object == kNone) return kNone;
  for (Index c = first(object); c != end(object); c = end(c)) {
    if (nodes_[c].key == key) return c;
  }
  return kNone;
}

bool Json::is_true(Index object, std::string_view key) const {
  const Index i = find(object, key);
  return i != kNone && nodes_[i].type == Type::yes;
}

std::string Json::text(Index i) const {
  if (i == kNone) return {};
  const std::string_view v = nodes_[i].value;
  if (nodes_[i].type != Type::string || v.find('\\') == v.npos) return std::string(v);
  std::string out;
  for (std::size_t k = 0; k < v.size(); ++k) {
    if (v[k] != '\\' || k + 1 == v.size()) {
      out += v[k];
      continue;
    }
    switch (v[++k]) {
      case 'b': out += '\b'; break;
      case 'f': out += '\f'; break;
      case 'n': out += '\n'; break;
      case 'r': out += '\r'; break;
      case 't': out += '\t'; break;
      case 'u': {
        // libpg_query escapes control characters and "<" this way, everything else is UTF-8
        // already.
        unsigned code = 0;
        for (int d = 0; d < 4 && k + 1 < v.size() && hex_value(v[k + 1]) >= 0; ++d) {
          code = code * 16 + static_cast<unsigned>(hex_value(v[++k]));
        }
        if (code < 0x80) {
          out += static_cast<char>(code);
        } else if (code < 0x800) {
          out += static_cast<char>(0xC0 | code >> 6);
          out += static_cast<char>(0x80 | (code & 0x3F));
        } else {
          out += static_cast<char>(0xE0 | code >> 12);
          out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
          out += static_cast<char>(0x80 | (code & 0x3F));
        }
        break;
      }
      default: out += v[k];
    }
  }
  return out;
}

}  // namespace routing
