/* Makes fsync and fdatasync slow while a file exists: a process that has this loaded sees a slow disk. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

#define DELAY_US 3000000

static int wait_and(const char *name, int descriptor) {
    const char *mark = getenv("SLOW_DISK_MARK");
    if (mark && access(mark, F_OK) == 0)
        usleep(DELAY_US);
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    return real(descriptor);
}

int fsync(int descriptor) { return wait_and("fsync", descriptor); }
int fdatasync(int descriptor) { return wait_and("fdatasync", descriptor); }
