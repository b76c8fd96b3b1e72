"""Who may do what: permission bits, owners, sticky directories, set-id bits, inherited groups."""

# ruff: noqa: E501 - rows are read as lines

from tests.system.posix.table import Row, rows

_BITS = {"r": "open a f r", "w": "open a f w", "x": "exec f"}
_SCRIPT = "#!/bin/true"


def _classes():
    """Each class of users is ruled by its own three bits, and by no other's."""
    for user, shift in (("ann", 6), ("cat", 3), ("bob", 0)):
        for bits in range(8):
            for letter, bit in (("r", 4), ("w", 2)):
                expected = "ok" if bits & bit else "EACCES"
                mode = f"{bits << shift:04o}"
                setup = f"file f {mode}; own f 20001:20001"
                yield Row(user, setup, _BITS[letter], expected)
                yield Row(user, setup, f"access f {letter}", expected)
            # whoever may execute a script must be able to read it too
            mode = f"{bits << shift:04o}"
            setup = f"file f {mode} {_SCRIPT}; own f 20001:20001"
            expected = "0" if bits & 5 == 5 else None if bits & 1 else "EACCES"
            if expected:
                yield Row(user, setup, "exec f", expected)


def _directories():
    """Reading a directory lists it, searching leads through it, writing changes it."""
    for user, shift in (("ann", 6), ("cat", 3), ("bob", 0)):
        for bits in range(8):
            mode = f"{bits << shift:04o}"
            setup = f"dir d; file d/f 0666; dir d/s; own d 20001:20001; mode d {mode}"
            yield Row(user, setup, "list d", "f s" if bits & 4 else "EACCES")
            yield Row(user, setup, "stat d/f", "file" if bits & 1 else "EACCES")
            yield Row(user, setup, "chdir d", "ok" if bits & 1 else "EACCES")
            for call in ("mkdir d/n", "unlink d/f", "rmdir d/s", "rename d/f d/g"):
                yield Row(user, setup, call, "ok" if bits & 3 == 3 else "EACCES")


ROWS = [
    *_classes(),
    *_directories(),
    *rows("""
# --- root
root | file f 0000; own f 20001:20001 | open a f rw                          | ok
root | file f 0666                    | exec f                               | EACCES
root | dir d 0000                     | open a d/x w,creat                   | ok
root | file f 0000                    | access f rw                          | ok
root | file f 0000                    | access f x                           | EACCES
root | file f 0010                    | access f x                           | ok
# --- chmod
ann  | file f; own f 20001:20001      | chmod f 0600; stat f mode            | 0600
bob  | file f; own f 20001:20001      | chmod f 0600                         | EPERM
cat  | file f 0660; own f 20001:20001 | chmod f 0600                         | EPERM
ann  | file f; own f 20001:20001      | chmod f 04755; stat f mode           | 4755
ann  | file f; own f 20001:20001      | chmod f 02755; stat f mode           | 2755
ann  | file f; own f 20001:20002      | chmod f 02755; stat f mode           | 0755
root | file f; own f 20001:20002      | chmod f 02755; stat f mode           | 2755
ann  | dir d; own d 20001:20002       | chmod d 02755; stat d mode           | 0755
ann  | dir d; own d 20001:20001       | chmod d 03777; stat d mode           | 3777
ann  | file f; own f 20001:20001      | chmod f 01644; stat f mode           | 1644
root | file f                         | chmod f 07777; stat f mode           | 7777
ann  | file f; own f 20001:20001; symlink f l | chmod l 0600; stat f mode     | 0600
ann  | file f 0000; own f 20001:20001 | chmod f 0600; open a f rw            | ok
ann  | file f; own f 20001:20001      | open a f r; fchmod a 0600; stat f mode | 0600
bob  | file f; own f 20001:20001      | open a f r; fchmod a 0600            | EPERM
# --- chown
root | file f                         | chown f 1:2; stat f owner            | 1:2
root | file f                         | chown f -1:7; stat f owner           | 0:7
root | file f                         | chown f 7:-1; stat f owner           | 7:0
root | file f; symlink f l            | chown l 1:2; stat f owner            | 1:2
root | file f; symlink f l            | lchown l 1:2; lstat l owner          | 1:2
root | file f; symlink f l            | lchown l 1:2; stat f owner           | 0:0
ann  | file f; own f 20001:20001      | chown f 20002:-1                     | EPERM
ann  | file f; own f 20001:20001      | chown f 20001:-1                     | ok
ann  | file f; own f 20001:20001      | chown f -1:20002                     | EPERM
ann  | file f; own f 20001:20001      | chown f -1:20001                     | ok
cat  | file f; own f 20003:20003      | chown f -1:20001; stat f owner       | 20003:20001
cat  | file f; own f 20003:20001      | chown f 20003:20003; stat f owner    | 20003:20003
cat  | file f; own f 20001:20001      | chown f -1:20001                     | EPERM
bob  | file f; own f 20001:20001      | chown f -1:-1                        | ok
bob  | file f 0666; own f 20001:20001 | open a f rw; fchown a 20002:20002    | EPERM
root | file f; own f 20001:20001; mode f 06755 | chown f 5:5; stat f mode    | 0755
root | file f; own f 20001:20001; mode f 06745 | chown f 5:5; stat f mode    | 2745
root | file f; own f 20001:20001; mode f 06755 | chown f -1:-1; stat f mode  | 0755
cat  | file f; own f 20003:20003; mode f 06755 | chown f -1:20001; stat f mode | 0755
root | dir d; mode d 06755            | chown d 5:5; stat d mode             | 6755
root | fifo f; mode f 06755           | chown f 5:5; stat f mode             | 0755
# --- set-id bits end with a change by others
bob  | file f; mode f 06777           | open a f w; write a x; fstat a mode  | 0777
bob  | file f 0644 abc; mode f 06777  | truncate f 1; stat f mode            | 0777
bob  | file f 0644 abc; mode f 06777  | open a f w,trunc; stat f mode        | 0777
bob  | file f; mode f 06777           | open a f w; pwrite a x 5; fstat a mode | 0777
bob  | file f; mode f 06767           | open a f w; write a x; fstat a mode  | 0767
bob  | file f; mode f 02767           | open a f w; write a x; fstat a mode  | 0767
bob  | file f; mode f 06777           | open a f rw; fallocate a plain 0 10; fstat a mode | 0777
bob  | file f 0644 abc; mode f 06777  | open a f rw; read a 1; fstat a mode  | 6777
bob  | file f; mode f 06777           | open a f w; close a; stat f mode     | 6777
root | file f; mode f 06777           | open a f w; write a x; fstat a mode  | 6777
bob  | file f; mode f 06777           | open a f w; write a ""; fstat a mode | 6777
# --- sticky directories
ann  | dir d 01777; file d/f; own d/f 20001:20001     | unlink d/f           | ok
bob  | dir d 01777; file d/f; own d/f 20001:20001     | unlink d/f           | EPERM
bob  | dir d 01777; file d/f 0666; own d/f 20001:20001 | rename d/f d/g      | EPERM
bob  | dir d 01777; file d/f 0666; own d/f 20001:20001 | rename d/f x        | EPERM
ann  | dir d 01777; file d/f; own d/f 20001:20001     | rename d/f d/g       | ok
bob  | dir d 01777; dir d/s 0777; own d/s 20001:20001 | rmdir d/s            | EPERM
ann  | dir d 01777; dir d/s; own d/s 20001:20001      | rmdir d/s            | ok
bob  | dir d 01777; file d/f; own d/f 20001:20001; file x; own x 20002:20002 | rename x d/f | EPERM
bob  | dir d 01777; own d 20002:20002; file d/f; own d/f 20001:20001 | unlink d/f | ok
bob  | dir d 01777; file d/f 0666; own d/f 20001:20001; file d/g; own d/g 20002:20002 | rename2 d/g d/f exchange | EPERM
root | dir d 01777; file d/f; own d/f 20001:20001     | unlink d/f           | ok
bob  | dir d 01777                    | open a d/f w,creat; unlink d/f       | ok
bob  | dir d 01777; file d/f 0666; own d/f 20001:20001 | open a d/f w        | ok
# --- moving directories needs to write them
ann  | dir d; own d 20001:20001; dir d/s; own d/s 20001:20001; mode d/s 0555; dir d/t; own d/t 20001:20001 | rename d/s d/t/s | EACCES
ann  | dir d; own d 20001:20001; dir d/s; own d/s 20001:20001; mode d/s 0555 | rename d/s d/t | ok
ann  | dir d 0777; dir d/s; dir e 0555 | rename d/s e/s                      | EACCES
# --- set-group-id directories hand their group down
root | dir d; own d 0:20009; mode d 02777 | mkdir d/s; stat d/s owner       | 0:20009
root | dir d; own d 0:20009; mode d 02777 | mkdir d/s; stat d/s mode        | 2755
root | dir d; own d 0:20009; mode d 02777 | open a d/f w,creat; stat d/f owner | 0:20009
root | dir d; own d 0:20009; mode d 02777 | open a d/f w,creat 0666; stat d/f mode | 0644
ann  | dir d; own d 0:20009; mode d 02777 | open a d/f w,creat; stat d/f owner | 20001:20009
ann  | dir d; own d 0:20009; mode d 02777 | mkdir d/s; stat d/s mode        | 2755
ann  | dir d; own d 0:20009; mode d 02777 | symlink t d/l; lstat d/l owner  | 20001:20009
ann  | dir d; own d 0:20009; mode d 02777 | fifo d/p; stat d/p owner        | 20001:20009
ann  | dir d; own d 0:20009; mode d 02777 | open a d/f w,creat 02775; stat d/f mode | 0755
ann  | dir d; own d 0:20001; mode d 02777 | open a d/f w,creat 02775; stat d/f mode | 2755
ann  | dir d; own d 0:20009; mode d 02777 | open a d rw,tmpfile; fstat a owner | 20001:20009
ann  | dir d 0777                     | open a d/f w,creat; stat d/f owner   | 20001:20001
# --- links and protected files
bob  | dir d 0777; file d/f 0600      | rename d/f d/g                       | ok
bob  | dir d 0777; file d/f 0600      | unlink d/f                           | ok
bob  | dir d 0777; dir d/s 0700       | rmdir d/s                            | ok
# --- times
ann  | file f; own f 20001:20001      | utime f                              | ok
ann  | file f; own f 20001:20001      | utime f 1 2; stat f mtime_ns         | 2
bob  | file f 0666; own f 20001:20001 | utime f                              | ok
bob  | file f 0644; own f 20001:20001 | utime f                              | EACCES
bob  | file f 0666; own f 20001:20001 | utime f 1 2                          | EPERM
bob  | file f 0666; own f 20001:20001 | utimensat f now omit                 | EPERM
bob  | file f 0666; own f 20001:20001 | utimensat f omit omit                | ok
bob  | file f 0444; own f 20001:20001 | open a f r; futime a                 | EACCES
# --- extended attributes
ann  | file f; own f 20001:20001      | setxattr f user.a v; getxattr f user.a | v
bob  | file f 0644; own f 20001:20001 | setxattr f user.a v                  | EACCES
bob  | file f 0666; own f 20001:20001 | setxattr f user.a v                  | ok
bob  | file f 0600; own f 20001:20001 | getxattr f user.a                    | EACCES
bob  | file f 0666; own f 20001:20001 | setxattr f trusted.a v               | EPERM
bob  | file f 0666; own f 20001:20001 | getxattr f trusted.a                 | ENODATA
bob  | file f 0666; setxattr f trusted.a v; own f 20001:20001 | removexattr f trusted.a | EPERM
root | file f                         | setxattr f trusted.a v; getxattr f trusted.a | v
root | file f                         | setxattr f security.a v; getxattr f security.a | v
bob  | dir d 01777; own d 20001:20001 | setxattr d user.a v                  | EPERM
# --- truncate, open
bob  | file f 0444                    | truncate f 0                         | EACCES
bob  | file f 0444                    | open a f r,trunc                     | EACCES
bob  | file f 0444                    | open a f w,creat                     | EACCES
bob  | file f 0222                    | truncate f 0                         | ok
bob  | file f 0666; own f 20001:20001 | open a f r,noatime                   | EPERM
ann  | file f 0666; own f 20001:20001 | open a f r,noatime                   | ok
ann  | file f 0666; own f 20001:20001 | open a f rw; chmod f 0000; write a x | 1
ann  |                                | open a f w,creat 0000; write a x     | 1
ann  |                                | open a f w,creat 0000; open b f r    | EACCES
"""),
]
