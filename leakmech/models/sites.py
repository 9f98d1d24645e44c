"""Sites: the named places of a forward pass, read with plain PyTorch hooks on the Hugging Face modules.

With x the residual stream and l a layer,

    resid_pre -> + attn_out -> resid_mid -> + mlp_out -> resid_post,
    attn_out = z W_O (+ b),    mlp_out = mlp_post W_out (+ b),

where z are the concatenated outputs of the heads and mlp_post the neurons behind the non-linearity (for gated MLPs the
product). ``attn_out`` and ``mlp_out`` are what is added to the stream: in Gemma that is behind the norm that follows
the sublayer. Where attention and MLP read the same stream (GPT-NeoX) there is no ``resid_mid``.

Hooks stand on the modules of :mod:`leakmech.models.layout` and see what changed modules compute, so a model under
interventions or with an adapter is read as it runs. TransformerLens calls the same places ``hook_resid_pre``,
``hook_z`` and so on; the tests compare both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from leakmech.core.errors import ConfigError, ModelError, nearest
from leakmech.models.layout import Block, Layout

Site = str
"""A name of :data:`SITES`."""

SITES: tuple[Site, ...] = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "mlp_post")
"""In the order of the forward pass, then what the sublayers write from."""

Pick = Callable[[Float[Tensor, "batch tokens width"]], Float[Tensor, "batch pos width"]]
"""What is kept of a site's values."""

Recorded = dict[tuple[Site, int], Tensor]


def parse_sites(sites: Sequence[str], layout: Layout) -> tuple[Site, ...]:
    """Check the names of sites.

    Raises
    ------
    ConfigError
        An unknown name, a name twice, or none at all.
    ModelError
        ``resid_mid`` of a model that has none.
    """
    if isinstance(sites, str):
        raise ConfigError(f"sites: give a list of names, found the text {sites!r}")
    if not sites or len(set(sites)) < len(sites):
        raise ConfigError(f"sites: name at least one, and each once, found {list(sites)}")
    for name in sites:
        if name not in SITES:
            raise ConfigError(f"sites: unknown site {name!r}{nearest(name, SITES)}")
    if "resid_mid" in sites and layout.parallel:
        raise ModelError(
            f"site 'resid_mid': {layout.architecture} runs attention and MLP in parallel and has none; "
            "use resid_pre, attn_out or resid_post"
        )
    return tuple(site for site in SITES if site in sites)


def site_shape(layout: Layout, site: Site) -> tuple[int, ...]:
    """Shape of one vector of a site: (n_heads, d_head) for ``z``, else (d_mlp,) or (d_model,)."""
    if site == "z":
        return (layout.n_heads, layout.d_head)
    return (layout.d_mlp,) if site == "mlp_post" else (layout.d_model,)


@contextmanager
def recording(layout: Layout, *, sites: Sequence[Site], layers: Sequence[int], pick: Pick) -> Iterator[Recorded]:
    """While this is entered, forward passes leave ``pick(values)`` of every site and layer in the yielded mapping.

    Parameters
    ----------
    layout
        Of the model that will run.
    sites, layers
        What to record.
    pick
        Chooses what to keep; called inside the forward pass, so what it leaves out takes no memory.
    """
    recorded: Recorded = {}
    with ExitStack() as hooks:
        for layer in layers:
            for site in sites:
                for handle in _hooks(layout.block(layer), site, pick, _Slot(recorded, site, layer)):
                    hooks.callback(handle.remove)
        yield recorded


class _Slot:
    """Where the values of one site and layer are put."""

    def __init__(self, recorded: Recorded, site: Site, layer: int) -> None:
        self.recorded = recorded
        self.key = (site, layer)

    def put(self, values: Tensor) -> None:
        self.recorded[self.key] = values

    def add(self, values: Tensor) -> None:
        self.recorded[self.key] = self.recorded[self.key] + values


def _hooks(block: Block, site: Site, pick: Pick, slot: _Slot) -> list[Any]:
    attention = block.attention_post_norm or block.attention
    mlp = block.mlp_post_norm or block.mlp
    match site:
        case "resid_pre":
            return [_on_input(block.block, lambda x: slot.put(pick(x)))]
        case "resid_mid":  # no module's input or output everywhere, but the sum of two
            return [
                _on_input(block.block, lambda x: slot.put(pick(x))),
                _on_output(attention, lambda x: slot.add(pick(x))),
            ]
        case "resid_post":
            return [_on_output(block.block, lambda x: slot.put(pick(x)))]
        case "attn_out":
            return [_on_output(attention, lambda x: slot.put(pick(x)))]
        case "mlp_out":
            return [_on_output(mlp, lambda x: slot.put(pick(x)))]
        case "z":
            return [_on_input(block.heads_out, lambda x: slot.put(pick(x)))]
        case "mlp_post":
            return [_on_input(block.neurons_out, lambda x: slot.put(pick(x)))]
    raise AssertionError(f"site {site!r} has passed parse_sites, but has no hook")


def _on_input(module: nn.Module, see: Callable[[Tensor], None]) -> Any:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        see(args[0] if args else kwargs["hidden_states"])

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _on_output(module: nn.Module, see: Callable[[Tensor], None]) -> Any:
    def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        see(output[0] if isinstance(output, tuple) else output)

    return module.register_forward_hook(hook)
