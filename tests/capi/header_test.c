/* Compiled alone and pedantically as C99, C11 and, through header_test.cpp, as C++17. */
#include <pqpool.h>
#include <pqpool.h> /* twice: the guard holds */

int main(void) {
    const uint32_t abi = (uint32_t)pqpool_abi_version();
    return abi == 0;
}
