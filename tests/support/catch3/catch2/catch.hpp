// Stands in for Catch2 2's one header where Catch2 3 is installed: what the tests use of it, by 2's names. Meson puts
// it on the path there, and only there.
#pragma once

#include <catch2/catch_approx.hpp>
#include <catch2/catch_message.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>
#include <catch2/matchers/catch_matchers.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <string>

namespace Catch {

namespace Matchers {

// In 3 a name of its own, because Contains asks any range there.
inline auto Contains(const std::string& part) { return ContainsSubstring(part); }

}  // namespace Matchers

using namespace Matchers;

}  // namespace Catch

using Catch::Approx;
