/* Values that wait on the host until somebody asks for them: a network whose weights ranks share out need not
 * be on any rank's device whole, not even before they do. */
#ifndef RK_PARALLEL_PARK_H
#define RK_PARALLEL_PARK_H

#include "core/tape.h"

/* t is persistent, nobody else guards it, and its memory goes back to the device. Nothing where the device is
 * the host. The first that asks for any of its values brings all of it back. */
rk_status rk__park(rk_tensor *t);
/* The values of t, parked or not, move to `data`, which stays the caller's; NULL: nobody needs them, and
 * whoever guards t has them from now on. */
rk_status rk__park_end(rk_tensor *t, void *data);

#endif
