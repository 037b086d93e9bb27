/* TensorBoard event files: scalars and texts, written without protobuf. */
#ifndef RK_IO_TFEVENTS_H
#define RK_IO_TFEVENTS_H

#include <rankine/base.h>

typedef struct rk__tfevents rk__tfevents;

uint32_t rk__crc32c(const void *p, size_t n);

/* A new file in dir (made if absent), named for now, this host and process. start_step > 0: the first step
 * this file tells of; TensorBoard then drops what earlier files say of it and of later ones. RK_EIO. */
rk_status rk__tfevents_open(rk_ctx *ctx, const char *dir, int64_t start_step, rk__tfevents **out);
/* One record each, flushed. RK_EIO once; after a failure nothing more is written. */
rk_status rk__tfevents_scalar(rk__tfevents *t, const char *tag, int64_t step, double value);
rk_status rk__tfevents_text(rk__tfevents *t, const char *tag, int64_t step, const char *markdown);
void rk__tfevents_close(rk__tfevents *t);

#endif
