/* The faults that preload_faults.so puts into calls. */
#ifndef FAULTS_H
#define FAULTS_H

enum {
    FAULT_NONE,
    FAULT_ENOSPC,        /* fails once */
    FAULT_EIO,           /* fails once */
    FAULT_EINTR,         /* fails once */
    FAULT_SHORT,         /* half of a write is done, and said so */
    FAULT_TORN,          /* half of a write is done, then SIGKILL */
    FAULT_KILL,          /* SIGKILL before the call */
    FAULT_KILL_AFTER,    /* SIGKILL after it */
    FAULT_ENOSPC_STICKY, /* fails from here on */
    FAULT_EIO_STICKY,
    FAULT_KINDS
};

void rk_fault_arm(const char *dir, int at, int what);
void rk_fault_also(int at, int what);
int rk_fault_count(void);

#endif
