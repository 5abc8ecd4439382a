"""The `[cluster]` table: the Ray cluster whose nodes run engines beside this machine."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from core.config.toml_source import NOT_A_TABLE, TomlSource
from core.domain.specs import ClusterSpec, LaneSpec
from core.i18n import N_

CLUSTER_KEYS = ("address", "home")
ADD_CLUSTER = N_('Add `[cluster]` with `address = "HOST:6379"`.')
"""What to do where nodes are asked for and there is no cluster."""
_ADDRESS = re.compile(r"auto|(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\]):[0-9]{1,5}")
_EXAMPLE = N_('Write address = "auto" or address = "HOST:6379".')


def read_cluster(source: TomlSource) -> ClusterSpec | None:
    """The cluster of the file; None without the table. Raises ConfigError."""
    table = source.values.get("cluster")
    if table is None:
        return None
    here = ("cluster",)
    if not isinstance(table, dict):
        raise source.error(here, NOT_A_TABLE, N_("Write [cluster] with its keys below it."))
    for key in table:
        if key not in CLUSTER_KEYS:
            raise source.unknown_key((*here, key), CLUSTER_KEYS, N_("{key} is not a key of the cluster."))
    if "address" not in table:
        raise source.error(here, N_("{key} has no address."), _EXAMPLE)
    address, home = table["address"], table.get("home")
    if not isinstance(address, str) or not _ADDRESS.fullmatch(address):
        raise source.error((*here, "address"), N_("{key} is not the address of a Ray cluster."), _EXAMPLE)
    if home is not None and not (isinstance(home, str) and PurePosixPath(home).is_absolute()):
        raise source.error(
            (*here, "home"),
            N_("{key} is not an absolute path."),
            N_("The folder is on the nodes, so write the whole path, beginning with a slash."),
        )
    return ClusterSpec(address=address, home=home)


def require_cluster(source: TomlSource, lanes: Sequence[LaneSpec], cluster: ClusterSpec | None) -> None:
    """Raises ConfigError for a lane on a node where there is no cluster."""
    for lane in lanes:
        if lane.node is not None and cluster is None:
            raise source.error(
                ("lanes", lane.name, "node"),
                N_("{key} names a node, but the file has no [cluster]."),
                N_('Add [cluster] with address = "auto" or "HOST:6379" to lanes.toml, or remove the key.'),
            )
