"""The words about open files.

A row names the descriptors it opens.
"""

# ruff: noqa: PTH208

import ctypes
import errno
import fcntl
import mmap
import os
import select
import struct

from tests.system.posix.words import LIBC, Words, checked

_FLAGS = {
    "r": os.O_RDONLY, "w": os.O_WRONLY, "rw": os.O_RDWR, "creat": os.O_CREAT, "excl": os.O_EXCL,
    "trunc": os.O_TRUNC, "append": os.O_APPEND, "directory": os.O_DIRECTORY,
    "nofollow": os.O_NOFOLLOW, "path": os.O_PATH, "tmpfile": os.O_TMPFILE, "sync": os.O_SYNC,
    "nonblock": os.O_NONBLOCK, "noatime": os.O_NOATIME,
}  # fmt: skip
_FALLOCATE = {"keep": 1, "punch": 3, "punch_only": 2, "zero": 16, "zero_keep": 17, "plain": 0,
              "collapse": 8, "insert": 32}  # fmt: skip
_WHENCE = {"set": 0, "cur": 1, "end": 2, "data": 3, "hole": 4, "bad": 99}
_LOCKS = {"r": fcntl.F_RDLCK, "w": fcntl.F_WRLCK, "un": fcntl.F_UNLCK}
_mmap = LIBC.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
]  # fmt: skip


class OpenFiles(Words):
    """All words: those about open files, beside those of `Words`."""

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
        checked(LIBC.write(self._fd(fd), ctypes.c_void_p(1), ctypes.c_size_t(10)))

    def do_read_bad(self, fd):
        checked(LIBC.read(self._fd(fd), ctypes.c_void_p(1), ctypes.c_size_t(10)))

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
        checked(
            LIBC.fallocate(
                self._fd(fd), _FALLOCATE[mode], ctypes.c_long(int(offset)),
                ctypes.c_long(int(length)),
            )
        )  # fmt: skip

    def do_copy(self, source, target, length, at, to):
        return str(
            os.copy_file_range(self._fd(source), self._fd(target), int(length), int(at), int(to))
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
        LIBC.munmap(ctypes.c_void_p(address), ctypes.c_size_t(int(length)))

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


def outcome(words, calls):
    """Carry out calls; give `ok`, the name of an errno, or the text of the last."""
    try:
        given = words.do(calls)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "ok" if given is None else given
