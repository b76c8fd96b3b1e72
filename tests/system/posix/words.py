"""The words rows are made of: each is one system call, or says what one call shows.

A word's arguments are text. What it gives is compared as text; an error is raised as OSError.
"""

# ruff: noqa: PTH101, PTH104, PTH106, PTH108, PTH110, PTH115, PTH116, PTH208, PTH211, PTH102, PTH201
# ruff: noqa: SIM115, PTH123

import ctypes
import errno
import fcntl
import mmap
import os
import select
import socket
import stat
import struct
import time

from tests.system.posix.table import expand

_LIBC = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD = -100
_FLAGS = {
    "r": os.O_RDONLY, "w": os.O_WRONLY, "rw": os.O_RDWR, "creat": os.O_CREAT, "excl": os.O_EXCL,
    "trunc": os.O_TRUNC, "append": os.O_APPEND, "directory": os.O_DIRECTORY,
    "nofollow": os.O_NOFOLLOW, "path": os.O_PATH, "tmpfile": os.O_TMPFILE, "sync": os.O_SYNC,
    "nonblock": os.O_NONBLOCK, "noatime": os.O_NOATIME,
}  # fmt: skip
_RENAME = {"noreplace": 1, "exchange": 2, "both": 3, "whiteout": 4, "unknown": 64}
_FALLOCATE = {"keep": 1, "punch": 3, "punch_only": 2, "zero": 16, "zero_keep": 17, "plain": 0,
              "collapse": 8, "insert": 32}  # fmt: skip
_WHENCE = {"set": 0, "cur": 1, "end": 2, "data": 3, "hole": 4, "bad": 99}
_KINDS = {
    stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "link", stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket", stat.S_IFCHR: "chr", stat.S_IFBLK: "blk",
}  # fmt: skip
_XATTR = {"create": os.XATTR_CREATE, "replace": os.XATTR_REPLACE}
_LOCKS = {"r": fcntl.F_RDLCK, "w": fcntl.F_WRLCK, "un": fcntl.F_UNLCK}
_TICK_S = 0.012
"""More than the clock of a local file system's times takes to move."""


def _checked(result):
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


class Words:
    """The words, and the descriptors a row has opened."""

    def __init__(self):
        self._files = {}
        self._maps = []

    def do(self, calls):
        """Carry out calls; give what the last one gives."""
        given = None
        for call in calls.split(";"):
            word, *arguments = (expand(w) for w in call.split())
            given = getattr(self, f"do_{word}")(*arguments)
        return given

    def close_all(self):
        for fd in self._files.values():
            try:
                os.close(fd)
            except OSError:
                continue
        self._files.clear()

    def _fd(self, name):
        return self._files[name] if name in self._files else int(name)

    # --- making and removing

    def do_file(self, path, mode="0644", text=""):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(fd, text.encode())
        os.fchmod(fd, int(mode, 8))
        os.close(fd)

    def do_dir(self, path, mode="0755"):
        os.mkdir(path)
        os.chmod(path, int(mode, 8))

    def do_mkdir(self, path, mode="0777"):
        os.mkdir(path, int(mode, 8))

    def do_rmdir(self, path):
        os.rmdir(path)

    def do_unlink(self, path):
        os.unlink(path)

    def do_symlink(self, target, path):
        os.symlink(target, path)

    def do_link(self, old, new):
        os.link(old, new, follow_symlinks=False)

    def do_link_followed(self, old, new):
        followed = 0x400
        _checked(
            _LIBC.linkat(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), followed)
        )

    def do_link_fd(self, fd, new):
        self.do_link_followed(f"/proc/self/fd/{self._fd(fd)}", new)

    def do_rename(self, old, new):
        os.rename(old, new)

    def do_rename2(self, old, new, flag):
        _checked(
            _LIBC.renameat2(
                _AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), _RENAME[flag]
            )
        )

    def do_fifo(self, path, mode="0644"):
        os.mkfifo(path, int(mode, 8))

    def do_socket(self, path):
        os.mknod(path, stat.S_IFSOCK | 0o644)

    def do_chr(self, path):
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))

    def do_blk(self, path):
        os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(7, 200))

    def do_mknod(self, path, mode="0644"):
        os.mknod(path, stat.S_IFREG | int(mode, 8))

    def do_bind(self, path):
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path)

    def do_umask(self, mask):
        os.umask(int(mask, 8))

    def do_chdir(self, path):
        os.chdir(path)

    def do_many(self, count, prefix):
        for number in range(int(count)):
            self.do_file(f"{prefix}{number}")

    # --- looking

    def do_stat(self, path, field="kind"):
        return self._field(os.stat(path), field)

    def do_lstat(self, path, field="kind"):
        return self._field(os.lstat(path), field)

    def do_fstat(self, fd, field="kind"):
        return self._field(os.fstat(self._fd(fd)), field)

    @staticmethod
    def _field(found, field):
        if field == "kind":
            return _KINDS[stat.S_IFMT(found.st_mode)]
        if field == "mode":
            return f"{stat.S_IMODE(found.st_mode):04o}"
        if field == "owner":
            return f"{found.st_uid}:{found.st_gid}"
        if field == "rdev":
            return f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
        return str(getattr(found, f"st_{field}"))

    def do_same(self, one, other):
        return str(os.path.samestat(os.lstat(one), os.lstat(other)))

    def do_readlink(self, path):
        return os.readlink(path)

    def do_readlink_length(self, path):
        return str(len(os.readlink(path)))

    def do_access(self, path, mode):
        wanted = sum({"r": os.R_OK, "w": os.W_OK, "x": os.X_OK, "f": os.F_OK}[m] for m in mode)
        # access(2) asks for the real user, who is root here: faccessat2 with AT_EACCESS
        _checked(_LIBC.syscall(439, _AT_FDCWD, os.fsencode(path), wanted, 0x200))

    def do_list(self, path):
        return " ".join(sorted(os.listdir(path)))

    def do_count(self, path):
        return str(len(os.listdir(path)))

    def do_types(self, path):
        """What d_type says."""
        with os.scandir(path) as entries:
            return " ".join(
                sorted(f"{e.name}:{'dl'[e.is_symlink()] if e.is_dir(follow_symlinks=True) or e.is_symlink() else 'f'}" for e in entries)
            )

    def do_statvfs(self, path, field="namemax"):
        return str(getattr(os.statvfs(path), f"f_{field}"))

    def do_cat(self, path):
        with open(path, "rb") as file:
            return file.read().decode()

    def do_exec(self, path):
        """Run a program as execve would find it; a script's own errno comes through a pipe."""
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.execv(path, ["program"])
            except OSError as error:
                os.write(writer, str(error.errno).encode())
            os._exit(9)
        os.close(writer)
        said = os.read(reader, 20)
        os.close(reader)
        _, status = os.waitpid(child, 0)
        if said:
            raise OSError(int(said), os.strerror(int(said)))
        return str(os.waitstatus_to_exitcode(status))

    # --- attributes

    def do_mode(self, path, mode):
        os.chmod(path, int(mode, 8))

    def do_chmod(self, path, mode):
        os.chmod(path, int(mode, 8))

    def do_fchmod(self, fd, mode):
        os.fchmod(self._fd(fd), int(mode, 8))

    def do_chown(self, path, owner):
        os.chown(path, *(int(i) for i in owner.split(":")))

    do_own = do_chown

    def do_lchown(self, path, owner):
        os.lchown(path, *(int(i) for i in owner.split(":")))

    def do_fchown(self, fd, owner):
        os.fchown(self._fd(fd), *(int(i) for i in owner.split(":")))

    def do_truncate(self, path, size):
        os.truncate(path, int(size))

    def do_ftruncate(self, fd, size):
        os.ftruncate(self._fd(fd), int(size))

    def do_utime(self, path, atime="now", mtime="now"):
        if atime == mtime == "now":
            os.utime(path)
        else:
            os.utime(path, ns=(int(atime), int(mtime)))

    def do_utimensat(self, path, atime, mtime):
        """Each of the two: now, omit, a number of nanoseconds, bad."""
        values = []
        for word in (atime, mtime):
            special = {"now": (1 << 30) - 1, "omit": (1 << 30) - 2, "bad": 1_000_000_000}.get(word)
            values += [0, special] if special else list(divmod(int(word), 1_000_000_000))
        _checked(
            _LIBC.utimensat(_AT_FDCWD, os.fsencode(path), struct.pack("qqqq", *values), 0)
        )

    def do_futime(self, fd):
        os.utime(self._fd(fd))

    def do_setxattr(self, path, name, value, *flags):
        value = b"v" * int(value[1:]) if value[:1] == "%" else value.encode()
        os.setxattr(path, name, value, sum(_XATTR[f] for f in flags))

    def do_lsetxattr(self, path, name, value):
        os.setxattr(path, name, value.encode(), follow_symlinks=False)

    def do_getxattr(self, path, name):
        value = os.getxattr(path, name)
        return value.decode() if len(value) < 100 else str(len(value))

    def do_getxattr_room(self, path, name, size):
        room = ctypes.create_string_buffer(int(size) + 1)
        return str(
            _checked(_LIBC.getxattr(os.fsencode(path), name.encode(), room, int(size)))
        )

    def do_listxattr_room(self, path, size):
        room = ctypes.create_string_buffer(int(size) + 1)
        return str(_checked(_LIBC.listxattr(os.fsencode(path), room, int(size))))

    def do_listxattr(self, path):
        return " ".join(sorted(n for n in os.listxattr(path) if n.startswith("user.")))

    def do_removexattr(self, path, name):
        os.removexattr(path, name)

    def do_fsetxattr(self, fd, name, value):
        os.setxattr(self._fd(fd), name, value.encode())

    def do_touched(self, *words):
        """Say which times of which paths a call changes: `touched d f -- unlink d/x`."""
        split = words.index("--")
        paths, call = words[:split], words[split + 1 :]
        before = [os.lstat(p) for p in paths]
        time.sleep(_TICK_S)
        getattr(self, f"do_{call[0]}")(*call[1:])
        said = []
        for path, old in zip(paths, before, strict=True):
            new = os.lstat(path)
            letters = "".join(
                letter
                for letter in "amc"
                if getattr(new, f"st_{letter}time_ns") != getattr(old, f"st_{letter}time_ns")
            )
            said.append(f"{path}:{letters or '-'}")
        return " ".join(said)

    # --- open files

    def do_open(self, name, path, flags, mode="0644"):
        bits = 0
        for flag in flags.split(","):
            bits |= _FLAGS[flag]
        self._files[name] = os.open(path, bits, int(mode, 8))

    def do_openat(self, name, at, path, flags):
        bits = 0
        for flag in flags.split(","):
            bits |= _FLAGS[flag]
        self._files[name] = os.open(path, bits, dir_fd=self._fd(at))

    def do_close(self, fd):
        os.close(self._files.pop(fd) if fd in self._files else int(fd))

    def do_dup(self, fd, name):
        self._files[name] = os.dup(self._fd(fd))

    def do_write(self, fd, text):
        text = "x" * int(text[1:]) if text[:1] == "%" else text
        return str(os.write(self._fd(fd), text.encode()))

    def do_pwrite(self, fd, text, offset):
        text = "x" * int(text[1:]) if text[:1] == "%" else text
        return str(os.pwrite(self._fd(fd), text.encode(), int(offset)))

    def do_writev(self, fd, *texts):
        return str(os.writev(self._fd(fd), [t.encode() for t in texts]))

    def do_write_bad(self, fd):
        """From an address that is not there."""
        _checked(_LIBC.write(self._fd(fd), ctypes.c_void_p(1), ctypes.c_size_t(10)))

    def do_read_bad(self, fd):
        _checked(_LIBC.read(self._fd(fd), ctypes.c_void_p(1), ctypes.c_size_t(10)))

    def do_read(self, fd, length):
        return os.read(self._fd(fd), int(length)).decode().replace("\0", "0")

    def do_pread(self, fd, length, offset):
        return os.pread(self._fd(fd), int(length), int(offset)).decode().replace("\0", "0")

    def do_lseek(self, fd, offset, whence):
        return str(os.lseek(self._fd(fd), int(offset), _WHENCE[whence]))

    def do_fsync(self, fd):
        os.fsync(self._fd(fd))

    def do_fdatasync(self, fd):
        os.fdatasync(self._fd(fd))

    def do_fallocate(self, fd, mode, offset, length):
        _checked(
            _LIBC.fallocate(
                self._fd(fd), _FALLOCATE[mode], ctypes.c_long(int(offset)),
                ctypes.c_long(int(length)),
            )
        )  # fmt: skip

    def do_copy(self, source, target, length, at, to):
        return str(
            os.copy_file_range(
                self._fd(source), self._fd(target), int(length), int(at), int(to)
            )
        )

    def do_sendfile(self, target, source, length):
        return str(os.sendfile(self._fd(target), self._fd(source), 0, int(length)))

    def do_mmap(self, fd, length, access="r", sharing="shared"):
        prot = {"r": mmap.PROT_READ, "w": mmap.PROT_WRITE, "rw": mmap.PROT_READ | mmap.PROT_WRITE}
        flags = {"shared": mmap.MAP_SHARED, "private": mmap.MAP_PRIVATE}[sharing]
        address = _mmap(None, int(length), prot[access], flags, self._fd(fd), 0)
        if address == ctypes.c_void_p(-1).value:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        _LIBC.munmap(ctypes.c_void_p(address), ctypes.c_size_t(int(length)))

    def do_map_write(self, fd, length, at, text):
        with mmap.mmap(self._fd(fd), int(length)) as view:
            view[int(at) : int(at) + len(text)] = text.encode()
            view.flush()

    def do_flock(self, fd, kind):
        wanted = {"sh": fcntl.LOCK_SH, "ex": fcntl.LOCK_EX, "un": fcntl.LOCK_UN}[kind]
        fcntl.flock(self._fd(fd), wanted | fcntl.LOCK_NB)

    def do_lock(self, fd, kind, start="0", length="0"):
        wanted = struct.pack("hhqqi4x", _LOCKS[kind], 0, int(start), int(length), 0)
        fcntl.fcntl(self._fd(fd), fcntl.F_SETLK, wanted)

    def do_lock_other(self, path, kind, start="0", length="0"):
        """Try to lock from another process."""
        child = os.fork()
        if not child:
            code = 0
            try:
                fd = os.open(path, os.O_RDWR)
                fcntl.fcntl(
                    fd, fcntl.F_SETLK,
                    struct.pack("hhqqi4x", _LOCKS[kind], 0, int(start), int(length), 0),
                )  # fmt: skip
            except OSError as error:
                code = error.errno
            os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code:
            raise OSError(code, os.strerror(code))

    def do_ofd_lock(self, fd, kind, start="0", length="0"):
        wanted = struct.pack("hhqqi4x", _LOCKS[kind], 0, int(start), int(length), 0)
        fcntl.fcntl(self._fd(fd), fcntl.F_OFD_SETLK, wanted)

    def do_getdents(self, fd):
        return " ".join(sorted(os.listdir(self._fd(fd))))

    def do_fchdir(self, fd):
        os.fchdir(self._fd(fd))

    def do_append_flag(self, fd):
        """Set O_APPEND on an open file."""
        flags = fcntl.fcntl(self._fd(fd), fcntl.F_GETFL)
        fcntl.fcntl(self._fd(fd), fcntl.F_SETFL, flags | os.O_APPEND)

    def do_poll(self, fd):
        """A file is always ready."""
        poll = select.poll()
        poll.register(self._fd(fd), select.POLLIN | select.POLLOUT)
        return str(len(poll.poll(1000)))


_mmap = _LIBC.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
]  # fmt: skip


def outcome(words, calls):
    """Carry out calls; give `ok`, the name of an errno, or the text of the last."""
    try:
        given = words.do(calls)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok" if given is None else given
