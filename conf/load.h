#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "conf/options.h"
#include "conf/result.h"
#include "conf/settings.h"

namespace conf {

// TOML text -> checked Settings, all or nothing. `file_name` only appears in messages and in
// Settings::file.
//
// The error message holds every problem, one per line, in the order of the file:
//   pgsluice.toml:14: pool.size is 0; it must be an integer from 1 to 10000
// Text that is not TOML has one problem, with its column: "pgsluice.toml:3:7: ...". Problems that
// belong to no line come last and start with "pgsluice.toml: ". No message shows a secret.
//
// Never throws or crashes, whatever the bytes. Reads the environment and files where a secret says
// so, and nothing else. Takes milliseconds: for the control thread, never for a worker.
Result<std::shared_ptr<const Settings>> load_text(std::string_view toml, std::string file_name);

// The same for a file (a regular one, up to 4 MiB).
Result<std::shared_ptr<const Settings>> load_file(const std::string& path);

// The same settings, but for one option (no key of a section): what SET on the console asks for. `value` is
// text as SHOW CONFIG prints it; a list is separated by commas. Refused with the words of a load when the
// option does not exist, does not take that value, only counts after a restart, or the result does not fit
// together. What [tenant.NAME] sections have taken from [tenant] stays.
Result<std::shared_ptr<const Settings>> with_option(const Settings& settings, const std::string& option,
                                                    const std::string& value);

}  // namespace conf
