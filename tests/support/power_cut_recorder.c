/* Records, in their order, what a process and its children change below $RECORD_HOME: preloaded by a drill.

   Each record of $RECORD_LOG: operation, four numbers, two lengths, a name and bytes (see power_cuts.py). A lock in the log
   file itself is held over each change and its record, so that the order is the one in which they happened. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { CREATE = 1, MKDIR, WRITE, TRUNCATE, SYNC, RENAME, UNLINK, LINK };

struct record {
    uint32_t operation, name_length, second_length, data_length;
    uint64_t node, folder, second_folder, offset;
};

#define REAL(name) ((__typeof__(&name))real_function(#name))
static void *real_function(const char *name) { return dlsym(RTLD_NEXT, name); }

static pthread_mutex_t threads = PTHREAD_MUTEX_INITIALIZER;
static __thread int inside;
static int log_file = -1;
static pid_t log_owner;

static int begin(void) {
    if (inside || !getenv("RECORD_LOG")) return 0;
    inside = 1;
    pthread_mutex_lock(&threads);
    if (log_file < 0 || log_owner != getpid()) { /* a lock of its own for each process */
        int opened = REAL(open)(getenv("RECORD_LOG"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        log_file = fcntl(opened, F_DUPFD_CLOEXEC, 512);
        close(opened);
        log_owner = getpid();
    }
    flock(log_file, LOCK_EX);
    return 1;
}

static void end(int begun) {
    if (!begun) return;
    int kept = errno;
    flock(log_file, LOCK_UN);
    pthread_mutex_unlock(&threads);
    inside = 0;
    errno = kept;
}

static void put(struct record r, const char *name, const char *second, const struct iovec *data, int parts) {
    struct iovec all[64] = {{&r, sizeof r}, {(void *)name, name ? strlen(name) : 0}, {(void *)second, second ? strlen(second) : 0}};
    r.name_length = all[1].iov_len;
    r.second_length = all[2].iov_len;
    for (int i = 0; i < parts && i < 60; i++) { all[3 + i] = data[i]; r.data_length += data[i].iov_len; }
    int kept = errno;
    REAL(writev)(log_file, all, 3 + parts);
    errno = kept;
}

static int below(int descriptor) { /* whether it is a file or folder of the home that is recorded */
    char link[64], path[PATH_MAX];
    const char *home = getenv("RECORD_HOME");
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    size_t length = strlen(home);
    return !strncmp(path, home, length) && (path[length] == '/' || !path[length]) && !strstr(path, "/.batch/logs");
}

static uint64_t folder_of(int at, const char *path, char *base) { /* its inode, 0 when it is none of ours; the last name */
    char folder[PATH_MAX];
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    snprintf(base, NAME_MAX + 1, "%s", slash ? slash + 1 : folder);
    if (slash == folder) slash[1] = 0; else if (slash) *slash = 0; else strcpy(folder, ".");
    int opened = REAL(openat)(at, folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (opened < 0) return 0;
    struct stat status;
    uint64_t node = below(opened) && !fstat(opened, &status) ? status.st_ino : 0;
    close(opened);
    return node;
}

static int open_recorded(int at, const char *path, int flags, mode_t mode) {
    int begun = (flags & (O_CREAT | O_TRUNC)) && (flags & O_TMPFILE) != O_TMPFILE ? begin() : 0;
    char base[NAME_MAX + 1];
    struct stat status;
    uint64_t folder = begun ? folder_of(at, path, base) : 0;
    int existed = folder && !fstatat(at, path, &status, 0);
    int result = REAL(openat)(at, path, flags, mode);
    if (folder && result >= 0 && !fstat(result, &status)) {
        if (!existed) put((struct record){CREATE, .node = status.st_ino, .folder = folder}, base, 0, 0, 0);
        else if (flags & O_TRUNC) put((struct record){TRUNCATE, .node = status.st_ino}, 0, 0, 0, 0);
    }
    end(begun);
    return result;
}

#define MODE(flags) mode_t mode = 0; if (flags & O_CREAT) { va_list more; va_start(more, flags); mode = va_arg(more, int); va_end(more); }
int open(const char *path, int flags, ...) { MODE(flags) return open_recorded(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_recorded(AT_FDCWD, path, flags | O_LARGEFILE, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags) return open_recorded(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags) return open_recorded(at, path, flags | O_LARGEFILE, mode); }

static int is_recorded(int descriptor, struct stat *status) {
    return !fstat(descriptor, status) && (S_ISREG(status->st_mode) || S_ISDIR(status->st_mode)) && below(descriptor);
}

static ssize_t write_recorded(int descriptor, const struct iovec *data, int parts, off_t offset) {
    struct stat status;
    int begun = !inside && !fstat(descriptor, &status) && S_ISREG(status.st_mode) && below(descriptor) ? begin() : 0;
    off_t at = offset;
    if (begun && offset < 0) {
        fstat(descriptor, &status);
        at = fcntl(descriptor, F_GETFL) & O_APPEND ? status.st_size : lseek(descriptor, 0, SEEK_CUR);
    }
    ssize_t n = offset < 0 ? REAL(writev)(descriptor, data, parts) : REAL(pwritev)(descriptor, data, parts, offset);
    if (begun && n > 0) {
        struct iovec written[60];
        int used = 0;
        for (size_t left = n; used < parts && left; used++) {
            written[used] = data[used];
            if (written[used].iov_len > left) written[used].iov_len = left;
            left -= written[used].iov_len;
        }
        put((struct record){WRITE, .node = status.st_ino, .offset = at}, 0, 0, written, used);
    }
    end(begun);
    return n;
}

#define ONE {(void *)data, size}
ssize_t write(int descriptor, const void *data, size_t size) { struct iovec one[] = {ONE}; return write_recorded(descriptor, one, 1, -1); }
ssize_t pwrite(int descriptor, const void *data, size_t size, off_t at) { struct iovec one[] = {ONE}; return write_recorded(descriptor, one, 1, at); }
ssize_t pwrite64(int descriptor, const void *data, size_t size, off64_t at) { struct iovec one[] = {ONE}; return write_recorded(descriptor, one, 1, at); }
ssize_t writev(int descriptor, const struct iovec *data, int parts) { return write_recorded(descriptor, data, parts, -1); }

static int truncate_recorded(int descriptor, off_t size) {
    struct stat status;
    int begun = !inside && is_recorded(descriptor, &status) ? begin() : 0;
    int result = REAL(ftruncate)(descriptor, size);
    if (begun && !result) put((struct record){TRUNCATE, .node = status.st_ino, .offset = size}, 0, 0, 0, 0);
    end(begun);
    return result;
}
int ftruncate(int descriptor, off_t size) { return truncate_recorded(descriptor, size); }
int ftruncate64(int descriptor, off64_t size) { return truncate_recorded(descriptor, size); }

static int sync_recorded(int descriptor, int is_data_only) {
    struct stat status;
    int begun = !inside && is_recorded(descriptor, &status) ? begin() : 0;
    /* The disk is not waited for: only the order counts here. */
    int result = begun ? 0 : is_data_only ? REAL(fdatasync)(descriptor) : REAL(fsync)(descriptor);
    if (begun) put((struct record){SYNC, .node = status.st_ino}, 0, 0, 0, 0);
    end(begun);
    return result;
}
int fsync(int descriptor) { return sync_recorded(descriptor, 0); }
int fdatasync(int descriptor) { return sync_recorded(descriptor, 1); }

static int rename_recorded(int from, const char *old, int to, const char *new, unsigned flags) {
    char name[NAME_MAX + 1], second[NAME_MAX + 1];
    int begun = begin();
    uint64_t folder = begun ? folder_of(from, old, name) : 0, other = begun ? folder_of(to, new, second) : 0;
    int result = flags ? REAL(renameat2)(from, old, to, new, flags) : REAL(renameat)(from, old, to, new);
    if (!result && (folder || other)) put((struct record){RENAME, .folder = folder, .second_folder = other}, name, second, 0, 0);
    end(begun);
    return result;
}
int rename(const char *old, const char *new) { return rename_recorded(AT_FDCWD, old, AT_FDCWD, new, 0); }
int renameat(int from, const char *old, int to, const char *new) { return rename_recorded(from, old, to, new, 0); }
int renameat2(int from, const char *old, int to, const char *new, unsigned flags) { return rename_recorded(from, old, to, new, flags); }

static int unlink_recorded(int at, const char *path, int flags) {
    char base[NAME_MAX + 1];
    int begun = begin();
    uint64_t folder = begun ? folder_of(at, path, base) : 0;
    int result = REAL(unlinkat)(at, path, flags);
    if (!result && folder) put((struct record){UNLINK, .folder = folder}, base, 0, 0, 0);
    end(begun);
    return result;
}
int unlink(const char *path) { return unlink_recorded(AT_FDCWD, path, 0); }
int unlinkat(int at, const char *path, int flags) { return unlink_recorded(at, path, flags); }
int rmdir(const char *path) { return unlink_recorded(AT_FDCWD, path, AT_REMOVEDIR); }

static int make_folder_recorded(int at, const char *path, mode_t mode) {
    char base[NAME_MAX + 1];
    struct stat status;
    int begun = begin();
    uint64_t folder = begun ? folder_of(at, path, base) : 0;
    int result = REAL(mkdirat)(at, path, mode);
    if (!result && folder && !fstatat(at, path, &status, 0))
        put((struct record){MKDIR, .node = status.st_ino, .folder = folder}, base, 0, 0, 0);
    end(begun);
    return result;
}
int mkdir(const char *path, mode_t mode) { return make_folder_recorded(AT_FDCWD, path, mode); }
int mkdirat(int at, const char *path, mode_t mode) { return make_folder_recorded(at, path, mode); }

int linkat(int from, const char *old, int to, const char *new, int flags) {
    char base[NAME_MAX + 1];
    struct stat status;
    int begun = begin();
    uint64_t folder = begun ? folder_of(to, new, base) : 0;
    int result = REAL(linkat)(from, old, to, new, flags);
    if (!result && folder && !fstatat(to, new, &status, AT_SYMLINK_NOFOLLOW))
        put((struct record){LINK, .node = status.st_ino, .folder = folder}, base, 0, 0, 0);
    end(begun);
    return result;
}
int link(const char *old, const char *new) { return linkat(AT_FDCWD, old, AT_FDCWD, new, 0); }
