/* Compiled alone and pedantically as C99, C11 and, through header_test.cpp, as C++17. */
#include <pqpool.h>
#include <pqpool.h> /* twice: the guard holds */

int main(void) { return pqpool_abi_version() != PQPOOL_ABI_VERSION; }
