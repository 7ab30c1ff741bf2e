// The module _pqpool: the C interface for Python. Knows pqpool.h and nothing of the core.
#include <pybind11/pybind11.h>

#include <vector>

#include "driver.hpp"

namespace py = pybind11;

namespace pqpool_python {

namespace {

PyObject* make_error = nullptr;  // pqpool.exceptions.make_error

Ref build_error(const char* kind, const char* message, PyObject* fields) {
    if (!make_error) {
        const Ref module = Ref::steal(PyImport_ImportModule("pqpool.exceptions"));
        make_error = module ? PyObject_GetAttrString(module.get(), "make_error") : nullptr;
        if (!make_error) return {};
    }
    const Ref name = text_of(kind), text = text_of(message);
    if (!name || !text) return {};
    return Ref::steal(
        PyObject_CallFunctionObjArgs(make_error, name.get(), text.get(), fields ? fields : Py_None, nullptr));
}

// Whatever happens on the way, there is an error in the end.
Ref some_error(const char* kind, const char* message, PyObject* fields) {
    Ref error = build_error(kind, message, fields);
    return error ? std::move(error) : caught_error();
}

PyObject* raise(const Ref& error) {
    PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.get())), error.get());
    return nullptr;
}

// The server's fields by the names of QueryError; `field` gives one by its code.
template <class Field>
Ref fields_of(const char* sqlstate, Field&& field) {
    static constexpr std::pair<int, const char*> kFields[] = {
        {'V', "severity"},       {'D', "detail"},          {'H', "hint"},       {'P', "position"},
        {'W', "context"},        {'s', "schema_name"},     {'t', "table_name"}, {'c', "column_name"},
        {'d', "data_type_name"}, {'n', "constraint_name"},
    };
    Ref fields = Ref::steal(PyDict_New());
    if (!fields) PyErr_Clear();
    auto add = [&](const char* name, const char* value) {
        if (!fields || !value || !*value) return;
        const Ref text = text_of(value);
        if (!text || PyDict_SetItemString(fields.get(), name, text.get()) != 0) PyErr_Clear();  // rather without it
    };
    add("sqlstate", sqlstate);
    for (const auto& [code, name] : kFields) add(name, field(code));
    return fields;
}

const char* name_of(int32_t status) {
    const char* name = pqpool_status_name(status);
    return name ? name : "internal";
}

[[noreturn]] void throw_last_error(int32_t status) {
    raise_last_error(status);
    throw py::error_already_set();
}

void check(int32_t status) {
    if (status != PQPOOL_OK) throw_last_error(status);
}

py::str str_of(const char* text) {
    Ref made = text_of(text);
    if (!made) throw py::error_already_set();
    return py::reinterpret_steal<py::str>(made.release());
}

// Surrogates, which a str can hold and UTF-8 cannot, as bytes that the core refuses, with the option's name.
std::string bytes_of(const py::str& text) {
    const auto encoded =
        py::reinterpret_steal<py::bytes>(PyUnicode_AsEncodedString(text.ptr(), "utf-8", "surrogatepass"));
    if (!encoded) throw py::error_already_set();
    return encoded;
}

struct OptionsHandle {
    pqpool_options* options = nullptr;
    OptionsHandle() { check(pqpool_options_create(&options)); }
    ~OptionsHandle() { pqpool_options_free(options); }
    OptionsHandle(const OptionsHandle&) = delete;

    void set(const py::dict& values) {
        for (const auto& [name, value] : values) {
            const std::string text =
                py::isinstance<py::bool_>(value) ? (value.cast<bool>() ? "true" : "false") : bytes_of(py::str(value));
            check(pqpool_options_set(options, bytes_of(py::str(name)).c_str(), text.c_str()));
        }
    }
};

py::object typed(int32_t type, const char* text) {
    switch (type) {
        case PQPOOL_OPTION_INTEGER:
            return py::int_(std::stoll(text));
        case PQPOOL_OPTION_SECONDS:
            return py::float_(std::stod(text));
        case PQPOOL_OPTION_BOOLEAN:
            return py::bool_(std::string(text) == "true");
        default:
            return str_of(text);
    }
}

// The value for which a variable's text stands, by the core's rule. Raises PoolConfigurationError.
py::object parse_option(const py::str& name, const py::str& text) {
    OptionsHandle handle;
    const std::string option = bytes_of(name);
    check(pqpool_options_set(handle.options, option.c_str(), bytes_of(text).c_str()));
    std::size_t length = 0;
    check(pqpool_options_get(handle.options, option.c_str(), nullptr, 0, &length));
    std::string value(length + 1, '\0');
    check(pqpool_options_get(handle.options, option.c_str(), value.data(), value.size(), nullptr));
    for (int32_t i = 0; i < pqpool_option_count(); i++) {
        pqpool_option_info info{};
        info.struct_size = sizeof info;
        check(pqpool_option_describe(i, &info));
        if (option == info.name) return typed(info.type, value.c_str());
    }
    return py::none();
}

template <int32_t (*mask)(const char*, char*, std::size_t, std::size_t*)>
py::str masked(const py::str& text) {
    const std::string bytes = bytes_of(text);
    std::size_t length = 0;
    check(mask(bytes.c_str(), nullptr, 0, &length));
    std::string out(length + 1, '\0');
    check(mask(bytes.c_str(), out.data(), out.size(), nullptr));
    PyObject* decoded = PyUnicode_DecodeUTF8(out.c_str(), static_cast<Py_ssize_t>(length), "surrogatepass");
    if (!decoded) throw py::error_already_set();
    return py::reinterpret_steal<py::str>(decoded);
}

py::list options() {
    static constexpr const char* kTypes[] = {"int", "seconds", "bool", "text", "enum"};
    py::list list;
    for (int32_t i = 0; i < pqpool_option_count(); i++) {
        pqpool_option_info info{};
        info.struct_size = sizeof info;
        check(pqpool_option_describe(i, &info));
        py::dict option;
        option["name"] = info.name;
        option["type"] = kTypes[info.type];
        option["default"] = typed(info.type, info.default_value);
        option["minimum"] = info.minimum;
        option["maximum"] = info.maximum;
        option["help"] = info.meaning;
        if (*info.choices) option["choices"] = py::str(info.choices).attr("split")("|");
        list.append(option);
    }
    return list;
}

void check_options(const py::dict& values) {
    OptionsHandle handle;
    handle.set(values);
    check(pqpool_options_check(handle.options));
}

const std::vector<pqpool_statistic_info>& statistic_list() {
    static const std::vector<pqpool_statistic_info> list = [] {
        std::vector<pqpool_statistic_info> found(static_cast<std::size_t>(pqpool_statistic_count()));
        for (std::size_t i = 0; i < found.size(); i++) {
            found[i].struct_size = sizeof found[i];
            check(pqpool_statistic_describe(static_cast<int32_t>(i), &found[i]));
        }
        return found;
    }();
    return list;
}

// The names as Python objects, made once.
const std::vector<py::str>& statistic_names() {
    static const auto* names = [] {
        auto* made = new std::vector<py::str>;
        for (const auto& info : statistic_list())
            made->emplace_back(info.name == std::string("uptime_ms") ? "uptime_seconds" : info.name);
        return made;
    }();
    return *names;
}

template <class T>
T& at(const pqpool_statistics& statistics, std::size_t offset) {
    return *reinterpret_cast<T*>(const_cast<char*>(reinterpret_cast<const char*>(&statistics)) + offset);
}

py::object optional_seconds(int64_t us) {
    return us ? py::object(py::float_(static_cast<double>(us) / 1e6)) : py::none();
}

class Pool {
  public:
    explicit Pool(const py::dict& values) {
        OptionsHandle options;
        options.set(values);
        check(pqpool_create(options.options, &handle_->pool));
    }

    const std::shared_ptr<PoolHandle>& handle() const { return handle_; }

    void start() { check(pqpool_start(handle_->pool)); }

    py::dict statistics() {
        pqpool_statistics s{};
        s.struct_size = sizeof s;
        check(pqpool_get_statistics(handle_->pool, &s));
        py::dict out;
        const auto& list = statistic_list();
        const auto& names = statistic_names();
        for (std::size_t i = 0; i < list.size(); i++) {
            switch (list[i].type) {
                case PQPOOL_STATISTIC_MS:
                    out[names[i]] = py::float_(at<double>(s, list[i].offset));
                    break;
                case PQPOOL_STATISTIC_TIME:
                    out[names[i]] = optional_seconds(at<int64_t>(s, list[i].offset));
                    break;
                default:
                    out[names[i]] = py::int_(at<int64_t>(s, list[i].offset));
            }
        }
        out["uptime_seconds"] = s.uptime_ms / 1e3;
        if (s.latency_ms < 0) out["latency_ms"] = py::none();
        out["state"] = state();
        const auto error = last_error();
        out["last_error"] = error.empty() ? py::object(py::none()) : str_of(error.c_str());
        return out;
    }

    // (status, state, database, total, idle, active, waiting, latency_ms, last_error, leak_count, uptime_seconds,
    // timestamp, behind_pooler)
    py::tuple health() {
        const pqpool_health h = read_health();
        static constexpr const char* kStatuses[] = {"healthy", "degraded", "unhealthy"};
        timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        return py::make_tuple(
            kStatuses[h.status], pqpool_state_name(h.state), h.database, h.total_connections, h.idle_connections,
            h.active_connections, h.waiting_requests,
            h.latency_ms < 0 ? py::object(py::none()) : py::float_(h.latency_ms),
            h.last_error[0] ? py::object(str_of(h.last_error)) : py::none(), h.leak_count, h.uptime_ms / 1e3,
            static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9, h.behind_pooler != 0);
    }

    const char* state() {
        int32_t state;
        check(pqpool_get_state(handle_->pool, &state));
        return pqpool_state_name(state);
    }

    py::list holders() {
        std::size_t count = 0;
        check(pqpool_holders(handle_->pool, nullptr, 0, &count));
        std::vector<pqpool_holder> found(count);
        for (auto& holder : found) holder.struct_size = sizeof holder;
        const std::size_t room = found.size();
        check(pqpool_holders(handle_->pool, found.data(), room, &count));
        py::list list;
        for (std::size_t i = 0; i < std::min(room, count); i++) {
            py::dict holder;
            holder["lease"] = found[i].lease;
            holder["backend_pid"] = found[i].backend_pid;
            holder["held_seconds"] = found[i].held_ms / 1e3;
            holder["tag"] = str_of(found[i].tag);
            holder["last_statement"] = str_of(found[i].last_statement);
            list.append(holder);
        }
        return list;
    }

    void resize(int64_t min_size, int64_t max_size) { check(pqpool_resize(handle_->pool, min_size, max_size)); }
    void drain() { check(pqpool_drain(handle_->pool)); }
    void pause() { check(pqpool_pause(handle_->pool)); }
    void resume() { check(pqpool_resume(handle_->pool)); }
    void set_log_level(int32_t level) { check(pqpool_set_log_level(handle_->pool, level)); }

  private:
    pqpool_health read_health() {
        pqpool_health h{};
        h.struct_size = sizeof h;
        check(pqpool_get_health(handle_->pool, &h));
        return h;
    }
    std::string last_error() {
        char text[sizeof(pqpool_health::last_error)] = "";
        check(pqpool_get_last_error(handle_->pool, text, sizeof text));
        return text;
    }

    std::shared_ptr<PoolHandle> handle_ = std::make_shared<PoolHandle>();
};

// By the names of PoolStatistics; times are Unix seconds or None; "now" and "state" go with them.
std::string calculate_health(const py::dict& values, int64_t min_size, int64_t) {
    pqpool_statistics s{};
    s.struct_size = sizeof s;
    for (const auto& info : statistic_list()) {
        if (!values.contains(info.name) || values[info.name].is_none()) continue;
        const py::object value = values[info.name];
        if (info.type == PQPOOL_STATISTIC_MS)
            at<double>(s, info.offset) = value.cast<double>();
        else if (info.type == PQPOOL_STATISTIC_TIME)
            at<int64_t>(s, info.offset) = static_cast<int64_t>(value.cast<double>() * 1e6);
        else
            at<int64_t>(s, info.offset) = value.cast<int64_t>();
    }
    const auto name = py::str(values["state"]).cast<std::string>();
    int32_t state = PQPOOL_INITIALIZING, status;
    while (pqpool_state_name(state) && name != pqpool_state_name(state)) state++;
    check(pqpool_calculate_health(&s, state, min_size, static_cast<int64_t>(values["now"].cast<double>() * 1e6),
                                  &status));
    return status == PQPOOL_HEALTHY ? "healthy" : status == PQPOOL_DEGRADED ? "degraded" : "unhealthy";
}

}  // namespace

Ref caught_error() {
    if (!PyErr_Occurred()) PyErr_NoMemory();
    PyObject *type, *error, *trace;
    PyErr_Fetch(&type, &error, &trace);
    PyErr_NormalizeException(&type, &error, &trace);
    Py_XDECREF(type);
    Py_XDECREF(trace);
    return Ref::steal(error);
}

PyObject* raise_last_error(int32_t status) {
    return raise(some_error(name_of(status), pqpool_error_message(),
                            fields_of(pqpool_error_sqlstate(), pqpool_error_field).get()));
}

PyObject* raise_error(const char* kind, std::string_view message) {
    return without_exceptions([&] { return raise(some_error(kind, std::string(message).c_str(), Py_None)); });
}

Ref error_of_result(int32_t status, const pqpool_result* result) {
    return some_error(name_of(status), pqpool_result_error_message(result),
                      fields_of(pqpool_result_error_sqlstate(result), [&](int code) {
                          return pqpool_result_error_field(result, code);
                      }).get());
}

// NOLINTNEXTLINE(bugprone-exception-escape): pybind11's guard allocates nothing on a thread that holds the GIL
PoolHandle::~PoolHandle() {
    if (!pool) return;
    const py::gil_scoped_release released;
    pqpool_free(pool);
}

std::shared_ptr<PoolHandle> pool_of(PyObject* object) {
    try {
        return py::handle(object).cast<Pool&>().handle();
    } catch (const py::cast_error&) {
        PyErr_SetString(PyExc_TypeError, "a Pool is wanted");
        return nullptr;
    }
}

// Not by its own name: PyInit__pqpool below looks first at who imports it.
PYBIND11_MODULE(_pqpool_of_main_interpreter, m) {
    m.doc() = "The native module: the pool's C interface for Python.";
    m.attr("__version__") = pqpool_version();
    if (!prepare_conversions() || !add_record_type(m.ptr()) || !add_driver_types(m.ptr()))
        throw py::error_already_set();
    m.def("options", &options, "Every setting, from the core's single list.");
    m.def("check_options", &check_options, py::arg("values"),
          "Raises PoolConfigurationError, with every problem in its message, if settings do not fit.");
    m.def("parse_option", &parse_option, py::arg("name"), py::arg("text"),
          "The value for which a text stands. Raises PoolConfigurationError.");
    m.def("mask_conninfo", &masked<pqpool_mask_conninfo>, py::arg("conninfo"),
          "A text that as a whole is a URL or keyword string, with every password as ***.");
    m.def("mask_statement", &masked<pqpool_mask_statement>, py::arg("sql"),
          "A statement; one that speaks of a password or the like without its literals.");
    m.def("mask_text", &masked<pqpool_mask_text>, py::arg("text"), "Any text, with every password in it as ***.");
    m.def("calculate_health", &calculate_health, py::arg("statistics"), py::arg("min_size"), py::arg("max_size"),
          "The core's health rule.");
    py::class_<Pool>(m, "Pool", "A pool. Any thread.")
        .def(py::init<const py::dict&>(), py::arg("options"), "Opens nothing. Raises PoolConfigurationError.")
        .def("start", &Pool::start, "Begins to open min_size connections; does not block.")
        .def("statistics", &Pool::statistics, "A snapshot, by name.")
        .def("health", &Pool::health, "The health in a tuple, see HealthStatus.")
        .def("state", &Pool::state)
        .def("holders", &Pool::holders, "Who holds a connection, longest first.")
        .def("resize", &Pool::resize, py::arg("min_size"), py::arg("max_size"))
        .def("drain", &Pool::drain, "Replaces every connection of now.")
        .def("pause", &Pool::pause, "Acquires wait.")
        .def("resume", &Pool::resume)
        .def("set_log_level", &Pool::set_log_level, py::arg("level"));
}

}  // namespace pqpool_python

namespace {

// The types here, asyncio's functions and pybind11's registry are one set for the process, and belong to its main
// interpreter. In another one, pybind11 waits for ever for a lock that this very thread holds.
bool is_main_interpreter() {
    if (PyInterpreterState_Get() == PyInterpreterState_Main()) return true;
    PyErr_SetString(PyExc_ImportError,
                    "pqpool cannot be imported in a second interpreter of one process. Suggestion: use it in the main "
                    "interpreter (mod_wsgi: WSGIApplicationGroup %{GLOBAL}; uWSGI: single-interpreter = true)");
    return false;
}

int refuse_second_interpreter(PyObject*) { return is_main_interpreter() ? 0 : -1; }

// Puts the refusal in front of pybind11's slots. From 3.13 on Python calls PyInit in the main interpreter, whoever
// imports, and only the slots in the one that does; its own refusal of isolated interpreters knows no cure.
void refuse_first(PyModuleDef& definition) {
    static std::vector<PyModuleDef_Slot> slots;
    if (!slots.empty()) return;
    slots.push_back({Py_mod_exec, reinterpret_cast<void*>(&refuse_second_interpreter)});
    for (const PyModuleDef_Slot* slot = definition.m_slots; slot && slot->slot; ++slot) {
#ifdef Py_mod_multiple_interpreters
        if (slot->slot == Py_mod_multiple_interpreters) continue;
#endif
        slots.push_back(*slot);
    }
#ifdef Py_mod_multiple_interpreters
    slots.push_back({Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED});
#endif
    slots.push_back({0, nullptr});
    definition.m_slots = slots.data();
}

}  // namespace

// NOLINTNEXTLINE(bugprone-reserved-identifier): Python makes this name of the module's
extern "C" PYBIND11_EXPORT PyObject* PyInit__pqpool() {
    if (!is_main_interpreter()) return nullptr;
    PyObject* made = pqpool_python::PyInit__pqpool_of_main_interpreter();
    if (made) refuse_first(*reinterpret_cast<PyModuleDef*>(made));
    return made;
}
