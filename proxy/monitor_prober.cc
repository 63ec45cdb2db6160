#include "proxy/monitor_prober.h"

#include <algorithm>
#include <utility>

namespace proxy {

using routing::FailureKind;

namespace {

const PgError kNonsense{PgFailure::other, "", "the answer to the probe makes no sense"};

}  // namespace

FailureKind failure_kind(const PgError& error) {
  if (error.sqlstate == "3D000") return FailureKind::auth;
  switch (error.kind) {
    case PgFailure::refused: return FailureKind::refused;
    case PgFailure::timeout: return FailureKind::timeout;
    case PgFailure::reset: return FailureKind::reset;
    case PgFailure::auth: return FailureKind::auth;
    case PgFailure::starting: return FailureKind::shutting_down;
    case PgFailure::shutting_down:
      return error.sqlstate == "57P01" ? FailureKind::terminated : FailureKind::shutting_down;
    case PgFailure::too_many: return FailureKind::too_many;
    case PgFailure::sql:
    case PgFailure::other: return FailureKind::other;
  }
  return FailureKind::other;
}

MonitorProber::MonitorProber(net::Loop& loop, MonitorResolver& resolver, conf::NodeAddress address,
                             Events events)
    : loop_(loop),
      resolver_(resolver),
      address_(std::move(address)),
      events_(std::move(events)),
      named_(MonitorResolver::needs_lookup(address_.host)),
      connection_(loop),
      timer_(loop, [this] { on_timer(); }),
      self_(std::make_shared<MonitorProber*>(this)) {
  if (!named_) ips_ = {address_.host};
  connection_.watch_idle([this](const PgError& error) { on_lost(error); });
}

MonitorProber::~MonitorProber() = default;

void MonitorProber::configure(PgTarget target, Millis timeout, Millis name_ttl) {
  timeout_ = timeout;
  name_ttl_ = name_ttl;
  looked_up_.reset();  // who reloads may have moved the name
  target.ip = target_.ip;
  if (target == target_) return;
  target_ = std::move(target);
  humble_ = false;
  connection_.close();
  timer_.stop();
  phase_ = Phase::resting;
  probe_wanted_ = false;
}

void MonitorProber::probe(bool with_backends) {
  with_backends_ = with_backends;
  if (named_ && (!looked_up_ || loop_.now() - *looked_up_ > name_ttl_)) look_up(false);
  if (phase_ == Phase::resting) return begin();
  probe_wanted_ = phase_ == Phase::asking;  // a quick probe may be under way
}

void MonitorProber::suspect() {
  const bool tried_already = phase_ != Phase::resting && (phase_ != Phase::asking || !acquainted_);
  if (tried_already) return;
  connection_.close();
  with_backends_ = false;
  const Instant now = loop_.now();
  if (last_attempt_ && now - *last_attempt_ < kRetryFloor) {
    phase_ = Phase::pausing;
    timer_.once(kRetryFloor);
    return;
  }
  begin();
}

void MonitorProber::begin() {
  if (connection_.ready()) return ask();
  if (ips_.empty()) return look_up(true);
  tried_ = 0;
  last_attempt_ = loop_.now();
  connect_next();
}

void MonitorProber::look_up(bool needed_now) {
  if (needed_now) {
    phase_ = Phase::resolving;
    timer_.once(timeout_);
  }
  if (looking_up_) return;
  looking_up_ = true;
  resolver_.resolve(address_.host, [weak = std::weak_ptr(self_)](
                                       const std::vector<std::string>& ips,
                                       const std::string& error) {
    if (const auto self = weak.lock()) (*self)->on_names(ips, error);
  });
}

void MonitorProber::on_names(const std::vector<std::string>& ips, const std::string& error) {
  looking_up_ = false;
  looked_up_ = loop_.now();
  if (ips.empty()) {
    // Addresses that worked before are better than none.
    if (phase_ == Phase::resolving)
      give_up(FailureKind::resolve,
              {PgFailure::other, "", "cannot resolve " + address_.host + ": " + error});
    return;
  }
  ips_ = ips;
  const auto in_use = std::find(ips_.begin(), ips_.end(), connected_ip_);
  if (in_use != ips_.end()) std::rotate(ips_.begin(), in_use, in_use + 1);
  if (phase_ == Phase::resolving) {
    timer_.stop();
    begin();
  } else if (connection_.open() && in_use == ips_.end()) {
    suspect();  // the name has moved away from the address that we talk to
  }
}

void MonitorProber::connect_next() {
  phase_ = Phase::connecting;
  target_.ip = target_.host.starts_with('/') ? "" : ips_[tried_];
  acquainted_ = false;
  connection_.connect(target_, timeout_,
                      [this](const std::optional<PgError>& error) { on_connected(error); });
}

void MonitorProber::on_connected(const std::optional<PgError>& error) {
  if (!error) {
    connected_ip_ = target_.ip;
    const auto at = std::find(ips_.begin(), ips_.end(), connected_ip_);
    if (at != ips_.end()) std::rotate(ips_.begin(), at, at + 1);
    return ask();
  }
  const bool unreachable = error->kind == PgFailure::refused || error->kind == PgFailure::timeout ||
                           error->kind == PgFailure::reset;
  if (unreachable && ++tried_ < ips_.size()) return connect_next();
  if (unreachable && named_ && looked_up_ && loop_.now() - *looked_up_ > Millis(1000))
    look_up(false);
  give_up(failure_kind(*error), *error);
}

void MonitorProber::ask() {
  phase_ = Phase::asking;
  probe_wanted_ = false;
  events_.asking();
  connection_.query(humble_ ? humble_probe() : full_probe(), {with_backends_ ? "t" : "f"}, timeout_,
                    [this](PgAnswer answer) { on_full(std::move(answer)); });
}

void MonitorProber::on_full(PgAnswer answer) {
  const std::string refused = answer.error ? answer.error->sqlstate : "";
  if (!humble_ && (refused == "42501" || refused == "42883")) {
    humble_ = true;
    return ask();
  }
  if (answer.error) return give_up(failure_kind(*answer.error), *answer.error);
  const auto understood = read_full_probe(answer.rows);
  if (!understood) return give_up(FailureKind::other, kNonsense);
  phase_ = Phase::resting;
  acquainted_ = true;
  probe_wanted_ = false;
  events_.full(*understood);
}

bool MonitorProber::quick() {
  if (phase_ != Phase::resting || !connection_.ready() || !acquainted_) return false;
  phase_ = Phase::asking;
  events_.asking();
  connection_.query(quick_probe(), {}, timeout_, [this](const PgAnswer& answer) {
    if (answer.error) return give_up(failure_kind(*answer.error), *answer.error);
    const auto understood = read_quick_probe(answer.rows);
    if (!understood) return give_up(FailureKind::other, kNonsense);
    phase_ = Phase::resting;
    events_.quick(*understood);
    if (probe_wanted_ && phase_ == Phase::resting) begin();
  });
  return true;
}

void MonitorProber::on_lost(const PgError& error) {
  // That an idle connection ended says little of the node (a firewall may have done it); whether a
  // new one can be made says all.
  const FailureKind kind = failure_kind(error);
  give_up(kind == FailureKind::reset ? FailureKind::terminated : kind, error);
}

void MonitorProber::give_up(FailureKind kind, const PgError& error) {
  timer_.stop();
  phase_ = Phase::resting;
  probe_wanted_ = false;
  const PgError said = error;  // `error` may live in what is closed now
  connection_.close();
  events_.failed(kind, said);
}

void MonitorProber::on_timer() {
  if (phase_ == Phase::pausing) return begin();
  if (phase_ == Phase::resolving)
    give_up(FailureKind::resolve,
            {PgFailure::timeout, "", "no answer from the resolver about " + address_.host});
}

}  // namespace proxy
