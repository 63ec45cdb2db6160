#include "proxy/wire/pipeline.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/rng.h"

using wire::For;
using wire::Pipeline;
using R = wire::Request;

namespace {

// A pipeline, and words to play with it.
struct Talk {
  Pipeline pipeline;
  std::uint32_t last_tag = 0;

  std::uint32_t send(R request, For whom = For::client) {
    pipeline.sent({request, whom, ++last_tag});
    return last_tag;
  }
  // The server's messages, one letter each; all of them must be expected. Returns the last verdict.
  Pipeline::Verdict hear(std::string_view types) {
    Pipeline::Verdict verdict;
    for (const char type : types) {
      verdict = pipeline.on_answer(type);
      CHECK_MESSAGE(!verdict.unexpected, "'" << type << "' of \"" << types << "\"");
    }
    return verdict;
  }
  std::uint32_t answered(char type) {
    const auto verdict = hear(std::string_view(&type, 1));
    return verdict.completes ? verdict.answered.tag : 0;
  }
  std::vector<std::uint32_t> skipped() const {
    std::vector<std::uint32_t> tags;
    for (const Pipeline::Entry& entry : pipeline.skipped()) tags.push_back(entry.tag);
    return tags;
  }
  bool unexpected(char type) {
    Pipeline copy = pipeline;
    return copy.on_answer(type).unexpected;
  }
};

constexpr std::string_view kAllAnswers = "123CDEGHISTVWZcdnstRKvAN";

}  // namespace

TEST_SUITE("proxy/wire/pipeline") {
  TEST_CASE("a fresh pipeline owes nothing and expects nothing") {
    Talk talk;
    CHECK(talk.pipeline.idle());
    CHECK(talk.pipeline.nothing_owed());
    CHECK(talk.pipeline.ready_owed() == 0);
    CHECK(talk.pipeline.depth() == 0);
    CHECK_FALSE(talk.pipeline.take_local().has_value());
    for (const char type : kAllAnswers)
      CHECK(talk.unexpected(type) == (type != 'A' && type != 'N' && type != 'S'));
  }

  TEST_CASE("the quick way for the commonest answers comes to the same as the long one") {
    for (const For whom : {For::client, For::nobody, For::local, For::doomed})
      for (const R request : {R::query, R::function_call, R::parse, R::bind, R::describe_statement,
                              R::describe_portal, R::execute, R::close, R::sync, R::copy_end})
        for (const char type : {'D', 'C', 'T', '2', 't', 'n', '1', '3', 'Z', 'E', 'G', 'N', 's', 'I'}) {
          Pipeline quick;
          quick.sent({R::execute});  // so that nothing is at the front of an empty pipeline
          quick.sent({request, whom, type == 'C' ? 7U : 0U});
          quick.sent({R::sync});
          quick.on_answer('C');
          Pipeline taking = quick;  // COPY data
          taking.on_answer('G');
          for (const Pipeline& before : {quick, taking}) {
            Pipeline fast = before, slow = before;
            if (!fast.passes(type)) continue;
            const Pipeline::Verdict verdict = slow.on_answer(type);
            CHECK(whom == For::client);
            CHECK_FALSE((verdict.swallow || verdict.ready || verdict.unexpected));
            CHECK(fast.depth() == slow.depth());
            CHECK(fast.idle() == slow.idle());
            CHECK(fast.copying_in() == slow.copying_in());
          }
        }
  }

  TEST_CASE("a simple Query ends with its ReadyForQuery, whatever it answered before") {
    for (const std::string_view answer : {"TDDC", "C", "I", "CTDCI", "Hddc", "HddcC", "E", "TDE"}) {
      Talk talk;
      talk.send(R::query);
      CHECK(talk.pipeline.ready_owed() == 1);
      talk.hear(answer);
      CHECK_FALSE(talk.pipeline.idle());
      const auto verdict = talk.hear("Z");
      CHECK(verdict.ready);
      CHECK(verdict.answered.tag == 1);
      CHECK(talk.pipeline.ready_owed() == 0);
      CHECK(talk.pipeline.idle());
    }
  }

  TEST_CASE("an extended sequence: each request has its answer, and the Sync its ReadyForQuery") {
    Talk talk;
    for (const R request :
         {R::parse, R::bind, R::describe_statement, R::describe_statement, R::describe_portal,
          R::describe_portal, R::execute, R::execute, R::execute, R::close, R::sync})
      talk.send(request);
    CHECK(talk.pipeline.depth() == 11);
    CHECK(talk.answered('1') == 1);
    CHECK(talk.answered('2') == 2);
    CHECK(talk.answered('t') == 0);
    CHECK(talk.answered('T') == 3);
    CHECK(talk.answered('t') == 0);
    CHECK(talk.answered('n') == 4);
    CHECK(talk.answered('T') == 5);
    CHECK(talk.answered('n') == 6);
    CHECK(talk.answered('D') == 0);
    CHECK(talk.answered('C') == 7);
    CHECK(talk.answered('D') == 0);
    CHECK(talk.answered('s') == 8);
    CHECK(talk.answered('I') == 9);
    CHECK(talk.answered('3') == 10);
    CHECK(talk.pipeline.depth() == 1);
    CHECK(talk.hear("Z").ready);
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("every answer that does not fit the oldest request is unexpected") {
    const std::vector<std::pair<R, std::string_view>> fitting = {
        {R::query, "TDCIGHdcEZ"}, {R::function_call, "VEZ"},        {R::parse, "1E"},
        {R::bind, "2E"},          {R::describe_statement, "tTnE"},  {R::describe_portal, "TnE"},
        {R::execute, "DCIsGHdcE"}, {R::close, "3E"},                {R::sync, "ZE"}};
    for (const auto& [request, fits] : fitting) {
      Talk talk;
      talk.send(request);
      for (const char type : kAllAnswers) {
        const bool loose = type == 'A' || type == 'N' || type == 'S';
        CHECK_MESSAGE(talk.unexpected(type) == !(loose || fits.find(type) != fits.npos),
                      static_cast<int>(request) << " '" << type << "'");
      }
    }
  }

  TEST_CASE("requirement 14: notices, notifications and parameters answer nothing") {
    Talk talk;
    CHECK_FALSE(talk.hear("NAS").completes);
    talk.send(R::parse);
    talk.send(R::sync);
    for (const char type : {'N', 'A', 'S'}) {
      const auto verdict = talk.hear(std::string_view(&type, 1));
      CHECK_FALSE(verdict.completes);
      CHECK_FALSE(verdict.swallow);
      CHECK_FALSE(verdict.ready);
    }
    CHECK(talk.answered('1') == 1);
  }

  TEST_CASE("after Flush the answers come, and the sequence stays open until the Sync") {
    Talk talk;
    talk.send(R::parse);
    talk.send(R::describe_statement);
    talk.hear("1tT");
    CHECK(talk.pipeline.nothing_owed());
    CHECK(talk.pipeline.open_sequence());
    CHECK_FALSE(talk.pipeline.idle());
    CHECK(talk.pipeline.ready_owed() == 0);
    talk.send(R::sync);
    CHECK_FALSE(talk.pipeline.open_sequence());
    talk.hear("Z");
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("a Sync alone is answered") {
    Talk talk;
    talk.send(R::sync);
    talk.send(R::sync);
    CHECK(talk.pipeline.ready_owed() == 2);
    talk.hear("ZZ");
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("requirement 17: an error skips everything up to the Sync, which is still answered") {
    Talk talk;
    for (const R request : {R::parse, R::bind, R::execute, R::close, R::sync, R::parse, R::sync})
      talk.send(request);
    talk.hear("1");
    const auto verdict = talk.hear("E");
    CHECK(verdict.answered.request == R::bind);
    CHECK_FALSE(verdict.ready);
    CHECK(talk.skipped() == std::vector<std::uint32_t>{2, 3, 4});
    CHECK(talk.pipeline.ready_owed() == 2);
    CHECK(talk.answered('Z') == 5);
    CHECK(talk.skipped().empty());
    CHECK(talk.answered('1') == 6);
    CHECK(talk.answered('Z') == 7);
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("each kind of extended request may fail") {
    for (const R request :
         {R::parse, R::bind, R::describe_statement, R::describe_portal, R::execute, R::close}) {
      Talk talk;
      talk.send(request);
      talk.send(R::execute);
      talk.send(R::sync);
      talk.hear("E");
      CHECK(talk.skipped() == std::vector<std::uint32_t>{1, 2});
      talk.hear("Z");
      CHECK(talk.pipeline.idle());
    }
  }

  TEST_CASE("an Execute may fail after rows, and a described statement after its parameters") {
    Talk talk;
    talk.send(R::execute);
    talk.send(R::sync);
    talk.hear("DDEZ");
    CHECK(talk.pipeline.idle());
    talk.send(R::describe_statement);
    talk.send(R::sync);
    talk.hear("tEZ");
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("a failed sequence without its Sync yet swallows all that is sent, Queries too") {
    Talk talk;
    talk.send(R::parse);
    talk.hear("E");
    CHECK(talk.pipeline.skipping());
    CHECK(talk.pipeline.open_sequence());
    CHECK_FALSE(talk.pipeline.idle());
    for (const R request : {R::bind, R::execute, R::query, R::function_call, R::close, R::copy_end})
      talk.send(request);
    talk.send(R::parse, For::nobody);
    talk.send(R::parse, For::doomed);
    talk.send(R::parse, For::local);
    CHECK(talk.pipeline.depth() == 0);
    CHECK(talk.pipeline.ready_owed() == 0);
    CHECK_FALSE(talk.pipeline.take_local().has_value());
    CHECK(talk.pipeline.skipping());
    talk.send(R::sync);
    CHECK_FALSE(talk.pipeline.skipping());
    CHECK(talk.pipeline.ready_owed() == 1);
    talk.hear("Z");
    CHECK(talk.pipeline.idle());
    talk.send(R::query);
    talk.hear("CZ");
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("a simple Query and a FunctionCall among what is skipped are not answered") {
    Talk talk;
    for (const R request : {R::parse, R::query, R::function_call, R::sync}) talk.send(request);
    CHECK(talk.pipeline.ready_owed() == 3);
    talk.hear("E");
    CHECK(talk.skipped() == std::vector<std::uint32_t>{1, 2, 3});
    CHECK(talk.pipeline.ready_owed() == 1);
    talk.hear("Z");
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("a simple Query inside an extended sequence is answered in its place and ends it") {
    Talk talk;
    talk.send(R::parse);
    talk.send(R::query);
    CHECK_FALSE(talk.pipeline.open_sequence());
    talk.hear("1TDC");
    CHECK(talk.answered('Z') == 2);
    CHECK(talk.pipeline.idle());
    talk.send(R::sync);
    talk.hear("Z");
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("the error of a Query skips nothing behind it") {
    Talk talk;
    talk.send(R::parse);
    talk.send(R::query);
    talk.send(R::bind);
    talk.send(R::sync);
    talk.hear("1");
    CHECK(talk.answered('E') == 2);
    CHECK(talk.skipped().empty());
    CHECK(talk.pipeline.depth() == 3);
    CHECK(talk.answered('Z') == 2);
    CHECK(talk.answered('2') == 3);
    CHECK(talk.answered('Z') == 4);
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("the error of a FunctionCall skips nothing behind it") {
    Talk talk;
    talk.send(R::function_call);
    talk.send(R::function_call);
    talk.hear("EZVZ");
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("an error at the Sync, where the commit fails, skips nothing behind it") {
    Talk talk;
    for (const R request : {R::execute, R::sync, R::parse, R::sync}) talk.send(request);
    talk.hear("C");
    const auto verdict = talk.hear("E");
    CHECK(verdict.answered.request == R::sync);
    CHECK(talk.skipped().empty());
    CHECK(talk.pipeline.ready_owed() == 2);
    CHECK(talk.answered('Z') == 2);
    CHECK(talk.answered('1') == 3);
    CHECK(talk.answered('Z') == 4);
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("what we asked for ourselves is swallowed, with what comes meanwhile") {
    Talk talk;
    talk.send(R::query, For::nobody);
    talk.send(R::parse, For::nobody);
    talk.send(R::bind);
    talk.send(R::sync);
    CHECK(talk.pipeline.ready_owed() == 1);
    for (const char type : {'S', 'N', 'C'}) CHECK(talk.hear(std::string_view(&type, 1)).swallow);
    const auto ready = talk.hear("Z");
    CHECK(ready.swallow);
    CHECK(ready.answered.whom == For::nobody);
    CHECK(talk.pipeline.ready_owed() == 1);
    CHECK(talk.hear("1").swallow);
    CHECK_FALSE(talk.hear("2").swallow);
    CHECK_FALSE(talk.hear("S").swallow);
    CHECK_FALSE(talk.hear("Z").swallow);
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("a request that must fail has its error swallowed, and the rest is skipped") {
    Talk talk;
    talk.send(R::parse, For::doomed);
    talk.send(R::bind);
    talk.send(R::sync);
    const auto verdict = talk.hear("E");
    CHECK(verdict.swallow);
    CHECK(verdict.answered.whom == For::doomed);
    CHECK(talk.skipped() == std::vector<std::uint32_t>{1, 2});
    CHECK_FALSE(talk.hear("Z").swallow);
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("a local answer is due at once when nothing else is") {
    Talk talk;
    talk.send(R::parse, For::local);
    CHECK(talk.pipeline.local_is_due());
    CHECK(talk.pipeline.take_local()->tag == 1);
    CHECK_FALSE(talk.pipeline.local_is_due());
    CHECK_FALSE(talk.pipeline.take_local().has_value());
    CHECK(talk.pipeline.nothing_owed());
    CHECK(talk.pipeline.open_sequence());
    talk.send(R::sync);
    talk.hear("Z");
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("a local answer waits for everything before it, and those behind wait for it") {
    Talk talk;
    talk.send(R::bind);
    talk.send(R::parse, For::local);
    talk.send(R::close, For::local);
    talk.send(R::execute);
    talk.send(R::parse, For::local);
    talk.send(R::sync);
    CHECK_FALSE(talk.pipeline.take_local().has_value());
    talk.hear("2");
    CHECK(talk.pipeline.take_local()->tag == 2);
    CHECK(talk.pipeline.take_local()->tag == 3);
    CHECK_FALSE(talk.pipeline.take_local().has_value());
    talk.hear("D");
    CHECK_FALSE(talk.pipeline.take_local().has_value());
    talk.hear("C");
    CHECK(talk.pipeline.take_local()->tag == 5);
    CHECK(talk.answered('Z') == 6);
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("a local answer behind an error is never given") {
    Talk talk;
    talk.send(R::parse);
    talk.send(R::parse, For::local);
    talk.send(R::sync);
    talk.send(R::parse, For::local);
    talk.send(R::sync);
    talk.hear("E");
    CHECK(talk.skipped() == std::vector<std::uint32_t>{1, 2});
    CHECK_FALSE(talk.pipeline.take_local().has_value());
    talk.hear("Z");
    CHECK(talk.pipeline.take_local()->tag == 4);
    talk.hear("Z");
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("ten thousand requests deep, every answer finds its own") {
    Talk talk;
    constexpr std::uint32_t kDepth = 10'000;
    for (std::uint32_t i = 0; i < kDepth; ++i) talk.send(i % 4 == 3 ? R::sync : R::execute);
    CHECK(talk.pipeline.depth() == kDepth);
    CHECK(talk.pipeline.ready_owed() == kDepth / 4);
    bool right = true;
    for (std::uint32_t i = 0; i < kDepth; ++i)
      right &= talk.pipeline.on_answer(i % 4 == 3 ? 'Z' : 'C').answered.tag == i + 1;
    CHECK(right);
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("a window that moves on for long keeps its order and does not grow") {
    Talk talk;
    std::uint32_t expected = 0;
    bool right = true;
    for (int i = 0; i < 100; ++i) talk.send(R::query);
    for (int i = 0; i < 20'000; ++i) {
      talk.send(R::query);
      right &= talk.pipeline.on_answer('Z').answered.tag == ++expected;
      right &= talk.pipeline.depth() == 100;
    }
    CHECK(right);
    CHECK(talk.pipeline.ready_owed() == 100);
  }

  TEST_CASE("clear() forgets everything") {
    Talk talk;
    talk.send(R::parse);
    talk.hear("E");
    talk.send(R::sync);
    talk.pipeline.clear();
    CHECK(talk.pipeline.idle());
    CHECK(talk.pipeline.ready_owed() == 0);
    CHECK_FALSE(talk.pipeline.skipping());
  }
}

TEST_SUITE("proxy/wire/pipeline COPY") {
  TEST_CASE("COPY FROM by a simple Query takes data until CopyDone") {
    Talk talk;
    talk.send(R::query);
    talk.hear("G");
    CHECK(talk.pipeline.copying_in());
    CHECK_FALSE(talk.pipeline.idle());
    talk.send(R::copy_end);
    CHECK_FALSE(talk.pipeline.copying_in());
    talk.hear("CZ");
    CHECK(talk.pipeline.idle());
    CHECK(talk.pipeline.depth() == 0);
  }

  TEST_CASE("COPY FROM by an Execute: a Sync behind it, and those among the data, are ignored") {
    Talk talk;
    talk.send(R::execute);
    talk.send(R::sync);
    CHECK(talk.pipeline.ready_owed() == 1);
    talk.hear("G");
    CHECK(talk.pipeline.copying_in());
    CHECK(talk.pipeline.ready_owed() == 0);
    CHECK(talk.pipeline.open_sequence());
    talk.send(R::sync);
    CHECK(talk.pipeline.ready_owed() == 0);
    talk.send(R::copy_end);
    talk.send(R::sync);
    CHECK(talk.pipeline.ready_owed() == 1);
    CHECK(talk.hear("C").answered.request == R::execute);
    CHECK_FALSE(talk.pipeline.uncertain());
    talk.hear("Z");
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("several Syncs behind the Execute are ignored, and the one behind CopyDone is not") {
    Talk talk;
    for (const R request :
         {R::execute, R::sync, R::sync, R::copy_end, R::sync, R::execute, R::sync})
      talk.send(request);
    CHECK(talk.pipeline.ready_owed() == 4);
    talk.hear("G");
    CHECK_FALSE(talk.pipeline.copying_in());  // the end of the data is on its way
    CHECK(talk.pipeline.ready_owed() == 2);
    talk.hear("CZCZ");
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("CopyFail makes the server fail: a Query answers its error and is ready") {
    Talk talk;
    talk.send(R::query);
    talk.hear("G");
    talk.send(R::copy_end);
    talk.hear("EZ");
    CHECK(talk.pipeline.idle());
    CHECK_FALSE(talk.pipeline.uncertain());
  }

  TEST_CASE("CopyFail makes the server fail: an Execute skips to the Sync behind it") {
    Talk talk;
    for (const R request : {R::parse, R::bind, R::execute}) talk.send(request);
    talk.hear("12G");
    talk.send(R::copy_end);
    talk.send(R::sync);
    talk.hear("EZ");
    CHECK(talk.pipeline.idle());
    CHECK_FALSE(talk.pipeline.uncertain());
  }

  TEST_CASE("the server fails among the data of a Query: what comes late of them is ignored") {
    Talk talk;
    talk.send(R::query);
    talk.hear("G");
    talk.hear("EZ");
    CHECK(talk.pipeline.idle());
    CHECK_FALSE(talk.pipeline.copying_in());
    talk.send(R::copy_end);
    CHECK(talk.pipeline.idle());
    talk.send(R::sync);  // no COPY any more: it is answered
    CHECK(talk.pipeline.ready_owed() == 1);
    talk.hear("Z");
    CHECK(talk.pipeline.idle());
    CHECK_FALSE(talk.pipeline.uncertain());
  }

  TEST_CASE("the server fails among the data of an Execute: it skips to the Sync behind CopyDone") {
    Talk talk;
    talk.send(R::execute);
    talk.hear("G");
    talk.hear("E");
    CHECK(talk.pipeline.skipping());
    CHECK_FALSE(talk.pipeline.copying_in());
    talk.send(R::copy_end);
    CHECK(talk.pipeline.skipping());
    talk.send(R::sync);
    talk.hear("Z");
    CHECK(talk.pipeline.idle());
    CHECK_FALSE(talk.pipeline.uncertain());
  }

  TEST_CASE("CopyDone behind a statement that turned out to be no COPY is ignored") {
    Talk talk;
    for (const R request :
         {R::query, R::copy_end, R::query, R::copy_end, R::execute, R::copy_end, R::sync})
      talk.send(request);
    talk.hear("EZ");
    CHECK(talk.answered('C') == 0);
    CHECK(talk.answered('Z') == 3);
    CHECK(talk.answered('E') == 5);
    CHECK(talk.skipped() == std::vector<std::uint32_t>{5, 6});
    CHECK(talk.answered('Z') == 7);
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("COPYs one behind the other, sent without waiting") {
    Talk talk;
    for (const R request : {R::query, R::copy_end, R::query, R::copy_end}) talk.send(request);
    talk.hear("GCZ");
    CHECK(talk.pipeline.depth() == 2);
    talk.hear("GCZ");
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("two COPYs in one Query each take their own data, and a Sync among either is ignored") {
    Talk talk;
    talk.send(R::query);
    talk.hear("G");
    talk.send(R::copy_end);
    talk.hear("CG");
    CHECK(talk.pipeline.copying_in());
    talk.send(R::sync);
    CHECK(talk.pipeline.ready_owed() == 1);
    talk.send(R::copy_end);
    talk.hear("CZ");
    CHECK(talk.pipeline.idle());
    CHECK_FALSE(talk.pipeline.uncertain());
  }

  TEST_CASE("COPY TO streams to its CommandComplete") {
    Talk talk;
    talk.send(R::query);
    talk.hear("HdddcCZ");
    CHECK(talk.pipeline.idle());
    talk.send(R::execute);
    talk.send(R::sync);
    talk.hear("HddcC");
    CHECK(talk.pipeline.depth() == 1);
    talk.hear("Z");
    CHECK(talk.pipeline.idle());
    talk.send(R::execute);
    talk.send(R::sync);
    talk.hear("HdEZ");
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("a Sync among the data of a COPY that fails leaves it open how many answers are due") {
    // Read before the failure it is ignored, read after it it is answered.
    for (const R copy : {R::query, R::execute}) {
      Talk talk;
      talk.send(copy);
      talk.hear("G");
      talk.send(R::sync);
      CHECK_FALSE(talk.pipeline.uncertain());
      talk.hear(copy == R::query ? "EZ" : "E");
      CHECK(talk.pipeline.uncertain());
    }
  }

  TEST_CASE("a Sync among the data is forgotten with its COPY when that succeeds") {
    for (const R copy : {R::query, R::execute}) {
      Talk talk;
      talk.send(copy);
      talk.hear("G");
      talk.send(R::sync);
      talk.send(R::copy_end);
      if (copy == R::execute) talk.send(R::sync);
      talk.hear("CZ");
      talk.send(R::parse);
      talk.send(R::sync);
      talk.hear("EZ");
      talk.send(R::query);
      talk.hear("EZ");
      CHECK(talk.pipeline.idle());
      CHECK_FALSE(talk.pipeline.uncertain());
    }
  }

  TEST_CASE("a COPY that fails before it reads the Sync behind its Execute: that one is answered") {
    // A statement trigger raises an error: no data has been read, and no Sync either.
    Talk talk;
    talk.send(R::execute);
    talk.send(R::sync);
    talk.hear("GE");
    CHECK(talk.pipeline.uncertain());
    CHECK(talk.pipeline.skipping());
    const auto verdict = talk.hear("Z");
    CHECK(verdict.ready);
    CHECK_FALSE(verdict.swallow);
    CHECK(verdict.answered.request == R::sync);
    CHECK(talk.pipeline.idle());
    CHECK(talk.pipeline.ready_owed() == 0);
    CHECK(talk.unexpected('Z'));
  }

  TEST_CASE("a COPY that fails with a Sync behind its Execute and one behind its data") {
    // The first may have been read or not, so one ReadyForQuery is due or two. The client goes on
    // after the first; nobody else may have this server.
    Talk talk;
    talk.send(R::execute);
    talk.send(R::sync);
    talk.hear("G");
    talk.send(R::copy_end);
    talk.send(R::sync);
    talk.hear("EZ");
    CHECK(talk.pipeline.idle());
    CHECK(talk.pipeline.uncertain());
  }

  TEST_CASE("a COPY that fails without a Sync before the end of its data is an ordinary failure") {
    Talk talk;
    talk.send(R::execute);
    talk.hear("G");
    talk.send(R::copy_end);
    talk.send(R::sync);
    talk.send(R::query);
    talk.hear("EZ");
    talk.hear("CZ");
    CHECK(talk.pipeline.idle());
    CHECK_FALSE(talk.pipeline.uncertain());
  }
}

// --- a client, Postgres's protocol loop, and the pipeline between them ---------------------------

// Random clients talk to a model of the loop in which Postgres reads messages: what it skips, what
// it ignores, when it is ready. Messages and answers travel at their own pace. Every answer carries
// the number of the request that the server was serving, and the pipeline must find the same.
namespace {

class Play {
 public:
  explicit Play(std::uint64_t seed) : random_(seed) {}

  const std::string& problem() const { return problem_; }
  bool was_uncertain() const { return pipeline_.uncertain(); }
  std::size_t answers() const { return delivered_; }
  std::size_t copies() const { return copies_; }

  void run(int steps) {
    for (int step = 0; step < steps && going_on(); ++step) {
      switch (below(4)) {
        case 0: client_step(); break;
        case 1:
          server_step();
          break;
        default: deliver();
      }
      check_always();
      if (below(40) == 0) drain();
    }
    // The client comes to an end, and so does everything that it is owed.
    for (int round = 0; round < 200 && going_on(); ++round) {
      drain();
      if (client_ != Client::normal) {
        client_step();
        continue;
      }
      if (!pipeline_.open_sequence()) break;
      send(R::sync);
    }
    drain();
    if (!going_on()) return;
    if (!pipeline_.idle()) fail("not idle at the end");
    if (pipeline_.depth() != 0) fail("something owed at the end");
    if (pipeline_.ready_owed() != 0) fail("a ReadyForQuery owed at the end");
    if (pipeline_.copying_in()) fail("copying at the end");
  }

 private:
  // What a Query or an Execute does, decided when it is sent.
  enum class Act { works, rows, empty, suspends, fails, fails_late, copies_in, copies_out };
  struct Sent {
    R request = R::query;
    For whom = For::client;
    std::vector<Act> acts;  // a Query may have several
    bool fails = false;     // the others
    bool taken = false, skipped = false;  // local ones
    bool copy_failed = false;
  };
  // On the wire: a request by its number, or 'd', 'c', 'f', 'H'.
  struct Message {
    char type;
    std::uint32_t id;
  };
  struct Answer {
    char type;  // 'L': here the local answer `id` is due
    std::uint32_t id;
  };
  enum class Client { normal, awaits_copy, copies };

  std::size_t below(std::size_t n) { return static_cast<std::size_t>(random_() % n); }
  bool chance(std::size_t percent) { return below(100) < percent; }
  bool going_on() const { return problem_.empty() && !pipeline_.uncertain(); }
  void fail(const std::string& what) {
    if (problem_.empty()) problem_ = what + "\n" + log_;
  }
  static bool is_extended(R request) {
    return request != R::query && request != R::function_call && request != R::sync;
  }

  // --- the client ---

  std::uint32_t send(R request, For whom = For::client, std::vector<Act> acts = {}) {
    const auto id = static_cast<std::uint32_t>(sent_.size());
    sent_.push_back({.request = request, .whom = whom, .acts = std::move(acts)});
    Sent& made = sent_.back();
    made.fails = whom == For::doomed || (whom != For::local && chance(request == R::sync ? 3 : 8));
    to_server_.push_back({'m', id});
    log_ += " >" + std::to_string(id) + ":" + std::to_string(static_cast<int>(request));
    if (whom != For::client) log_ += "w" + std::to_string(static_cast<int>(whom));
    pipeline_.sent({request, whom, id});
    take_locals();
    return id;
  }
  void send_data() {
    log_ += " >d";
    to_server_.push_back({'d', 0});
  }
  void send_flush() { to_server_.push_back({'H', 0}); }
  void send_copy_end() {
    const char type = chance(75) ? 'c' : 'f';
    log_ += std::string(" >") + type;
    to_server_.push_back({type, 0});
    pipeline_.sent({R::copy_end});
  }

  Act random_act(bool extended) {
    switch (below(extended ? 13 : 12)) {
      case 0:
      case 1: return Act::rows;
      case 2: return Act::empty;
      case 3: return Act::fails;
      case 4: return Act::fails_late;
      case 5: return Act::copies_out;
      case 6:
      case 7: return Act::copies_in;
      case 12: return Act::suspends;
      default: return Act::works;
    }
  }

  void client_step() {
    switch (client_) {
      case Client::awaits_copy:
        // It has given up if all is said and no COPY came of it.
        if (taking_seen_) {
          client_ = Client::copies;
        } else if (failure_seen_ || quiet()) {
          client_ = Client::normal;
        }
        return;
      case Client::copies: copy_step(); return;
      case Client::normal: break;
    }
    switch (below(24)) {
      case 0:
      case 1:
      case 2: {
        std::vector<Act> acts;
        for (std::size_t n = chance(80) ? 1 : below(3) + 1; n > 0; --n)
          acts.push_back(random_act(false));
        execute(R::query, std::move(acts));
        break;
      }
      case 3: send(R::function_call); break;
      case 4:
      case 5: send(R::parse); break;
      case 6:
      case 7: send(R::bind); break;
      case 8: send(R::describe_statement); break;
      case 9: send(R::describe_portal); break;
      case 10:
      case 11:
      case 12: execute(R::execute, {random_act(true)}); break;
      case 13: send(R::close); break;
      case 14: send_flush(); break;
      case 15: send(R::parse, For::nobody); break;
      case 16: send(R::close, For::nobody); break;
      case 17: send(R::parse, For::doomed); break;
      case 18: send(R::parse, For::local); break;
      case 19: send(R::close, For::local); break;
      case 20:
        if (pipeline_.idle()) send(R::query, For::nobody, {Act::works});
        break;
      case 21:  // too late, for a COPY that has failed; Postgres ignores them
        if (chance(50)) send_data();
        if (chance(50)) send_copy_end();
        break;
      default: send(R::sync);
    }
  }

  void execute(R request, std::vector<Act> acts) {
    const bool copies = std::find(acts.begin(), acts.end(), Act::copies_in) != acts.end();
    copy_by_ = request;
    taking_seen_ = failure_seen_ = false;
    const std::size_t ends = static_cast<std::size_t>(
        std::count(acts.begin(), acts.end(), Act::copies_in));
    const std::uint32_t id = send(request, For::client, std::move(acts));
    copy_id_ = id;
    if (!copies) return;
    if (chance(request == R::execute ? 40 : 5)) {
      // As libpq does: with its parameters goes the whole sequence at once.
      risky_.push_back(id);
      send(R::sync);
    }
    if (chance(50)) {
      client_ = Client::awaits_copy;
      return;
    }
    // All at once, without waiting for the server's word.
    for (std::size_t i = 0; i < ends; ++i) {
      for (std::size_t n = below(3); n > 0; --n) send_data();
      send_copy_end();
    }
    if (request == R::execute && chance(70)) send(R::sync);
  }

  void copy_step() {
    if (failure_seen_) {
      if (chance(50)) send_copy_end();
      if (copy_by_ == R::execute && chance(80)) send(R::sync);
      client_ = Client::normal;
      return;
    }
    switch (below(8)) {
      case 0:
      case 1:
      case 2: send_data(); break;
      case 3: send_flush(); break;
      case 4:
        if (chance(10)) {
          risky_.push_back(copy_id_);
          send(R::sync);
        }
        break;
      default:
        taking_seen_ = false;
        send_copy_end();
        if (copy_by_ == R::execute) {
          send(R::sync);
          client_ = Client::normal;
        } else {
          client_ = Client::awaits_copy;  // the Query may have another
        }
    }
  }

  // --- the server ---

  void say(char type, std::uint32_t id) {
    if (chance(5)) to_client_.push_back({"NSA"[below(3)], kNobodysAnswer});
    to_client_.push_back({type, id});
  }
  void server_fails(std::uint32_t id) {
    say('E', id);
    if (is_extended(sent_[id].request)) {
      ignoring_ = true;
    } else {
      say('Z', id);
    }
    acts_.clear();
  }

  // One message, or one step of what is being done. False: nothing to do.
  bool server_step() {
    if (in_copy_) return copy_in_step();
    if (!acts_.empty()) {
      act();
      return true;
    }
    if (to_server_.empty()) return false;
    const Message message = to_server_.front();
    to_server_.pop_front();
    if (message.type != 'm') return true;  // Flush, or COPY data that nobody waits for
    const std::uint32_t id = message.id;
    Sent& sent = sent_[id];
    if (sent.request == R::sync) ignoring_ = false;
    if (is_extended(sent.request)) open_ = true;
    if (sent.whom == For::local) {
      sent.skipped = ignoring_;
      if (!ignoring_) to_client_.push_back({'L', id});
      return true;
    }
    if (ignoring_) {
      sent.skipped = true;
      return true;
    }
    if (!is_extended(sent.request)) open_ = false;
    if (sent.request == R::query || sent.request == R::execute) {
      serving_ = id;
      acts_.assign(sent.acts.begin(), sent.acts.end());
      return true;
    }
    if (sent.fails) {
      if (sent.request == R::describe_statement && chance(50)) say('t', id);
      server_fails(id);
      return true;
    }
    switch (sent.request) {
      case R::function_call:
        say('V', id);
        say('Z', id);
        break;
      case R::parse: say('1', id); break;
      case R::bind: say('2', id); break;
      case R::describe_statement:
        say('t', id);
        say(chance(50) ? 'T' : 'n', id);
        break;
      case R::describe_portal: say(chance(50) ? 'T' : 'n', id); break;
      case R::close: say('3', id); break;
      default: say('Z', id);
    }
    return true;
  }

  void act() {
    const std::uint32_t id = serving_;
    const bool simple = sent_[id].request == R::query;
    const Act doing = acts_.front();
    acts_.pop_front();
    const auto rows = [&] {
      if (simple) say('T', id);
      for (std::size_t n = below(3); n > 0; --n) say('D', id);
    };
    switch (doing) {
      case Act::works: say('C', id); break;
      case Act::rows:
        rows();
        say('C', id);
        break;
      case Act::empty: say('I', id); break;
      case Act::suspends:
        rows();
        say('s', id);
        break;
      case Act::fails: server_fails(id); return;
      case Act::fails_late:
        rows();
        server_fails(id);
        return;
      case Act::copies_out:
        say('H', id);
        for (std::size_t n = below(3); n > 0; --n) say('d', id);
        if (chance(20)) {
          server_fails(id);
          return;
        }
        say('c', id);
        say('C', id);
        break;
      case Act::copies_in:
        say('G', id);
        ++copies_;
        in_copy_ = true;
        trigger_fails_ = chance(10);
        return;
    }
    if (simple && acts_.empty()) say('Z', id);
  }

  bool copy_in_step() {
    const std::uint32_t id = serving_;
    const auto fails = [&] {
      in_copy_ = false;
      sent_[id].copy_failed = true;
      server_fails(id);
    };
    if (trigger_fails_) {
      trigger_fails_ = false;
      fails();
      return true;
    }
    if (to_server_.empty()) return false;
    const Message message = to_server_.front();
    to_server_.pop_front();
    switch (message.type) {
      case 'd':
        if (chance(10)) fails();
        return true;
      case 'c':
        in_copy_ = false;
        say('C', id);
        if (sent_[id].request == R::query && acts_.empty()) say('Z', id);
        return true;
      case 'f': fails(); return true;
      case 'H': return true;
      default:
        if (sent_[message.id].request != R::sync) fail("the test's client talks into a COPY");
        sent_[message.id].skipped = true;
        return true;
    }
  }

  // --- between them ---

  void deliver() {
    if (to_client_.empty() || !going_on()) return;
    const Answer answer = to_client_.front();
    to_client_.pop_front();
    if (answer.type == 'L') {
      if (!sent_[answer.id].taken) fail("a local answer is late: " + std::to_string(answer.id));
      return;
    }
    log_ += std::string(" <") + answer.type + std::to_string(answer.id);
    ++delivered_;
    const std::uint32_t owed = pipeline_.ready_owed();
    const Pipeline::Verdict verdict = pipeline_.on_answer(answer.type);
    if (client_ != Client::normal && answer.id == copy_id_) {
      taking_seen_ |= answer.type == 'G';
      failure_seen_ |= answer.type == 'E';
    }
    if (pipeline_.uncertain()) {
      if (!open_end()) fail("uncertain without a reason");
      return;
    }
    if (verdict.unexpected) return fail("unexpected");
    if (answer.id == kNobodysAnswer) {
      if (verdict.completes) fail("somebody's notice");
      return;
    }
    Sent& sent = sent_[answer.id];
    if (verdict.swallow != (sent.whom == For::nobody || sent.whom == For::doomed))
      fail("swallowed or not");
    if (verdict.ready != (answer.type == 'Z')) fail("ready or not");
    const bool for_client = sent.whom == For::client;
    if (answer.type == 'Z' && pipeline_.ready_owed() != owed - (for_client ? 1U : 0U))
      fail("owes the wrong number after being ready");
    const bool simple = !is_extended(sent.request);
    const bool completes =
        answer.type == 'Z' || answer.type == 'E' ||
        (!simple && std::string_view("123nTCIs").find(answer.type) != std::string_view::npos);
    if (completes != verdict.completes) return fail("answered or not");
    if (!completes) return;
    if (verdict.answered.tag != answer.id) fail("the answer of another request");
    if (answer.type == 'E') check_skipped(answer.id, !simple);
    take_locals();
  }

  // After an error: the failed request first, then all that were sent up to the next Sync.
  void check_skipped(std::uint32_t failed, bool extended) {
    std::vector<std::uint32_t> expected;
    for (std::uint32_t id = failed; extended && id < sent_.size(); ++id) {
      if (sent_[id].request == R::sync) break;
      expected.push_back(id);
    }
    std::vector<std::uint32_t> got;
    for (const Pipeline::Entry& entry : pipeline_.skipped())
      if (entry.request != R::copy_end) got.push_back(entry.tag);
    // A Sync that COPY has read is no end.
    if (extended && sent_[failed].request == R::execute && got != expected) {
      while (!expected.empty() && expected.back() != failed) expected.pop_back();
      if (got.empty() || got.front() != failed) fail("skipped the wrong ones");
      return;
    }
    if (got != expected) fail("skipped the wrong ones");
    for (const std::uint32_t id : got)
      if (sent_[id].taken) fail("a local answer that must not be: " + std::to_string(id));
  }

  void take_locals() {
    while (const auto local = pipeline_.take_local()) {
      Sent& sent = sent_[local->tag];
      log_ += " <L" + std::to_string(local->tag);
      if (sent.whom != For::local || sent.taken || sent.skipped) fail("not a local answer");
      sent.taken = true;
      for (const Message& message : to_server_)
        if (message.type == 'm' && message.id < local->tag && sent_[message.id].whom != For::local)
          fail("a local answer before the server was asked");
      for (const Answer& answer : to_client_)
        if (answer.id != kNobodysAnswer && answer.id < local->tag && answer.type != 'L')
          fail("a local answer before its turn");
    }
  }

  // A Sync among COPY data that failed: it may or may not have been read.
  bool open_end() const {
    return std::any_of(risky_.begin(), risky_.end(),
                       [this](std::uint32_t id) { return sent_[id].copy_failed; });
  }
  bool quiet() const {
    return to_server_.empty() && to_client_.empty() && acts_.empty() && !trigger_fails_;
  }

  void drain() {
    while (going_on()) {
      if (server_step()) continue;
      if (to_client_.empty()) break;
      deliver();
    }
    if (!going_on()) return;
    if (pipeline_.copying_in() != in_copy_) fail("copying or not");
    if (pipeline_.skipping() != ignoring_) fail("skipping or not");
    if (pipeline_.open_sequence() != open_) fail("open or not");
    if (pipeline_.nothing_owed() == in_copy_) fail("nothing owed or something");
    const bool simple_copy = in_copy_ && sent_[serving_].request == R::query;
    if (pipeline_.ready_owed() != (simple_copy ? 1U : 0U)) fail("ready_owed at rest");
    for (const Sent& sent : sent_)
      if (sent.whom == For::local && sent.taken == sent.skipped) fail("a local answer is missing");
  }

  void check_always() {
    if (!going_on() || open_end()) return;
    // Whoever gets the server next must not get this client's answers.
    if (pipeline_.idle()) {
      if (in_copy_ || !acts_.empty()) fail("idle while the server works");
      for (const Message& message : to_server_)
        if (message.type == 'm' && sent_[message.id].whom != For::local)
          fail("idle with a request on its way");
      for (const Answer& answer : to_client_)
        if (answer.id != kNobodysAnswer && answer.type != 'L') fail("idle with an answer to come");
    }
    std::uint32_t coming = 0;
    for (const Answer& answer : to_client_)
      if (answer.type == 'Z' && sent_[answer.id].whom == For::client) ++coming;
    if (pipeline_.ready_owed() < coming) fail("a ReadyForQuery comes that is not owed");
  }

  static constexpr std::uint32_t kNobodysAnswer = UINT32_MAX;

  std::mt19937_64 random_;
  Pipeline pipeline_;
  std::vector<Sent> sent_;
  std::deque<Message> to_server_;
  std::deque<Answer> to_client_;
  std::string problem_, log_;
  std::size_t delivered_ = 0, copies_ = 0;

  Client client_ = Client::normal;
  R copy_by_ = R::query;
  std::uint32_t copy_id_ = 0;
  bool taking_seen_ = false, failure_seen_ = false;  // by the client that waits for its COPY

  bool ignoring_ = false, open_ = false, in_copy_ = false;
  bool trigger_fails_ = false;
  std::uint32_t serving_ = 0;
  std::deque<Act> acts_;

  std::vector<std::uint32_t> risky_;  // COPYs that had a Sync among them before their data ended
};

}  // namespace

TEST_SUITE("proxy/wire/pipeline against a model of Postgres") {
  TEST_CASE("requirement 17: whatever a client sends, each answer finds its request, and the end is idle") {
    auto random = support::rng(4);
    std::size_t answers = 0, copies = 0, uncertain = 0;
    for (int run = 0; run < 400; ++run) {
      const std::uint64_t seed = random();
      Play play(seed);
      play.run(500);
      INFO("play ", seed);
      REQUIRE(play.problem() == "");
      answers += play.answers();
      copies += play.copies();
      uncertain += play.was_uncertain() ? 1U : 0U;
    }
    // The dice have played what this is about.
    CHECK(answers > 10'000);
    CHECK(copies > 500);
    CHECK(uncertain > 0);
    CHECK(uncertain < 200);
  }
}
