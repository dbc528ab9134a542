"""More ways to choose a region, written again as loops over cells, and what hard attention reads besides."""

import math

import pytest
import torch
from oracle import affine, channel_means, count, dot, draw, draw_mask, randomize, sigmoid, softmax, watched

from regard.attention import (
    AttentionProposal,
    DrawRead,
    GlimpseSensor,
    GumbelSelection,
    HardRead,
    offering,
)

MAPS = ((2, 3, 7, 5), (1, 3, 1, 1), (2, 3, 1, 11), (1, 3, 8, 8))
every_map = pytest.mark.parametrize("shape", MAPS, ids=str)


def tent(x, row, column):
    """Bilinear weights at a place counted in cells from the centre of the first, as a map; outside there is nothing."""
    return torch.tensor(
        [
            [max(0.0, 1 - abs(row - m)) * max(0.0, 1 - abs(column - n)) for n in range(x.shape[2])]
            for m in range(x.shape[1])
        ],
        dtype=torch.float64,
    )


def box(transform):
    """The left, top, right and bottom edge of an upright box."""
    (a, b, x), (c, d, y) = transform.tolist()
    assert b == c == 0
    return x - a, y - d, x + a, y + d


def normal_log_density(value, mean, deviation):
    return -((value - mean) ** 2) / (2 * deviation**2) - math.log(deviation * math.sqrt(2 * math.pi))


# Glimpse


def slow_retina(x, place, size, patches):
    """Patches of one map around (x, y), from -1 to 1; the fine cells of a patch are read, and each square averaged."""
    _, H, W = x.shape
    regions, shares = [], []
    for k in range(patches):
        fold = 2**k
        region, share = torch.zeros(len(x), size, size).double(), torch.zeros(H, W).double()
        for r in range(size * fold):
            for c in range(size * fold):
                row = (place[1] + 1) * H / 2 + (r + 0.5 - size * fold / 2) - 0.5  # one cell of the map from the next
                column = (place[0] + 1) * W / 2 + (c + 0.5 - size * fold / 2) - 0.5
                weights = tent(x, row, column)
                region[:, r // fold, c // fold] += (x * weights).sum((1, 2)) / fold**2
                share += weights / (size * fold) ** 2
        regions.append(region)
        shares.append(share)
    return torch.stack(regions), torch.stack(shares)


@every_map
@pytest.mark.parametrize(("size", "patches"), [(3, 2), (2, 3)])
@pytest.mark.parametrize("training", [True, False])
def test_glimpse(shape, size, patches, training):
    module, x = randomize(GlimpseSensor(3, size, patches, standard_deviation=0.3)).train(training), draw(shape)
    selection, maps = watched(module, x)
    for b in range(shape[0]):
        mean = affine(module.locate, channel_means(x[b]))
        place = selection.transform[b, 0, :, 2].tolist()
        regions, shares = slow_retina(x[b], place, size, patches)
        torch.testing.assert_close(selection.regions[b], regions)
        torch.testing.assert_close(maps["footprint"][b], shares)
        for k in range(patches):
            left, top, right, bottom = box(selection.transform[b, k])
            assert math.isclose((right - left) / 2 * shape[3], size * 2**k)  # square in cells, not in shares of the map
            assert math.isclose((bottom - top) / 2 * shape[2], size * 2**k)
            torch.testing.assert_close(selection.transform[b, k, :, 2].tolist(), place)
        if training:
            density = sum(normal_log_density(value, m, 0.3) for value, m in zip(place, mean, strict=True))
            torch.testing.assert_close(selection.log_probability[b].tolist(), [density] * patches)
            assert abs(place[0] - mean[0]) > 1e-6
        else:
            torch.testing.assert_close(place, mean)
    assert (selection.log_probability is None) is not training


def test_glimpse_of_the_middle_is_a_crop_for_any_parity():
    for size, H, W in ((3, 7, 5), (4, 6, 8), (2, 4, 4)):
        module, x = GlimpseSensor(3, size, 1).double().eval(), draw((1, 3, H, W))
        torch.nn.init.zeros_(module.locate.weight)
        torch.nn.init.zeros_(module.locate.bias)
        top, left = (H - size) // 2, (W - size) // 2
        torch.testing.assert_close(module(x).regions[0, 0], x[0, :, top : top + size, left : left + size])


def test_glimpse_at_a_corner_reads_zero_outside():
    module = GlimpseSensor(1, size=2, patches=2).double().eval()
    torch.nn.init.zeros_(module.locate.weight)
    module.locate.bias.data = torch.tensor([1.0, -1.0]).double()  # right and top: x comes first, y goes down
    x = torch.arange(1.0, 13.0).double().reshape(1, 1, 3, 4)
    selection, maps = watched(module, x)
    expected = [[[0, 0], [4, 0]], [[0, 0], [(3 + 4 + 7 + 8) / 4, 0]]]
    torch.testing.assert_close(selection.regions[0, :, 0], torch.tensor(expected).double())
    torch.testing.assert_close(maps["footprint"][0].sum((1, 2)), torch.full((2,), 0.25).double())


def test_glimpse_places_are_drawn_from_the_gaussian():
    draws = 20_000
    module = GlimpseSensor(2, size=1, patches=1, standard_deviation=0.2).double()
    x = draw((1, 2, 1, 1)).expand(draws, 2, 1, 1)
    with torch.no_grad():
        places = module(x).transform[:, 0, :, 2]
        mean = module.locate(x[0, :, 0, 0])
    assert ((places.mean(0) - mean).abs() <= 5 * 0.2 / draws**0.5).all()
    covariance = places.T.cov()
    torch.testing.assert_close(covariance, 0.04 * torch.eye(2).double(), atol=5 * 0.04 * (2 / draws) ** 0.5, rtol=0)


def test_glimpse_learns_where_to_look_from_the_log_probability_alone():
    module, x = GlimpseSensor(3, 2, 2).double(), draw((2, 3, 7, 5))
    selection = module(x)
    assert not selection.transform.requires_grad
    assert not selection.regions.requires_grad
    (found,) = torch.autograd.grad(selection.log_probability[0, 0], module.locate.bias)
    mean = module.locate(x[0].mean((1, 2)))
    torch.testing.assert_close(found, (selection.transform[0, 0, :, 2] - mean) / 0.11**2)


def test_glimpse_refuses_what_is_no_patch():
    for arguments in ({"size": 0}, {"patches": 0}, {"standard_deviation": 0.0}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            GlimpseSensor(3, **arguments)


# Gumbel selection


def slow_cut(x, rows, columns, size):
    """The regions of one map: each cell of them reads bilinearly, at the map's edge its last cell."""
    _, H, W = x.shape
    height, width = size or (math.ceil(H / rows), math.ceil(W / columns))
    regions = torch.zeros(rows * columns, len(x), height, width).double()
    for i in range(rows * height):
        for j in range(columns * width):
            row = min(max((i + 0.5) * H / (rows * height) - 0.5, 0), H - 1)
            column = min(max((j + 0.5) * W / (columns * width) - 0.5, 0), W - 1)
            value = (x * tent(x, row, column)).sum((1, 2))
            regions[i // height * columns + j // width, :, i % height, j % width] = value
    return regions


def slow_scores(module, regions):
    weight = module.score.weight[0].tolist()
    return [sum(weight[c] * region[c].mean().item() for c in range(len(weight))) for region in regions]


@every_map
@pytest.mark.parametrize(("grid", "size"), [((2, 3), None), ((3, 1), (2, 5)), (2, 3)])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("straight_through", [True, False])
def test_gumbel_selection(shape, grid, size, training, straight_through):
    module = randomize(GumbelSelection(3, grid, size, 0.7, straight_through)).train(training)
    rows, columns = (grid, grid) if isinstance(grid, int) else grid
    x = draw(shape)
    torch.manual_seed(7)
    selection, maps = watched(module, x)
    torch.manual_seed(7)
    noise = -torch.empty(shape[0], rows * columns).double().exponential_().log()
    for b in range(shape[0]):
        regions = slow_cut(x[b], rows, columns, (size, size) if isinstance(size, int) else size)
        scores = slow_scores(module, regions)
        p = softmax(scores)
        torch.testing.assert_close(maps["attention"][b].flatten().tolist(), p)
        perturbed = [e + g for e, g in zip(scores, noise[b].tolist(), strict=True)] if training else scores
        if training and not straight_through:
            weights = softmax([value / 0.7 for value in perturbed])
            torch.testing.assert_close(maps["choice"][b].flatten().tolist(), weights)
        else:
            weights = maps["choice"][b].flatten().tolist()
            assert sorted(weights) == [0] * (rows * columns - 1) + [1]
            assert perturbed[weights.index(1)] > max(perturbed) - 1e-9  # regions of one row are alike in both
        expected = sum(weight * region for weight, region in zip(weights, regions, strict=True))
        torch.testing.assert_close(selection.regions[b, 0], expected)
        left = sum(weight * (2 * (n % columns) / columns - 1) for n, weight in enumerate(weights))
        top = sum(weight * (2 * (n // columns) / rows - 1) for n, weight in enumerate(weights))
        edges = (left, top, left + 2 / columns, top + 2 / rows)
        torch.testing.assert_close(box(selection.transform[b, 0]), edges)
        if training and straight_through:
            chosen = weights.index(1.0)
            torch.testing.assert_close(selection.log_probability[b].tolist(), [math.log(p[chosen])])
        else:
            assert selection.log_probability is None


def test_gumbel_selection_crops_where_the_grid_divides_the_map():
    module, x = randomize(GumbelSelection(3, (2, 3))).eval(), draw((5, 3, 4, 6))
    selection, maps = watched(module, x)
    for b, place in enumerate(maps["choice"].flatten(1).argmax(1).tolist()):
        row, column = place // 3, place % 3
        assert torch.equal(selection.regions[b, 0], x[b, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2])
    assert maps["choice"].flatten(1).argmax(1).unique().numel() > 1


def test_gumbel_selection_s_gradient_is_that_of_the_soft_choice_at_its_temperature():
    for temperature in (1.0, 0.3):
        hard = randomize(GumbelSelection(3, (2, 3), temperature=temperature))
        x, upstream = draw((2, 3, 4, 6)), draw((2, 1, 3, 2, 2))
        torch.manual_seed(7)
        (found,) = torch.autograd.grad((hard(x).regions * upstream).sum(), hard.score.weight)
        torch.manual_seed(7)
        noise = -torch.empty(2, 6).double().exponential_().log()
        weight = hard.score.weight.detach().clone().requires_grad_()
        regions = torch.stack([slow_cut(image, 2, 3, None) for image in x])
        scores = torch.stack([(weight * region.mean((1, 2))).sum() for image in regions for region in image])
        soft = ((scores.reshape(2, 6) + noise) / temperature).softmax(1)
        total = sum((soft[b, n] * regions[b, n] * upstream[b, 0]).sum() for b in range(2) for n in range(6))
        torch.testing.assert_close(found, torch.autograd.grad(total, weight)[0])


def test_gumbel_selection_draws_follow_the_distribution():
    draws = 20_000
    module = randomize(GumbelSelection(2, (2, 2)))
    _, maps = watched(module, draw((1, 2, 2, 2)).expand(draws, 2, 2, 2))
    p = maps["attention"][0]
    assert ((maps["choice"].mean(0) - p).abs() <= 5 * (p * (1 - p) / draws).sqrt()).all()


def test_gumbel_selection_refuses_what_is_no_grid():
    for arguments in ({"grid": 0}, {"grid": (2, 0)}, {"size": (0, 3)}, {"temperature": 0.0}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            GumbelSelection(3, **arguments)


# DRAW


def slow_filters(place, stride, variance, number, length):
    """Equations 19, 20, 25 and 26, with cells and filters that count from 1."""
    centre = (length + 1) / 2 * (place + 1)
    filters = torch.zeros(number, length).double()
    for i in range(1, number + 1):
        mean = centre + (i - number / 2 - 0.5) * stride
        bells = [math.exp(-((a - mean) ** 2) / (2 * variance)) for a in range(1, length + 1)]
        filters[i - 1] = torch.tensor([bell / sum(bells) for bell in bells])
    return filters


@every_map
@pytest.mark.parametrize("size", [2, 5])
def test_draw_read(shape, size):
    module, x = randomize(DrawRead(3, size)), draw(shape)
    selection, maps = watched(module, x)
    B, C, H, W = shape
    for b in range(B):
        place_x, place_y, variance, spacing, intensity = affine(module.regress, channel_means(x[b]))
        stride = (max(H, W) - 1) / (size - 1) * math.exp(spacing)
        across = slow_filters(place_x, stride, math.exp(variance), size, W)
        down = slow_filters(place_y, stride, math.exp(variance), size, H)
        for c in range(C):
            expected = math.exp(intensity) * down @ x[b, c] @ across.T
            torch.testing.assert_close(selection.regions[b, 0, c], expected)
        share = [[(down[:, m].mean() * across[:, n].mean()).item() for n in range(W)] for m in range(H)]
        torch.testing.assert_close(maps["footprint"][b].tolist(), share)
        for i in range(size):  # the box's cell centres are those of the filters
            cell = (2 * i + 1) / size - 1
            (a, _, shift_x), (_, d, shift_y) = selection.transform[b, 0].tolist()
            column = ((a * cell + shift_x) + 1) * W / 2 + 0.5
            row = ((d * cell + shift_y) + 1) * H / 2 + 0.5
            offset = (i + 1 - size / 2 - 0.5) * stride
            assert math.isclose(column, (W + 1) / 2 * (place_x + 1) + offset, abs_tol=1e-9)
            assert math.isclose(row, (H + 1) / 2 * (place_y + 1) + offset, abs_tol=1e-9)
    assert selection.log_probability is None


def test_draw_read_starts_in_the_middle_and_covers_the_longer_side():
    selection, _ = watched(DrawRead(3, 5).double(), draw((1, 3, 7, 5)))
    # Five filters over seven cells: a stride of 6/4, the first on the first cell and the last on the last.
    left, top, right, bottom = box(selection.transform[0, 0])
    assert math.isclose(bottom, 5 * 1.5 / 7)
    assert math.isclose(right, 5 * 1.5 / 5)
    assert (left, top) == (-right, -bottom)


def test_draw_read_far_off_the_map_reads_its_edge_and_not_zero_over_zero():
    module = DrawRead(2, 3).double()
    module.regress.bias.data = torch.tensor([50.0, -50.0, -4.0, 0.0, 0.0]).double()
    x = draw((1, 2, 5, 7)).requires_grad_()
    selection = module(x)
    torch.testing.assert_close(selection.regions[0, 0], x[0, :, :1, -1:].expand(2, 3, 3))
    selection.regions.sum().backward()
    assert module.regress.bias.grad.isfinite().all()


def test_draw_read_refuses_one_filter():
    with pytest.raises(ValueError, match="size=1"):
        DrawRead(3, size=1)


# Attention proposal


def slow_proposal(module, x):
    """Centre and half side in cells, from the means of 4 by 4 cells and two layers."""
    C, H, W = x.shape
    pooled = []
    for c in range(C):
        for r in range(4):
            for s in range(4):
                rows = range(r * H // 4, math.ceil((r + 1) * H / 4))
                columns = range(s * W // 4, math.ceil((s + 1) * W / 4))
                values = [x[c, m, n].item() for m in rows for n in columns]
                pooled.append(sum(values) / len(values))
    hidden = [math.tanh(value) for value in affine(module.propose[2], pooled)]
    across, down, side = (sigmoid(value) for value in affine(module.regress, hidden))
    return across * W, down * H, side * max(H, W) / 2


@every_map
@pytest.mark.parametrize("size", [None, 4, (2, 3)])
@pytest.mark.parametrize("sharpness", [10.0, 3.0])
def test_attention_proposal(shape, size, sharpness):
    module, x = randomize(AttentionProposal(3, size, hidden_channels=5, sharpness=sharpness)), draw(shape)
    selection, maps = watched(module, x)
    B, C, H, W = shape
    height, width = {None: (H, W), 4: (4, 4)}.get(size, size)
    for b in range(B):
        tx, ty, tl = slow_proposal(module, x[b])
        mask = torch.zeros(H, W).double()
        for m in range(H):
            for n in range(W):
                across = sigmoid(sharpness * (n + 0.5 - (tx - tl))) - sigmoid(sharpness * (n + 0.5 - (tx + tl)))
                down = sigmoid(sharpness * (m + 0.5 - (ty - tl))) - sigmoid(sharpness * (m + 0.5 - (ty + tl)))
                mask[m, n] = across * down
        torch.testing.assert_close(maps["mask"][b], mask)
        expected = torch.zeros(C, height, width).double()
        for i in range(height):
            for j in range(width):
                row = ty - tl + (i + 0.5) * 2 * tl / height - 0.5
                column = tx - tl + (j + 0.5) * 2 * tl / width - 0.5
                expected[:, i, j] = (x[b] * mask * tent(x[b], row, column)).sum((1, 2))
        torch.testing.assert_close(selection.regions[b, 0], expected)
        edges = [2 * (tx - tl) / W - 1, 2 * (ty - tl) / H - 1, 2 * (tx + tl) / W - 1, 2 * (ty + tl) / H - 1]
        torch.testing.assert_close(list(box(selection.transform[b, 0])), edges)
    assert selection.log_probability is None


def test_attention_proposal_starts_as_a_square_of_half_the_longer_side_in_the_middle():
    selection, maps = watched(AttentionProposal(1).double(), torch.ones(1, 1, 16, 8).double())
    assert box(selection.transform[0, 0]) == (-1, -0.5, 1, 0.5)  # 8 by 8 cells
    assert (maps["mask"][0, 4:12] > 0.98).all()
    assert (maps["mask"][0, [*range(4), *range(12, 16)]] < 0.01).all()


def test_attention_proposal_moves_towards_what_earns_more():
    """The paper's gradient, through the mask: bright cells to the right draw the square to the right."""
    module = AttentionProposal(1, hidden_channels=2).double()
    x = torch.zeros(1, 1, 8, 8).double()
    x[..., 5:] = 1.0
    module(x).regions.sum().backward()
    across, down, _ = module.regress.bias.grad.tolist()
    assert across > 0.1
    assert abs(down) < 1e-9


def test_attention_proposal_refuses_a_flat_edge():
    with pytest.raises(ValueError, match="sharpness"):
        AttentionProposal(3, sharpness=0.0)


# Hard attention that reads the mean of some images


@pytest.mark.parametrize("estimator", ["score_function", "straight_through", "gumbel"])
@pytest.mark.parametrize("masked", [False, True])
def test_hard_reads_the_mean_of_some_images_in_training(estimator, masked):
    B, T, N = 23, 3, 5
    module = randomize(HardRead(2, 3, "general", estimator=estimator, mean_probability=0.5))
    query, memory = draw((B, T, 2)), draw((B, N, 3))
    mask = draw_mask((B, N)) if masked else torch.ones(B, N).bool()
    mask[1] = not masked  # nothing to attend to
    inputs = (query, memory, mask) if masked else (query, memory)
    with torch.no_grad(), offering.recording_choices() as choices:
        context, maps = watched(module, *inputs)
    choice = maps["choice"]
    means = set()
    for b in range(B):
        projected = [affine(module.score.query, query[b, t].tolist()) for t in range(T)]
        for t in range(T):
            scores = [dot(projected[t], memory[b, n].tolist()) if mask[b, n] else None for n in range(N)]
            p = softmax(scores)
            torch.testing.assert_close(maps["attention"][b, t].tolist(), p)
            weights = choice[b, t].tolist()
            is_mean = 1.0 not in weights
            if sum(mask[b]) > 1:
                means.add((b, is_mean))
            if is_mean:
                torch.testing.assert_close(weights, p)
            expected = [sum(weights[n] * memory[b, n, c].item() for n in range(N)) for c in range(3)]
            torch.testing.assert_close(context[b, t].tolist(), expected)
            if estimator == "score_function":
                logarithm = 0.0 if is_mean else math.log(p[weights.index(1.0)])
                assert math.isclose(choices.log_probabilities[0][b, t].item(), logarithm, abs_tol=1e-9)
                entropy = -sum(value * math.log(value) for value in p if value > 0)
                assert math.isclose(choices.entropies[0][b, t].item(), entropy, abs_tol=1e-9)
    assert {is_mean for _, is_mean in means} == {True, False}
    assert len({b for b, _ in means}) == len(means)  # all queries of an image alike


@pytest.mark.parametrize("estimator", ["score_function", "straight_through", "gumbel"])
def test_hard_that_always_reads_the_mean_is_soft_attention(estimator):
    module = randomize(HardRead(2, 3, "general", estimator=estimator, mean_probability=1.0))
    query, memory, upstream = draw((2, 5, 2)), draw((2, 7, 3)), draw((2, 5, 3))
    with offering.recording_choices() as choices:
        context = module(query, memory)
    weight = module.score.query.weight.detach().clone().requires_grad_()
    p = torch.einsum("btq,dq,bnd->btn", query, weight, memory).softmax(2)
    soft = torch.einsum("btn,bnd->btd", p, memory)
    torch.testing.assert_close(context, soft)
    (found,) = torch.autograd.grad((context * upstream).sum(), module.score.query.weight)
    (expected,) = torch.autograd.grad((soft * upstream).sum(), weight)
    torch.testing.assert_close(found, expected)
    assert not any(logs.any() for logs in choices.log_probabilities)
    for b in range(2):  # and in evaluation it reads one token as ever
        for t in range(5):
            assert torch.equal(module.eval()(query, memory)[b, t], memory[b, p[b, t].argmax()])


def test_hard_reads_the_mean_as_often_as_it_is_told():
    images = 20_000
    module = randomize(HardRead(2, 3, "general", mean_probability=0.3))
    query, memory = draw((1, 1, 2)).expand(images, 1, 2), draw((1, 4, 3)).expand(images, 4, 3)
    with offering.recording_choices() as choices:
        module(query, memory)
    share = (choices.log_probabilities[0] == 0).double().mean().item()
    assert abs(share - 0.3) <= 5 * (0.3 * 0.7 / images) ** 0.5


def test_hard_refuses_what_is_no_probability():
    for value in (-0.1, 1.1):
        with pytest.raises(ValueError, match="mean_probability"):
            HardRead(2, 3, mean_probability=value)


# All


@pytest.mark.parametrize(
    ("mechanism", "expected"),
    [
        (GlimpseSensor, lambda C: 2 * C + 2),
        (GumbelSelection, lambda C: C),
        (DrawRead, lambda C: 5 * C + 5),
        (AttentionProposal, lambda C: (16 * C + 1) * 32 + 33 * 3),
    ],
)
def test_parameter_counts(mechanism, expected):
    for C in (64, 256, 2048):
        assert count(mechanism(C)) == expected(C)
