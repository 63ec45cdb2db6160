#pragma once

#include <span>
#include <string>
#include <string_view>

#include "proxy/batch.h"

// The way from a client to a server: how a batch is sent on. (What it is, scan.h finds out; the way back is
// Server::relay.)
namespace proxy {

class Client;
class Worker;

// The batch is not sent anywhere, because its answer is known: what remains of it is the unnamed statement,
// if the Parse succeeded.
void note_answered(Worker& worker, Client& client, std::string_view bytes, bool parsed);

// Instead of the batch: makes the server fail as if it had been sent and refused with `error`, so that
// an open transaction fails on both sides.
void fail_batch(Worker& worker, Client& client, std::string_view bytes, std::string error);

// Sends the batch that stands in `bytes` to the client's server, with everything that it needs ahead of
// it: session settings, prepared statements. Names of statements become the server's. `prefix` comes from
// prepare_session() (link.h). `seen` are the batch's first messages if these bytes have just been scanned.
void forward_batch(Worker& worker, Client& client, std::string_view bytes, std::string_view prefix,
                   std::span<const BatchMessage> seen);

}  // namespace proxy
