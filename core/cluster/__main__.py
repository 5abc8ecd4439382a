"""`python -m core.cluster`: the cluster's process, started by `core.cluster.link` only."""

import sys

from core.cluster.process import main
from core.cluster.ray_fabric import RayFabric

if __name__ == "__main__":
    sys.exit(main(lambda hello: RayFabric(hello.cluster, hello.home)))
