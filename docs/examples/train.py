"""Learn ten handwritten digits from five images each, and draw each of them: python docs/examples/train.py TOKENS.safetensors PICTURE.png"""

import sys

from mcti_core import FeatureCache, calibrated_classifier, generate, load_pocket, new_tokens, pocket, save_tokens, train
from mcti_core.pocket.digits import digit_dataset
from mcti_core.viz.image_grid import image_grid

tokens_file, picture = sys.argv[1:]
host = load_pocket()  # or load_host("stable-diffusion-v1-5", "clip-vit-large-patch14")
support, others = digit_dataset().split(shots=5, seed=0)  # or FewShotDataset.from_folder("photos")
cache = FeatureCache.build(host, support, hflip=False)  # digits must not be mirrored
tokens = train(host, cache, new_tokens(host, support.classes), pocket.POCKET_CONFIG).tokens
save_tokens(tokens, tokens_file)

classifier = calibrated_classifier("clip", host, tokens)
right = classifier.score(others.images[:200], [others.classes[label] for label in others.labels[:200]])
print(f"{right:.1%} of 200 other digits are recognised; chance is 10 %")
drawn = generate(host, [f"a drawing of a blue embedding:{name}" for name in tokens.names], tokens)
image_grid([list(drawn)], [""], tokens.labels).save(picture)
