#include "routing/hints.h"

#include <algorithm>
#include <iterator>

#include "conf/words.h"

namespace routing {
namespace {

bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

int hex(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

void CommentTags::read(std::string_view comment) {
  const std::size_t before = count_;
  std::string_view rest = comment.substr(2, comment.size() - 4);
  const auto blanks = [&rest] {
    while (!rest.empty() && is_blank(rest.front())) rest.remove_prefix(1);
  };
  for (blanks(); !rest.empty(); blanks()) {
    CommentTag tag;
    std::size_t end = 0;
    while (end < rest.size() && rest[end] != '=' && rest[end] != '\'' && rest[end] != ',' && !is_blank(rest[end]))
      ++end;
    tag.key = rest.substr(0, end);
    rest.remove_prefix(end);
    if (tag.key.empty() || !rest.starts_with("='")) return cut_to(before);
    rest.remove_prefix(2);
    for (end = 0; end < rest.size() && rest[end] != '\''; ++end)
      if (rest[end] == '\\') ++end;
    if (end >= rest.size()) return cut_to(before);
    tag.value = rest.substr(0, end);
    rest.remove_prefix(end + 1);
    if (count_ < kMax) tags_[count_++] = tag;
    blanks();
    if (rest.empty()) return;
    if (rest.front() != ',') return cut_to(before);
    rest.remove_prefix(1);
  }
}

std::optional<std::string_view> decode_tag(std::string_view encoded, std::span<char> room) {
  std::size_t size = 0;
  for (std::size_t i = 0; i < encoded.size(); ++i) {
    char c = encoded[i];
    if (c == '\\' && i + 1 < encoded.size()) {
      c = encoded[++i];
    } else if (c == '%' && i + 2 < encoded.size() && hex(encoded[i + 1]) >= 0 && hex(encoded[i + 2]) >= 0) {
      c = static_cast<char>(hex(encoded[i + 1]) * 16 + hex(encoded[i + 2]));
      i += 2;
    }
    if (size == room.size()) return std::nullopt;
    room[size++] = c;
  }
  return std::string_view(room.data(), size);
}

HintLimits hint_limits(const conf::Settings& settings) {
  const auto may = [&settings](std::string_view hint) {
    return std::ranges::find(settings.routing_hints, hint) != settings.routing_hints.end();
  };
  return {.consistency = may("consistency"),
          .route = may("route"),
          .tenant = may("tenant"),
          .service_class = may("class"),
          .freshest = std::max(settings.routing_weakest_consistency, settings.routing_strongest_consistency),
          .stalest = settings.routing_weakest_consistency};
}

bool take_hint(std::string_view key, std::string_view value, const HintLimits& limits, Hints* hints) {
  if (key == "consistency" && limits.consistency) {
    const auto wanted = conf::parse_word<conf::Consistency>(value);
    if (wanted) hints->consistency = std::clamp(*wanted, limits.stalest, limits.freshest);
    return wanted.has_value();
  }
  if (key == "route" && limits.route) {
    const auto wanted = conf::parse_word<conf::RouteTarget>(value);
    if (!wanted) return false;
    if (*wanted == conf::RouteTarget::primary && limits.freshest != conf::Consistency::primary) {
      hints->consistency = limits.freshest;
    } else {
      hints->target = *wanted;
    }
    return true;
  }
  if (key == "class" && limits.service_class) {
    hints->service_class = value;
    return true;
  }
  return false;
}

Hints hints_of(const CommentTags& tags, const HintLimits& limits) {
  constexpr std::string_view kOurs = "pgsluice_";
  Hints hints;
  char room[128];
  for (const CommentTag& tag : tags.all()) {
    if (!tag.key.starts_with(kOurs)) continue;
    if (const auto value = decode_tag(tag.value, room))
      (void)take_hint(tag.key.substr(kOurs.size()), *value, limits, &hints);
  }
  return hints;
}

}  // namespace routing
