#include "proxy/held_transaction.h"

#include <algorithm>

#include "proxy/client.h"
#include "proxy/scan.h"
#include "proxy/server.h"
#include "proxy/wire/backend.h"
#include "proxy/wire/frontend.h"
#include "proxy/wire/sqlstate.h"
#include "proxy/worker.h"

namespace proxy {

namespace fe = wire::frontend;
using routing::TransactionStep;

namespace {

// A longer BEGIN is not kept.
constexpr std::size_t kLongestBegin = 1000;

// Does what this batch binds outlive it in a transaction? The next batch may ask a portal for more.
bool leaves_portal(std::span<const BatchMessage> messages) {
  return messages.size() == kRemembered || std::ranges::any_of(messages, [](const BatchMessage& message) {
           wire::ExecuteHead head;
           if (message.frame.type == fe::kBind) return !message.portal.empty();
           return message.frame.type == fe::kExecute && !wire::quick_execute(message.frame.body, &head);
         });
}

}  // namespace

// The batch's first statement, if nothing that comes before its end needs a server: a Query; or one Execute of
// the unnamed portal, with its Bind and perhaps its Parse.
std::optional<Client::FirstStatement> Client::first_statement() {
  const std::vector<BatchMessage>& messages = worker_.batch_messages();
  if (messages.empty()) return std::nullopt;
  if (messages.front().frame.type == fe::kQuery)
    return FirstStatement{worker_.classifier().classify(messages.front().text, standard_strings, encoding,
                                                        *identity->scope),
                          messages.front().text, 1};
  const BatchMessage* parse = nullptr;
  const BatchMessage* bind = nullptr;
  for (std::size_t at = 0; at < messages.size(); ++at) {
    const BatchMessage& message = messages[at];
    switch (message.frame.type) {
      case fe::kParse:
        if (parse != nullptr || bind != nullptr) return std::nullopt;
        parse = &message;
        break;
      case fe::kBind:
        // No formats and no parameters: what else it may say is for a server to judge.
        if (bind != nullptr || !message.portal.empty() ||
            (parse != nullptr && parse->name != message.name) ||
            !message.frame.body.substr(message.after_names).starts_with(std::string_view("\0\0\0\0", 4)))
          return std::nullopt;
        bind = &message;
        break;
      case fe::kDescribe:
        if (bind == nullptr || message.named != wire::Named::portal || !message.name.empty())
          return std::nullopt;
        break;
      case fe::kExecute: {
        wire::ExecuteHead head;
        if (bind == nullptr || !wire::quick_execute(message.frame.body, &head)) return std::nullopt;
        if (parse != nullptr && !may_prepare_here(*parse)) return std::nullopt;
        if (parse != nullptr) return FirstStatement{worker_.parsed_here().front().facts, parse->text, at + 1};
        if (bind->name.empty()) {
          if (unnamed_version == 0 || !prepared->unnamed_facts) return std::nullopt;
          return FirstStatement{prepared->unnamed_facts, std::string_view(prepared->unnamed.c_str()), at + 1};
        }
        const ClientStatement* known = find_statement(bind->name);
        if (known == nullptr || !known->statement) return std::nullopt;
        return FirstStatement{known->facts, known->statement->text(), at + 1};
      }
      default: return std::nullopt;
    }
  }
  return std::nullopt;
}

bool Client::may_prepare_here(const BatchMessage& parse) {
  if (parse.name.empty()) return true;
  return find_statement(parse.name) == nullptr &&
         preparing().bytes() + ClientPrepared::cost(parse.name, nullptr) + parse.frame.body.size() <=
             worker_.settings().limits_prepared.count;
}

// Answers the first `count` messages of the batch, of a statement that needs no server; returns their size.
std::size_t Client::answer_here(std::size_t count, std::string_view tag) {
  const std::vector<BatchMessage>& messages = worker_.batch_messages();
  std::string answer;
  std::size_t size = 0;
  for (std::size_t at = 0; at < count; ++at) {
    const BatchMessage& message = messages[at];
    size += message.frame.size;
    switch (message.frame.type) {
      case fe::kQuery:
        forget_unnamed();
        wire::append_command_complete(answer, tag);
        break;
      case fe::kParse: {
        const std::string_view tail = message.frame.body.substr(message.after_names);
        const auto& facts = worker_.parsed_here().front().facts;
        if (message.name.empty()) {
          unnamed_version = worker_.next_version();
          preparing().unnamed.assign(tail);
          prepared->unnamed_facts = facts;
          prepared->unnamed_settings = session->current();
          prepared->unnamed_commented = false;
        } else {
          preparing().note_reading(session->current());
          prepared->put(std::string(message.name),
                          {worker_.shared().prepared.intern(tail, pool::read_by(*session->current())), facts,
                           identity->scope->version});
        }
        wire::append_parse_complete(answer);
        break;
      }
      case fe::kBind: wire::append_bind_complete(answer); break;
      case fe::kDescribe: wire::append_no_data(answer); break;
      case fe::kExecute: wire::append_command_complete(answer, tag); break;
      default: break;
    }
  }
  const bool is_query = messages.front().frame.type == fe::kQuery;
  const bool syncs = !is_query && messages.size() == count + 1 && messages.back().frame.type == fe::kSync;
  if (syncs) size += messages.back().frame.size;
  if (is_query || syncs) append_ready(answer);
  arrived = quiet_since_ = worker_.now();
  worker_.answered_here(*this);
  send(answer);
  return size;
}

// What the client is told about its transaction while no server has it.
void Client::append_ready(std::string& out) const {
  wire::append_ready_for_query(out, !held          ? wire::TransactionStatus::idle
                                    : held->failed ? wire::TransactionStatus::failed
                                                   : wire::TransactionStatus::in_transaction);
}

// What routing.transactions is for this BEGIN.
conf::Transactions Client::transactions_of(const Scan& scan) const {
  const std::uint8_t said = scan.facts.overrides.transactions;
  return said == 0 ? identity->transactions : static_cast<conf::Transactions>(said - 1);
}

bool Client::may_hold(const Scan& scan) const {
  return transactions_of(scan) != conf::Transactions::primary &&
         identity->mode == conf::PoolMode::transaction && scan.facts.step == TransactionStep::begin &&
         !route_state.read_only_default && !scan.facts.too_large && !scan.facts.open_ended;
}

// A batch that begins a transaction that may be held back, or one that comes while one is. `size`: answered,
// so many bytes of the batch have been.
Client::Held Client::judge_held(Scan& scan, bool stay, std::size_t* size) {
  if (!held) {
    if (stay || !may_hold(scan)) return Held::goes_on;
    const std::optional<FirstStatement> first = first_statement();
    if (!first || first->facts->step != TransactionStep::begin || first->facts->several ||
        first->text.size() > kLongestBegin)
      return Held::goes_on;
    if (server != nullptr) return Held::waits;  // until what is before it has been answered
    held = std::make_unique<HeldTransaction>();
    held->begin = first->text;
    held->since = worker_.now();
    held->serializable = first->facts->serializable || route_state.serializable_default;
    held->migrates = transactions_of(scan) == conf::Transactions::migrate && !held->serializable &&
                     !first->facts->repeatable && !route_state.repeatable_default &&
                     route_state.consistency != conf::Consistency::primary;
    *size = answer_here(first->messages, "BEGIN");
    return Held::answered;
  }
  if (server != nullptr) return Held::waits;  // a read of it: it may fail

  const std::vector<BatchMessage>& messages = worker_.batch_messages();
  if (messages.size() == 1 && messages.front().frame.type == fe::kSync) {
    *size = scan.size;
    std::string ready;
    append_ready(ready);
    send(ready);
    return Held::answered;
  }
  const bool transaction = scan.facts.kind == routing::StatementClass::transaction;
  const std::optional<FirstStatement> first = transaction ? first_statement() : std::nullopt;
  if (first && first->facts->step == TransactionStep::end && !first->facts->several &&
      scan.facts.step == TransactionStep::end && !scan.facts.open_ended) {
    const bool commits =
        first->facts->settings.front().what == routing::SettingChange::What::commit && !held->failed;
    held = nullptr;
    worker_.count().transactions.add();
    *size = answer_here(first->messages, commits ? "COMMIT" : "ROLLBACK");
    return Held::answered;
  }
  if (held->failed) {
    refuse_failed();
    *size = scan.size;
    return Held::refused;
  }
  const routing::BatchFacts& facts = scan.facts;
  const bool reads = facts.plain && !facts.serializable && !facts.too_large && !facts.open_ended &&
                     (facts.kind <= routing::StatementClass::read || !facts.executes);
  if (held->migrates && reads && !leaves_portal(messages)) return Held::goes_on;
  // READ ONLY is known before anything has been read.
  const bool read_only = first && first->facts->step == TransactionStep::set_read_only &&
                         !first->facts->several && !first->facts->serializable && !held->serializable &&
                         facts.step == TransactionStep::set_read_only;
  scan.facts.opens = read_only ? routing::Opens::read_only : routing::Opens::read_write;
  return Held::goes_on;
}

void Client::refuse_failed() {
  refusal_ = std::make_unique<std::string>();
  wire::append_error(*refusal_, {.severity = "ERROR",
                                .sqlstate = wire::sqlstate::kInFailedSqlTransaction,
                                .message = "current transaction is aborted, commands ignored until end of "
                                           "transaction block"});
}

// The batch that goes out now begins the transaction on its server: returns what has to go ahead of it.
std::string Client::release_held() {
  std::string begin = std::move(held->begin);
  server->transaction_since = held->since;
  held = nullptr;
  return begin;
}

// BEGIN and COMMIT that no server has seen count like others.
void Worker::answered_here(Client& client) {
  const metrics::SeriesKey key{.node = metrics::kNoNode,
                               .kind = static_cast<std::uint8_t>(routing::StatementClass::transaction),
                               .tenant = client.tenant->number,
                               .database = client.identity->traffic->number};
  if (client.last_series == nullptr || client.last_series->key != key)
    client.last_series = &metrics_->series(key);
  client.last_series->record(metrics::Nanos(0), metrics::Nanos(0));
  client.last_series->served.add();
  if (client.held) client.last_series->left_open.add();
  ++client.statements;
}

}  // namespace proxy
