// What the driver's files share: one event loop's side of a pool, its leases, and the requests under way. All of it
// needs the GIL.
#pragma once

#include <array>
#include <memory>

#include "driver.hpp"

namespace pqpool_python {

constexpr int kStackDepth = 8;

// The code of asyncio's Handle._run: what lies below it is the event loop's, the same for everyone.
extern PyCodeObject* end_of_stack;
// asyncio's, which gives None where there is none.
extern PyObject* get_running_loop;

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
        while (frame) {
            PyCodeObject* code = PyFrame_GetCode(frame);
            if (code == end_of_stack) {
                Py_DECREF(code);
                break;
            }
            frames_[depth_++] = {code, PyFrame_GetLasti(frame)};
            if (depth_ == kStackDepth) break;
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
            PyObject* line = Py_BuildValue("(OiO)", code->co_filename, PyCode_Addr2Line(code, frames_[i].instruction),
                                           code->co_qualname);
            if (!line)
                Py_CLEAR(list);
            else
                PyList_SET_ITEM(list, i, line);
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

struct Answer;
struct Lease;

// Keeps a Python error aside while work goes on that must be done all the same; of several, the first.
class KeptError {
  public:
    KeptError() = default;
    KeptError(const KeptError&) = delete;
    ~KeptError() { drop(); }
    void keep() {  // the error that is set, if one is
        if (type_) return PyErr_Clear();
        PyErr_Fetch(&type_, &error_, &trace_);
    }
    bool restore() {  // true where there was none
        if (!type_) return true;
        PyErr_Restore(std::exchange(type_, nullptr), std::exchange(error_, nullptr), std::exchange(trace_, nullptr));
        return false;
    }
    bool is_set() const { return type_ != nullptr; }
    void drop() {
        Py_CLEAR(type_);
        Py_CLEAR(error_);
        Py_CLEAR(trace_);
    }

  private:
    PyObject *type_ = nullptr, *error_ = nullptr, *trace_ = nullptr;
};

struct Driver {
    PyObject_HEAD std::shared_ptr<PoolHandle> pool;
    pqpool_queue* queue;
    PyObject* loop;
    PyObject* lease_type;   // what acquire gives: a subclass of Lease
    PyObject* owner;        // the manager: told of log lines, and when a driver that retires is not used any more
    PyObject* run_forever;  // the loop's, where it is known to run no loop inside its own tasks; else nullptr
    int64_t looked_ms;      // when the owner was last asked for the level of its log
    Lease* leases;          // those out, for the holders' stacks
    Answer* under_way;      // submitted, without an answer; each holds a reference to itself
    Answer *to_wake, *last_to_wake;
    PyObject* spare;  // the Answer of the next acquire that has to wait
    Parameters parameters;
    PyObject* stepping;  // borrowed: the context of the task that drain() steps just now
    bool keeps_stacks;
    bool retires;
    bool resuming;  // drain() steps the tasks that are to be woken
};

// A submitted request, and what its answer is. See answer.cpp.
struct Answer {
    enum class State : uint8_t { pending, done, failed, cancelled };

    PyObject_HEAD Driver* driver;
    PyObject *callback, *context;  // whom the answer wakes
    PyObject* value;               // done: the result; failed: the exception; cancelled: the message, if any
    PyObject* lease;               // of a statement
    uint64_t id;
    Answer *previous, *next, *next_to_wake;
    Mode mode;
    int column;
    State state;
    char blocking;
    Stack stack;  // of an acquire
};

struct Lease {
    PyObject_HEAD Driver* driver;
    pqpool_lease handle;
    uint64_t operation;  // the statement under way, or 0
    bool released;
    Stack stack;
    Lease *previous, *next;
};

extern PyTypeObject *driver_type, *answer_type, *lease_type, *acquire_type, *reader_type;

inline Driver* driver_of(PyObject* self) { return reinterpret_cast<Driver*>(self); }
inline Lease* lease_of(PyObject* self) { return reinterpret_cast<Lease*>(self); }
inline Answer* answer_of(PyObject* self) { return reinterpret_cast<Answer*>(self); }
inline PyObject* object_of(Driver* driver) { return reinterpret_cast<PyObject*>(driver); }
inline PyObject* object_of(Answer* answer) { return reinterpret_cast<PyObject*>(answer); }

// These return false, or an empty Ref, with a Python error set.
Ref new_answer(Driver* driver, Mode mode);
void submitted(Answer* answer);                     // the queue has it: it lives until it is taken back
Ref taken_back(Answer* answer);                     // the queue has answered, or never will
bool settle(Answer* answer, Ref value, bool good);  // an empty value: the Python error that is set is the outcome
bool take_completions(Driver* driver);              // settles what the queue has answered
bool resume_tasks(Driver* driver, int& resumed);    // from drain() only
bool leave_to_loop(Driver* driver);                 // the tasks still to be woken; what fails stays for the next drain

void forget_to_wake(Driver* driver);  // those of a closed loop
// Whether this runs in a loop that the task which drain() steps just now runs inside its step: it has other contexts.
// So has a task that begins at once inside that step, where nothing is lost by a detour over the loop.
inline bool is_nested(const Driver* driver) {
    return driver->stepping && PyThreadState_Get()->context != driver->stepping;
}
// Of this thread: whose drain() steps a task just now.
extern thread_local Driver* stepping_driver;
// The event loop that runs here, or None. Inside a step it is known; asking asyncio costs a system call.
inline Ref running_loop() {
    const Driver* driver = stepping_driver;
    if (driver && driver->stepping && !is_nested(driver)) return Ref::borrow(driver->loop);
    return Ref::steal(PyObject_CallNoArgs(get_running_loop));
}
// True unless an interrupt is set: any other error is dropped.
inline bool keep_only_interrupts() {
    if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_Exception)) return false;
    PyErr_Clear();
    return true;
}

bool is_open(Driver* driver);
PyObject* driver_drain(PyObject* driver, PyObject*);
bool take_log(Driver* driver);     // false after each line that could not be handed on: call it again
bool close_queue(Driver* driver);  // false where an interrupt came
inline bool is_unused(const Driver* driver) { return !driver->leases && !driver->under_way; }
// Seconds to the C interface's milliseconds; None is the pool's option.
int64_t ms_of(PyObject* seconds, bool& good);

Ref acquire(Driver* driver, PyObject* timeout, PyObject* leak_timeout);  // a Lease at once, or its Answer
Ref new_lease(Driver* driver, pqpool_lease handle, Stack& stack);
PyObject* lease_release(PyObject* lease, PyObject*);
void unlink(Lease* lease);

// What the awaitables share.
PyObject* stop_with(PyObject* value);          // steals it
PyObject* throw_into_nothing(PyObject* args);  // what throw() of a coroutine does that waits for nothing

bool add_answer_type(PyObject* module);
bool add_lease_type(PyObject* module);
bool add_reader_type(PyObject* module);
bool add_acquire_type(PyObject* module);

template <class To = void*, class Function>
To slot(Function function) noexcept {
    // NOLINTNEXTLINE(bugprone-casting-through-void): Python's tables hold functions of several kinds as one
    return reinterpret_cast<To>(reinterpret_cast<void*>(function));
}

inline PyTypeObject* add_type(PyObject* module, const char* name, PyType_Spec& spec) {
    auto* type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&spec));
    return type && PyModule_AddObjectRef(module, name, reinterpret_cast<PyObject*>(type)) == 0 ? type : nullptr;
}

}  // namespace pqpool_python
