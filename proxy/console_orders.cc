#include "proxy/console.h"

#include <strings.h>

#include "proxy/control.h"
#include "proxy/wire/sqlstate.h"

// The console's commands that give orders: each names its order, and answers when it is carried out.
namespace proxy {

using Kind = OrderBook::Kind;

OrderBook::Done Console::tell(const ConsoleCommand& asked) {
  return [this, client = asked.client, tag = asked.words](const OrderBook::Outcome& outcome) {
    std::string out;
    if (!outcome.sqlstate.empty()) {
      wire::append_error(out, {.severity = "ERROR", .sqlstate = outcome.sqlstate, .message = outcome.text});
    } else {
      if (!outcome.text.empty())
        wire::append_notice(out, {.severity = "NOTICE", .sqlstate = "00000", .message = outcome.text});
      wire::append_command_complete(out, tag);
    }
    answer(client, std::move(out));
  };
}

void Console::order(Kind kind, const ConsoleCommand& asked, bool force) {
  const std::string& name = asked.arguments.empty() ? std::string() : asked.arguments.front();
  control_.orders().give(kind, name, force, asked.client, tell(asked));
}

void Console::pause(const ConsoleCommand& asked) { order(Kind::pause, asked); }
void Console::resume(const ConsoleCommand& asked) { order(Kind::resume, asked); }
void Console::reconnect(const ConsoleCommand& asked) { order(Kind::reconnect, asked); }
void Console::kill(const ConsoleCommand& asked) { order(Kind::kill, asked); }
void Console::disable(const ConsoleCommand& asked) { order(Kind::disable, asked); }
void Console::enable(const ConsoleCommand& asked) { order(Kind::enable, asked); }
void Console::wait_close(const ConsoleCommand& asked) { order(Kind::wait_close, asked); }
void Console::undrain(const ConsoleCommand& asked) { order(Kind::undrain, asked); }
void Console::drain(const ConsoleCommand& asked) {
  const bool more = asked.arguments.size() > 1;
  if (more && strcasecmp(asked.arguments[1].c_str(), "FORCE") != 0) {
    tell(asked)({wire::sqlstate::kSyntaxError, "a node to drain may be followed by FORCE only"});
    return;
  }
  order(Kind::drain, asked, more);
}
void Console::kill_client(const ConsoleCommand& asked) {
  control_.orders().kill_client(asked.arguments.front(), asked.client, tell(asked));
}

}  // namespace proxy
