// Results.
#include "capi/handles.hpp"

namespace {

const pqpool::Result* with_rows(const pqpool_result* handle) {
    return handle && handle->result.has_value() && !handle->result.error() ? &handle->result : nullptr;
}

bool has_column(const pqpool::Result* result, int32_t column) {
    return result && column >= 0 && column < result->columns();
}
bool has_cell(const pqpool::Result* result, int32_t row, int32_t column) {
    return has_column(result, column) && row >= 0 && row < result->rows();
}

const std::optional<pqpool::Error>* failure(const pqpool_result* handle) {
    return handle && handle->result.error() ? &handle->result.error() : nullptr;
}

}  // namespace

extern "C" {

void pqpool_result_free(pqpool_result* result) { delete result; }

int32_t pqpool_result_rows(const pqpool_result* handle) {
    const auto* result = with_rows(handle);
    return result ? result->rows() : 0;
}

int32_t pqpool_result_columns(const pqpool_result* handle) {
    const auto* result = with_rows(handle);
    return result ? result->columns() : 0;
}

const char* pqpool_result_column_name(const pqpool_result* handle, int32_t column) {
    const auto* result = with_rows(handle);
    return has_column(result, column) ? result->column_name(column) : nullptr;
}

uint32_t pqpool_result_column_type(const pqpool_result* handle, int32_t column) {
    const auto* result = with_rows(handle);
    return has_column(result, column) ? result->column_type(column) : 0;
}

int32_t pqpool_result_is_binary(const pqpool_result* handle) {
    const auto* result = with_rows(handle);
    return result && result->is_binary();
}

const char* pqpool_result_value(const pqpool_result* handle, int32_t row, int32_t column) {
    const auto* result = with_rows(handle);
    return has_cell(result, row, column) && !result->is_null(row, column) ? result->value(row, column) : nullptr;
}

int32_t pqpool_result_length(const pqpool_result* handle, int32_t row, int32_t column) {
    const auto* result = with_rows(handle);
    return has_cell(result, row, column) ? result->length(row, column) : 0;
}

int32_t pqpool_result_is_null(const pqpool_result* handle, int32_t row, int32_t column) {
    const auto* result = with_rows(handle);
    return !has_cell(result, row, column) || result->is_null(row, column);
}

const char* pqpool_result_command_tag(const pqpool_result* handle) {
    const auto* result = with_rows(handle);
    return result ? result->command_tag() : nullptr;
}

const char* pqpool_result_error_message(const pqpool_result* handle) {
    const auto* error = failure(handle);
    return error ? (*error)->message.c_str() : nullptr;
}

const char* pqpool_result_error_sqlstate(const pqpool_result* handle) {
    const auto* error = failure(handle);
    return error ? (*error)->sqlstate.c_str() : nullptr;
}

const char* pqpool_result_error_field(const pqpool_result* handle, int32_t code) {
    return handle ? handle->result.field(code) : nullptr;
}

}  // extern "C"
