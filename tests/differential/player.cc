#include "tests/differential/player.h"

#include <algorithm>
#include <cstdio>

namespace differential {

using support::Message;

namespace {

std::uint32_t u16(const std::string& bytes, std::size_t at) {
  if (at + 2 > bytes.size()) return 0;
  return (static_cast<std::uint32_t>(static_cast<unsigned char>(bytes[at])) << 8) |
         static_cast<unsigned char>(bytes[at + 1]);
}
std::uint32_t u32(const std::string& bytes, std::size_t at) {
  return (u16(bytes, at) << 16) | u16(bytes, at + 2);
}

// Printable as it is, the rest in hex; long values shortened in the middle, with a sum over all of it.
std::string printable(std::string_view bytes) {
  std::string text;
  std::uint32_t sum = 2166136261U;
  for (const char c : bytes) sum = (sum ^ static_cast<unsigned char>(c)) * 16777619U;
  const auto put = [&text](std::string_view piece) {
    for (const char c : piece) {
      const auto byte = static_cast<unsigned char>(c);
      if (byte >= 0x20 && byte < 0x7f && c != '\\') {
        text += c;
      } else {
        char hex[8];
        std::snprintf(hex, sizeof hex, "\\%02x", byte);
        text += hex;
      }
    }
  };
  if (bytes.size() <= 400) {
    put(bytes);
    return text;
  }
  put(bytes.substr(0, 100));
  text += "...(" + std::to_string(bytes.size()) + " bytes, sum " + std::to_string(sum) + ")...";
  put(bytes.substr(bytes.size() - 20));
  return text;
}

// C strings of a body, and what is behind them.
std::string c_string(const std::string& body, std::size_t* at) {
  const std::size_t end = body.find('\0', *at);
  if (end == std::string::npos) {
    const std::string rest = body.substr(std::min(*at, body.size()));
    *at = body.size();
    return rest;
  }
  const std::string text = body.substr(*at, end - *at);
  *at = end + 1;
  return text;
}

std::string quote(const std::string& text) { return '"' + printable(text) + '"'; }

bool is_extended(char type) {
  return type == 'P' || type == 'B' || type == 'D' || type == 'E' || type == 'C';
}

// Objects of users begin here (FirstNormalObjectId).
constexpr std::uint32_t kFirstUserObject = 16384;

}  // namespace

std::string readable(const Sent& sent) {
  std::size_t at = 0;
  switch (sent.type) {
    case 'Q': return "Query " + quote(c_string(sent.body, &at));
    case 'P': {
      const std::string name = c_string(sent.body, &at);
      const std::string sql = c_string(sent.body, &at);
      std::string types;
      for (at += 2; at + 4 <= sent.body.size(); at += 4) types += " " + std::to_string(u32(sent.body, at));
      return "Parse " + quote(name) + " " + quote(sql) + (types.empty() ? "" : " types" + types);
    }
    case 'B': {
      const std::string portal = c_string(sent.body, &at);
      const std::string statement = c_string(sent.body, &at);
      return "Bind portal " + quote(portal) + " statement " + quote(statement) + " " +
             quote(sent.body.substr(at));
    }
    case 'D':
    case 'C': {
      const std::string what = sent.type == 'D' ? "Describe " : "Close ";
      const bool statement = !sent.body.empty() && sent.body[0] == 'S';
      at = 1;
      return what + (statement ? "statement " : "portal ") + quote(c_string(sent.body, &at));
    }
    case 'E': {
      const std::string portal = c_string(sent.body, &at);
      const std::uint32_t rows = u32(sent.body, at);
      return "Execute " + quote(portal) + (rows > 0 ? " rows " + std::to_string(rows) : "");
    }
    case 'S': return "Sync";
    case 'H': return "Flush";
    case 'F': return "FunctionCall " + quote(sent.body);
    case 'd': return "CopyData " + quote(sent.body);
    case 'c': return "CopyDone";
    case 'f': return "CopyFail " + quote(c_string(sent.body, &at));
    default: return std::string("message ") + sent.type + " " + quote(sent.body);
  }
}

std::string readable(const Script& script, std::size_t steps) {
  std::string text;
  for (const auto& [name, value] : script.startup) text += "  start-up " + name + "=" + value + "\n";
  text += "  prologue " + quote(script.prologue) + "\n";
  for (std::size_t i = 0; i < std::min(steps, script.steps.size()); ++i) {
    std::string begin = "  " + std::to_string(i) + ": ";
    for (const Sent& sent : script.steps[i].messages) {
      text += begin + readable(sent) + "\n";
      begin = std::string(begin.size(), ' ');
    }
  }
  return text + (script.says_goodbye ? "  (ends with Terminate)\n" : "  (ends by closing its socket)\n");
}

Player::Player(std::uint16_t port, std::string database, std::chrono::milliseconds deadline)
    : client_(port), database_(std::move(database)), deadline_(deadline) {}

// --- what is owed ------------------------------------------------------------------------------------

void Player::note_sent(char type) {
  switch (type) {
    case 'd': return;
    case 'c':
    case 'f': pending_.push_back('c'); return;
    case 'H': break;
    case 'S':
      if (taking_ && std::find(pending_.begin(), pending_.end(), 'c') == pending_.end()) return;
      skipping_ = false;
      pending_.push_back(type);
      break;
    default:
      if (skipping_) return;
      pending_.push_back(type);
      break;
  }
  if (!is_extended(type)) flushed_ = pending_.size();
}

// An error in an extended sequence.
void Player::fail() {
  while (!pending_.empty() && pending_.front() != 'S') {
    pending_.pop_front();
    if (flushed_ > 0) --flushed_;
  }
  skipping_ = pending_.empty();
}

void Player::note_heard(char type) {
  const auto done = [this] {
    pending_.pop_front();
    if (flushed_ > 0) --flushed_;
  };
  if (!taking_)
    while (!pending_.empty() && pending_.front() == 'c') done();  // ends a COPY that never began
  if (pending_.empty()) return;
  const char head = pending_.front();
  switch (type) {
    case '1':
    case '2':
    case '3':
    case 'n':
    case 's': done(); break;
    case 'T':
      if (head == 'D') done();
      break;
    case 'C':
    case 'I':
      if (taking_) {  // its CopyDone is used up
        taking_ = false;
        const auto end = std::find(pending_.begin(), pending_.end(), 'c');
        if (end != pending_.end()) {
          pending_.erase(end);
          if (flushed_ > 0) --flushed_;
        }
      }
      if (head == 'E') done();
      break;
    case 'Z': done(); break;
    case 'E':
      taking_ = false;
      if (is_extended(head)) fail();
      break;
    case 'G':
      taking_ = true;
      // Syncs that stand between the COPY and its end are ignored.
      while (pending_.size() > 1 && pending_[1] == 'S') {
        pending_.erase(pending_.begin() + 1);
        if (flushed_ > 1) --flushed_;
      }
      break;
    default: break;
  }
  if (!taking_)
    while (!pending_.empty() && pending_.front() == 'c') done();
}

bool Player::satisfied() const {
  if (flushed_ == 0) return true;
  if (taking_) return std::find(pending_.begin(), pending_.end(), 'c') == pending_.end();
  return std::all_of(pending_.begin(), pending_.begin() + static_cast<std::ptrdiff_t>(flushed_),
                     [](char type) { return type == 'c'; });
}

// --- playing -----------------------------------------------------------------------------------------

Player::Lines Player::login(const Script& script) {
  Lines lines;
  std::vector<std::pair<std::string, std::string>> parameters{{"user", "app"}, {"database", database_}};
  parameters.insert(parameters.end(), script.startup.begin(), script.startup.end());
  client_.send(support::startup_message(parameters));
  note_sent('Q');  // ends with a ReadyForQuery, too
  listen(&lines);
  if (over_ || script.prologue.empty()) return lines;
  Lines ignored;
  client_.send(support::query_message(script.prologue));
  note_sent('Q');
  listen(&ignored);
  if (ignored.empty() || ignored.back() != "ReadyForQuery I") {
    over_ = true;
    for (std::string& one : ignored) lines.push_back("prologue: " + one);
  }
  return lines;
}

Player::Lines Player::play(const Step& step) {
  std::string bytes;
  for (const Sent& sent : step.messages) {
    bytes += support::message(sent.type, sent.body);
    note_sent(sent.type);
  }
  const std::size_t piece = bytes.size() / std::max<std::size_t>(step.pieces, 1) + 1;
  for (std::size_t at = 0; at < bytes.size(); at += piece)
    client_.send(std::string_view(bytes).substr(at, piece));
  Lines lines;
  listen(&lines);
  return lines;
}

void Player::listen(Lines* lines) {
  while (!over_ && !satisfied()) {
    const auto heard = client_.read(deadline_);
    if (!heard) {
      over_ = true;
      lines->push_back(client_.closed() ? "(the connection has ended)" : "(no answer)");
      return;
    }
    lines->push_back(line(*heard));
    note_heard(heard->type);
  }
}

void Player::leave(bool says_goodbye) {
  if (says_goodbye && !over_) {
    client_.send(support::terminate_message());
    client_.wait_closed(std::chrono::seconds(5));
  } else {
    client_.reset();
  }
}

// --- answers as text ---------------------------------------------------------------------------------

std::string Player::object(std::uint32_t oid) {
  if (oid < kFirstUserObject) return std::to_string(oid);
  return "#" + std::to_string(objects_.try_emplace(oid, objects_.size() + 1).first->second);
}

// DEBUG messages name the TOAST tables of what is created, "pg_toast_16390".
std::string Player::without_numbers(std::string text) {
  constexpr std::string_view kToast = "pg_toast_";
  for (std::size_t at = text.find(kToast); at != text.npos; at = text.find(kToast, at)) {
    at += kToast.size();
    const std::size_t end = std::min(text.find_first_not_of("0123456789", at), text.size());
    if (end - at >= 5 && end - at <= 9)
      text.replace(at, end - at, object(static_cast<std::uint32_t>(std::stoul(text.substr(at, end - at)))));
  }
  return text;
}

std::string Player::line(const Message& message) {
  const std::string& body = message.body;
  std::size_t at = 0;
  switch (message.type) {
    case 'E':
    case 'N': {
      std::string text = message.type == 'E' ? "Error" : "Notice";
      while (at < body.size() && body[at] != '\0') {
        const char field = body[at++];
        text += std::string(" ") + field + "=" + quote(without_numbers(c_string(body, &at)));
      }
      return text;
    }
    case 'T': {
      std::string text = "RowDescription";
      at = 2;
      for (std::uint32_t i = 0; i < u16(body, 0); ++i) {
        text += " " + quote(c_string(body, &at));
        text += " table " + object(u32(body, at)) + "." + std::to_string(u16(body, at + 4)) + " type " +
                object(u32(body, at + 6)) + " size " + std::to_string(u16(body, at + 10)) + " mod " +
                std::to_string(u32(body, at + 12)) + " format " + std::to_string(u16(body, at + 16));
        at += 18;
      }
      return text;
    }
    case 't': {
      std::string text = "ParameterDescription";
      for (at = 2; at + 4 <= body.size(); at += 4) text += " " + object(u32(body, at));
      return text;
    }
    case 'D': {
      std::string text = "DataRow";
      at = 2;
      while (at + 4 <= body.size()) {
        const std::uint32_t length = u32(body, at);
        at += 4;
        if (length == 0xffffffffU) {
          text += " NULL";
          continue;
        }
        text += " " + quote(body.substr(at, length));
        at += length;
      }
      return text;
    }
    case 'S': {
      const std::string name = c_string(body, &at);
      return "ParameterStatus " + name + "=" + printable(c_string(body, &at));
    }
    case 'A': {
      at = 4;  // the process that notified
      const std::string channel = c_string(body, &at);
      return "Notification " + channel + " " + quote(c_string(body, &at));
    }
    case 'K': return "BackendKeyData";
    case 'Z': return "ReadyForQuery " + body;
    case 'C': return "CommandComplete " + quote(c_string(body, &at));
    case '1': return "ParseComplete" + printable(body);
    case '2': return "BindComplete" + printable(body);
    case '3': return "CloseComplete" + printable(body);
    case 'n': return "NoData" + printable(body);
    case 's': return "PortalSuspended" + printable(body);
    case 'I': return "EmptyQueryResponse" + printable(body);
    case 'G': return "CopyInResponse " + printable(body);
    case 'H': return "CopyOutResponse " + printable(body);
    case 'd': return "CopyData " + quote(body);
    case 'c': return "CopyDone" + printable(body);
    default: return std::string("message ") + message.type + " " + printable(body);
  }
}

}  // namespace differential
