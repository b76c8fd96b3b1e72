"""The file system without a mount: `python examples/python_files.py CLIENT_DIRECTORY`.

CLIENT_DIRECTORY is what `cfs node join` enrolled for a client; `cfs up` makes one at
`.state/client`, but that one is in use while it is mounted: make another with a token.
"""

import sys
from pathlib import Path

import trio

from cfs.cli.client_node import open_files


async def main(directory: Path) -> None:
    async with open_files(directory) as files:
        await files.make_directories("/examples")
        await files.write_file("/examples/hello", b"written without a mount\n", sync=True)
        for entry in await files.list_directory("/examples"):
            print(entry.name.decode(), (await files.walk("/examples/" + entry.name.decode())).size)
        print((await files.read_file("/examples/hello")).decode(), end="")


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
