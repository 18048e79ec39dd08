"""The part of the build that compiles `_at_hand.c`; where it cannot be compiled, the package is Python alone."""

from __future__ import annotations

import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path("src/users_session_manager/_at_hand.c")


class CompiledModule(BuildHookInterface):  # type: ignore[misc]  # not there but during a build
    """Puts the compiled module into the wheel, or beside its source for an editable installation."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        self.scratch = tempfile.TemporaryDirectory()  # goes when the hook does
        if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
            return  # what it is not written for
        source = Path(self.root, SOURCE)
        name = source.stem + sysconfig.get_config_var("EXT_SUFFIX")
        target = source.with_name(name) if version == "editable" else Path(self.scratch.name, name)
        target.unlink(missing_ok=True)  # one that is older than its source
        try:
            compile_module(source, target, self.scratch.name)
        except Exception as failure:  # noqa: BLE001  # the package works without it, whatever it was
            self.app.display_warning(f"{source.name} is not compiled, Python does its work: {failure}")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        if version != "editable":
            build_data["force_include"][str(target)] = f"{source.parent.name}/{name}"


def compile_module(source: Path, target: Path, scratch: str) -> None:
    """Compile with the compiler and the flags that Python itself was compiled with."""
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    extension = Extension(f"{source.parent.name}.{source.stem}", [str(source)])
    command = build_ext(Distribution({"name": source.stem, "ext_modules": [extension]}))
    command.build_temp = command.build_lib = scratch
    command.ensure_finalized()
    command.run()
    built = Path(command.get_ext_fullpath(extension.name))
    if built != target:
        shutil.move(built, target)
