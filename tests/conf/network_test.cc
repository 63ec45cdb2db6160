#include "conf/network.h"

#include <string>

#include <doctest/doctest.h>

using namespace conf;

namespace {

bool in(const std::string& address, const std::string& network) {
  const auto parsed = parse_network(network);
  const auto one = parse_ip_address(address);
  REQUIRE_MESSAGE(parsed, network);
  REQUIRE_MESSAGE(one, address);
  return parsed->contains(*one);
}

}  // namespace

TEST_SUITE("conf/network") {
  TEST_CASE("an address is in a range when it shares the bits before the slash") {
    CHECK(in("10.1.2.3", "10.0.0.0/8"));
    CHECK_FALSE(in("11.1.2.3", "10.0.0.0/8"));
    CHECK(in("192.168.7.255", "192.168.6.0/23"));
    CHECK_FALSE(in("192.168.8.0", "192.168.6.0/23"));
    CHECK(in("10.1.2.3", "10.1.2.3"));
    CHECK_FALSE(in("10.1.2.4", "10.1.2.3"));
    CHECK(in("255.1.2.3", "0.0.0.0/0"));
    CHECK(in("fd12::1", "fd00::/8"));
    CHECK_FALSE(in("fe80::1", "fd00::/8"));
    CHECK(in("2001:db8::ffff", "2001:db8::8000/113"));
    CHECK_FALSE(in("2001:db8::7fff", "2001:db8::8000/113"));
    CHECK(in("::1", "::1"));
  }

  TEST_CASE("IPv4 is IPv4 whichever kind of socket it came through, and never in an IPv6 range") {
    CHECK(in("::ffff:10.1.2.3", "10.0.0.0/8"));
    CHECK(in("10.1.2.3", "::ffff:10.0.0.0/104"));
    CHECK_FALSE(in("10.1.2.3", "::/0"));
    CHECK_FALSE(in("::1", "0.0.0.0/0"));
    CHECK_FALSE(in("10.1.2.3", "::/90"));
  }

  TEST_CASE("what is no range is refused, with what is wrong about it") {
    for (const std::string text :
         {"", "/8", "10.0.0.0/", "10.0.0.0/33", "::/129", "10.0.0.0/-1", "10.0.0.0/8 ", "10.0.0/8",
          "host.example", "10.0.0.0/8/8", "10.0.0.0/255.0.0.0", "[::1]"}) {
      CAPTURE(text);
      CHECK_FALSE(parse_network(text));
    }
    CHECK_FALSE(parse_network(std::string("10.0.0.1\0x", 10)));
    CHECK(parse_network("10.0.0.0/33").error().message.find("from 0 to 32") != std::string::npos);
  }

  TEST_CASE("a range prints as people write it, without the bits that it does not say") {
    for (const std::string text : {"10.0.0.0/8", "0.0.0.0/0", "192.0.2.7", "::/0", "fd00::/8", "::1"})
      CHECK(print(*parse_network(text)) == text);
    CHECK(print(*parse_network("10.1.2.3/8")) == "10.0.0.0/8");
    CHECK(print(*parse_network("::ffff:10.1.2.3/104")) == "10.0.0.0/8");
    CHECK(*parse_network("10.1.2.3/8") == *parse_network("10.9.9.9/8"));
  }

  TEST_CASE("loopback is 127.0.0.0/8 and ::1, and what is inside of them") {
    for (const std::string text : {"127.0.0.1", "127.0.0.0/8", "127.5.0.0/16", "::1"})
      CHECK(parse_network(text)->is_loopback());
    for (const std::string text : {"126.0.0.0/7", "10.0.0.1", "0.0.0.0/0", "::/127", "::2", "::/0"})
      CHECK_FALSE(parse_network(text)->is_loopback());
  }
}
