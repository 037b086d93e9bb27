/* Everything at once. */
#ifndef RANKINE_RANKINE_H
#define RANKINE_RANKINE_H

#include "base.h"
#include "ckpt.h"
#include "io.h"
#include "nn.h"
#include "optim.h"
#include "parallel.h"
#include "tensor.h"
#include "train.h"

#endif
