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
using wire::Request;

namespace {

using enum wire::Request;

// A pipeline, and words to play with it.
struct Talk {
  Pipeline pipeline;
  std::uint32_t last_tag = 0;

  std::uint32_t send(Request request, For whom = For::client) {
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
    return verdict.answered ? verdict.answered->tag : 0;
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

  TEST_CASE("a simple Query ends with its ReadyForQuery, whatever it answered before") {
    for (const std::string_view answer : {"TDDC", "C", "I", "CTDCI", "Hddc", "HddcC", "E", "TDE"}) {
      Talk talk;
      talk.send(query);
      CHECK(talk.pipeline.ready_owed() == 1);
      talk.hear(answer);
      CHECK_FALSE(talk.pipeline.idle());
      const auto verdict = talk.hear("Z");
      CHECK(verdict.ready);
      CHECK(verdict.answered->tag == 1);
      CHECK(talk.pipeline.ready_owed() == 0);
      CHECK(talk.pipeline.idle());
    }
  }

  TEST_CASE("an extended sequence: each request has its answer, and the Sync its ReadyForQuery") {
    Talk talk;
    for (const Request request :
         {parse, bind, describe_statement, describe_statement, describe_portal, describe_portal,
          execute, execute, execute, close, sync})
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
    const std::vector<std::pair<Request, std::string_view>> fitting = {
        {query, "TDCIGHdcEZ"}, {function_call, "VEZ"},        {parse, "1E"},
        {bind, "2E"},          {describe_statement, "tTnE"},  {describe_portal, "TnE"},
        {execute, "DCIsGHdcE"}, {close, "3E"},                {sync, "ZE"}};
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

  TEST_CASE("notices, notifications and parameters answer nothing") {
    Talk talk;
    CHECK_FALSE(talk.hear("NAS").answered.has_value());
    talk.send(parse);
    talk.send(sync);
    for (const char type : {'N', 'A', 'S'}) {
      const auto verdict = talk.hear(std::string_view(&type, 1));
      CHECK_FALSE(verdict.answered.has_value());
      CHECK_FALSE(verdict.swallow);
      CHECK_FALSE(verdict.ready);
    }
    CHECK(talk.answered('1') == 1);
  }

  TEST_CASE("after Flush the answers come, and the sequence stays open until the Sync") {
    Talk talk;
    talk.send(parse);
    talk.send(describe_statement);
    talk.hear("1tT");
    CHECK(talk.pipeline.nothing_owed());
    CHECK(talk.pipeline.open_sequence());
    CHECK_FALSE(talk.pipeline.idle());
    CHECK(talk.pipeline.ready_owed() == 0);
    talk.send(sync);
    CHECK_FALSE(talk.pipeline.open_sequence());
    talk.hear("Z");
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("a Sync alone is answered") {
    Talk talk;
    talk.send(sync);
    talk.send(sync);
    CHECK(talk.pipeline.ready_owed() == 2);
    talk.hear("ZZ");
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("an error skips everything up to the Sync, which is still answered") {
    Talk talk;
    for (const Request request : {parse, bind, execute, close, sync, parse, sync})
      talk.send(request);
    talk.hear("1");
    const auto verdict = talk.hear("E");
    CHECK(verdict.answered->request == bind);
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
    for (const Request request : {parse, bind, describe_statement, describe_portal, execute, close}) {
      Talk talk;
      talk.send(request);
      talk.send(execute);
      talk.send(sync);
      talk.hear("E");
      CHECK(talk.skipped() == std::vector<std::uint32_t>{1, 2});
      talk.hear("Z");
      CHECK(talk.pipeline.idle());
    }
  }

  TEST_CASE("an Execute may fail after rows, and a described statement after its parameters") {
    Talk talk;
    talk.send(execute);
    talk.send(sync);
    talk.hear("DDEZ");
    CHECK(talk.pipeline.idle());
    talk.send(describe_statement);
    talk.send(sync);
    talk.hear("tEZ");
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("a failed sequence without its Sync yet swallows all that is sent, Queries too") {
    Talk talk;
    talk.send(parse);
    talk.hear("E");
    CHECK(talk.pipeline.skipping());
    CHECK(talk.pipeline.open_sequence());
    CHECK_FALSE(talk.pipeline.idle());
    for (const Request request : {bind, execute, query, function_call, close, copy_end})
      talk.send(request);
    talk.send(parse, For::nobody);
    talk.send(parse, For::doomed);
    talk.send(parse, For::local);
    CHECK(talk.pipeline.depth() == 0);
    CHECK(talk.pipeline.ready_owed() == 0);
    CHECK_FALSE(talk.pipeline.take_local().has_value());
    CHECK(talk.pipeline.skipping());
    talk.send(sync);
    CHECK_FALSE(talk.pipeline.skipping());
    CHECK(talk.pipeline.ready_owed() == 1);
    talk.hear("Z");
    CHECK(talk.pipeline.idle());
    talk.send(query);
    talk.hear("CZ");
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("a simple Query and a FunctionCall among what is skipped are not answered") {
    Talk talk;
    for (const Request request : {parse, query, function_call, sync}) talk.send(request);
    CHECK(talk.pipeline.ready_owed() == 3);
    talk.hear("E");
    CHECK(talk.skipped() == std::vector<std::uint32_t>{1, 2, 3});
    CHECK(talk.pipeline.ready_owed() == 1);
    talk.hear("Z");
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("a simple Query inside an extended sequence is answered in its place and ends it") {
    Talk talk;
    talk.send(parse);
    talk.send(query);
    CHECK_FALSE(talk.pipeline.open_sequence());
    talk.hear("1TDC");
    CHECK(talk.answered('Z') == 2);
    CHECK(talk.pipeline.idle());
    talk.send(sync);
    talk.hear("Z");
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("the error of a Query skips nothing behind it") {
    Talk talk;
    talk.send(parse);
    talk.send(query);
    talk.send(bind);
    talk.send(sync);
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
    talk.send(function_call);
    talk.send(function_call);
    talk.hear("EZVZ");
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("an error at the Sync, where the commit fails, skips nothing behind it") {
    Talk talk;
    for (const Request request : {execute, sync, parse, sync}) talk.send(request);
    talk.hear("C");
    const auto verdict = talk.hear("E");
    CHECK(verdict.answered->request == sync);
    CHECK(talk.skipped().empty());
    CHECK(talk.pipeline.ready_owed() == 2);
    CHECK(talk.answered('Z') == 2);
    CHECK(talk.answered('1') == 3);
    CHECK(talk.answered('Z') == 4);
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("what we asked for ourselves is swallowed, with what comes meanwhile") {
    Talk talk;
    talk.send(query, For::nobody);
    talk.send(parse, For::nobody);
    talk.send(bind);
    talk.send(sync);
    CHECK(talk.pipeline.ready_owed() == 1);
    for (const char type : {'S', 'N', 'C'}) CHECK(talk.hear(std::string_view(&type, 1)).swallow);
    const auto ready = talk.hear("Z");
    CHECK(ready.swallow);
    CHECK(ready.answered->whom == For::nobody);
    CHECK(talk.pipeline.ready_owed() == 1);
    CHECK(talk.hear("1").swallow);
    CHECK_FALSE(talk.hear("2").swallow);
    CHECK_FALSE(talk.hear("S").swallow);
    CHECK_FALSE(talk.hear("Z").swallow);
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("a request that must fail has its error swallowed, and the rest is skipped") {
    Talk talk;
    talk.send(parse, For::doomed);
    talk.send(bind);
    talk.send(sync);
    const auto verdict = talk.hear("E");
    CHECK(verdict.swallow);
    CHECK(verdict.answered->whom == For::doomed);
    CHECK(talk.skipped() == std::vector<std::uint32_t>{1, 2});
    CHECK_FALSE(talk.hear("Z").swallow);
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("a local answer is due at once when nothing else is") {
    Talk talk;
    talk.send(parse, For::local);
    CHECK(talk.pipeline.local_is_due());
    CHECK(talk.pipeline.take_local()->tag == 1);
    CHECK_FALSE(talk.pipeline.local_is_due());
    CHECK_FALSE(talk.pipeline.take_local().has_value());
    CHECK(talk.pipeline.nothing_owed());
    CHECK(talk.pipeline.open_sequence());
    talk.send(sync);
    talk.hear("Z");
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("a local answer waits for everything before it, and those behind wait for it") {
    Talk talk;
    talk.send(bind);
    talk.send(parse, For::local);
    talk.send(close, For::local);
    talk.send(execute);
    talk.send(parse, For::local);
    talk.send(sync);
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
    talk.send(parse);
    talk.send(parse, For::local);
    talk.send(sync);
    talk.send(parse, For::local);
    talk.send(sync);
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
    for (std::uint32_t i = 0; i < kDepth; ++i) talk.send(i % 4 == 3 ? sync : execute);
    CHECK(talk.pipeline.depth() == kDepth);
    CHECK(talk.pipeline.ready_owed() == kDepth / 4);
    bool right = true;
    for (std::uint32_t i = 0; i < kDepth; ++i)
      right &= talk.pipeline.on_answer(i % 4 == 3 ? 'Z' : 'C').answered->tag == i + 1;
    CHECK(right);
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("a window that moves on for long keeps its order and does not grow") {
    Talk talk;
    std::uint32_t expected = 0;
    bool right = true;
    for (int i = 0; i < 100; ++i) talk.send(query);
    for (int i = 0; i < 20'000; ++i) {
      talk.send(query);
      right &= talk.pipeline.on_answer('Z').answered->tag == ++expected;
      right &= talk.pipeline.depth() == 100;
    }
    CHECK(right);
    CHECK(talk.pipeline.ready_owed() == 100);
  }

  TEST_CASE("clear() forgets everything") {
    Talk talk;
    talk.send(parse);
    talk.hear("E");
    talk.send(sync);
    talk.pipeline.clear();
    CHECK(talk.pipeline.idle());
    CHECK(talk.pipeline.ready_owed() == 0);
    CHECK_FALSE(talk.pipeline.skipping());
  }
}

TEST_SUITE("proxy/wire/pipeline COPY") {
  TEST_CASE("COPY FROM by a simple Query takes data until CopyDone") {
    Talk talk;
    talk.send(query);
    talk.hear("G");
    CHECK(talk.pipeline.copying_in());
    CHECK_FALSE(talk.pipeline.idle());
    talk.pipeline.sent_copy_data();
    talk.send(copy_end);
    CHECK_FALSE(talk.pipeline.copying_in());
    talk.hear("CZ");
    CHECK(talk.pipeline.idle());
    CHECK(talk.pipeline.depth() == 0);
  }

  TEST_CASE("COPY FROM by an Execute: a Sync right behind it, and those among the data, are ignored") {
    Talk talk;
    talk.send(execute);
    talk.send(sync);
    CHECK(talk.pipeline.ready_owed() == 1);
    talk.hear("G");
    CHECK(talk.pipeline.copying_in());
    CHECK(talk.pipeline.ready_owed() == 0);
    CHECK(talk.pipeline.open_sequence());
    talk.pipeline.sent_copy_data();
    talk.send(sync);
    CHECK(talk.pipeline.ready_owed() == 0);
    talk.pipeline.sent_copy_data();
    talk.send(copy_end);
    talk.send(sync);
    CHECK(talk.pipeline.ready_owed() == 1);
    CHECK(talk.hear("C").answered->request == execute);
    CHECK_FALSE(talk.pipeline.uncertain());
    talk.hear("Z");
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("several Syncs right behind the Execute are ignored, and the one behind CopyDone is not") {
    Talk talk;
    for (const Request request : {execute, sync, sync, copy_end, sync, execute, sync})
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
    talk.send(query);
    talk.hear("G");
    talk.pipeline.sent_copy_data();
    talk.send(copy_end);
    talk.hear("EZ");
    CHECK(talk.pipeline.idle());
    CHECK_FALSE(talk.pipeline.uncertain());
  }

  TEST_CASE("CopyFail makes the server fail: an Execute skips to the Sync behind it") {
    Talk talk;
    for (const Request request : {parse, bind, execute}) talk.send(request);
    talk.hear("12G");
    talk.send(copy_end);
    talk.send(sync);
    talk.hear("EZ");
    CHECK(talk.pipeline.idle());
    CHECK_FALSE(talk.pipeline.uncertain());
  }

  TEST_CASE("the server fails among the data of a Query: data and CopyDone that come late are ignored") {
    Talk talk;
    talk.send(query);
    talk.hear("G");
    talk.pipeline.sent_copy_data();
    talk.hear("EZ");
    CHECK(talk.pipeline.idle());
    CHECK_FALSE(talk.pipeline.copying_in());
    talk.pipeline.sent_copy_data();
    talk.send(copy_end);
    CHECK(talk.pipeline.idle());
    talk.send(sync);  // no COPY any more: it is answered
    CHECK(talk.pipeline.ready_owed() == 1);
    talk.hear("Z");
    CHECK(talk.pipeline.idle());
    CHECK_FALSE(talk.pipeline.uncertain());
  }

  TEST_CASE("the server fails among the data of an Execute: it skips to the Sync behind CopyDone") {
    Talk talk;
    talk.send(execute);
    talk.hear("G");
    talk.pipeline.sent_copy_data();
    talk.hear("E");
    CHECK(talk.pipeline.skipping());
    CHECK_FALSE(talk.pipeline.copying_in());
    talk.pipeline.sent_copy_data();
    talk.send(copy_end);
    CHECK(talk.pipeline.skipping());
    talk.send(sync);
    talk.hear("Z");
    CHECK(talk.pipeline.idle());
    CHECK_FALSE(talk.pipeline.uncertain());
  }

  TEST_CASE("CopyDone behind a statement that turned out to be no COPY is ignored") {
    Talk talk;
    for (const Request request : {query, copy_end, query, copy_end, execute, copy_end, sync})
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
    for (const Request request : {query, copy_end, query, copy_end}) talk.send(request);
    talk.hear("GCZ");
    CHECK(talk.pipeline.depth() == 2);
    talk.hear("GCZ");
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("two COPYs in one Query each take their own data, and a Sync among either is ignored") {
    Talk talk;
    talk.send(query);
    talk.hear("G");
    talk.pipeline.sent_copy_data();
    talk.send(copy_end);
    talk.hear("CG");
    CHECK(talk.pipeline.copying_in());
    talk.send(sync);
    CHECK(talk.pipeline.ready_owed() == 1);
    talk.pipeline.sent_copy_data();
    talk.send(copy_end);
    talk.hear("CZ");
    CHECK(talk.pipeline.idle());
    CHECK_FALSE(talk.pipeline.uncertain());
  }

  TEST_CASE("COPY TO streams to its CommandComplete") {
    Talk talk;
    talk.send(query);
    talk.hear("HdddcCZ");
    CHECK(talk.pipeline.idle());
    talk.send(execute);
    talk.send(sync);
    talk.hear("HddcC");
    CHECK(talk.pipeline.depth() == 1);
    talk.hear("Z");
    CHECK(talk.pipeline.idle());
    talk.send(execute);
    talk.send(sync);
    talk.hear("HdEZ");
    CHECK(talk.pipeline.idle());
  }

  TEST_CASE("a Sync among the data of a COPY that fails leaves it open how many answers are due") {
    // Read before the failure it is ignored, read after it it is answered.
    for (const bool with_data : {false, true}) {
      for (const Request copy : {query, execute}) {
        Talk talk;
        talk.send(copy);
        talk.hear("G");
        if (with_data) talk.pipeline.sent_copy_data();
        talk.send(sync);
        CHECK_FALSE(talk.pipeline.uncertain());
        talk.hear(copy == query ? "EZ" : "E");
        CHECK(talk.pipeline.uncertain());
      }
    }
  }

  TEST_CASE("a Sync among the data is forgotten with its COPY when that succeeds") {
    for (const Request copy : {query, execute}) {
      Talk talk;
      talk.send(copy);
      talk.hear("G");
      talk.pipeline.sent_copy_data();
      talk.send(sync);
      talk.send(copy_end);
      if (copy == execute) talk.send(sync);
      talk.hear("CZ");
      talk.send(parse);
      talk.send(sync);
      talk.hear("EZ");
      talk.send(query);
      talk.hear("EZ");
      CHECK(talk.pipeline.idle());
      CHECK_FALSE(talk.pipeline.uncertain());
    }
  }

  TEST_CASE("a COPY that fails before it reads the Sync behind its Execute: that one is answered") {
    // A statement trigger raises an error: no data has been read, and no Sync either.
    Talk talk;
    talk.send(execute);
    talk.send(sync);
    talk.hear("GE");
    CHECK(talk.pipeline.uncertain());
    CHECK(talk.pipeline.skipping());
    const auto verdict = talk.hear("Z");
    CHECK(verdict.ready);
    CHECK_FALSE(verdict.swallow);
    CHECK(verdict.answered->request == sync);
    CHECK(talk.pipeline.idle());
    CHECK(talk.pipeline.ready_owed() == 0);
    CHECK(talk.unexpected('Z'));
  }

  TEST_CASE("bad data behind a Sync that was sent with the Execute is an ordinary failure") {
    Talk talk;
    talk.send(execute);
    talk.send(sync);
    talk.hear("G");
    talk.pipeline.sent_copy_data();
    talk.send(copy_end);
    talk.send(sync);
    talk.hear("EZ");
    CHECK(talk.pipeline.idle());
    CHECK_FALSE(talk.pipeline.uncertain());
  }
}
