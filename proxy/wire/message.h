#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "conf/check.h"
#include "conf/result.h"

// The grammar that every protocol 3 message shares: one type byte (absent in the very first packet
// of a connection), a big-endian length that counts itself but not the type, then the payload.
//
// Throughout this folder a *payload* is what follows the length. Decoders take payloads and return
// views into them; builders append whole messages to a std::string and never fail for a reason
// that a peer can cause.
namespace wire {

using conf::Result;

// The largest length word that Postgres accepts for any message (its MaxAllocSize - 1).
inline constexpr std::size_t kMaxMessageLength = 0x3ffffffe;
// Type byte and length word.
inline constexpr std::size_t kHeaderSize = 5;

// Message types, by who sends them: the same letter means different things in each direction.
namespace frontend {
inline constexpr char kBind = 'B';
inline constexpr char kClose = 'C';
inline constexpr char kCopyData = 'd';
inline constexpr char kCopyDone = 'c';
inline constexpr char kCopyFail = 'f';
inline constexpr char kDescribe = 'D';
inline constexpr char kExecute = 'E';
inline constexpr char kFlush = 'H';
inline constexpr char kFunctionCall = 'F';
inline constexpr char kParse = 'P';
inline constexpr char kPassword = 'p';  // also SASLInitialResponse, SASLResponse, GSSResponse
inline constexpr char kQuery = 'Q';
inline constexpr char kSync = 'S';
inline constexpr char kTerminate = 'X';
}  // namespace frontend

namespace backend {
inline constexpr char kAuthentication = 'R';
inline constexpr char kBackendKeyData = 'K';
inline constexpr char kBindComplete = '2';
inline constexpr char kCloseComplete = '3';
inline constexpr char kCommandComplete = 'C';
inline constexpr char kCopyBothResponse = 'W';
inline constexpr char kCopyData = 'd';
inline constexpr char kCopyDone = 'c';
inline constexpr char kCopyInResponse = 'G';
inline constexpr char kCopyOutResponse = 'H';
inline constexpr char kDataRow = 'D';
inline constexpr char kEmptyQueryResponse = 'I';
inline constexpr char kErrorResponse = 'E';
inline constexpr char kFunctionCallResponse = 'V';
inline constexpr char kNegotiateProtocolVersion = 'v';
inline constexpr char kNoData = 'n';
inline constexpr char kNoticeResponse = 'N';
inline constexpr char kNotificationResponse = 'A';
inline constexpr char kParameterDescription = 't';
inline constexpr char kParameterStatus = 'S';
inline constexpr char kParseComplete = '1';
inline constexpr char kPortalSuspended = 's';
inline constexpr char kReadyForQuery = 'Z';
inline constexpr char kRowDescription = 'T';
}  // namespace backend

// What a look at the first bytes of a message yields: the parts that were found, nothing when the
// bytes received so far are too few to tell, or an error when more bytes cannot help.
template <class T>
using Peek = Result<std::optional<T>>;

inline conf::Error malformed(std::string message) {
  return {conf::Errc::protocol, std::move(message)};
}

// Big-endian loads. The caller has checked that the bytes exist.
inline std::uint16_t load_u16(const char* at) {
  const auto byte = [at](int i) {
    return static_cast<unsigned>(static_cast<unsigned char>(at[i]));
  };
  return static_cast<std::uint16_t>(byte(0) << 8 | byte(1));
}
inline std::uint32_t load_u32(const char* at) {
  return static_cast<std::uint32_t>(load_u16(at)) << 16 | load_u16(at + 2);
}
inline void store_u32(char* at, std::uint32_t value) {
  at[0] = static_cast<char>(value >> 24);
  at[1] = static_cast<char>(value >> 16);
  at[2] = static_cast<char>(value >> 8);
  at[3] = static_cast<char>(value);
}

inline void append_u16(std::string& out, std::uint16_t value) {
  out.push_back(static_cast<char>(value >> 8));
  out.push_back(static_cast<char>(value));
}
inline void append_u32(std::string& out, std::uint32_t value) {
  char bytes[4];
  store_u32(bytes, value);
  out.append(bytes, sizeof bytes);
}
// A zero byte inside `text` would shift every field behind it, so the text ends there.
inline void append_cstring(std::string& out, std::string_view text) {
  out.append(text.substr(0, text.find('\0')));
  out.push_back('\0');
}

// Reads a payload front to back and cannot run off its end: a read that does not fit returns zero
// or nothing, and from then on ok() is false and so is every later read's result. Callers read all
// fields first and check once.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}

  std::uint8_t u8() {
    const std::string_view part = bytes(1);
    return part.empty() ? std::uint8_t{0} : static_cast<std::uint8_t>(part[0]);
  }
  std::uint16_t u16() {
    const std::string_view part = bytes(2);
    return part.empty() ? std::uint16_t{0} : load_u16(part.data());
  }
  std::uint32_t u32() {
    const std::string_view part = bytes(4);
    return part.empty() ? std::uint32_t{0} : load_u32(part.data());
  }
  std::int16_t i16() { return static_cast<std::int16_t>(u16()); }
  std::int32_t i32() { return static_cast<std::int32_t>(u32()); }

  // Text up to its terminating zero, which is consumed and not returned.
  std::string_view cstring() {
    const std::size_t end = ok_ ? bytes_.find('\0', at_) : std::string_view::npos;
    if (end == std::string_view::npos) return fail();
    const std::string_view text = bytes_.substr(at_, end - at_);
    at_ = end + 1;
    return text;
  }
  std::string_view bytes(std::size_t count) {
    if (!ok_ || count > remaining()) return fail();
    const std::string_view part = bytes_.substr(at_, count);
    at_ += count;
    return part;
  }
  std::string_view rest() { return bytes(remaining()); }

  bool ok() const { return ok_; }
  // Everything was there and nothing is left over.
  bool finished() const { return ok_ && remaining() == 0; }
  std::size_t offset() const { return at_; }
  std::size_t remaining() const { return bytes_.size() - at_; }

 private:
  std::string_view fail() {
    ok_ = false;
    return {};
  }

  std::string_view bytes_;
  std::size_t at_ = 0;
  bool ok_ = true;
};

// Appends one message to `out`: the header at once, the length when the Writer goes out of scope.
// Nothing else may append to `out` meanwhile. Outgrowing kMaxMessageLength is our bug: whoever
// passes text of a peer on has limited it before (see the fits() checks in frontend.h).
class Writer {
 public:
  Writer(std::string& out, char type) : out_(out) {
    out_.push_back(type);
    start_ = out_.size();
    out_.append(4, '\0');
  }
  // Packets without a type byte: everything that may open a connection.
  struct Untyped {};
  Writer(std::string& out, Untyped) : out_(out), start_(out.size()) { out_.append(4, '\0'); }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;
  ~Writer() {
    const std::size_t length = out_.size() - start_;
    ENSURE(length <= kMaxMessageLength);
    store_u32(out_.data() + start_, static_cast<std::uint32_t>(length));
  }

  Writer& u8(std::uint8_t value) {
    out_.push_back(static_cast<char>(value));
    return *this;
  }
  Writer& u16(std::uint16_t value) {
    append_u16(out_, value);
    return *this;
  }
  Writer& u32(std::uint32_t value) {
    append_u32(out_, value);
    return *this;
  }
  Writer& cstring(std::string_view text) {
    append_cstring(out_, text);
    return *this;
  }
  Writer& bytes(std::string_view raw) {
    out_.append(raw);
    return *this;
  }

 private:
  std::string& out_;
  std::size_t start_ = 0;
};

}  // namespace wire
