/* Modules: named parts of a network. Parameters are known by name ("block1.conv2.weight"), never by number. */
#ifndef RANKINE_NN_H
#define RANKINE_NN_H

#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rk_module rk_module;

/* A sequence of modules; children run in the order in which they were added. Owned by ctx. */
RK_API rk_module *rk_root(rk_ctx *ctx, const char *name);
RK_API rk_module *rk_sequence(rk_module *parent, const char *name);
/* y = act(main(x) + shortcut(x)); add layers to rk_residual_main(); the shortcut is the identity unless layers are
 * added to rk_residual_shortcut(). */
RK_API rk_module *rk_residual(rk_module *parent, const char *name, const char *act);
RK_API rk_module *rk_residual_main(rk_module *residual);
RK_API rk_module *rk_residual_shortcut(rk_module *residual);

RK_API rk_module *rk_linear(rk_module *parent, const char *name, int64_t in, int64_t out);
RK_API rk_module *rk_activation(rk_module *parent, const char *name, const char *kind); /* relu gelu gelu_tanh silu ... */
RK_API rk_module *rk_conv2d(rk_module *parent, const char *name, int64_t in, int64_t out, int kernel,
                            const rk_conv_cfg *cfg);
/* ... further layers (pooling, norms, flatten, reshape, dropout, embedding, upsample) are declared here by nn. */

RK_API rk_tensor *rk_forward(rk_module *m, rk_tensor *x);

/* Parameters whose name matches the glob (*, ?, [..]; `*` crosses dots) are frozen: no gradient, no optimiser state.
 * Returns how many matched. */
RK_API int rk_freeze(rk_module *root, const char *glob);
RK_API int rk_unfreeze(rk_module *root, const char *glob);

/* Visit parameters (and buffers) with their full names, in order of creation. */
typedef struct rk_param {
    const char *name;
    rk_tensor *tensor;
    bool buffer;   /* running statistics: no gradient */
    bool frozen;
    bool no_decay; /* bias or norm parameter */
} rk_param;
RK_API int rk_param_count(const rk_module *root);
RK_API rk_param rk_param_at(const rk_module *root, int i);
RK_API rk_tensor *rk_param_find(const rk_module *root, const char *name);

#ifdef __cplusplus
}
#endif
#endif
