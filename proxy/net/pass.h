#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "conf/result.h"

namespace net {

// Two processes of one user on one host speak in packets over a unix socket (SOCK_SEQPACKET), and pass
// descriptors with them. Whoever runs as somebody else is turned away on either side.

// A packet: one letter, and fields of any bytes.
struct Packet {
  char type = 0;
  std::vector<std::string> fields;
  int fd = -1;  // that came with it; the receiver's to close
};
std::string encode(char type, const std::vector<std::string>& fields);
// None: not what encode() makes. Never reads beyond `bytes`.
std::optional<Packet> decode(std::string_view bytes);

inline constexpr std::size_t kMaxPacket = std::size_t{128} << 10;

// Without waiting. False: it could not be sent.
bool send_packet(int fd, char type, const std::vector<std::string>& fields, int passed = -1);
enum class Got : std::uint8_t { packet, nothing, closed };
// `nothing`: there is none now, or none within SO_RCVTIMEO.
Got receive_packet(int fd, Packet* packet);

// The socket file is for its owner only (0600); one that nobody answers on is replaced.
conf::Result<int> listen_packets(const std::string& path);
// -1: nobody is there, or it is somebody else's.
int accept_packets(int listener);
// None: nobody listens there. Sends and receives wait a few seconds.
conf::Result<std::optional<int>> connect_packets(const std::string& path);

}  // namespace net
