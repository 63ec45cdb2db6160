#include "proxy/monitor_resolver.h"

#include <array>
#include <utility>

#include <arpa/inet.h>

namespace proxy {

MonitorResolver::MonitorResolver(net::Loop& loop)
    : loop_(loop), self_(std::make_shared<MonitorResolver*>(this)) {}

bool MonitorResolver::needs_lookup(const std::string& host) {
  if (host.starts_with('/')) return false;
  std::array<unsigned char, sizeof(in6_addr)> parsed{};
  return inet_pton(AF_INET, host.c_str(), parsed.data()) != 1 &&
         inet_pton(AF_INET6, host.c_str(), parsed.data()) != 1;
}

void MonitorResolver::resolve(const std::string& host, Done done) {
  auto& waiters = asked_[host];
  waiters.push_back(std::move(done));
  if (waiters.size() > 1) return;
  waiting_.push_back(host);
  start_next();
}

void MonitorResolver::start_next() {
  while (running_ < kAtOnce && !waiting_.empty()) {
    const std::string host = std::move(waiting_.front());
    waiting_.pop_front();
    ++running_;
    loop_.resolve(host, [weak = std::weak_ptr(self_), host](std::vector<std::string> ips,
                                                            const std::string& error) {
      const auto self = weak.lock();
      if (self == nullptr) return;
      MonitorResolver& resolver = **self;
      --resolver.running_;
      const std::vector<Done> waiters = std::exchange(resolver.asked_[host], {});
      resolver.asked_.erase(host);
      const std::string why = ips.empty() && error.empty() ? "no address" : error;
      for (const Done& waiter : waiters) waiter(ips, why);
      if (self.use_count() > 1) resolver.start_next();  // a waiter may have dropped the resolver
    });
  }
}

}  // namespace proxy
