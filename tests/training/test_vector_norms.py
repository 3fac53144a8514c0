import pytest
import torch

from mcti_core.training import vector_norms
from mcti_core.training.config import TrainConfig
from mcti_core.training.loop import train
from mcti_core.training.vector_norms import rescale_, vocabulary_norm

KEPT = TrainConfig(steps=4, batch_size=4, gamma=0.5, lr=0.3, lr_warmup_steps=0, keep_norm=True)


class Table:
    """A text encoder of which only the embeddings are read."""

    def __init__(self, norms):
        self.vocabulary_size, self.norms, self.most = len(norms), torch.tensor(norms), 0

    def embed(self, ids):
        self.most = max(self.most, len(ids))
        return torch.nn.functional.one_hot(ids % 3, 3) * self.norms[ids, None]


@pytest.mark.parametrize(("norms", "median"), [([1.0, 3.0, 2.0], 2.0), ([0.0, 5.0, 0.0, 1.0, 1.0], 1.0), ([0.4], 0.4)])
def test_vocabulary_norm_is_the_median_of_what_is_not_zero(norms, median):
    assert vocabulary_norm(Table(norms), torch.device("cpu")) == pytest.approx(median)


def test_vocabulary_norm_reads_the_table_in_parts(monkeypatch):
    monkeypatch.setattr(vector_norms, "_ROWS", 7)
    table = Table([float(1 + i % 11) for i in range(100)])
    assert vocabulary_norm(table, torch.device("cpu")) == table.norms.median()
    assert table.most == 7


def test_vocabulary_norm_of_a_table_of_zeros_is_refused():
    with pytest.raises(ValueError, match="every embedding"):
        vocabulary_norm(Table([0.0, 0.0]), torch.device("cpu"))


def test_rescale_keeps_directions_and_leaves_zero():
    vectors = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0))
    vectors[1, 0] = 0
    scaled = vectors.clone()
    rescale_({"a": scaled}, {"a": 2.5})
    torch.testing.assert_close(torch.cosine_similarity(scaled, vectors, dim=-1), (vectors != 0).any(-1).float())
    assert scaled.norm(dim=-1).flatten().tolist() == pytest.approx([2.5, 2.5, 0.0, 2.5, 2.5, 2.5])


@pytest.mark.parametrize("start", ["zero", "as they are", "far too long"])
def test_training_with_keep_norm_ends_at_the_vocabulary_norm(tiny_host, cache, tokens, start):
    factor = {"zero": 0.0, "as they are": 1.0, "far too long": 100.0}[start]
    first = tokens.with_vectors({name: factor * vector for name, vector in tokens.vectors.items()})
    learned = train(tiny_host, cache, first, KEPT).tokens
    for name, vectors in learned.vectors.items():
        norm = vocabulary_norm(tiny_host.text[name], tiny_host.device)
        torch.testing.assert_close(vectors.norm(dim=-1), torch.full(vectors.shape[:2], norm))
