// Reader: what the event loop calls when the driver's descriptor is readable. The loop alone holds it, so that its end
// tells that the loop was closed: then the loop's requests and connections go back to the pool at once, whether or not
// anybody comes by.
#include "driver_types.hpp"

namespace pqpool_python {

PyTypeObject* reader_type = nullptr;

namespace {

struct Reader {
    PyObject_HEAD Driver* driver;
};

Reader* reader_of(PyObject* self) { return reinterpret_cast<Reader*>(self); }

bool is_finalizing() {
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsFinalizing() != 0;
#else
    return _Py_IsFinalizing() != 0;
#endif
}

PyObject* reader_new(PyTypeObject* type, PyObject* args, PyObject*) {
    PyObject* driver;
    if (!PyArg_ParseTuple(args, "O!:Reader", driver_type, &driver)) return nullptr;
    Reader* self = reader_of(type->tp_alloc(type, 0));
    if (self) self->driver = driver_of(Py_NewRef(driver));
    return reinterpret_cast<PyObject*>(self);
}

PyObject* reader_call(PyObject* object, PyObject*, PyObject*) {
    const Ref driver = Ref::borrow(object_of(reader_of(object)->driver));
    return driver ? driver_drain(driver.get(), nullptr) : Py_NewRef(Py_None);
}

// In a cycle's end the driver goes with it, by itself.
int reader_clear(PyObject* object) {
    Py_CLEAR(reader_of(object)->driver);
    return 0;
}

int reader_traverse(PyObject* object, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(object_of(reader_of(object)->driver));
    return 0;
}

void reader_dealloc(PyObject* object) {
    PyTypeObject* type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    if (Driver* driver = reader_of(object)->driver; driver && driver->queue) {
        KeptError error;
        error.keep();
        while (!is_finalizing() && !take_log(driver)) PyErr_WriteUnraisable(driver->owner);
        if (!close_queue(driver)) PyErr_WriteUnraisable(driver->owner);
        error.restore();
    }
    reader_clear(object);
    type->tp_free(object);
    Py_DECREF(type);
}

}  // namespace

bool add_reader_type(PyObject* module) {
    PyType_Slot slots[] = {
        {Py_tp_new, slot(reader_new)},
        {Py_tp_dealloc, slot(reader_dealloc)},
        {Py_tp_traverse, slot(reader_traverse)},
        {Py_tp_clear, slot(reader_clear)},
        {Py_tp_call, slot(reader_call)},
        {Py_tp_doc, const_cast<char*>("Reader(driver): calls drain(). With its last reference the driver is closed.")},
        {0, nullptr},
    };
    PyType_Spec spec{"pqpool._pqpool.Reader", sizeof(Reader), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slots};
    return (reader_type = add_type(module, "Reader", spec)) != nullptr;
}

}  // namespace pqpool_python
