"""Every fusion's formula against slow loops in double precision, written from the papers."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.models.fusion import (
    BlockBilinear,
    Bottleneck,
    Concatenation,
    CrossAttention,
    DirectedPairs,
    FactorizedBilinear,
    Fusion,
    Gated,
    GradientBlending,
    LowRankBilinear,
    LowRankTensorFusion,
    Perceiver,
    Stacking,
    TensorFusion,
    Tucker,
    Vote,
    blending_weights,
    drop_modalities,
)
from regard.models.fusion.contract import Example

WIDTHS = {"text": 5, "sound": 3, "table": 2}
CLASSES, BATCH = 7, 2


def given() -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Tokens, masks and what is present: the second row lacks its sound, the first some of its words."""
    torch.manual_seed(1)
    tokens = {name: torch.randn(BATCH, 3, width).double() for name, width in WIDTHS.items()}
    masks = {"text": torch.tensor([[True, True, False], [True, True, True]])}
    return tokens, masks, {"sound": torch.tensor([True, False])}


def double(fusion: Fusion) -> Fusion:
    """In double precision, with parameters away from where they start, so that none hides behind a zero."""
    torch.manual_seed(2)
    fusion = fusion.double().eval()
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return fusion


def pooled(pool: nn.Module, tokens: Tensor, keep: list[int]) -> Tensor:
    """The mean and the largest of what the projection makes of the tokens that are there."""
    if not keep:
        return torch.zeros(pool.project[1].out_features).double()
    norm, linear = pool.project[0], pool.project[1]
    total, largest = torch.zeros(linear.out_features).double(), torch.full((linear.out_features,), -9.0).double()
    for n in keep:
        x = tokens[n]
        x = (x - x.mean()) / torch.sqrt(x.var(correction=0) + norm.eps) * norm.weight + norm.bias
        x = linear.weight @ x + linear.bias
        x = x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
        total += x
        largest = torch.maximum(largest, x)
    return total / len(keep) + largest


def there(row: int, name: str) -> list[int]:
    """Which tokens `given` says are there."""
    return {(0, "text"): [0, 1], (1, "sound"): []}.get((row, name), [0, 1, 2])


def vectors(fusion: Fusion, row: int) -> list[Tensor]:
    tokens, _, _ = given()
    return [pooled(pool, tokens[name][row], there(row, name)) for pool, name in zip(fusion.pools, WIDTHS, strict=True)]


def check(fusion: Fusion, expected: list[Tensor]) -> None:
    with torch.no_grad():
        answer = fusion(*given())
    torch.testing.assert_close(answer, torch.stack(expected).detach(), rtol=1e-7, atol=1e-8)


def test_concatenation_has_a_learned_vector_in_place_of_a_missing_modality() -> None:
    fusion = double(Concatenation(WIDTHS, CLASSES, 11))
    expected = []
    for row in range(BATCH):
        parts = vectors(fusion, row)
        if row == 1:
            parts[1] = fusion.absent[1]
        expected.append(fusion.head(torch.cat(parts)[None])[0])
    check(fusion, expected)


def test_gated_adds_what_each_gate_lets_through() -> None:
    fusion = double(Gated(WIDTHS, CLASSES, 11))
    expected = []
    for row in range(BATCH):
        parts = vectors(fusion, row)
        together = torch.cat(parts)
        total = torch.zeros(11).double()
        for m, part in enumerate(parts):
            gate = torch.sigmoid(fusion.gates.weight[11 * m : 11 * (m + 1)] @ together)
            if part.any():
                total += gate * torch.tanh(fusion.values[m].weight @ part)
        expected.append(fusion.head(total[None])[0])
    check(fusion, expected)


def entry(fusion: Fusion, row: int, factor: int, j: int) -> float:
    """Entry `j` of the product of the factors with this number of all the modalities that are there."""
    product = 1.0
    for m, vector in enumerate(vectors(fusion, row)):
        if row == 1 and m == 1:
            continue
        part = fusion.factors[m]
        if isinstance(fusion, LowRankBilinear):
            value = 1 + torch.tanh(part[0].weight[j] @ vector + part[0].bias[j])
        elif isinstance(fusion, FactorizedBilinear):
            at = factor * fusion.joint_width + j
            value = part.weight[at] @ vector + part.bias[at]
        elif isinstance(fusion, Tucker):
            inner = torch.tanh(part[0].weight @ vector + part[0].bias)
            at = factor * fusion.joint_width + j
            value = part[2].weight[at] @ inner + part[2].bias[at]
        else:
            inner = part[0].weight @ vector + part[0].bias
            wide = fusion.joint_width // fusion.blocks
            block, o = divmod(j, wide)
            core = part[2]
            value = core.weight[block, factor, o] @ inner[block * wide : (block + 1) * wide] + core.bias[factor, j]
        product *= float(value.detach())
    return product


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (LowRankBilinear, {"joint_width": 13}),
        (FactorizedBilinear, {"joint_width": 6, "rank": 5}),
        (Tucker, {"joint_width": 6, "rank": 3}),
        (BlockBilinear, {"joint_width": 6, "blocks": 2, "rank": 3}),
    ],
)
def test_the_bilinear_family_multiplies_what_is_there(kind: type[Fusion], options: dict[str, int]) -> None:
    fusion = double(kind(WIDTHS, CLASSES, 11, **options))
    expected = []
    for row in range(BATCH):
        product = torch.tensor(
            [sum(entry(fusion, row, r, j) for r in range(fusion.rank)) for j in range(fusion.joint_width)],
            dtype=torch.float64,
        )
        if kind in (FactorizedBilinear, BlockBilinear):
            root = product.sign() * product.abs().sqrt()
            parts = root.view(2, 3) if kind is BlockBilinear else root[None]
            sizes = [math.sqrt(sum(float(value) ** 2 for value in part) / len(part)) for part in parts]
            product = torch.cat([part / size for part, size in zip(parts, sizes, strict=True)])
        expected.append(fusion.classify.weight @ product + fusion.classify.bias)
    check(fusion, expected)


def outer(parts: list[Tensor]) -> Tensor:
    """`[v_1; 1] ⊗ [v_2; 1] ⊗ [v_3; 1]`, entry by entry."""
    ends = [[*part.tolist(), 1.0] for part in parts]
    return torch.tensor([[[a * b * c for c in ends[2]] for b in ends[1]] for a in ends[0]], dtype=torch.float64)


def test_tensor_fusion_is_the_outer_product() -> None:
    fusion = double(TensorFusion(WIDTHS, CLASSES, 11, factor_width=3))
    check(fusion, [fusion.head(outer(vectors(fusion, row)).flatten()[None])[0] for row in range(BATCH)])


def test_low_rank_tensor_fusion_equals_tensor_fusion_with_the_same_low_rank_tensor() -> None:
    fusion = double(LowRankTensorFusion(WIDTHS, CLASSES, 5, rank=3))
    one, two, three = fusion.factors
    expected = []
    for row in range(BATCH):
        product = outer(vectors(fusion, row))
        h = []
        for k in range(5):
            weight = sum(
                one[r, :, k][:, None, None] * two[r, :, k][:, None] * three[r, :, k] for r in range(3)
            )  # the tensor, in full
            h.append((weight * product).sum())
        expected.append(fusion.head(torch.stack(h)[None])[0])
    check(fusion, expected)


def test_low_rank_factors_are_trained() -> None:
    fusion = LowRankTensorFusion(WIDTHS, CLASSES, 5)
    tokens = {name: torch.randn(BATCH, width) for name, width in WIDTHS.items()}
    fusion.loss(torch.tensor([1, 4]), tokens).backward()
    assert "factors" in dict(fusion.named_parameters())
    assert fusion.factors.grad is not None
    assert (fusion.factors.grad != 0).any(dim=3).all()


def test_a_vote_is_the_weighted_mean_of_the_probabilities() -> None:
    fusion = double(Vote(WIDTHS, CLASSES, 11))
    fusion.votes.copy_(torch.tensor([0.3, -0.7, 1.1]))
    expected = []
    for row in range(BATCH):
        total, weights = torch.zeros(CLASSES).double(), 0.0
        for m, vector in enumerate(vectors(fusion, row)):
            if not (row == 1 and m == 1):
                weight = math.exp(float(fusion.votes[m]))
                total += weight * torch.softmax(fusion.heads[m](vector[None])[0], 0)
                weights += weight
        expected.append(torch.log(total / weights))
    check(fusion, expected)


def examples(fusion: Fusion, count: int = 60) -> list[Example]:
    """Of which the text tells the class and nothing else does."""
    torch.manual_seed(5)
    target = torch.arange(count) % CLASSES
    tokens = {name: torch.randn(count, 1, width) for name, width in WIDTHS.items()}
    told = F.one_hot(target, CLASSES).float() @ torch.randn(CLASSES, WIDTHS["text"])
    tokens["text"] = 4 * told[:, None]
    return [Example(target, tokens, {}, {})]


@pytest.mark.parametrize("kind", [Vote, Stacking])
def test_what_is_settled_trusts_the_modality_that_is_right(kind: type[Fusion]) -> None:
    fusion = kind(WIDTHS, CLASSES, 16)
    (each,) = examples(fusion)
    optimizer = torch.optim.Adam(fusion.parameters(), 1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        fusion.loss(each.target, each.tokens).backward()
        optimizer.step()
    fusion.eval()
    # Sound and table learned noise by heart: on other noise they say wrong things with confidence.
    other = {**each.tokens, "sound": torch.randn(60, 1, 3), "table": torch.randn(60, 1, 2)}
    before = F.cross_entropy(fusion(other), each.target).item()
    with torch.no_grad():
        fusion.settle(lambda: [Example(each.target, other, {}, {})])
    assert F.cross_entropy(fusion(other), each.target).item() < before / 2
    if isinstance(fusion, Vote):
        assert fusion.weights[0] > 0.8
        torch.testing.assert_close(fusion.weights.sum(), torch.tensor(1.0))


def test_an_equal_vote_has_nothing_to_settle() -> None:
    fusion = Vote(WIDTHS, CLASSES, 16, weighted=False)
    fusion.settle(lambda: examples(fusion))
    torch.testing.assert_close(fusion.weights, torch.full((3,), 1 / 3))


def test_stacking_reads_the_logarithms_of_probabilities_and_what_is_there() -> None:
    fusion = double(Stacking(WIDTHS, CLASSES, 11))
    expected = []
    for row in range(BATCH):
        read: list[Tensor] = []
        for m, vector in enumerate(vectors(fusion, row)):
            gone = row == 1 and m == 1
            said = torch.log_softmax(fusion.heads[m](vector[None])[0], 0)
            read += [torch.zeros(CLASSES).double() if gone else said, torch.tensor([0.0 if gone else 1.0]).double()]
        expected.append(fusion.second(torch.cat(read)[None])[0])
    check(fusion, expected)


@pytest.mark.parametrize("kind", [Vote, Stacking])
def test_each_classifier_is_trained_on_the_rows_that_have_its_modality(kind: type[Fusion]) -> None:
    fusion = double(kind(WIDTHS, CLASSES, 11))
    target = torch.tensor([4, 2])
    losses = []
    for m in range(3):
        rows = [row for row in range(BATCH) if not (row == 1 and m == 1)]
        said = [torch.log_softmax(fusion.heads[m](vectors(fusion, row)[m][None])[0], 0)[target[row]] for row in rows]
        losses.append(-sum(said) / len(said))
    torch.testing.assert_close(fusion.criterion(target, *given()), torch.stack(losses), rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(fusion.loss(target, *given()), sum(losses) / 3, rtol=1e-7, atol=1e-8)


def test_blending_weights_are_gain_by_overfitting_squared() -> None:
    training = [[2.0, 1.9, 2.2], [0.5, 1.5, 1.7]]
    held = [[2.1, 2.0, 2.3], [1.4, 1.7, 2.5]]
    ratios = []
    for head in range(3):
        gain = held[0][head] - held[1][head]
        overfitting = (held[1][head] - training[1][head]) - (held[0][head] - training[0][head])
        ratios.append(max(0.0, gain) / overfitting**2)
    assert ratios[2] == 0  # its held-out loss rose
    found = blending_weights(*(torch.tensor(row).double() for row in (*training, *held)))
    torch.testing.assert_close(found, torch.tensor(ratios).double() / sum(ratios))
    assert found[1] > found[0]  # it gained less, and overfitted much less


def test_blending_weights_are_alike_where_nothing_was_gained() -> None:
    before, after = torch.ones(4), torch.full((4,), 2.0)
    torch.testing.assert_close(blending_weights(before, after, before, after), torch.full((4,), 0.25))


def test_overfitting_less_than_the_smallest_counts_as_that() -> None:
    before, after = torch.tensor([3.0, 3.0, 3.0]), torch.tensor([2.0, 2.5, 2.0])
    training = torch.tensor([2.0, 2.5 + 0.01, 2.0 - 0.4])  # none, a little the wrong way, and 0.4
    found = blending_weights(before, training, before, after, 0.1)
    ratios = torch.tensor([1.0 / 0.1**2, 0.5 / 0.1**2, 1.0 / 0.4**2])
    torch.testing.assert_close(found, ratios / ratios.sum())
    without = blending_weights(before, training, before, after)
    assert without.isfinite().all()
    assert without[0] > 0.99


def test_gradient_blending_weighs_its_heads_anew_after_every_period() -> None:
    fusion = GradientBlending(WIDTHS, CLASSES, 16, period=2, smallest=0.2)
    (each,) = examples(fusion)
    noise = [Example(each.target, {**each.tokens, "sound": torch.randn(60, 1, 3)}, {}, {})]
    measured = []

    def after(epoch: int) -> None:
        fusion.eval()
        with torch.no_grad():
            fusion.after_epoch(epoch, lambda: [each], lambda: noise)
            measured.append([fusion.losses(part.target, part.tokens) for part in (each, noise[0])])

    after(0)
    start = fusion.weights.clone()
    torch.testing.assert_close(start, torch.full((4,), 0.25))
    optimizer = torch.optim.Adam(fusion.parameters(), 1e-2)
    for epoch in (1, 2):
        fusion.train()
        for _ in range(15):
            optimizer.zero_grad()
            fusion.loss(each.target, each.tokens).backward()
            optimizer.step()
        after(epoch)
        if epoch == 1:
            torch.testing.assert_close(fusion.weights, start)
    estimated = blending_weights(measured[0][0], measured[2][0], measured[0][1], measured[2][1], 0.2)
    joint = max(0.25, float(estimated[3]))
    expected = [float(weight) * (1 - joint) / float(estimated[:3].sum()) for weight in estimated[:3]] + [joint]
    torch.testing.assert_close(fusion.weights, torch.tensor(expected))
    assert fusion.weights[0] > fusion.weights[1]  # the text generalises, the sound was learned by heart


def test_the_blended_loss_and_the_criterion_of_early_stopping() -> None:
    fusion = double(GradientBlending(WIDTHS, CLASSES, 11))
    fusion.weights.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    target = torch.tensor([4, 2])
    losses = fusion.losses(target, *given())
    joint = F.cross_entropy(fusion(*given()), target)
    torch.testing.assert_close(losses[3], joint)
    torch.testing.assert_close(fusion.criterion(target, *given()), joint[None])
    expected = 0.1 * losses[0] + 0.2 * losses[1] + 0.3 * losses[2] + 0.4 * losses[3]
    torch.testing.assert_close(fusion.loss(target, *given()), expected)


def attended(attention: nn.Module, x: Tensor, keep: list[int]) -> Tensor:
    """Multi-head self-attention of tokens `(N, W)`, over those to keep."""
    q, k, v = (attention.project(x).view(len(x), 3, attention.heads, -1)[:, part] for part in range(3))
    out = torch.zeros_like(x)
    wide = q.shape[2]
    for t in range(len(x)):
        for h in range(attention.heads):
            scores = torch.stack([q[t, h] @ k[n, h] / math.sqrt(wide) for n in keep])
            weights = scores.exp() / scores.exp().sum()
            out[t, h * wide : (h + 1) * wide] = sum(w * v[n, h] for w, n in zip(weights, keep, strict=True))
    return attention.output(out)


def through(block: nn.Module, x: Tensor, keep: list[int]) -> Tensor:
    x = x + attended(block.attention, block.norm(x), keep)
    return x + block.mlp(x)


def test_bottleneck_tokens_are_all_that_modalities_share() -> None:
    fusion = double(Bottleneck(WIDTHS, CLASSES, 6, tokens=2, alone_layers=1, layers=2, heads=3))
    tokens, _, _ = given()
    expected = []
    for row in range(BATCH):
        names = [name for name in WIDTHS if there(row, name)]
        streams = {}
        for m, name in enumerate(WIDTHS):
            if name in names:
                seen = fusion.entries[m](_modality(tokens[name][row][there(row, name)]))[0]
                streams[name] = torch.cat((fusion.class_tokens[m][None], seen))
        shared = fusion.bottleneck
        for depth in range(3):
            updates = []
            for m, name in enumerate(WIDTHS):
                if name not in names:
                    continue
                x, block = streams[name], fusion.blocks[depth][m]
                if depth == 0:
                    streams[name] = through(block, x, list(range(len(x))))
                    continue
                y = through(block, torch.cat((x, shared)), list(range(len(x) + 2)))
                streams[name] = y[: len(x)]
                updates.append(y[len(x) :])
            if updates:
                shared = sum(updates) / len(updates)
        tops = [fusion.classify(fusion.norm(streams[name][0])) for name in names]
        expected.append(sum(tops) / len(tops))
    check(fusion, expected)


def _modality(tokens: Tensor):
    from regard.models.fusion.contract import Modality

    return Modality(tokens[None], torch.ones(1, len(tokens), dtype=torch.bool))


def sinusoids(n: int, pairs: int) -> Tensor:
    angles = [n / 10000 ** (i / pairs) for i in range(pairs)]
    return torch.tensor([*map(math.sin, angles), *map(math.cos, angles)], dtype=torch.float64)


def normal(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    apart = x - x.mean(1, keepdim=True)
    return apart / (apart.square().mean(1, keepdim=True) + norm.eps).sqrt() * norm.weight + norm.bias


def test_directed_pairs_feed_every_target_from_every_source() -> None:
    fusion = double(DirectedPairs(WIDTHS, CLASSES, 6, layers=2, heads=3, last_layers=1))
    tokens, _, _ = given()
    names = list(WIDTHS)
    expected = []
    for row in range(BATCH):
        x = {}
        for m, name in enumerate(names):
            keep = there(row, name)
            if keep:
                x[name] = fusion.project[m](tokens[name][row][keep]) + torch.stack([sinusoids(n, 3) for n in keep])
        collected = []
        for t, target in enumerate(names):
            if target not in x:
                collected.append(torch.zeros(12).double())
                continue
            parts = []
            for pair, source in enumerate(name for name in names if name != target):
                y = x[target][None]
                for layer in fusion.pairs[t][pair] if source in x else ():
                    y = layer(y, x[source][None])
                parts.append(normal(fusion.pair_norms[t][pair], y[0]) if source in x else y[0])
            z = torch.cat(parts, 1) + torch.stack([sinusoids(n, 6) for n in there(row, target)])
            block = fusion.last[t][0]
            z = z + attended(block.attention, normal(block.norm, z), list(range(len(z))))
            _, first, _, second = block.mlp
            z = z + (normal(block.mlp[0], z) @ first.weight.T + first.bias).clamp(min=0) @ second.weight.T + second.bias
            collected.append(normal(fusion.last_norms[t], z)[-1])
        z = torch.cat(collected)
        hidden = torch.relu(fusion.mix[0].weight @ z + fusion.mix[0].bias)
        expected.append(fusion.classify(z + fusion.mix[3].weight @ hidden + fusion.mix[3].bias))
    check(fusion, expected)


def test_in_cross_attention_each_modality_reads_the_others_of_the_layer_before() -> None:
    fusion = double(CrossAttention(WIDTHS, CLASSES, 6, layers=2, heads=3))
    tokens, _, _ = given()
    expected = []
    for row in range(BATCH):
        x = {
            name: fusion.entries[m](_modality(tokens[name][row][there(row, name)]))
            for m, name in enumerate(WIDTHS)
            if there(row, name)
        }
        for layer in fusion.layers:
            x = {
                name: layer[m](x[name], torch.cat([x[other] for other in x if other != name], 1))
                for m, name in enumerate(WIDTHS)
                if name in x
            }
        means = [x[name][0].mean(0) if name in x else torch.zeros(6).double() for name in WIDTHS]
        expected.append(fusion.head(torch.cat(means)[None])[0])
    check(fusion, expected)


def test_the_perceiver_reads_all_tokens_that_are_there_at_once() -> None:
    fusion = double(Perceiver(WIDTHS, CLASSES, 6, latents=2, layers=2, heads=3))
    tokens, _, _ = given()
    expected = []
    for row in range(BATCH):
        seen = [
            fusion.entries[m](_modality(tokens[name][row][there(row, name)]))
            for m, name in enumerate(WIDTHS)
            if there(row, name)
        ]
        expected.append(fusion.head(fusion.resampler(torch.cat(seen, 1)).mean(1))[0])
    check(fusion, expected)


def test_modality_dropout_drops_with_its_probability_but_never_all() -> None:
    rows = 4000
    present = {name: torch.ones(rows, dtype=torch.bool) for name in ("a", "b", "c")}
    present["c"][: rows // 2] = False
    kept = drop_modalities(present, 0.4, torch.Generator().manual_seed(3))
    assert all((kept[name] <= present[name]).all() for name in present)
    assert torch.stack(list(kept.values())).any(0).all()
    # Of three, each is dropped with 0.4 unless all are (0.4³) and it is the one that stays.
    dropped = 1 - kept["a"][rows // 2 :].float().mean()
    assert abs(dropped - (0.4 - 0.4**3 / 3)) < 0.03
    dropped = 1 - kept["b"][: rows // 2].float().mean()
    assert abs(dropped - (0.4 - 0.4**2 / 2)) < 0.03
    nothing = {"a": torch.zeros(3, dtype=torch.bool)}
    assert not drop_modalities(nothing, 0.9)["a"].any()


@pytest.mark.parametrize("kind", [LowRankBilinear, FactorizedBilinear, Tucker, BlockBilinear])
def test_a_product_of_many_modalities_does_not_vanish(kind: type[Fusion]) -> None:
    many = {str(number): 5 for number in range(8)}
    fusion = kind(many, CLASSES, 16).eval()
    tokens = {name: torch.randn(64, width) for name, width in many.items()}
    answer = fusion(tokens)
    changed = fusion({**tokens, "3": torch.randn(64, 5)})
    assert (answer - changed).std() > 1e-3


def test_the_head_that_answers_is_never_left_without_weight() -> None:
    fusion = GradientBlending(WIDTHS, CLASSES, 16, period=1)
    (each,) = examples(fusion)
    fusion.after_epoch(0, lambda: [each], lambda: [each])
    with torch.no_grad():  # only the text's own head gains: as if the joint one had been given up
        fusion.heads[0][-1].weight.mul_(0.9)
        fusion.measured[:, 0] += 1.0
        fusion.measured[:, 1:] -= 1.0
        fusion.after_epoch(1, lambda: [each], lambda: [each])
    torch.testing.assert_close(fusion.weights, torch.tensor([0.75, 0.0, 0.0, 0.25]))
