#include "proxy/healing.h"

#include <algorithm>

#include "pool/protection.h"
#include "proxy/client.h"
#include "proxy/log.h"
#include "proxy/server.h"
#include "proxy/wire/backend.h"
#include "proxy/wire/framer.h"
#include "proxy/wire/sqlstate.h"
#include "proxy/worker.h"

namespace proxy {

namespace be = wire::backend;
namespace sqlstate = wire::sqlstate;
using pool::RetryReason;

std::optional<RetryReason> reason_to_retry(std::string_view code, bool fatal) {
  // On a standby, and to a read that locks no rows, only recovery says these. As a last word too, in a
  // moment when the backend could not just fail.
  if (code == sqlstate::kSerializationFailure || code == sqlstate::kDeadlockDetected)
    return RetryReason::recovery_conflict;
  if (fatal) {
    if (code == sqlstate::kAdminShutdown || code == sqlstate::kCrashShutdown ||
        code == sqlstate::kCannotConnectNow)
      return RetryReason::server_lost;
    return std::nullopt;
  }
  // A function that writes behind a view; relations that are not replicated; functions that recovery forbids.
  if (code == sqlstate::kReadOnlySqlTransaction || code == sqlstate::kFeatureNotSupported ||
      code == sqlstate::kObjectNotInPrerequisiteState)
    return RetryReason::wrong_node;
  return std::nullopt;
}

bool is_head(std::span<const iovec> messages) {
  for (const iovec& part : messages) {
    const std::string_view bytes(static_cast<const char*>(part.iov_base), part.iov_len);
    for (std::size_t at = 0; at < bytes.size();) {
      wire::Frame frame;
      if (wire::cut(bytes.substr(at), &frame) != wire::Cut::frame || !frame.complete) return false;
      switch (frame.type) {
        case be::kParseComplete:
        case be::kBindComplete:
        case be::kCloseComplete:
        case be::kParameterDescription:
        case be::kRowDescription:
        case be::kNoData:
        case be::kNoticeResponse:
        case be::kParameterStatus: break;
        default: return false;
      }
      at += frame.size;
    }
  }
  return true;
}

bool Healing::hold(std::span<const iovec> messages) {
  std::size_t size = head_.size();
  for (const iovec& part : messages) size += part.iov_len;
  if (size > kLargest) return false;
  for (const iovec& part : messages) head_.append(static_cast<const char*>(part.iov_base), part.iov_len);
  return true;
}

// --- the server ------------------------------------------------------------------------------------

// What one read has brought for the client, while its batch can still be run again.
void Server::deliver_head(std::span<const iovec> parts) {
  if (healing.failed()) return;
  const bool answered = in_flight.empty();
  if (!answered && pass_left_ == 0 && is_head(parts) && healing.hold(parts)) return;
  stop_healing();
  client->send(parts);
}

void Server::stop_healing() {
  if (!healing.armed()) return;
  for (std::size_t left = healing.take_settled(); left > 0; --left) client->prepared->tentative.pop_front();
  if (!healing.head().empty()) client->send(healing.head());
  healing.disarm();
}

// Is this the end of the batch here, and will another node do better? What the primary says is the truth.
bool Server::heals(const wire::ErrorFields& error) {
  if (role == routing::NodeRole::primary) return false;
  const std::optional<RetryReason> why = reason_to_retry(error.sqlstate, false);
  if (!why || !may_run_again()) return false;
  healing.fail(*why);
  return true;
}

// A primary that takes no write, though nobody has said that this one would only read, may be none any more.
void Server::doubt_role() {
  const bool asked_for = status != 'I' || in_flight.empty() || client == nullptr ||
                         in_flight.front().step != routing::TransactionStep::none ||
                         client->route_state.read_only_default;
  if (role == routing::NodeRole::primary && !asked_for) worker_->doubt_primary(node_);
}

bool Server::may_run_again() {
  return cancels == 0 && !watch.canceled && client != nullptr && client->may_take_back() &&
         worker_->may_retry();
}

// --- the client ------------------------------------------------------------------------------------

bool Client::may_take_back() const {
  return state_ == ClientState::active && !in_process_ && !broken_ && streaming_left_ == 0 && !discarding_ &&
         !retry;
}

// The batch that it sent is its waiting batch again, before whatever came after it.
void Client::take_back(std::string_view sent) {
  if (input_.empty()) worker_.take_spare(&input_);
  input_.insert(0, sent);
  waiting_size_ = sent.size();
  waiting_streams_ = 0;
  if (prepared) prepared->waiting.clear();
  waiting_since = worker_.now();
  move_to(ClientState::waiting);
}

// --- the worker ------------------------------------------------------------------------------------

namespace {

// Statements that have waited for a server for so long are a queue.
constexpr conf::Millis kOverload{100};
// So many of those who wait are looked at.
constexpr int kLooks = 64;

}  // namespace

bool Worker::may_retry() {
  int looks = 0;
  bool overload = !pool::may_run_again(protection());
  for (const Client* one = waiting_.front(); one != nullptr && !overload && looks < kLooks;
       one = waiting_.after(*one), ++looks)
    overload = one->waiting_for == WaitingFor::server && now() - one->waiting_since > kOverload;
  if (overload) {
    metrics_->retry_refusals.add(pool::RetryRefusal::overload);
    return false;
  }
  // The process's rate is shared out; the share of statements is each worker's own.
  const pool::RetryBudget::Limits limits{
      .share = static_cast<double>(settings_->routing_retry_percent) / 100,
      .per_second = static_cast<double>(settings_->routing_retry_rate) /
                    static_cast<double>(shared_.workers.size())};
  if (retry_budget_.take(now(), metrics_->transactions.read(), limits)) return true;
  metrics_->retry_refusals.add(pool::RetryRefusal::budget);
  return false;
}

// The client's read has failed on this server, and nothing of it has been told: it begins anew.
void Worker::run_again(Client& client, Server& server) {
  const RetryReason why = server.healing.reason_of_loss();
  if (server.flight != nullptr) restart_flight(server);
  // A dying node fails many at once: one line a second says so.
  ++retries_unsaid_;
  if (now() - last_retry_said_ >= std::chrono::seconds(1)) {
    log_info(client.who() + " runs a read again elsewhere: " + std::string(pool::name(why)) +
             " node=" + server.node_name() + " retries=" + std::to_string(std::exchange(retries_unsaid_, 0)));
    last_retry_said_ = now();
  }
  // What it holds of limits on its kind of statement it keeps.
  if (!server.in_flight.empty()) client.batch_extras = std::move(server.in_flight.front().extras);
  server.in_flight.clear();
  const std::string batch = server.healing.take_batch();
  server.healing.disarm();
  client.retry = {true, why, server.node_id()};
  // It keeps its tenant's slot.
  const bool admitted = std::exchange(client.admitted, false);
  part(client, server);
  client.admitted = admitted;
  client.take_back(batch);
  if (server.state != pool::ServerState::closing) settle(server);
  place_again(client);
}

// A user whose default is READ ONLY can say so all the time: once a second is enough.
void Worker::doubt_primary(routing::NodeId node) {
  if (now() - last_doubt_ < std::chrono::seconds(1)) return;
  last_doubt_ = now();
  shared_.tell_control(NodeSuspected{node});
}

// As a bit for the chooser, which knows the first 64 nodes.
std::uint64_t Worker::tried(const Client& client, const routing::ClusterState& cluster) {
  for (std::size_t i = 0; i < std::min<std::size_t>(cluster.nodes.size(), 64); ++i)
    if (cluster.nodes[i].id == client.retry.not_on) return std::uint64_t{1} << i;
  return 0;
}

void Worker::retry_ended(Client& client, bool served) {
  (served ? metrics_->retries_served : metrics_->retries_failed).add(client.retry.why);
  client.retry = {};
}

}  // namespace proxy
