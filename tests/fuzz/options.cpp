// Any text as a connection string and as the value of each option.
#include <cstdint>
#include <string>

#include "core/error.hpp"
#include "core/options.hpp"
#include "tests/fuzz/check.hpp"

using namespace pqpool;

namespace {

constexpr const char* kSecret = "SeCrEt42";

bool tells(const std::string& text) { return text.find(kSecret) != std::string::npos; }

// A password in its place is never told, whatever stands around it.
void check_secrets(const std::string& text) {
    if (tells(text)) return;
    const std::string secret = kSecret;
    CHECK(!tells(mask_password("postgresql://u:" + secret + "@" + text)));
    if (text.find_first_of("'\\=") == std::string::npos && text.find("://") == std::string::npos)
        CHECK(!tells(mask_password(text + " password=" + secret)));
    Options options;
    options.database_url = "postgresql+driver://u:" + secret + "@" + text;
    CHECK(!tells(options.problems()));
}

// What an option took it gives back, and takes again; what it refuses it names.
void check_options(const std::string& text) {
    for (const auto& info : option_list()) {
        Options options;
        try {
            options.set(info.name, text);
        } catch (const Error& error) {
            CHECK(error.kind == ErrorKind::configuration);
            CHECK(std::string(error.what()).find(info.name) != std::string::npos);
            continue;
        }
        const auto taken = options.get(info.name);
        options.problems();
        Options again;
        again.set(info.name, taken);
        CHECK(again.get(info.name) == taken);
    }
    Options options;
    try {
        options.set(text, "1");
    } catch (const Error& error) {
        CHECK(error.kind == ErrorKind::configuration);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string text(reinterpret_cast<const char*>(data), size);
    mask_password(text);
    libpq_conninfo(text);
    check_secrets(text);
    check_options(text);
    return 0;
}
