#pragma once

#include <optional>
#include <string>
#include <string_view>

// Base64 with padding (RFC 4648), as SCRAM uses it.
namespace wire {

std::string base64_encode(std::string_view bytes);
// Strict: nothing outside the alphabet, no line breaks, complete padding.
std::optional<std::string> base64_decode(std::string_view text);

}  // namespace wire
