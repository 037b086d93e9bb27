/* The CPU's f32 kernel table for one instruction set. An entry that this device implements is one row of
 * entries.def: ENTRY(gemm) takes rk__gemm_<isa>, which has the entry's own type. */
#include "cpu/isa/isa.h"

/* Each function has the type that its table entry points to. */
#define ENTRY(e) extern __typeof__(*((rk_kernels *)0)->e) RK_NAME(e);
#include "cpu/isa/entries.def"
#undef ENTRY

const rk_kernels RK_NAME(cpu_f32) = {
    .name = "cpu",
    .dtype = RK_F32,
#define ENTRY(e) .e = RK_NAME(e),
#include "cpu/isa/entries.def"
#undef ENTRY
};
