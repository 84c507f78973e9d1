"""The task types. A new one is a file in this folder, with a coroutine under `@handles("Name")`.

Imports the ground floor only.
"""

from importlib import import_module
from pkgutil import iter_modules

from chalicelib.task_types.registry import HANDLERS, Handler, Run, handles

__all__ = ["HANDLERS", "Handler", "Run", "handles"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
