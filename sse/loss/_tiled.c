/* Softmax and its gradient for sse.loss.tiled, without the GIL.

   What torch lacks: it passes over a (tile, M) matrix some ten times a dim, 6 ns an element. Here a
   row goes through all of it, at every dim, while it sits in the cache: 1 ns an element.

   Rows are done in chunks of fixed size, each with sums of its own, which the caller adds in order:
   so no bit depends on the number of threads.

   Of a query row i with the blocks' products b_k (M), the Gram row at dim k is G_k = b_0 + .. + b_k:

       S_k = G_k inverse_q inverse_d                 P_k = share_k (softmax(S_k) - onehot)
       b_k <- sum_(l >= k) P_l inverse_q inverse_d   by_q = sum_j P_k S_k    by_d = sum_i P_k S_k

   The caller checks types; sizes and offsets are checked here. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__GNUC__) && defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
#define EVERY_CPU __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define EVERY_CPU
#endif

typedef struct {
    float *blocks;          /* (dims, rows, m), overwritten */
    const float *inverse_q; /* (dims, rows), times the scale */
    const float *inverse_d; /* (dims, m) */
    const float *shares;    /* (dims) */
    const char *excluded;   /* (rows, m) or NULL */
    float *by_q;            /* (dims, rows), written */
    float *by_d;            /* (chunks, dims, m), written */
    double *losses;         /* (chunks), written: cross-entropies, weighted by the shares */
    int64_t dims, rows, m;
    int64_t chunk;       /* rows of a chunk */
    int64_t diagonal;    /* the column of row 0's own document */
    int64_t start, stop; /* chunks to do */
} Job;

/* exp(x) for x <= 0 with a relative error of 1e-7, 0 where that is below 1e-38. Some NaN
   become another number: the caller looks for them.
   2^n exp(r) with n = round(x / ln 2): adding 1.5 * 2^23 rounds and leaves n in the low bits; the
   polynomial is the best of its degree on |r| <= ln 2 / 2. No branch, so that compilers vectorise. */
static inline float exp_negative(float x) {
    const float least = -87.0f, shifter = 12582912.0f;
    const float clamped = x < least ? least : x;
    const float shifted = clamped * 1.44269504f + shifter, n = shifted - shifter;
    const float r = clamped - n * 0.693359375f + n * 2.12194440e-4f;
    float y = 0.00138145988f;
    y = y * r + 0.00836871658f;
    y = y * r + 0.0416683890f;
    y = y * r + 0.166665211f;
    y = y * r + 0.499999940f;
    y = y * r + 1.0f;
    y = y * r + 1.0f;
    uint32_t bits, power;
    memcpy(&bits, &y, 4);
    memcpy(&power, &shifted, 4);
    bits += power << 23;
    memcpy(&y, &bits, 4);
    return x < least ? 0.0f : y;
}

/* gram += block, block = logits; the largest. */
static inline float logits(float *restrict gram, float *restrict block, const char *excluded,
                           const float *restrict inverse_d, float inverse_q, int64_t m) {
    float top = -INFINITY;
    if (excluded == NULL) {
#pragma omp simd reduction(max : top)
        for (int64_t j = 0; j < m; j++) {
            gram[j] += block[j];
            block[j] = gram[j] * inverse_q * inverse_d[j];
            top = block[j] > top ? block[j] : top;
        }
    } else {
#pragma omp simd reduction(max : top)
        for (int64_t j = 0; j < m; j++) {
            gram[j] += block[j];
            const float logit = gram[j] * inverse_q * inverse_d[j];
            block[j] = excluded[j] ? -INFINITY : logit;
            top = block[j] > top ? block[j] : top;
        }
    }
    return top;
}

/* block = exp(block - top); its sum. */
static inline float exponentials(float *restrict block, float top, int64_t m) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < m; j++) {
        block[j] = exp_negative(block[j] - top);
        sum += block[j];
    }
    return sum;
}

/* block = dloss/dG from P = factor * block; adds P S to by_d and returns its sum. */
static inline float gradient(float *restrict block, const float *restrict gram,
                             const float *restrict inverse_d, float *restrict by_d, float inverse_q,
                             float factor, int64_t m) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < m; j++) {
        block[j] = block[j] * factor * (inverse_q * inverse_d[j]);
        const float ps = block[j] * gram[j];
        by_d[j] += ps;
        sum += ps;
    }
    return sum;
}

EVERY_CPU static void residual(const Job *job, int64_t number, float *restrict gram) {
    const int64_t m = job->m, end = (number + 1) * job->chunk;
    float *by_d = job->by_d + number * job->dims * m;
    double loss = 0;
    memset(by_d, 0, job->dims * m * sizeof(float));
    for (int64_t i = number * job->chunk; i < (end < job->rows ? end : job->rows); i++) {
        const int64_t own = job->diagonal + i;
        const char *excluded = job->excluded == NULL ? NULL : job->excluded + i * m;
        memset(gram, 0, m * sizeof(float));
        for (int64_t k = 0; k < job->dims; k++) {
            float *restrict block = job->blocks + (k * job->rows + i) * m;
            const float *restrict inverse_d = job->inverse_d + k * m;
            const float inverse_q = job->inverse_q[k * job->rows + i];
            const float top = logits(gram, block, excluded, inverse_d, inverse_q, m);
            /* The own one apart: 1 - its probability is the others', without cancellation. */
            const float below = block[own] - top, mine = exp_negative(below);
            block[own] = -INFINITY;
            const float others = exponentials(block, top, m), all = others + mine;
            block[own] = -others;
            loss += job->shares[k] * (below >= 0 ? log1p(others) : log(all) - below);
            job->by_q[k * job->rows + i] = gradient(block, gram, inverse_d, by_d + k * m,
                                                    inverse_q, job->shares[k] / all, m);
            if (isnan(job->by_q[k * job->rows + i])) loss = NAN; /* so is a product of it */
        }
        for (int64_t k = job->dims - 2; k >= 0; k--) {
            float *restrict block = job->blocks + (k * job->rows + i) * m;
            const float *restrict larger = block + job->rows * m;
            for (int64_t j = 0; j < m; j++) block[j] += larger[j];
        }
    }
    job->losses[number] = loss;
}

static int fits(const Job *job, const Py_buffer *blocks, const Py_buffer *inverse_q,
                const Py_buffer *inverse_d, const Py_buffer *excluded, const Py_buffer *by_q,
                const Py_buffer *by_d, const Py_buffer *losses) {
    const int64_t dims = job->dims, rows = job->rows, m = job->m;
    if (dims < 1 || rows < 1 || m < 1 || job->chunk < 1) return 0;
    if (inverse_q->len != 4 * dims * rows || inverse_d->len != 4 * dims * m) return 0;
    const int64_t chunks = rows / job->chunk + (rows % job->chunk > 0);
    if (by_q->len != inverse_q->len || losses->len != 8 * chunks) return 0;
    if (by_d->len / inverse_d->len != chunks || by_d->len % inverse_d->len != 0) return 0;
    /* Divided first: a product too large for 64 bits passes for none. */
    if (blocks->len / inverse_q->len != m || blocks->len != inverse_q->len * m) return 0;
    if (excluded->buf != NULL && excluded->len != rows * m) return 0;
    return job->start >= 0 && job->start <= job->stop && job->stop <= chunks &&
           job->diagonal >= 0 && job->diagonal <= m - rows;
}

static PyObject *residuals_of(PyObject *self, PyObject *args) {
    Py_buffer blocks, inverse_q, inverse_d, shares, excluded, by_q, by_d, losses;
    Py_ssize_t chunk, diagonal, start, stop;
    if (!PyArg_ParseTuple(args, "w*y*y*y*z*w*w*w*nnnn", &blocks, &inverse_q, &inverse_d, &shares,
                          &excluded, &by_q, &by_d, &losses, &chunk, &diagonal, &start, &stop))
        return NULL;
    const int64_t dims = shares.len / 4, each = dims > 0 ? 4 * dims : 1;
    const Job job = {
        .blocks = blocks.buf,
        .inverse_q = inverse_q.buf,
        .inverse_d = inverse_d.buf,
        .shares = shares.buf,
        .excluded = excluded.buf,
        .by_q = by_q.buf,
        .by_d = by_d.buf,
        .losses = losses.buf,
        .dims = dims,
        .rows = inverse_q.len / each,
        .m = inverse_d.len / each,
        .chunk = chunk,
        .diagonal = diagonal,
        .start = start,
        .stop = stop,
    };
    const int good = 
        fits(&job, &blocks, &inverse_q, &inverse_d, &excluded, &by_q, &by_d, &losses);
    float *gram = good ? malloc(job.m * sizeof(float)) : NULL;
    if (gram != NULL) {
        Py_BEGIN_ALLOW_THREADS
        for (int64_t number = start; number < stop; number++) residual(&job, number, gram);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&blocks);
    PyBuffer_Release(&inverse_q);
    PyBuffer_Release(&inverse_d);
    PyBuffer_Release(&shares);
    PyBuffer_Release(&excluded);
    PyBuffer_Release(&by_q);
    PyBuffer_Release(&by_d);
    PyBuffer_Release(&losses);
    if (!good) {
        PyErr_SetString(PyExc_ValueError, "blocks, norms, shares, mask, sums and rows do not fit");
        return NULL;
    }
    if (gram == NULL) return PyErr_NoMemory();
    free(gram);
    Py_RETURN_NONE;
}

static PyMethodDef METHODS[] = {
    {"residuals", residuals_of, METH_VARARGS,
     "residuals(blocks, inverse_q, inverse_d, shares, excluded, by_q, by_d, losses, chunk, diagonal,"
     " start, stop)\n\nSee sse/loss/tiled.py, the only caller."},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_tiled", NULL, -1, METHODS,
                                    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__tiled(void) { return PyModule_Create(&MODULE); }
