// Record: a row, readable by index and by name, as asyncpg's users know it. Immutable.
#include "object.hpp"

namespace pqpool_python {

namespace {

struct Record {
    PyObject_VAR_HEAD PyObject* shape;  // (names: tuple of str, places: dict of str to int)
    PyObject* items[1];
};

PyTypeObject* record_type = nullptr;

Record* of(PyObject* self) { return reinterpret_cast<Record*>(self); }
PyObject* names_of(PyObject* self) { return PyTuple_GET_ITEM(of(self)->shape, 0); }
PyObject* places_of(PyObject* self) { return PyTuple_GET_ITEM(of(self)->shape, 1); }

void dealloc(PyObject* self) {
    PyObject_GC_UnTrack(self);
    for (Py_ssize_t i = 0; i < Py_SIZE(self); i++) Py_XDECREF(of(self)->items[i]);
    Py_XDECREF(of(self)->shape);
    PyTypeObject* type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

int traverse(PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    for (Py_ssize_t i = 0; i < Py_SIZE(self); i++) Py_VISIT(of(self)->items[i]);
    return 0;
}

Py_ssize_t length(PyObject* self) { return Py_SIZE(self); }

PyObject* item(PyObject* self, Py_ssize_t index) {
    if (index < 0 || index >= Py_SIZE(self)) {
        PyErr_Format(PyExc_IndexError, "record index out of range: the row has %zd columns", Py_SIZE(self));
        return nullptr;
    }
    return Py_NewRef(of(self)->items[index]);
}

PyObject* as_tuple(PyObject* self) {
    PyObject* tuple = PyTuple_New(Py_SIZE(self));
    if (!tuple) return nullptr;
    for (Py_ssize_t i = 0; i < Py_SIZE(self); i++) PyTuple_SET_ITEM(tuple, i, Py_NewRef(of(self)->items[i]));
    return tuple;
}

PyObject* by_name(PyObject* self, PyObject* name) {  // borrowed; nullptr without an error where there is none
    PyObject* place = PyDict_GetItemWithError(places_of(self), name);
    return place ? of(self)->items[PyLong_AsSsize_t(place)] : nullptr;
}

PyObject* subscript(PyObject* self, PyObject* key) {
    if (PyUnicode_Check(key)) {
        if (PyObject* value = by_name(self, key)) return Py_NewRef(value);
        if (!PyErr_Occurred()) PyErr_SetObject(PyExc_KeyError, key);
        return nullptr;
    }
    if (PyIndex_Check(key)) {
        Py_ssize_t index = PyNumber_AsSsize_t(key, PyExc_IndexError);
        if (index == -1 && PyErr_Occurred()) return nullptr;
        return item(self, index < 0 ? index + Py_SIZE(self) : index);
    }
    const Ref tuple = Ref::steal(as_tuple(self));  // a slice
    return tuple ? PyObject_GetItem(tuple.get(), key) : nullptr;
}

int contains(PyObject* self, PyObject* key) { return PyDict_Contains(places_of(self), key); }

PyObject* iterate(PyObject* self) {
    const Ref tuple = Ref::steal(as_tuple(self));
    return tuple ? PyObject_GetIter(tuple.get()) : nullptr;
}

PyObject* repr(PyObject* self) {
    const Ref parts = Ref::steal(PyList_New(0));
    for (Py_ssize_t i = 0; parts && i < Py_SIZE(self); i++) {
        const Ref part =
            Ref::steal(PyUnicode_FromFormat("%U=%R", PyTuple_GET_ITEM(names_of(self), i), of(self)->items[i]));
        if (!part || PyList_Append(parts.get(), part.get()) != 0) return nullptr;
    }
    const Ref blank = Ref::steal(PyUnicode_FromString(" "));
    const Ref joined = Ref::steal(parts && blank ? PyUnicode_Join(blank.get(), parts.get()) : nullptr);
    return joined ? PyUnicode_FromFormat("<Record %U>", joined.get()) : nullptr;
}

PyObject* compare(PyObject* self, PyObject* other, int op) {
    const bool record = Py_TYPE(other) == record_type;
    if (!record && !PyTuple_Check(other)) Py_RETURN_NOTIMPLEMENTED;
    const Ref left = Ref::steal(as_tuple(self));
    const Ref right = record ? Ref::steal(as_tuple(other)) : Ref::borrow(other);
    return left && right ? PyObject_RichCompare(left.get(), right.get(), op) : nullptr;
}

Py_hash_t hash(PyObject* self) {
    const Ref tuple = Ref::steal(as_tuple(self));
    return tuple ? PyObject_Hash(tuple.get()) : -1;
}

PyObject* keys(PyObject* self, PyObject*) { return PyObject_GetIter(names_of(self)); }
PyObject* values(PyObject* self, PyObject*) { return iterate(self); }

PyObject* items(PyObject* self, PyObject*) {
    const Ref pairs = Ref::steal(PyTuple_New(Py_SIZE(self)));
    for (Py_ssize_t i = 0; pairs && i < Py_SIZE(self); i++) {
        PyObject* pair = PyTuple_Pack(2, PyTuple_GET_ITEM(names_of(self), i), of(self)->items[i]);
        if (!pair) return nullptr;
        PyTuple_SET_ITEM(pairs.get(), i, pair);
    }
    return pairs ? PyObject_GetIter(pairs.get()) : nullptr;
}

PyObject* get(PyObject* self, PyObject* args) {
    PyObject *key, *otherwise = Py_None;
    if (!PyArg_ParseTuple(args, "O|O:get", &key, &otherwise)) return nullptr;
    PyObject* value = by_name(self, key);
    if (!value && PyErr_Occurred()) return nullptr;
    return Py_NewRef(value ? value : otherwise);
}

PyMethodDef methods[] = {
    {"keys", keys, METH_NOARGS, "The columns' names, in order."},
    {"values", values, METH_NOARGS, "The values, in the columns' order."},
    {"items", items, METH_NOARGS, "Pairs of name and value."},
    {"get", get, METH_VARARGS,
     "get(name, default=None)\n--\n\nThe value of a column, or the default where there is no such column."},
    {nullptr, nullptr, 0, nullptr},
};

template <class Function>
void* slot(Function function) {
    return reinterpret_cast<void*>(function);
}

}  // namespace

bool add_record_type(PyObject* module) {
    PyType_Slot slots[] = {
        {Py_tp_dealloc, slot(dealloc)},
        {Py_tp_traverse, slot(traverse)},
        {Py_sq_length, slot(length)},
        {Py_sq_item, slot(item)},
        {Py_mp_length, slot(length)},
        {Py_mp_subscript, slot(subscript)},
        {Py_sq_contains, slot(contains)},
        {Py_tp_iter, slot(iterate)},
        {Py_tp_repr, slot(repr)},
        {Py_tp_richcompare, slot(compare)},
        {Py_tp_hash, slot(hash)},
        {Py_tp_methods, methods},
        {Py_tp_doc,
         const_cast<char*>(
             "A row of a result, readable by index and by name. Immutable; equal to a tuple of the same values.")},
        {0, nullptr},
    };
    PyType_Spec spec{
        "pqpool._pqpool.Record", sizeof(Record) - sizeof(PyObject*), sizeof(PyObject*),
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE, slots};
    record_type = reinterpret_cast<PyTypeObject*>(PyType_FromSpec(&spec));
    return record_type && PyModule_AddObjectRef(module, "Record", reinterpret_cast<PyObject*>(record_type)) == 0;
}

Ref make_record_shape(const pqpool_result* result) {
    const int32_t columns = pqpool_result_columns(result);
    Ref names = Ref::steal(PyTuple_New(columns)), places = Ref::steal(PyDict_New());
    for (int32_t i = 0; names && places && i < columns; i++) {
        PyObject* name = text_of(pqpool_result_column_name(result, i)).release();
        if (!name) return {};
        PyTuple_SET_ITEM(names.get(), i, name);
        const Ref place = Ref::steal(PyLong_FromLong(i));
        if (!place || PyDict_SetItem(places.get(), name, place.get()) != 0)
            return {};  // of two columns with one name the last is found
    }
    return names && places ? Ref::steal(PyTuple_Pack(2, names.get(), places.get())) : Ref();
}

Ref make_record(PyObject* shape, Py_ssize_t size) {
    Record* record = PyObject_GC_NewVar(Record, record_type, size);
    if (!record) return {};
    record->shape = Py_NewRef(shape);
    for (Py_ssize_t i = 0; i < size; i++) record->items[i] = nullptr;
    return Ref::steal(reinterpret_cast<PyObject*>(record));
}

void set_record_item(PyObject* record, Py_ssize_t index, Ref item) {
    of(record)->items[index] = item.release();
    if (index + 1 == Py_SIZE(record)) PyObject_GC_Track(record);
}

}  // namespace pqpool_python
