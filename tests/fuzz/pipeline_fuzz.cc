#include "proxy/wire/pipeline.h"

#include <span>

#include "tests/fuzz/fuzz_target.h"

// Input: a conversation, one byte per event. Below 0x80: the server sends a message of that type.
// From 0x80 on: something is sent to it, requests by the low four bits, for whom by the two above.

namespace {

using wire::For;
using wire::Pipeline;
using wire::Request;

constexpr int kRequests = static_cast<int>(Request::copy_end) + 1;

void check(const Pipeline& pipeline, std::size_t sent) {
  ENSURE(pipeline.depth() <= sent);
  ENSURE(pipeline.skipped().size() <= sent);
  ENSURE(pipeline.ready_owed() <= pipeline.depth());
  ENSURE(pipeline.nothing_owed() == (pipeline.depth() == 0));
  ENSURE(!pipeline.local_is_due());
  if (pipeline.idle()) ENSURE(pipeline.nothing_owed() && !pipeline.skipping());
  if (pipeline.skipping()) ENSURE(pipeline.open_sequence());
}

// Returns how many there were.
std::size_t take_locals(Pipeline& pipeline) {
  std::size_t taken = 0;
  while (const auto local = pipeline.take_local()) {
    ENSURE(local->whom == For::local);
    ++taken;
  }
  return taken;
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Pipeline pipeline;
  std::size_t sent = 0, answered = 0;
  for (const std::uint8_t event : std::span(data, size)) {
    if (event < 0x80) {
      const std::uint32_t owed = pipeline.ready_owed();
      Pipeline quick = pipeline;
      const bool passes = quick.passes(static_cast<char>(event));
      const Pipeline::Verdict verdict = pipeline.on_answer(static_cast<char>(event));
      if (passes) {
        // Both ways of noting it come to the same.
        ENSURE(!verdict.swallow && !verdict.ready && !verdict.unexpected);
        ENSURE(quick.depth() == pipeline.depth() && quick.idle() == pipeline.idle() &&
               quick.ready_owed() == pipeline.ready_owed());
      }
      if (verdict.unexpected) ENSURE(!verdict.completes && !verdict.ready);
      if (verdict.ready) ENSURE(verdict.completes && pipeline.ready_owed() + 1 >= owed);
      if (event == 'E' && !verdict.unexpected) ENSURE(verdict.completes);
      if (event == 'Z' && !verdict.unexpected) ENSURE(verdict.ready);
    } else if ((event & 15) < kRequests) {
      const auto request = static_cast<Request>(event & 15);
      auto whom = static_cast<For>(event >> 4 & 3);
      // As relay.cc does it: only a Parse or a Close is answered here, only a Parse is doomed.
      if (whom == For::local && request != Request::parse && request != Request::close)
        whom = For::client;
      if (whom == For::doomed && request != Request::parse) whom = For::client;
      pipeline.sent({request, whom, static_cast<std::uint32_t>(sent)});
      ++sent;
    }
    answered += take_locals(pipeline);
    ENSURE(answered <= sent);
    check(pipeline, sent);
  }
  pipeline.clear();
  check(pipeline, 0);
  ENSURE(pipeline.idle());
  return 0;
}
