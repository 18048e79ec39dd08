/* What at_hand.py is in Python, in C: the same names, the same answers, in a fraction of the time.

   A Quick is a method of SessionManager or of MemoryStore that answers by itself when it is called the usual way, for a
   session that is at hand and lives. Whatever is not as usual it leaves to the Python function that it stands for,
   having changed nothing.

   Nothing here calls Python code but the clock, and after that nothing at all until the answer is there: no other
   thread, no signal handler and no finalizer comes in between. It is for CPython with its global lock, and is built for
   nothing else. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stddef.h>
#include <structmember.h>
#include <time.h>

typedef struct {
    PyTypeObject *Record, *AtHand, *HasAtHand;
    PyObject *monotonic; /* time.monotonic, where it is the CLOCK_MONOTONIC of the system */
    PyCFunction monotonic_function; /* what that calls, unless somebody has put another clock into it */
    PyObject *by_user, *created_at, *data, *policy, *session_timeout, *settings, *username;
} State;

/* Record */

enum field {
    USERNAME, TIMEOUT, INTERVAL, LIMIT, CREATED_AT, KEY, AUTHENTICATED_AT, FORMER_KEYS,
    STEADY, DATA, PLACE, TIMER, STORE, WARNING, OLDER, NEWER,
    FIELDS
};

typedef struct {
    PyObject_HEAD
    double deadline, born;
    PyObject *fields[FIELDS];
} Record;

#define FIELD(name, field) {name, T_OBJECT_EX, offsetof(Record, fields) + (field) * sizeof(PyObject *), 0, NULL}

static PyMemberDef Record_members[] = {
    {"_deadline", T_DOUBLE, offsetof(Record, deadline), 0, NULL},
    {"_born", T_DOUBLE, offsetof(Record, born), 0, NULL},
    FIELD("username", USERNAME),
    FIELD("_steady", STEADY),
    FIELD("timeout", TIMEOUT),
    FIELD("_interval", INTERVAL),
    FIELD("_limit", LIMIT),
    FIELD("data", DATA),
    FIELD("createdAt", CREATED_AT),
    FIELD("key", KEY),
    FIELD("authenticatedAt", AUTHENTICATED_AT),
    FIELD("formerKeys", FORMER_KEYS),
    FIELD("_place", PLACE),
    FIELD("_timer", TIMER),
    FIELD("_store", STORE),
    FIELD("_warning", WARNING),
    FIELD("_older", OLDER),
    FIELD("_newer", NEWER),
    {NULL},
};

static void
set(Record *self, enum field field, PyObject *value)
{
    PyObject *old = self->fields[field];
    self->fields[field] = Py_NewRef(value);
    Py_XDECREF(old);
}

static int
Record_init(Record *self, PyObject *args, PyObject *kwargs)
{
    PyObject *store, *username, *key, *born, *created_at, *limit, *data;
    if (kwargs != NULL && PyDict_GET_SIZE(kwargs) > 0) {
        PyErr_SetString(PyExc_TypeError, "Record() takes no keyword arguments");
        return -1;
    }
    if (!PyArg_UnpackTuple(args, "Record", 7, 7, &store, &username, &key, &born, &created_at, &limit, &data))
        return -1;
    double seconds = PyFloat_AsDouble(born);
    if (seconds == -1.0 && PyErr_Occurred())
        return -1;
    PyObject *former_keys = PyTuple_New(0);
    if (former_keys == NULL)
        return -1;
    self->deadline = Py_HUGE_VAL;
    self->born = seconds;
    set(self, STORE, store);
    set(self, USERNAME, username);
    set(self, KEY, key);
    set(self, CREATED_AT, created_at);
    set(self, AUTHENTICATED_AT, created_at);
    set(self, LIMIT, limit);
    set(self, DATA, data);
    set(self, FORMER_KEYS, former_keys);
    set(self, TIMEOUT, Py_None);
    set(self, INTERVAL, Py_None);
    set(self, STEADY, Py_None);
    set(self, PLACE, Py_None);
    set(self, TIMER, Py_None);
    set(self, WARNING, Py_None);
    set(self, OLDER, Py_None);
    set(self, NEWER, Py_False);
    Py_DECREF(former_keys);
    return 0;
}

static int
Record_traverse(Record *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    for (int field = 0; field < FIELDS; field++)
        if (self->fields[field] != Py_None)
            Py_VISIT(self->fields[field]);
    return 0;
}

static int
Record_clear(Record *self)
{
    for (int field = 0; field < FIELDS; field++)
        Py_CLEAR(self->fields[field]);
    return 0;
}

static void
Record_dealloc(Record *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Record_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot Record_slots[] = {
    {Py_tp_init, Record_init},
    {Py_tp_traverse, Record_traverse},
    {Py_tp_clear, Record_clear},
    {Py_tp_dealloc, Record_dealloc},
    {Py_tp_members, Record_members},
    {0, NULL},
};

static PyType_Spec Record_spec = {
    .name = "users_session_manager._at_hand.Record",
    .basicsize = sizeof(Record),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = Record_slots,
};

/* AtHand */

typedef struct {
    PyObject_HEAD
    PyObject *sessions, *now;
} AtHand;

static PyMemberDef AtHand_members[] = {
    {"sessions", T_OBJECT_EX, offsetof(AtHand, sessions), 0, NULL},
    {"now", T_OBJECT_EX, offsetof(AtHand, now), 0, NULL},
    {NULL},
};

static int
AtHand_traverse(AtHand *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->sessions);
    Py_VISIT(self->now);
    return 0;
}

static int
AtHand_clear(AtHand *self)
{
    Py_CLEAR(self->sessions);
    Py_CLEAR(self->now);
    return 0;
}

static void
AtHand_dealloc(AtHand *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    AtHand_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot AtHand_slots[] = {
    {Py_tp_traverse, AtHand_traverse},
    {Py_tp_clear, AtHand_clear},
    {Py_tp_dealloc, AtHand_dealloc},
    {Py_tp_members, AtHand_members},
    {0, NULL},
};

static PyType_Spec AtHand_spec = {
    .name = "users_session_manager._at_hand.AtHand",
    .basicsize = sizeof(AtHand),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = AtHand_slots,
};

/* HasAtHand */

typedef struct {
    PyObject_HEAD
    PyObject *hand;
} HasAtHand;

static PyMemberDef HasAtHand_members[] = {
    {"_at_hand", T_OBJECT_EX, offsetof(HasAtHand, hand), 0, NULL},
    {NULL},
};

static int
HasAtHand_traverse(HasAtHand *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->hand);
    return 0;
}

static int
HasAtHand_clear(HasAtHand *self)
{
    Py_CLEAR(self->hand);
    return 0;
}

static void
HasAtHand_dealloc(HasAtHand *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    HasAtHand_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot HasAtHand_slots[] = {
    {Py_tp_traverse, HasAtHand_traverse},
    {Py_tp_clear, HasAtHand_clear},
    {Py_tp_dealloc, HasAtHand_dealloc},
    {Py_tp_members, HasAtHand_members},
    {0, NULL},
};

static PyType_Spec HasAtHand_spec = {
    .name = "users_session_manager._at_hand.HasAtHand",
    .basicsize = sizeof(HasAtHand),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = HasAtHand_slots,
};

/* The answers. Each gets what is at hand and the arguments of the Python method, and returns NULL without an exception
   for: ask Python. */

/* Read the clock of what is at hand; tell whether it says a time. */
static int
read_clock(State *state, AtHand *hand, double *now)
{
#ifdef CLOCK_MONOTONIC
    struct timespec reading;
    if (hand->now != NULL && hand->now == state->monotonic &&
        PyCFunction_GET_FUNCTION(hand->now) == state->monotonic_function &&
        clock_gettime(CLOCK_MONOTONIC, &reading) == 0) {
        *now = (double)(reading.tv_sec * INT64_C(1000000000) + reading.tv_nsec) / 1e9; /* as Python does it */
        return 1;
    }
#endif
    PyObject *clock = Py_XNewRef(hand->now);
    PyObject *time = clock == NULL ? NULL : PyObject_CallNoArgs(clock);
    Py_XDECREF(clock);
    int is_time = time != NULL && PyFloat_CheckExact(time);
    if (is_time)
        *now = PyFloat_AS_DOUBLE(time);
    Py_XDECREF(time);
    return is_time;
}

/* Find the live session of a key, borrowed, and say when it was alive.

   The clock comes before the look: a processor reads its clock when all that was to be read before has come. */
static Record *
find(State *state, AtHand *hand, PyObject *key, double *now)
{
    if (!PyUnicode_CheckExact(key) || !read_clock(state, hand, now) || hand->sessions == NULL ||
        !PyDict_Check(hand->sessions))
        return NULL;
    PyObject *session = PyDict_GetItemWithError(hand->sessions, key);
    if (session == NULL || !PyObject_TypeCheck(session, state->Record) || !(((Record *)session)->deadline > *now))
        return NULL;
    return (Record *)session;
}

static PyObject *
check(State *state, AtHand *hand, PyObject *const *args)
{
    double now;
    return find(state, hand, args[1], &now) == NULL ? NULL : Py_NewRef(Py_True);
}

static PyObject *
get_session(State *state, AtHand *hand, PyObject *const *args)
{
    double now;
    return Py_XNewRef((PyObject *)find(state, hand, args[1], &now));
}

static PyObject *
get_username(State *state, AtHand *hand, PyObject *const *args)
{
    double now;
    Record *session = find(state, hand, args[1], &now);
    return session == NULL ? NULL : Py_XNewRef(session->fields[USERNAME]);
}

static PyObject *
get_data(State *state, AtHand *hand, PyObject *const *args)
{
    double now;
    Record *session = find(state, hand, args[1], &now);
    return session == NULL ? NULL : Py_XNewRef(session->fields[DATA]);
}

static PyObject *
get_details(State *state, AtHand *hand, PyObject *const *args)
{
    const enum field fields[] = {USERNAME, CREATED_AT, DATA};
    PyObject *const names[] = {state->username, state->created_at, state->data};
    PyObject *details = PyDict_New(); /* first, since it may call the garbage collector */
    if (details == NULL)
        return NULL;
    double now;
    Record *session = find(state, hand, args[1], &now);
    for (int index = 0; index < 3; index++) {
        PyObject *value = session == NULL ? NULL : session->fields[fields[index]];
        if (value == NULL || PyDict_SetItem(details, names[index], value) < 0) {
            Py_DECREF(details);
            return NULL;
        }
    }
    return details;
}

static PyObject *
set_data(State *state, AtHand *hand, PyObject *const *args)
{
    double now;
    Record *session = find(state, hand, args[1], &now);
    if (session == NULL)
        return NULL;
    set(session, DATA, args[2]);
    Py_RETURN_TRUE;
}

/* Do what MemoryStore.restart does where only the deadline changes. */
static Record *
move_deadline(State *state, AtHand *hand, PyObject *const *args, PyObject *timeout, PyObject *policy)
{
    double now;
    Record *session = find(state, hand, args[1], &now);
    if (session == NULL || policy != session->fields[STEADY])
        return NULL;
    PyObject *interval = session->fields[TIMEOUT], *limit = session->fields[LIMIT];
    if (interval == Py_None)
        interval = timeout;
    if (interval == NULL || interval != session->fields[INTERVAL] || limit == NULL || !PyFloat_CheckExact(limit) ||
        !(PyFloat_CheckExact(interval) || PyLong_CheckExact(interval))) /* others have Python code of their own */
        return NULL;
    double deadline = now + PyFloat_AsDouble(interval);
    if (!(deadline <= PyFloat_AS_DOUBLE(limit)) || PyErr_Occurred())
        return NULL;
    session->deadline = deadline;
    return session;
}

static PyObject *
resume(State *state, AtHand *hand, PyObject *const *args)
{
    PyObject *settings = PyObject_GetAttr(args[0], state->settings), *timeout = NULL, *policy = NULL, *session = NULL;
    if (settings != NULL && PyDict_CheckExact(settings))
        timeout = Py_XNewRef(PyDict_GetItemWithError(settings, state->session_timeout));
    if (timeout != NULL)
        policy = PyObject_GetAttr(args[0], state->policy);
    if (policy != NULL)
        session = Py_XNewRef((PyObject *)move_deadline(state, hand, args, timeout, policy));
    Py_XDECREF(settings);
    Py_XDECREF(timeout);
    Py_XDECREF(policy);
    return session;
}

static PyObject *
restart(State *state, AtHand *hand, PyObject *const *args)
{
    PyObject *session = resume(state, hand, args);
    if (session == NULL)
        return NULL;
    Py_DECREF(session); /* the store has it */
    Py_RETURN_TRUE;
}

/* Take a session out of a dictionary; 0 if it is not there. */
static int
drop(PyObject *dictionary, PyObject *key)
{
    if (PyDict_DelItem(dictionary, key) == 0)
        return 1;
    if (PyErr_ExceptionMatches(PyExc_KeyError))
        PyErr_Clear();
    return 0;
}

/* Whether a session waits in a slice of time, and nothing else is tied to it. */
static int
is_free(Record *session)
{
    PyObject *place = session->fields[PLACE], *former_keys = session->fields[FORMER_KEYS];
    return session->fields[TIMER] == Py_None && session->fields[WARNING] == Py_None && place != NULL &&
           PyDict_CheckExact(place) && former_keys != NULL && PyTuple_CheckExact(former_keys) &&
           PyTuple_GET_SIZE(former_keys) == 0;
}

static PyObject *
take(State *state, AtHand *hand, PyObject *const *args)
{
    double now;
    Record *session = find(state, hand, args[1], &now);
    if (session == NULL)
        return NULL;
    Py_INCREF(session);
    PyObject *by_user = PyObject_GetAttr(args[0], state->by_user);
    Py_XDECREF(by_user);
    int is_taken = by_user == Py_None && is_free(session) && drop(session->fields[PLACE], (PyObject *)session) &&
                   drop(hand->sessions, args[1]);
    if (!is_taken) {
        Py_DECREF(session);
        return NULL;
    }
    set(session, STEADY, Py_None);
    return (PyObject *)session;
}

static const struct answer {
    const char *method;
    Py_ssize_t arguments;
    PyObject *(*give)(State *, AtHand *, PyObject *const *);
} answers[] = {
    {"checkSessionStatus", 2, check},
    {"findSession", 2, get_session},
    {"getSession", 2, get_session},
    {"getSessionData", 2, get_data},
    {"getSessionDetails", 2, get_details},
    {"getUsernameFromSessionKey", 2, get_username},
    {"restartSessionTimer", 2, restart},
    {"resumeSession", 2, resume},
    {"setSessionData", 3, set_data},
    {"remove", 2, take},
    {NULL, 0, NULL},
};

/* Quick */

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *module;
    State *state; /* the module's, which so stays as long as this does */
    const struct answer *answer;
    PyObject *function;
    PyObject *dict; /* what functools.update_wrapper leaves */
    PyObject *weak_references;
} Quick;

static PyMemberDef Quick_members[] = {
    {"__dictoffset__", T_PYSSIZET, offsetof(Quick, dict), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Quick, weak_references), READONLY, NULL},
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Quick, call), READONLY, NULL},
    {NULL},
};

static PyGetSetDef Quick_getset[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {NULL},
};

static PyObject *
answer_at_hand(Quick *self, PyObject *const *args)
{
    State *state = self->state;
    PyObject *hand = PyObject_TypeCheck(args[0], state->HasAtHand) ? ((HasAtHand *)args[0])->hand : args[0];
    if (hand == NULL || !PyObject_TypeCheck(hand, state->AtHand))
        return NULL;
    Py_INCREF(hand);
    PyObject *answer = self->answer->give(state, (AtHand *)hand, args);
    Py_DECREF(hand);
    return answer;
}

static PyObject *
Quick_call(Quick *self, PyObject *const *args, size_t nargsf, PyObject *names)
{
    if (names == NULL && PyVectorcall_NARGS(nargsf) == self->answer->arguments) {
        PyObject *answer = answer_at_hand(self, args);
        if (answer != NULL || PyErr_Occurred())
            return answer;
    }
    return PyObject_Vectorcall(self->function, args, nargsf, names);
}

static PyObject *
Quick_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"function", NULL};
    PyObject *function;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:Quick", names, &function))
        return NULL;
    PyObject *name = PyObject_GetAttrString(function, "__name__");
    if (name == NULL)
        return NULL;
    const struct answer *answer = answers;
    while (answer->method != NULL &&
           !(PyUnicode_Check(name) && PyUnicode_CompareWithASCIIString(name, answer->method) == 0))
        answer++;
    if (answer->method == NULL)
        PyErr_Format(PyExc_ValueError, "there is no quick answer for %R", name);
    Py_DECREF(name);
    Quick *self = answer->method == NULL ? NULL : (Quick *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->call = (vectorcallfunc)Quick_call;
    self->module = Py_NewRef(PyType_GetModule(type));
    self->state = PyModule_GetState(self->module);
    self->answer = answer;
    self->function = Py_NewRef(function);
    return (PyObject *)self;
}

static PyObject *
Quick_get(PyObject *self, PyObject *owner, PyObject *Py_UNUSED(type))
{
    return owner == NULL ? Py_NewRef(self) : PyMethod_New(self, owner);
}

/* What is pickled or copied is its name, as of any function. */
static PyObject *
Quick_reduce(Quick *self, PyObject *Py_UNUSED(nothing))
{
    return PyObject_GetAttrString(self->function, "__qualname__");
}

static PyMethodDef Quick_methods[] = {
    {"__reduce__", (PyCFunction)Quick_reduce, METH_NOARGS, NULL},
    {NULL},
};

static PyObject *
Quick_repr(Quick *self)
{
    return PyObject_Repr(self->function);
}

static int
Quick_traverse(Quick *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->module);
    Py_VISIT(self->function);
    Py_VISIT(self->dict);
    return 0;
}

static int
Quick_clear(Quick *self)
{
    Py_CLEAR(self->module);
    Py_CLEAR(self->function);
    Py_CLEAR(self->dict);
    return 0;
}

static void
Quick_dealloc(Quick *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->weak_references != NULL)
        PyObject_ClearWeakRefs((PyObject *)self);
    Quick_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot Quick_slots[] = {
    {Py_tp_new, Quick_new},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_descr_get, Quick_get},
    {Py_tp_repr, Quick_repr},
    {Py_tp_traverse, Quick_traverse},
    {Py_tp_clear, Quick_clear},
    {Py_tp_dealloc, Quick_dealloc},
    {Py_tp_members, Quick_members},
    {Py_tp_methods, Quick_methods},
    {Py_tp_getset, Quick_getset},
    {0, NULL},
};

static PyType_Spec Quick_spec = {
    .name = "users_session_manager._at_hand.Quick",
    .basicsize = sizeof(Quick),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR,
    .slots = Quick_slots,
};

/* The module */

static PyTypeObject *
add_type(PyObject *module, PyType_Spec *spec)
{
    PyTypeObject *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    if (type != NULL && PyModule_AddType(module, type) < 0)
        Py_CLEAR(type);
    return type;
}

/* Note Python's monotonic clock, if it is one that can be read without it; where that cannot be told, it is asked. */
static void
note_monotonic(State *state)
{
    PyObject *time = PyImport_ImportModule("time");
    PyObject *clock = time == NULL ? NULL : PyObject_GetAttrString(time, "monotonic");
    PyObject *info = clock == NULL ? NULL : PyObject_CallMethod(time, "get_clock_info", "s", "monotonic");
    PyObject *name = info == NULL ? NULL : PyObject_GetAttrString(info, "implementation");
    /* A clock that stands in for it, as in tests, is asked like any other. */
    if (name != NULL && PyCFunction_Check(clock) && PyUnicode_Check(name) &&
        PyUnicode_CompareWithASCIIString(name, "clock_gettime(CLOCK_MONOTONIC)") == 0) {
        state->monotonic = Py_NewRef(clock);
        state->monotonic_function = PyCFunction_GET_FUNCTION(clock);
    }
    Py_XDECREF(time);
    Py_XDECREF(clock);
    Py_XDECREF(info);
    Py_XDECREF(name);
    if (name == NULL)
        PyErr_Clear();
}

static int
fill(PyObject *module)
{
    State *state = PyModule_GetState(module);
    const struct {
        PyObject **place;
        const char *name;
    } names[] = {
        {&state->by_user, "_by_user"},
        {&state->created_at, "createdAt"},
        {&state->data, "data"},
        {&state->policy, "_policy"},
        {&state->session_timeout, "SESSION_TIMEOUT"},
        {&state->settings, "settings"},
        {&state->username, "username"},
    };
    for (size_t index = 0; index < sizeof(names) / sizeof(names[0]); index++)
        if ((*names[index].place = PyUnicode_InternFromString(names[index].name)) == NULL)
            return -1;
    note_monotonic(state);
    PyTypeObject *quick = add_type(module, &Quick_spec);
    Py_XDECREF(quick);
    if (quick == NULL || (state->Record = add_type(module, &Record_spec)) == NULL ||
        (state->AtHand = add_type(module, &AtHand_spec)) == NULL ||
        (state->HasAtHand = add_type(module, &HasAtHand_spec)) == NULL)
        return -1;
    return 0;
}

static int
traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);
    Py_VISIT(state->Record);
    Py_VISIT(state->AtHand);
    Py_VISIT(state->HasAtHand);
    return 0;
}

static int
clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
    Py_CLEAR(state->Record);
    Py_CLEAR(state->AtHand);
    Py_CLEAR(state->HasAtHand);
    return 0;
}

static void
free_all(void *module)
{
    State *state = PyModule_GetState(module);
    clear(module);
    Py_CLEAR(state->monotonic);
    Py_CLEAR(state->by_user);
    Py_CLEAR(state->created_at);
    Py_CLEAR(state->data);
    Py_CLEAR(state->policy);
    Py_CLEAR(state->session_timeout);
    Py_CLEAR(state->settings);
    Py_CLEAR(state->username);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, fill},
    {0, NULL},
};

static PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "users_session_manager._at_hand",
    .m_size = sizeof(State),
    .m_slots = slots,
    .m_traverse = traverse,
    .m_clear = clear,
    .m_free = free_all,
};

PyMODINIT_FUNC
PyInit__at_hand(void)
{
    return PyModuleDef_Init(&module);
}
