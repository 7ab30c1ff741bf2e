// Answer: what waits for a submitted request. asyncio's tasks take it for a future, by asyncio's own protocol for
// futures that are not its own (_asyncio_future_blocking, get_loop, add_done_callback, result, cancel).
//
// It saves a round of the event loop: drain() steps the task whose answer it has just read, where a future would ask
// the loop to do that later. Only drain() does so, because there no task is running; all else goes through call_soon.
#include "driver_types.hpp"

#include <structmember.h>

namespace pqpool_python {

PyTypeObject* answer_type = nullptr;

namespace {

// What one drain() does before the event loop has its turn again.
constexpr int kMostResumed = 64;

PyObject *call_soon_name, *context_keyword, *cancelled_error;

PyObject* answer_call(PyObject* object, PyObject*, PyObject*) {
    Answer* self = answer_of(object);
    const Ref callback = Ref::steal(std::exchange(self->callback, nullptr));
    const Ref context = Ref::steal(std::exchange(self->context, nullptr));
    return callback ? PyObject_CallOneArg(callback.get(), object) : Py_NewRef(Py_None);
}

// The loop is to call the answer, which keeps the callback until then: asking twice, where a signal's exception leaves
// open whether the loop knows, does no harm.
bool call_soon(Answer* answer) {
    const Ref method = Ref::steal(PyObject_GetAttr(answer->driver->loop, call_soon_name));
    if (!method) return false;
    PyObject* arguments[] = {object_of(answer), answer->context};
    const Ref handle = Ref::steal(PyObject_Vectorcall(method.get(), arguments, 1, context_keyword));
    return static_cast<bool>(handle);
}

bool call_now(Answer* answer) {
    Driver* driver = answer->driver;
    const Ref context = Ref::borrow(answer->context);
    if (PyContext_Enter(context.get()) != 0) {  // somebody runs in it
        PyErr_Clear();
        return call_soon(answer);
    }
    PyObject* outer = std::exchange(driver->stepping, context.get());
    Driver* outer_driver = std::exchange(stepping_driver, driver);
    const Ref done = Ref::steal(answer_call(object_of(answer), nullptr, nullptr));
    stepping_driver = outer_driver;
    driver->stepping = outer;
    if (done) return PyContext_Exit(context.get()) == 0;
    KeptError error;
    error.keep();
    if (PyContext_Exit(context.get()) != 0) error.keep();
    return error.restore();
}

void append_to_wake(Answer* answer) {
    Driver* driver = answer->driver;
    answer->next_to_wake = nullptr;
    (driver->last_to_wake ? driver->last_to_wake->next_to_wake : driver->to_wake) = answer;
    driver->last_to_wake = answer;
    Py_INCREF(object_of(answer));
}

Ref next_to_wake(Driver* driver) {
    Answer* answer = driver->to_wake;
    if (!answer) return {};
    driver->to_wake = answer->next_to_wake;
    if (!driver->to_wake) driver->last_to_wake = nullptr;
    return Ref::steal(object_of(answer));
}

bool wake(Answer* answer) {
    if (!answer->callback) return true;
    Driver* driver = answer->driver;
    if (!driver->resuming && call_soon(answer)) return true;
    append_to_wake(answer);
    if (driver->resuming) return !is_nested(driver) || leave_to_loop(driver);
    if (driver->queue) pqpool_queue_wake(driver->queue);
    return false;
}

// The request is of no use to anybody any more. An error would have nobody to go to: what cannot be cancelled ends by
// itself. False only where an interrupt came.
bool abandon(Answer* answer) {
    Driver* driver = answer->driver;
    if (answer->state == Answer::State::pending) {
        answer->state = Answer::State::cancelled;
        int32_t cancelled = 0;
        if (driver->queue && pqpool_queue_cancel(driver->queue, answer->id, &cancelled) == PQPOOL_OK)
            take_completions(driver);
    } else if (answer->mode == Mode::acquire && answer->state == Answer::State::done) {
        const Ref lease = Ref::steal(std::exchange(answer->value, nullptr));
        answer->state = Answer::State::cancelled;
        if (lease && !lease_of(lease.get())->released) Py_XDECREF(lease_release(lease.get(), nullptr));
    }
    return keep_only_interrupts();
}

PyObject* raise_outcome(Answer* answer) {
    if (answer->state == Answer::State::failed)
        PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(answer->value)), answer->value);
    else if (answer->value)
        PyErr_SetObject(cancelled_error, answer->value);
    else
        PyErr_SetNone(cancelled_error);
    return nullptr;
}

PyObject* raise_pending() {
    return raise_error("invalid_argument", "the answer is not there yet. Suggestion: await it");
}

// ---- as an iterator, which `await` drives ----

PySendResult answer_send(PyObject* object, PyObject*, PyObject** result) {
    Answer* self = answer_of(object);
    *result = nullptr;
    if (self->state == Answer::State::done) {
        // A connection has one taker; it must not be kept alive from here.
        *result = self->mode == Mode::acquire ? std::exchange(self->value, nullptr) : Py_NewRef(self->value);
        if (!*result) raise_error("invalid_argument", "the connection was taken already");
        return *result ? PYGEN_RETURN : PYGEN_ERROR;
    }
    if (self->state != Answer::State::pending) return raise_outcome(self), PYGEN_ERROR;
    if (self->callback) {
        raise_error("invalid_argument", "another task awaits this already. Suggestion: one task each");
        return PYGEN_ERROR;
    }
    self->blocking = 1;
    *result = Py_NewRef(object);
    return PYGEN_NEXT;
}

PyObject* answer_next(PyObject* object) {
    PyObject* result;
    return answer_send(object, nullptr, &result) == PYGEN_RETURN ? stop_with(result) : result;
}

PyObject* answer_throw(PyObject* object, PyObject* args) {
    return abandon(answer_of(object)) ? throw_into_nothing(args) : nullptr;
}

PyObject* answer_close(PyObject* object, PyObject*) {
    return abandon(answer_of(object)) ? Py_NewRef(Py_None) : nullptr;
}

// ---- as a future, which a task waits for ----

PyObject* answer_get_loop(PyObject* object, PyObject*) { return Py_NewRef(answer_of(object)->driver->loop); }

// add_done_callback(callback, *, context=None)
PyObject* answer_add_done_callback(PyObject* object, PyObject* const* args, Py_ssize_t count, PyObject* keywords) {
    Answer* self = answer_of(object);
    const Py_ssize_t named = keywords ? PyTuple_GET_SIZE(keywords) : 0;
    if (count != 1 || named > 1 ||
        (named == 1 && PyUnicode_Compare(PyTuple_GET_ITEM(keywords, 0), PyTuple_GET_ITEM(context_keyword, 0)) != 0))
        return PyErr_SetString(PyExc_TypeError, "add_done_callback takes a callback and context="), nullptr;
    if (self->callback) return raise_error("invalid_argument", "another task awaits this already");
    Ref context = named == 1 && args[1] != Py_None ? Ref::borrow(args[1]) : Ref::steal(PyContext_CopyCurrent());
    if (!context) return nullptr;
    self->callback = Py_NewRef(args[0]);
    self->context = context.release();
    if (self->state != Answer::State::pending && !call_soon(self)) return nullptr;
    Py_RETURN_NONE;
}

PyObject* answer_remove_done_callback(PyObject* object, PyObject* callback) {
    Answer* self = answer_of(object);
    const int same = self->callback ? PyObject_RichCompareBool(self->callback, callback, Py_EQ) : 0;
    if (same < 0) return nullptr;
    if (same > 0) Py_CLEAR(self->callback);
    return PyLong_FromLong(same);
}

PyObject* answer_result(PyObject* object, PyObject*) {
    Answer* self = answer_of(object);
    if (self->state == Answer::State::pending) return raise_pending();
    if (self->state != Answer::State::done) return raise_outcome(self);
    return Py_NewRef(self->value ? self->value : Py_None);
}

PyObject* answer_exception(PyObject* object, PyObject*) {
    Answer* self = answer_of(object);
    if (self->state == Answer::State::pending) return raise_pending();
    if (self->state == Answer::State::cancelled) return raise_outcome(self);
    return Py_NewRef(self->state == Answer::State::failed ? self->value : Py_None);
}

PyObject* answer_done(PyObject* object, PyObject*) {
    return PyBool_FromLong(answer_of(object)->state != Answer::State::pending);
}

PyObject* answer_cancelled(PyObject* object, PyObject*) {
    return PyBool_FromLong(answer_of(object)->state == Answer::State::cancelled);
}

PyObject* answer_cancel(PyObject* object, PyObject* args, PyObject* keywords) {
    Answer* self = answer_of(object);
    PyObject* message = Py_None;
    static char* names[] = {const_cast<char*>("msg"), nullptr};
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "|O", names, &message)) return nullptr;
    if (self->state != Answer::State::pending) {
        // The loop may have been interrupted between taking the handle and calling it; asked twice, it does no harm.
        if (self->callback && !call_soon(self)) return nullptr;
        Py_RETURN_FALSE;
    }
    KeptError error;
    if (!abandon(self)) error.keep();
    if (message != Py_None) self->value = Py_NewRef(message);
    if (!wake(self)) error.keep();
    return error.restore() ? Py_NewRef(Py_True) : nullptr;
}

// ---- as an object ----

int answer_traverse(PyObject* object, visitproc visit, void* arg) {
    Answer* self = answer_of(object);
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(object_of(self->driver));
    Py_VISIT(self->callback);
    Py_VISIT(self->context);
    Py_VISIT(self->value);
    Py_VISIT(self->lease);
    return 0;
}

int answer_clear(PyObject* object) {
    Answer* self = answer_of(object);
    for (PyObject** member : {&self->callback, &self->context, &self->value, &self->lease}) Py_CLEAR(*member);
    return 0;
}

void answer_dealloc(PyObject* object) {
    Answer* self = answer_of(object);
    PyTypeObject* type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    if (self->mode == Mode::acquire && self->value) {
        KeptError error;
        error.keep();
        if (!abandon(self)) PyErr_WriteUnraisable(nullptr);
        error.restore();
    }
    answer_clear(object);
    self->stack.~Stack();
    Py_DECREF(object_of(self->driver));
    type->tp_free(object);
    Py_DECREF(type);
}

PyMethodDef answer_methods[] = {
    {"get_loop", answer_get_loop, METH_NOARGS, "The event loop it belongs to."},
    {"add_done_callback", slot<PyCFunction>(answer_add_done_callback), METH_FASTCALL | METH_KEYWORDS,
     "One callback, to be called with this object in `context`."},
    {"remove_done_callback", answer_remove_done_callback, METH_O, "How many were removed."},
    {"result", answer_result, METH_NOARGS, "The result; raises what the request raised."},
    {"exception", answer_exception, METH_NOARGS, "What the request raised, or None."},
    {"done", answer_done, METH_NOARGS, "Whether the answer is there."},
    {"cancelled", answer_cancelled, METH_NOARGS, "Whether it was cancelled."},
    {"cancel", slot<PyCFunction>(answer_cancel), METH_VARARGS | METH_KEYWORDS,
     "Cancels the request, on the server too; False where the answer is there already."},
    {"throw", answer_throw, METH_VARARGS, "Gives the request up and raises."},
    {"close", answer_close, METH_NOARGS, "Gives the request up."},
    {nullptr, nullptr, 0, nullptr},
};

PyMemberDef answer_members[] = {
    {"_asyncio_future_blocking", T_BOOL, offsetof(Answer, blocking), 0, "asyncio's: a task awaits it just now."},
    {nullptr, 0, 0, 0, nullptr},
};

}  // namespace

Ref new_answer(Driver* driver, Mode mode) {
    Answer* answer = answer_of(answer_type->tp_alloc(answer_type, 0));
    if (!answer) return {};
    new (&answer->stack) Stack;
    answer->driver = driver_of(Py_NewRef(object_of(driver)));
    answer->mode = mode;
    return Ref::steal(object_of(answer));
}

void submitted(Answer* answer) {
    Driver* driver = answer->driver;
    answer->previous = nullptr;
    answer->next = driver->under_way;
    if (answer->next) answer->next->previous = answer;
    driver->under_way = answer;
    Py_INCREF(object_of(answer));
}

Ref taken_back(Answer* answer) {
    if (answer->next) answer->next->previous = answer->previous;
    (answer->previous ? answer->previous->next : answer->driver->under_way) = answer->next;
    answer->next = answer->previous = nullptr;
    return Ref::steal(object_of(answer));
}

bool settle(Answer* answer, Ref value, bool good) {
    if (!value) {  // one that Python cannot hold
        value = caught_error();
        good = false;
    }
    answer->state = good ? Answer::State::done : Answer::State::failed;
    answer->value = value.release();
    return wake(answer);
}

bool resume_tasks(Driver* driver, int& resumed) {
    while (resumed < kMostResumed) {
        const Ref answer = next_to_wake(driver);
        if (!answer) return true;
        resumed++;
        if (answer_of(answer.get())->callback && !call_now(answer_of(answer.get()))) return false;
    }
    return true;
}

bool leave_to_loop(Driver* driver) {
    if (!driver->to_wake) return !PyErr_Occurred();
    KeptError error;
    error.keep();
    Answer* answer = std::exchange(driver->to_wake, nullptr);
    driver->last_to_wake = nullptr;
    while (answer) {
        const Ref held = Ref::steal(object_of(answer));
        Answer* next = answer->next_to_wake;
        if (answer->callback && !call_soon(answer)) {
            error.keep();
            append_to_wake(answer);
        }
        answer = next;
    }
    if (driver->to_wake && driver->queue) pqpool_queue_wake(driver->queue);
    return error.restore();
}

void forget_to_wake(Driver* driver) {
    while (next_to_wake(driver)) {
    }
}

PyObject* stop_with(PyObject* value) {
    PyErr_SetObject(PyExc_StopIteration, value);
    Py_DECREF(value);
    return nullptr;
}

PyObject* throw_into_nothing(PyObject* args) {
    PyObject *type, *value = nullptr, *trace = nullptr;
    if (!PyArg_UnpackTuple(args, "throw", 1, 3, &type, &value, &trace)) return nullptr;
    if (PyExceptionInstance_Check(type))
        PyErr_SetObject(PyExceptionInstance_Class(type), type);
    else
        PyErr_SetObject(type, value);
    return nullptr;
}

bool add_answer_type(PyObject* module) {
    call_soon_name = PyUnicode_InternFromString("call_soon");
    context_keyword = Py_BuildValue("(s)", "context");
    const Ref asyncio = Ref::steal(PyImport_ImportModule("asyncio"));
    cancelled_error = asyncio ? PyObject_GetAttrString(asyncio.get(), "CancelledError") : nullptr;
    PyType_Slot slots[] = {
        {Py_tp_dealloc, slot(answer_dealloc)},
        {Py_tp_traverse, slot(answer_traverse)},
        {Py_tp_clear, slot(answer_clear)},
        {Py_tp_call, slot(answer_call)},
        {Py_am_await, slot(PyObject_SelfIter)},
        {Py_am_send, slot(answer_send)},
        {Py_tp_iter, slot(PyObject_SelfIter)},
        {Py_tp_iternext, slot(answer_next)},
        {Py_tp_methods, answer_methods},
        {Py_tp_members, answer_members},
        {Py_tp_doc, const_cast<char*>("A submitted request: await it, once, in the event loop that made it.")},
        {0, nullptr},
    };
    PyType_Spec spec{"pqpool._pqpool.Answer", sizeof(Answer), 0,
                     Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION, slots};
    answer_type = add_type(module, "Answer", spec);
    return answer_type && call_soon_name && context_keyword && cancelled_error;
}

}  // namespace pqpool_python
