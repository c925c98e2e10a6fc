"""`python -m tests.docker.prepare`: makes the systems that take a while before they are asked for.

Beside the first tests, which mostly wait; whoever asks for one that is being made waits for it.
"""

from tests.docker import engine
from tests.soak import workloads
from tests.support import engine_root


def main() -> None:
    """Makes what is not there yet."""
    for release in engine_root.RELEASES:
        if release != engine_root.OWN:
            engine_root.build(release)
    engine.tarball(workloads.PACKAGES)


if __name__ == "__main__":
    main()
