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
    Request request = Request::query;
    For whom = For::client;
    std::uint32_t tag = 0;  // the sender's: which statement it is about, if somebody keeps account of it
  };

  void sent(Entry entry) {
    if (entry.request < Request::parse || entry.request > Request::close) {
      sent_end(entry);
      return;
    }
    open_sequence_ = true;
    if (!skipping_) push(entry);
  }

  // The commonest answers: to the client's own request, and all that follows is that they are passed on.
  // True: that has been noted. False: on_answer() has to look.
  bool passes(char type) {
    if (empty() || head().whom != For::client) return false;
    const Request request = head().request;
    switch (type) {
      case 'D': return request == Request::query || request == Request::execute;
      case 'C':
        if (taking_) return false;
        if (request == Request::query) return true;
        if (request != Request::execute || head().tag != 0) return false;
        break;
      case 'T':
        if (request == Request::query) return true;
        if (request != Request::describe_portal && request != Request::describe_statement) return false;
        break;
      case '1':  // of the unnamed statement: a tag means that somebody keeps account of it
        if (request != Request::parse || head().tag != 0) return false;
        break;
      case '2':
        if (request != Request::bind) return false;
        break;
      default: return false;
    }
    pop();
    return true;
  }

  struct Verdict {
    bool swallow = false;     // not for the client
    bool ready = false;       // a ReadyForQuery that was owed
    bool unexpected = false;  // nobody asked for this: the connection cannot be trusted any more
    bool completes = false;   // a request, or it is the one that failed:
    Entry answered{};
  };
  // `type` is the message type that the server has sent. Requests that an error makes the server skip
  // are dropped; skipped() has them until the next call.
  Verdict on_answer(char type);
  const std::vector<Entry>& skipped() const { return skipped_; }

  // The local answer that is due now, taken out; or nothing.
  std::optional<Entry> take_local();
  bool local_is_due() const {
    return head_ < tail_ && entries_[head_].whom == For::local;
  }

  // Nothing is owed and no extended sequence is open: the server may change hands (if its transaction
  // status says so).
  bool idle() const { return head_ == tail_ && !open_sequence_; }
  bool nothing_owed() const { return head_ == tail_; }
  // Messages of an extended sequence have been sent since the last Sync.
  bool open_sequence() const { return open_sequence_; }
  bool copying_in() const { return copying_; }
  // ReadyForQuery messages that are due for the client. (When uncertain() one more may come; it is
  // recognised while skipping().)
  std::uint32_t ready_owed() const { return ready_owed_; }
  std::size_t depth() const { return tail_ - head_; }
  // What the server works on is a Query of ours: whoever asked for more waits for its end.
  bool query_of_ours() const {
    return head_ < tail_ && entries_[head_].whom == For::nobody && entries_[head_].request == Request::query;
  }
  // It is not certain how many answers are still to come, because a COPY has failed that may or may not
  // have read a Sync before: close the connection when it has gone quiet.
  bool uncertain() const { return uncertain_; }
  // The server has failed in this extended sequence and skips to the Sync that has not been sent yet.
  bool skipping() const { return skipping_; }

  void clear() { *this = Pipeline(); }

 private:
  Entry& head() { return entries_[head_]; }
  bool empty() const { return head_ == tail_; }
  void push(Entry entry) {
    if (tail_ == entries_.size()) make_room();
    entries_[tail_++] = entry;
  }
  void pop() {
    ++head_;
    while (!empty() && head().request == Request::copy_end) ++head_;
    if (empty()) head_ = tail_ = 0;
  }
  void sent_end(Entry entry);
  void make_room();
  void fail();
  void start_copy_in();
  void end_copy_in(bool well);

  // Requests stand in entries_[head_, tail_).
  std::vector<Entry> entries_;
  std::size_t head_ = 0, tail_ = 0;
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
