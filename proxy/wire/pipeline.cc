#include "proxy/wire/pipeline.h"

#include <algorithm>
#include <utility>

namespace wire {

// What ends a sequence, or stands by itself.
void Pipeline::sent_end(Entry entry) {
  switch (entry.request) {
    case Request::sync:
      if (copying_) {
        // Ignored by Postgres while it takes COPY data, unless it fails first.
        stray_sync_ = true;
        return;
      }
      skipping_ = false;
      break;
    case Request::copy_end:
      copying_ = false;
      if (empty()) return;
      push(entry);
      return;
    default:
      if (skipping_) return;
      break;
  }
  if (entry.whom == For::client) ++ready_owed_;
  open_sequence_ = false;
  push(entry);
}

// A window that only moves on is copied to the front when it has moved by half, which costs less than a
// copy per message; else the room doubles.
void Pipeline::make_room() {
  if (head_ > entries_.size() / 2) {
    std::copy(entries_.begin() + static_cast<std::ptrdiff_t>(head_), entries_.end(), entries_.begin());
    tail_ -= std::exchange(head_, 0);
  } else {
    entries_.resize(std::max<std::size_t>(8, 2 * entries_.size()));
  }
}

// COPY IN, if there was one, has ended. If it went well, Syncs sent before its end have been read
// and ignored. If not, those behind the point of failure are answered, which only the server knows.
void Pipeline::end_copy_in(bool well) {
  if (!well && stray_sync_) uncertain_ = true;
  taking_ = copying_ = stray_sync_ = false;
}

// The server has failed in an extended sequence: it skips everything up to the next Sync.
void Pipeline::fail() {
  while (!empty() && head().request != Request::sync) {
    if ((head().request == Request::query || head().request == Request::function_call) &&
        head().whom == For::client)
      --ready_owed_;
    skipped_.push_back(head());
    ++head_;
  }
  if (empty()) {
    head_ = tail_ = 0;
    skipping_ = true;
    open_sequence_ = true;
  }
}

void Pipeline::start_copy_in() {
  taking_ = copying_ = true;
  // What was sent right behind the request: Syncs are read and ignored by COPY; the end of the data
  // may be there already.
  const Entry copy = head();
  std::size_t last = head_;
  for (; last + 1 < tail_ && entries_[last + 1].request == Request::sync; ++last)
    if (entries_[last + 1].whom == For::client) --ready_owed_;
  stray_sync_ = last != head_;
  head_ = last;
  head() = copy;
  for (std::size_t at = head_ + 1; at < tail_ && copying_; ++at)
    if (entries_[at].request == Request::copy_end) copying_ = false;
  if (!stray_sync_) return;
  // Without them, is a sequence open? The last request tells.
  std::size_t at = tail_ - 1;
  while (entries_[at].request == Request::copy_end) --at;
  const Request request = entries_[at].request;
  open_sequence_ = request != Request::sync && request != Request::query &&
                   request != Request::function_call;
}

Pipeline::Verdict Pipeline::on_answer(char type) {
  skipped_.clear();
  Verdict verdict;
  if (type == 'A' || type == 'N' || type == 'S') {
    // Belongs to nobody's request; what comes while we alone are being served is for nobody.
    verdict.swallow = !empty() && head().whom == For::nobody;
    return verdict;
  }
  if (empty()) {
    if (type == 'Z' && skipping_ && uncertain_) {
      // A Sync that we took for ignored was not: COPY had failed before it.
      skipping_ = open_sequence_ = false;
      verdict.ready = verdict.completes = true;
      verdict.answered = Entry{Request::sync};
      return verdict;
    }
    verdict.unexpected = true;
    return verdict;
  }
  const Entry entry = head();
  verdict.swallow = entry.whom == For::nobody || entry.whom == For::doomed;
  const auto answers = [&](bool matches) {
    if (!matches) {
      verdict.unexpected = true;
      return;
    }
    verdict.answered = entry;
    verdict.completes = true;
    pop();
  };
  using enum Request;
  const Request request = entry.request;
  switch (type) {
    case 'Z':
      if (request != sync && request != query && request != function_call) {
        verdict.unexpected = true;
        break;
      }
      if (entry.whom == For::client) --ready_owed_;
      verdict.ready = verdict.completes = true;
      verdict.answered = entry;
      pop();
      break;
    case 'E':
      verdict.completes = true;
      verdict.answered = entry;
      end_copy_in(false);
      if (request != query && request != function_call && request != sync) fail();
      break;
    case '1': answers(request == parse); break;
    case '2': answers(request == bind); break;
    case '3': answers(request == close); break;
    case 'n': answers(request == describe_statement || request == describe_portal); break;
    case 'T':
      if (request == describe_statement || request == describe_portal) {
        answers(true);
      } else {
        verdict.unexpected = request != query;
      }
      break;
    case 't': verdict.unexpected = request != describe_statement; break;
    case 'D': verdict.unexpected = request != query && request != execute; break;
    case 'C':
    case 'I':
    case 's':
      if (request == execute) {
        end_copy_in(true);
        answers(true);
      } else {
        verdict.unexpected = request != query || type == 's';
        if (verdict.unexpected || !taking_) break;
        end_copy_in(true);
        // Its CopyDone is used up: the next COPY of this Query has another.
        if (depth() > 1 && entries_[head_ + 1].request == copy_end) entries_[++head_] = entry;
      }
      break;
    case 'G':
      verdict.unexpected = request != query && request != execute;
      if (!verdict.unexpected) start_copy_in();
      break;
    case 'H':
    case 'd':
    case 'c': verdict.unexpected = request != query && request != execute; break;
    case 'V': verdict.unexpected = request != function_call; break;
    default: verdict.unexpected = true; break;
  }
  return verdict;
}

std::optional<Pipeline::Entry> Pipeline::take_local() {
  if (empty() || head().whom != For::local) return std::nullopt;
  const Entry entry = head();
  pop();
  return entry;
}

}  // namespace wire
