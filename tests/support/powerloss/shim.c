/*
 * Records what a process does to the files below some directories, for the power-loss simulation.
 *
 * Loaded with LD_PRELOAD. POWERLOSS_ROOTS names the directories (canonical, separated by ':'), POWERLOSS_TRACE
 * the file that records are appended to. Owns the order of the records; never changes what a call does.
 *
 * - Each operation and its record are made under one lock, so that the trace has the order of the effects. A
 *   sync has two records, begin and end, and holds no lock in between: what was recorded before its begin is
 *   durable once its end is there, and nothing else.
 * - A descriptor is looked up in /proc at each call: no table to keep right over dup, fork and close_range.
 * - A write to a file named POWERLOSS-MARK, anywhere, becomes a mark: the program's word to the test.
 * - Stores through a mapping cannot be seen. Mapping a recorded file shared and writable is recorded as such
 *   (SQLite's *-shm excepted, which is rebuilt after a crash) and makes the reader refuse the trace.
 */
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
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum op { ROOT = 1, OPEN, WRITE, TRUNCATE, FALLOCATE, RENAME, LINK, UNLINK, MKDIR, RMDIR, SYMLINK,
          SYNC_BEGIN, SYNC_END, MARK, CLOSE, MAP };
enum sync_kind { FSYNC = 1, FDATASYNC, WHOLE_FS, RANGE };

#define MAGIC 0x534c5750u /* "PWLS" */
#define TRACE_FD_FLOOR 900 /* out of the way of programs that hand out or close the low ones */
#define CHUNK (1 << 20)

struct header { /* little-endian; the reader's struct format must match */
    uint32_t magic, length, op;
    int32_t flags;
    uint64_t ino;
    int64_t offset, size;
    uint32_t path_length, path2_length;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int trace_fd = -1;
static struct stat trace_stat;
static char roots[PATH_MAX * 2], trace_name[PATH_MAX];
static int64_t next_sync = 1;

#define REAL(result, name, ...)                                                                                \
    static result (*real_##name)(__VA_ARGS__);                                                                 \
    if (!real_##name) *(void **)&real_##name = dlsym(RTLD_NEXT, #name)

static void die(const char *what) { /* a trace with a gap would prove anything */
    perror(what);
    abort();
}

/* --- which files are recorded */

static int below_roots(const char *path) {
    const char *root = roots;
    while (*root) {
        size_t n = strcspn(root, ":");
        if (n && !strncmp(path, root, n) && (path[n] == '/' || !path[n])) return 1;
        root += n + (root[n] == ':');
    }
    return 0;
}

static int path_of(int fd, char *path) { /* empty when it has none */
    char link[32];
    int saved = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = fd < 0 ? -1 : readlink(link, path, PATH_MAX - 1);
    path[n < 0 ? 0 : n] = 0;
    errno = saved;
    return n > 0;
}

static int is_mark(const char *path) {
    const char *name = strrchr(path, '/');
    return name && !strcmp(name, "/POWERLOSS-MARK");
}

/* Nothing but these is called under the lock: a pipe, a socket or a fifo may block. */
static int regular_or_mark(int fd) {
    char path[PATH_MAX];
    return path_of(fd, path) && (below_roots(path) || is_mark(path));
}

static int recorded_fd(int fd, char *path) { return path_of(fd, path) && below_roots(path) && !is_mark(path); }

/* The canonical form of a name that need not exist: its directory's real path, and the last component as is. */
static int recorded_name(int dirfd, const char *name, char *path) {
    char joined[PATH_MAX * 2], base[PATH_MAX];
    int saved = errno;
    if (!name || !*roots) return 0;
    if (name[0] == '/' || dirfd == AT_FDCWD) snprintf(joined, sizeof joined, "%s", name);
    else if (path_of(dirfd, path)) snprintf(joined, sizeof joined, "%s/%s", path, name);
    else return 0;
    size_t n = strlen(joined);
    while (n > 1 && joined[n - 1] == '/') joined[--n] = 0;
    char *slash = strrchr(joined, '/');
    const char *last = slash ? slash + 1 : joined;
    if (strlen(last) >= sizeof base) return 0;
    strcpy(base, last);
    if (slash) slash[slash == joined] = 0;
    int known = realpath(slash ? joined : ".", path) != NULL;
    errno = saved;
    if (!known || strlen(path) + strlen(base) + 2 > PATH_MAX) return 0;
    if (strcmp(path, "/")) strcat(path, "/");
    else path[1] = 0;
    strcat(path, base);
    return below_roots(path) && !is_mark(path);
}

/* --- the trace */

static void open_trace(void) {
    REAL(int, open, const char *, int, ...);
    int low = real_open(trace_name, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (low < 0) die("powerloss: POWERLOSS_TRACE");
    trace_fd = fcntl(low, F_DUPFD_CLOEXEC, TRACE_FD_FLOOR);
    REAL(int, close, int);
    real_close(low);
    if (trace_fd < 0 || fstat(trace_fd, &trace_stat)) die("powerloss: trace");
}

static void emit(enum op op, int flags, uint64_t ino, int64_t offset, int64_t size, const char *path,
                 const char *path2, const struct iovec *data, int parts) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    struct stat now;
    int saved = errno;
    if (fstat(trace_fd, &now) || now.st_ino != trace_stat.st_ino || now.st_dev != trace_stat.st_dev) open_trace();
    struct header header = {MAGIC, 0, op, flags, ino, offset, size, strlen(path), path2 ? strlen(path2) : 0};
    struct iovec record[3 + IOV_MAX / 2] = {{&header, sizeof header},
                                            {(void *)path, header.path_length},
                                            {(void *)(path2 ? path2 : ""), header.path2_length}};
    size_t length = sizeof header + header.path_length + header.path2_length;
    if (parts > IOV_MAX / 2) die("powerloss: too many parts in one write");
    for (int i = 0; i < parts; i++) {
        record[3 + i] = data[i];
        length += data[i].iov_len;
    }
    header.length = length;
    if (real_writev(trace_fd, record, 3 + parts) != (ssize_t)length) die("powerloss: cannot append to the trace");
    errno = saved;
}

static void lock_trace(void) { pthread_mutex_lock(&lock); }
static void unlock_trace(void) { pthread_mutex_unlock(&lock); }

__attribute__((constructor)) static void begin(void) {
    const char *named = getenv("POWERLOSS_ROOTS");
    if (!named || !*named || !getenv("POWERLOSS_TRACE")) return;
    snprintf(roots, sizeof roots, "%s", named);
    snprintf(trace_name, sizeof trace_name, "%s", getenv("POWERLOSS_TRACE"));
    open_trace();
    pthread_atfork(lock_trace, unlock_trace, unlock_trace);
    emit(ROOT, 0, 0, 0, 0, roots, NULL, NULL, 0);
}

/* Run a call and, if it succeeded, its record, with nothing of another thread in between. */
#define LOCKED(type, ok, call, record)                                                                         \
    lock_trace();                                                                                              \
    type result = call;                                                                                        \
    if (ok) record;                                                                                            \
    unlock_trace();                                                                                            \
    return result

static uint64_t ino_of(int fd) {
    struct stat stat;
    int saved = errno;
    if (fstat(fd, &stat)) stat.st_ino = 0;
    errno = saved;
    return stat.st_ino;
}

/* --- opening */

static void opened(int fd, int flags) {
    char path[PATH_MAX];
    struct stat stat;
    if (recorded_fd(fd, path) && !fstat(fd, &stat) && (S_ISREG(stat.st_mode)))
        emit(OPEN, flags, stat.st_ino, 0, stat.st_mode & 07777, path, NULL, NULL, 0);
}

#define MODE_ARGUMENT                                                                                          \
    mode_t mode = 0;                                                                                           \
    if (flags & (O_CREAT | O_TMPFILE)) {                                                                       \
        va_list arguments;                                                                                     \
        va_start(arguments, flags);                                                                            \
        mode = va_arg(arguments, mode_t);                                                                      \
        va_end(arguments);                                                                                     \
    }

#define OPEN_LIKE(name)                                                                                        \
    int name(const char *path, int flags, ...) {                                                               \
        MODE_ARGUMENT                                                                                          \
        char where[PATH_MAX];                                                                                  \
        REAL(int, name, const char *, int, ...);                                                               \
        if (!recorded_name(AT_FDCWD, path, where)) return real_##name(path, flags, mode);                      \
        LOCKED(int, result >= 0, real_##name(path, flags, mode), opened(result, flags));             \
    }
OPEN_LIKE(open)
OPEN_LIKE(open64)

#define OPENAT_LIKE(name)                                                                                      \
    int name(int dirfd, const char *path, int flags, ...) {                                                    \
        MODE_ARGUMENT                                                                                          \
        char where[PATH_MAX];                                                                                  \
        REAL(int, name, int, const char *, int, ...);                                                          \
        if (!recorded_name(dirfd, path, where)) return real_##name(dirfd, path, flags, mode);                  \
        LOCKED(int, result >= 0, real_##name(dirfd, path, flags, mode), opened(result, flags));      \
    }
OPENAT_LIKE(openat)
OPENAT_LIKE(openat64)

int __open_2(const char *path, int flags) { return open(path, flags); } /* what hardened builds call */
int __open64_2(const char *path, int flags) { return open64(path, flags); }
int __openat_2(int dirfd, const char *path, int flags) { return openat(dirfd, path, flags); }
int __openat64_2(int dirfd, const char *path, int flags) { return openat64(dirfd, path, flags); }
int creat(const char *path, mode_t mode) { return open(path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return open64(path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

int close(int fd) {
    char path[PATH_MAX];
    REAL(int, close, int);
    if (!*roots || fd == trace_fd || !recorded_fd(fd, path)) return real_close(fd);
    uint64_t ino = ino_of(fd);
    LOCKED(int, !result, real_close(fd), emit(CLOSE, 0, ino, 0, 0, path, NULL, NULL, 0));
}

/* --- data */

static void wrote(int fd, int64_t offset, ssize_t written, const struct iovec *data, int parts) {
    char path[PATH_MAX];
    struct iovec kept[IOV_MAX / 2];
    size_t left = written;
    int used = 0, flags = fcntl(fd, F_GETFL);
    struct stat stat;
    if (!path_of(fd, path)) return;
    for (; used < parts && left && used < IOV_MAX / 2; used++) {
        kept[used] = data[used];
        if (kept[used].iov_len > left) kept[used].iov_len = left;
        left -= kept[used].iov_len;
    }
    if (left) die("powerloss: too many parts in one write");
    if (is_mark(path)) {
        emit(MARK, 0, 0, 0, written, "", NULL, kept, used);
    } else if (below_roots(path) && !fstat(fd, &stat) && S_ISREG(stat.st_mode)) {
        if (offset < 0) offset = lseek(fd, 0, SEEK_CUR) - written; /* at the file position, or at its end */
        else if (flags & O_APPEND) offset = stat.st_size - written; /* Linux appends whatever pwrite was told */
        emit(WRITE, flags, stat.st_ino, offset, written, path, NULL, kept, used);
    }
}

#define AT_POSITION (-1)
#define WRITE_LIKE(name, types, arguments, offset, data, parts)                                                \
    ssize_t name types {                                                                                       \
        REAL(ssize_t, name, UNWRAP types);                                                                     \
        if (!*roots || !regular_or_mark(fd)) return real_##name arguments;                                     \
        LOCKED(ssize_t, result > 0, real_##name arguments, wrote(fd, offset, result, data, parts));            \
    }
#define UNWRAP(...) __VA_ARGS__
#define ONE (&(struct iovec){(void *)buffer, size})
WRITE_LIKE(write, (int fd, const void *buffer, size_t size), (fd, buffer, size), AT_POSITION, ONE, 1)
WRITE_LIKE(pwrite, (int fd, const void *buffer, size_t size, off_t at), (fd, buffer, size, at), at, ONE, 1)
WRITE_LIKE(pwrite64, (int fd, const void *buffer, size_t size, off64_t at), (fd, buffer, size, at), at, ONE, 1)
WRITE_LIKE(writev, (int fd, const struct iovec *data, int parts), (fd, data, parts), AT_POSITION, data, parts)
WRITE_LIKE(pwritev, (int fd, const struct iovec *data, int parts, off_t at), (fd, data, parts, at), at, data, parts)
WRITE_LIKE(pwritev64, (int fd, const struct iovec *data, int parts, off64_t at), (fd, data, parts, at), at, data, parts)
WRITE_LIKE(pwritev2, (int fd, const struct iovec *data, int parts, off_t at, int flags), (fd, data, parts, at, flags),
           at, data, parts)
WRITE_LIKE(pwritev64v2, (int fd, const struct iovec *data, int parts, off64_t at, int flags),
           (fd, data, parts, at, flags), at, data, parts)

/* What the kernel copied by itself is read back from the file. */
static void copied(int fd, int64_t offset, ssize_t count) {
    static char buffer[CHUNK]; /* under the lock */
    char path[PATH_MAX], link[32];
    REAL(int, open, const char *, int, ...);
    REAL(int, close, int);
    if (!recorded_fd(fd, path)) return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int readable = real_open(link, O_RDONLY | O_CLOEXEC);
    if (readable < 0) die("powerloss: cannot read back a copy");
    while (count > 0) {
        ssize_t n = pread(readable, buffer, count < CHUNK ? count : CHUNK, offset);
        if (n <= 0) die("powerloss: cannot read back a copy");
        struct iovec part = {buffer, n};
        emit(WRITE, fcntl(fd, F_GETFL), ino_of(fd), offset, n, path, NULL, &part, 1);
        offset += n;
        count -= n;
    }
    real_close(readable);
}

ssize_t copy_file_range(int in, off64_t *in_at, int out, off64_t *out_at, size_t size, unsigned flags) {
    REAL(ssize_t, copy_file_range, int, off64_t *, int, off64_t *, size_t, unsigned);
    char path[PATH_MAX];
    if (!*roots || !recorded_fd(out, path)) return real_copy_file_range(in, in_at, out, out_at, size, flags);
    LOCKED(ssize_t, result > 0, real_copy_file_range(in, in_at, out, out_at, size, flags),
           copied(out, (out_at ? *out_at : lseek(out, 0, SEEK_CUR)) - result, result));
}

#define SENDFILE_LIKE(name, offset_type)                                                                       \
    ssize_t name(int out, int in, offset_type *in_at, size_t size) {                                           \
        REAL(ssize_t, name, int, int, offset_type *, size_t);                                                  \
        char path[PATH_MAX]; /* to a socket it may block: no lock then */                                      \
        if (!*roots || !recorded_fd(out, path)) return real_##name(out, in, in_at, size);                      \
        LOCKED(ssize_t, result > 0, real_##name(out, in, in_at, size),                                         \
               copied(out, lseek(out, 0, SEEK_CUR) - result, result));                                         \
    }
SENDFILE_LIKE(sendfile, off_t)
SENDFILE_LIKE(sendfile64, off64_t)

static void sized(enum op op, int fd, int flags, int64_t offset, int64_t size) {
    char path[PATH_MAX];
    if (recorded_fd(fd, path)) emit(op, flags, ino_of(fd), offset, size, path, NULL, NULL, 0);
}

#define FD_LIKE(name, types, arguments, record)                                                                \
    int name types {                                                                                           \
        REAL(int, name, UNWRAP types);                                                                         \
        LOCKED(int, !result && *roots, real_##name arguments, record);                                         \
    }
FD_LIKE(ftruncate, (int fd, off_t size), (fd, size), sized(TRUNCATE, fd, 0, 0, size))
FD_LIKE(ftruncate64, (int fd, off64_t size), (fd, size), sized(TRUNCATE, fd, 0, 0, size))
FD_LIKE(fallocate, (int fd, int mode, off_t at, off_t size), (fd, mode, at, size), sized(FALLOCATE, fd, mode, at, size))
FD_LIKE(fallocate64, (int fd, int mode, off64_t at, off64_t size), (fd, mode, at, size),
        sized(FALLOCATE, fd, mode, at, size))
FD_LIKE(posix_fallocate, (int fd, off_t at, off_t size), (fd, at, size), sized(FALLOCATE, fd, 0, at, size))
FD_LIKE(posix_fallocate64, (int fd, off64_t at, off64_t size), (fd, at, size), sized(FALLOCATE, fd, 0, at, size))

/* --- names. The canonical names are taken before the call: after it, the old one may be gone. */

#define NAME_LIKE(name, types, arguments, dirfd, path, op, flags, size)                                        \
    int name types {                                                                                           \
        char where[PATH_MAX];                                                                                  \
        REAL(int, name, UNWRAP types);                                                                         \
        int recorded = recorded_name(dirfd, path, where);                                                      \
        LOCKED(int, !result && recorded, real_##name arguments,                                                \
               emit(op, flags, 0, 0, size, where, NULL, NULL, 0));                                             \
    }
#define UNLINKAT_OP ((flags & AT_REMOVEDIR) ? RMDIR : UNLINK)
NAME_LIKE(truncate, (const char *path, off_t size), (path, size), AT_FDCWD, path, TRUNCATE, 0, size)
NAME_LIKE(truncate64, (const char *path, off64_t size), (path, size), AT_FDCWD, path, TRUNCATE, 0, size)
NAME_LIKE(unlink, (const char *path), (path), AT_FDCWD, path, UNLINK, 0, 0)
NAME_LIKE(remove, (const char *path), (path), AT_FDCWD, path, UNLINK, 0, 0)
NAME_LIKE(rmdir, (const char *path), (path), AT_FDCWD, path, RMDIR, 0, 0)
NAME_LIKE(unlinkat, (int at, const char *path, int flags), (at, path, flags), at, path, UNLINKAT_OP, 0, 0)
NAME_LIKE(mkdir, (const char *path, mode_t mode), (path, mode), AT_FDCWD, path, MKDIR, 0, mode)
NAME_LIKE(mkdirat, (int at, const char *path, mode_t mode), (at, path, mode), at, path, MKDIR, 0, mode)

static uint64_t ino_at(int dirfd, const char *path, int flags) {
    struct stat stat;
    int saved = errno;
    if (fstatat(dirfd, path, &stat, flags & AT_EMPTY_PATH ? AT_EMPTY_PATH : AT_SYMLINK_NOFOLLOW)) stat.st_ino = 0;
    if (S_ISLNK(stat.st_mode) && flags & AT_SYMLINK_FOLLOW && fstatat(dirfd, path, &stat, 0)) stat.st_ino = 0;
    errno = saved;
    return stat.st_ino;
}

/* One name outside the roots is recorded as empty: the other still appears or goes. */
#define TWO_NAMES_LIKE(name, types, arguments, from_at, from, to_at, to, op, flags)                            \
    int name types {                                                                                           \
        char before[PATH_MAX], after[PATH_MAX];                                                                \
        REAL(int, name, UNWRAP types);                                                                         \
        if (!recorded_name(from_at, from, before)) before[0] = 0;                                              \
        if (!recorded_name(to_at, to, after)) after[0] = 0;                                                    \
        LOCKED(int, !result && (*before || *after), real_##name arguments,                                     \
               emit(op, flags, ino_at(to_at, to, 0), 0, 0, before, after, NULL, 0));                           \
    }
TWO_NAMES_LIKE(rename, (const char *from, const char *to), (from, to), AT_FDCWD, from, AT_FDCWD, to, RENAME, 0)
TWO_NAMES_LIKE(renameat, (int from_at, const char *from, int to_at, const char *to), (from_at, from, to_at, to), from_at,
               from, to_at, to, RENAME, 0)
TWO_NAMES_LIKE(renameat2, (int from_at, const char *from, int to_at, const char *to, unsigned flags),
               (from_at, from, to_at, to, flags), from_at, from, to_at, to, RENAME, flags)
TWO_NAMES_LIKE(link, (const char *from, const char *to), (from, to), AT_FDCWD, from, AT_FDCWD, to, LINK, 0)
TWO_NAMES_LIKE(linkat, (int from_at, const char *from, int to_at, const char *to, int flags),
               (from_at, from, to_at, to, flags), from_at, from, to_at, to, LINK, flags)

int symlinkat(const char *target, int at, const char *path) {
    char where[PATH_MAX];
    REAL(int, symlinkat, const char *, int, const char *);
    int recorded = recorded_name(at, path, where);
    LOCKED(int, !result && recorded, real_symlinkat(target, at, path),
           emit(SYMLINK, 0, 0, 0, 0, where, target, NULL, 0));
}
int symlink(const char *target, const char *path) { return symlinkat(target, AT_FDCWD, path); }

/* --- durability */

static int64_t sync_begins(enum sync_kind kind, uint64_t ino, const char *path) {
    lock_trace();
    int64_t serial = next_sync++;
    emit(SYNC_BEGIN, kind, ino, serial, getpid(), path, NULL, NULL, 0);
    unlock_trace();
    return serial;
}

static void sync_ends(enum sync_kind kind, uint64_t ino, const char *path, int64_t serial) {
    lock_trace();
    emit(SYNC_END, kind, ino, serial, getpid(), path, NULL, NULL, 0);
    unlock_trace();
}

#define SYNC_LIKE(name, types, arguments, kind)                                                                \
    int name types {                                                                                           \
        char path[PATH_MAX];                                                                                   \
        REAL(int, name, UNWRAP types);                                                                         \
        if (!*roots || !recorded_fd(fd, path)) return real_##name arguments;                                   \
        uint64_t ino = ino_of(fd);                                                                             \
        int64_t serial = sync_begins(kind, ino, path);                                                         \
        int result = real_##name arguments;                                                                    \
        if (!result) sync_ends(kind, ino, path, serial);                                                       \
        return result;                                                                                         \
    }
SYNC_LIKE(fsync, (int fd), (fd), FSYNC)
SYNC_LIKE(fdatasync, (int fd), (fd), FDATASYNC)
SYNC_LIKE(syncfs, (int fd), (fd), WHOLE_FS)
SYNC_LIKE(sync_file_range, (int fd, off64_t at, off64_t size, unsigned flags), (fd, at, size, flags), RANGE)

void sync(void) {
    REAL(void, sync, void);
    int64_t serial = *roots ? sync_begins(WHOLE_FS, 0, roots) : 0;
    real_sync();
    if (serial) sync_ends(WHOLE_FS, 0, roots, serial);
}

/* --- mappings */

static void mapped(int fd, int protection, int flags) {
    char path[PATH_MAX];
    if (!(protection & PROT_WRITE) || (flags & MAP_TYPE) == MAP_PRIVATE || !recorded_fd(fd, path)) return;
    size_t n = strlen(path);
    if (n < 4 || strcmp(path + n - 4, "-shm")) emit(MAP, flags, ino_of(fd), 0, 0, path, NULL, NULL, 0);
}

#define MMAP_LIKE(name, offset_type)                                                                           \
    void *name(void *address, size_t size, int protection, int flags, int fd, offset_type at) {                \
        REAL(void *, name, void *, size_t, int, int, int, offset_type);                                        \
        void *result = real_##name(address, size, protection, flags, fd, at);                                  \
        if (result != MAP_FAILED && *roots && fd >= 0) {                                                       \
            lock_trace();                                                                                      \
            mapped(fd, protection, flags);                                                                     \
            unlock_trace();                                                                                    \
        }                                                                                                      \
        return result;                                                                                         \
    }
MMAP_LIKE(mmap, off_t)
MMAP_LIKE(mmap64, off64_t)
