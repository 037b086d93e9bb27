/* Functions that have no place in src/: each has a better one. CMake puts this file before every source
 * there.
 *
 *   strcpy strcat sprintf vsprintf   snprintf knows where the buffer ends
 *   strtok                           hidden state
 *   atoi atol atof                   cannot say that the text is no number: strtol, strtod
 *   rand srand                       hidden state, other numbers elsewhere: Philox
 *   alloca gets                      no bound at all
 */
#ifndef RK_CORE_BANNED_H
#define RK_CORE_BANNED_H

/* Their own declarations come first: a poisoned name may not even be declared. */
#include <alloca.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#undef alloca
#undef strcpy
#undef strcat
#undef sprintf
#undef vsprintf
#pragma GCC poison strcpy strcat sprintf vsprintf strtok atoi atol atof alloca gets

/* OpenSSL's headers call parameters "rand", so only a call may fail. */
#define rand()      rand_is_banned_use_philox
#define srand(seed) srand_is_banned_use_philox

#endif
