/* The CUDA device's kernel tables. An entry that it implements is one row of entries.def: ENTRY(gemm) takes
 * rk__cuda_f32_gemm and rk__cuda_f64_gemm, which have the entry's own type. */
#include "cuda/table.h"

/* Each function has the type that its table entry points to. */
#define ENTRY(e)                                               \
    extern __typeof__(*((rk_kernels *)0)->e) rk__cuda_f32_##e; \
    extern __typeof__(*((rk_kernels *)0)->e) rk__cuda_f64_##e;
#include "cuda/entries.def"
#undef ENTRY

const rk_kernels rk__cuda_f32 = {
    .name = "cuda",
    .dtype = RK_F32,
#define ENTRY(e) .e = rk__cuda_f32_##e,
#include "cuda/entries.def"
#undef ENTRY
};

const rk_kernels rk__cuda_f64 = {
    .name = "cuda",
    .dtype = RK_F64,
#define ENTRY(e) .e = rk__cuda_f64_##e,
#include "cuda/entries.def"
#undef ENTRY
};
