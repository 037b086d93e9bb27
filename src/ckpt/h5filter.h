/* zstd as HDF5 filter 32015, registered in the process. Frames are standard and carry a checksum. */
#ifndef RK_CKPT_H5FILTER_H
#define RK_CKPT_H5FILTER_H

#include <hdf5.h>

enum { RK__H5_ZSTD = 32015 };

extern const H5Z_class2_t rk__h5_zstd;

#endif
