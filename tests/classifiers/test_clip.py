from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from mcti_core.classifiers.clip import ClipClassifier


def test_clip_logits_by_transformers_alone(tiny_host, tiny_model, tokens, images):
    from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    # As plain textual inversion does it: new rows in the token table, new ids in the prompts.
    tower = CLIPTextModel.from_pretrained(tiny_model, subfolder="text_encoder")
    tokenizer = CLIPTokenizer.from_pretrained(tiny_model, subfolder="tokenizer")
    table = tower.get_input_embeddings().weight
    rows = torch.cat([table.detach(), tokens.vectors["clip_l"].flatten(0, 1)])
    tower.set_input_embeddings(torch.nn.Embedding.from_pretrained(rows))
    clip = CLIPModel.from_pretrained(tiny_model / "clip")
    text = []
    for c in range(3):
        per_template = []
        for template in tokens.templates:
            words = tokenizer(template.replace(" {}", ""), add_special_tokens=False)["input_ids"]
            ids = [tokenizer.bos_token_id, *words, len(table) + 2 * c, len(table) + 2 * c + 1, tokenizer.eos_token_id]
            end = len(ids) - 1
            ids += [tokenizer.pad_token_id] * (77 - len(ids))
            hidden = tower(input_ids=torch.tensor([ids])).last_hidden_state[0, end]
            per_template.append(F.normalize(clip.text_projection(hidden), dim=0))
        text.append(F.normalize(torch.stack(per_template).mean(0), dim=0))
    vision = CLIPVisionModelWithProjection.from_pretrained(tiny_model / "clip")
    mean, std = torch.tensor(OPENAI_CLIP_MEAN), torch.tensor(OPENAI_CLIP_STD)
    pixels = (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    features = F.normalize(vision(pixel_values=pixels).image_embeds, dim=-1)
    expected = 10 * features @ torch.stack(text).T
    assert torch.allclose(ClipClassifier(tiny_host, tokens).scores(images).logits, expected, atol=1e-4)


@pytest.mark.parametrize(("count", "side", "sizes"), [(40, 512, [16, 16, 8]), (40, 1024, [16, 16, 8]), (40, 256, [40])])
def test_clip_takes_as_many_images_at_once_as_a_small_gpu_has_room_for(tiny_host, tokens, count, side, sizes):
    seen = []

    class Tower:
        encoder, project_text = tiny_host.clip.encoder, staticmethod(tiny_host.clip.project_text)

        def image_features(self, images):
            seen.append(len(images))
            return torch.arange(seen[-1] * 16.0).view(-1, 16)

    classifier = ClipClassifier(replace(tiny_host, clip=Tower()), tokens)
    scores = classifier.scores(torch.zeros(1, 1, 1, 1).expand(count, 3, side, side))
    assert seen == sizes
    assert scores.logits.shape == (count, 3)


def test_clip_pools_where_the_tokens_were_trained(tiny_host, tokens, images):
    eot, token = (ClipClassifier(tiny_host, replace(tokens, pooling=pooling)) for pooling in ("eot", "token"))
    assert (eot.scores(images).logits - token.scores(images).logits).abs().max() > 0.1


def test_clip_reads_the_templates_it_is_given(tiny_host, tokens, images):
    alone = [ClipClassifier(tiny_host, tokens, templates=(t,)) for t in tokens.templates]
    both = ClipClassifier(tiny_host, tokens)
    mean = F.normalize((alone[0].text + alone[1].text) / 2, dim=-1)
    assert torch.allclose(both.text, mean, atol=1e-5)
    assert (alone[0].text - alone[1].text).abs().max() > 1e-3
