#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "conf/settings.h"

namespace routing {

// One key='value' of a comment in the sqlcommenter form, as it stands in the text: URL-encoded.
struct CommentTag {
  std::string_view key, value;
};

// The tags of one statement. Views into its text; no allocation. Those beyond kMax are not seen.
class CommentTags {
 public:
  static constexpr std::size_t kMax = 24;
  // Takes every tag of `comment`, which is whole (/*...*/), or none when it is not in that form:
  // /*key='value',other_key='value'*/.
  void read(std::string_view comment);
  std::span<const CommentTag> all() const { return {tags_.data(), count_}; }
  std::size_t size() const { return count_; }
  void cut_to(std::size_t size) { count_ = size; }

 private:
  std::array<CommentTag, kMax> tags_;
  std::size_t count_ = 0;
};

// The tags of the comments that stand before the first token of `sql` and behind its last one (a semicolon
// does not count). What looks like a comment inside a literal is text. One pass over the text.
void find_tags(std::string_view sql, bool standard_strings, CommentTags* tags);

// What a tag's key or value means: %20 is a blank, \' a quote. Nothing when it is longer than `room`.
std::optional<std::string_view> decode_tag(std::string_view encoded, std::span<char> room);

// What a client says of one statement (comment), or of all of its own (start-up option, SET). `any`: nothing.
struct Hints {
  std::optional<conf::Consistency> consistency;
  conf::RouteTarget target = conf::RouteTarget::any;
  std::string service_class;  // as it says; "": nothing
  bool any() const {
    return consistency.has_value() || target != conf::RouteTarget::any || !service_class.empty();
  }
};

// How much clients may say: routing.hints, routing.weakest_consistency and routing.strongest_consistency.
struct HintLimits {
  bool consistency = true, route = true, tenant = true, service_class = true;
  conf::Consistency freshest = conf::Consistency::primary;
  conf::Consistency stalest = conf::Consistency::eventual;
};
HintLimits hint_limits(const conf::Settings& settings);

// Takes one hint, within the limits (but for the class, which the caller bounds). `key` is what follows "pgsluice.":
// "consistency", "route", "class". False: it is none, or none that may be given.
bool take_hint(std::string_view key, std::string_view value, const HintLimits& limits, Hints* hints);
// Those among a statement's tags: pgsluice_consistency, pgsluice_route, pgsluice_class.
Hints hints_of(const CommentTags& tags, const HintLimits& limits);

}  // namespace routing
