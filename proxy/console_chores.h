#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "proxy/console_text.h"
#include "proxy/wire/backend.h"

// What drivers say to every server without being asked: BEGIN, SET extra_float_digits, SELECT 1, SHOW
// transaction_isolation. The console answers, so that it can be used through them; none of it changes anything.
namespace proxy {

struct Chore {
  // What it does to the transaction that the driver believes in.
  enum class Step : std::uint8_t { none, begin, end, savepoint, back_to_savepoint };

  std::string tag;  // of its CommandComplete
  Step step = Step::none;
  std::string column;  // it answers one row with this column; "": none
  wire::ColumnType type = wire::ColumnType::text;
  std::string value;
  // It deallocates this statement, or all ("").
  std::optional<std::string> deallocates;
};

// None: it is not one of them. `user` is who asks.
std::optional<Chore> driver_chore(std::span<const ConsoleWord> words, const std::string& user);

// What the console says of itself at login, and when it is asked.
struct ConsoleSetting {
  std::string_view name, value;
  bool told_at_login = false;
};
std::span<const ConsoleSetting> console_settings();

}  // namespace proxy
