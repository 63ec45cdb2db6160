#pragma once

#include <string>

#include "routing/catalog.h"
#include "routing/facts.h"

namespace routing {

// Limits of what the grammar is given (both counted by the lexer). libpg_query takes about 2 us per
// token and 130 bytes of stack per level of the tree (measured with the deepest constructs, NOT NOT
// ... and a + a + ...), so the worst text costs a worker about 15 ms once and half a megabyte of
// stack.
inline constexpr std::size_t kMaxGrammarTokens = 8192;
inline constexpr std::size_t kMaxGrammarDepth = 4000;

// Parses `sql` (no NUL bytes, Postgres 15, standard_conforming_strings = on) and finds the facts by
// a walk over the whole tree, functions judged by `catalog`. False, and `facts` as they were, when
// the grammar refuses it. `facts.digest` is left alone.
//
// With literals replaced (alike_text) the facts are right except for those statements that set
// depends_on_literals; parse literal_text for them.
//
// Any number of threads may call it: libpg_query keeps its state per thread, and its memory is
// given back before this returns. Allocates; tens of microseconds for a simple statement.
bool find_facts(const std::string& sql, const Catalog& catalog, Facts& facts);

}  // namespace routing
