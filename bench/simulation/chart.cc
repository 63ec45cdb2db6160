#include <algorithm>
#include <cmath>
#include <functional>

#include "bench/simulation/report.h"
#include "bench/simulation/text.h"

// SVG by hand: a row of pictures for goodput, one for P99; a column per class; a line per policy.
namespace simulation {
namespace {

constexpr double kWidth = 300, kHeight = 180, kLeft = 56, kTop = 64, kGap = 58;
// As Okabe and Ito chose them, so that everybody can tell them apart.
constexpr const char* kColours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                    "#e69f00", "#56b4e9", "#555555", "#000000"};

struct Axis {
  double least, most;
  bool logarithmic;
  double place(double value) const {  // 0 to 1
    if (!logarithmic) return (value - least) / (most - least);
    return std::log(std::clamp(value, least, most) / least) / std::log(most / least);
  }
};

void panel(std::string& out, double left, double top, const std::string& title, std::span<const Run> runs,
           const Axis& axis, const std::function<double(const Run&, std::size_t)>& value) {
  const Scenario& scenario = runs.front().scenario;
  const std::size_t steps = runs.front().record.steps();
  print(out, "<g transform='translate(%.0f,%.0f)'>\n", left, top);
  print(out, "<text x='0' y='-6' font-weight='bold'>%s</text>\n", title.c_str());
  const auto x = [&](double seconds) { return seconds / scenario.length * kWidth; };
  print(out, "<rect x='%.1f' y='0' width='%.1f' height='%.0f' fill='#f3eee2'/>\n", x(scenario.from),
        x(scenario.to) - x(scenario.from), kHeight);
  if (scenario.back > 0)
    print(out, "<line x1='%.1f' y1='0' x2='%.1f' y2='%.0f' stroke='#999' stroke-dasharray='4'/>\n",
          x(scenario.back), x(scenario.back), kHeight);
  for (int mark = 0; mark <= 4; ++mark) {
    const double part = mark / 4.0;
    const double shown =
        axis.logarithmic ? axis.least * std::pow(axis.most / axis.least, part) : axis.most * part;
    print(out, "<line x1='0' y1='%.1f' x2='%.0f' y2='%.1f' stroke='#ddd'/>", kHeight * (1 - part), kWidth,
          kHeight * (1 - part));
    print(out, "<text x='-6' y='%.1f' text-anchor='end'>%.3g</text>\n", kHeight * (1 - part) + 4,
          shown);
  }
  for (int mark = 0; mark <= 4; ++mark)
    print(out, "<text x='%.1f' y='%.0f' text-anchor='middle'>%.3g s</text>\n", kWidth * mark / 4.0,
          kHeight + 14, scenario.length * mark / 4.0);
  for (std::size_t at = 0; at < runs.size(); ++at) {
    print(out, "<polyline fill='none' stroke='%s' stroke-width='1.6' points='",
          kColours[at % std::size(kColours)]);
    for (std::size_t step = 0; step < steps; ++step)
      print(out, "%.1f,%.1f ", (static_cast<double>(step) + 0.5) * kWidth / static_cast<double>(steps),
            kHeight * (1 - axis.place(value(runs[at], step))));
    out += "'/>\n";
  }
  out += "</g>\n";
}

}  // namespace

std::string chart(std::span<const Run> runs) {
  const Scenario& scenario = runs.front().scenario;
  const std::size_t steps = runs.front().record.steps();
  std::vector<std::size_t> groups;
  for (std::size_t group = 0; group < kGroups; ++group)
    if (runs.front().record.sum(0, steps, 1U << group).asked > 0) groups.push_back(group);
  const double width = kLeft + static_cast<double>(groups.size()) * (kWidth + kGap);
  const double height = kTop + 2 * (kHeight + 60);

  std::string out;
  print(out, "<svg xmlns='http://www.w3.org/2000/svg' width='%.0f' height='%.0f' ", width, height);
  out += "font-family='sans-serif' font-size='11'>\n";
  out += "<rect width='100%' height='100%' fill='white'/>\n";
  print(out, "<text x='%.0f' y='18' font-size='14'>%s: ", kLeft, std::string(scenario.name).c_str());
  out += std::string(scenario.says) + "</text>\n";
  for (std::size_t at = 0; at < runs.size(); ++at)
    print(out, "<text x='%.0f' y='36' fill='%s' font-weight='bold'>%s</text>\n",
          kLeft + static_cast<double>(at) * 130, kColours[at % std::size(kColours)],
          std::string(runs[at].policy.name).c_str());
  for (std::size_t column = 0; column < groups.size(); ++column) {
    const unsigned group = 1U << groups[column];
    const std::string name(group_name(groups[column]));
    const double left = kLeft + static_cast<double>(column) * (kWidth + kGap);
    const auto good = [group](const Run& run, std::size_t step) {
      return static_cast<double>(run.record.sum(step, step + 1, group).good) / Record::kStep;
    };
    const auto p99 = [group](const Run& run, std::size_t step) {
      return run.record.sum(step, step + 1, group).p99_ms();
    };
    double most = 1, longest = 0, shortest = 1e9;
    for (const Run& run : runs)
      for (std::size_t step = 0; step < steps; ++step) {
        most = std::max(most, good(run, step));
        longest = std::max(longest, p99(run, step));
        if (p99(run, step) > 0) shortest = std::min(shortest, p99(run, step));
      }
    panel(out, left, kTop, name + ": good answers per second", runs, {0, most * 1.05, false}, good);
    panel(out, left, kTop + kHeight + 60, name + ": P99, ms", runs,
          {shortest * 0.8, std::max(longest, shortest) * 1.25, true}, p99);
  }
  return out + "</svg>\n";
}

}  // namespace simulation
