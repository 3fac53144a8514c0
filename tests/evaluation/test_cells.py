from dataclasses import replace

import pytest
import torch

from mcti_core.classifiers.clip import ClipClassifier
from mcti_core.classifiers.diffusion import DiffusionClassifier
from mcti_core.classifiers.hybrid import HybridClassifier
from mcti_core.evaluation.baselines import BASELINES, cache_model, name_text_features
from mcti_core.evaluation.cells import DIFFUSION, METHODS, REAL, RUNS, ZERO_SHOT, Cell, all_cells, measure
from mcti_core.evaluation.drawings import image_measures
from mcti_core.evaluation.recipes import RELEASED, learn
from mcti_core.prompts.splicing import plain_prompts
from mcti_core.sampling import generate


def share(task, predicted):
    return pytest.approx(float((predicted == task.queries.labels).double().mean()))


def test_all_cells_leave_out_more_shots_than_there_are_examples(task):
    cells = all_cells([task], [1, 5, 6], [3, 4], ["reference", "TI"])
    assert cells == [Cell("toy", 0, 0, "reference"), *(Cell("toy", k, seed, "TI") for seed in (3, 4) for k in (1, 5))]


def test_baselines_cell_by_hand(task):
    found = measure(task, Cell("toy", 2, 1, "baselines"))
    assert (found["data"], found["shots"], found["seed"], found["run"]) == ("toy", 2, 1, "baselines")
    few = task.examples(2, 1).support()
    assert list(found["figures"]) == list(BASELINES)
    for name, answer in BASELINES.items():
        assert found["figures"][name] == {"accuracy": share(task, answer(few, task.query_features, 4))}


@pytest.mark.parametrize("run", ["TI", "MC-TI"])
def test_training_cells_by_hand(task, run):
    figures = measure(task, Cell("toy", 2, 1, run))["figures"]
    tokens = learn(task.host, task.examples(2, 1), run, task.protocol.config(run, 1))
    assert set(figures) == {run, run + DIFFUSION, *(["MC-TI hybrid"] if run == "MC-TI" else [])}
    assert set(figures) <= set(METHODS)
    queries = task.query_features
    assert figures[run]["accuracy"] == share(task, ClipClassifier(task.host, tokens).logits(queries).argmax(1))
    if run == "MC-TI":
        hybrid = HybridClassifier(task.host, tokens).logits(queries).argmax(1)
        assert figures["MC-TI hybrid"] == {"accuracy": share(task, hybrid)}
    scores = DiffusionClassifier(task.host, tokens, num_trials=2).score_latents(task.sample.latents[:, 0])
    right = (scores.logits.argmax(1) == task.sample.labels).double().mean()
    assert figures[run + DIFFUSION] == {"accuracy": pytest.approx(float(right))}
    images = generate(task.host, [c for c in range(4) for _ in range(3)], tokens, num_inference_steps=2, seed=1)
    with torch.no_grad():
        features = torch.nn.functional.normalize(task.host.clip.image_features(images), dim=-1)
    drawn = image_measures(task, features, torch.arange(4).repeat_interleave(3))
    assert {name: figures[run][name] for name in drawn} == pytest.approx(drawn, abs=1e-4)


def test_released_cell_has_its_steps_and_no_drawings(task):
    steps = []
    figures = measure(task, Cell("toy", 1, 0, RELEASED), steps.append)["figures"]
    assert list(figures) == [RELEASED]
    assert list(figures[RELEASED]) == ["accuracy"]
    assert len(steps) == task.protocol.released_steps  # of four classes side by side


def test_reference_cell_is_clip_with_names_and_real_images(task):
    found = measure(task, Cell("toy", 0, 0, RUNS[0]))["figures"]
    encoder, clip = task.host.text["clip_l"], task.host.clip
    rows = []
    for name in task.names:
        ids = torch.full((1, encoder.length), encoder.pad_token_id)
        line = [encoder.bos_token_id, *encoder.tokenize(f"a photo of a {name}"), encoder.eos_token_id]
        ids[0, : len(line)] = torch.tensor(line)
        with torch.no_grad():
            hidden = encoder.encode(ids, encoder.embed(ids)).hidden[0, len(line) - 1]
            rows.append(clip.project_text(hidden[None])[0])
    text = torch.nn.functional.normalize(torch.stack(rows), dim=-1)
    assert torch.allclose(name_text_features(task.host, task.names, ["a photo of a {}"], batch_size=3), text, atol=1e-5)
    assert found[ZERO_SHOT] == {"accuracy": share(task, (task.query_features @ text.T).argmax(1))}
    assert found[REAL] == image_measures(task, task.query_features, task.queries.labels)


def test_what_costs_much_can_be_left_out(task):
    cheap = replace(task, protocol=replace(task.protocol, diffusion_queries=0, drawings=0))
    assert set(measure(cheap, Cell("toy", 1, 0, "TI"))["figures"]) == {"TI"}
    assert set(measure(cheap, Cell("toy", 0, 0, "reference"))["figures"]) == {ZERO_SHOT}


def test_names_are_plain_words_also_with_brackets(tiny_host):
    encoder = tiny_host.text["clip_l"]
    prompts = plain_prompts(encoder, ["cat (dog:1.5)", "embedding:cat {cat}"])
    assert prompts.weights is None
    for row, text in enumerate(("cat (dog:1.5)", "embedding:cat {cat}")):
        ids = encoder.tokenize(text)
        assert prompts.ids[row, 1 : 1 + len(ids)].tolist() == ids


def test_cache_model_by_plain_loops(task):
    few, queries = task.examples(2, 0).support(), task.query_features
    votes = [
        [sum(2.718281828 ** (-5.5 * (1 - float(q @ f))) for f, label in zip(few.features, few.labels, strict=True) if label == c) for c in range(4)]
        for q in queries
    ]  # fmt: skip
    assert torch.equal(cache_model(few, queries, 4), torch.tensor(votes).argmax(1))
