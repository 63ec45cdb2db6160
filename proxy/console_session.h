#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "proxy/console.h"
#include "proxy/console_chores.h"
#include "proxy/wire/backend.h"

namespace proxy {

class Client;
class Worker;

// The protocol of one client of the admin console, on its worker: simple and extended queries, one command at
// a time. What drivers say of themselves it answers here (console_chores.h); a command goes to the control
// thread (Console), and nothing else is read until its answer is back.
//
// Transactions are only believed in: BEGIN and COMMIT change what ReadyForQuery says, an error in between has
// to be rolled back as in Postgres, and nothing is ever undone.
//
// Bounded: the length of a message, how many statements and portals are kept, and no command is begun while
// more than limits.client_buffer is unsent.
class ConsoleSession {
 public:
  ConsoleSession(Worker& worker, Client& client, std::string user);

  // AuthenticationOk up to ReadyForQuery.
  void welcome();
  // Takes the message at the start of `bytes`; returns its size, or 0 when it is not whole or has to wait.
  std::size_t on_bytes(std::string_view bytes);
  // The answer of the command that was sent.
  void answered(std::string_view messages);
  // The client has taken some of what was unsent.
  void go_on();
  const std::string& user() const { return user_; }
  // It owes an answer.
  bool busy() const { return busy_ || in_query_; }

  static constexpr std::size_t kMaxMessage = std::size_t{64} << 10;
  static constexpr std::size_t kMaxStatements = 200, kMaxPortals = 16;

 private:
  struct Statement {
    std::optional<Chore> chore;
    Console::Meaning meaning;  // when it is no chore; without words: an empty statement
    std::string text;          // of EXPLAIN ROUTE: what is explained must not be cut into words
    std::vector<wire::Column> columns() const;
  };
  struct Portal {
    std::shared_ptr<const Statement> statement;
    std::vector<wire::Format> formats;
    bool begun = false;
    std::string answer;    // whole messages: rows, and what ends them
    std::size_t told = 0;  // bytes of it that the client has
  };
  struct Problem {
    std::string_view sqlstate;
    std::string message, hint = {};
  };

  conf::Result<std::shared_ptr<const Statement>> understand(std::string_view text, Problem* problem) const;
  std::optional<Problem> objection(const Statement& statement) const;
  void query(std::string_view text);
  void parse(std::string_view body);
  void bind(std::string_view body);
  void describe(std::string_view body);
  void execute(std::string_view body);
  void close(std::string_view body);
  void send(const Statement& statement, bool describe, std::vector<wire::Format> formats);
  std::string carry_out(const Chore& chore, bool describe, const std::vector<wire::Format>& formats);
  void tell(Portal& portal, std::int32_t max_rows);
  void ready();
  void error(const Problem& problem);
  void violation(std::string_view what);

  Worker& worker_;
  Client& client_;
  const std::string user_;
  wire::TransactionStatus status_ = wire::TransactionStatus::idle;
  bool busy_ = false;        // a command is at the control thread
  bool in_query_ = false;    // a simple query is being worked through
  bool discarding_ = false;  // after an error in an extended sequence: up to its Sync
  std::deque<std::string> left_;  // statements of the simple query
  std::map<std::string, std::shared_ptr<const Statement>, std::less<>> statements_;
  std::map<std::string, Portal, std::less<>> portals_;
  Portal* executing_ = nullptr;  // whose answer is awaited
  std::int32_t max_rows_ = 0;    // of that Execute
};

}  // namespace proxy
