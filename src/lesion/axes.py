"""The names of tensor axes, and the three sites of a block's MLP.

Axes, as they stand in shape annotations and column names:

    row         one lesion (or the clean run) of one prompt
    token       position in a prompt
    neuron      one of a block's MLP neurons (a component of the vector at site `pre` or `post`)
    width       component of the residual stream, d_model
    unit        component of the vector at whatever site is meant: a neuron, or a width component
    vocabulary  token id
    block       transformer block, 0 … L − 1; `layer` in columns and flags

Sites:

    pre         input of the nonlinearity (GPT-2: output of `c_fc`; gated MLPs: output of the gate
                projection)
    post        input of the down projection: "the neurons" (gated MLPs: act(gate) · up)
    out         output of the down projection, before dropout and residual

Positions, the lesioned token:

    last        the last token of a causal model's prompt, after which the prediction is measured
    every       each token of a text in turn, as the last token of the text up to it, measured on
                the token that follows
    mask        the mask token of a masked model's prompt, where the prediction is measured
    i           the token of that index from 0 (-1 is the last), measured after the last
"""

from typing import Literal, get_args

Site = Literal["pre", "post", "out"]
Scope = Literal["each", "all", "cumulative"]
RankOn = Literal["lesioned", "clean"]
PositionWord = Literal["last", "every", "mask"]
Position = PositionWord | int

SITES: tuple[Site, ...] = get_args(Site)
SCOPES: tuple[Scope, ...] = get_args(Scope)
RANKS_ON: tuple[RankOn, ...] = get_args(RankOn)
POSITIONS: tuple[PositionWord, ...] = get_args(PositionWord)
