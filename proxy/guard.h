#pragma once

#include "conf/settings.h"
#include "pool/protection.h"
#include "proxy/net/loop.h"
#include "proxy/shared.h"
#include "routing/topology.h"

namespace proxy {

// Looks four times a second at how the process is, and says in Shared how much of its work it gives up
// (pool/protection.h). Control thread.
class Guard {
 public:
  Guard(net::Loop& loop, Shared& shared, std::shared_ptr<const conf::Settings> settings);
  void start() { timer_.every(kLook); }
  void reload(std::shared_ptr<const conf::Settings> settings) { settings_ = std::move(settings); }
  void see(const routing::Topology& topology);

 private:
  static constexpr conf::Millis kLook{250};
  void look();
  std::int64_t memory_percent() const;

  net::Loop& loop_;
  Shared& shared_;
  std::shared_ptr<const conf::Settings> settings_;
  pool::Protection protection_;
  std::int64_t replicas_out_ = 0;
  net::Timer timer_;
};

}  // namespace proxy
