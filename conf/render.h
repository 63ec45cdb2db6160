#pragma once

#include <string>
#include <vector>

#include "conf/settings.h"

namespace conf {

// The option table for people, in four forms. Two of them are shipped as files, and a test compares
// each with what is rendered here, byte for byte: pgsluice.toml and REFERENCE.md.

// The part of `--help` about the configuration file: every option with its default, what it may be
// and what it does. At most 100 columns.
std::string options_help();

// A configuration file that loads: example sections for a cluster, its databases and the user
// look-up, everything else as a comment at its default.
std::string sample_file();

// The reference as Markdown: one table per section of the file.
std::string reference_markdown();

// SHOW CONFIG. Options come first, sorted; then every key of every section. `value` and
// `default_value` are without quotes, and "***" where a secret is set. `changeable`: a reload takes
// a new value over.
struct ConfigRow {
  std::string key;
  std::string value;
  std::string default_value;
  bool changeable;
};
std::vector<ConfigRow> config_rows(const Settings& settings);

}  // namespace conf
