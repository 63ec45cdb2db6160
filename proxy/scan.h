#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "proxy/batch.h"
#include "routing/router.h"

// What a client's bytes ask for: batches are cut from them and every statement is classified. (What is sent of it
// is relay.h's.)
namespace proxy {

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

// Cuts one batch from `bytes`: a simple Query or a function call; or an extended sequence up to its Sync
// or Flush, or (`may_grow` is false: a server is held anyway) as much of one as is here. Classifies every
// statement in it. Changes nothing but the classifier's cache, and Worker::batch_messages(): the first
// messages of the batch, for forward_batch().
void scan_batch(Worker& worker, Client& client, std::string_view bytes, bool may_grow, Scan* scan);

// More has arrived behind a batch whose first `whole` bytes have been scanned and did not end it. False: that
// does not end it either, and `whole` has been moved on; so a batch of any number of pieces is scanned twice
// at most, and walked through once.
bool grown_batch(const Worker& worker, std::string_view bytes, std::size_t* whole);

}  // namespace proxy
