/* The CPU's f64 kernel table: plain loops in double, in canonical order. Gradient checks run on it, and tests
 * take it as the reference for every other table. An entry is one row of entries.def: ENTRY(gemm) takes
 * rk__gemm_f64. */
#include "core/kernels.h"

#define ENTRY(e) extern __typeof__(*((rk_kernels *)0)->e) rk__##e##_f64;
#include "cpu/f64/entries.def"
#undef ENTRY

const rk_kernels rk__cpu_f64 = {
    .name = "cpu f64",
    .dtype = RK_F64,
#define ENTRY(e) .e = rk__##e##_f64,
#include "cpu/f64/entries.def"
#undef ENTRY
};
