#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "conf/check.h"

// What every *_fuzz.cc defines: one run on one input. A broken promise stops the process by ENSURE
// or by a sanitizer; everything else is success. Called by libFuzzer, or by replay_main.cc.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace fuzz {

inline std::string_view text_of(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

}  // namespace fuzz
