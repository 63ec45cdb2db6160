#include "routing/lexer.h"
#include "routing/hints.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

namespace routing {
namespace {

// ---- Characters -------------------------------------------------------------------------------

enum class Char : std::uint8_t {
  other,  // no token of Postgres starts with it; it stands for itself and the grammar refuses it
  space,
  letter,  // starts a word: letters, _, everything beyond ASCII
  digit,
  quote,
  double_quote,
  dollar,
  op,     // may be part of an operator
  self,   // , ; : .
  open,   // ( [
  close,  // ) ]
};

constexpr std::array<Char, 256> make_classes() {
  std::array<Char, 256> t{};
  for (int c = 0; c < 256; ++c) {
    const auto i = static_cast<std::size_t>(c);
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c >= 0x80) {
      t[i] = Char::letter;
    } else if (c >= '0' && c <= '9') {
      t[i] = Char::digit;
    }
  }
  for (const char c : std::string_view(" \t\n\r\f\v"))
    t[static_cast<unsigned char>(c)] = Char::space;
  for (const char c : std::string_view("~!@#^&|`?+-*/%<>="))
    t[static_cast<unsigned char>(c)] = Char::op;
  for (const char c : std::string_view(",;:.")) t[static_cast<unsigned char>(c)] = Char::self;
  t['('] = t['['] = Char::open;
  t[')'] = t[']'] = Char::close;
  t['\''] = Char::quote;
  t['"'] = Char::double_quote;
  t['$'] = Char::dollar;
  return t;
}
constexpr std::array<Char, 256> kClass = make_classes();

// 1 for what may continue a word: letters, digits, $.
constexpr std::array<bool, 256> make_word_chars() {
  std::array<bool, 256> t{};
  for (std::size_t c = 0; c < 256; ++c) {
    t[c] = kClass[c] == Char::letter || kClass[c] == Char::digit || c == '$';
  }
  return t;
}
constexpr std::array<bool, 256> kWordChar = make_word_chars();

inline Char class_of(char c) { return kClass[static_cast<unsigned char>(c)]; }
inline bool is_word_char(char c) { return kWordChar[static_cast<unsigned char>(c)]; }
inline bool is_digit(char c) { return c >= '0' && c <= '9'; }
inline bool is_hex(char c) {
  return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}
inline bool is_newline(char c) { return c == '\n' || c == '\r'; }
inline char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; }

bool equals_folded(const char* p, std::size_t n, std::string_view word) {
  if (n != word.size()) return false;
  for (std::size_t i = 0; i < n; ++i) {
    if (lower(p[i]) != word[i]) return false;
  }
  return true;
}

enum class Literal : std::uint8_t { number = 1, string, bits };

// ---- The one pass -----------------------------------------------------------------------------
//
// A sink takes the tokens:
//   word(p, n)  quoted(p, n)  parameter(p, n)  op(p, n)    the token's bytes
//   punctuation(c)                                          one of , ; : . ( ) [ ]
//   comment(p, n)                                           /* ... */, whole
//   literal(kind, p, n, escapes)                            folded; escapes: backslashes count in
//   it raw_literal(kind, p, n, escapes)                        keeps its value Mark mark(); void
//   rollback(Mark)                        forgets everything since the mark kFolds whether lists
//   and signs are folded

template <class Sink>
class Pass {
 public:
  Pass(std::string_view sql, bool standard_strings, Sink& sink)
      : p_(sql.data()), end_(sql.data() + sql.size()), standard_(standard_strings), sink_(sink) {}

  // False when the text is broken.
  bool run() {
    while (p_ < end_) {
      switch (class_of(*p_)) {
        case Char::space: ++p_; break;
        case Char::letter: word(); break;
        case Char::digit: number(); break;
        case Char::quote: string(p_, p_, standard_ ? Quote::standard : Quote::escapes); break;
        case Char::double_quote: quoted(p_, p_); break;
        case Char::dollar: dollar(); break;
        case Char::op: op(); break;
        case Char::self: self(); break;
        case Char::open: open(); break;
        case Char::close: close(); break;
        case Char::other:
          if (*p_ == '\0') broken_ = true;
          begin_token();
          not_constant();
          sink_.op(p_, 1);
          previous_ = Previous::other;
          ++p_;
          break;
      }
    }
    return !broken_;
  }

 private:
  enum class Previous : std::uint8_t { other, open, comma, constant, close, op, sign };
  enum class Quote : std::uint8_t { standard, escapes, bits };

  // Before each token: the semicolon that was held back, in case it was the last.
  void begin_token() {
    if (semicolon_) [[unlikely]] {
      semicolon_ = false;
      sink_.punctuation(';');
    }
    ++count_;
  }

  // A token that ends a run of constants.
  void not_constant() {
    pure_ = false;
    pending_ = false;
  }

  // A constant has been given to the sink; whether it can be dropped is known at the next token.
  void constant() {
    if (pure_) {
      if (previous_ == Previous::open) {
        pending_ = false;
      } else if (previous_ == Previous::comma) {
        pending_ = true;  // before_comma_ holds the place
      } else {
        not_constant();
      }
    }
    previous_ = Previous::constant;
  }

  void word() {
    const char* const start = p_;
    const char c = *p_;
    if (p_ + 1 < end_) [[likely]] {
      const char next = p_[1];
      if (next == '\'') [[unlikely]] {
        switch (c) {
          case 'e':
          case 'E': return string(start, p_ + 1, Quote::escapes);
          case 'b':
          case 'B':
          case 'x':
          case 'X': return string(start, p_ + 1, Quote::bits);
          case 'n':
          case 'N': return string(start, p_ + 1, standard_ ? Quote::standard : Quote::escapes);
          default: break;
        }
      } else if (next == '&' && (c == 'u' || c == 'U') && p_ + 2 < end_) [[unlikely]] {
        if (p_[2] == '\'') {
          keep_all_ = true;
          return string(start, p_ + 2, Quote::standard);
        }
        if (p_[2] == '"') {
          keep_all_ = true;
          return quoted(start, p_ + 2);
        }
      }
    }
    do ++p_;
    while (p_ < end_ && is_word_char(*p_));
    const auto n = static_cast<std::size_t>(p_ - start);
    begin_token();
    if (n == 15 && equals_folded(start, n, "current_setting")) [[unlikely]]
      keep_at_ = count_ + 2;
    sink_.word(start, n);
    if (Sink::kFolds && pure_) {
      if ((previous_ == Previous::comma || previous_ == Previous::open) &&
          is_constant_word(start, n)) {
        return constant();
      }
      not_constant();
    }
    previous_ = Previous::other;
  }

  static bool is_constant_word(const char* p, std::size_t n) {
    return equals_folded(p, n, "null") || equals_folded(p, n, "true") ||
           equals_folded(p, n, "false") || equals_folded(p, n, "default");
  }

  void quoted(const char* start, const char* quote) {
    const char* q = quote + 1;
    for (;;) {
      q = find(q, '"');
      if (q == end_) {
        broken_ = true;
        break;
      }
      ++q;
      if (q < end_ && *q == '"') {
        ++q;
        continue;
      }
      break;
    }
    begin_token();
    not_constant();
    const auto n = static_cast<std::size_t>(q - start);
    if (n == 17 && std::memcmp(start, "\"current_setting\"", 17) == 0) keep_at_ = count_ + 2;
    sink_.quoted(start, n);
    previous_ = Previous::other;
    p_ = q;
  }

  const char* find(const char* from, char c) const {
    if (from >= end_) return end_;
    const void* hit = std::memchr(from, c, static_cast<std::size_t>(end_ - from));
    return hit ? static_cast<const char*>(hit) : end_;
  }

  // One quoted piece, from its opening quote to behind its closing one.
  const char* piece(const char* quote, Quote kind) {
    const char* q = quote + 1;
    for (;;) {
      if (kind == Quote::escapes) {
        while (q < end_ && *q != '\'' && *q != '\\') ++q;
        if (q < end_ && *q == '\\') {
          q += 2;
          if (q > end_) q = end_;
          continue;
        }
      } else {
        q = find(q, '\'');
      }
      if (q >= end_) {
        broken_ = true;
        return end_;
      }
      ++q;
      if (kind != Quote::bits && q < end_ && *q == '\'') {
        ++q;
        continue;
      }
      return q;
    }
  }

  // Strings that stand on different lines are one ('a' newline 'b'): the next piece's quote, or
  // null.
  const char* continuation(const char* q) const {
    bool newline = false;
    while (q < end_) {
      if (class_of(*q) == Char::space) {
        newline = newline || is_newline(*q);
        ++q;
      } else if (*q == '-' && q + 1 < end_ && q[1] == '-') {
        while (q < end_ && !is_newline(*q)) ++q;
      } else {
        return newline && *q == '\'' ? q : nullptr;
      }
    }
    return nullptr;
  }

  void string(const char* start, const char* quote, Quote kind) {
    const char* q = piece(quote, kind);
    while (const char* next = continuation(q)) q = piece(next, kind);
    p_ = q;
    begin_token();
    give_literal(kind == Quote::bits ? Literal::bits : Literal::string, start,
                 static_cast<std::size_t>(q - start), kind == Quote::escapes);
  }

  void give_literal(Literal kind, const char* start, std::size_t n, bool escapes) {
    if (keep_all_ || count_ == keep_at_) [[unlikely]] {
      sink_.raw_literal(kind, start, n, escapes);
    } else {
      sink_.literal(kind, start, n, escapes);
    }
    if (Sink::kFolds) {
      constant();
    } else {
      previous_ = Previous::constant;
    }
  }

  void number() {
    const char* const start = p_;
    const char* q = p_;
    if (*q == '0' && q + 2 < end_ && prefixed_digits(q)) {
      // hexadecimal, octal, binary: consumed
    } else {
      q = digits(q);
      if (q < end_ && *q == '.' && !(q + 1 < end_ && q[1] == '.')) q = digits(q + 1);
      if (q < end_ && (*q == 'e' || *q == 'E')) {
        const char* e = q + 1;
        if (e < end_ && (*e == '+' || *e == '-')) ++e;
        if (e < end_ && is_digit(*e)) q = digits(e);
      }
    }
    p_ = q;
    if (Sink::kFolds && previous_ == Previous::sign && keeps_its_sign()) {
      sink_.rollback(before_sign_);
      previous_ = before_sign_previous_;
      --count_;
    } else if (previous_ == Previous::sign) {
      not_constant();
    }
    begin_token();
    give_literal(Literal::number, start, static_cast<std::size_t>(p_ - start), false);
  }

  const char* digits(const char* q) const {
    while (q < end_ && (is_digit(*q) || (*q == '_' && q + 1 < end_ && is_digit(q[1])))) ++q;
    return q;
  }

  bool prefixed_digits(const char*& q) const {
    const char base = lower(q[1]);
    if (base != 'x' && base != 'o' && base != 'b') return false;
    const auto fits = [base](char c) {
      return base == 'x'   ? is_hex(c)
             : base == 'o' ? (c >= '0' && c <= '7')
                           : (c == '0' || c == '1');
    };
    const char* d = q + 2;
    while (d < end_ && (fits(*d) || (*d == '_' && d + 1 < end_ && fits(d[1])))) ++d;
    if (d == q + 2) return false;
    q = d;
    return true;
  }

  // Unary minus takes the number only when nothing that binds tighter follows it: -5::money is
  // -(5::money), another operator than the number's own.
  bool keeps_its_sign() const {
    const char* q = p_;
    while (q < end_ && class_of(*q) == Char::space) ++q;
    if (q == end_) return true;
    if (*q == '[' || *q == '(' || *q == ':' || *q == '.') return false;
    const bool comment = q + 1 < end_ && ((*q == '-' && q[1] == '-') || (*q == '/' && q[1] == '*'));
    return !comment;
  }

  void dollar() {
    const char* q = p_ + 1;
    if (q < end_ && is_digit(*q)) {
      while (q < end_ && is_digit(*q)) ++q;
      begin_token();
      sink_.parameter(p_, static_cast<std::size_t>(q - p_));
      p_ = q;
      return constant();
    }
    if (q < end_ && class_of(*q) == Char::letter) {
      do ++q;
      while (q < end_ && (class_of(*q) == Char::letter || is_digit(*q)));
    }
    if (q >= end_ || *q != '$') {
      begin_token();
      not_constant();
      sink_.op(p_, 1);
      previous_ = Previous::other;
      ++p_;
      return;
    }
    const auto tag = static_cast<std::size_t>(q + 1 - p_);  // both dollars included
    const char* hit = q + 1;
    for (;; ++hit) {
      hit = find(hit, '$');
      if (static_cast<std::size_t>(end_ - hit) < tag) {
        broken_ = true;
        hit = end_;
        break;
      }
      if (std::memcmp(hit, p_, tag) == 0) {
        hit += tag;
        break;
      }
    }
    const char* const start = p_;
    p_ = hit;
    begin_token();
    give_literal(Literal::string, start, static_cast<std::size_t>(hit - start), false);
  }

  void op() {
    if (p_ + 1 < end_) {
      if (*p_ == '-' && p_[1] == '-') {
        while (p_ < end_ && !is_newline(*p_)) ++p_;
        return;
      }
      if (*p_ == '/' && p_[1] == '*') return comment();
    }
    const char* q = p_ + 1;
    bool special = is_special(*p_);
    while (q < end_ && class_of(*q) == Char::op) {
      if (q + 1 < end_ && ((*q == '-' && q[1] == '-') || (*q == '/' && q[1] == '*'))) break;
      special = special || is_special(*q);
      ++q;
    }
    // As in Postgres: an operator ends in + or - only if it holds a character that no standard
    // operator has, so that a=-1 is a = -1.
    if (!special) {
      while (q - p_ > 1 && (q[-1] == '+' || q[-1] == '-')) --q;
    }
    const auto n = static_cast<std::size_t>(q - p_);
    begin_token();
    if (Sink::kFolds && n == 1 && *p_ == '-' &&
        (previous_ == Previous::open || previous_ == Previous::comma ||
         previous_ == Previous::op)) {
      before_sign_ = sink_.mark();
      before_sign_previous_ = previous_;
      sink_.op(p_, 1);
      previous_ = Previous::sign;
    } else {
      not_constant();
      sink_.op(p_, n);
      previous_ = Previous::op;
    }
    p_ = q;
  }

  static bool is_special(char c) {
    switch (c) {
      case '~':
      case '!':
      case '@':
      case '#':
      case '^':
      case '&':
      case '|':
      case '`':
      case '?':
      case '%': return true;
      default: return false;
    }
  }

  void comment() {
    const char* const start = p_;
    std::size_t depth = 0;
    while (p_ < end_) {
      if (p_ + 1 < end_ && *p_ == '/' && p_[1] == '*') {
        ++depth;
        p_ += 2;
      } else if (p_ + 1 < end_ && *p_ == '*' && p_[1] == '/') {
        p_ += 2;
        if (--depth == 0) return sink_.comment(start, static_cast<std::size_t>(p_ - start));
      } else {
        ++p_;
      }
    }
    broken_ = true;
  }

  void self() {
    switch (*p_) {
      case ',': return comma();
      case ';':
        not_constant();
        previous_ = Previous::other;
        if (count_ > 0) semicolon_ = true;
        ++p_;
        return;
      case '.':
        if (p_ + 1 < end_ && is_digit(p_[1])) return number();
        if (p_ + 1 < end_ && p_[1] == '.') return two('.');
        break;
      case ':':
        if (p_ + 1 < end_ && p_[1] == ':') return two(':');
        if (p_ + 1 < end_ && p_[1] == '=') return two('=');
        break;
      default: break;
    }
    begin_token();
    not_constant();
    sink_.punctuation(*p_);
    previous_ = Previous::other;
    ++p_;
  }

  void two(char second) {
    const char both[2] = {*p_, second};
    begin_token();
    not_constant();
    sink_.op(both, 2);
    previous_ = Previous::other;
    p_ += 2;
  }

  void comma() {
    if (Sink::kFolds) {
      if (pure_ && previous_ == Previous::constant) {
        if (pending_) sink_.rollback(before_comma_);
        pending_ = false;
        before_comma_ = sink_.mark();
        row_comma_ = false;
      } else if (previous_ == Previous::close && closed_pure_) {
        before_row_comma_ = sink_.mark();
        row_comma_ = true;
        not_constant();
      } else {
        row_comma_ = false;
        not_constant();
      }
    }
    begin_token();
    sink_.punctuation(',');
    previous_ = Previous::comma;
    ++p_;
  }

  void open() {
    begin_token();
    if (Sink::kFolds) {
      row_ = previous_ == Previous::comma && row_comma_ && *p_ == closed_bracket_;
      before_row_ = before_row_comma_;
      row_comma_ = false;
      pure_ = true;
      pending_ = false;
      bracket_ = *p_;
    }
    sink_.punctuation(*p_);
    previous_ = Previous::open;
    ++p_;
  }

  void close() {
    begin_token();
    closed_pure_ = false;
    if (Sink::kFolds && pure_ && previous_ == Previous::constant) {
      if (pending_) sink_.rollback(before_comma_);
      closed_pure_ = true;
    }
    sink_.punctuation(*p_);
    if (closed_pure_) {
      if (row_) sink_.rollback(before_row_);
      closed_bracket_ = bracket_;
    }
    row_ = false;
    not_constant();
    previous_ = Previous::close;
    ++p_;
  }

  const char* p_;
  const char* const end_;
  const bool standard_;
  Sink& sink_;

  bool broken_ = false;
  bool semicolon_ = false;   // held back
  bool keep_all_ = false;    // after U&: literals keep their values
  std::size_t count_ = 0;    // tokens so far; folded ones count as well
  std::size_t keep_at_ = 0;  // the token that keeps its value if it is a literal

  Previous previous_ = Previous::other;
  Previous before_sign_previous_ = Previous::other;
  bool pure_ = false;         // since the innermost open bracket: constants and commas only
  bool pending_ = false;      // the last constant goes if , or ) follows
  bool closed_pure_ = false;  // the last bracket closed held constants only
  bool row_comma_ = false;    // the last comma follows such a bracket
  bool row_ = false;          // and this bracket follows such a comma
  char bracket_ = 0, closed_bracket_ = 0;
  typename Sink::Mark before_comma_{}, before_row_comma_{}, before_row_{}, before_sign_{};
};

// ---- Hashing ----------------------------------------------------------------------------------

constexpr std::uint64_t kPrime = (std::uint64_t{1} << 61) - 1;
// Any odd number with mixed bits serves; this is 2^64 / golden ratio.
constexpr std::uint64_t kMix = 0x9e3779b97f4a7c15ULL;

__extension__ using Wide = unsigned __int128;

// Chunks are 7 bytes and a tag above them, so less than 2^61, never 0, and a token can be read back
// from its chunks: different tokens are different polynomials.
enum Tag : std::uint64_t {
  tag_word_more = 1,
  tag_word,
  tag_quoted_more,
  tag_quoted,
  tag_parameter_more,
  tag_parameter,
  tag_op_more,
  tag_op,
  tag_literal,
  tag_raw_more,
  tag_raw,
  tag_raw_escapes_more,
  tag_raw_escapes,
  tag_byte_more,
  tag_byte,
};

class HashSink {
 public:
  struct State {
    std::uint64_t shown = kMix;
    std::uint64_t check = 0;
  };
  using Mark = State;
  static constexpr bool kFolds = true;

  HashSink(std::string_view sql, const DigestKey& key)
      : multiplier_(key.multiplier), end_(sql.data() + sql.size()) {}

  void word(const char* p, std::size_t n) {
    while (n > 7) {
      chunk(fold_case(load(p) & kSeven) | tag_word_more << 56);
      p += 7;
      n -= 7;
    }
    chunk(fold_case(tail(p, n)) | tag_word << 56);
  }
  void quoted(const char* p, std::size_t n) { bytes(p, n, tag_quoted_more, tag_quoted); }
  void parameter(const char* p, std::size_t n) { bytes(p, n, tag_parameter_more, tag_parameter); }
  void op(const char* p, std::size_t n) {
    if (n == 1) return punctuation(*p);
    while (n > 7) {
      chunk(slow_load(p, 7) | tag_op_more << 56);
      p += 7;
      n -= 7;
    }
    chunk(slow_load(p, n) | tag_op << 56);
  }
  void punctuation(char c) { chunk(static_cast<unsigned char>(c) | tag_op << 56); }
  void literal(Literal kind, const char*, std::size_t, bool) {
    chunk(static_cast<std::uint64_t>(kind) | tag_literal << 56);
  }
  void raw_literal(Literal kind, const char* p, std::size_t n, bool escapes) {
    literal(kind, p, n, escapes);
    if (escapes) {
      bytes(p, n, tag_raw_escapes_more, tag_raw_escapes);
    } else {
      bytes(p, n, tag_raw_more, tag_raw);
    }
  }
  void comment(const char*, std::size_t) { commented_ = true; }
  Mark mark() const { return state_; }
  void rollback(const Mark& m) { state_ = m; }

  void bytes(const char* p, std::size_t n, std::uint64_t more, std::uint64_t last) {
    while (n > 7) {
      chunk((load(p) & kSeven) | more << 56);
      p += 7;
      n -= 7;
    }
    chunk(tail(p, n) | last << 56);
  }

  // Fully reduced, and the public half stirred once more so that its low bits are as good as its
  // high ones.
  Digest finish(bool broken) const {
    std::uint64_t c = (state_.check & kPrime) + (state_.check >> 61);
    if (c >= kPrime) c -= kPrime;
    const Wide w = static_cast<Wide>(state_.shown) * 0xd6e8feb86659fd93ULL;
    return {static_cast<std::uint64_t>(w) ^ static_cast<std::uint64_t>(w >> 64), c, broken, commented_};
  }

 private:
  static constexpr std::uint64_t kSeven = 0x00ffffffffffffffULL;

  // Both lanes are one multiplication per chunk. With a multiplier below 2^60 the sum stays below
  // 2^63: x' <= (x + 2^61) / 2 + 2^61.
  void chunk(std::uint64_t c) {
    const Wide a = static_cast<Wide>(state_.shown ^ c) * kMix;
    state_.shown = (static_cast<std::uint64_t>(a) ^ static_cast<std::uint64_t>(a >> 64)) + c;
    const Wide b = static_cast<Wide>(state_.check + c) * multiplier_;
    state_.check = (static_cast<std::uint64_t>(b) & kPrime) + static_cast<std::uint64_t>(b >> 61);
  }

  // Eight bytes when the text has them. The callers need seven.
  std::uint64_t load(const char* p) const {
    if (end_ - p >= 8) [[likely]] {
      std::uint64_t v;
      std::memcpy(&v, p, 8);
      return v;
    }
    return slow_load(p, 7);
  }
  std::uint64_t tail(const char* p, std::size_t n) const {
    if (end_ - p >= 8) [[likely]] {
      std::uint64_t v;
      std::memcpy(&v, p, 8);
      return v & ((std::uint64_t{1} << (8 * n)) - 1);
    }
    return slow_load(p, n);
  }
  static std::uint64_t slow_load(const char* p, std::size_t n) {
    std::uint64_t v = 0;
    for (std::size_t i = 0; i < n; ++i)
      v |= std::uint64_t{static_cast<unsigned char>(p[i])} << (8 * i);
    return v;
  }
  // ASCII letters to lower case, eight bytes at once; bytes beyond ASCII stay.
  static std::uint64_t fold_case(std::uint64_t v) {
    const std::uint64_t low = v & 0x7f7f7f7f7f7f7f7fULL;
    const std::uint64_t from_a = low + 0x3f3f3f3f3f3f3f3fULL;  // high bit: >= 'A'
    const std::uint64_t past_z = low + 0x2525252525252525ULL;  // high bit: > 'Z'
    const std::uint64_t upper = (from_a ^ past_z) & ~v & 0x8080808080808080ULL;
    return v | upper >> 2;
  }

  State state_;
  bool commented_ = false;
  const std::uint64_t multiplier_;
  const char* const end_;
};

// ---- Text for the grammar ---------------------------------------------------------------------

// Deeper brackets than this are not worth a parse; more than any statement that people or ORMs
// write.
constexpr std::size_t kMaxBrackets = 200;

template <bool Folds>
class TextSink {
 public:
  // What one bracket, or the statement, is made of: elements between commas. The depth of an
  // element's tree is at most the number of its words and operators plus the deepest bracket in it.
  struct Level {
    std::size_t chain = 0, inner = 0, best = 0;
    std::size_t close() const { return std::max(best, chain + inner) + 1; }
  };
  struct Mark {
    std::size_t size = 0, tokens = 0;
    Level level;
  };
  static constexpr bool kFolds = Folds;

  explicit TextSink(std::size_t reserve) {
    text_.sql.reserve(reserve);
    levels_.emplace_back();
  }

  void word(const char* p, std::size_t n) {
    deepen(p, n);
    if constexpr (Folds) {
      const auto begin = text_.sql.end() - static_cast<std::ptrdiff_t>(n);
      std::transform(begin, text_.sql.end(), begin, lower);
    }
  }
  void quoted(const char* p, std::size_t n) { deepen(p, n); }
  void op(const char* p, std::size_t n) { deepen(p, n); }
  void parameter(const char* p, std::size_t n) { put(p, n); }
  void punctuation(char c) {
    put(&c, 1);
    if (c == '(' || c == '[') {
      if (levels_.size() > kMaxBrackets) {
        too_deep_ = true;
        return;
      }
      levels_.emplace_back();
    } else if (c == ')' || c == ']') {
      if (levels_.size() == 1) return;
      const std::size_t depth = levels_.back().close();
      levels_.pop_back();
      levels_.back().inner = std::max(levels_.back().inner, depth);
    } else if (c == ',' || c == ';') {
      Level& l = levels_.back();
      l = {0, 0, std::max(l.best, l.chain + l.inner)};
    }
  }
  void literal(Literal kind, const char* p, std::size_t n, bool escapes) {
    if constexpr (Folds) {
      switch (kind) {
        case Literal::number: return put("1", 1);
        case Literal::string: return put("''", 2);
        case Literal::bits: return put("b'0'", 4);
      }
    } else {
      raw_literal(kind, p, n, escapes);
    }
  }
  void raw_literal(Literal kind, const char* p, std::size_t n, bool escapes) {
    if (kind == Literal::number) return number(p, n);
    const bool backslash = escapes && std::memchr(p, '\\', n) != nullptr;
    if (backslash && *p != 'e' && *p != 'E') {
      if (*p != '\'') {  // N'...': the grammar knows no NE'...'
        ++p;
        --n;
      }
      put("E", 1);
      text_.sql.append(p, n);
      return;
    }
    put(p, n);
  }
  void comment(const char*, std::size_t) {}
  Mark mark() const { return {text_.sql.size(), text_.tokens, levels_.back()}; }
  void rollback(const Mark& m) {
    text_.sql.resize(m.size);
    text_.tokens = m.tokens;
    levels_.back() = m.level;
  }

  GrammarText finish(bool broken) {
    text_.broken = broken;
    while (levels_.size() > 1) {
      const std::size_t depth = levels_.back().close();
      levels_.pop_back();
      levels_.back().inner = std::max(levels_.back().inner, depth);
    }
    text_.depth = too_deep_ ? SIZE_MAX : levels_.back().close();
    return std::move(text_);
  }

 private:
  void put(const char* p, std::size_t n) {
    if (!text_.sql.empty()) text_.sql += ' ';
    text_.sql.append(p, n);
    ++text_.tokens;
  }
  void deepen(const char* p, std::size_t n) {
    put(p, n);
    ++levels_.back().chain;
  }
  // 0x1F and 1_000 came with Postgres 16; the grammar is older.
  void number(const char* p, std::size_t n) {
    unsigned base = 10;
    if (n > 2 && p[0] == '0') {
      const char c = lower(p[1]);
      base = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 10;
    }
    std::string plain;
    for (std::size_t i = base == 10 ? 0 : 2; i < n; ++i) {
      if (p[i] != '_') plain += p[i];
    }
    if (base != 10) {
      if (plain.size() > 15) return put(p, n);  // beyond 2^60: the grammar refuses it
      std::uint64_t v = 0;
      for (const char c : plain) {
        v = v * base + static_cast<std::uint64_t>(is_digit(c) ? c - '0' : lower(c) - 'a' + 10);
      }
      plain = std::to_string(v);
    }
    put(plain.data(), plain.size());
  }

  GrammarText text_;
  std::vector<Level> levels_;
  bool too_deep_ = false;
};

// ---- Text for operators -----------------------------------------------------------------------

class ShownSink {
 public:
  struct Mark {
    std::size_t size = 0;
    bool tight = true;
  };
  static constexpr bool kFolds = true;

  // Beyond `longest` nothing is kept but what a rollback may go back to.
  explicit ShownSink(std::size_t longest) : longest_(longest) {}

  void word(const char* p, std::size_t n) {
    const std::size_t before = text_.size();
    put(p, n);
    for (std::size_t i = before; i < text_.size(); ++i) text_[i] = lower(text_[i]);
  }
  void quoted(const char* p, std::size_t n) { put(p, n); }
  void op(const char* p, std::size_t n) { put(p, n); }
  void parameter(const char* p, std::size_t n) { put(p, n); }
  void punctuation(char c) {
    const bool binds = c == ',' || c == ')' || c == ']' || c == ';' || c == '.' || c == '[';
    if (binds) tight_ = true;
    put(&c, 1);
    tight_ = c == '(' || c == '[' || c == '.';
  }
  void literal(Literal, const char*, std::size_t, bool) { put("?", 1); }
  void raw_literal(Literal, const char*, std::size_t, bool) { put("?", 1); }
  void comment(const char*, std::size_t) {}
  Mark mark() const { return {text_.size(), tight_}; }
  void rollback(const Mark& m) {
    text_.resize(std::min(m.size, text_.size()));
    tight_ = m.tight;
  }

  std::string finish() {
    if (text_.size() <= longest_) return std::move(text_);
    constexpr std::string_view kMore = "...";
    std::size_t end = longest_ - std::min(longest_, kMore.size());
    // Not in the middle of a character.
    while (end > 0 && (static_cast<unsigned char>(text_[end]) & 0xc0U) == 0x80) --end;
    text_.resize(end);
    return std::move(text_.append(kMore));
  }

 private:
  void put(const char* p, std::size_t n) {
    if (text_.size() <= longest_) {
      if (!text_.empty() && !tight_) text_ += ' ';
      text_.append(p, std::min(n, longest_ + 1));
    }
    tight_ = false;
  }

  const std::size_t longest_;
  std::string text_;
  bool tight_ = true;  // what comes next stands without a blank
};

// ---- Words ------------------------------------------------------------------------------------

class WordSink {
 public:
  struct Mark {};
  static constexpr bool kFolds = false;

  void word(const char* p, std::size_t n) {
    char folded[64];
    const std::size_t m = std::min(n, sizeof folded);
    for (std::size_t i = 0; i < m; ++i) folded[i] = lower(p[i]);
    judge({folded, m});
  }
  void quoted(const char* p, std::size_t n) {
    if (*p != '"') {  // U&"...": escapes can hide any name
      words.pins |= Pin::session_function;
      words.sees_prepared = true;
    }
    judge({p + 1, n > 1 ? n - 2 : 0});
  }
  void parameter(const char*, std::size_t) { first_ = false; }
  void op(const char*, std::size_t) { first_ = false; }
  void punctuation(char c) { first_ = c == ';'; }
  void literal(Literal, const char*, std::size_t, bool) { first_ = false; }
  void raw_literal(Literal, const char*, std::size_t, bool) { first_ = false; }
  void comment(const char*, std::size_t) {}
  Mark mark() const { return {}; }
  void rollback(const Mark&) {}

  Words words;

 private:
  void judge(std::string_view w) {
    Pin& pins = words.pins;
    words.sees_prepared |= w.starts_with(kOurStatements) || w.starts_with("pg_prepared_statement");
    if (first_) {
      if (w == "set" || w == "reset" || w == "discard") pins |= Pin::session_setting;
      if (w == "listen") pins |= Pin::listen;
      if (w == "load") pins |= Pin::load;
      if (w == "prepare") pins |= Pin::sql_prepare;
    }
    first_ = false;
    if (w == "temp" || w == "temporary" || w.starts_with("pg_temp")) pins |= Pin::temporary_table;
    if (w == "hold") pins |= Pin::holdable_cursor;
    if (w == "set_config") pins |= Pin::session_setting;
    if (w == "setseed" || w.starts_with("dblink_")) pins |= Pin::session_function;
    if (w.starts_with("pg_") && w.find("advisory_lock") != w.npos) pins |= Pin::advisory_lock;
  }
  bool first_ = true;  // at the start of a statement
};

// ---- Comments ---------------------------------------------------------------------------------

// Keeps the tags of the comments before the first token, and of those since the last one.
class TagSink {
 public:
  struct Mark {};
  static constexpr bool kFolds = false;

  explicit TagSink(CommentTags* tags) : tags_(tags) {}
  void word(const char*, std::size_t) { token(); }
  void quoted(const char*, std::size_t) { token(); }
  void parameter(const char*, std::size_t) { token(); }
  void op(const char*, std::size_t) { token(); }
  void punctuation(char) { token(); }
  void literal(Literal, const char*, std::size_t, bool) { token(); }
  void raw_literal(Literal, const char*, std::size_t, bool) { token(); }
  void comment(const char* p, std::size_t n) { tags_->read({p, n}); }
  Mark mark() const { return {}; }
  void rollback(const Mark&) {}

 private:
  void token() {
    if (!begun_) leading_ = tags_->size();
    begun_ = true;
    tags_->cut_to(leading_);
  }
  CommentTags* tags_;
  std::size_t leading_ = 0;
  bool begun_ = false;
};

}  // namespace

void find_tags(std::string_view sql, bool standard_strings, CommentTags* tags) {
  TagSink sink(tags);
  if (!Pass<TagSink>(sql, standard_strings, sink).run()) tags->cut_to(0);
}

DigestKey DigestKey::random() {
  std::random_device source;
  const std::uint64_t bits = std::uint64_t{source()} << 32 | source();
  return {(bits & ((std::uint64_t{1} << 60) - 1)) | 1};
}

Digest digest(std::string_view sql, bool standard_strings, const DigestKey& key) {
  HashSink sink(sql, key);
  const bool sound = Pass<HashSink>(sql, standard_strings, sink).run();
  return sink.finish(!sound);
}

Digest exact_digest(std::string_view sql, bool standard_strings, const DigestKey& key) {
  HashSink first(sql, key);
  // A second point that only somebody who knows the first can know.
  const DigestKey other{(key.multiplier * kMix) >> 5 | 1};
  HashSink second(sql, other);
  first.punctuation(standard_strings ? '1' : '0');
  first.bytes(sql.data(), sql.size(), tag_byte_more, tag_byte);
  second.bytes(sql.data(), sql.size(), tag_byte_more, tag_byte);
  return {second.finish(false).check, first.finish(false).check, false, false};
}

GrammarText alike_text(std::string_view sql, bool standard_strings) {
  TextSink<true> sink(sql.size() + sql.size() / 4);
  const bool sound = Pass<TextSink<true>>(sql, standard_strings, sink).run();
  return sink.finish(!sound);
}

std::string shown_text(std::string_view sql, bool standard_strings, std::size_t longest) {
  ShownSink sink(longest);
  if (!Pass<ShownSink>(sql, standard_strings, sink).run()) return {};
  std::string text = sink.finish();
  // Quoted names can hold anything.
  std::ranges::replace_if(text, [](char c) { return static_cast<unsigned char>(c) < 0x20; }, ' ');
  return text;
}

GrammarText literal_text(std::string_view sql, bool standard_strings) {
  TextSink<false> sink(sql.size() + sql.size() / 4);
  const bool sound = Pass<TextSink<false>>(sql, standard_strings, sink).run();
  return sink.finish(!sound);
}

Words by_words(std::string_view sql, bool standard_strings) {
  WordSink sink;
  Pass<WordSink>(sql, standard_strings, sink).run();
  return sink.words;
}

}  // namespace routing
