/* Files in this folder are compiled once for each instruction set. RK_ISA is avx512, avx2 or portable;
 * exactly one of RK_ISA_AVX512, RK_ISA_AVX2, RK_ISA_PORTABLE is defined. Every function that leaves its file
 * is named through RK_NAME() and has a row in entries.def; table.c collects them. */
#ifndef RK_CPU_ISA_H
#define RK_CPU_ISA_H

#include "core/kernels.h"
#include "core/order.h"
#include "cpu/threads.h"

#define RK_NAME3(fn, isa) rk__##fn##_##isa
#define RK_NAME2(fn, isa) RK_NAME3(fn, isa)
#define RK_NAME(fn)       RK_NAME2(fn, RK_ISA)

#endif
