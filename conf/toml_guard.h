#pragma once

#include <cstdint>
#include <string_view>

namespace conf {

// The line of the first key with more dots than any configuration needs; 0 if there is none. toml++
// limits the nesting of values but not of dotted keys ("a.a.a.a = 1"), and frees what it has read
// recursively, so that a long enough key overflows the stack. Text is only judged as far as it is
// TOML: where it is not, the parser stops before the rest matters.
std::uint32_t line_nested_too_deep(std::string_view toml);

}  // namespace conf
