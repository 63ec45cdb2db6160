#include "conf/network.h"

#include <algorithm>
#include <charconv>

#include <arpa/inet.h>

namespace conf {
namespace {

constexpr unsigned kV4Bits = 96;  // in front of an IPv4 address
constexpr std::array<unsigned char, 12> kV4Prefix = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

}  // namespace

bool IpAddress::is_v4() const { return std::equal(kV4Prefix.begin(), kV4Prefix.end(), bytes.begin()); }

bool IpAddress::is_loopback() const {
  if (is_v4()) return bytes[12] == 127;
  return std::all_of(bytes.begin(), bytes.end() - 1, [](unsigned char byte) { return byte == 0; }) &&
         bytes.back() == 1;
}

bool Network::contains(const IpAddress& one) const {
  const bool v4 = prefix >= kV4Bits && address.is_v4();
  if (one.is_v4() != v4) return false;
  const std::size_t whole = prefix / 8;
  if (!std::equal(one.bytes.begin(), one.bytes.begin() + whole, address.bytes.begin())) return false;
  if (prefix % 8 == 0) return true;
  const auto mask = static_cast<unsigned char>(0xff << (8 - prefix % 8));
  return ((one.bytes[whole] ^ address.bytes[whole]) & mask) == 0;
}

bool Network::is_loopback() const {
  return address.is_loopback() && prefix >= (address.is_v4() ? kV4Bits + 8 : 128);
}

Result<IpAddress> parse_ip_address(std::string_view text) {
  const std::string terminated(text);
  IpAddress address;
  if (inet_pton(AF_INET6, terminated.c_str(), address.bytes.data()) == 1) return address;
  std::copy(kV4Prefix.begin(), kV4Prefix.end(), address.bytes.begin());
  if (inet_pton(AF_INET, terminated.c_str(), address.bytes.data() + kV4Prefix.size()) == 1) return address;
  return Error{Errc::config, "no IPv4 or IPv6 address"};
}

Result<Network> parse_network(std::string_view text) {
  const auto slash = text.find('/');
  const auto address = parse_ip_address(text.substr(0, slash));
  if (!address || text.substr(0, slash).find('\0') != text.npos)
    return Error{Errc::config, "no IPv4 or IPv6 address before the slash"};
  Network network{*address, 128};
  if (slash != text.npos) {
    const bool v4 = text.find(':') == text.npos;
    const unsigned most = v4 ? 32 : 128;
    const auto number = text.substr(slash + 1);
    unsigned bits = 0;
    const auto [rest, error] = std::from_chars(number.data(), number.data() + number.size(), bits);
    if (error != std::errc{} || rest != number.data() + number.size() || bits > most)
      return Error{Errc::config, "no number of bits from 0 to " + std::to_string(most) + " behind the slash"};
    network.prefix = v4 ? kV4Bits + bits : bits;
  }
  for (unsigned bit = network.prefix; bit < 128; ++bit)
    network.address.bytes[bit / 8] &= static_cast<unsigned char>(~(0x80U >> bit % 8));
  return network;
}

std::string print(const Network& network) {
  char text[INET6_ADDRSTRLEN] = "";
  const bool v4 = network.prefix >= kV4Bits && network.address.is_v4();
  if (v4)
    inet_ntop(AF_INET, network.address.bytes.data() + kV4Prefix.size(), text, sizeof text);
  else
    inet_ntop(AF_INET6, network.address.bytes.data(), text, sizeof text);
  const unsigned bits = v4 ? network.prefix - kV4Bits : network.prefix;
  if (network.prefix == 128) return text;
  return std::string(text) + "/" + std::to_string(bits);
}

}  // namespace conf
