"""Networks of MONAI by the name of their class, with its own arguments: for weights that were trained elsewhere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from inference.errors import NetworkError

if TYPE_CHECKING:  # torch and MONAI take seconds to load
    from torch import nn

PATTERN = re.compile(r"monai\.([A-Z][A-Za-z0-9]{1,40})")


def build(name: str, arguments: dict[str, Any]) -> nn.Module:
    """The network `name` of monai.networks.nets. Raises `NetworkError`."""
    from monai.networks import nets
    from torch import nn

    found = getattr(nets, name, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise NetworkError(f"MONAI has no network {name!r}.", "Give a class of monai.networks.nets.")
    try:
        return found(**arguments)
    except (TypeError, ValueError, AssertionError, NotImplementedError) as error:
        raise NetworkError(
            f"MONAI's {name} does not take these arguments: {error}.", "Give the arguments that it was trained with."
        ) from error
