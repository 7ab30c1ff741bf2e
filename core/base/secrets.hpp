// Masking of passwords in what may be shown: messages, log lines, statements. The one source of these rules; in doubt
// they mask too much. The server's own words are not masked: what looks like a URL's user in them may be a role's name.
#pragma once

#include <string>
#include <string_view>

namespace pqpool {

// A text that as a whole is (or was meant to be) a URL or libpq keyword string: its password becomes ***, wherever it
// stands.
std::string mask_password(std::string_view conninfo);

// Free text: the passwords of the URLs and the values of the secret keywords in it.
std::string mask_text(std::string_view text);

// A statement's beginning. Where it speaks of a password or the like (or its unseen rest does), or holds a URL, all
// from its first literal on becomes '***': so no quoting, however broken, shows a literal.
std::string mask_statement(std::string_view beginning, bool rest_mentions_secret = false);

// Whether a statement speaks of a password, a secret, a token or the like.
bool mentions_secret(std::string_view sql);

// A URL's %41 as A.
std::string percent_decoded(std::string_view text);

}  // namespace pqpool
