"""What a file's bytes become on their way to disk, and back: pure, bytes in and bytes out.

    chunking     content-defined cut points (FastCDC), stable for ever
    digest       the keyed names and subkeys (BLAKE3)
    compression  zstd, kept only where it pays; bounded expansion
    sealing      the sealed blob: AES-256-GCM, byte table
    pipeline     Sealer: plain chunk to sealed chunk and back, with every key version

Nothing here waits, and everything heavy is native code; all but short inputs release the GIL, so
callers run it in threads.
"""
