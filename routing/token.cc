#include "routing/token.h"

#include <charconv>

namespace routing {
namespace {

template <class Number>
bool read_number(std::string_view text, Number* value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return error == std::errc{} && end == text.data() + text.size();
}

}  // namespace

std::string print(const Token& token) {
  std::string text = print(token.lsn);
  if (token.timeline != 0) text += "@" + std::to_string(token.timeline) + "." + std::to_string(token.system_id);
  return text;
}

std::optional<Token> parse_token(std::string_view text) {
  Token token;
  const std::size_t at = text.find('@');
  const auto lsn = parse_lsn(text.substr(0, at));
  if (!lsn) return std::nullopt;
  token.lsn = *lsn;
  if (at == std::string_view::npos) return token;
  text.remove_prefix(at + 1);
  const std::size_t dot = text.find('.');
  if (dot == std::string_view::npos || !read_number(text.substr(0, dot), &token.timeline) ||
      !read_number(text.substr(dot + 1), &token.system_id) || token.timeline == 0)
    return std::nullopt;
  return token;
}

Token token_of(Lsn lsn, const ClusterState& cluster) {
  const NodeState* primary = cluster.primary ? cluster.find(*cluster.primary) : nullptr;
  if (primary == nullptr) return {lsn};
  return {lsn, primary->timeline, primary->system_id};
}

TokenVerdict judge_token(const Token& token, const ClusterState& cluster) {
  const Token here = token_of({}, cluster);
  if (token.system_id != 0 && here.system_id != 0 && token.system_id != here.system_id)
    return TokenVerdict::other_system;
  if (token.timeline != 0 && token.timeline < here.timeline) {
    const bool common = token.timeline + 1 == here.timeline && token.lsn <= cluster.switched_at;
    if (!common) return TokenVerdict::lost;
  }
  if (token.timeline > here.timeline && here.timeline != 0) return TokenVerdict::ahead;
  return cluster.sample > 0 && token.lsn <= cluster.sample_lsn ? TokenVerdict::good : TokenVerdict::ahead;
}

}  // namespace routing
