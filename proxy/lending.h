#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "routing/facts.h"

// What a client has prepared over the protocol has names of ours on a server. Where SQL names it (EXECUTE,
// DEALLOCATE, PREPARE of the same name), or looks at what is prepared (pg_prepared_statements), the server
// is lent it under the client's own name, and what others have prepared there is closed, so that Postgres
// itself answers, and answers for this client alone. Rare; costs a Parse and a Close per statement.
namespace proxy {

class Client;
class Server;

// What one Query, or one extended sequence up to its Sync, has been lent. It may take several batches, with
// a Flush between Bind and Execute.
struct Lending {
  std::vector<std::string> names;
  // Portals that are bound to a DEALLOCATE, and what that names.
  std::vector<std::pair<std::string, std::string>> deallocating;
  bool everything = false;  // all that the client has prepared, and nothing else is there
  bool has(std::string_view name) const { return std::ranges::find(names, name) != names.end(); }
};

using FactsList = std::vector<std::shared_ptr<const routing::Facts>>;

// A statement of this name is made on a server when it has to refuse a Parse because the name is taken.
inline constexpr std::string_view kTakenName = "pgsluice_taken";

// Statements of the protocol that these name: `only_deallocated` leaves out what they execute and prepare.
// In a transaction that has failed nothing can be parsed, and nothing needs to be.
std::vector<std::string> names_to_lend(Client& client, const Server& server, const FactsList& changes,
                                       bool only_deallocated);

struct LendTo {
  bool is_query;  // a Query that stands alone
  bool alone;     // nothing is under way, no transaction is open
};
// Appends what goes ahead of the batch that is about to be sent. What is lent is noted in
// ClientPrepared::lending.
void lend(Client& client, Server& server, LendTo batch, std::string& out);

// Appends the Closes of what has been lent, which goes ahead of the Sync, or behind the Query.
void take_back(Client& client, Server& server, std::string& out);

// Of statements that are lent or missing, and that an error has left on this server under a client's name.
void clear_name(Server& server, std::string_view name, std::string& out);

}  // namespace proxy
