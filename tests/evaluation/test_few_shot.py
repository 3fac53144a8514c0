import re
import statistics
from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from mcti_core.classifiers.clip import ClipClassifier
from mcti_core.classifiers.hybrid import HybridClassifier
from mcti_core.cli.options import check_new_tokens
from mcti_core.data.dataset import few_shot_split
from mcti_core.data.feature_cache import FeatureCache
from mcti_core.errors import ConfigError, ExamplesError, TokenError
from mcti_core.evaluation import recipes
from mcti_core.evaluation.baselines import BASELINES as BY_FEATURES
from mcti_core.evaluation.few_shot import Row, evaluate, markdown_table
from mcti_core.training.initial import new_tokens
from mcti_core.training.loop import TrainConfig, train

from ..fake_processes import together

BASE = TrainConfig(steps=2, batch_size=3, lr=0.01, templates=("a photo of a {}",))
BASELINES = ["class mean", "3 nearest neighbours", "logistic probe", "Tip-Adapter's cache"]


@pytest.fixture
def pool():
    """Three classes of six examples with two views each; features crowd around their class."""
    generator = torch.Generator().manual_seed(0)
    labels, centres = torch.arange(3).repeat(6), torch.randn(3, 1, 16, generator=generator)
    features = F.normalize(centres[labels] + torch.randn(18, 2, 16, generator=generator), dim=-1)
    return FeatureCache(("x", "y", "z"), labels, torch.randn(18, 2, 4, 8, 8, generator=generator), features, "pool")


def test_every_method_has_a_row_for_every_split(tiny_host, pool):
    seen = []
    rows = evaluate(tiny_host, pool, [1, 2], [0, 7], BASE, on_row=seen.append)
    methods = [*BASELINES, "TI", "MC-TI", "MC-TI hybrid"]
    assert [(row.shots, row.seed, row.method) for row in rows] == list(product((1, 2), (0, 7), methods))
    assert seen == rows
    assert all(row.queries == 18 - 3 * row.shots for row in rows)
    assert all(0 <= row.accuracy <= 1 and row.seconds >= 0 for row in rows)


def test_all_methods_see_the_same_split(tiny_host, pool, monkeypatch):
    trained, given = [], []
    plain_train, plain_mean = recipes.train, BY_FEATURES["class mean"]

    def watched_train(host, cache, tokens, config, **others):
        trained.append((cache.features, cache.labels, config.seed))
        return plain_train(host, cache, tokens, config, **others)

    def watched_mean(support, query, classes):
        given.append((support, query))
        return plain_mean(support, query, classes)

    monkeypatch.setattr(recipes, "train", watched_train)
    monkeypatch.setitem(BY_FEATURES, "class mean", watched_mean)
    rows = evaluate(tiny_host, pool, [2], [3], BASE)
    few, others = few_shot_split(pool.labels, pool.classes, 2, 3)
    for features, labels, seed in trained:
        assert torch.equal(features, pool.features[few])
        assert torch.equal(labels, pool.labels[few])
        assert seed == 3
    assert len(trained) == 2
    ((support, query),) = given
    assert torch.equal(support.features, pool.features[few, 0])
    assert torch.equal(query, pool.features[others, 0])
    means = torch.stack([F.normalize(support.features[support.labels == c].mean(0), dim=0) for c in range(3)])
    share = ((query @ means.T).argmax(1) == pool.labels[others]).float().mean()
    assert rows[0].accuracy == pytest.approx(float(share))


def test_token_rows_by_hand(tiny_host, pool):
    measured = evaluate(tiny_host, pool, [2], [3], BASE, num_vectors=2, initializer_token="random")
    rows = {row.method: row for row in measured}
    few, others = few_shot_split(pool.labels, pool.classes, 2, 3)
    support, query = pool.pick(few), pool.pick(others)
    start = new_tokens(tiny_host, pool.classes, num_vectors=2, initializer_token="random", seed=3)
    learned = train(tiny_host, support, start, replace(BASE, seed=3)).tokens
    for method, classifier in (("MC-TI", ClipClassifier), ("MC-TI hybrid", HybridClassifier)):
        predicted = classifier(tiny_host, learned).logits(query.features[:, 0]).argmax(1)
        assert rows[method].accuracy == pytest.approx(float((predicted == query.labels).float().mean()))


def test_plain_textual_inversion_has_no_classification_only_steps(tiny_host, pool):
    rows = evaluate(tiny_host, pool, [1], [0], replace(BASE, classification_only_steps=2))
    assert [row.method for row in rows][-3:] == ["TI", "MC-TI", "MC-TI hybrid"]


def test_too_few_images_are_known_before_the_first_training(tiny_host, pool):
    rows = []
    with pytest.raises(ExamplesError, match="'x' has 6 images: too few for 6 shots"):
        evaluate(tiny_host, pool, [1, 6], [0], BASE, on_row=rows.append)
    assert rows == []


def test_features_are_needed(tiny_host, pool):
    with pytest.raises(ConfigError, match="CLIP space"):
        evaluate(tiny_host, replace(pool, features=None), [1], [0], BASE)


def test_table_shows_mean_and_deviation_over_seeds():
    shares = {("A", 1): [0.5, 0.7, 0.9], ("A", 4): [0.8, 0.8, 0.81], ("B", 1): [0.25]}
    each = ((*key, *pair) for key, values in shares.items() for pair in enumerate(values))
    rows = [Row(method, shots, seed, share, 10, 0.0) for method, shots, seed, share in each]

    def cell(method, shots):
        percent = [100 * share for share in shares[method, shots]]
        return f"{statistics.mean(percent):.1f}" + (f" ± {statistics.stdev(percent):.1f}" if len(percent) > 1 else "")

    assert markdown_table(rows, 1 / 3).splitlines() == [
        "| method | 1 shot | 4 shots |",
        "|---|---|---|",
        "| chance | 33.3 | 33.3 |",
        f"| A | {cell('A', 1)} | {cell('A', 4)} |",
        f"| B | {cell('B', 1)} |  |",
    ]
    assert cell("A", 1) == "70.0 ± 20.0"
    assert cell("B", 1) == "25.0"


@pytest.mark.parametrize("count", [2, 5])
def test_processes_share_the_splits_and_all_have_all_rows(tiny_host, pool, count):
    """Also where there are fewer splits than processes."""
    own = [[] for _ in range(count)]

    def work(processes):
        told = own[processes.index].append
        return evaluate(tiny_host, pool, [1, 2], [0, 7], BASE, [], on_row=told, processes=processes)

    def plain(rows):
        return [replace(row, seconds=0) for row in rows]

    alone = evaluate(tiny_host, pool, [1, 2], [0, 7], BASE, [])
    found = together(count, work)
    assert all(rows == found[0] for rows in found)
    assert plain(found[0]) == plain(alone)
    assert sum(map(len, own)) == len(alone)
    assert max(map(len, own)) == -(-4 // count) * len(BASELINES)


def test_new_tokens_that_do_not_fit_the_prompts_are_refused_before_training(tiny_host):
    with pytest.raises(TokenError, match=r"--num-vectors (\d+) is the most that fits") as refused:
        check_new_tokens(tiny_host, TrainConfig(), 75, None)
    most = int(re.findall(r"--num-vectors (\d+)", str(refused.value))[0])
    check_new_tokens(tiny_host, TrainConfig(), most, None)
    with pytest.raises(TokenError, match=f"--num-vectors {most} is the most"):
        check_new_tokens(tiny_host, TrainConfig(), most + 1, None)
    with pytest.raises(TokenError, match="give shorter templates"):
        check_new_tokens(tiny_host, TrainConfig(templates=("cat " * 80 + "{}",)), 1, None)
    with pytest.raises(TokenError, match="the initial word has"):
        check_new_tokens(tiny_host, TrainConfig(), 1, "cat dog bowl")
    check_new_tokens(tiny_host, TrainConfig(), 4, "mean")
