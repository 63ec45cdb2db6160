#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "tests/differential/player.h"

namespace differential {

// What serves the sessions.
struct Nodes {
  bool replicas = false;
  int postgres = 15;  // its major version
};

// A random session: the same for the same seed and number. Its tables are those of `slot`, which no two
// sessions use at the same time; its advisory locks are its own.
//
// Each session draws first which subjects it is about (settings, savepoints, COPY ...), so that some are
// full of one thing and others have a bit of everything. What it says need not make sense: errors are
// answers too. Only what Postgres itself answers differently from one time to the next is left out.
//
// To add a statement: a line in Generator::simple() or in the function of its subject. To add a subject: an
// enumerator of Subject, its statements, and what it needs in schema_sql().
Script generate(std::uint64_t seed, std::size_t number, std::size_t slot, Nodes nodes);

// What a database needs: roles and functions for all, tables for `slots` slots.
std::string roles_sql();
std::string schema_sql(std::size_t slots);

// What is not generated, because pgsluice is known to answer otherwise, and why. To shrink.
struct Exclusion {
  const char* what;
  const char* reason;
};
inline constexpr Exclusion kExclusions[] = {
    {"DEALLOCATE and DISCARD ALL together with other statements, in one Query or up to one Sync",
     "What they do is concluded from the ReadyForQuery, where several statements are one."},
    {"RESET of a start-up value together with other statements, in one Query or up to one Sync, and "
     "set_config() to NULL, which says what it has reset to",
     "A server goes back to its own value, and is given the client's when the batch has been answered."},
    {"PREPARE, EXECUTE and prepared statements of the protocol under one name",
     "The server is lent the latter for the time of a batch. session_test has what that answers."},
    {"statements with a name on tables that the session creates, alters or drops",
     "A Parse of what the server knows already is not sent; that it would fail now shows at Bind."},
    {"FETCH and EXECUTE as statements with a name",
     "Which columns they have is looked up by their Parse, and again on another server."},
    {"an unnamed statement that is used after a later Parse of it was skipped",
     "It counts as gone; Postgres still has it. No driver would ask for it."},
    {"with replicas: READ ONLY transactions in sessions that say what such a transaction may do on a primary "
     "and Postgres does not do on standbys (PREPARE TRANSACTION, SET TRANSACTION READ WRITE, LISTEN, NOTIFY, LOCK), "
     "or refuses there in other words (COPY FROM)",
     "Such a transaction runs on a replica from its BEGIN, and the client hears the standby's refusal."},
    {"with replicas: what follows the end of a READ ONLY transaction without a Sync in between",
     "The whole sequence goes where the transaction is, and a write there is refused (25006)."},
    {"on Postgres 18: a Query in a sequence that no Sync has ended",
     "Up to 18.4 Postgres then fails the session's next statement (XX000), wherever that runs; here only on that server."},
    {"whether a setting with a dot in its name is unknown, or empty",
     "A server that has once been told of it knows it, whoever asks."},
};

}  // namespace differential
