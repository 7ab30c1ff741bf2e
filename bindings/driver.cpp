// Driver: one event loop's side of a pool. Lease: one connection in the hands of that loop's tasks.
//
// The loop watches the driver's one descriptor; drain() then reads every ready socket, decodes, and steps all the tasks
// whose answers are there. acquire, execute and release are plain calls in between: no thread is crossed and no task is
// switched where nothing has to be waited for. These are the hot paths of the package, so its types are written against
// Python's C interface.
#include "driver_types.hpp"

#include <structmember.h>
#include <unistd.h>

namespace pqpool_python {

PyTypeObject* driver_type = nullptr;
PyCodeObject* end_of_stack = nullptr;
PyObject* get_running_loop = nullptr;
thread_local Driver* stepping_driver = nullptr;

namespace {

PyObject *current_task, *current_tasks, *stock_run_forever, *run_forever_name, *close_driver_name;

// The result in the form that the statement's method gives.
Ref convert(const pqpool_result* result, Mode mode, int column) {
    const int32_t rows = pqpool_result_rows(result), columns = pqpool_result_columns(result);
    if (mode == Mode::tag) return text_of(pqpool_result_command_tag(result));
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

// True unless a Python error has to go up to the caller.
bool resolve(Answer* answer, const pqpool_completion& completion) {
    if (answer->lease) lease_of(answer->lease)->operation = 0;
    Py_CLEAR(answer->lease);
    Driver* driver = answer->driver;
    if (answer->state != Answer::State::pending) {  // cancelled meanwhile
        if (completion.lease) pqpool_release(driver->pool->pool, completion.lease);
        return true;
    }
    if (completion.status != PQPOOL_OK)
        return settle(answer, error_of_result(completion.status, completion.result), false);
    Ref value;
    if (answer->mode == Mode::acquire)
        value = new_lease(driver, completion.lease, answer->stack);
    else
        value = completion.result ? convert(completion.result, answer->mode, answer->column) : Ref::borrow(Py_None);
    return settle(answer, std::move(value), true);
}

}  // namespace

bool take_completions(Driver* driver) {
    pqpool_completion completion{};
    completion.struct_size = sizeof completion;
    KeptError error;  // the others have their answers all the same
    while (driver->queue) {
        int32_t taken = 0;
        const int32_t status = pqpool_queue_next(driver->queue, &completion, &taken);
        if (status != PQPOOL_OK) {
            raise_last_error(status);
            error.keep();
            break;
        }
        if (!taken) break;
        const Ref answer = taken_back(static_cast<Answer*>(completion.user_data));
        if (!resolve(answer_of(answer.get()), completion)) error.keep();
        pqpool_result_free(completion.result);
    }
    if (driver->retires && driver->queue && is_unused(driver)) pqpool_queue_wake(driver->queue);  // to be closed
    if (driver->to_wake && is_nested(driver) && !leave_to_loop(driver)) error.keep();
    return error.restore();
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

Ref acquire(Driver* driver, PyObject* timeout, PyObject* leak_timeout) {
    bool good = is_open(driver);
    pqpool_acquire_options options = PQPOOL_ACQUIRE_OPTIONS_INIT;
    if (good) options.timeout_ms = ms_of(timeout, good);
    if (good) options.leak_timeout_ms = ms_of(leak_timeout, good);
    if (!good) return {};
    Stack stack;
    if (driver->keeps_stacks || leak_timeout != Py_None) stack.take();
    // Most acquires need no answer; the one prepared for this one serves the next.
    if (!driver->spare) driver->spare = new_answer(driver, Mode::acquire).release();
    if (!driver->spare) return {};
    Answer* answer = answer_of(driver->spare);
    pqpool_lease handle = 0;
    const int32_t status = pqpool_acquire_async(driver->queue, &options, answer, &answer->id, &handle);
    if (status != PQPOOL_OK) return raise_last_error(status), Ref();
    if (handle != 0) return new_lease(driver, handle, stack);
    Ref waiting = Ref::steal(std::exchange(driver->spare, nullptr));
    answer->stack.swap(stack);
    submitted(answer);
    return take_completions(driver) ? std::move(waiting) : Ref();
}

// Ten times a second at most: whether the level of Python's logger has changed.
static bool look_at_level(Driver* driver) {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    const int64_t ms = int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
    if (ms - driver->looked_ms < 100) return true;
    driver->looked_ms = ms;
    return static_cast<bool>(Ref::steal(PyObject_CallMethod(driver->owner, "_follow_log_level", nullptr)));
}

bool take_log(Driver* driver) {
    PoolHandle& handle = *driver->pool;
    if (handle.hands_log_on != 0 && handle.hands_log_on == getpid()) return true;  // in the lines' order
    pqpool_log_line line{};
    line.struct_size = sizeof line;
    for (int32_t taken = 0;;) {
        if (pqpool_log_next(handle.pool, &line, &taken) != PQPOOL_OK || !taken) return true;
        const Ref message = text_of(line.message), context = text_of(line.context);
        handle.hands_log_on = getpid();
        const Ref done =
            Ref::steal(message && context ? PyObject_CallMethod(driver->owner, "_on_log", "iOOdK", line.level,
                                                                message.get(), context.get(), line.unix_time,
                                                                static_cast<unsigned long long>(line.lease))
                                          : nullptr);
        handle.hands_log_on = 0;
        if (!done) return false;
    }
}

// What is under way gets no answer from the queue any more. Where the loop is closed too, nobody waits for one.
bool close_queue(Driver* self) {
    pqpool_queue* queue = std::exchange(self->queue, nullptr);
    if (!queue) return true;
    pqpool_queue_free(queue);
    const bool outer = std::exchange(self->resuming, true);
    PyObject* outer_step = std::exchange(self->stepping, nullptr);
    while (self->under_way) {
        const Ref answer = taken_back(self->under_way);
        if (answer_of(answer.get())->state != Answer::State::pending) continue;
        raise_error("closed", "the pool was shut down");
        settle(answer_of(answer.get()), caught_error(), false);
    }
    self->resuming = outer;
    self->stepping = outer_step;
    KeptError error;
    if (!leave_to_loop(self)) error.keep();
    if (!leave_to_loop(self)) error.keep();  // those that an interrupt kept from it
    forget_to_wake(self);
    Py_CLEAR(self->spare);
    return error.restore() || keep_only_interrupts();
}

namespace {

// ---- Driver ----

// asyncio's own loops and uvloop's refuse to run inside a task of theirs. Others (Qt's, those that nest_asyncio has
// changed) may do it.
Ref known_run_forever(PyObject* loop) {
    Ref theirs = Ref::steal(PyObject_GetAttr(reinterpret_cast<PyObject*>(Py_TYPE(loop)), run_forever_name));
    const Ref name = Ref::steal(PyUnicode_FromString("uvloop"));
    const Ref uvloop = Ref::steal(name ? PyImport_GetModule(name.get()) : nullptr);
    const Ref type = Ref::steal(uvloop ? PyObject_GetAttrString(uvloop.get(), "Loop") : nullptr);
    const Ref of_uvloop = Ref::steal(type ? PyObject_GetAttr(type.get(), run_forever_name) : nullptr);
    PyErr_Clear();
    return theirs.get() == stock_run_forever || theirs.get() == of_uvloop.get() ? std::move(theirs) : Ref();
}

PyObject* driver_new(PyTypeObject* type, PyObject* args, PyObject*) {
    PyObject *pool, *loop, *lease, *owner;
    int keeps_stacks;
    if (!PyArg_ParseTuple(args, "OOOOp:Driver", &pool, &loop, &lease, &owner, &keeps_stacks)) return nullptr;
    auto handle = pool_of(pool);
    if (!handle) return nullptr;
    if (!PyType_Check(lease) || !PyType_IsSubtype(reinterpret_cast<PyTypeObject*>(lease), lease_type)) {
        PyErr_SetString(PyExc_TypeError, "the lease type must be a subclass of Lease");
        return nullptr;
    }
    pqpool_queue* queue = nullptr;
    if (const int32_t status = pqpool_queue_open(handle->pool, &queue); status != PQPOOL_OK)
        return raise_last_error(status);
    if (const int32_t status = pqpool_queue_follow_log(queue); status != PQPOOL_OK)
        return pqpool_queue_free(queue), raise_last_error(status);
    Driver* self = driver_of(type->tp_alloc(type, 0));
    if (!self) return pqpool_queue_free(queue), nullptr;
    new (&self->pool) std::shared_ptr<PoolHandle>(std::move(handle));
    new (&self->parameters) Parameters;
    self->queue = queue;
    self->loop = Py_NewRef(loop);
    self->lease_type = Py_NewRef(lease);
    self->owner = Py_NewRef(owner);
    self->run_forever = known_run_forever(loop).release();
    self->keeps_stacks = keeps_stacks;
    return reinterpret_cast<PyObject*>(self);
}

int driver_clear(PyObject* object) {
    Driver* self = driver_of(object);
    KeptError error;
    error.keep();
    if (!close_queue(self)) PyErr_WriteUnraisable(nullptr);
    error.restore();
    for (PyObject** member : {&self->loop, &self->lease_type, &self->owner, &self->run_forever, &self->spare})
        Py_CLEAR(*member);
    return 0;
}

void driver_dealloc(PyObject* object) {
    Driver* self = driver_of(object);
    PyTypeObject* type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    driver_clear(object);
    self->parameters.~Parameters();
    self->pool.~shared_ptr();
    type->tp_free(object);
    Py_DECREF(type);
}

int driver_traverse(PyObject* object, visitproc visit, void* arg) {
    Driver* self = driver_of(object);
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->loop);
    Py_VISIT(self->lease_type);
    Py_VISIT(self->owner);
    Py_VISIT(self->run_forever);
    Py_VISIT(self->spare);
    for (Answer* answer = self->under_way; answer; answer = answer->next) Py_VISIT(object_of(answer));
    return 0;
}

// Whether drain() may step tasks: not inside a task, and not where a task's step may run the loop, which then waits for
// the other answers. False with an error set where an interrupt came meanwhile.
bool may_step(Driver* self) {
    if (!self->run_forever) return false;
    const Ref now = Ref::steal(PyObject_GetAttr(reinterpret_cast<PyObject*>(Py_TYPE(self->loop)), run_forever_name));
    if (now.get() != self->run_forever) return keep_only_interrupts(), false;
    if (current_tasks) return !PyDict_GetItemWithError(current_tasks, self->loop) && keep_only_interrupts();
    const Ref task = Ref::steal(PyObject_CallOneArg(current_task, self->loop));
    return keep_only_interrupts() && task.get() == Py_None;
}

// The context of the loop's handle, which runs drain(). A loop that a stepped task runs calls the same handle again,
// and could not enter a context that is entered.
Ref leave_context() {
    Ref context = Ref::borrow(PyThreadState_Get()->context);
    if (!context || PyContext_Exit(context.get()) == 0) return context;
    PyErr_Clear();
    return {};
}

}  // namespace

// For the event loop, which calls it where no task is running.
PyObject* driver_drain(PyObject* object, PyObject*) {
    Driver* self = driver_of(object);
    if (!self->queue) Py_RETURN_NONE;
    int32_t status = pqpool_queue_poll(self->queue, 0);
    if (status != PQPOOL_OK) return raise_last_error(status);  // another thread's, or a parent's
    const bool steps = may_step(self);
    const bool outer = std::exchange(self->resuming, steps);  // true in a loop that a task runs inside this one
    PyObject* outer_step = std::exchange(self->stepping, nullptr);
    const Ref context = steps ? leave_context() : Ref();
    KeptError error;
    error.keep();
    for (int resumed = 0, before = 0;; before = resumed) {
        const bool good = take_completions(self) && (!steps || resume_tasks(self, resumed));
        if (!good) error.keep();
        if (!good || !self->queue || resumed - before < 2) break;
        status = pqpool_queue_poll(self->queue, 0);
        if (status == PQPOOL_OK) continue;
        raise_last_error(status);
        error.keep();
        break;
    }
    if (context && PyContext_Enter(context.get()) != 0) error.keep();
    self->stepping = outer_step;
    self->resuming = outer;
    if (!leave_to_loop(self)) error.keep();
    if (!look_at_level(self)) error.keep();
    if (!take_log(self)) error.keep();
    if (error.is_set() && self->queue) pqpool_queue_wake(self->queue);  // for what was not reached
    if (!error.restore()) return nullptr;
    if (self->retires && self->queue && is_unused(self))
        return PyObject_CallMethodOneArg(self->owner, close_driver_name, object);
    Py_RETURN_NONE;
}

namespace {

template <class Submit>
PyObject* submit(Driver* self, Submit&& request) {
    if (!is_open(self)) return nullptr;
    Ref answer = new_answer(self, Mode::nothing);
    if (!answer) return nullptr;
    Answer* submitting = answer_of(answer.get());
    if (const int32_t status = request(submitting); status != PQPOOL_OK) return raise_last_error(status);
    submitted(submitting);
    return take_completions(self) ? answer.release() : nullptr;
}

PyObject* driver_await_open(PyObject* object, PyObject*) {
    Driver* self = driver_of(object);
    return submit(self, [self](Answer* answer) { return pqpool_await_open_async(self->queue, answer, &answer->id); });
}

PyObject* driver_shutdown(PyObject* object, PyObject* timeout) {
    Driver* self = driver_of(object);
    bool good = true;
    const int64_t ms = timeout == Py_None ? PQPOOL_NO_LIMIT : ms_of(timeout, good);
    if (!good) return nullptr;
    return submit(self, [=](Answer* answer) { return pqpool_shutdown_async(self->queue, ms, answer, &answer->id); });
}

PyObject* driver_take_log(PyObject* object, PyObject*) {
    while (!take_log(driver_of(object))) {
        if (!PyErr_ExceptionMatches(PyExc_Exception)) return nullptr;
        PyErr_WriteUnraisable(driver_of(object)->owner);  // not the caller's, who opens or shuts a pool
    }
    Py_RETURN_NONE;
}

PyObject* driver_wake(PyObject* object, PyObject*) {
    if (Driver* self = driver_of(object); self->queue) pqpool_queue_wake(self->queue);
    Py_RETURN_NONE;
}

PyObject* driver_retire(PyObject* object, PyObject*) {
    driver_of(object)->retires = true;
    return driver_wake(object, nullptr);
}

PyObject* driver_close(PyObject* object, PyObject*) {
    return close_queue(driver_of(object)) ? Py_NewRef(Py_None) : nullptr;
}

PyObject* driver_is_closed(PyObject* object, PyObject*) { return PyBool_FromLong(!driver_of(object)->queue); }

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
    {"drain", driver_drain, METH_NOARGS,
     "Reads every ready socket and steps the tasks whose answers are there. Never call it from a task."},
    {"await_open", driver_await_open, METH_NOARGS, "An Answer that comes when min_size connections stand."},
    {"shutdown", driver_shutdown, METH_O, "shutdown(timeout): an Answer that comes when the pool is terminated."},
    {"take_log", driver_take_log, METH_NOARGS, "Hands the log lines that are there to the owner's _on_log."},
    {"wake", driver_wake, METH_NOARGS, "Makes the event loop call drain(). From any thread."},
    {"retire", driver_retire, METH_NOARGS,
     "When it has no lease and nothing under way, the owner's _close_driver is called with it. From any thread."},
    {"close", driver_close, METH_NOARGS, "Releases this driver's leases; what is under way fails."},
    {"is_closed", driver_is_closed, METH_NOARGS, "Whether it was closed, or its event loop was."},
    {"fileno", driver_fileno, METH_NOARGS, "The descriptor for the event loop to watch."},
    {"leases", driver_leases, METH_NOARGS, "The leases out."},
    {nullptr, nullptr, 0, nullptr},
};

PyMemberDef driver_members[] = {
    {"loop", T_OBJECT, offsetof(Driver, loop), READONLY, "The event loop it belongs to."},
    {"owner", T_OBJECT, offsetof(Driver, owner), READONLY, "The manager it was made for."},
    {nullptr, 0, 0, 0, nullptr},
};

}  // namespace

bool add_driver_types(PyObject* module) {
    const Ref events = Ref::steal(PyImport_ImportModule("asyncio.events"));
    const Ref handle = Ref::steal(events ? PyObject_GetAttrString(events.get(), "Handle") : nullptr);
    const Ref run = Ref::steal(handle ? PyObject_GetAttrString(handle.get(), "_run") : nullptr);
    if (run) end_of_stack = reinterpret_cast<PyCodeObject*>(PyObject_GetAttrString(run.get(), "__code__"));
    PyErr_Clear();  // another asyncio without it: the stack only grows longer
    const Ref asyncio = Ref::steal(PyImport_ImportModule("asyncio"));
    const Ref base = Ref::steal(asyncio ? PyObject_GetAttrString(asyncio.get(), "BaseEventLoop") : nullptr);
    current_task = asyncio ? PyObject_GetAttrString(asyncio.get(), "current_task") : nullptr;
    // From 3.14 on the table is not kept, and current_task runs no Python code.
    const Ref tasks = Ref::steal(asyncio ? PyObject_GetAttrString(asyncio.get(), "tasks") : nullptr);
    const Ref table = Ref::steal(tasks ? PyObject_GetAttrString(tasks.get(), "_current_tasks") : nullptr);
    if (PY_VERSION_HEX < 0x030E0000 && table && PyDict_Check(table.get())) current_tasks = Py_NewRef(table.get());
    PyErr_Clear();
    run_forever_name = PyUnicode_InternFromString("run_forever");
    close_driver_name = PyUnicode_InternFromString("_close_driver");
    stock_run_forever = base ? PyObject_GetAttr(base.get(), run_forever_name) : nullptr;
    get_running_loop = events ? PyObject_GetAttrString(events.get(), "_get_running_loop") : nullptr;
    PyType_Slot driver_slots[] = {
        {Py_tp_new, slot(driver_new)},
        {Py_tp_dealloc, slot(driver_dealloc)},
        {Py_tp_traverse, slot(driver_traverse)},
        {Py_tp_clear, slot(driver_clear)},
        {Py_tp_methods, driver_methods},
        {Py_tp_members, driver_members},
        {Py_tp_doc, const_cast<char*>("One event loop's side of a pool. Used on that loop's thread only.")},
        {0, nullptr},
    };
    PyType_Spec driver_spec{"pqpool._pqpool.Driver", sizeof(Driver), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
                            driver_slots};
    driver_type = add_type(module, "Driver", driver_spec);
    return driver_type && get_running_loop && current_task && stock_run_forever && run_forever_name &&
           close_driver_name && add_answer_type(module) && add_lease_type(module) && add_acquire_type(module) &&
           add_reader_type(module);
}

}  // namespace pqpool_python
