"""The table between the two halves: every column of a sweep, its type, unit and meaning.

One row a prompt × layer × fraction × selection (× draw). Null means "not measured"; nothing
averages it in. `effect_x` is always lesioned − clean.
"""

import dataclasses

import pyarrow as pa


@dataclasses.dataclass(frozen=True)
class Column:
    """One column: its Arrow type and what its values mean."""

    name: str
    type: pa.DataType
    meaning: str


_INT, _FLOAT, _TEXT = pa.int64(), pa.float64(), pa.string()

SWEEP_COLUMNS: tuple[Column, ...] = (
    Column("prompt_id", _INT, "number of the prompt in its set, from 0"),
    Column("prompt", _TEXT, "the prompt"),
    Column("target", _TEXT, "the token whose prediction is measured, with its leading space"),
    Column("target_id", _INT, "its token id"),
    Column("foil_id", _INT, "token id of the foil; null without one"),
    Column("layer", _INT, "the lesioned block; scope cumulative: the last one; scope all: null"),
    Column("fraction", _FLOAT, "share of neurons asked for, in [0, 1]"),
    Column("neurons", _INT, "how many neurons that is: floor(fraction · n), summed over blocks"),
    Column("changed", _INT, "how many of their values the lesion changed"),
    Column("logit", _FLOAT, "logit of the target after the lesion"),
    Column("log_prob", _FLOAT, "log-probability of the target after the lesion, nats"),
    Column("prob", _FLOAT, "probability of the target after the lesion"),
    Column("target_rank", _INT, "rank of the target among all tokens after the lesion, from 1"),
    Column("kl", _FLOAT, "KL(clean ‖ lesioned) of the next-token distributions, nats"),
    Column("entropy", _FLOAT, "entropy of the next-token distribution after the lesion, nats"),
    Column("top_token", _TEXT, "the likeliest token after the lesion"),
    Column("clean_logit", _FLOAT, "logit of the target in the clean run"),
    Column("clean_log_prob", _FLOAT, "log-probability of the target in the clean run, nats"),
    Column("effect_logit", _FLOAT, "logit − clean_logit"),
    Column("effect_log_prob", _FLOAT, "log_prob − clean_log_prob, nats"),
    Column("removed_post", _FLOAT, "Σ |Δpost| that the lesion made, summed over its blocks"),
    Column("out_delta_norm", _FLOAT, "‖Δ MLP output‖ of the lesioned block; null for several"),
    Column("logit_diff", _FLOAT, "logit(target) − logit(foil); null without a foil"),
    Column("effect_logit_diff", _FLOAT, "logit_diff − the clean run's"),
    Column("site", _TEXT, "pre, post or out"),
    Column("selection", _TEXT, "top, bottom, random, band:LOW-HIGH or set"),
    Column("rank", _TEXT, "rank key: value, abs or write; null for random and set"),
    Column("rank_on", _TEXT, "whether ranked on the lesioned or the clean run"),
    Column("replacement", _TEXT, "what the neurons were overwritten with"),
    Column("scope", _TEXT, "each, all or cumulative"),
    Column("engine", _TEXT, "the engine that measured the row"),
    Column("status", _TEXT, "ok; empty (no neuron chosen); nonfinite (NaN or infinite logit)"),
    Column("top_token_id", _INT, "token id of top_token"),
    Column("draw", _INT, "number of the random draw, from 0; null for other selections"),
    Column("largest_change", _FLOAT, "largest |Δ| of a value at the site"),
    Column("hidden_norm", pa.list_(_FLOAT), "‖Δ hidden state‖ at the last token: of the embedding, "
           "then after every block, before the final norm; null unless asked for"),
    Column("position", _INT, "index, from 0, of the lesioned token of the prompt"),
    Column("direct_logit", _FLOAT, "direct effect on the logit: the block's own output, later "
           "blocks as they were; null for several blocks"),
    Column("direct_log_prob", _FLOAT, "direct effect on the log-probability, nats"),
    Column("below_noise", pa.bool_(), "|effect_log_prob| is below the run's noise floor; null "
           "where none was measured (float32, float64)"),
    Column("clean_target_rank", _INT, "rank of the target in the clean run, from 1"),
    Column("target_source", _TEXT, "given; top (the clean run's likeliest token); next (the token "
           "that follows); first or sum (of a target of several tokens)"),
    Column("group", _TEXT, "the prompt's group, within which prompts are not independent; without "
           "one its own"),
    Column("carried", _TEXT, "what else the prompt set says of the prompt, as JSON; or null"),
    Column("row_key", _TEXT, "hash of all that the row depends on: model, tokens, lesion, dtype"),
)  # fmt: skip

SWEEP_SCHEMA = pa.schema([(column.name, column.type) for column in SWEEP_COLUMNS])
