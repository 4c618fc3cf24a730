/* Preloaded into a benchmark: counts fsyncs, and makes each FSYNC_US microseconds slower, like a usual network volume. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static long count;
long fsync_count(void) { return __atomic_load_n(&count, __ATOMIC_RELAXED); }

static int slowed(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    const char *us = getenv("FSYNC_US");
    if (us) {
        long wait = atol(us);
        struct timespec pause = {wait / 1000000, wait % 1000000 * 1000};
        nanosleep(&pause, 0);
    }
    __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED);
    return real(fd);
}
int fsync(int fd) { return slowed("fsync", fd); }
int fdatasync(int fd) { return slowed("fdatasync", fd); }
