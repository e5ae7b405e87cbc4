"""`hypervisor --completion SHELL`: prints the script with which a shell completes commands and options."""

from __future__ import annotations

from argparse import Action, ArgumentParser, Namespace, _SubParsersAction
from collections.abc import Callable
from typing import Any

#: The shells that a script can be made for.
SHELLS = ("bash", "zsh", "fish")
_MISSING = "needs the package shtab; in a checkout, install with: uv tool install '.[completion]'"


class PrintCompletion(Action):
    """Prints the script, and ends the command.

    Args:
        whole: Returns the parser of all commands.
    """

    def __init__(self, *args: Any, whole: Callable[[], ArgumentParser], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._whole = whole

    def __call__(
        self, parser: ArgumentParser, _: Namespace, values: Any, option_string: str | None = None
    ) -> None:
        """Print the script for the shell *values*."""
        try:
            import shtab  # noqa: PLC0415 - an extra, which no other command needs
        except ImportError:
            parser.error(f"{option_string} {_MISSING}")
        made = self._whole()
        for action in made._actions:
            if isinstance(action, _SubParsersAction):
                action.help = "COMMAND"  # what the help text leaves out would be left out
        print(shtab.complete(made, shell=str(values)))
        parser.exit()
