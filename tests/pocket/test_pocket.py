import json

import torch

from mcti_core.pocket import POCKET_FOLDER, load_pocket


def test_it_is_a_whole_host():
    host = load_pocket()
    encoder = host.text["clip_l"]
    assert (host.image_size, host.codec.downscale) == (64, 8)
    assert len(encoder.tokenize(host.generic_word)) == 1
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        latents = host.codec.encode(images)
        pooled = torch.zeros(1, encoder.width)
        assert host.clip.image_features(images).shape[1] == host.clip.project_text(pooled).shape[1]
    assert latents.shape == (2, 4, 8, 8)


def test_its_files_tell_of_no_machine():
    files = [path for path in POCKET_FOLDER.rglob("*") if path.suffix in (".json", ".md", ".txt")]
    assert len(files) >= 8
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert "_name_or_path" not in text, path
        if path.name.endswith("config.json"):
            assert isinstance(json.loads(text), dict)
