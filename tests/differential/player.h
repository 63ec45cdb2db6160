#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/raw_client.h"

// What a session says, and what it hears.
namespace differential {

// One message of a client, as it goes over the wire.
struct Sent {
  char type = 0;
  std::string body;
};
// "Parse s1 \"select $1\" types=23": for people.
std::string readable(const Sent& sent);

// What is sent at once, in `pieces` writes, before the client listens.
struct Step {
  std::vector<Sent> messages;
  std::size_t pieces = 1;
};

struct Script {
  std::vector<std::pair<std::string, std::string>> startup;  // besides user and database
  // Brings the tables of this session into a known state. Its answers are not compared: they tell what
  // the session before has left.
  std::string prologue;
  std::vector<Step> steps;
  bool says_goodbye = true;  // else its socket is just closed, whatever it was in the middle of
};
std::string readable(const Script& script, std::size_t steps);

// One session on one connection. It waits after each step until everything is answered that Postgres
// owes for it by the rules of the protocol: it knows that an error skips everything up to Sync, that a
// Sync in the middle of COPY is ignored, and that what stands behind the last Flush, Sync or Query need
// not be answered yet.
//
// Answers come back as text, one line per message, and complete, apart from what must differ between two
// connections: process ids, cancel keys, and the object ids of what was created in the session, which are
// numbered in the order in which they are heard of.
class Player {
 public:
  using Lines = std::vector<std::string>;

  Player(std::uint16_t port, std::string database, std::chrono::milliseconds deadline);

  Lines login(const Script& script);  // the prologue included, which must succeed
  Lines play(const Step& step);
  void leave(bool says_goodbye);
  // It did not hear what it waited for, or the connection has ended: nothing more can be played.
  bool over() const { return over_; }

 private:
  bool satisfied() const;
  void note_sent(char type);
  void note_heard(char type);
  void fail();
  void listen(Lines* lines);
  std::string line(const support::Message& message);
  std::string object(std::uint32_t oid);
  std::string without_numbers(std::string text);

  support::RawClient client_;
  std::string database_;
  std::chrono::milliseconds deadline_;
  std::deque<char> pending_;     // types of what was sent and is not answered yet
  std::size_t flushed_ = 0;      // so many of them will be answered without further ado
  bool skipping_ = false;        // an error: everything is ignored up to a Sync that has not been sent yet
  bool taking_ = false;          // Postgres takes COPY data
  bool over_ = false;
  std::map<std::uint32_t, std::size_t> objects_;
};

}  // namespace differential
