"""What holds for every fusion."""

import pytest
import torch
from torch import Tensor

from regard.models.fusion import Fusion, fusions

WIDTHS = {"text": 5, "sound": 3, "table": 2}
COUNTS = {"text": 7, "sound": 4, "table": 1}
BATCH, CLASSES = 3, 11

every = pytest.mark.parametrize("name", fusions)


def build(name: str, widths: dict[str, int] | None = None) -> Fusion:
    torch.manual_seed(3)
    fusion = fusions[name](widths or WIDTHS, CLASSES, 12).eval()
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return fusion


def tokens() -> dict[str, Tensor]:
    return {name: torch.randn(BATCH, COUNTS[name], width) for name, width in WIDTHS.items()}


def test_the_table_has_every_level_and_is_named_by_its_fusions() -> None:
    assert {fusion.level for fusion in fusions.values()} == {"feature", "decision", "model"}
    assert all(fusion.name == name for name, fusion in fusions.items())


@every
def test_it_gives_finite_logits_and_a_gradient_to_every_modality(name: str) -> None:
    fusion = build(name)
    given = {modality: x.requires_grad_() for modality, x in tokens().items()}
    logits = fusion(given)
    assert logits.shape == (BATCH, CLASSES)
    assert logits.isfinite().all()
    fusion.loss(torch.tensor([1, 4, 9]), given).backward()
    for x in given.values():
        assert x.grad is not None
        assert (x.grad != 0).flatten(1).any(1).all()


@pytest.mark.slow
@every
@pytest.mark.parametrize("gone", WIDTHS)
@pytest.mark.parametrize("content", [torch.nan, torch.inf, 1e4])
def test_what_a_missing_modality_holds_changes_nothing(name: str, gone: str, content: float) -> None:
    fusion = build(name)
    given = tokens()
    present = {gone: torch.tensor([True, False, True])}
    answer = fusion(given, present=present)
    other = {**given, gone: given[gone].clone()}
    other[gone][1] = content
    assert torch.equal(fusion(other, present=present), answer)
    assert not torch.allclose(fusion(given)[1], answer[1])
    torch.testing.assert_close(fusion(given)[[0, 2]], answer[[0, 2]])


@pytest.mark.slow
@every
@pytest.mark.parametrize("gone", WIDTHS)
def test_there_are_four_ways_to_say_that_it_is_missing(name: str, gone: str) -> None:
    fusion = build(name)
    given = tokens()
    absent = torch.zeros(BATCH, dtype=torch.bool)
    answer = fusion(given, present={gone: absent})
    masked = fusion(given, masks={gone: torch.zeros(BATCH, COUNTS[gone], dtype=torch.bool)})
    left_out = fusion({modality: x for modality, x in given.items() if modality != gone})
    both = fusion(given, {gone: torch.ones(BATCH, COUNTS[gone], dtype=torch.bool)}, {gone: absent})
    for other in (masked, left_out, both):
        torch.testing.assert_close(other, answer)


@every
def test_no_gradient_reaches_what_is_missing_and_none_is_nan(name: str) -> None:
    fusion = build(name)
    given = {modality: x.requires_grad_() for modality, x in tokens().items()}
    present = {"sound": torch.tensor([False, True, False]), "text": torch.tensor([False, True, True])}
    fusion.loss(torch.tensor([1, 4, 9]), given, None, present).backward()
    for modality, there in present.items():
        grad = given[modality].grad
        assert grad is not None
        assert (grad[~there] == 0).all()
        assert (grad[there] != 0).flatten(1).any(1).all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in fusion.parameters())


@every
def test_with_nothing_at_all_the_answer_is_one_and_finite(name: str) -> None:
    fusion = build(name)
    present = {modality: torch.zeros(BATCH, dtype=torch.bool) for modality in WIDTHS}
    answer = fusion(tokens(), present=present)
    assert answer.isfinite().all()
    torch.testing.assert_close(answer, fusion(tokens(), present=present))
    torch.testing.assert_close(answer[0], answer[2])
    fusion.loss(torch.tensor([1, 4, 9]), tokens(), None, present).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in fusion.parameters())


@every
def test_tokens_that_a_mask_leaves_out_might_as_well_not_be_there(name: str) -> None:
    fusion = build(name)
    given = tokens()
    masks = {"text": torch.tensor([True, True, True, True, False, False, False]).expand(BATCH, -1)}
    short = {**given, "text": given["text"][:, :4]}
    torch.testing.assert_close(fusion(given, masks), fusion(short), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(fusion(given), fusion(short))


@every
def test_no_row_sees_another(name: str) -> None:
    fusion = build(name)
    given = tokens()
    present = {"sound": torch.tensor([True, False, True])}
    together = fusion(given, present=present)
    for row in range(BATCH):
        one = {modality: x[row : row + 1] for modality, x in given.items()}
        alone = fusion(one, present={"sound": present["sound"][row : row + 1]})
        torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-5)


@every
@pytest.mark.parametrize("names", [("text",), ("table", "text")])
def test_any_subset_of_modalities_can_be_fused(name: str, names: tuple[str, ...]) -> None:
    fusion = build(name, {modality: WIDTHS[modality] for modality in names})
    given = {modality: x for modality, x in tokens().items() if modality in names}
    answer = fusion(given)
    assert answer.isfinite().all()
    other = {**given, "text": given["text"] + torch.randn_like(given["text"])}
    assert not torch.allclose(fusion(other), answer)


@every
def test_a_single_token_may_be_given_as_a_vector(name: str) -> None:
    fusion = build(name)
    given = tokens()
    torch.testing.assert_close(fusion({**given, "table": given["table"][:, 0]}), fusion(given))


@every
def test_all_that_a_fusion_has_learned_is_in_its_state(name: str) -> None:
    fusion, other = build(name), fusions[name](WIDTHS, CLASSES, 12).eval()
    if "votes" in fusion.state_dict():
        fusion.votes.copy_(torch.tensor([0.5, -1.0, 2.0]))
    given = tokens()
    assert not torch.allclose(other(given), fusion(given))
    other.load_state_dict(fusion.state_dict())
    torch.testing.assert_close(other(given), fusion(given))


def test_what_does_not_fit_is_said(unchecked_shapes: None) -> None:
    fusion = build("concatenation")
    given = tokens()
    with pytest.raises(ValueError, match=r"tokens names \['smell'\], expected some of \['text', 'sound', 'table'\]"):
        fusion({**given, "smell": given["text"]})
    with pytest.raises(ValueError, match="no tokens are given"):
        fusion({})
    with pytest.raises(ValueError, match=r"'sound' have shape \(3, 4, 2\), expected \(3, tokens, 3\) or \(3, 3\)"):
        fusion({**given, "sound": given["sound"][..., :2]})
    with pytest.raises(ValueError, match=r"tokens of 'table' have shape \(2, 1, 2\)"):
        fusion({**given, "table": given["table"][:2]})
    with pytest.raises(ValueError, match=r"mask of 'sound' is of torch.float32 .* expected booleans \(3, 4\)"):
        fusion(given, {"sound": torch.ones(3, 4)})
    with pytest.raises(ValueError, match=r"present of 'sound' is of torch.bool and shape \(2,\), expected booleans"):
        fusion(given, None, {"sound": torch.ones(2, dtype=torch.bool)})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tensor", {"factor_width": 50}, "132,651 entries, expected at most 20,000"),
        ("block_bilinear", {"blocks": 5}, "5 blocks do not divide joint_width=128"),
        ("tucker", {"rank": 0}, "rank=0"),
        ("low_rank_tensor", {"rank": 0}, "rank=0 is less than one"),
        ("bottleneck", {"tokens": 0}, "tokens=0 and layers=2"),
        ("gradient_blending", {"period": 0}, "period=0"),
        ("perceiver", {"heads": 5}, "5 heads do not divide the width 12"),
    ],
)
def test_sizes_that_cannot_be_are_refused(name: str, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fusions[name](WIDTHS, CLASSES, 12, **options)


def test_a_fusion_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="0 modalities, 11 classes and width=12"):
        fusions["gated"]({}, CLASSES, 12)
