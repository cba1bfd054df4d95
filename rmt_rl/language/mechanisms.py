"""Finds the memory mechanisms of the token model by what their files declare, see `rmt_rl.nn.token_core`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Self, TypeAlias

from rmt_rl import registry
from rmt_rl.errors import UsageError, nearest
from rmt_rl.nn.token_core import WITHOUT_MEMORY, TokenCore

CoresByName: TypeAlias = Mapping[str, TokenCore]


class TokenCores(NamedTuple):
    """All token cores that can be named.

    Attributes:
        declared: for each mechanism's file the cores that it declares, by name; under "" those of no file.
        errors: for each file that can't be imported the reason. Such a file doesn't keep others from use.
    """

    declared: Mapping[str, CoresByName]
    errors: Mapping[str, Exception]

    @classmethod
    def find(cls) -> Self:
        """Import all memory mechanisms."""
        declared: dict[str, CoresByName] = {}
        errors: dict[str, Exception] = {}
        for mechanism in registry.names("memory"):
            try:
                declared[mechanism] = _declared_by(mechanism)
            except Exception as error:  # of any kind, since the file may be anyone's
                errors[mechanism] = error
        declared[""] = {"none": WITHOUT_MEMORY}
        return cls(declared, errors)

    def named(self, name: str) -> TokenCore:
        """Return the core of this name.

        Raises:
            UsageError: no file declares the name, or several do.
        """
        declaring = []
        for mechanism, cores in self.declared.items():
            if name in cores:
                declaring.append(mechanism)
        if not declaring:
            first_error = next(iter(self.errors.values()), None)
            raise self._unknown(name) from first_error
        if len(declaring) > 1:
            sources = " and by ".join(declaring)
            raise UsageError(f"memory={name!r} is declared by {sources}: rename one, or uninstall it")
        cores = self.declared[declaring[0]]
        return cores[name]

    def choice(self, option: str) -> str:
        """Return the cores that go with an option, a field of `TokenCore`, e.g. as `memory='tokens' or 'none'`."""
        names = []
        for name, core in self._all():
            if getattr(core, option):
                names.append(repr(name))
        *others, last = names
        if not others:
            return f"memory={last}"
        listed = ", ".join(others)
        return f"memory={listed} or {last}"

    def _unknown(self, name: str) -> UsageError:
        names = [known for known, _ in self._all()]
        listed = ", ".join(names)
        message = f"memory={name!r} is none of {listed}{nearest(name, names)}"
        for mechanism, error in self.errors.items():
            message += f"; {mechanism} can't be imported: {error!r}"
        return UsageError(message)

    def _all(self) -> Iterator[tuple[str, TokenCore]]:
        for cores in self.declared.values():
            yield from cores.items()


def _declared_by(mechanism: str) -> CoresByName:
    """Import a mechanism and return the cores that it declares."""
    module = registry.load("memory", mechanism)
    cores: CoresByName = getattr(module, "TOKEN_CORES", {})
    return cores
