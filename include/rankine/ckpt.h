/* Snapshots of a run, and the files that others read. */
#ifndef RANKINE_CKPT_H
#define RANKINE_CKPT_H

#include "io.h"
#include "nn.h"
#include "optim.h"

#ifdef __cplusplus
extern "C" {
#endif

/* [C] Writes a snapshot of everything into run folder `dir` and returns once it is durable. opt, data may be NULL. */
RK_API rk_status rk_save(const char *dir, rk_module *net, rk_optim *opt, rk_loader *data);
/* [C] Continues from the newest whole snapshot in `dir`; nothing there yet is fine (RK_OK, nothing changed). */
RK_API rk_status rk_resume(const char *dir, rk_module *net, rk_optim *opt, rk_loader *data);

#ifdef __cplusplus
}
#endif
#endif
