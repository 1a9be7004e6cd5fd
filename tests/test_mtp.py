"""The MTP head computes what two independent references compute, over a prompt and while drafting."""

from __future__ import annotations

import itertools

import mlx.core as mx
import numpy as np
import pytest
from parity_cases import ParityCase, all_cases
from reference.mtp import MtpReference
from tolerances import CONTINUED, MTP

WITH_MTP = [case for case in all_cases() if case.mtp]
WITHOUT_MTP = [case for case in all_cases() if not case.mtp]
SEQUENCES = [pytest.param(c, n, id=f"{c.name}-{n}") for c in WITH_MTP for n in c.lengths if n > 1]
each_case = pytest.mark.parametrize("case", WITH_MTP, ids=lambda case: case.name)
each_sequence = pytest.mark.parametrize(("case", "length"), SEQUENCES)


@each_sequence
def test_the_two_references_agree_over_a_prompt(case: ParityCase, length: int) -> None:
    reference = MtpReference(case.tensors(), case.config())
    hidden = reference.prefill(case.golden("hidden", length), case.golden("tokens", length))
    MTP.check(hidden, case.golden("mtp.hidden", length), "hidden states")
    MTP.check(reference.logits(hidden), case.golden("mtp.logits", length), "logits")


@each_sequence
def test_the_two_references_agree_while_drafting(case: ParityCase, length: int) -> None:
    reference = MtpReference(case.tensors(), case.config())
    hidden = reference.prefill(case.golden("hidden", length), case.golden("tokens", length))[-1]
    drafted = []
    for token in case.golden("mtp.draft_tokens", length):
        hidden = reference.step(hidden, int(token))
        drafted.append(hidden)
    MTP.check(np.stack(drafted), case.golden("mtp.draft_hidden", length), "hidden states")
    MTP.check(reference.logits(np.stack(drafted)), case.golden("mtp.draft_logits", length), "logits")


@pytest.mark.parametrize("case", WITHOUT_MTP, ids=lambda case: case.name)
def test_without_mtp_tensors_there_is_no_head(case: ParityCase) -> None:
    assert case.model().mtp is None


@each_sequence
def test_head_equals_the_torch_reference(case: ParityCase, length: int) -> None:
    model = case.model()
    hidden = model.mtp(golden_hidden(case, length)[:, :-1], case.tokens(length)[:, 1:])
    MTP.check(np.array(hidden[0]), case.golden("mtp.hidden", length), "hidden states")
    MTP.check(np.array(model.logits(hidden)[0]), case.golden("mtp.logits", length), "logits")


@each_sequence
def test_head_on_the_models_own_hidden_states_equals_the_numpy_reference(
    case: ParityCase, length: int
) -> None:
    model, tokens = case.model(), case.tokens(length)
    hidden = model.hidden(tokens)
    predicted = model.mtp(hidden[:, :-1], tokens[:, 1:])
    reference = MtpReference(case.tensors(), case.config())
    expected = reference.prefill(np.array(hidden[0]), np.array(tokens[0]))
    MTP.check(np.array(predicted[0]), expected, "hidden states")


@each_case
def test_chunks_and_single_tokens_through_a_cache_give_what_the_whole_gives(case: ParityCase) -> None:
    model, length = case.model(), case.longest
    hidden, next_tokens = golden_hidden(case, length)[:, :-1], case.tokens(length)[:, 1:]
    cache = model.mtp.make_cache()
    cuts = [0, 1, 4, length - 8, *range(length - 7, length)]
    pieces = [model.mtp(hidden[:, a:b], next_tokens[:, a:b], cache) for a, b in itertools.pairwise(cuts)]
    assert cache.offset == length - 1
    expected = case.golden("mtp.hidden", length)
    CONTINUED.check(np.array(mx.concatenate(pieces, axis=1)[0]), expected, "hidden states")


@each_sequence
def test_drafts_feed_back_the_heads_own_hidden_state(case: ParityCase, length: int) -> None:
    model, cache = case.model(), case.model().mtp.make_cache()
    hidden = model.mtp(golden_hidden(case, length)[:, :-1], case.tokens(length)[:, 1:], cache)[:, -1:]
    tokens, logits, states = [], model.logits(hidden), []
    for _ in case.golden("mtp.draft_tokens", length):
        tokens.append(mx.argmax(logits, axis=-1))
        hidden = model.mtp(hidden, tokens[-1], cache)
        logits = model.logits(hidden)
        states.append(hidden)
    drafted = mx.concatenate(states, axis=1)
    assert mx.concatenate(tokens, axis=1)[0].tolist() == case.golden("mtp.draft_tokens", length).tolist()
    MTP.check(np.array(drafted[0]), case.golden("mtp.draft_hidden", length), "hidden states")
    MTP.check(np.array(model.logits(drafted)[0]), case.golden("mtp.draft_logits", length), "logits")


@each_case
def test_drafted_entries_can_be_trimmed_and_redone_with_true_hidden_states(case: ParityCase) -> None:
    model, length = case.model(), case.longest
    true_hidden, next_tokens = golden_hidden(case, length)[:, :-1], case.tokens(length)[:, 1:]
    cache, cut = model.mtp.make_cache(), length // 2
    hidden = model.mtp(true_hidden[:, :cut], next_tokens[:, :cut], cache)[:, -1:]
    for token in (3, 5, 7):
        hidden = model.mtp(hidden, mx.array([[token]]), cache)
    cache.trim(3)
    redone = model.mtp(true_hidden[:, cut:], next_tokens[:, cut:], cache)
    CONTINUED.check(np.array(redone[0]), case.golden("mtp.hidden", length)[cut:], "hidden states")


@each_case
def test_the_last_state_alone_is_that_of_the_whole_call_and_leaves_the_same_cache(case: ParityCase) -> None:
    model, length = case.model(), case.longest
    hidden, next_tokens = golden_hidden(case, length)[:, :-1], case.tokens(length)[:, 1:]
    cut = length // 2
    whole, last = model.mtp.make_cache(), model.mtp.make_cache()
    for start, end in ((0, cut), (cut, length - 1)):
        model.mtp(hidden[:, start:end], next_tokens[:, start:end], whole)
        state = model.mtp.last(hidden[:, start:end], next_tokens[:, start:end], last)
        CONTINUED.check(np.array(state[0]), case.golden("mtp.hidden", length)[end - 1 : end], "hidden state")
    for kept, expected in zip(last.keys_and_values(), whole.keys_and_values(), strict=True):
        CONTINUED.check(np.array(kept), np.array(expected), "keys and values")


@each_case
def test_a_row_of_a_batch_does_not_see_its_neighbour(case: ParityCase) -> None:
    model, length = case.model(), case.longest
    hidden, next_tokens = golden_hidden(case, length)[:, :-1], case.tokens(length)[:, 1:]
    batch = model.mtp(
        mx.concatenate([hidden[:, ::-1], hidden]), mx.concatenate([next_tokens[:, ::-1], next_tokens])
    )
    MTP.check(np.array(batch[1]), case.golden("mtp.hidden", length), "second row")


def golden_hidden(case: ParityCase, length: int) -> mx.array:
    """The trunk's true hidden states as a batch of one, `[1, T, hidden]`."""
    return mx.array(case.golden("hidden", length))[None]
