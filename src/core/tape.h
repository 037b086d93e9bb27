/* Tensors from the inside, and the record of operations that rk_backward() walks.
 *
 * An op file does:
 *     rk_tensor *y = rk__out(ctx, dtype, shape);           step tensor, values not set
 *     if (kernel(...)) return rk__op_failed(ctx, "gelu", st);
 *     return rk__record(y, &op_gelu, (rk_tensor *[]){ x }, 1, (rk_tensor *[]){ x }, 1, &attr, sizeof attr);
 * and its rule adds to the gradients of node->in[i] with rk__grad_give() or rk__grad_begin().
 * The walk drops, node by node, the values of the output, its gradient, and saved tensors that are neither
 * inputs nor outputs of a node. Temporaries of a rule are dropped after it; those of a forward op are dropped
 * by the op (rk__drop). */
#ifndef RK_CORE_TAPE_H
#define RK_CORE_TAPE_H

#include "core/ctx.h"

typedef struct rk__node rk__node;

/* A parameter that is cut over the tensor shards of the grid (core/cut.h): this rank has [lo, lo + dim[axis])
 * of `whole` along axis. */
typedef struct rk__cut {
    int axis;
    int64_t lo, whole;
} rk__cut;

/* Values that may not be there before somebody asks for them. */
typedef struct rk__guard {
    void *arg;
    int number;
    bool passing; /* they go again: nothing is to be kept of them */
    /* Elements [from, to) are about to be read or written, all if to is negative: when it returns they are
     * there, or a failure is recorded. Where ranks hold the values together, all of them ask for all alike.
     */
    void (*need)(void *arg, int number, int64_t from, int64_t to);
} rk__guard;

/* Counted memory. Every handle (a tensor, a view, a gradient) holds one reference until it is dropped. */
typedef struct rk__storage {
    void *data;
    size_t bytes;
    int refs;
    int64_t slot;           /* number in the memory plan; -1: persistent */
    bool foreign;           /* data belongs to somebody else */
    const rk__guard *guard; /* of persistent tensors; NULL: the values are there */
    bool constant;          /* every element is `value`, which is written when somebody asks for the memory */
    double value;
    void *rounded; /* NULL, or the values in 16 bits, of an epoch (core/rounded.h) */
    size_t rounded_bytes;
    uint64_t rounded_epoch;
    rk_round rounded_to;
    bool bounded; /* integers, all in [least, most]: what the host knew when it wrote them */
    int64_t least, most;
} rk__storage;

struct rk_tensor {
    rk_ctx *ctx;
    rk_dtype dtype;
    rk_shape shape;
    int64_t stride[RK_MAX_DIMS]; /* elements */
    int64_t offset;              /* elements */
    rk__storage *storage;        /* NULL: inert */
    bool persistent;             /* from rk_tensor_make */
    bool dropped;                /* its values are gone */
    bool kept;                   /* rk_keep */
    bool holds_grad;             /* it is some tensor's gradient */
    bool requires_grad;
    rk_tensor *grad; /* persistent leaves keep the buffer once made; grad_set tells whether it counts */
    bool grad_set;
    uint64_t grad_pass;   /* the rk_backward() that wrote it last */
    rk__node *node;       /* what made it; NULL: a leaf */
    rk_tensor *next_step; /* the step's tensors, newest first */
    int pending; /* of a leaf: recorded readers that no walk has passed; reset by who wants to know */
    rk_tensor *next_part; /* of a leaf: stands for it where the gradient of the next subtree is kept */
    const rk__cut *cut;   /* NULL: not cut */
};

typedef struct rk__op {
    const char *name;
    /* dy: gradient of node->out, contiguous. */
    rk_status (*backward)(rk_ctx *ctx, rk__node *node, rk_tensor *dy);
} rk__op;

enum { RK__MAX_SAVE = 6, RK__ATTR_BYTES = 192 };

struct rk__node {
    const rk__op *op;
    rk_tensor *out;
    rk_tensor **in; /* nin entries; NULL where an optional input is absent */
    int nin;
    rk_tensor *save[RK__MAX_SAVE];
    int nsave;
    _Alignas(16) unsigned char attr[RK__ATTR_BYTES];
    bool walked;
    /* relu's backward, fused into the ops that read `out`: an op that can gives a gradient that is 0 where
     * out is 0 already (its `masked` share); if all readers did, the rule of this node need not do it again.
     */
    bool relu;             /* out came out of a relu */
    int uses, masked;      /* recorded readers of out; those that masked the gradient at hand */
    const rk_tensor *bits; /* NULL, or what the device noted of that relu (rk_gemm_beside) */
    /* gelu_tanh's backward, the same way: the values before it, or NULL; the one reader of out has multiplied
     * the gradient at hand by the slope there. */
    const rk_tensor *before;
    bool sloped;
    rk__node *prev; /* the tape, newest first */
};

struct rk__tape {
    rk__node *newest;
    uint64_t pass; /* number of rk_backward() calls */
};

/* ---- for op files ---- */
bool rk__is_inert(const rk_tensor *t);
rk_tensor *rk__inert(rk_ctx *ctx);
/* The context of the first non-NULL tensor if it may work, else NULL (a failure stands, or an inert
 * argument). */
rk_ctx *rk__ready(rk_tensor *const *ts, int n);
rk_tensor *rk__out(rk_ctx *ctx, rk_dtype t, rk_shape s); /* step tensor, uninitialised */
/* A step tensor of one value in all elements, which rk_item() knows without the device. */
rk_tensor *rk__constant(rk_ctx *ctx, rk_dtype t, rk_shape s, double value);
/* Is it one whose memory nobody has asked for? */
bool rk__known(const rk_tensor *t);
/* A persistent tensor over memory of the caller's, who keeps it as long as the context lives; not cleared. */
rk_tensor *rk__tensor_over(rk_ctx *ctx, rk_dtype t, rk_shape s, void *data);
/* Moves the values of a persistent tensor to such memory; what it had is released. */
rk_status rk__tensor_move(rk_tensor *t, void *data);
/* Releases that memory: whoever guards t has its values from now on. */
void rk__tensor_give_up(rk_tensor *t);
/* The persistent t becomes what `other` is, and the memory it had is released. */
rk_status rk__tensor_swap(rk_tensor *t, rk_tensor *other);
rk_tensor *rk__view(rk_tensor *x, rk_shape s, const int64_t *stride,
                    int64_t offset); /* shares storage, no history */
rk_tensor *rk__record(rk_tensor *y, const rk__op *op, rk_tensor *const *in, int nin, rk_tensor *const *save,
                      int nsave, const void *attr, size_t attr_bytes);
/* Records "NAME: kernel failed" and returns the inert tensor. */
rk_tensor *rk__op_failed(rk_ctx *ctx, const char *op, rk_status st);
/* The same of a backward rule; returns the status. */
rk_status rk__grad_failed(rk_ctx *ctx, const char *op, rk_status st);
bool rk__is_contiguous(const rk_tensor *t);
/* Elements at .. at + n - 1 of a contiguous tensor, from or to host memory. */
rk_status rk__tensor_read_range(const rk_tensor *t, int64_t at, int64_t n, void *host);
rk_status rk__tensor_write_range(rk_tensor *t, int64_t at, int64_t n, const void *host);
/* Notes the bounds of integers that were written to all of t's memory from `host`. */
void rk__note_bounds(rk_tensor *t, const void *host);
rk_tensor *rk__converted(rk_tensor *x, rk_dtype t); /* a contiguous copy of that type, no history */
rk_tensor *rk__dense(rk_tensor *x);                 /* x or a contiguous copy, no history */
void *rk__data(const rk_tensor *t); /* first element; NULL after a failure or when the values were released */
/* Between two places of the device's memory that do not overlap. */
rk_status rk__device_copy(rk_ctx *ctx, size_t bytes, const void *from, void *to);
/* The address of elements [from, to) of a contiguous tensor, of which only those may be used. NULL: recorded.
 */
void *rk__data_range(const rk_tensor *t, int64_t from, int64_t to);
void rk__drop(
    rk_tensor *t); /* lets go of a step tensor's values; persistent, kept or dropped ones stay as they are */
int64_t rk__size(const rk_tensor *t);
bool rk__is_float(rk_dtype t);
bool rk__shape_eq(const rk_shape *a, const rk_shape *b);
/* "(2, 3)" into buf; returns buf. */
const char *rk__shape_str(const rk_shape *s, char *buf, size_t n);
bool rk__wants_grad(const rk_tensor *t); /* recording is on and t takes part in it */

/* ---- for backward rules ---- */
/* Gives a gradient of t (contiguous, t's shape and dtype; dy itself or a view of it will do): shared if it is
 * the first, else added. */
rk_status rk__grad_give(rk_tensor *t, rk_tensor *g);
/* Where a kernel may write the gradient of t by itself, and how: order.segments and acc follow the grid for a
 * leaf over samples (parameters), SET or ADD otherwise. unit: terms a sample. NULL after a failure. */
/* After the micro-batches of a batch, whose sums of batch statistics stand in the gradient of `running`:
 * running = (1 - momentum) * running + momentum * sum / shards, and the gradient is gone. shards: those with
 * samples. */
rk_status rk__running_finish(rk_tensor *running, double momentum, int64_t shards);
rk_tensor *rk__grad_begin(rk_tensor *t, int64_t unit, rk_order *order);
/* The order of a sum over the samples of this pass that is no parameter gradient. */
rk_order rk__order(const rk_ctx *ctx, int64_t unit);

/* Sums over samples are made part by part: a pass holds one subtree of the canonical tree or several. */
typedef struct rk__part {
    int64_t lo, n;  /* samples of the pass */
    rk_order order; /* of the sum over them */
    rk_tensor *sum; /* where a gradient goes */
} rk__part;

int rk__parts(const rk_ctx *ctx); /* how many */
/* Part p of a sum over the `samples` of this pass, of `unit` terms each. */
rk_status rk__part_of(rk_ctx *ctx, int p, int64_t samples, int64_t unit, rk__part *out);
/* The same, with out->sum from rk__grad_begin() for that part of the gradient of t. */
rk_status rk__grad_part(rk_tensor *t, int p, int64_t samples, int64_t unit, rk__part *out);
/* The leaf that holds the rank's part p of the gradient of the leaf t (p 0: t itself). NULL after a failure.
 */
rk_tensor *rk__part_leaf(rk_tensor *t, int p);

#endif
