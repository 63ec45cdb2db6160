#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "proxy/net/loop.h"

namespace proxy {

// Resolves names for the control plane: one look-up per name at a time, and at most two at once
// over all names, because a look-up occupies a thread of libuv's pool and a resolver that hangs
// must leave some for everybody else (key derivation runs there too).
class MonitorResolver {
 public:
  using Done = std::function<void(const std::vector<std::string>& ips, const std::string& error)>;

  explicit MonitorResolver(net::Loop& loop);

  // `done` is called later, or never if the resolver is gone first; it must check that whoever
  // asked is still there. There is no deadline: the caller has its own.
  void resolve(const std::string& host, Done done);

  // Look-ups that are asked for and not answered.
  std::size_t under_way() const { return asked_.size(); }

  // Numeric addresses and unix folders need no look-up.
  static bool needs_lookup(const std::string& host);

 private:
  static constexpr int kAtOnce = 2;

  void start_next();

  net::Loop& loop_;
  std::shared_ptr<MonitorResolver*> self_;  // empties when this goes: look-ups outlive it
  std::map<std::string, std::vector<Done>> asked_;
  std::deque<std::string> waiting_;
  int running_ = 0;
};

}  // namespace proxy
