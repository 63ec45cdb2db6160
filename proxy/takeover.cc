#include "proxy/takeover.h"

#include <cstring>
#include <utility>

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proxy/log.h"
#include "proxy/net/pass.h"
#include "routing/facts.h"

namespace proxy {

using namespace std::chrono_literals;
using From = ListenSocket::From;

namespace {

// Raised when what is said changes.
constexpr const char* kDialect = "1";

// A successor that is ready has this long to say that it serves.
constexpr conf::Millis kPatience = 5s;

// To add one: its letter, who sends it, its fields.
constexpr char kHello = 'H';      // successor: version
constexpr char kSocket = 'S';     // predecessor: from, where; with the descriptor
constexpr char kIdentity = 'I';   // predecessor: process numbers, mock key
constexpr char kOrders = 'O';     // predecessor: pairs of kind and name
constexpr char kAll = 'E';        // predecessor: that was all
constexpr char kReady = 'R';      // successor
constexpr char kYours = 'Y';      // predecessor
constexpr char kServing = 'A';    // successor
constexpr char kFreed = 'F';      // predecessor
constexpr char kCancel = 'C';     // successor: ticket, pid, key
constexpr char kDelivered = 'D';  // predecessor: ticket

std::string bytes_of(std::uint32_t value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}
std::uint32_t number_of(const std::string& bytes) {
  std::uint32_t value = 0;
  if (bytes.size() == sizeof value) std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

std::vector<std::string> as_fields(const Orders& orders) {
  std::vector<std::string> fields;
  const auto add = [&fields](const char* kind, const std::string& name) {
    fields.emplace_back(kind);
    fields.push_back(name);
  };
  if (orders.all_paused) add("pause_all", "");
  for (const std::string& name : orders.paused) add("pause", name);
  for (const std::string& name : orders.disabled) add("disable", name);
  for (const auto& [address, force] : orders.drained) {
    add(force ? "drain_force" : "drain", address.host);
    add("port", std::to_string(address.port));
  }
  // All processes of a machine have the same steady clock.
  const auto add_moment = [&add](conf::Instant at) { add("until", std::to_string(at.time_since_epoch().count())); };
  for (const auto& [key, limit] : orders.digests) {
    add("digest", routing::print_digest(key.digest));
    add("digest_database", key.database);
    add("digest_origin", limit->origin);
    add("digest_most", std::to_string(limit->most));
    add("digest_limit", std::string(name(limit->kind)));
    add_moment(limit->expires);
  }
  for (const auto& [name, order] : orders.tenants) {
    add("tenant", name);
    if (order.rate) add("tenant_rate", std::to_string(*order.rate));
    if (order.burst) add("tenant_burst", std::to_string(*order.burst));
    if (order.concurrency) add("tenant_concurrency", std::to_string(*order.concurrency));
    add_moment(order.expires);
  }
  for (const auto& [tenant, order] : orders.classes) {
    add("class_tenant", tenant);
    add("class", order.service_class);
    add_moment(order.expires);
  }
  return fields;
}

Orders as_orders(const std::vector<std::string>& fields) {
  Orders orders;
  conf::NodeAddress address;
  bool force = false;
  std::shared_ptr<pool::DigestLimit> limit;
  pool::TenantOrder* tenant = nullptr;
  ClassOrder* its_class = nullptr;
  for (std::size_t i = 0; i + 1 < fields.size(); i += 2) {
    const std::string &kind = fields[i], &name = fields[i + 1];
    if (kind == "pause_all") orders.all_paused = true;
    if (kind == "pause") orders.paused.insert(name);
    if (kind == "disable") orders.disabled.insert(name);
    if (kind.starts_with("drain")) {
      address.host = name;
      force = kind == "drain_force";
    }
    if (kind == "port") {
      address.port = static_cast<std::uint16_t>(std::atoi(name.c_str()));
      orders.drained[address] = force;
    }
    if (kind == "digest") {
      limit = std::make_shared<pool::DigestLimit>();
      limit->key.digest = routing::parse_digest(name).value_or(0);
      tenant = nullptr;
    }
    if (kind == "tenant") tenant = &orders.tenants[name];
    if (kind == "class_tenant") its_class = &orders.classes[name];
    if (its_class != nullptr && kind == "class") its_class->service_class = name;
    if (limit && kind == "digest_database") limit->key.database = name;
    if (limit && kind == "digest_origin") limit->origin = name;
    if (limit && kind == "digest_most") limit->most = std::atoll(name.c_str());
    if (limit && kind == "digest_limit")
      for (const auto one : {pool::DigestLimitKind::block, pool::DigestLimitKind::rate, pool::DigestLimitKind::concurrency})
        if (pool::name(one) == name) limit->kind = one;
    if (tenant != nullptr && kind == "tenant_rate") tenant->rate = std::atoll(name.c_str());
    if (tenant != nullptr && kind == "tenant_burst") tenant->burst = std::atoll(name.c_str());
    if (tenant != nullptr && kind == "tenant_concurrency") tenant->concurrency = std::atoll(name.c_str());
    if (kind == "until") {
      const conf::Instant until{conf::Instant::duration(std::atoll(name.c_str()))};
      if (its_class != nullptr) its_class->expires = until;
      else if (tenant != nullptr) tenant->expires = until;
      else if (limit) limit->expires = until;
      if (tenant == nullptr && limit) orders.digests[limit->key] = limit;
    }
  }
  return orders;
}

}  // namespace

conf::Result<std::optional<Inheritance>> claim_inheritance(const std::string& path) {
  const auto link = net::connect_packets(path);
  if (!link) return link.error();
  if (!*link) return std::optional<Inheritance>();
  Inheritance found;
  found.link = **link;
  const auto fail = [&](const std::string& why) {
    for (const ListenSocket& one : found.sockets) ::close(one.fd);
    ::close(found.link);
    return conf::Error{conf::Errc::protocol, "taking over through " + path + ": " + why};
  };
  if (!net::send_packet(found.link, kHello, {kDialect})) return fail("the running process does not listen");
  while (true) {
    net::Packet packet;
    switch (net::receive_packet(found.link, &packet)) {
      case net::Got::packet: break;
      case net::Got::nothing: return fail("the running process does not answer");
      case net::Got::closed:
        return fail("the running process refuses: it hands over already, drains, or speaks another version");
    }
    if (packet.type == kSocket && packet.fields.size() == 2 && packet.fd >= 0) {
      const auto from = static_cast<From>(packet.fields[0].empty() ? 0 : packet.fields[0][0] - '0');
      found.sockets.push_back({packet.fd, from, packet.fields[1]});
      continue;
    }
    if (packet.fd >= 0) ::close(packet.fd);
    if (packet.type == kIdentity && packet.fields.size() == 2) {
      found.processes = number_of(packet.fields[0]);
      found.mock_key = packet.fields[1];
    } else if (packet.type == kOrders) {
      found.orders = as_orders(packet.fields);
    } else if (packet.type == kAll) {
      break;
    } else {
      return fail("the running process said something unexpected");
    }
  }
  ::fcntl(found.link, F_SETFL, ::fcntl(found.link, F_GETFL) | O_NONBLOCK);
  return std::optional<Inheritance>(std::move(found));
}

Takeover::Link::~Link() {
  watch.reset();
  if (fd >= 0) ::close(fd);
}

Takeover::Takeover(net::Loop& loop, Events events)
    : loop_(loop), events_(std::move(events)), patience_(loop, [this] { successor_lost(); }) {}

Takeover::~Takeover() = default;

std::unique_ptr<Takeover::Link> Takeover::make_link(int fd, void (Takeover::*on_packets)()) {
  dropped_.clear();
  auto link = std::make_unique<Link>();
  link->fd = fd;
  link->watch = std::make_unique<net::Watch>(loop_, fd, [this, on_packets](int) { (this->*on_packets)(); });
  link->watch->want(net::Watch::readable);
  return link;
}

// --- as the predecessor ----------------------------------------------------------------------------

void Takeover::offer(int fd) {
  offer_fd_ = fd;
  offer_ = std::make_unique<net::Watch>(loop_, fd, [this](int) { on_offer(); });
  offer_->want(net::Watch::readable);
}

void Takeover::on_offer() {
  const int fd = net::accept_packets(offer_fd_);
  if (fd < 0) return;
  if (successor_ || handed_over_ || waits_for_predecessor()) {
    log_warning("takeover: refused: another one is under way");
    ::close(fd);
    return;
  }
  successor_ = make_link(fd, &Takeover::on_successor);
}

void Takeover::on_successor() {
  net::Packet packet;
  const net::Got got = net::receive_packet(successor_->fd, &packet);
  if (got == net::Got::nothing) return;
  if (packet.fd >= 0) ::close(packet.fd);
  if (got == net::Got::closed) return successor_lost();
  const int fd = successor_->fd;
  if (packet.type == kHello && !stopped_ && !handed_over_) {
    if (packet.fields != std::vector<std::string>{kDialect}) return successor_lost();
    const Inheritance mine = events_.give();
    bool sent = true;
    for (const ListenSocket& one : mine.sockets)
      sent = sent && net::send_packet(fd, kSocket,
                                      {std::string(1, static_cast<char>('0' + static_cast<int>(one.from))),
                                       one.where},
                                      one.fd);
    sent = sent && net::send_packet(fd, kIdentity, {bytes_of(mine.processes), mine.mock_key}) &&
           net::send_packet(fd, kOrders, as_fields(mine.orders)) && net::send_packet(fd, kAll, {});
    if (!sent) return successor_lost();
    log_info("takeover: a successor has been given the sockets and gets ready");
  } else if (packet.type == kReady && !stopped_ && !handed_over_) {
    stopped_ = true;
    patience_.once(kPatience);
    events_.accept(false);
    if (!net::send_packet(fd, kYours, {})) successor_lost();
  } else if (packet.type == kServing && stopped_ && !handed_over_) {
    handed_over_ = true;
    patience_.stop();
    offer_ = nullptr;
    log_info("takeover: the successor serves");
    events_.handed_over();
  } else if (packet.type == kCancel && packet.fields.size() == 3) {
    events_.cancel({number_of(packet.fields[1]), packet.fields[2],
                    ClientId{.worker = kElsewhere, .slot = number_of(packet.fields[0])}});
  }
}

void Takeover::drop(std::unique_ptr<Link>& link) {
  link->watch->want(net::Watch::none);
  ::shutdown(link->fd, SHUT_RDWR);
  dropped_.push_back(std::move(link));
}

void Takeover::successor_lost() {
  patience_.stop();
  drop(successor_);
  if (handed_over_) return;  // it served and is gone; ours finish
  log_warning("takeover: the successor has failed; this process goes on");
  if (std::exchange(stopped_, false)) events_.accept(true);
}

void Takeover::say_freed() {
  if (successor_) (void)net::send_packet(successor_->fd, kFreed, {});
}

void Takeover::delivered(const ClientId& requester) {
  if (successor_) (void)net::send_packet(successor_->fd, kDelivered, {bytes_of(requester.slot)});
}

// --- as the successor ------------------------------------------------------------------------------

void Takeover::claim(int link) { predecessor_ = make_link(link, &Takeover::on_predecessor); }

void Takeover::ready() {
  if (predecessor_ && !net::send_packet(predecessor_->fd, kReady, {})) predecessor_lost();
}

void Takeover::on_predecessor() {
  net::Packet packet;
  const net::Got got = net::receive_packet(predecessor_->fd, &packet);
  if (got == net::Got::nothing) return;
  if (packet.fd >= 0) ::close(packet.fd);
  if (got == net::Got::closed) return predecessor_lost();
  if (packet.type == kYours && !serving_) {
    serving_ = true;
    events_.accept(true);
    (void)net::send_packet(predecessor_->fd, kServing, {});
  } else if (packet.type == kFreed && !std::exchange(freed_, true)) {
    events_.freed();
  } else if (packet.type == kDelivered && packet.fields.size() == 1) {
    const auto found = asked_.find(number_of(packet.fields[0]));
    if (found == asked_.end()) return;
    const Asked asked = std::move(found->second);
    asked_.erase(found);
    asked.canceled(asked.requester);
  }
}

// It has drained; or it died before it was done, and then its sockets are ours anyway.
void Takeover::predecessor_lost() {
  drop(predecessor_);
  for (const auto& [ticket, asked] : std::exchange(asked_, {})) asked.canceled(asked.requester);
  if (!std::exchange(serving_, true)) events_.accept(true);
  if (!std::exchange(freed_, true)) events_.freed();
}

bool Takeover::forward(const CancelClient& request, std::function<void(const ClientId&)> canceled) {
  // So many at once that somebody is guessing: not worth passing on.
  constexpr std::size_t kMaxAsked = 1000;
  if (!predecessor_ || asked_.size() >= kMaxAsked) return false;
  const std::uint32_t ticket = ++last_ticket_;
  if (!net::send_packet(predecessor_->fd, kCancel, {bytes_of(ticket), bytes_of(request.pid), request.key}))
    return false;
  asked_[ticket] = {request.requester, std::move(canceled)};
  return true;
}

}  // namespace proxy
