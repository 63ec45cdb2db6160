#include "routing/node_health.h"

namespace routing {
namespace {

bool another(const NodeIdentity& before, const NodeIdentity& now) {
  const auto differs = [](auto a, auto b) { return a != 0 && b != 0 && a != b; };
  return differs(before.system_id, now.system_id) ||
         differs(before.postmaster_start_us, now.postmaster_start_us) ||
         before.in_recovery != now.in_recovery;
}

}  // namespace

std::string_view name(FailureKind kind) {
  switch (kind) {
    case FailureKind::refused: return "refused";
    case FailureKind::timeout: return "timeout";
    case FailureKind::reset: return "reset";
    case FailureKind::shutting_down: return "shutting_down";
    case FailureKind::terminated: return "terminated";
    case FailureKind::resolve: return "resolve";
    case FailureKind::auth: return "auth";
    case FailureKind::too_many: return "too_many";
    case FailureKind::other: return "other";
  }
  return "other";
}

void NodeHealthTracker::succeeded(Instant now, const NodeIdentity& identity) {
  if (identified_ && another(identity_, identity)) ++incarnation_;
  identity_ = identity;
  identified_ = true;
  heard_ = true;
  last_success_ = now;
  silent_ = 0;
  why_ = "";
  become(NodeHealth::up, now);
}

void NodeHealthTracker::failed(Instant now, FailureKind kind) {
  heard_ = true;
  why_ = name(kind);
  switch (kind) {
    case FailureKind::refused:
    case FailureKind::reset:
    case FailureKind::shutting_down:
      silent_ = 0;
      return become(NodeHealth::down, now);
    case FailureKind::timeout:
    case FailureKind::resolve:
      if (++silent_ >= kTimeoutsForDown) become(NodeHealth::down, now);
      return;
    case FailureKind::terminated:
      return;
    case FailureKind::auth:
    case FailureKind::too_many:
    case FailureKind::other:
      silent_ = 0;
      if (health_ == NodeHealth::down) become(NodeHealth::unknown, now);
      return;
  }
}

void NodeHealthTracker::become(NodeHealth health, Instant now) {
  if (health == health_) return;
  if (health == NodeHealth::down) ++incarnation_;
  health_ = health;
  changed_ = now;
}

}  // namespace routing
