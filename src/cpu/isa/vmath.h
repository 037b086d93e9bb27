/* The elementary functions of core/vmath.inc on this instruction set's vectors. */
#ifndef RK_CPU_VMATH_H
#define RK_CPU_VMATH_H

#include "cpu/isa/vec.h"

#include "core/vmath.inc"

#endif
