// Lease: one connection in the hands of one event loop's tasks.
#include "driver_types.hpp"

#include <structmember.h>

namespace pqpool_python {

PyTypeObject* lease_type = nullptr;

static void link(Lease* lease) {
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

Ref new_lease(Driver* driver, pqpool_lease handle, Stack& stack) {
    auto* type = reinterpret_cast<PyTypeObject*>(driver->lease_type);
    Lease* lease = lease_of(type->tp_alloc(type, 0));
    if (!lease) return pqpool_release(driver->pool->pool, handle), Ref();
    new (&lease->stack) Stack;
    lease->stack.swap(stack);
    lease->driver = reinterpret_cast<Driver*>(Py_NewRef(reinterpret_cast<PyObject*>(driver)));
    lease->handle = handle;
    lease->released = false;
    link(lease);
    return Ref::steal(reinterpret_cast<PyObject*>(lease));
}

static bool is_usable(Lease* self) {
    if (!self->released) return true;
    raise_error("released",
                "the connection was released already. Suggestion: acquire a new one; a connection may not be kept "
                "beyond its release");
    return false;
}

PyObject* lease_release(PyObject* object, PyObject*) {
    Lease* self = lease_of(object);
    if (!is_usable(self)) return nullptr;
    self->released = true;
    unlink(self);
    Driver* driver = self->driver;
    if (!driver->queue) Py_RETURN_NONE;  // the driver's close has released it
    if (const int32_t status = pqpool_release(driver->pool->pool, self->handle); status != PQPOOL_OK)
        return raise_last_error(status);
    // A waiter of this loop may have it already. From another thread, the loop's own takes care of that.
    if (!take_completions(driver)) {
        if (!PyErr_ExceptionMatches(PyExc_ValueError)) return nullptr;
        PyErr_Clear();
    }
    Py_RETURN_NONE;
}

namespace {

void release_without_error(Lease* self) {
    if (std::exchange(self->released, true)) return;
    unlink(self);
    pqpool_queue* queue = self->driver->queue;
    if (!queue) return;  // the driver's close has released it
    pqpool_release(self->driver->pool->pool, self->handle);
    // A waiter of this loop may have it now. In a finalizer no task can be woken, so the loop has to come by.
    pqpool_queue_wake(queue);
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
    if (driver->queue &&
        PyErr_ResourceWarning(
            nullptr, 1, "a pqpool connection was never released; it went back to the pool when it was collected") != 0)
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

// The driver's parameters for one call. What converts them may call code of the user's, and that run a statement too.
class Borrowed {
  public:
    explicit Borrowed(Driver* driver) : parameters(std::move(driver->parameters)), driver_(driver) {}
    ~Borrowed() {
        parameters.shrink();
        driver_->parameters = std::move(parameters);
    }
    Borrowed(const Borrowed&) = delete;

    Parameters parameters;

  private:
    Driver* driver_;
};

// _run(mode, query, args, column, timeout) -> Answer
PyObject* lease_run(PyObject* object, PyObject* const* args, Py_ssize_t count) {
    Lease* self = lease_of(object);
    if (count != 5 || !PyTuple_Check(args[2]))
        return PyErr_SetString(PyExc_TypeError, "_run takes mode, query, args (a tuple), column and timeout"), nullptr;
    if (!is_usable(self) || !is_open(self->driver)) return nullptr;
    Driver* driver = self->driver;
    if (!PyUnicode_Check(args[1]))
        return raise_error("invalid_argument",
                           std::string("the query must be a str (got ") + Py_TYPE(args[1])->tp_name + ")");
    Py_ssize_t length;
    bool good = true;
    pqpool_statement statement = PQPOOL_STATEMENT_INIT(PyUnicode_AsUTF8AndSize(args[1], &length));
    if (!statement.sql) return nullptr;
    if (static_cast<std::size_t>(length) != std::char_traits<char>::length(statement.sql))
        return raise_error("invalid_argument", "the query holds a NUL character");
    Borrowed borrowed(driver);
    if (!borrowed.parameters.assign(&PyTuple_GET_ITEM(args[2], 0), PyTuple_GET_SIZE(args[2]))) return nullptr;
    statement.parameters = borrowed.parameters.data();
    statement.parameter_count = borrowed.parameters.size();
    statement.timeout_ms = ms_of(args[4], good);
    const auto mode = static_cast<Mode>(PyLong_AsLong(args[0]));
    // What execute() does not look at needs no description; and only so may it be several statements.
    statement.result_format = mode == Mode::tag ? PQPOOL_TEXT : PQPOOL_AUTOMATIC;
    const long column = PyLong_AsLong(args[3]);
    if (!good || PyErr_Occurred()) return nullptr;
    if (column < INT32_MIN || column > INT32_MAX)
        return PyErr_Format(PyExc_IndexError, "column %ld is out of range", column);
    const Ref running = running_loop();
    if (!running) return nullptr;
    if (running.get() != driver->loop) {  // of another thread or process, the queue says so
        if (!take_completions(driver)) return nullptr;
        return raise_error("invalid_argument",
                           "the connection belongs to another event loop than the one that runs here. Suggestion: use "
                           "it where it was acquired; each loop may acquire its own");
    }
    Ref made = new_answer(driver, mode);
    if (!made) return nullptr;
    Answer* answer = answer_of(made.get());
    answer->column = static_cast<int>(column);
    const int32_t status = pqpool_execute_async(driver->queue, self->handle, &statement, answer, &answer->id);
    if (status != PQPOOL_OK) return raise_last_error(status);
    answer->lease = Py_NewRef(object);
    self->operation = answer->id;
    submitted(answer);
    return take_completions(driver) ? made.release() : nullptr;
}

PyObject* lease_transaction_status(PyObject* object, PyObject*) {
    Lease* self = lease_of(object);
    if (!is_usable(self) || !is_open(self->driver)) return nullptr;
    int32_t transaction = 0;
    const int32_t status = pqpool_lease_transaction_status(self->driver->pool->pool, self->handle, &transaction);
    return status == PQPOOL_OK ? PyLong_FromLong(transaction) : raise_last_error(status);
}

PyObject* run_guarded(PyObject* object, PyObject* const* args, Py_ssize_t count) {
    return without_exceptions([=] { return lease_run(object, args, count); });
}

PyObject* lease_stack(PyObject* object, PyObject*) { return lease_of(object)->stack.lines(); }

PyMethodDef lease_methods[] = {
    {"_run", slot<PyCFunction>(run_guarded), METH_FASTCALL, "_run(mode, query, args, column, timeout): an Answer."},
    {"_release", lease_release, METH_NOARGS, "Gives the connection back."},
    {"_transaction_status", lease_transaction_status, METH_NOARGS,
     "0 none, 1 open, 2 failed; by the server's last word."},
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

}  // namespace

bool add_lease_type(PyObject* module) {
    PyType_Slot lease_slots[] = {
        {Py_tp_dealloc, slot(lease_dealloc)},
        {Py_tp_traverse, slot(lease_traverse)},
        {Py_tp_clear, slot(lease_clear)},
        {Py_tp_finalize, slot(lease_finalize)},
        {Py_tp_methods, lease_methods},
        {Py_tp_members, lease_members},
        {Py_tp_doc,
         const_cast<char*>("One connection in the hands of one event loop's tasks. Made by Driver.acquire only.")},
        {0, nullptr},
    };
    PyType_Spec lease_spec{
        "pqpool._pqpool.Lease", sizeof(Lease), 0,
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION, lease_slots};
    return (lease_type = add_type(module, "Lease", lease_spec)) != nullptr;
}

}  // namespace pqpool_python
