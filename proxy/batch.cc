#include "proxy/batch.h"

#include <algorithm>

#include "proxy/client.h"
#include "proxy/worker.h"

namespace proxy {
namespace {

namespace fe = wire::frontend;

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

}  // namespace

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

const FactsRef& classify(Worker& worker, const Client& client, std::string_view sql) {
  return worker.classifier().classify(sql, client.standard_strings, client.encoding, *client.identity->scope);
}

const FactsRef& current_facts(Worker& worker, const Client& client, ClientStatement& statement) {
  if (statement.scope_version != client.identity->scope->version) {
    statement.facts = classify(worker, client, statement.statement->text());
    statement.scope_version = client.identity->scope->version;
  }
  return statement.facts;
}

bool settings_on_trial(const Client& client) {
  return client.unsettled || client.session->on_trial() ||
         (client.server != nullptr && client.server->session.on_trial());
}

bool has_portals(const Client& client) { return client.prepared && client.prepared->portals; }

bool may_end_failure(const routing::Facts& facts) {
  using enum routing::TransactionStep;
  if (facts.step != savepoint) return facts.step == end || facts.step == chained_end;
  return std::ranges::any_of(facts.settings, [](const routing::SettingChange& change) {
    return change.what == routing::SettingChange::What::rollback_to;
  });
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

}  // namespace proxy
