/* Modules: named parts of a network. Parameters are known by name ("block1.main.conv2.weight"), never by
 * number.
 *
 * Modules are owned by the context. After a failure functions that make a module return NULL, which every
 * call here accepts. Initial values are keyed by (seed of the context, full name of the parameter): they do
 * not depend on the order in which layers are made. */
#ifndef RANKINE_NN_H
#define RANKINE_NN_H

#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rk_module rk_module;

/* A sequence of modules; children run in the order in which they were added. The root's own name is no part
 * of the names of parameters. Names: [A-Za-z0-9_-]. */
RK_API rk_module *rk_root(rk_ctx *ctx, const char *name);
RK_API rk_module *rk_sequence(rk_module *parent, const char *name);
/* y = act(main(x) + shortcut(x)); add layers to rk_residual_main(); the shortcut is the identity unless
 * layers are added to rk_residual_shortcut(). act may be NULL: none. */
RK_API rk_module *rk_residual(rk_module *parent, const char *name, const char *act);
RK_API rk_module *rk_residual_main(rk_module *residual);
RK_API rk_module *rk_residual_shortcut(rk_module *residual);

/* ---- layers ---- */
/* (.., in) -> (.., out): weight (out, in), bias (out), both uniform in +-1/sqrt(in). An activation relu, gelu
 * or gelu_tanh that comes next is computed in the same pass. */
RK_API rk_module *rk_linear(rk_module *parent, const char *name, int64_t in, int64_t out);
RK_API rk_module *rk_linear_no_bias(rk_module *parent, const char *name, int64_t in, int64_t out);
/* kind: relu gelu gelu_tanh silu sigmoid tanh softplus leaky_relu (slope 0.01) */
RK_API rk_module *rk_activation(rk_module *parent, const char *name, const char *kind);
/* (n, in, h, w) -> (n, out, oh, ow), with a bias; cfg may be NULL; cfg->act is not used (add an activation).
 */
RK_API rk_module *rk_conv2d(rk_module *parent, const char *name, int64_t in, int64_t out, int kernel,
                            const rk_conv_cfg *cfg);
RK_API rk_module *rk_conv2d_no_bias(rk_module *parent, const char *name, int64_t in, int64_t out, int kernel,
                                    const rk_conv_cfg *cfg);
/* x (n, channels, ..); weight (1) and bias (0), running mean (0) and variance (1) as buffers; eps 1e-5,
 * momentum 0.1. While its weight is frozen it uses the running statistics and leaves them alone, in training
 * too. */
RK_API rk_module *rk_batch_norm(rk_module *parent, const char *name, int64_t channels);
/* over the last axis of `cols` elements; eps 1e-5 */
RK_API rk_module *rk_layer_norm(rk_module *parent, const char *name, int64_t cols);
RK_API rk_module *rk_rms_norm(rk_module *parent, const char *name, int64_t cols);
RK_API rk_module *rk_max_pool(rk_module *parent, const char *name, const rk_pool_cfg *cfg);
RK_API rk_module *rk_avg_pool(rk_module *parent, const char *name, const rk_pool_cfg *cfg);
RK_API rk_module *rk_adaptive_avg_pool(rk_module *parent, const char *name, int oh, int ow);
RK_API rk_module *rk_adaptive_max_pool(rk_module *parent, const char *name, int oh, int ow);
RK_API rk_module *rk_flatten(rk_module *parent, const char *name); /* (n, ..) -> (n, product) */
RK_API rk_module *rk_reshape_to(rk_module *parent, const char *name,
                                rk_shape sample); /* without the batch axis */
RK_API rk_module *rk_dropout(rk_module *parent, const char *name, double p);
/* (.., ) numbers of rows -> (.., dim); weight (rows, dim) normal */
RK_API rk_module *rk_embedding(rk_module *parent, const char *name, int64_t rows, int64_t dim);
/* (n, c, h, w) -> (n, c, scale h, scale w), nearest neighbour */
RK_API rk_module *rk_upsample(rk_module *parent, const char *name, int scale);

RK_API rk_tensor *rk_forward(rk_module *m, rk_tensor *x);

/* What comes out for a sample of shape `in` (both without the batch axis), without computing anything.
 * RK_ESHAPE names the layer and the shapes that do not fit. flops, params may be NULL: floating-point
 * operations of one forward pass a sample; elements of parameters. */
RK_API rk_status rk_output_shape(rk_module *m, rk_shape in, rk_shape *out, double *flops, int64_t *params);
/* The same for one forward and backward pass, without what frozen layers save. Call rk_output_shape() before.
 */
RK_API double rk_train_flops(const rk_module *root);

/* ---- initial values ---- */
/* Sets parameters whose name matches the glob anew. kind: default, kaiming_uniform, kaiming_normal (He et al.
 * 2015, fan in, gain of relu), xavier_uniform, xavier_normal (Glorot & Bengio 2010), normal, truncated_normal
 * (cut at two deviations), orthogonal (Saxe et al. 2014), zeros, ones. scale multiplies; for normal and
 * truncated_normal it is the standard deviation. Returns how many matched. */
RK_API int rk_init(rk_module *root, const char *glob, const char *kind, double scale);

/* ---- freezing ---- */
/* Parameters whose name matches the glob (*, ?, [..]; `*` crosses dots) are frozen: no gradient, no optimiser
 * state; layers before the first trainable one are not part of the backward pass. Returns how many matched.
 */
RK_API int rk_freeze(rk_module *root, const char *glob);
RK_API int rk_unfreeze(rk_module *root, const char *glob);

/* Visit parameters (and buffers) with their full names, in order of creation. */
typedef struct rk_param {
    const char *name;
    rk_tensor *tensor;
    bool buffer; /* running statistics: no gradient */
    bool frozen;
    bool no_decay; /* bias or norm parameter */
} rk_param;
RK_API int rk_param_count(const rk_module *root);
RK_API rk_param rk_param_at(const rk_module *root, int i);
RK_API rk_tensor *rk_param_find(const rk_module *root, const char *name); /* NULL if absent */

#ifdef __cplusplus
}
#endif
#endif
