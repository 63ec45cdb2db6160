#pragma once

#include <string>
#include <vector>

#include "conf/result.h"
#include "conf/settings.h"

namespace proxy {

// A socket on which clients (or a successor) come.
struct ListenSocket {
  enum class From : std::uint8_t {
    us,       // made for listen.address, port or unix_socket_dir
    systemd,  // passed to us instead of these
    takeover  // listen.takeover_socket: for the next process
  };
  int fd = -1;
  From from = From::us;
  std::string where;  // "127.0.0.1:6432", "/run/pgsluice/.s.PGSQL.6432"
};

// The sockets that systemd passes by LISTEN_PID and LISTEN_FDS (sd_listen_fds(3)); none when it did not.
// The variables are removed, so that no child takes them for its own.
conf::Result<std::vector<ListenSocket>> sockets_from_systemd();

// All sockets that the settings ask for. Those in `given` that fit are used instead of new ones, those of
// systemd instead of all configured addresses; the rest is closed.
conf::Result<std::vector<ListenSocket>> open_listeners(const conf::Settings& settings,
                                                       std::vector<ListenSocket> given);
// Closes it, and removes the file of a unix socket that is ours when `remove`.
void close_listener(const ListenSocket& socket, bool remove);

}  // namespace proxy
