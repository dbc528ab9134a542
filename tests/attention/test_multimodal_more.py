"""Fusion of two modalities by tensors, and attention over space and time, against the equations written as loops."""

import itertools
import math

import pytest
import torch
from oracle import (
    affine,
    cells,
    close,
    count,
    dot,
    draw,
    offered,
    plus,
    randomize,
    relu,
    sigmoid,
    softmax,
    tanh,
    watched,
)
from reading import B, M, N, Q, T, every_mask_and_nothing, make, pairs
from slow_layers import batch_norm, convolve, interpolated, layer_norm, multi_head
from torch import nn

from regard import functional
from regard.attention import (
    BlockBilinearRead,
    CoAttentionalTransformer,
    CompactBilinearRead,
    DividedSpaceTimeAttention,
    FactorizedBilinearRead,
    GuidedAttention,
    LowRankBilinearRead,
    ResidualAttention,
    ShapeError,
    TuckerRead,
)


def root(numbers):
    return [math.copysign(math.sqrt(abs(number)), number) for number in numbers]


def unit(numbers):
    length = math.sqrt(sum(number * number for number in numbers))
    return [number / length for number in numbers]


# The tensors of the fusions, as full as the equations think of them: z_k = Σ_ij core_ijk q_i m_j


def apply(core, query, memory):
    rows, columns, K = core.shape
    values = core.tolist()
    return [
        sum(values[i][j][k] * query[i] * memory[j] for i, j in itertools.product(range(rows), range(columns)))
        for k in range(K)
    ]


def slow_low_rank(module, query, memory):
    joint = [a * b for a, b in zip(tanh(affine(module.query, query)), tanh(affine(module.memory, memory)), strict=True)]
    return [dot(row, joint) for row in module.score.tolist()]


def factorized(module, query, memory):
    asking, asked = affine(module.query, query), affine(module.memory, memory)
    K = module.joint_width
    return [sum(asking[i * K + o] * asked[i * K + o] for i in range(module.factors)) for o in range(K)]


def slow_scoring(layers, vector):
    return affine(layers[2], relu(affine(layers[0], vector)))


def slow_factorized(module, query, memory):
    return slow_scoring(module.score, unit(root(factorized(module, query, memory))))


def slow_tucker(module, query, memory):
    """By the core tensor itself, whose slices are sums of `rank` outer products."""
    K = module.joint_width
    core = torch.zeros(K, K, K, dtype=torch.float64)
    for r, k in itertools.product(range(module.rank), range(K)):
        one, other = module.query_core.weight[r * K + k], module.memory_core.weight[r * K + k]
        core[:, :, k] += one[:, None] * other
    joint = apply(core, tanh(affine(module.query, query)), tanh(affine(module.memory, memory)))
    return [dot(row, joint) for row in module.score.tolist()]


def slow_block(module, query, memory):
    """By a core tensor that is zero but for the blocks on its superdiagonal."""
    K, L = module.joint_width, module.joint_width // module.blocks
    core = torch.zeros(K, K, K, dtype=torch.float64)
    for p, r, k in itertools.product(range(module.blocks), range(module.rank), range(L)):
        part = slice(p * L, (p + 1) * L)
        core[part, part, p * L + k] += (
            module.query_core.weight[p, r, k][:, None] * module.memory_core.weight[p, r, k][None]
        )
    joint = apply(core, affine(module.query, query), affine(module.memory, memory))
    if module.normalize:
        joint = [number for p in range(module.blocks) for number in unit(root(joint[p * L : (p + 1) * L]))]
    return [dot(row, joint) for row in module.score.tolist()]


def slow_biased(module, query, memory):
    """By the equation with a bias behind every factor, which no core tensor has."""
    asking, asked = affine(module.query, query), affine(module.memory, memory)
    K, L = module.joint_width, module.joint_width
    blocks = isinstance(module, BlockBilinearRead)
    if blocks:
        L = K // module.blocks
    else:
        asking, asked = tanh(asking), tanh(asked)
    joint = [0.0] * K
    for r, k in itertools.product(range(module.rank), range(K)):
        part = slice(k // L * L, k // L * L + L)
        factors = 1.0
        for core, vector in ((module.query_core, asking), (module.memory_core, asked)):
            weight = core.weight[k // L, r, k % L] if blocks else core.weight[r * K + k]
            bias = core.bias[r, k] if blocks else core.bias[r * K + k]
            factors *= dot(weight.tolist(), vector[part]) + float(bias)
        joint[k] += factors
    return [dot(row, joint) for row in module.score.tolist()]


def slow_compact(module, query, memory):
    """By the outer product of which every entry falls into the bin of the sum of both bins."""
    K = module.sketch_width
    sketch = [0.0] * K
    for i, j in itertools.product(range(Q), range(M)):
        sign = float(module.query_signs[i] * module.memory_signs[j])
        sketch[int(module.query_bins[i] + module.memory_bins[j]) % K] += sign * query[i] * memory[j]
    return slow_scoring(module.score, unit(root(sketch)) if module.normalize else sketch)


def read_by(scores, memory, some):
    """What one query reads: `G` means of the memory, one behind the other, and their weights."""
    weights = [
        softmax([score[g] if may else None for score, may in zip(scores, some, strict=True)])
        for g in range(len(scores[0]))
    ]
    return [dot(row, column) for row in weights for column in zip(*memory, strict=True)], weights


READERS = [
    (slow_low_rank, LowRankBilinearRead, {"joint_width": 11}),
    (slow_low_rank, LowRankBilinearRead, {"joint_width": 5, "glimpses": 3, "bias": True}),
    (slow_factorized, FactorizedBilinearRead, {"joint_width": 5, "factors": 3, "hidden_width": 11}),
    (slow_factorized, FactorizedBilinearRead, {"joint_width": 3, "factors": 2, "hidden_width": 5, "bias": True}),
    (slow_tucker, TuckerRead, {"joint_width": 5, "rank": 3}),
    (slow_tucker, TuckerRead, {"joint_width": 3, "rank": 1, "glimpses": 1}),
    (slow_block, BlockBilinearRead, {"joint_width": 6, "blocks": 2, "rank": 5}),
    (slow_block, BlockBilinearRead, {"joint_width": 6, "blocks": 3, "rank": 2, "normalize": True}),
    (slow_biased, TuckerRead, {"joint_width": 5, "rank": 3, "bias": True}),
    (slow_biased, BlockBilinearRead, {"joint_width": 6, "blocks": 2, "rank": 3, "bias": True}),
    (slow_compact, CompactBilinearRead, {"sketch_width": 13, "hidden_width": 11}),
    (slow_compact, CompactBilinearRead, {"sketch_width": 8, "hidden_width": 5, "glimpses": 2, "normalize": False}),
]


def reads_by(slow, module, query, memory, mask):
    """What is read of every pair of a query and a memory, and with which weights, is what the slow scores say."""
    context, offer = offered(module, query, memory, mask)
    for b, t in itertools.product(range(B), range(T)):
        tokens = memory[b].tolist()
        scores = [slow(module, query[b, t].tolist(), token) for token in tokens]
        expected, weights = read_by(scores, tokens, pairs(mask, b)[t])
        close(context[b, t], expected)
        close(offer.weights[b, :, t], weights)


@every_mask_and_nothing
@pytest.mark.parametrize(("slow", "mechanism", "options"), READERS)
@torch.no_grad()
def test_bilinear_readers(slow, mechanism, options, which):
    module = randomize(mechanism(Q, M, **options))
    query, memory, mask = make(which)
    reads_by(slow, module, query, memory, mask)


@every_mask_and_nothing
@torch.no_grad()
def test_the_code_of_factorized_bilinear_attention_normalizes_all_tokens_together(which):
    options = {"joint_width": 5, "factors": 3, "hidden_width": 11}
    module = randomize(FactorizedBilinearRead(Q, M, variant="code", **options))
    query, memory, mask = make(which)
    context, offer = offered(module, query, memory, mask)
    for b, t in itertools.product(range(B), range(T)):
        some, tokens = pairs(mask, b)[t], memory[b].tolist()
        roots = [root(factorized(module, query[b, t].tolist(), token)) for token in tokens]
        length = math.sqrt(sum(x * x for vector, may in zip(roots, some, strict=True) if may for x in vector)) or 1.0
        scores = [slow_scoring(module.score, [x / length for x in vector]) for vector in roots]
        expected, weights = read_by(scores, tokens, some)
        close(context[b, t], expected)
        close(offer.weights[b, :, t], weights)


def raised(vector):
    return [number + 0.5 for number in vector]


def slow_dropping_low_rank(module, query, memory):
    return slow_low_rank(module, raised(query), raised(memory))


def slow_dropping_tucker(module, query, memory):
    scores = slow_tucker(module, raised(query), raised(memory))
    return [score + 0.5 * sum(row) for score, row in zip(scores, module.score.tolist(), strict=True)]


def slow_dropping_factorized(module, query, memory):
    pooled = [number + 0.5 * module.factors for number in factorized(module, query, memory)]
    return slow_scoring(module.score, unit(root(pooled)))


@every_mask_and_nothing
@pytest.mark.parametrize(
    ("slow", "mechanism", "options"),
    [
        (slow_dropping_factorized, FactorizedBilinearRead, {"joint_width": 5, "factors": 3, "hidden_width": 11}),
        (slow_dropping_low_rank, LowRankBilinearRead, {"joint_width": 11}),
        (slow_dropping_tucker, TuckerRead, {"joint_width": 5, "rank": 3}),
    ],
)
@torch.no_grad()
def test_bilinear_readers_drop_what_is_fused_but_not_what_is_read(slow, mechanism, options, which, monkeypatch):
    """With a half more in place of dropout, one sees where it acts."""
    monkeypatch.setattr(nn.functional, "dropout", lambda x, p, training, inplace: x + p * training)
    module = randomize(mechanism(Q, M, **options, dropout=0.5))
    plain = mechanism(Q, M, **options).double()
    plain.load_state_dict(module.state_dict())
    query, memory, mask = make(which)
    reads_by(slow, module, query, memory, mask)
    assert torch.equal(module.eval()(query, memory, mask), plain(query, memory, mask))


def test_sizes_of_the_papers():
    """Questions of 2400, cells of 2048 channels."""
    with torch.device("meta"):
        assert count(LowRankBilinearRead(2400, 2048)) == 1200 * (2400 + 2048 + 2)
        assert count(FactorizedBilinearRead(1024, 2048)) == 5000 * 3072 + 1000 * 512 + 512 + 2 * 512
        assert count(TuckerRead(2400, 2048)) == 360 * 4448 + 2 * 10 * 360**2 + 2 * 360
        assert count(BlockBilinearRead(2400, 2048)) == 1600 * 4448 + 2 * 20 * 15 * 80**2 + 2 * 1600
        assert count(CompactBilinearRead(2048, 2048)) == 16000 * 512 + 512 + 512


def test_one_block_of_rank_one_with_unit_factors_is_low_rank_bilinear():
    block = randomize(BlockBilinearRead(Q, M, 5, 5, 1))
    query, memory, _ = make("none")
    with torch.no_grad():
        block.query_core.weight.fill_(1.0)
        block.memory_core.weight.fill_(1.0)
        joint = block.query(query)[:, :, None] * block.memory(memory)[:, None]  # (B, T, N, K)
        weights = (joint @ block.score.T).softmax(2)
        close(offered(block, query, memory)[1].weights, weights.permute(0, 3, 1, 2))


def test_sketches_are_drawn_once_and_kept():
    module, other = CompactBilinearRead(Q, M, 13, 5).double(), CompactBilinearRead(Q, M, 13, 5).double()
    query, memory, _ = make("none")
    assert set(module.query_signs.tolist()) <= {-1.0, 1.0}
    assert not torch.equal(module(query, memory), other(query, memory))
    other.load_state_dict(module.state_dict())
    assert torch.equal(module(query, memory), other(query, memory))


def test_sketches_keep_scalar_products_in_expectation():
    x, y, width = draw((11,)), draw((2, 11))[1], 7
    products = []
    for _ in range(400):
        bins, signs = torch.randint(width, (11,)), 2.0 * torch.randint(2, (11,)).double() - 1
        products.append(dot(*(functional.count_sketch(v, bins, signs, width).tolist() for v in (x, y))))
    deviation = math.sqrt((float(x.square().sum() * y.square().sum()) + float(dot(x, y)) ** 2) / width / 400)
    assert abs(sum(products) / 400 - float(dot(x, y))) < 4 * deviation


@pytest.mark.parametrize("mechanism", [FactorizedBilinearRead, CompactBilinearRead])
def test_a_zero_query_has_a_finite_gradient(mechanism):
    """The slope of a square root at zero is infinite."""
    query, memory, _ = make("none")
    query = torch.zeros_like(query).requires_grad_()
    mechanism(Q, M, 13, hidden_width=5).double()(query, memory).square().sum().backward()
    assert query.grad.isfinite().all()


@pytest.mark.parametrize(
    ("mechanism", "options", "message"),
    [
        (LowRankBilinearRead, {"glimpses": 0}, "glimpses=0"),
        (LowRankBilinearRead, {"joint_width": 0}, "joint_width=0"),
        (FactorizedBilinearRead, {"factors": 0}, "factors=0"),
        (FactorizedBilinearRead, {"variant": "author"}, "variant='author', expected 'paper' or 'code'"),
        (TuckerRead, {"rank": 0}, "rank=0"),
        (BlockBilinearRead, {"joint_width": 50}, "joint_width=60"),
        (CompactBilinearRead, {"sketch_width": 0}, "sketch_width=0"),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_wrong_arguments_of_bilinear_readers_are_refused(mechanism, options, message):
    with pytest.raises(ValueError, match=message):
        mechanism(Q, M, **options)


# Tensor fusion


def test_tensor_fusion_is_the_product_of_every_subset():
    vectors = [draw((B, size)) for size in (2, 3, 5)]
    fused = functional.tensor_fusion(*vectors)
    for b in range(B):
        extended = [[*vector[b].tolist(), 1.0] for vector in vectors]
        close(fused[b], [math.prod(entries) for entries in itertools.product(*extended)])


def test_low_rank_tensor_fusion_is_a_linear_layer_behind_tensor_fusion():
    vectors, R, K = [draw((B, size)) for size in (2, 3, 5)], 7, 11
    factors = [draw((R, size + 1, K)).flip(0) for size in (2, 3, 5)]
    weight = torch.zeros(3, 4, 6, K, dtype=torch.float64)
    for r in range(R):
        for i, j, k in itertools.product(range(3), range(4), range(6)):
            weight[i, j, k] += factors[0][r, i] * factors[1][r, j] * factors[2][r, k]
    found = functional.low_rank_tensor_fusion(vectors, factors)
    assert found.shape == (B, K)
    close(found, functional.tensor_fusion(*vectors) @ weight.reshape(-1, K))


def test_low_rank_pairs_are_the_fusion_of_every_pair():
    query, memory = draw((B, T, 2, 11)), draw((B, N, 2, 11)).flip(1)
    found = functional.low_rank_pairs(query, memory)
    for b, t, n in itertools.product(range(B), range(T), range(N)):
        close(found[b, t, n], functional.low_rank_fusion(query[b, t], memory[b, n]))
        close(found[b, t, n], [sum(float(query[b, t, r, k] * memory[b, n, r, k]) for r in range(2)) for k in range(11)])


# The co-attentional transformer layer


def slow_co_attentional(module, queries, memory, some, peers):
    read, attention = multi_head(module.attend, queries, memory, some)
    context = [layer_norm(module.attend_norm, plus(*both)) for both in zip(queries, read, strict=True)]
    maps = {"attention": attention}
    if module.variant == "lxmert":
        rows = [peers if any(row) else [False] * T for row in some]
        read, maps["self"] = multi_head(module.among, context, context, rows)
        context = [layer_norm(module.among_norm, plus(*both)) for both in zip(context, read, strict=True)]
    for t, vector in enumerate(context):
        hidden = [x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in affine(module.feed_forward[0], vector)]
        context[t] = layer_norm(module.norm, plus(vector, affine(module.feed_forward[2], hidden)))
    return [vector if any(row) else [0.0] * Q for vector, row in zip(context, some, strict=True)], maps


@every_mask_and_nothing
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("variant", ["vilbert", "lxmert"])
def test_co_attentional(variant, padded, which):
    module = randomize(CoAttentionalTransformer(Q, M, heads=2, expansion=2, variant=variant))
    query, memory, mask = make(which)
    query_mask = torch.tensor([[True, True, False], [True, False, True]]) if padded else None
    context, found = watched(module, query, memory, mask, query_mask)
    for b in range(B):
        peers = [True] * T if query_mask is None else query_mask[b].tolist()
        expected, maps = slow_co_attentional(module, query[b].tolist(), memory[b].tolist(), pairs(mask, b), peers)
        close(context[b], expected)
        assert found.keys() == maps.keys()
        for label, weights in maps.items():
            close(found[label][b], weights)


def load_heads(ours, theirs):
    """From the one matrix of torch's attention to three."""
    with torch.no_grad():
        for at, layer in enumerate((ours.query, ours.key, ours.value)):
            layer.weight.copy_(theirs.in_proj_weight.chunk(3)[at])
            layer.bias.copy_(theirs.in_proj_bias.chunk(3)[at])
    ours.output.load_state_dict(theirs.out_proj.state_dict())


def test_a_stream_that_reads_itself_is_torch_s_encoder_layer():
    """What makes the layer co-attentional is nothing but whose tokens are the memory."""
    theirs = randomize(nn.TransformerEncoderLayer(Q, 2, 4 * Q, dropout=0.0, activation="gelu", batch_first=True))
    ours = CoAttentionalTransformer(Q, Q, heads=2).double()
    assert count(ours) == count(theirs)
    load_heads(ours.attend, theirs.self_attn)
    for part, same in (
        (ours.attend_norm, theirs.norm1),
        (ours.norm, theirs.norm2),
        (ours.feed_forward[0], theirs.linear1),
        (ours.feed_forward[2], theirs.linear2),
    ):
        part.load_state_dict(same.state_dict())
    x = draw((B, T, Q))
    torch.testing.assert_close(ours(x, x), theirs(x))


PEERS = {
    "guided": lambda: GuidedAttention(8, M, heads=2),
    "vilbert": lambda: CoAttentionalTransformer(8, M, heads=2),
    "lxmert": lambda: CoAttentionalTransformer(8, M, heads=2, variant="lxmert"),
}


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["memory", "unread query", "query"])
@pytest.mark.parametrize("late_are_read", [False, True])
def test_what_is_not_finite_reaches_whom_an_ordinary_number_there_would(late_are_read, where, bad, name):
    """Queries 2 and 3 of five read memory token 2; the others may read queries 0, 1 and 4, or 2 and 3 too."""
    if where == "query" and name == "vilbert":
        return  # it masks no peers
    module = PEERS[name]()
    query, memory = torch.randn(2, 5, 8), torch.randn(2, N, M)
    mask = torch.ones(2, 5, N, dtype=torch.bool)
    mask[:, [0, 1, 4], 2] = False
    peers = torch.tensor([True, True, late_are_read, late_are_read, where != "unread query"]).expand(2, 5)
    outcomes = []
    for held in (0.5, 1.5, bad):
        q, m = query.clone(), memory.clone()
        if where == "memory":
            m[0, 2, 1] = held
        else:
            q[0, 4, 1] = held
        outcomes.append(module(q, m, mask, query_mask=peers))
    one, two, found = outcomes
    changed = (one != two).any(2)  # (2, 5)
    if where == "unread query":  # a query that nobody reads asks with zero in place of what is not finite
        assert changed.nonzero().tolist() == [[0, 4]]
        assert found.isfinite().all()
    else:
        assert torch.equal(found.isnan().all(2), changed)
    assert torch.equal(found[~changed], one[~changed])
    gradients = [
        torch.autograd.grad(output[~changed].square().sum(), list(module.parameters())) for output in (one, found)
    ]
    torch.testing.assert_close(gradients[1], gradients[0])


def test_vilbert_reads_no_peers():
    """The context of a query depends on no other query, unless self-attention follows."""
    query, memory, _ = make("none")
    other = query.clone()
    other[:, 1:] += 1
    for variant, alone in (("vilbert", True), ("lxmert", False)):
        module = randomize(CoAttentionalTransformer(Q, M, heads=2, variant=variant))
        assert torch.allclose(module(query, memory)[:, 0], module(other, memory)[:, 0]) is alone


@pytest.mark.parametrize(
    ("options", "message"),
    [({"heads": 4}, "4 heads do not divide"), ({"variant": "bert"}, "variant='bert', expected 'vilbert' or 'lxmert'")],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_wrong_arguments_of_co_attentional_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CoAttentionalTransformer(Q, M, **{"heads": 2, **options})


# Divided space-time attention


def slow_divided(module, x):
    B, C, *spatial = x.shape
    where = cells(spatial)
    y, maps = torch.empty_like(x), {"time": [], "space": []}
    for b in range(B):
        tokens = [[float(x[(b, c, *cell)]) for c in range(C)] for cell in where]
        for axis, norm, attention in (
            ("time", module.time_norm, module.time),
            ("space", module.space_norm, module.space),
        ):
            some = [[(p[1:] == q[1:]) if axis == "time" else (p[0] == q[0]) for q in where] for p in where]
            normed = [layer_norm(norm, token) for token in tokens]
            read, weights = multi_head(attention, normed, normed, some)
            if axis == "time" and isinstance(module.time_layer, nn.Linear):
                read = [affine(module.time_layer, vector) for vector in read]
            tokens = [plus(*both) for both in zip(tokens, read, strict=True)]
            maps[axis].append(weights)
        for cell, token in zip(where, tokens, strict=True):
            y[(b, slice(None), *cell)] = torch.tensor(token, dtype=x.dtype)
    return y, maps


@pytest.mark.parametrize("shape", [(2, 6, 3, 2, 2), (1, 6, 1, 1, 5), (1, 5, 3, 1, 1)])
@pytest.mark.parametrize("options", [{"heads": 2}, {"heads": 3, "bias": False}, {"heads": 2, "temporal_layer": True}])
@torch.no_grad()
def test_divided_space_time(options, shape):
    module, x = randomize(DividedSpaceTimeAttention(shape[1], **options)), draw(shape)
    expected, expected_maps = slow_divided(module, x)
    y, maps = watched(module, x)
    close(y, expected)
    for label, weights in expected_maps.items():
        close(maps[label], weights)


@pytest.mark.parametrize("temporal_layer", [False, True])
def test_divided_space_time_starts_as_an_image_transformer(temporal_layer):
    """Every frame as if it were alone, and then torch's attention between its places."""
    module = DividedSpaceTimeAttention(6, heads=2, temporal_layer=temporal_layer).double()
    theirs = randomize(nn.MultiheadAttention(6, 2, batch_first=True))
    load_heads(module.space, theirs)
    x = draw((2, 6, 3, 5, 2))
    frames = x.permute(0, 2, 3, 4, 1).reshape(6, 10, 6)
    normed = module.space_norm(frames)
    expected = (frames + theirs(normed, normed, normed)[0]).reshape(2, 3, 5, 2, 6).permute(0, 4, 1, 2, 3)
    torch.testing.assert_close(module(x), expected)


def test_divided_space_time_sees_other_places_of_other_frames_only_through_both():
    """Without the spatial half a position sees its place alone, without the temporal half its frame alone."""
    x = draw((1, 6, 3, 2, 5))
    other = x.clone()
    other[:, 0, 0, 0, 0] += 1
    for silent in ("time", "space", None):
        module = randomize(DividedSpaceTimeAttention(6, heads=2))
        if silent:
            for parameter in getattr(module, silent).output.parameters():
                nn.init.zeros_(parameter)
        moved = ((module(x) - module(other)).abs().amax((0, 1)) > 1e-9).nonzero().tolist()
        expected = {
            "time": [list(p) for p in cells((3, 2, 5)) if p[0] == 0],
            "space": [list(p) for p in cells((3, 2, 5)) if p[1:] == (0, 0)],
            None: [list(p) for p in cells((3, 2, 5))],
        }[silent]
        assert moved == expected


def test_divided_space_time_sizes():
    """Of the ViT-B of the paper, and where 12 heads do not divide."""
    assert count(DividedSpaceTimeAttention(768)) == 2 * (4 * 768**2 + 4 * 768) + 2 * 2 * 768
    assert count(DividedSpaceTimeAttention(768, temporal_layer=True)) == 9 * 768**2 + 13 * 768
    assert [DividedSpaceTimeAttention(channels).heads for channels in (768, 64, 67, 5)] == [12, 8, 1, 5]
    with pytest.raises(ValueError, match="heads=0, expected a whole number"):
        DividedSpaceTimeAttention(6, heads=0)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("shape", [(2, 6, 5, 3), (2, 7, 2, 5, 3)])
def test_divided_space_time_refuses_what_is_no_video(shape):
    with pytest.raises(ShapeError, match="3 spatial axes"):
        DividedSpaceTimeAttention(6)(torch.zeros(shape))


# Residual attention


def slow_units(stack, x):
    for unit in stack:
        hidden = x
        for norm, layer in zip(unit.norms, (unit.reduce, unit.spatial, unit.expand), strict=True):
            hidden = convolve(layer, batch_norm(norm, hidden).clamp(min=0))
        x = x + hidden
    return x


def halve(x):
    spatial = x.shape[2:]
    y = torch.empty(*x.shape[:2], *((size + 1) // 2 for size in spatial), dtype=x.dtype)
    for cell in cells(y.shape[2:]):
        near = [at for at in cells(spatial) if all(abs(p - 2 * o) <= 1 for p, o in zip(at, cell, strict=True))]
        y[(..., *cell)] = torch.stack([x[(..., *at)] for at in near]).amax(0)
    return y


def slow_residual_attention(module, x):
    maps, spatial = [], [x.shape[2:]]
    for level in range(module.levels):
        maps.append(slow_units(module.down[level], halve(maps[-1] if maps else x)))
        spatial.append(maps[-1].shape[2:])
    up = None
    for level in reversed(range(module.levels)):
        inner = maps[level] if up is None else slow_units(module.skip[level], maps[level]) + up
        up = interpolated(slow_units(module.up[level], inner), spatial[level])
    score = up
    for at in (0, 3):
        score = convolve(module.score[at + 2], batch_norm(module.score[at], score).clamp(min=0))
    mask = torch.empty_like(x)
    for b, cell in itertools.product(range(len(x)), cells(x.shape[2:])):
        for c in range(x.shape[1]):
            number = float(score[(b, c, *cell)])
            if module.mask == "channel":
                number /= math.sqrt(sum(float(other) ** 2 for other in score[(b, slice(None), *cell)]))
            elif module.mask == "spatial":
                values = score[b, c].flatten().tolist()
                mean = sum(values) / len(values)
                variance = sum((value - mean) ** 2 for value in values) / len(values)
                number = sigmoid((number - mean) / math.sqrt(variance + 1e-5))
            else:
                number = sigmoid(number)
            mask[(b, c, *cell)] = number
    return (1 + mask) * x, mask


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((2, 5, 5, 3), {}),
        ((1, 5, 1, 1), {}),
        ((1, 3, 7, 2), {"levels": 3}),
        ((2, 5, 3, 5), {"levels": 1, "units": 2, "reduction": 2}),
        ((2, 5, 3, 5), {"mask": "channel"}),
        ((2, 5, 3, 5), {"mask": "spatial"}),
        ((2, 5, 11), {"dims": 1}),
        ((1, 3, 2, 3, 2), {"dims": 3, "levels": 1}),
    ],
)
@torch.no_grad()
def test_residual_attention(shape, options, training):
    module, x = randomize(ResidualAttention(shape[1], **options)).train(training), draw(shape)
    expected, mask = slow_residual_attention(module, x)  # first: training moves the running statistics
    y, offer = offered(module, x)
    close(y, expected)
    close(offer.weights, mask)


def test_residual_attention_suppresses_nothing():
    """A mask of zeros keeps the map, where a product with the mask alone would clear it."""
    module, x = ResidualAttention(5).double(), draw((2, 5, 5, 3))
    nn.init.zeros_(module.score[3].weight)
    nn.init.ones_(module.score[3].bias)
    nn.init.constant_(module.score[5].weight, -800.0)
    assert torch.equal(module(x), x)
    nn.init.constant_(module.score[5].weight, 800.0)
    assert torch.equal(module(x), 2 * x)


def unit_size(inputs, outputs):
    """A residual unit of the paper's table 2, with a projection where the width changes."""
    d = outputs // 4
    return 2 * inputs + inputs * d + 2 * d + 9 * d * d + 2 * d + d * outputs + inputs * outputs * (inputs != outputs)


@pytest.mark.parametrize(("modules", "published"), [((1, 1, 1), 31_810_728), ((1, 2, 3), 52_466_344)])
def test_residual_attention_has_the_published_size(modules, published):
    """Of Attention-56 and Attention-92 as whole networks: a unit before a module, two in its trunk, one after."""
    total = 64 * 3 * 49 + 2 * 64 + 2 * 2048 + 2048 * 1000 + 1000  # stem, last normalisation and classifier
    total += unit_size(64, 256) + unit_size(256, 512) + unit_size(512, 1024) + unit_size(1024, 2048)
    total += 2 * unit_size(2048, 2048)
    for channels, levels, times in zip((256, 512, 1024), (3, 2, 1), modules, strict=True):
        with torch.device("meta"):
            mask = count(ResidualAttention(channels, levels))
        total += times * (4 * unit_size(channels, channels) + mask)
    assert total == published


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 0}, "levels=0"),
        ({"units": 0}, "units=0"),
        ({"mask": "none"}, "'mixed', 'channel' or 'spatial'"),
        ({"dims": 4}, "1, 2 or 3"),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_wrong_arguments_of_residual_attention_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ResidualAttention(5, **options)
