/* Modules from the inside. A layer kind is one row of the table in kinds.c and one file section that knows
 * it. */
#ifndef RK_NN_MODULE_H
#define RK_NN_MODULE_H

#include <rankine/nn.h>

#include "core/ctx.h"
#include "core/tape.h"
#include "io/doc.h"
#include "io/text.h"

typedef struct rk__layer_kind rk__layer_kind;
typedef struct rk__build rk__build;
typedef struct rk__activation rk__activation;

/* How values of a parameter begin. */
typedef struct rk__init {
    const char *kind; /* a name of rk_init(); NULL: default */
    double scale;     /* 0: 1 */
} rk__init;

typedef struct rk__param_slot {
    rk_param pub;
    char *name;
    int64_t fan_in, fan_out;
} rk__param_slot;

/* How the tensor shards of the grid cut a layer (place.c). */
typedef enum rk__place {
    RK__PLACE_NONE,
    RK__PLACE_COLUMN,  /* linear, over its outputs */
    RK__PLACE_ROW,     /* linear, over its inputs */
    RK__PLACE_ROWS,    /* embedding, over its rows */
    RK__PLACE_CHANNELS /* conv2d, over its output channels */
} rk__place;

struct rk_module {
    rk_ctx *ctx;
    rk_module *root, *parent, *first, *last, *next;
    const rk__layer_kind *kind;
    char *full;  /* dotted name; "" for the root */
    bool parked; /* of a root: rk__model_spec.parked */
    rk_tensor *weight, *bias, *mean, *var;
    union {
        struct {
            int64_t in, out;
            bool no_bias;
        } linear;
        struct {
            int64_t in, out;
            int kernel[2];
            rk_conv_cfg cfg;
        } conv;
        struct {
            int64_t cols;
            double eps;
        } norm;
        struct {
            int64_t channels;
            rk_batch_norm_cfg cfg;
        } batch_norm;
        struct {
            rk_tensor *(*op)(rk_tensor *, const rk_pool_cfg *);
            rk_pool_cfg cfg;
        } pool;
        struct {
            rk_tensor *(*op)(rk_tensor *, int, int);
            int size[2];
        } adaptive;
        struct {
            const rk__activation *kind;
            double p;
        } act;
        struct {
            double p;
            uint64_t stream;
        } dropout;
        struct {
            int64_t rows, dim;
        } embedding;
        struct {
            const rk__activation *act;
        } residual;
        rk_shape shape;
        int scale;
    } a;
    double flops; /* of one sample, forward; set by rk__infer */
    rk__place place;
    bool cut_in, cut_out; /* what comes in, what goes out, is this rank's box of the last axis */
    bool named;           /* the placement was set by name */
    const char *why;      /* NULL: no parameters to place */
    rk__cut cut, bias_cut;
    /* root only */
    rk__param_slot *params;
    int nparams, cap;
    bool run_whole, run_in_parts; /* has rk_forward() been asked of the root; of modules below it */
    void (*probe)(void *user, const rk_module *m, rk_tensor *y); /* told every layer's output, if set */
    void *probe_user;
};

struct rk__layer_kind {
    const char *name;   /* as in a configuration */
    const char *prefix; /* of generated names: prefix1, prefix2, ...; NULL: name */
    const char *keys;   /* arguments, "out|bias|init" */
    const char *scalar; /* the key that {kind: VALUE} sets; NULL: none */
    bool takes_act;     /* forward computes act itself */
    bool bare;          /* may stand without arguments */
    rk_tensor *(*forward)(rk_module *m, rk_tensor *x, rk_act act);
    rk_status (*infer)(rk_module *m, const rk_shape *in, rk_shape *out);
    rk_module *(*build)(rk__build *b, rk_module *parent, const char *name, const rk_doc *args);
    /* The arguments that make build make m again, as members of a JSON object: ,"out":10. NULL: none. */
    void (*describe)(const rk_module *m, rk__text *t);
};

/* NULL-terminated. */
extern const rk__layer_kind *const rk__layer_kinds[];
extern const rk__layer_kind rk__kind_sequence, rk__kind_residual, rk__kind_repeat, rk__kind_linear,
    rk__kind_conv2d, rk__kind_batch_norm, rk__kind_layer_norm, rk__kind_rms_norm, rk__kind_max_pool,
    rk__kind_avg_pool, rk__kind_adaptive_avg_pool, rk__kind_adaptive_max_pool, rk__kind_flatten,
    rk__kind_reshape, rk__kind_dropout, rk__kind_embedding, rk__kind_upsample;

/* Activations: a table of their own, so that each is also a layer without arguments. */
struct rk__activation {
    const char *name;
    rk_tensor *(*op)(rk_tensor *x, double p);
    rk_act fused; /* RK_ACT_NONE: cannot be fused */
    double p;     /* default parameter */
    rk__layer_kind kind;
};
const rk__activation *rk__activation_find(const char *name);
extern const rk__activation rk__activations[];
extern const int rk__n_activations;

/* ---- module.c ---- */
rk_module *rk__module_add(rk_module *parent, const char *name, const rk__layer_kind *kind);
/* fans 0: from the shape. */
rk_tensor *rk__param_add(rk_module *m, const char *name, rk_shape shape, bool no_decay, const rk__init *init,
                         int64_t fan_in, int64_t fan_out);
rk_tensor *rk__buffer_add(rk_module *m, const char *name, rk_shape shape, double value);
rk_tensor *rk__module_forward(rk_module *m, rk_tensor *x, rk_act act);
/* Shapes without the batch axis. */
rk_status rk__infer(rk_module *m, const rk_shape *in, rk_shape *out);
rk_status rk__shape_misfit(const rk_module *m, const rk_shape *in, const char *wanted);
bool rk__glob_match(const char *glob, const char *name);
/* Does some batch norm take its statistics over the whole batch while training? Its name, else NULL. */
const char *rk__global_batch_norm(const rk_module *m);
/* Does some batch norm sum within a data shard while training, in an order that a piece of one cannot
 * continue? */
const char *rk__shard_batch_norm(const rk_module *m);
/* Does it move running statistics while training? */
static inline bool rk__moves_running(const rk_module *m)
{
    return m->kind == &rk__kind_batch_norm && rk_requires_grad(m->weight);
}

/* ---- place.c ---- */
/* Chooses how the S tensor shards of ctx->shards cut each layer, by the rules in place.c and by `names` (a
 * map of layer names or globs to column, row, rows, channels or none; NULL: none). classes: the loss is a
 * cross entropy over the outputs of the last layer. RK_ECONFIG where a name or S does not fit. */
rk_status rk__place_layers(rk_module *root, bool classes, const rk_doc *names);
/* The cut of the last layer's outputs, if they stay cut for the loss; else NULL. */
const rk__cut *rk__place_classes(const rk_module *root);
/* [C] Leaves this rank its boxes of the cut parameters, which it has all of. */
rk_status rk__place_share(rk_module *root);
/* A table of the parameters: name, shape, how it is cut, why. */
void rk__place_print(const rk_module *root, rk__text *t);

/* ---- init.c ---- */
rk_status rk__init_values(rk_ctx *ctx, const rk__param_slot *slot, const rk__init *init);
bool rk__init_known(const char *kind);

/* ---- model.c: arguments of a layer in a document ---- */
struct rk__build {
    rk_ctx *ctx;
    rk_shape shape;  /* what comes into the next layer, without the batch axis */
    int64_t outputs; /* classes or targets: the default of linear's out */
    const rk_doc *replace;
};
int64_t rk__arg_int(rk__build *b, const rk_doc *args, const char *key, int64_t def, int64_t min, int64_t max);
double rk__arg_num(rk__build *b, const rk_doc *args, const char *key, double def, double min, double max);
bool rk__arg_bool(rk__build *b, const rk_doc *args, const char *key, bool def);
const char *rk__arg_str(rk__build *b, const rk_doc *args, const char *key, const char *def,
                        const char *allowed);
void rk__arg_pair(rk__build *b, const rk_doc *args, const char *key, int def, int min, int max, int out[2]);
rk__init rk__arg_init(rk__build *b, const rk_doc *args);
rk_status rk__build_list(rk__build *b, rk_module *parent, const rk_doc *layers);

typedef struct rk__model_spec {
    const rk_doc *layers;  /* a list */
    const rk_doc *replace; /* a map of layer names, or NULL */
    rk_shape input;        /* of a sample */
    int64_t outputs;
    bool parked; /* parameters wait on the host (parallel/park.h) */
} rk__model_spec;
/* The layers of a network as the document that rk__model_build() takes, a JSON list. NULL, or why there is
 * none. */
const char *rk__model_describe(const rk_module *root, rk__text *t);
void rk__describe_layers(const rk_module *m, rk__text *t); /* its children, as a list */
void rk__describe_pair(rk__text *t, const char *key, const int v[2]);
/* Builds a network; errors name file, line and column. NULL after a failure. */
rk_module *rk__model_build(rk_ctx *ctx, const rk__model_spec *spec, rk_shape *out);

#endif
