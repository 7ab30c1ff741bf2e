// Driver: one event loop's side of a pool. Lease: one connection in the hands of that loop's tasks.
//
// The loop watches the driver's one descriptor; drain() then reads every ready socket, decodes, and resolves all the futures it can. acquire, execute
// and release are plain calls in between: no thread is crossed and no task is switched where nothing has to be waited for. These are the hot paths of the
// package, so both types are written against Python's C interface.
#include "driver.hpp"

#include <structmember.h>

#include <array>

namespace pqpool_python {

namespace {

constexpr int kStackDepth = 8;

// Who acquired, as (code, instruction) pairs: cheap to take, and turned into text only when somebody reads it.
class Stack {
public:
    Stack() = default;
    Stack(Stack&& other) noexcept { swap(other); }
    ~Stack() { clear(); }
    void swap(Stack& other) noexcept {
        std::swap(frames_, other.frames_);
        std::swap(depth_, other.depth_);
    }
    void take() {
        PyFrameObject* frame = PyEval_GetFrame();
        Py_XINCREF(frame);
        while (frame && depth_ < kStackDepth) {
            frames_[depth_++] = {PyFrame_GetCode(frame), PyFrame_GetLasti(frame)};
            PyFrameObject* caller = PyFrame_GetBack(frame);
            Py_DECREF(frame);
            frame = caller;
        }
        Py_XDECREF(frame);
    }
    void clear() {
        while (depth_ > 0) Py_DECREF(frames_[--depth_].code);
    }
    PyObject* lines() const {  // [(file, line, function), …], innermost first
        PyObject* list = PyList_New(depth_);
        for (int i = 0; list && i < depth_; i++) {
            PyCodeObject* code = frames_[i].code;
            PyObject* line = Py_BuildValue("(OiO)", code->co_filename, PyCode_Addr2Line(code, frames_[i].instruction), code->co_qualname);
            if (!line) Py_CLEAR(list);
            else PyList_SET_ITEM(list, i, line);
        }
        return list;
    }

private:
    struct Frame {
        PyCodeObject* code;
        int instruction;
    };
    std::array<Frame, kStackDepth> frames_;
    int depth_ = 0;
};

enum class Mode : int { value = 0, row = 1, rows = 2, tag = 3, nothing = 4, acquire = 5 };

// A submitted request and the future that waits for it.
struct Pending {
    PyObject* future = nullptr;
    PyObject* lease = nullptr;  // of a statement
    Mode mode = Mode::nothing;
    int column = 0;
    uint64_t id = 0;
    Stack stack;
    Pending* next_free = nullptr;
};

struct Lease;

struct Driver {
    PyObject_HEAD
    std::shared_ptr<PoolHandle> pool;
    pqpool_queue* queue;
    PyObject* create_future;
    PyObject* lease_type;  // what acquire gives: a subclass of Lease
    PyObject* on_log;
    Lease* leases;  // those out, for the holders' stacks
    Pending* free_pending;
    Parameters parameters;
    bool keeps_stacks;
    bool follows_log;
};

struct Lease {
    PyObject_HEAD
    Driver* driver;
    pqpool_lease handle;
    uint64_t operation;  // the statement under way, or 0
    bool released;
    Stack stack;
    Lease *previous, *next;
};

PyTypeObject *driver_type = nullptr, *lease_type = nullptr;
PyObject *set_result_name, *set_exception_name, *done_name;

Driver* driver_of(PyObject* self) { return reinterpret_cast<Driver*>(self); }
Lease* lease_of(PyObject* self) { return reinterpret_cast<Lease*>(self); }

void link(Lease* lease) {
    lease->previous = nullptr;
    lease->next = lease->driver->leases;
    if (lease->next) lease->next->previous = lease;
    lease->driver->leases = lease;
}

void unlink(Lease* lease) {
    if (lease->next) lease->next->previous = lease->previous;
    (lease->previous ? lease->previous->next : lease->driver->leases) = lease->next;
    lease->previous = lease->next = nullptr;
}

Pending* new_pending(Driver* driver, Mode mode) {
    Pending* pending = driver->free_pending;
    if (pending) driver->free_pending = pending->next_free;
    else pending = new Pending;
    pending->mode = mode;
    pending->future = PyObject_CallNoArgs(driver->create_future);
    return pending;
}

void free_pending(Driver* driver, Pending* pending) {
    Py_CLEAR(pending->future);
    Py_CLEAR(pending->lease);
    pending->stack.clear();
    pending->next_free = driver->free_pending;
    driver->free_pending = pending;
}

Ref new_lease(Driver* driver, pqpool_lease handle, Stack& stack) {
    auto* type = reinterpret_cast<PyTypeObject*>(driver->lease_type);
    Lease* lease = lease_of(type->tp_alloc(type, 0));
    if (!lease) return {};
    new (&lease->stack) Stack;
    lease->stack.swap(stack);
    lease->driver = reinterpret_cast<Driver*>(Py_NewRef(reinterpret_cast<PyObject*>(driver)));
    lease->handle = handle;
    lease->released = false;
    link(lease);
    return Ref::steal(reinterpret_cast<PyObject*>(lease));
}

// The result in the form that the statement's method gives.
Ref convert(const pqpool_result* result, Mode mode, int column) {
    const int32_t rows = pqpool_result_rows(result), columns = pqpool_result_columns(result);
    if (mode == Mode::tag) return Ref::steal(PyUnicode_FromString(pqpool_result_command_tag(result)));
    if (mode == Mode::nothing) return Ref::borrow(Py_None);
    if (mode == Mode::value) {
        if (rows == 0 || columns == 0) return Ref::borrow(Py_None);
        if (column < 0) column += columns;
        if (column >= 0 && column < columns) return decode(result, 0, column);
        PyErr_Format(PyExc_IndexError, "column %d is out of range: the result has %d columns", column, columns);
        return {};
    }
    if (mode == Mode::row && rows == 0) return Ref::borrow(Py_None);
    const Ref shape = rows > 0 ? make_record_shape(result) : Ref::borrow(Py_None);
    if (!shape) return {};
    auto record = [&](int32_t row) {
        Ref made = make_record(shape.get(), columns);
        for (int32_t i = 0; made && i < columns; i++) {
            Ref value = decode(result, row, i);
            if (!value) return Ref();
            set_record_item(made.get(), i, std::move(value));
        }
        return made;
    };
    if (mode == Mode::row) return record(0);
    Ref list = Ref::steal(PyList_New(rows));
    for (int32_t row = 0; list && row < rows; row++) {
        Ref one = record(row);
        if (!one) return {};
        PyList_SET_ITEM(list.get(), row, one.release());
    }
    return list;
}

bool is_done(PyObject* future) {
    const Ref done = Ref::steal(PyObject_CallMethodNoArgs(future, done_name));
    return !done || done.get() == Py_True;
}

// True unless a Python error has to go up to the caller.
bool resolve(Driver* driver, Pending* pending, const pqpool_completion& completion) {
    Ref value;
    if (completion.status == PQPOOL_OK) {
        if (pending->mode == Mode::acquire) value = new_lease(driver, completion.lease, pending->stack);  // released again if nobody takes it
        else value = completion.result ? convert(completion.result, pending->mode, pending->column) : Ref::borrow(Py_None);
    }
    Ref error;
    if (completion.status != PQPOOL_OK) {
        error = error_of_result(completion.status, completion.result);
    } else if (!value) {  // a value that Python cannot hold
        PyObject *type, *instance, *trace;
        PyErr_Fetch(&type, &instance, &trace);
        PyErr_NormalizeException(&type, &instance, &trace);
        error = Ref::steal(instance);
        Py_XDECREF(type);
        Py_XDECREF(trace);
    }
    if (pending->lease) lease_of(pending->lease)->operation = 0;
    if (is_done(pending->future)) {  // cancelled meanwhile
        if (value && pending->mode == Mode::acquire) Py_XDECREF(PyObject_CallMethod(value.get(), "_release", nullptr));
        PyErr_Clear();
        return true;
    }
    PyObject* name = value ? set_result_name : set_exception_name;
    const Ref set = Ref::steal(PyObject_CallMethodOneArg(pending->future, name, value ? value.get() : error.get()));
    return static_cast<bool>(set);
}

bool take_completions(Driver* driver) {
    pqpool_completion completion{};
    completion.struct_size = sizeof completion;
    for (;;) {
        int32_t taken = 0;
        const int32_t status = pqpool_queue_next(driver->queue, &completion, &taken);
        if (status != PQPOOL_OK) return raise_last_error(status), false;
        if (!taken) return true;
        auto* pending = static_cast<Pending*>(completion.user_data);
        const bool good = resolve(driver, pending, completion);
        pqpool_result_free(completion.result);
        free_pending(driver, pending);
        if (!good) return false;
    }
}

bool take_log(Driver* driver) {
    pqpool_log_line line{};
    line.struct_size = sizeof line;
    for (;;) {
        int32_t taken = 0;
        if (pqpool_log_next(driver->pool->pool, &line, &taken) != PQPOOL_OK || !taken) return true;
        const Ref done = Ref::steal(PyObject_CallFunction(driver->on_log, "issdK", line.level, line.message, line.context, line.unix_time,
                                                          static_cast<unsigned long long>(line.lease)));
        if (!done) return false;
    }
}

bool is_open(Driver* driver) {
    if (driver->queue) return true;
    raise_error("closed", "the event loop's side of the pool is closed");
    return false;
}

// ---- Driver ----

PyObject* driver_new(PyTypeObject* type, PyObject* args, PyObject*) {
    PyObject *pool, *create_future, *lease, *on_log;
    int keeps_stacks;
    if (!PyArg_ParseTuple(args, "OOOOp:Driver", &pool, &create_future, &lease, &on_log, &keeps_stacks)) return nullptr;
    auto handle = pool_of(pool);
    if (!handle) return nullptr;
    if (!PyType_Check(lease) || !PyType_IsSubtype(reinterpret_cast<PyTypeObject*>(lease), lease_type)) {
        PyErr_SetString(PyExc_TypeError, "the lease type must be a subclass of Lease");
        return nullptr;
    }
    pqpool_queue* queue = nullptr;
    if (const int32_t status = pqpool_queue_open(handle->pool, &queue); status != PQPOOL_OK) return raise_last_error(status);
    Driver* self = driver_of(type->tp_alloc(type, 0));
    if (!self) return nullptr;
    new (&self->pool) std::shared_ptr<PoolHandle>(std::move(handle));
    new (&self->parameters) Parameters;
    self->queue = queue;
    self->create_future = Py_NewRef(create_future);
    self->lease_type = Py_NewRef(lease);
    self->on_log = Py_NewRef(on_log);
    self->keeps_stacks = keeps_stacks;
    return reinterpret_cast<PyObject*>(self);
}

void close_queue(Driver* self) {
    if (pqpool_queue* queue = std::exchange(self->queue, nullptr)) pqpool_queue_free(queue);
}

int driver_clear(PyObject* object) {
    Driver* self = driver_of(object);
    Py_CLEAR(self->create_future);
    Py_CLEAR(self->lease_type);
    Py_CLEAR(self->on_log);
    return 0;
}

void driver_dealloc(PyObject* object) {
    Driver* self = driver_of(object);
    PyTypeObject* type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    close_queue(self);
    driver_clear(object);
    while (Pending* pending = self->free_pending) {
        self->free_pending = pending->next_free;
        delete pending;
    }
    self->parameters.~Parameters();
    self->pool.~shared_ptr();
    type->tp_free(object);
    Py_DECREF(type);
}

int driver_traverse(PyObject* object, visitproc visit, void* arg) {
    Driver* self = driver_of(object);
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->create_future);
    Py_VISIT(self->lease_type);
    Py_VISIT(self->on_log);
    return 0;
}

int64_t ms_of(PyObject* seconds, bool& good) {  // None: the option's
    if (seconds == Py_None) return PQPOOL_DEFAULT;
    const double value = PyFloat_AsDouble(seconds);
    if (value == -1.0 && PyErr_Occurred()) good = false;
    else if (!(value >= 0)) good = false, raise_error("invalid_argument", "a timeout must be a number of seconds >= 0, or None for the pool's option");
    return value > 9e15 ? PQPOOL_NO_LIMIT : static_cast<int64_t>(value * 1e3 + 0.999);
}

// acquire(timeout, leak_timeout) -> Lease, or (future of a Lease, id) where one has to be waited for
PyObject* driver_acquire(PyObject* object, PyObject* const* args, Py_ssize_t count) {
    Driver* self = driver_of(object);
    if (count != 2) return PyErr_SetString(PyExc_TypeError, "acquire takes timeout and leak_timeout"), nullptr;
    if (!is_open(self)) return nullptr;
    bool good = true;
    pqpool_acquire_options options = PQPOOL_ACQUIRE_OPTIONS_INIT;
    options.timeout_ms = ms_of(args[0], good);
    options.leak_timeout_ms = ms_of(args[1], good);
    if (!good) return nullptr;
    Stack stack;
    if (self->keeps_stacks) stack.take();
    Pending* pending = nullptr;
    uint64_t id = 0;
    pqpool_lease handle = 0;
    pending = self->free_pending ? self->free_pending : new Pending;  // its future is made only if it is needed
    self->free_pending = pending->next_free;
    const int32_t status = pqpool_acquire_async(self->queue, &options, pending, &id, &handle);
    if (status != PQPOOL_OK || handle != 0) {
        pending->next_free = self->free_pending;
        self->free_pending = pending;
        return status != PQPOOL_OK ? raise_last_error(status) : new_lease(self, handle, stack).release();
    }
    pending->mode = Mode::acquire;
    pending->id = id;
    pending->stack.swap(stack);
    pending->future = PyObject_CallNoArgs(self->create_future);
    if (!pending->future) return nullptr;
    const Ref future = Ref::borrow(pending->future);
    if (!take_completions(self)) return nullptr;
    return Py_BuildValue("(OK)", future.get(), static_cast<unsigned long long>(id));
}

PyObject* driver_cancel(PyObject* object, PyObject* id) {
    Driver* self = driver_of(object);
    if (!self->queue) Py_RETURN_NONE;
    int32_t cancelled = 0;
    const int32_t status = pqpool_queue_cancel(self->queue, PyLong_AsUnsignedLongLong(id), &cancelled);
    if (status != PQPOOL_OK) return raise_last_error(status);
    return take_completions(self) ? PyBool_FromLong(cancelled) : nullptr;
}

PyObject* driver_drain(PyObject* object, PyObject*) {
    Driver* self = driver_of(object);
    if (!self->queue) Py_RETURN_NONE;
    if (const int32_t status = pqpool_queue_poll(self->queue, 0); status != PQPOOL_OK) return raise_last_error(status);
    if (!take_completions(self)) return nullptr;
    if (self->follows_log && !take_log(self)) return nullptr;
    Py_RETURN_NONE;
}

template <class Submit>
PyObject* submit(Driver* self, Submit&& request) {
    if (!is_open(self)) return nullptr;
    Pending* pending = new_pending(self, Mode::nothing);
    const Ref future = Ref::borrow(pending->future);
    const int32_t status = future ? request(pending) : PQPOOL_INTERNAL;
    if (status != PQPOOL_OK) {
        free_pending(self, pending);
        return future ? raise_last_error(status) : nullptr;
    }
    return take_completions(self) ? Py_NewRef(future.get()) : nullptr;
}

PyObject* driver_await_open(PyObject* object, PyObject*) {
    Driver* self = driver_of(object);
    return submit(self, [self](Pending* pending) { return pqpool_await_open_async(self->queue, pending, &pending->id); });
}

PyObject* driver_shutdown(PyObject* object, PyObject* timeout) {
    Driver* self = driver_of(object);
    bool good = true;
    const int64_t ms = timeout == Py_None ? PQPOOL_NO_LIMIT : ms_of(timeout, good);
    if (!good) return nullptr;
    return submit(self, [=](Pending* pending) { return pqpool_shutdown_async(self->queue, ms, pending, &pending->id); });
}

PyObject* driver_follow_log(PyObject* object, PyObject*) {
    Driver* self = driver_of(object);
    if (!is_open(self)) return nullptr;
    self->follows_log = true;
    const int32_t status = pqpool_queue_follow_log(self->queue);
    return status == PQPOOL_OK ? Py_NewRef(Py_None) : raise_last_error(status);
}

PyObject* driver_take_log(PyObject* object, PyObject*) { return take_log(driver_of(object)) ? Py_NewRef(Py_None) : nullptr; }

PyObject* driver_close(PyObject* object, PyObject*) {
    close_queue(driver_of(object));
    Py_RETURN_NONE;
}

PyObject* driver_fileno(PyObject* object, PyObject*) { return PyLong_FromLong(pqpool_queue_fd(driver_of(object)->queue)); }

PyObject* driver_leases(PyObject* object, PyObject*) {
    PyObject* list = PyList_New(0);
    for (Lease* lease = driver_of(object)->leases; list && lease; lease = lease->next)
        if (PyList_Append(list, reinterpret_cast<PyObject*>(lease)) != 0) Py_CLEAR(list);
    return list;
}

PyMethodDef driver_methods[] = {
    {"acquire", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(driver_acquire)), METH_FASTCALL, "acquire(timeout, leak_timeout): a Lease, or (future, id) where one has to be waited for."},
    {"cancel", driver_cancel, METH_O, "cancel(id): True where the request was still waiting."},
    {"drain", driver_drain, METH_NOARGS, "Reads every ready socket and resolves the futures whose answers are there."},
    {"await_open", driver_await_open, METH_NOARGS, "A future that ends when min_size connections stand."},
    {"shutdown", driver_shutdown, METH_O, "shutdown(timeout): a future that ends when the pool is terminated."},
    {"follow_log", driver_follow_log, METH_NOARGS, "From now on drain() hands the pool's log lines to on_log."},
    {"take_log", driver_take_log, METH_NOARGS, "Hands the log lines that are there to on_log."},
    {"close", driver_close, METH_NOARGS, "Releases this driver's leases; futures under way are never resolved."},
    {"fileno", driver_fileno, METH_NOARGS, "The descriptor for the event loop to watch."},
    {"leases", driver_leases, METH_NOARGS, "The leases out."},
    {nullptr, nullptr, 0, nullptr},
};

// ---- Lease ----

void release_without_error(Lease* self) {
    if (std::exchange(self->released, true)) return;
    unlink(self);
    // After the driver's close the queue has released it.
    if (self->driver->queue) pqpool_release(self->driver->pool->pool, self->handle);
}

int lease_clear(PyObject*) { return 0; }

int lease_traverse(PyObject* object, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(reinterpret_cast<PyObject*>(lease_of(object)->driver));
    return 0;
}

void lease_finalize(PyObject* object) {
    Lease* self = lease_of(object);
    if (!self->driver || self->released) return;
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    const Driver* driver = self->driver;
    release_without_error(self);
    if (driver->queue && PyErr_ResourceWarning(nullptr, 1, "a pqpool connection was never released; it went back to the pool when it was collected") != 0)
        PyErr_WriteUnraisable(nullptr);
    PyErr_Restore(type, value, trace);
}

void lease_dealloc(PyObject* object) {
    if (PyObject_CallFinalizerFromDealloc(object) != 0) return;
    Lease* self = lease_of(object);
    PyTypeObject* type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    if (self->driver) {
        self->stack.~Stack();
        Py_DECREF(reinterpret_cast<PyObject*>(self->driver));
    }
    type->tp_free(object);
    Py_DECREF(type);
}

bool is_usable(Lease* self) {
    if (!self->released) return true;
    raise_error("released", "the connection was released already. Suggestion: acquire a new one; a connection may not be kept beyond its release");
    return false;
}

// _run(mode, query, args, column, timeout) -> future
PyObject* lease_run(PyObject* object, PyObject* const* args, Py_ssize_t count) {
    Lease* self = lease_of(object);
    if (count != 5 || !PyTuple_Check(args[2])) return PyErr_SetString(PyExc_TypeError, "_run takes mode, query, args (a tuple), column and timeout"), nullptr;
    if (!is_usable(self) || !is_open(self->driver)) return nullptr;
    Driver* driver = self->driver;
    if (!PyUnicode_Check(args[1])) return raise_error("invalid_argument", std::string("the query must be a str (got ") + Py_TYPE(args[1])->tp_name + ")");
    Py_ssize_t length;
    bool good = true;
    pqpool_statement statement = PQPOOL_STATEMENT_INIT(PyUnicode_AsUTF8AndSize(args[1], &length));
    if (!statement.sql) return nullptr;
    if (static_cast<std::size_t>(length) != std::char_traits<char>::length(statement.sql))
        return raise_error("invalid_argument", "the query holds a NUL character");
    if (!driver->parameters.assign(&PyTuple_GET_ITEM(args[2], 0), PyTuple_GET_SIZE(args[2]))) return nullptr;
    statement.result_format = PQPOOL_AUTOMATIC;
    statement.parameters = driver->parameters.data();
    statement.parameter_count = driver->parameters.size();
    statement.timeout_ms = ms_of(args[4], good);
    const auto mode = static_cast<Mode>(PyLong_AsLong(args[0]));
    const long column = PyLong_AsLong(args[3]);
    if (!good || PyErr_Occurred()) return nullptr;
    Pending* pending = new_pending(driver, mode);
    if (!pending->future) return free_pending(driver, pending), nullptr;
    pending->column = static_cast<int>(column);
    pending->lease = Py_NewRef(object);
    const int32_t status = pqpool_execute_async(driver->queue, self->handle, &statement, pending, &pending->id);
    if (status != PQPOOL_OK) {
        free_pending(driver, pending);
        return raise_last_error(status);
    }
    self->operation = pending->id;
    const Ref future = Ref::borrow(pending->future);
    return take_completions(driver) ? Py_NewRef(future.get()) : nullptr;
}

// _cancel(): the statement under way is cancelled on the server; the lease stays usable
PyObject* lease_cancel(PyObject* object, PyObject*) {
    Lease* self = lease_of(object);
    if (self->released || self->operation == 0 || !self->driver->queue) Py_RETURN_FALSE;
    int32_t cancelled = 0;
    const int32_t status = pqpool_queue_cancel(self->driver->queue, self->operation, &cancelled);
    if (status != PQPOOL_OK) return raise_last_error(status);
    return take_completions(self->driver) ? PyBool_FromLong(cancelled) : nullptr;
}

PyObject* lease_release(PyObject* object, PyObject*) {
    Lease* self = lease_of(object);
    if (!is_usable(self)) return nullptr;
    self->released = true;
    unlink(self);
    Driver* driver = self->driver;
    if (!driver->queue) Py_RETURN_NONE;  // the driver's close has released it
    if (const int32_t status = pqpool_release(driver->pool->pool, self->handle); status != PQPOOL_OK) return raise_last_error(status);
    // A waiter of this loop may have it already. From another thread, the loop's own takes care of that.
    if (!take_completions(driver)) {
        if (!PyErr_ExceptionMatches(PyExc_ValueError)) return nullptr;
        PyErr_Clear();
    }
    Py_RETURN_NONE;
}

PyObject* lease_stack(PyObject* object, PyObject*) { return lease_of(object)->stack.lines(); }

PyMethodDef lease_methods[] = {
    {"_run", reinterpret_cast<PyCFunction>(reinterpret_cast<void*>(lease_run)), METH_FASTCALL, "_run(mode, query, args, column, timeout): a future."},
    {"_cancel", lease_cancel, METH_NOARGS, "Cancels the statement under way; True where there was one."},
    {"_release", lease_release, METH_NOARGS, "Gives the connection back."},
    {"_stack", lease_stack, METH_NOARGS, "Who acquired it: (file, line, function) triples, innermost first."},
    {nullptr, nullptr, 0, nullptr},
};

PyMemberDef lease_members[] = {
    {"_released", T_BOOL, offsetof(Lease, released), READONLY, "Whether it was given back."},
    {"_handle", T_ULONGLONG, offsetof(Lease, handle), READONLY, "Its name in the pool."},
    {"_driver", T_OBJECT, offsetof(Lease, driver), READONLY, "The event loop's side it belongs to."},
    {"_operation", T_ULONGLONG, offsetof(Lease, operation), READONLY, "The statement under way, or 0."},
    {nullptr, 0, 0, 0, nullptr},
};

template <class Function>
void* slot(Function function) {
    return reinterpret_cast<void*>(function);
}

PyTypeObject* add_type(PyObject* module, const char* name, PyType_Spec& spec) {
    auto* type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&spec));
    return type && PyModule_AddObjectRef(module, name, reinterpret_cast<PyObject*>(type)) == 0 ? type : nullptr;
}

}  // namespace

bool add_driver_types(PyObject* module) {
    set_result_name = PyUnicode_InternFromString("set_result");
    set_exception_name = PyUnicode_InternFromString("set_exception");
    done_name = PyUnicode_InternFromString("done");
    PyType_Slot driver_slots[] = {
        {Py_tp_new, slot(driver_new)},     {Py_tp_dealloc, slot(driver_dealloc)}, {Py_tp_traverse, slot(driver_traverse)},
        {Py_tp_clear, slot(driver_clear)}, {Py_tp_methods, driver_methods},       {Py_tp_doc, const_cast<char*>("One event loop's side of a pool. Used on that loop's thread only.")},
        {0, nullptr},
    };
    PyType_Spec driver_spec{"pqpool._pqpool.Driver", sizeof(Driver), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, driver_slots};
    PyType_Slot lease_slots[] = {
        {Py_tp_dealloc, slot(lease_dealloc)}, {Py_tp_traverse, slot(lease_traverse)}, {Py_tp_clear, slot(lease_clear)},
        {Py_tp_finalize, slot(lease_finalize)}, {Py_tp_methods, lease_methods},       {Py_tp_members, lease_members},
        {Py_tp_doc, const_cast<char*>("One connection in the hands of one event loop's tasks. Made by Driver.acquire only.")},
        {0, nullptr},
    };
    PyType_Spec lease_spec{"pqpool._pqpool.Lease", sizeof(Lease), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION, lease_slots};
    driver_type = add_type(module, "Driver", driver_spec);
    lease_type = add_type(module, "Lease", lease_spec);
    return driver_type && lease_type && set_result_name && set_exception_name && done_name;
}

}  // namespace pqpool_python
