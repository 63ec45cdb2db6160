#include "proxy/auth_rules.h"

#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "conf/options.h"

using namespace proxy;
using conf::AuthMethod;
using conf::AuthRule;
using conf::ClientCert;
using conf::RuleConnection;
using Why = LoginDemand::Why;

namespace {

LoginAttempt from(const std::string& address, bool tls = false, std::string_view user = "app",
                  std::string_view database = "shop") {
  return {.address = *conf::parse_ip_address(address), .tls = tls, .user = user, .database = database};
}
LoginAttempt from_unix(std::string_view user = "app", std::string_view database = "shop") {
  return {.address = {}, .tls = false, .user = user, .database = database};
}

std::vector<conf::Network> ranges(const std::vector<std::string>& texts) {
  std::vector<conf::Network> networks;
  for (const std::string& text : texts) networks.push_back(*conf::parse_network(text));
  return networks;
}

conf::Settings with(std::vector<AuthRule> rules) {
  conf::Settings settings = conf::default_settings();
  settings.auth_rules = std::move(rules);
  return settings;
}

}  // namespace

TEST_SUITE("proxy/auth_rules") {
  TEST_CASE("requirement 7: without rules auth.method is for everybody") {
    conf::Settings settings = with({});
    settings.auth_method = AuthMethod::md5;
    CHECK(demand(settings, from("10.0.0.1")).method == AuthMethod::md5);
    CHECK(demand(settings, from_unix()).why == Why::no_rules);
  }

  TEST_CASE("requirement 7: the first rule that fits decides, whatever stands behind it") {
    const conf::Settings settings =
        with({{.addresses = {}, .databases = {}, .users = {"root"}, .method = AuthMethod::reject},
              {.addresses = ranges({"10.0.0.0/8"}), .databases = {}, .users = {}, .method = AuthMethod::md5},
              {.addresses = ranges({"10.1.0.0/16"}), .databases = {}, .users = {}, .method = AuthMethod::trust},
              {.addresses = {},
               .databases = {},
               .users = {},
               .method = AuthMethod::scram_sha_256,
               .clientcert = ClientCert::verify_full}});
    const LoginDemand root = demand(settings, from("10.1.0.1", false, "root"));
    CHECK(root.why == Why::rule);
    CHECK(root.rule == 1);
    CHECK(root.method == AuthMethod::reject);
    CHECK(demand(settings, from("10.1.0.1")).rule == 2);
    CHECK(demand(settings, from("10.1.0.1")).method == AuthMethod::md5);
    const LoginDemand other = demand(settings, from("11.0.0.1"));
    CHECK(other.rule == 4);
    CHECK(other.clientcert == ClientCert::verify_full);
  }

  TEST_CASE("whom no rule fits is refused") {
    const conf::Settings settings =
        with({{.addresses = {}, .databases = {"other"}, .users = {}, .method = AuthMethod::trust}});
    const LoginDemand none = demand(settings, from("127.0.0.1"));
    CHECK(none.why == Why::no_match);
    CHECK(none.method == AuthMethod::reject);
  }

  TEST_CASE("a rule fits by the way the client is connected") {
    struct Expected {
      RuleConnection connection;
      bool local, plain, tls;
    };
    for (const Expected& expected : {Expected{RuleConnection::any, true, true, true},
                                     Expected{RuleConnection::local, true, false, false},
                                     Expected{RuleConnection::tcp, false, true, true},
                                     Expected{RuleConnection::tls, false, false, true},
                                     Expected{RuleConnection::plain, false, true, false}}) {
      CAPTURE(std::string(word(expected.connection)));
      const AuthRule rule{.connection = expected.connection,
                          .addresses = {},
                          .databases = {},
                          .users = {},
                          .method = AuthMethod::trust};
      CHECK(fits(rule, from_unix()) == expected.local);
      CHECK(fits(rule, from("127.0.0.1")) == expected.plain);
      CHECK(fits(rule, from("::1", true)) == expected.tls);
    }
  }

  TEST_CASE("a rule fits by address, and one with addresses fits no unix socket") {
    const AuthRule rule{.addresses = ranges({"10.0.0.0/8", "fd00::/8"}),
                        .databases = {},
                        .users = {},
                        .method = AuthMethod::trust};
    CHECK(fits(rule, from("10.9.9.9")));
    CHECK(fits(rule, from("::ffff:10.9.9.9")));
    CHECK(fits(rule, from("fd00::7")));
    CHECK_FALSE(fits(rule, from("192.0.2.1")));
    CHECK_FALSE(fits(rule, from("::1")));
    CHECK_FALSE(fits(rule, from_unix()));
    CHECK_FALSE(fits({.addresses = ranges({"0.0.0.0/0", "::/0"}), .databases = {}, .users = {}}, from_unix()));
  }

  TEST_CASE("a rule fits by user and database, exactly as they are written") {
    const AuthRule rule{.addresses = {},
                        .databases = {"shop", "Shop"},
                        .users = {"app"},
                        .method = AuthMethod::trust};
    CHECK(fits(rule, from_unix("app", "shop")));
    CHECK(fits(rule, from_unix("app", "Shop")));
    CHECK_FALSE(fits(rule, from_unix("App", "shop")));
    CHECK_FALSE(fits(rule, from_unix("app", "sho")));
    CHECK_FALSE(fits(rule, from_unix("", "shop")));
  }

  TEST_CASE("requirement 5: a refusal repeats what the client has said, and nothing else") {
    const LoginAttempt attempt = from("10.0.0.7", true);
    CHECK(refusal_text({.why = Why::no_match}, attempt, "10.0.0.7") ==
          "no auth.rule for host \"10.0.0.7\", user \"app\", database \"shop\", TLS on");
    CHECK(refusal_text({.why = Why::rule, .rule = 3}, from_unix(), "[local]") ==
          "an auth.rule rejects host \"[local]\", user \"app\", database \"shop\", TLS off");
  }
}
