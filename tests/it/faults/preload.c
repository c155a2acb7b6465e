// Stands between a server and the C library, and does what a test asks for in the environment:
//
//   CONFOLD_SYNC=lie              every sync says that it worked, and does nothing
//   CONFOLD_SYNC=fail             one sync fails with EIO: the CONFOLD_SYNC_PASSING-th of a file whose name has CONFOLD_SYNC_PATH in it;
//                                 that name is then written to the file CONFOLD_SYNC_FIRED
//   CONFOLD_CLOCK=FILE            the clock is ahead of the real one by the seconds that stand in FILE now, or behind it
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static atomic_long passed;

// What this sync is to answer instead; 1: nothing, it is a real one.
static int instead(int fd) {
    const char *how = getenv("CONFOLD_SYNC");
    if (how == NULL) return 1;
    if (strcmp(how, "lie") == 0) return 0;
    char link[64], name[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, name, sizeof name - 1);
    const char *part = getenv("CONFOLD_SYNC_PATH"), *which = getenv("CONFOLD_SYNC_PASSING"), *fired = getenv("CONFOLD_SYNC_FIRED");
    if (length < 0 || part == NULL || which == NULL || fired == NULL) return 1;
    name[length] = 0;
    if (strstr(name, part) == NULL || atomic_fetch_add(&passed, 1) + 1 != atol(which)) return 1;
    int out = open(fired, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (out < 0 || write(out, name, (size_t)length) != length) abort();
    close(out);
    errno = EIO;
    return -1;
}

int fsync(int fd) {
    int answer = instead(fd);
    return answer == 1 ? (int)syscall(SYS_fsync, fd) : answer;
}

int fdatasync(int fd) {
    int answer = instead(fd);
    return answer == 1 ? (int)syscall(SYS_fdatasync, fd) : answer;
}

int sync_file_range(int fd, off_t offset, off_t length, unsigned int flags) {
    const char *how = getenv("CONFOLD_SYNC");
    if (how != NULL && strcmp(how, "lie") == 0) return 0;
    return (int)syscall(SYS_sync_file_range, fd, offset, length, flags);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (real == NULL) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int answer = real(clock, now);
    const char *shift = getenv("CONFOLD_CLOCK");
    if (answer != 0 || clock != CLOCK_REALTIME || shift == NULL) return answer;
    int file = open(shift, O_RDONLY | O_CLOEXEC);
    if (file < 0) return answer;
    char text[32] = {0};
    if (read(file, text, sizeof text - 1) > 0) now->tv_sec += atol(text);
    close(file);
    return answer;
}
