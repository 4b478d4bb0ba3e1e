"""A network of one's own: any ``torch.nn.Module`` that a function in a user's file returns.

Its parameters are grouped into blocks by name and shape, and the degree of homogeneity in each is measured and not
assumed; see ``models.module_parts``. What rho means follows from the degrees, as for every other network: with degree 1 in
each weight and no biases, rho is the scale of the outputs.

Training substitutes each member's tensors by ``torch.func.functional_call``. Members go through the module side by side
under ``vmap`` where that works, and one after another where it does not, or where convolutions make that quicker.
"""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, StringConstraints

from rhotrace.errors import RecipeError
from rhotrace.models import own_code
from rhotrace.models.homogeneity import SAMPLES, cause, degrees, moved
from rhotrace.models.losses import Loss, Square
from rhotrace.models.module_parts import ModulePart, module_parts, random_parts, tied
from rhotrace.models.network import NETWORKS, Applied, Backward, Block, Mode, Network, NetworkOptions, numbers_made

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rhotrace.models.network import Tensors

Values = dict[str, NDArray[np.float64]]


@NETWORKS.register
class ModuleOptions(NetworkOptions):
    """A module of your own, from a Python file beside the recipe; it runs only with ``--trust-code``.

    Attributes:
        place: the key ``build``, ``FILE.py:FUNCTION``, relative to the recipe; called as ``FUNCTION(inputs, outputs, **options)`` with the
            shape of one input and the number of outputs, it returns a ``torch.nn.Module``.
        options: further arguments of the function.
        sha256: of the file's text; stated by the resolved recipe, and checked where a recipe states it.
    """

    model_config = ConfigDict(serialize_by_alias=True)  # ``build`` is the method, and the key of a recipe

    kind: Literal["module"] = "module"
    place: Annotated[str, StringConstraints(pattern=r"^[^\x00:]+\.py:[A-Za-z_]\w*$", max_length=500)] = Field(
        alias="build"
    )
    options: dict[str, Any] = Field(default={})
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    reads_images: ClassVar[bool] = True
    starts_itself: ClassVar[bool] = True

    def build(self, inputs: tuple[int, ...], outputs: int) -> OwnModule:
        """The network for data of one shape."""
        try:
            own_code.function(self.place, self.sha256)  # what was examined before may be forbidden by now
        except own_code.NotLoadedError:
            raise
        except RecipeError as problem:
            raise RecipeError(f"network.build: {problem}") from None
        return _built(self.place, self.sha256, json.dumps(self.options), inputs, outputs)


@lru_cache(maxsize=32)
def _built(place: str, sha256: str | None, options: str, inputs: tuple[int, ...], outputs: int) -> OwnModule:
    """The network of a module, which is examined once although several parts of a run ask for it."""
    import torch

    make = own_code.function(place, sha256)

    def build(seed: int) -> nn.Module:
        from torch import nn

        with _seeded(seed):
            try:
                found = make(inputs, outputs, **json.loads(options))
            except Exception as error:
                raise _explained(place, error, f"called with inputs={inputs}, outputs={outputs}") from error
        if not isinstance(found, nn.Module):
            raise RecipeError(f"network.build: {place}: returned {type(found).__name__}, expected a torch.nn.Module")
        return found

    with torch.no_grad():
        return OwnModule(build, place, inputs, outputs)


def _explained(place: str, error: Exception, about: str) -> Exception:
    problem = own_code.raised(place, error)
    return RecipeError(f"network.build: {problem} ({about})") if problem is not error else error


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Makes every random number that a module may start with follow from the seed; the generators keep their states."""
    import random

    import torch

    before, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - a user's code may draw from it
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(before)
            np.random.set_state(legacy)  # noqa: NPY002


class OwnModule(Network):
    """A user's module.

    Args:
        build: returns it, initialised under a seed.
        place: ``FILE:FUNCTION``, for messages.
        inputs: shape of one input.
        outputs: C.

    Raises:
        RecipeError: it cannot be trained reproducibly, or its outputs are not (N, C).
    """

    def __init__(self, build: Callable[[int], nn.Module], place: str, inputs: tuple[int, ...], outputs: int) -> None:
        self._build, self._place, self._inputs, self._outputs = build, place, inputs, outputs
        first = build(0)
        self._ready: dict[tuple[Any, Any], dict[str, torch.Tensor]] = {}
        self._module = first
        self._shapes = {path: tensor.shape for path, tensor in (*first.named_parameters(), *first.named_buffers())}
        self._trial = trial_inputs(inputs)
        scratch = self._changed_buffers(first)
        self._refuse_chance(first)
        self.parts = self._parts(first, build(1), scratch)
        self._scratch = tuple(path for path in scratch if path not in {part.names[0] for part in self.parts})
        if not any(part.block.role == "weight" for part in self.parts):
            raise self._fault("has no weight of two dimensions or more that is trained")
        self._measure()
        self._no_vmap = self._why_not_together()

    def recorded_as(self, blocks: Sequence[Block]) -> OwnModule:
        """See ``Network.recorded_as``."""
        if [block.shape for block in blocks] != [part.block.shape for part in self.parts]:
            return self
        found = copy.copy(self)
        for known in ("parameters", "buffers", "layers", "layer_numbers"):
            vars(found).pop(known, None)
        found._set_blocks(blocks)
        return found

    def _set_blocks(self, blocks: Sequence[Block]) -> None:
        self.parts = tuple(replace(part, block=block) for part, block in zip(self.parts, blocks, strict=True))
        self.blocks = tuple(blocks)
        self._convolves = any(len(block.shape) > 2 for block in self.layers)

    # --- what the module is -------------------------------------------------------------------------------------

    def _fault(self, message: str) -> RecipeError:
        return RecipeError(f"network.build: {self._place}: the module {message}")

    def _changed_buffers(self, module: nn.Module) -> list[str]:
        """The buffers that a forward pass in mode ``train`` changes.

        Raises:
            RecipeError: mode ``eval`` changes one, or one is an average over all steps or a count that is used.
        """
        import torch
        from torch.nn.modules.batchnorm import _NormBase

        buffers = {path: tensor.clone() for path, tensor in module.named_buffers()}

        def changed(mode: Mode) -> list[str]:
            tensors = {path: tensor.clone() for path, tensor in buffers.items()}
            self._outputs_of(module, tensors, self._trial.float(), mode)
            return [path for path, tensor in tensors.items() if not torch.equal(tensor, buffers[path])]

        if odd := changed("eval"):
            raise self._fault(f"changes its buffer {odd[0]} in mode eval, where nothing may change")
        cumulative = [
            path for path, part in module.named_modules() if isinstance(part, _NormBase) and part.momentum is None
        ]
        if cumulative:
            raise self._fault(
                f"averages over all steps in {cumulative[0]} (momentum=None), which is not supported; give it a momentum"
            )
        found = changed("train")
        whole = [
            p for p in found if not buffers[p].is_floating_point() and p.rpartition(".")[2] != "num_batches_tracked"
        ]
        if whole:
            raise self._fault(f"counts in its buffer {whole[0]}; only floating-point buffers may change in training")
        return found

    def _refuse_chance(self, module: nn.Module) -> None:
        """Raises RecipeError where the outputs in training are random: a resumed run could not repeat them."""
        import torch

        def outputs(seed: int) -> tuple[torch.Tensor, bool]:
            with _seeded(seed):
                before = torch.random.get_rng_state()
                tensors = {path: tensor.clone() for path, tensor in module.named_buffers()}
                g = self._outputs_of(module, tensors, self._trial.float(), "train")
                return g, not torch.equal(before, torch.random.get_rng_state())

        (one, drew), (two, _) = outputs(1), outputs(2)
        if drew or not torch.equal(one.nan_to_num(), two.nan_to_num()):
            where = f" in {', '.join(random_parts(module)[:3])}" if random_parts(module) else ""
            raise self._fault(
                f"draws random numbers in training{where}, which a resumed run could not repeat; remove them (p=0)"
            )

    def _parts(self, module: nn.Module, other: nn.Module, changed: list[str]) -> tuple[ModulePart, ...]:
        """The tensors that differ between members or change in training; all others are constants of the module."""
        import torch

        there = dict(other.named_buffers())
        varying = {
            path
            for path, tensor in module.named_buffers()
            if tensor.is_floating_point()
            and (path in changed or (path in there and not torch.equal(tensor, there[path])))
        }
        frozen = {path for path, tensor in module.named_parameters() if not tensor.requires_grad}
        return module_parts(module, varying | frozen)

    def _measure(self) -> None:
        """Gives the blocks their degrees, and notes what was found."""
        import torch

        exact = copy.deepcopy(self._module).double()
        buffers = dict(exact.named_buffers())
        tensors = {path: moved(path, tensor, torch.float64) for path, tensor in exact.named_parameters()}

        def outputs(parameters: Mapping[str, torch.Tensor], factor: float = 1.0) -> torch.Tensor:
            own = {path: tensor.clone() for path, tensor in buffers.items()}
            return self._outputs_of(exact, {**own, **parameters}, factor * self._trial, "train")

        paths = {
            role: [part.names[0] for part in self.parts if part.block.role == role]
            for role in ("weight", "scale", "shift", "buffer")
        }
        found = degrees(outputs, tensors, {path: (path,) for path in tensors})
        of = {path: measured.degree for path, measured in found.items()}
        self._set_blocks([replace(part.block, degree=of.get(part.names[0])) for part in self.parts])
        odd = any(block.degree is None for block in self.layers)
        self._departs = cause(exact, outputs, tensors, paths["weight"], paths["shift"]) if odd else ""
        frozen = [path for path, tensor in self._module.named_parameters() if not tensor.requires_grad]
        self._notes = [
            ", ".join(f"{len(names)} {role}{'s' * (len(names) > 1)}" for role, names in paths.items() if names),
            f"degree of homogeneity, measured in float64: {_by_degree(self.layers)}"
            + (f", because of {self._departs}" if self._departs else ""),
            *tied(self._module),
            *([f"not trained: {', '.join(frozen[:3])}{' and more' * (len(frozen) > 3)}"] if frozen else []),
        ]

    @property
    def says(self) -> tuple[str, ...]:
        """See ``Network.says``."""
        one = f"members train one after another: {self._no_vmap}" if self._no_vmap else ""
        return (*self._notes, *([one] if one else []))

    @property
    def departs(self) -> str:
        """See ``Network.departs``."""
        return self._departs

    def start(self, seed: int) -> Values:
        """The module's own initialisation: its constructor, under the seed."""
        module = self._build(seed)
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        shapes = {path: tuple(tensor.shape) or (1,) for path, tensor in tensors.items()}
        if any(shapes.get(part.names[0]) != part.block.shape for part in self.parts):
            raise self._fault("has other tensors under another seed; its shape must not depend on chance")
        return {
            part.block.name: tensors[part.names[0]].detach().double().numpy().reshape(part.block.matrix)
            for part in self.parts
        }

    # --- the forward pass ---------------------------------------------------------------------------------------

    def apply(
        self, parameters: Mapping[str, torch.Tensor], buffers: Mapping[str, torch.Tensor], x: torch.Tensor, mode: Mode
    ) -> Applied:
        """The module with one member's tensors in place of its own."""
        tensors = dict(self._ready.get((x.device, x.dtype)) or self._constants_like(x))
        tensors |= {path: tensors[path].clone() for path in self._scratch}
        for part in self.parts:
            of_buffer = part.block.role == "buffer"
            tensor = buffers[part.block.name].clone() if of_buffer else parameters[part.block.name]
            tensors[part.names[0]] = tensor.reshape(self._shapes[part.names[0]])
        g = self._outputs_of(self._module, tensors, x.reshape(len(x), *self._inputs), mode)
        changed = self.buffers if mode == "train" else ()
        paths = {part.block.name: part.names[0] for part in self.parts}
        return Applied(g, {}, {block.name: tensors[paths[block.name]].detach() for block in changed})

    def _outputs_of(
        self, module: nn.Module, tensors: dict[str, torch.Tensor], x: torch.Tensor, mode: Mode
    ) -> torch.Tensor:
        """The module's outputs (N, C); buffers in ``tensors`` are those after the pass."""
        import torch
        from torch.func import functional_call

        if module.training != (mode == "train"):
            module.train(mode == "train")
        try:
            g = functional_call(module, tensors, (x,))
        except Exception as error:
            raise _explained(self._place, error, f"on inputs of shape {tuple(x.shape)}, {x.dtype}") from error
        if not isinstance(g, torch.Tensor) or g.shape != (len(x), self._outputs):
            got = f"shape {tuple(g.shape)}" if isinstance(g, torch.Tensor) else type(g).__name__
            raise self._fault(
                f"returns {got} for {len(x)} inputs, expected a tensor of shape {(len(x), self._outputs)}"
            )
        return g

    def _constants_like(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """The buffers that are constant, where x is and of its type."""
        varying = {part.names[0] for part in self.parts}
        return {
            path: tensor.to(x.device, x.dtype if tensor.is_floating_point() else None)
            for path, tensor in self._module.named_buffers()
            if path not in varying
        }

    def _prepare(self, x: torch.Tensor) -> None:
        """Moves the constants once; within a transform they would be moved again at each pass."""
        self._ready.setdefault((x.device, x.dtype), self._constants_like(x))

    # --- members ------------------------------------------------------------------------------------------------

    def evaluate(self, parameters: Tensors, x: torch.Tensor, buffers: Tensors = ()) -> Applied:
        """See ``Network.evaluate``."""
        self._prepare(x)
        return super().evaluate(parameters, x, buffers)

    def gradients(
        self, parameters: Tensors, x: torch.Tensor, y: torch.Tensor, loss: Loss, buffers: Tensors = ()
    ) -> Backward:
        """See ``Network.gradients``."""
        self._prepare(x)
        return super().gradients(parameters, x, y, loss, buffers)

    def in_turn(self, x: torch.Tensor) -> bool:
        """One after another where ``vmap`` does not work, or convolutions run on a processor; see ``Network.one_by_one``."""
        return bool(self._no_vmap) or (self._convolves and x.device.type == "cpu")

    def _why_not_together(self) -> str:
        """Why members cannot go through the module side by side, found by a trial with two."""
        import torch

        starts = [self.start(seed) for seed in (0, 1)]
        tensors = [torch.as_tensor(np.stack([own[block.name] for own in starts])) for block in self.blocks]
        parameters, buffers = self.split(tensors)
        x, y = self._trial.flatten(1), torch.zeros(SAMPLES, self._outputs, dtype=torch.float64)
        found = []
        for self._no_vmap in ("a trial", ""):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")  # torch warns of operations that vmap makes slow
                    found.append(self.gradients(parameters, x, y, Square(), buffers))
            except (RuntimeError, UserWarning, RecipeError) as problem:
                if self._no_vmap:
                    raise
                return _vmap_problem(problem)
        apart, together = found
        pairs = zip((apart.outputs, *apart.gradients), (together.outputs, *together.gradients), strict=True)
        same = all(torch.allclose(a, b, rtol=1e-9, atol=1e-12, equal_nan=True) for a, b in pairs)
        return "" if same else "side by side they would have other outputs or gradients"

    def units(self, size: int) -> int:
        """See ``Network.units``; on a processor, for a module need not run on tensors without content."""
        import torch

        start = self.start(0)
        parameters, buffers = self.split([torch.as_tensor(start[block.name]) for block in self.blocks])
        x = torch.zeros(4, size, dtype=torch.float64)

        def made(samples: int) -> int:
            return numbers_made(lambda: self._one(parameters, buffers, x[:samples], "train"))

        return (made(4) - made(2)) // 2


def _vmap_problem(problem: Exception) -> str:
    text = " ".join(str(problem.__cause__ or problem).split())
    return f"it does not run under torch.func.vmap ({text[:100]}{'…' * (len(text) > 100)})"


def trial_inputs(shape: tuple[int, ...]) -> torch.Tensor:
    """Random inputs of norm 1 to examine a module with."""
    import torch

    x = torch.randn((SAMPLES, math.prod(shape)), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (x / x.norm(dim=1, keepdim=True)).reshape(SAMPLES, *shape)  # type: ignore[no-any-return]


def _by_degree(layers: tuple[Block, ...]) -> str:
    """The layers of each degree, in words."""
    found: dict[float | None, list[str]] = {}
    for block in layers:
        found.setdefault(block.degree, []).append(block.name)
    if len(found) == 1:
        (degree,) = found
        return f"{'none' if degree is None else f'{degree:g}'} in every weight"
    return "; ".join(
        f"{'none' if degree is None else f'{degree:g}'} in {', '.join(names[:4])}{' and more' * (len(names) > 4)}"
        for degree, names in found.items()
    )
