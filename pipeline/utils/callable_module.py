"""Modules that can be called, so that `pipeline.translate` is the command's module and the Python function in one."""

import sys
from importlib import import_module
from types import ModuleType


class _CallableModule(ModuleType):
    """A module that passes calls on to a function of the name `_called`, "module:function"; imported at the call."""

    _called: str

    def __call__(self, *arguments: object, **options: object) -> object:
        module, _, function = self._called.partition(":")
        return getattr(import_module(module), function)(*arguments, **options)


def make_callable(name: str, called: str) -> None:
    """Let calls of the module of this `__name__` call a function, "module:function", imported at the first call.

    `from pipeline import translate` gives the module wherever something has imported it, so it has to be both.
    """
    module = sys.modules[name]
    module.__class__ = _CallableModule
    module.__dict__["_called"] = called
