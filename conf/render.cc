#include "conf/render.h"

#include <string_view>
#include <tuple>

#include "conf/options.h"
#include "conf/sections.h"

namespace conf {
namespace {

constexpr std::size_t kColumns = 100;

constexpr std::string_view kSampleHead =
    R"(# The configuration of pgsluice: every option that there is. What is commented out stands at
# its default. Durations are written "250ms", "10s", "5min", "2h", "1d"; sizes "512B", "64KiB",
# "16MiB", "1GiB". A secret may also be { env = "NAME" } or { file = "path" }. An unknown key, a
# wrong type or a value out of range is an error, never ignored.
# (Rendered from conf/options.cc and conf/sections.cc; conf/README.md says how.)
)";

constexpr std::string_view kReferenceHead =
    R"(# Configuration reference

Rendered from `options.cc` and `sections.cc`; `README.md` says how. Durations are written `"250ms"`,
`"10s"`, `"5min"`, `"2h"`, `"1d"`; sizes `"512B"`, `"64KiB"`, `"16MiB"`, `"1GiB"`; a plain `0` needs
no unit. "Restart" marks what a reload cannot change.
)";

// `text` in lines of at most kColumns, each behind `prefix`.
std::string wrapped(std::string_view prefix, std::string_view text) {
  std::string lines;
  while (!text.empty()) {
    const auto room = kColumns - prefix.size();
    auto end = text.size();
    if (end > room) {
      end = text.rfind(' ', room);
      if (end == text.npos) end = text.find(' ');  // one word longer than a line
      if (end == text.npos) end = text.size();
    }
    lines.append(prefix).append(text.substr(0, end)).append("\n");
    text.remove_prefix(end);
    while (text.starts_with(' ')) text.remove_prefix(1);
  }
  return lines;
}

// "pool.size" -> "pool", "workers" -> "".
std::string_view section_of(std::string_view name) {
  const auto dot = name.rfind('.');
  return dot == name.npos ? std::string_view{} : name.substr(0, dot);
}
std::string_view key_of(std::string_view name) {
  const auto dot = name.rfind('.');
  return dot == name.npos ? name : name.substr(dot + 1);
}

// The sections that hold options, in the order of the table; those of the top come first, as TOML
// demands.
std::vector<std::string_view> option_sections() {
  std::vector<std::string_view> names{""};
  for (const Option& option : options()) {
    const auto name = section_of(option.name);
    if (!name.empty() && names.back() != name) names.push_back(name);
  }
  return names;
}

std::string capitalised(std::string text) {
  if (!text.empty() && text[0] >= 'a' && text[0] <= 'z') text[0] = static_cast<char>(text[0] - 32);
  return text;
}

// What the value must be, when to say it, when it counts.
template <class T>
std::string sentence(const Row<T>& row) {
  auto text = capitalised(expectation(row));
  if (row.presence == Presence::required) text += "; required";
  if (row.applies == Applies::at_start) text += "; a change needs a restart";
  return text + ".";
}

// As it stands in the file.
template <class T>
std::string heading(const Section<T>& section) {
  return "[" + std::string(section.kind) + ".NAME]";
}
template <class T>
std::string heading(const ListSection<T>& section) {
  return "[[" + std::string(section.kind) + "]]";
}

// --- the sample file ---

// `hash` puts the whole section into a comment.
template <class T>
std::string sample_row(const Row<T>& row, bool hash) {
  auto text = "\n" + wrapped("# ", row.doc) + wrapped("# ", sentence(row));
  if (hash || row.presence == Presence::optional) text += '#';
  text.append(key_of(row.name)).append(" = ");
  text.append(row.example.empty() ? default_toml(row) : std::string(row.example));
  return text + "\n";
}

template <class T>
std::string sample_section(const Section<T>& section) {
  std::string text = "\n" + wrapped("# ", section.doc);
  if (!section.active) text += '#';
  text.append("[").append(section.kind).append(".").append(key_text(section.example)) += "]\n";
  for (const Row<T>& row : section.rows) text += sample_row(row, !section.active);
  return text;
}

template <class T>
std::string sample_section(const ListSection<T>& section) {
  std::string text = "\n" + wrapped("# ", section.doc) + "#" + heading(section) + "\n";
  for (const Row<T>& row : section.rows) text += sample_row(row, true);
  return text;
}

// --- the reference ---

std::string cell(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '|') escaped += '\\';
    escaped += c;
  }
  return escaped;
}

std::string code(std::string_view text) { return text.empty() ? "" : "`" + cell(text) + "`"; }

constexpr std::string_view kTableHead =
    "\n| key | default | must be | meaning |\n| --- | --- | --- | --- |\n";

template <class T>
std::string reference_row(const Row<T>& row) {
  const bool required = row.presence == Presence::required;
  std::string text = "| " + code(key_of(row.name)) + " | ";
  text += required ? "required" : code(default_toml(row));
  text += " | " + cell(expectation(row)) + " | " + cell(row.doc);
  if (row.applies == Applies::at_start) text += " Restart.";
  return text + " |\n";
}

template <class AnySection>
std::string reference_section(const AnySection& section) {
  std::string text = "\n## " + heading(section) + "\n\n";
  text.append(section.doc).append("\n");
  text += kTableHead;
  for (const auto& row : section.rows) text += reference_row(row);
  return text;
}

// --- help ---

template <class T>
std::string help_row(const Row<T>& row) {
  const auto fallback = default_toml(row);
  std::string text = "  " + std::string(row.name);
  if (row.presence != Presence::required && !fallback.empty()) text += " = " + fallback;
  // A long default (auth.query) is cut into lines like everything else.
  return wrapped("  ", text.substr(2)) + wrapped("      ", row.doc) +
         wrapped("      ", sentence(row));
}

template <class AnySection>
std::string help_section(const AnySection& section) {
  std::string text = "\n" + heading(section) + "\n" + wrapped("  ", section.doc);
  for (const auto& row : section.rows) text += help_row(row);
  return text;
}

// --- SHOW CONFIG ---

template <class T>
void entry_rows(std::span<const Row<T>> keys, const std::string& path, const T& entry,
                std::vector<ConfigRow>& rows) {
  for (const Row<T>& row : keys) {
    T scratch{};
    set_default(row, scratch);
    rows.push_back({.key = path + "." + std::string(row.name),
                    .value = shown_value(row, entry),
                    .default_value = row.presence == Presence::required ? "" : shown_value(row, scratch),
                    .changeable = row.applies == Applies::at_reload});
  }
}

template <class T>
void section_rows(const Section<T>& section, const Settings& settings,
                  std::vector<ConfigRow>& rows) {
  for (const auto& [name, entry] : settings.*section.where)
    entry_rows(section.rows, std::string(section.kind) + "." + key_text(name), entry, rows);
}

template <class T>
void section_rows(const ListSection<T>& section, const Settings& settings,
                  std::vector<ConfigRow>& rows) {
  std::size_t number = 0;
  for (const T& entry : settings.*section.where)
    entry_rows(section.rows, std::string(section.kind) + "." + std::to_string(++number), entry, rows);
}

}  // namespace

std::string options_help() {
  std::string text = "Options of the configuration file, with their defaults:\n";
  for (const auto section : option_sections()) {
    text += '\n';
    for (const Option& option : options())
      if (section_of(option.name) == section) text += help_row(option);
  }
  std::apply([&](const auto&... each) { ((text += help_section(each)), ...); }, sections());
  return text;
}

std::string sample_file() {
  std::string text(kSampleHead);
  for (const auto section : option_sections()) {
    text += '\n';
    if (!section.empty()) text.append("[").append(section).append("]\n");
    for (const Option& option : options())
      if (section_of(option.name) == section) text += sample_row(option, false);
    if (section.empty())
      std::apply([&](const auto&... each) { ((text += sample_section(each)), ...); }, sections());
  }
  return text;
}

std::string reference_markdown() {
  std::string text(kReferenceHead);
  for (const auto section : option_sections()) {
    text +=
        section.empty() ? "\n## At the top of the file\n" : "\n## [" + std::string(section) + "]\n";
    text += kTableHead;
    for (const Option& option : options())
      if (section_of(option.name) == section) text += reference_row(option);
  }
  std::apply([&](const auto&... each) { ((text += reference_section(each)), ...); }, sections());
  return text;
}

std::vector<ConfigRow> config_rows(const Settings& settings) {
  const Settings defaults = default_settings();
  std::vector<ConfigRow> rows;
  for (const Option& option : options())
    rows.push_back({.key = std::string(option.name),
                    .value = shown_value(option, settings),
                    .default_value = shown_value(option, defaults),
                    .changeable = option.applies == Applies::at_reload});
  std::apply([&](const auto&... each) { (section_rows(each, settings, rows), ...); }, sections());
  return rows;
}

}  // namespace conf
