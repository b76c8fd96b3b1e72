"""Reading, writing, seeking, allocating, copying, mapping and locking open files."""

from tests.system.posix.table import rows

ROWS = rows("""
# --- read, write
root | file f 0644 text | open a f r; read a 9                             | text
root | file f 0644 text | open a f r; read a 2; read a 9                   | xt
root | file f 0644 text | open a f r; read a 9; read a 9                   |
root | file f 0644 text | open a f r; read a 0                             |
root | file f 0644 text | open a f r; pread a 9 2                          | xt
root | file f 0644 text | open a f r; pread a 9 4                          |
root | file f 0644 text | open a f r; pread a 9 1000000                    |
root | file f 0644 text | open a f r; pread a 9 -1                         | EINVAL
root | file f 0644 text | open a f w; read a 1                             | EBADF
root | file f 0644 text | open a f r; write a x                            | EBADF
root | file f 0644 text | open a f r; write a ""                           | EBADF
root | file f 0644 text | open a f w; pwrite a x -1                        | EINVAL
root | file f 0644 text | open a f w; write a ""                           | 0
root | file f 0644 text | open a f w; write a T; cat f                     | Text
root | file f 0644 text | open a f w; pwrite a XY 6; cat f; stat f size    | 8
root | file f 0644 text | open a f rw; pwrite a XY 6; pread a 9 0          | text00XY
root | file f 0644 text | open a f rw; pwrite a X 0; lseek a 0 cur         | 0
root | file f 0644 text | open a f rw; read a 1; write a X; cat f          | tXxt
root | file f 0644 text | open a f rw; writev a ab cd ef; cat f            | abcdef
root | file f           | open a f w; write_bad a                          | EFAULT
root | file f 0644 text | open a f r; read_bad a                           | EFAULT
root | file f           | open a f w; close a; write 99 x                  | EBADF
root |                  | read 99 1                                        | EBADF
root |                  | close 99                                         | EBADF
root |                  | fstat 99                                         | EBADF
root |                  | fsync 99                                         | EBADF
root |                  | ftruncate 99 0                                   | EBADF
root | file f           | open a f w; pwrite a x 9223372036854775807       | EINVAL
root | file f           | open a f w; pwrite a %70000 0; fstat a size      | 70000
root | file f           | open a f w; pwrite a %3000000 5; fstat a size    | 3000005
root | file f           | open a f w; write a hi; dup a b; write b ho; cat f | hiho
root | file f 0644 text | open a f w; open b f r; write a T; read b 9      | Text
root | file f           | open a f w; fstat a blocks                       | 0
root | file f           | open a f rw; poll a                              | 1
# --- append
root | file f 0644 text | open a f w,append; write a X; cat f              | textX
root | file f 0644 text | open a f rw,append; lseek a 0 set; write a X; cat f | textX
root | file f 0644 text | open a f rw,append; pwrite a X 0; cat f          | textX
root | file f 0644 text | open a f rw,append; read a 2                     | te
root | file f 0644 text | open a f w,append; open b f w,append; write a X; write b Y; cat f | textXY
root | file f 0644 text | open a f w; append_flag a; write a X; cat f      | textX
root | file f 0644 text | open a f rw,append; write a X; lseek a 0 cur     | 5
root | file f 0644 text | open a f w,append; ftruncate a 1; write a X; cat f | tX
# --- lseek
root | file f 0644 text | open a f r; lseek a 2 set; read a 9              | xt
root | file f 0644 text | open a f r; lseek a -2 end; read a 9             | xt
root | file f 0644 text | open a f r; read a 3; lseek a -1 cur; read a 9   | xt
root | file f 0644 text | open a f r; lseek a 100 end                      | 104
root | file f 0644 text | open a f r; lseek a -1 set                       | EINVAL
root | file f 0644 text | open a f r; lseek a -5 end                       | EINVAL
root | file f 0644 text | open a f r; lseek a 0 bad                        | EINVAL
root | file f 0644 text | open a f r; lseek a 0 data                       | 0
root | file f 0644 text | open a f r; lseek a 2 data                       | 2
root | file f 0644 text | open a f r; lseek a 0 hole                       | 4
root | file f 0644 text | open a f r; lseek a 4 data                       | ENXIO
root | file f 0644 text | open a f r; lseek a 4 hole                       | ENXIO
root | file f           | open a f r; lseek a 0 data                       | ENXIO
root | file f           | open a f r; lseek a 0 hole                       | ENXIO
root | file f           | open a f rw; ftruncate a 1000000; lseek a 0 data | ENXIO
root | file f           | open a f rw; ftruncate a 1000000; lseek a 0 hole | 0
root | file f           | open a f rw; pwrite a x 1048576; lseek a 0 data  | 1048576
root | file f           | open a f rw; pwrite a x 1048576; lseek a 1048576 hole | 1048577
root | file f           | open a f rw; pwrite a x 4; lseek a -1 data       | ENXIO
root | dir d            | open a d r; lseek a 0 set                        | 0
root | file f 0644 text | open a f r; open b f r; lseek a 2 set; lseek b 0 cur | 0
root | file f 0644 text | open a f r; dup a b; lseek a 2 set; lseek b 0 cur | 2
# --- truncate
root | file f 0644 text | truncate f 2; cat f                              | te
root | file f 0644 text | truncate f 6; open a f r; read a 9               | text00
root | file f 0644 text | truncate f 0; stat f size                        | 0
root | file f 0644 text | truncate f 4; stat f size                        | 4
root | file f 0644 text | truncate f -1                                    | EINVAL
root | file f 0644 text | truncate f 2; truncate f 4; open a f r; read a 9 | te00
root | file f 0644 text | open a f r; ftruncate a 0                        | EINVAL
root | file f 0644 text | open a f w; ftruncate a -1                       | EINVAL
root | file f 0644 text | open a f w; ftruncate a 1; cat f                 | t
root | file f 0644 text | open a f rw; lseek a 4 set; ftruncate a 0; write a x; fstat a size | 5
root | file f           | truncate f 1099511627776; stat f size            | 1099511627776
root | file f           | truncate f 9223372036854775807                   | EFBIG
root | file f           | truncate f 1099511627776; stat f blocks          | 0
root | fifo p           | truncate p 0                                     | EINVAL
root | chr n            | truncate n 0                                     | EINVAL
root | dir d            | truncate d 0                                     | EISDIR
root | symlink f l; file f 0644 text | truncate l 1; cat f                 | t
# --- fsync
root | file f 0644 text | open a f r; fsync a                              | ok
root | file f 0644 text | open a f rw; write a x; fsync a; fdatasync a     | ok
root | file f           | open a f rw,sync; write a hi; cat f              | hi
root | fifo p           | open a p rw; fsync a                             | EINVAL
# --- fallocate
root | file f           | open a f rw; fallocate a plain 0 100; fstat a size | 100
root | file f           | open a f rw; fallocate a plain 100 100; fstat a size | 200
root | file f           | open a f rw; fallocate a keep 0 100; fstat a size | 0
root | file f 0644 text | open a f rw; fallocate a plain 0 2; cat f        | text
root | file f 0644 text | open a f rw; fallocate a punch 1 2; pread a 9 0  | t00t
root | file f 0644 text | open a f rw; fallocate a punch 1 200; fstat a size | 4
root | file f 0644 text | open a f rw; fallocate a zero 1 2; pread a 9 0   | t00t
root | file f 0644 text | open a f rw; fallocate a zero 2 4; fstat a size  | 6
root | file f 0644 text | open a f rw; fallocate a zero_keep 2 4; fstat a size | 4
root | file f           | open a f rw; fallocate a punch_only 0 10         | ENOTSUP
root | file f           | open a f rw; fallocate a plain 0 0               | EINVAL
root | file f           | open a f rw; fallocate a plain -1 10             | EINVAL
root | file f           | open a f rw; fallocate a plain 0 -1              | EINVAL
root | file f           | open a f rw; fallocate a plain 9223372036854775807 1 | EFBIG
root | file f           | open a f r; fallocate a plain 0 10               | EBADF
root | dir d            | open a d r; fallocate a plain 0 10               | EBADF
root | fifo p           | open a p rw; fallocate a plain 0 10              | ESPIPE
# --- copies
root | file f 0644 text; file g | open a f r; open b g w; copy a b 9 0 0; cat g    | text
root | file f 0644 text; file g | open a f r; open b g w; copy a b 9 0 0            | 4
root | file f 0644 text; file g | open a f r; open b g w; copy a b 2 1 1; stat g size | 3
root | file f 0644 text; file g | open a f r; open b g w; copy a b 9 4 0            | 0
root | file f 0644 text; file g | open a f r; open b g w; copy a b 0 0 0            | 0
root | file f 0644 text; file g | open a f w; open b g w; copy a b 9 0 0            | EBADF
root | file f 0644 text; file g | open a f r; open b g r; copy a b 9 0 0            | EBADF
root | file f 0644 text; file g | open a f r; open b g w,append; copy a b 9 0 0     | EBADF
root | file f 0644 text         | open a f rw; copy a a 2 0 2; cat f                | tete
root | file f 0644 text         | open a f rw; copy a a 3 0 1                       | EINVAL
root | dir d; file g            | open a d r; open b g w; copy a b 1 0 0            | EISDIR
root | fifo p; file g           | open a p rw; open b g w; copy a b 1 0 0           | EINVAL
root | file f 0644 text; file g | open a f r; open b g w; sendfile b a 9; cat g     | text
# --- maps
root | file f 0644 text | open a f r; mmap a 4 r                           | ok
root | file f 0644 text | open a f r; mmap a 4 rw                          | EACCES
root | file f 0644 text | open a f r; mmap a 4 rw private                  | ok
root | file f 0644 text | open a f w; mmap a 4 r                           | EACCES
root | file f 0644 text | open a f rw; mmap a 0                            | EINVAL
root | file f 0644 text | open a f rw; map_write a 4 1 EX; cat f           | tEXt
root | file f 0644 text | open a f rw; map_write a 4 1 EX; pread a 9 0     | tEXt
# --- locks
root | file f           | open a f r; open b f r; flock a ex; flock b ex   | EAGAIN
root | file f           | open a f r; open b f r; flock a sh; flock b sh   | ok
root | file f           | open a f r; open b f r; flock a sh; flock b ex   | EAGAIN
root | file f           | open a f r; open b f r; flock a ex; flock a un; flock b ex | ok
root | file f           | open a f r; open b f r; flock a ex; close a; flock b ex | ok
root | file f           | open a f r; dup a b; flock a ex; flock b sh      | ok
root | file f           | open a f rw; open b f rw; lock a w; lock b w     | ok
root | file f           | open a f rw; lock a w; lock_other f w            | EAGAIN
root | file f           | open a f rw; lock a r; lock_other f r            | ok
root | file f           | open a f rw; lock a r; lock_other f w            | EAGAIN
root | file f           | open a f rw; lock a w 0 10; lock_other f w 10 10 | ok
root | file f           | open a f rw; lock a w 0 10; lock_other f w 9 1   | EAGAIN
root | file f           | open a f rw; lock a w; lock a un 5 5; lock_other f w 5 5 | ok
root | file f           | open a f rw; lock a w; lock a un 5 5; lock_other f w 10 1 | EAGAIN
root | file f           | open a f rw; open b f rw; lock a w; close b; lock_other f w | ok
root | file f           | open a f r; lock a w                             | EBADF
root | file f           | open a f w; lock a r                             | EBADF
root | file f           | open a f rw; lock a w -1 1                       | EINVAL
root | file f           | open a f rw; open b f rw; ofd_lock a w; ofd_lock b w | EAGAIN
root | file f           | open a f rw; open b f rw; ofd_lock a w; lock b w | EAGAIN
root | file f           | open a f rw; open b f rw; ofd_lock a w; close a; ofd_lock b w | ok
""")
