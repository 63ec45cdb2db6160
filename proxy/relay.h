#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "proxy/server.h"
#include "routing/router.h"

// The way from a client to a server: what a batch is, what it means, and how it is sent on. (The way
// back is Server::relay.) The only place where clients and servers are tied together and parted.
namespace proxy {

class Client;
class Server;
class Worker;

// What stands at the beginning of a client's bytes.
struct Scan {
  enum class What : std::uint8_t {
    need_more,   // not a whole batch yet; keep the bytes and wait
    batch,       // `size` bytes make a batch
    nothing,     // `size` bytes that ask for nothing
    copy,        // `size` bytes of COPY data (or its end)
    terminate,   // the client says goodbye
    malformed,   // `problem` says how; the connection cannot go on
    refused,     // a batch that we cannot take; `problem` says why
  } what = What::need_more;

  std::size_t size = 0;
  // The last message is too large to be kept: this many bytes of it are not among the `size`.
  std::size_t streams = 0;
  routing::BatchFacts facts;
  Changes changes;
  std::string deallocates_name;  // DEALLOCATE of one statement
  bool unpins = false;
  bool deallocates = false;
  std::string problem;
};

// Cuts one batch from `bytes`: a simple Query or a function call; or an extended sequence up to its Sync
// or Flush, or (`may_grow` is false: a server is held anyway) as much of one as is here. Classifies every
// statement in it. Changes nothing but the classifier's cache.
Scan scan_batch(Worker& worker, Client& client, std::string_view bytes, bool may_grow);

// True while the client's next batch must go to the server that it holds, whatever it is.
bool must_stay(const Client& client);

void link(Client& client, Server& server);
void unlink(Client& client, Server& server);

// Brings the server's session settings to the client's. True: done, or sent ahead in `prefix`, and the
// batch may follow at once. False: sent, and the answer must be waited for, because a statement that ran
// in spite of a refused setting would run as somebody else.
bool prepare_session(Worker& worker, Client& client, Server& server, std::string& prefix);

// Sends the batch that stands in `bytes` to the client's server, with everything that it needs ahead of
// it: session settings, prepared statements. Names of statements become the server's. `prefix` comes from
// prepare_session().
void forward_batch(Worker& worker, Client& client, std::string_view bytes, std::string prefix);

}  // namespace proxy
