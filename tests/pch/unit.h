// What nearly every file of the unit tests includes, compiled once. Not a reason to leave an #include away:
// -Db_pch=false shows what is missing.
#pragma once

#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "conf/settings.h"
