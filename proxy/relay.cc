#include "proxy/relay.h"

#include <algorithm>
#include <array>

#include "conf/check.h"
#include "proxy/client.h"
#include "proxy/own_statements.h"
#include "proxy/route_question.h"
#include "proxy/server.h"
#include "proxy/wire/backend.h"
#include "proxy/wire/framer.h"
#include "proxy/wire/frontend.h"
#include "proxy/wire/sqlstate.h"
#include "proxy/worker.h"
#include "routing/lexer.h"

namespace proxy {
namespace {

using wire::For;
using wire::Request;
namespace fe = wire::frontend;

// The head of a message that is streamed must hold the names in it; Postgres has no limit for names on
// the wire, and no driver comes near this one.
constexpr std::size_t kMaxNames = std::size_t{16} << 10;
// Requests without an answer that one client may have outstanding. Postgres sends what it has when its
// buffer of 8 KiB is full, some 1,600 of the shortest answers, so a client that reads always gets on.
constexpr std::size_t kMaxDepth = std::size_t{1} << 16;

// Postgres's own limit (PQ_SMALL_MESSAGE_LIMIT) on messages that carry no text or data, and which they are.
constexpr std::size_t kSmallMessage = 10'000;
bool is_small(char type) {
  switch (type) {
    case fe::kClose:
    case fe::kDescribe:
    case fe::kExecute:
    case fe::kFlush:
    case fe::kSync:
    case fe::kTerminate:
    case fe::kCopyDone:
    case fe::kCopyFail: return true;
    default: return false;
  }
}

// Names on servers are ours; a client that makes one up meets no statement by it.
constexpr std::string_view kNoStatement = "pgsluice_0";

using FactsRef = std::shared_ptr<const routing::Facts>;

const FactsRef& classify(Worker& worker, const Client& client, std::string_view sql) {
  return worker.classifier().classify(sql, client.standard_strings, client.encoding, *client.identity->scope);
}

// Transaction control matters to a session that has changed settings in the transaction, or may have.
bool settings_on_trial(const Client& client) {
  return client.unsettled || client.session->on_trial() ||
         (client.server != nullptr && client.server->session.on_trial());
}

void note_changes(const Client& client, Scan* scan, const FactsRef& facts) {
  if (facts->changes_settings || facts->deallocates_all || facts->sees_prepared ||
      !facts->deallocates_names.empty() || !facts->executes_names.empty() || !facts->prepares_names.empty() ||
      !facts->frees_database.empty() ||
      (!facts->settings.empty() && (scan->changes || settings_on_trial(client)))) {
    if (!scan->changes) scan->changes = std::make_unique<Changes::element_type>();
    scan->changes->push_back(facts);
  }
  scan->unpins |= facts->unpins_all;
  scan->deallocates |= facts->deallocates_all;
}

// What rules and hints say of a statement that will run. `commented`: its text, if comments stand around it.
void steer(Worker& worker, const Client& client, Scan* scan, const FactsRef& facts, std::string_view commented) {
  routing::RouteOverrides& batch = scan->facts.overrides;
  routing::RouteOverrides own =
      worker.overrides_for(client.rules, client.route_state, client.own_class(), client.standard_strings, facts,
                           commented);
  if (!own.given && !batch.given) return;
  if (own.rule != 0) {
    const auto place = static_cast<routing::RuleSet::Place>(own.rule - 1);
    if (worker.limit_of(place).any() && !worker.settings().routing_dry_run) worker.limited().push_back(place);
  }
  const routing::RouteOverrides nothing = routing::overrides_of(nullptr, {}, client.route_state);
  if (!own.given) own = nothing;
  // Beside one with a class of its own the others have the session's.
  const auto with_class = [&](routing::RouteOverrides& said) {
    if (said.service_class != 0) return;
    said.service_class = static_cast<std::uint8_t>(client.session_class + 1);
    said.priority = static_cast<unsigned>(worker.classes().priority(client.session_class)) & 3U;
  };
  if (scan->facts.executes && (own.service_class != 0 || batch.service_class != 0)) {
    if (!batch.given) batch = nothing;
    with_class(own);
    with_class(batch);
  }
  if (scan->facts.executes)
    own = routing::join(batch.given ? batch : nothing, own,
                        {.max_lag = worker.settings().routing_max_lag,
                         .query_timeout = client.identity->timeouts.query});
  batch = own;
}

// The statement will run. `sql()` is its text; `commented` too, if comments stand around it.
template <class Text>
void note(Worker& worker, const Client& client, Scan* scan, const FactsRef& facts, Text sql,
          std::string_view commented) {
  if (client.rules != nullptr || !commented.empty() || scan->facts.overrides.given) [[unlikely]]
    steer(worker, client, scan, facts, commented);
  scan->facts.add(*facts);
  scan->facts.executes = true;
  const auto text = [&]() -> std::string {
    if (facts->digest == 0) return {};  // nobody has read it
    return routing::shown_text(sql(), client.standard_strings, metrics::DigestStats::kMaxText);
  };
  scan->digests.add(
      worker.digests().find(facts->digest, *client.identity->traffic, facts->counted_at, text),
      facts->kind == routing::StatementClass::transaction || facts->kind == routing::StatementClass::session);
  if (worker.gate() != nullptr) [[unlikely]]
    worker.gated().push_back(facts->digest);
}

// COMMIT, ROLLBACK, ROLLBACK TO, and their kin: what a failed transaction takes.
bool may_end_failure(const routing::Facts& facts) {
  using enum routing::TransactionStep;
  if (facts.step != savepoint) return facts.step == end || facts.step == chained_end;
  return std::ranges::any_of(facts.settings, [](const routing::SettingChange& change) {
    return change.what == routing::SettingChange::What::rollback_to;
  });
}

bool has_portals(const Client& client) { return client.prepared && client.prepared->portals; }

// It has been noted, and is bound to that portal.
void note_bound(const Client& client, Scan* scan, std::string_view portal, const FactsRef& facts) {
  if (facts->plain && !scan->bound && !has_portals(client)) [[likely]]
    return;
  const bool waits = BoundPortals::concerns(*facts);
  if (!waits && !facts->plain) note_changes(client, scan, facts);
  const bool matters = waits && (facts->changes_settings || scan->changes || settings_on_trial(client));
  if (!matters && !scan->bound && !has_portals(client)) return;
  if (!scan->bound) scan->bound = std::make_unique<decltype(scan->bound)::element_type>();
  scan->bound->emplace_back(portal, facts);
}

// A portal is executed, of this batch or of an earlier one.
void note_executed(const Client& client, Scan* scan, std::string_view portal) {
  if (scan->bound) {
    const auto here = std::find_if(scan->bound->rbegin(), scan->bound->rend(),
                                   [portal](const auto& one) { return one.first == portal; });
    if (here != scan->bound->rend()) {
      if (BoundPortals::concerns(*here->second)) note_changes(client, scan, here->second);
      return;
    }
  }
  if (!has_portals(client)) return;
  if (const FactsRef* const facts = client.prepared->portals->find(portal))
    note_changes(client, scan, *facts);
}

// It is only parsed: what it would do has not happened yet, but where it must go is known. (The columns of an
// EXECUTE are looked up when it is parsed.)
void note_parsed(const Client& client, Scan* scan, const FactsRef& facts) {
  scan->facts.add_parsed(*facts);
  if (!facts->plain && !facts->executes_names.empty()) note_changes(client, scan, facts);
}

void malformed(Scan* scan, std::string problem) {
  scan->what = Scan::What::malformed;
  scan->problem = std::move(problem);
}

std::string quoted_type(char type) {
  const auto byte = static_cast<unsigned char>(type);
  if (byte > 0x20 && byte < 0x7f) return std::string("\"") + type + "\"";
  constexpr char kHex[] = "0123456789abcdef";
  return std::string("0x") + kHex[byte >> 4] + kHex[byte & 15];
}

// Puts the bytes for a server together without copying what is large: runs of the client's own bytes,
// and bytes of ours in between.
class Gather {
 public:
  explicit Gather(std::string& scratch) : scratch_(scratch) { scratch_.clear(); }

  // Bytes of the client's, which stay where they are until they are sent.
  void pass(std::string_view bytes) {
    if (bytes.empty()) return;
    if (bytes.size() <= kCopy) {
      ours([bytes](std::string& out) { out.append(bytes); });
      return;
    }
    parts_[count_++] = {bytes.data(), 0, bytes.size()};
    if (count_ + 2 > parts_.size()) flatten();
  }
  // Bytes that `write` appends.
  template <class Write>
  void ours(Write write) {
    const std::size_t before = scratch_.size();
    write(scratch_);
    if (count_ > 0 && parts_[count_ - 1].from == nullptr) {
      parts_[count_ - 1].size += scratch_.size() - before;
    } else {
      parts_[count_++] = {nullptr, before, scratch_.size() - before};
      if (count_ + 2 > parts_.size()) flatten();
    }
  }
  // What finish() gave is all in the scratch room.
  bool is_copied() const { return count_ == 1 && parts_[0].from == nullptr; }
  std::span<const iovec> finish() {
    for (std::size_t i = 0; i < count_; ++i) {
      const Part& part = parts_[i];
      const char* base = part.from != nullptr ? part.from : scratch_.data() + part.offset;
      vectors_[i] = {const_cast<char*>(base), part.size};
    }
    return {vectors_.data(), count_};
  }

 private:
  static constexpr std::size_t kCopy = 2048;  // below it a copy is cheaper than one more part
  struct Part {
    const char* from;  // null: in scratch_
    std::size_t offset, size;
  };
  // Too many parts for one system call: what there is becomes one.
  void flatten() {
    std::string joined;
    for (std::size_t i = 0; i < count_; ++i)
      joined.append(parts_[i].from != nullptr ? parts_[i].from : scratch_.data() + parts_[i].offset,
                    parts_[i].size);
    scratch_ = std::move(joined);
    parts_[0] = {nullptr, 0, scratch_.size()};
    count_ = 1;
  }

  std::string& scratch_;
  std::array<Part, 32> parts_;
  std::array<iovec, 32> vectors_;
  std::size_t count_ = 0;
};

// What a prepared statement does, judged by the newest scope.
const FactsRef& current_facts(Worker& worker, const Client& client, ClientStatement& statement) {
  if (statement.scope_version != client.identity->scope->version) {
    statement.facts = classify(worker, client, statement.statement->text());
    statement.scope_version = client.identity->scope->version;
  }
  return statement.facts;
}

// Fails on every server, in an aborted transaction too.
void append_doomed_parse(std::string& out) {
  wire::append_parse(out, "pgsluice_doomed", "statement exists", {});
}

// Does a Parse look at more of it than the grammar does? Utility statements are read when they run, and some of
// them must be the first of their sequence (VACUUM): nothing of ours should stand before them.
bool is_read_at_parse(const routing::Facts& facts, std::string_view tail) {
  using enum routing::StatementClass;
  const bool is_utility = facts.why == routing::ClassReason::utility || facts.kind == ddl ||
                          facts.kind == transaction || (facts.kind == session && facts.tables.empty());
  return !is_utility || std::ranges::any_of(tail.substr(0, tail.find('\0')), [](char c) {
    return c == '\\' || static_cast<unsigned char>(c) >= 0x80;  // literals, characters
  });
}

// The batch that has just been sent to a server that had nothing else to do: may it be run again elsewhere? On the
// primary only what was meant for a replica.
bool heals(const Client& client, const Server& server) {
  return client.batch.kind == routing::StatementClass::read && client.batch.plain &&
         (server.role == routing::NodeRole::replica || client.spills) && server.pipeline.ready_owed() == 1 &&
         !server.pipeline.open_sequence() && !client.retry && !routing::any(client.pins) &&
         (!client.prepared || client.prepared->doomed.empty());
}

enum class Read : std::uint8_t { whole, need_more, malformed };

// What a message says at its front: the quick way if it is whole and usual, else the thorough one.
template <class Head, class Quick, class Peek>
Read read_head(const wire::Frame& frame, Quick quick, Peek peek, Head* head, std::string* problem) {
  if (frame.complete && quick(frame.body, head)) return Read::whole;
  const auto found = peek(frame.body, frame.size - wire::kHeaderSize);
  if (found && *found) {
    *head = **found;
    return Read::whole;
  }
  if (found) return Read::need_more;
  *problem = found.error().message;
  return Read::malformed;
}

// Finds the names in a message; `problem` says how it is malformed.
Read read_names(BatchMessage* message, std::string* problem) {
  const wire::Frame& frame = message->frame;
  Read read = Read::whole;
  switch (frame.type) {
    case fe::kQuery: {
      wire::QueryHead head;
      const auto peek = [](std::string_view body, std::size_t payload) -> wire::Peek<wire::QueryHead> {
        const auto found = wire::peek_query(body, payload);
        if (!found) return found.error();
        return std::optional(*found);
      };
      read = read_head(frame, wire::quick_query, peek, &head, problem);
      message->text = head.text;
      message->text_complete = head.text_complete;
      break;
    }
    case fe::kParse: {
      wire::ParseHead head;
      const auto never = [](std::string_view, wire::ParseHead*) { return false; };
      read = read_head(frame, never, wire::peek_parse, &head, problem);
      message->name = head.name;
      message->text = head.text;
      message->after_names = head.after_name;
      break;
    }
    case fe::kBind: {
      wire::BindHead head;
      read = read_head(frame, wire::quick_bind, wire::peek_bind, &head, problem);
      message->name = head.statement;
      message->portal = head.portal;
      message->after_names = head.after_names;
      break;
    }
    case fe::kDescribe:
    case fe::kClose: {
      wire::DescribeHead head;
      read = read_head(frame, wire::quick_describe, wire::peek_describe, &head, problem);
      message->named = head.kind;
      message->name = head.name;
      break;
    }
    case fe::kExecute: {
      wire::ExecuteHead head;
      read = read_head(frame, wire::quick_execute, wire::peek_execute, &head, problem);
      message->portal = head.portal;
      break;
    }
    default: break;
  }
  return read;
}

// The client's unnamed statement is that of this Parse from here on. One too large to be kept is gone when the
// client changes servers: it has no facts.
template <class Facts, class Commented>
void keep_unnamed(Worker& worker, Client& client, const BatchMessage& message, Facts facts, Commented commented) {
  client.forget_unnamed();
  client.unnamed_version = worker.next_version();
  ClientPrepared& prepared = client.preparing();
  if (!message.frame.complete) return;
  prepared.unnamed.assign(message.frame.body.substr(message.after_names));
  prepared.unnamed_facts = facts();
  if (prepared.unnamed_settings != client.session->current()) prepared.unnamed_settings = client.session->current();
  prepared.unnamed_commented = commented();
}

}  // namespace

void scan_batch(Worker& worker, Client& client, std::string_view bytes, bool may_grow, Scan* scan) {
  const std::size_t limit = worker.settings().limits_batch.count;
  std::vector<ParsedHere>& parsed = worker.parsed_here();
  std::vector<BatchMessage>& messages = worker.batch_messages();
  parsed.clear();
  messages.clear();
  if (worker.gate() != nullptr) [[unlikely]]
    worker.gated().clear();
  if (!worker.limited().empty()) [[unlikely]]
    worker.limited().clear();
  std::size_t at = 0;
  std::optional<BatchMessage> unremembered;

  const auto batch = [&](std::size_t size) {
    scan->what = Scan::What::batch;
    scan->size = size;
  };
  const auto unread = [scan] {
    scan->facts.too_large = scan->facts.unread_text = true;
    scan->facts.kind = routing::StatementClass::write;
    scan->facts.why = routing::ClassReason::too_long;
  };

  for (;;) {
    wire::Frame frame;
    const wire::Cut cut = wire::cut({bytes.data() + at, bytes.size() - at}, &frame);
    if (cut == wire::Cut::malformed)
      return malformed(scan, "invalid length of a message of type " + quoted_type(bytes[at]));
    if (cut == wire::Cut::need_more) {
      if (at > 0 && !may_grow) return batch(at);
      if (at > limit) {
        scan->facts.too_large = true;
        return batch(at);
      }
      scan->whole = at;
      return;
    }

    if (frame.size > kSmallMessage && is_small(frame.type))
      return malformed(scan, "a message of type " + quoted_type(frame.type) + " with an invalid length");
    switch (frame.type) {
      case fe::kCopyData:
      case fe::kCopyDone:
      case fe::kCopyFail: {
        if (at > 0) return batch(at);
        if (frame.type != fe::kCopyData && !frame.complete) return;
        scan->what = Scan::What::copy;
        // CopyData needs no look: one message, or what is here of it.
        scan->size = std::min(bytes.size(), frame.size);
        scan->streams = frame.size - scan->size;
        return;
      }
      case fe::kTerminate:
        if (at > 0) return batch(at);
        scan->what = Scan::What::terminate;
        return;
      case fe::kQuery:
      case fe::kFunctionCall:
      case fe::kParse:
      case fe::kBind:
      case fe::kDescribe:
      case fe::kExecute:
      case fe::kClose:
      case fe::kSync:
      case fe::kFlush: break;
      default:
        if (at > 0) return batch(at);
        return malformed(scan, "invalid frontend message type " + quoted_type(frame.type));
    }

    const bool too_large = !frame.complete && at + frame.size > limit;
    if (!frame.complete && !too_large) {
      if (at > 0 && !may_grow) return batch(at);
      scan->whole = at;
      return;
    }
    BatchMessage& message =
        messages.size() < kRemembered ? messages.emplace_back() : unremembered.emplace();
    message.frame = frame;
    const Read read = read_names(&message, &scan->problem);
    if (read != Read::whole) {
      if (read == Read::need_more && frame.body.size() <= kMaxNames) return;
      if (read == Read::need_more) scan->problem = "the name of a statement or portal is too long";
      scan->what = Scan::What::malformed;
      return;
    }
    switch (frame.type) {
      case fe::kQuery:
        if (message.text_complete && !too_large) {
          const FactsRef& facts = classify(worker, client, message.text);
          note(worker, client, scan, facts, [&message] { return message.text; },
               worker.classifier().commented() ? message.text : std::string_view());
          if (!facts->plain) note_changes(client, scan, facts);
          // Postgres's grammar knows no such statement.
          if (at == 0 && facts->why == routing::ClassReason::unparsed) [[unlikely]]
            if (const auto asked = parse_route_question(message.text); asked && !asked->by_name())
              scan->explains = asked->sql;
        } else {
          unread();
        }
        break;
      case fe::kFunctionCall:
        scan->facts.kind = std::max(scan->facts.kind, routing::StatementClass::write);
        scan->facts.why = routing::ClassReason::utility;
        scan->facts.too_large |= too_large;
        break;
      case fe::kParse: {
        if (too_large && !message.name.empty()) {
          scan->what = Scan::What::refused;
          scan->size = std::min(bytes.size(), at + frame.size);
          scan->streams = at + frame.size - scan->size;
          scan->problem = "statement \"" + std::string(message.name) +
                          "\" is larger than limits.batch allows for a prepared statement";
          return;
        }
        if (too_large) {
          unread();
          break;
        }
        const FactsRef& facts = classify(worker, client, message.text);
        note_parsed(client, scan, facts);
        parsed.push_back({message.name, message.text, facts,
                          worker.classifier().commented() ? message.text : std::string_view()});
        break;
      }
      case fe::kBind: {
        if (too_large) scan->facts.too_large = true;
        const auto here = std::find_if(parsed.rbegin(), parsed.rend(), [&](const ParsedHere& one) {
          return one.name == message.name;
        });
        if (here != parsed.rend()) {
          note(worker, client, scan, here->facts, [&here] { return here->text; }, here->commented);
          note_bound(client, scan, message.portal, here->facts);
        } else if (!message.name.empty()) {
          ClientStatement* const statement = client.find_statement(message.name);
          if (statement != nullptr && statement->statement) {
            const FactsRef& facts = current_facts(worker, client, *statement);
            note(worker, client, scan, facts, [statement] { return statement->statement->text(); },
                 statement->commented ? statement->statement->text() : std::string_view());
            note_bound(client, scan, message.portal, facts);
          } else if (statement != nullptr) {  // prepared by SQL
            scan->facts.executes = true;
            scan->facts.kind = std::max(scan->facts.kind, routing::StatementClass::write);
            scan->facts.why = routing::ClassReason::utility;
          }
        } else if (client.unnamed_version == 0) {
          // Postgres will say that there is none.
        } else if (client.prepared->unnamed_facts) {
          const ClientPrepared& prepared = *client.prepared;
          note(worker, client, scan, prepared.unnamed_facts,
               [&prepared] { return std::string_view(prepared.unnamed.c_str()); },
               prepared.unnamed_commented ? std::string_view(prepared.unnamed.c_str()) : std::string_view());
          note_bound(client, scan, message.portal, prepared.unnamed_facts);
        } else {
          scan->facts.too_large = scan->facts.unread_text = scan->facts.executes = true;
          scan->facts.kind = routing::StatementClass::write;
        }
        break;
      }
      case fe::kExecute:
        if (scan->bound || has_portals(client)) [[unlikely]]
          note_executed(client, scan, message.portal);
        break;
      default: break;
    }
    if (!frame.complete) {
      scan->streams = frame.size - (bytes.size() - at);
      return batch(bytes.size());
    }
    at += frame.size;
    if (frame.type == fe::kQuery || frame.type == fe::kFunctionCall || frame.type == fe::kSync)
      return batch(at);
    if (frame.type == fe::kFlush) {
      if (at == frame.size &&
          (client.server == nullptr || !client.server->pipeline.open_sequence())) {
        scan->what = Scan::What::nothing;
        scan->size = at;
        return;
      }
      // The sequence goes on after this, with what nobody knows yet: only the primary takes everything.
      scan->facts.open_ended = true;
      return batch(at);
    }
    if (at > limit) {
      scan->facts.too_large = true;
      return batch(at);
    }
  }
}

bool grown_batch(const Worker& worker, std::string_view bytes, std::size_t* whole) {
  const std::size_t limit = worker.settings().limits_batch.count;
  if (*whole > bytes.size()) return true;
  while (*whole <= limit) {
    wire::Frame frame;
    const wire::Cut cut = wire::cut({bytes.data() + *whole, bytes.size() - *whole}, &frame);
    if (cut == wire::Cut::need_more) return false;
    if (cut == wire::Cut::malformed) return true;
    switch (frame.type) {
      case fe::kParse:
      case fe::kBind:
      case fe::kDescribe:
      case fe::kExecute:
      case fe::kClose: break;
      default: return true;
    }
    if (!frame.complete)
      return *whole + frame.size > limit || (frame.size > kSmallMessage && is_small(frame.type));
    *whole += frame.size;
  }
  return true;
}

bool must_stay(const Client& client) {
  const Server* server = client.server;
  if (server == nullptr) return false;
  return client.sticky || client.streaming() || server->status != 'I' || server->pipeline.open_sequence() ||
         server->pipeline.copying_in() || routing::any(client.pins) ||
         client.identity->mode == conf::PoolMode::session;
}

void link(Client& client, Server& server) {
  ENSURE(client.server == nullptr && server.client == nullptr);
  client.server = &server;
  server.client = &client;
}

void unlink(Client& client, Server& server) {
  ENSURE(client.server == &server && server.client == &client);
  client.server = nullptr;
  server.client = nullptr;
  client.sticky = false;
  if (server.healing.armed()) [[unlikely]] server.healing.disarm();  // nobody else's answer
}

bool prepare_session(Worker& worker, Client& client, Server& server, std::string& prefix) {
  const pool::SettingsRef& wanted = client.session->current();
  if (server.session.current() == wanted || !server.pipeline.idle() || server.status == 'E')
    return true;
  const std::string sql = pool::replay_sql(*server.session.current(), *wanted);
  // What a statement runs as, and, unless it only reads, on which objects, must be certain before it runs.
  const bool must_be_certain = [&] {
    for (const pool::SettingsRef& set : {server.session.current(), wanted})
      for (const pool::Setting& setting : set->entries)
        if (setting.name == "role" || setting.name == "session_authorization" ||
            (setting.name == "search_path" && client.batch.kind > routing::StatementClass::read))
          return true;
    return false;
  }();
  server.session.assume(wanted, server.status == 'T');
  if (sql.empty()) return true;
  worker.count().settings_replays.add();
  server.pipeline.sent({Request::query, For::nobody});
  server.unnamed_version = 0;
  wire::append_query(prefix, sql);
  return !must_be_certain && client.state() != ClientState::login;
}

void note_answered(Worker& worker, Client& client, std::string_view bytes, bool parsed) {
  for (std::size_t at = 0; at < bytes.size();) {
    BatchMessage message;
    std::string problem;
    ENSURE(wire::cut(bytes.substr(at), &message.frame) == wire::Cut::frame);
    at += message.frame.size;
    const char type = message.frame.type;
    if (type == fe::kQuery || (type == fe::kParse && !parsed)) client.forget_unnamed();
    if (type != fe::kParse || !parsed) continue;
    ENSURE(read_names(&message, &problem) == Read::whole);
    keep_unnamed(worker, client, message, [&] { return classify(worker, client, message.text); },
                 [&] { return message.text.find("/*") != message.text.npos; });
  }
}

bool append_question(const Client& client, std::span<const BatchMessage> messages, std::string* question) {
  const auto add = [question](char type, std::string_view bytes) {
    const std::size_t size = bytes.size();
    *question += type;
    question->append(reinterpret_cast<const char*>(&size), sizeof size);
    *question += bytes;
  };
  constexpr std::size_t kLongest = 5;
  if (messages.size() > kLongest) return false;
  std::string shape;
  bool parsed = false;
  for (const BatchMessage& message : messages) {
    const wire::Frame& frame = message.frame;
    shape += frame.type;
    switch (frame.type) {
      case fe::kParse:
        if (!message.name.empty()) return false;
        parsed = true;
        add(frame.type, frame.body);
        break;
      case fe::kBind: {
        if (!message.portal.empty()) return false;
        // Names count by what they stand for: a text, and the settings that it was read by.
        const ClientStatement* const named =
            client.prepared && !message.name.empty() ? client.prepared->look(message.name) : nullptr;
        if (message.name.empty() ? !parsed : named == nullptr || !named->statement) return false;
        if (named != nullptr) add('N', named->statement->server_name);
        add(frame.type, frame.body.substr(message.after_names));
        break;
      }
      case fe::kDescribe:
        if (message.named != wire::Named::portal || !message.name.empty()) return false;
        break;
      case fe::kExecute:
        if (frame.body != std::string_view("\0\0\0\0\0", 5)) return false;  // all rows of the unnamed portal
        break;
      default: add(frame.type, frame.body);
    }
  }
  *question += shape;
  return shape == "Q" || shape == "BES" || shape == "BDES" || shape == "PBES" || shape == "PBDES";
}

void forward_batch(Worker& worker, Client& client, std::string_view bytes, std::string_view prefix,
                   std::span<const BatchMessage> seen) {
  Server& server = *client.server;
  wire::Pipeline& pipeline = server.pipeline;
  server.stop_healing();
  const std::size_t ahead = prefix.empty() ? 0 : 1;  // requests
  const bool alone = pipeline.depth() == ahead && !pipeline.open_sequence() && server.status == 'I' &&
                     client.batch.opens == routing::Opens::nothing;
  // In a transaction that has failed no statement can be prepared, up to one that may end that.
  bool refuses_parses =
      server.status == 'E' && pipeline.ready_owed() == 0 &&
      (!pipeline.open_sequence() || server.in_flight.back().step == routing::TransactionStep::none);
  // Nothing that is under way can change what the server's transaction is, and all that is set is known.
  const bool settled =
      pipeline.ready_owed() == 0 && !pipeline.skipping() && server.status != 'E' &&
      !routing::any(client.pins & (routing::Pin::session_setting | routing::Pin::computed_setting));
  bool may_repeat = false;  // sent alone, and something in it rests on what the server made of a statement
  Gather gather(worker.scratch());
  if (!prefix.empty()) gather.ours([prefix](std::string& out) { out += prefix; });

  if (client.batch.opens != routing::Opens::nothing) [[unlikely]] {
    gather.ours([&client](std::string& out) { wire::append_query(out, client.release_held()); });
    pipeline.sent({Request::query, For::nobody});
    server.unnamed_version = 0;
    server.status = 'T';  // the client has been told so
  }

  const auto make_room = [&] {
    const auto limit = static_cast<std::size_t>(worker.settings().pool_max_prepared_statements);
    while (server.statements.size() >= limit && server.statements.size() > 0) {
      const pool::PreparedRef oldest = server.statements.evict();
      gather.ours([&](std::string& out) {
        wire::append_close(out, wire::Named::statement, oldest->server_name);
      });
      pipeline.sent({Request::close, For::nobody});
    }
  };
  // Of this sequence, which is the last of those in flight.
  const auto sets_settings = [&server] {
    const Changes& changes = server.in_flight.back().changes;
    return changes && std::ranges::any_of(*changes, [](const FactsRef& facts) { return facts->changes_settings; });
  };
  // May the transaction, by the outcome of what is under way, have failed? Then the server refuses a Parse.
  const auto may_have_failed = [&] {
    if (pipeline.ready_owed() == 0) return false;
    for (std::size_t i = 0; i < server.in_flight.size(); ++i)
      if (server.in_flight[i].step != routing::TransactionStep::none) return true;
    return server.status != 'I';
  };
  // What a statement is read by behind a SET of the same sequence is not known: it is shared with nobody.
  const auto alone_now = [&] {
    return sets_settings() ? client.who() + ' ' + std::to_string(worker.next_version()) : std::string();
  };
  // Where one more Parse can be read by the settings of the client's own. In a transaction all is as it was
  // behind it; elsewhere it must be known what that is.
  const auto in_transaction = [&] {
    return server.status == 'T' && server.in_flight.back().step == routing::TransactionStep::none;
  };
  const auto can_read_as = [&] { return settled && (in_transaction() || !sets_settings()); };
  // `append` a Parse of that, which was read by those settings.
  const auto parse_as = [&](const pool::SettingsSet& then, const routing::Facts& facts, std::string_view tail,
                            auto append) {
    Reading reading;
    if (!pipeline.skipping() && can_read_as() && is_read_at_parse(facts, tail))
      reading = read_as(server, then, in_transaction());
    if (!reading.before.empty()) worker.count().settings_replays.add();
    gather.ours([&](std::string& out) {
      append_own(server, reading.before, out);
      append(out);
      append_own(server, reading.after, out);
    });
  };
  const auto make_known = [&](const ClientStatement& known) {
    const pool::PreparedRef& statement = known.statement;
    if (server.statements.touch(statement->id)) return;
    make_room();
    // Read by the settings of now it is another one than it was.
    if (!pipeline.skipping() && (!statement->alone.empty() || !can_read_as())) {
      const pool::SettingsSet now = pool::read_by(*client.session->current());
      if (now.entries != statement->read_by.entries || !statement->alone.empty()) {
        const pool::PreparedRef before = statement;
        client.prepared->replace(before, worker.shared().prepared.intern(before->tail, now, alone_now()));
        if (server.statements.touch(statement->id)) return;
      }
    }
    parse_as(statement->read_by, *known.facts, statement->tail, [&](std::string& out) {
      wire::append_parse(out, statement->server_name, statement->tail);
      pipeline.sent({Request::parse, For::nobody, statement->id});
    });
    if (!pipeline.skipping()) {
      server.statements.add(statement);
      server.parsing.insert(statement->id);
    }
    worker.count().prepared_parses_injected.add();
  };
  const auto make_unnamed_known = [&] {
    if (client.unnamed_version != 0 && server.unnamed_version == client.unnamed_version) return;
    if (client.unnamed_version == 0 || !client.prepared->unnamed_facts) {
      // It has none, or one that was too large to be kept: it must not meet somebody else's.
      gather.ours([](std::string& out) { wire::append_close(out, wire::Named::statement, {}); });
      if (!pipeline.skipping()) server.unnamed_version = 0;
      pipeline.sent({Request::close, For::nobody});
      return;
    }
    const ClientPrepared& prepared = *client.prepared;
    const pool::SettingsSet then = pool::read_by(*prepared.unnamed_settings);
    parse_as(then, *prepared.unnamed_facts, prepared.unnamed, [&](std::string& out) {
      wire::append_parse(out, {}, prepared.unnamed);
      pipeline.sent({Request::parse, For::nobody});
    });
    if (!pipeline.skipping()) server.unnamed_version = client.unnamed_version;
    worker.count().prepared_parses_injected.add();
  };
  const auto find = [&](std::string_view name) -> const ClientStatement* {
    const ClientStatement* found = client.find_statement(name);
    return found == nullptr || !found->statement ? nullptr : found;
  };
  const bool is_query = !bytes.empty() && bytes[0] == fe::kQuery;
  if (client.prepared && client.prepared->lending && !pipeline.open_sequence())
    client.prepared->lending = nullptr;  // its sequence was lost
  if (client.batch_changes || client.batch.unread_text) {
    std::string ahead_of_it;
    lend(client, server, {.is_query = is_query, .alone = alone}, ahead_of_it);
    if (!ahead_of_it.empty()) gather.ours([&](std::string& out) { out += ahead_of_it; });
  }
  // Null, nearly always.
  Lending* lending = client.prepared ? client.prepared->lending.get() : nullptr;
  const auto return_lent = [&] {
    gather.ours([&](std::string& out) { take_back(client, server, out); });
    lending = nullptr;
  };

  if (server.in_flight.size() == pipeline.ready_owed()) {
    server.in_flight.push_back({.arrived = client.arrived,
                                .sent = worker.now(),
                                .kind = client.batch.kind,
                                .step = client.batch.step,
                                .digest = client.batch.digest,
                                .pins = client.batch.pins,
                                .may_unpin = client.batch.may_unpin,
                                .unpins = client.batch_unpins,
                                .deallocates = client.batch_deallocates,
                                .executes = client.batch.executes,
                                .looks = client.batch.looks,
                                .unread = client.batch.unread_text,
                                .query_timeout_ms = client.batch.overrides.query_timeout_ms,
                                .changes = std::move(client.batch_changes),
                                .digests = client.batch_digests,
                                .extras = std::move(client.batch_extras)});
  } else {
    InFlight& open = server.in_flight.back();
    open.kind = std::max(open.kind, client.batch.kind);
    if (client.batch.digest != 0 && open.digest != client.batch.digest)
      open.digest = open.digest == 0 ? client.batch.digest : routing::BatchFacts::kUnlike;
    if (client.batch.step != routing::TransactionStep::none) open.step = client.batch.step;
    open.pins |= client.batch.pins;
    open.may_unpin |= client.batch.may_unpin;
    open.unpins |= client.batch_unpins;
    open.deallocates |= client.batch_deallocates;
    open.executes |= client.batch.executes;
    open.looks |= client.batch.looks;
    open.unread |= client.batch.unread_text;
    open.digests.add(client.batch_digests);
    if (client.batch_extras && open.extras) open.extras->hold.join(std::move(client.batch_extras->hold));
    if (client.batch_extras && !open.extras) open.extras = std::move(client.batch_extras);
    client.batch_extras = nullptr;
    if (client.batch_changes && open.changes) {
      for (FactsRef& one : *client.batch_changes) open.changes->push_back(std::move(one));
      client.batch_changes = nullptr;
    } else if (client.batch_changes) {
      open.changes = std::move(client.batch_changes);
    }
  }
  if (!client.batch.plain) {
    const InFlight& sent = server.in_flight.back();
    const bool pins = routing::any(client.batch.pins);
    client.sticky |= client.batch.step != routing::TransactionStep::none || pins;
    client.unsettled |= pins || sent.changes || routing::any(client.batch.may_unpin);
    if (sent.kind == routing::StatementClass::ddl && sent.changes)
      for (const FactsRef& facts : *sent.changes)
        if (!facts->frees_database.empty()) worker.wants_database(client, facts->frees_database);
  }

  // Whoever executes the portal later changes settings, or does not any more.
  const auto remember_bound = [&](const BatchMessage& bind) {
    const ClientStatement* const named = client.find_statement(bind.name);
    FactsRef facts = named != nullptr                       ? named->facts
                     : bind.name.empty() && client.prepared ? client.prepared->unnamed_facts
                                                            : nullptr;
    if (facts != nullptr && may_end_failure(*facts)) refuses_parses = false;
    if (facts != nullptr &&
        (!BoundPortals::concerns(*facts) || !(facts->changes_settings || settings_on_trial(client))))
      facts = nullptr;
    if (facts == nullptr && !has_portals(client)) return;
    std::unique_ptr<BoundPortals>& portals = client.preparing().portals;
    if (portals == nullptr) portals = std::make_unique<BoundPortals>();
    if (!portals->bind(bind.portal, std::move(facts)))
      server.in_flight.back().pins |= routing::Pin::session_setting;
    client.unsettled = true;
  };
  const auto clear = [&](std::string_view name) {
    gather.ours([&](std::string& out) { clear_name(server, name, out); });
  };

  std::size_t at = 0, passed = 0;  // bytes[passed, at) go as they are
  bool streams = false;            // the last message is not all here
  const auto pass_before = [&] {
    gather.pass({bytes.data() + passed, at - passed});
    passed = at;
  };
  std::optional<BatchMessage> again;
  std::string problem;
  std::size_t parses = 0;
  for (std::size_t number = 0; at < bytes.size(); ++number) {
    if (number >= seen.size()) {
      again.emplace();
      ENSURE(wire::cut(bytes.substr(at), &again->frame) == wire::Cut::frame);
      ENSURE(read_names(&*again, &problem) == Read::whole);
    }
    const BatchMessage& message = number < seen.size() ? seen[number] : *again;
    const wire::Frame& frame = message.frame;
    const std::size_t payload = frame.size - wire::kHeaderSize;
    const std::size_t here = std::min(frame.size, bytes.size() - at);
    streams = here < frame.size;
    switch (frame.type) {
      case fe::kQuery:
        client.forget_unnamed();
        server.unnamed_version = 0;
        if (lending != nullptr && pipeline.open_sequence()) {
          if (!lending->names.empty()) server.statements_are_uncertain();
          client.prepared->lending = nullptr;
          lending = nullptr;
        }
        if (InFlight& sent = server.in_flight.back(); sent.changes && client.prepared && !pipeline.skipping()) {
          if (pipeline.open_sequence()) {
            // Behind messages without a Sync, and without one of ours that would end what these skip after an
            // error, nothing can be taken back: it is lent what DEALLOCATE takes away itself.
            pass_before();
            for (const std::string& name : names_to_lend(client, server, *sent.changes, true)) {
              clear(name);
              gather.ours([&name](std::string& out) { wire::append_parse(out, name, {}, {}); });  // cannot fail
              pipeline.sent({Request::parse, For::nobody, Server::kUnaccounted});
              sent.gives_away = true;
            }
          }
          for (const FactsRef& facts : *sent.changes)
            for (const std::string& name : facts->deallocates_names) client.prepared->deallocate(name);
        }
        pipeline.sent({Request::query});
        break;
      case fe::kFunctionCall: pipeline.sent({Request::function_call}); break;
      case fe::kSync:
        if (lending != nullptr) {
          pass_before();
          return_lent();
        }
        pipeline.sent({Request::sync});
        break;
      case fe::kFlush: break;
      case fe::kExecute:
        if (lending != nullptr && !lending->deallocating.empty() && !pipeline.skipping()) {
          const std::string_view portal = frame.body.substr(0, frame.body.find('\0'));
          const auto found = std::ranges::find(lending->deallocating, portal,
                                               &std::pair<std::string, std::string>::first);
          if (found != lending->deallocating.end() && client.prepared->deallocate(found->second)) {
            pipeline.sent({Request::execute, For::client, Server::kDeallocates});
            break;
          }
        }
        pipeline.sent({Request::execute});
        break;
      case fe::kParse: {
        // What the scan found out is not found out again.
        const std::size_t parse = parses++;
        const auto facts = [&]() -> const FactsRef& {
          if (!seen.empty()) return worker.parsed_here()[parse].facts;
          if (client.prepared && parse < client.prepared->waiting.size() &&
              client.prepared->waiting_version == client.identity->scope->version)
            return client.prepared->waiting[parse];
          return classify(worker, client, message.text);
        };
        // A text that waited is not looked through again: that it might have a comment is enough.
        const auto commented = [&] {
          return seen.empty() ? message.text.find("/*") != message.text.npos
                              : !worker.parsed_here()[parse].commented.empty();
        };
        if (message.name.empty()) {
          keep_unnamed(worker, client, message, facts, commented);
          server.unnamed_version = pipeline.skipping() ? 0 : client.unnamed_version;
          pipeline.sent({Request::parse});
          break;
        }
        pass_before();
        passed = at + frame.size;
        if (client.find_statement(message.name) != nullptr) {
          // This server refuses it as any would, for this or for another reason, when the name that it has
          // there is taken too. (A statement without a text can be made in any transaction.)
          if (!pipeline.skipping()) client.preparing().doomed.push_back({{}, std::string(message.name)});
          wire::ParseHead head;
          head.name = message.name;
          gather.ours([&](std::string& out) {
            wire::append_close(out, wire::Named::statement, kTakenName);
            wire::append_parse(out, kTakenName, {}, {});
            wire::append_renamed_parse(out, head, kTakenName, payload);
          });
          passed = at + wire::kHeaderSize + message.after_names;
          pipeline.sent({Request::close, For::nobody, Server::kUnaccounted});
          pipeline.sent({Request::parse, For::nobody, Server::kUnaccounted});
          pipeline.sent({Request::parse, For::doomed});
          break;
        }
        if (refuses_parses && !may_end_failure(*facts()) &&
            facts()->kind != routing::StatementClass::empty) [[unlikely]] {
          // That a server has it already would make no difference there.
          if (!pipeline.skipping()) client.preparing().doomed.push_back({{}, std::string(message.name)});
          wire::ParseHead head;
          head.name = message.name;
          gather.ours([&](std::string& out) { wire::append_renamed_parse(out, head, kTakenName, payload); });
          passed = at + wire::kHeaderSize + message.after_names;
          pipeline.sent({Request::parse, For::doomed});
          break;
        }
        const pool::PreparedRef statement = worker.shared().prepared.intern(
            frame.body.substr(message.after_names), pool::read_by(*client.session->current()), alone_now());
        const bool skipping = pipeline.skipping();
        ClientPrepared& prepared = client.preparing();
        const std::size_t limit = worker.settings().limits_prepared.count;
        if (!skipping && prepared.bytes() + ClientPrepared::cost(message.name, statement) > limit) {
          worker.refusal(pool::Refusal::too_many_statements);
          // A text that does not parse makes the server refuse it, so that the transaction fails on both
          // sides, and its words are replaced.
          std::string error;
          wire::append_error(error, {.severity = "ERROR",
                                     .sqlstate = wire::sqlstate::kProgramLimitExceeded,
                                     .message = "this client has too many prepared statements (limits.prepared)",
                                     .detail = "reason=too_many_statements"});
          prepared.doomed.push_back({std::move(error), {}});
          gather.ours([](std::string& out) { append_doomed_parse(out); });
          pipeline.sent({Request::parse, For::doomed});
          break;
        }
        if (!skipping) {
          prepared.note_reading(client.session->current());
          prepared.put(std::string(message.name),
                       {statement, facts(), client.identity->scope->version, commented()});
          prepared.tentative.push_back({statement->id, std::string(message.name), {}, false});
        }
        if (lending != nullptr && lending->everything) {  // under its own name
          if (!skipping) lending->names.emplace_back(message.name);
          passed = at;
          pipeline.sent({Request::parse, For::client, statement->id});
          break;
        }
        const bool has = server.statements.touch(statement->id);
        const bool certain = !server.parsing.contains(statement->id) && !may_have_failed();
        if (has && certain) {
          pipeline.sent({Request::parse, For::local, statement->id});
        } else {
          if (has) {  // if nothing comes in between
            gather.ours([&statement](std::string& out) {
              wire::append_close(out, wire::Named::statement, statement->server_name);
            });
            pipeline.sent({Request::close, For::nobody, Server::kUnaccounted});
          } else {
            make_room();
          }
          wire::ParseHead head;
          head.name = message.name;
          may_repeat = alone;
          gather.ours([&](std::string& out) {
            wire::append_renamed_parse(out, head, statement->server_name, payload);
          });
          passed = at + wire::kHeaderSize + message.after_names;
          if (!skipping) {
            if (!has) server.statements.add(statement);
            server.parsing.insert(statement->id);
          }
          pipeline.sent({Request::parse, For::client, statement->id});
        }
        break;
      }
      case fe::kBind: {
        if ((!client.batch.plain || has_portals(client)) && !pipeline.skipping()) [[unlikely]]
          remember_bound(message);
        if (lending != nullptr) {
          const ClientStatement* const named = client.find_statement(message.name);
          const routing::Facts* const facts = named != nullptr        ? named->facts.get()
                                              : message.name.empty() ? client.prepared->unnamed_facts.get()
                                                                     : nullptr;
          std::erase_if(lending->deallocating, [&](const auto& one) { return one.first == message.portal; });
          if (facts != nullptr && !facts->deallocates_names.empty())
            lending->deallocating.emplace_back(message.portal, facts->deallocates_names.front());
          if (lending->everything && lending->has(message.name)) {
            pipeline.sent({Request::bind});
            break;
          }
        }
        if (message.name.empty()) {
          pass_before();
          make_unnamed_known();
        } else if (const ClientStatement* found = find(message.name)) {
          const pool::PreparedRef& statement = found->statement;
          may_repeat = alone;
          pass_before();
          make_known(*found);
          gather.ours([&](std::string& out) {
            wire::append_renamed_bind(out, {message.portal, message.name, message.after_names},
                                      statement->server_name, payload);
          });
          passed = at + wire::kHeaderSize + message.after_names;
          pipeline.sent({Request::bind, For::client, statement->id});
          break;
        } else if (message.name.starts_with(routing::kOurStatements)) {
          pass_before();
          gather.ours([&](std::string& out) {
            wire::append_renamed_bind(out, {message.portal, message.name, message.after_names},
                                      kNoStatement, payload);
          });
          passed = at + wire::kHeaderSize + message.after_names;
        } else if (server.uncertain() && client.find_statement(message.name) == nullptr) {
          pass_before();
          clear(message.name);
        }
        pipeline.sent({Request::bind});
        break;
      }
      case fe::kDescribe: {
        if (message.named == wire::Named::portal) {
          pipeline.sent({Request::describe_portal});
          break;
        }
        if (lending != nullptr && lending->everything && lending->has(message.name)) {
          pipeline.sent({Request::describe_statement});
          break;
        }
        if (message.name.empty()) {
          pass_before();
          make_unnamed_known();
        } else if (const ClientStatement* found = find(message.name)) {
          const pool::PreparedRef& statement = found->statement;
          may_repeat = alone;
          pass_before();
          make_known(*found);
          gather.ours([&](std::string& out) {
            wire::append_describe(out, wire::Named::statement, statement->server_name);
          });
          passed = at + frame.size;
          pipeline.sent({Request::describe_statement, For::client, statement->id});
          break;
        } else if (message.name.starts_with(routing::kOurStatements)) {
          pass_before();
          gather.ours([&](std::string& out) {
            wire::append_describe(out, wire::Named::statement, kNoStatement);
          });
          passed = at + frame.size;
        } else if (server.uncertain() && client.find_statement(message.name) == nullptr) {
          pass_before();
          clear(message.name);
        }
        pipeline.sent({Request::describe_statement});
        break;
      }
      case fe::kClose: {
        const ClientStatement* const known =
            message.named == wire::Named::statement && !message.name.empty() ? find(message.name) : nullptr;
        if (known == nullptr) {
          if (message.named == wire::Named::statement && client.find_statement(message.name) != nullptr) {
            client.prepared->erase(message.name);  // prepared by SQL
            server.in_flight.back().may_unpin |= routing::Pin::sql_prepare;
            client.unsettled = true;
          }
          if (message.named == wire::Named::statement && message.name.empty()) {
            client.forget_unnamed();
            server.unnamed_version = 0;
          } else if (message.named == wire::Named::statement &&
                     message.name.starts_with(routing::kOurStatements)) {
            pass_before();
            gather.ours([&](std::string& out) {
              wire::append_close(out, wire::Named::statement, kNoStatement);
            });
            passed = at + frame.size;
          }
          pipeline.sent({Request::close});
          break;
        }
        const pool::PreparedRef statement = known->statement;
        if (!pipeline.skipping()) {
          client.prepared->tentative.push_back(
              {statement->id, std::string(message.name), client.prepared->take(message.name), true});
        }
        if (lending != nullptr && std::erase(lending->names, message.name) > 0) {
          pipeline.sent({Request::close, For::client, statement->id});
          break;
        }
        // The server keeps it: somebody else may want the same text.
        pass_before();
        passed = at + frame.size;
        pipeline.sent({Request::close, For::local, statement->id});
        break;
      }
      default: ENSURE(false);
    }
    at += here;
  }
  passed = std::min(passed, bytes.size());
  pass_before();
  if (lending != nullptr && is_query && streams) {
    // The rest of the Query comes behind this: nothing can be asked back.
    if (!lending->names.empty()) server.statements_are_uncertain();
    client.prepared->lending = nullptr;
    lending = nullptr;
  } else if (lending != nullptr && is_query) {
    return_lent();
    gather.ours([](std::string& out) { wire::append_sync(out); });
    pipeline.sent({Request::sync, For::nobody});
  }
  server.reconcile();
  worker.count().server_bytes_sent.add(bytes.size());
  if (pipeline.depth() > kMaxDepth) client.pause_reading();
  server.send(gather.finish());
  server.retain_nothing();
  constexpr std::size_t kRepeatable = std::size_t{8} << 10;
  if (may_repeat && lending == nullptr && gather.is_copied() && worker.scratch().size() <= kRepeatable &&
      pipeline.ready_owed() == 1 && !pipeline.open_sequence())
    server.retain(worker.scratch(), {.bytes = prefix.size(), .requests = ahead});
  // Of a read that may be run again nothing is answered before the server speaks.
  if (alone && heals(client, server) && bytes.size() <= Healing::kLargest) {
    server.healing.arm(bytes);
  } else {
    server.answer_locally();
  }
}

void fail_batch(Worker& worker, Client& client, std::string_view bytes, std::string error) {
  Server& server = *client.server;
  wire::Pipeline& pipeline = server.pipeline;
  server.stop_healing();
  char last = 0;
  for (std::size_t at = 0; at < bytes.size();) {
    wire::Frame frame;
    if (wire::cut(bytes.substr(at), &frame) != wire::Cut::frame) break;
    last = frame.type;
    at += frame.size;
  }
  const bool alone = last == fe::kQuery || last == fe::kFunctionCall;
  if (alone && pipeline.skipping()) return;  // as everything up to the next Sync
  std::string instead;
  if (!pipeline.skipping()) {
    if (server.in_flight.size() == pipeline.ready_owed())
      server.in_flight.push_back(
          {.arrived = client.arrived,
           .sent = worker.now(),
           .kind = client.batch.kind,
           .changes = {},
           .digests = {},
           .extras = {}});
    client.preparing().doomed.push_back({std::move(error), {}});
    append_doomed_parse(instead);
    pipeline.sent({Request::parse, For::doomed});
  }
  if (alone || last == fe::kSync) {
    wire::append_sync(instead);
    pipeline.sent({Request::sync});
  } else {
    wire::append_flush(instead);
  }
  server.reconcile();
  server.send(instead);
}

}  // namespace proxy
