"""Peak memory of the 36 × 9 sweep of GPT-2 Large above the model's, short and long prompt."""

import concurrent.futures
import multiprocessing
from collections.abc import Callable

import torch

from benchmarks.alone import end_with_parent
from benchmarks.cells import every_cell
from benchmarks.memory import peak_above
from benchmarks.peers import peer_class
from benchmarks.results import Fact, Found, Target
from benchmarks.subjects import GPT2_LARGE, subject_of

BOUNDS_GB = {7: 1.0, 1024: 2.0}
WARM_UP_TOKENS = 7


def memory() -> Found:
    """Each length in a process of its own."""
    targets, facts = [], []
    for tokens, bound in BOUNDS_GB.items():
        packed = _alone(sweep_peak, tokens) / 1e9
        forward = _alone(forward_peak, tokens) / 1e9
        what = f"36 × 9 sweep, {tokens:,} tokens: peak memory above the model's"
        targets.append(Target(what, packed, bound, "GB", False))
        facts.append(Fact(f"one plain forward of {tokens:,} tokens, above the model's",
                          f"{forward:.2f} GB"))  # fmt: skip
    title = "Peak memory above the model's, 36 × 9 sweep of GPT-2 Large"
    return Found(title=title, targets=tuple(targets), facts=tuple(facts))


def sweep_peak(tokens: int) -> int:
    """Bytes above the model's that a sweep takes; call it in a fresh process."""
    subject = subject_of(GPT2_LARGE, tokens)
    packed = peer_class("packed")(subject)
    _plain_forward(subject.model.hf_model, subject.token_ids[:WARM_UP_TOKENS])
    return peak_above(lambda: packed.log_probs(every_cell(GPT2_LARGE)))


def forward_peak(tokens: int) -> int:
    """The same of one plain forward."""
    subject = subject_of(GPT2_LARGE, tokens)
    _plain_forward(subject.model.hf_model, subject.token_ids[:WARM_UP_TOKENS])
    return peak_above(lambda: _plain_forward(subject.model.hf_model, subject.token_ids))


@torch.no_grad()
def _plain_forward(hf_model: torch.nn.Module, token_ids: tuple[int, ...]) -> None:
    hf_model(torch.tensor([token_ids]), use_cache=False)


def _alone(measure: Callable[[int], int], tokens: int) -> int:
    fresh = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        1, mp_context=fresh, initializer=end_with_parent
    ) as pool:
        return pool.submit(measure, tokens).result()
