#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "routing/facts.h"

namespace routing {

// Postgres's tokens, in one pass and without a grammar. Everything here works on any bytes, never
// reads outside of the text, and takes time proportional to its length.
//
// Two texts are *alike* when they have the same tokens after these steps:
//  - comments and blanks are dropped, unquoted words and keywords folded to lower case (ASCII);
//  - a literal becomes its kind (number, string, bit string), and a minus that belongs to a number
//    goes with it;
//  - in brackets that hold nothing but constants and commas, everything after the first constant is
//    dropped; equally rows of constants after the first one (VALUES (1,2),(3,4));
//  - a semicolon is dropped at the start and at the end, several in a row become one.
// Parameters keep their number, quoted identifiers their quotes, operators their spelling. Literals
// that decide on meaning stay: current_setting's first argument, and everything after U&"..." or
// U&'...' (UESCAPE).

// Secret of one process, from its random source. See README.md for what it protects.
struct DigestKey {
  std::uint64_t multiplier;  // 1 .. 2^60 - 1
  static DigestKey random();
};

// `shown` is the same in every process (metrics, console, rules name statements by it); an attacker
// can find two texts with the same. `check` is a polynomial over the tokens modulo 2^61 - 1 at a
// secret point: for any two texts that are not alike, chosen without knowing the secret, it is
// equal with a probability of at most (tokens / 2^60). What is decided from a digest compares both;
// `check` is never shown to anybody.
struct Digest {
  std::uint64_t shown = 0;
  std::uint64_t check = 0;
  bool broken = false;  // unterminated quote or comment, or a NUL byte: nothing to be trusted
  bool commented = false;  // there is a /* comment */ somewhere: no part of the digest
  friend bool operator==(const Digest& a, const Digest& b) {
    return a.shown == b.shown && a.check == b.check && a.broken == b.broken;
  }
};

// Costs about a nanosecond per byte; no allocation. `standard_strings`: the session's
// standard_conforming_strings.
Digest digest(std::string_view sql, bool standard_strings, const DigestKey& key);

// The same secret polynomial over the bytes as they are (and a second one at another point, so that
// no public half is needed): for texts whose literals matter.
Digest exact_digest(std::string_view sql, bool standard_strings, const DigestKey& key);

// A text for the grammar, with what the grammar's cost depends on.
struct GrammarText {
  std::string sql;
  std::size_t tokens = 0;
  std::size_t depth = 0;  // an upper bound of the depth of the parse tree
  bool broken = false;
};

// One text that stands for all that are alike: facts found from it belong to the digest, by
// construction. Literals are '' and 1.
GrammarText alike_text(std::string_view sql, bool standard_strings);

// What a statement reads like to operators: one line, literals and what follows a first constant in a list
// as "?", at most `longest` bytes (the end is then "..."). Nothing of a literal is left, and nothing of a
// text whose quotes or comments do not end.
std::string shown_text(std::string_view sql, bool standard_strings, std::size_t longest);

// The text itself, rewritten so that a grammar of Postgres 15 with standard_conforming_strings = on
// reads it as the session's server does: backslash strings get their E, hexadecimal numbers
// become decimal.
GrammarText literal_text(std::string_view sql, bool standard_strings);

// For a text that the grammar does not get to see or refuses: what it could leave behind in a
// session, and whether it may see what is prepared there, judged by its words, on the safe side.
struct Words {
  Pin pins = Pin::none;
  bool sees_prepared = false;
};
Words by_words(std::string_view sql, bool standard_strings);

}  // namespace routing
