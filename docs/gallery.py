"""Draw every token of a set in ten prompts, as one picture: the gallery of docs/gallery.md.

Usage: python docs/gallery.py TOKENS.safetensors PICTURE.png [SEED]
"""

import sys

from mcti_core.pocket import load_pocket
from mcti_core.sampling import generate
from mcti_core.tokens.io import load_tokens
from mcti_core.viz.image_grid import image_grid

PROMPTS = (
    "a drawing of a {}",
    "a photo of a {}",
    "a sketch of a red {}",
    "a picture of a tiny blue {}",
    "a drawing of a huge {} on pink paper",
    "a drawing of a thick green {} on yellow paper",
    "a drawing of a thin purple {} on orange paper",
    "a slanted {} on sky paper",
    "an image of the brown slanted {} on white paper",
    "a tiny thick black {} on yellow paper",
)


def main(tokens, picture, seed=0):
    host, tokens = load_pocket(), load_tokens(tokens)
    prompts = [prompt.replace("{}", f"embedding:{name}") for prompt in PROMPTS for name in tokens.names]
    images = generate(host, prompts, tokens, seed=seed).view(len(PROMPTS), len(tokens), 3, 64, 64)
    image_grid([list(row) for row in images], [str(row) for row in range(1, len(PROMPTS) + 1)], tokens.labels).save(
        picture, optimize=True
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *(int(seed) for seed in sys.argv[3:]))
