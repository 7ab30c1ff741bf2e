// A pool's whole life through the C interface, with every call's outcome judged: what is wrong whatever failed beneath
// is said on stderr and ends the process.
#pragma once

namespace faults {

// Whatever fails while this runs, it ends; then, with nothing failing any more, the pool serves as if nothing had been,
// or can be started again; then, with failures again, it shuts down.
void live_through(const char* database_url, const char* log_file);

// With nothing failing: what is left of it.
void check_what_is_left(int descriptors_before);
int open_descriptors();

}  // namespace faults
