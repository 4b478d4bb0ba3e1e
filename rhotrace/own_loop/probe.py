"""What one step of a training is measured by: its weights before and after, its gradients and its outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rhotrace.errors import RhoTraceError
from rhotrace.models.module_parts import ModulePart, random_parts
from rhotrace.own_loop.homogeneity import outputs_of
from rhotrace.own_loop.layer_norms import norms_of
from rhotrace.own_loop.measures import BATCH, FULL, TEST, Seen, Sums, evaluation
from rhotrace.own_loop.module_blocks import tensors_of
from rhotrace.own_loop.optimizers import groups_of
from rhotrace.own_loop.samples import Samples, as_targets
from rhotrace.own_loop.settings import Settings
from rhotrace.own_loop.weight_quantities import OfWeights

if TYPE_CHECKING:
    import torch

    from rhotrace.own_loop.layer_norms import Numbers

    Pieces = Mapping[str, Numbers]


class Probe:
    """Measures the steps of a module; all results are (width,) in float64, and none waits for its device.

    Args:
        model: a plain module.
        blocks: of it.
        settings: what is recorded.
    """

    def __init__(self, model: torch.nn.Module, blocks: tuple[ModulePart, ...], settings: Settings) -> None:
        import torch

        self._model, self._blocks, self._settings = model, blocks, settings
        pairs = zip(blocks, tensors_of(model, blocks), strict=True)
        self.layers = [tensors for each, tensors in pairs if each.block.role == "weight"]
        self.of_weights = OfWeights(settings.strides, [each for each in blocks if each.block.role == "weight"])
        self._norms, self._norms_of_weights = norms_of(self.layers), norms_of(self.layers, in_place=True)
        self._weights = [tensor for layer in self.layers for tensor in layer]
        self.device = self._weights[0].device
        self._untraced = torch.no_grad()
        self._before: list[torch.Tensor] = []
        self._zeros: dict[int, torch.Tensor] = {}
        loss = settings.loss
        self._of_batch = Sums(BATCH, loss) if loss else None
        self._of_full = Sums(FULL, loss) if loss else None
        self._of_test = Sums(TEST, loss) if loss else None
        modes = any(b.block.role == "buffer" for b in blocks) or bool(random_parts(model))
        # Outputs of a full batch are those on the training set, unless modes ``train`` and ``eval`` differ.
        self._same = settings.full_batch and not modes
        self.evaluates = settings.data is not None and loss is not None and not self._same
        self._known: list[list[dict[str, Any]]] = []
        self._groups: list[dict[str, Any]] = []
        self._alike = False
        self._rates: list[float] = []  # of the last step, where they are alike
        self.heavy_ball = False  # the velocity is measured too
        self.outputs, self.output_dtype = 0, ""

    @property
    def due(self) -> dict[str, dict[str, int]]:
        """Numbers of each quantity that is measured at a stride, by cadence and name."""
        full = self._of_full.widths if self.evaluates and self._of_full else {}
        test = self._of_test.widths if self._settings.test is not None and self._of_test else {}
        return {"full": full, "test": test, **self.of_weights.due}

    # --- before the update --------------------------------------------------------------------------------------

    def before(self, optimizers: Sequence[torch.optim.Optimizer]) -> Pieces:
        """Norms of weights and gradients, and of the velocity where that is measured."""
        weights = self._weights
        found: dict[str, Numbers] = {"rho_k": self._norms_of_weights(weights)}
        if not (self._settings.gradients or self._settings.updates):
            return found
        import torch  # here and below not at the top: for the norms alone, a step has not the time

        with self._untraced:
            if self._settings.gradients:
                found["grad_norm"] = self._gradient_norms(optimizers)
            if self.heavy_ball:
                velocity = self._velocity(optimizers[0])
                found["velocity_norm"] = self._norms(velocity)
                found["velocity_along"] = self._along(velocity)
            if self._settings.updates:
                if not self._before:
                    self._before = [W.detach().clone() for W in weights]
                else:
                    torch._foreach_copy_(self._before, weights)
            return found

    def _gradient_norms(self, optimizers: Sequence[torch.optim.Optimizer]) -> Numbers:
        import torch

        gradients = [W.grad for W in self._weights]
        if any(G is None or G.is_sparse for G in gradients):
            gradients = [self._dense(k, G) for k, G in enumerate(gradients)]
        norms = self._norms([G for G in gradients if G is not None])
        for one in optimizers:  # a fused optimizer unscales in its own kernel
            if getattr(one, "grad_scale", None) is not None:
                scale: torch.Tensor = one.grad_scale  # type: ignore[attr-defined]
                return torch.as_tensor(norms) / scale.double()
        return norms

    def _dense(self, number: int, gradient: torch.Tensor | None) -> torch.Tensor:
        if gradient is not None:
            return gradient.to_dense() if gradient.is_sparse else gradient
        if number not in self._zeros:
            self._zeros[number] = self._weights[number].detach().new_zeros(self._weights[number].shape)
        return self._zeros[number]

    def _velocity(self, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
        found = [optimizer.state.get(W, {}).get("momentum_buffer") for W in self._weights]
        return [self._dense(k, u) for k, u in enumerate(found)]

    def _along(self, velocity: Sequence[torch.Tensor]) -> torch.Tensor:
        import torch

        each = iter([(W.double() * u.double()).sum() for W, u in zip(self._weights, velocity, strict=True)])
        return torch.stack([sum(next(each) for _ in layer) for layer in self.layers])  # type: ignore[misc]

    def rates(self, optimizers: Sequence[torch.optim.Optimizer]) -> list[float]:
        """Learning rate of each layer; 0 of one that is not trained."""
        known = len(optimizers) == len(self._known)
        for one, old in zip(optimizers, self._known, strict=False):
            known = known and one.param_groups is old
        if not known:
            self._known = [one.param_groups for one in optimizers]  # other lists after ``load_state_dict``
            self._groups = [home[1] if home else {"lr": 0.0} for home in groups_of(optimizers, self.layers)]
            self._alike = len({*map(id, self._groups)}) == 1
        if self._alike:
            lr = float(self._groups[0]["lr"])
            if not self._rates or lr != self._rates[0]:
                self._rates = [lr] * len(self.layers)
            return self._rates
        return [float(group["lr"]) for group in self._groups]

    def blocks(self) -> list[NDArray[Any]]:
        """The blocks as a snapshot contains them, (1, out, fan_in) each."""
        kind = "f8" if next(self._model.parameters()).dtype.itemsize == 8 else "f4"
        found = []
        for each, tensors in zip(self._blocks, tensors_of(self._model, self._blocks), strict=True):
            flat = np.concatenate([t.detach().cpu().double().numpy().reshape(-1) for t in tensors])
            found.append(flat.astype(kind).reshape(1, *each.block.matrix))
        return found

    # --- on sets of samples -------------------------------------------------------------------------------------

    def full(self) -> dict[str, torch.Tensor]:
        """The sums over the training set."""
        return self._evaluated(self._settings.data, self._of_full, "full")

    def test(self) -> dict[str, torch.Tensor]:
        """The sums over the test set."""
        return self._evaluated(self._settings.test, self._of_test, "test")

    def _evaluated(self, samples: Samples | None, sums: Sums | None, name: str) -> dict[str, torch.Tensor]:
        if samples is None or sums is None or self._settings.loss is None:
            return {}
        outputs, targets = samples.evaluate(self._model, self._settings.loss, self.device)
        seen = evaluation(outputs, targets, self._settings.loss)
        self.outputs = outputs.shape[1]
        return sums.named(Seen(full=seen) if name == "full" else Seen(test=seen))

    # --- after the update ---------------------------------------------------------------------------------------

    def after(self, batch: Sequence[tuple[Any, torch.Tensor]]) -> Pieces:
        """The norm of the update, and the sums over the outputs of the step's batch.

        Args:
            batch: outputs and targets of each part of the batch; empty where they were not given.
        """
        if not self._settings.updates and not (batch and self._settings.loss):
            return {}
        import torch

        with self._untraced:
            found: dict[str, Numbers] = {}
            if self._settings.updates:
                torch._foreach_sub_(self._before, self._weights)  # the update with its sign changed
                found["update_norm"] = self._norms(self._before)
            if batch and self._settings.loss:
                found |= self._of_outputs(batch)
            return found

    def _of_outputs(self, batch: Sequence[tuple[Any, torch.Tensor]]) -> Pieces:
        import torch

        loss, data = self._settings.loss, self._settings.data
        assert loss is not None  # noqa: S101 - ``after`` asks
        assert self._of_batch is not None  # noqa: S101
        each = [outputs_of(outputs).detach() for outputs, _ in batch]
        targets = [as_targets(y, g.shape[1], loss) for g, (_, y) in zip(each, batch, strict=True)]
        if not self.output_dtype:
            self.outputs, self.output_dtype = each[0].shape[1], str(each[0].dtype).removeprefix("torch.")
        outputs, wanted = (parts[0] if len(parts) == 1 else torch.cat(parts) for parts in (each, targets))
        if outputs.shape[0] != wanted.shape[0]:
            raise RhoTraceError(
                f"trace.step: got outputs of {outputs.shape[0]} samples and targets of {wanted.shape[0]}, expected as many"
            )
        seen = evaluation(outputs, wanted, loss)
        found = self._of_batch.named(Seen(batch=seen))
        if self._settings.full_batch and data is not None and data.size not in (None, outputs.shape[0]):
            raise RhoTraceError(
                f"trace.step: got outputs of {outputs.shape[0]} samples, expected the {data.size} of data=..., since "
                "full_batch is set; leave full_batch out for minibatches"
            )
        if not self._same:
            return {**found, "batch_loss": seen.loss}
        assert self._of_full is not None  # noqa: S101
        return {**found, **self._of_full.named(Seen(full=seen))}
