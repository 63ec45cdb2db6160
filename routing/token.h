#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "routing/topology.h"

namespace routing {

// What the application carries from where it has written to where it will read: SHOW pgsluice.lsn, SET
// pgsluice.lsn. As text "0/3000148@2.7389201155": a position as Postgres prints it, the timeline that it is of,
// the system identifier. The position alone is understood too; it is taken to be of the present timeline.
struct Token {
  Lsn lsn;
  std::uint32_t timeline = 0;   // 0: not said, like
  std::uint64_t system_id = 0;
  friend bool operator==(const Token&, const Token&) = default;
};
std::string print(const Token& token);
// Nothing: it is none. Comes from clients; any length.
std::optional<Token> parse_token(std::string_view text);

// What a floor that has been learnt says to others. `cluster` has an accepted primary.
Token token_of(Lsn lsn, const ClusterState& cluster);

// Pure. `ahead` may be true by mistake of a token that another process has just made: ask again with a sample
// that was sent after the token came.
enum class TokenVerdict : std::uint8_t {
  good,
  lost,          // of an older timeline, beyond what is left of it: the next sample stands for it
  ahead,         // of the newest sample of the primary, or of its timeline
  other_system,  // of another database system
};
TokenVerdict judge_token(const Token& token, const ClusterState& cluster);

}  // namespace routing
