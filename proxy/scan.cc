#include "proxy/scan.h"

#include <algorithm>

#include "proxy/client.h"
#include "proxy/route_question.h"
#include "proxy/wire/framer.h"
#include "proxy/wire/frontend.h"
#include "proxy/worker.h"
#include "routing/lexer.h"

namespace proxy {
namespace {

namespace fe = wire::frontend;

// The head of a message that is streamed must hold the names in it; Postgres has no limit for names on
// the wire, and no driver comes near this one.
constexpr std::size_t kMaxNames = std::size_t{16} << 10;

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

}  // namespace proxy
