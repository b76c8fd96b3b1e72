"""The words about names and attributes: each is one system call, or says what one call shows.

A word's arguments are text. What it gives is compared as text; an error is raised as OSError.
"""

# ruff: noqa: PTH101, PTH102, PTH104, PTH106, PTH108, PTH115, PTH116, PTH123, PTH208, PTH211

import ctypes
import os
import socket
import stat
import struct
import time

from tests.system.posix.table import expand

LIBC = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD = -100
_RENAME = {"noreplace": 1, "exchange": 2, "both": 3, "whiteout": 4, "unknown": 64}
_KINDS = {
    stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "link", stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket", stat.S_IFCHR: "chr", stat.S_IFBLK: "blk",
}  # fmt: skip
_XATTR = {"create": os.XATTR_CREATE, "replace": os.XATTR_REPLACE}
_TICK_S = 0.012
"""More than the clock of a local file system's times takes to move."""


def checked(result):
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


class Words:
    """The words, and the descriptors a row has opened."""

    def __init__(self):
        self._files = {}

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
        checked(LIBC.linkat(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), followed))

    def do_link_fd(self, fd, new):
        self.do_link_followed(f"/proc/self/fd/{self._fd(fd)}", new)

    def do_rename(self, old, new):
        os.rename(old, new)

    def do_rename2(self, old, new, flag):
        checked(
            LIBC.renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), _RENAME[flag])
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
        checked(LIBC.syscall(439, _AT_FDCWD, os.fsencode(path), wanted, 0x200))

    def do_list(self, path):
        return " ".join(sorted(os.listdir(path)))

    def do_count(self, path):
        return str(len(os.listdir(path)))

    def do_types(self, path):
        """What d_type says."""
        with os.scandir(path) as entries:
            kinds = [
                (e.name, "l" if e.is_symlink() else "d" if e.is_dir() else "f") for e in entries
            ]
        return " ".join(sorted(f"{name}:{kind}" for name, kind in kinds))

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
        checked(LIBC.utimensat(_AT_FDCWD, os.fsencode(path), struct.pack("qqqq", *values), 0))

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
        return str(checked(LIBC.getxattr(os.fsencode(path), name.encode(), room, int(size))))

    def do_listxattr_room(self, path, size):
        room = ctypes.create_string_buffer(int(size) + 1)
        return str(checked(LIBC.listxattr(os.fsencode(path), room, int(size))))

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
