/* RK_HD marks what host and device code share: formulas and orders are written once. */
#ifndef RK_CORE_HD_H
#define RK_CORE_HD_H

#ifdef __CUDACC__
#define RK_HD __host__ __device__
#else
#define RK_HD
#endif

#endif
