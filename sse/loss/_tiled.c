/* Softmax and its gradient for sse.loss.compiled, without the GIL.

   What torch lacks: it passes over a (tile, M) matrix some ten times a dim, 6 ns an element. Here a
   row goes through all of it, at every dim, while it sits in the cache: 1 ns an element.

   Rows are done in chunks of fixed size, each with sums of its own, which the caller adds in order:
   so no bit depends on the number of threads.

   Of a query row i with the blocks' products b_k (M), the Gram row at dim k is G_k = b_0 + .. + b_k:

       S_k = G_k inverse_q inverse_d                 P_k = share_k (softmax(S_k) - onehot)
       b_k <- sum_(l >= k) P_l inverse_q inverse_d   by_q = sum_j P_k S_k    by_d = sum_i P_k S_k

   Document -> query adds exp(S_k - lse_k) - onehot to P_k's bracket on the first b columns, with lse
   each column's log-sum-exp over all queries. Label smoothing e adds
   e onehot - spread once for each direction.

   The caller checks types; sizes and offsets are checked here. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__GNUC__) && defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__)
#define EVERY_CPU __attribute__((target_clones("avx512f", "avx2", "default")))
#define INLINED static inline __attribute__((always_inline)) /* or no clone of it is made */
#else
#define EVERY_CPU
#define INLINED static inline
#endif

typedef struct {
    float *blocks;          /* (dims, rows, m), overwritten */
    const float *inverse_q; /* (dims, rows), times the scale */
    const float *inverse_d; /* (dims, m) */
    const float *shares;    /* (dims) */
    const char *excluded;   /* (rows, m) or NULL */
    const float *lse;       /* (dims, b): document -> query counts too; or NULL */
    const float *row_spread;    /* (rows): label smoothing over what counts in a row; or NULL */
    const float *column_spread; /* (b), 0 without smoothing; or NULL */
    float smoothing;            /* the share that they spread */
    float *by_q;            /* (dims, rows), written */
    float *by_d;            /* (chunks, dims, m), written */
    double *losses;         /* (chunks), written: cross-entropies, weighted by the shares */
    int64_t dims, rows, m, b;
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

typedef struct { float by_q, spread; } Sums; /* of P S, and of the smoothed targets times S */

/* `gradient` of the columns from `from` to `to`, where document -> query (THERE = 1) or smoothing
   counts. KEEP is 0 where a pair does not. */
#define GENERAL(KEEP, THERE)                                                          \
    for (int64_t j = from; j < to; j++) {                                             \
        const float norms = inverse_q * inverse_d[j], logit = gram[j] * norms;        \
        const float even = row_spread + (THERE ? column_spread[j] : 0.0f);            \
        float p = block[j] / all - even;                                              \
        if (THERE) p += exp_negative(logit - lse[j]);                                 \
        p = KEEP ? p * share : 0.0f;                                                  \
        spread += KEEP ? even * logit : 0.0f;                                         \
        block[j] = p * norms;                                                         \
        by_d[j] += p * logit;                                                         \
        by_q += p * logit;                                                            \
    }

INLINED Sums general(float *restrict block, const float *restrict gram,
                           const float *restrict inverse_d, float *restrict by_d,
                           const char *restrict excluded, const float *restrict lse,
                           const float *restrict column_spread, float row_spread, float inverse_q,
                           float all, float share, int64_t from, int64_t to) {
    float by_q = 0, spread = 0;
    if (lse != NULL && excluded != NULL) {
#pragma omp simd reduction(+ : by_q, spread)
        GENERAL(!excluded[j], 1)
    } else if (lse != NULL) {
#pragma omp simd reduction(+ : by_q, spread)
        GENERAL(1, 1)
    } else if (excluded != NULL) {
#pragma omp simd reduction(+ : by_q, spread)
        GENERAL(!excluded[j], 0)
    } else {
#pragma omp simd reduction(+ : by_q, spread)
        GENERAL(1, 0)
    }
    return (Sums){by_q, spread};
}

/* A row's gradient at dim k in the general case; adds to its loss. `block` has the exponentials. */
INLINED float row(const Job *job, int64_t i, int64_t k, float *restrict block,
                        const float *restrict gram, float *restrict by_d, const char *excluded,
                        float others, float all, double *loss) {
    const int64_t own = job->diagonal + i, b = job->lse == NULL ? job->m : job->b;
    const float *inverse_d = job->inverse_d + k * job->m, share = job->shares[k];
    const float *lse = job->lse == NULL ? NULL : job->lse + k * job->b;
    const float inverse_q = job->inverse_q[k * job->rows + i];
    const float even = job->row_spread == NULL ? 0 : job->row_spread[i];
    const float logit = gram[own] * inverse_q * inverse_d[own];
    const float *columns = job->column_spread, target = even + (columns ? columns[own] : 0);
    float p = -others / all + job->smoothing - target;
    *loss += share * (job->smoothing - target) * logit;
    if (lse != NULL) {
        p += expm1f(logit - lse[own]) + job->smoothing;
        *loss += share * (lse[own] - logit + job->smoothing * logit);
    }
    float by_q = p * share * logit;
    block[own] = p * share * inverse_q * inverse_d[own];
    by_d[own] += by_q;
    const int64_t ranges[][2] = {{0, own}, {own + 1, b}, {b, job->m}};
    for (int part = 0; part < 3; part++) {
        const Sums sums = general(block, gram, inverse_d, by_d, excluded, part < 2 ? lse : NULL,
                                  part < 2 ? columns : NULL, even, inverse_q, all, share,
                                  ranges[part][0], ranges[part][1]);
        by_q += sums.by_q;
        *loss -= share * sums.spread;
    }
    return by_q;
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
            const int plain = job->lse == NULL && job->row_spread == NULL;
            job->by_q[k * job->rows + i] =
                plain ? gradient(block, gram, inverse_d, by_d + k * m, inverse_q,
                                 job->shares[k] / all, m)
                      : row(job, i, k, block, gram, by_d + k * m, excluded, others, all, &loss);
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

/* The buffers of a call, in the order of its arguments. */
enum { BLOCKS, INVERSE_Q, INVERSE_D, SHARES, EXCLUDED, BY_Q, BY_D, LOSSES, LSE, ROW_SPREAD,
       COLUMN_SPREAD, BUFFERS };

static int fits(const Job *job, const Py_buffer *v) {
    const int64_t dims = job->dims, rows = job->rows, m = job->m;
    if (dims < 1 || rows < 1 || m < 1 || job->chunk < 1) return 0;
    if (v[INVERSE_Q].len != 4 * dims * rows || v[INVERSE_D].len != 4 * dims * m) return 0;
    const int64_t chunks = rows / job->chunk + (rows % job->chunk > 0), all = v[INVERSE_Q].len;
    if (v[BY_Q].len != all || v[LOSSES].len != 8 * chunks) return 0;
    if (v[BY_D].len / v[INVERSE_D].len != chunks || v[BY_D].len % v[INVERSE_D].len != 0) return 0;
    /* Divided first: a product too large for 64 bits passes for none. */
    if (v[BLOCKS].len / all != m || v[BLOCKS].len != all * m) return 0;
    if (v[EXCLUDED].buf != NULL && v[EXCLUDED].len != rows * m) return 0;
    if (v[ROW_SPREAD].buf != NULL && v[ROW_SPREAD].len != 4 * rows) return 0;
    if (v[LSE].len != 4 * dims * job->b || v[COLUMN_SPREAD].len != 4 * job->b) return 0;
    if (v[LSE].buf != NULL && (job->b > m || job->diagonal > job->b - rows)) return 0;
    return job->start >= 0 && job->start <= job->stop && job->stop <= chunks &&
           job->diagonal >= 0 && job->diagonal <= m - rows;
}

static PyObject *residuals_of(PyObject *self, PyObject *args) {
    Py_buffer v[BUFFERS];
    Py_ssize_t chunk, diagonal, start, stop;
    float smoothing;
    if (!PyArg_ParseTuple(args, "w*y*y*y*z*w*w*w*z*z*z*fnnnn", v, v + 1, v + 2, v + 3, v + 4, v + 5,
                          v + 6, v + 7, v + 8, v + 9, v + 10, &smoothing, &chunk, &diagonal, &start,
                          &stop))
        return NULL;
    const int64_t dims = v[SHARES].len / 4, each = dims > 0 ? 4 * dims : 1;
    const Job job = {
        .blocks = v[BLOCKS].buf, .inverse_q = v[INVERSE_Q].buf, .inverse_d = v[INVERSE_D].buf,
        .shares = v[SHARES].buf, .excluded = v[EXCLUDED].buf, .lse = v[LSE].buf,
        .row_spread = v[ROW_SPREAD].buf, .column_spread = v[COLUMN_SPREAD].buf,
        .smoothing = smoothing, .by_q = v[BY_Q].buf, .by_d = v[BY_D].buf, .losses = v[LOSSES].buf,
        .dims = dims, .rows = v[INVERSE_Q].len / each, .m = v[INVERSE_D].len / each,
        .b = v[LSE].len / each, .chunk = chunk, .diagonal = diagonal, .start = start, .stop = stop,
    };
    const int good = fits(&job, v);
    float *gram = good ? malloc(job.m * sizeof(float)) : NULL;
    if (gram != NULL) {
        Py_BEGIN_ALLOW_THREADS
        for (int64_t number = start; number < stop; number++) residual(&job, number, gram);
        Py_END_ALLOW_THREADS
    }
    for (int i = 0; i < BUFFERS; i++) PyBuffer_Release(v + i);
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
     "residuals(blocks, inverse_q, inverse_d, shares, excluded, by_q, by_d, losses, lse, row_spread,"
     " column_spread, smoothing, chunk, diagonal, start, stop)\n\n"
     "See sse/loss/compiled.py, the only caller."},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_tiled", NULL, -1, METHODS,
                                    NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__tiled(void) { return PyModule_Create(&MODULE); }
