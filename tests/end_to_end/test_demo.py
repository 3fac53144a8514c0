import json
import re

import pytest
import torch

from mcti_core.demo.judge import DigitJudge, colours, ink_mask
from mcti_core.pocket.digits import digit_dataset, digit_masks, draw_digits
from mcti_core.pocket.glyphs import INKS, PAPERS
from mcti_core.tokens.io import load_tokens

from .command_line import run

CLASSIFIERS = {"class_mean", "logistic_probe", "ti_clip", "mcti_clip", "mcti_hybrid", "ti_diffusion", "mcti_diffusion"}


def flat(ink: str, paper: str, box: tuple[int, int]) -> torch.Tensor:
    """(1, 3, 64, 64): a square of ink from ``box[0]`` to ``box[1]`` on paper."""
    image = torch.tensor(PAPERS[paper]).view(1, 3, 1, 1).repeat(1, 1, 64, 64)
    image[:, :, box[0] : box[1], box[0] : box[1]] = torch.tensor(INKS[ink]).view(1, 3, 1, 1)
    return image


def test_colours_are_named():
    for ink in INKS:
        for paper in PAPERS:
            assert colours(flat(ink, paper, (20, 40))) == ([ink], [paper])


def test_ink_is_cropped_wherever_it_is_and_whatever_its_colour():
    first, second = ink_mask(flat("red", "white", (20, 40))), ink_mask(flat("blue", "yellow", (5, 45)))
    assert first.shape == (1, 16, 16)
    assert torch.allclose(first, second, atol=0.1)
    assert first.min() >= 0
    assert first.max() == pytest.approx(1)


def test_a_blank_image_has_no_ink():
    blank = torch.full((2, 3, 64, 64), 0.7)
    assert torch.equal(ink_mask(blank), torch.zeros(2, 16, 16))


@pytest.mark.slow
def test_the_judge_knows_digits():
    masks, labels = digit_masks()
    judge = DigitJudge(masks[:1200], labels[:1200], test=200)
    assert judge.accuracy > 0.9
    images = draw_digits(masks[1200:1300], seed=5)
    assert float((judge(images) == labels[1200:1300]).float().mean()) > 0.85
    assert judge(torch.full((1, 3, 64, 64), 0.5)).shape == (1,)  # blank: any answer, no error


@pytest.mark.slow
def test_digits_are_ten_classes_of_drawings():
    dataset = digit_dataset()
    assert (len(dataset), dataset.classes) == (1797, tuple("0123456789"))
    assert torch.bincount(dataset.labels).min() > 170
    assert dataset.images[0].shape == (3, 64, 64)
    assert dataset.fingerprint() == digit_dataset().fingerprint()


@pytest.mark.slow
def test_the_demo_writes_what_it_promises(tmp_path, short_demo, capsys):
    out = tmp_path / "new" / "demo"
    assert run(f"demo --output-dir {out} --shots 2 --seed 4") == 0
    assert sorted(path.name for path in out.iterdir()) == ["metrics.json", "report.html", "tokens.safetensors"]

    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert set(metrics) == {
        "shots", "seed", "chance", "accuracy", "queries", "unet_evaluations_per_image", "generation_agreement",
        "generation_similarity", "generation_colours_right", "judge_accuracy", "seconds",
        "written_by",
    }  # fmt: skip
    assert (metrics["shots"], metrics["seed"], metrics["chance"]) == (2, 4, 0.1)
    for measure in ("accuracy", "queries", "unet_evaluations_per_image"):
        assert set(metrics[measure]) == CLASSIFIERS
    for name in CLASSIFIERS:
        assert 0 <= metrics["accuracy"][name] <= 1
        assert metrics["queries"][name] == (10 if name.endswith("diffusion") else 1797 - 20)
        assert (metrics["unet_evaluations_per_image"][name] > 0) == name.endswith("diffusion")
    for name in ("ti", "mcti"):
        assert (
            set(metrics["generation_agreement"][name])
            == set(metrics["generation_similarity"][name])
            == {"plain", "edit"}
        )
        assert set(metrics["generation_colours_right"][name]) == {"edit"}
    assert metrics["judge_accuracy"] > 0.9
    assert metrics["seconds"]["total"] > 0

    page = (out / "report.html").read_text(encoding="utf-8")
    sources = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'>\s)]{0,30})""", page)
    assert len(sources) >= 6
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "http" not in re.sub(r'"data:[^"]*"', "", page)
    assert f"{100 * metrics['accuracy']['mcti_clip']:.1f} %" in page

    tokens = load_tokens(out / "tokens.safetensors")
    assert tokens.labels == tuple("0123456789")
    assert (tokens.training["steps"], tokens.training["shots"]) == (3, 2)
    assert tokens.training["gamma"] == "auto"
    output = capsys.readouterr().out
    assert "chance 10.0%" in output
    assert "report.html" in output
