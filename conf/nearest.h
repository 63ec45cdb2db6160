#pragma once

#include <cstddef>
#include <span>
#include <string_view>

// What somebody probably meant: for messages about a name that does not exist.
namespace conf {

// How many characters must be inserted, removed or replaced to make one word the other. Costs the product of
// their lengths.
std::size_t edit_distance(std::string_view one, std::string_view other);

// The candidate that `name` was probably meant to be: the fewest edits, where the right key in the wrong
// section ("pool.rate" for "tenant.rate") counts as one. "" when there is none, or the name is too long to have
// been meant.
std::string_view nearest(std::string_view name, std::span<const std::string_view> candidates);

}  // namespace conf
