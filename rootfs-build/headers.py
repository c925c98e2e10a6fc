"""usage: headers.py TREE OUT [SOURCE...]

Takes from the kernel headers in TREE the files that bcc reads when it compiles the programs in
SOURCE, and puts them into OUT, which bcc then takes in place of TREE (BCC_KERNEL_SOURCE).

bcc itself includes headers before every program, and a program may include more. So the compiler is
asked what it reads for a program that consists of nothing but these. Then the same program is
compiled with OUT alone. Both need no privilege and no running kernel's help.
"""

import os
import re
import shutil
import sys
import tempfile

sys.path.append("/usr/lib/python3/dist-packages")


def compile_with(tree: str, program: str, flags: list[str]) -> None:
    """Compiles in a process of its own, since bcc looks at its environment once only."""
    child = os.fork()
    if child == 0:
        os.environ["BCC_KERNEL_SOURCE"] = tree
        from bcc import BPF

        BPF(text=program, cflags=flags)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"bcc can't compile with the kernel headers in {tree}")


def files_read(tree: str, program: str) -> list[str]:
    """Paths in `tree`, relative to it, of what the compiler reads."""
    with tempfile.TemporaryDirectory() as work:
        rule = os.path.join(work, "rule")
        compile_with(tree, program, ["-MD", "-MF", rule])
        with open(rule) as file:
            names = file.read().replace("\\\n", " ").split()[1:]
    inside = {os.path.normpath(name) for name in names if not name.startswith("/virtual/")}
    return sorted(name for name in inside if os.path.isfile(os.path.join(tree, name)))


def main(tree: str, out: str, sources: list[str]) -> None:
    """Fills `out`, which appears whole."""
    includes = []
    for source in sources:
        with open(source) as file:
            includes += re.findall(r"^#include <[^>]+>$", file.read(), re.MULTILINE)
    program = "\n".join([*includes, "int nothing(void *context) { return 0; }"])
    new = f"{out}.new"
    shutil.rmtree(new, ignore_errors=True)
    for name in files_read(tree, program):
        os.makedirs(os.path.dirname(os.path.join(new, name)), exist_ok=True)
        shutil.copyfile(os.path.join(tree, name), os.path.join(new, name))
    compile_with(os.path.abspath(new), program, [])
    shutil.rmtree(out, ignore_errors=True)
    os.rename(new, out)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2]), sys.argv[3:])
