#include "routing/token.h"

#include <doctest/doctest.h>

#include <string>

using namespace routing;

namespace {

ClusterState cluster() {
  ClusterState state;
  NodeState& node = state.nodes.emplace_back();
  node.id = NodeId{0};
  node.role = NodeRole::primary;
  node.timeline = 3;
  node.system_id = 77;
  state.primary = NodeId{0};
  state.sample = 5;
  state.sample_lsn = Lsn{1000};
  state.term = 2;
  state.switched_at = Lsn{500};
  return state;
}

}  // namespace

TEST_SUITE("routing/token") {
  TEST_CASE("a token is printed and read again; a bare position is one too") {
    const Token token{Lsn{0x1600000148}, 3, 7389201155};
    CHECK(print(token) == "16/148@3.7389201155");
    CHECK(parse_token("16/148@3.7389201155") == token);
    CHECK(parse_token("16/148") == Token{Lsn{0x1600000148}});
    CHECK(print(Token{Lsn{0x148}}) == "0/148");
  }

  TEST_CASE("what is no token is refused, whatever it is") {
    for (const std::string& text :
         {std::string(), std::string("x"), std::string("16"), std::string("16/"), std::string("/1"),
          std::string("16/148@"), std::string("16/148@3"), std::string("16/148@3."), std::string("16/148@.5"),
          std::string("16/148@0.5"), std::string("16/148@3.5x"), std::string("16/148@-3.5"),
          std::string("16/148@99999999999.5"), std::string("16/148@3.99999999999999999999999"),
          std::string("123456789/0"), std::string("16/148 @3.5"), std::string("16/148@3.5\0", 11),
          std::string(100000, '1'), "0/1@1." + std::string(100000, '9')}) {
      CAPTURE(text.substr(0, 40));
      CHECK_FALSE(parse_token(text));
    }
  }

  TEST_CASE("a token is good up to the newest sample, and ahead beyond it") {
    const ClusterState state = cluster();
    CHECK(judge_token({Lsn{1000}, 3, 77}, state) == TokenVerdict::good);
    CHECK(judge_token({Lsn{1000}}, state) == TokenVerdict::good);
    CHECK(judge_token({Lsn{1001}, 3, 77}, state) == TokenVerdict::ahead);
    CHECK(judge_token({Lsn{1}, 4, 77}, state) == TokenVerdict::ahead);
    CHECK(judge_token({Lsn{1}, 3, 78}, state) == TokenVerdict::other_system);
    CHECK(token_of(Lsn{9}, state) == Token{Lsn{9}, 3, 77});
  }

  TEST_CASE("a token of the timeline before is good up to the switch, and lost beyond it") {
    const ClusterState state = cluster();
    CHECK(judge_token({Lsn{500}, 2, 77}, state) == TokenVerdict::good);
    CHECK(judge_token({Lsn{501}, 2, 77}, state) == TokenVerdict::lost);
    CHECK(judge_token({Lsn{1}, 1, 77}, state) == TokenVerdict::lost);
  }

  TEST_CASE("right after a switch nothing is known to be good") {
    ClusterState state = cluster();
    state.sample = 0;
    state.sample_lsn = {};
    CHECK(judge_token({Lsn{1}, 3, 77}, state) == TokenVerdict::ahead);
  }
}
