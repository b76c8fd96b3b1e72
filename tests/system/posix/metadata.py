"""Attributes, extended attributes, and which operation changes which time of what."""

# ruff: noqa: E501 - rows are read as lines

from tests.system.posix.table import rows

ROWS = rows("""
# --- stat
root | file f 0644 text | stat f size                                       | 4
root | file f 0644 text | stat f nlink                                      | 1
root | file f; symlink f l | stat l                                         | file
root | file f; symlink f l | lstat l                                        | link
root | file f 0644 text | open a f r; fstat a size                          | 4
root | dir d            | same d d/.                                        | True
root | dir d            | same . d/..                                       | True
root |                  | statvfs . namemax                                 | 255
root | file f           | open a f w; write a abc; stat f size              | 3
root | file f           | link f g; same f g                                | True
root | file f; file g   | same f g                                          | False
# --- times set
root | file f           | utime f 5 7; stat f atime_ns                      | 5
root | file f           | utime f 5 7; stat f mtime_ns                      | 7
root | file f           | utime f 1234567890123456789 987654321098765432; stat f mtime_ns | 987654321098765432
root | file f           | utime f -5000000000 -7000000000; stat f mtime_ns  | -7000000000
root | file f           | utimensat f 5 omit; stat f atime_ns               | 5
root | file f           | utimensat f bad now                               | EINVAL
root | file f           | utimensat f now bad                               | EINVAL
root | file f           | utimensat f omit omit                             | ok
root | file f; symlink f l | utime l 5 7; stat f mtime_ns                   | 7
root | dir d            | utime d 5 7; stat d mtime_ns                      | 7
root | fifo p           | utime p 5 7; stat p mtime_ns                      | 7
# --- which times change
root | dir d            | touched d -- mkdir d/s                            | d:mc
root | dir d; dir d/s   | touched d -- rmdir d/s                            | d:mc
root | dir d            | touched d -- file d/f                             | d:mc
root | dir d; file d/f  | touched d -- unlink d/f                           | d:mc
root | dir d; file d/f; file x; link d/f y | touched d y -- unlink d/f      | d:mc y:c
root | dir d; file f    | touched d f -- link f d/g                         | d:mc f:c
root | dir d            | touched d -- symlink t d/l                        | d:mc
root | dir d            | touched d -- fifo d/p                             | d:mc
root | dir d; dir e; file d/f | touched d e -- rename d/f e/f               | d:mc e:mc
root | dir d; file d/f; file d/g; link d/g x | touched d x -- rename d/f d/g | d:mc x:c
root | dir d; file d/f  | touched d -- rename d/f d/g                       | d:mc
root | file f; link f g | touched f -- rename f g                           | f:-
root | file f; link f g | touched g -- rename f h                           | g:c
root | dir d; dir d/s; dir e | touched d e -- rename d/s e/s                | d:mc e:mc
root | file f           | touched f -- chmod f 0600                         | f:c
root | file f           | touched f -- chmod f 0644                         | f:c
root | file f           | touched f -- chown f 5:5                          | f:c
root | file f           | touched f -- chown f -1:-1                        | f:c
root | file f           | touched f -- utime f 1 2                          | f:amc
root | file f           | touched f -- utime f                              | f:amc
root | file f           | touched f -- utimensat f omit omit                | f:-
root | file f           | touched f -- utimensat f 5 omit                   | f:ac
root | file f           | touched f -- utimensat f omit 5                   | f:mc
root | file f           | touched f -- setxattr f user.a v                  | f:c
root | file f; setxattr f user.a v | touched f -- removexattr f user.a      | f:c
root | file f; setxattr f user.a v | touched f -- getxattr f user.a         | f:-
root | file f 0644 text | touched f -- truncate f 2                         | f:mc
root | file f 0644 text | touched f -- truncate f 4                         | f:mc
root | file f 0644 text | touched f -- truncate f 9                         | f:mc
root | file f 0644 text | open a f w; touched f -- ftruncate a 4            | f:mc
root | file f 0644 text | open a f w; touched f -- ftruncate a 2            | f:mc
root | file f 0644 text | open a f w; touched f -- write a x                | f:mc
root | file f 0644 text | open a f w; touched f -- write a ""               | f:-
root | file f 0644 text | open a f w; touched f -- pwrite a x 9             | f:mc
root | file f 0644 text | open a f rw; touched f -- fallocate a punch 0 2   | f:mc
root | file f 0644 text | open a f rw; touched f -- fallocate a plain 0 9   | f:mc
root | file f           | touched f -- open a f w,trunc                     | f:mc
root | file f 0644 text | touched f -- open a f w,trunc                     | f:mc
root | file f 0644 text | touched f -- open a f w,creat                     | f:-
root | file f 0644 text | touched f -- cat f                                | f:a
root | file f 0644 text | open a f r; touched f -- pread a 9 0              | f:a
root | file f 0644 text | open a f r; touched f -- pread a 0 0              | f:-
root | file f 0644 text; utimensat f 5 omit | touched f -- cat f            | f:a
root | file f 0644 text | touched f -- stat f                               | f:-
root | file f 0644 text | touched f -- access f r                           | f:-
root | file f 0644 text | open a f r; touched f -- fsync a                  | f:-
root | dir d; file d/f  | touched d -- list d                               | d:a
root | dir d; file d/f  | touched d -- stat d/f                             | d:-
root | symlink t l      | touched l -- readlink l                           | l:a
root | symlink t l      | touched l -- lstat l                              | l:-
root | dir d            | touched d -- chmod d 0700                         | d:c
root | dir d; file d/f  | touched d -- chmod d/f 0600                       | d:-
root | dir d; file d/f  | touched d -- truncate d/f 9                       | d:-
root | file f 0644 text | open a f r; unlink f; open b f w,creat; touched f -- pread a 9 0 | f:-
root | file f           | touched f -- mkdir f                              | EEXIST
# --- extended attributes
root | file f           | setxattr f user.a v; getxattr f user.a            | v
root | file f           | setxattr f user.a ""; getxattr f user.a           |
root | file f           | setxattr f user.a v create                        | ok
root | file f; setxattr f user.a v | setxattr f user.a w create             | EEXIST
root | file f           | setxattr f user.a v replace                       | ENODATA
root | file f; setxattr f user.a v | setxattr f user.a w replace; getxattr f user.a | w
root | file f; setxattr f user.a v | setxattr f user.a longer; getxattr f user.a | longer
root | file f; setxattr f user.a v; setxattr f user.b v | listxattr f       | user.a user.b
root | file f; setxattr f user.a v | removexattr f user.a; getxattr f user.a | ENODATA
root | file f           | removexattr f user.a                              | ENODATA
root | file f           | getxattr f user.a                                 | ENODATA
root | file f           | setxattr f nothing v                              | ENOTSUP
root | file f           | setxattr f other.a v                              | ENOTSUP
root | file f           | setxattr f user. v                                | EINVAL
root | file f           | setxattr f "" v                                   | ERANGE
root | file f           | getxattr f other.a                                | ENOTSUP
root | file f           | setxattr f user.@250 v                            | ok
root | file f           | setxattr f user.@251 v                            | ERANGE
root | file f           | setxattr f user.a %65537                          | E2BIG
root | file f           | setxattr f user.a %4000; getxattr f user.a        | 4000
root | file f; setxattr f user.a vvvv | getxattr_room f user.a 0            | 4
root | file f; setxattr f user.a vvvv | getxattr_room f user.a 4            | 4
root | file f; setxattr f user.a vvvv | getxattr_room f user.a 3            | ERANGE
root | file f; setxattr f user.a vvvv | listxattr_room f 0                  | 7
root | file f; setxattr f user.a vvvv | listxattr_room f 6                  | ERANGE
root | dir d            | setxattr d user.a v; getxattr d user.a            | v
root | file f           | open a f r; fsetxattr a user.a v; getxattr f user.a | v
root | symlink t l      | lsetxattr l user.a v                              | EPERM
root | symlink t l      | lsetxattr l trusted.a v                           | ok
root | fifo p           | setxattr p user.a v                               | EPERM
root | chr p            | setxattr p user.a v                               | EPERM
root | file f; symlink f l | setxattr l user.a v; getxattr f user.a         | v
root | file f; setxattr f user.a v | link f g; getxattr g user.a            | v
root | file f; setxattr f user.a v | rename f g; getxattr g user.a          | v
root | file f; file g; setxattr g user.a v | rename f g; getxattr g user.a  | ENODATA
""")
