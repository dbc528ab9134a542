"""Every core against its paper's equations, written slowly, one question and one pair at a time."""

import math
from collections.abc import Callable
from functools import partial
from inspect import signature

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from vqa_small import SIGHT, WORDS, small_core

from regard import watch
from regard.attention import Read, ShapeError, mechanisms, offering
from regard.errors import UserError
from regard.models.vqa import Core, Sight, Words, cores
from regard.models.vqa.cores import relation
from regard.models.vqa.cores.entity_stream import EntityRead
from regard.models.vqa.cores.find_then_move import BLOCK, REACH, FindThenMoveRead
from regard.models.vqa.cores.mac import ControlRead, KnowledgeRead
from regard.models.vqa.cores.reader import SEE_EACH_OTHER, MeanRead
from regard.models.vqa.cores.top_down import ProductRead
from regard.models.vqa.layers import GlimpseLinear, QuestionAttention, SelfAttentiveRead, WeightNormLinear

GRID = (2, 3)


def sight() -> Sight:
    return Sight(torch.randn(2, 6, SIGHT, dtype=torch.float64), grid=GRID)


def words() -> Words:
    mask = torch.tensor([[[1, 1, 1, 1], [1, 0, 1, 1], [0, 1, 1, 0]], [[1, 1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 1]]]).bool()
    tokens = torch.randn(2, 3, 4, WORDS, dtype=torch.float64).masked_fill(~mask[..., None], 0.0)
    return Words(tokens, mask, torch.randn(2, 3, WORDS, dtype=torch.float64))


def core(name: str, **arguments: object) -> Core:
    return small_core(name, **arguments).double().eval()


def one_at_a_time(name_or_core: str | Core, answer, **arguments: object) -> None:
    """`answer(v, h, q)`, from the picture's tokens, one question's words and its summary, is what the core gives."""
    model = core(name_or_core, **arguments) if isinstance(name_or_core, str) else name_or_core
    seen, asked = sight(), words()
    joint = model(seen, asked)
    for b in range(2):
        for q in range(3):
            said = asked.tokens[b, q][asked.mask[b, q]]
            torch.testing.assert_close(joint[b, q], answer(model, seen.tokens[b], said, asked.summary[b, q]))


def softmax(scores: list[Tensor]) -> list[Tensor]:
    powers = [score.exp() for score in scores]
    return [power / sum(powers) for power in powers]


def weighed(scores: list[Tensor], tokens: Tensor) -> Tensor:
    return sum((a * token for a, token in zip(softmax(scores), tokens, strict=True)), torch.zeros(tokens.shape[1]))


def length_one(x: Tensor) -> Tensor:
    return x / x.square().sum().sqrt()


def rooted(x: Tensor) -> Tensor:
    return length_one(x.sign() * x.abs().sqrt())


def network(layers, x: Tensor) -> Tensor:
    """Linear layers, each with a rectifier."""
    for layer in layers[::2]:
        x = (layer.weight @ x + layer.bias).clamp(min=0)
    return x


def additive(score, q: Tensor, m: Tensor) -> Tensor:
    return score.vector.weight[0] @ torch.tanh(score.query(q) + score.memory(m))


def coordinates() -> Tensor:
    """Two rows of three cells: x, then y."""
    return torch.tensor([[-1, -1], [0, -1], [1, -1], [-1, 1], [0, 1], [1, 1]], dtype=torch.float64)


def test_baselines_are_means_and_products() -> None:
    one_at_a_time("question_only", lambda model, v, h, q: q)
    one_at_a_time("image_only", lambda model, v, h, q: length_one(v.sum(0)))
    one_at_a_time("concatenation", lambda model, v, h, q: torch.cat((v.sum(0) / 6, q)))
    one_at_a_time("flattened", lambda model, v, h, q: network(model.f, torch.cat((*v.T, q))), cells=6)
    with pytest.raises(ShapeError, match="got 6 cells, expected 15: give it cells=6"):
        core("flattened")(sight(), words())
    with pytest.raises(ValueError, match="give it a layer"):
        core("flattened", f_widths=())
    for act in (torch.tanh, torch.relu):
        one_at_a_time(
            "product",
            lambda model, v, h, q, act=act: act(model.sight(length_one(v.sum(0)))) * act(model.words(q)),
            activation=act.__name__,
        )


def layer_norm(layer, x: Tensor) -> Tensor:
    apart = x - x.mean(-1, keepdim=True)
    return apart / (apart.square().mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight + layer.bias


def thought(block, q: Tensor, context: Tensor) -> Tensor:
    """What a block makes of a question and of what was read for it."""
    q = q + block.project(context)
    _, first, _, second = block.mlp
    hidden = first.weight @ layer_norm(block.mlp[0], q) + first.bias
    return q + second.weight @ (hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2) + second.bias


def scaled(model: Core) -> Core:
    """Normalisations that are not the identity behind the division."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_()
    return model


@pytest.mark.parametrize("read", ["additive", "top_down", "mean", "guided"])
def test_a_reader_reads_with_any_mechanism_in_pre_norm_residual_blocks(read: str) -> None:
    def reader(model, v, h, q):
        for block in model.read.blocks:
            asked, memory = layer_norm(block.query_norm, q), layer_norm(block.memory_norm, v)
            if read == "mean":
                context = memory.sum(0) / 6
            elif read == "additive":
                context = weighed([additive(block.read.score, asked, m) for m in memory], memory)
            else:  # a mechanism has its own tests
                context = block.read(asked[None, None], memory[None])[0, 0]
            q = thought(block, q, context)
        return layer_norm(model.read.norm, q)

    arguments = {"heads": 1} if read == "guided" else {}
    model = scaled(cores["reader"](SIGHT, WORDS, read=read, arguments=arguments, blocks=2)).double().eval()
    one_at_a_time(model, reader)


def test_what_no_question_can_guide_is_refused_as_a_reader() -> None:
    for query_less in ("perceiver_resampler", "se", "sorcery"):
        with pytest.raises(UserError, match=f"guide '{query_less}': choose a Read among .*additive.*mean"):
            cores["reader"](SIGHT, WORDS, read=query_less)
    with pytest.raises(UserError, match="at least once"):
        cores["reader"](SIGHT, WORDS, blocks=0)


# What lies in the memory is, for these, more than tokens.
ASKS_MORE = {"multi_scale_deformable", "class_residual", "clip_pool"}


@pytest.mark.parametrize(
    "read",
    [
        name
        for name, kind in mechanisms.items()
        if issubclass(kind, Read) and name not in ASKS_MORE and next(iter(signature(kind).parameters)) == "query_width"
    ],
)
def test_questions_do_not_see_each_other_whatever_mechanism_reads(read: str) -> None:
    """And are read one at a time only where they would: `SEE_EACH_OTHER` names those mechanisms and no others."""
    model = cores["reader"](8, 8, read=read).double().eval()
    seen = Sight(torch.randn(2, 6, 8, dtype=torch.float64), grid=GRID)
    asked = Words(
        torch.zeros(2, 3, 1, 8, dtype=torch.float64),
        torch.ones(2, 3, 1, dtype=torch.bool),
        torch.randn(2, 3, 8, dtype=torch.float64),
    )
    alone = Words(asked.tokens[:, 1:2], asked.mask[:, 1:2], asked.summary[:, 1:2])
    torch.testing.assert_close(model(seen, asked)[:, 1:2], model(seen, alone))
    at_once = mechanisms[read](8, 8).double().eval()
    apart, together = at_once(alone.summary, seen.tokens), at_once(asked.summary, seen.tokens)
    sees = together.shape[1] != 3 or not torch.allclose(together[:, 1:2], apart)
    assert sees == (read in SEE_EACH_OTHER)


def test_the_question_weighs_channels_then_positions() -> None:
    def channels(model, v: Tensor, q: Tensor) -> Tensor:
        mean = v.sum(0) / 6
        return torch.stack(softmax([additive(model.channel.score, q, mean[c : c + 1]) for c in range(SIGHT)]))

    def both(model, v, h, q):
        scaled = v * channels(model, v, q)
        return torch.cat((weighed([additive(model.spatial.score, q, token) for token in scaled], scaled), q))

    one_at_a_time("question_channel_spatial", both)
    one_at_a_time("question_channel", lambda model, v, h, q: torch.cat((v.sum(0) / 6 * channels(model, v, q), q)))
    one_at_a_time(
        "question_spatial",
        lambda model, v, h, q: torch.cat((weighed([additive(model.spatial.score, q, token) for token in v], v), q)),
    )


def test_the_question_chooses_one_token_and_learns_from_what_it_chose() -> None:
    def hard(model, v, h, q):
        scores = torch.stack([additive(model.spatial.score, q, token) for token in v])
        return torch.cat((v[int(scores.argmax())], q))

    one_at_a_time("question_hard", hard)
    model = small_core("question_hard", estimator="score_function").double().train()
    with offering.recording_choices() as choices:
        model(sight(), words())
    assert [tuple(one.shape) for one in choices.log_probabilities] == [(2, 3)]


def test_picture_and_question_guide_each_other_in_turn() -> None:
    def alternating(model, v, h, q):
        pool = model.summarize
        summary = weighed([pool.vector(torch.tanh(pool.hidden(word)))[0] for word in h], h)
        seen = weighed([additive(model.look.score, summary, token) for token in v], v)
        return torch.cat((seen, weighed([additive(model.listen.score, seen, word) for word in h], h)))

    def guided(model, v, h, q):
        mean = v.sum(0) / 6
        return torch.cat((mean, weighed([additive(model.listen.score, mean, word) for word in h], h)))

    one_at_a_time("alternating_co_attention", alternating)
    one_at_a_time("image_guided", guided)


def test_the_picture_weighs_the_channels_of_the_question() -> None:
    def channels(model, v, h, q):
        mean = v.sum(0) / 6
        weights = softmax([additive(model.channel.score, mean, channel) for channel in q[:, None]])
        return torch.cat((mean, torch.stack(weights) * q))

    one_at_a_time("image_channel", channels)


def test_words_phrases_and_question_each_attend_to_the_picture_and_it_to_them() -> None:
    def co_attention(read, h: Tensor, v: Tensor) -> Tensor:
        affinity = torch.tanh(h @ read.affinity.weight @ v.T)  # (L, N)
        of_picture = [
            read.memory_score.weight[0]
            @ torch.tanh(read.memory(v[n]) + sum(affinity[t, n] * read.query(h[t]) for t in range(len(h))))
            for n in range(len(v))
        ]
        of_words = [
            read.query_score.weight[0]
            @ torch.tanh(read.query(h[t]) + sum(affinity[t, n] * read.memory(v[n]) for n in range(len(v))))
            for t in range(len(h))
        ]
        return weighed(of_words, h) + weighed(of_picture, v)

    def hierarchical(model, v, h, q):
        v = torch.tanh(model.sight(v))
        padded = torch.cat((h, torch.zeros(2, WORDS, dtype=torch.float64)))
        phrases = []
        for t in range(len(h)):
            grams = [
                torch.tanh(sum(gram.weight[:, :, at] @ padded[t + at] for at in range(size)) + gram.bias)
                for size, gram in enumerate(model.phrases.grams, 1)
            ]
            phrases.append(torch.stack(grams).max(0).values)
        phrases = torch.stack(phrases)
        sentence = model.sentence.layers[0][0](phrases[None])[0][0]
        joint = torch.zeros(0, dtype=torch.float64)
        for level, read, output in zip((h, phrases, sentence), model.levels, model.outputs, strict=True):
            joint = torch.tanh(output(torch.cat((co_attention(read, level, v), joint))))
        return joint

    one_at_a_time("hierarchical_co_attention", hierarchical)


def test_one_memory_guides_the_look_at_the_picture_and_the_reading_of_words() -> None:
    def attend(read, memory: Tensor, tokens: Tensor) -> Tensor:
        asking = torch.tanh(read.query(memory))
        return weighed([read.score[0] @ (asking * torch.tanh(read.memory(token))) for token in tokens], tokens)

    def dual(model, v, h, q):
        memory = torch.tanh(model.project[0](v.sum(0) / len(v))) * h.sum(0) / len(h)
        for project, look, listen in zip(model.project[1:], model.look, model.listen, strict=True):
            memory = memory + torch.tanh(project(attend(look, memory, v))) * attend(listen, memory, h)
        return memory

    one_at_a_time("dual_attention", dual, steps=3)


def test_stacked_attention_adds_what_it_saw_to_the_question_hop_after_hop() -> None:
    def stacked(model, v, h, q):
        tokens = torch.tanh(model.project(v))
        for score in model.read.scores:
            q = q + weighed([additive(score, q, token) for token in tokens], tokens)
        return q

    one_at_a_time("stacked_attention", stacked, hops=3)


def test_show_ask_attend_answer_takes_glimpses_of_normalised_cells() -> None:
    def glimpses(model, v, h, q):
        v = torch.stack([length_one(token) for token in v])
        hidden = [torch.relu(model.read.memory(token) + model.read.query(q)) for token in v]
        seen = [weighed([model.read.score(x)[g] for x in hidden], v) for g in range(2)]
        return torch.cat((*seen, q))

    one_at_a_time("show_ask_attend_answer", glimpses)
    classifier = core("show_ask_attend_answer").classifier(5)
    assert [layer.out_features for layer in classifier if isinstance(layer, nn.Linear)] == [17, 5]


def test_top_down_multiplies_gated_layers_of_the_question_and_of_what_it_attended_to() -> None:
    def gated(layer, x: Tensor) -> Tensor:
        return torch.tanh(layer.content(x)) * torch.sigmoid(layer.gate(x))

    def top_down(model, v, h, q):
        v = torch.stack([length_one(token) for token in v])
        scores = []
        for token in v:
            content, gate = (model.read.query(q) + model.read.memory(token)).chunk(2)
            scores.append(model.read.vector(torch.tanh(content) * torch.sigmoid(gate))[0])
        return gated(model.words, q) * gated(model.sight, weighed(scores, v))

    one_at_a_time("top_down", top_down)


def test_the_product_form_of_top_down_normalises_its_weights() -> None:
    def linear(layer, x: Tensor) -> Tensor:
        y = layer.norm * (layer.weight / layer.weight.square().sum().sqrt()) @ x
        return y if layer.bias is None else y + layer.bias

    def top_down(model, v, h, q):
        read = model.read
        asking = torch.relu(linear(read.query, q))
        scores = [linear(read.score, asking * torch.relu(linear(read.memory, token)))[0] for token in v]
        return torch.relu(linear(model.words, q)) * torch.relu(linear(model.sight, weighed(scores, v)))

    model = core("top_down_product")
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, WeightNormLinear):
                layer.norm.mul_(1.7)  # a norm that the weights do not have
    one_at_a_time(model, top_down)


def test_weight_normalisation_is_pytorchs_with_one_norm_for_the_matrix() -> None:
    ours = WeightNormLinear(5, 3)
    reference = nn.utils.parametrizations.weight_norm(nn.Linear(5, 3), dim=None)
    with torch.no_grad():
        ours.norm.mul_(2.3)
        reference.parametrizations.weight.original0.copy_(ours.norm)
        reference.parametrizations.weight.original1.copy_(ours.weight)
        reference.bias.copy_(ours.bias)
    x = torch.randn(7, 5)
    torch.testing.assert_close(ours(x), reference(x))


def test_words_are_weighed_by_themselves_a_glimpse_each() -> None:
    question = QuestionAttention(WORDS, 11, glimpses=3).double()
    asked = words()
    given = question(asked)
    first, _, _, second = question.read.score
    for b in range(2):
        for q in range(3):
            said = asked.tokens[b, q][asked.mask[b, q]]
            scores = [second(torch.relu(first(word))) for word in said]
            expected = torch.cat([weighed([score[g] for score in scores], said) for g in range(3)])
            torch.testing.assert_close(given[b, q], expected)
    assert isinstance(question.read, SelfAttentiveRead)


def test_the_low_rank_model_multiplies_what_tanh_leaves() -> None:
    def low_rank(model, v, h, q):
        read, fuse = model.read, model.fuse
        hidden = [torch.tanh(read.query(q)) * torch.tanh(read.memory(token)) for token in v]
        seen = torch.cat([weighed([read.score[g] @ x for x in hidden], v) for g in range(2)])
        return torch.tanh(fuse.words(q)) * torch.tanh(fuse.sight(seen))

    one_at_a_time("mlb", low_rank)

    def per_glimpse(model, v, h, q):
        read, fuse = model.read, model.fuse
        hidden = [torch.tanh(read.query(q)) * torch.tanh(read.memory(token)) for token in v]
        parts = [
            layer.weight @ weighed([read.score[g] @ x for x in hidden], v) + layer.bias
            for g, layer in enumerate(fuse.sight.layers)
        ]
        asked = torch.tanh(fuse.words(q)).split(11)  # the question's own layer for each glimpse, too
        return torch.cat([words * torch.tanh(part) for words, part in zip(asked, parts, strict=True)])

    one_at_a_time("mlb", per_glimpse, glimpses=3, linear_per_glimpse=True)
    assert core("mlb", glimpses=3, linear_per_glimpse=True).classifier(5).in_features == 33


def test_mutan_is_tuckers_decomposition_whose_core_has_slices_of_a_rank() -> None:
    def mutan(model, v, h, q):
        read, fuse = model.read, model.fuse
        K, R = 11, 3
        scores = []
        for token in v:
            asking, asked = (
                factor(torch.tanh(x)).reshape(R, K)
                for factor, x in ((read.query_core, read.query(q)), (read.memory_core, read.memory(token)))
            )
            scores.append(read.score @ (asking * asked).sum(0))
        seen = torch.cat([weighed([score[g] for score in scores], v) for g in range(2)])
        a, b = torch.tanh(fuse.words(q)), torch.tanh(fuse.sight(seen))
        # The core written out: T[i, j, k] = Σ_r M[r, k, i] N[r, k, j].
        M, N = fuse.words_core.weight.reshape(R, K, K), fuse.sight_core.weight.reshape(R, K, K)
        core_tensor = torch.einsum("rki,rkj->ijk", M, N)
        assert not fuse.words_core.bias.any()
        return torch.einsum("i,j,ijk->k", a, b, core_tensor)

    model = core("mutan")
    nn.init.zeros_(model.fuse.words_core.bias)
    nn.init.zeros_(model.fuse.sight_core.bias)
    one_at_a_time(model, mutan)
    assert isinstance(core("mutan", joint_width=12, linear_per_glimpse=True).fuse.sight, GlimpseLinear)
    with pytest.raises(UserError, match="3 glimpses cannot share a width of 11"):
        core("mutan", glimpses=3, linear_per_glimpse=True)


def test_tucker_has_the_whole_core() -> None:
    def tucker(model, v, h, q):
        read, fuse = model.read, model.fuse
        asking = torch.tanh(read.query(q))
        scores = [[asking @ matrix @ torch.tanh(read.memory(token)) for token in v] for matrix in read.core]
        seen = torch.cat([weighed(score, v) for score in scores])
        a, b = torch.tanh(fuse.words(q)), torch.tanh(fuse.sight(seen))
        return torch.stack([a @ matrix @ b for matrix in fuse.core])

    one_at_a_time("tucker", tucker)


def test_compact_bilinear_pooling_is_the_sketch_of_the_outer_product() -> None:
    def sketch(q, m, parts) -> Tensor:
        z = torch.zeros(23, dtype=torch.float64)
        for i, x in enumerate(q):
            for j, y in enumerate(m):
                query_bins, query_signs, memory_bins, memory_signs = parts
                z[(query_bins[i] + memory_bins[j]) % 23] += query_signs[i] * memory_signs[j] * x * y
        return rooted(z)

    def compact(model, v, h, q):
        read, fuse = model.read, model.fuse
        v = torch.stack([length_one(token) for token in v])
        parts = (read.query_bins, read.query_signs, read.memory_bins, read.memory_signs)
        seen = weighed([read.score(sketch(q, token, parts))[0] for token in v], v)
        return sketch(q, seen, (fuse.query_bins, fuse.query_signs, fuse.sight_bins, fuse.sight_signs))

    with torch.no_grad():
        one_at_a_time("mcb", compact)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(("name", "order"), [("mfb", 1), ("mfh", 2)])
def test_factorized_pooling_sums_factors_and_chains_blocks(name: str, order: int, together: bool) -> None:
    def factorized(model, v, h, q):
        first, _, _, second = model.question.read.score
        scores = [second(torch.relu(first(word))) for word in h]
        asked = torch.cat([weighed([score[g] for score in scores], h) for g in range(2)])
        ask, see = model.read.query, model.read.memory
        assert (ask.bias is not None) == together
        sums = [(ask(asked) * see(token)).reshape(3, 11).sum(0) for token in v]
        pooled = rooted(torch.cat(sums)).split(11) if together else [rooted(x) for x in sums]
        scores = [model.read.score(x) for x in pooled]
        seen = torch.cat([weighed([score[g] for score in scores], v) for g in range(2)])
        parts, before = [], torch.ones(33, dtype=torch.float64)
        for of_words, of_sight in zip(model.fuse.words, model.fuse.sight, strict=True):
            before = of_words(asked) * of_sight(seen) * before
            parts.append(rooted(before.reshape(3, 11).sum(0)))
        assert len(parts) == order
        return torch.cat(parts)

    one_at_a_time(name, factorized, **({"bias": True, "variant": "code"} if together else {}))


def test_block_fusion_has_a_core_of_blocks_on_its_superdiagonal() -> None:
    fuse = core("block").fuse
    q, v = torch.randn(1, 1, 12, dtype=torch.float64), torch.randn(1, 1, 14, dtype=torch.float64)
    for layer in (fuse.words_core, fuse.sight_core):
        nn.init.zeros_(layer.bias)
    a, b = fuse.words(q)[0, 0], fuse.sight(v)[0, 0]  # 15 each: five parts of three
    whole = torch.zeros(15, 15, 15, dtype=torch.float64)
    for p in range(5):
        for r in range(2):
            M, N = fuse.words_core.weight[p, r], fuse.sight_core.weight[p, r]
            for o in range(3):
                for i in range(3):
                    for j in range(3):
                        whole[3 * p + i, 3 * p + j, 3 * p + o] += M[o, i] * N[o, j]
    z = torch.einsum("i,j,ijk->k", a, b, whole).detach()
    expected = torch.cat([rooted(part) for part in z.reshape(5, 3)])
    torch.testing.assert_close(fuse(q, v)[0, 0].detach(), expected)


def test_block_looks_at_every_token_by_a_network_over_its_fusion_with_the_question() -> None:
    def superdiagonal(fuse, q: Tensor, v: Tensor) -> Tensor:
        parts = []
        for p, (a, b) in enumerate(zip(fuse.words(q).split(3), fuse.sight(v).split(3), strict=True)):
            total = torch.zeros(3, dtype=torch.float64)
            for r in range(2):
                one, other = (
                    core.weight[p, r] @ x + core.bias[r, 3 * p : 3 * p + 3]
                    for core, x in ((fuse.words_core, a), (fuse.sight_core, b))
                )
                total = total + one * other
            parts.append(rooted(total))
        return torch.cat(parts)

    def block(model, v, h, q):
        first, _, _, second = model.question.read.score
        scores = [second(torch.relu(first(word))) for word in h]
        asked = torch.cat([weighed([score[g] for score in scores], h) for g in range(2)])
        hidden, _, glimpse = model.read.score
        assert (model.read.output.out_features, hidden.out_features) == (13, 11)
        scores = [
            glimpse.weight @ torch.relu(hidden(model.read.output(superdiagonal(model.read.fuse, asked, token))))
            for token in v
        ]
        seen = torch.cat([weighed([score[g] for score in scores], v) for g in range(2)])
        return superdiagonal(model.fuse, asked, seen)

    one_at_a_time("block", block)
    for unequal in ({"blocks": 4}, {"blocks": 0}):
        with pytest.raises(ValueError, match="blocks"):
            core("block", **unequal)


def test_bilinear_attention_adds_what_all_pairs_give_glimpse_after_glimpse() -> None:
    def ban(model, v, h, q):
        read = model.read
        maps = []
        for g in range(3):
            scores = [
                read.score[g] @ (torch.relu(read.score_query(word)) * torch.relu(read.score_memory(token)))
                for word in h
                for token in v
            ]
            maps.append(softmax(scores))
        for g, weights in enumerate(maps):
            value = read.values.weight[g * 11 : (g + 1) * 11]
            joint = sum(
                a * torch.relu(read.queries[g](word)) * torch.relu(value @ token)
                for a, (word, token) in zip(weights, [(word, token) for word in h for token in v], strict=True)
            )
            h = h + read.outputs[g](joint)
        return h.sum(0)

    one_at_a_time("ban", ban)


def heads_of(layer, dropout: float = 0.0) -> nn.MultiheadAttention:
    """PyTorch's own multi-head attention with these weights."""
    width, kind = layer.query.in_features, layer.query.weight.dtype
    reference = nn.MultiheadAttention(width, layer.heads, dropout, batch_first=True, dtype=kind)
    parts = (layer.query, layer.key, layer.value)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        reference.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        reference.out_proj.weight.copy_(layer.output.weight)
        reference.out_proj.bias.copy_(layer.output.bias)
    return reference


def fill(layer, unit, attentions, norms) -> None:
    """PyTorch's layer, with the parameters of one of MCAN's units."""
    dropout = layer.dropout.p
    layer.self_attn = heads_of(attentions[0], dropout)
    if len(attentions) == 2:
        layer.multihead_attn = heads_of(attentions[1], dropout)
    layer.linear1, _, layer.linear2 = unit.feed_forward
    for number, norm in enumerate(norms, 1):
        setattr(layer, f"norm{number}", norm)


def test_modular_co_attention_is_an_encoder_and_a_decoder_of_pytorchs_post_norm_layers() -> None:
    def flat(read, tokens: Tensor) -> Tensor:
        first, _, _, second = read.score
        return weighed([second(torch.relu(first(token)))[0] for token in tokens], tokens)

    def mcan(model, v, h, q):
        arguments = {"d_model": 10, "nhead": 2, "dim_feedforward": 40, "dropout": 0.0, "batch_first": True}
        said, seen = model.words(h)[None], model.sight(v)[None]
        for unit in model.encoder:
            layer = nn.TransformerEncoderLayer(**arguments, dtype=torch.float64).train()
            fill(layer, unit, [unit.among], unit.norms)
            said = layer(said)
        for unit in model.decoder:
            layer = nn.TransformerDecoderLayer(**arguments, dtype=torch.float64).train()
            fill(layer, unit, [unit.among, unit.guide], unit.norms)
            seen = layer(seen, said)
        joint = model.words_output(flat(model.flatten_words, said[0]))
        return model.norm(joint + model.sight_output(flat(model.flatten_sight, seen[0])))

    with torch.no_grad():
        one_at_a_time("mcan", mcan)


def test_modular_co_attention_drops_what_pytorchs_post_norm_layers_do() -> None:
    model = small_core("mcan", dropout=0.5).train()
    said, seen = torch.randn(1, 4, 10), torch.randn(1, 6, 10)  # PyTorch has larger batches in another order
    arguments = {"d_model": 10, "nhead": 2, "dim_feedforward": 40, "dropout": 0.5, "batch_first": True}
    everything = torch.ones(1, 4, dtype=torch.bool)
    encoder, decoder = nn.TransformerEncoderLayer(**arguments), nn.TransformerDecoderLayer(**arguments)
    pairs = [
        (encoder, model.encoder[1], (said,), (said, everything)),
        (decoder, model.decoder[1], (seen, said), (seen, said)),
    ]
    for layer, unit, theirs, ours in pairs:
        fill(layer, unit, [unit.among] + ([unit.guide] if len(theirs) == 2 else []), unit.norms)
        found = []
        for one, given in ((layer, theirs), (unit, ours)):
            torch.manual_seed(1)
            found.append(one(*given))
        torch.testing.assert_close(*found)


@pytest.mark.parametrize("unary_widths", [(), (7,), (7, 13)])
@pytest.mark.parametrize("normalized", [False, True])
def test_the_relation_network_split_by_parts_is_the_plain_one_over_all_pairs(
    unary_widths: tuple[int, ...], normalized: bool
) -> None:
    def plain(model, v, h, q):
        first = torch.cat((model.first.weight, model.second.weight, model.question.weight), 1)
        objects = list(torch.cat((v, coordinates()), 1))
        if unary_widths:
            single = torch.cat((model.unary.token.weight, model.unary.question.weight), 1)
            objects = [torch.relu(single @ torch.cat((one, q)) + model.unary.question.bias) for one in objects]
            objects = [model.unary.rest(one) for one in objects]
        total = torch.zeros(19, dtype=torch.float64)
        for one in objects:
            for other in objects:
                total = total + model.g(torch.relu(first @ torch.cat((one, other, q)) + model.question.bias))
        return model.f(total / math.sqrt(len(objects) ** 2) if normalized else total)

    one_at_a_time("relation_network", plain, unary_widths=unary_widths, normalized=normalized)


def test_a_relation_network_counts_the_pairs_that_are_there() -> None:
    model = core("relation_network", normalized=True, coordinates=False)
    seen, asked = sight().tokens, words()
    found = model(Sight(seen, torch.tensor([[1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]]).bool()), asked)
    torch.testing.assert_close(found[0], model(Sight(seen[:, :4]), asked)[0])
    torch.testing.assert_close(found[1], model.f(torch.zeros(3, 19, dtype=torch.float64)))


def test_a_relation_network_that_starts_as_he_s_has_no_biases_and_variances_of_two_by_each_width() -> None:
    model = cores["relation_network"](512, 512, (512, 512), (512,), unary_widths=(512,), initialization="he")
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert len(layers) == 7  # two that hear, three parts of the first layer of g, its second, and that of f
    for layer in layers:
        assert layer.bias is None or not layer.bias.any()
        assert math.isclose(layer.weight.std().item(), math.sqrt(2 / layer.in_features), rel_tol=0.01)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("arguments", [{}, {"unary_widths": (7,), "normalized": True}])
def test_a_relation_network_holds_few_pairs_at_a_time_and_learns_alike(
    masked: bool, arguments: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, asked = sight(), words()
    if masked:
        seen = Sight(seen.tokens, torch.tensor([[1, 0, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]]).bool(), seen.grid)
    model = core("relation_network", **arguments)
    pairs_of_a_question = 6 * 6 * 11  # tokens, tokens, the width of `g` where it is read first
    found, kept = [], []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    for questions in (6, 4, 1):  # of the two pictures with three each; the last part may hold fewer
        monkeypatch.setattr(relation, "_ON_A_CPU", questions * pairs_of_a_question)
        model.zero_grad()
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            joint = model(seen, asked)
        joint.square().sum().backward()
        assert (max(kept) >= pairs_of_a_question) == (questions == 6)
        found.append([joint, *(parameter.grad for parameter in model.parameters())])
        with torch.no_grad():
            torch.testing.assert_close(model(seen, asked), joint)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])
    nobody = Words(asked.tokens[:, :0], asked.mask[:, :0], asked.summary[:, :0])
    assert model(seen, nobody).shape == (2, 0, 23)


def test_film_scales_and_shifts_the_channels_of_residual_blocks() -> None:
    model = core("film")
    with torch.no_grad():
        for module in model.modules():
            if hasattr(module, "running_mean"):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)

    def norm(layer, x: Tensor) -> Tensor:
        mean, deviation = layer.running_mean[:, None, None], (layer.running_var + layer.eps).sqrt()[:, None, None]
        y = (x - mean) / deviation
        return y if layer.weight is None else y * layer.weight[:, None, None] + layer.bias[:, None, None]

    def film(model, v, h, q):
        where = coordinates().T.reshape(2, *GRID)
        x = torch.cat((v.T.reshape(SIGHT, *GRID), where))
        x = torch.relu(norm(model.stem[1], F.conv2d(x, model.stem[0].weight, padding=1)))
        for block in model.blocks:
            x = torch.relu(F.conv2d(torch.cat((x, where)), block.mix.weight, block.mix.bias))
            y = norm(block.norm, F.conv2d(x, block.convolve.weight, padding=1))
            change, shift = block.film.generate(q).chunk(2)
            x = x + torch.relu((1 + change[:, None, None]) * y + shift[:, None, None])
        x = torch.relu(norm(model.head[1], F.conv2d(torch.cat((x, where)), model.head[0].weight)))
        return x.flatten(1).max(1).values

    one_at_a_time(model, film)


@pytest.mark.parametrize("self_attention", [False, True])
@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("stem", ["convolution", "linear"])
def test_a_chain_of_mac_cells_controls_reads_and_writes(self_attention: bool, gate: bool, stem: str) -> None:
    def mac(model, v, h, q):
        if stem == "linear":
            k = F.elu(model.stem[0](v))
        else:
            x = v.T.reshape(SIGHT, *GRID)
            for layer in (model.stem[0], model.stem[2]):
                x = F.elu(F.conv2d(x, layer.weight, layer.bias, padding=1))
            k = x.flatten(1).T
        h, q = model.words(h), model.summary(q)
        read = model.read
        both = torch.cat((read.interaction.weight, read.alone.weight), 1)
        controls, memories = [model.first_control], [model.first_memory]
        for position in model.positions:
            asking = model.ask(torch.cat((controls[-1], position(q))))
            control = weighed([model.control.score.weight[0] @ (asking * word) for word in h], h)
            scores = []
            for cell in k:
                interaction = read.query(memories[-1]) * (read.memory.weight @ cell)
                scores.append(read.score.weight[0] @ (control * (both @ torch.cat((interaction, cell)))))
            memory = model.write(torch.cat((weighed(scores, k), memories[-1])))
            if self_attention:
                memory = model.written(memory)
                if len(memories) > 1:
                    recalled = [model.recall.score.weight[0] @ (control * past) for past in controls[1:]]
                    memory = memory + model.recalled(weighed(recalled, torch.stack(memories[1:])))
            if gate:
                keep = torch.sigmoid(model.gate(control))
                memory = keep * memories[-1] + (1 - keep) * memory
            controls.append(control)
            memories.append(memory)
        return torch.cat((q, memories[-1]))

    one_at_a_time("mac", mac, self_attention=self_attention, gate=gate, stem=stem)


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("name", ["entity_stream", "hard_entity_stream"])
def test_an_entity_stream_asks_for_one_entity_after_the_other(name: str, learned: bool) -> None:
    zeros = partial(torch.zeros, dtype=torch.float64)

    def stream(model, v, h, q):
        tokens = model.sight(v)
        keys, values = torch.cat((tokens[:, :3], coordinates()), 1), torch.cat((tokens[:, 3:], coordinates()), 1)
        keys = torch.cat((keys, model.read.blank[None]))  # the blank's value is zero
        values = torch.cat((values, zeros(1, 9)))
        heard, read = torch.cat((q, model.rest)), []
        value, thought = (model.first_value, model.first_thought) if learned else (zeros(9), zeros(11))
        for _ in range(3):
            heard = model.listen(value, heard)
            thought = model.think(heard, thought)
            asking = model.ask(torch.relu(thought))
            scores = [asking @ key for key in keys]
            value = values[int(torch.stack(scores).argmax())] if model.read.hard else weighed(scores, values)
            read.append(value)
        state = torch.cat((q, model.rest_to_hear if learned else model.rest))
        last, cells = model.first_conclusion if learned else zeros(11), []
        for layer in (model.hear, model.conclude):
            cell = nn.GRUCell(layer.input_size, layer.hidden_size, dtype=torch.float64)
            cell.load_state_dict({key.removesuffix("_l0"): value for key, value in layer.state_dict().items()})
            cells.append(cell)
        for value in read:
            state = cells[0](value, state)
            last = cells[1](state, last)
        return last

    model = core(name, learned_states=learned)
    nn.init.normal_(model.rest)
    with torch.no_grad():
        one_at_a_time(model, stream)


@pytest.mark.parametrize("name", ["entity_stream", "hard_entity_stream"])
def test_what_an_entity_stream_begins_with_is_learned_from_standard_normal_values(name: str) -> None:
    model = cores[name](8, 5, width=2_000, token_width=2_000, key_width=1_000)
    states = (model.rest, model.rest_to_hear, model.first_value, model.first_thought, model.first_conclusion)
    for state in (*states, model.read.blank):
        assert state.std().item() == pytest.approx(1, rel=0.1)
    plain = cores[name](8, 5, width=2_000, token_width=2_000, key_width=1_000, learned_states=False)
    assert plain.read.blank.std().item() == pytest.approx(1_002**-0.5, rel=0.1)
    assert not plain.rest.any()
    assert {name for name, _ in model.named_parameters()} - {name for name, _ in plain.named_parameters()} == {
        "rest_to_hear", "first_value", "first_thought", "first_conclusion",
    }  # fmt: skip


def test_hard_reading_learns_through_a_choice_that_it_did_not_make() -> None:
    model = small_core("hard_entity_stream").double().train()
    seen, asked = sight(), words()
    model(seen, asked).sum().backward()
    assert model.ask.weight.grad.abs().max() > 0
    assert model.read.blank.grad.abs().max() > 0
    draws = torch.stack([model(seen, asked)[0, 0] for _ in range(9)])
    assert len(draws.unique(dim=0)) > 1


@pytest.mark.parametrize("name", ["entity_stream", "hard_entity_stream"])
def test_an_entity_stream_begins_with_larger_questions(name: str) -> None:
    states = []
    for sharpness in (1.0, 3.0):
        torch.manual_seed(1)
        states.append(cores[name](12, 5, width=7, sharpness=sharpness).state_dict())
    plain, sharp = states
    for part, value in plain.items():
        torch.testing.assert_close(sharp[part], 3 * value if part in ("ask.weight", "ask.bias") else value)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_a_distinct_reading_reads_no_entity_twice_and_what_is_missing_never(training: bool, masked: bool) -> None:
    torch.manual_seed(1)
    B, N, steps = 7, 5, 7
    there = torch.arange(N) < torch.tensor([5, 4, 3, 2, 1, 0, 5] if masked else [N])[:, None].expand(B, -1)
    model = cores["hard_entity_stream"](12, 5, steps=steps, sharpness=20.0, distinct=True).train(training)
    nn.init.constant_(model.read.blank, -20.0)  # with the keys there are, it never fits best before all are read
    nn.init.constant_(model.ask.bias, 20.0)
    seen = Sight(torch.randn(B, N, 12), there if masked else None, boxes=torch.rand(B, N, 4))
    with watch(model) as seeing, torch.no_grad():
        model(seen, Words(torch.randn(B, 2, 3, 5), torch.ones(B, 2, 3, dtype=torch.bool), torch.randn(B, 2, 5)))
    reads = torch.stack([one.values for one in seeing.maps if one.label == "choice"])  # (steps, B, Q, N)
    assert len(reads) == steps
    torch.testing.assert_close(reads.sum(0), there[:, None].expand(-1, 2, -1).float())


def test_cross_attention_begins_with_larger_queries_and_keys() -> None:
    states = []
    for sharpness in (1.0, 3.0):
        torch.manual_seed(1)
        states.append(cores["cross_attention"](12, 12, width=12, heads=3, sharpness=sharpness).state_dict())
    plain, sharp = states
    for name, value in plain.items():
        scaled = name.endswith(("read.query.weight", "read.key.weight"))
        torch.testing.assert_close(sharp[name], 3 * value if scaled else value)
    assert sum(name.endswith("read.key.weight") for name in plain) == 4


def test_cross_attention_is_a_pre_norm_transformer_whose_questions_do_not_see_each_other() -> None:
    def transformer(model, v, h, q):
        tokens, q = model.sight(v), model.words(q)
        for unit in model.mixing:
            heads = nn.MultiheadAttention(12, 3, batch_first=True, dtype=torch.float64)
            heads.in_proj_weight, heads.in_proj_bias = unit.attention.project.weight, unit.attention.project.bias
            heads.out_proj = unit.attention.output
            normed = layer_norm(unit.norm, tokens)
            tokens = tokens + heads(normed, normed, normed)[0]
            tokens = tokens + unit.mlp(tokens)
        for unit in model.read.blocks:
            asked, memory = layer_norm(unit.query_norm, q)[None], layer_norm(unit.memory_norm, tokens)
            q = thought(unit, q, heads_of(unit.read)(asked, memory, memory)[0][0])
        return layer_norm(model.read.norm, q)

    for mixing in (0, 2):
        model = scaled(core("cross_attention", mixing=mixing))
        assert len(model.mixing) == mixing
        with torch.no_grad():
            one_at_a_time(model, transformer)


def test_what_has_the_width_already_is_not_brought_to_it() -> None:
    model = cores["cross_attention"](12, 12, width=12, heads=3)
    assert not list(model.sight.parameters())
    assert not list(model.words.parameters())


@pytest.mark.parametrize("name", ["perceiver", "query_former"])
def test_latents_read_the_picture_and_the_question_reads_the_latents(name: str) -> None:
    def latents(model, v, h, q):
        q = model.words(q)
        memory = model.resample(model.sight(v)[None])
        assert memory.shape == (1, 5, 12)
        for unit in model.read.blocks:
            asked = layer_norm(unit.query_norm, q)[None]
            normed = layer_norm(unit.memory_norm, memory[0])
            q = thought(unit, q, heads_of(unit.read)(asked, normed, normed)[0][0])
        return layer_norm(model.read.norm, q)

    with torch.no_grad():
        one_at_a_time(name, latents)


@pytest.mark.parametrize("mask_shape", [None, "BN", "BTN"])
def test_the_mean_read_against_loops(mask_shape: str | None) -> None:
    B, T, N, D = 3, 4, 7, 5
    read = MeanRead(6, D).double()
    query, memory = torch.randn(B, T, 6).double(), torch.randn(B, N, D).double()
    mask = None
    if mask_shape is not None:
        mask = torch.rand((B, N) if mask_shape == "BN" else (B, T, N)) < 0.5
        mask[0] = False  # nothing to read
        mask[1] = True
    given = read(query, memory, mask)
    assert given.shape == (B, T, D)
    assert read.context_width == D
    for b in range(B):
        for t in range(T):
            total, count = torch.zeros(D).double(), 0
            for n in range(N):
                if mask is None or (mask[b, n] if mask_shape == "BN" else mask[b, t, n]):
                    total, count = total + memory[b, n], count + 1
            torch.testing.assert_close(given[b, t], total / max(count, 1))


def masked_reads() -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """From query, memory and mask `(B, N)` or `(B, T, N)` to what is read."""
    control, knowledge, entity = ControlRead(5), KnowledgeRead(5), EntityRead(5)
    return {
        "mean": MeanRead(5, 5),
        "product": ProductRead(5, 5, 11, 0.0),
        "entity": lambda query, memory, mask: entity(
            query, memory, memory.flip(2), mask if mask.ndim == 3 else mask[:, None]
        )[0],
        "control": control,
        "control by keys": lambda query, memory, mask: control(query, memory, mask, memory.flip(2)),
        "knowledge": lambda query, memory, mask: knowledge(query, memory, query, knowledge.prepare(memory), mask),
    }


@pytest.mark.parametrize("name", masked_reads())
@pytest.mark.parametrize("junk", [torch.nan, torch.inf])
@pytest.mark.parametrize("per_query", [False, True], ids=["mask for all", "mask per query"])
def test_what_a_read_of_a_core_may_not_see_may_hold_anything(name: str, junk: float, per_query: bool) -> None:
    """Of ordinary numbers in its place outputs and gradients are the same."""
    if per_query and name.split()[0] in ("control", "knowledge"):
        return  # they take one mask for all
    read = masked_reads()[name]
    query, memory = torch.randn(2, 3, 5), torch.randn(2, 7, 5)
    mask = torch.ones(2, 1, 7, dtype=torch.bool) if not per_query else torch.ones(2, 3, 7, dtype=torch.bool)
    mask[:, :2, 4] = False  # with a row a query, the last one reads it
    outcomes = []
    for held in (1.0, junk):
        leaves = [query.clone().requires_grad_(), memory.clone().requires_grad_()]
        tokens = leaves[1] * torch.ones(7, 1)
        tokens[:, 4, 1] = held
        given = read(leaves[0], tokens, mask if per_query else mask[:, 0])
        clean = given[:, : 2 if per_query else 3]
        outcomes.append((clean, given[:, 2:], torch.autograd.grad(clean.square().sum(), leaves, allow_unused=True)))
    (expected, _, slopes), (found, last, gradients) = outcomes
    assert torch.equal(found, expected)
    assert last.isnan().all() == per_query
    for slope, gradient in zip(slopes, gradients, strict=True):
        assert (slope is None) == (gradient is None)
        if slope is not None:
            torch.testing.assert_close(gradient, slope)


def test_the_mean_read_ignores_the_query_and_has_no_parameters() -> None:
    read = MeanRead(6, 5)
    memory = torch.randn(2, 7, 5)
    assert torch.equal(read(torch.randn(2, 3, 6), memory), read(torch.randn(2, 3, 6), memory))
    assert list(read.parameters()) == []
    wide = torch.full((2, 7), 3.0e3, dtype=torch.bfloat16)[..., None].expand(-1, -1, 5)
    assert read(torch.randn(2, 3, 6).bfloat16(), wide, torch.ones(2, 7, dtype=torch.bool)).dtype == torch.bfloat16


@pytest.mark.usefixtures("unchecked_shapes")
def test_the_mean_read_refuses_wrong_shapes() -> None:
    with pytest.raises(ShapeError, match="query"):
        MeanRead(6, 5)(torch.randn(2, 3, 5), torch.randn(2, 7, 5))
    with pytest.raises(ShapeError, match="memory"):
        MeanRead(6, 5)(torch.randn(2, 3, 6), torch.randn(2, 7, 6))
    with pytest.raises(ShapeError, match="mask"):
        MeanRead(6, 5)(torch.randn(2, 3, 6), torch.randn(2, 7, 5), torch.ones(2, 6, dtype=torch.bool))


VOCABULARY, DIRECTIONS = 13, (7, 8)


def found_then_moved(
    read, q: Tensor, memory: Tensor, stays: list[Tensor], grid: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Both hops' weights for one question whose words say so much each that it stays with what it found."""
    cells = [(row, column) for row in range(grid[0]) for column in range(grid[1])]
    salience = [read.salience(m)[0] for m in memory]
    scores = [additive(read.find, q, m) for m in memory]
    found = torch.stack([e + z for e, z in zip(scores, salience, strict=True)]).softmax(0)
    side = 2 * REACH + 1
    offsets = (read.offset.weight @ q + read.offset.bias).exp()
    offsets[side * REACH + REACH] = 0  # moving nowhere is no move
    offsets = offsets / offsets.sum()
    logits = []
    for index, (row, column) in enumerate(cells):
        total = torch.zeros((), dtype=torch.float64)
        for down in range(-REACH, REACH + 1):
            for right in range(-REACH, REACH + 1):
                block = row // BLOCK + down, column // BLOCK + right
                inside = [found[i] for i, (r, c) in enumerate(cells) if (r // BLOCK, c // BLOCK) == block]
                if inside:
                    mean = torch.stack(inside).sum() / len(inside)
                    total = total + offsets[side * (down + REACH) + right + REACH] * mean
        logits.append((total + 1e-6).log() + salience[index])
    moved = torch.stack(logits).softmax(0)
    stay = 1 / (1 + sum(torch.exp(-one) for one in stays))
    return found, stay * found + (1 - stay) * moved


@pytest.mark.parametrize("by_word", [True, False])
@pytest.mark.parametrize("grid", [(5, 7), (2, 3), (1, 1), (11, 3)])
def test_find_then_move_against_loops(grid: tuple[int, int], by_word: bool) -> None:
    B, T, D, L = 2, 3, 5, 4
    read = FindThenMoveRead(6, D, 7, WORDS, VOCABULARY if by_word else None, DIRECTIONS if by_word else ()).double()
    with torch.no_grad():
        for parameter in read.parameters():
            parameter.copy_(torch.randn_like(parameter))
    query, memory = torch.randn(B, T, 6).double(), torch.randn(B, grid[0] * grid[1], D).double()
    numbers = torch.randint(1, VOCABULARY, (B, T, L))
    numbers[:, :, 3] = 0
    asked = Words(torch.randn(B, T, L, WORDS).double(), numbers != 0, query, numbers)
    with watch(read) as watching, offering.over_grid(grid):
        given = read(query, memory, grid, asked)
    (map_,) = watching.maps
    for b in range(B):
        for t in range(T):
            if by_word:
                stays = [read.stay.weight[number, 0] for number in numbers[b, t, :3]]
            else:
                stays = [read.stay.weight[0] @ vector + read.stay.bias[0] for vector in asked.tokens[b, t, :3]]
            found, weights = found_then_moved(read, query[b, t], memory[b], stays, grid)
            torch.testing.assert_close(map_.values[b, 0, t].flatten(), found)
            torch.testing.assert_close(map_.values[b, 1, t].flatten(), weights)
            torch.testing.assert_close(given[b, t], weights @ memory[b])


def test_find_then_move_stands_in_the_block_of_a_reader() -> None:
    def block(model, v, h, q):
        (unit,) = model.read.blocks
        asked, memory = layer_norm(unit.query_norm, q), layer_norm(unit.memory_norm, v)
        stays = [unit.read.stay(word)[0] for word in h]
        weights = found_then_moved(unit.read, asked, memory, stays, GRID)[1]
        return layer_norm(model.read.norm, thought(unit, q, weights @ memory))

    model = scaled(core("find_then_move"))
    nn.init.normal_(model.read.blocks[0].read.offset.weight)
    one_at_a_time(model, block)


def test_words_of_direction_ask_to_move_from_the_start() -> None:
    read = FindThenMoveRead(8, 8, 4, WORDS, VOCABULARY, DIRECTIONS)
    numbers = torch.tensor([[[1, 2, 3, 0], [1, 7, 3, 0], [8, 0, 0, 0], [4, 0, 0, 0]]])
    asked = Words(torch.zeros(1, 4, 4, WORDS), numbers != 0, torch.zeros(1, 4, WORDS), numbers)
    stays = read.enough(asked)[0, :, 0].tolist()
    assert stays[1] < 0.15 < 0.6 < stays[0]
    assert stays[2] == pytest.approx(1 - stays[3])
    with pytest.raises(UserError, match="build it without words="):
        read.enough(Words(asked.tokens, asked.mask, asked.summary))
    certain = FindThenMoveRead(8, 8, 4, WORDS).enough(asked)[0, :, 0].tolist()
    assert certain[2] == pytest.approx(stays[3])  # with no word's vector yet, each asks to stay


def test_parameters_at_the_papers_sizes_are_as_many_as_the_layers_have() -> None:
    def linear(width: int, out: int) -> int:
        return width * out + out

    D, H = 512, 2048
    heads, feed_forward, norm = 4 * linear(D, D), linear(D, H) + linear(H, D), 2 * D
    mcan = (
        linear(2048, D)
        + 6 * (heads + feed_forward + 2 * norm)
        + 6 * (2 * heads + feed_forward + 3 * norm)
        + 2 * (linear(D, D) + D + linear(D, 1024))
        + 2 * 1024
    )
    ban = 8 * 1280 + 1280 * (1280 + 2048) + 8 * (1280 * 1280 * 2 + 2048 * 1280)
    top_down = linear(2048 + 512, 1024) + 512 + 2 * linear(2048, 512) + 2 * linear(512, 512)
    product = 2 * (linear(2048, 1024) + 1) + 2 * (linear(1024, 1024) + 1) + 1024 + 1
    mlb = 1200 * (2400 + 2048 + 2) + linear(2400, 1200) + linear(4096, 1200)
    relation = linear(2 * (24 + 2) + 128, 256) + 3 * linear(256, 256) + 2 * linear(256, 256)
    show_ask = linear(2048 + 1024, 512) + 512 * 2
    expected = {
        "mcan": (2048, 512, mcan),
        "ban": (2048, 1280, ban),
        "top_down": (2048, 512, top_down),
        "top_down_product": (2048, 1024, product),
        "mlb": (2048, 2400, mlb),
        "relation_network": (24, 128, relation),
        "show_ask_attend_answer": (2048, 1024, show_ask),
    }
    for name, (sight_width, words_width, count) in expected.items():
        with torch.device("meta"):
            model = cores[name](sight_width, words_width)
        assert sum(parameter.numel() for parameter in model.parameters()) == count, name


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("relation_network", {"g_widths": ()}, "give each a layer"),
        ("relation_network", {"initialization": "glorot"}, "'torch' or 'he'"),
        ("mac", {"steps": 0}, "at least one cell"),
        ("dual_attention", {"steps": 0}, "at least once"),
        ("mac", {"stem": "dense"}, "'convolution' or 'linear'"),
        ("entity_stream", {"key_width": 24, "token_width": 24}, "give both some"),
        ("hard_entity_stream", {"temperature": 0.0}, "expected a number above 0"),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_sizes_that_make_no_network_are_refused(name: str, arguments: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        cores[name](SIGHT, WORDS, **arguments)


def test_a_grid_of_one_row_has_its_cells_in_the_middle_of_it() -> None:
    seen = Sight(torch.zeros(1, 3, 2), grid=(1, 3)).coordinates()
    torch.testing.assert_close(seen[0], torch.tensor([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]))
    boxes = torch.tensor([[[0.0, 0.5, 0.5, 1.0]]])
    torch.testing.assert_close(Sight(torch.zeros(1, 1, 2), boxes=boxes).coordinates(), torch.tensor([[[-0.5, 0.5]]]))
    assert math.isclose(Sight(torch.ones(1, 2, 2)).mean().sum().item(), 2.0)
