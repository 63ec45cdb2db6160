#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include <sys/uio.h>

#include "pool/retry_budget.h"
#include "routing/topology.h"

// Promise 3: what is run again elsewhere, and when. A batch is, once, if it is nothing but proven reads in
// autocommit, runs alone on a replica, and no byte of its answer has gone to the client.
namespace proxy {

// What a client knows of its read that runs a second time.
struct Retry {
  bool under_way = false;
  pool::RetryReason why{};
  routing::NodeId not_on{};  // where it failed
  explicit operator bool() const { return under_way; }
};

// Of an ErrorResponse (`fatal`: the last words of the connection) that a replica gives to a proven read:
// why another node may do better; nothing if it would say the same. SQLSTATEs, because words are translated.
std::optional<pool::RetryReason> reason_to_retry(std::string_view sqlstate, bool fatal);

// True if these whole messages are what comes before the first row or the first end of a statement.
bool is_head(std::span<const iovec> messages);

// What a server keeps of a batch that may be run again: its bytes, as the client sent them, and the head of
// its answer, which is held back until it is known not to be an error that heals. A server's, so that
// idle clients own nothing; the room stays with it for the next batch. The copy costs a call of memcpy.
class Healing {
 public:
  // Larger batches are not kept: they are rare, and their readers can repeat them.
  static constexpr std::size_t kLargest = std::size_t{16} << 10;

  // The batch has just been sent.
  void arm(std::string_view batch) {
    batch_.assign(batch);
    armed_ = true;
    failed_ = last_words_ = std::nullopt;
    settled_ = 0;
  }
  // From here on its answer is the client's, or it has none.
  void disarm() {
    armed_ = false;
    failed_ = last_words_ = std::nullopt;
    head_.clear();
  }
  bool armed() const { return armed_; }

  // The server has refused it; it is run again when this server has said its last word on it.
  void fail(pool::RetryReason why) { failed_ = why; }
  const std::optional<pool::RetryReason>& failed() const { return failed_; }

  // The server ends the connection, and says why.
  void note_last_words(std::string_view sqlstate) {
    if (!armed_) return;
    last_words_ = reason_to_retry(sqlstate, true);
    if (!last_words_) armed_ = false;
  }
  // Why it may be run again, now that the connection is lost.
  pool::RetryReason reason_of_loss() const {
    return failed_ ? *failed_ : last_words_.value_or(pool::RetryReason::server_lost);
  }

  std::string take_batch() { return std::move(batch_); }
  // Held back, in all; false: it has outgrown its room.
  bool hold(std::span<const iovec> messages);
  const std::string& head() const { return head_; }
  // Parses and Closes whose answers are held back (or due): they count when these go out.
  void settle_later() { ++settled_; }
  std::size_t take_settled() { return std::exchange(settled_, 0); }

 private:
  bool armed_ = false;
  std::optional<pool::RetryReason> failed_, last_words_;
  std::size_t settled_ = 0;
  std::string batch_, head_;
};

}  // namespace proxy
