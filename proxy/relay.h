#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "proxy/server.h"
#include "proxy/wire/framer.h"
#include "proxy/wire/frontend.h"
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
  // need_more: so many bytes are whole messages that do not end the batch. grown_batch() goes on there.
  std::size_t whole = 0;
  routing::BatchFacts facts;
  metrics::DigestRuns digests;  // of the statements that run
  Changes changes;
  // What it binds, by portal, as far as it changes settings when it is executed; null: nothing of that kind.
  std::unique_ptr<std::vector<std::pair<std::string_view, std::shared_ptr<const routing::Facts>>>> bound;
  bool unpins = false;
  bool deallocates = false;
  std::string problem;
  std::string_view explains;  // the batch is EXPLAIN ROUTE of this
};

// A message of a batch, and the names in it: looked for once, when the batch is scanned. Its views point
// into the batch.
struct BatchMessage {
  wire::Frame frame;
  std::string_view name;        // Parse, Bind, Describe, Close: the statement's or (`named`) the portal's
  std::string_view text;        // Query, Parse
  std::size_t after_names = 0;  // offset in the body: Parse, Bind
  wire::Named named = wire::Named::statement;
  bool text_complete = false;
  std::string_view portal;      // Bind, Execute
};
static_assert(std::is_trivially_destructible_v<BatchMessage>);
// So many of a batch are remembered from its scan; those behind are cut again. Most batches have four.
inline constexpr std::size_t kRemembered = 64;

// Cuts one batch from `bytes`: a simple Query or a function call; or an extended sequence up to its Sync
// or Flush, or (`may_grow` is false: a server is held anyway) as much of one as is here. Classifies every
// statement in it. Changes nothing but the classifier's cache, and Worker::batch_messages(): the first
// messages of the batch, for forward_batch().
void scan_batch(Worker& worker, Client& client, std::string_view bytes, bool may_grow, Scan* scan);

// More has arrived behind a batch whose first `whole` bytes have been scanned and did not end it. False: that
// does not end it either, and `whole` has been moved on; so a batch of any number of pieces is scanned twice
// at most, and walked through once.
bool grown_batch(const Worker& worker, std::string_view bytes, std::size_t* whole);

// True while the client's next batch must go to the server that it holds, whatever it is.
bool must_stay(const Client& client);

void link(Client& client, Server& server);
void unlink(Client& client, Server& server);

// The batch is not sent anywhere, because its answer is known: what remains of it is the unnamed statement,
// if the Parse succeeded.
void note_answered(Worker& worker, Client& client, std::string_view bytes, bool parsed);

// Appends what one client's batch asks, so that two which ask the same in the same session are told the same:
// its messages, with the names that statements have on servers instead of the client's own. False: it is not of a
// shape that is shared (one Query; or Bind and Execute of one statement, which has a name or is parsed ahead of them,
// perhaps with Describe; no named portals, no row limits).
bool append_question(const Client& client, std::span<const BatchMessage> messages, std::string* question);

// Instead of the batch: makes the server fail as if it had been sent and refused with `error`, so that
// an open transaction fails on both sides.
void fail_batch(Worker& worker, Client& client, std::string_view bytes, std::string error);

// Brings the server's session settings to the client's. True: done, or sent ahead in `prefix`, and the
// batch may follow at once. False: sent, and the answer must be waited for, because a statement that ran
// in spite of a refused setting would run as somebody else.
bool prepare_session(Worker& worker, Client& client, Server& server, std::string& prefix);

// Sends the batch that stands in `bytes` to the client's server, with everything that it needs ahead of
// it: session settings, prepared statements. Names of statements become the server's. `prefix` comes from
// prepare_session(). `seen` are the batch's first messages if these bytes have just been scanned.
void forward_batch(Worker& worker, Client& client, std::string_view bytes, std::string_view prefix,
                   std::span<const BatchMessage> seen);

}  // namespace proxy
