#include "proxy/relay.h"

#include <algorithm>
#include <optional>

#include "conf/check.h"
#include "proxy/client.h"
#include "proxy/gather.h"
#include "proxy/lending.h"
#include "proxy/link.h"
#include "proxy/own_statements.h"
#include "proxy/server.h"
#include "proxy/wire/backend.h"
#include "proxy/wire/framer.h"
#include "proxy/wire/frontend.h"
#include "proxy/wire/sqlstate.h"
#include "proxy/worker.h"

namespace proxy {
namespace {

using wire::For;
using wire::Request;
namespace fe = wire::frontend;

// Requests without an answer that one client may have outstanding. Postgres sends what it has when its
// buffer of 8 KiB is full, some 1,600 of the shortest answers, so a client that reads always gets on.
constexpr std::size_t kMaxDepth = std::size_t{1} << 16;

// What has been sent is kept for a repetition up to this size.
constexpr std::size_t kRepeatable = std::size_t{8} << 10;

// Names on servers are ours; a client that makes one up meets no statement by it.
constexpr std::string_view kNoStatement = "pgsluice_0";

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

// A batch on its way. Bytes of the client's go as they are, up to what must read otherwise on the server; each
// request that goes, or is answered here, is told to the pipeline in order.
class Forwarding {
 public:
  Forwarding(Worker& worker, Client& client, std::string_view bytes, std::string_view prefix)
      : worker_(worker), client_(client), server_(*client.server), pipeline_(server_.pipeline), bytes_(bytes),
        prefix_size_(prefix.size()), ahead_(prefix.empty() ? 0 : 1),
        alone_(pipeline_.depth() == ahead_ && !pipeline_.open_sequence() && server_.status == 'I' &&
               client.batch.opens == routing::Opens::nothing),
        settled_(pipeline_.ready_owed() == 0 && !pipeline_.skipping() && server_.status != 'E' &&
                 !routing::any(client.pins & (routing::Pin::session_setting | routing::Pin::computed_setting))),
        refuses_parses_(server_.status == 'E' && pipeline_.ready_owed() == 0 &&
                        (!pipeline_.open_sequence() ||
                         server_.in_flight.back().step == routing::TransactionStep::none)),
        gather_(worker.scratch()) {
    if (!prefix.empty()) gather_.ours([prefix](std::string& out) { out += prefix; });
  }

  // `seen`: as forward_batch() has them.
  void run(std::span<const BatchMessage> seen) {
    if (client_.batch.opens != routing::Opens::nothing) [[unlikely]]
      open_transaction();
    begin_lending();
    note_in_flight();
    seen_ = !seen.empty();
    std::optional<BatchMessage> again;
    std::string problem;
    for (std::size_t number = 0; at_ < bytes_.size(); ++number) {
      if (number >= seen.size()) {
        again.emplace();
        ENSURE(wire::cut(bytes_.substr(at_), &again->frame) == wire::Cut::frame);
        ENSURE(read_names(&*again, &problem) == Read::whole);
      }
      const BatchMessage& message = number < seen.size() ? seen[number] : *again;
      const std::size_t here = std::min(message.frame.size, bytes_.size() - at_);
      streams_ = here < message.frame.size;
      forward(message);
      at_ += here;
    }
    passed_ = std::min(passed_, bytes_.size());
    pass_before();
    send();
  }

 private:
  void forward(const BatchMessage& message) {
    switch (message.frame.type) {
      case fe::kQuery: return forward_query();
      case fe::kFunctionCall: return pipeline_.sent({Request::function_call});
      case fe::kSync: return forward_sync();
      case fe::kFlush: return;
      case fe::kExecute: return forward_execute(message);
      case fe::kParse: return forward_parse(message);
      case fe::kBind: return forward_bind(message);
      case fe::kDescribe: return forward_describe(message);
      case fe::kClose: return forward_close(message);
      default: ENSURE(false);
    }
  }

  // --- bytes ------------------------------------------------------------------------------------------
  // What stands before this message goes as it is.
  void pass_before() {
    gather_.pass({bytes_.data() + passed_, at_ - passed_});
    passed_ = at_;
  }
  // This message does not go: what `write` appends goes instead.
  template <class Write>
  void replace(const BatchMessage& message, Write write) {
    pass_before();
    gather_.ours(write);
    passed_ = at_ + message.frame.size;
  }
  // It goes with another head, which `write` appends, before what follows its names.
  template <class Write>
  void rename(const BatchMessage& message, Write write) {
    pass_before();
    gather_.ours(write);
    passed_ = at_ + wire::kHeaderSize + message.after_names;
  }
  static std::size_t payload(const BatchMessage& message) { return message.frame.size - wire::kHeaderSize; }
  void rename_bind(const BatchMessage& message, std::string_view name) {
    rename(message, [&](std::string& out) {
      wire::append_renamed_bind(out, {message.portal, message.name, message.after_names}, name, payload(message));
    });
  }
  void append_renamed_parse(const BatchMessage& message, std::string_view name, std::string& out) const {
    wire::ParseHead head;
    head.name = message.name;
    wire::append_renamed_parse(out, head, name, payload(message));
  }
  void close_on_server(std::string_view name) {
    gather_.ours([name](std::string& out) { wire::append_close(out, wire::Named::statement, name); });
  }
  void clear(std::string_view name) {
    gather_.ours([&](std::string& out) { clear_name(server_, name, out); });
  }

  // --- what is under way ------------------------------------------------------------------------------
  // The BEGIN that the client has been answered for.
  void open_transaction() {
    gather_.ours([this](std::string& out) { wire::append_query(out, client_.release_held()); });
    pipeline_.sent({Request::query, For::nobody});
    server_.unnamed_version = 0;
    server_.status = 'T';  // the client has been told so
  }

  // The batch is one of those that wait for their ReadyForQuery, or goes on with the last of them.
  void note_in_flight() {
    const routing::BatchFacts& batch = client_.batch;
    if (server_.in_flight.size() == pipeline_.ready_owed()) {
      server_.in_flight.push_back({.arrived = client_.arrived,
                                   .sent = worker_.now(),
                                   .kind = batch.kind,
                                   .step = batch.step,
                                   .digest = batch.digest,
                                   .pins = batch.pins,
                                   .may_unpin = batch.may_unpin,
                                   .unpins = client_.batch_unpins,
                                   .deallocates = client_.batch_deallocates,
                                   .executes = batch.executes,
                                   .looks = batch.looks,
                                   .unread = batch.unread_text,
                                   .query_timeout_ms = batch.overrides.query_timeout_ms,
                                   .changes = std::move(client_.batch_changes),
                                   .digests = client_.batch_digests,
                                   .extras = std::move(client_.batch_extras)});
    } else {
      go_on_with(server_.in_flight.back());
    }
    if (batch.plain) [[likely]]
      return;
    const InFlight& sent = server_.in_flight.back();
    const bool pins = routing::any(batch.pins);
    client_.sticky |= batch.step != routing::TransactionStep::none || pins;
    client_.unsettled |= pins || sent.changes || routing::any(batch.may_unpin);
    if (sent.kind == routing::StatementClass::ddl && sent.changes)
      for (const FactsRef& facts : *sent.changes)
        if (!facts->frees_database.empty()) worker_.wants_database(client_, facts->frees_database);
  }
  void go_on_with(InFlight& open) {
    const routing::BatchFacts& batch = client_.batch;
    open.kind = std::max(open.kind, batch.kind);
    if (batch.digest != 0 && open.digest != batch.digest)
      open.digest = open.digest == 0 ? batch.digest : routing::BatchFacts::kUnlike;
    if (batch.step != routing::TransactionStep::none) open.step = batch.step;
    open.pins |= batch.pins;
    open.may_unpin |= batch.may_unpin;
    open.unpins |= client_.batch_unpins;
    open.deallocates |= client_.batch_deallocates;
    open.executes |= batch.executes;
    open.looks |= batch.looks;
    open.unread |= batch.unread_text;
    open.digests.add(client_.batch_digests);
    if (client_.batch_extras && open.extras) open.extras->hold.join(std::move(client_.batch_extras->hold));
    if (client_.batch_extras && !open.extras) open.extras = std::move(client_.batch_extras);
    client_.batch_extras = nullptr;
    if (client_.batch_changes && open.changes) {
      for (FactsRef& one : *client_.batch_changes) open.changes->push_back(std::move(one));
      client_.batch_changes = nullptr;
    } else if (client_.batch_changes) {
      open.changes = std::move(client_.batch_changes);
    }
  }

  // Of this sequence, which is the last of those in flight.
  bool sets_settings() const {
    const Changes& changes = server_.in_flight.back().changes;
    return changes && std::ranges::any_of(*changes, [](const FactsRef& facts) { return facts->changes_settings; });
  }
  // May the transaction, by the outcome of what is under way, have failed? Then the server refuses a Parse.
  bool may_have_failed() const {
    if (pipeline_.ready_owed() == 0) return false;
    for (std::size_t i = 0; i < server_.in_flight.size(); ++i)
      if (server_.in_flight[i].step != routing::TransactionStep::none) return true;
    return server_.status != 'I';
  }
  bool in_transaction() const {
    return server_.status == 'T' && server_.in_flight.back().step == routing::TransactionStep::none;
  }
  // Can one more Parse be read by the settings of the client's own? In a transaction all is as it was behind
  // it; elsewhere it must be known what that is.
  bool can_read_as() const { return settled_ && (in_transaction() || !sets_settings()); }
  // What a statement is read by behind a SET of the same sequence is not known: it is shared with nobody.
  std::string alone_now() const {
    return sets_settings() ? client_.who() + ' ' + std::to_string(worker_.next_version()) : std::string();
  }

  // --- what the server lacks --------------------------------------------------------------------------
  void make_room() {
    const auto limit = static_cast<std::size_t>(worker_.settings().pool_max_prepared_statements);
    while (server_.statements.size() >= limit && server_.statements.size() > 0) {
      const pool::PreparedRef oldest = server_.statements.evict();
      close_on_server(oldest->server_name);
      pipeline_.sent({Request::close, For::nobody});
    }
  }
  // `append`s a Parse of that, which was read by those settings.
  template <class Append>
  void parse_as(const pool::SettingsSet& then, const routing::Facts& facts, std::string_view tail, Append append) {
    Reading reading;
    if (!pipeline_.skipping() && can_read_as() && is_read_at_parse(facts, tail))
      reading = read_as(server_, then, in_transaction());
    if (!reading.before.empty()) worker_.count().settings_replays.add();
    gather_.ours([&](std::string& out) {
      append_own(server_, reading.before, out);
      append(out);
      append_own(server_, reading.after, out);
    });
    worker_.count().prepared_parses_injected.add();
  }
  void make_known(const ClientStatement& known) {
    if (server_.statements.touch(known.statement->id)) [[likely]]
      return;
    parse_anew(known);
  }
  void parse_anew(const ClientStatement& known) {
    const pool::PreparedRef& statement = known.statement;
    make_room();
    // Read by the settings of now it is another one than it was.
    if (!pipeline_.skipping() && (!statement->alone.empty() || !can_read_as())) {
      const pool::SettingsSet now = pool::read_by(*client_.session->current());
      if (now.entries != statement->read_by.entries || !statement->alone.empty()) {
        const pool::PreparedRef before = statement;
        client_.prepared->replace(before, worker_.shared().prepared.intern(before->tail, now, alone_now()));
        if (server_.statements.touch(statement->id)) return;
      }
    }
    parse_as(statement->read_by, *known.facts, statement->tail, [&](std::string& out) {
      wire::append_parse(out, statement->server_name, statement->tail);
      pipeline_.sent({Request::parse, For::nobody, statement->id});
    });
    if (pipeline_.skipping()) return;
    server_.statements.add(statement);
    server_.parsing.insert(statement->id);
  }
  void make_unnamed_known() {
    if (client_.unnamed_version != 0 && server_.unnamed_version == client_.unnamed_version) return;
    if (client_.unnamed_version == 0 || !client_.prepared->unnamed_facts) {
      // It has none, or one that was too large to be kept: it must not meet somebody else's.
      close_on_server({});
      if (!pipeline_.skipping()) server_.unnamed_version = 0;
      pipeline_.sent({Request::close, For::nobody});
      return;
    }
    const ClientPrepared& prepared = *client_.prepared;
    const pool::SettingsSet then = pool::read_by(*prepared.unnamed_settings);
    parse_as(then, *prepared.unnamed_facts, prepared.unnamed, [&](std::string& out) {
      wire::append_parse(out, {}, prepared.unnamed);
      pipeline_.sent({Request::parse, For::nobody});
    });
    if (!pipeline_.skipping()) server_.unnamed_version = client_.unnamed_version;
  }
  // That the client has prepared over the protocol.
  const ClientStatement* find(std::string_view name) const {
    const ClientStatement* found = client_.find_statement(name);
    return found == nullptr || !found->statement ? nullptr : found;
  }

  // --- lending (lending.h) ----------------------------------------------------------------------------
  void begin_lending() {
    is_query_ = !bytes_.empty() && bytes_[0] == fe::kQuery;
    if (client_.prepared && client_.prepared->lending && !pipeline_.open_sequence())
      client_.prepared->lending = nullptr;  // its sequence was lost
    if (client_.batch_changes || client_.batch.unread_text) {
      std::string ahead_of_it;
      lend(client_, server_, {.is_query = is_query_, .alone = alone_}, ahead_of_it);
      if (!ahead_of_it.empty()) gather_.ours([&](std::string& out) { out += ahead_of_it; });
    }
    lending_ = client_.prepared ? client_.prepared->lending.get() : nullptr;
  }
  void forget_lent() {
    if (!lending_->names.empty()) server_.statements_are_uncertain();
    client_.prepared->lending = nullptr;
    lending_ = nullptr;
  }
  void return_lent() {
    gather_.ours([this](std::string& out) { take_back(client_, server_, out); });
    lending_ = nullptr;
  }
  // By the client's own name, since all that it has prepared is there by its own names.
  bool is_lent(std::string_view name) const {
    return lending_ != nullptr && lending_->everything && lending_->has(name);
  }

  // --- one message of each kind -----------------------------------------------------------------------
  void forward_query() {
    client_.forget_unnamed();
    server_.unnamed_version = 0;
    if (lending_ != nullptr && pipeline_.open_sequence()) forget_lent();
    InFlight& sent = server_.in_flight.back();
    if (sent.changes && client_.prepared && !pipeline_.skipping()) [[unlikely]] {
      if (pipeline_.open_sequence()) lend_for_good(sent);
      for (const FactsRef& facts : *sent.changes)
        for (const std::string& name : facts->deallocates_names) client_.prepared->deallocate(name);
    }
    // Postgres 18 (to 18.4) then says that it is idle, and fails whatever comes next (XX000).
    if (pipeline_.open_sequence()) server_.must_reset = true;
    pipeline_.sent({Request::query});
  }
  // Behind messages without a Sync, and without one of ours that would end what these skip after an error,
  // nothing can be taken back: it is lent what DEALLOCATE takes away itself.
  void lend_for_good(InFlight& sent) {
    pass_before();
    for (const std::string& name : names_to_lend(client_, server_, *sent.changes, true)) {
      clear(name);
      gather_.ours([&name](std::string& out) { wire::append_parse(out, name, {}, {}); });  // cannot fail
      pipeline_.sent({Request::parse, For::nobody, Server::kUnaccounted});
      sent.gives_away = true;
    }
  }

  void forward_sync() {
    if (lending_ != nullptr) [[unlikely]] {
      pass_before();
      return_lent();
    }
    pipeline_.sent({Request::sync});
  }

  void forward_execute(const BatchMessage& message) {
    if (lending_ != nullptr && !lending_->deallocating.empty() && !pipeline_.skipping()) [[unlikely]] {
      const auto found = std::ranges::find(lending_->deallocating, message.portal,
                                           &std::pair<std::string, std::string>::first);
      if (found != lending_->deallocating.end() && client_.prepared->deallocate(found->second))
        return pipeline_.sent({Request::execute, For::client, Server::kDeallocates});
    }
    pipeline_.sent({Request::execute});
  }

  void forward_parse(const BatchMessage& message) {
    const std::size_t parse = parses_++;
    // What the scan found out is not found out again.
    const auto facts = [&]() -> const FactsRef& {
      if (seen_) return worker_.parsed_here()[parse].facts;
      if (client_.prepared && parse < client_.prepared->waiting.size() &&
          client_.prepared->waiting_version == client_.identity->scope->version)
        return client_.prepared->waiting[parse];
      return classify(worker_, client_, message.text);
    };
    // A text that waited is not looked through again: that it might have a comment is enough.
    const auto commented = [&] {
      return seen_ ? !worker_.parsed_here()[parse].commented.empty() : message.text.find("/*") != message.text.npos;
    };
    if (message.name.empty()) {
      keep_unnamed(worker_, client_, message, facts, commented);
      server_.unnamed_version = pipeline_.skipping() ? 0 : client_.unnamed_version;
      return pipeline_.sent({Request::parse});
    }
    if (client_.find_statement(message.name) != nullptr) return parse_taken_name(message);
    if (refuses_parses_ && !may_end_failure(*facts()) && facts()->kind != routing::StatementClass::empty) [[unlikely]]
      return parse_in_failed(message);
    const pool::PreparedRef statement = worker_.shared().prepared.intern(
        message.frame.body.substr(message.after_names), pool::read_by(*client_.session->current()), alone_now());
    if (!pipeline_.skipping()) {
      ClientPrepared& prepared = client_.preparing();
      const std::size_t limit = worker_.settings().limits_prepared.count;
      if (prepared.bytes() + ClientPrepared::cost(message.name, statement) > limit)
        return refuse_one_more(message);
      prepared.note_reading(client_.session->current());
      prepared.put(std::string(message.name), {statement, facts(), client_.identity->scope->version, commented()});
      prepared.tentative.push_back({statement->id, std::string(message.name), {}, false});
    }
    parse_named(message, statement);
  }
  // This server refuses it as any would, for this or for another reason, when the name that it has there is taken
  // too. (A statement without a text can be made in any transaction.)
  void parse_taken_name(const BatchMessage& message) {
    if (!pipeline_.skipping()) client_.preparing().doomed.push_back({{}, std::string(message.name)});
    rename(message, [&](std::string& out) {
      wire::append_close(out, wire::Named::statement, kTakenName);
      wire::append_parse(out, kTakenName, {}, {});
      append_renamed_parse(message, kTakenName, out);
    });
    pipeline_.sent({Request::close, For::nobody, Server::kUnaccounted});
    pipeline_.sent({Request::parse, For::nobody, Server::kUnaccounted});
    pipeline_.sent({Request::parse, For::doomed});
  }
  // In a transaction that has failed. That a server has it already would make no difference there.
  void parse_in_failed(const BatchMessage& message) {
    if (!pipeline_.skipping()) client_.preparing().doomed.push_back({{}, std::string(message.name)});
    rename(message, [&](std::string& out) { append_renamed_parse(message, kTakenName, out); });
    pipeline_.sent({Request::parse, For::doomed});
  }
  // A text that does not parse makes the server refuse it, so that the transaction fails on both sides, and its
  // words are replaced.
  void refuse_one_more(const BatchMessage& message) {
    worker_.refusal(pool::Refusal::too_many_statements);
    std::string error;
    wire::append_error(error, {.severity = "ERROR",
                               .sqlstate = wire::sqlstate::kProgramLimitExceeded,
                               .message = "this client has too many prepared statements (limits.prepared)",
                               .detail = "reason=too_many_statements"});
    client_.preparing().doomed.push_back({std::move(error), {}});
    replace(message, append_doomed_parse);
    pipeline_.sent({Request::parse, For::doomed});
  }
  void parse_named(const BatchMessage& message, const pool::PreparedRef& statement) {
    const bool skipping = pipeline_.skipping();
    if (lending_ != nullptr && lending_->everything) {  // under its own name
      if (!skipping) lending_->names.emplace_back(message.name);
      return pipeline_.sent({Request::parse, For::client, statement->id});
    }
    const bool has = server_.statements.touch(statement->id);
    const bool certain = !server_.parsing.contains(statement->id) && !may_have_failed();
    if (has && certain) {
      replace(message, [](std::string&) {});
      return pipeline_.sent({Request::parse, For::local, statement->id});
    }
    pass_before();
    if (has) {  // if nothing comes in between
      close_on_server(statement->server_name);
      pipeline_.sent({Request::close, For::nobody, Server::kUnaccounted});
    } else {
      make_room();
    }
    may_repeat_ = alone_;
    rename(message, [&](std::string& out) { append_renamed_parse(message, statement->server_name, out); });
    if (!skipping) {
      if (!has) server_.statements.add(statement);
      server_.parsing.insert(statement->id);
    }
    pipeline_.sent({Request::parse, For::client, statement->id});
  }

  void forward_bind(const BatchMessage& message) {
    if ((!client_.batch.plain || has_portals(client_)) && !pipeline_.skipping()) [[unlikely]]
      remember_bound(message);
    if (lending_ != nullptr) [[unlikely]]
      note_deallocating(message);
    if (is_lent(message.name)) return pipeline_.sent({Request::bind});
    if (const ClientStatement* const found = message.name.empty() ? nullptr : find(message.name)) {
      may_repeat_ = alone_;
      pass_before();
      make_known(*found);
      rename_bind(message, found->statement->server_name);
      return pipeline_.sent({Request::bind, For::client, found->statement->id});
    }
    if (names_nothing_of_ours(message)) rename_bind(message, kNoStatement);
    pipeline_.sent({Request::bind});
  }
  // Whoever executes the portal later changes settings, or does not any more.
  void remember_bound(const BatchMessage& bind) {
    FactsRef facts = facts_of(bind.name);
    if (facts != nullptr && may_end_failure(*facts)) refuses_parses_ = false;
    if (facts != nullptr &&
        (!BoundPortals::concerns(*facts) || !(facts->changes_settings || settings_on_trial(client_))))
      facts = nullptr;
    if (facts == nullptr && !has_portals(client_)) return;
    std::unique_ptr<BoundPortals>& portals = client_.preparing().portals;
    if (portals == nullptr) portals = std::make_unique<BoundPortals>();
    if (!portals->bind(bind.portal, std::move(facts)))
      server_.in_flight.back().pins |= routing::Pin::session_setting;
    client_.unsettled = true;
  }
  FactsRef facts_of(std::string_view name) const {
    if (const ClientStatement* const named = client_.find_statement(name)) return named->facts;
    return name.empty() && client_.prepared ? client_.prepared->unnamed_facts : nullptr;
  }
  void note_deallocating(const BatchMessage& bind) {
    std::erase_if(lending_->deallocating, [&bind](const auto& one) { return one.first == bind.portal; });
    const FactsRef facts = facts_of(bind.name);
    if (facts != nullptr && !facts->deallocates_names.empty())
      lending_->deallocating.emplace_back(bind.portal, facts->deallocates_names.front());
  }
  // Of a Bind or Describe that names no statement which the client has prepared over the protocol: sees to it that
  // its name means on the server what it means to the client. True: it looks like one of ours.
  bool names_nothing_of_ours(const BatchMessage& message) {
    if (message.name.empty()) {
      pass_before();
      make_unnamed_known();
      return false;
    }
    if (message.name.starts_with(routing::kOurStatements)) return true;
    if (server_.uncertain() && client_.find_statement(message.name) == nullptr) {
      pass_before();
      clear(message.name);
    }
    return false;
  }

  void forward_describe(const BatchMessage& message) {
    if (message.named == wire::Named::portal) return pipeline_.sent({Request::describe_portal});
    if (is_lent(message.name)) return pipeline_.sent({Request::describe_statement});
    const auto describe = [this, &message](std::string_view name) {
      replace(message,
              [name](std::string& out) { wire::append_describe(out, wire::Named::statement, name); });
    };
    if (const ClientStatement* const found = message.name.empty() ? nullptr : find(message.name)) {
      may_repeat_ = alone_;
      pass_before();
      make_known(*found);
      describe(found->statement->server_name);
      return pipeline_.sent({Request::describe_statement, For::client, found->statement->id});
    }
    if (names_nothing_of_ours(message)) describe(kNoStatement);
    pipeline_.sent({Request::describe_statement});
  }

  void forward_close(const BatchMessage& message) {
    const bool of_statement = message.named == wire::Named::statement;
    const ClientStatement* const known = of_statement && !message.name.empty() ? find(message.name) : nullptr;
    if (known == nullptr) {
      if (of_statement) close_other(message);
      return pipeline_.sent({Request::close});
    }
    const pool::PreparedRef statement = known->statement;
    if (!pipeline_.skipping()) {
      client_.prepared->tentative.push_back(
          {statement->id, std::string(message.name), client_.prepared->take(message.name), true});
    }
    if (lending_ != nullptr && std::erase(lending_->names, message.name) > 0)
      return pipeline_.sent({Request::close, For::client, statement->id});
    // The server keeps it: somebody else may want the same text.
    replace(message, [](std::string&) {});
    pipeline_.sent({Request::close, For::local, statement->id});
  }
  void close_other(const BatchMessage& message) {
    if (client_.find_statement(message.name) != nullptr) {
      client_.prepared->erase(message.name);  // prepared by SQL
      server_.in_flight.back().may_unpin |= routing::Pin::sql_prepare;
      client_.unsettled = true;
    }
    if (message.name.empty()) {
      client_.forget_unnamed();
      server_.unnamed_version = 0;
    } else if (message.name.starts_with(routing::kOurStatements)) {
      replace(message,
              [](std::string& out) { wire::append_close(out, wire::Named::statement, kNoStatement); });
    }
  }

  // --- all of it --------------------------------------------------------------------------------------
  void send() {
    if (lending_ != nullptr && is_query_) {
      if (streams_) {
        forget_lent();  // the rest of the Query comes behind this: nothing can be asked back
      } else {
        return_lent();
        gather_.ours([](std::string& out) { wire::append_sync(out); });
        pipeline_.sent({Request::sync, For::nobody});
      }
    }
    server_.reconcile();
    worker_.count().server_bytes_sent.add(bytes_.size());
    if (pipeline_.depth() > kMaxDepth) client_.pause_reading();
    server_.send(gather_.finish());
    server_.retain_nothing();
    if (may_repeat_ && lending_ == nullptr && gather_.is_copied() && worker_.scratch().size() <= kRepeatable &&
        pipeline_.ready_owed() == 1 && !pipeline_.open_sequence())
      server_.retain(worker_.scratch(), {.bytes = prefix_size_, .requests = ahead_});
    // Of a read that may be run again nothing is answered before the server speaks.
    if (alone_ && heals(client_, server_) && bytes_.size() <= Healing::kLargest) {
      server_.healing.arm(bytes_);
    } else {
      server_.answer_locally();
    }
  }

  Worker& worker_;
  Client& client_;
  Server& server_;
  wire::Pipeline& pipeline_;
  const std::string_view bytes_;
  const std::size_t prefix_size_;
  const std::size_t ahead_;  // requests in the prefix
  const bool alone_;         // nothing else is under way, and no transaction is open
  // Nothing that is under way can change what the server's transaction is, and all that is set is known.
  const bool settled_;
  // In a transaction that has failed no statement can be prepared, up to one that may end that.
  bool refuses_parses_;
  bool may_repeat_ = false;  // sent alone, and something in it rests on what the server made of a statement
  bool is_query_ = false;
  bool seen_ = false;        // Worker::parsed_here() is of this batch
  bool streams_ = false;     // the last message is not all here
  Lending* lending_ = nullptr;  // null, nearly always
  Gather gather_;
  std::size_t at_ = 0, passed_ = 0;  // bytes_[passed_, at_) go as they are
  std::size_t parses_ = 0;
};

}  // namespace

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

void forward_batch(Worker& worker, Client& client, std::string_view bytes, std::string_view prefix,
                   std::span<const BatchMessage> seen) {
  client.server->stop_healing();
  Forwarding(worker, client, bytes, prefix).run(seen);
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
