/* A disk whose flush takes SLOW_FLUSH_US microseconds more: preloaded into a server, so that what many who flush at once gain
 * can be seen on a machine whose disk answers at once. Several flushes at once overlap, as they do on a disk with a queue. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

static void wait_for_disk(void) {
    const char *text = getenv("SLOW_FLUSH_US");
    long microseconds = text ? atol(text) : 0;
    struct timespec left = {microseconds / 1000000, microseconds % 1000000 * 1000};
    while (nanosleep(&left, &left) != 0) {
    }
}

int fdatasync(int file) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fdatasync");
    int result = real(file);
    wait_for_disk();
    return result;
}

int fsync(int file) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    int result = real(file);
    wait_for_disk();
    return result;
}
