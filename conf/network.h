#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "conf/result.h"

namespace conf {

// An IPv4 or IPv6 address. IPv4 is kept the way a socket that takes both shows it (::ffff:10.0.0.1),
// so that a client is the same one whichever way it came in.
struct IpAddress {
  std::array<unsigned char, 16> bytes{};

  bool is_v4() const;
  bool is_loopback() const;
  friend bool operator==(const IpAddress&, const IpAddress&) = default;
};

// A range of addresses: those that share the first `prefix` bits with `address`.
struct Network {
  IpAddress address;
  unsigned prefix = 128;  // of 128, also for IPv4: 10.0.0.0/8 has 104

  // An IPv4 address is in IPv4 networks only: "::/0" does not mean it.
  bool contains(const IpAddress& one) const;
  // Nobody from another machine is in it.
  bool is_loopback() const;
  friend bool operator==(const Network&, const Network&) = default;
};

// "10.0.0.0/8", "fd00::/8"; without a slash it is that one address. Bits behind the prefix are
// dropped, as Postgres does.
Result<Network> parse_network(std::string_view text);
Result<IpAddress> parse_ip_address(std::string_view text);
std::string print(const Network& network);

}  // namespace conf
