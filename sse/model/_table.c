/* The mean of each text's table rows for sse.model.table, without the GIL.

   numpy would gather the rows into a copy and add them in a second pass, or run a Python loop. Here
   one pass adds each text's rows in order, as torch's embedding_bag does. So float32 means are bit
   for bit the same.

   Rows are float32, float16, int8 or int4 (two columns per byte, the first in the high nibble).
   int8 and int4 rows have one scale per row. The caller checks types; sizes, offsets and token ids
   are checked here. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__) && defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
#define EVERY_CPU __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define EVERY_CPU
#endif
#if defined(__GNUC__)
#define PREFETCH(p) __builtin_prefetch(p)
#else
#define PREFETCH(p) ((void)0)
#endif

#define AHEAD 8 /* tokens; rows are scattered in memory, so they are prefetched */

#define VERSION 2     /* of `pool`'s arguments: sse/model/table.py asks for it */
#define BEYOND_IDS -2 /* an offset lies beyond the ids */
#define NOT_FINITE -3 /* minus the row: it holds NaN or infinity */

typedef struct {
    const char *rows;    /* the table */
    int64_t stride;      /* bytes from row to row */
    int64_t count;       /* rows */
    const float *scales; /* of int8 and int4 rows */
    const uint32_t *ids;
    int64_t tokens;         /* ids of all texts */
    const int64_t *offsets; /* texts + 1 */
    int64_t texts;
    int64_t dim; /* leading columns to compute */
    float *out;  /* (texts, dim) */
    uint8_t *finite; /* of float rows, 1 where a row was looked at; else NULL */
    int halves;      /* whether the rows are float16 */
} Job;

static inline void fetch(const Job *job, int64_t token, int64_t bytes) {
    if (token < job->tokens && job->ids[token] < job->count) {
        const char *row = job->rows + job->ids[token] * job->stride;
        for (int64_t at = 0; at < bytes; at += 64) PREFETCH(row + at);
    }
}

/* float16 to float32, for finite values. The bits are shifted into place and the exponent's bias is
   corrected by the factor 2^(127 - 15), which holds for subnormal numbers too. Without branches, so
   that compilers vectorise it. */
static inline float from_half(uint16_t half) {
    uint32_t bits = (uint32_t)(half & 0x7fff) << 13;
    float value;
    memcpy(&value, &bits, 4);
    value *= 5.192296858534828e33f; /* 2^112 */
    memcpy(&bits, &value, 4);
    bits |= (uint32_t)(half & 0x8000) << 16;
    memcpy(&value, &bits, 4);
    return value;
}

/* Whether a row of floats holds neither NaN nor infinity, which have the largest exponent. */
static int finite_row(const Job *job, uint32_t id) {
    const void *row = job->rows + id * job->stride;
    const uint16_t *halves = row;
    const uint32_t *floats = row;
    int bad = 0;
    if (job->halves) {
        for (int64_t c = 0; c < job->stride / 2; c++) bad |= (~halves[c] & 0x7c00) == 0;
    } else {
        for (int64_t c = 0; c < job->stride / 4; c++) bad |= (~floats[c] & 0x7f800000u) == 0;
    }
    job->finite[id] = !bad;
    return !bad;
}

/* One function per kind of row. It returns -1, the first id beyond the table, BEYOND_IDS, or
   NOT_FINITE minus a row.
   Rows are added four at a time, in order, which saves three quarters of the traffic to `out`.
   STEP(c, e, s) adds column c (of int4: 2c and 2c + 1) of the row e with the scale s. TAIL adds the
   last column of an int4 row where `dim` is odd. */
#define POOL(NAME, TYPE, BYTES, COLUMNS, LOAD, STEP, STORE, TAIL)                     \
    EVERY_CPU static int64_t NAME(const Job *job) {                                   \
        const int64_t dim = job->dim, bytes = (BYTES), columns = (COLUMNS);           \
        for (int64_t text = 0; text < job->texts; text++) {                           \
            float *restrict out = job->out + text * dim;                              \
            const int64_t first = job->offsets[text], last = job->offsets[text + 1];  \
            if (first < 0 || last < first || last > job->tokens) return BEYOND_IDS;   \
            memset(out, 0, dim * sizeof(float));                                      \
            for (int64_t token = first; token < last;) {                              \
                const int n = last - token < 4 ? 1 : 4;                               \
                const TYPE *e[4] = {0};                                               \
                float s[4] = {0};                                                     \
                for (int k = 0; k < n; k++, token++) {                                \
                    const uint32_t id = job->ids[token];                              \
                    if (id >= job->count) return id;                                  \
                    if (job->finite && !job->finite[id] && !finite_row(job, id))      \
                        return NOT_FINITE - (int64_t)id;                              \
                    fetch(job, token + AHEAD, bytes);                                 \
                    e[k] = (const TYPE *)(job->rows + id * job->stride);              \
                    if (job->scales) s[k] = job->scales[id];                          \
                }                                                                     \
                const TYPE *restrict e0 = e[0], *restrict e1 = e[1];                  \
                const TYPE *restrict e2 = e[2], *restrict e3 = e[3];                  \
                const float s0 = s[0], s1 = s[1], s2 = s[2], s3 = s[3];               \
                (void)s0, (void)s1, (void)s2, (void)s3;                               \
                if (n == 4) {                                                         \
                    for (int64_t c = 0; c < columns; c++) {                           \
                        LOAD(c)                                                       \
                        STEP(c, e0, s0) STEP(c, e1, s1) STEP(c, e2, s2) STEP(c, e3, s3) \
                        STORE(c)                                                      \
                    }                                                                 \
                    TAIL(e0, s0) TAIL(e1, s1) TAIL(e2, s2) TAIL(e3, s3)               \
                } else {                                                              \
                    for (int64_t c = 0; c < columns; c++) {                           \
                        LOAD(c) STEP(c, e0, s0) STORE(c)                              \
                    }                                                                 \
                    TAIL(e0, s0)                                                      \
                }                                                                     \
            }                                                                         \
            if (last - first > 1) {                                                   \
                const float length = (float)(last - first);                           \
                for (int64_t c = 0; c < dim; c++) out[c] /= length;                   \
            }                                                                         \
        }                                                                             \
        return -1;                                                                    \
    }

#define LOAD_ONE(c) float v = out[c];
#define STORE_ONE(c) out[c] = v;
#define LOAD_PAIR(c) float v = out[2 * c], w = out[2 * c + 1];
#define STORE_PAIR(c) out[2 * c] = v, out[2 * c + 1] = w;
#define ADD_FLOAT32(c, e, s) v += e[c];
#define ADD_FLOAT16(c, e, s) v += from_half(e[c]);
#define ADD_INT8(c, e, s) v += s * e[c];
#define ADD_INT4(c, e, s)                         \
    v += s / 7.5f * ((float)(e[c] >> 4) - 7.5f);  \
    w += s / 7.5f * ((float)(e[c] & 15) - 7.5f);
#define NO_TAIL(e, s)
#define INT4_TAIL(e, s) \
    if (dim & 1) out[dim - 1] += s / 7.5f * ((float)(e[dim / 2] >> 4) - 7.5f);

POOL(pool_float32, float, dim * 4, dim, LOAD_ONE, ADD_FLOAT32, STORE_ONE, NO_TAIL)
POOL(pool_float16, uint16_t, dim * 2, dim, LOAD_ONE, ADD_FLOAT16, STORE_ONE, NO_TAIL)
POOL(pool_int8, int8_t, dim, dim, LOAD_ONE, ADD_INT8, STORE_ONE, NO_TAIL)
POOL(pool_int4, uint8_t, (dim + 1) / 2, dim / 2, LOAD_PAIR, ADD_INT4, STORE_PAIR, INT4_TAIL)

static int64_t (*const POOLS[])(const Job *) = {pool_float32, pool_float16, pool_int8, pool_int4};

static PyObject *pool(PyObject *self, PyObject *args) {
    Py_buffer rows, scales, ids, offsets, out, finite;
    int kind;
    Py_ssize_t count, dim;
    int64_t beyond = BEYOND_IDS;
    if (!PyArg_ParseTuple(args, "iny*z*y*y*w*nw*", &kind, &count, &rows, &scales, &ids, &offsets,
                          &out, &dim, &finite))
        return NULL;
    const Job job = {
        .rows = rows.buf,
        .stride = count > 0 ? rows.len / count : 0,
        .count = count,
        .scales = scales.buf,
        .ids = ids.buf,
        .tokens = ids.len / 4,
        .offsets = offsets.buf,
        .texts = offsets.len / 8 - 1,
        .dim = dim,
        .out = out.buf,
        .finite = kind < 2 ? finite.buf : NULL,
        .halves = kind == 1,
    };
    /* Bounded first, and divided: a product too large for 64 bits passes for none. */
    const int64_t bits[] = {32, 16, 8, 4}, most = 8 * job.stride;
    const int fits = kind >= 0 && kind <= 3 && dim > 0 && dim <= most / bits[kind] &&
                     (kind < 2 ? finite.len == count : scales.len == 4 * count) && job.texts >= 0 &&
                     out.len % (4 * dim) == 0 && out.len / (4 * dim) == job.texts;
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        beyond = POOLS[kind](&job);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&rows);
    PyBuffer_Release(&scales);
    PyBuffer_Release(&ids);
    PyBuffer_Release(&offsets);
    PyBuffer_Release(&out);
    PyBuffer_Release(&finite);
    if (beyond == BEYOND_IDS) {
        PyErr_SetString(PyExc_ValueError, "rows, scales, ids, offsets and out do not fit");
        return NULL;
    }
    return PyLong_FromLongLong(beyond);
}

static PyMethodDef METHODS[] = {
    {"pool", pool, METH_VARARGS,
     "pool(kind, count, rows, scales, ids, offsets, out, dim, finite) -> -1, the first id beyond the "
     "table, or -3 minus a row that is not finite\n\n"
     "See sse/model/table.py, the only caller."},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_table", NULL, -1, METHODS,
                                    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__table(void) {
    PyObject *module = PyModule_Create(&MODULE);
    if (module != NULL && PyModule_AddIntConstant(module, "VERSION", VERSION) < 0) Py_CLEAR(module);
    return module;
}
