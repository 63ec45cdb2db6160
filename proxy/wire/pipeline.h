#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace wire {

// What a client (or we) asked of a server and has not been answered yet.
enum class Request : std::uint8_t {
  query,
  function_call,
  parse,
  bind,
  describe_statement,
  describe_portal,
  execute,
  close,
  sync,
  copy_end,  // CopyDone or CopyFail: has no answer of its own, but ends what went before
};

// Who gets the answer.
enum class For : std::uint8_t {
  client,
  nobody,   // we asked (a replayed setting, a missing statement): the answer is swallowed
  local,    // never sent to the server: the answer is ours, and is due when everything before it is answered
  doomed,   // sent so that the server fails as Postgres would; its error is replaced by ours
};

// Which answer belongs to which request, for one server connection. Requests are noted in the order in
// which they are sent; answers are matched as they come. It knows that after an error everything up to
// the next Sync is skipped (a simple Query included), that a Query's end is its ReadyForQuery, and that a
// Sync sent while Postgres is taking COPY data is ignored.
//
// Costs a few instructions per message; allocates only when a pipeline grows deeper than ever before.
class Pipeline {
 public:
  struct Entry {
    Request request;
    For whom = For::client;
    std::uint32_t tag = 0;  // the sender's: which statement a parse or a close is about
  };

  void sent(Entry entry);

  struct Verdict {
    bool swallow = false;              // not for the client
    bool ready = false;                // a ReadyForQuery that was owed
    bool unexpected = false;           // nobody asked for this: the connection cannot be trusted any more
    std::optional<Entry> answered;     // the request that this answer completes (or that failed)
  };
  // `type` is the message type that the server has sent. Requests that an error makes the server skip
  // are dropped; skipped() has them until the next call.
  Verdict on_answer(char type);
  const std::vector<Entry>& skipped() const { return skipped_; }

  // The local answer that is due now, taken out; or nothing.
  std::optional<Entry> take_local();
  // A DataRow now belongs to the client's own request.
  bool rows_are_due() const {
    if (head_ == entries_.size()) return false;
    const Entry& entry = entries_[head_];
    return entry.whom == For::client &&
           (entry.request == Request::query || entry.request == Request::execute);
  }
  bool local_is_due() const {
    return head_ < entries_.size() && entries_[head_].whom == For::local;
  }

  // Nothing is owed and no extended sequence is open: the server may change hands (if its transaction
  // status says so).
  bool idle() const { return head_ == entries_.size() && !open_sequence_; }
  bool nothing_owed() const { return head_ == entries_.size(); }
  // Messages of an extended sequence have been sent since the last Sync.
  bool open_sequence() const { return open_sequence_; }
  bool copying_in() const { return copying_; }
  // ReadyForQuery messages that are due for the client. (When uncertain() one more may come; it is
  // recognised while skipping().)
  std::uint32_t ready_owed() const { return ready_owed_; }
  std::size_t depth() const { return entries_.size() - head_; }
  // It is not certain how many answers are still to come, because a COPY has failed that may or may not
  // have read a Sync before: close the connection when it has gone quiet.
  bool uncertain() const { return uncertain_; }
  // The server has failed in this extended sequence and skips to the Sync that has not been sent yet.
  bool skipping() const { return skipping_; }

  void clear() { *this = Pipeline(); }

 private:
  Entry& head() { return entries_[head_]; }
  bool empty() const { return head_ == entries_.size(); }
  void pop();
  void fail();
  void start_copy_in();
  void end_copy_in(bool well);

  std::vector<Entry> entries_;
  std::size_t head_ = 0;
  std::vector<Entry> skipped_;
  std::uint32_t ready_owed_ = 0;
  bool open_sequence_ = false;
  bool skipping_ = false;
  // Of a COPY IN, from its CopyInResponse to its end:
  bool taking_ = false;      // the server has asked for data
  bool copying_ = false;     // and no end of them has been sent
  bool stray_sync_ = false;  // a Sync was sent before that end
  bool uncertain_ = false;
};

}  // namespace wire
