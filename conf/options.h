#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "conf/row.h"
#include "conf/settings.h"

namespace conf {

using Option = Row<Settings>;

// Every option that stands once in the file, sorted by its TOML path. The sections that repeat are
// in sections.h. Constant, so the views never expire.
std::span<const Option> options();

// The row of that path; null if there is none.
const Option* find_option(std::string_view name);

// Settings with every option at its default and no sections. Not a configuration that could run
// (it has no cluster); for the loader, for rendering, and for tests that need some Settings.
Settings default_settings();

// The options that only count after a restart and that differ between what runs and what was
// loaded, by name. A reload takes over everything else, and names these in its log line.
std::vector<std::string> changes_needing_restart(const Settings& running, const Settings& loaded);

}  // namespace conf
