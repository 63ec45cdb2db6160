#include "proxy/wire/pipeline.h"

namespace wire {

void Pipeline::sent(Entry entry) {
  switch (entry.request) {
    case Request::sync:
      if (copying_) {
        // Postgres ignores a Sync while it takes COPY data. If it fails first, it does not: then nobody
        // can tell how many answers are due.
        if (copy_data_sent_) stray_sync_ = true;
        return;
      }
      open_sequence_ = false;
      skipping_ = false;
      break;
    case Request::query:
    case Request::function_call:
      if (skipping_) return;
      break;
    case Request::copy_end:
      copying_ = false;
      copy_data_sent_ = false;
      if (empty()) return;
      break;
    case Request::parse:
    case Request::bind:
    case Request::describe_statement:
    case Request::describe_portal:
    case Request::execute:
    case Request::close:
      open_sequence_ = true;
      if (skipping_) {
        return;
      }
      break;
  }
  if (entry.request == Request::sync || entry.request == Request::query ||
      entry.request == Request::function_call) {
    if (entry.whom == For::client) ++ready_owed_;
    open_sequence_ = false;
  }
  if (head_ > 0 && entries_.size() == entries_.capacity()) {
    entries_.erase(entries_.begin(), entries_.begin() + static_cast<std::ptrdiff_t>(head_));
    head_ = 0;
  }
  entries_.push_back(entry);
}

void Pipeline::pop() {
  ++head_;
  while (!empty() && head().request == Request::copy_end) ++head_;
  if (empty()) {
    entries_.clear();
    head_ = 0;
  }
}

// The server has failed in an extended sequence: it skips everything up to the next Sync.
void Pipeline::fail() {
  copying_ = false;
  if (stray_sync_) uncertain_ = true;
  while (!empty() && head().request != Request::sync) {
    if ((head().request == Request::query || head().request == Request::function_call) &&
        head().whom == For::client)
      --ready_owed_;
    skipped_.push_back(head());
    ++head_;
  }
  if (empty()) {
    entries_.clear();
    head_ = 0;
    skipping_ = true;
    open_sequence_ = true;
  }
}

void Pipeline::start_copy_in() {
  copying_ = true;
  copy_data_sent_ = false;
  stray_sync_ = false;
  // What was sent right behind the Execute: Syncs are read and ignored by COPY; the end of the data may
  // be there already.
  std::size_t at = head_ + 1;
  while (at < entries_.size() && entries_[at].request == Request::sync) {
    if (entries_[at].whom == For::client) --ready_owed_;
    entries_.erase(entries_.begin() + static_cast<std::ptrdiff_t>(at));
    open_sequence_ = true;
  }
  for (at = head_ + 1; at < entries_.size(); ++at)
    if (entries_[at].request == Request::copy_end) copying_ = false;
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
      if (request == query) copying_ = false;
      if (entry.whom == For::client) --ready_owed_;
      verdict.ready = true;
      verdict.answered = entry;
      pop();
      break;
    case 'E':
      verdict.answered = entry;
      if (request == query || request == function_call || request == sync) {
        copying_ = false;
      } else {
        fail();
      }
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
        copying_ = false;
        stray_sync_ = false;
        answers(true);
      } else {
        if (request == query) copying_ = false;
        verdict.unexpected = request != query || type == 's';
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
