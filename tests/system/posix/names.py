"""Making, removing, linking and moving names: what is refused, and what is there afterwards."""

# ruff: noqa: E501 - rows are read as lines

from tests.system.posix.table import rows

ROWS = rows("""
# --- mkdir, rmdir
root |                              | mkdir d; stat d                      | dir
root |                              | mkdir d 0777; stat d mode            | 0755
root |                              | umask 027; mkdir d 0777; stat d mode | 0750
root |                              | umask 0; mkdir d 01777; stat d mode  | 1777
root |                              | mkdir d; stat d nlink                | 2
root | dir d                        | mkdir d/s; stat d nlink              | 3
root | dir d; dir d/s               | rmdir d/s; stat d nlink              | 2
root | dir d; dir d/s; file d/f     | stat d nlink                         | 3
root |                              | mkdir .                              | EEXIST
root |                              | mkdir ..                             | EEXIST
root | dir d                        | mkdir d/.                            | EEXIST
root |                              | mkdir d/.                            | ENOENT
root | dir d                        | rmdir d; stat d                      | ENOENT
root | dir d; file d/f              | rmdir d                              | ENOTEMPTY
root | dir d; dir d/s               | rmdir d                              | ENOTEMPTY
root | dir d; symlink x d/l         | rmdir d                              | ENOTEMPTY
root | dir d; file d/f; unlink d/f  | rmdir d                              | ok
root |                              | rmdir .                              | EINVAL
root | dir d                        | rmdir d/.                            | EINVAL
root | dir d                        | rmdir d/..                           | ENOTEMPTY
root | dir d; dir d/s               | rmdir d/s/..                         | ENOTEMPTY
root | dir d; symlink d l           | rmdir l                              | ENOTDIR
root | dir d; symlink d l           | rmdir l/                             | ENOTDIR
root | fifo p                       | rmdir p                              | ENOTDIR
root | dir d                        | chdir d; rmdir ../d; mkdir x         | ENOENT
root | dir d                        | chdir d; rmdir ../d; open x f w,creat | ENOENT
root | dir d                        | chdir d; rmdir ../d; list .          |
root | dir d                        | open a d r; rmdir d; fstat a nlink   | 0
root | dir d; dir d/s               | open a d/s r; rmdir d/s; openat b a .. r; fstat b kind | dir
root | dir d                        | open a d r; rmdir d; openat b a x w,creat | ENOENT
# --- creating
root |                              | open a f w,creat 0666; stat f mode   | 0644
root |                              | umask 077; open a f w,creat 0666; stat f mode | 0600
root |                              | open a f w,creat 06777; stat f mode  | 6755
root |                              | open a f w,creat 0444; write a hi    | 2
root |                              | open a f w,creat; stat f size        | 0
root | file f 0644 old              | open a f w,creat; stat f size        | 3
root | file f 0644 old              | open a f w,creat,trunc; stat f size  | 0
root | file f 0644 old              | open a f w,trunc; stat f size        | 0
root | file f 0600                  | open a f w,creat 0644; stat f mode   | 0600
root | symlink t l                  | open a l w,creat; stat t             | file
root | symlink t l                  | open a l w,creat,excl                | EEXIST
root | symlink d l; dir d           | open a l w,creat                     | EISDIR
root | symlink d/ l                 | open a l w,creat                     | EISDIR
root |                              | open a . w                           | EISDIR
root |                              | open a . rw                          | EISDIR
root |                              | open a . r,creat                     | EISDIR
root | dir d                        | open a d w,directory                 | EISDIR
root | dir d                        | open a d r,nofollow; fstat a         | dir
root | symlink f l; file f          | open a l path,nofollow; fstat a      | link
root | symlink f l; file f          | open a l r,nofollow                  | ELOOP
root | file f                       | open a f path; read a 1              | EBADF
root | file f                       | open a f path; fchmod a 0600         | EBADF
root | file f                       | open a f path; fstat a               | file
root | fifo p                       | open a p w,nonblock                  | ENXIO
root | fifo p                       | open a p r,nonblock; fstat a         | fifo
root | fifo p                       | open a p r,nonblock; open b p w,nonblock; write b hi; read a 9 | hi
root | fifo p                       | open a p r,nonblock; open b p w,nonblock; read a 9 | EAGAIN
root | fifo p                       | open a p rw; lseek a 0 set           | ESPIPE
root | socket s                     | open a s r                           | ENXIO
root | socket s                     | stat s                               | socket
root |                              | bind s; stat s                       | socket
root | chr n                        | open a n rw; write a hi              | 2
root | chr n                        | stat n rdev                          | 1:3
root | blk b                        | stat b rdev                          | 7:200
root | blk b                        | stat b                               | blk
root |                              | fifo p 0666; stat p mode             | 0644
root |                              | mknod f 0666; stat f                 | file
ann  |                              | chr n                                | EPERM
ann  |                              | blk n                                | EPERM
ann  |                              | fifo p; stat p owner                 | 20001:20001
ann  |                              | socket p; stat p owner               | 20001:20001
ann  |                              | mknod f; stat f owner                | 20001:20001
ann  |                              | open a f w,creat; stat f owner       | 20001:20001
ann  |                              | mkdir d; stat d owner                | 20001:20001
ann  |                              | symlink t l; lstat l owner           | 20001:20001
root |                              | open a . rw,tmpfile; fstat a nlink   | 0
root |                              | open a . rw,tmpfile; write a hi; pread a 5 0 | hi
root |                              | open a . rw,tmpfile 0666; fstat a mode | 0644
root |                              | open a . rw,tmpfile; write a hi; link_fd a f; cat f | hi
root |                              | open a . rw,tmpfile; link_fd a f; stat f nlink | 1
root |                              | open a . rw,tmpfile,excl; link_fd a f | ENOENT
root |                              | open a . r,tmpfile                   | EINVAL
root | file f                       | open a f rw; unlink f; link_fd a g   | ENOENT
ann  | dir d 0555                   | open a d rw,tmpfile                  | EACCES
# --- names
root |                              | open a @255 w,creat; stat @255        | file
root |                              | mkdir @255; rmdir @255               | ok
root | file f                       | rename f @255; stat @255             | file
root | file f                       | rename f @256                        | ENAMETOOLONG
root | file f                       | link f @255; stat @255 nlink         | 2
root |                              | symlink @255 l; stat l               | ENOENT
root |                              | symlink @256 l; stat l               | ENAMETOOLONG
root |                              | symlink ~4095f l; readlink_length l  | 4095
root |                              | symlink ~4096f l                     | ENAMETOOLONG
root | file f                       | symlink ~4095f l; stat l             | file
root |                              | symlink "" l                         | ENOENT
root | file f                       | stat ~4095f                          | file
root |                              | open a \xff w,creat; list .          | \xff
root |                              | open a é w,creat; open b É w,creat; count . | 2
root |                              | open a .hidden w,creat; list .       | .hidden
root |                              | open a ... w,creat; list .           | ...
root | file A                       | stat a                               | ENOENT
# --- unlink
root | file f                       | unlink f; stat f                     | ENOENT
root | file f                       | unlink f; unlink f                   | ENOENT
root | file f; link f g             | unlink f; stat g nlink               | 1
root | file f 0644 text; link f g   | unlink f; cat g                      | text
root | symlink t l                  | unlink l; lstat l                    | ENOENT
root | file t; symlink t l          | unlink l; stat t                     | file
root | fifo p                       | unlink p; stat p                     | ENOENT
root | socket s                     | unlink s; stat s                     | ENOENT
root | chr n                        | unlink n; stat n                     | ENOENT
root | dir d                        | unlink d                             | EISDIR
root |                              | unlink .                             | EISDIR
root | dir d; symlink d l           | unlink l/                            | ENOTDIR
root | file f 0000                  | unlink f                             | ok
root | file f 0644 text             | open a f r; unlink f; read a 9       | text
root | file f 0644 text             | open a f r; unlink f; fstat a nlink  | 0
root | file f 0644 text             | open a f rw; unlink f; write a more; fstat a size | 4
root | file f 0644 text             | open a f r; unlink f; open b f w,creat; fstat a size | 4
root | file f                       | open a f rw; unlink f; ftruncate a 9; fchmod a 0600; fstat a mode | 0600
root | file f                       | open a f rw; unlink f; close a; stat f | ENOENT
root | file f; link f g; link f h   | open a f r; unlink f; unlink g; fstat a nlink | 1
# --- link
root | file f                       | link f g; same f g                   | True
root | file f                       | link f g; stat f nlink               | 2
root | file f                       | link f f                             | EEXIST
root | file f; file g               | link f g                             | EEXIST
root | file f; dir d                | link f d                             | EEXIST
root | file f; symlink x l          | link f l                             | EEXIST
root | dir d                        | link d e                             | EPERM
root |                              | link . e                             | EPERM
root | symlink t l                  | link l m; lstat m                    | link
root | symlink t l                  | link l m; lstat l nlink              | 2
root | file t; symlink t l          | link_followed l m; same t m          | True
root | fifo p                       | link p q; stat q                     | fifo
root | socket p                     | link p q; stat q nlink               | 2
root | chr p                        | link p q; stat q rdev                | 1:3
root | file f; dir d                | link f d/g; unlink f; stat d/g       | file
root | file f 0644 text             | link f g; open a g w; pwrite a T 0; cat f | Text
root | file f                       | link f g; chmod g 0600; stat f mode  | 0600
root | file f                       | link f g; setxattr g user.a v; getxattr f user.a | v
root | dir d                        | open a d r; rmdir d; mkdir d; link d d/x | EPERM
# --- symlink, readlink
root |                              | symlink t l; readlink l              | t
root |                              | symlink t l; lstat l size            | 1
root |                              | symlink t l; lstat l mode            | 0777
root |                              | symlink ../a//b/./c l; readlink l    | ../a//b/./c
root | symlink t l                  | symlink u l                          | EEXIST
root | file f                       | readlink f                           | EINVAL
root | fifo p                       | readlink p                           | EINVAL
root |                              | readlink .                           | EINVAL
root | dir d; file d/f; symlink d l | stat l/f                             | file
root | dir d; symlink d l           | open a l/f w,creat; list d           | f
root | symlink b a; symlink c b; file c | stat a                           | file
root | symlink b a; symlink a b     | stat a                               | ELOOP
root | symlink . l; file f          | stat l/l/l/l/l/l/l/l/l/l/f           | file
root | symlink /dev/null l          | open a l w; write a hi               | 2
# --- rename: what it says
root | file f                       | rename f g; stat f                   | ENOENT
root | file f 0644 text             | rename f g; cat g                    | text
root | file f                       | rename f f                           | ok
root | file f; link f g             | rename f g; stat f nlink             | 2
root | file f; link f g             | rename f g; list .                   | f g
root | file f 0644 a; file g 0644 b | rename f g; cat g                    | a
root | file f; file g               | rename f g; count .                  | 1
root | file f; file g; link g h     | rename f g; stat h nlink             | 1
root | file f; dir d                | rename f d                           | EISDIR
root | dir d; file f                | rename d f                           | ENOTDIR
root | dir d; symlink x l           | rename d l                           | ENOTDIR
root | dir d; fifo p                | rename d p                           | ENOTDIR
root | dir d; dir e                 | rename d e; stat d                   | ENOENT
root | dir d; dir e; file e/f       | rename d e                           | ENOTEMPTY
root | dir d; dir e; file d/f       | rename d e; list e                   | f
root | dir d                        | rename d d/e                         | EINVAL
root | dir d; dir d/e               | rename d d/e                         | EINVAL
root | dir d; dir d/e; dir d/e/f    | rename d d/e/f/g                     | EINVAL
root | dir d; dir d/e               | rename d/e d                         | ENOTEMPTY
root | dir d; dir d/e; dir d/e/f    | rename d/e/f d                       | ENOTEMPTY
root |                              | rename . x                           | EBUSY
root | dir d                        | rename d/. x                         | EBUSY
root | dir d                        | rename d .                           | EBUSY
root | dir d                        | rename d ..                          | EBUSY
root | dir d; dir e                 | rename d e/..                        | EBUSY
root | dir d                        | rename d d; stat d                   | dir
root | dir d                        | rename d d/                          | ok
root | dir d                        | rename d/ e; stat e                  | dir
root | dir d                        | rename d e/; stat e                  | dir
root | file f                       | rename f g/                          | ENOTDIR
root | file f                       | rename f/ g                          | ENOTDIR
root | symlink t l                  | rename l m; readlink m               | t
root | symlink d l; dir d           | rename l/ m                          | ENOTDIR
root | symlink t l; file f 0644 new | rename f l; lstat l                  | file
root | file f; symlink f l          | rename l f; lstat f                  | link
root | fifo p; file f               | rename f p; stat p                   | file
root | dir d; dir d/s; dir e        | rename d/s e/s; stat d nlink         | 2
root | dir d; dir d/s; dir e        | rename d/s e/s; stat e nlink         | 3
root | dir d; dir d/s; dir e        | rename d/s e/s; chdir e/s; same .. ../../e | True
root | dir d; dir d/s; dir e; dir e/t | rename d/s e/t; stat e nlink       | 3
root | dir d; file d/f; dir e       | rename d/f e/g; list e               | g
root | dir d; file d/f              | rename d/f f; list d                 |
root | file f 0644 abc; file g 0644 wxyz | open a g r; rename f g; read a 9 | wxyz
root | file f 0644 abc              | open a f r; rename f g; read a 9     | abc
root | file f                       | open a f w; rename f g; write a new; cat g | new
root | dir d; dir e                 | open a e r; rename d e; fstat a nlink | 0
root | dir d                        | chdir d; rename ../d ../e; open a x w,creat; stat ../e/x | file
# --- rename: flags
root | file f; file g               | rename2 f g noreplace                | EEXIST
root | file f                       | rename2 f g noreplace; stat g        | file
root | file f                       | rename2 f f noreplace                | EEXIST
root | dir d; file f                | rename2 f d noreplace                | EEXIST
root | file f; symlink no l         | rename2 f l noreplace                | EEXIST
root | file f 0644 a; file g 0644 b | rename2 f g exchange; cat f          | b
root | file f 0644 a; file g 0644 b | rename2 f g exchange; cat g          | a
root | file f                       | rename2 f g exchange                 | ENOENT
root | file f                       | rename2 g f exchange                 | ENOENT
root | file f; dir d                | rename2 f d exchange; stat f         | dir
root | file f; dir d                | rename2 f d exchange; stat d         | file
root | dir d; file d/f; dir e       | rename2 d e exchange; list e         | f
root | dir d; dir d/s; file f       | rename2 d/s f exchange; stat d nlink | 2
root | dir d; dir d/s               | rename2 d d/s exchange               | EINVAL
root | dir d; dir d/s               | rename2 d/s d exchange               | EINVAL
root | file f                       | rename2 f f exchange; stat f         | file
root | file f; file g               | rename2 f g both                     | EINVAL
root | file f; file g               | rename2 f g unknown                  | EINVAL
root | symlink t l; file f          | rename2 l f exchange; readlink f     | t
# --- listing
root | file f; dir d; symlink f l   | list .                               | d f l
root | file f; dir d; symlink f l   | types .                              | d:d f:f l:l
root |                              | list .                               |
root | many 300 n                   | count .                              | 300
root | many 40 n                    | unlink n7; count .                   | 39
root | file f                       | list f                               | ENOTDIR
root | dir d; file d/f              | open a d r; getdents a               | f
root | file f                       | open a f r; getdents a               | ENOTDIR
root | dir d                        | open a d r; rmdir d; getdents a      |
root | dir d                        | open a d r; read a 10                | EISDIR
root | dir d                        | open a d r; write a hi               | EBADF
root | dir d                        | open a d r; fsync a                  | ok
root | dir d                        | open a d r; ftruncate a 0            | EINVAL
root | dir d                        | open a d r; mmap a 4096 r            | ENODEV
root | dir d                        | open a d r; fchdir a; mkdir x; stat ../d/x | dir
root | file f                       | open a f r; fchdir a                 | ENOTDIR
root | file f                       | chdir f                              | ENOTDIR
""")
