// A test program in forty lines: the package index has no C++ test framework, and the tests need nothing but
// pip.
//
//   TEST("what holds") { CHECK(a == b); CHECK_THROWS(BundleError, call()); }
//   int main() { return internvl::test::run_all(); }
#pragma once

#include <cstdio>
#include <exception>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/error.h"
#include "runtime/features.h"

namespace internvl::test {

struct Failure {
  std::string text;
};

inline std::vector<std::pair<std::string, std::function<void()>>>& tests() {
  static std::vector<std::pair<std::string, std::function<void()>>> all;
  return all;
}

struct Registration {
  Registration(const char* name, std::function<void()> body) { tests().emplace_back(name, std::move(body)); }
};

inline void check(bool holds, const char* text, const char* file, int line) {
  if (!holds) throw Failure{std::string(file) + ":" + std::to_string(line) + ": " + text};
}

inline int run_all() {
  try {
    features();
  } catch (const DeviceError& error) {
    std::printf("skipped: %s\n", error.what());
    return 77;
  }
  int failed = 0;
  for (const auto& [name, body] : tests()) {
    try {
      body();
    } catch (const Failure& failure) {
      std::printf("FAILED %s\n  %s\n", name.c_str(), failure.text.c_str());
      ++failed;
    } catch (const std::exception& error) {
      std::printf("FAILED %s\n  threw: %s\n", name.c_str(), error.what());
      ++failed;
    }
  }
  std::printf("%zu tests, %d failed\n", tests().size(), failed);
  return failed == 0 && !tests().empty() ? 0 : 1;
}

}  // namespace internvl::test

#define INTERNVL_JOIN_(a, b) a##b
#define INTERNVL_JOIN(a, b) INTERNVL_JOIN_(a, b)
#define TEST(name)                                                                    \
  static void INTERNVL_JOIN(test_, __LINE__)();                                       \
  static const ::internvl::test::Registration INTERNVL_JOIN(registration_, __LINE__){ \
      name, INTERNVL_JOIN(test_, __LINE__)};                                          \
  static void INTERNVL_JOIN(test_, __LINE__)()
#define CHECK(condition) ::internvl::test::check(static_cast<bool>(condition), #condition, __FILE__, __LINE__)
#define CHECK_THROWS(Type, expression)                                                      \
  do {                                                                                      \
    bool threw = false;                                                                     \
    try {                                                                                   \
      static_cast<void>(expression);                                                        \
    } catch (const Type&) {                                                                 \
      threw = true;                                                                         \
    }                                                                                       \
    ::internvl::test::check(threw, #expression " should throw " #Type, __FILE__, __LINE__); \
  } while (false)
