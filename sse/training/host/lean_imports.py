"""Lightning without the hundred metrics of torchmetrics.

Lightning imports torchmetrics for its class `Metric`. The `__init__` of torchmetrics imports all of
its metrics, and with them transformers, scipy.signal and more: a third of the time between the
command `train` and its first step. No setting of these libraries leaves them out.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

NAME = "torchmetrics"


class LatePackage(ModuleType):
    """torchmetrics, whose `__init__` runs once a name is asked for that `lean` has not placed.

    Its submodules are imported from its folder as always, and it stays the same object.
    """

    def __getattr__(self, name: str) -> Any:
        spec = self.__spec__
        if name.startswith("__") or spec is None or spec.loader is None:
            raise AttributeError(f"module '{NAME}' has no attribute '{name}'")
        self.__class__ = ModuleType  # type: ignore[assignment]
        spec.loader.exec_module(self)
        return getattr(self, name)


def lean() -> None:
    """Import what Lightning needs of torchmetrics, where it is not imported yet.

    A version of torchmetrics that is built otherwise is imported as a whole.
    """
    if NAME in sys.modules or (spec := find_spec(NAME)) is None:
        return
    sys.modules[NAME] = package = module_from_spec(spec)
    package.__class__ = LatePackage
    package._logger = logging.getLogger(NAME)  # type: ignore[attr-defined]
    with contextlib.suppress(ImportError, AttributeError):
        package.__version__ = import_module(f"{NAME}.__about__").__version__  # type: ignore[attr-defined]
        import_module(f"{NAME}.utilities")  # first, as it and `metric` import each other
        package.Metric = import_module(f"{NAME}.metric").Metric  # type: ignore[attr-defined]
        package.MetricCollection = import_module(f"{NAME}.collections").MetricCollection  # type: ignore[attr-defined]
        return
    for module in [m for m in sys.modules if m.partition(".")[0] == NAME]:
        del sys.modules[module]
