"""Training in less memory than float's: what batch norms and activations give is not kept but computed again.

A float layer keeps the output of the convolution (for its batch norm) and that of the ReLU (for the next layer). Here
the second is made again in the backward pass from the first, by the same operations: the same numbers bit by bit, for
one batch norm and one activation more. In-place activated batch norm (Rota Bulò et al., CVPR 2018, arXiv 1712.02616)
saves as much by inverting them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Identity),
)
Key = tuple[int, int, tuple[int, ...], tuple[int, ...], torch.dtype]


@contextmanager
def low_memory(model: nn.Module) -> Iterator[None]:
    """Around the forward pass of a training step of ``model``: outputs of batch norms and activations are not kept.

    These are modules: ``nn.BatchNorm2d``, timm's ``BatchNormAct2d``, ``nn.ReLU`` and other activations behind one of
    them. Gradients are the same bit by bit. Under torch.compile, which decides itself what is kept, nothing happens.
    """
    if torch.compiler.is_compiling():
        yield
        return
    memory = _Memory()
    hooks = [module.register_forward_hook(memory.watch) for module in model.modules() if _is_watched(module)]
    try:
        with saved_tensors_hooks(memory.pack, memory.unpack):
            yield
    finally:
        for hook in hooks:
            hook.remove()
        memory.forget()


class _Recipe:
    """How a tensor is made again; what was made stays until all that were kept of it have been asked for."""

    def __init__(self, make: Callable[[], Tensor]):
        self.make, self.wanted = make, 0
        self._made: Tensor | None = None

    def __call__(self) -> Tensor:
        made = self.make() if self._made is None else self._made
        self.wanted -= 1
        self._made = made if self.wanted > 0 else None
        return made


class _Kept:
    """A tensor that the graph keeps, or how it is made again."""

    def __init__(self, tensor: Tensor):
        self.tensor: Tensor | None = tensor
        self.version = tensor._version
        self.recipe: _Recipe | None = None

    def replace(self, recipe: _Recipe) -> None:
        self.tensor, self.recipe = None, recipe
        recipe.wanted += 1


class _Memory:
    """Of one forward pass: recipes of tensors that live, and what was kept before their recipe was known."""

    def __init__(self) -> None:
        self._recipes: dict[Key, _Recipe] = {}
        self._early: dict[Key, list[weakref.ref[_Kept]]] = {}

    def forget(self) -> None:
        """What follows is of no use to the backward pass."""
        self._recipes.clear()
        self._early.clear()

    def pack(self, tensor: Tensor) -> _Kept:
        """What the graph keeps in the place of a tensor."""
        kept, key = _Kept(tensor), _key(tensor)
        if (recipe := self._recipes.get(key)) is not None:
            kept.replace(recipe)
        elif not isinstance(tensor, nn.Parameter):
            self._early.setdefault(key, []).append(weakref.ref(kept))
        return kept

    def unpack(self, kept: _Kept) -> Tensor:
        """The tensor."""
        if kept.recipe is None:
            _check_unchanged(kept.tensor, kept.version)
            return kept.tensor
        with torch.no_grad():
            return kept.recipe()

    def watch(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """A forward hook: the recipe of what a module has given."""
        make = self._recipe(module, inputs[0]) if len(module._forward_hooks) == 1 else None
        if make is None or not isinstance(output, Tensor):  # others' hooks may have changed it
            return
        key, recipe = _key(output), _Recipe(make)
        self._recipes[key] = recipe
        for early in self._early.pop(key, ()):
            if (kept := early()) is not None:
                kept.replace(recipe)
        weakref.finalize(output, self._recipes.pop, key, None)

    def _recipe(self, module: nn.Module, x: Tensor) -> Callable[[], Tensor] | None:
        if _is_norm(module):
            return _norm(module, x.detach())
        before = self._recipes.get(_before(module, x))
        return None if before is None else lambda: module.forward(before.make())  # in place is as good there


def _is_watched(module: nn.Module) -> bool:
    return _is_norm(module) or type(module) in _ACTIVATIONS


def _is_norm(module: nn.Module) -> bool:
    """torch's, or timm's with an activation inside; not others that derive from them and compute something else."""
    of_timm = type(module).__name__ == "BatchNormAct2d" and type(module).__module__.startswith("timm.")
    return type(module) in _NORMS or (of_timm and type(module.drop) is nn.Identity)


def _norm(module: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    """A batch norm, with the activation that timm's have inside; running statistics stay."""
    learns, version = module.training or module.running_mean is None, x._version

    def make() -> Tensor:
        _check_unchanged(x, version)
        statistics = (module.running_mean, module.running_var)  # copies when they would change; there they set the type
        if learns and module.running_mean is not None:
            statistics = (module.running_mean.clone(), module.running_var.clone())
        with torch.autocast(x.device.type, enabled=False):
            y = F.batch_norm(x, *statistics, module.weight, module.bias, learns, 0.0, module.eps)
        inside = getattr(module, "act", None)
        return y if inside is None else inside.forward(y)

    return make


def _check_unchanged(tensor: Tensor, version: int) -> None:
    """As autograd does of what it keeps itself."""
    if tensor._version != version:
        raise RuntimeError(
            f"a tensor of shape {tuple(tensor.shape)} that the backward pass needs has been modified in place after "
            "the forward pass"
        )


def _before(module: nn.Module, x: Tensor) -> Key:
    """The key that the input of an activation had before it worked in place."""
    key = _key(x)
    return (key[0], key[1] - 1, *key[2:]) if getattr(module, "inplace", False) else key


def _key(tensor: Tensor) -> Key:
    return tensor.data_ptr(), tensor._version, tuple(tensor.shape), tensor.stride(), tensor.dtype
