// Acquire: what ConnectionPoolManager.acquire() gives. An async context manager and an awaitable, and its own iterator:
// where a connection is free, neither entering nor leaving makes a coroutine or suspends the task.
#include "driver_types.hpp"

namespace pqpool_python {

PyTypeObject* acquire_type = nullptr;

namespace {

struct Acquire {
    PyObject_HEAD PyObject* manager;
    PyObject* drivers;  // the manager's, by event loop
    PyObject *timeout, *leak_timeout;
    PyObject* lease;
    PyObject* waiting;  // while it waits: the Answer
};

PyObject *get_loop, *new_driver_name, *wait_failed_name, *throw_name, *close_name;
PyObject* nothing_to_await;  // the awaitable that leaving gives

Acquire* acquire_of(PyObject* self) { return reinterpret_cast<Acquire*>(self); }

PyObject* acquire_new(PyTypeObject* type, PyObject* args, PyObject*) {
    PyObject *manager, *drivers, *timeout, *leak_timeout;
    if (!PyArg_UnpackTuple(args, "Acquire", 4, 4, &manager, &drivers, &timeout, &leak_timeout)) return nullptr;
    Acquire* self = acquire_of(type->tp_alloc(type, 0));
    if (!self) return nullptr;
    self->manager = Py_NewRef(manager);
    self->drivers = Py_NewRef(drivers);
    self->timeout = Py_NewRef(timeout);
    self->leak_timeout = Py_NewRef(leak_timeout);
    return reinterpret_cast<PyObject*>(self);
}

int acquire_clear(PyObject* object) {
    Acquire* self = acquire_of(object);
    for (PyObject** member :
         {&self->manager, &self->drivers, &self->timeout, &self->leak_timeout, &self->lease, &self->waiting})
        Py_CLEAR(*member);
    return 0;
}

int acquire_traverse(PyObject* object, visitproc visit, void* arg) {
    Acquire* self = acquire_of(object);
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->manager);
    Py_VISIT(self->drivers);
    Py_VISIT(self->lease);
    Py_VISIT(self->waiting);
    return 0;
}

void acquire_dealloc(PyObject* object) {
    PyTypeObject* type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    acquire_clear(object);
    type->tp_free(object);
    Py_DECREF(type);
}

// The running loop's driver.
Ref find_driver(Acquire* self) {
    const Ref loop = running_loop();
    if (!loop) return {};
    if (loop.get() == Py_None) return Ref::steal(PyObject_CallNoArgs(get_loop));  // it says what is wrong
    PyObject* known = PyDict_GetItemWithError(self->drivers, loop.get());
    if (known && driver_of(known)->queue) return Ref::borrow(known);
    if (PyErr_Occurred()) return {};
    return Ref::steal(PyObject_CallMethodOneArg(self->manager, new_driver_name, loop.get()));
}

// The wait ended with an exception, which stays set. A timeout's message shows who holds the connections.
void wait_failed(Acquire* self) {
    PyObject *type, *error, *trace;
    PyErr_Fetch(&type, &error, &trace);
    PyErr_NormalizeException(&type, &error, &trace);
    if (trace) PyException_SetTraceback(error, trace);
    const Ref done = Ref::steal(PyObject_CallMethodOneArg(self->manager, wait_failed_name, error));
    if (!done) PyErr_WriteUnraisable(self->manager);
    PyErr_Restore(type, error, trace);
    Py_CLEAR(self->waiting);
}

PySendResult wait_on(Acquire* self, PyObject** result) {
    const PySendResult how = PyIter_Send(self->waiting, Py_None, result);
    if (how == PYGEN_NEXT) return how;
    if (how == PYGEN_ERROR) return wait_failed(self), how;
    self->lease = Py_NewRef(*result);
    Py_CLEAR(self->waiting);
    return how;
}

PySendResult acquire_send(PyObject* object, PyObject*, PyObject** result) {
    Acquire* self = acquire_of(object);
    *result = nullptr;
    if (self->waiting) return wait_on(self, result);
    if (self->lease) {
        PyErr_SetString(PyExc_RuntimeError,
                        "this acquire() has given its connection already. Suggestion: call acquire() again");
        return PYGEN_ERROR;
    }
    const Ref driver = find_driver(self);
    Ref acquired = driver ? acquire(driver_of(driver.get()), self->timeout, self->leak_timeout) : Ref();
    if (!acquired) return PYGEN_ERROR;
    if (Py_IS_TYPE(acquired.get(), answer_type)) {
        self->waiting = acquired.release();
        return wait_on(self, result);
    }
    self->lease = Py_NewRef(acquired.get());
    *result = acquired.release();
    return PYGEN_RETURN;
}

PyObject* acquire_next(PyObject* object) {
    PyObject* result;
    return acquire_send(object, Py_None, &result) == PYGEN_RETURN ? stop_with(result) : result;
}

PyObject* acquire_throw(PyObject* object, PyObject* args) {
    Acquire* self = acquire_of(object);
    if (!self->waiting) return throw_into_nothing(args);
    const Ref thrower = Ref::steal(PyObject_GetAttr(self->waiting, throw_name));
    Py_XDECREF(thrower ? PyObject_Call(thrower.get(), args, nullptr) : nullptr);
    wait_failed(self);
    return nullptr;
}

PyObject* acquire_close(PyObject* object, PyObject*) {
    const Ref waiting = Ref::steal(std::exchange(acquire_of(object)->waiting, nullptr));
    return waiting ? PyObject_CallMethodNoArgs(waiting.get(), close_name) : Py_NewRef(Py_None);
}

PyObject* acquire_enter(PyObject* object, PyObject*) { return Py_NewRef(object); }

PyObject* acquire_exit(PyObject* object, PyObject* const*, Py_ssize_t) {
    Acquire* self = acquire_of(object);
    if (self->lease && !lease_of(self->lease)->released) {
        const Ref done = Ref::steal(lease_release(self->lease, nullptr));
        if (!done) return nullptr;
    }
    return Py_NewRef(nothing_to_await);
}

PyMethodDef acquire_methods[] = {
    {"__aenter__", acquire_enter, METH_NOARGS, "An awaitable of the connection."},
    {"__aexit__", slot<PyCFunction>(acquire_exit), METH_FASTCALL, "Gives the connection back."},
    {"throw", acquire_throw, METH_VARARGS, "Raises in the wait, as a coroutine's throw does."},
    {"close", acquire_close, METH_NOARGS, "Ends the wait."},
    {nullptr, nullptr, 0, nullptr},
};

PySendResult nothing_send(PyObject*, PyObject*, PyObject** result) {
    *result = Py_NewRef(Py_None);
    return PYGEN_RETURN;
}

PyObject* nothing_next(PyObject*) {
    PyErr_SetNone(PyExc_StopIteration);
    return nullptr;
}

}  // namespace

bool add_acquire_type(PyObject* module) {
    const Ref asyncio = Ref::steal(PyImport_ImportModule("asyncio"));
    get_loop = asyncio ? PyObject_GetAttrString(asyncio.get(), "get_running_loop") : nullptr;
    new_driver_name = PyUnicode_InternFromString("_new_driver");
    wait_failed_name = PyUnicode_InternFromString("_wait_failed");
    throw_name = PyUnicode_InternFromString("throw");
    close_name = PyUnicode_InternFromString("close");
    PyType_Slot acquire_slots[] = {
        {Py_tp_new, slot(acquire_new)},
        {Py_tp_dealloc, slot(acquire_dealloc)},
        {Py_tp_traverse, slot(acquire_traverse)},
        {Py_tp_clear, slot(acquire_clear)},
        {Py_am_await, slot(PyObject_SelfIter)},
        {Py_am_send, slot(acquire_send)},
        {Py_tp_iter, slot(PyObject_SelfIter)},
        {Py_tp_iternext, slot(acquire_next)},
        {Py_tp_methods, acquire_methods},
        {Py_tp_doc,
         const_cast<char*>(
             "A request for a connection: `async with` it, or await it and release the connection yourself.")},
        {0, nullptr},
    };
    PyType_Spec acquire_spec{"pqpool._pqpool.Acquire", sizeof(Acquire), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
                             acquire_slots};
    PyType_Slot nothing_slots[] = {
        {Py_am_await, slot(PyObject_SelfIter)},
        {Py_am_send, slot(nothing_send)},
        {Py_tp_iter, slot(PyObject_SelfIter)},
        {Py_tp_iternext, slot(nothing_next)},
        {0, nullptr},
    };
    PyType_Spec nothing_spec{"pqpool._pqpool.Nothing", sizeof(PyObject), 0, Py_TPFLAGS_DEFAULT, nothing_slots};
    const Ref nothing_type = Ref::steal(PyType_FromSpec(&nothing_spec));
    nothing_to_await = nothing_type ? PyObject_CallNoArgs(nothing_type.get()) : nullptr;
    acquire_type = add_type(module, "Acquire", acquire_spec);
    return acquire_type && nothing_to_await && get_loop && new_driver_name && wait_failed_name && throw_name &&
           close_name;
}

}  // namespace pqpool_python
