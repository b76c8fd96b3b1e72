"""Every operation that takes a path, under every condition a path can be in."""

from tests.system.posix.table import Row

SETUP = (
    "file f 0666; dir d 0777; file d/f 0666; symlink loop loop; symlink no dangling; "
    "dir shut 0777; file shut/x 0666; dir shut/d 0777; mode shut 0000; "
    "dir fixed 0777; file fixed/x 0666; dir fixed/d 0777; mode fixed 0555"
)
"""`shut` cannot be searched, `fixed` not be written, by others than root."""

OPERATIONS = {
    "stat": "stat {}", "lstat": "lstat {}", "open": "open x {} r", "open to write": "open x {} w",
    "open or create": "open x {} w,creat", "create": "open x {} w,creat,excl",
    "open O_PATH": "open x {} path", "open unfollowed": "open x {} r,nofollow",
    "open directory": "open x {} r,directory", "list": "list {}", "mkdir": "mkdir {}",
    "rmdir": "rmdir {}", "unlink": "unlink {}", "rename": "rename {} new",
    "rename onto": "rename f {}", "exchange": "rename2 {} f exchange",
    "rename if free": "rename2 f {} noreplace", "link": "link {} new", "link as": "link f {}",
    "link followed": "link_followed {} new", "symlink": "symlink t {}", "readlink": "readlink {}",
    "chmod": "chmod {} 0600", "chown": "chown {} 0:0", "lchown": "lchown {} 0:0",
    "truncate": "truncate {} 0", "utimes": "utime {}", "access": "access {} r",
    "mkfifo": "fifo {}", "mknod": "mknod {}", "mksocket": "socket {}", "statvfs": "statvfs {}",
    "chdir": "chdir {}", "exec": "exec {}", "setxattr": "setxattr {} user.a v",
    "getxattr": "getxattr {} user.a", "listxattr": "listxattr {}",
    "removexattr": "removexattr {} user.a", "tmpfile": "open x {} w,tmpfile",
}  # fmt: skip
ALWAYS = {
    "no/x": "ENOENT",
    "f/x": "ENOTDIR",
    "d/f/x": "ENOTDIR",
    "@256": "ENAMETOOLONG",
    "d/@256": "ENAMETOOLONG",
    "@256/x": "ENAMETOOLONG",
    "~4096x": "ENAMETOOLONG",
    "loop/x": "ELOOP",
    "dangling/x": "ENOENT",
    '""': "ENOENT",
}
"""What every operation says of such a path."""
MAKING = (
    "open or create", "create", "mkdir", "rename onto", "rename if free", "link as", "symlink",
    "mkfifo", "mknod", "mksocket",
)  # fmt: skip
TAKEN = ("unlink", "rename", "exchange", "rename onto")

# for one condition: (path, outcome of all operations not listed, outcomes of those listed)
CONDITIONS = (
    ("root", "x", "ENOENT", dict.fromkeys(MAKING, "ok")),
    ("root", "@255", "ENOENT", dict.fromkeys(MAKING, "ok")),
    ("root", "~4095x", "ENOENT", dict.fromkeys(MAKING, "ok")),
    ("root", "dangling", "ENOENT", {
        "lstat": "link", "open or create": "ok", "create": "EEXIST", "open O_PATH": "ENOENT",
        "open unfollowed": "ELOOP", "mkdir": "EEXIST", "rmdir": "ENOTDIR", "unlink": "ok",
        "rename": "ok", "rename onto": "ok", "exchange": "ok", "rename if free": "EEXIST",
        "link": "ok", "link as": "EEXIST", "symlink": "EEXIST", "readlink": "no", "lchown": "ok",
        "mkfifo": "EEXIST", "mknod": "EEXIST", "mksocket": "EEXIST",
    }),
    ("root", "loop", "ELOOP", {
        "lstat": "link", "create": "EEXIST", "mkdir": "EEXIST", "rmdir": "ENOTDIR",
        "unlink": "ok", "rename": "ok", "rename onto": "ok", "exchange": "ok",
        "rename if free": "EEXIST", "link": "ok", "link as": "EEXIST", "symlink": "EEXIST",
        "readlink": "loop", "lchown": "ok", "mkfifo": "EEXIST", "mknod": "EEXIST",
        "mksocket": "EEXIST",
    }),
    ("root", "f/", "ENOTDIR", {
        "open or create": "EISDIR", "create": "EISDIR", "mkdir": "EEXIST", "link as": "EEXIST",
        "symlink": "EEXIST", "mkfifo": "EEXIST", "mknod": "EEXIST", "rename if free": "EEXIST",
        "mksocket": "EEXIST",
    }),
    ("root", "x/", "ENOENT", {
        "open or create": "EISDIR", "create": "EISDIR", "mkdir": "ok", "rename onto": "ENOTDIR",
        "rename if free": "ENOTDIR",
    }),
    ("root", "d", "ok", {
        "stat": "dir", "lstat": "dir", "open to write": "EISDIR", "open or create": "EISDIR",
        "create": "EEXIST", "list": "f", "mkdir": "EEXIST", "rmdir": "ENOTEMPTY",
        "unlink": "EISDIR", "rename onto": "EISDIR", "rename if free": "EEXIST",
        "link": "EPERM", "link followed": "EPERM", "link as": "EEXIST", "symlink": "EEXIST",
        "readlink": "EINVAL", "truncate": "EISDIR", "mkfifo": "EEXIST", "mknod": "EEXIST",
        "mksocket": "EEXIST", "exec": "EACCES", "getxattr": "ENODATA", "removexattr": "ENODATA",
    }),
    ("root", "f", "ok", {
        "stat": "file", "lstat": "file", "create": "EEXIST", "open directory": "ENOTDIR",
        "list": "ENOTDIR", "mkdir": "EEXIST", "rmdir": "ENOTDIR", "link as": "EEXIST",
        "symlink": "EEXIST", "readlink": "EINVAL", "rename if free": "EEXIST",
        "mkfifo": "EEXIST", "mknod": "EEXIST", "mksocket": "EEXIST", "chdir": "ENOTDIR",
        "exec": "EACCES", "getxattr": "ENODATA", "removexattr": "ENODATA", "tmpfile": "ENOTDIR",
    }),
    ("ann", "fixed/x", "ok", dict.fromkeys(TAKEN, "EACCES") | {
        "stat": "file", "lstat": "file", "create": "EEXIST", "open directory": "ENOTDIR",
        "list": "ENOTDIR", "mkdir": "EEXIST", "rmdir": "EACCES", "link as": "EEXIST",
        "symlink": "EEXIST", "readlink": "EINVAL", "rename if free": "EEXIST",
        "mkfifo": "EEXIST", "mknod": "EEXIST", "mksocket": "EEXIST", "chdir": "ENOTDIR",
        "exec": "EACCES", "getxattr": "ENODATA", "removexattr": "ENODATA", "tmpfile": "ENOTDIR",
        "chmod": "EPERM", "chown": "EPERM", "lchown": "EPERM",
    }),
    ("ann", "fixed/new", "ENOENT", dict.fromkeys(MAKING, "EACCES")),
)  # fmt: skip


def _rows():
    for name, call in OPERATIONS.items():
        for path, expected in ALWAYS.items():
            yield Row("root", SETUP, call.format(path), expected)
        for path in ("shut/x", "shut/d", "shut/no"):
            yield Row("ann", SETUP, call.format(path), "EACCES")
        for user, path, others, listed in CONDITIONS:
            yield Row(user, SETUP, call.format(path), listed.get(name, others))


ROWS = list(_rows())
