#pragma once

#include <string_view>

namespace proxy {

inline constexpr std::string_view kVersion = PGSLUICE_VERSION;  // meson.build has it

}  // namespace proxy
