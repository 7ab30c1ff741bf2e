// Values of a result to Python, after asyncpg's table: the binary form where the result has it, else the text form;
// both give the same.
#include "values.hpp"

namespace pqpool_python {

bool prepare_conversions() { return prepare_python_types() && prepare_parameter_types(); }

Ref decode(const pqpool_result* result, int32_t row, int32_t column) {
    const char* value = pqpool_result_value(result, row, column);
    if (!value) return Ref::borrow(Py_None);
    const uint32_t type = pqpool_result_column_type(result, column);
    const auto length = static_cast<std::size_t>(pqpool_result_length(result, row, column));
    return without_exceptions([&] {
        return pqpool_result_is_binary(result) ? decode_binary(type, value, length) : decode_text(type, value, length);
    });
}

}  // namespace pqpool_python
