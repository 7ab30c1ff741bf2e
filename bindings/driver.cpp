// Driver: one event loop's side of a pool. Lease: one connection in the hands of that loop's tasks.
//
// The loop watches the driver's one descriptor; drain() then reads every ready socket, decodes, and resolves all the
// futures it can. acquire, execute and release are plain calls in between: no thread is crossed and no task is switched
// where nothing has to be waited for. These are the hot paths of the package, so both types are written against
// Python's C interface.
#include "driver_types.hpp"

namespace pqpool_python {

PyTypeObject* driver_type = nullptr;
PyCodeObject* end_of_stack = nullptr;

static Pending* unused_pending(Driver* driver) {
    Pending* pending = driver->free_pending;
    if (!pending) return new Pending;
    driver->free_pending = pending->next_free;
    return pending;
}

Pending* new_pending(Driver* driver, Mode mode) {
    Pending* pending = unused_pending(driver);
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

namespace {

PyObject *set_result_name, *set_exception_name, *done_name;

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
        if (pending->mode == Mode::acquire)
            value = new_lease(driver, completion.lease, pending->stack);  // released again if nobody takes it
        else
            value =
                completion.result ? convert(completion.result, pending->mode, pending->column) : Ref::borrow(Py_None);
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

}  // namespace

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

bool is_open(Driver* driver) {
    if (driver->queue) return true;
    raise_error("closed", "the event loop's side of the pool is closed");
    return false;
}

int64_t ms_of(PyObject* seconds, bool& good) {
    if (seconds == Py_None) return PQPOOL_DEFAULT;
    const double value = PyFloat_AsDouble(seconds);
    if (value == -1.0 && PyErr_Occurred())
        good = false;
    else if (!(value >= 0))
        good = false,
        raise_error("invalid_argument", "a timeout must be a number of seconds >= 0, or None for the pool's option");
    return value > 9e15 ? PQPOOL_NO_LIMIT : static_cast<int64_t>(value * 1e3 + 0.999);
}

Acquired acquire(Driver* driver, PyObject* timeout, PyObject* leak_timeout) {
    bool good = is_open(driver);
    pqpool_acquire_options options = PQPOOL_ACQUIRE_OPTIONS_INIT;
    if (good) options.timeout_ms = ms_of(timeout, good);
    if (good) options.leak_timeout_ms = ms_of(leak_timeout, good);
    if (!good) return {};
    Stack stack;
    if (driver->keeps_stacks || leak_timeout != Py_None) stack.take();
    Pending* pending = unused_pending(driver);
    uint64_t id = 0;
    pqpool_lease handle = 0;
    const int32_t status = pqpool_acquire_async(driver->queue, &options, pending, &id, &handle);
    Acquired acquired;
    if (status != PQPOOL_OK || handle != 0) {
        free_pending(driver, pending);
        if (status != PQPOOL_OK)
            raise_last_error(status);
        else
            acquired.lease = new_lease(driver, handle, stack);
        return acquired;
    }
    pending->mode = Mode::acquire;
    pending->id = acquired.id = id;
    pending->stack.swap(stack);
    pending->future = PyObject_CallNoArgs(driver->create_future);
    acquired.future = Ref::borrow(pending->future);
    if (acquired.future && !take_completions(driver)) acquired.future = Ref();
    return acquired;
}

namespace {

bool take_log(Driver* driver) {
    pqpool_log_line line{};
    line.struct_size = sizeof line;
    for (;;) {
        int32_t taken = 0;
        if (pqpool_log_next(driver->pool->pool, &line, &taken) != PQPOOL_OK || !taken) return true;
        const Ref done =
            Ref::steal(PyObject_CallFunction(driver->on_log, "issdK", line.level, line.message, line.context,
                                             line.unix_time, static_cast<unsigned long long>(line.lease)));
        if (!done) return false;
    }
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
    if (const int32_t status = pqpool_queue_open(handle->pool, &queue); status != PQPOOL_OK)
        return raise_last_error(status);
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
    return submit(self,
                  [self](Pending* pending) { return pqpool_await_open_async(self->queue, pending, &pending->id); });
}

PyObject* driver_shutdown(PyObject* object, PyObject* timeout) {
    Driver* self = driver_of(object);
    bool good = true;
    const int64_t ms = timeout == Py_None ? PQPOOL_NO_LIMIT : ms_of(timeout, good);
    if (!good) return nullptr;
    return submit(self,
                  [=](Pending* pending) { return pqpool_shutdown_async(self->queue, ms, pending, &pending->id); });
}

PyObject* driver_follow_log(PyObject* object, PyObject*) {
    Driver* self = driver_of(object);
    if (!is_open(self)) return nullptr;
    self->follows_log = true;
    const int32_t status = pqpool_queue_follow_log(self->queue);
    return status == PQPOOL_OK ? Py_NewRef(Py_None) : raise_last_error(status);
}

PyObject* driver_take_log(PyObject* object, PyObject*) {
    return take_log(driver_of(object)) ? Py_NewRef(Py_None) : nullptr;
}

PyObject* driver_close(PyObject* object, PyObject*) {
    close_queue(driver_of(object));
    Py_RETURN_NONE;
}

PyObject* driver_fileno(PyObject* object, PyObject*) {
    return PyLong_FromLong(pqpool_queue_fd(driver_of(object)->queue));
}

PyObject* driver_leases(PyObject* object, PyObject*) {
    PyObject* list = PyList_New(0);
    for (Lease* lease = driver_of(object)->leases; list && lease; lease = lease->next)
        if (PyList_Append(list, reinterpret_cast<PyObject*>(lease)) != 0) Py_CLEAR(list);
    return list;
}

PyMethodDef driver_methods[] = {
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

}  // namespace

bool add_driver_types(PyObject* module) {
    set_result_name = PyUnicode_InternFromString("set_result");
    set_exception_name = PyUnicode_InternFromString("set_exception");
    done_name = PyUnicode_InternFromString("done");
    const Ref events = Ref::steal(PyImport_ImportModule("asyncio.events"));
    const Ref handle = Ref::steal(events ? PyObject_GetAttrString(events.get(), "Handle") : nullptr);
    const Ref run = Ref::steal(handle ? PyObject_GetAttrString(handle.get(), "_run") : nullptr);
    if (run) end_of_stack = reinterpret_cast<PyCodeObject*>(PyObject_GetAttrString(run.get(), "__code__"));
    PyErr_Clear();  // another asyncio without it: the stack only grows longer
    PyType_Slot driver_slots[] = {
        {Py_tp_new, slot(driver_new)},
        {Py_tp_dealloc, slot(driver_dealloc)},
        {Py_tp_traverse, slot(driver_traverse)},
        {Py_tp_clear, slot(driver_clear)},
        {Py_tp_methods, driver_methods},
        {Py_tp_doc, const_cast<char*>("One event loop's side of a pool. Used on that loop's thread only.")},
        {0, nullptr},
    };
    PyType_Spec driver_spec{"pqpool._pqpool.Driver", sizeof(Driver), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
                            driver_slots};
    driver_type = add_type(module, "Driver", driver_spec);
    return driver_type && add_lease_type(module) && add_acquire_type(module) && set_result_name && set_exception_name &&
           done_name;
}

}  // namespace pqpool_python
