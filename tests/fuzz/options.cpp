// Any text as a connection string and as the value of each option.
#include <cstdint>
#include <string>

#include "core/base/error.hpp"
#include "core/base/options.hpp"
#include "core/base/secrets.hpp"
#include "core/base/text.hpp"
#include "tests/fuzz/check.hpp"

using namespace pqpool;

namespace {

constexpr const char* kSecret = "SeCrEt42";

bool tells(const std::string& text) { return text.find(kSecret) != std::string::npos; }

// Text of any bytes becomes UTF-8, however it is cut.
void check_text(const std::string& text) {
    CHECK(is_utf8(valid_utf8(text)));
    CHECK(is_utf8(on_one_line(text)));
    mask_text(text);
    CHECK(mask_statement(mask_statement(text)) == mask_statement(text));
    char copy[32];
    for (const Cut cut : {Cut::plain, Cut::with_ellipsis}) {
        copy_text(copy, sizeof copy, text, cut);
        CHECK(is_utf8(copy));
    }
    std::string json;
    append_json(json, text);
    CHECK(is_utf8(json));
    CHECK(json.find('\n') == std::string::npos);
    if (!is_utf8(text)) return;
    for (std::size_t limit = 0; limit <= text.size() && limit < 40; limit++) CHECK(is_utf8(cut_utf8(text, limit)));
}

// A password in its place is never told, whatever stands around it.
void check_secrets(const std::string& text) {
    if (tells(text)) return;
    const std::string secret = kSecret;
    CHECK(!tells(mask_password("postgresql://u:" + secret + "@" + text)));
    if (text.find_first_of("'$") == std::string::npos)
        CHECK(!tells(mask_statement(text + " PASSWORD '" + secret + "'")));
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
    check_text(text);
    libpq_conninfo(text);
    check_secrets(text);
    check_options(text);
    return 0;
}
