"""Sites: the named places of a forward pass, read and changed with plain PyTorch hooks on the Hugging Face modules.

With x the residual stream and l a layer,

    resid_pre -> + attn_out -> resid_mid -> + mlp_out -> resid_post,
    attn_out = z W_O (+ b),    mlp_out = mlp_post W_out (+ b),

where z are the concatenated outputs of the heads and mlp_post the neurons after the non-linearity (for gated MLPs the
product). ``attn_out`` and ``mlp_out`` are what is added to the stream: in Gemma that is after the norm that follows
the sublayer. Where attention and MLP read the same stream (GPT-NeoX) there is no ``resid_mid``.

Hooks are on the modules of :mod:`leakmech.models.layout` and see what changed modules compute, so a model under
interventions or with an adapter is read as it runs. TransformerLens calls the same places ``hook_resid_pre``,
``hook_z`` and so on; the tests compare both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from leakmech.core.errors import ConfigError, ModelError, nearest
from leakmech.models.hooks import See, on_input, on_output
from leakmech.models.layout import Block, Layout, NoNeurons

Site = str
"""A name of :data:`SITES`."""

SITES: tuple[Site, ...] = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "mlp_post")
"""In the order of the forward pass, then what the sublayers write from."""

QUERIES: Site = "q"
"""The queries of all heads before positions are put in; for edits only, and only where a module makes nothing else."""

STREAM_SITES: tuple[Site, ...] = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
"""Those of width d_model: the stream, and what is added to it."""

SITE_ORDER = ("resid_pre", QUERIES, "attention", "z", "attn_out", "resid_mid", "mlp_post", "mlp_out", "resid_post")
"""In the order in which a layer reaches them; ``attention``: where it reads its mask."""

Pick = Callable[[Float[Tensor, "batch tokens width"]], Float[Tensor, "batch pos width"]]
"""What is kept of a site's values."""

Recorded = dict[tuple[Site, int], Tensor]


def parse_sites(sites: Sequence[str], layout: Layout) -> tuple[Site, ...]:
    """Check the names of sites."""
    if isinstance(sites, str):
        raise ConfigError(f"sites: give a list of names, found the text {sites!r}")
    if not sites or len(set(sites)) < len(sites):
        raise ConfigError(f"sites: name at least one, and each once, found {list(sites)}")
    for name in sites:
        if name not in SITES:
            raise ConfigError(f"sites: unknown site {name!r}{nearest(name, SITES)}")
    for name in sites:
        check_site(name, layout)
    return tuple(site for site in SITES if site in sites)


def check_site(site: Site, layout: Layout) -> None:
    """Refuse ``resid_mid`` where there is none."""
    if site == "resid_mid" and layout.parallel:
        raise ModelError(
            f"site 'resid_mid': {layout.architecture} runs attention and MLP in parallel and has none; "
            "use resid_pre, attn_out or resid_post"
        )


def site_shape(layout: Layout, site: Site) -> tuple[int, ...]:
    """Shape of one vector of a site: (n_heads, d_head) for ``z``, else (d_mlp,) or (d_model,)."""
    if site == "z":
        return (layout.n_heads, layout.d_head)
    return (layout.d_mlp,) if site == "mlp_post" else (layout.d_model,)


def site_module(block: Block, site: Site) -> tuple[nn.Module, Literal["input", "output"]]:
    """The module of a block that has a site, and on which side. All sites but ``resid_mid`` have one::

    resid_pre                             input of block
        |---> norm, queries, keys, values
        |       z                         input of heads_out
        |     heads_out, attention_post_norm (Gemma)
        +<--- attn_out                    output of attention_post_norm, else of attention
    resid_mid                             resid_pre + attn_out, no module's input everywhere
        |---> norm, first maps of the MLP
        |       mlp_post                  input of neurons_out
        |     neurons_out, mlp_post_norm (Gemma)
        +<--- mlp_out                     output of mlp_post_norm, else of mlp
    resid_post                            output of block
    """
    match site:
        case "resid_pre":
            return block.block, "input"
        case "resid_post":
            return block.block, "output"
        case "attn_out":
            return block.attention_post_norm or block.attention, "output"
        case "mlp_out":
            return block.mlp_post_norm or block.mlp, "output"
        case "z":
            return block.heads_out, "input"
        case "mlp_post":
            if isinstance(block.neurons_out, NoNeurons):
                raise ModelError("site 'mlp_post': a mixture of experts has no neurons that every token has")
            return block.neurons_out, "input"
        case "q":
            if block.queries is None:
                raise ModelError("site 'q': no module of this model makes queries alone, and as they are read")
            return block.queries, "output"
    raise AssertionError(f"site {site!r} has no single module")


@contextmanager
def at_site(block: Block, site: Site, see: See) -> Iterator[None]:
    """While this is entered, `see` is shown the values of a site, and what it returns, if anything, replaces them.

    At ``resid_mid`` the sum is shown, and a change of it is made to what attention adds.
    """
    with ExitStack() as hooks:
        if site == "resid_mid":
            stream: list[Tensor] = []
            module, _ = site_module(block, "attn_out")
            hooks.callback(on_input(block.block, _remember(stream)).remove)
            hooks.callback(on_output(module, _around(stream, see)).remove)
        else:
            module, side = site_module(block, site)
            see = _kept_apart(see) if block.adds_in_place and site == "mlp_out" else see
            hooks.callback((on_input if side == "input" else on_output)(module, see).remove)
        yield


def _kept_apart(see: See) -> See:
    """Show values that nothing adds to any more: the block goes on with a copy."""

    def run(x: Tensor) -> Tensor:
        changed = see(x)
        return (x if changed is None else changed).clone()

    return run


def _remember(stream: list[Tensor]) -> See:
    def keep(x: Tensor) -> None:
        stream[:] = [x]

    return keep


def _around(stream: list[Tensor], see: See) -> See:
    """Show the sum of the stream and what is added to it; change the sum by changing what is added."""

    def run(added: Tensor) -> Tensor | None:
        middle = stream.pop() + added
        changed = see(middle)
        return None if changed is None or changed is middle else added + (changed - middle)

    return run


@contextmanager
def recording(layout: Layout, *, sites: Sequence[Site], layers: Sequence[int], pick: Pick) -> Iterator[Recorded]:
    """While this is entered, forward passes leave ``pick(values)`` of every site and layer in the yielded mapping.

    `pick` is called inside the forward pass, so what it leaves out takes no memory.
    """
    recorded: Recorded = {}
    with ExitStack() as hooks:
        for layer in layers:
            for site in sites:
                hooks.enter_context(at_site(layout.block(layer), site, _put(recorded, (site, layer), pick)))
        yield recorded


def _put(recorded: Recorded, key: tuple[Site, int], pick: Pick) -> See:
    def put(values: Tensor) -> None:
        recorded[key] = pick(values)

    return put
