// Compiled once for each test program: most of what a test file costs the compiler.
#include <catch2/catch.hpp>
