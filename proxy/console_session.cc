#include "proxy/console_session.h"

#include <algorithm>
#include <utility>

#include "conf/check.h"
#include "proxy/client.h"
#include "proxy/route_question.h"
#include "proxy/wire/framer.h"
#include "proxy/wire/frontend.h"
#include "proxy/wire/sqlstate.h"
#include "proxy/worker.h"

namespace proxy {
namespace {

namespace sqlstate = wire::sqlstate;
using wire::TransactionStatus;

// One of the messages of an answer, which are whole.
wire::Frame next_message(std::string_view answer) {
  wire::Frame frame;
  ENSURE(wire::cut(answer, &frame) == wire::Cut::frame && frame.complete);
  return frame;
}

constexpr std::string_view kExplainRoute = "EXPLAIN ROUTE";

bool has_error(std::string_view answer) {
  for (std::size_t at = 0; at < answer.size();) {
    const wire::Frame frame = next_message(answer.substr(at));
    if (frame.type == wire::backend::kErrorResponse) return true;
    at += frame.size;
  }
  return false;
}

}  // namespace

std::vector<wire::Column> ConsoleSession::Statement::columns() const {
  if (!chore) return {meaning.columns.begin(), meaning.columns.end()};
  if (chore->column.empty()) return {};
  return {{chore->column, chore->type}};
}

ConsoleSession::ConsoleSession(Worker& worker, Client& client, std::string user)
    : worker_(worker), client_(client), user_(std::move(user)) {}

void ConsoleSession::welcome() {
  std::string message;
  wire::append_authentication_ok(message);
  for (const ConsoleSetting& setting : console_settings())
    if (setting.told_at_login) wire::append_parameter_status(message, {setting.name, setting.value});
  client_.append_cancel_key(message);
  client_.send(message);
  ready();
}

void ConsoleSession::ready() {
  std::string message;
  wire::append_ready_for_query(message, status_);
  client_.send(message);
}

void ConsoleSession::error(const Problem& problem) {
  if (status_ == TransactionStatus::in_transaction) status_ = TransactionStatus::failed;
  discarding_ = !in_query_;
  left_.clear();
  std::string message;
  wire::append_error(message, {.severity = "ERROR",
                               .sqlstate = problem.sqlstate,
                               .message = problem.message,
                               .detail = {},
                               .hint = problem.hint});
  client_.send(message);
}

void ConsoleSession::violation(std::string_view what) {
  client_.fatal(ClientEnd::protocol_violation, sqlstate::kProtocolViolation, what);
}

// --- messages --------------------------------------------------------------------------------------

std::size_t ConsoleSession::on_bytes(std::string_view bytes) {
  if (busy() || client_.unsent() > worker_.settings().limits_client_buffer.count) return 0;
  wire::Frame frame;
  switch (wire::cut(bytes, &frame)) {
    case wire::Cut::need_more: return 0;
    case wire::Cut::malformed: violation("invalid message length"); return bytes.size();
    case wire::Cut::frame: break;
  }
  if (frame.size > kMaxMessage) {
    violation("no console command is that long");
    return bytes.size();
  }
  if (!frame.complete) return 0;
  if (discarding_ && frame.type != wire::frontend::kSync && frame.type != wire::frontend::kTerminate)
    return frame.size;
  switch (frame.type) {
    case wire::frontend::kQuery: {
      const auto head = wire::peek_query(frame.body, frame.body.size());
      if (head) query(head->text);
      else violation(head.error().message);
      break;
    }
    case wire::frontend::kParse: parse(frame.body); break;
    case wire::frontend::kBind: bind(frame.body); break;
    case wire::frontend::kDescribe: describe(frame.body); break;
    case wire::frontend::kExecute: execute(frame.body); break;
    case wire::frontend::kClose: close(frame.body); break;
    case wire::frontend::kFlush: break;  // everything has been sent
    case wire::frontend::kSync:
      discarding_ = false;
      if (status_ == TransactionStatus::idle) portals_.clear();
      ready();
      break;
    case wire::frontend::kFunctionCall:
      in_query_ = true;  // it ends without a Sync
      error({sqlstate::kFeatureNotSupported, "the console has no functions"});
      in_query_ = false;
      ready();
      break;
    case wire::frontend::kCopyData:
    case wire::frontend::kCopyDone:
    case wire::frontend::kCopyFail: break;  // as Postgres without a COPY
    case wire::frontend::kTerminate: worker_.retire(client_, ClientEnd::goodbye); break;
    default: violation("invalid frontend message type " + std::to_string(frame.type)); break;
  }
  return frame.size;
}

conf::Result<std::shared_ptr<const ConsoleSession::Statement>> ConsoleSession::understand(
    std::string_view text, Problem* problem) const {
  const auto refuse = [problem](std::string_view sqlstate, std::string message, std::string hint = {}) {
    *problem = {sqlstate, std::move(message), std::move(hint)};
    return conf::Error{conf::Errc::protocol, problem->message};
  };
  const auto statements = console_statements(text);
  if (!statements) return refuse(sqlstate::kSyntaxError, "a quote or a comment is not closed");
  if (statements->size() > 1)
    return refuse(sqlstate::kSyntaxError, "cannot insert multiple commands into a prepared statement");
  auto made = std::make_shared<Statement>();
  if (statements->empty()) return std::shared_ptr<const Statement>(std::move(made));
  const std::vector<ConsoleWord> words = console_words(statements->front());
  made->chore = driver_chore(words, user_);
  if (!made->chore) made->meaning = Console::understand(words);
  if (made->meaning.words == kExplainRoute) made->text = statements->front();
  if (!made->meaning.problem.empty())
    return refuse(sqlstate::kSyntaxError, made->meaning.problem, made->meaning.hint);
  return std::shared_ptr<const Statement>(std::move(made));
}

std::optional<ConsoleSession::Problem> ConsoleSession::objection(const Statement& statement) const {
  using enum Chore::Step;
  if (status_ != TransactionStatus::failed) return std::nullopt;
  if (statement.chore && (statement.chore->step == end || statement.chore->step == back_to_savepoint))
    return std::nullopt;
  return Problem{sqlstate::kInFailedSqlTransaction,
                 "current transaction is aborted, commands ignored until end of transaction block"};
}

// --- simple queries --------------------------------------------------------------------------------

void ConsoleSession::query(std::string_view text) {
  in_query_ = true;
  statements_.erase("");
  const auto statements = console_statements(text);
  if (!statements) {
    error({sqlstate::kSyntaxError, "a quote or a comment is not closed"});
  } else if (statements->empty()) {
    std::string message;
    wire::append_empty_query_response(message);
    client_.send(message);
  } else {
    left_.assign(statements->begin(), statements->end());
  }
  go_on();
}

void ConsoleSession::go_on() {
  if (!in_query_ || busy_) return;
  std::string chores;  // gathered, since a text may have thousands
  const auto flush = [this, &chores] {
    if (!chores.empty()) client_.send(std::exchange(chores, {}));
  };
  while (!left_.empty()) {
    const std::size_t limit = worker_.settings().limits_client_buffer.count;
    if (chores.size() > limit / 2) flush();
    if (client_.unsent() > limit) return flush();  // until it has read some
    const std::string text = std::move(left_.front());
    left_.pop_front();
    Problem problem;
    const auto statement = understand(text, &problem);
    if (statement && !objection(**statement) && (*statement)->chore) {
      chores += carry_out(*(*statement)->chore, true, {});
      continue;
    }
    flush();
    if (!statement) {
      error(problem);
    } else if (const auto objects = objection(**statement)) {
      error(*objects);
    } else {
      send(**statement, true, {});
      return;
    }
  }
  flush();
  in_query_ = false;
  ready();
}

// --- extended queries ------------------------------------------------------------------------------

void ConsoleSession::parse(std::string_view body) {
  const auto head = wire::peek_parse(body, body.size());
  if (!head || !*head) return violation("invalid Parse message");
  const std::string name((*head)->name);
  if (!name.empty() && statements_.contains(name))
    return error({sqlstate::kDuplicatePreparedStatement, "prepared statement \"" + name + "\" already exists"});
  if (!(*head)->param_types.empty())
    return error({sqlstate::kFeatureNotSupported, "the console takes no parameters"});
  if (statements_.size() >= kMaxStatements)
    return error({sqlstate::kProgramLimitExceeded, "the console keeps no more prepared statements"});
  Problem problem;
  auto statement = understand((*head)->text, &problem);
  if (!statement) return error(problem);
  if (const auto objects = objection(**statement)) return error(*objects);
  statements_[name] = std::move(*statement);
  std::string message;
  wire::append_parse_complete(message);
  client_.send(message);
}

void ConsoleSession::bind(std::string_view body) {
  const auto head = wire::peek_bind(body, body.size());
  if (!head || !*head) return violation("invalid Bind message");
  const auto rest = wire::decode_bind_rest(body, (*head)->after_names);
  if (!rest) return violation(rest.error().message);
  const std::string name((*head)->portal);
  const auto statement = statements_.find((*head)->statement);
  if (statement == statements_.end())
    return error({sqlstate::kInvalidSqlStatementName,
                  "prepared statement \"" + std::string((*head)->statement) + "\" does not exist"});
  if (rest->parameters > 0)
    return error({sqlstate::kProtocolViolation, "bind message supplies " + std::to_string(rest->parameters) +
                                                    " parameters, but the console takes none"});
  if (!name.empty() && portals_.contains(name))
    return error({sqlstate::kDuplicateCursor, "cursor \"" + name + "\" already exists"});
  if (portals_.size() >= kMaxPortals && !portals_.contains(name))
    return error({sqlstate::kProgramLimitExceeded, "the console keeps no more portals"});
  if (const auto objects = objection(*statement->second)) return error(*objects);
  Portal portal{.statement = statement->second, .formats = {}, .answer = {}};
  for (const std::uint16_t format : rest->result_formats) {
    if (format > 1)
      return error({sqlstate::kInvalidParameterValue, "unsupported format code: " + std::to_string(format)});
    portal.formats.push_back(static_cast<wire::Format>(format));
  }
  const std::size_t columns = portal.statement->columns().size();
  if (portal.formats.size() > 1 && portal.formats.size() != columns)
    return error({sqlstate::kProtocolViolation, "bind message has " + std::to_string(portal.formats.size()) +
                                                    " result formats but query has " +
                                                    std::to_string(columns) + " columns"});
  portals_.insert_or_assign(name, std::move(portal));
  std::string message;
  wire::append_bind_complete(message);
  client_.send(message);
}

void ConsoleSession::describe(std::string_view body) {
  const auto head = wire::peek_describe(body, body.size());
  if (!head || !*head) return violation("invalid Describe message");
  const std::string name((*head)->name);
  std::string message;
  const Statement* statement = nullptr;
  std::vector<wire::Format> formats;
  if ((*head)->kind == wire::Named::statement) {
    const auto found = statements_.find(name);
    if (found == statements_.end())
      return error({sqlstate::kInvalidSqlStatementName, "prepared statement \"" + name + "\" does not exist"});
    statement = found->second.get();
    wire::append_parameter_description(message, {});
  } else {
    const auto found = portals_.find(name);
    if (found == portals_.end())
      return error({sqlstate::kInvalidCursorName, "portal \"" + name + "\" does not exist"});
    statement = found->second.statement.get();
    formats = found->second.formats;
  }
  if (const std::vector<wire::Column> columns = statement->columns(); columns.empty()) {
    wire::append_no_data(message);
  } else {
    wire::append_row_description(message, columns, formats);
  }
  client_.send(message);
}

void ConsoleSession::execute(std::string_view body) {
  const auto head = wire::peek_execute(body, body.size());
  if (!head || !*head) return violation("invalid Execute message");
  const auto found = portals_.find((*head)->portal);
  if (found == portals_.end())
    return error({sqlstate::kInvalidCursorName,
                  "portal \"" + std::string((*head)->portal) + "\" does not exist"});
  Portal& portal = found->second;
  max_rows_ = (*head)->max_rows;
  if (!std::exchange(portal.begun, true)) {
    // What a chore does to the session may be the end of this portal.
    const std::shared_ptr<const Statement> statement = portal.statement;
    if (const auto objects = objection(*statement)) return error(*objects);
    if (statement->chore) {
      portal.answer = carry_out(*statement->chore, false, portal.formats);
    } else if (statement->meaning.words.empty()) {
      wire::append_empty_query_response(portal.answer);
    } else {
      executing_ = &portal;
      send(*statement, false, portal.formats);
      return;
    }
  }
  tell(portal, max_rows_);
}

void ConsoleSession::close(std::string_view body) {
  const auto head = wire::peek_describe(body, body.size());
  if (!head || !*head) return violation("invalid Close message");
  const std::string name((*head)->name);
  if ((*head)->kind == wire::Named::statement) statements_.erase(name);
  else portals_.erase(name);
  std::string message;
  wire::append_close_complete(message);
  client_.send(message);
}

// As many rows as are asked for, and what ends them when it comes to that.
void ConsoleSession::tell(Portal& portal, std::int32_t max_rows) {
  const std::string_view rest = std::string_view(portal.answer).substr(portal.told);
  std::size_t size = 0;
  std::int32_t rows = 0;
  bool failed = false;
  while (size < rest.size()) {
    const wire::Frame frame = next_message(rest.substr(size));
    if (frame.type == wire::backend::kDataRow && max_rows > 0 && rows++ == max_rows) break;
    failed |= frame.type == wire::backend::kErrorResponse;
    size += frame.size;
  }
  if (size > 0) client_.send(rest.substr(0, size));
  std::string message;
  if (size < rest.size()) {
    portal.told += size;
    wire::append_portal_suspended(message);
  } else if (size == 0) {
    wire::append_command_complete(message, "SHOW");  // it has ended before
  } else {
    portal.told = 0;
    portal.answer = {};
  }
  if (!message.empty()) client_.send(message);
  if (!failed) return;
  discarding_ = true;
  if (status_ == TransactionStatus::in_transaction) status_ = TransactionStatus::failed;
}

// --- carrying out ----------------------------------------------------------------------------------

std::string ConsoleSession::carry_out(const Chore& chore, bool describe,
                                      const std::vector<wire::Format>& formats) {
  using enum Chore::Step;
  std::string_view tag = chore.tag;
  switch (chore.step) {
    case none:
    case savepoint: break;
    case begin: status_ = TransactionStatus::in_transaction; break;
    case end:
      if (status_ == TransactionStatus::failed) tag = "ROLLBACK";
      status_ = TransactionStatus::idle;
      break;
    case back_to_savepoint:
      if (status_ == TransactionStatus::failed) status_ = TransactionStatus::in_transaction;
      break;
  }
  if (chore.deallocates) {
    if (chore.deallocates->empty()) statements_.clear();
    else statements_.erase(*chore.deallocates);
  }
  std::string out;
  if (!chore.column.empty()) {
    const wire::Column column[] = {{chore.column, chore.type}};
    const std::optional<std::string> value[] = {chore.value};
    if (describe) wire::append_row_description(out, column, formats);
    wire::append_data_row(out, value, column, formats);
  }
  wire::append_command_complete(out, tag);
  return out;
}

void ConsoleSession::send(const Statement& statement, bool describe, std::vector<wire::Format> formats) {
  busy_ = true;
  if (!statement.text.empty())  // this worker knows all that it takes
    return answered(explain_route(worker_, statement.text, user_, describe, formats));
  // Asked anew each time: a reload may have changed it.
  const bool may_act = std::ranges::find(worker_.settings().admin_users, user_) !=
                       worker_.settings().admin_users.end();
  worker_.shared().tell_control(ConsoleCommand{.client = client_.id(),
                                               .user = user_,
                                               .may_act = may_act,
                                               .words = statement.meaning.words,
                                               .arguments = statement.meaning.arguments,
                                               .describe = describe,
                                               .formats = std::move(formats)});
  if (client_.input_ended()) worker_.shared().tell_control(ConsoleCanceled{client_.id(), true});
}

void ConsoleSession::answered(std::string_view messages) {
  busy_ = false;
  if (Portal* portal = std::exchange(executing_, nullptr)) {
    portal->answer = messages;
    tell(*portal, max_rows_);
    return;
  }
  client_.send(messages);
  if (has_error(messages)) {
    left_.clear();
    if (status_ == TransactionStatus::in_transaction) status_ = TransactionStatus::failed;
  }
  go_on();
}

}  // namespace proxy
